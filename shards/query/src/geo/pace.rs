//! The pace of work on geometries: comparing two large ones takes far longer than a core may be held up.
//!
//! Always: the work is written once, as async functions that spend a step for about each edge they look at and wait for
//! their turn when they have spent many. Who cannot wait does the same work with a pace that never does
//! ([`Pace::never`]), or gives up when it would take long ([`Pace::brief`]).

use std::cell::Cell;
use std::future::{Future, pending, poll_fn};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use crate::run::Run;

/// Steps between two turns: about a millisecond.
pub const STEPS_A_TURN: usize = 10_000;

/// When to wait.
pub struct Pace<'a> {
    steps: Cell<usize>,
    /// Turns so far, and the most steps before one.
    #[cfg(test)]
    pub turns: Cell<(usize, usize)>,
    /// All steps.
    #[cfg(test)]
    pub spent: Cell<usize>,
    breaks: Breaks<'a>,
}

enum Breaks<'a> {
    Never,
    /// Others have their turn.
    Turns(&'a Run),
    /// Whoever polls has others go first.
    Pends,
    /// The work is given up.
    GivesUp,
}

impl<'a> Pace<'a> {
    fn new(breaks: Breaks<'a>) -> Pace<'a> {
        Pace {
            steps: Cell::new(0),
            #[cfg(test)]
            turns: Cell::default(),
            #[cfg(test)]
            spent: Cell::default(),
            breaks,
        }
    }

    pub fn of(run: &'a Run) -> Pace<'a> {
        Pace::new(Breaks::Turns(run))
    }
}

impl Pace<'static> {
    pub fn never() -> Pace<'static> {
        Pace::new(Breaks::Never)
    }

    /// Among the rows of a core: the work pends once at each turn.
    pub fn pending() -> Pace<'static> {
        Pace::new(Breaks::Pends)
    }

    /// For [`at_once`], which then gives nothing.
    pub fn brief() -> Pace<'static> {
        Pace::new(Breaks::GivesUp)
    }
}

impl Pace<'_> {
    /// Spends steps; true when it is time for [`Pace::turn`].
    pub fn spend(&self, steps: usize) -> bool {
        #[cfg(test)]
        self.spent.set(self.spent.get() + steps);
        self.steps.set(self.steps.get().saturating_add(steps));
        self.steps.get() >= STEPS_A_TURN
    }

    pub async fn turn(&self) {
        #[cfg(test)]
        self.turns.set((self.turns.get().0 + 1, self.turns.get().1.max(self.steps.get())));
        self.steps.set(0);
        match self.breaks {
            Breaks::Never => {}
            Breaks::Turns(run) => run.turn().await,
            Breaks::Pends => pend().await,
            Breaks::GivesUp => pending().await,
        }
    }

    /// Spends steps before work of that many that is not interrupted.
    pub async fn take(&self, steps: usize) {
        if self.spend(steps) {
            self.turn().await;
        }
    }
}

/// Pends once, to be polled again at once.
async fn pend() {
    let mut has_pended = false;
    poll_fn(|task| {
        if has_pended {
            return Poll::Ready(());
        }
        has_pended = true;
        task.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// The result of work that does not wait, if it does not.
pub fn at_once<T>(work: impl Future<Output = T>) -> Option<T> {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(result) => Some(result),
        Poll::Pending => None,
    }
}

/// The result of work of [`Pace::never`].
pub fn whole<T>(work: impl Future<Output = T>) -> T {
    at_once(work).expect("this pace never waits")
}
