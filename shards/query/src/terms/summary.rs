//! The answer of a write: counters, the first error, generated keys, changes and warnings; and how `for_each` adds
//! answers up.
//!
//! Always: the six counters are there, other fields only when they say something. Lists keep within `array_limit`; what is
//! cut is named in `warnings`.

use std::collections::BTreeSet;

use photondb_proto::datum::{Array, Datum, Object, ObjectBuilder, Text, document, json};
use photondb_proto::op::{Document, ReturnChanges, RowChange, RowOutcome};

use crate::call::{Limits, finite};
use crate::failure::{Failure, Outcome};
use crate::value::wrong_type;

/// Adds up what became of rows.
#[derive(Debug)]
pub struct WriteSummary {
    return_changes: ReturnChanges,
    list_max: usize,
    inserted: u64,
    deleted: u64,
    replaced: u64,
    unchanged: u64,
    skipped: u64,
    errors: u64,
    first_error: Option<String>,
    generated_keys: Vec<Datum>,
    generated_count: usize,
    changes: Vec<Datum>,
    warnings: BTreeSet<String>,
}

impl WriteSummary {
    pub fn new(return_changes: ReturnChanges, list_max: usize) -> WriteSummary {
        WriteSummary {
            return_changes,
            list_max,
            inserted: 0,
            deleted: 0,
            replaced: 0,
            unchanged: 0,
            skipped: 0,
            errors: 0,
            first_error: None,
            generated_keys: Vec::new(),
            generated_count: 0,
            changes: Vec::new(),
            warnings: BTreeSet::new(),
        }
    }

    /// Appends the answer to a write of these rows, which showed no changes and made no keys.
    pub fn write_json(outcomes: Vec<RowOutcome>, out: &mut Vec<u8>) {
        let mut summary = WriteSummary::new(ReturnChanges::No, 0);
        outcomes.into_iter().for_each(|outcome| summary.add(outcome));
        if summary.first_error.is_some() {
            return json::write(&summary.into_datum(), out);
        }
        for (place, (name, count)) in summary.counters().into_iter().enumerate() {
            out.push(if place == 0 { b'{' } else { b',' });
            json::write_string(name.as_bytes(), out);
            out.push(b':');
            json::write_number(count as f64, out);
        }
        out.push(b'}');
    }

