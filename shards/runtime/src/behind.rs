//! The two scheduling classes of a core: what is short, and behind it what is long (queries and writes that have held the core for a
//! while) or what nobody waits for (checkpoints, the construction of indexes, what is dropped or too old).
//!
//! Always: whoever of the second class has used the core for a slice rests until the others, if they are busy, have used it
//! [`SHARE`] times as long or have nothing more to do, and only one rests at a time, the next after it; on an idle core a rest is
//! one turn. So the class neither starves nor is felt. Work that others will have to wait for if it falls further behind says so by its
//! pressure: its slices become longer and its rests shorter, and every other rest is one of such work, so that who makes the work is slowed down little by little
//! and not stopped at once. A task of their own ends the rests: whoever rests may lie in a future that is not
//! polled for a while, or in work that rests as a whole too, and must not keep the others waiting. The executor's own task queues would run one class until it has nothing
//! left to do or a timer ends its turn, and that timer cannot be relied on (`uring.rs`), so the slices are measured here. Two
//! waits are kept as figures: the turn that a task of the first class waits for, and the rests of the second.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use photondb_proto::control::DurationHistogram;

use crate::env::Env;

/// What is used before a rest.
const SLICE: Duration = Duration::from_micros(200);
/// What work under the highest pressure uses in addition.
const SLICE_PRESSED: Duration = Duration::from_micros(300);
/// The others have so many times as much of a busy core.
const SHARE: u32 = 4;
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
    /// Rests that have not begun, and those of work under pressure: they take turns.
    resting: RefCell<VecDeque<Rc<Rest>>>,
    pressed: RefCell<VecDeque<Rc<Rest>>>,
    was_pressed: Cell<bool>,
    /// A task ends them.
    is_tended: Cell<bool>,
}

impl Classes {
    fn next_rest(&self) -> Option<Rc<Rest>> {
        let (mut resting, mut pressed) = (self.resting.borrow_mut(), self.pressed.borrow_mut());
        let is_pressed = !pressed.is_empty() && (resting.is_empty() || !self.was_pressed.get());
        self.was_pressed.set(is_pressed);
        if is_pressed { pressed.pop_front() } else { resting.pop_front() }
    }
}

/// Work that rests after each slice.
pub fn behind<'a, E: Env, T>(
    env: &E,
    classes: &Rc<Classes>,
    work: impl Future<Output = T> + 'a,
) -> Behind<'a, E, T> {
    behind_pressed(env, classes, || 0, work)
}

/// The same for work that gets more of the core the higher its pressure is, from 0 to 100.
pub fn behind_pressed<'a, E: Env, T>(
    env: &E,
    classes: &Rc<Classes>,
    pressure: impl Fn() -> u32 + 'a,
    work: impl Future<Output = T> + 'a,
) -> Behind<'a, E, T> {
    Behind {
        env: env.clone(),
        classes: classes.clone(),
        pressure: Box::new(pressure),
        work: Box::pin(work),
        woken: Arc::default(),
        used: Duration::ZERO,
        rest: None,
    }
}

pub struct Behind<'a, E: Env, T> {
    env: E,
    classes: Rc<Classes>,
    pressure: Box<dyn Fn() -> u32 + 'a>,
    work: Pin<Box<dyn Future<Output = T> + 'a>>,
    woken: Arc<Woken>,
    /// Since the last rest.
    used: Duration,
    rest: Option<Pin<Box<dyn Future<Output = ()> + 'a>>>,
}

// Nothing in it is pinned where it lies.
impl<E: Env, T> Unpin for Behind<'_, E, T> {}

