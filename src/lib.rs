//! The server and its command line: start-up and control plane around the data plane of `photondb-runtime`.
//!
//! Two binaries, `photondb` and `rethinkdb`, are this one program; only the name they greet with differs.

mod allocator;
pub mod boot;
pub mod cli;
pub mod config;
pub mod control;
pub mod logging;
pub mod outside;
pub mod reference;

/// The version of PhotonDB.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
/// The version of RethinkDB whose language and protocol are spoken.
pub const RETHINKDB_VERSION: &str = "2.4.4";

/// The name that the program was built under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    Photondb,
    Rethinkdb,
}

impl Program {
    pub fn name(self) -> &'static str {
        match self {
            Program::Photondb => "photondb",
            Program::Rethinkdb => "rethinkdb",
        }
    }

    /// What `--version` prints. Scripts look for `rethinkdb` and a 2.4 in it under the old name.
    pub fn version_line(self) -> String {
        match self {
            Program::Photondb => format!("photondb {VERSION} (speaks RethinkDB {RETHINKDB_VERSION})"),
            Program::Rethinkdb => format!("rethinkdb {RETHINKDB_VERSION} (PhotonDB {VERSION})"),
        }
    }
}
