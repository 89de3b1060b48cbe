//! When followers are shown what is new.
//!
//! Telling many clients costs a core more than the changes do: a system call each. So what changes shortly after they were
//! told waits a little for more, in proportion to how many there were to tell, and never long.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::Subscription;
use crate::core::Core;
use crate::env::Env;

/// So few who wait are told at once.
const FEW: u32 = 8;
const WAIT_EACH: Duration = Duration::from_micros(30);
const WAIT_MAX: Duration = Duration::from_millis(4);

#[derive(Default)]
pub struct Pace {
    /// Those whose trails have changes that nobody was shown.
    changed: RefCell<Vec<Rc<Subscription>>>,
    next: Cell<Duration>,
    is_waiting: Cell<bool>,
}

impl Pace {
    /// A change is about to go to the trail.
    pub fn changed(&self, subscription: &Rc<Subscription>) {
        if subscription.trail.is_closed() {
            self.changed.borrow_mut().push(subscription.clone());
        }
    }

    fn show(&self, now: Duration) {
        let mut told = 0;
        for subscription in self.changed.take() {
            let Some(stretch) = subscription.trail.close() else { continue };
            for follower in subscription.followers.borrow().iter() {
                told += u32::from(follower.show(&stretch));
            }
        }
        let wait = if told <= FEW { Duration::ZERO } else { (WAIT_EACH * told).min(WAIT_MAX) };
        self.next.set(now + wait);
    }
}

/// Shows what is new, now or in a moment.
pub fn beat<E: Env>(core: &Rc<Core<E>>, now: Duration) {
    let pace = &core.listening.pace;
    if pace.changed.borrow().is_empty() || pace.is_waiting.get() {
        return;
    }
    let Some(wait) = pace.next.get().checked_sub(now).filter(|wait| !wait.is_zero()) else {
        return pace.show(now);
    };
    pace.is_waiting.set(true);
    let core = core.clone();
    core.env.clone().spawn(async move {
        core.env.sleep(wait).await;
        core.listening.pace.is_waiting.set(false);
        core.listening.pace.show(core.env.elapsed());
    });
}
