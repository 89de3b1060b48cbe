//! What becomes of one row of a write: the rules every write keeps, whoever evaluates its function.
//!
//! Always: what is to be stored is an object with the row's own primary key, within the limits of documents; a row
//! that breaks a rule stays as it was and its outcome says why. Pure: old and new value in, decision out.

use photondb_proto::datum::splice::{self, Spliced};
use photondb_proto::datum::{Datum, Object, document, json};
use photondb_proto::limits;
use photondb_proto::op::{ReturnChanges, RowChange, RowOutcome};

use crate::failure::{Failure, Outcome};
use crate::terms::object::{merge, stray_literal};

/// What to do to the row in storage.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowEffect {
    Keep,
    Put(Vec<u8>),
    Delete,
}

/// The fate of a row, for storage and for the client.
#[derive(Clone, Debug)]
pub struct RowDecision {
    pub effect: RowEffect,
    pub outcome: RowOutcome,
}

/// What the rules need to know of a write.
#[derive(Clone, Debug)]
pub struct RowRules {
    pub primary_key: String,
    pub return_changes: ReturnChanges,
}

impl RowRules {
    /// Decides what becomes of the row under `key`, which holds `old` (null: nothing) and for which the write wants
    /// `new` (null: nothing).
    pub fn decide(&self, key: &Datum, old: &Datum, new: Outcome<Datum>) -> RowDecision {
        match new.and_then(|new| self.change(key, old, new)) {
            Ok(decision) => decision,
            Err(failure) => self.refused(old, failure.message),
        }
    }

    /// The row stays, and the client is told why.
    pub fn refused(&self, old: &Datum, message: String) -> RowDecision {
        let shown = match self.return_changes {
            ReturnChanges::Always => Some(document::to_bytes(old)),
            ReturnChanges::No | ReturnChanges::Changed => None,
        };
        let outcome = RowOutcome { kind: RowChange::Error(message), old: shown.clone(), new: shown };
        RowDecision { effect: RowEffect::Keep, outcome }
    }

    /// Decides a merge of an object into a stored row, where that is no more than to set fields: then neither is decoded.
    pub fn set(&self, old: &[u8], object: &[u8]) -> Option<RowDecision> {
        let new = match splice::set_fields(old, object, &self.primary_key)? {
            Spliced::Changed(new) if new.len() > limits::DOCUMENT_BYTES_MAX => return None,
            Spliced::Changed(new) => Some(new),
            Spliced::Same => None,
        };
        let shows = match self.return_changes {
            ReturnChanges::No => false,
            ReturnChanges::Changed => new.is_some(),
            ReturnChanges::Always => true,
        };
        let shown_old = shows.then(|| old.to_vec());
        let shown_new = shows.then(|| new.as_deref().unwrap_or(old).to_vec());
        let (effect, kind) = match new {
            Some(new) => (RowEffect::Put(new), RowChange::Replaced),
            None => (RowEffect::Keep, RowChange::Unchanged),
        };
        Some(RowDecision { effect, outcome: RowOutcome { kind, old: shown_old, new: shown_new } })
    }

    fn change(&self, key: &Datum, old: &Datum, new: Datum) -> Outcome<RowDecision> {
        let bytes = match &new {
            Datum::Null => None,
            Datum::Object(object) if new.pseudotype().is_none() => {
                self.check_key(key, old, object)?;
                Some(storable(&new)?)
            }
            other => return Err(not_an_object(other)),
        };
        let kind = match (old.is_null(), new.is_null()) {
            (true, true) => RowChange::Skipped,
            (true, false) => RowChange::Inserted,
            (false, true) => RowChange::Deleted,
            (false, false) if *old == new => RowChange::Unchanged,
            (false, false) => RowChange::Replaced,
        };
        let changed = !matches!(kind, RowChange::Skipped | RowChange::Unchanged);
        let shows = match self.return_changes {
            ReturnChanges::No => false,
            ReturnChanges::Changed => changed,
            ReturnChanges::Always => true,
        };
        let (shown_old, shown_new) = match shows {
            true => (
                Some(document::to_bytes(old)),
                Some(bytes.clone().unwrap_or_else(|| document::to_bytes(&new))),
            ),
            false => (None, None),
        };
        let effect = match (changed, bytes) {
            (false, _) => RowEffect::Keep,
            (true, Some(bytes)) => RowEffect::Put(bytes),
            (true, None) => RowEffect::Delete,
        };
        Ok(RowDecision { effect, outcome: RowOutcome { kind, old: shown_old, new: shown_new } })
    }

