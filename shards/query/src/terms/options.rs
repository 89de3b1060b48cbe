//! Options and names that several terms check the same way.

use photondb_proto::datum::Datum;
use photondb_proto::op::{Durability, ReturnChanges};

use crate::failure::{Failure, Outcome};
use crate::value::wrong_type;

/// What a name names, as messages call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    Database,
    Table,
}

/// A name of letters, digits, `_` and `-`.
pub fn check_name(named: Named, name: &str) -> Outcome<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if !name.is_empty() && name.bytes().all(allowed) {
        return Ok(());
    }
    let what = match named {
        Named::Database => "Database",
        Named::Table => "Table",
    };
    Err(Failure::logic(format!("{what} name `{name}` invalid (Use A-Z, a-z, 0-9, _ and - only).")))
}

fn text(datum: &Datum) -> Outcome<&str> {
    match datum {
        Datum::String(text) => Ok(text),
        other => Err(wrong_type("STRING", other)),
    }
}

/// The option `durability`.
pub fn durability(datum: &Datum) -> Outcome<Durability> {
    match text(datum)? {
        "hard" => Ok(Durability::Hard),
        "soft" => Ok(Durability::Soft),
        other => Err(Failure::logic(format!(
            "Durability option `{other}` unrecognized (options are \"hard\" and \"soft\")."
        ))),
    }
}

/// The option `return_changes`: false, true or `"always"`.
pub fn return_changes(datum: &Datum) -> Outcome<ReturnChanges> {
    match datum {
        Datum::Bool(false) => Ok(ReturnChanges::No),
        Datum::Bool(true) => Ok(ReturnChanges::Changed),
        Datum::String(text) if &**text == "always" => Ok(ReturnChanges::Always),
        Datum::String(text) => Err(Failure::logic(format!(
            "Invalid return_changes value `{}` (options are `true`, `false`, and `'always'`.)",
            &**text
        ))),
        other => Err(wrong_type("STRING", other)),
    }
}

/// What `insert` does with a taken key, when the option `conflict` is a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictWord {
    Error,
    Replace,
    Update,
}

pub fn conflict_word(datum: &Datum) -> Outcome<ConflictWord> {
    match text(datum)? {
        "error" => Ok(ConflictWord::Error),
        "replace" => Ok(ConflictWord::Replace),
        "update" => Ok(ConflictWord::Update),
        other => Err(Failure::logic(format!(
            "Conflict option `{other}` unrecognized (options are \"error\", \"replace\" and \"update\")."
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::terms::probe::datum;

    #[track_caller]
    fn check<T>(outcome: Outcome<T>, want: Option<&str>) {
        assert_eq!(outcome.err().map(|failure| failure.message).as_deref(), want);
    }

    #[test]
    fn names_are_letters_digits_underscores_and_hyphens() {
        check(check_name(Named::Table, "a_B-9"), None);
        let want = "Table name `a b` invalid (Use A-Z, a-z, 0-9, _ and - only).";
        check(check_name(Named::Table, "a b"), Some(want));
        check(
            check_name(Named::Database, ""),
            Some("Database name `` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
        );
    }

    #[test]
    fn options_name_their_choices() {
        check(durability(&datum(r#""soft""#)), None);
        let want = "Durability option `x` unrecognized (options are \"hard\" and \"soft\").";
        check(durability(&datum(r#""x""#)), Some(want));
        check(durability(&datum("1")), Some("Expected type STRING but found NUMBER."));
        let want = "Invalid return_changes value `x` (options are `true`, `false`, and `'always'`.)";
        check(return_changes(&datum(r#""x""#)), Some(want));
        check(return_changes(&datum(r#""always""#)), None);
        let want = "Conflict option `x` unrecognized (options are \"error\", \"replace\" and \"update\").";
        check(conflict_word(&datum(r#""x""#)), Some(want));
    }
}
