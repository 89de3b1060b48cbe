//! The load generator, run as a program of its own on the client's CPU.

use std::io::{Error, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use photondb_loadgen::report::Report;
use rustix::process::{Pid, setpriority_process};

/// The "nice" of a process that yields to all others.
const LOWEST_PRIORITY: i32 = 19;

/// The load generator and the server that it loads.
#[derive(Clone, Debug)]
pub struct Loadgen {
    pub program: PathBuf,
    pub address: SocketAddr,
    pub records: u64,
    /// See the load generator's --busy-poll.
    pub busy_poll: bool,
    /// A reply wakes it but interrupts nobody (SCHED_BATCH, by `chrt`): a server core on the client's CPU works on, as it would with clients of
    /// another machine.
    pub batch: bool,
}

/// A load that goes on beside another.
pub struct Beside(Child);

impl Drop for Beside {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Beside {
    /// # Errors
    /// The system's.
    pub fn is_over(&mut self) -> Result<bool> {
        Ok(self.0.try_wait()?.is_some())
    }
}

impl Loadgen {
    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(if self.batch { Path::new("chrt") } else { &self.program });
        if self.batch {
            command.args(["--batch", "0"]).arg(&self.program);
        }
        command.args(line.split_whitespace());
        command.args(["--host", &self.address.ip().to_string(), "--port", &self.address.port().to_string()]);
        command.args(["--records", &self.records.to_string(), "--quiet", "--json", "-"]);
        command
    }

    /// Runs a workload to its end.
    ///
    /// # Errors
    /// It failed; the error has what it said.
    pub fn run(&self, line: &str) -> Result<Report> {
        let mut command = self.command(line);
        if self.busy_poll {
            command.arg("--busy-poll");
        }
        let output = command.output()?;
        if !output.status.success() {
            let said = [output.stdout, output.stderr].concat();
            let said = String::from_utf8_lossy(&said).into_owned();
            return Err(Error::other(format!("`photondb-loadgen {line}` failed: {said}")));
        }
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Starts a workload that ends by itself or with its owner. It gets of the client's CPU what others leave: it is they who
    /// are measured.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn beside(&self, line: &str) -> Result<Beside> {
        let child = self.command(line).stdout(Stdio::null()).spawn()?;
        setpriority_process(Some(Pid::from_child(&child)), LOWEST_PRIORITY)?;
        Ok(Beside(child))
    }
}
