//! One core: its stores, its copy of the catalog, its mailbox, its figures.
//!
//! Always: everything here is touched by one thread. What other cores want comes as a [`Request`] and is answered by
//! `route.rs`; what the control plane wants comes through the command channel. A core that owns store 0 owns the catalog.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use photondb_proto::control::{CoreReport, DurationHistogram, QueryKind};
use photondb_proto::error::QueryError;
use photondb_proto::op::CatalogReply;
use photondb_proto::op::ReadMode;
use photondb_proto::op::{
    CatalogOp, Document, IndexId, RowOutcome, TableId, TableRead, TableReply, TableWrite,
};
use photondb_proto::term::parse::Parser;
use photondb_proto::wire::scram::Credential;
use photondb_storage::changelog::Retention;
use photondb_storage::engine::{Lsn, StorageEngine, StorageError, StorageStats, TreeId};

use crate::OutsideJob;
use crate::ServerFacts;
use crate::admission::{Budget, Turnstile, Watchers};
use crate::behind::{self, Classes, behind};
use crate::catalog::{self, Catalog, Record, Table};
use crate::env::Env;
use crate::feed::{FeedAnswer, FeedRequest, Listening, Publishing};
use crate::jobs::{Jobs, RunningQuery};
use crate::mesh::Mesh;
use crate::meter::Meter;
use crate::questions::Questions;
use crate::scan::Pace;
use crate::scratch::Scratch;
use crate::table::{OpenStore, TableFigures, Tables};

/// What a core asks of another.
pub enum Request {
    /// This part of a read: rows of the peer's shards only.
    Read {
        epoch: u64,
        table: TableId,
        read: TableRead,
        mode: ReadMode,
    },
    /// Rows of the peer's shards only.
    Write {
        epoch: u64,
        table: TableId,
        write: TableWrite,
    },
    /// A change of the catalog, for its owner.
    Catalog(CatalogOp),
    /// A write to a system table on a user's behalf, for the catalog's owner.
    SystemWrite {
        table: TableId,
        write: TableWrite,
        user: String,
    },
    /// The catalog has changed: take this over.
    Follow(Vec<Record>),
    Feed(FeedRequest),
    /// Construct the peer's part of an index.
    Construct {
        table: TableId,
        index: IndexId,
    },
    /// How far the peer's parts of a table's indexes are.
    Progress {
        epoch: u64,
        table: TableId,
    },
    /// For a system table.
    Tell(Question),
}

/// What a system table needs of every core.
#[derive(Clone, Copy, Debug)]
pub enum Question {
    Figures,
    Queries,
    /// The rows of `_debug_scratch`, which the catalog's owner keeps.
    Scratch,
    /// Interrupts the query with that number.
    Interrupt(u64),
}

/// The answer to a [`Question`] of the same name.
#[derive(Clone, Debug)]
pub enum Told {
    Figures(Box<CoreFigures>),
    Queries(Vec<RunningQuery>, Vec<Construction>),
    Scratch(Vec<Document>),
    /// Whether there was such a query.
    Interrupt(bool),
}

/// How far this core's part of an index is, in rows.
#[derive(Clone, Debug)]
pub struct Construction {
    pub table: TableId,
    pub index: IndexId,
    pub done: u64,
    pub total: u64,
}

/// A core's figures with those of its tables.
#[derive(Clone, Debug)]
pub struct CoreFigures {
    pub report: CoreReport,
    pub queries_per_second: f64,
    /// Clients with a query under way.
    pub clients_active: u64,
    pub tables: Vec<TableFigures>,
}

/// What comes back.
pub enum Answer {
    Read(Result<TableReply, QueryError>),
    Write(Result<Vec<RowOutcome>, QueryError>),
    Catalog(Result<CatalogReply, QueryError>),
    Followed,
    /// The peer's part of the index is whole and durable.
    Constructed(Result<(), QueryError>),
    /// Rows done and rows in all, of each index of the table.
    Progress(Vec<(IndexId, u64, u64)>),
    Told(Told),
    Feed(FeedAnswer),
    /// The request was made with an older catalog than the peer's, whose epoch this is: nothing was done.
    Stale {
        epoch: u64,
        request: Box<Request>,
    },
}

/// Slow work for ordinary threads: what takes more than a millisecond of pure CPU, as PBKDF2 does.
pub type SlowWork = Box<dyn FnOnce() + Send>;

