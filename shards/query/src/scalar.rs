//! Functions over one row that are made of small terms, compiled, and evaluated on the row's bytes where they lie: fields,
//! comparisons, arithmetic, logic, defaults.
//!
//! Always: what comes out is what the evaluator gives. Whatever this does not know (other types, errors but for something that is
//! missing, containers as values) is [`Escape::Elsewhere`]: the row then goes through the evaluator from the start, so that no
//! message and no rare rule stands here. Nothing is allocated for a row.

use std::cell::Cell;
use std::cmp::Ordering;
use std::rc::Rc;

use photondb_proto::datum::raw::{Field, Raw, Scalar};
use photondb_proto::datum::{Datum, Text, Time, pseudo};
use photondb_proto::term::number;

use crate::call::integer;
use crate::check::{Node, NodeKind};
use crate::direct::{Comparison, Direct};
use crate::eval::{self, Env, Stop};
use crate::function::Function;
use crate::run::Run;
use crate::terms::Determinism;
use crate::value::Value;

/// Terms nested deeper than this are left to the evaluator.
const DEPTH_MAX: u32 = 32;

/// A compiled function of a row.
#[derive(Debug)]
pub enum Code {
    /// The row itself.
    Row,
    Constant(Constant),
    Field {
        of: Box<Code>,
        key: Text,
        /// Where the field was in the row before.
        hint: Cell<usize>,
    },
    Compare(Comparison, Box<Code>, Box<Code>),
    Calculate(Operation, Box<Code>, Box<Code>),
    Not(Box<Code>),
    /// OR stops at the first true value, AND at the first false one; else the last value counts.
    Logic {
        stops_at: bool,
        parts: Vec<Code>,
    },
    /// What stands in for something that is missing or null.
    Default(Box<Code>, Box<Code>),
}

#[derive(Clone, Copy, Debug)]
pub enum Operation {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Debug)]
pub enum Constant {
    Null,
    Bool(bool),
    Number(f64),
    Text(Text),
    Time(f64),
}

/// Why there is no value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Escape {
    /// An error of those that `default` catches.
    Missing,
    /// The evaluator must say.
    Elsewhere,
}

impl From<Escape> for Stop {
    /// The long way says what it is.
    fn from(_: Escape) -> Stop {
        Stop::Later
    }
}

impl Constant {
    fn of(datum: &Datum) -> Option<Constant> {
        match datum {
            Datum::Null => Some(Constant::Null),
            Datum::Bool(value) => Some(Constant::Bool(*value)),
            Datum::Number(number) => Some(Constant::Number(*number)),
            Datum::String(text) => Some(Constant::Text(text.clone())),
            Datum::Time(Time { epoch_seconds, .. }) => Some(Constant::Time(*epoch_seconds)),
            Datum::MinVal | Datum::Array(_) | Datum::Object(_) | Datum::Binary(_) | Datum::MaxVal => None,
        }
    }

    fn scalar(&self) -> Scalar<'_> {
        match self {
            Constant::Null => Scalar::Null,
            Constant::Bool(value) => Scalar::Bool(*value),
            Constant::Number(number) => Scalar::Number(*number),
            Constant::Text(text) => Scalar::Text(text.as_bytes()),
            Constant::Time(seconds) => Scalar::Time(*seconds),
        }
    }
}

/// How a datum looks as a scalar.
pub fn scalar_of(datum: &Datum) -> Scalar<'_> {
    match datum {
        Datum::Null => Scalar::Null,
        Datum::Bool(value) => Scalar::Bool(*value),
        Datum::Number(number) => Scalar::Number(*number),
        Datum::String(text) => Scalar::Text(text.as_bytes()),
        Datum::Time(time) => Scalar::Time(time.epoch_seconds),
        Datum::MinVal | Datum::Array(_) | Datum::Object(_) | Datum::Binary(_) | Datum::MaxVal => {
            Scalar::Other
        }
    }
}

/// The order of two scalars; that of containers is the evaluator's matter.
pub fn order(left: Scalar<'_>, right: Scalar<'_>) -> Option<Ordering> {
    // In the order of type names: BOOL, NULL, NUMBER, PTYPE<TIME>, STRING.
    let rank = |scalar: Scalar<'_>| match scalar {
        Scalar::Bool(_) => Some(0),
        Scalar::Null => Some(1),
        Scalar::Number(_) => Some(2),
        Scalar::Time(_) => Some(3),
        Scalar::Text(_) => Some(4),
        Scalar::Other => None,
    };
    match (left, right) {
        (Scalar::Number(left), Scalar::Number(right)) | (Scalar::Time(left), Scalar::Time(right)) => {
            left.partial_cmp(&right)
        }
        (Scalar::Text(left), Scalar::Text(right)) => Some(left.cmp(right)),
        (Scalar::Bool(left), Scalar::Bool(right)) => Some(left.cmp(&right)),
        (left, right) => Some(rank(left)?.cmp(&rank(right)?)),
    }
}

