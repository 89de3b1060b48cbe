//! The side of a feed that a client listens on: subscriptions of this core, and each listener's way from initial values to
//! changes.
//!
//! Always: a listener's state is touched by its own query alone ([`next`]), but for changes that come, which only join a queue. A
//! change that comes while initial values are read is held until that reading is done, and judged by the stamps then.

mod resume;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use futures_util::future::join_all;
use photondb_proto::datum::{Datum, document};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::feed::{
    ElementForm, Elements, FeedMember, FeedNumber, FeedOp, FeedReply, FeedRows, FeedSpec, FirstRows, Squash,
};
use photondb_proto::op::{Document, Key, ScanOrder};

use super::log::{Opening, Reading};
use super::queue::{Change, Element, Queue};
use super::system::Snapshot;
use super::window::{Row, RowOf, Window, by_entry, by_key, spare};
use super::{
    FeedAnswer, FeedRequest, Plan, Published, RowChange, Segment, Stamp, SubscriptionId, aborted, ask,
};
use crate::access::Access;
use crate::catalog::Catalog;
use crate::core::{Core, add};
use crate::env::Env;

/// Initial rows asked of each core at a time.
const INITIAL_ROWS: u32 = 256;
/// Initial values are read on while fewer elements than this wait.
const WAITING_FEW: usize = 512;

/// What one core listens to.
#[derive(Default)]
pub struct Listening {
    subscriptions: RefCell<HashMap<Plan, Rc<Subscription>>>,
    numbers: RefCell<HashMap<u64, Rc<Subscription>>>,
    listeners: RefCell<HashMap<FeedNumber, Rc<Listener>>>,
    next_number: Cell<u64>,
    /// Elements that clients have taken, and those that were left out for clients that were too slow.
    pub delivered: Cell<u64>,
    pub skipped: Cell<u64>,
}

/// One plan, for all of this core's listeners to it.
struct Subscription {
    number: u64,
    plan: Plan,
    /// Listeners and which of their members it is.
    listeners: RefCell<Vec<(Rc<Listener>, usize)>>,
}

struct Listener {
    spec: FeedSpec,
    access: Access,
    members: RefCell<Vec<Rc<Member>>>,
    queue: RefCell<Queue>,
    /// When the first change that waits came.
    since: Cell<Option<Duration>>,
    /// Not all initial values have been read.
    is_initializing: Cell<bool>,
    ended: RefCell<Option<QueryError>>,
    /// Something has come that the query has not looked at.
    has_news: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// Up to which key (none: all of it) a shard was read at which commit.
type Stamped = (Option<Key>, u64);

/// One source of a listener's changes.
struct Member {
    subscription: Rc<Subscription>,
    cores: Vec<u16>,
    /// Where reading goes on: (core, last key); none when all has been read.
    reading: RefCell<Vec<(u16, Option<Key>)>>,
    /// Changes go to the queue as they come.
    is_live: Cell<bool>,
    held: RefCell<VecDeque<Rc<Change>>>,
    stamps: RefCell<HashMap<u32, Vec<Stamped>>>,
    window: RefCell<Option<Window>>,
    /// Changes of the window were left out: it must be read again.
    is_stale: Cell<bool>,
    /// Of a system table.
    snapshot: Option<Snapshot>,
    /// Kept changes are read before it subscribes.
    log: RefCell<Option<Reading>>,
}

/// An open feed. It is closed when this is dropped.
pub struct FeedHandle<E: Env> {
    core: Rc<Core<E>>,
    number: FeedNumber,
}

impl<E: Env> FeedHandle<E> {
    pub fn number(&self) -> FeedNumber {
        self.number
    }
}

impl<E: Env> Drop for FeedHandle<E> {
    fn drop(&mut self) {
        let listening = &self.core.listening;
        let Some(listener) = listening.listeners.borrow_mut().remove(&self.number) else { return };
        for member in listener.members.take() {
            let subscription = &member.subscription;
            subscription.listeners.borrow_mut().retain(|(other, _)| !Rc::ptr_eq(other, &listener));
            if !subscription.listeners.borrow().is_empty() {
                continue;
            }
            listening.numbers.borrow_mut().remove(&subscription.number);
            listening.subscriptions.borrow_mut().retain(|_, other| !Rc::ptr_eq(other, subscription));
            let id = SubscriptionId { core: self.core.number, number: subscription.number };
            for peer in &member.cores {
                let (core, peer, plan) = (self.core.clone(), *peer, subscription.plan.clone());
                if peer == core.number {
                    core.publishing.unsubscribe(id, &plan);
                    continue;
                }
                self.core.env.spawn(async move {
                    ask(&core, peer, FeedRequest::Unsubscribe { id, plan }).await;
                });
            }
        }
    }
}

impl Listening {
    /// Feeds that are open.
    pub fn len(&self) -> usize {
        self.listeners.borrow().len()
    }

