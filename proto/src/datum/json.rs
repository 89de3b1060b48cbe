//! JSON out of values and values out of JSON text.

use super::{Datum, Text};
use crate::error::QueryError;

/// Appends compact JSON, as replies carry it. `MinVal`/`MaxVal` cannot occur (the caller refuses them).
pub fn write(datum: &Datum, out: &mut Vec<u8>) {
    let _ = (datum, out);
    todo!()
}

/// Compact JSON text.
pub fn to_string(datum: &Datum) -> String {
    let mut out = Vec::new();
    write(datum, &mut out);
    String::from_utf8(out).expect("JSON output is UTF-8")
}

/// RethinkDB's pretty print used in messages: tab-indented, a space after colons.
pub fn to_pretty_string(datum: &Datum) -> String {
    let _ = datum;
    todo!()
}

/// Pretty print cut to 300 characters with `...`, as messages marked (t) in the census have it.
pub fn to_message_string(datum: &Datum) -> String {
    let _ = datum;
    todo!()
}

/// Appends a number as RethinkDB prints it.
pub fn write_number(number: f64, out: &mut Vec<u8>) {
    let _ = (number, out);
    todo!()
}

pub fn write_small_integer(number: u32, out: &mut Vec<u8>) {
    let _ = (number, out);
    todo!()
}

/// Appends a JSON string literal.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    let _ = (text, out);
    todo!()
}

/// Parses JSON text for `r.json`; pseudotypes are converted. Errors are those of census §19 (`Failed to parse "…" as JSON: …`).
pub fn parse(text: &Text) -> Result<Datum, QueryError> {
    let _ = text;
    todo!()
}
