//! The side of a feed that owns rows: committed changes, held until they are durable, evaluated, sent.
//!
//! Always: a writer only leaves its change here ([`Publishing::committed`]); evaluation and sending are a task's of their own.
//! One that lags too far behind leaves changes out and says so to all who listen to that table.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use photondb_proto::error::QueryError;
use photondb_proto::feed::FeedRows;
use photondb_proto::op::{Durability, TableId};
use photondb_storage::engine::{Lsn, StorageEngine, Value};

use super::evaluate::{Evaluator, Looked};
use super::{FeedRequest, Plan, Published, RowChange, Stamp, SubscriptionId, aborted, ask};
use crate::catalog::Catalog;
use crate::core::Core;
use crate::env::Env;

/// Changes that wait to be evaluated; beyond it they are left out and counted.
const WAITING_CHANGES_MAX: usize = 50_000;
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Changes evaluated before what came of them is sent.
const CHANGES_TOGETHER: usize = 256;
/// Bytes sent to a core at once.
const SEND_BYTES: usize = 1 << 20;

/// A change of a row as it was committed.
#[derive(Clone, Debug)]
pub struct Committed {
    pub table: TableId,
    pub shard: u32,
    pub commit: u64,
    pub key: Vec<u8>,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

impl Committed {
    fn bytes(&self) -> usize {
        let value = |value: &Option<Value>| value.as_ref().map_or(0, |value| value.len());
        self.key.len() + value(&self.old) + value(&self.new) + 128
    }
}

/// A change that waits until the log is flushed up to its place.
type Unflushed = (Lsn, Durability, Committed);

/// What one core publishes.
#[derive(Default)]
pub struct Publishing {
    tables: RefCell<HashMap<TableId, Watched>>,
    /// Changes that wait for a flush, by store, in the order of the log.
    unflushed: RefCell<BTreeMap<u16, VecDeque<Unflushed>>>,
    waiting: RefCell<Waiting>,
    waker: RefCell<Option<Waker>>,
    running: Cell<bool>,
}

/// Changes that may be told.
#[derive(Default)]
struct Waiting {
    entries: VecDeque<Entry>,
    bytes: usize,
}

enum Entry {
    Change(Committed),
    /// So many changes of the table were left out here.
    Skipped(TableId, u64),
    /// Changes up to here came before.
    Reached(SubscriptionId, Vec<Stamp>),
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Entry::Change(change) => change.bytes(),
            Entry::Skipped(..) | Entry::Reached(..) => 0,
        }
    }
}

impl Waiting {
    fn add(&mut self, change: Committed) {
        if self.entries.len() < WAITING_CHANGES_MAX && self.bytes < WAITING_BYTES_MAX {
            self.bytes += change.bytes();
            return self.entries.push_back(Entry::Change(change));
        }
        let left_out = self.entries.iter_mut().rev().map_while(|entry| match entry {
            Entry::Skipped(table, count) => Some((table, count)),
            Entry::Change(_) | Entry::Reached(..) => None,
        });
        match left_out.into_iter().find(|(table, _)| **table == change.table) {
            Some((_, count)) => *count += 1,
            None => self.entries.push_back(Entry::Skipped(change.table, 1)),
        }
    }
}

#[derive(Default)]
struct Watched {
    /// Of whole tables and ranges.
    publications: Vec<Rc<Publication>>,
    /// Of single keys: a change finds its own among many.
    by_key: HashMap<Vec<u8>, Vec<Rc<Publication>>>,
    /// Readers of initial values note what changes meanwhile.
    recorders: Vec<Rc<RefCell<Vec<Committed>>>>,
}

/// A plan that somebody listens to.
struct Publication {
    plan: Plan,
    /// Taken while it is at work: only the publishing task evaluates, one change after the other.
    evaluator: RefCell<Option<Evaluator>>,
    subscribers: RefCell<Vec<SubscriptionId>>,
}