/// How long a soft write waits for its flush.
const SOFT_FLUSH_REST: Duration = Duration::from_millis(100);

/// A core's figures.
#[derive(Default)]
pub struct Figures {
    pub queries: [Cell<u64>; 4],
    pub queries_ended: Meter,
    pub query_errors: Cell<u64>,
    pub query_duration: RefCell<DurationHistogram>,
    /// How long writers and the soft flush waited for the log.
    pub flush_duration: RefCell<DurationHistogram>,
    pub classes: Rc<Classes>,
    /// Why a store takes no writes any more.
    pub read_only: RefCell<Option<String>>,
    pub connections_open: Cell<u64>,
    pub connections_total: Cell<u64>,
    pub queries_in_flight: Cell<u64>,
    pub cursors_open: Cell<u64>,
    pub bytes_received: Cell<u64>,
    pub bytes_sent: Cell<u64>,
}

/// Adds to a counter.
pub fn add(counter: &Cell<u64>, count: u64) {
    counter.set(counter.get() + count);
}

impl Figures {
    pub fn query_ended(&self, kind: QueryKind, duration_us: u64) {
        let place = QueryKind::ALL.iter().position(|other| *other == kind).expect("every kind is listed");
        add(&self.queries[place], 1);
        self.queries_ended.add(1);
        self.query_duration.borrow_mut().record(duration_us);
    }
}

/// What a core keeps of the catalog's home, if store 0 is its own.
pub struct CatalogOwner {
    pub tree: TreeId,
    /// One change at a time.
    pub turnstile: Turnstile,
    /// Indexes whose construction is under way.
    pub constructing: RefCell<HashSet<IndexId>>,
    pub scratch: Scratch,
}

/// One core.
pub struct Core<E: Env> {
    pub number: u16,
    pub env: E,
    pub mesh: Rc<Mesh<Request, Answer>>,
    catalog: RefCell<Rc<Catalog>>,
    /// Tasks that wait for a newer catalog.
    pub catalog_watchers: Watchers,
    pub owner: Option<CatalogOwner>,
    pub tables: Tables<E::Store>,
    tends_change_logs: Cell<bool>,
    /// Stores of all cores.
    pub stores: u16,
    pub figures: Figures,
    /// One index is constructed at a time.
    pub constructing: Turnstile,
    pub jobs: Jobs,
    /// What is told of the server that does not change while it runs.
    pub server: Arc<ServerFacts>,
    /// The port it listens on, once it does.
    pub driver_port: Cell<u16>,
    /// A flush of soft writes is on its way.
    flush_planned: Cell<bool>,
    pub budget: Rc<Budget>,
    /// What scans of geo indexes asked last.
    pub questions: Questions,
    pub publishing: Publishing,
    pub listening: Listening,
    pub slow_work: flume::Sender<SlowWork>,
    /// Rounds of PBKDF2 for a new password.
    pub password_iterations: u32,
    /// Scripts and HTTP requests, for the control side.
    pub outside: flume::Sender<OutsideJob>,
    /// Keys that were checked, by user: PBKDF2 is not run again while the credential stays.
    pub checked_keys: RefCell<HashMap<Vec<u8>, Credential>>,
    /// No new connections and queries.
    pub draining: Cell<bool>,
    /// Woken when draining begins.
    pub drain_watchers: Watchers,
    /// Woken when a connection ends.
    pub end_watchers: Watchers,
    pub parser: RefCell<Parser>,
    /// Where replies are gathered that are known at once.
    pub reply_scratch: RefCell<Vec<u8>>,
    /// Where sockets are read into, one at a time.
    pub scratch: RefCell<Box<[u8]>>,
}

/// What a core is made of.
pub struct CoreParts<E: Env> {
    pub number: u16,
    pub env: E,
    pub mesh: Rc<Mesh<Request, Answer>>,
    pub catalog: Catalog,
    pub owner: Option<CatalogOwner>,
    pub own_stores: BTreeMap<u16, Rc<OpenStore<E::Store>>>,
    pub stores: u16,
    pub query_memory_bytes: u64,
    /// What is kept of the changes of each table.
    pub change_log: Option<Retention>,
    pub slow_work: flume::Sender<SlowWork>,
    pub classes: Rc<Classes>,
    pub password_iterations: u32,
    pub outside: flume::Sender<OutsideJob>,
    pub server: Arc<ServerFacts>,
}