/// Only `null` and `false` are false.
pub fn is_truthy(scalar: Scalar<'_>) -> bool {
    !matches!(scalar, Scalar::Null | Scalar::Bool(false))
}

impl Code {
    /// The scalar that a row gives.
    pub fn scalar<'a>(&'a self, row: Raw<'a>) -> Result<Scalar<'a>, Escape> {
        Ok(match self {
            Code::Row | Code::Field { .. } => self.place(row)?.scalar(),
            Code::Constant(constant) => constant.scalar(),
            Code::Compare(comparison, left, right) => {
                let (left, right) = (left.scalar(row)?, right.scalar(row)?);
                Scalar::Bool(comparison.holds(order(left, right).ok_or(Escape::Elsewhere)?))
            }
            Code::Calculate(operation, left, right) => {
                let (left, right) = (left.scalar(row)?, right.scalar(row)?);
                let (Scalar::Number(left), Scalar::Number(right)) = (left, right) else {
                    return Err(Escape::Elsewhere);
                };
                Scalar::Number(operation.on(left, right).ok_or(Escape::Elsewhere)?)
            }
            Code::Not(code) => Scalar::Bool(!is_truthy(code.scalar(row)?)),
            Code::Logic { stops_at, parts } => {
                let mut last = Scalar::Bool(!stops_at);
                for part in parts {
                    last = part.scalar(row)?;
                    if is_truthy(last) == *stops_at {
                        break;
                    }
                }
                last
            }
            Code::Default(first, fallback) => match first.scalar(row) {
                Ok(Scalar::Null) | Err(Escape::Missing) => {
                    // What a fallback that fails means depends on how it fails.
                    fallback.scalar(row).map_err(|_| Escape::Elsewhere)?
                }
                other => other?,
            },
        })
    }

    /// Where the value lies in the row.
    fn place<'a>(&self, row: Raw<'a>) -> Result<Raw<'a>, Escape> {
        let Code::Field { of, key, hint } = self else { return Ok(row) };
        let object = of.place(row)?;
        let mut at = hint.get();
        let found = object.field(key.as_bytes(), &mut at);
        hint.set(at);
        match found {
            Field::Value(value) => Ok(value),
            Field::Missing => Err(Escape::Missing),
            Field::NotThere => Err(Escape::Elsewhere),
        }
    }

    /// Calls `visit` with the hint of each field that is looked for in the row itself.
    pub fn row_hints(&self, visit: &mut dyn FnMut(usize)) {
        match self {
            Code::Row | Code::Constant(_) => {}
            Code::Field { of, hint, .. } if matches!(**of, Code::Row) => visit(hint.get()),
            Code::Field { of, .. } => of.row_hints(visit),
            Code::Compare(_, left, right) | Code::Calculate(_, left, right) | Code::Default(left, right) => {
                left.row_hints(visit);
                right.row_hints(visit);
            }
            Code::Not(code) => code.row_hints(visit),
            Code::Logic { parts, .. } => parts.iter().for_each(|part| part.row_hints(visit)),
        }
    }

    fn field(of: Code, key: &Text) -> Option<Code> {
        let is_place = matches!(of, Code::Row | Code::Field { .. });
        let is_plain = key.as_bytes() != pseudo::TYPE_KEY.as_bytes();
        (is_place && is_plain).then(|| Code::Field { of: Box::new(of), key: key.clone(), hint: Cell::new(0) })
    }
}

impl Operation {
    /// `None` when it fails.
    fn on(self, left: f64, right: f64) -> Option<f64> {
        let result = match self {
            Operation::Add => left + right,
            Operation::Subtract => left - right,
            Operation::Multiply => left * right,
            Operation::Divide if right == 0.0 => return None,
            Operation::Divide => left / right,
            Operation::Modulo => {
                let (left, right) = (integer(left).ok()?, integer(right).ok()?);
                match (u32::try_from(left), u32::try_from(right)) {
                    // Processors divide so many bits several times as fast.
                    (Ok(left), Ok(right)) => f64::from(left.checked_rem(right)?),
                    _ => left.checked_rem(right)? as f64,
                }
            }
        };
        result.is_finite().then_some(result)
    }
}

// ---------------------------------------------------------------- compiling

