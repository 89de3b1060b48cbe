//! COERCE_TO between data. (Streams have been gathered into arrays; TYPE_OF lives with the control terms.)

use photondb_proto::datum::pseudo::TYPE_KEY;
use photondb_proto::datum::{Datum, Object, ObjectBuilder, Slice, Text, Time, json};
use photondb_proto::term::number;

use super::{Arity, TermDef};
use crate::call::{Call, finite};
use crate::failure::{Failure, Outcome};
use crate::terms::object::add_new;
use crate::terms::string::json_text;
use crate::value::wrong_type;

pub static TERMS: &[TermDef] = &[TermDef::pure("COERCE_TO", number::COERCE_TO, Arity::exactly(2), coerce_to)];

/// Every name `coerce_to` knows; the data types among them are those of [`base_type`].
const TYPES: &[&str] = &[
    "ARRAY",
    "BINARY",
    "BOOL",
    "DB",
    "FUNCTION",
    "GROUPED_DATA",
    "GROUPED_STREAM",
    "MAXVAL",
    "MINVAL",
    "NULL",
    "NUMBER",
    "OBJECT",
    "SELECTION<ARRAY>",
    "SELECTION<OBJECT>",
    "SELECTION<STREAM>",
    "STREAM",
    "STRING",
    "TABLE",
    "TABLE_SLICE",
];

/// The type of a datum as coercion sees it: times and geometry are plain objects.
fn base_type(datum: &Datum) -> &'static str {
    match datum {
        Datum::MinVal => "MINVAL",
        Datum::Null => "NULL",
        Datum::Bool(_) => "BOOL",
        Datum::Number(_) => "NUMBER",
        Datum::String(_) => "STRING",
        Datum::Array(_) => "ARRAY",
        Datum::Object(_) | Datum::Time(_) => "OBJECT",
        Datum::Binary(_) => "BINARY",
        Datum::MaxVal => "MAXVAL",
    }
}

/// The upper-case name of a type that `coerce_to` knows.
pub fn target_type(name: &str) -> Outcome<&'static str> {
    let name = name.to_ascii_uppercase();
    let found = TYPES.iter().find(|known| **known == name);
    found.copied().ok_or_else(|| Failure::logic(format!("Unknown Type: {name}")))
}

fn coerce_to(call: &Call) -> Outcome<Datum> {
    let datum = call.datum(0)?;
    let target = target_type(&call.string(1)?)?;
    let from = base_type(&datum);
    if target == from {
        return Ok(datum);
    }
    match (datum, target) {
        (datum, "BOOL") => Ok(Datum::Bool(datum.is_truthy())),
        (Datum::Binary(bytes), "STRING") => text_of(&bytes),
        (datum, "STRING") => Ok(Datum::String(json_text(&datum, &call.limits)?)),
        (Datum::String(text), "NUMBER") => number_of(&text),
        (Datum::String(text), "BINARY") => Ok(Datum::Binary(Slice::from(text.as_bytes()))),
        (Datum::Object(object), "ARRAY") => pairs(call, &object),
        (Datum::Time(time), "ARRAY") => pairs(call, &time_object(time)),
        (Datum::Array(items), "OBJECT") => {
            let mut builder = ObjectBuilder::default();
            items.iter().try_for_each(|item| add_pair(&mut builder, &item))?;
            Ok(Datum::Object(builder.build()))
        }
        (_, target) => {
            Err(Failure::logic(format!("Cannot coerce {from} to {target}.")).at(&call.arguments[0].place))
        }
    }
}

/// A time as the object it is on the wire.
fn time_object(time: Time) -> Object {
    let mut builder = ObjectBuilder::default();
    builder.set(TYPE_KEY, Datum::string("TIME"));
    builder.set("epoch_time", Datum::Number(time.epoch_seconds));
    builder.set("timezone", Datum::String(json::zone_text(time.zone_minutes).into()));
    builder.build()
}

fn pairs(call: &Call, object: &Object) -> Outcome<Datum> {
    call.array_result(
        object.iter().map(|(key, value)| Datum::array(vec![Datum::String(key), value])).collect(),
    )
}

