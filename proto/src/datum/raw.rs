//! A value looked at where it lies in a stored document's bytes, without a share in them and without copying: what scans evaluate
//! simple functions on.
//!
//! Always: what is found here is what [`super::Object::field`] finds. Documents of a table mostly have the same fields, so a search
//! begins at the place where the field was in the document before, and with a directory that is one comparison.

use super::document::{self, Directory, tag};
use super::{Datum, Slice, pseudo};

/// A value inside a document.
#[derive(Clone, Copy)]
pub struct Raw<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A value that is no container, or the fact that it is one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scalar<'a> {
    Null,
    Bool(bool),
    Number(f64),
    /// UTF-8.
    Text(&'a [u8]),
    /// Epoch seconds.
    Time(f64),
    /// An array, an object, binary data or a bound.
    Other,
}

/// What a search for a field found.
#[derive(Clone, Copy)]
pub enum Field<'a> {
    Value(Raw<'a>),
    Missing,
    /// What was searched is not an object, or one that stands for something else.
    NotThere,
}

impl<'a> Raw<'a> {
    /// A whole document.
    pub fn new(document: &'a [u8]) -> Raw<'a> {
        Raw { bytes: document, at: 0 }
    }

    #[inline]
    pub fn scalar(self) -> Scalar<'a> {
        let (bytes, at) = (self.bytes, self.at);
        match bytes[at] {
            tag::NULL => Scalar::Null,
            tag::FALSE => Scalar::Bool(false),
            tag::TRUE => Scalar::Bool(true),
            tag::NUMBER => Scalar::Number(document::double_at(bytes, at + 1)),
            tag::SMALL_INTEGER => Scalar::Number(f64::from(document::length_at(bytes, at + 1).0)),
            tag::STRING => {
                let (length, start) = document::length_at(bytes, at + 1);
                Scalar::Text(&bytes[start..start + length as usize])
            }
            tag::TIME => Scalar::Time(document::double_at(bytes, at + 1)),
            _ => Scalar::Other,
        }
    }

    /// The value as a datum of its own.
    pub fn to_datum(self) -> Datum {
        let end = document::skip(self.bytes, self.at);
        document::decode(Slice::from(&self.bytes[self.at..end]))
    }

    /// A field of an object; `hint` is the index of its pair in the object that was searched before.
    #[inline]
    pub fn field(self, key: &[u8], hint: &mut usize) -> Field<'a> {
        let body = self.at + 5;
        let found = match self.bytes[self.at] {
            tag::INDEXED_OBJECT => {
                let directory = Directory::at(self.bytes, body);
                // Names of fields hardly ever begin as low as that of a pseudotype.
                if directory.first_byte() <= pseudo::TYPE_KEY.as_bytes()[0]
                    && directory.find(pseudo::TYPE_KEY.as_bytes()).is_some()
                {
                    return Field::NotThere;
                }
                directory.find_near(key, hint)
            }
            tag::OBJECT => {
                let end = document::skip(self.bytes, self.at);
                if document::find_pair(&self.bytes[body..end], pseudo::TYPE_KEY.as_bytes()).is_some() {
                    return Field::NotThere;
                }
                document::find_pair(&self.bytes[body..end], key).map(|value| body + value)
            }
            _ => return Field::NotThere,
        };
        match found {
            Some(at) => Field::Value(Raw { bytes: self.bytes, at }),
            None => Field::Missing,
        }
    }

    /// Reads what [`Raw::field`] will look at. Done for many documents one after another this lets the memory answer
    /// for all of them at once, where one search after another would wait for each.
    #[inline]
    pub fn touch(self, hint: usize) -> u8 {
        if self.bytes[self.at] != tag::INDEXED_OBJECT {
            return 0;
        }
        let directory = Directory::at(self.bytes, self.at + 5);
        directory.first_byte() ^ self.bytes[directory.pair(hint.min(directory.count() - 1))]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wide(first: &str) -> Datum {
        let long = "x".repeat(60);
        Datum::object([
            (first, Datum::Number(1.0)),
            ("b", Datum::string(&long)),
            ("c", Datum::string(&long)),
            ("d", Datum::Null),
            ("n", Datum::Number(-2.5)),
        ])
    }

    #[track_caller]
    fn check(object: &Datum, key: &str, hint: usize, want: Option<Datum>) {
        let bytes = document::to_bytes(object);
        let raw = Raw::new(&bytes);
        raw.touch(hint);
        match raw.field(key.as_bytes(), &mut { hint }) {
            Field::Value(value) => assert_eq!(Some(value.to_datum()), want, "{key}"),
            Field::Missing => assert_eq!(want, None, "{key}"),
            Field::NotThere => panic!("{object:?} has fields"),
        }
    }

    #[test]
    fn fields_are_found_whatever_the_hint() {
        for hint in [0, 1, 4, 5, 1000] {
            check(&wide("a"), "n", hint, Some(Datum::Number(-2.5)));
            check(&wide("a"), "d", hint, Some(Datum::Null));
            check(&wide("a"), "dd", hint, None);
            check(&wide("$a"), "n", hint, Some(Datum::Number(-2.5)));
            check(&Datum::object([("n", Datum::Number(1.0))]), "n", hint, Some(Datum::Number(1.0)));
            check(&Datum::object([("n", Datum::Number(1.0))]), "m", hint, None);
        }
    }

    #[test]
    fn a_search_remembers_where_the_field_was() {
        let bytes = document::to_bytes(&wide("a"));
        let mut hint = 0;
        assert!(matches!(Raw::new(&bytes).field(b"n", &mut hint), Field::Value(_)));
        assert_eq!(hint, 4);
    }

    #[test]
    fn numbers_of_a_long_document_stand_near_its_directory() {
        let bytes = document::to_bytes(&wide("a"));
        let place = |key: &[u8]| match Raw::new(&bytes).field(key, &mut 0) {
            Field::Value(value) => value.at,
            Field::Missing | Field::NotThere => panic!("it is there"),
        };
        assert!(place(b"a") < place(b"d") && place(b"d") < place(b"n") && place(b"n") < 48);
        assert!(place(b"n") < place(b"b") && place(b"b") < place(b"c"));
    }

    #[test]
    fn pseudotypes_and_scalars_have_no_fields() {
        for datum in [wide("$reql_type$"), Datum::object([("$reql_type$", Datum::Null)]), Datum::Null] {
            let bytes = document::to_bytes(&datum);
            assert!(matches!(Raw::new(&bytes).field(b"b", &mut 0), Field::NotThere), "{datum:?}");
        }
    }
}
