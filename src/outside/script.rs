//! The pool of processes that run scripts.
//!
//! Always: a process runs one script at a time and is used again only after it has answered properly. One that answers too late,
//! or not at all, is killed. It says when it begins: a script that it did not begin before it ended is given to another. They are
//! started when they are first needed and end with this process.

use std::process::Stdio;
use std::sync::Mutex;
use std::time::Duration;

use photondb_proto::outside::{ScriptCall, ScriptReply};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Semaphore;

use super::worker::{self, FRAME_BYTES_MAX};

/// Processes at most. They take turns with the cores for the CPUs, at a lower priority.
const WORKERS_MAX: usize = 4;
/// What a process may take beyond a script's own limit, which it keeps itself, before it is killed.
const GRACE: Duration = Duration::from_millis(500);

/// Processes that run scripts.
pub struct Pool {
    idle: Mutex<Vec<Worker>>,
    turns: Semaphore,
}

struct Worker {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    /// The script that it was given last.
    has_begun: bool,
}

impl Pool {
    pub fn new() -> Pool {
        Pool { idle: Mutex::new(Vec::new()), turns: Semaphore::new(WORKERS_MAX) }
    }

    pub async fn run(&self, call: &ScriptCall) -> ScriptReply {
        let Ok(_turn) = self.turns.acquire().await else { return ScriptReply::Crashed };
        let limit = Duration::from_millis(call.timeout_ms) + GRACE;
        // Each that waits may have been killed, and a new one too.
        for _ in 0..=WORKERS_MAX {
            let mut worker = match self.worker() {
                Ok(worker) => worker,
                Err(error) => {
                    tracing::error!(%error, "a process for scripts cannot be started");
                    return ScriptReply::Failed(format!("A process for scripts cannot be started: {error}."));
                }
            };
            match tokio::time::timeout(limit, worker.ask(call)).await {
                Ok(Ok(reply)) => {
                    self.idle.lock().expect("nobody panics with the lock").push(worker);
                    return reply;
                }
                Ok(Err(error)) => {
                    tracing::warn!(%error, "a process for scripts has ended");
                    if worker.has_begun {
                        break;
                    }
                }
                // Dropping it kills it.
                Err(_) => return ScriptReply::TimedOut,
            }
        }
        ScriptReply::Crashed
    }

    /// One that waits, or a new one.
    fn worker(&self) -> std::io::Result<Worker> {
        loop {
            let idle = self.idle.lock().expect("nobody panics with the lock").pop();
            let Some(mut worker) = idle else { return Worker::start() };
            // One that was killed from outside meanwhile is passed over.
            if matches!(worker.child.try_wait(), Ok(None)) {
                return Ok(worker);
            }
        }
    }
}

impl Default for Pool {
    fn default() -> Pool {
        Pool::new()
    }
}

impl Worker {
    fn start() -> std::io::Result<Worker> {
        // Not by its path: the file may have been replaced since.
        let mut child = Command::new("/proc/self/exe")
            .arg(worker::COMMAND)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let lost = || std::io::Error::other("a pipe is missing");
        let (input, output) = (child.stdin.take().ok_or_else(lost)?, child.stdout.take().ok_or_else(lost)?);
        Ok(Worker { child, input, output, has_begun: false })
    }

    async fn ask(&mut self, call: &ScriptCall) -> std::io::Result<ScriptReply> {
        self.has_begun = false;
        let request = worker::put_call(call);
        let length = u32::try_from(request.len()).map_err(std::io::Error::other)?;
        self.input.write_all(&length.to_le_bytes()).await?;
        self.input.write_all(&request).await?;
        self.input.flush().await?;
        self.has_begun = self.output.read_u8().await? == worker::BEGUN;
        let length = self.output.read_u32_le().await? as usize;
        if length > FRAME_BYTES_MAX {
            return Err(std::io::Error::other("an answer over the limit"));
        }
        let mut reply = vec![0; length];
        self.output.read_exact(&mut reply).await?;
        worker::take_reply(&reply).ok_or_else(|| std::io::Error::other("an answer that is none"))
    }
}