impl Publishing {
    /// Whether changes of the table are of interest.
    pub fn watches(&self, table: TableId) -> bool {
        !self.tables.borrow().is_empty() && self.tables.borrow().contains_key(&table)
    }

    /// Takes a change that has been applied at `lsn` of its store.
    pub fn committed(&self, store: u16, lsn: Lsn, durability: Durability, change: Committed) {
        if let Some(watched) = self.tables.borrow().get(&change.table) {
            watched.recorders.iter().for_each(|recorder| recorder.borrow_mut().push(change.clone()));
            if watched.publications.is_empty() && watched.by_key.is_empty() {
                return;
            }
        }
        let mut unflushed = self.unflushed.borrow_mut();
        let queue = unflushed.entry(store).or_default();
        if queue.is_empty() && durability == Durability::Soft {
            return self.release(change);
        }
        queue.push_back((lsn, durability, change));
    }

    /// A store's log is durable up to `lsn`.
    pub fn flushed(&self, store: u16, lsn: Lsn) {
        let mut unflushed = self.unflushed.borrow_mut();
        let Some(queue) = unflushed.get_mut(&store) else { return };
        while let Some((place, durability, _)) = queue.front()
            && (*place <= lsn || *durability == Durability::Soft)
        {
            let (_, _, change) = queue.pop_front().expect("it has a front");
            self.release(change);
        }
    }

    fn release(&self, change: Committed) {
        self.waiting.borrow_mut().add(change);
        self.wake();
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Notes all changes of a table from now on, until it is dropped.
    pub fn record(&self, table: TableId) -> Recorder<'_> {
        let changes = Rc::<RefCell<Vec<Committed>>>::default();
        self.tables.borrow_mut().entry(table).or_default().recorders.push(changes.clone());
        Recorder { publishing: self, table, changes }
    }

    pub fn unsubscribe(&self, id: SubscriptionId, plan: &Plan) {
        let mut tables = self.tables.borrow_mut();
        let Some(watched) = tables.get_mut(&plan.table) else { return };
        let stays = |publication: &Rc<Publication>| {
            if publication.plan == *plan {
                publication.subscribers.borrow_mut().retain(|other| *other != id);
            }
            !publication.subscribers.borrow().is_empty()
        };
        match &plan.rows {
            FeedRows::Keys { keys, .. } => {
                for key in keys {
                    if let Some(publications) = watched.by_key.get_mut(key) {
                        publications.retain(stays);
                        if publications.is_empty() {
                            watched.by_key.remove(key);
                        }
                    }
                }
            }
            FeedRows::Ranges(_) => watched.publications.retain(stays),
        }
        if watched.is_idle() {
            tables.remove(&plan.table);
        }
    }

    /// Follows a change of the catalog: tables that are gone have no changes.
    pub fn follow(&self, catalog: &Catalog) {
        self.tables.borrow_mut().retain(|table, _| catalog.table(*table).is_some());
    }

    /// The plans that a change of this row may concern; of any row, if there is no key.
    fn publications(&self, table: TableId, key: Option<&[u8]>) -> Vec<Rc<Publication>> {
        let tables = self.tables.borrow();
        let Some(watched) = tables.get(&table) else { return Vec::new() };
        let mut found = watched.publications.clone();
        match key {
            Some(key) => found.extend(watched.by_key.get(key).into_iter().flatten().cloned()),
            None => {
                for publication in watched.by_key.values().flatten() {
                    if !found.iter().any(|other| Rc::ptr_eq(other, publication)) {
                        found.push(publication.clone());
                    }
                }
            }
        }
        found
    }
}

impl Watched {
    fn add(&mut self, publication: Rc<Publication>) {
        match &publication.plan.rows {
            FeedRows::Keys { keys, .. } => {
                for key in keys {
                    self.by_key.entry(key.clone()).or_default().push(publication.clone());
                }
            }
            FeedRows::Ranges(_) => self.publications.push(publication),
        }
    }

