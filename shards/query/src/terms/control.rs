//! Control: functions and variables, choices, defaults, errors, `do`, `for_each`; and what values are (type_of, info).
//!
//! FUNC, VAR, IMPLICIT_VAR and MAKE_OBJ are kinds of [`Node`] of their own: the evaluator knows them, so their evaluators here
//! are never called. Terms that stop early are written for both doors of [`crate::eval`].

use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::error::ErrorKind;
use photondb_proto::term::number;

use super::info;
use super::summary::CombinedSummary;
use super::{Arity, ControlLater, ControlNow, Determinism, Eval, Evaluation, Invocation, TermDef};
use crate::check::Node;
use crate::cursor::Cursor;
use crate::eval::{self, Env, Now, Stop};
use crate::failure::{Failure, Outcome};
use crate::function::{Function, Meaning};
use crate::group::{self, Grouped};
use crate::run::Run;
use crate::stream;
use crate::value::Value;

const fn control(
    name: &'static str,
    number: u32,
    arity: Arity,
    now: Option<ControlNow>,
    later: ControlLater,
) -> TermDef {
    let eval = Eval::Control { now, later };
    TermDef { name, number, arity, options: &[], determinism: Determinism::Always, eval }
}

fn known_to_the_evaluator<'a>(_: &'a Run, _: &'a Rc<Node>, _: &'a Env) -> Evaluation<'a, Value> {
    Box::pin(async { Err(Failure::internal("the evaluator knows this term itself")) })
}

pub static TERMS: &[TermDef] = &[
    control("FUNC", number::FUNC, Arity::exactly(2), None, known_to_the_evaluator),
    control("VAR", number::VAR, Arity::exactly(1), None, known_to_the_evaluator),
    control("IMPLICIT_VAR", number::IMPLICIT_VAR, Arity::exactly(0), None, known_to_the_evaluator),
    TermDef::pure("MAKE_OBJ", number::MAKE_OBJ, Arity::exactly(0), |_| {
        Err(Failure::internal("the evaluator knows this term itself"))
    }),
    TermDef::pure("MAKE_ARRAY", number::MAKE_ARRAY, Arity::at_least(0), |call| {
        call.array_result(call.data()?)
    }),
    control("ARGS", number::ARGS, Arity::exactly(1), None, |run, node, env| {
        Box::pin(async move { Ok(Value::Datum(Datum::array(eval::spliced(run, node, env).await?))) })
    }),
    TermDef {
        name: "FUNCALL",
        number: number::FUNCALL,
        arity: Arity::at_least(1),
        options: &["_EVAL_FLAGS_", "_SHORTCUT_"],
        determinism: Determinism::Always,
        eval: Eval::Control {
            now: Some(call_now),
            later: |run, node, env| Box::pin(call_later(run, node, env)),
        },
    },
    control("BRANCH", number::BRANCH, Arity::at_least(3), Some(branch_now), |run, node, env| {
        Box::pin(branch_later(run, node, env))
    }),
    control("OR", number::OR, Arity::at_least(0), Some(or_now), |run, node, env| {
        Box::pin(logic_later(run, node, env, true))
    }),
    control("AND", number::AND, Arity::at_least(0), Some(and_now), |run, node, env| {
        Box::pin(logic_later(run, node, env, false))
    }),
    control("DEFAULT", number::DEFAULT, Arity::exactly(2), Some(default_now), |run, node, env| {
        Box::pin(default_later(run, node, env))
    }),
    TermDef::pure("ERROR", number::ERROR, Arity::between(0, 1), |call| {
        if call.count() == 0 {
            let mut failure = Failure::logic("Empty ERROR term outside a default block.");
            failure.bare = true;
            return Err(failure);
        }
        Err(Failure::new(ErrorKind::User, call.string(0)?.as_str()))
    }),
    control("TYPE_OF", number::TYPE_OF, Arity::exactly(1), Some(type_of_now), |run, node, env| {
        Box::pin(async move {
            let value = lazy_arguments(run, node, env).await?[0].value(run, env).await?;
            Ok(Value::Datum(Datum::string(value.type_name())))
        })
    }),
    TermDef {
        name: "INFO",
        number: number::INFO,
        arity: Arity::exactly(1),
        options: &[],
        determinism: Determinism::Always,
        eval: Eval::Strict(|run, invocation| Box::pin(info::info(run, invocation))),
    },
    TermDef {
        name: "FOR_EACH",
        number: number::FOR_EACH,
        arity: Arity::exactly(2),
        options: &[],
        determinism: Determinism::Always,
        eval: Eval::Strict(|run, invocation| Box::pin(for_each(run, invocation))),
    },
];

