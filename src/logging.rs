//! Logs to the terminal and to one file a day.
//!
//! Always: nobody who logs waits for a disk or a terminal. Each writer has a thread and a bounded queue of lines; when
//! it is full, lines are dropped rather than cores stopped. A panic is the exception: its line goes to standard error at
//! once, since the process may have no time left to empty a queue.

use std::backtrace::Backtrace;
use std::io::{IsTerminal, Write};
use std::path::Path;

use anyhow::{Context, anyhow};
use tracing::Level;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for a slow disk or terminal.
const LINES_MAX: usize = 8192;
/// Daily files kept; two weeks let one look back over a weekend or a holiday.
const FILES_MAX: usize = 14;
/// What the terminal has been told in another way is logged under this target, for the files alone.
pub const FILES_ONLY: &str = "photondb::told";

/// Keeps the writers running; what waits is written when it is dropped.
pub struct Logging {
    _writers: [WorkerGuard; 2],
}

/// Starts logging. May be called once in a process.
///
/// # Errors
/// When the directory cannot be made or written.
pub fn start(log_dir: &Path, level: &str) -> anyhow::Result<Logging> {
    let files = open_files(log_dir).map_err(|error| {
        anyhow!(
            "cannot write logs into {} ({error}): make it writable, or choose another --log-dir",
            log_dir.display()
        )
    })?;
    let (file, file_writer) = queued(files);
    let (terminal, terminal_writer) = queued(std::io::stderr());
    let level: Level = level.parse().expect("checked by the settings table");
    let file = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(file).with_filter(filter(level));
    let terminal = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(terminal)
        .with_filter(filter(level).with_target(FILES_ONLY, LevelFilter::OFF));
    tracing_subscriber::registry()
        .with(file)
        .with(terminal)
        .try_init()
        .context("logging has already begun")?;
    log_panics();
    Ok(Logging { _writers: [file_writer, terminal_writer] })
}

fn open_files(log_dir: &Path) -> anyhow::Result<RollingFileAppender> {
    std::fs::create_dir_all(log_dir)?;
    let files = RollingFileAppender::builder().rotation(Rotation::DAILY);
    let named = files.filename_prefix("photondb").filename_suffix("log");
    Ok(named.max_log_files(FILES_MAX).build(log_dir)?)
}

fn queued(writer: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX).finish(writer)
}

/// Our own crates at the level asked for, others only when something is wrong.
fn filter(level: Level) -> Targets {
    Targets::new().with_default(Level::WARN.min(level)).with_target("photondb", level)
}

fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed").to_owned();
        let backtrace = Backtrace::force_capture();
        let _ = writeln!(std::io::stderr(), "thread {name}: {panic}\n{backtrace}");
        tracing::error!(target: FILES_ONLY, "thread {name}: {panic}\n{backtrace}");
    }));
}
