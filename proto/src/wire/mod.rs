//! The driver protocol as machines without I/O: handshakes, frames, responses, and the client's side of them.
//!
//! Always: bytes in, bytes and events out. Sockets, clocks, randomness and the user table belong to the caller, so every
//! machine here can be tested one byte at a time.

pub mod client;
pub mod frame;
pub mod handshake;
pub mod response;
pub mod scram;
