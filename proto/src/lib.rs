//! Everything that crosses a boundary of PhotonDB, as plain data, and the pure machines that speak it.
//!
//! Always: no I/O, no async, no clock, no randomness, no unsafe. Bytes, time and random numbers are arguments.
//! Storage and query are strangers to each other and meet only in [`op`].

#![forbid(unsafe_code)]

pub mod control;
pub mod datum;
pub mod error;
pub mod feed;
pub mod fuzz;
pub mod limits;
pub mod op;
pub mod outside;
pub mod resume;
pub mod rows;
pub mod term;
pub mod wire;