    pub fn is_empty(&self) -> bool {
        self.listeners.borrow().is_empty()
    }

    fn fresh_number(&self) -> u64 {
        self.next_number.set(self.next_number.get() + 1);
        self.next_number.get()
    }

    /// The subscription to a plan, which may have to be announced.
    fn subscription(&self, plan: &Plan) -> Rc<Subscription> {
        if let Some(subscription) = self.subscriptions.borrow().get(plan) {
            return subscription.clone();
        }
        let number = self.fresh_number();
        let subscription =
            Rc::new(Subscription { number, plan: plan.clone(), listeners: RefCell::default() });
        self.numbers.borrow_mut().insert(number, subscription.clone());
        self.subscriptions.borrow_mut().insert(plan.clone(), subscription.clone());
        subscription
    }

    /// Elements that wait for clients.
    pub fn waiting(&self) -> usize {
        self.listeners.borrow().values().map(|listener| listener.queue.borrow().len()).sum()
    }

    /// Follows a change of the catalog: feeds of tables and along indexes that are gone, or that their users may not read any
    /// more, end.
    pub fn follow(&self, catalog: &Catalog) {
        for listener in self.listeners.borrow().values() {
            if let Err(error) = listener.check_access(catalog) {
                listener.end(error);
            }
            for member in listener.members.borrow().iter() {
                if let Some(snapshot) = &member.snapshot {
                    snapshot.doubt();
                    listener.wake();
                }
            }
            let is_gone = |member: &FeedMember| {
                let Some(table) = catalog.table(member.table) else {
                    return member.table.as_system_table().is_none();
                };
                member.rows.index().is_some_and(|id| table.indexes.iter().all(|index| index.id != id))
            };
            if listener.spec.members.iter().any(is_gone) {
                listener.end(aborted());
            }
        }
    }

