//! Which cached thing goes next: S3-FIFO (Yang, Zhang, Qiu, Yue and Vinayak, SOSP 2023).
//!
//! What is new waits in a short queue. What is asked for again before its end moves to the long one; the rest goes, and
//! only its key is remembered for a while: if it comes back soon it goes straight to the long queue. So one scan of
//! everything passes through the short queue and leaves the hot set alone. A hit costs one counter, no list is touched.

use std::collections::{HashSet, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};

/// The short queue's part of the budget.
const SHORT_PART: u64 = 10;

/// A hash for keys that are numbers: one multiplication. Nobody chooses them, so nothing must withstand an attack.
#[derive(Default)]
pub(crate) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(u64::from(*byte));
        }
    }

    fn write_u32(&mut self, number: u32) {
        self.write_u64(u64::from(number));
    }

    fn write_u64(&mut self, number: u64) {
        let mixed = (self.0 ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = mixed ^ (mixed >> 32);
    }
}

pub(crate) type NumberHash = BuildHasherDefault<NumberHasher>;

/// What the owner says of the thing at the head of a queue.
pub(crate) enum Verdict {
    /// Gone or not evictable now; it is queued again when it becomes so.
    Absent,
    /// It was asked for since it was queued (the owner takes that note off it).
    Asked,
    Idle,
}

#[derive(Default)]
pub(crate) struct Queue {
    short: VecDeque<(u64, u32)>,
    long: VecDeque<(u64, u32)>,
    short_bytes: u64,
    ghosts: VecDeque<u64>,
    ghost_set: HashSet<u64, NumberHash>,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.short.len() + self.long.len()
    }

    pub fn push(&mut self, key: u64, bytes: u32) {
        if self.ghost_set.remove(&key) {
            self.long.push_back((key, bytes));
        } else {
            self.short.push_back((key, bytes));
            self.short_bytes += u64::from(bytes);
        }
    }

    /// Something to evict, or `None` when nothing can go.
    pub fn victim(&mut self, budget: u64, mut judge: impl FnMut(u64) -> Verdict) -> Option<u64> {
        // Each pass takes one note off an entry and a note counts to three, so this ends.
        for _ in 0..self.len() * 4 + 4 {
            if self.short_bytes > budget / SHORT_PART || self.long.is_empty() {
                let (key, bytes) = self.short.pop_front()?;
                self.short_bytes -= u64::from(bytes);
                match judge(key) {
                    Verdict::Absent => {}
                    Verdict::Asked => self.long.push_back((key, bytes)),
                    Verdict::Idle => {
                        self.remember(key);
                        return Some(key);
                    }
                }
            } else {
                let (key, bytes) = self.long.pop_front()?;
                match judge(key) {
                    Verdict::Absent => {}
                    Verdict::Asked => self.long.push_back((key, bytes)),
                    Verdict::Idle => return Some(key),
                }
            }
        }
        None
    }

    fn remember(&mut self, key: u64) {
        if self.ghost_set.insert(key) {
            self.ghosts.push_back(key);
        }
        while self.ghosts.len() > self.len() + 64 {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(&oldest);
            }
        }
    }

    /// Throws out entries of things that are gone.
    pub fn retain(&mut self, mut is_there: impl FnMut(u64) -> bool) {
        self.short.retain(|(key, _)| is_there(*key));
        self.long.retain(|(key, _)| is_there(*key));
        self.short_bytes = self.short.iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    }
}
