//! A listener's way from the change logs to what happens now: see [`super::super::log`].
//!
//! Always: it subscribes only when the client has taken all that was read, so that what comes meanwhile is little.

use std::rc::Rc;

use photondb_proto::error::QueryError;
use photondb_proto::resume::{Commits, ShardPlace};

use super::super::log::{self, Opening, PartsTold, Reading};
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
        let plan = &member.subscription.plan;
        let table = core.catalog().table(plan.table).cloned().ok_or_else(aborted)?;
        let shards = log::shards_of(core, &table, plan);
        let table = plan.table;
        let mut stamps = member.stamps_of(core, || FeedRequest::Keep { table }).await?;
        stamps.retain(|stamp| shards.contains_key(&stamp.shard));
        let resumed = opening.places(index);
        if resumed.is_none() && !self.spec.include_initial {
            let mut stamps = member.subscribe(core).await?;
            member.stamp(&None, &stamps);
            stamps.retain(|stamp| shards.contains_key(&stamp.shard));
            self.reached(index, log::whole(stamps));
            return Ok(());
        }
        let after = match resumed {
            Some(places) => {
                let stamp = |place: &ShardPlace| Stamp { shard: place.shard, commit: place.commit };
                places.iter().map(stamp).collect()
            }
            None => stamps,
        };
        member.log.replace(Some(Reading::behind(&after, &shards)?));
        if let Some(places) = resumed {
            // The first portion at once: what is wrong with the token is told now.
            member.parts_told.replace(PartsTold::of(places));
            self.reached(index, places.clone());
            self.read_log(core, index, member).await?;
        }
        Ok(())
    }

    /// Tokens may say so when the client has taken what waits now.
    fn reached(&self, member: usize, places: Commits) {
        self.queue.borrow_mut().push(Element::Reached(member as u16, places));
    }

    /// Reads the next portion of a member's logs. Whether they have more.
    async fn read_log<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        index: usize,
        member: &Rc<Member>,
    ) -> Result<bool, QueryError> {
        let Some(mut reading) = member.log.take() else { return Ok(false) };
        let subscription = &member.subscription;
        let portion = reading.next(core, &subscription.plan).await;
        let more = reading.has_more();
        member.log.replace(Some(reading));
        let (changes, reached) = portion?;
        self.tell_logged(core, index, member, changes, &[]);
        if !self.spec.include_initial {
            self.reached(index, log::whole(reached));
        }
        Ok(more)
    }

    /// Tells kept changes, but for those behind `stamps`, which come as they happen.
    fn tell_logged<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        index: usize,
        member: &Rc<Member>,
        changes: Vec<RowChange>,
        stamps: &[Stamp],
    ) {
        let index = index as u16;
        for row in changes {
            if member.parts_told.borrow_mut().holds(&row) {
                continue;
            }
            let comes = stamps.iter().any(|stamp| stamp.shard == row.shard && row.commit > stamp.commit);
            let change = leased(core, row);
            // Portions are read when there is room, so there is no bound to look at.
            let element = match self.spec.include_initial {
                _ if comes => None,
                true => member.told(&change).map(|change| Queue::initial_change(index, change)),
                false => (change.old != change.new).then_some(Element::Change(change, None, index)),
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
        index: usize,
        member: &Rc<Member>,
    ) -> Result<bool, QueryError> {
        let has_more = member.log.borrow().as_ref().is_some_and(Reading::has_more);
        if has_more {
            self.read_log(core, index, member).await?;
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
            self.tell_logged(core, index, member, changes, &stamps);
        }
        if reading.is_short_of(&stamps) {
            return Err(aborted());
        }
        member.stamps.borrow_mut().clear();
        member.stamp(&None, &stamps);
        member.is_live.set(true);
        let shards = stamps.into_iter().filter(|stamp| reading.is_about(stamp.shard));
        self.reached(index, log::whole(shards));
        let held = member.held.take();
        self.tell_held(core, index, member, held);
        Ok(true)
    }
}
