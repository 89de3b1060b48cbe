//! Rows that a part of a table gives to one step of a scan.
//!
//! Always: keys lie behind each other in one run of bytes and values in another, so that a step costs three allocations however many
//! rows it gives, and crosses to another core as it is. JSON has commas between: all of it is what a client is sent, as it lies.

use std::rc::Rc;

use crate::datum::json::{self, Written};
use crate::datum::json_steps::Printing;
use crate::datum::{Datum, Slice, document};

/// A document from which on printing takes more than a fraction of a millisecond.
const LARGE_BYTES: usize = 128 << 10;

/// What the rows of a scan are given as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RowForm {
    /// Encoded documents, for work that is left to do.
    #[default]
    Document,
    /// JSON, for the client.
    Json,
}

/// One row, where it lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// The primary key, or the index entry's; empty in scans of [`ScanOrder::Any`](crate::op::ScanOrder::Any).
    pub key: &'a [u8],
    pub value: &'a [u8],
}

#[derive(Clone, Debug, Default)]
pub struct RowBlock {
    form: RowForm,
    keys: Vec<u8>,
    values: Vec<u8>,
    /// Where the key and the value of each row end.
    ends: Vec<(usize, usize)>,
}

/// A value with a bound in it, which has no JSON: its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HasBound(pub &'static str);

impl RowBlock {
    pub fn new(form: RowForm) -> RowBlock {
        RowBlock { form, ..RowBlock::default() }
    }

    /// Makes room for so many rows from stored documents of so many bytes.
    pub fn expect(&mut self, rows: usize, stored_bytes: usize) {
        self.ends.reserve(rows);
        self.values.reserve(match self.form {
            RowForm::Document => stored_bytes,
            // Names and texts get quotes, numbers become digits.
            RowForm::Json => stored_bytes + stored_bytes / 4,
        });
    }

    /// Adds a row from its stored document.
    pub fn push(&mut self, key: &[u8], stored: &[u8]) {
        self.begin();
        match self.form {
            RowForm::Document => self.values.extend_from_slice(stored),
            RowForm::Json => document::write_json(stored, &mut self.values),
        }
        self.end(key);
    }

    /// [`RowBlock::push`] of a document that may be large: to print one takes long, so it waits for its `turn` in between.
    pub async fn push_in_turns(&mut self, key: &[u8], stored: &Rc<[u8]>, turn: impl AsyncFn()) {
        if self.form == RowForm::Document || stored.len() < LARGE_BYTES {
            return self.push(key, stored);
        }
        self.begin();
        let document = document::decode(Slice::new(stored.clone()));
        let mut printing = Printing::new(&document, usize::MAX, &mut self.values);
        while printing.step(LARGE_BYTES, &mut self.values).is_none() {
            turn().await;
        }
        self.end(key);
    }

    /// Adds what became of a row.
    ///
    /// # Errors
    /// It has no JSON, and that is what is wanted; nothing is added.
    pub fn push_value(&mut self, key: &[u8], value: &Datum) -> Result<(), HasBound> {
        let start = self.values.len();
        self.begin();
        match self.form {
            RowForm::Document => document::encode(value, &mut self.values),
            RowForm::Json => match json::write_within(value, usize::MAX, &mut self.values) {
                Written::Whole | Written::TooLarge => {}
                Written::Bound(name) => {
                    self.values.truncate(start);
                    return Err(HasBound(name));
                }
            },
        }
        self.end(key);
        Ok(())
    }

    /// Whatever stands before a row's value.
    fn begin(&mut self) {
        if self.form == RowForm::Json && !self.ends.is_empty() {
            self.values.push(b',');
        }
    }

    fn end(&mut self, key: &[u8]) {
        self.keys.extend_from_slice(key);
        self.ends.push((self.keys.len(), self.values.len()));
    }

    /// Keeps so many of the first rows.
    pub fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        let (key_end, end) = self.ends.last().copied().unwrap_or_default();
        self.keys.truncate(key_end);
        self.values.truncate(end);
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.keys.len() + self.values.len()
    }

    /// The JSON of all rows, comma-joined.
    pub fn into_items(self) -> Vec<u8> {
        debug_assert_eq!(self.form, RowForm::Json, "documents are not joined");
        self.values
    }

    /// # Panics
    /// There is no such row.
    pub fn row(&self, index: usize) -> Row<'_> {
        let (key_start, start) = match (index, self.form) {
            (0, _) => (0, 0),
            (_, RowForm::Document) => self.ends[index - 1],
            (_, RowForm::Json) => (self.ends[index - 1].0, self.ends[index - 1].1 + 1),
        };
        let (key_end, end) = self.ends[index];
        Row { key: &self.keys[key_start..key_end], value: &self.values[start..end] }
    }

    pub fn iter(&self) -> impl Iterator<Item = Row<'_>> {
        (0..self.len()).map(|index| self.row(index))
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    #[track_caller]
    fn check(form: RowForm, values: &[(Datum, &str)]) {
        let mut block = RowBlock::new(form);
        for (number, (value, _)) in values.iter().enumerate() {
            let key = vec![b'k'; number];
            match number % 2 {
                0 => block.push(&key, &document::to_bytes(value)),
                _ => block.push_value(&key, value).unwrap(),
            }
        }
        assert_eq!(block.push_value(b"bound", &Datum::MaxVal).is_ok(), form == RowForm::Document);
        let rows: Vec<Row<'_>> = block.iter().take(values.len()).collect();
        for (number, ((value, text), row)) in values.iter().zip(rows).enumerate() {
            assert_eq!(row.key.len(), number);
            match form {
                RowForm::Document => assert_eq!(row.value, document::to_bytes(value)),
                RowForm::Json => assert_eq!(row.value, text.as_bytes()),
            }
        }
        assert_eq!(block.len(), values.len() + usize::from(form == RowForm::Document));
        let two: usize = block.iter().take(2).map(|row| row.key.len() + row.value.len()).sum();
        block.truncate(2);
        let commas = usize::from(form == RowForm::Json);
        assert_eq!((block.len(), block.bytes()), (2, two + commas));
        if form == RowForm::Json {
            assert_eq!(block.into_items(), format!("{},{}", values[0].1, values[1].1).into_bytes());
        }
    }

    #[test]
    fn rows_are_given_back_in_the_form_that_was_asked_for() {
        let document = Datum::object([("a", Datum::Number(1.0)), ("b", Datum::string("x\"y"))]);
        let rows = [
            (document.clone(), r#"{"a":1,"b":"x\"y"}"#),
            (Datum::Null, "null"),
            (Datum::array(vec![document]), r#"[{"a":1,"b":"x\"y"}]"#),
            (Datum::Bool(true), "true"),
        ];
        check(RowForm::Document, &rows);
        check(RowForm::Json, &rows);
    }

    #[test]
    fn a_large_document_is_printed_in_turns() {
        let numbers = (0..100_000).map(|number| Datum::Number(f64::from(number) + 0.5)).collect();
        let document: Rc<[u8]> = document::to_bytes(&Datum::array(numbers)).into();
        let (mut whole, mut stepped) = (RowBlock::new(RowForm::Json), RowBlock::new(RowForm::Json));
        whole.push(b"k", &document);
        let turns = Cell::new(0);
        let work = stepped.push_in_turns(b"k", &document, async || turns.set(turns.get() + 1));
        assert!(pin!(work).poll(&mut Context::from_waker(Waker::noop())).is_ready());
        assert!(whole.row(0) == stepped.row(0));
        assert!(turns.get() >= whole.bytes() / (2 * LARGE_BYTES), "{} turns", turns.get());
    }
}
