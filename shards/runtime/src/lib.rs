//! The data plane: one executor per core with its connections, shards and store, and the rings between cores.
//!
//! Always: a core's state is touched by its own thread alone; what crosses is a message. Nothing here knows HTTP, TOML
//! or the command line: `boot.rs` hands in [`DataPlaneOptions`] and gets a [`DataPlane`].

pub mod access;
pub mod admission;
pub mod behind;
pub mod catalog;
mod construct;
pub mod core;
mod cursor;
pub mod env;
mod feed;
mod flights;
mod hot;
pub mod in_one_world;
pub mod index;
pub mod jobs;
pub mod mesh;
pub mod meter;
pub mod offline;
mod outgoing;
mod owner;
mod panics;
mod questions;
pub mod route;
mod rows;
mod scan;
mod scratch;
mod session;
mod sockets;
mod start;
mod system;
pub mod table;
mod together;
mod turns;
pub mod uring;
mod write;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use photondb_proto::control::{CoreCommand, CoreReport};
use photondb_proto::limits;
use photondb_proto::outside::{OutsideOp, OutsideReply};
pub use photondb_storage::backend::Backend;

/// All that the data plane is told from outside. Start from `default()` and set what differs.
#[derive(Clone, Debug)]
pub struct DataPlaneOptions {
    /// Addresses the driver port listens on.
    pub bind: Vec<IpAddr>,
    /// 0: any free port, the same for all cores; see [`StartSummary::listening`].
    pub driver_port: u16,
    pub data_dir: PathBuf,
    /// The CPUs to pin executors to; its length is the number of cores.
    pub cpus: Vec<usize>,
    pub cache_bytes: u64,
    pub query_memory_bytes: u64,
    pub storage: Backend,
    /// How hard documents are compressed, from 1 to 19; 0: not at all.
    pub compression_level: i32,
    /// Smaller documents are not compressed.
    pub compression_bytes_min: u32,
    /// What is kept of the changes of each table, for feeds that are resumed. `None`: nothing.
    pub change_log: Option<ChangeLogRetention>,
    /// Sets the admin password when a data directory is first made, or when its admin has none yet.
    pub initial_password: Option<String>,
    /// Name that SERVER_INFO answers; a new data directory gets one made up unless it is given.
    pub server_name: Option<String>,
    /// Rounds of PBKDF2 for new passwords.
    pub password_iterations: u32,
    pub server: ServerFacts,
    /// Refuse to start, before anything listens, while the password of `admin` is empty.
    pub require_admin_password: bool,
    /// Where scripts and HTTP requests go.
    pub outside: OutsideDoor,
    #[doc(hidden)]
    pub cures: Cures,
}

pub use photondb_storage::changelog::Retention as ChangeLogRetention;

/// A script or an HTTP request of a query, and where the answer goes.
#[derive(Debug)]
pub struct OutsideJob {
    pub op: OutsideOp,
    pub answer: flume::Sender<OutsideReply>,
}

/// The way of queries to whoever runs scripts and makes HTTP requests. The default leads nowhere: such queries fail.
#[derive(Clone, Debug)]
pub struct OutsideDoor(pub(crate) flume::Sender<OutsideJob>);

impl OutsideDoor {
    /// The door and what comes through it. It holds [`limits::OUTSIDE_WAITING_MAX`] jobs.
    pub fn open() -> (OutsideDoor, flume::Receiver<OutsideJob>) {
        let (sender, jobs) = flume::bounded(limits::OUTSIDE_WAITING_MAX);
        (OutsideDoor(sender), jobs)
    }
}

impl Default for OutsideDoor {
    fn default() -> OutsideDoor {
        OutsideDoor::open().0
    }
}

/// What we do against the executor's known faults; switched off only by tests that show the faults.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cures {
    /// A timer task that beats every few milliseconds, so that a lost wake lasts no longer.
    pub heartbeat: bool,
    /// Opens a non-empty file on the data directory's device first, so that the probe for polled I/O is right.
    pub device_probe: bool,
    /// How long the executor lets a run of tasks go on; a test makes it so short that the fault shows at once.
    pub preempt_timer: Duration,
}

impl Default for Cures {
    fn default() -> Cures {
        Cures { heartbeat: true, device_probe: true, preempt_timer: Duration::from_millis(100) }
    }
}

impl Default for DataPlaneOptions {
    fn default() -> DataPlaneOptions {
        DataPlaneOptions {
            bind: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
            driver_port: 28015,
            data_dir: PathBuf::from("photondb_data"),
            cpus: vec![0],
            cache_bytes: 256 << 20,
            query_memory_bytes: 64 << 20,
            storage: Backend::default(),
            compression_level: 1,
            compression_bytes_min: 129,
            change_log: None,
            initial_password: None,
            server_name: None,
            password_iterations: photondb_proto::wire::scram::ITERATIONS_DEFAULT,
            require_admin_password: false,
            outside: OutsideDoor::default(),
            server: ServerFacts::default(),
            cures: Cures::default(),
        }
    }
}

