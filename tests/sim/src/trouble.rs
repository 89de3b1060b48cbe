//! What goes wrong with a simulated disk besides losing power: operations that fail, and writes that are lied about.
//!
//! Always: a trouble is ordered beforehand and met by counting operations, so it comes at the same place in every run of a
//! seed. A failure is told to the caller; a lie is not: the write completes, and its blocks are not where they should be.

use std::rc::Rc;

/// What a directory or a file is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Open,
    Read,
    Write,
    Sync,
    Preallocate,
    Punch,
    Truncate,
    Rename,
    Remove,
    SyncDirectory,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// The blocks keep what they held.
    Lost,
    /// The bytes land in other blocks of the file.
    Misdirected,
}

/// What a directory tells whoever watches it.
#[derive(Clone, Copy, Debug)]
pub enum Happening<'a> {
    /// A change of the disk is on its way.
    Issued,
    Write {
        file: &'a str,
    },
    Synced {
        file: &'a str,
    },
    Lied {
        file: &'a str,
    },
}

pub type Watcher = Rc<dyn Fn(Happening<'_>)>;

struct Order<T> {
    what: T,
    file_prefix: String,
    skipped: u64,
    times: u64,
}

/// Troubles that are still to come.
#[derive(Default)]
pub(crate) struct Troubles {
    failures: Vec<Order<Operation>>,
    lies: Vec<Order<Lie>>,
}

impl<T> Order<T> {
    /// Counts an operation on a file; true when the trouble hits it.
    fn hits(&mut self, file: &str) -> bool {
        if !file.starts_with(&self.file_prefix) || self.times == 0 {
            return false;
        }
        if self.skipped > 0 {
            self.skipped -= 1;
            return false;
        }
        self.times -= 1;
        true
    }
}

impl Troubles {
    pub fn fail(&mut self, operation: Operation, file_prefix: &str, skipped: u64, times: u64) {
        self.failures.push(Order { what: operation, file_prefix: file_prefix.to_owned(), skipped, times });
    }

    pub fn lie(&mut self, lie: Lie, file_prefix: &str, skipped: u64) {
        self.lies.push(Order { what: lie, file_prefix: file_prefix.to_owned(), skipped, times: 1 });
    }

    pub fn clear(&mut self) {
        *self = Self::default();
    }

    pub fn fails(&mut self, operation: Operation, file: &str) -> bool {
        let mut fails = false;
        for order in self.failures.iter_mut().filter(|order| order.what == operation) {
            fails |= order.hits(file);
        }
        fails
    }

    /// The lie about this write, if there is one.
    pub fn lied(&mut self, file: &str) -> Option<Lie> {
        self.lies.iter_mut().find_map(|order| order.hits(file).then_some(order.what))
    }
}