/// Between two measurements of how long a task waits for its turn; on a core that does nothing, longer.
const PROBE_REST: Duration = Duration::from_millis(100);
const IDLE_PROBE_REST: Duration = Duration::from_secs(2);
/// What waits for a checkpoint waits at most twice as long.
const SETTLE_PAUSE: Duration = Duration::from_secs(10);
/// Between two looks at what change logs keep beyond its age.
const CHANGE_LOG_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at what is left of a dropped table.
const LEFT_TREES_REST: Duration = Duration::from_secs(1);
/// Bytes read from a socket at a time.
const SCRATCH_BYTES: usize = 64 << 10;

impl<E: Env> Core<E> {
    pub fn new(parts: CoreParts<E>) -> Rc<Core<E>> {
        Rc::new(Core {
            number: parts.number,
            env: parts.env,
            mesh: parts.mesh,
            catalog: RefCell::new(Rc::new(parts.catalog)),
            catalog_watchers: Watchers::default(),
            owner: parts.owner,
            tables: Tables::new(parts.own_stores, parts.change_log),
            tends_change_logs: Cell::new(false),
            stores: parts.stores,
            figures: Figures { classes: parts.classes, ..Figures::default() },
            constructing: Turnstile::default(),
            jobs: Jobs::default(),
            server: parts.server,
            driver_port: Cell::new(0),
            flush_planned: Cell::new(false),
            budget: Budget::new(parts.query_memory_bytes),
            questions: Questions::default(),
            publishing: Publishing::default(),
            listening: Listening::default(),
            slow_work: parts.slow_work,
            password_iterations: parts.password_iterations,
            outside: parts.outside,
            checked_keys: RefCell::default(),
            draining: Cell::new(false),
            drain_watchers: Watchers::default(),
            end_watchers: Watchers::default(),
            parser: RefCell::default(),
            reply_scratch: RefCell::default(),
            scratch: RefCell::new(vec![0; SCRATCH_BYTES].into_boxed_slice()),
        })
    }

    /// This core's copy of the catalog as it is now.
    pub fn catalog(&self) -> Rc<Catalog> {
        self.catalog.borrow().clone()
    }

    pub fn epoch(&self) -> u64 {
        self.catalog.borrow().epoch()
    }

    /// The core that holds the row of a table under `key`.
    pub fn home(&self, table: &Table, key: &[u8]) -> u16 {
        let shard = photondb_proto::datum::key::shard_of(key, table.shards());
        self.core_of(table.placement[usize::from(shard)])
    }

    /// The cores that hold shards of the table, ascending.
    pub fn homes(&self, table: &Table) -> Vec<u16> {
        let mut homes: Vec<u16> = table.placement.iter().map(|store| self.core_of(*store)).collect();
        homes.sort_unstable();
        homes.dedup();
        homes
    }

    /// The core whose store `store` is.
    pub fn core_of(&self, store: u16) -> u16 {
        store % self.mesh.cores()
    }

    /// Takes over a change of the catalog and lets go of what is gone.
    ///
    /// What it costs grows with the change and with the feeds, not with the tables that there are.
    pub fn follow(self: &Rc<Self>, records: &[Record]) {
        let changed = catalog::tables_of(records);
        let before = self.catalog().tables_among(&changed);
        {
            let mut catalog = self.catalog.borrow_mut();
            // We planned these records or a peer did: they are ours to understand.
            Rc::make_mut(&mut catalog)
                .apply(records)
                .expect("a change of the catalog is understood by its own program");
        }
        let after = self.catalog().tables_among(&changed);
        self.tables.follow(&self.catalog(), &changed);
        if !before.is_empty() {
            let core = self.clone();
            self.spawn_behind(async move {
                core.drop_left_of(&before).await;
                // Whoever wrote to a table while it went may have made a tree of it since.
                core.env.sleep(LEFT_TREES_REST).await;
                core.drop_left_of(&before).await;
            });
        }
        for store in self.tables.stores.values().filter(|store| !store.engine.change_logs().is_empty()) {
            let (core, store) = (self.clone(), store.clone());
            self.spawn_behind(async move {
                match store.drop_logs(&core.catalog(), core.tables.retention()).await {
                    Ok(dropped) => dropped.into_iter().for_each(|table| core.tables.unsettle(table)),
                    Err(error) => {
                        tracing::error!(store = store.number, %error, "changes of a dropped table could not be removed yet");
                    }
                }
            });
        }
        self.tend_change_logs_of(&after);
        self.publishing.follow(&self.catalog());
        self.listening.follow(&self.catalog());
        self.catalog_watchers.wake_all();
    }

