//! The driver protocol as pure machines: bytes in, frames and messages out. No sockets, no clock.
