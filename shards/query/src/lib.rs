//! ReQL: from a term tree to answers. Pure: no I/O, no async runtime, no clock, no randomness; storage is a stranger.
//!
//! The way of a query: [`check`] turns a raw [`Term`] into a tree of [`check::Node`]s (unknown terms, arity, options,
//! variables: compile errors); [`exec::Execution`] drives the one evaluator over that tree. The evaluator is written as
//! async functions that no runtime polls: their boxed futures are the explicit stack. [`exec::Execution::step`] polls
//! them with a no-op waker until they are done, out of fuel or need an [`Op`] answered. So heavy pure work yields, a lambda
//! may read tables, and nothing is written twice in a sync and an async colour.
//!
//! Two more doors lead to the same evaluator, for work that travels to the core that owns the rows: [`push::Pipeline`]
//! (filter, map, … and a terminal over scanned rows) and [`write::RowWriter`] (what becomes of a row).
//!
//! [`Term`]: photondb_proto::term::Term
//! [`Op`]: photondb_proto::op::Op

#![forbid(unsafe_code)]

pub mod blob;
pub mod call;
pub mod check;
pub mod cursor;
pub mod direct;
pub mod eval;
pub mod exec;
pub mod failure;
pub mod feed;
pub mod fields;
pub mod first;
pub mod fold;
pub mod function;
pub mod geo;
pub mod group;
pub mod index;
pub mod join;
pub mod merge;
pub mod options;
pub mod profile;
pub mod push;
pub mod quick;
pub mod row;
pub mod run;
pub mod scalar;
pub mod scan;
pub mod shape;
pub mod source;
pub mod stream;
pub mod terms;
pub mod ties;
pub mod value;
pub mod write;

#[cfg(test)]
mod conformance;
#[cfg(test)]
mod generated;
#[cfg(test)]
mod growth_tests;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod quick_tests;
#[cfg(test)]
mod table_tests;
#[cfg(test)]
mod world;
