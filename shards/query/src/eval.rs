//! The one evaluator: a node and the variables around it give a value.
//!
//! It has two doors. [`now`] evaluates at once, without futures and boxes, and gives up with [`Stop::Later`] where it would have to wait; since
//! nothing it does can be seen from outside, [`eval`] then begins anew in the waiting way. The terms themselves are
//! written once: strict ones get evaluated arguments from either door.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use photondb_proto::datum::{Datum, ObjectBuilder, Text, document, pseudo};
use photondb_proto::error::ErrorKind;
use photondb_proto::limits;
use photondb_proto::op::{TableRead, TableReply};
use photondb_proto::term::number;

use crate::call::{Argument, Call};
use crate::check::{Node, NodeKind, arity_message};
use crate::direct::{self, Direct};
use crate::failure::{Failure, Outcome, Place};
use crate::function::Function;
use crate::geo::pace::{self, Pace};
use crate::group;
use crate::profile::Span;
use crate::run::{Run, wrong_reply};
use crate::stream;
use crate::terms::logic;
use crate::terms::{Eval, Evaluation, Groups, Invocation, Paced, SequenceLater, SequenceNow};
use crate::value::Value;

/// The variables around a node, innermost first.
pub type Env = Option<Rc<Binding>>;

/// One bound variable.
#[derive(Debug)]
pub struct Binding {
    id: i64,
    value: Value,
    parent: Env,
}

impl Binding {
    pub fn new(id: i64, value: Value, parent: Env) -> Env {
        Some(Rc::new(Binding { id, value, parent }))
    }
}

pub fn lookup(env: &Env, id: i64) -> Option<&Value> {
    let mut here = env.as_ref();
    while let Some(binding) = here {
        if binding.id == id {
            return Some(&binding.value);
        }
        here = binding.parent.as_ref();
    }
    None
}

/// Why evaluation at once stopped.
#[derive(Debug)]
pub enum Stop {
    Failed(Failure),
    /// It would have to wait: evaluate in the waiting way.
    Later,
}

pub type Now<T> = Result<T, Stop>;

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure)
    }
}

impl Stop {
    fn at(self, place: &Place) -> Stop {
        match self {
            Stop::Failed(failure) => Stop::Failed(failure.at(place)),
            Stop::Later => Stop::Later,
        }
    }
}

/// Evaluates without waiting.
pub fn now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Value> {
    match &node.kind {
        NodeKind::Constant(datum) => Ok(Value::Datum(datum.clone())),
        NodeKind::Variable(id) => variable(node, env, *id).map_err(Stop::Failed),
        NodeKind::Function(_) => Ok(Value::Function(Function::lambda(node.clone(), env.clone()))),
        NodeKind::StrayLiteral => Err(Stop::Failed(stray_literal(node))),
        NodeKind::Object(pairs) => {
            let mut builder = ObjectBuilder::default();
            for (key, child) in pairs {
                match now(run, child, env)? {
                    Value::Datum(datum) => builder.set(key.clone(), datum),
                    _ => return Err(Stop::Later),
                }
            }
            finish_object(builder, node).map_err(Stop::Failed)
        }
        NodeKind::Call => call_now(run, node, env).map_err(|stop| stop.at(&node.place)),
    }
}

fn call_now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Value> {
    match &node.def.eval {
        Eval::Pure(_) | Eval::Paced(_) | Eval::Sequence { .. } => {
            if !matches!(node.direct, Direct::No) {
                return direct::evaluate(run, node, env);
            }
            let mut values = Vec::with_capacity(node.arguments.len());
            for child in &node.arguments {
                if let [.., before, last] = values.as_slice()
                    && logic::is_decided(node.def.number, before, last)
                {
                    break;
                }
                values.push(now(run, child, env)?);
            }
            let options = options_now(run, node, env)?;
            strict_with_options(run, node, values, options)
        }
        Eval::Control { now: Some(now), .. } => now(run, node, env),
        Eval::Control { now: None, .. } | Eval::Strict(_) => Err(Stop::Later),
    }
}

