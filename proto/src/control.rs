//! Commands and reports between the control plane and the cores: plain data.
//!
//! The control thread never reads a core's state; it asks by message and gets a copy.

use crate::limits;

/// What the control plane may ask of a core. The channel they travel in belongs to the runtime.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CoreCommand {
    /// → [`CoreReport`]. Answering it also shows that the core is alive.
    Report,
    /// Stop accepting connections and finish what is in flight; the core answers when it has.
    Drain,
}

/// What kind of work a query was, for counting.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum QueryKind {
    Read,
    Write,
    /// Creates, drops, configures.
    Admin,
    /// Touches no table.
    Pure,
}

impl QueryKind {
    pub const ALL: [QueryKind; 4] = [QueryKind::Read, QueryKind::Write, QueryKind::Admin, QueryKind::Pure];

    pub fn name(self) -> &'static str {
        match self {
            QueryKind::Read => "read",
            QueryKind::Write => "write",
            QueryKind::Admin => "admin",
            QueryKind::Pure => "pure",
        }
    }
}

/// Counts by the power-of-two bucket of a duration: bucket `i` holds durations below 2^i microseconds that fit no
/// smaller bucket; the last one holds the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DurationHistogram {
    pub buckets: [u64; limits::DURATION_BUCKETS],
    pub sum_us: u64,
}

impl DurationHistogram {
    pub fn record(&mut self, duration_us: u64) {
        let bucket = (u64::BITS - duration_us.leading_zeros()) as usize;
        self.buckets[bucket.min(limits::DURATION_BUCKETS - 1)] += 1;
        self.sum_us += duration_us;
    }

    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

/// One core's figures since it started, and its sizes now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CoreReport {
    pub core: u16,
    /// Queries finished, in the order of [`QueryKind::ALL`].
    pub queries: [u64; 4],
    pub query_errors: u64,
    pub query_duration: DurationHistogram,
    pub connections_open: u64,
    pub connections_total: u64,
    pub queries_in_flight: u64,
    pub cursors_open: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub feeds_open: u64,
    pub feed_elements_waiting: u64,
    /// Memory of the changes that wait.
    pub feed_bytes_waiting: u64,
    pub feed_elements_delivered: u64,
    pub feed_elements_skipped: u64,
    pub cache_hits: u64,
    pub cache_misses: u64,
    pub cache_bytes: u64,
    pub dirty_bytes: u64,
    pub disk_bytes: u64,
    pub change_log_bytes: u64,
    pub change_log_segments: u64,
    /// Milliseconds since 1970; 0 without any.
    pub change_log_since_ms: u64,
    pub wal_flushes: u64,
    pub wal_bytes: u64,
    pub wal_flush_duration: DurationHistogram,
    /// How long a task that can run waits for its turn.
    pub foreground_wait: DurationHistogram,
    /// How long background work rests after a slice.
    pub background_wait: DurationHistogram,
    pub checkpoints: u64,
    /// Requests waiting in the rings towards this core, by the core that sent them.
    pub queue_depths: Vec<u64>,
    pub shards: u64,
    pub stores: u64,
    pub catalog_epoch: u64,
    /// Why a store of this core accepts no writes, if one does not.
    pub read_only: Option<String>,
    /// What a store of this core lacks room for, if writes were refused for it.
    pub disk_full: Option<String>,
}
