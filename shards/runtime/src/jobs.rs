//! Queries under way on this core, for whoever looks at `rethinkdb.jobs`.
//!
//! Always: a query is here as long as its token is taken and it could not be answered at once; so those that can, which are
//! nearly all, pay nothing. What it says of itself is printed only when somebody asks.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

/// A query that runs, or waits for CONTINUE.
pub trait Running {
    /// For people, cut if it is long.
    fn text(&self) -> String;
    /// On the core's own clock.
    fn began(&self) -> Duration;
    /// Ends it with an error.
    fn interrupt(&self);
}

struct Job {
    query: Rc<dyn Running>,
    user: Rc<str>,
    peer: Option<SocketAddr>,
}

/// One of them as it is told to other cores.
#[derive(Clone, Debug)]
pub struct RunningQuery {
    pub core: u16,
    pub number: u64,
    pub text: String,
    pub user: String,
    pub peer: Option<SocketAddr>,
    pub duration: Duration,
}

#[derive(Default)]
pub struct Jobs {
    next: Cell<u64>,
    running: RefCell<BTreeMap<u64, Job>>,
}

impl Jobs {
    /// Notes a query; gives the number to forget it by.
    pub fn begin(&self, query: Rc<dyn Running>, user: Rc<str>, peer: Option<SocketAddr>) -> u64 {
        let number = self.next.replace(self.next.get() + 1);
        self.running.borrow_mut().insert(number, Job { query, user, peer });
        number
    }

    pub fn end(&self, number: u64) {
        self.running.borrow_mut().remove(&number);
    }

    pub fn told(&self, core: u16, now: Duration) -> Vec<RunningQuery> {
        let running = self.running.borrow();
        let tell = |(number, job): (&u64, &Job)| RunningQuery {
            core,
            number: *number,
            text: job.query.text(),
            user: job.user.to_string(),
            peer: job.peer,
            duration: now.saturating_sub(job.query.began()),
        };
        running.iter().map(tell).collect()
    }

    /// Whether there was such a query to interrupt.
    pub fn interrupt(&self, number: u64) -> bool {
        let found = self.running.borrow().get(&number).map(|job| job.query.clone());
        found.inspect(|query| query.interrupt()).is_some()
    }
}
