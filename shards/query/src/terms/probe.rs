//! Calls one pure term in a test: arguments and options as JSON in, the answer as JSON or the failure's text out.

use photondb_proto::datum::{Datum, Text, json, json_parse};

use super::{Eval, TermDef};
use crate::call::{Argument, Call, Limits};
use crate::failure::Place;
use crate::value::Value;

/// The limits tests run under: small, so that they can be reached, and a fixed `now`.
pub const LIMITS: Limits =
    Limits { array_elements_max: 100, now_epoch_seconds: 1_375_147_296.681, value_bytes_max: 1 << 20 };

/// The value that JSON text stands for.
#[track_caller]
pub fn datum(text: &str) -> Datum {
    json_parse::parse(&Text::new(text)).expect("a test's JSON is sound")
}

/// `answer(TERMS, "ADD", "[1, 2]")` is `3`; a failure is `! ` and its text.
#[track_caller]
pub fn answer(terms: &[TermDef], name: &str, arguments: &str) -> String {
    answer_with(terms, name, arguments, &[])
}

#[track_caller]
pub fn answer_with(
    terms: &[TermDef],
    name: &str,
    arguments: &str,
    options: &[(&'static str, &str)],
) -> String {
    let term = terms.iter().find(|term| term.name == name).expect("the family has the term");
    let Datum::Array(arguments) = datum(arguments) else { panic!("arguments are an array") };
    let argument = |(index, datum): (usize, Datum)| Argument {
        value: Value::Datum(datum),
        place: Place::root().argument(index),
    };
    let call = Call {
        arguments: arguments.iter().enumerate().map(argument).collect(),
        options: options.iter().map(|(name, text)| (*name, argument((0, datum(text))))).collect(),
        limits: LIMITS,
    };
    #[allow(irrefutable_let_patterns, reason = "more ways of evaluation follow")]
    let Eval::Pure(eval) = term.eval else { panic!("{name} is pure") };
    match eval(&call) {
        Ok(datum) => json::to_string(&datum),
        Err(failure) => format!("! {}", failure.message),
    }
}