/// Adds an element `[key, value]` of a sequence that becomes an object.
pub fn add_pair(builder: &mut ObjectBuilder, pair: &Datum) -> Outcome<()> {
    let Datum::Array(pair) = pair else { return Err(wrong_type("ARRAY", pair)) };
    if pair.len() != 2 {
        return Err(Failure::logic(format!("Expected array of size 2, but got size {}.", pair.len())));
    }
    let mut pair = pair.iter();
    let (Some(key), Some(value)) = (pair.next(), pair.next()) else { unreachable!("two items") };
    match key {
        Datum::String(key) => add_new(builder, key, value, "coerced object"),
        other => Err(wrong_type("STRING", &other)),
    }
}

fn text_of(bytes: &[u8]) -> Outcome<Datum> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Datum::String(Text::new(text))),
        Err(error) => {
            let shown: String = String::from_utf8_lossy(bytes).chars().take(20).collect();
            let reason = if error.error_len().is_none() {
                "Expected continuation byte, saw end of string"
            } else {
                "Invalid byte sequence"
            };
            Err(Failure::logic(format!(
                "String `{shown}` (truncated) is not a UTF-8 string; {reason} at position {}.",
                error.valid_up_to()
            )))
        }
    }
}

/// A number as C reads one: blanks in front, decimal or hexadecimal, nothing behind.
fn number_of(text: &str) -> Outcome<Datum> {
    let digits = text.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}']);
    let (negative, magnitude) = match digits.as_bytes().first() {
        Some(b'-') => (true, &digits[1..]),
        Some(b'+') => (false, &digits[1..]),
        _ => (false, digits),
    };
    let hexadecimal = magnitude.strip_prefix("0x").or_else(|| magnitude.strip_prefix("0X"));
    let number = match hexadecimal {
        Some(digits) => u64::from_str_radix(digits, 16).ok().map(|number| number as f64),
        None if magnitude.starts_with(['+', '-']) => None,
        None => magnitude.parse::<f64>().ok(),
    };
    let Some(number) = number else {
        return Err(Failure::logic(format!("Could not coerce `{text}` to NUMBER.")));
    };
    finite(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use crate::terms::probe::answer;

    #[track_caller]
    fn check(value: &str, target: &str, want: &str) {
        let found = answer(super::TERMS, "COERCE_TO", &format!(r#"[{value}, "{target}"]"#));
        assert_eq!(found, want, "{value} to {target}");
    }

    const BINARY: &str = r#"{"$reql_type$":"BINARY","data":"Zm9v"}"#;
    const TIME: &str = r#"{"$reql_type$":"TIME","epoch_time":5,"timezone":"+00:00"}"#;

    #[test]
    fn everything_becomes_text_and_truth() {
        check("1", "string", r#""1""#);
        check(r#"{"a":[1, null]}"#, "STRING", r#""{\"a\":[1,null]}""#);
        check(r#""x""#, "string", r#""x""#);
        check(BINARY, "string", r#""foo""#);
        check("null", "bool", "false");
        check("0", "bool", "true");
        check(BINARY, "bool", "true");
    }

    #[test]
    fn text_becomes_numbers_and_bytes() {
        check(r#""-1.5e3""#, "number", "-1500");
        check(r#"" 0x10""#, "number", "16");
        check(r#""1x""#, "number", "! Could not coerce `1x` to NUMBER.");
        check(r#""""#, "number", "! Could not coerce `` to NUMBER.");
        check(r#""inf""#, "number", "! Non-finite number: inf");
        check(r#""foo""#, "binary", BINARY);
    }

    #[test]
    fn objects_and_arrays_of_pairs_become_each_other() {
        check(r#"{"a":1,"b":2}"#, "array", r#"[["a",1],["b",2]]"#);
        check(r#"[["b",1],["a",2]]"#, "object", r#"{"a":2,"b":1}"#);
        check(r#"[["b"]]"#, "object", "! Expected array of size 2, but got size 1.");
        check(r#"[[1, 2]]"#, "object", "! Expected type STRING but found NUMBER.");
        check(
            r#"[["a",1],["a",2]]"#,
            "object",
            r#"! Duplicate key "a" in coerced object.  (got 1 and 2 as values)"#,
        );
        check(TIME, "array", r#"[["$reql_type$","TIME"],["epoch_time",5],["timezone","+00:00"]]"#);
    }

    #[test]
    fn other_ways_are_refused_by_name() {
        check(BINARY, "array", "! Cannot coerce BINARY to ARRAY.");
        check(BINARY, "null", "! Cannot coerce BINARY to NULL.");
        check("null", "number", "! Cannot coerce NULL to NUMBER.");
        check("1", "table", "! Cannot coerce NUMBER to TABLE.");
        check("1", "tabel", "! Unknown Type: TABEL");
    }
}