    /// Does work behind all that somebody waits for.
    pub fn spawn_behind(&self, work: impl Future<Output = ()> + 'static) {
        self.env.spawn(behind(&self.env, &self.figures.classes, work));
    }

    /// To be waited for by what has held the core for so long without a wait: see [`crate::behind`].
    pub async fn rest(&self, held: Duration) {
        behind::rest(&self.env, &self.figures.classes, held).await;
    }

    /// Measures how long a task waits for its turn, until the core ends.
    pub async fn measure_turns(self: Rc<Self>) {
        let mut queries = 0;
        while !self.draining.get() {
            let before = self.env.elapsed();
            self.env.next_turn().await;
            behind::record(&self.figures.classes.foreground, self.env.elapsed().saturating_sub(before));
            let now: u64 = self.figures.queries.iter().map(Cell::get).sum();
            let is_idle = std::mem::replace(&mut queries, now) == now;
            self.env.sleep(if is_idle { IDLE_PROBE_REST } else { PROBE_REST }).await;
        }
    }

    /// Has each store write its checkpoint in time, though little is written.
    pub async fn settle_stores(self: Rc<Self>) {
        while !self.draining.get() {
            self.env.sleep(SETTLE_PAUSE).await;
            self.tables.stores.values().for_each(|store| store.engine.settle());
        }
    }

    /// Drops the trees of tables that the catalog does not have any more, and so of their shards and indexes.
    async fn drop_left_of(self: &Rc<Self>, tables: &[Rc<Table>]) {
        let mut pace = Pace::new(self);
        for table in tables {
            for (store, tree) in self.tables.left_of(table, &self.catalog()) {
                if let Err(error) = store.engine.drop_tree(tree).await {
                    tracing::error!(store = store.number, %error, "a dropped table could not be removed yet");
                }
            }
            pace.keep().await;
        }
    }

    /// From now on looks after change logs, if changes of some table are kept.
    pub fn tend_change_logs(self: &Rc<Self>) {
        let tables: Vec<Rc<Table>> = self.catalog().tables().cloned().collect();
        self.tend_change_logs_of(&tables);
    }

    fn tend_change_logs_of(self: &Rc<Self>, tables: &[Rc<Table>]) {
        if !self.tables.keep_any(tables) || self.tends_change_logs.replace(true) {
            return;
        }
        let core = self.clone();
        self.spawn_behind(async move {
            while !core.draining.get() {
                core.env.sleep(CHANGE_LOG_PAUSE).await;
                for store in core.tables.stores.values() {
                    store.engine.tend_change_logs(core.env.unix_ms()).await;
                }
            }
        });
    }

    /// Waits until a store's log is durable up to `lsn`.
    ///
    /// # Errors
    /// The store's.
    pub async fn flush(&self, store: &OpenStore<E::Store>, lsn: Lsn) -> Result<(), StorageError> {
        let began = self.env.elapsed();
        let flushed = store.engine.flushed(lsn).await;
        let took = self.env.elapsed() - began;
        self.figures.flush_duration.borrow_mut().record(took.as_micros() as u64);
        if flushed.is_ok() {
            self.publishing.flushed(store.number, lsn);
        }
        if let Err(StorageError::ReadOnly { reason }) = &flushed {
            *self.figures.read_only.borrow_mut() = Some(format!("store {}: {reason}", store.number));
        }
        flushed
    }

