//! The table of ReQL terms: one [`TermDef`] each, in its family's file. Parser, arity and option checks, determinism,
//! dispatch and the generated reference all read it.

pub mod array;
pub mod coerce;
pub mod iso8601;
pub mod logic;
pub mod math;
pub mod object;
pub mod options;
pub mod pattern;
#[cfg(test)]
pub mod probe;
pub mod string;
pub mod summary;
pub mod time;

use std::future::Future;
use std::pin::Pin;

use photondb_proto::datum::Datum;

use crate::call::Call;
use crate::failure::Outcome;

/// Everything there is to know of a term.
pub struct TermDef {
    /// As messages and the reference write it, upper case: `UPCASE`.
    pub name: &'static str,
    pub number: u32,
    pub arity: Arity,
    /// Names of optional arguments, sorted.
    pub options: &'static [&'static str],
    pub determinism: Determinism,
    pub eval: Eval,
}

impl TermDef {
    /// A pure deterministic term without options.
    pub const fn pure(
        name: &'static str,
        number: u32,
        arity: Arity,
        eval: fn(&Call) -> Outcome<Datum>,
    ) -> TermDef {
        TermDef { name, number, arity, options: &[], determinism: Determinism::Always, eval: Eval::Pure(eval) }
    }
}

/// How many arguments a term takes; the receiver counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arity {
    pub min: u16,
    /// `None`: any number.
    pub max: Option<u16>,
}

impl Arity {
    pub const fn exactly(count: u16) -> Arity {
        Arity { min: count, max: Some(count) }
    }
    pub const fn between(min: u16, max: u16) -> Arity {
        Arity { min, max: Some(max) }
    }
    pub const fn at_least(min: u16) -> Arity {
        Arity { min, max: None }
    }
}

/// Whether the same arguments always give the same value (census §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Determinism {
    Always,
    /// `now`: one value per query.
    PerQuery,
    /// Geometry: the same on one machine.
    PerServer,
    Never,
}

/// How a term is evaluated.
pub enum Eval {
    /// A pure function of evaluated data. Streams among the arguments are gathered into arrays first.
    Pure(fn(&Call) -> Outcome<Datum>),
}

/// What lazy evaluators return: a future that nobody but the evaluator polls.
pub type Evaluation<'a, T> = Pin<Box<dyn Future<Output = Outcome<T>> + 'a>>;