/// A strict term without options, with its arguments evaluated.
pub fn strict_now(run: &Run, node: &Rc<Node>, values: Vec<Value>) -> Now<Value> {
    strict_with_options(run, node, values, Vec::new())
}

fn strict_with_options(
    run: &Run,
    node: &Rc<Node>,
    values: Vec<Value>,
    options: Vec<(&'static str, Argument)>,
) -> Now<Value> {
    let arguments = values
        .into_iter()
        .zip(&node.arguments)
        .map(|(value, child)| Argument { value, place: child.place.clone() })
        .collect();
    let call = Call { arguments, options, limits: run.limits };
    let are_data = || call.arguments.iter().all(|argument| matches!(argument.value, Value::Datum(_)));
    match &node.def.eval {
        Eval::Pure(_) | Eval::Paced(_) if !are_data() => Err(Stop::Later),
        Eval::Pure(evaluate) => {
            let datum = evaluate(&call)?;
            run.spend_for(&datum);
            Ok(shallow(Value::Datum(datum))?)
        }
        Eval::Paced(evaluate) => {
            let datum = pace::at_once(evaluate(&Pace::brief(), &call)).ok_or(Stop::Later)??;
            run.spend_for(&datum);
            spend_for_shapes(run, &call, &datum);
            Ok(shallow(Value::Datum(datum))?)
        }
        Eval::Sequence { now, .. } => {
            let waits = |value: &Value| matches!(value, Value::Grouped(_) | Value::Row(_));
            if call.arguments.iter().any(|argument| waits(&argument.value)) {
                return Err(Stop::Later);
            }
            Ok(shallow(now(run, &Invocation { call, node: node.clone() })?)?)
        }
        Eval::Control { .. } | Eval::Strict(_) => Err(Stop::Later),
    }
}

fn spend_for_shapes(run: &Run, call: &Call, result: &Datum) {
    let given = call.arguments.iter().filter_map(|argument| argument.value.as_datum());
    run.spend_for_shapes(given.chain([result]));
}

fn options_now(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Vec<(&'static str, Argument)>> {
    let mut options = Vec::new();
    if !node.def.options.is_empty() {
        for (name, child) in &node.options {
            options.push((*name, Argument { value: now(run, child, env)?, place: child.place.clone() }));
        }
        add_globals(run, node, &mut options);
    }
    Ok(options)
}

/// Options of `run` stand in for a term's own.
fn add_globals(run: &Run, node: &Node, options: &mut Vec<(&'static str, Argument)>) {
    for (name, argument) in run.globals.borrow().iter() {
        if node.def.options.contains(name) && !options.iter().any(|(own, _)| own == name) {
            options.push((name, argument.clone()));
        }
    }
}

fn variable(node: &Node, env: &Env, id: i64) -> Outcome<Value> {
    lookup(env, id).cloned().ok_or_else(|| Failure::internal("a checked variable is bound").at(&node.place))
}

fn stray_literal(node: &Node) -> Failure {
    Failure::logic(pseudo::STRAY_LITERAL).at(&node.place)
}

fn finish_object(builder: ObjectBuilder, node: &Node) -> Outcome<Value> {
    let object = builder.build();
    if object.has(pseudo::TYPE_KEY) {
        let datum = pseudo::from_object(object).map_err(|error| Failure::from(error).at(&node.place))?;
        return shallow(Value::Datum(datum)).map_err(|failure| failure.at(&node.place));
    }
    shallow(Value::Datum(Datum::Object(object))).map_err(|failure| failure.at(&node.place))
}

/// Refuses values that nest too deep. Terms add a level or two at a time, so looking at each result is enough.
fn shallow(value: Value) -> Outcome<Value> {
    match &value {
        Value::Datum(datum) if datum.depth() > limits::VALUE_DEPTH_MAX => {
            Err(Failure::limit(format!("Nesting depth limit {} exceeded.", limits::VALUE_DEPTH_MAX)))
        }
        _ => Ok(value),
    }
}

/// Evaluates, at once if possible, and if nobody wants to know what its parts take.
pub fn eval<'a>(run: &'a Run, node: &'a Rc<Node>, env: &'a Env) -> Evaluating<'a> {
    if run.profile.is_some() {
        return Evaluating::Waiting(later(run, node, env));
    }
    match at_once(run, node, env) {
        Some(outcome) => Evaluating::Done(Some(outcome)),
        None => Evaluating::Waiting(later(run, node, env)),
    }
}

/// The future of [`eval`]. Written by hand, like the split of [`later`] into small functions, for the stack's sake: a query may
/// nest terms 500 deep, and each level polls the next.
pub enum Evaluating<'a> {
    Done(Option<Outcome<Value>>),
    Waiting(Evaluation<'a, Value>),
}

impl Future for Evaluating<'_> {
    type Output = Outcome<Value>;
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Outcome<Value>> {
        match &mut *self {
            Evaluating::Done(outcome) => Poll::Ready(match outcome.take() {
                Some(outcome) => outcome,
                None => Err(Failure::internal("an evaluation was polled after its end")),
            }),
            Evaluating::Waiting(future) => future.as_mut().poll(task),
        }
    }
}

