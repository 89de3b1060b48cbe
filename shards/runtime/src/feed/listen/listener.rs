//! One client's feed: from initial values to changes, and what waits for it.
//!
//! A listener of one plain source goes through three: it reads initial values, takes changes as they come, and at last shares the trail of
//! its plan with all who have come that far.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::Waker;
use std::time::Duration;

use photondb_proto::datum::{Datum, document};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::feed::{ElementForm, Elements, FeedRows, FeedSpec, FirstRows, Squash};
use photondb_proto::op::Document;

use super::super::RowChange;
use super::super::queue::{Change, Element, Queue};
use super::super::system::Snapshot;
use super::super::trail::{Place, Stretch, Trail};
use super::super::window::Window;
use super::member::Member;
use crate::access::Access;
use crate::catalog::Catalog;
use crate::core::{Core, add};
use crate::env::Env;

/// Initial rows asked of each core at a time.
const INITIAL_ROWS: u32 = 256;
/// Initial values are read on while fewer elements than this wait.
const WAITING_FEW: usize = 512;
/// Smaller queues are told of each change at once: they could overflow while others wait for more.
const TRAIL_ELEMENTS_MIN: u32 = 10_000;

pub(super) struct Listener {
    pub(super) spec: FeedSpec,
    pub(super) access: Access,
    pub(super) members: RefCell<Vec<Rc<Member>>>,
    pub(super) queue: RefCell<Queue>,
    /// When the first change that waits came.
    pub(super) since: Cell<Option<Duration>>,
    /// Not all initial values have been read.
    pub(super) is_initializing: Cell<bool>,
    pub(super) ended: RefCell<Option<QueryError>>,
    /// Something has come that the query has not looked at.
    pub(super) has_news: Cell<bool>,
    pub(super) waker: RefCell<Option<Waker>>,
    /// Where it is in the trail of its only member, once it takes changes from there.
    pub(super) place: RefCell<Option<Place>>,
}

impl Listener {
    /// How many elements wait for the client.
    pub(super) fn waiting(&self) -> usize {
        let waiting = |trail: &Trail| {
            let place = self.place.borrow();
            place.as_ref().map_or(0, |place| trail.waiting(place) as usize)
        };
        let members = self.members.borrow();
        self.queue.borrow().len() + members.first().map_or(0, |member| waiting(&member.subscription.trail))
    }

    /// From now on it takes changes from the trail of its member, if that is all it does.
    pub(super) fn follow_trail(self: &Rc<Self>) {
        let members = self.members.borrow();
        let [member] = members.as_slice() else { return };
        let is_plain = self.spec.squash == Squash::Never
            && !self.spec.include_resume_token
            && member.limit().is_none()
            && member.snapshot.is_none();
        if !is_plain || self.spec.elements_max < TRAIL_ELEMENTS_MIN || self.place.borrow().is_some() {
            return;
        }
        let subscription = &member.subscription;
        self.place.replace(Some(subscription.trail.place(member.known())));
        subscription.listeners.borrow_mut().retain(|(other, _)| !Rc::ptr_eq(other, self));
        subscription.followers.borrow_mut().push(self.clone());
    }

    /// Shows a follower what is new. Whether it waits for that.
    pub(super) fn show(&self, stretch: &Rc<Stretch>) -> bool {
        if self.ended.borrow().is_some() {
            return false;
        }
        if let Some(place) = &mut *self.place.borrow_mut() {
            place.show(stretch);
        }
        if self.waiting() > self.spec.elements_max as usize {
            self.overflow(0);
        }
        let waits = self.waker.borrow().is_some();
        self.wake();
        waits
    }

    /// Takes elements for the client, if there are any.
    pub(super) fn take<E: Env>(
        &self,
        core: &Core<E>,
        form: ElementForm,
        elements_max: u32,
        bytes_max: u32,
    ) -> Option<Elements> {
        let mut queue = self.queue.borrow_mut();
        if let Some(place) = &mut *self.place.borrow_mut() {
            if form == ElementForm::Json && queue.is_empty() && place.is_shown() && place.is_news() {
                let members = self.members.borrow();
                let trail = &members.first()?.subscription.trail;
                let (items, count) = place.take(trail, queue.include_types, elements_max, bytes_max);
                core.listening.pace.told(core.env.elapsed());
                add(&core.listening.delivered, u64::from(count));
                return Some(Elements::Json { items, count });
            }
            let members = self.members.borrow();
            let member = members.first()?;
            while queue.len() < WAITING_FEW
                && let Some(change) = place.next()
            {
                if let Some(change) = member.told(&change) {
                    queue.push(Element::Change(change, None, 0));
                }
            }
        }
        if queue.is_empty() {
            return None;
        }
        self.since.set(None);
        add(&core.listening.skipped, queue.skipped());
        let elements = queue.take(form, elements_max, bytes_max);
        add(&core.listening.delivered, elements.count() as u64);
        Some(elements)
    }

