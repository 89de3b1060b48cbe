//! The table of ReQL terms: one [`TermDef`] each, in its family's file. Parser, arity and option checks, determinism,
//! dispatch and the generated reference all read it.

pub mod admin;
pub mod aggregate;
pub mod array;
pub mod changes;
pub mod coerce;
pub mod control;
pub mod fields;
pub mod geometry;
pub mod grant;
pub mod group;
pub mod http;
pub mod index;
pub mod info;
pub mod iso8601;
pub mod join;
pub mod literal;
pub mod logic;
pub mod math;
pub mod object;
pub mod options;
pub mod order;
pub mod pattern;
#[cfg(test)]
pub mod probe;
pub mod random;
pub mod script;
pub mod sequence;
pub mod slice;
pub mod spatial;
pub mod string;
pub mod summary;
pub mod table;
pub mod time;
pub mod write;

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::LazyLock;

use photondb_proto::datum::Datum;

use crate::call::Call;
use crate::check::Node;
use crate::eval::{Env, Now};
use crate::failure::{Outcome, Place};
use crate::function::{Function, Meaning};
use crate::geo::pace::Pace;
use crate::run::Run;
use crate::stream::{Sequence, sequence_of};
use crate::value::Value;

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

impl std::fmt::Debug for TermDef {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name)
    }
}

impl TermDef {
    /// A pure deterministic term without options.
    pub const fn pure(
        name: &'static str,
        number: u32,
        arity: Arity,
        eval: fn(&Call) -> Outcome<Datum>,
    ) -> TermDef {
        TermDef {
            name,
            number,
            arity,
            options: &[],
            determinism: Determinism::Always,
            eval: Eval::Pure(eval),
        }
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
    /// A pure function of evaluated data.
    Pure(fn(&Call) -> Outcome<Datum>),
    /// The same of data that may be so large that it has to wait for its turn in between.
    Paced(Paced),
    /// Takes evaluated arguments of any kind. `now` does what needs no waiting, mostly with arrays and objects at hand;
    /// where it gives up, `later` begins anew. Rows of `get` have been read.
    Sequence { now: SequenceNow, later: SequenceLater, groups: Groups },
    /// Takes evaluated arguments as they are: selections, tables, grouped data.
    Strict(SequenceLater),
    /// Evaluates its own arguments, perhaps not all of them.
    Control { now: Option<ControlNow>, later: ControlLater },
}

pub type Paced = for<'a> fn(&'a Pace<'a>, &'a Call) -> Evaluation<'a, Datum>;
pub type SequenceNow = fn(&Run, &Invocation) -> Now<Value>;
pub type SequenceLater = for<'a> fn(&'a Run, Invocation) -> Evaluation<'a, Value>;
pub type ControlNow = fn(&Run, &Rc<Node>, &Env) -> Now<Value>;
pub type ControlLater = for<'a> fn(&'a Run, &'a Rc<Node>, &'a Env) -> Evaluation<'a, Value>;

/// What a term does with grouped data as its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Groups {
    /// It is applied to the value of each group.
    Each,
    /// It knows grouped data.
    Whole,
}

/// A term with its evaluated arguments.
#[derive(Clone, Debug)]
pub struct Invocation {
    pub call: Call,
    pub node: Rc<Node>,
}

impl std::ops::Deref for Invocation {
    type Target = Call;
    fn deref(&self) -> &Call {
        &self.call
    }
}

impl Invocation {
    /// A failure blamed on an argument.
    pub fn blame<T>(&self, index: usize, outcome: Outcome<T>) -> Outcome<T> {
        outcome.map_err(|failure| failure.at(&self.call.arguments[index].place))
    }

    /// The sequence that an argument is.
    pub fn sequence(&self, index: usize) -> Outcome<Rc<Sequence>> {
        sequence_of(&self.call.arguments[index].value)
    }

    /// The function that an argument is or stands for.
    pub fn function(&self, index: usize, meaning: Meaning) -> Outcome<Function> {
        let argument = &self.call.arguments[index];
        Function::from_value(&argument.value, meaning, &argument.place)
    }

    pub fn place(&self) -> &Place {
        &self.node.place
    }
}

/// Families of terms.
static FAMILIES: &[&[TermDef]] = &[
    admin::TERMS,
    aggregate::TERMS,
    array::TERMS,
    changes::TERMS,
    coerce::TERMS,
    control::TERMS,
    fields::TERMS,
    geometry::TERMS,
    grant::TERMS,
    group::TERMS,
    http::TERMS,
    index::TERMS,
    join::TERMS,
    literal::TERMS,
    logic::TERMS,
    math::TERMS,
    object::TERMS,
    order::TERMS,
    random::TERMS,
    script::TERMS,
    sequence::TERMS,
    slice::TERMS,
    spatial::TERMS,
    string::TERMS,
    table::TERMS,
    time::TERMS,
    write::TERMS,
];

/// Every term, by family.
pub fn all() -> impl Iterator<Item = &'static TermDef> {
    FAMILIES.iter().copied().flatten().chain(std::iter::once(&crate::check::DATUM))
}

/// Term numbers below this are found in a table; extensions may lie above.
const NUMBERED: usize = 256;

static BY_NUMBER: LazyLock<[Option<&'static TermDef>; NUMBERED]> = LazyLock::new(|| {
    let mut table = [None; NUMBERED];
    for def in all().filter(|def| (def.number as usize) < NUMBERED) {
        table[def.number as usize] = Some(def);
    }
    table
});

/// The definition of the term with this wire number.
pub fn find(number: u32) -> Option<&'static TermDef> {
    match BY_NUMBER.get(number as usize) {
        Some(def) => *def,
        None => all().find(|def| def.number == number),
    }
}

/// Whether any term takes an option of this name.
pub fn option_name(name: &str) -> Option<&'static str> {
    all().find_map(|def| def.options.iter().find(|known| **known == name).copied())
}

/// What lazy evaluators return: a future that nobody but the evaluator polls.
pub type Evaluation<'a, T> = Pin<Box<dyn Future<Output = Outcome<T>> + 'a>>;
