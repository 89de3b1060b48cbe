//! One store: a write-ahead log, slab files and B-trees over a [`disk::Directory`], opened by exactly one core.
//!
//! Knows nothing of queries, executors or threads. Everything that can wait is `async` over the [`disk`] traits, so the
//! same code runs on io_uring, on blocking files and on the simulated disk.

#![deny(unsafe_code)]

pub mod backend;
pub mod blocking;
mod btree;
mod bytes;
mod cache;
pub mod changelog;
mod checkpoint;
mod compress;
pub mod disk;
pub mod engine;
mod event;
#[cfg(test)]
mod golden;
pub mod library;
pub mod memory;
mod recovery;
pub mod slab;
mod space;
#[cfg(any(test, feature = "suite"))]
pub mod suite;
mod superblock;
mod tables;
pub mod train;
pub mod verify;
mod wal;

pub use cache::touch_value;
