//! The small interface of keys and values that every engine is measured through.
//!
//! Always: a put is durable when it returns; only [`Store::load`] may leave that to its end. Each engine has the cache that it is
//! told and checks its checksums; what else is not its default is said in its file.

mod fjall;
mod photon;
mod redb;
mod rocks;

use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc;
use std::thread::Thread;

use crate::rows::{Row, Share};

pub type Failed = Box<dyn std::error::Error + Send + Sync>;

pub trait Store {
    /// Puts rows, durable at the end.
    fn load(&mut self, rows: &mut dyn Iterator<Item = Row>) -> Result<(), Failed>;
    /// Puts rows in one durable batch.
    fn put(&mut self, rows: &[&Row]) -> Result<(), Failed>;
    /// One thread for each share puts its rows one by one, each durable before the next. Gives how many.
    fn put_side_by_side(&mut self, shares: Vec<Share<'_>>) -> Result<u64, Failed>;
    /// The length of a value, which is copied.
    fn get(&mut self, key: &[u8]) -> Result<Option<usize>, Failed>;
    /// Bytes of the values of so many rows from a key on, each copied.
    fn scan(&mut self, from: &[u8], rows: usize) -> Result<usize, Failed>;
    fn close(self: Box<Self>) -> Result<(), Failed>;
}

/// What an engine is called, and how it is opened: where, with a cache of so many bytes.
pub struct Engine {
    pub name: &'static str,
    pub open: fn(&Path, u64) -> Result<Box<dyn Store>, Failed>,
}

/// Ours first.
pub const ENGINES: [Engine; 4] = [
    Engine { name: "PhotonDB", open: photon::open },
    Engine { name: "redb", open: redb::open },
    Engine { name: "fjall", open: fjall::open },
    Engine { name: "RocksDB", open: rocks::open },
];

/// Rows of one batch of a load.
const LOAD_ROWS: usize = 1000;

fn in_portions(
    rows: &mut dyn Iterator<Item = Row>,
    mut put: impl FnMut(&[Row]) -> Result<(), Failed>,
) -> Result<(), Failed> {
    loop {
        let portion: Vec<Row> = rows.take(LOAD_ROWS).collect();
        if portion.is_empty() {
            return Ok(());
        }
        put(&portion)?;
    }
}

/// A thread for each share that puts its rows itself.
fn on_threads(
    shares: Vec<Share<'_>>,
    put: impl Fn(&Row) -> Result<(), Failed> + Sync,
) -> Result<u64, Failed> {
    let put_all = |share: Share<'_>| share.map(&put).try_fold(0, |count, put| put.map(|()| count + 1));
    std::thread::scope(|scope| {
        let writers: Vec<_> = shares.into_iter().map(|share| scope.spawn(|| put_all(share))).collect();
        writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).sum()
    })
}

/// Whether a writer's row is durable, told from one thread to another.
#[derive(Default)]
struct Answer(AtomicU8);

impl Answer {
    const NONE: u8 = 0;
    const DONE: u8 = 1;
    const FAILED: u8 = 2;

    fn give(&self, is_done: bool) {
        self.0.store(if is_done { Self::DONE } else { Self::FAILED }, Ordering::Release);
    }

    /// Waits for it, and makes room for the next.
    fn wait(&self) -> bool {
        loop {
            match self.0.swap(Self::NONE, Ordering::Acquire) {
                Self::NONE => std::thread::park(),
                answer => return answer == Self::DONE,
            }
        }
    }
}

/// A thread for each share that hands its rows to this one, which puts what waits in one batch: group commit for a store that
/// belongs to one thread or has none of its own.
pub fn put_in_groups(store: &mut dyn Store, shares: Vec<Share<'_>>) -> Result<u64, Failed> {
    let answers: Vec<Answer> = shares.iter().map(|_| Answer::default()).collect();
    let (to_store, wanted) = mpsc::sync_channel::<(&Row, Thread, &Answer)>(shares.len());
    std::thread::scope(|scope| {
        for (share, answer) in shares.into_iter().zip(&answers) {
            let to_store = to_store.clone();
            scope.spawn(move || {
                let me = std::thread::current();
                for row in share {
                    // Either fails when the store has failed.
                    if to_store.send((row, me.clone(), answer)).is_err() || !answer.wait() {
                        return;
                    }
                }
            });
        }
        drop(to_store);
        let mut count = 0;
        let mut result = Ok(());
        while let Ok(first) = wanted.recv() {
            let waiting: Vec<_> = std::iter::once(first).chain(wanted.try_iter()).collect();
            let rows: Vec<&Row> = waiting.iter().map(|(row, ..)| *row).collect();
            result = result.and_then(|()| store.put(&rows));
            count += rows.len() as u64;
            for (_, writer, answer) in waiting {
                answer.give(result.is_ok());
                writer.unpark();
            }
        }
        result.map(|()| count)
    })
}
