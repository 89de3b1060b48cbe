//! The two scheduling classes of a core: what somebody waits for, and behind it what nobody waits for (checkpoints, the
//! construction of indexes, what is dropped or too old).
//!
//! Always: work of the second class that has used the core for a slice rests until the others, if they are busy, have used it
//! [`SHARE`] times as long; on an idle core it rests for one turn. So it neither starves nor is felt. The executor's own task
//! queues would run one class until it has nothing left to do or a timer ends its turn, and that timer cannot be relied on
//! (`uring.rs`), so the slices are measured here. The two waits are kept as figures: the turn that a task of the first class
//! waits for, and the rests of the second.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use photondb_proto::control::DurationHistogram;

use crate::env::Env;

/// What is used before a rest.
const SLICE: Duration = Duration::from_micros(200);
/// The others have so many times as much of a busy core.
const SHARE: u32 = 3;
/// A turn that took no longer was one of an idle core.
const IDLE_TURN: Duration = Duration::from_micros(100);
/// However busy the others are, a rest is no longer.
const REST_MAX: Duration = Duration::from_millis(20);

/// How long a core's tasks wait.
#[derive(Default)]
pub struct Waits {
    /// A task that can run waits so long for its turn.
    pub foreground: RefCell<DurationHistogram>,
    /// Background work rests so long after a slice.
    pub background: RefCell<DurationHistogram>,
}

/// Work that rests after each slice.
pub fn behind<'a, E: Env, T>(
    env: &E,
    waits: &Rc<Waits>,
    work: impl Future<Output = T> + 'a,
) -> Behind<'a, E, T> {
    let (env, waits) = (env.clone(), waits.clone());
    Behind { env, waits, work: Box::pin(work), used: Duration::ZERO, rest: None }
}

pub struct Behind<'a, E: Env, T> {
    env: E,
    waits: Rc<Waits>,
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
            this.rest = Some(Box::pin(rest(this.env.clone(), this.waits.clone(), used)));
        }
    }
}

/// Waits until the others have had their part of the core, or have nothing to do.
async fn rest<E: Env>(env: E, waits: Rc<Waits>, used: Duration) {
    let began = env.elapsed();
    let wanted = (used * SHARE).min(REST_MAX);
    let mut turn = began;
    loop {
        env.next_turn().await;
        let now = env.elapsed();
        let rested = now.saturating_sub(began);
        if now.saturating_sub(turn) <= IDLE_TURN || rested >= wanted {
            record(&waits.background, rested);
            return;
        }
        turn = now;
    }
}

pub fn record(histogram: &RefCell<DurationHistogram>, duration: Duration) {
    histogram.borrow_mut().record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
}
