//! A listener's way from the change logs to what happens now: see [`super::super::log`].
//!
//! Always: it subscribes only when the client has taken all that was read, so that what comes meanwhile is little.

use std::rc::Rc;

use photondb_proto::error::QueryError;

use super::super::log::{self, Opening, Reading};
use super::super::queue::{Element, Queue};
use super::super::{FeedRequest, RowChange, Stamp, aborted};
use super::leased;
use super::listener::Listener;
use super::member::Member;
use crate::core::Core;
use crate::env::Env;

impl Listener {
    /// Sees to it that a member has all changes from its beginning on, with tokens.
    pub(super) async fn open_log<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        member: &Rc<Member>,
        opening: &Opening,
        index: usize,
    ) -> Result<(), QueryError> {
        let (plan, source) = (&member.subscription.plan, member.subscription.number);
        let table = core.catalog().table(plan.table).cloned().ok_or_else(aborted)?;
        let shards = log::shards_of(core, &table, plan);
        opening.add_member(self.queue.borrow_mut().tokens.as_mut(), source)?;
        let table = plan.table;
        let mut stamps = member.stamps_of(core, || FeedRequest::Keep { table }).await?;
        stamps.retain(|stamp| shards.contains_key(&stamp.shard));
        let resumed = opening.stamps(index);
        if resumed.is_none() && !self.spec.include_initial {
            let mut stamps = member.subscribe(core).await?;
            member.stamp(&None, &stamps);
            stamps.retain(|stamp| shards.contains_key(&stamp.shard));
            self.queue.borrow_mut().push(Element::Reached(source, stamps));
            return Ok(());
        }
        let after = resumed.clone().unwrap_or(stamps);
        member.log.replace(Some(Reading::behind(&after, &shards)?));
        if resumed.is_some() {
            // The first portion at once: what is wrong with the token is told now.
            self.queue.borrow_mut().push(Element::Reached(source, after));
            self.read_log(core, member).await?;
        }
        Ok(())
    }

    /// Reads the next portion of a member's logs. Whether they have more.
    async fn read_log<E: Env>(&self, core: &Rc<Core<E>>, member: &Rc<Member>) -> Result<bool, QueryError> {
        let Some(mut reading) = member.log.take() else { return Ok(false) };
        let subscription = &member.subscription;
        let portion = reading.next(core, &subscription.plan).await;
        let more = reading.has_more();
        member.log.replace(Some(reading));
        let (changes, reached) = portion?;
        self.tell_logged(core, member, changes, &[]);
        if !self.spec.include_initial {
            self.queue.borrow_mut().push(Element::Reached(subscription.number, reached));
        }
        Ok(more)
    }

    /// Tells kept changes, but for those behind `stamps`, which come as they happen.
    fn tell_logged<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        member: &Rc<Member>,
        changes: Vec<RowChange>,
        stamps: &[Stamp],
    ) {
        for row in changes {
            let comes = stamps.iter().any(|stamp| stamp.shard == row.shard && row.commit > stamp.commit);
            let change = leased(core, member.subscription.number, row);
            // Portions are read when there is room, so there is no bound to look at.
            let element = match self.spec.include_initial {
                _ if comes => None,
                true => member.told(&change).map(Queue::initial_change),
                false => Some(Element::Change(change, None)),
            };
            if let Some(element) = element {
                self.queue.borrow_mut().push(element);
            }
        }
    }

    /// Reads kept changes; behind the last of them, and when the client has taken what waits, changes come as they happen. Whether
    /// that brought anything.
    pub(super) async fn catch_up<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        member: &Rc<Member>,
    ) -> Result<bool, QueryError> {
        let has_more = member.log.borrow().as_ref().is_some_and(Reading::has_more);
        if has_more {
            self.read_log(core, member).await?;
            return Ok(true);
        }
        if !self.queue.borrow().is_empty() {
            return Ok(false);
        }
        let stamps = member.subscribe(core).await?;
        let Some(mut reading) = member.log.take() else { return Ok(false) };
        reading.look_again();
        while reading.has_more() && !reading.has_reached(&stamps) {
            let (changes, _) = reading.next(core, &member.subscription.plan).await?;
            self.tell_logged(core, member, changes, &stamps);
        }
        member.stamps.borrow_mut().clear();
        member.stamp(&None, &stamps);
        member.is_live.set(true);
        let shards: Vec<Stamp> = stamps.into_iter().filter(|stamp| reading.is_about(stamp.shard)).collect();
        self.queue.borrow_mut().push(Element::Reached(member.subscription.number, shards));
        let held = member.held.take();
        self.tell_held(core, member, held);
        Ok(true)
    }
}
