//! Fields set in an object where it lies encoded, without making values of it: what most updates of stored documents are.
//!
//! Always: the result is what [`document::encode`] makes of the object with these fields, and what has not changed is copied in whole runs.

use std::ops::Range;

use super::document::{self, BodyWriter, Form, Places, tag};
use super::pseudo;

/// What setting fields leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Spliced {
    /// The object had these values before.
    Same,
    Changed(Vec<u8>),
}

/// A pair of an encoded object's body.
struct Pair<'a> {
    start: usize,
    end: usize,
    key: &'a [u8],
    value: &'a [u8],
}

/// Walks the pairs of an encoded object in the order of their keys.
struct Pairs<'a> {
    body: &'a [u8],
    places: Places<'a>,
}

impl<'a> Pairs<'a> {
    /// `None`: it is no object.
    fn of(bytes: &'a [u8]) -> Option<Pairs<'a>> {
        let form = match *bytes.first()? {
            tag::OBJECT => Form::Pairs,
            tag::INDEXED_OBJECT => Form::IndexedPairs,
            _ => return None,
        };
        let body = &bytes[5..];
        Some(Pairs { body, places: Places::of(body, 0, form) })
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;
    fn next(&mut self) -> Option<Pair<'a>> {
        let at = self.places.next()?;
        let (length, start) = document::length_at(self.body, at);
        let value = start + length as usize;
        let end = document::skip(self.body, value);
        self.places.ended(end);
        Some(Pair { start: at, end, key: &self.body[start..value], value: &self.body[value..end] })
    }
}

/// Runs of the old object and, between them, new pairs.
struct Pieces<'a> {
    body: &'a [u8],
    /// A run of the old object that may go on.
    run: Range<usize>,
    pieces: Vec<&'a [u8]>,
}

impl<'a> Pieces<'a> {
    fn keep(&mut self, pair: &Pair<'_>) {
        if pair.start != self.run.end {
            self.pieces.push(&self.body[self.run.clone()]);
            self.run.start = pair.start;
        }
        self.run.end = pair.end;
    }

    fn put(&mut self, new: &'a [u8]) {
        self.pieces.push(&self.body[self.run.clone()]);
        self.run.start = self.run.end;
        self.pieces.push(new);
    }
}

/// Sets the fields of `change` in `object`, both encoded. `None` where more has to be done than to set: one of them is no plain object, a
/// value of `change` is an object, which is merged, or the field `fixed` would become another.
pub fn set_fields(object: &[u8], change: &[u8], fixed: &str) -> Option<Spliced> {
    let old = Pairs::of(object)?;
    let (mut count, mut is_changed) = (old.places.count(), false);
    let mut old = old.peekable();
    let mut pieces = Pieces { body: &object[5..], run: 0..0, pieces: Vec::new() };
    let changes = Pairs::of(change)?;
    let new_body = changes.body;
    for new in changes {
        if matches!(new.value[0], tag::OBJECT | tag::INDEXED_OBJECT) || new.key == pseudo::TYPE_KEY.as_bytes()
        {
            return None;
        }
        while let Some(before) = old.next_if(|old| old.key < new.key) {
            pieces.keep(&before);
        }
        let replaced = old.next_if(|old| old.key == new.key);
        if let Some(same) = replaced.as_ref().filter(|old| document::is_same(old.value, new.value)) {
            pieces.keep(same);
            continue;
        }
        if new.key == fixed.as_bytes() {
            return None;
        }
        count += usize::from(replaced.is_none());
        is_changed = true;
        pieces.put(&new_body[new.start..new.end]);
    }
    if !is_changed {
        return Some(Spliced::Same);
    }
    old.for_each(|behind| pieces.keep(&behind));
    let Pieces { body, run, pieces } = pieces;
    // Room for the head and a directory, too.
    let mut out = Vec::with_capacity(object.len() + change.len() + 2 * count);
    let mut writer = BodyWriter::begin(tag::OBJECT, &mut out);
    writer.count(count);
    pieces.iter().chain([&&body[run]]).for_each(|piece| writer.raw(piece));
    writer.add_directory();
    writer.end();
    Some(Spliced::Changed(out))
}

