//! Chance: which record is asked for next.
//!
//! Always: the same seed gives the same choices. The zipfian distribution is that of Gray et al., "Quickly Generating
//! Billion-Record Synthetic Databases", SIGMOD 1994, with the skew and the scattering of YCSB (Cooper et al., "Benchmarking Cloud
//! Serving Systems with YCSB", SoCC 2010): rank 0 is the most popular, and a hash says which record has which rank.

/// A small generator (SplitMix64, Steele et al. 2014).
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, by multiplication (Lemire 2019) rather than by a division.
    pub fn below(&mut self, end: u64) -> u64 {
        ((u128::from(self.draw()) * u128::from(end)) >> 64) as u64
    }

    /// A number from 0 up to, without, 1.
    pub fn unit(&mut self) -> f64 {
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// How popular records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Distribution {
    /// Few records get most requests, wherever they lie
    Zipfian,
    /// The newest get most requests
    Latest,
    /// All alike
    Uniform,
}

/// YCSB's skew.
pub const SKEW: f64 = 0.99;

/// Ranks by Zipf's law: rank r comes with a probability proportional to 1 / (r + 1)^[`SKEW`].
#[derive(Clone, Debug)]
pub struct Zipfian {
    items: u64,
    /// The sum of all those terms.
    zeta: f64,
    eta: f64,
}

const ALPHA: f64 = 1.0 / (1.0 - SKEW);

impl Zipfian {
    /// Adds up `items` terms: tens of milliseconds for a million.
    pub fn new(items: u64) -> Zipfian {
        let mut made = Zipfian { items: 0, zeta: 0.0, eta: 0.0 };
        made.grow(items.max(1));
        made
    }

    /// Goes over to more items, at the price of the added ones.
    pub fn grow(&mut self, items: u64) {
        if items <= self.items {
            return;
        }
        self.zeta += (self.items..items).map(|rank| term(rank + 1)).sum::<f64>();
        self.items = items;
        let two = term(1) + term(2);
        self.eta = (1.0 - (2.0 / items as f64).powf(1.0 - SKEW)) / (1.0 - two / self.zeta);
    }

    /// A rank below the number of items, 0 the most likely.
    pub fn rank(&self, random: &mut Random) -> u64 {
        let unit = random.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + term(2) {
            return 1.min(self.items - 1);
        }
        let rank = self.items as f64 * (self.eta * unit - self.eta + 1.0).powf(ALPHA);
        (rank as u64).min(self.items - 1)
    }
}

fn term(place: u64) -> f64 {
    (place as f64).powf(-SKEW)
}

/// Chooses among the records that are there.
#[derive(Clone, Debug)]
pub struct Chooser {
    distribution: Distribution,
    zipfian: Zipfian,
}

impl Chooser {
    pub fn new(distribution: Distribution, records: u64) -> Chooser {
        let ranks = match distribution {
            Distribution::Uniform => 1,
            Distribution::Zipfian | Distribution::Latest => records,
        };
        Chooser { distribution, zipfian: Zipfian::new(ranks) }
    }

    /// One of the records 0 to `records`, the newest last.
    pub fn choose(&mut self, records: u64, random: &mut Random) -> u64 {
        match self.distribution {
            Distribution::Uniform => random.below(records),
            Distribution::Zipfian => scatter(self.zipfian.rank(random)) % records,
            Distribution::Latest => {
                self.zipfian.grow(records);
                records - 1 - self.zipfian.rank(random).min(records - 1)
            }
        }
    }
}

/// FNV-1a over the eight bytes of a rank, as YCSB scatters them.
fn scatter(rank: u64) -> u64 {
    rank.to_le_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Counts of `draws` choices of a record.
    fn counts(distribution: Distribution, records: u64, draws: u64) -> Vec<u64> {
        let mut chooser = Chooser::new(distribution, records);
        let mut random = Random(7);
        let mut counts = vec![0; records as usize];
        for _ in 0..draws {
            counts[chooser.choose(records, &mut random) as usize] += 1;
        }
        counts
    }

    #[test]
    fn ranks_follow_zipfs_law() {
        const ITEMS: u64 = 1000;
        const DRAWS: u64 = 1_000_000;
        let zipfian = Zipfian::new(ITEMS);
        let mut random = Random(1);
        let mut counts = vec![0_u64; ITEMS as usize];
        for _ in 0..DRAWS {
            counts[zipfian.rank(&mut random) as usize] += 1;
        }
        // The two first ranks are exact; the others come from Gray's continuous approximation, which is right over ranges.
        let zeta: f64 = (1..=ITEMS).map(term).sum();
        for range in [0..1, 1..2, 2..10, 10..100, 100..500, 500..1000] {
            let expected: f64 = range.clone().map(|rank| term(rank + 1) / zeta).sum();
            let found: u64 = range.clone().map(|rank| counts[rank as usize]).sum();
            let share = found as f64 / DRAWS as f64;
            assert!(
                (share / expected - 1.0).abs() < 0.12,
                "ranks {range:?}: {share}, the law says {expected}"
            );
        }
    }

    #[test]
    fn growing_is_the_same_as_making_anew() {
        let mut grown = Zipfian::new(10);
        grown.grow(500);
        let made = Zipfian::new(500);
        assert!((grown.zeta - made.zeta).abs() < 1e-9 && (grown.eta - made.eta).abs() < 1e-9);
    }

    #[test]
    fn zipfian_scatters_the_popular_records() {
        let counts = counts(Distribution::Zipfian, 1000, 100_000);
        let mut sorted = counts.clone();
        sorted.sort_unstable_by(|a, b| b.cmp(a));
        assert!(sorted[..100].iter().sum::<u64>() > 50_000, "a tenth of the records gets most requests");
        assert!(counts[..10].iter().sum::<u64>() < 30_000, "and they do not lie together");
    }

    #[test]
    fn latest_prefers_the_newest() {
        let counts = counts(Distribution::Latest, 1000, 100_000);
        assert!(counts[999] > counts[998] && counts[998] > counts[900], "{:?}", &counts[990..]);
        assert!(counts[900..].iter().sum::<u64>() > 50_000);
    }

    #[test]
    fn uniform_treats_all_alike() {
        let counts = counts(Distribution::Uniform, 10, 100_000);
        assert!(counts.iter().all(|count| (9_500..10_500).contains(count)), "{counts:?}");
    }

    #[test]
    fn one_record_is_a_table_too() {
        for distribution in [Distribution::Zipfian, Distribution::Latest, Distribution::Uniform] {
            assert_eq!(counts(distribution, 1, 100), [100]);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_choices() {
        let draw = || {
            let mut random = Random(42);
            [random.draw(), random.below(100), random.below(1000)]
        };
        assert_eq!(draw(), draw());
    }
}
