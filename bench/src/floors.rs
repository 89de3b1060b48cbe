//! The table of what PhotonDB must reach: each row a command line of the load generator, with RethinkDB's figure on the
//! machine where the floors were set, and the rule that makes a floor of it on this one.
//!
//! Machines differ, so a floor is RethinkDB's figure x the ratio x (Redis GET of this run / 87,600); for hard writes the last
//! factor is (SET with appendfsync always of this run / 40,000). Some rows are ratios to Redis itself.

/// Redis GET, and SET with appendfsync always, on the machine where the floors were set.
pub const REDIS_GET: f64 = 87_600.0;
pub const REDIS_HARD_SET: f64 = 40_000.0;
/// Megabytes beyond its cache that a server may hold.
pub const MEMORY_BEYOND_CACHE: f64 = 64.0;

/// Redis' figures of a run, operations a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Redis {
    pub get: f64,
    /// GET with 16 connections of 16 in flight.
    pub get_many: f64,
    pub hard_set: f64,
}

/// What a figure is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    PerSecond,
    DocumentsPerSecond,
    /// Of one operation: less is better.
    Milliseconds,
    /// Resident: less is better.
    Megabytes,
}

/// How a floor comes about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floor {
    /// So many times Redis' GET of this run.
    OfGet(f64),
    OfGetMany(f64),
    OfHardSet(f64),
    /// So many times RethinkDB's figure, scaled by GET,
    OfRethinkDb(f64),
    /// or by the hard SET.
    OfRethinkDbHard(f64),
    /// The cache and something beyond.
    CacheAndMore,
}

pub struct Row {
    pub work: &'static str,
    /// The load generator's arguments; none for what is not asked of it.
    pub line: &'static str,
    /// The operation of its report that counts.
    pub operation: &'static str,
    pub unit: Unit,
    pub rethinkdb: f64,
    pub floor: Floor,
    pub p99_ms_max: Option<f64>,
}

const fn row(
    work: &'static str,
    line: &'static str,
    operation: &'static str,
    rethinkdb: f64,
    floor: Floor,
) -> Row {
    Row { work, line, operation, unit: Unit::PerSecond, rethinkdb, floor, p99_ms_max: None }
}

/// Those that only read come first, so that they find the table as it was loaded.
pub static ROWS: &[Row] = &[
    Row {
        unit: Unit::Megabytes,
        ..row("resident memory, idle, 200,000 documents loaded", "", "", 540.0, Floor::CacheAndMore)
    },
    row("`r.expr(1).add(2)`", "ping", "ping", 40_200.0, Floor::OfRethinkDb(2.2)),
    row("`get` by primary key", "get", "read", 16_500.0, Floor::OfGet(0.75)),
    row(
        "the same, 16 connections, 16 in flight each",
        "get -c 16 -f 16",
        "read",
        16_800.0,
        Floor::OfGetMany(0.5),
    ),
    row("`between` on the primary key, first 50 in order", "range", "range", 616.0, Floor::OfRethinkDb(15.0)),
    Row {
        unit: Unit::Milliseconds,
        ..row(
            "`filter(n >= N/2).count()` over 200,000",
            "filter",
            "filter",
            1_700.0,
            Floor::OfRethinkDb(40.0),
        )
    },
    Row {
        unit: Unit::Milliseconds,
        ..row("`group(n % 10).avg('n')` over 200,000", "group", "group", 1_820.0, Floor::OfRethinkDb(30.0))
    },
    row(
        "connect, handshake (V0_4), one query, close",
        "churn --handshake v0_4",
        "connection",
        4_160.0,
        Floor::OfRethinkDb(3.0),
    ),
    row("YCSB-A", "ycsb-a", "all", 2_340.0, Floor::OfRethinkDb(18.0)),
    Row {
        p99_ms_max: Some(10.0),
        ..row("`update` one field, hard durability", "update", "update", 1_880.0, Floor::OfHardSet(0.85))
    },
    Row {
        p99_ms_max: Some(10.0),
        ..row("`insert`, hard durability", "insert", "insert", 1_650.0, Floor::OfRethinkDbHard(20.0))
    },
    row("`insert`, soft durability", "insert --durability soft", "insert", 1_850.0, Floor::OfRethinkDb(22.0)),
    row(
        "100 feeds on a table, one writer",
        "feeds --table feeds",
        "delivery",
        16_000.0,
        Floor::OfRethinkDb(12.0),
    ),
    Row {
        unit: Unit::DocumentsPerSecond,
        ..row(
            "bulk load, batches of 200, soft, one secondary index",
            "load --table indexed --index --fresh",
            "load",
            6_050.0,
            Floor::OfRethinkDb(13.0),
        )
    },
    row(
        "`get_all` on a secondary index, limit 50",
        "index --table indexed",
        "index",
        724.0,
        Floor::OfRethinkDb(15.0),
    ),
];

impl Row {
    pub fn is_less_better(&self) -> bool {
        matches!(self.unit, Unit::Milliseconds | Unit::Megabytes)
    }

    /// What must be reached in a run; for times and memory, what must not be passed.
    pub fn must_reach(&self, redis: Redis, cache_megabytes: f64) -> f64 {
        let scaled = |ratio: f64, scale: f64| {
            if self.is_less_better() {
                self.rethinkdb / ratio / scale
            } else {
                self.rethinkdb * ratio * scale
            }
        };
        match self.floor {
            Floor::OfGet(ratio) => ratio * redis.get,
            Floor::OfGetMany(ratio) => ratio * redis.get_many,
            Floor::OfHardSet(ratio) => ratio * redis.hard_set,
            Floor::OfRethinkDb(ratio) => scaled(ratio, redis.get / REDIS_GET),
            Floor::OfRethinkDbHard(ratio) => scaled(ratio, redis.hard_set / REDIS_HARD_SET),
            Floor::CacheAndMore => cache_megabytes + MEMORY_BEYOND_CACHE,
        }
    }

    /// How far a figure is beyond the floor: 1 and more reaches it.
    pub fn reached(&self, figure: f64, must_reach: f64) -> f64 {
        if self.is_less_better() { must_reach / figure } else { figure / must_reach }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AS_WHEN_SET: Redis = Redis { get: REDIS_GET, get_many: 606_000.0, hard_set: REDIS_HARD_SET };

    #[track_caller]
    fn check(line: &str, redis: Redis, want: f64) {
        let row = ROWS.iter().find(|row| row.line == line).expect(line);
        let found = row.must_reach(redis, 512.0);
        assert!((found / want - 1.0).abs() < 1e-9, "{line}: {found}");
    }

    #[test]
    fn floors_follow_their_rules() {
        let twice = Redis { get: 2.0 * REDIS_GET, get_many: 1_000_000.0, hard_set: REDIS_HARD_SET };
        check("ping", AS_WHEN_SET, 2.2 * 40_200.0);
        check("ping", twice, 4.4 * 40_200.0);
        check("get", twice, 1.5 * REDIS_GET);
        check("get -c 16 -f 16", twice, 500_000.0);
        check("insert", twice, 33_000.0);
        check("update", twice, 34_000.0);
        check("filter", AS_WHEN_SET, 42.5);
        check("filter", twice, 21.25);
        check("", twice, 576.0);
    }

    #[test]
    fn less_is_better_for_times_and_memory() {
        let filter = ROWS.iter().find(|row| row.line == "filter").expect("a row");
        assert!(filter.reached(40.0, 42.5) > 1.0 && filter.reached(50.0, 42.5) < 1.0);
        assert!(ROWS[1].reached(100.0, 90.0) > 1.0);
    }
}
