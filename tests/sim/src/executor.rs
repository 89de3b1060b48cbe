//! One thread, a virtual clock, and tasks polled in an order that the seed chooses.
//!
//! Always: time passes only when an event (a timer, the completion of an I/O) is taken from the queue; events are taken in
//! the order of their times. Usually that happens when no task can run, sometimes earlier, as if the processor were slow.
//! When the world is stopped nothing runs any more: [`Simulation::run`] drops every task where it stands, as a power loss does.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};

use crate::Random;

/// A run that takes more polls than this goes in circles.
const POLLS_MAX: u64 = 20_000_000;
/// With tasks ready, an event is taken nevertheless once in so many turns.
const EARLY_EVENT_ONE_IN: u64 = 8;
/// The main future's place among the tasks.
const MAIN: u64 = 0;

/// A world with its own time. Clones are the same world.
#[derive(Clone)]
pub struct Simulation(Rc<World>);

/// Whether what happens is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trace {
    Off,
    Printed,
}

struct World {
    seed: u64,
    traced: bool,
    random: RefCell<Random>,
    now_us: Cell<u64>,
    stopped: Cell<bool>,
    /// Tasks that are not being polled right now.
    tasks: RefCell<BTreeMap<u64, Task>>,
    events: RefCell<BTreeMap<(u64, u64), Event>>,
    numbered: Cell<u64>,
    ready: Arc<Ready>,
}

type Task = Pin<Box<dyn Future<Output = ()>>>;
type Event = Box<dyn FnOnce()>;

/// Tasks that were woken. A `Waker` must be `Send`, hence the lock, which nobody contends for.
#[derive(Default)]
struct Ready(Mutex<Vec<u64>>);

struct TaskWaker {
    task: u64,
    ready: Arc<Ready>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.ready.push(self.task);
    }
}

impl Ready {
    fn push(&self, task: u64) {
        let mut tasks = self.0.lock().expect("no panic happens while it is held");
        if !tasks.contains(&task) {
            tasks.push(task);
        }
    }

    fn take(&self, random: &mut Random) -> Option<u64> {
        let mut tasks = self.0.lock().expect("no panic happens while it is held");
        if tasks.is_empty() {
            return None;
        }
        let chosen = random.below(tasks.len() as u64) as usize;
        Some(tasks.swap_remove(chosen))
    }

    fn clear(&self) {
        self.0.lock().expect("no panic happens while it is held").clear();
    }
}

impl Simulation {
    pub fn new(seed: u64) -> Self {
        let trace =
            if std::env::var_os("PHOTONDB_SIM_TRACE").is_some() { Trace::Printed } else { Trace::Off };
        Self::traced(seed, trace)
    }

    pub fn traced(seed: u64, trace: Trace) -> Self {
        Self(Rc::new(World {
            seed,
            traced: trace == Trace::Printed,
            random: RefCell::new(Random::new(seed)),
            now_us: Cell::new(0),
            stopped: Cell::new(false),
            tasks: RefCell::default(),
            events: RefCell::default(),
            numbered: Cell::new(MAIN),
            ready: Arc::default(),
        }))
    }

    pub fn seed(&self) -> u64 {
        self.0.seed
    }

    pub fn is_traced(&self) -> bool {
        self.0.traced
    }

    /// Draws from the world's chance. Do not draw within `draw`.
    pub fn random<T>(&self, draw: impl FnOnce(&mut Random) -> T) -> T {
        draw(&mut self.0.random.borrow_mut())
    }

    pub fn now_us(&self) -> u64 {
        self.0.now_us.get()
    }