#[inline(never)]
fn at_once(run: &Run, node: &Rc<Node>, env: &Env) -> Option<Outcome<Value>> {
    if !node.now {
        return None;
    }
    match now(run, node, env) {
        Ok(value) => Some(Ok(value)),
        Err(Stop::Failed(failure)) => Some(Err(failure)),
        Err(Stop::Later) => None,
    }
}

/// Evaluates in the waiting way.
pub fn later<'a>(run: &'a Run, node: &'a Rc<Node>, env: &'a Env) -> Evaluation<'a, Value> {
    match run.profile.as_ref().and_then(|profile| profile.evaluating(node)) {
        Some(span) => Box::pin(profiled(span, waiting(run, node, env))),
        None => waiting(run, node, env),
    }
}

async fn profiled(_span: Span<'_>, evaluation: Evaluation<'_, Value>) -> Outcome<Value> {
    evaluation.await
}

fn waiting<'a>(run: &'a Run, node: &'a Rc<Node>, env: &'a Env) -> Evaluation<'a, Value> {
    match &node.kind {
        NodeKind::Constant(_) | NodeKind::Variable(_) | NodeKind::Function(_) | NodeKind::StrayLiteral => {
            let outcome = match now(run, node, env) {
                Ok(value) => Ok(value),
                Err(Stop::Failed(failure)) => Err(failure),
                Err(Stop::Later) => Err(Failure::internal("a leaf of the term tree never waits")),
            };
            Box::pin(std::future::ready(outcome))
        }
        NodeKind::Object(pairs) => Box::pin(object_later(run, node, pairs, env)),
        NodeKind::Call => match &node.def.eval {
            Eval::Control { .. } => Box::pin(control_later(run, node, env)),
            Eval::Pure(_) | Eval::Paced(_) | Eval::Sequence { .. } | Eval::Strict(_) => {
                Box::pin(strict_later(run, node, env))
            }
        },
    }
}

async fn object_later(run: &Run, node: &Node, pairs: &[(Text, Rc<Node>)], env: &Env) -> Outcome<Value> {
    let mut builder = ObjectBuilder::default();
    for (key, child) in pairs {
        let value = eval(run, child, env).await?;
        let datum = match value {
            Value::Datum(datum) => datum,
            value => boxed(datum_of(run, value, child)).await?,
        };
        builder.set(key.clone(), datum);
    }
    finish_object(builder, node)
}

