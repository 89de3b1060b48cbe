//! CHANGES.

use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::feed::{FeedRanges, FeedRows, FeedSpec, Squash};
use photondb_proto::term::number;

use super::{Arity, Determinism, Eval, Invocation, TermDef};
use crate::failure::{Failure, Outcome};
use crate::feed::{self, FeedBranch};
use crate::run::Run;
use crate::stream::{Sequence, Source};
use crate::value::{Value, wrong_type};

pub static TERMS: &[TermDef] = &[TermDef {
    name: "CHANGES",
    number: number::CHANGES,
    arity: Arity::exactly(1),
    options: &[
        "changefeed_queue_size",
        "include_initial",
        "include_offsets",
        "include_resume_token",
        "include_states",
        "include_types",
        "overflow",
        "resume_from",
        "squash",
    ],
    determinism: Determinism::Never,
    eval: Eval::Strict(|run, invocation| Box::pin(async move { changes(run, &invocation) })),
}];

/// Elements that may wait for a client unless it says otherwise.
const ELEMENTS_MAX: u32 = 100_000;

fn changes(run: &Run, invocation: &Invocation) -> Outcome<Value> {
    let receiver = &invocation.call.arguments[0].value;
    let (kind, members) = invocation.blame(0, feed::members_of(run, receiver))?;
    let is_limit = members.iter().any(|member| member.rows.first().is_some());
    let include_offsets = flag(invocation, "include_offsets")?;
    if include_offsets && !is_limit {
        let what = match members.first().map(|member| &member.rows) {
            Some(FeedRows::Keys { is_point: true, .. }) => "point",
            Some(FeedRows::Keys { .. }) => "range",
            Some(FeedRows::Ranges(FeedRanges { ranges, question, .. })) => {
                if ranges.is_empty() && question.is_empty() { "empty" } else { "range" }
            }
            None => "empty",
        };
        return Err(Failure::logic(format!("Cannot include offsets for {what} subs.")));
    }
    let spec = FeedSpec {
        include_resume_token: flag(invocation, "include_resume_token")?,
        resume_from: resume_from(invocation)?,
        members,
        include_initial: flag(invocation, "include_initial")?,
        include_states: flag(invocation, "include_states")?,
        include_types: flag(invocation, "include_types")?,
        include_offsets,
        squash: squash(invocation)?,
        elements_max: elements_max(invocation)?,
        ends_on_overflow: ends_on_overflow(invocation)?,
    };
    check_resumable(&spec)?;
    let branch = FeedBranch { spec: Rc::new(spec), kind, stages: Vec::new() };
    Ok(Value::Sequence(Rc::new(Sequence::new(Source::Feed(Rc::new(vec![branch]))))))
}

/// The value of an option, and its place.
fn option<T>(
    invocation: &Invocation,
    name: &str,
    otherwise: T,
    read: impl Fn(&Datum) -> Outcome<T>,
) -> Outcome<T> {
    match invocation.call.option(name) {
        None => Ok(otherwise),
        Some(argument) => {
            let datum = argument.value.clone().into_datum();
            datum.and_then(|datum| read(&datum)).map_err(|failure| failure.at(&argument.place))
        }
    }
}

fn flag(invocation: &Invocation, name: &str) -> Outcome<bool> {
    option(invocation, name, false, |datum| match datum {
        Datum::Bool(flag) => Ok(*flag),
        other => Err(wrong_type("BOOL", other)),
    })
}

fn resume_from(invocation: &Invocation) -> Outcome<Option<String>> {
    option(invocation, "resume_from", None, |datum| match datum {
        Datum::String(token) => Ok(Some(token.as_str().to_owned())),
        other => Err(wrong_type("STRING", other)),
    })
}

/// Tokens count the changes of each shard: what a feed tells must be those, in their order.
fn check_resumable(spec: &FeedSpec) -> Outcome<()> {
    if !spec.include_resume_token && spec.resume_from.is_none() {
        return Ok(());
    }
    let text = if spec.members.iter().any(|member| member.rows.first().is_some()) {
        "A changefeed on the first rows of an order cannot be resumed: follow it with `include_initial` instead."
    } else if spec.include_initial && spec.members.iter().any(|member| member.rows.moves()) {
        "A changefeed along a secondary index has no initial values with resume tokens: its rows move while they are read. Take \
         tokens from a feed without `include_initial` and read the rows behind its `ready`."
    } else if spec.members.iter().any(|member| member.table.as_system_table().is_some()) {
        "A changefeed on a system table cannot be resumed: follow it with `include_initial` instead."
    } else if spec.include_initial && spec.resume_from.is_some() {
        "A changefeed that is resumed has no initial values: leave out `include_initial` or `resume_from`."
    } else {
        return Ok(());
    };
    Err(Failure::logic(text))
}

fn squash(invocation: &Invocation) -> Outcome<Squash> {
    option(invocation, "squash", Squash::Never, |datum| match datum {
        Datum::Bool(false) => Ok(Squash::Never),
        Datum::Bool(true) => Ok(Squash::Waiting),
        Datum::Number(seconds) if *seconds >= 0.0 => Ok(Squash::Seconds(*seconds)),
        Datum::Number(_) => {
            Err(Failure::logic("Expected BOOL or a positive NUMBER but found a negative NUMBER."))
        }
        other => Err(Failure::logic(format!("Expected BOOL or NUMBER but found {}.", other.type_name()))),
    })
}

fn elements_max(invocation: &Invocation) -> Outcome<u32> {
    option(invocation, "changefeed_queue_size", ELEMENTS_MAX, |datum| {
        let Datum::Number(number) = datum else { return Err(wrong_type("NUMBER", datum)) };
        let count = crate::call::integer(*number)?;
        if count < 1 {
            return Err(Failure::logic(format!(
                "Illegal changefeed queue size limit `{count}`.  (Must be >= 1.)"
            )));
        }
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    })
}

/// `overflow`: what a client that is too slow gets, `'skip'` (how many elements it missed) or `'error'` (the feed's end).
fn ends_on_overflow(invocation: &Invocation) -> Outcome<bool> {
    option(invocation, "overflow", false, |datum| match datum {
        Datum::String(text) if text.as_str() == "skip" => Ok(false),
        Datum::String(text) if text.as_str() == "error" => Ok(true),
        Datum::String(text) => Err(Failure::logic(format!(
            "Overflow option `{}` unrecognized (options are \"skip\" and \"error\").",
            text.as_str()
        ))),
        other => Err(wrong_type("STRING", other)),
    })
}
