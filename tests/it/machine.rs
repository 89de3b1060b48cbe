//! Who has the machine: ordinary tests share it, those that measure or load it have it alone.
//!
//! A lock on a file and not a mutex, so that it also holds where a test runner gives every test a process of its own.

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::FlockOperation;

/// Where tests put what they make: `target/tmp`.
pub fn scratch() -> PathBuf {
    PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
}

/// The machine, for as long as this lives.
pub struct Machine {
    _lock: File,
}

impl Machine {
    /// Beside other tests.
    pub fn shared() -> Machine {
        Machine::lock(FlockOperation::LockShared)
    }

    /// While no other test has a server.
    pub fn alone() -> Machine {
        Machine::lock(FlockOperation::LockExclusive)
    }

    fn lock(operation: FlockOperation) -> Machine {
        std::fs::create_dir_all(scratch()).expect("the scratch directory can be made");
        let path = scratch().join("machine.lock");
        let file =
            File::options().create(true).truncate(false).write(true).open(path).expect("a lock file opens");
        rustix::fs::flock(&file, operation).expect("a lock is granted");
        Machine { _lock: file }
    }
}