    pub(super) fn end(&self, error: QueryError) {
        self.ended.borrow_mut().get_or_insert(error);
        self.wake();
    }

    pub(super) fn wake(&self) {
        self.has_news.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// When what waits may be told, if it has to wait at all.
    pub(super) fn due(&self) -> Option<Duration> {
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
    pub(super) fn check_access(&self, catalog: &Catalog) -> Result<(), QueryError> {
        self.spec.members.iter().try_for_each(|member| self.access.check_feed(catalog, member.table))
    }

    /// When to look at a system table again.
    pub(super) fn looks_due(&self) -> Option<Duration> {
        let members = self.members.borrow();
        members.iter().filter_map(|member| member.snapshot.as_ref()?.due()).min()
    }

    /// Leaves out what waits, and `more`.
    pub(super) fn overflow(&self, more: u64) {
        let mut held = 0;
        for member in self.members.borrow().iter() {
            held += member.held.take().len() as u64;
            member.is_stale.set(true);
            if let Some(place) = &mut *self.place.borrow_mut() {
                held += member.subscription.trail.skip(place);
            }
        }
        self.queue.borrow_mut().clear(more + held);
        self.overflowed();
    }

    pub(super) fn overflowed(&self) {
        if self.spec.ends_on_overflow {
            let skipped = self.queue.borrow_mut().abandon();
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
    pub(super) fn came(&self, index: usize, change: &Rc<Change>, now: Duration) {
        if self.ended.borrow().is_some() {
            return;
        }
        let members = self.members.borrow();
        let Some(member) = members.get(index) else { return };
        if member.is_live.get() && member.limit().is_none() {
            if let Some(change) = member.told(change) {
                self.since.set(self.since.get().or(Some(now)));
                self.tell(index, change);
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

    pub(super) fn tell(&self, member: usize, change: Rc<Change>) {
        let member = member as u16;
        let fits = match self.is_initializing.get() && self.spec.include_initial {
            true => self.queue.borrow_mut().push_initial_change(member, change),
            false => self.queue.borrow_mut().push_change(member, change, None),
        };
        if !fits {
            self.overflowed();
        }
    }

    /// Reads on where initial values are missing, and brings windows up to date.
    pub(super) async fn advance<E: Env>(self: &Rc<Self>, core: &Rc<Core<E>>) -> Result<(), QueryError> {
        if self.place.borrow().is_some() {
            return Ok(());
        }
        let members = self.members.borrow().clone();
        for (index, member) in members.iter().enumerate() {
            if let Some(snapshot) = &member.snapshot {
                self.look(core, index, member, snapshot).await?;
                continue;
            }
            match member.limit() {
                Some(first) => self.advance_window(core, index, member, first).await?,
                None => {
                    while !member.is_live.get() && self.queue.borrow().len() < WAITING_FEW {
                        if !member.reading.borrow().is_empty() || member.log.borrow().is_none() {
                            self.read_on(core, index, member).await?;
                        } else if !self.catch_up(core, index, member).await? {
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
            self.follow_trail();
        }
        Ok(())
    }

    /// Brings what is told of a system table up to date.
    pub(super) async fn look<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        index: usize,
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
            self.tell(index, Rc::new(Change::new(change)));
        }
        Ok(())
    }

    /// One more segment from each core that has any.
    pub(super) async fn read_on<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        index: usize,
        member: &Rc<Member>,
    ) -> Result<(), QueryError> {
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
        self.tell_held(core, index, member, before);
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
        self.tell_held(core, index, member, after);
        Ok(())
    }

    pub(super) fn tell_held<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        index: usize,
        member: &Member,
        held: VecDeque<Rc<Change>>,
    ) {
        let now = core.env.elapsed();
        for change in held.iter().filter_map(|change| member.told(change)) {
            self.since.set(self.since.get().or(Some(now)));
            self.tell(index, change);
        }
    }

    pub(super) fn initial(&self, value: Document, offset: Option<u32>) {
        if self.spec.include_initial {
            self.queue.borrow_mut().push(Element::Initial { value: Rc::new(value), offset });
        }
    }

    pub(super) async fn advance_window<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        index: usize,
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
            let change =
                RowChange { shard: 0, commit: 0, key, old_key: None, old, new, part: 0, more: false };
            let change = Rc::new(Change::new(change));
            self.since.set(self.since.get().or(Some(core.env.elapsed())));
            if !self.queue.borrow_mut().push_change(index as u16, change, Some(offsets)) {
                self.overflowed();
            }
        }
        if self.queue.borrow().is_empty() {
            self.since.set(None);
        }
        Ok(())
    }
}

/// What a point feed shows of a row that is not there.
pub(super) fn null() -> Document {
    document::to_bytes(&Datum::Null)
}