    /// In the order of their names.
    fn counters(&self) -> [(&'static str, u64); 6] {
        [
            ("deleted", self.deleted),
            ("errors", self.errors),
            ("inserted", self.inserted),
            ("replaced", self.replaced),
            ("skipped", self.skipped),
            ("unchanged", self.unchanged),
        ]
    }

    pub fn add_generated_key(&mut self, key: Datum) {
        self.generated_count += 1;
        if self.generated_keys.len() < self.list_max {
            self.generated_keys.push(key);
        }
    }

    /// A row that failed before it reached its table.
    pub fn add_error(&mut self, message: String) {
        self.add(RowOutcome { kind: RowChange::Error(message), old: None, new: None });
    }

    pub fn add(&mut self, outcome: RowOutcome) {
        let mut error = None;
        match outcome.kind {
            RowChange::Inserted => self.inserted += 1,
            RowChange::Deleted => self.deleted += 1,
            RowChange::Replaced => self.replaced += 1,
            RowChange::Unchanged => self.unchanged += 1,
            RowChange::Skipped => self.skipped += 1,
            RowChange::Error(message) => {
                self.errors += 1;
                self.first_error.get_or_insert_with(|| message.clone());
                error = Some(message);
            }
        }
        let shows = match self.return_changes {
            ReturnChanges::No => false,
            ReturnChanges::Changed => outcome.old.is_some() || outcome.new.is_some(),
            ReturnChanges::Always => true,
        };
        if shows {
            self.add_change(outcome.old, outcome.new, error);
        }
    }

    fn add_change(&mut self, old: Option<Document>, new: Option<Document>, error: Option<String>) {
        if self.changes.len() >= self.list_max {
            self.warnings.insert(format!("Too many changes, array truncated to {}.", self.list_max));
            return;
        }
        let value = |bytes: Option<Document>| bytes.map_or(Datum::Null, |bytes| document::from_bytes(&bytes));
        let mut change = ObjectBuilder::default();
        change.set("new_val", value(new));
        change.set("old_val", value(old));
        if let Some(error) = error {
            change.set("error", Datum::String(error.into()));
        }
        self.changes.push(Datum::Object(change.build()));
    }

    pub fn into_datum(mut self) -> Datum {
        let mut answer = ObjectBuilder::default();
        for (name, count) in self.counters() {
            answer.set(name, Datum::Number(count as f64));
        }
        if self.return_changes != ReturnChanges::No {
            answer.set("changes", Datum::array(self.changes));
        }
        if let Some(error) = self.first_error {
            answer.set("first_error", Datum::String(error.into()));
        }
        if self.generated_count > self.generated_keys.len() {
            self.warnings.insert(format!(
                "Too many generated keys ({}), array truncated to {}.",
                self.generated_count, self.list_max
            ));
        }
        if !self.generated_keys.is_empty() {
            answer.set("generated_keys", Datum::array(self.generated_keys));
        }
        add_warnings(&mut answer, self.warnings, self.list_max);
        Datum::Object(answer.build())
    }
}

fn add_warnings(answer: &mut ObjectBuilder, warnings: BTreeSet<String>, list_max: usize) {
    if warnings.is_empty() {
        return;
    }
    let mut texts: Vec<Datum> = match answer.field("warnings") {
        Some(Datum::Array(known)) => known.iter().collect(),
        Some(_) | None => Vec::new(),
    };
    let fresh: Vec<Datum> = warnings.into_iter().map(|text| Datum::String(text.into())).collect();
    texts.extend(fresh.into_iter().filter(|text| !texts.contains(text)).collect::<Vec<Datum>>());
    if texts.len() > list_max {
        let text = format!("Warnings would exceed array size limit {list_max}; increase it to see warnings");
        texts = vec![Datum::String(text.into())];
    }
    answer.set("warnings", Datum::array(texts));
}

/// What `for_each` has added up so far.
pub struct CombinedSummary {
    answer: ObjectBuilder,
    warnings: BTreeSet<String>,
    list_max: usize,
}

impl CombinedSummary {
    pub fn new(limits: &Limits) -> CombinedSummary {
        CombinedSummary {
            answer: ObjectBuilder::default(),
            warnings: BTreeSet::new(),
            list_max: limits.array_elements_max,
        }
    }

    /// Adds the value of `for_each`'s function for one row: the answer of a write, or an array of them.
    ///
    /// # Errors
    /// `FOR_EACH expects one or more basic write queries.  …`
    pub fn add(&mut self, result: &Datum) -> Outcome<()> {
        let added = match result {
            Datum::Object(object) => self.add_answer(object),
            Datum::Array(answers) => answers.iter().try_for_each(|answer| match &answer {
                Datum::Object(object) => self.add_answer(object),
                other => Err(wrong_type("OBJECT", other)),
            }),
            other => Err(wrong_type("ARRAY", other)),
        };
        added.map_err(|failure| {
            let message = format!("FOR_EACH expects one or more basic write queries.  {}", failure.message);
            Failure { message, ..failure }
        })
    }

    fn add_answer(&mut self, answer: &Object) -> Outcome<()> {
        for (key, value) in answer.iter() {
            let total = match self.answer.field(&key) {
                Some(total) => self.sum(&key, total.clone(), value)?,
                None => value,
            };
            self.answer.set(key, total);
        }
        Ok(())
    }

    /// Numbers add up, lists follow each other, of texts the first stays.
    fn sum(&mut self, key: &Text, total: Datum, value: Datum) -> Outcome<Datum> {
        match (total, value) {
            (Datum::Number(total), Datum::Number(number)) => finite(total + number),
            (Datum::Array(total), Datum::Array(more)) => Ok(self.join(key, total, &more)),
            (Datum::String(first), Datum::String(_)) => Ok(Datum::String(first)),
            (total, value) => Err(Failure::logic(format!(
                "Cannot merge statistics `{}` (type {}) and `{}` (type {}).",
                json::to_message_string(&total),
                total.type_name(),
                json::to_message_string(&value),
                value.type_name()
            ))),
        }
    }

    fn join(&mut self, key: &Text, total: Array, more: &Array) -> Datum {
        let mut items = total.into_vec();
        if &**key == "warnings" {
            items.extend(more.iter().filter(|text| !items.contains(text)).collect::<Vec<Datum>>());
            return Datum::array(items);
        }
        let room = self.list_max.saturating_sub(items.len());
        if more.len() > room {
            self.warnings.insert(format!("Too many changes, array truncated to {}.", self.list_max));
        }
        items.extend(more.iter().take(room));
        Datum::array(items)
    }

