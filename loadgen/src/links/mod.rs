//! Many connections of one thread, moved by io_uring ([`uring`]) or, where the kernel refuses that, by epoll ([`sockets`]).
//!
//! Always: what is put into a link's outbox is sent in order, all outboxes together at the next turn; what comes is read
//! into the link's inbox, in place. A turn never blocks longer than it is told to.

mod sockets;
mod sources;
mod uring;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

pub use sockets::Sockets;
pub use uring::Uring;

/// Bytes of an inbox until a larger answer comes.
const INBOX_BYTES: usize = 16 << 10;
/// No answer may be larger: a server's own bound is far below.
const INBOX_BYTES_MAX: usize = 256 << 20;

/// What a turn brought for a link.
#[derive(Debug)]
pub enum News {
    /// Bytes came into its inbox.
    Bytes,
    /// It is over; the reason when it was not closed in peace.
    Ended(Option<io::Error>),
}

/// The connections of a thread.
pub trait Links {
    /// Begins a connection and gives its number; what is put into its outbox is sent once it stands.
    ///
    /// # Errors
    /// When no socket can be made, or the refusal is known at once.
    fn open(&mut self, address: SocketAddr) -> io::Result<usize>;
    /// Ends a connection. Its number may come back from a later [`Links::open`].
    fn close(&mut self, link: usize);
    fn outbox(&mut self, link: usize) -> &mut Vec<u8>;
    /// Inbox and outbox of one link.
    fn boxes(&mut self, link: usize) -> (&mut Inbox, &mut Vec<u8>);
    /// Sends what waits, and waits for news no longer than `wait`.
    ///
    /// # Errors
    /// When the engine itself fails; a link's failure is its news.
    fn turn(&mut self, wait: Duration, news: &mut Vec<(usize, News)>) -> io::Result<()>;
}

/// Received bytes. The buffer is zeroed once and filled in place, so that nothing is copied but answers that come in parts.
#[derive(Debug)]
pub struct Inbox {
    buffer: Vec<u8>,
    filled: usize,
    taken: usize,
}

impl Inbox {
    fn new() -> Inbox {
        Inbox { buffer: vec![0; INBOX_BYTES], filled: 0, taken: 0 }
    }

    /// What came and was not taken yet.
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.taken..self.filled]
    }

    pub fn take(&mut self, bytes: usize) {
        self.taken = self.filled.min(self.taken + bytes);
    }

    /// Room for more: what was taken goes, and a buffer that is full of one answer grows.
    fn space(&mut self) -> &mut [u8] {
        if self.taken > 0 {
            self.buffer.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
        }
        if self.buffer.len() - self.filled < INBOX_BYTES / 2 && self.buffer.len() < INBOX_BYTES_MAX {
            self.buffer.resize(self.buffer.len() * 2, 0);
        }
        &mut self.buffer[self.filled..]
    }

    fn add(&mut self, bytes: usize) {
        self.filled += bytes;
        debug_assert!(self.filled <= self.buffer.len());
    }
}