async fn control_later(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<Value> {
    run.tick().await;
    let Eval::Control { later, .. } = &node.def.eval else {
        return Err(Failure::internal("only control terms evaluate their own arguments"));
    };
    later(run, node, env).await.map_err(|failure| failure.at(&node.place))
}

async fn strict_later(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<Value> {
    run.tick().await;
    let call = arguments(run, node, env).await;
    apply_call(run, node, call).await.map_err(|failure| failure.at(&node.place))
}

#[inline(never)]
fn apply_call<'a>(run: &'a Run, node: &'a Rc<Node>, call: Outcome<Call>) -> Evaluation<'a, Value> {
    match call {
        Ok(call) => apply(run, Invocation { call, node: node.clone() }),
        Err(failure) => Box::pin(std::future::ready(Err(failure))),
    }
}

fn boxed<'a, T: 'a>(future: impl Future<Output = Outcome<T>> + 'a) -> Evaluation<'a, T> {
    Box::pin(future)
}

async fn datum_of(run: &Run, value: Value, node: &Node) -> Outcome<Datum> {
    loaded(run, value).await?.into_datum().map_err(|failure| failure.at(&node.place))
}

/// A datum, or the failure blamed on the node. Rows of `get` are read.
pub async fn datum(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<Datum> {
    match eval(run, node, env).await? {
        Value::Datum(datum) => Ok(datum),
        value => boxed(datum_of(run, value, node)).await,
    }
}

/// The arguments and options of a call, with `args()` spliced in.
async fn arguments(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<Call> {
    let mut call =
        Call { arguments: Vec::with_capacity(node.arguments.len()), options: Vec::new(), limits: run.limits };
    for child in &node.arguments {
        if child.def.number == number::ARGS {
            let items = boxed(spliced(run, child, env)).await?;
            call.arguments.extend(items.into_iter().map(|item| argument(Value::Datum(item), child)));
        } else {
            if let [.., before, last] = call.arguments.as_slice()
                && logic::is_decided(node.def.number, &before.value, &last.value)
            {
                break;
            }
            run.tick().await;
            let value = eval(run, child, env).await?;
            call.arguments.push(argument(value, child));
        }
    }
    if let Some(message) = arity_message(node.def.arity, call.arguments.len()) {
        return Err(Failure::logic(message));
    }
    for (name, child) in &node.options {
        let value = eval(run, child, env).await?;
        call.options.push((name, argument(value, child)));
    }
    add_globals(run, node, &mut call.options);
    Ok(call)
}

fn argument(value: Value, node: &Node) -> Argument {
    Argument { value, place: node.place.clone() }
}

/// The items an ARGS node stands for.
pub async fn spliced(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<Vec<Datum>> {
    let argument = &node.arguments[0];
    let value = loaded(run, eval(run, argument, env).await?).await?;
    let value = match value {
        Value::Sequence(sequence) => stream::gather(run, &sequence).await?,
        other => other.into_datum().map_err(|failure| failure.at(&argument.place))?,
    };
    match value {
        Datum::Array(items) => Ok(items.into_vec()),
        other => Err(crate::value::wrong_type("ARRAY", &other).at(&argument.place)),
    }
}

/// Strict terms that are applied to the value of each group: writes and reads of tables, which then refuse it.
fn is_of_each_group(term: u32) -> bool {
    use number::*;
    matches!(
        term,
        INSERT
            | UPDATE
            | REPLACE
            | DELETE
            | SYNC
            | GET
            | GET_ALL
            | BETWEEN
            | GET_INTERSECTING
            | GET_NEAREST
            | SAMPLE
    )
}

/// Gives evaluated arguments to a strict term, once for each group when they are grouped.
pub fn apply(run: &Run, invocation: Invocation) -> Evaluation<'_, Value> {
    let def = invocation.node.def;
    let each = match &def.eval {
        Eval::Pure(_) | Eval::Paced(_) => true,
        Eval::Sequence { groups, .. } => *groups == Groups::Each,
        Eval::Strict(_) => is_of_each_group(def.number),
        Eval::Control { .. } => false,
    };
    if each && is_grouped(&invocation) {
        return Box::pin(group::each(run, invocation));
    }
    match &def.eval {
        Eval::Pure(evaluate) => Box::pin(apply_pure(run, invocation, *evaluate)),
        Eval::Paced(evaluate) => Box::pin(apply_paced(run, invocation, *evaluate)),
        Eval::Sequence { now, later, .. } => Box::pin(apply_sequence(run, invocation, *now, *later)),
        Eval::Strict(evaluate) => {
            let place = invocation.node.place.clone();
            let future = evaluate(run, invocation);
            Box::pin(async move { future.await.map_err(|failure| failure.at(&place)) })
        }
        Eval::Control { .. } => {
            let failure = Failure::internal("control terms evaluate their own arguments");
            Box::pin(std::future::ready(Err(failure)))
        }
    }
}

async fn apply_pure(
    run: &Run,
    mut invocation: Invocation,
    evaluate: fn(&Call) -> Outcome<Datum>,
) -> Outcome<Value> {
    let node = invocation.node.clone();
    let outcome = async {
        load_arguments(run, &mut invocation).await?;
        if node.def.number == number::COERCE_TO {
            gather_receiver(run, &mut invocation).await?;
        }
        shallow(Value::Datum(evaluate(&invocation.call)?))
    };
    outcome.await.map_err(|failure: Failure| failure.at(&node.place))
}

async fn apply_paced(run: &Run, mut invocation: Invocation, evaluate: Paced) -> Outcome<Value> {
    let node = invocation.node.clone();
    let outcome = async {
        load_arguments(run, &mut invocation).await?;
        let datum = evaluate(&Pace::of(run), &invocation.call).await?;
        spend_for_shapes(run, &invocation.call, &datum);
        shallow(Value::Datum(datum))
    };
    outcome.await.map_err(|failure: Failure| failure.at(&node.place))
}

async fn apply_sequence(
    run: &Run,
    mut invocation: Invocation,
    now: SequenceNow,
    later: SequenceLater,
) -> Outcome<Value> {
    let node = invocation.node.clone();
    let outcome = async {
        load_arguments(run, &mut invocation).await?;
        match now(run, &invocation) {
            Ok(value) => shallow(value),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Later) => later(run, invocation).await.and_then(shallow),
        }
    };
    outcome.await.map_err(|failure: Failure| failure.at(&node.place))
}

fn is_grouped(invocation: &Invocation) -> bool {
    matches!(invocation.call.arguments.first(), Some(Argument { value: Value::Grouped(_), .. }))
}

/// Reads rows of `get` among the arguments.
async fn load_arguments(run: &Run, invocation: &mut Invocation) -> Outcome<()> {
    for argument in &mut invocation.call.arguments {
        if let Value::Row(_) = argument.value {
            argument.value = loaded(run, argument.value.clone()).await?;
        }
    }
    Ok(())
}

/// COERCE_TO takes streams too: as the arrays they gather into.
async fn gather_receiver(run: &Run, invocation: &mut Invocation) -> Outcome<()> {
    let receiver = &mut invocation.call.arguments[0];
    let sequence = match &receiver.value {
        Value::Sequence(sequence) => sequence.clone(),
        Value::Table(table) => Rc::new(stream::Sequence::of_table(table.clone())),
        Value::Datum(_)
        | Value::Database(_)
        | Value::Row(_)
        | Value::Function(_)
        | Value::Grouped(_)
        | Value::Ordering(_) => return Ok(()),
    };
    let items = stream::gather(run, &sequence).await.map_err(|failure| match failure.kind {
        ErrorKind::QueryLogic => failure.at(&receiver.place),
        _ => failure,
    })?;
    receiver.value = Value::Datum(items);
    Ok(())
}

/// The value with the row of a `get` read.
pub async fn loaded(run: &Run, value: Value) -> Outcome<Value> {
    let Value::Row(row) = &value else { return Ok(value) };
    if let Some(missing) = &row.missing {
        return Err(missing.clone());
    }
    if let Some(document) = row.document.get() {
        return Ok(Value::Datum(document.clone()));
    }
    let read = TableRead::Get { key: row.key.clone() };
    let TableReply::Row(found) = run.read(row.table.info.id, read, row.table.mode).await? else {
        return Err(wrong_reply());
    };
    let document = match found {
        Some(bytes) => document::decode_storable(bytes.into()),
        None => Datum::Null,
    };
    Ok(Value::Datum(row.document.get_or_init(|| document).clone()))
}
