//! What was measured: latencies by kind of operation and by second, and failures by kind.
//!
//! Always: a latency runs from when the request was meant to be sent, so that a stall counts for all that had to wait behind
//! it; a thread tells once a second what that second brought, also when it was nothing, so that seconds can be closed.

use std::collections::BTreeMap;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::dialect::Failure;

/// Latencies are counted in nanoseconds, to three digits, up to an hour.
pub type Latencies = Histogram<u64>;
const LATENCY_MAX_NS: u64 = 3_600_000_000_000;
const DIGITS: u8 = 3;
pub const INTERVAL: Duration = Duration::from_secs(1);

pub fn latencies() -> Latencies {
    Histogram::new_with_bounds(1, LATENCY_MAX_NS, DIGITS).expect("the bounds are sound")
}

/// Failures of one kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failed {
    pub count: u64,
    /// The words of the first.
    pub message: String,
}

pub type Failures = BTreeMap<&'static str, Failed>;

pub fn add_failure(failures: &mut Failures, failure: Failure, count: u64) {
    let entry = failures.entry(failure.kind).or_default();
    if entry.count == 0 {
        entry.message = failure.message;
    }
    entry.count += count;
}

/// A second of one thread.
#[derive(Clone, Debug)]
pub struct Interval {
    pub index: u64,
    /// By operation.
    pub latencies: Vec<Latencies>,
    pub failures: Failures,
    /// Requests that were due and could not be sent before the end; their waiting so far is among the latencies.
    pub unsent: u64,
}

/// One thread's measuring.
pub struct Recorder {
    current: Interval,
    /// What is due before this is warming up.
    measured_from: Instant,
    sender: Sender<Interval>,
    pub last_completion: Instant,
}

impl Recorder {
    pub fn new(operations: usize, measured_from: Instant, sender: Sender<Interval>) -> Recorder {
        let latencies = (0..operations).map(|_| latencies()).collect();
        let current = Interval { index: 0, latencies, failures: Failures::new(), unsent: 0 };
        Recorder { current, measured_from, sender, last_completion: measured_from }
    }

    /// The first second begins then.
    pub fn begin(&mut self, measured_from: Instant) {
        self.measured_from = measured_from;
        self.last_completion = measured_from;
    }

    /// A request that was due then is answered now.
    pub fn done(&mut self, operation: usize, due: Instant, now: Instant) {
        if due >= self.measured_from {
            self.tick(now);
            self.last_completion = self.last_completion.max(now);
            self.current.latencies[operation].saturating_record((now - due).as_nanos() as u64);
        }
    }

    pub fn failed(&mut self, failure: Failure) {
        add_failure(&mut self.current.failures, failure, 1);
    }

    /// A request that was due then has not been sent by the end.
    pub fn unsent(&mut self, operation: usize, due: Instant, end: Instant, count: u64) {
        if due >= self.measured_from {
            self.current.unsent += count;
            let waited = end.saturating_duration_since(due).as_nanos() as u64;
            self.current.latencies[operation].saturating_record_n(waited, count);
        }
    }

    /// Tells the seconds that are over.
    pub fn tick(&mut self, now: Instant) {
        while now.saturating_duration_since(self.measured_from) >= INTERVAL * (self.current.index as u32 + 1)
        {
            self.send();
        }
    }

    /// Tells what there is.
    pub fn finish(mut self) {
        self.send();
    }

    fn send(&mut self) {
        // Nobody listens any more when the run was given up.
        let _ = self.sender.send(self.current.clone());
        self.current.index += 1;
        self.current.latencies.iter_mut().for_each(Latencies::reset);
        self.current.failures.clear();
        self.current.unsent = 0;
    }
}

/// A second of all threads.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Second {
    pub second: u64,
    pub count: u64,
    pub errors: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

/// A run of all threads.
pub struct Totals {
    threads: usize,
    /// By operation.
    pub latencies: Vec<Latencies>,
    pub failures: Failures,
    pub unsent: u64,
    pub seconds: Vec<Second>,
    /// Seconds that some thread has not told yet.
    open: BTreeMap<u64, (usize, Latencies, u64)>,
}

impl Totals {
    pub fn new(operations: usize, threads: usize) -> Totals {
        let latencies = (0..operations).map(|_| latencies()).collect();
        let (failures, seconds, open) = (Failures::new(), Vec::new(), BTreeMap::new());
        Totals { threads, latencies, failures, unsent: 0, seconds, open }
    }

    /// Adds a second of a thread; gives the second of all when it was the last to tell.
    pub fn add(&mut self, interval: Interval) -> Option<Second> {
        let (told, all, errors) = self.open.entry(interval.index).or_insert_with(|| (0, latencies(), 0));
        *told += 1;
        for (total, part) in self.latencies.iter_mut().zip(&interval.latencies) {
            total.add(part).expect("all have the same bounds");
            all.add(part).expect("all have the same bounds");
        }
        for (kind, failed) in interval.failures {
            *errors += failed.count;
            add_failure(&mut self.failures, Failure { kind, message: failed.message }, failed.count);
        }
        self.unsent += interval.unsent;
        if *told < self.threads {
            return None;
        }
        let (_, all, errors) = self.open.remove(&interval.index)?;
        let second = second(interval.index, &all, errors);
        self.seconds.push(second);
        Some(second)
    }

    /// Closes the seconds that not every thread lived to tell.
    pub fn close(&mut self) {
        let open = std::mem::take(&mut self.open);
        let rest = open.iter().map(|(index, (_, all, errors))| second(*index, all, *errors));
        self.seconds.extend(rest.filter(|second| second.count + second.errors > 0));
        while self.seconds.last().is_some_and(|second| second.count + second.errors == 0) {
            self.seconds.pop();
        }
    }

    pub fn error_count(&self) -> u64 {
        self.failures.values().map(|failed| failed.count).sum()
    }
}

fn second(index: u64, all: &Latencies, errors: u64) -> Second {
    let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
    Second {
        second: index,
        count: all.len(),
        errors,
        p50_us: us(all.value_at_quantile(0.5)),
        p99_us: us(all.value_at_quantile(0.99)),
        max_us: us(all.max()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_closed_when_every_thread_has_told_them() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let from = Instant::now();
        let mut totals = Totals::new(1, 2);
        for thread in 0..2 {
            let mut recorder = Recorder::new(1, from, sender.clone());
            recorder.done(0, from, from + Duration::from_millis(10));
            recorder.done(0, from, from + Duration::from_millis(1500));
            recorder.done(0, from - Duration::from_millis(1), from + Duration::from_millis(1501));
            if thread == 1 {
                recorder.failed(Failure { kind: "query logic", message: "no".to_owned() });
            }
            recorder.finish();
        }
        drop(sender);
        let closed: Vec<Second> = receiver.iter().filter_map(|interval| totals.add(interval)).collect();
        let counts: Vec<(u64, u64, u64)> =
            closed.iter().map(|second| (second.second, second.count, second.errors)).collect();
        assert_eq!(counts, [(0, 2, 0), (1, 2, 1)], "what was due in the warm-up does not count");
        assert_eq!((totals.latencies[0].len(), totals.error_count()), (4, 1));
    }
}
