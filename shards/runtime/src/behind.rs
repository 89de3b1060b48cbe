//! The two scheduling classes of a core: what is short, and behind it what is long (queries and writes that have held the core for a
//! while) or what nobody waits for (checkpoints, the construction of indexes, what is dropped or too old).
//!
//! Always: whoever of the second class has used the core for a slice rests until the others, if they are busy, have used it
//! [`SHARE`] times as long or have nothing more to do, and only one rests at a time, the next after it; on an idle core a rest is
//! one turn. So the class neither starves nor is felt. The executor's own task queues would run one class until it has nothing
//! left to do or a timer ends its turn, and that timer cannot be relied on (`uring.rs`), so the slices are measured here. Two
//! waits are kept as figures: the turn that a task of the first class waits for, and the rests of the second.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use photondb_proto::control::DurationHistogram;

use crate::admission::Watchers;
use crate::env::Env;

/// What is used before a rest.
const SLICE: Duration = Duration::from_micros(200);
/// The others have so many times as much of a busy core.
const SHARE: u32 = 3;
/// A turn that took no longer was one of an idle core.
const IDLE_TURN: Duration = Duration::from_micros(100);
/// However busy the others are, a rest is no longer.
const REST_MAX: Duration = Duration::from_millis(20);

/// Who rests, and how long a core's tasks wait.
#[derive(Default)]
pub struct Classes {
    /// A task that can run waits so long for its turn.
    pub foreground: RefCell<DurationHistogram>,
    /// Background work rests so long after a slice.
    pub background: RefCell<DurationHistogram>,
    /// Who rests, and behind it who is to rest, by number.
    resting: RefCell<VecDeque<u64>>,
    next: Cell<u64>,
    rested: Watchers,
}

/// Work that rests after each slice.
pub fn behind<'a, E: Env, T>(
    env: &E,
    classes: &Rc<Classes>,
    work: impl Future<Output = T> + 'a,
) -> Behind<'a, E, T> {
    let (env, classes) = (env.clone(), classes.clone());
    Behind { env, classes, work: Box::pin(work), used: Duration::ZERO, rest: None }
}

pub struct Behind<'a, E: Env, T> {
    env: E,
    classes: Rc<Classes>,
    work: Pin<Box<dyn Future<Output = T> + 'a>>,
    /// Since the last rest.
    used: Duration,
    rest: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
}

// Nothing in it is pinned where it lies.
impl<E: Env, T> Unpin for Behind<'_, E, T> {}

impl<E: Env, T> Future for Behind<'_, E, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        loop {
            if let Some(rest) = &mut this.rest {
                ready!(rest.as_mut().poll(context));
                this.rest = None;
            }
            let began = this.env.elapsed();
            let polled = this.work.as_mut().poll(context);
            this.used += this.env.elapsed().saturating_sub(began);
            if polled.is_ready() || this.used < SLICE {
                return polled;
            }
            // It is polled once more after the rest, woken or not.
            let used = std::mem::take(&mut this.used);
            let (env, classes) = (this.env.clone(), this.classes.clone());
            this.rest = Some(Box::pin(async move { rest(&env, &classes, used).await }));
        }
    }
}

/// Waits until the others have had their part of the core, or have nothing to do.
pub async fn rest<E: Env>(env: &E, classes: &Classes, used: Duration) {
    let asked = env.elapsed();
    let own = Resting::queue(classes);
    classes.rested.until(|| classes.resting.borrow().front() == Some(&own.number)).await;
    let wanted = (used * SHARE).min(REST_MAX);
    let began = env.elapsed();
    let mut turn = began;
    loop {
        env.next_turn().await;
        let now = env.elapsed();
        if now.saturating_sub(turn) <= IDLE_TURN || now.saturating_sub(began) >= wanted {
            return record(&classes.background, now.saturating_sub(asked));
        }
        turn = now;
    }
}

/// A place among those who rest, until it is dropped.
struct Resting<'a> {
    classes: &'a Classes,
    number: u64,
}

impl Resting<'_> {
    fn queue(classes: &Classes) -> Resting<'_> {
        let number = classes.next.replace(classes.next.get() + 1);
        classes.resting.borrow_mut().push_back(number);
        Resting { classes, number }
    }
}

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.classes.resting.borrow_mut().retain(|number| *number != self.number);
        self.classes.rested.wake_all();
    }
}

pub fn record(histogram: &RefCell<DurationHistogram>, duration: Duration) {
    histogram.borrow_mut().record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
}
