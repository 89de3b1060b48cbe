//! One connection: how far its handshake is, and the requests in flight on it.
//!
//! Always: a token names one request for as long as it is in flight, and no other before it; its low bits name the slot.

use std::time::Instant;

use crate::dialect::Dialect;
use crate::template::Subject;

/// Bits of a token that name its slot.
const SLOT_BITS: u32 = 20;
/// Most requests in flight on a connection.
pub const IN_FLIGHT_MAX: u32 = 1 << SLOT_BITS;

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    pub token: i64,
    pub operation: usize,
    pub step: usize,
    pub subject: Subject,
}

pub enum Phase<D: Dialect> {
    /// Since when: a connection that is made for one query counts from here.
    Greeting {
        greeting: D::Greeting,
        began: Instant,
    },
    Ready,
}

pub struct Session<D: Dialect> {
    pub phase: Phase<D>,
    slots: Vec<Option<Request>>,
    free: Vec<u32>,
    sequence: i64,
}

impl<D: Dialect> Session<D> {
    pub fn new(phase: Phase<D>) -> Session<D> {
        Session { phase, slots: Vec::new(), free: Vec::new(), sequence: 0 }
    }

    /// Takes a slot for a request and gives its token.
    pub fn begin(&mut self, operation: usize, subject: Subject) -> i64 {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() as u32 - 1
        });
        self.sequence += 1;
        let token = (self.sequence << SLOT_BITS) | i64::from(slot);
        self.slots[slot as usize] = Some(Request { token, operation, step: 0, subject });
        token
    }

    /// The request of a token; without one, the oldest.
    pub fn find(&mut self, token: Option<i64>) -> Option<&mut Request> {
        match token {
            Some(token) => {
                let slot = usize::try_from(token & i64::from(IN_FLIGHT_MAX - 1)).ok()?;
                self.slots.get_mut(slot)?.as_mut().filter(|request| request.token == token)
            }
            None => self.slots.iter_mut().flatten().min_by_key(|request| request.token),
        }
    }

    pub fn end(&mut self, token: i64) {
        let slot = (token & i64::from(IN_FLIGHT_MAX - 1)) as u32;
        self.slots[slot as usize] = None;
        self.free.push(slot);
    }

    pub fn in_flight(&self) -> impl Iterator<Item = &Request> {
        self.slots.iter().flatten()
    }

    pub fn in_flight_count(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}