/// Sees whether the work was woken, by itself in most cases.
#[derive(Default)]
struct Woken {
    is_woken: AtomicBool,
    /// Who is to poll it then, if that is not going on at once.
    task: AtomicWaker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_woken.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<E: Env, T> Future for Behind<'_, E, T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let this = &mut *self;
        let waker = Waker::from(this.woken.clone());
        loop {
            if let Some(rest) = &mut this.rest {
                ready!(rest.as_mut().poll(context));
                this.rest = None;
            }
            let pressure = (this.pressure)().min(100);
            let slice = SLICE + SLICE_PRESSED * pressure / 100;
            // Its own turns are no others' turns: it goes on at once until the slice is used, by a clock that moves.
            while this.used < slice {
                this.woken.is_woken.swap(false, Ordering::AcqRel);
                this.woken.task.take();
                let began = this.env.elapsed();
                let polled = this.work.as_mut().poll(&mut Context::from_waker(&waker));
                let used = this.env.elapsed().saturating_sub(began);
                this.used += used;
                if polled.is_ready() {
                    return polled;
                }
                if used.is_zero() || !this.woken.is_woken.load(Ordering::Acquire) {
                    this.woken.task.register(context.waker());
                    if this.woken.is_woken.load(Ordering::Acquire) {
                        context.waker().wake_by_ref();
                    }
                    break;
                }
            }
            if this.used < slice {
                return Poll::Pending;
            }
            // It is polled once more after the rest, woken or not.
            let used = std::mem::take(&mut this.used);
            let (env, classes) = (this.env.clone(), this.classes.clone());
            this.rest = Some(Box::pin(async move { rest_pressed(&env, &classes, used, pressure).await }));
        }
    }
}

/// Waits until the others have had their part of the core, or have nothing to do.
pub async fn rest<E: Env>(env: &E, classes: &Rc<Classes>, used: Duration) {
    rest_pressed(env, classes, used, 0).await;
}

async fn rest_pressed<E: Env>(env: &E, classes: &Rc<Classes>, used: Duration, pressure: u32) {
    let asked = env.elapsed();
    let wanted = (used * SHARE * (100 - pressure) / 100).min(REST_MAX);
    let own = Rc::new(Rest { wanted, ..Rest::default() });
    let line = if pressure == 0 { &classes.resting } else { &classes.pressed };
    line.borrow_mut().push_back(own.clone());
    if !classes.is_tended.replace(true) {
        env.spawn(tend(env.clone(), classes.clone()));
    }
    poll_fn(|context| own.poll_over(context)).await;
    record(&classes.background, env.elapsed().saturating_sub(asked));
}

/// Ends the rests of a core, one after the other, until nobody rests.
async fn tend<E: Env>(env: E, classes: Rc<Classes>) {
    while let Some(rest) = classes.next_rest() {
        let began = env.elapsed();
        let mut turn = began;
        while !rest.is_left() {
            env.next_turn().await;
            let now = env.elapsed();
            if now.saturating_sub(turn) <= IDLE_TURN || now.saturating_sub(began) >= rest.wanted {
                break;
            }
            turn = now;
        }
        rest.end();
    }
    classes.is_tended.set(false);
}

