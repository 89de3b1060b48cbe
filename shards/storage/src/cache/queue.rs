//! Which cached thing goes next: S3-FIFO (Yang, Zhang, Qiu, Yue and Vinayak, SOSP 2023).
//!
//! What is new waits in a short queue. What is asked for again before its end moves to the long one; the rest goes, and
//! only its key is remembered for a while: if it comes back soon it goes straight to the long queue. So one scan of
//! everything passes through the short queue and leaves the hot set alone. A hit costs one counter, no list is touched.

use std::collections::VecDeque;

use crate::cache::set::NumberSet;

/// The short queue's part of the budget.
const SHORT_PART: u64 = 10;
/// Entries that are looked through at a time for those of things that are gone.
const RUN_MAX: usize = 1024;

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
    short: Fifo<(u64, u32)>,
    long: Fifo<(u64, u32)>,
    short_bytes: u64,
    ghosts: Fifo<u64>,
    ghost_set: NumberSet,
}

impl Queue {
    pub fn len(&self) -> usize {
        self.short.len + self.long.len
    }

    pub fn push(&mut self, key: u64, bytes: u32) {
        if self.ghost_set.remove(key) {
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
            if self.short_bytes > budget / SHORT_PART || self.long.len == 0 {
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
        while self.ghosts.len > self.len() + 64 {
            if let Some(oldest) = self.ghosts.pop_front() {
                self.ghost_set.remove(oldest);
            }
        }
    }

    /// Throws out entries of things that are gone, from a part of the queues at a time.
    pub fn sweep(&mut self, mut is_there: impl FnMut(u64) -> bool) {
        let short_bytes = &mut self.short_bytes;
        self.short.sweep(|(key, bytes)| {
            let is_there = is_there(*key);
            *short_bytes -= if is_there { 0 } else { u64::from(*bytes) };
            is_there
        });
        self.long.sweep(|(key, _)| is_there(*key));
    }
}

/// What goes out in the order in which it came, in runs: neither growing nor sweeping it moves all of it at once.
struct Fifo<T> {
    runs: VecDeque<VecDeque<T>>,
    len: usize,
    /// The run that is swept next.
    next_swept: usize,
}

impl<T> Default for Fifo<T> {
    fn default() -> Self {
        Fifo { runs: VecDeque::new(), len: 0, next_swept: 0 }
    }
}

impl<T> Fifo<T> {
    fn push_back(&mut self, item: T) {
        self.len += 1;
        match self.runs.back_mut() {
            Some(run) if run.len() < RUN_MAX => run.push_back(item),
            Some(_) | None => self.runs.push_back(VecDeque::from([item])),
        }
    }

    fn pop_front(&mut self) -> Option<T> {
        let run = self.runs.front_mut()?;
        let item = run.pop_front()?;
        self.len -= 1;
        if run.is_empty() {
            self.runs.pop_front();
            self.next_swept = self.next_swept.saturating_sub(1);
        }
        Some(item)
    }

    /// Goes through the next run, whose rest joins the run before it if that has room.
    fn sweep(&mut self, is_wanted: impl FnMut(&T) -> bool) {
        if self.next_swept >= self.runs.len() {
            self.next_swept = 0;
        }
        let at = self.next_swept;
        let Some(run) = self.runs.get_mut(at) else { return };
        let before = run.len();
        run.retain(is_wanted);
        let left = run.len();
        self.len -= before - left;
        self.next_swept += 1;
        let has_room = at.checked_sub(1).is_some_and(|before| self.runs[before].len() + left <= RUN_MAX);
        if (left == 0 || has_room)
            && let Some(mut run) = self.runs.remove(at)
        {
            self.next_swept = at;
            if left > 0 {
                self.runs[at - 1].append(&mut run);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::suite::Random;

    #[test]
    fn what_is_left_goes_out_in_its_order() {
        let mut random = Random::new(1);
        let (mut fifo, mut model) = (Fifo::default(), VecDeque::new());
        for number in 0..100_000_u64 {
            match random.below(8) {
                0 => assert_eq!(fifo.pop_front(), model.pop_front()),
                1 if number % 64 == 1 => {
                    // All runs are swept, one after the other, and so all that is unwanted goes.
                    let unwanted = random.below(5);
                    for _ in 0..2 * fifo.runs.len() + 2 {
                        fifo.sweep(|number| number % 5 != unwanted);
                    }
                    model.retain(|number| number % 5 != unwanted);
                    assert!(fifo.runs.len() <= 2 + 2 * fifo.len / RUN_MAX, "{} runs", fifo.runs.len());
                }
                _ => {
                    fifo.push_back(number);
                    model.push_back(number);
                }
            }
            assert_eq!(fifo.len, model.len());
            assert!(fifo.runs.iter().all(|run| !run.is_empty() && run.len() <= RUN_MAX));
        }
        while let Some(number) = model.pop_front() {
            assert_eq!(fifo.pop_front(), Some(number));
        }
        assert_eq!(fifo.pop_front(), None);
    }
}