    /// Starts a task. It is dropped, finished or not, when the current [`Simulation::run`] ends.
    pub fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        let task = self.next_number();
        self.0.tasks.borrow_mut().insert(task, Box::pin(future));
        self.0.ready.push(task);
    }

    pub async fn sleep_us(&self, duration_us: u64) {
        let waiting: Rc<RefCell<(bool, Option<Waker>)>> = Rc::default();
        let rings = waiting.clone();
        self.after_us(duration_us, move || {
            rings.borrow_mut().0 = true;
            let waker = rings.borrow_mut().1.take();
            waker.into_iter().for_each(Waker::wake);
        });
        poll_fn(|context| {
            let mut waiting = waiting.borrow_mut();
            if waiting.0 {
                return Poll::Ready(());
            }
            waiting.1 = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// Lets every other task that is ready have its chance to go first.
    pub async fn yield_now(&self) {
        let mut yielded = false;
        poll_fn(|context| {
            if yielded {
                return Poll::Ready(());
            }
            yielded = true;
            context.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    /// Has `event` happen after `delay_us`, unless the world stops before.
    pub(crate) fn after_us(&self, delay_us: u64, event: impl FnOnce() + 'static) {
        let at = (self.now_us().saturating_add(delay_us), self.next_number());
        self.0.events.borrow_mut().insert(at, Box::new(event));
    }

    /// Ends everything at once: the current [`Simulation::run`] polls nothing any more and gives `None`.
    pub fn stop(&self) {
        self.0.stopped.set(true);
    }

    pub fn is_stopped(&self) -> bool {
        self.0.stopped.get()
    }

    /// Runs `main` and what it spawns until `main` ends (then it gives its result) or the world is stopped (then `None`).
    /// Panics when everything waits for ever.
    pub fn run<T>(&self, main: impl Future<Output = T>) -> Option<T> {
        self.0.stopped.set(false);
        let mut main = pin!(main);
        let mut result = None;
        self.0.ready.push(MAIN);
        let mut polls = 0;
        while result.is_none() && !self.is_stopped() {
            polls += 1;
            assert!(polls < POLLS_MAX, "seed {}: the simulation goes in circles", self.seed());
            let early = self.random(|random| random.one_in(EARLY_EVENT_ONE_IN));
            if early && self.take_event() {
                continue;
            }
            let next = self.random(|random| self.0.ready.take(random));
            match next {
                Some(MAIN) => {
                    let waker = self.waker(MAIN);
                    if let Poll::Ready(value) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                        result = Some(value);
                    }
                }
                Some(task) => self.poll_task(task),
                None => assert!(self.take_event(), "seed {}: everything waits for ever", self.seed()),
            }
        }
        self.clear();
        result.filter(|_| !self.is_stopped())
    }

    fn poll_task(&self, number: u64) {
        // The task is taken out, because polling it may spawn others.
        let Some(mut task) = self.0.tasks.borrow_mut().remove(&number) else { return };
        let waker = self.waker(number);
        if task.as_mut().poll(&mut Context::from_waker(&waker)).is_pending() {
            self.0.tasks.borrow_mut().insert(number, task);
        }
    }

    fn waker(&self, task: u64) -> Waker {
        Waker::from(Arc::new(TaskWaker { task, ready: self.0.ready.clone() }))
    }

    fn take_event(&self) -> bool {
        let first = self.0.events.borrow_mut().pop_first();
        let Some(((at_us, _), event)) = first else { return false };
        self.0.now_us.set(self.now_us().max(at_us));
        event();
        true
    }

    /// Dropping a task may run code that reaches for the world, so nothing is borrowed meanwhile.
    fn clear(&self) {
        let tasks = std::mem::take(&mut *self.0.tasks.borrow_mut());
        drop(tasks);
        let events = std::mem::take(&mut *self.0.events.borrow_mut());
        drop(events);
        self.0.ready.clear();
    }

    fn next_number(&self) -> u64 {
        self.0.numbered.set(self.0.numbered.get() + 1);
        self.0.numbered.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order_of(seed: u64) -> Vec<u32> {
        let simulation = Simulation::new(seed);
        let order: Rc<RefCell<Vec<u32>>> = Rc::default();
        simulation.run(async {
            for task in 0..6 {
                let (world, order) = (simulation.clone(), order.clone());
                simulation.spawn(async move {
                    world.yield_now().await;
                    order.borrow_mut().push(task);
                });
            }
            simulation.sleep_us(1).await;
        });
        order.take()
    }

    #[test]
    fn a_seed_gives_one_order_and_seeds_give_different_ones() {
        assert_eq!(order_of(7), order_of(7));
        assert!((0..20).any(|seed| order_of(seed) != order_of(7)));
    }

    #[test]
    fn time_passes_by_sleeping_alone() {
        let simulation = Simulation::new(1);
        let slept = simulation.run(async {
            simulation.sleep_us(1_000_000).await;
            simulation.now_us()
        });
        assert_eq!(slept, Some(1_000_000));
    }

    #[test]
    fn a_stopped_world_gives_nothing_and_can_run_again() {
        let simulation = Simulation::new(1);
        let stopped = simulation.run(async {
            simulation.stop();
            simulation.yield_now().await;
        });
        assert_eq!(stopped, None);
        assert_eq!(simulation.run(async { 3 }), Some(3));
    }

    #[test]
    #[should_panic(expected = "everything waits for ever")]
    fn waiting_for_nothing_is_told() {
        Simulation::new(1).run(std::future::pending::<()>());
    }
}