    /// Has slow work done by an ordinary thread; `None` when there is none any more.
    pub async fn slowly<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (done, result) = flume::bounded(1);
        let work: SlowWork = Box::new(move || {
            // Who has gone does not wait for the result.
            let _ = done.send(work());
        });
        self.slow_work.send_async(work).await.ok()?;
        self.env.heard(result.recv_async()).await.ok()
    }

    /// Makes the soft writes so far, and those of the next [`SOFT_FLUSH_REST`], durable though nobody waits for them: a crash
    /// loses no more than those.
    pub fn flush_soon(self: &Rc<Self>) {
        if self.flush_planned.replace(true) {
            return;
        }
        let core = self.clone();
        self.env.spawn(async move {
            core.env.sleep(SOFT_FLUSH_REST).await;
            core.flush_planned.set(false);
            for store in core.tables.stores.values() {
                // Whoever writes next hears of a failure; the store itself has logged it.
                if let Err(error) = core.flush(store, store.engine.applied()).await {
                    tracing::debug!(store = store.number, %error, "soft writes are not durable");
                }
            }
        });
    }

    /// The indexes that are being constructed.
    fn constructions(&self) -> Vec<Construction> {
        let catalog = self.catalog();
        let mut constructions = Vec::new();
        for table in catalog.tables().filter(|table| table.indexes.iter().any(|index| !index.ready)) {
            let local = self.tables.local(table);
            for index in table.indexes.iter().filter(|index| !index.ready) {
                let Some(part) = local.index(index.id) else { continue };
                constructions.push(Construction {
                    table: table.id,
                    index: index.id,
                    done: part.progress.done.get(),
                    total: part.progress.total.get(),
                });
            }
        }
        constructions
    }

    /// Answers a question for a system table.
    pub fn tell(&self, question: Question) -> Told {
        let now = self.env.elapsed();
        match question {
            Question::Queries => Told::Queries(self.jobs.told(self.number, now), self.constructions()),
            Question::Scratch => {
                Told::Scratch(self.owner.as_ref().map(|owner| owner.scratch.documents()).unwrap_or_default())
            }
            Question::Interrupt(number) => Told::Interrupt(self.jobs.interrupt(number)),
            Question::Figures => Told::Figures(Box::new(CoreFigures {
                report: self.report(),
                queries_per_second: self.figures.queries_ended.per_second(now),
                clients_active: self.figures.queries_in_flight.get().min(self.figures.connections_open.get()),
                tables: self.tables.figures(now),
            })),
        }
    }

    /// The core's figures for the control plane.
    pub fn report(&self) -> CoreReport {
        let figures = &self.figures;
        let mut report = CoreReport {
            core: self.number,
            queries: std::array::from_fn(|kind| figures.queries[kind].get()),
            query_errors: figures.query_errors.get(),
            query_duration: figures.query_duration.borrow().clone(),
            wal_flush_duration: figures.flush_duration.borrow().clone(),
            foreground_wait: figures.classes.foreground.borrow().clone(),
            background_wait: figures.classes.background.borrow().clone(),
            read_only: figures.read_only.borrow().clone(),
            connections_open: figures.connections_open.get(),
            connections_total: figures.connections_total.get(),
            queries_in_flight: figures.queries_in_flight.get(),
            cursors_open: figures.cursors_open.get(),
            bytes_received: figures.bytes_received.get(),
            bytes_sent: figures.bytes_sent.get(),
            feeds_open: self.listening.len() as u64,
            feed_elements_waiting: self.listening.waiting() as u64,
            feed_bytes_waiting: self.listening.waiting_bytes(),
            feed_elements_delivered: self.listening.delivered.get(),
            feed_elements_skipped: self.listening.skipped.get(),
            queue_depths: self.mesh.depths(),
            shards: self.tables.shard_count() as u64,
            stores: self.tables.stores.len() as u64,
            catalog_epoch: self.epoch(),
            ..CoreReport::default()
        };
        for store in self.tables.stores.values() {
            add_store(&mut report, &store.engine.stats());
            report.disk_full = report
                .disk_full
                .or_else(|| Some(format!("store {}: {}", store.number, store.engine.full()?)));
            // Also of stores that failed while nobody waited for a flush.
            if let Some(StorageError::ReadOnly { reason }) = store.engine.failure() {
                report.read_only = Some(format!("store {}: {reason}", store.number));
            }
        }
        report
    }
}

fn add_store(report: &mut CoreReport, stats: &StorageStats) {
    report.cache_hits += stats.cache_hits;
    report.cache_misses += stats.cache_misses;
    report.cache_bytes += stats.cache_bytes;
    report.dirty_bytes += stats.dirty_bytes;
    report.disk_bytes += stats.disk_bytes;
    report.change_log_bytes += stats.change_logs.bytes;
    report.change_log_segments += stats.change_logs.segments;
    if let Some(since_ms) = stats.change_logs.since_ms {
        let oldest = &mut report.change_log_since_ms;
        *oldest = if *oldest == 0 { since_ms } else { since_ms.min(*oldest) };
    }
    report.wal_flushes += stats.wal_flushes;
    report.wal_bytes += stats.wal_bytes;
    report.checkpoints += stats.checkpoints;
}
