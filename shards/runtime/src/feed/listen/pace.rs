//! When followers are shown what is new.
//!
//! Telling many clients costs a core more than the changes do: a system call each. So while many are told, others have their turn after
//! each few; and when there is much to tell to many, what comes next waits a little for more: at least as long as telling took, so that
//! those who write have their half, and up to four times as long. Where there is little to tell it hardly waits, and it never waits long.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use super::Subscription;
use crate::core::Core;
use crate::env::Env;

/// So few who wait are told at once.
const FEW: u32 = 8;
/// So many are told between two turns of others.
const TOGETHER: usize = 16;
/// For each change of the last time,
const WAIT_EACH: Duration = Duration::from_micros(100);
/// but at least what telling took, if that is less than this,
const WAIT_LEAST_MAX: Duration = Duration::from_millis(1);
/// and at most so many times that.
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
    /// A task shows what comes, or waits to.
    is_showing: Cell<bool>,
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
        let wait = (WAIT_EACH * self.changes.get()).max(telling.min(WAIT_LEAST_MAX));
        self.shown.get() + telling + wait.min(WAIT_TELLINGS * telling).min(WAIT_MAX)
    }

    async fn show<E: Env>(&self, env: &E) {
        self.shown.set(env.elapsed());
        self.untold.set(0);
        let changed = self.changed.take();
        let changes = changed.iter().map(|subscription| subscription.trail.open());
        self.changes.set(changes.sum::<usize>() as u32);
        let (mut waiting, mut together) = (0, 0);
        for subscription in changed {
            let Some(stretch) = subscription.trail.close() else { continue };
            let followers = subscription.followers.borrow().clone();
            for follower in followers {
                if together == TOGETHER {
                    together = 0;
                    env.next_turn().await;
                }
                if follower.show(&stretch) {
                    together += 1;
                    waiting += 1;
                    self.untold.set(self.untold.get() + 1);
                }
            }
        }
        if waiting <= FEW {
            self.untold.set(0);
            self.telling.set(Duration::ZERO);
        }
    }
}

/// Shows what is new, now or in a moment.
pub fn beat<E: Env>(core: &Rc<Core<E>>) {
    let pace = &core.listening.pace;
    if pace.changed.borrow().is_empty() || pace.is_showing.replace(true) {
        return;
    }
    let core = core.clone();
    core.env.clone().spawn(async move {
        let pace = &core.listening.pace;
        while !pace.changed.borrow().is_empty() {
            let wait = pace.next().saturating_sub(core.env.elapsed());
            if !wait.is_zero() {
                core.env.sleep(wait).await;
            }
            pace.show(&core.env).await;
        }
        pace.is_showing.set(false);
    });
}
