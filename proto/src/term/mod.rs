//! The raw term tree: a query as it came over the wire, checked for shape only, and its wire numbers.
//!
//! Whether a number is a term at all, how many arguments it takes and which options, is the query crate's to say.

mod constant;
pub mod large;
pub mod number;
pub mod parse;
pub mod wire;

use crate::datum::{Datum, Text};

/// A term as a client sent it.
#[derive(Clone, Debug)]
pub enum Term {
    /// A constant: a JSON scalar, or a whole constant array or object folded by the parser
    /// (only without `$reql_type$` keys and within limits, so that folding can never hide an error).
    Datum(Datum),
    Call(Box<Call>),
}

/// A term that is not a constant. A JSON object with non-constant values is MAKE_OBJ with `options` as its pairs.
#[derive(Clone, Debug)]
pub struct Call {
    pub number: u32,
    pub arguments: Vec<Term>,
    pub options: Vec<(Text, Term)>,
}
