//! Queries as they go over the wire, with places for keys and documents: ReQL in JSON form in which a text that begins
//! with `$` is replaced each time the query is sent.

use std::time::Instant;

use photondb_proto::wire::frame::HEADER_BYTES;
use serde_json::Value;

use crate::world::{BUCKETS, World, put_number};

/// What a placeholder stands for.
struct Placeholder {
    name: &'static str,
    what: Piece,
    about: &'static str,
}

static PLACEHOLDERS: &[Placeholder] = &[
    Placeholder { name: "$key", what: Piece::Key, about: "the key of the record the operation is about" },
    Placeholder {
        name: "$document",
        what: Piece::Document,
        about: "that record's document, as `load` writes it",
    },
    Placeholder {
        name: "$documents",
        what: Piece::Documents,
        about: "an array of all documents of the operation",
    },
    Placeholder { name: "$change", what: Piece::Change, about: "an object with one field of another text" },
    Placeholder { name: "$text", what: Piece::Text, about: "a text as long as a document's fields" },
    Placeholder { name: "$number", what: Piece::Number, about: "the record's field n" },
    Placeholder { name: "$random", what: Piece::Random, about: "a number from 0 to --records" },
    Placeholder { name: "$half", what: Piece::Half, about: "half of --records" },
    Placeholder {
        name: "$bucket",
        what: Piece::Bucket,
        about: "a value of the field bucket, which `load --index` indexes",
    },
    Placeholder { name: "$length", what: Piece::Length, about: "a number from 1 to 100" },
    Placeholder {
        name: "$sent",
        what: Piece::Sent,
        about: "when the query was to be sent, in microseconds of the run",
    },
];

/// The placeholders with what they stand for, for the help; those that never change are replaced once.
pub fn placeholders() -> impl Iterator<Item = (&'static str, &'static str)> {
    let fixed = [
        ("$table", "the table of --db and --table"),
        ("$db", "the name of --db"),
        ("$durability", "hard or soft, as --durability says"),
    ];
    fixed.into_iter().chain(PLACEHOLDERS.iter().map(|placeholder| (placeholder.name, placeholder.about)))
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Bytes(Vec<u8>),
    Key,
    Document,
    Documents,
    Change,
    Text,
    Number,
    Random,
    Half,
    Bucket,
    Length,
    Sent,
}

/// What is the same in all queries of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub db: String,
    pub table: String,
    /// `hard` or `soft`.
    pub durability: String,
}

impl Names {
    /// The table as a term.
    pub fn term(&self) -> Value {
        serde_json::json!([15, [[14, [self.db]], self.table]])
    }
}

/// Why a template is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the query is not JSON: {0}")]
    Json(String),
    #[error("there is no placeholder {0} (write $$ for a text that begins with a dollar sign)")]
    Placeholder(String),
}

/// A query ready to be filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pieces: Vec<Piece>,
}

/// What one operation is about.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// The first of its records.
    pub record: u64,
    pub count: u64,
    /// When it was to be sent.
    pub due: Instant,
}

impl Template {
    /// A START query of a term, with its global options.
    ///
    /// # Errors
    /// When one of them is no JSON or names an unknown placeholder.
    pub fn parse(term: &str, options: &str, names: &Names) -> Result<Template, TemplateError> {
        let json = |text: &str| serde_json::from_str::<Value>(text);
        let (term, options) = json(term)
            .and_then(|term| Ok((term, json(options)?)))
            .map_err(|error| TemplateError::Json(error.to_string()))?;
        let mut builder = Builder { pieces: Vec::new(), bytes: Vec::new(), names };
        builder.value(&Value::Array(vec![1.into(), term, options]))?;
        builder.end_bytes();
        Ok(Template { pieces: builder.pieces })
    }

    /// Appends the query in a frame.
    pub fn write(&self, token: i64, subject: Subject, world: &mut World, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&token.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for piece in &self.pieces {
            piece.write(subject, world, out);
        }
        let bytes = (out.len() - start - HEADER_BYTES) as u32;
        out[start + 8..start + HEADER_BYTES].copy_from_slice(&bytes.to_le_bytes());
    }
}

struct Builder<'a> {
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
    names: &'a Names,
}

