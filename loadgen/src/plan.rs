//! What a run is to do, as the command line or a benchmark says it.

use std::net::SocketAddr;
use std::time::Duration;

use crate::choose::Distribution;
use crate::operation::Operation;
use crate::world::Shape;

/// How connections are moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Io {
    /// io_uring where the kernel allows it, else sockets
    Auto,
    Uring,
    /// Sockets that do not block, and epoll
    Sockets,
}

/// When the next request is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// When one before it is answered.
    Closed,
    /// So many a second, whatever the server does.
    Open(f64),
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Duration(Duration),
    /// After so many operations; there is no warm-up.
    Count(u64),
}

/// What connections are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// They stay and ask.
    Steady,
    /// Each asks once and is replaced.
    Churn,
    /// Each asks; and beside them so many listen to so many changefeeds together, which are the operation 0.
    Feeds { feeds: u64, listeners: usize },
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub address: SocketAddr,
    pub io: Io,
    /// Answers are asked for again and again instead of slept for.
    pub busy_poll: bool,
    pub threads: usize,
    /// Of all threads.
    pub connections: usize,
    /// Per connection.
    pub in_flight: u32,
    pub style: Style,
    pub operations: Vec<Operation>,
    pub pace: Pace,
    pub warm_up: Duration,
    pub length: Length,
    pub records: u64,
    pub shape: Shape,
    pub distribution: Distribution,
    pub seed: u64,
    /// See [`crate::world::Origin`].
    pub first_insert: u64,
}

impl Plan {
    /// The first operation that is asked again and again: before it stand changefeeds.
    pub fn first_asked(&self) -> usize {
        usize::from(matches!(self.style, Style::Feeds { .. }))
    }
}