/// What `server_status` and `logs` tell of the server: facts of its start, and where its log is kept.
#[derive(Clone, Default)]
pub struct ServerFacts {
    pub version: String,
    pub hostname: String,
    pub argv: Vec<String>,
    pub process_id: u32,
    pub started_unix_ms: u64,
    pub cache_bytes: u64,
    /// `None` without HTTP.
    pub http_port: Option<u16>,
    pub cluster_port: u16,
    /// The newest lines of the log, oldest first. Called on a slow thread, since it may wait for a lock.
    pub log: Option<Arc<dyn Fn() -> Vec<LogLine> + Send + Sync>>,
}

impl std::fmt::Debug for ServerFacts {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("ServerFacts").field("version", &self.version).finish_non_exhaustive()
    }
}

/// A line of the log. No two have the same time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    pub unix_ns: u64,
    /// Since the server started.
    pub uptime_ns: u64,
    /// `debug`, `info`, `warn` or `error`.
    pub level: &'static str,
    pub message: String,
}

/// Why the data plane could not start: one sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StartError(pub String);

/// What did not end well at [`DataPlane::stop`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    #[error("core {core} did not finish before the deadline")]
    Deadline { core: u16 },
    #[error("core {core}: {reason}")]
    Store { core: u16, reason: String },
}

/// Why a core did not answer a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SilentCore {
    #[error("the core's command queue is full")]
    Busy,
    #[error("the core has ended")]
    Gone,
}

/// What `serve` tells the user once every core listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartSummary {
    pub server_id: String,
    pub server_name: String,
    pub listening: Vec<SocketAddr>,
    pub stores: u16,
    /// Shards that would move if `photondb reshard` spread the tables over all stores; 0 when they are spread.
    pub shards_to_spread: u32,
    pub admin_password_is_empty: bool,
}

/// Commands to one core, from any thread and any executor.
#[derive(Clone, Debug)]
pub struct CoreHandle {
    number: u16,
    commands: flume::Sender<CoreMessage>,
}

#[derive(Debug)]
pub(crate) enum CoreOrder {
    Command(CoreCommand),
    /// Close the stores and end the thread.
    Close,
}

#[derive(Debug)]
pub(crate) struct CoreMessage {
    pub order: CoreOrder,
    /// Answers a report, or an empty one when the command asks for none.
    pub reply: flume::Sender<CoreReport>,
}

impl CoreHandle {
    pub fn number(&self) -> u16 {
        self.number
    }

    /// The core's figures. Waits as long as the core does: the caller sets the time limit.
    ///
    /// # Errors
    /// [`SilentCore`] when the core cannot be asked.
    pub async fn report(&self) -> Result<CoreReport, SilentCore> {
        self.ask(CoreCommand::Report).await
    }

    /// Stops accepting connections and answers when what was in flight has ended.
    ///
    /// # Errors
    /// [`SilentCore`] when the core cannot be asked.
    pub async fn drain(&self) -> Result<(), SilentCore> {
        self.ask(CoreCommand::Drain).await.map(|_| ())
    }

    async fn ask(&self, command: CoreCommand) -> Result<CoreReport, SilentCore> {
        let (reply, answer) = flume::bounded(1);
        self.commands.try_send(CoreMessage { order: CoreOrder::Command(command), reply }).map_err(
            |error| match error {
                flume::TrySendError::Full(_) => SilentCore::Busy,
                flume::TrySendError::Disconnected(_) => SilentCore::Gone,
            },
        )?;
        answer.recv_async().await.map_err(|_| SilentCore::Gone)
    }
}

/// The running cores.
pub struct DataPlane {
    cores: Vec<CoreHandle>,
    threads: Vec<start::CoreThread>,
    summary: StartSummary,
    /// Held as long as the cores run.
    _lock: std::fs::File,
}

impl DataPlane {
    /// Starts the cores and blocks until every one has recovered its stores and listens.
    ///
    /// # Errors
    /// One sentence for the user: the directory is held or unknown, the port is taken, io_uring or direct I/O is missing.
    pub fn start(options: DataPlaneOptions) -> Result<DataPlane, StartError> {
        start::start(options)
    }

    pub fn cores(&self) -> &[CoreHandle] {
        &self.cores
    }

    pub fn summary(&self) -> &StartSummary {
        &self.summary
    }

    /// Drains the cores, flushes and checkpoints their stores, and joins their threads. Work still in flight at the
    /// deadline is dropped; stores are closed all the same.
    ///
    /// # Errors
    /// The first core that could not end well. Everything acknowledged is durable even then.
    pub fn stop(self, deadline: Duration) -> Result<(), StopError> {
        start::stop(&self.cores, self.threads, deadline)
    }
}

/// Whether this machine can serve `data_dir` at all: io_uring is allowed, and the file system has direct I/O.
/// The directory is created when it is missing.
///
/// # Errors
/// One sentence that says what is wrong and what to do.
pub fn probe(data_dir: &Path) -> Result<(), StartError> {
    uring::probe_uring()?;
    std::fs::create_dir_all(data_dir).map_err(|error| {
        StartError(format!("The data directory {} cannot be made: {error}.", data_dir.display()))
    })?;
    uring::probe_direct_io(data_dir)
}