    /// Makes room by leaving out what waits for the client that is furthest behind. False when nothing waits.
    fn shed(&self) -> bool {
        let listeners = self.listeners.borrow();
        let waiting = |listener: &&Rc<Listener>| {
            let members = listener.members.borrow();
            let held: usize = members.iter().map(|member| member.held.borrow().len()).sum();
            listener.queue.borrow().len() + held
        };
        match listeners.values().max_by_key(waiting) {
            Some(slowest) if waiting(&slowest) > 0 => {
                slowest.overflow(0);
                true
            }
            Some(_) | None => false,
        }
    }
}

/// Opens a feed: from now on changes are kept for it.
///
/// # Errors
/// The user may not read a table, or it is gone.
pub async fn open<E: Env>(
    core: &Rc<Core<E>>,
    access: Access,
    spec: FeedSpec,
) -> Result<FeedHandle<E>, QueryError> {
    let listening = &core.listening;
    let number = FeedNumber(listening.fresh_number());
    let queue = Queue::new(spec.squash, spec.elements_max, spec.include_types, spec.include_offsets);
    let listener = Rc::new(Listener {
        members: RefCell::default(),
        queue: RefCell::new(queue),
        since: Cell::new(None),
        is_initializing: Cell::new(true),
        ended: RefCell::default(),
        has_news: Cell::new(false),
        waker: RefCell::default(),
        access,
        spec,
    });
    listening.listeners.borrow_mut().insert(number, listener.clone());
    let handle = FeedHandle { core: core.clone(), number };
    let catalog = core.catalog();
    listener.check_access(&catalog)?;
    let opening = Opening::of(&listener.spec)?;
    listener.queue.borrow_mut().tokens =
        opening.as_ref().filter(|_| listener.spec.include_resume_token).map(Opening::tokens);
    for (index, spec) in listener.spec.members.iter().enumerate() {
        let plan = Plan::of(spec);
        let snapshot = Snapshot::of(&plan, &listener.access.user);
        let cores = match (catalog.table(spec.table), &plan.rows) {
            (None, _) if snapshot.is_some() => Vec::new(),
            (None, _) => return Err(aborted()),
            (Some(table), FeedRows::Keys { keys, .. }) => {
                let mut cores: Vec<u16> = keys.iter().map(|key| core.home(table, key)).collect();
                cores.sort_unstable();
                cores.dedup();
                cores
            }
            (Some(table), FeedRows::Ranges(_)) => core.homes(table),
        };
        let is_limit = plan.rows.first().is_some();
        let subscription = listening.subscription(&plan);
        let reads = listener.spec.include_initial || is_limit;
        let member = Rc::new(Member {
            subscription: subscription.clone(),
            reading: RefCell::new(cores.iter().filter(|_| reads).map(|core| (*core, None)).collect()),
            cores,
            is_live: Cell::new(false),
            held: RefCell::default(),
            stamps: RefCell::default(),
            window: RefCell::default(),
            is_stale: Cell::new(false),
            snapshot,
            log: RefCell::default(),
        });
        listener.members.borrow_mut().push(member.clone());
        subscription.listeners.borrow_mut().push((listener.clone(), index));
        if let Some(opening) = &opening {
            listener.open_log(core, &member, opening, index).await?;
        } else {
            member.announce(core, reads).await?;
        }
    }
    if listener.spec.include_states && listener.spec.include_initial {
        listener.queue.borrow_mut().push(Element::Initializing);
    }
    Ok(handle)
}

/// Elements of the first of these feeds that has any.
///
/// # Errors
/// A feed has ended, or the server stops.
pub async fn next<E: Env>(
    core: &Rc<Core<E>>,
    feeds: &[FeedNumber],
    form: ElementForm,
    elements_max: u32,
    bytes_max: u32,
    wait: bool,
) -> Result<FeedReply, QueryError> {
    let listeners: Vec<(FeedNumber, Rc<Listener>)> = {
        let known = core.listening.listeners.borrow();
        feeds.iter().filter_map(|feed| Some((*feed, known.get(feed)?.clone()))).collect()
    };
    if listeners.len() != feeds.len() || feeds.is_empty() {
        return Err(QueryError::new(ErrorKind::Internal, "a feed was asked for that is not open"));
    }
    loop {
        let mut due: Option<Duration> = None;
        for (feed, listener) in &listeners {
            listener.has_news.set(false);
            if listener.ended.borrow().is_none() {
                listener.advance(core).await?;
            }
            let earlier = |due: Option<Duration>, at: Duration| Some(due.map_or(at, |due| due.min(at)));
            due = listener.looks_due().into_iter().fold(due, earlier);
            match listener.due() {
                Some(at) if at > core.env.elapsed() => due = earlier(due, at),
                _ if !listener.queue.borrow().is_empty() => {
                    listener.since.set(None);
                    let elements = listener.take(core, form, elements_max, bytes_max);
                    return Ok(FeedReply::Elements { feed: *feed, elements });
                }
                _ => {}
            }
            if let Some(error) = &*listener.ended.borrow() {
                return Err(error.clone());
            }
        }
        if !wait {
            let elements = match form {
                ElementForm::Json => Elements::Json { items: Vec::new(), count: 0 },
                ElementForm::Documents => Elements::Documents(Vec::new()),
            };
            return Ok(FeedReply::Elements { feed: feeds[0], elements });
        }
        if core.draining.get() {
            return Err(QueryError::new(ErrorKind::OpFailed, "Changefeed aborted: the server is stopping."));
        }
        wait_for_news(core, &listeners, due).await;
    }
}

/// [`next`] where it needs no waiting and reading.
pub fn next_at_once<E: Env>(core: &Rc<Core<E>>, op: &FeedOp) -> Option<FeedReply> {
    let FeedOp::Next { feeds, form, elements_max, bytes_max, .. } = op else { return None };
    let listeners = core.listening.listeners.borrow();
    for feed in feeds {
        let listener = listeners.get(feed)?;
        let is_plain = |member: &Rc<Member>| {
            member.is_live.get() && member.limit().is_none() && member.snapshot.is_none()
        };
        let waits = listener.is_initializing.get() || listener.spec.squash != Squash::Never;
        if waits || listener.ended.borrow().is_some() || !listener.members.borrow().iter().all(is_plain) {
            return None;
        }
        if !listener.queue.borrow().is_empty() {
            listener.since.set(None);
            let elements = listener.take(core, *form, *elements_max, *bytes_max);
            return Some(FeedReply::Elements { feed: *feed, elements });
        }
    }
    None
}

async fn wait_for_news<E: Env>(
    core: &Rc<Core<E>>,
    listeners: &[(FeedNumber, Rc<Listener>)],
    due: Option<Duration>,
) {
    let news = poll_fn(|context| {
        let mut any = false;
        for (_, listener) in listeners {
            any |= listener.has_news.get();
            *listener.waker.borrow_mut() = Some(context.waker().clone());
        }
        if any { Poll::Ready(()) } else { Poll::Pending }
    });
    let drained = core.drain_watchers.until(|| core.draining.get());
    let waiting = futures_lite::future::or(news, drained);
    match due {
        None => waiting.await,
        Some(due) => {
            let rest = due.saturating_sub(core.env.elapsed());
            futures_lite::future::or(waiting, core.env.sleep(rest)).await;
        }
    }
}

/// Changes that owners have published.
pub fn deliver<E: Env>(core: &Rc<Core<E>>, published: Vec<(u64, Published)>) {
    let now = core.env.elapsed();
    for (number, published) in published {
        let Some(subscription) = core.listening.numbers.borrow().get(&number).cloned() else { continue };
        let listeners = subscription.listeners.borrow();
        match published {
            Published::Skipped(count) => {
                for (listener, member) in listeners.iter() {
                    listener.overflow(count);
                    listener.members.borrow()[*member].is_stale.set(true);
                }
            }
            Published::Change(row) => {
                let change = leased(core, number, row);
                for (listener, member) in listeners.iter() {
                    listener.came(*member, &change, now);
                }
            }
        }
    }
}

/// What a point feed shows of a row that is not there.
fn null() -> Document {
    document::to_bytes(&Datum::Null)
}

/// A change that came by that subscription, with what it takes of the core's memory.
fn leased<E: Env>(core: &Rc<Core<E>>, source: u64, row: RowChange) -> Rc<Change> {
    let mut change = Change::new(row);
    change.source = source;
    let mut lease = core.budget.lease();
    while lease.set(change.bytes()).is_err() && core.listening.shed() {}
    *change.lease.borrow_mut() = Some(lease);
    Rc::new(change)
}

fn wrong_answer() -> QueryError {
    QueryError::new(ErrorKind::Internal, "a core answered another question than it was asked")
}

impl Member {
    /// Lets the owners know, and learns from where on changes are told.
    async fn announce<E: Env>(&self, core: &Rc<Core<E>>, reads: bool) -> Result<(), QueryError> {
        let stamps = self.subscribe(core).await?;
        if !reads {
            self.stamp(&None, &stamps);
        }
        Ok(())
    }

