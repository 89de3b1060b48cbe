//! The seam between a core and the world: time, randomness, tasks, disks, sockets.
//!
//! Production implements it in `uring.rs` (and `turns.rs` below it), the simulator in `tests/sim`. Nothing else in this crate reads a clock, the
//! system's randomness or a file. Mailboxes between cores (`mesh.rs`) need no seam: they are rings and ordinary wakers.

use std::future::Future;
use std::io::IoSlice;
use std::task::{Context, Poll};
use std::time::Duration;

use photondb_storage::backend::Backend;
use photondb_storage::disk::DiskError;
use photondb_storage::engine::{StorageEngine, StorageError, TreeName};

/// How a store is opened.
#[derive(Clone, Copy, Debug)]
pub struct StoreOptions {
    pub backend: Backend,
    pub cache_bytes: u64,
    /// From 1 to 19, as zstd counts them; 0 stores documents as they are.
    pub compression_level: i32,
    /// Smaller documents are not compressed.
    pub compression_bytes_min: u32,
    /// The part of a tree's name that names its table: the trees of a table are compressed with the same dictionaries.
    pub table_of: fn(&TreeName) -> Option<&[u8]>,
}

/// What a core knows of the world. Cheap to clone.
#[allow(async_fn_in_trait, reason = "a core lives on one thread; its futures need not be Send")]
pub trait Env: Clone + 'static {
    type Store: StorageEngine + 'static;

    /// Numbers of the stores that the data directory holds, ascending.
    fn stores(&self) -> Result<Vec<u16>, DiskError>;
    /// Opens a store with its share of the cache, recovered; makes it if it is missing.
    async fn open_store(&self, number: u16, options: StoreOptions) -> Result<Self::Store, StorageError>;
    /// Wall clock, milliseconds since 1970.
    fn unix_ms(&self) -> u64;
    /// Time since some moment before the core began; never goes back.
    fn elapsed(&self) -> Duration;
    async fn sleep(&self, duration: Duration);
    /// Comes back after every other runnable task of the core had its turn and the kernel was asked for events.
    async fn next_turn(&self);
    /// Waits for what another thread does: the core hears of it at once although it may be napping.
    async fn heard<T>(&self, wait: impl Future<Output = T>) -> T {
        wait.await
    }
    /// Unpredictable bytes.
    fn random(&self, bytes: &mut [u8]);
    fn spawn(&self, task: impl Future<Output = ()> + 'static);
}

/// The other end of a connection: a socket, or what a test puts in its place.
pub trait Stream: 'static {
    /// Bytes read into `buffer`; 0 at the end of the stream. Registers the task when there are none yet.
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, StreamEnd>>;
    /// Bytes taken from `bytes`. Registers the task when the peer is slow.
    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, StreamEnd>>;
    /// The same of some pieces, none of which is empty.
    fn poll_write_pieces(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize, StreamEnd>> {
        let first = pieces.first().map_or(&[][..], |piece| &**piece);
        self.poll_write(context, first)
    }
}

/// The connection broke. Why does not matter to anybody on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamEnd;
