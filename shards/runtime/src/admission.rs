//! What a core lets in: the memory that queries may gather, and who must wait.
//!
//! Always: what is leased is given back when the lease is dropped, whatever way a query ends. Beyond the budget it is the
//! query that asked which fails, with a clear error, never another.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use photondb_proto::error::{ErrorKind, QueryError};

/// A core's share of `--query-memory`.
#[derive(Debug)]
pub struct Budget {
    used_bytes: Cell<u64>,
    bytes_max: u64,
}

impl Budget {
    pub fn new(bytes_max: u64) -> Rc<Budget> {
        Rc::new(Budget { used_bytes: Cell::new(0), bytes_max })
    }

    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.get()
    }

    /// What one more query may gather. Half of what is free, so that one query cannot starve the next.
    pub fn free_bytes(&self) -> usize {
        let free = self.bytes_max.saturating_sub(self.used_bytes.get()) / 2;
        usize::try_from(free).unwrap_or(usize::MAX)
    }

    pub fn lease(self: &Rc<Budget>) -> Lease {
        Lease { budget: self.clone(), bytes: 0 }
    }
}

/// Memory held by one query, receive buffer or reply.
#[derive(Debug)]
pub struct Lease {
    budget: Rc<Budget>,
    bytes: u64,
}

impl Lease {
    /// Holds `bytes` from now on, more or less than before.
    ///
    /// # Errors
    /// RESOURCE_LIMIT when the core's queries would hold more than their budget; the lease stays as it was.
    pub fn set(&mut self, bytes: u64) -> Result<(), QueryError> {
        let used = self.budget.used_bytes.get() - self.bytes + bytes;
        if bytes > self.bytes && used > self.budget.bytes_max {
            let text = format!(
                "The queries of this core would hold {used} bytes, more than its share of --query-memory ({} bytes).",
                self.budget.bytes_max
            );
            return Err(QueryError::new(ErrorKind::ResourceLimit, text));
        }
        self.budget.used_bytes.set(used);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.budget.used_bytes.set(self.budget.used_bytes.get() - self.bytes);
    }
}

/// Lets one task of a core through at a time, in the order they came.
#[derive(Debug, Default)]
pub struct Turnstile {
    taken: Cell<bool>,
    waiting: RefCell<VecDeque<Waker>>,
}

impl Turnstile {
    pub async fn enter(&self) -> Inside<'_> {
        poll_fn(|context| {
            if self.taken.replace(true) {
                self.waiting.borrow_mut().push_back(context.waker().clone());
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        })
        .await;
        Inside(self)
    }
}

/// Held by the task that is through.
#[derive(Debug)]
pub struct Inside<'a>(&'a Turnstile);

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.taken.set(false);
        // All are woken: one of them may be gone, and they are few.
        self.0.waiting.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

/// Tasks that wait for something of the core to change. Who stops waiting leaves nothing behind.
#[derive(Debug, Default)]
pub struct Watchers {
    places: RefCell<Vec<Option<Waker>>>,
    free: RefCell<Vec<usize>>,
}

impl Watchers {
    pub fn wake_all(&self) {
        for waker in self.places.borrow().iter().flatten() {
            waker.wake_by_ref();
        }
    }

    /// Waits until `ready`, which is asked again after each [`Watchers::wake_all`].
    pub async fn until(&self, ready: impl Fn() -> bool) {
        let mut place = Place { watchers: self, number: None };
        poll_fn(|context| {
            if ready() {
                return Poll::Ready(());
            }
            place.register(context.waker());
            Poll::Pending
        })
        .await;
    }
}

struct Place<'a> {
    watchers: &'a Watchers,
    number: Option<usize>,
}

impl Place<'_> {
    fn register(&mut self, waker: &Waker) {
        let mut places = self.watchers.places.borrow_mut();
        let number = *self.number.get_or_insert_with(|| {
            self.watchers.free.borrow_mut().pop().unwrap_or_else(|| {
                places.push(None);
                places.len() - 1
            })
        });
        places[number] = Some(waker.clone());
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(number) = self.number {
            self.watchers.places.borrow_mut()[number] = None;
            self.watchers.free.borrow_mut().push(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leases_are_refused_beyond_the_budget_and_given_back() {
        let budget = Budget::new(100);
        let mut one = budget.lease();
        let mut two = budget.lease();
        assert!(one.set(60).is_ok());
        assert_eq!(two.set(60).map_err(|error| error.kind), Err(ErrorKind::ResourceLimit));
        assert!(one.set(40).is_ok() && two.set(60).is_ok());
        drop(one);
        assert_eq!(budget.used_bytes(), 60);
        drop(two);
        assert_eq!(budget.used_bytes(), 0);
    }
}