/// A datum that an argument gives at once.
fn datum_now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Datum> {
    match eval::now(run, node, env)? {
        Value::Datum(datum) => Ok(datum),
        Value::Row(_) => Err(Stop::Later),
        other => Err(Stop::Failed(other.wrong_kind("DATUM").at(&node.place))),
    }
}

// ---------------------------------------------------------------- choices

const EVEN: &str = "Cannot call `branch` term with an even number of arguments.";

fn branch_now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Value> {
    let count = node.arguments.len();
    if count.is_multiple_of(2) {
        return Err(Stop::Failed(Failure::logic(EVEN)));
    }
    for index in (0..count - 1).step_by(2) {
        if datum_now(run, &node.arguments[index], env)?.is_truthy() {
            return eval::now(run, &node.arguments[index + 1], env);
        }
    }
    eval::now(run, &node.arguments[count - 1], env)
}

/// An argument that may never be evaluated.
enum Lazy<'a> {
    Node(&'a Rc<Node>),
    Datum(Datum),
}

impl Lazy<'_> {
    async fn value(&self, run: &Run, env: &Env) -> Outcome<Value> {
        match self {
            Lazy::Node(node) => eval::eval(run, node, env).await,
            Lazy::Datum(datum) => Ok(Value::Datum(datum.clone())),
        }
    }

    async fn truth(&self, run: &Run, env: &Env) -> Outcome<bool> {
        match self {
            Lazy::Node(node) => Ok(eval::datum(run, node, env).await?.is_truthy()),
            Lazy::Datum(datum) => Ok(datum.is_truthy()),
        }
    }
}

/// The arguments, with `args()` spliced in.
async fn lazy_arguments<'a>(run: &Run, node: &'a Rc<Node>, env: &Env) -> Outcome<Vec<Lazy<'a>>> {
    let mut arguments = Vec::with_capacity(node.arguments.len());
    for child in &node.arguments {
        if child.def.number == number::ARGS {
            arguments.extend(eval::spliced(run, child, env).await?.into_iter().map(Lazy::Datum));
        } else {
            arguments.push(Lazy::Node(child));
        }
    }
    match crate::check::arity_message(node.def.arity, arguments.len()) {
        Some(message) => Err(Failure::logic(message)),
        None => Ok(arguments),
    }
}

