//! Kinds of requests, and which is sent how often.

use crate::choose::Random;
use crate::template::Template;

/// The records that an operation is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Records {
    /// One that is there, by the distribution.
    Existing,
    /// So many new ones.
    New(u64),
    /// The next so many of those that `load` writes.
    Loaded(u64),
}

/// What an answer must be to count as a success.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Expect {
    /// No error.
    Any,
    /// Not null: the document is there.
    Value,
    /// A write result without errors.
    Written,
    /// A changefeed: it goes on until the end, and its changes are what counts.
    #[serde(skip)]
    Feed,
}

/// One kind of request.
#[derive(Clone, Debug)]
pub struct Operation {
    pub name: String,
    pub weight: u32,
    pub records: Records,
    /// Sent one after the other, each when the one before is answered; they count as one.
    pub steps: Vec<Template>,
    pub expect: Expect,
}

impl Operation {
    /// Documents that one operation writes, where that is what counts.
    pub fn documents(&self) -> u64 {
        match self.records {
            Records::Existing => 1,
            Records::New(count) | Records::Loaded(count) => count,
        }
    }
}

/// Draws operations by their weights.
#[derive(Clone, Debug)]
pub struct Dice {
    /// The sums of the weights up to each.
    sums: Vec<u64>,
}

impl Dice {
    pub fn new(weights: impl Iterator<Item = u32>) -> Dice {
        let mut sum = 0;
        let sums = weights.map(|weight| {
            sum += u64::from(weight);
            sum
        });
        Dice { sums: sums.collect() }
    }

    pub fn throw(&self, random: &mut Random) -> usize {
        let [.., total] = self.sums.as_slice() else { return 0 };
        if self.sums.len() == 1 {
            return 0;
        }
        let drawn = random.below(*total);
        self.sums.partition_point(|sum| *sum <= drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_come_as_often_as_they_weigh() {
        let dice = Dice::new([50, 0, 45, 5].into_iter());
        let mut random = Random(1);
        let mut counts = [0_u32; 4];
        for _ in 0..100_000 {
            counts[dice.throw(&mut random)] += 1;
        }
        assert_eq!(counts[1], 0);
        for (count, want) in counts.iter().zip([50_000_i32, 0, 45_000, 5_000]) {
            assert!((count.cast_signed() - want).abs() < 1_000, "{counts:?}");
        }
    }
}