/// The code of a function of one row, if it is made of what is known here. What does not depend on the row is evaluated now.
pub fn compile(run: &Run, function: &Function) -> Option<Code> {
    if let Some(field) = function.field() {
        return Code::field(Code::Row, field);
    }
    let Some((parameters, body, env)) = function.anatomy() else {
        return Constant::of(function.constant()?).map(Code::Constant);
    };
    let row = match parameters {
        [] => None,
        [row] => Some(*row),
        [_, _, ..] => return None,
    };
    Compiler { run, env, row }.code(body, 0)
}

/// The code of FILTER's function: an object that is spelled out is a pattern.
pub fn compile_filter(run: &Run, function: &Function) -> Option<Code> {
    let Some(Datum::Object(pattern)) = function.constant() else { return compile(run, function) };
    if function.arity().is_some_and(|arity| arity > 1) {
        return None;
    }
    let part = |(key, wanted): (Text, Datum)| {
        let (field, wanted) = (Code::field(Code::Row, &key)?, Constant::of(&wanted)?);
        let wanted = Box::new(Code::Constant(wanted));
        Some(Code::Compare(Comparison::Equal, Box::new(field), wanted))
    };
    let parts = pattern.iter().map(part).collect::<Option<_>>()?;
    Some(Code::Logic { stops_at: false, parts })
}

struct Compiler<'a> {
    run: &'a Run,
    env: &'a Env,
    /// The variable that is the row.
    row: Option<i64>,
}

impl Compiler<'_> {
    fn code(&self, node: &Rc<Node>, depth: u32) -> Option<Code> {
        if depth > DEPTH_MAX {
            return None;
        }
        match &node.kind {
            NodeKind::Constant(datum) => Constant::of(datum).map(Code::Constant),
            NodeKind::Variable(id) if Some(*id) == self.row => Some(Code::Row),
            NodeKind::Variable(_) | NodeKind::Call if !self.mentions_row(node) => self.constant(node),
            NodeKind::Call => self.call(node, depth + 1),
            NodeKind::Variable(_) | NodeKind::Function(_) | NodeKind::Object(_) | NodeKind::StrayLiteral => {
                None
            }
        }
    }

    fn mentions_row(&self, node: &Rc<Node>) -> bool {
        match &node.kind {
            NodeKind::Variable(id) => Some(*id) == self.row,
            NodeKind::Constant(_) | NodeKind::StrayLiteral => false,
            // Not looked into: neither is compiled.
            NodeKind::Function(_) | NodeKind::Object(_) => true,
            NodeKind::Call => {
                let options = node.options.iter().map(|(_, option)| option);
                node.arguments.iter().chain(options).any(|child| self.mentions_row(child))
            }
        }
    }

    fn constant(&self, node: &Rc<Node>) -> Option<Code> {
        if node.determinism > Determinism::PerQuery {
            return None;
        }
        match eval::now(self.run, node, self.env) {
            Ok(Value::Datum(datum)) => Constant::of(&datum).map(Code::Constant),
            Ok(_) | Err(_) => None,
        }
    }

    fn call(&self, node: &Rc<Node>, depth: u32) -> Option<Code> {
        if !node.options.is_empty() {
            return None;
        }
        let parts = || node.arguments.iter().map(|node| self.code(node, depth)).collect::<Option<Vec<_>>>();
        let two = || {
            let [left, right] = <[Code; 2]>::try_from(parts()?).ok()?;
            Some((Box::new(left), Box::new(right)))
        };
        let calculate = |operation| two().map(|(left, right)| Code::Calculate(operation, left, right));
        match (&node.direct, node.def.number) {
            (Direct::Field(key), _) => Code::field(self.code(&node.arguments[0], depth)?, key),
            (Direct::Compare(comparison), _) => {
                two().map(|(left, right)| Code::Compare(*comparison, left, right))
            }
            (Direct::Add, _) => calculate(Operation::Add),
            (Direct::Subtract, _) => calculate(Operation::Subtract),
            (Direct::Multiply, _) => calculate(Operation::Multiply),
            (Direct::Modulo, _) => calculate(Operation::Modulo),
            (Direct::No, number::DIV) => calculate(Operation::Divide),
            (Direct::No, number::DEFAULT) => two().map(|(first, fallback)| Code::Default(first, fallback)),
            (Direct::No, number::NOT) => Some(Code::Not(Box::new(parts()?.pop()?))),
            (Direct::No, number::AND) => Some(Code::Logic { stops_at: false, parts: parts()? }),
            (Direct::No, number::OR) => Some(Code::Logic { stops_at: true, parts: parts()? }),
            (Direct::No | Direct::First(_), _) => None,
        }
    }
}
