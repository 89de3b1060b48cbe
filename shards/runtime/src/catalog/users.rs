//! Writes to `users`: who may log in, and by what password.
//!
//! Always: a password is kept as a salted PBKDF2 credential and never shown; the row says whether there is one.

use photondb_proto::datum::{Datum, Object, json};
use photondb_proto::error::QueryError;
use photondb_proto::limits;

use super::change::planned;
use super::edit::{Edit, Planned, check_keys, text};
use super::{ADMIN, failed, permissions, user_gone, user_record};

/// What a row says of the password.
enum Password {
    Stays,
    New { password: Vec<u8>, iterations: Option<u32> },
}

/// Creates, changes or deletes a user.
///
/// # Errors
/// The row's.
pub fn edit(edit: &Edit<'_>) -> Result<Planned, QueryError> {
    let Some(name) = text(edit.key) else {
        let found = json::to_message_string(edit.key);
        return Err(failed(format!("Expected a username as the primary key, got {found}")));
    };
    let Some(row) = edit.new else {
        return delete(edit, &name);
    };
    if name.is_empty() {
        return Err(failed("Empty username".to_owned()));
    }
    let has_password = edit.catalog.credential(&name).is_some_and(|known| !known.password_is_empty);
    let (password, iterations) = match password(row, has_password)? {
        Password::Stays => return Ok(Planned::Done(planned(edit.catalog, Vec::new(), Datum::Null))),
        Password::New { password, iterations } => (password, iterations),
    };
    Ok(match edit.credential {
        None => Planned::Derive { password, iterations },
        Some(credential) => {
            Planned::Done(planned(edit.catalog, vec![user_record(&name, credential)], Datum::Null))
        }
    })
}

fn delete(edit: &Edit<'_>, name: &str) -> Result<Planned, QueryError> {
    if name == ADMIN {
        return Err(failed(format!("The user `{ADMIN}` can't be deleted")));
    }
    if edit.catalog.credential(name).is_none() {
        return Err(failed(format!("User `{name}` not found")));
    }
    let mut records = permissions::records_gone(edit.catalog, |user, _| user == name);
    records.push(user_gone(name));
    Ok(Planned::Done(planned(edit.catalog, records, Datum::Null)))
}

fn password(row: &Object, has_password: bool) -> Result<Password, QueryError> {
    let Some(password) = row.field("password") else {
        return Err(failed("Expected a field named `password`.".to_owned()));
    };
    check_keys(row, |key| key == "id" || key == "password")?;
    let empty = Password::New { password: Vec::new(), iterations: None };
    match &password {
        Datum::String(text) if text.as_bytes().is_empty() => Ok(empty),
        Datum::String(text) => Ok(Password::New { password: text.as_bytes().to_vec(), iterations: None }),
        Datum::Object(given) => from_object(given),
        Datum::Bool(false) => Ok(empty),
        Datum::Bool(true) if has_password => Ok(Password::Stays),
        Datum::Bool(true) => Err(failed(
            "Expected an object or string to set the password, or `false` to keep it unset, got true."
                .to_owned(),
        )),
        other => {
            let found = json::to_message_string(other);
            Err(failed(format!("Expected an object, string or boolean for `password`, got {found}.")))
        }
    }
}

/// `{password, iterations}`
fn from_object(given: &Object) -> Result<Password, QueryError> {
    let Some(password) = given.field("password") else {
        return Err(failed("Expected a field named `password`.".to_owned()));
    };
    let Datum::String(password) = password else {
        let found = json::to_message_string(&password);
        return Err(failed(format!("Expected `password` to be a string, got {found}.")));
    };
    let iterations = match given.field("iterations") {
        None => None,
        Some(Datum::Number(count)) if count.fract() == 0.0 && count >= 1.0 => {
            if count > f64::from(limits::PASSWORD_ITERATIONS_MAX) {
                let max = limits::PASSWORD_ITERATIONS_MAX;
                return Err(failed(format!("Expected `iterations` to be at most {max}, got {count}.")));
            }
            Some(count as u32)
        }
        Some(other) => {
            let found = json::to_message_string(&other);
            return Err(failed(format!(
                "Expected `iterations` to be an integer greater than zero, got {found}."
            )));
        }
    };
    check_keys(given, |key| key == "password" || key == "iterations")?;
    Ok(Password::New { password: password.as_bytes().to_vec(), iterations })
}
