//! The page cache: pages and values of a store in memory, within one budget.
//!
//! [`queue`] chooses what goes; [`pool`] holds pages and values and knows which of them are not on disk yet.

pub(crate) mod pool;
pub(crate) mod queue;