    /// Lets the owners know; the last commit of each shard when they did.
    async fn subscribe<E: Env>(&self, core: &Rc<Core<E>>) -> Result<Vec<Stamp>, QueryError> {
        let id = SubscriptionId { core: core.number, number: self.subscription.number };
        let plan = &self.subscription.plan;
        self.stamps_of(core, || FeedRequest::Subscribe { id, plan: plan.clone() }).await
    }

    /// The stamps that its cores answer.
    async fn stamps_of<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        request: impl Fn() -> FeedRequest,
    ) -> Result<Vec<Stamp>, QueryError> {
        let asked = self.cores.iter().map(|peer| ask(core, *peer, request()));
        let mut stamps = Vec::new();
        for answer in join_all(asked).await {
            let FeedAnswer::Stamps(of_core) = answer else { return Err(wrong_answer()) };
            stamps.extend(of_core?);
        }
        Ok(stamps)
    }

    fn stamp(&self, upto: &Option<Key>, stamps: &[Stamp]) {
        let mut known = self.stamps.borrow_mut();
        for stamp in stamps {
            known.entry(stamp.shard).or_default().push((upto.clone(), stamp.commit));
        }
    }

    /// Whether a change came after this place was read. One of a place that is still to be read did not.
    fn is_later(&self, change: &Change, place: &Key) -> bool {
        let mut stamps = self.stamps.borrow_mut();
        let Some(segments) = stamps.get_mut(&change.shard) else { return false };
        let reaches = |upto: &Option<Key>| upto.as_ref().is_none_or(|upto| upto >= place);
        let is_later =
            segments.iter().find(|(upto, _)| reaches(upto)).is_some_and(|(_, at)| change.commit > *at);
        // Changes of a shard come in order: behind the latest stamp, all are later.
        if self.is_live.get()
            && segments.len() > 1
            && let Some(latest) = segments.iter().map(|(_, at)| *at).max()
            && change.commit > latest
        {
            *segments = vec![(None, latest)];
        }
        is_later
    }

