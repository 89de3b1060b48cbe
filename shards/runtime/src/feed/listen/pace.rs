//! When followers are shown what is new.
//!
//! Telling many clients costs a core more than the changes do: a system call each. So when there is much to tell to many, what
//! comes next waits a little for more, up to four times as long as telling took: then writers keep most of the core. Where there is little
//! to tell it hardly waits, and it never waits long.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::Subscription;
use crate::core::Core;
use crate::env::Env;

/// So few who wait are told at once.
const FEW: u32 = 8;
/// For each change of the last time.
const WAIT_EACH: Duration = Duration::from_micros(100);
/// Times what telling took.
const WAIT_TELLINGS: u32 = 4;
const WAIT_MAX: Duration = Duration::from_millis(20);
/// Telling is not thought to take longer.
const TELLING_MAX: Duration = Duration::from_millis(20);

#[derive(Default)]
pub struct Pace {
    /// Those whose trails have changes that nobody was shown.
    changed: RefCell<Vec<Rc<Subscription>>>,
    /// When followers were last shown something, and how many changes.
    shown: Cell<Duration>,
    changes: Cell<u32>,
    /// Followers who waited for it and have not taken it.
    untold: Cell<u32>,
    /// How long it took the last time until all had.
    telling: Cell<Duration>,
    is_waiting: Cell<bool>,
}

impl Pace {
    /// A change is about to go to the trail.
    pub fn changed(&self, subscription: &Rc<Subscription>) {
        if subscription.trail.open() == 0 {
            self.changed.borrow_mut().push(subscription.clone());
        }
    }

    /// A follower has taken what it was shown.
    pub fn told(&self, now: Duration) {
        if self.untold.get() > 0 {
            self.untold.set(self.untold.get() - 1);
            self.telling.set(now.saturating_sub(self.shown.get()).min(TELLING_MAX));
        }
    }

    /// When followers may be shown more.
    fn next(&self) -> Duration {
        let telling = self.telling.get();
        self.shown.get()
            + telling
            + (WAIT_EACH * self.changes.get()).min(WAIT_TELLINGS * telling).min(WAIT_MAX)
    }

    fn show(&self, now: Duration) {
        let (mut waiting, mut changes) = (0, 0);
        for subscription in self.changed.take() {
            changes += subscription.trail.open() as u32;
            let Some(stretch) = subscription.trail.close() else { continue };
            for follower in subscription.followers.borrow().iter() {
                waiting += u32::from(follower.show(&stretch));
            }
        }
        self.shown.set(now);
        self.changes.set(changes);
        self.untold.set(waiting);
        if waiting <= FEW {
            self.untold.set(0);
            self.telling.set(Duration::ZERO);
        }
    }
}

/// Shows what is new, now or in a moment.
pub fn beat<E: Env>(core: &Rc<Core<E>>, now: Duration) {
    let pace = &core.listening.pace;
    if pace.changed.borrow().is_empty() || pace.is_waiting.get() {
        return;
    }
    let Some(wait) = pace.next().checked_sub(now).filter(|wait| !wait.is_zero()) else {
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
