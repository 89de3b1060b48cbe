//! A count and how fast it grows.

use std::cell::Cell;
use std::time::Duration;

/// Rates are over at least this long.
const INTERVAL: Duration = Duration::from_secs(1);

/// Counting costs an addition; the rate is worked out when it is asked for.
#[derive(Debug, Default)]
pub struct Meter {
    total: Cell<u64>,
    /// When the rate was last worked out, and the count then.
    seen: Cell<(Duration, u64)>,
    per_second: Cell<f64>,
}

impl Meter {
    pub fn add(&self, count: u64) {
        self.total.set(self.total.get() + count);
    }

    /// Takes over a total that is counted elsewhere.
    pub fn raise_to(&self, total: u64) {
        self.total.set(total.max(self.total.get()));
    }

    pub fn total(&self) -> u64 {
        self.total.get()
    }

    /// The rate over the time since it was last worked out, at least [`INTERVAL`] ago.
    pub fn per_second(&self, now: Duration) -> f64 {
        let (at, count) = self.seen.get();
        let passed = now.saturating_sub(at);
        if passed >= INTERVAL {
            self.per_second.set((self.total.get() - count) as f64 / passed.as_secs_f64());
            self.seen.set((now, self.total.get()));
        }
        self.per_second.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_that_of_the_time_since_it_was_last_asked_for() {
        let meter = Meter::default();
        meter.add(10);
        for (milliseconds, added, want) in
            [(500, 0, 0.0), (2000, 5, 5.0), (2500, 100, 5.0), (4000, 0, 52.5), (5000, 0, 0.0)]
        {
            let rate = meter.per_second(Duration::from_millis(milliseconds));
            assert_eq!(rate, want, "after {milliseconds} ms");
            meter.add(added);
        }
        assert_eq!(meter.total(), 115);
    }
}
