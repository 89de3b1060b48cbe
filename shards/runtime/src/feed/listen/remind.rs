//! Resume tokens of feeds to which nothing happens.
//!
//! A feed whose rows do not change while others of its table do would keep a token that grows too old. So now and then its owners say
//! how far the table's changes have come, and a client that has had no element with a token since then gets one with nothing
//! but that.
//!
//! Always: what an owner says comes behind the changes before it, and is durable. A client gets one such element in a while, and none
//! when nothing was written.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::join_all;

use super::super::log;
use super::super::queue::Element;
use super::super::{FeedRequest, Stamp, SubscriptionId, ask};
use super::{Listener, Subscription};
use crate::core::Core;
use crate::env::Env;

/// Between two looks. A token is told after two of them at most.
const PAUSE: Duration = Duration::from_secs(2);

/// Sees to the tokens of this core's feeds, for as long as there are any.
pub fn begin<E: Env>(core: &Rc<Core<E>>) {
    if core.listening.reminds.replace(true) {
        return;
    }
    let core = core.clone();
    core.env.clone().spawn(async move {
        loop {
            core.env.sleep(PAUSE).await;
            let listeners: Vec<Rc<Listener>> = {
                let all = core.listening.listeners.borrow();
                all.values().filter(|listener| listener.queue.borrow().bears_tokens()).cloned().collect()
            };
            if listeners.is_empty() || core.draining.get() {
                core.listening.reminds.set(false);
                return;
            }
            listeners.iter().for_each(|listener| listener.remind());
            ask_owners(&core, &listeners).await;
        }
    });
}

async fn ask_owners<E: Env>(core: &Rc<Core<E>>, listeners: &[Rc<Listener>]) {
    let mut asked: BTreeMap<(u64, u16), Rc<Subscription>> = BTreeMap::new();
    for listener in listeners.iter().filter(|listener| !listener.is_initializing.get()) {
        for member in listener.members.borrow().iter() {
            let subscription = &member.subscription;
            let cores = member.cores.iter();
            asked.extend(cores.map(|peer| ((subscription.number, *peer), subscription.clone())));
        }
    }
    let asked = asked.into_iter().map(|((number, peer), subscription)| {
        let id = SubscriptionId { core: core.number, number };
        ask(core, peer, FeedRequest::Reach { id, table: subscription.plan.table })
    });
    join_all(asked).await;
}

impl Listener {
    /// Tells the client how far it is, if it was told nothing of late.
    fn remind(&self) {
        let mut queue = self.queue.borrow_mut();
        if queue.owes_token() && queue.is_empty() && self.ended.borrow().is_none() {
            queue.push(Element::Token);
            drop(queue);
            self.wake();
        }
    }

    /// All changes of a member up to these stamps have come.
    pub(super) fn passed(&self, index: usize, stamps: &[Stamp]) {
        let members = self.members.borrow();
        let Some(member) = members.get(index).filter(|member| member.is_live.get()) else { return };
        if self.is_initializing.get() || !self.queue.borrow().bears_tokens() {
            return;
        }
        let known = member.known();
        let is_about = |stamp: &&Stamp| known.iter().any(|known| known.shard == stamp.shard);
        let stamps = stamps.iter().filter(is_about).copied();
        self.queue.borrow_mut().push(Element::Reached(index as u16, log::whole(stamps)));
    }
}
