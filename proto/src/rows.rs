//! Rows that a part of a table gives to one step of a scan.
//!
//! Always: keys and values lie behind each other in one run of bytes, so that a step costs two allocations however many rows
//! it gives, and crosses to another core as it is.

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
    bytes: Vec<u8>,
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

    /// Adds a row from its stored document.
    pub fn push(&mut self, key: &[u8], stored: &[u8]) {
        let key_end = self.put_key(key);
        match self.form {
            RowForm::Document => self.bytes.extend_from_slice(stored),
            RowForm::Json => document::write_json(stored, &mut self.bytes),
        }
        self.ends.push((key_end, self.bytes.len()));
    }

    /// [`RowBlock::push`] of a document that may be large: to print one takes long, so it waits for its `turn` in between.
    pub async fn push_in_turns(&mut self, key: &[u8], stored: &Rc<[u8]>, turn: impl AsyncFn()) {
        if self.form == RowForm::Document || stored.len() < LARGE_BYTES {
            return self.push(key, stored);
        }
        let key_end = self.put_key(key);
        let document = document::decode(Slice::new(stored.clone()));
        let mut printing = Printing::new(&document, usize::MAX, &mut self.bytes);
        while printing.step(LARGE_BYTES, &mut self.bytes).is_none() {
            turn().await;
        }
        self.ends.push((key_end, self.bytes.len()));
    }

    /// Adds what became of a row.
    ///
    /// # Errors
    /// It has no JSON, and that is what is wanted; nothing is added.
    pub fn push_value(&mut self, key: &[u8], value: &Datum) -> Result<(), HasBound> {
        let start = self.bytes.len();
        let key_end = self.put_key(key);
        match self.form {
            RowForm::Document => document::encode(value, &mut self.bytes),
            RowForm::Json => match json::write_within(value, usize::MAX, &mut self.bytes) {
                Written::Whole | Written::TooLarge => {}
                Written::Bound(name) => {
                    self.bytes.truncate(start);
                    return Err(HasBound(name));
                }
            },
        }
        self.ends.push((key_end, self.bytes.len()));
        Ok(())
    }

    fn put_key(&mut self, key: &[u8]) -> usize {
        self.bytes.extend_from_slice(key);
        self.bytes.len()
    }

    /// Keeps so many of the first rows.
    pub fn truncate(&mut self, rows: usize) {
        self.ends.truncate(rows);
        self.bytes.truncate(self.ends.last().map_or(0, |(_, end)| *end));
    }

    pub fn len(&self) -> usize {
        self.ends.len()
    }

    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// # Panics
    /// There is no such row.
    pub fn row(&self, index: usize) -> Row<'_> {
        let start = if index == 0 { 0 } else { self.ends[index - 1].1 };
        let (key_end, end) = self.ends[index];
        Row { key: &self.bytes[start..key_end], value: &self.bytes[key_end..end] }
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
        assert_eq!((block.len(), block.bytes()), (2, two));
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