    fn check_key(&self, key: &Datum, old: &Datum, new: &Object) -> Outcome<()> {
        let name = &self.primary_key;
        let pretty = || json::to_pretty_string(&Datum::Object(new.clone()));
        let Some(found) = new.field(name) else {
            return Err(Failure::logic(format!(
                "Inserted object must have primary key `{name}`:\n{}",
                pretty()
            )));
        };
        if found == *key {
            return Ok(());
        }
        let old = json::to_pretty_string(old);
        Err(Failure::logic(format!("Primary key `{name}` cannot be changed (`{old}` -> `{}`).", pretty())))
    }

    /// The decision for an insert whose key is taken and that has no other wish.
    pub fn duplicate(&self, old: &Datum, new: &Datum) -> RowDecision {
        let (name, old_text, new_text) =
            (&self.primary_key, json::to_pretty_string(old), json::to_pretty_string(new));
        self.refused(old, format!("Duplicate primary key `{name}`:\n{old_text}\n{new_text}"))
    }
}

fn not_an_object(found: &Datum) -> Failure {
    let text = json::to_pretty_string(found);
    Failure::logic(format!("Inserted value must be an OBJECT (got {}):\n{text}", found.type_name()))
}

/// The row that `update` makes: `change` merged into `old`. Nothing stays nothing, and a null changes nothing.
pub fn updated(old: &Datum, change: &Datum) -> Outcome<Datum> {
    if old.is_null() || change.is_null() {
        return Ok(old.clone());
    }
    match change {
        Datum::Object(_) if change.pseudotype().is_none_or(|name| &*name == "LITERAL") => merge(old, change),
        other => Ok(other.clone()),
    }
}

/// The encoded form of a document that may be stored.
///
/// # Errors
/// Bounds and literals inside, arrays, depth or size beyond what documents may have.
pub fn storable(datum: &Datum) -> Outcome<Vec<u8>> {
    check_storable(datum, 0, &mut { limits::DOCUMENT_BYTES_MAX })?;
    let bytes = document::to_bytes(datum);
    if bytes.len() > limits::DOCUMENT_BYTES_MAX {
        let (found, most) = (bytes.len(), limits::DOCUMENT_BYTES_MAX);
        return Err(Failure::logic(format!(
            "Document too large for disk writes ({found} bytes, limit {most})."
        )));
    }
    Ok(bytes)
}