    /// What of a change is to be told, if anything.
    fn told(&self, change: &Rc<Change>) -> Option<Rc<Change>> {
        let tells_old = self.is_later(change, change.from());
        let tells_new = match change.from() == &change.key {
            true => tells_old,
            false => self.is_later(change, &change.key),
        };
        let told = match (tells_old, tells_new) {
            (true, true) => change.clone(),
            (true, false) | (false, true) => Rc::new(change.half(tells_old)),
            (false, false) => return None,
        };
        (told.old != told.new).then_some(told)
    }

    /// How places of its window tell whose they are.
    fn row_of(&self) -> RowOf {
        if self.subscription.plan.rows.index().is_some() { by_entry } else { by_key }
    }

    fn limit(&self) -> Option<FirstRows> {
        self.subscription.plan.rows.first()
    }

    async fn segments<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        places: Vec<(u16, Option<Key>)>,
        rows_max: u32,
    ) -> Result<Vec<(u16, Segment)>, QueryError> {
        let asked = places.into_iter().map(|(peer, after)| async move {
            let plan = self.subscription.plan.clone();
            match ask(core, peer, FeedRequest::Read { plan, after, rows_max }).await {
                FeedAnswer::Segment(segment) => Ok((peer, segment?)),
                FeedAnswer::Done | FeedAnswer::Stamps(_) | FeedAnswer::Logged(_) => Err(wrong_answer()),
            }
        });
        join_all(asked).await.into_iter().collect()
    }

    /// The rows of the window as they are now: (rows, whether the table has no others).
    async fn first_rows<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        order: ScanOrder,
        shown: u32,
    ) -> Result<(Vec<Row>, bool), QueryError> {
        let rows_max = shown + spare(shown);
        let places = self.cores.iter().map(|core| (*core, None)).collect();
        let segments = self.segments(core, places, rows_max).await?;
        self.stamps.borrow_mut().clear();
        let mut is_whole = true;
        let mut rows: Vec<Row> = Vec::new();
        for (_, segment) in segments {
            self.stamp(&None, &segment.stamps);
            is_whole &= segment.upto.is_none();
            rows.extend(segment.rows.into_iter().map(|(key, value)| (key, Rc::new(value))));
        }
        rows.sort_by(|(left, _), (right, _)| match order {
            ScanOrder::Descending => right.cmp(left),
            ScanOrder::Any | ScanOrder::Keyed | ScanOrder::Ascending => left.cmp(right),
        });
        is_whole &= rows.len() <= rows_max as usize;
        rows.truncate(rows_max as usize);
        Ok((rows, is_whole))
    }
}

impl Listener {
    /// Takes elements for the client.
    fn take<E: Env>(&self, core: &Core<E>, form: ElementForm, elements_max: u32, bytes_max: u32) -> Elements {
        let mut queue = self.queue.borrow_mut();
        add(&core.listening.skipped, queue.skipped());
        let elements = queue.take(form, elements_max, bytes_max);
        add(&core.listening.delivered, elements.count() as u64);
        elements
    }

    fn end(&self, error: QueryError) {
        self.ended.borrow_mut().get_or_insert(error);
        self.wake();
    }