    fn is_idle(&self) -> bool {
        self.publications.is_empty() && self.by_key.is_empty() && self.recorders.is_empty()
    }
}

/// What has changed in a table since a moment.
pub struct Recorder<'a> {
    publishing: &'a Publishing,
    table: TableId,
    changes: Rc<RefCell<Vec<Committed>>>,
}

impl Recorder<'_> {
    pub fn take(&self) -> Vec<Committed> {
        self.changes.take()
    }
}

impl Drop for Recorder<'_> {
    fn drop(&mut self) {
        let mut tables = self.publishing.tables.borrow_mut();
        let Some(watched) = tables.get_mut(&self.table) else { return };
        watched.recorders.retain(|other| !Rc::ptr_eq(other, &self.changes));
        if watched.is_idle() {
            tables.remove(&self.table);
        }
    }
}

/// Publishes to a subscription from now on. Gives the last commit of each shard that lives here.
///
/// # Errors
/// The table is gone or the index, or the plan's bytes are none.
pub fn subscribe<E: Env>(
    core: &Rc<Core<E>>,
    id: SubscriptionId,
    plan: Plan,
) -> Result<Vec<Stamp>, QueryError> {
    let catalog = core.catalog();
    let table = catalog.table(plan.table).ok_or_else(aborted)?;
    let stamps = stamps(core, table);
    let publishing = &core.publishing;
    let mut tables = publishing.tables.borrow_mut();
    let watched = tables.entry(plan.table).or_default();
    let known = match &plan.rows {
        FeedRows::Keys { keys, .. } => {
            let first = keys.first().and_then(|key| watched.by_key.get(key));
            first.and_then(|publications| publications.iter().find(|other| other.plan == plan))
        }
        FeedRows::Ranges(_) => watched.publications.iter().find(|other| other.plan == plan),
    };
    match known {
        Some(publication) => {
            let mut subscribers = publication.subscribers.borrow_mut();
            if !subscribers.contains(&id) {
                subscribers.push(id);
            }
        }
        None => {
            let evaluator = Evaluator::new(plan, &core.tables.local(table))?;
            watched.add(Publication::new(id, evaluator));
        }
    }
    drop(tables);
    if !publishing.running.replace(true) {
        core.env.spawn(run(core.clone()));
    }
    Ok(stamps)
}

/// Says to a subscription how far the table's changes have come, behind those that it is told before.
pub async fn reach<E: Env>(core: &Rc<Core<E>>, id: SubscriptionId, table: TableId) {
    let Some(table) = core.catalog().table(table).cloned() else { return };
    // What waits for a flush has not come yet.
    let held: Vec<Stamp> = {
        let unflushed = core.publishing.unflushed.borrow();
        let changes = unflushed.values().flatten().map(|(.., change)| change);
        let changes = changes.filter(|change| change.table == table.id);
        changes.map(|change| Stamp { shard: change.shard, commit: change.commit }).collect()
    };
    let mut stamps = stamps(core, &table);
    for stamp in &mut stamps {
        let first = held.iter().filter(|held| held.shard == stamp.shard).map(|held| held.commit).min();
        stamp.commit = first.map_or(stamp.commit, |first| first - 1);
    }
    // A crash must not take back what a token says.
    let local = core.tables.local(&table);
    for shard in local.shards.iter().flatten() {
        let store = &shard.store;
        if core.flush(store, store.engine.applied()).await.is_err() {
            return;
        }
    }
    core.publishing.waiting.borrow_mut().entries.push_back(Entry::Reached(id, stamps));
    core.publishing.wake();
}

/// The last commit of each shard of a table that lives here.
pub fn stamps<E: Env>(core: &Rc<Core<E>>, table: &Rc<crate::catalog::Table>) -> Vec<Stamp> {
    let local = core.tables.local(table);
    let shards = local.shards.iter().flatten();
    shards.map(|shard| Stamp { shard: shard.number, commit: shard.last_commit() }).collect()
}

