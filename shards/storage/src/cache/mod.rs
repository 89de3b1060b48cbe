//! The page cache: pages and values of a store in memory, within one budget.
//!
//! [`queue`] chooses what goes; [`pool`] holds pages and values and knows which of them are not on disk yet; [`shortcuts`] lead from keys to
//! values.

pub(crate) mod pool;
mod prefetch;
pub(crate) mod queue;
mod set;
pub(crate) mod shortcuts;
pub(crate) mod values;
mod window;

use prefetch::prefetch;

const LINE_BYTES: usize = 64;
/// Of a value so much is fetched: then the processor has seen where it goes on.
const TOUCHED_BYTES_MAX: usize = 2 << 10;

/// Has the processor fetch these bytes. What is touched before the first of it is used is waited for together.
pub(crate) fn touch(bytes: &[u8]) {
    bytes.chunks(LINE_BYTES).for_each(|line| prefetch(&line[0]));
}

/// Has the processor fetch where a value begins. [`touch_value`] is for when it is read next: a few values fill the innermost cache.
pub(crate) fn touch_head(value: &[u8]) {
    prefetch(value);
}

/// [`touch`] for the beginning of a value.
pub fn touch_value(value: &[u8]) {
    touch(&value[..value.len().min(TOUCHED_BYTES_MAX)]);
}