    fn wake(&self) {
        self.has_news.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// When what waits may be told, if it has to wait at all.
    fn due(&self) -> Option<Duration> {
        let Squash::Seconds(seconds) = self.spec.squash else { return None };
        let holds = |member: &Rc<Member>| member.limit().is_some() && !member.held.borrow().is_empty();
        let queue = self.queue.borrow();
        let is_change =
            queue.begins_with_change() || (queue.is_empty() && self.members.borrow().iter().any(holds));
        let since = self.since.get().filter(|_| is_change)?;
        // A day is long enough to hold anything back.
        Some(since + Duration::from_secs_f64(seconds.min(86_400.0)))
    }

    /// # Errors
    /// The user may not read the tables.
    fn check_access(&self, catalog: &Catalog) -> Result<(), QueryError> {
        self.spec.members.iter().try_for_each(|member| self.access.check_feed(catalog, member.table))
    }

    /// When to look at a system table again.
    fn looks_due(&self) -> Option<Duration> {
        let members = self.members.borrow();
        members.iter().filter_map(|member| member.snapshot.as_ref()?.due()).min()
    }

    /// Leaves out what waits, and `more`.
    fn overflow(&self, more: u64) {
        let mut held = 0;
        for member in self.members.borrow().iter() {
            held += member.held.take().len() as u64;
            member.is_stale.set(true);
        }
        self.queue.borrow_mut().clear(more + held);
        self.overflowed();
    }

    fn overflowed(&self) {
        if self.spec.ends_on_overflow {
            let skipped = self.queue.borrow_mut().take_skipped();
            self.end(QueryError::new(
                ErrorKind::OpFailed,
                format!(
                    "Changefeed aborted: {skipped} changes could not wait for the client (changefeed_queue_size is {}).",
                    self.spec.elements_max
                ),
            ));
        }
        self.wake();
    }

    /// A change has come for one of the members.
    fn came(&self, member: usize, change: &Rc<Change>, now: Duration) {
        if self.ended.borrow().is_some() {
            return;
        }
        let members = self.members.borrow();
        let Some(member) = members.get(member) else { return };
        if member.is_live.get() && member.limit().is_none() {
            if let Some(change) = member.told(change) {
                self.since.set(self.since.get().or(Some(now)));
                self.tell(change);
            }
        } else {
            self.since.set(self.since.get().or(Some(now)));
            let mut held = member.held.borrow_mut();
            held.push_back(change.clone());
            let is_full = held.len() > self.spec.elements_max as usize;
            drop(held);
            if is_full {
                drop(members);
                self.overflow(0);
            }
        }
        self.wake();
    }

    fn tell(&self, change: Rc<Change>) {
        let fits = match self.is_initializing.get() && self.spec.include_initial {
            true => self.queue.borrow_mut().push_initial_change(change),
            false => self.queue.borrow_mut().push_change(change, None),
        };
        if !fits {
            self.overflowed();
        }
    }

    /// Reads on where initial values are missing, and brings windows up to date.
    async fn advance<E: Env>(&self, core: &Rc<Core<E>>) -> Result<(), QueryError> {
        let members = self.members.borrow().clone();
        for member in &members {
            if let Some(snapshot) = &member.snapshot {
                self.look(core, member, snapshot).await?;
                continue;
            }
            match member.limit() {
                Some(first) => self.advance_window(core, member, first).await?,
                None => {
                    while !member.is_live.get() && self.queue.borrow().len() < WAITING_FEW {
                        if !member.reading.borrow().is_empty() || member.log.borrow().is_none() {
                            self.read_on(core, member).await?;
                        } else if !self.catch_up(core, member).await? {
                            break;
                        }
                    }
                }
            }
        }
        if self.is_initializing.get() && members.iter().all(|member| member.is_live.get()) {
            self.is_initializing.set(false);
            if self.spec.include_states {
                self.queue.borrow_mut().push(Element::Ready);
            } else if self.spec.include_resume_token && self.spec.include_initial {
                self.queue.borrow_mut().push(Element::Token);
            }
        }
        Ok(())
    }

    /// Brings what is told of a system table up to date.
    async fn look<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        member: &Member,
        snapshot: &Snapshot,
    ) -> Result<(), QueryError> {
        let is_first = !snapshot.is_taken();
        let plan = &member.subscription.plan;
        let changes = snapshot.changes(core, plan).await?;
        if is_first {
            let is_point = matches!(plan.rows, FeedRows::Keys { is_point: true, .. });
            if is_point && changes.is_empty() {
                self.initial(null(), None);
            }
            changes.into_iter().filter_map(|change| change.new).for_each(|row| self.initial(row, None));
            member.reading.borrow_mut().clear();
            member.is_live.set(true);
            return Ok(());
        }
        for change in changes {
            self.since.set(self.since.get().or(Some(core.env.elapsed())));
            self.tell(Rc::new(Change::new(change)));
        }
        Ok(())
    }

