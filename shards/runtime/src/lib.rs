//! The data plane: one executor per core with its connections, shards and store, and the rings between cores.
//!
//! Always: a core's state is touched by its own thread alone; what crosses is a message. Nothing here knows HTTP, TOML
//! or the command line: `boot.rs` hands in [`DataPlaneOptions`] and gets a [`DataPlane`].

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use photondb_proto::control::{CoreCommand, CoreReport};

/// All that the data plane is told from outside.
#[derive(Clone, Debug)]
pub struct DataPlaneOptions {
    /// Addresses the driver port listens on.
    pub bind: Vec<IpAddr>,
    pub driver_port: u16,
    pub data_dir: PathBuf,
    /// The CPUs to pin executors to; its length is the number of cores.
    pub cpus: Vec<usize>,
    pub cache_bytes: u64,
    pub query_memory_bytes: u64,
    /// Sets the admin password when a data directory is first made, or when its admin has none yet.
    pub initial_password: Option<String>,
    /// Name and identity that SERVER_INFO answers.
    pub server_name: Option<String>,
}

/// Why the data plane could not start: one sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// Why a core did not answer a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SilentCore {
    #[error("the core's command queue is full")]
    Busy,
    #[error("the core has ended")]
    Gone,
}
