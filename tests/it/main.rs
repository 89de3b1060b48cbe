//! The integration tests: the real server over real sockets, and the house rules of the repository.
//!
//! One binary, because linking is what costs on two cores. Tests that start a server hold the machine, shared or alone
//! ([`machine`]), so that what measures or loads it is undisturbed. Everything made on disk lies under `target/`.

mod abuse;
mod advisories;
mod cli;
mod client;
mod conformance;
mod cores;
mod drivers;
mod environment;
mod feeds;
mod geometry;
mod http;
mod idle;
mod index;
mod large;
mod loadgen;
mod loopback;
mod machine;
mod offline;
mod outside;
mod restart;
mod resume;
mod server;
mod startup;
mod stopping;
mod system;
mod tables;
mod tidy;
mod writes;