    pub fn into_datum(mut self) -> Datum {
        add_warnings(&mut self.answer, self.warnings, self.list_max);
        Datum::Object(self.answer.build())
    }
}

#[cfg(test)]
mod tests {
    use photondb_proto::datum::{document, json};
    use photondb_proto::op::{ReturnChanges, RowChange, RowOutcome};

    use super::{CombinedSummary, WriteSummary};
    use crate::terms::probe::{LIMITS, datum};

    fn outcome(kind: RowChange) -> RowOutcome {
        let row = document::to_bytes(&datum(r#"{"id":1}"#));
        let nothing = document::to_bytes(&datum("null"));
        RowOutcome { kind, old: Some(nothing), new: Some(row) }
    }

    #[test]
    fn counters_are_always_there_and_lists_when_asked_for() {
        let mut summary = WriteSummary::new(ReturnChanges::No, LIMITS.array_elements_max);
        summary.add(outcome(RowChange::Inserted));
        summary.add_error("first".into());
        summary.add_error("second".into());
        summary.add_generated_key(datum(r#""k""#));
        let want = r#"{"deleted":0,"errors":2,"first_error":"first","generated_keys":["k"],"inserted":1,"replaced":0,"skipped":0,"unchanged":0}"#;
        assert_eq!(json::to_string(&summary.into_datum()), want);
    }

    #[test]
    fn text_is_that_of_the_datum() {
        let write = |kinds: &[RowChange]| {
            let outcomes =
                || kinds.iter().map(|kind| RowOutcome { kind: kind.clone(), old: None, new: None });
            let mut summary = WriteSummary::new(ReturnChanges::No, 0);
            outcomes().for_each(|outcome| summary.add(outcome));
            let mut text = Vec::new();
            WriteSummary::write_json(outcomes().collect(), &mut text);
            assert_eq!(String::from_utf8(text), Ok(json::to_string(&summary.into_datum())));
        };
        write(&[]);
        write(&[RowChange::Replaced, RowChange::Replaced, RowChange::Unchanged, RowChange::Skipped]);
        write(&[RowChange::Inserted, RowChange::Deleted, RowChange::Error("no".into())]);
    }

    #[test]
    fn changes_name_old_new_and_error() {
        let mut summary = WriteSummary::new(ReturnChanges::Always, LIMITS.array_elements_max);
        summary.add(outcome(RowChange::Inserted));
        summary.add_error("no".into());
        let want = r#"{"changes":[{"new_val":{"id":1},"old_val":null},{"error":"no","new_val":null,"old_val":null}],"#;
        assert!(json::to_string(&summary.into_datum()).starts_with(want));
    }

    #[test]
    fn long_lists_are_cut_with_a_warning() {
        let mut summary = WriteSummary::new(ReturnChanges::Changed, LIMITS.array_elements_max);
        (0..101).for_each(|_| summary.add(outcome(RowChange::Inserted)));
        (0..102).for_each(|_| summary.add_generated_key(datum("1")));
        let text = json::to_string(&summary.into_datum());
        let want = r#""warnings":["Too many changes, array truncated to 100.","Too many generated keys (102), array truncated to 100."]"#;
        assert!(text.contains(want), "{text}");
    }

    #[track_caller]
    fn check(results: &[&str], want: &str) {
        let mut combined = CombinedSummary::new(&LIMITS);
        let added = results.iter().try_for_each(|result| combined.add(&datum(result)));
        let found = match added {
            Ok(()) => json::to_string(&combined.into_datum()),
            Err(failure) => format!("! {}", failure.message),
        };
        assert_eq!(found, want);
    }

    #[test]
    fn for_each_adds_answers_up() {
        check(&[], "{}");
        check(
            &[
                r#"{"inserted":1,"changes":[1],"first_error":"a"}"#,
                r#"[{"inserted":2,"changes":[2],"first_error":"b"}]"#,
            ],
            r#"{"changes":[1,2],"first_error":"a","inserted":3}"#,
        );
        check(
            &["1"],
            "! FOR_EACH expects one or more basic write queries.  Expected type ARRAY but found NUMBER.",
        );
        check(
            &[r#"{"a":1}"#, r#"{"a":"x"}"#],
            "! FOR_EACH expects one or more basic write queries.  Cannot merge statistics `1` (type NUMBER) and `\"x\"` (type STRING).",
        );
    }
}
