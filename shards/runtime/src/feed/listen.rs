//! The side of a feed that a client listens on: subscriptions of this core, and each listener's way from initial values to
//! changes.
//!
//! Always: a listener's state is touched by its own query alone ([`next`]), but for changes that come, which only join a queue. A
//! change that comes while initial values are read is held until that reading is done, and judged by the stamps then.

mod listener;
mod member;
mod pace;
mod remind;
mod resume;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::feed::{
    ElementForm, Elements, FeedMember, FeedNumber, FeedOp, FeedReply, FeedRows, FeedSpec, Squash,
};

use self::listener::Listener;
use self::member::Member;
use self::pace::Pace;
use super::log::Opening;
use super::queue::{Change, Element, Held, Queue};
use super::system::Snapshot;
use super::trail::Trail;
use super::{FeedRequest, Plan, Published, RowChange, SubscriptionId, aborted, ask};
use crate::access::Access;
use crate::catalog::Catalog;
use crate::core::Core;
use crate::env::Env;

/// What one core listens to.
#[derive(Default)]
pub struct Listening {
    subscriptions: RefCell<HashMap<Plan, Rc<Subscription>>>,
    numbers: RefCell<HashMap<u64, Rc<Subscription>>>,
    listeners: RefCell<HashMap<FeedNumber, Rc<Listener>>>,
    next_number: Cell<u64>,
    pace: Pace,
    /// A task sees to the tokens of feeds to which nothing happens.
    reminds: Cell<bool>,
    /// Elements that clients have taken, and those that were left out for clients that were too slow.
    pub delivered: Cell<u64>,
    pub skipped: Cell<u64>,
    /// Of changes that wait.
    waiting_bytes: Rc<Cell<u64>>,
}

/// One plan, for all of this core's listeners to it.
struct Subscription {
    number: u64,
    plan: Plan,
    /// Listeners that are told of each change, and which of their members it is.
    listeners: RefCell<Vec<(Rc<Listener>, usize)>>,
    /// Those that take changes from the trail.
    followers: RefCell<Vec<Rc<Listener>>>,
    trail: Trail,
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
            subscription.followers.borrow_mut().retain(|other| !Rc::ptr_eq(other, &listener));
            if !subscription.is_idle() {
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

impl Subscription {
    fn is_idle(&self) -> bool {
        self.listeners.borrow().is_empty() && self.followers.borrow().is_empty()
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
        let subscription = Rc::new(Subscription {
            number,
            plan: plan.clone(),
            listeners: RefCell::default(),
            followers: RefCell::default(),
            trail: Trail::default(),
        });
        self.numbers.borrow_mut().insert(number, subscription.clone());
        self.subscriptions.borrow_mut().insert(plan.clone(), subscription.clone());
        subscription
    }

    /// Elements that wait for clients.
    pub fn waiting(&self) -> usize {
        self.listeners.borrow().values().map(|listener| listener.waiting()).sum()
    }

    /// Memory of the changes that wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.waiting_bytes.get()
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
            listener.waiting() + held
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
        place: RefCell::default(),
        access,
        spec,
    });
    listening.listeners.borrow_mut().insert(number, listener.clone());
    let handle = FeedHandle { core: core.clone(), number };
    let catalog = core.catalog();
    listener.check_access(&catalog)?;
    let opening = Opening::of(&listener.spec)?;
    let members = listener.spec.members.len();
    let tokens = opening
        .as_ref()
        .filter(|_| listener.spec.include_resume_token)
        .map(|opening| opening.tokens(members));
    listener.queue.borrow_mut().bear(tokens);
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
            parts_told: RefCell::default(),
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
    if listener.spec.include_resume_token {
        remind::begin(core);
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
                _ => {
                    if let Some(elements) = listener.take(core, form, elements_max, bytes_max) {
                        return Ok(FeedReply::Elements { feed: *feed, elements });
                    }
                }
            }
            if let Some(error) = &*listener.ended.borrow() {
                return Err(error.clone());
            }
        }
        if !wait {
            let elements = match form {
                ElementForm::Json => Elements::Json { items: Rc::default(), count: 0 },
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
        if let Some(elements) = listener.take(core, *form, *elements_max, *bytes_max) {
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
                subscription.followers.borrow().iter().for_each(|listener| listener.overflow(count));
            }
            Published::Reached(stamps) => {
                listeners.iter().for_each(|(listener, member)| listener.passed(*member, &stamps));
            }
            Published::Change(row) => {
                let change = leased(core, row);
                for (listener, member) in listeners.iter() {
                    listener.came(*member, &change, now);
                }
                // A row that only moves is no change to those who know it in both places.
                if !subscription.followers.borrow().is_empty() && change.old != change.new {
                    core.listening.pace.changed(&subscription);
                    subscription.trail.push(change);
                }
            }
        }
    }
    pace::beat(core);
}

/// A change with what it takes of the core's memory.
fn leased<E: Env>(core: &Rc<Core<E>>, row: RowChange) -> Rc<Change> {
    let change = Change::new(row);
    let mut lease = core.budget.lease();
    while lease.set(change.bytes()).is_err() && core.listening.shed() {}
    change.held.replace(Some(Held::new(change.bytes(), lease, core.listening.waiting_bytes.clone())));
    Rc::new(change)
}