impl Builder<'_> {
    fn end_bytes(&mut self) {
        if !self.bytes.is_empty() {
            self.pieces.push(Piece::Bytes(std::mem::take(&mut self.bytes)));
        }
    }

    fn plain(&mut self, value: &Value) {
        serde_json::to_writer(&mut self.bytes, value).expect("writing to memory does not fail");
    }

    fn value(&mut self, value: &Value) -> Result<(), TemplateError> {
        match value {
            Value::Array(items) => {
                self.bytes.push(b'[');
                for (index, item) in items.iter().enumerate() {
                    if index > 0 {
                        self.bytes.push(b',');
                    }
                    self.value(item)?;
                }
                self.bytes.push(b']');
            }
            Value::Object(fields) => {
                self.bytes.push(b'{');
                for (index, (name, field)) in fields.iter().enumerate() {
                    if index > 0 {
                        self.bytes.push(b',');
                    }
                    self.plain(&Value::String(name.clone()));
                    self.bytes.push(b':');
                    self.value(field)?;
                }
                self.bytes.push(b'}');
            }
            Value::String(text) if text.starts_with('$') => self.placeholder(text)?,
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Number(_) => self.plain(value),
        }
        Ok(())
    }

    fn placeholder(&mut self, text: &str) -> Result<(), TemplateError> {
        if let Some(escaped) = text.strip_prefix("$$") {
            self.plain(&Value::String(format!("${escaped}")));
        } else if text == "$table" {
            self.plain(&self.names.term());
        } else if text == "$db" {
            self.plain(&Value::String(self.names.db.clone()));
        } else if text == "$durability" {
            self.plain(&Value::String(self.names.durability.clone()));
        } else {
            let known = PLACEHOLDERS.iter().find(|placeholder| placeholder.name == text);
            let known = known.ok_or_else(|| TemplateError::Placeholder(text.to_owned()))?;
            self.end_bytes();
            self.pieces.push(known.what.clone());
        }
        Ok(())
    }
}

impl Piece {
    fn write(&self, subject: Subject, world: &mut World, out: &mut Vec<u8>) {
        match self {
            Piece::Bytes(bytes) => out.extend_from_slice(bytes),
            Piece::Key => world.put_key(subject.record, out),
            Piece::Document => world.put_document(subject.record, out),
            Piece::Documents => {
                // An array of the wire is a term: MAKE_ARRAY.
                out.extend_from_slice(b"[2,[");
                for record in subject.record..subject.record + subject.count {
                    if record > subject.record {
                        out.push(b',');
                    }
                    world.put_document(record, out);
                }
                out.extend_from_slice(b"]]");
            }
            Piece::Change => world.put_change(out),
            Piece::Text => world.put_text(out),
            Piece::Number => put_number(world.number(subject.record), out),
            Piece::Random => put_number(world.random.below(world.records().max(1)), out),
            Piece::Half => put_number(world.records() / 2, out),
            Piece::Bucket => put_number(world.random.below(BUCKETS), out),
            Piece::Length => put_number(world.range_length(), out),
            Piece::Sent => put_number(world.micros(subject.due), out),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choose::Distribution;
    use crate::world::{Origin, Shape};

    #[track_caller]
    fn check(term: &str, want: Result<&str, &str>) {
        let epoch = Instant::now();
        let mut world = World::new(&Origin {
            seed: 1,
            thread: 0,
            threads: 1,
            records: 10,
            shape: Shape { fields: 1, text_bytes: 2 },
            distribution: Distribution::Uniform,
            first_insert: 1000,
            epoch,
        });
        let names = Names { db: "a\"b".to_owned(), table: "t".to_owned(), durability: "hard".to_owned() };
        let mut out = Vec::new();
        let made = Template::parse(term, "{}", &names).map(|template| {
            template.write(7, Subject { record: 3, count: 2, due: epoch }, &mut world, &mut out);
            assert_eq!(&out[..8], &7_i64.to_le_bytes());
            assert_eq!(out[8..12], u32::try_from(out.len() - 12).expect("small").to_le_bytes());
            serde_json::from_slice::<Value>(&out[12..]).expect("a query is JSON").to_string()
        });
        let want = want.map(|term| {
            serde_json::from_str::<Value>(&format!("[1,{term},{{}}]")).expect("JSON").to_string()
        });
        assert_eq!(made.map_err(|error| error.to_string()), want.map_err(str::to_owned), "{term}");
    }

    #[test]
    fn placeholders_are_replaced() {
        let text = |number: u64| {
            let mut out = Vec::new();
            crate::world::put_document(number, Shape { fields: 1, text_bytes: 2 }, &mut out);
            String::from_utf8(out).expect("text")
        };
        check(r#"[16,["$table","$key"]]"#, Ok(r#"[16,[[15,[[14,["a\"b"]],"t"]],"user000000000003"]]"#));
        check(r#"{"a":"$number","b":["$half","$sent","$db"]}"#, Ok(r#"{"a":3,"b":[5,0,"a\"b"]}"#));
        check(r#""$document""#, Ok(&text(3)));
        check(r#""$documents""#, Ok(&format!("[2,[{},{}]]", text(3), text(4))));
    }

    #[test]
    fn what_is_no_placeholder_stays() {
        check(r#"["a$key","$$key",null,true,-1.5]"#, Ok(r#"["a$key","$key",null,true,-1.5]"#));
    }

    #[test]
    fn mistakes_are_named() {
        check("[16,", Err("the query is not JSON: EOF while parsing a value at line 1 column 4"));
        check(
            r#"["$kye"]"#,
            Err("there is no placeholder $kye (write $$ for a text that begins with a dollar sign)"),
        );
    }
}
