//! One source of a listener's changes: what was read of it, and which changes are later than that.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;

use futures_util::future::join_all;
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::feed::FirstRows;
use photondb_proto::op::{Key, ScanOrder};

use super::super::log::{PartsTold, Reading};
use super::super::queue::Change;
use super::super::system::Snapshot;
use super::super::window::{Row, RowOf, Window, by_entry, by_key, spare};
use super::super::{FeedAnswer, FeedRequest, Segment, Stamp, SubscriptionId, ask};
use super::Subscription;
use crate::core::Core;
use crate::env::Env;

/// Up to which key (none: all of it) a shard was read at which commit.
pub(super) type Stamped = (Option<Key>, u64);

/// One source of a listener's changes.
pub(super) struct Member {
    pub(super) subscription: Rc<Subscription>,
    pub(super) cores: Vec<u16>,
    /// Where reading goes on: (core, last key); none when all has been read.
    pub(super) reading: RefCell<Vec<(u16, Option<Key>)>>,
    /// Changes go to the queue as they come.
    pub(super) is_live: Cell<bool>,
    pub(super) held: RefCell<VecDeque<Rc<Change>>>,
    pub(super) stamps: RefCell<HashMap<u32, Vec<Stamped>>>,
    pub(super) window: RefCell<Option<Window>>,
    /// Changes of the window were left out: it must be read again.
    pub(super) is_stale: Cell<bool>,
    /// Of a system table.
    pub(super) snapshot: Option<Snapshot>,
    /// Kept changes are read before it subscribes.
    pub(super) log: RefCell<Option<Reading>>,
    pub(super) parts_told: RefCell<PartsTold>,
}

pub(super) fn wrong_answer() -> QueryError {
    QueryError::new(ErrorKind::Internal, "a core answered another question than it was asked")
}

impl Member {
    /// Lets the owners know, and learns from where on changes are told.
    pub(super) async fn announce<E: Env>(&self, core: &Rc<Core<E>>, reads: bool) -> Result<(), QueryError> {
        let stamps = self.subscribe(core).await?;
        if !reads {
            self.stamp(&None, &stamps);
        }
        Ok(())
    }

    /// Lets the owners know; the last commit of each shard when they did.
    pub(super) async fn subscribe<E: Env>(&self, core: &Rc<Core<E>>) -> Result<Vec<Stamp>, QueryError> {
        let id = SubscriptionId { core: core.number, number: self.subscription.number };
        let plan = &self.subscription.plan;
        self.stamps_of(core, || FeedRequest::Subscribe { id, plan: plan.clone() }).await
    }

    /// The stamps that its cores answer.
    pub(super) async fn stamps_of<E: Env>(
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

    pub(super) fn stamp(&self, upto: &Option<Key>, stamps: &[Stamp]) {
        let mut known = self.stamps.borrow_mut();
        for stamp in stamps {
            known.entry(stamp.shard).or_default().push((upto.clone(), stamp.commit));
        }
    }

    /// Whether a change came after this place was read. One of a place that is still to be read did not.
    pub(super) fn is_later(&self, change: &Change, place: &Key) -> bool {
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
    pub(super) fn told(&self, change: &Rc<Change>) -> Option<Rc<Change>> {
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

    /// The last commits that it knew before what comes now.
    pub(super) fn known(&self) -> Vec<Stamp> {
        let latest = |stamped: &Vec<Stamped>| stamped.iter().map(|(_, commit)| *commit).max();
        let stamps = self.stamps.borrow();
        let known = stamps.iter().filter_map(|(shard, stamped)| Some((*shard, latest(stamped)?)));
        known.map(|(shard, commit)| Stamp { shard, commit }).collect()
    }

    /// How places of its window tell whose they are.
    pub(super) fn row_of(&self) -> RowOf {
        if self.subscription.plan.rows.index().is_some() { by_entry } else { by_key }
    }

    pub(super) fn limit(&self) -> Option<FirstRows> {
        self.subscription.plan.rows.first()
    }

    pub(super) async fn segments<E: Env>(
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
    pub(super) async fn first_rows<E: Env>(
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
