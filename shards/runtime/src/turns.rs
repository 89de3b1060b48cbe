//! What a core does between two pieces of work: it looks at its sockets and its bell, has the executor look at its rings, and naps.
//!
//! The executor's own turn costs some five calls of the kernel, and when it has nothing to do it arms timers, links its rings and waits: some
//! fourteen calls, with a barrier that interrupts the other cores. So as long as there is news now and then, a task here does what is needed for
//! sockets and messages by itself: it looks, lets all that can run have its turn, looks again, and when nothing can run waits in
//! the epoll for a moment. The executor gets its turn when something was begun there, while something is under way there at least every
//! [`EXECUTOR_PAUSE`], and else at least every [`NAP`].
//!
//! Always: a nap is no longer than [`NAP`], and there is none while the executor has something in flight, while a task waits for its
//! next turn or while any can run. So what only the executor knows of (its timers, a wake from another thread that does not ring the bell) is late
//! by a nap at most. A ring of the bell that comes after the last look ends the nap or the executor's sleep: whoever rings either
//! sees that we sleep, or we see that it has rung.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use pin_project_lite::pin_project;
use rustix::event::{EventfdFlags, eventfd};

use crate::sockets::{Events, Sockets};

/// The longest wait for news before the executor is let sleep. Longer than a client or a peer takes to answer on a machine that works.
const NAP: Duration = Duration::from_millis(1);
/// An executor that waits for the disk has its turn at least so often on a busy core.
const EXECUTOR_PAUSE: Duration = Duration::from_micros(100);

/// The turns of one core.
pub struct Turns {
    sockets: Rc<Sockets>,
    bell: Arc<Bell>,
    /// Rings the bell.
    ringer: Waker,
    /// Tasks that wait for the bell.
    listening: RefCell<Vec<Waker>>,
    /// Looks so far.
    looks: Cell<u64>,
    /// Tasks that wait for the next look.
    waiting: RefCell<Vec<Waker>>,
    /// Polls of tasks so far.
    polls: Cell<u64>,
    /// Something for the executor's rings was begun and is not in the kernel's hands yet.
    begun: Cell<bool>,
    /// What was begun and has not ended.
    in_flight: Cell<usize>,
    /// The task here, while the executor sleeps or may.
    tender: RefCell<Option<Waker>>,
}

/// Wakes a core from other threads.
struct Bell {
    rung: AtomicBool,
    asleep: AtomicBool,
    news: OwnedFd,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        // Pairs with the fence in `Bell::sleeps`.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // Never full: the count is far below what fits.
            let _ = rustix::io::write(&self.news, &1_u64.to_ne_bytes());
        }
    }
}

impl Bell {
    /// Whether the core may sleep now: nobody has rung since it last looked.
    fn sleeps(&self) -> bool {
        self.asleep.store(true, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        !self.rung.load(Ordering::Relaxed)
    }
}

impl Turns {
    /// # Errors
    /// The kernel's.
    pub fn new(sockets: Rc<Sockets>) -> io::Result<Rc<Turns>> {
        let news = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        // Edge-triggered and never read: each ring is an event.
        sockets.watch_edges(news.try_clone()?)?;
        let bell = Arc::new(Bell { rung: AtomicBool::new(false), asleep: AtomicBool::new(false), news });
        Ok(Rc::new(Turns {
            sockets,
            ringer: Waker::from(bell.clone()),
            bell,
            listening: RefCell::default(),
            looks: Cell::new(0),
            waiting: RefCell::default(),
            polls: Cell::new(0),
            begun: Cell::new(false),
            in_flight: Cell::new(0),
            tender: RefCell::default(),
        }))
    }