async fn branch_later(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<Value> {
    let arguments = lazy_arguments(run, node, env).await?;
    let count = arguments.len();
    if count.is_multiple_of(2) {
        return Err(Failure::logic(EVEN));
    }
    for index in (0..count - 1).step_by(2) {
        if arguments[index].truth(run, env).await? {
            return arguments[index + 1].value(run, env).await;
        }
    }
    arguments[count - 1].value(run, env).await
}

fn or_now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Value> {
    logic_now(run, node, env, true)
}

fn and_now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Value> {
    logic_now(run, node, env, false)
}

/// OR stops at the first true value, AND at the first false one; else the last value counts.
fn logic_now(run: &Run, node: &Rc<Node>, env: &Env, stops_at: bool) -> Now<Value> {
    let mut last = Datum::Bool(!stops_at);
    for argument in &node.arguments {
        last = datum_now(run, argument, env)?;
        if last.is_truthy() == stops_at {
            break;
        }
    }
    Ok(Value::Datum(last))
}

async fn logic_later(run: &Run, node: &Rc<Node>, env: &Env, stops_at: bool) -> Outcome<Value> {
    let mut last = Datum::Bool(!stops_at);
    for argument in lazy_arguments(run, node, env).await? {
        last = match argument {
            Lazy::Node(node) => eval::datum(run, node, env).await?,
            Lazy::Datum(datum) => datum,
        };
        if last.is_truthy() == stops_at {
            break;
        }
    }
    Ok(Value::Datum(last))
}

// ---------------------------------------------------------------- defaults

/// What DEFAULT's second argument is told, when it is needed.
fn lacking(first: &Result<Value, Failure>) -> Option<Datum> {
    match first {
        Ok(value) => value.as_datum().filter(|datum| datum.is_null()).cloned(),
        Err(failure) if failure.is_missing() => Some(Datum::string(&failure.message)),
        Err(_) => None,
    }
}

/// A bare `error()` in the fallback gives back what there was before it.
fn with_fallback(first: Outcome<Value>, fallback: Outcome<Value>) -> Outcome<Value> {
    match fallback {
        Err(failure) if failure.bare => first,
        other => other,
    }
}

fn default_now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Value> {
    let first = match eval::now(run, &node.arguments[0], env) {
        Ok(Value::Row(_)) | Err(Stop::Later) => return Err(Stop::Later),
        Ok(value) => Ok(value),
        Err(Stop::Failed(failure)) => Err(failure),
    };
    let Some(told) = lacking(&first) else { return Ok(first?) };
    let fallback = match eval::now(run, &node.arguments[1], env) {
        Ok(Value::Function(function)) => function.call_now(run, &[told]),
        other => other,
    };
    match fallback {
        Ok(value) => Ok(value),
        Err(Stop::Later) => Err(Stop::Later),
        Err(Stop::Failed(failure)) => Ok(with_fallback(first, Err(failure))?),
    }
}

async fn default_later(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<Value> {
    let arguments = lazy_arguments(run, node, env).await?;
    let first = match arguments[0].value(run, env).await {
        Ok(value @ Value::Row(_)) => eval::loaded(run, value.clone()).await.map(|datum| match datum {
            Value::Datum(Datum::Null) => Value::null(),
            _ => value,
        }),
        other => other,
    };
    let Some(told) = lacking(&first) else { return first };
    let fallback = match arguments[1].value(run, env).await {
        Ok(Value::Function(function)) => function.call(run, &[told]).await,
        other => other,
    };
    with_fallback(first, fallback)
}

fn type_of_now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Value> {
    let value = eval::now(run, &node.arguments[0], env)?;
    Ok(Value::Datum(Datum::string(value.type_name())))
}

// ---------------------------------------------------------------- calls

/// Arguments of `do` are data: a row is read, streams and tables are refused, as RethinkDB does. So variables hold data alone,
/// and no function can be handed to itself.
fn call_now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Value> {
    let function = eval::now(run, &node.arguments[0], env)?;
    let mut data = Vec::with_capacity(node.arguments.len());
    for argument in &node.arguments[1..] {
        match eval::now(run, argument, env)? {
            Value::Datum(datum) => data.push(datum),
            _ => return Err(Stop::Later),
        }
    }
    if let Value::Row(_) = function {
        return Err(Stop::Later);
    }
    Function::from_value(&function, Meaning::Constant, &node.arguments[0].place)?.call_now(run, &data)
}

async fn call_later(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<Value> {
    let function = eval::loaded(run, eval::eval(run, &node.arguments[0], env).await?).await?;
    let function = Function::from_value(&function, Meaning::Constant, &node.arguments[0].place)?;
    let mut data = Vec::with_capacity(node.arguments.len());
    let mut groups = None;
    for (index, child) in node.arguments.iter().enumerate().skip(1) {
        if child.def.number == number::ARGS {
            data.extend(eval::spliced(run, child, env).await?);
            continue;
        }
        match eval::eval(run, child, env).await? {
            Value::Grouped(grouped) if index == 1 => {
                groups = Some(group::data(run, &grouped).await?);
                data.push(Datum::Null);
            }
            value => {
                let value = eval::loaded(run, value).await?;
                data.push(value.into_datum().map_err(|failure| failure.at(&child.place))?);
            }
        }
    }
    let Some(groups) = groups else { return function.call(run, &data).await };
    let mut results = Vec::with_capacity(groups.len());
    for (key, value) in groups {
        data[0] = value;
        let result = function.call(run, &data).await?;
        results.push((key, group::into_datum(run, result).await?));
    }
    Ok(Value::Grouped(Rc::new(Grouped::Data(results))))
}

const NO_WRITE: &str = "FOR_EACH expects one or more basic write queries.";

async fn for_each(run: &Run, invocation: Invocation) -> Outcome<Value> {
    if let Value::Grouped(_) = invocation.call.arguments[0].value {
        return group::each(run, invocation).await;
    }
    let sequence = invocation.sequence(0)?;
    let function = invocation.function(1, Meaning::Constant)?;
    let mut summary = CombinedSummary::new(&run.limits);
    let mut cursor = Cursor::open(run, &sequence, None)?;
    while let Some(row) = cursor.next(run).await? {
        let result = function.call(run, &[row]).await?;
        let blamed = |failure: Failure| failure.at(function.body_place());
        match result {
            Value::Datum(datum) => summary.add(&datum).map_err(blamed)?,
            Value::Sequence(sequence) if sequence.table.is_none() => {
                summary.add(&stream::gather(run, &sequence).await?).map_err(blamed)?;
            }
            Value::Table(_)
            | Value::Sequence(_)
            | Value::Row(_)
            | Value::Database(_)
            | Value::Function(_)
            | Value::Grouped(_)
            | Value::Ordering(_) => return Err(blamed(Failure::logic(NO_WRITE))),
        }
    }
    Ok(Value::Datum(summary.into_datum()))
}