/// Evaluates and sends what may be told, for as long as the core lives.
async fn run<E: Env>(core: Rc<Core<E>>) {
    loop {
        let entries: Vec<Entry> = poll_fn(|context| {
            let mut waiting = core.publishing.waiting.borrow_mut();
            if waiting.entries.is_empty() {
                *core.publishing.waker.borrow_mut() = Some(context.waker().clone());
                return Poll::Pending;
            }
            let count = waiting.entries.len().min(CHANGES_TOGETHER);
            let entries: Vec<Entry> = waiting.entries.drain(..count).collect();
            waiting.bytes -= entries.iter().map(Entry::bytes).sum::<usize>();
            Poll::Ready(entries)
        })
        .await;
        let mut outgoing = Outgoing::default();
        for entry in entries {
            match &entry {
                Entry::Change(change) => {
                    let mut looked = Looked::new(change);
                    for publication in core.publishing.publications(change.table, Some(&change.key)) {
                        for change in publication.evaluate(&core, &mut looked).await {
                            outgoing.add(&core, &publication, Published::Change(change)).await;
                        }
                    }
                }
                Entry::Reached(id, stamps) => {
                    outgoing.add_for(&core, *id, Published::Reached(stamps.clone())).await;
                }
                Entry::Skipped(table, count) => {
                    for publication in core.publishing.publications(*table, None) {
                        outgoing.add(&core, &publication, Published::Skipped(*count)).await;
                    }
                }
            }
        }
        outgoing.send(&core).await;
        core.env.next_turn().await;
    }
}

impl Publication {
    fn new(id: SubscriptionId, evaluator: Evaluator) -> Rc<Publication> {
        Rc::new(Publication {
            plan: evaluator.plan().clone(),
            evaluator: RefCell::new(Some(evaluator)),
            subscribers: RefCell::new(vec![id]),
        })
    }

    async fn evaluate<E: Env>(&self, core: &Core<E>, looked: &mut Looked<'_>) -> Vec<RowChange> {
        let Some(mut evaluator) = self.evaluator.take() else { return Vec::new() };
        let changes = match evaluator.read_question(core).await {
            Ok(()) => evaluator.changes(looked).await,
            Err(error) => {
                tracing::error!(%error, "a feed's question is not understood");
                Vec::new()
            }
        };
        self.evaluator.replace(Some(evaluator));
        changes
    }
}

/// What goes to each core.
#[derive(Default)]
struct Outgoing {
    cores: BTreeMap<u16, (Vec<(u64, Published)>, usize)>,
}

impl Outgoing {
    async fn add<E: Env>(&mut self, core: &Rc<Core<E>>, publication: &Publication, published: Published) {
        let subscribers = publication.subscribers.borrow().clone();
        for id in subscribers {
            self.add_for(core, id, published.clone()).await;
        }
    }

    async fn add_for<E: Env>(&mut self, core: &Rc<Core<E>>, id: SubscriptionId, published: Published) {
        let bytes = match &published {
            Published::Skipped(_) => 16,
            Published::Reached(stamps) => 16 * stamps.len(),
            Published::Change(row) => {
                row.key.len() + row.old.as_ref().map_or(0, Vec::len) + row.new.as_ref().map_or(0, Vec::len)
            }
        };
        let (batch, held) = self.cores.entry(id.core).or_default();
        batch.push((id.number, published));
        *held += bytes;
        if *held >= SEND_BYTES {
            self.send(core).await;
        }
    }

    /// Sends and waits until the receivers have taken it, so that what is under way is bounded.
    async fn send<E: Env>(&mut self, core: &Rc<Core<E>>) {
        for (peer, (batch, _)) in std::mem::take(&mut self.cores) {
            ask(core, peer, FeedRequest::Publish(batch)).await;
        }
    }
}
