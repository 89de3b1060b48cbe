//! GET_FIELD, BRACKET, HAS_FIELDS, PLUCK, WITHOUT, MERGE, WITH_FIELDS: on an object, or on the rows of a sequence.

use std::rc::Rc;

use photondb_proto::datum::{Datum, Text};
use photondb_proto::term::number;

use super::sequence::{sequence, staged};
use super::slice::nth_of;
use super::{Arity, Groups, Invocation, TermDef};
use crate::eval::{Now, Stop};
use crate::failure::{Failure, Outcome};
use crate::fields::{Comparison, Paths, RowTerm, Work};
use crate::function::Meaning;
use crate::group::{self, Grouped};
use crate::run::Run;
use crate::stream::{Stage, sequence_of};
use crate::value::Value;

pub static TERMS: &[TermDef] = &[
    sequence(
        "GET_FIELD",
        number::GET_FIELD,
        Arity::exactly(2),
        Groups::Whole,
        |run, invocation| on_object(run, invocation, "get_field"),
        |run, invocation| Box::pin(later(run, invocation, "get_field")),
    ),
    sequence("BRACKET", number::BRACKET, Arity::exactly(2), Groups::Whole, bracket_now, |run, invocation| {
        Box::pin(bracket(run, invocation))
    }),
    sequence(
        "HAS_FIELDS",
        number::HAS_FIELDS,
        Arity::at_least(1),
        Groups::Whole,
        |run, invocation| on_object(run, invocation, "has_fields"),
        |run, invocation| Box::pin(later(run, invocation, "has_fields")),
    ),
    sequence(
        "PLUCK",
        number::PLUCK,
        Arity::at_least(1),
        Groups::Whole,
        |run, invocation| on_object(run, invocation, "pluck"),
        |run, invocation| Box::pin(later(run, invocation, "pluck")),
    ),
    sequence(
        "WITHOUT",
        number::WITHOUT,
        Arity::at_least(1),
        Groups::Whole,
        |run, invocation| on_object(run, invocation, "without"),
        |run, invocation| Box::pin(later(run, invocation, "without")),
    ),
    sequence(
        "MERGE",
        number::MERGE,
        Arity::at_least(1),
        Groups::Whole,
        |run, invocation| on_object(run, invocation, "merge"),
        |run, invocation| Box::pin(later(run, invocation, "merge")),
    ),
    sequence(
        "WITH_FIELDS",
        number::WITH_FIELDS,
        Arity::at_least(1),
        Groups::Whole,
        |run, invocation| on_object(run, invocation, "with_fields"),
        |run, invocation| Box::pin(later(run, invocation, "with_fields")),
    ),
];

/// The term with its arguments.
fn row_term(invocation: &Invocation, name: &'static str) -> Outcome<RowTerm> {
    let paths = || -> Outcome<Paths> {
        let spelled = (1..invocation.count()).map(|index| invocation.datum(index));
        Paths::new(spelled.collect::<Outcome<Vec<Datum>>>()?)
    };
    let work = match invocation.node.def.number {
        number::GET_FIELD | number::BRACKET => Work::Field(invocation.string(1)?),
        number::HAS_FIELDS => Work::HasFields(paths()?),
        number::PLUCK => Work::Pluck(paths()?),
        number::WITHOUT => Work::Without(paths()?),
        number::WITH_FIELDS => Work::WithFields(paths()?),
        number::INTERSECTS => Work::Compare(Comparison::intersects(invocation.datum(1)?)),
        number::INCLUDES => Work::Compare(Comparison::includes(invocation.datum(1)?)),
        _ => Work::Merge(
            (1..invocation.count())
                .map(|index| invocation.function(index, Meaning::Constant))
                .collect::<Outcome<_>>()?,
        ),
    };
    Ok(RowTerm { work, name: Text::new(name), place: invocation.place().clone() })
}

/// A receiver that is neither object nor sequence is blamed itself.
fn blamed(invocation: &Invocation, failure: Failure) -> Failure {
    let of_receiver =
        failure.message.starts_with("Cannot perform ") || failure.message.starts_with("Cannot call `");
    if of_receiver { failure.at(&invocation.call.arguments[0].place) } else { failure }
}

/// On a datum that is no array; the terms of geometry that work like these use it too.
pub fn on_object(run: &Run, invocation: &Invocation, name: &'static str) -> Now<Value> {
    let receiver = match &invocation.call.arguments[0].value {
        Value::Datum(Datum::Array(_)) => return Err(Stop::Later),
        Value::Datum(datum) => datum,
        _ => return Err(Stop::Later),
    };
    let second = invocation.call.arguments.get(1).and_then(|argument| argument.value.as_datum());
    if let (Datum::Object(object), number::GET_FIELD | number::BRACKET, Some(Datum::String(key))) =
        (receiver, invocation.node.def.number, second)
        && let Some(value) = object.field(key)
        && !object.has(photondb_proto::datum::pseudo::TYPE_KEY)
    {
        return Ok(Value::Datum(value));
    }
    let term = row_term(invocation, name)?;
    match term.on_object(run, receiver) {
        Ok(datum) => Ok(Value::Datum(datum)),
        Err(Stop::Failed(failure)) => Err(Stop::Failed(blamed(invocation, failure))),
        Err(Stop::Later) => Err(Stop::Later),
    }
}

pub async fn later(run: &Run, invocation: Invocation, name: &'static str) -> Outcome<Value> {
    let term = row_term(&invocation, name)?;
    match &invocation.call.arguments[0].value {
        Value::Datum(receiver) if !matches!(receiver, Datum::Array(_)) => {
            let merged = term.on_object_later(run, receiver).await;
            merged.map(Value::Datum).map_err(|failure| blamed(&invocation, failure))
        }
        Value::Grouped(grouped) => match **grouped {
            Grouped::Stream { .. } => staged(run, &invocation, Stage::Row(Rc::new(term))).await,
            Grouped::Data(_) => group::each(run, invocation).await,
        },
        other => {
            sequence_of(other)?;
            staged(run, &invocation, Stage::Row(Rc::new(term))).await
        }
    }
}

fn bracket_now(run: &Run, invocation: &Invocation) -> Now<Value> {
    match invocation.call.arguments[1].value.as_datum() {
        Some(Datum::String(_)) => on_object(run, invocation, "bracket"),
        Some(Datum::Number(_)) => super::slice::nth_now(run, invocation),
        Some(_) | None => Err(Stop::Later),
    }
}

async fn bracket(run: &Run, invocation: Invocation) -> Outcome<Value> {
    match invocation.datum(1)? {
        Datum::String(_) => later(run, invocation, "bracket").await,
        Datum::Number(_) => match &invocation.call.arguments[0].value {
            Value::Grouped(_) => group::each(run, invocation).await,
            _ => nth_of(run, &invocation).await,
        },
        other => Err(Failure::logic(format!(
            "Expected NUMBER or STRING as second argument to `bracket` but found {}.",
            other.type_name()
        ))),
    }
}
