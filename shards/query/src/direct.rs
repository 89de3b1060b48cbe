//! The small terms that lambdas over rows are made of, evaluated without building a [`Call`]: fields of objects, comparisons,
//! sums of numbers.
//!
//! Always: what is unusual (other types, errors, streams) goes to the term's own evaluator with the operands that are
//! evaluated already, so that nothing is evaluated twice and no rule or message stands in two places. A field of a row's variable is read
//! off the row without copying it: this is what a pushed-down filter spends its time on.

use std::cmp::Ordering;
use std::rc::Rc;

use photondb_proto::datum::{Datum, Text, pseudo};
use photondb_proto::term::number;

use crate::call::integer;
use crate::check::{Node, NodeKind};
use crate::eval::{self, Env, Now, Stop};
use crate::run::Run;
use crate::value::Value;

/// How a node may be evaluated directly; found by the checker.
#[derive(Clone, Debug)]
pub enum Direct {
    No,
    Compare(Comparison),
    Add,
    Subtract,
    Multiply,
    Modulo,
    /// The field of that name.
    Field(Text),
    /// Of ORDER_BY: no more of its rows are used than so many first ones.
    First(usize),
}

#[derive(Clone, Copy, Debug)]
pub enum Comparison {
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Comparison {
    pub fn holds(self, order: Ordering) -> bool {
        match self {
            Comparison::Equal => order.is_eq(),
            Comparison::Unequal => order.is_ne(),
            Comparison::Less => order.is_lt(),
            Comparison::LessOrEqual => order.is_le(),
            Comparison::Greater => order.is_gt(),
            Comparison::GreaterOrEqual => order.is_ge(),
        }
    }
}

/// How a call with these arguments may be evaluated.
pub fn of_call(term: u32, arguments: &[Rc<Node>]) -> Direct {
    let [_, second] = arguments else { return Direct::No };
    match term {
        number::EQ => Direct::Compare(Comparison::Equal),
        number::NE => Direct::Compare(Comparison::Unequal),
        number::LT => Direct::Compare(Comparison::Less),
        number::LE => Direct::Compare(Comparison::LessOrEqual),
        number::GT => Direct::Compare(Comparison::Greater),
        number::GE => Direct::Compare(Comparison::GreaterOrEqual),
        number::ADD => Direct::Add,
        number::SUB => Direct::Subtract,
        number::MUL => Direct::Multiply,
        number::MOD => Direct::Modulo,
        number::GET_FIELD | number::BRACKET => match &second.kind {
            NodeKind::Constant(Datum::String(key)) => Direct::Field(key.clone()),
            NodeKind::Call
            | NodeKind::Constant(_)
            | NodeKind::Variable(_)
            | NodeKind::Function(_)
            | NodeKind::Object(_)
            | NodeKind::StrayLiteral => Direct::No,
        },
        _ => Direct::No,
    }
}

/// Tells an ORDER_BY right inside a LIMIT how many of its rows are used.
pub fn tell_limit(term: u32, arguments: &mut [Rc<Node>]) {
    let [ordered, count] = arguments else { return };
    if term == number::LIMIT
        && ordered.def.number == number::ORDER_BY
        && let NodeKind::Constant(Datum::Number(count)) = &count.kind
        && let Ok(count) = integer(*count)
        && let (Ok(count), Some(ordered)) = (usize::try_from(count), Rc::get_mut(ordered))
    {
        ordered.direct = Direct::First(count);
    }
}

/// An operand: constants and variables are only looked at.
enum Operand<'a> {
    Seen(&'a Value),
    Constant(&'a Datum),
    Own(Value),
}

impl Operand<'_> {
    fn datum(&self) -> Option<&Datum> {
        match self {
            Operand::Seen(Value::Datum(datum)) | Operand::Own(Value::Datum(datum)) => Some(datum),
            Operand::Constant(datum) => Some(datum),
            Operand::Seen(_) | Operand::Own(_) => None,
        }
    }

    fn into_value(self) -> Value {
        match self {
            Operand::Seen(value) => value.clone(),
            Operand::Constant(datum) => Value::Datum(datum.clone()),
            Operand::Own(value) => value,
        }
    }
}

fn operand<'a>(run: &Run, node: &'a Rc<Node>, env: &'a Env) -> Now<Operand<'a>> {
    match &node.kind {
        NodeKind::Constant(datum) => Ok(Operand::Constant(datum)),
        NodeKind::Variable(id) => match eval::lookup(env, *id) {
            Some(value) => Ok(Operand::Seen(value)),
            None => Err(Stop::Later),
        },
        NodeKind::Call | NodeKind::Function(_) | NodeKind::Object(_) | NodeKind::StrayLiteral => {
            Ok(Operand::Own(eval::now(run, node, env)?))
        }
    }
}

/// Evaluates a node that is not [`Direct::No`].
pub fn evaluate(run: &Run, node: &Rc<Node>, env: &Env) -> Now<Value> {
    let left = operand(run, &node.arguments[0], env)?;
    let right = operand(run, &node.arguments[1], env)?;
    if let (Some(first), Some(second)) = (left.datum(), right.datum())
        && let Some(datum) = result(&node.direct, first, second)
    {
        return Ok(Value::Datum(datum));
    }
    eval::strict_now(run, node, vec![left.into_value(), right.into_value()])
}

fn result(direct: &Direct, left: &Datum, right: &Datum) -> Option<Datum> {
    match (direct, left, right) {
        (Direct::Compare(comparison), left, right) => Some(Datum::Bool(comparison.holds(left.cmp(right)))),
        (Direct::Add, Datum::Number(left), Datum::Number(right)) => finite(left + right),
        (Direct::Subtract, Datum::Number(left), Datum::Number(right)) => finite(left - right),
        (Direct::Multiply, Datum::Number(left), Datum::Number(right)) => finite(left * right),
        (Direct::Modulo, Datum::Number(left), Datum::Number(right)) => {
            let (left, right) = (integer(*left).ok()?, integer(*right).ok()?);
            left.checked_rem(right).map(|rest| Datum::Number(rest as f64))
        }
        // A pseudotype's fields are not its own.
        (Direct::Field(key), Datum::Object(object), _) if key.as_str() != pseudo::TYPE_KEY => {
            let value = object.field(key)?;
            (!object.has(pseudo::TYPE_KEY)).then_some(value)
        }
        (
            Direct::Add
            | Direct::Subtract
            | Direct::Multiply
            | Direct::Modulo
            | Direct::Field(_)
            | Direct::First(_)
            | Direct::No,
            _,
            _,
        ) => None,
    }
}

fn finite(number: f64) -> Option<Datum> {
    number.is_finite().then_some(Datum::Number(number))
}