    /// Tends the core, for ever. `executor` lets the executor look at its rings and timers; `ring` waits until the epoll has
    /// something to tell.
    pub async fn tend(self: Rc<Self>, executor: impl AsyncFn(), ring: impl AsyncFn(BorrowedFd<'_>)) {
        let mut events = Events::default();
        let mut executor_looked = Instant::now();
        let mut told = true;
        loop {
            let polls = self.polls.get();
            let pause = if self.in_flight.get() == 0 { NAP } else { EXECUTOR_PAUSE };
            if self.begun.take() || executor_looked.elapsed() > pause {
                executor().await;
                executor_looked = Instant::now();
            } else {
                all_others().await;
            }
            if self.polls.get() != polls || self.is_awaited() {
                // Those that were woken by the tasks of the first look run before the next.
                told = !told && self.look(&mut events, Duration::ZERO);
                continue;
            }
            told = self.in_flight.get() == 0 && self.look(&mut events, NAP);
            if !told {
                if self.bell.sleeps() {
                    futures_lite::future::or(ring(self.sockets.epoll()), self.called()).await;
                    self.tender.take();
                    executor_looked = Instant::now();
                }
                told = self.look(&mut events, Duration::ZERO);
            }
        }
    }

    /// Takes what the epoll and the bell tell, after a wait for it if there is nothing yet; whether they told anything.
    fn look(&self, events: &mut Events, wait: Duration) -> bool {
        let wait = if wait.is_zero() || self.bell.sleeps() { wait } else { Duration::ZERO };
        let mut told = self.sockets.look(events, wait);
        self.bell.asleep.store(false, Ordering::Relaxed);
        // Nothing is lost if it rings now: the core looks again before it sleeps.
        if self.bell.rung.load(Ordering::Relaxed) && self.bell.rung.swap(false, Ordering::AcqRel) {
            told = true;
            self.listening.borrow_mut().drain(..).for_each(Waker::wake);
        }
        self.looks.set(self.looks.get() + 1);
        self.waiting.borrow_mut().drain(..).for_each(Waker::wake);
        told
    }

    /// Whether a task waits for the next look, or for what the executor does not know of yet.
    fn is_awaited(&self) -> bool {
        self.begun.get() || !self.waiting.borrow().is_empty()
    }

    /// Waits until a task waits for the next look.
    async fn called(&self) {
        poll_fn(|context| {
            if !self.waiting.borrow().is_empty() {
                return Poll::Ready(());
            }
            *self.tender.borrow_mut() = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Comes back after the next look, when all that could run has run.
    pub async fn next(&self) {
        let before = self.looks.get();
        poll_fn(|context| {
            if self.looks.get() != before {
                return Poll::Ready(());
            }
            self.waiting.borrow_mut().push(context.waker().clone());
            if let Some(tender) = self.tender.borrow_mut().take() {
                tender.wake();
            }
            Poll::Pending
        })
        .await;
    }

    /// Waits for what another thread does. It wakes us sooner than through the executor.
    pub async fn heard<T>(&self, wait: impl Future<Output = T>) -> T {
        let mut wait = std::pin::pin!(wait);
        poll_fn(|context| {
            let polled = wait.as_mut().poll(&mut Context::from_waker(&self.ringer));
            if polled.is_pending() {
                let mut listening = self.listening.borrow_mut();
                if !listening.iter().any(|waker| waker.will_wake(context.waker())) {
                    listening.push(context.waker().clone());
                }
            }
            polled
        })
        .await
    }

    /// Has a call of the kernel that may block for long done by a thread of its own: freeing the blocks of a file of 64 MiB takes tens
    /// of milliseconds. Where no thread can be had it is done here.
    ///
    /// # Errors
    /// The call's.
    pub async fn blocking<T: Send + 'static, F: FnOnce() -> io::Result<T> + Send + 'static>(
        &self,
        call: F,
    ) -> io::Result<T> {
        let (hand_over, calls) = flume::bounded::<F>(1);
        let (done, result) = flume::bounded(1);
        let work = move || {
            if let Ok(call) = calls.recv() {
                // Who has gone does not wait for the result.
                let _ = done.send(call());
            }
        };
        if std::thread::Builder::new().name("photondb-file".into()).spawn(work).is_err() {
            return call();
        }
        match hand_over.send(call) {
            Ok(()) => {
                self.heard(result.recv_async()).await.unwrap_or_else(|_| Err(io::ErrorKind::Other.into()))
            }
            Err(flume::SendError(call)) => call(),
        }
    }

    /// Something that the executor's rings do.
    pub async fn of_executor<T>(&self, work: impl Future<Output = T>) -> T {
        self.begun.set(true);
        self.in_flight.set(self.in_flight.get() + 1);
        let _flight = Flight(&self.in_flight);
        work.await
    }

    /// A task whose polls are seen here.
    pub fn task<F: Future>(self: &Rc<Self>, work: F) -> Task<F> {
        Task { work, turns: self.clone() }
    }
}

struct Flight<'a>(&'a Cell<usize>);

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

pin_project! {
    /// See [`Turns::task`].
    pub struct Task<F> {
        #[pin]
        work: F,
        turns: Rc<Turns>,
    }
}

impl<F: Future> Future for Task<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.turns.polls.set(this.turns.polls.get() + 1);
        this.work.poll(context)
    }
}

/// Comes back when all tasks that could run have run.
async fn all_others() {
    let mut asked = false;
    poll_fn(|context| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use futures_lite::future::{block_on, poll_once};

    use super::*;

    /// Longer than any machine needs to tell of a ring.
    const LONG: Duration = Duration::from_secs(20);

    fn turns() -> (Rc<Turns>, Events) {
        let sockets = Sockets::new().expect("an epoll");
        let turns = Turns::new(sockets).expect("a bell");
        // Being registered may be news.
        let mut events = Events::default();
        turns.look(&mut events, Duration::ZERO);
        (turns, events)
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_ring_of_another_thread_ends_a_nap_and_wakes_who_listens() {
        let (turns, mut events) = turns();
        for round in 0..100 {
            let (sender, receiver) = flume::bounded(1);
            let mut wait = Box::pin(turns.heard(async { receiver.recv_async().await.expect("it is sent") }));
            let wakes = Arc::new(Wakes::default());
            let waker = Waker::from(wakes.clone());
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            let sent = std::thread::spawn(move || sender.send(round));
            let began = Instant::now();
            // The last round's ring may be told once more.
            while wakes.0.load(Ordering::Relaxed) == 0 {
                assert!(turns.look(&mut events, LONG), "round {round}");
            }
            assert!(began.elapsed() < LONG, "round {round}: the ring ended the nap");
            let ended = wait.as_mut().poll(&mut Context::from_waker(&waker));
            assert_eq!(ended, Poll::Ready(round));
            assert_eq!(sent.join().expect("it does not fail"), Ok(()));
        }
    }

    #[test]
    fn a_core_that_was_rung_since_it_looked_does_not_sleep() {
        let (turns, mut events) = turns();
        turns.ringer.wake_by_ref();
        assert!(!turns.bell.sleeps());
        assert!(turns.look(&mut events, LONG), "it is told without a nap");
        assert!(turns.bell.sleeps());
        assert!(!turns.look(&mut events, Duration::ZERO), "once");
    }

    #[test]
    fn who_waits_for_the_next_turn_goes_on_after_the_next_look() {
        let (turns, mut events) = turns();
        let mut next = Box::pin(turns.next());
        for _ in 0..2 {
            assert!(block_on(poll_once(&mut next)).is_none());
            assert!(turns.is_awaited(), "no nap before that");
        }
        turns.look(&mut events, Duration::ZERO);
        assert!(!turns.is_awaited());
        assert!(block_on(poll_once(&mut next)).is_some());
    }

    #[test]
    fn what_the_executor_does_is_begun_and_in_flight_until_it_ends_or_is_dropped() {
        let (turns, _) = turns();
        let mut work = Box::pin(turns.of_executor(std::future::pending::<()>()));
        assert_eq!((turns.is_awaited(), turns.in_flight.get()), (false, 0));
        assert!(block_on(poll_once(&mut work)).is_none());
        assert_eq!((turns.is_awaited(), turns.in_flight.get()), (true, 1));
        drop(work);
        assert_eq!(turns.in_flight.get(), 0);
        block_on(turns.of_executor(async {}));
        assert_eq!(turns.in_flight.get(), 0);
    }
}