#[cfg(test)]
mod tests {
    use super::super::{Datum, ObjectBuilder, Time};
    use super::*;

    fn encoded(json: &str) -> Vec<u8> {
        document::to_bytes(&super::super::json_parse::parse(&json.into()).expect("JSON"))
    }

    #[track_caller]
    fn check(object: &str, change: &str, want: Option<&str>) {
        let found = set_fields(&encoded(object), &encoded(change), "id");
        let want =
            want.map(|want| if want.is_empty() { Spliced::Same } else { Spliced::Changed(encoded(want)) });
        assert_eq!(found, want, "{object} {change}");
    }

    #[test]
    fn fields_are_set_where_they_belong() {
        check(r#"{"b":1,"id":1}"#, r#"{"b":2}"#, Some(r#"{"b":2,"id":1}"#));
        check(
            r#"{"b":1,"id":1}"#,
            r#"{"a":[1,{"x":2}],"c":"","z":null}"#,
            Some(r#"{"a":[1,{"x":2}],"b":1,"c":"","id":1,"z":null}"#),
        );
        check(r#"{"a":{"b":1},"id":1}"#, r#"{"a":2}"#, Some(r#"{"a":2,"id":1}"#));
        check("{}", r#"{"a":2}"#, Some(r#"{"a":2}"#));
        check(r#"{"b":1,"id":1}"#, "{}", Some(""));
        check(r#"{"b":1,"id":1}"#, r#"{"b":1.0,"id":1}"#, Some(""));
        check(r#"{"b":[0.5],"id":1}"#, r#"{"b":[0.5],"c":0}"#, Some(r#"{"b":[0.5],"c":0,"id":1}"#));
        // More than to set.
        check(r#"{"b":1,"id":1}"#, r#"{"b":{}}"#, None);
        check(r#"{"b":1,"id":1}"#, r#"{"id":2}"#, None);
        check("[1]", r#"{"a":2}"#, None);
        check(r#"{"b":1,"id":1}"#, "5", None);
    }

    #[test]
    fn equal_values_are_the_same_whatever_their_bytes() {
        let object = |value| document::to_bytes(&Datum::object([("a", value), ("id", Datum::Number(1.0))]));
        let time = |zone_minutes| Datum::Time(Time { epoch_seconds: 5.0, zone_minutes });
        assert_eq!(set_fields(&object(time(0)), &object(time(60)), "id"), Some(Spliced::Same));
        assert_eq!(
            set_fields(&object(Datum::Number(0.0)), &object(Datum::Number(-0.0)), "id"),
            Some(Spliced::Same)
        );
    }

    #[test]
    fn whatever_the_sizes_the_bytes_are_those_of_the_whole_object() {
        for fields in 0..40 {
            for length in [0, 3, 40, 2_000] {
                let object = |keys: &mut dyn Iterator<Item = usize>, letter: &str| {
                    let mut builder = ObjectBuilder::default();
                    keys.for_each(|key| {
                        builder.set(format!("{key:03}"), Datum::from(letter.repeat(length).as_str()))
                    });
                    Datum::Object(builder.build())
                };
                let old = object(&mut (0..fields).map(|key| key * 2), "o");
                for step in 1..6 {
                    let change = object(&mut (0..fields * 2).step_by(step * 3), "n");
                    let mut whole = ObjectBuilder::default();
                    for part in [&old, &change] {
                        let Datum::Object(part) = part else { unreachable!("both are objects") };
                        part.iter().for_each(|(key, value)| whole.set(key, value));
                    }
                    let whole = document::to_bytes(&Datum::Object(whole.build()));
                    let (old, change) = (document::to_bytes(&old), document::to_bytes(&change));
                    match set_fields(&old, &change, "id").expect("plain objects") {
                        Spliced::Changed(found) => assert_eq!(found, whole),
                        Spliced::Same => assert_eq!(old, whole),
                    }
                }
            }
        }
    }
}
