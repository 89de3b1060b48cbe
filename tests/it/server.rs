//! A server of one test: the real program on free ports, with a data directory of its own, killed when the test ends.
//!
//! Always: no server outlives its test, not even one that panics. When a test fails, what the server printed is shown and
//! its directory is kept.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::client::Client;
use crate::machine::{Machine, scratch};

/// The program under test.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_photondb");
/// A server that is not ready by then is stuck.
const READY_MAX: Duration = Duration::from_secs(20);
/// Lines of a server's output that a failure shows.
const SHOWN_LINES: usize = 40;

/// A directory under `target/tmp`, gone after a test that passed.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = scratch().join(format!("{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a folder can be made");
        Folder(path)
    }

    pub fn data_dir(&self) -> PathBuf {
        self.0.join("data")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

/// A server that has said that it is ready.
pub struct Server {
    child: Child,
    /// What it printed.
    output: PathBuf,
    pub driver: SocketAddr,
    pub http: SocketAddr,
}

/// A command that runs the program without settings from this process's environment.
pub fn program() -> Command {
    let mut command = Command::new(PROGRAM);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("PHOTONDB_") || name.starts_with("RETHINKDB_") {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null());
    command
}

/// `serve` on free ports with little memory.
pub fn serve(folder: &Folder, cores: u32) -> Command {
    let mut command = program();
    command.args(["serve", "--driver-port", "0", "--http-port", "0", "--cluster-port", "0"]);
    command.args(["--cache-size", "64", "--query-memory", "64"]);
    command.arg("--cores").arg(cores.to_string()).arg("--data-dir").arg(folder.data_dir());
    command
}

impl Server {
    /// Starts a server on the folder's data.
    #[track_caller]
    pub fn start(machine: &Machine, folder: &Folder, cores: u32) -> Server {
        Server::start_with(machine, folder, serve(folder, cores))
    }

    /// Starts `command`, made by [`serve`] and extended.
    #[track_caller]
    pub fn start_with(_machine: &Machine, folder: &Folder, mut command: Command) -> Server {
        let output = folder.0.join("output.txt");
        let file = File::create(&output).expect("the output file can be made");
        command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
        let mut child = command.spawn().expect("the program starts");
        let end = Instant::now() + READY_MAX;
        loop {
            let text = std::fs::read_to_string(&output).expect("the output is text");
            if text.contains("Server ready") {
                let driver = address(&text, "  drivers ").expect("it says where it listens");
                let http = address(&text, "  http ").unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)));
                return Server { child, output, driver, http };
            }
            let ended = child.try_wait().expect("a child can be asked");
            if ended.is_some() || Instant::now() > end {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the server did not become ready ({ended:?}):\n{text}");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection of `admin`.
    #[track_caller]
    pub fn client(&self) -> Client {
        Client::connect(self.driver)
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("a child has an id");
        kill_process(pid, signal).expect("our own child takes signals");
    }

    /// SIGKILL, as a crash.
    pub fn kill(mut self) {
        self.child.kill().expect("our own child can be killed");
        self.child.wait().expect("it ends");
    }

    /// SIGTERM, and what became of it.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(Duration::from_secs(10)).expect("the server stops within 10 s")
    }

    /// The exit status, when it ends within `limit`.
    pub fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        wait(&mut self.child, limit)
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("a child can be asked").is_none()
    }

    /// Resident bytes of the process.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux says it");
        let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
        kilobytes * 1024
    }

    /// CPU time of the process so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).expect("it runs");
        // The name of the program stands in parentheses and may hold anything; times are the 12th and 13th after it.
        let after = stat.rsplit_once(')').expect("a name").1;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks: u64 =
            [fields[11], fields[12]].iter().map(|text| text.parse::<u64>().expect("a number")).sum();
        Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second())
    }

    pub fn output(&self) -> String {
        std::fs::read_to_string(&self.output).unwrap_or_default()
    }
}

/// Waits for a child to end.
pub fn wait(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait().expect("a child can be asked") {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The first address on the line that starts so.
fn address(text: &str, start: &str) -> Option<SocketAddr> {
    let line = text.lines().find_map(|line| line.strip_prefix(start))?;
    let first = line.trim().split(',').next()?;
    first.trim_start_matches("http://").parse().ok()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let text = self.output();
            let lines: Vec<&str> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(SHOWN_LINES)..];
            eprintln!("---- the server printed:\n{}\n----", shown.join("\n"));
        }
    }
}

/// The lines of a server's log, for tests that look into it.
pub fn log_text(data_dir: &Path) -> String {
    let Ok(files) = std::fs::read_dir(data_dir.join("log")) else { return String::new() };
    files.filter_map(|file| std::fs::read_to_string(file.ok()?.path()).ok()).collect()
}