/// `left` is what the value may still take: one that holds another many times is found out before it is written.
fn check_storable(datum: &Datum, depth: u32, left: &mut usize) -> Outcome<()> {
    let is_known = datum.is_storable_at(depth);
    // What it takes at least when it is stored.
    let bytes = match datum {
        _ if is_known => datum.approximate_bytes(),
        Datum::Null | Datum::Bool(_) | Datum::MinVal | Datum::MaxVal => 1,
        Datum::Number(_) => 2,
        Datum::Time(_) => 11,
        Datum::String(text) => text.len() + 2,
        Datum::Binary(bytes) => bytes.len() + 2,
        Datum::Array(_) => 6,
        Datum::Object(object) => 6 + object.iter().map(|(key, _)| key.len() + 1).sum::<usize>(),
    };
    *left = left.checked_sub(bytes).ok_or_else(|| {
        let most = limits::DOCUMENT_BYTES_MAX;
        Failure::logic(format!("Document too large for disk writes (more than {most} bytes)."))
    })?;
    if is_known {
        return Ok(());
    }
    if depth > limits::DATUM_DEPTH_MAX {
        return Err(Failure::logic("Nesting depth limit exceeded."));
    }
    match datum {
        Datum::Array(items) => {
            if items.len() > limits::ARRAY_ELEMENTS_STORED_MAX {
                return Err(Failure::logic("Array too large for disk writes (limit 100,000 elements)."));
            }
            items.iter().try_for_each(|item| check_storable(&item, depth + 1, left))
        }
        Datum::Object(object) => {
            if datum.pseudotype().is_some_and(|name| &*name == "LITERAL") {
                return Err(stray_literal());
            }
            object.iter().try_for_each(|(_, value)| check_storable(&value, depth + 1, left))
        }
        Datum::MinVal => Err(Failure::logic("`r.minval` cannot be written to disk.")),
        Datum::MaxVal => Err(Failure::logic("`r.maxval` cannot be written to disk.")),
        Datum::Null
        | Datum::Bool(_)
        | Datum::Number(_)
        | Datum::String(_)
        | Datum::Binary(_)
        | Datum::Time(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use photondb_proto::datum::Datum;
    use photondb_proto::op::{ReturnChanges, RowChange};

    use super::{RowEffect, RowRules, updated};
    use crate::terms::probe::datum;

    fn rules(return_changes: ReturnChanges) -> RowRules {
        RowRules { primary_key: "id".into(), return_changes }
    }

    /// What becomes of the row with key 1.
    #[track_caller]
    fn check(old: &str, new: &str, want: &str) {
        let decision = rules(ReturnChanges::Changed).decide(&datum("1"), &datum(old), Ok(datum(new)));
        let kind = match &decision.outcome.kind {
            RowChange::Inserted => "inserted",
            RowChange::Deleted => "deleted",
            RowChange::Replaced => "replaced",
            RowChange::Unchanged => "unchanged",
            RowChange::Skipped => "skipped",
            RowChange::Error(message) => message,
        };
        assert_eq!(kind, want, "{old} -> {new}");
        let keeps =
            matches!(decision.outcome.kind, RowChange::Unchanged | RowChange::Skipped | RowChange::Error(_));
        assert_eq!(decision.effect == RowEffect::Keep, keeps);
        assert_eq!(decision.outcome.old.is_none(), keeps, "only rows that change are returned");
    }

    #[test]
    fn the_old_and_the_new_value_decide() {
        check("null", "null", "skipped");
        check("null", r#"{"id":1}"#, "inserted");
        check(r#"{"id":1}"#, "null", "deleted");
        check(r#"{"id":1}"#, r#"{"id":1,"a":2}"#, "replaced");
        check(r#"{"id":1,"a":2}"#, r#"{"a":2.0,"id":1}"#, "unchanged");
    }

    #[test]
    fn rows_keep_their_key_and_stay_objects() {
        check(r#"{"id":1}"#, r#"{"a":1}"#, "Inserted object must have primary key `id`:\n{\n\t\"a\":\t1\n}");
        check(
            r#"{"id":1}"#,
            r#"{"id":2,"a":1}"#,
            "Primary key `id` cannot be changed (`{\n\t\"id\":\t1\n}` -> `{\n\t\"a\":\t1,\n\t\"id\":\t2\n}`).",
        );
        check("null", r#"{"id":2}"#, "Primary key `id` cannot be changed (`null` -> `{\n\t\"id\":\t2\n}`).");
        check(r#"{"id":1}"#, "5", "Inserted value must be an OBJECT (got NUMBER):\n5");
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        #[track_caller]
        fn check(value: Datum, want: &str) {
            let row = Datum::object([("id", Datum::Number(1.0)), ("a", value)]);
            let decision = rules(ReturnChanges::No).decide(&datum("1"), &Datum::Null, Ok(row));
            assert_eq!(decision.outcome.kind, RowChange::Error(want.into()));
        }
        check(Datum::MinVal, "`r.minval` cannot be written to disk.");
        // Small in memory, but not on disk.
        let doubled =
            (0..40).fold(Datum::Null, |value, _| Datum::object([("l", value.clone()), ("r", value)]));
        check(doubled, "Document too large for disk writes (more than 67108864 bytes).");
        check(
            Datum::array(vec![Datum::Null; 100_001]),
            "Array too large for disk writes (limit 100,000 elements).",
        );
        let mut deep = Datum::Null;
        (0..600).for_each(|_| deep = Datum::array(vec![deep.clone()]));
        check(deep, "Nesting depth limit exceeded.");
    }

    #[test]
    fn always_shows_rows_that_failed_as_they_are() {
        let old = datum(r#"{"id":1}"#);
        let decision = rules(ReturnChanges::Always).decide(&datum("1"), &old, Ok(datum("5")));
        assert!(decision.outcome.old.is_some() && decision.outcome.old == decision.outcome.new);
        let duplicate = rules(ReturnChanges::No).duplicate(&old, &datum(r#"{"id":1,"a":2}"#));
        let want = "Duplicate primary key `id`:\n{\n\t\"id\":\t1\n}\n{\n\t\"a\":\t2,\n\t\"id\":\t1\n}";
        assert_eq!(duplicate.outcome.kind, RowChange::Error(want.into()));
    }

    #[test]
    fn an_update_merges_and_null_changes_nothing() {
        #[track_caller]
        fn check(old: &str, change: &str, want: &str) {
            assert_eq!(updated(&datum(old), &datum(change)).ok(), Some(datum(want)), "{old} {change}");
        }
        check(r#"{"id":1,"a":{"b":1}}"#, r#"{"a":{"c":2}}"#, r#"{"id":1,"a":{"b":1,"c":2}}"#);
        check(r#"{"id":1}"#, "null", r#"{"id":1}"#);
        check("null", r#"{"a":1}"#, "null");
        check(r#"{"id":1}"#, "5", "5");
    }
}