/// A rest that is waited for.
#[derive(Default)]
struct Rest {
    wanted: Duration,
    is_over: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Rest {
    fn poll_over(&self, context: &Context<'_>) -> Poll<()> {
        if self.is_over.get() {
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Whether who rested has gone.
    fn is_left(self: &Rc<Self>) -> bool {
        Rc::strong_count(self) == 1
    }

    fn end(&self) {
        self.is_over.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

pub fn record(histogram: &RefCell<DurationHistogram>, duration: Duration) {
    histogram.borrow_mut().record(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::uring::UringEnv;
    use crate::uring::tests::ran;

    /// Uses the core in pieces of that length until it is over, and counts what it used.
    async fn spin(env: UringEnv, piece: Duration, used: Rc<Cell<Duration>>, is_over: Rc<Cell<bool>>) {
        while !is_over.get() {
            let began = env.elapsed();
            while env.elapsed() - began < piece {}
            used.set(used.get() + (env.elapsed() - began));
            env.next_turn().await;
        }
    }

    #[test]
    fn background_work_has_its_share_of_a_busy_core_and_all_of_an_idle_one() {
        let work = |env: UringEnv| async move {
            let mut shares = Vec::new();
            for is_busy in [true, false] {
                let (front, back) = (Rc::new(Cell::new(Duration::ZERO)), Rc::new(Cell::new(Duration::ZERO)));
                let (is_over, classes) = (Rc::new(Cell::new(false)), Rc::<Classes>::default());
                if is_busy {
                    env.spawn(spin(env.clone(), Duration::from_micros(500), front.clone(), is_over.clone()));
                }
                let piece = Duration::from_micros(300);
                let behind = behind(&env, &classes, spin(env.clone(), piece, back.clone(), is_over.clone()));
                env.spawn(behind);
                env.sleep(Duration::from_millis(400)).await;
                is_over.set(true);
                env.sleep(Duration::from_millis(50)).await;
                assert!(classes.background.borrow().count() > 0, "rests are recorded");
                shares.push((front.get(), back.get()));
            }
            shares
        };
        let shares = ran("behind", work);
        let [(front, back), (_, alone)] = shares[..] else { panic!("both were measured: {shares:?}") };
        // On a machine that is busy itself the shares are not exact.
        assert!(Duration::ZERO < back && back < front, "a share, neither more nor nothing: {shares:?}");
        assert!(alone > back, "nothing holds it back on an idle core: {shares:?}");
    }

    #[test]
    fn work_that_others_will_wait_for_gets_more_of_a_busy_core() {
        let work = |env: UringEnv| async move {
            let mut used = Vec::new();
            for pressure in [0, 100] {
                let back = Rc::new(Cell::new(Duration::ZERO));
                let (is_over, classes) = (Rc::new(Cell::new(false)), Rc::<Classes>::default());
                let busy = spin(env.clone(), Duration::from_micros(500), Rc::default(), is_over.clone());
                env.spawn(busy);
                let own = {
                    let (back, is_over) = (back.clone(), is_over.clone());
                    async move {
                        while !is_over.get() {
                            let began = Instant::now();
                            while began.elapsed() < Duration::from_micros(50) {}
                            back.set(back.get() + began.elapsed());
                            futures_lite::future::yield_now().await;
                        }
                    }
                };
                env.spawn(behind_pressed(&env, &classes, move || pressure, own));
                env.sleep(Duration::from_millis(400)).await;
                is_over.set(true);
                env.sleep(Duration::from_millis(50)).await;
                used.push(back.get());
            }
            used
        };
        let used = ran("pressed", work);
        assert!(used[1] > used[0] * 3 / 2, "it is given more: {used:?}");
    }

    /// Ends, unless a rest waits for itself.
    async fn within<T>(env: &UringEnv, work: impl Future<Output = T>) -> T {
        let late = async {
            env.sleep(Duration::from_secs(20)).await;
            None
        };
        futures_lite::future::or(async { Some(work.await) }, late).await.expect("it ends")
    }

    #[test]
    fn work_that_rests_by_itself_may_rest_as_a_whole_too() {
        let work = |env: UringEnv| async move {
            let classes = Rc::<Classes>::default();
            let nested = async {
                for _ in 0..20 {
                    let began = env.elapsed();
                    while env.elapsed() - began < Duration::from_millis(1) {}
                    rest(&env, &classes, env.elapsed() - began).await;
                }
            };
            within(&env, behind(&env, &classes, nested)).await;
        };
        ran("nested", work);
    }

    #[test]
    fn a_rest_that_nobody_looks_at_or_that_is_left_holds_up_no_other() {
        let work = |env: UringEnv| async move {
            let classes = Rc::<Classes>::default();
            let used = Duration::from_millis(1);
            let mut unwatched = Box::pin(rest(&env, &classes, used));
            let mut left = Box::pin(rest(&env, &classes, used));
            for begun in [&mut unwatched, &mut left] {
                assert!(futures_lite::future::poll_once(begun).await.is_none(), "it has begun");
            }
            drop(left);
            within(&env, rest(&env, &classes, used)).await;
            within(&env, unwatched).await;
        };
        ran("left", work);
    }
}
