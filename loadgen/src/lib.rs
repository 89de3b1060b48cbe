//! `photondb-loadgen`: loads a server that speaks ReQL, and measures.
//!
//! [`main`] is the program. Benchmarks use the parts: a [`plan::Plan`] is carried out by [`drive::run`] in the words of a
//! [`dialect::Dialect`].

pub mod arguments;
pub mod choose;
mod compare;
pub mod dialect;
pub mod drive;
pub mod links;
mod mix;
pub mod operation;
pub mod plan;
mod plot;
pub mod prepare;
mod program;
pub mod record;
pub mod report;
pub mod session;
pub mod template;
pub mod workloads;
pub mod world;

pub use program::main;