    /// One more segment from each core that has any.
    async fn read_on<E: Env>(&self, core: &Rc<Core<E>>, member: &Rc<Member>) -> Result<(), QueryError> {
        let places = member.reading.take();
        let segments = member.segments(core, places, INITIAL_ROWS).await?;
        for (_, segment) in &segments {
            member.stamp(&segment.upto, &segment.stamps);
        }
        // What was before this reading is told before what was read: a row may have moved from what is known to where it
        // is found now.
        let (before, after): (VecDeque<_>, VecDeque<_>) =
            member.held.take().into_iter().partition(|change| {
                let mut stamps = segments.iter().flat_map(|(_, segment)| &segment.stamps);
                stamps.any(|stamp| stamp.shard == change.shard && change.commit <= stamp.commit)
            });
        self.tell_held(core, member, before);
        for (peer, segment) in segments {
            for (_, value) in segment.rows {
                self.initial(value, None);
            }
            if segment.upto.is_some() {
                member.reading.borrow_mut().push((peer, segment.upto));
            } else if let FeedRows::Keys { is_point: true, .. } = &member.subscription.plan.rows
                && self.queue.borrow().len() == usize::from(self.spec.include_states)
            {
                self.initial(null(), None);
            }
        }
        if member.log.borrow().is_some() {
            return Ok(());
        }
        if member.reading.borrow().is_empty() {
            member.is_live.set(true);
        }
        self.tell_held(core, member, after);
        Ok(())
    }

    fn tell_held<E: Env>(&self, core: &Rc<Core<E>>, member: &Member, held: VecDeque<Rc<Change>>) {
        let now = core.env.elapsed();
        for change in held.iter().filter_map(|change| member.told(change)) {
            self.since.set(self.since.get().or(Some(now)));
            self.tell(change);
        }
    }

    fn initial(&self, value: Document, offset: Option<u32>) {
        if self.spec.include_initial {
            self.queue.borrow_mut().push(Element::Initial { value: Rc::new(value), offset });
        }
    }

    async fn advance_window<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        member: &Rc<Member>,
        first: FirstRows,
    ) -> Result<(), QueryError> {
        let FirstRows { order, rows_max: shown } = first;
        let Some(mut window) = member.window.take() else {
            let (rows, is_whole) = member.first_rows(core, order, shown).await?;
            let window = Window::new(rows, order, shown, is_whole, member.row_of());
            for (place, (_, value)) in window.shown().iter().enumerate() {
                self.initial((**value).clone(), Some(place as u32));
            }
            member.reading.borrow_mut().clear();
            member.is_live.set(true);
            member.window.replace(Some(window));
            return Ok(());
        };
        if self.due().is_some_and(|due| due > core.env.elapsed()) {
            member.window.replace(Some(window));
            return Ok(());
        }
        let squashes = self.spec.squash != Squash::Never;
        let before = squashes.then(|| window.shown().to_vec());
        let mut told = Vec::new();
        if member.is_stale.take() {
            let shown_before = window.shown().to_vec();
            let (rows, is_whole) = member.first_rows(core, order, shown).await?;
            window = Window::new(rows, order, shown, is_whole, member.row_of());
            told.extend(window.shifts(&shown_before));
        }
        loop {
            let Some(change) = member.held.borrow_mut().pop_front() else { break };
            if !member.is_later(&change, &change.key) {
                continue;
            }
            let shift = window.set(change.from(), change.key.clone(), change.new.clone());
            if window.is_short() {
                let (rows, is_whole) = member.first_rows(core, order, shown).await?;
                told.extend(window.refill(rows, is_whole));
            } else {
                told.extend(shift);
            }
        }
        if let Some(before) = before {
            told = window.shifts(&before);
        }
        member.window.replace(Some(window));
        for shift in told {
            let (old, new) = (shift.old, shift.new);
            let offsets = (old.as_ref().map(|(place, _)| *place), new.as_ref().map(|(place, _)| *place));
            let value = |row: Option<(u32, Rc<Document>)>| row.map(|(_, value)| (*value).clone());
            let (key, old, new) = (shift.key, value(old), value(new));
            let change = RowChange { shard: 0, commit: 0, key, old_key: None, old, new };
            let change = Rc::new(Change::new(change));
            self.since.set(self.since.get().or(Some(core.env.elapsed())));
            if !self.queue.borrow_mut().push_change(change, Some(offsets)) {
                self.overflowed();
            }
        }
        if self.queue.borrow().is_empty() {
            self.since.set(None);
        }
        Ok(())
    }
}
