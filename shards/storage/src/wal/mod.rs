//! The write-ahead log: every change before it is acknowledged, in the order it was applied.
//!
//! [`record`] is one batch as bytes, [`frame`] is one write of the disk, [`log`] queues records, writes and flushes them, and
//! keeps the segment files; [`replay`] reads the log back after a restart.

pub(crate) mod frame;
pub(crate) mod log;
pub(crate) mod record;
pub(crate) mod replay;
