//! Logs to the terminal and to one file a day.
//!
//! Always: nobody who logs waits for a disk or a terminal. Each writer has a thread and a bounded queue of lines; when
//! it is full, lines are dropped rather than cores stopped. A panic is the exception: its line goes to standard error at
//! once, since the process may have no time left to empty a queue. The newest lines are kept for `rethinkdb.logs`.

use std::backtrace::Backtrace;
use std::collections::VecDeque;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, anyhow};
use photondb_runtime::LogLine;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_appender::rolling::{RollingFileAppender, Rotation};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context as LayerContext, Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

/// Lines that may wait for a slow disk or terminal.
const LINES_MAX: usize = 8192;
/// Daily files kept; two weeks let one look back over a weekend or a holiday.
const FILES_MAX: usize = 14;
/// What the terminal has been told in another way is logged under this target, for the files alone.
pub const FILES_ONLY: &str = "photondb::told";

/// Lines that `rethinkdb.logs` shows.
const RECENT_MAX: usize = 1000;
/// Bytes of one of them; what is longer is cut.
const RECENT_BYTES_MAX: usize = 4000;

/// Keeps the writers running; what waits is written when it is dropped.
pub struct Logging {
    _writers: [WorkerGuard; 2],
    pub recent: Recent,
}

/// The newest lines, for whoever asks. Its lock is held for a push or a copy.
#[derive(Clone)]
pub struct Recent {
    lines: Arc<Mutex<VecDeque<LogLine>>>,
    began: Instant,
}

impl Recent {
    fn new() -> Recent {
        Recent { lines: Arc::default(), began: Instant::now() }
    }

    /// Oldest first.
    pub fn lines(&self) -> Vec<LogLine> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    fn push(&self, now: Duration, level: Level, mut message: String) {
        let mut cut = message.len().min(RECENT_BYTES_MAX);
        while !message.is_char_boundary(cut) {
            cut -= 1;
        }
        message.truncate(cut);
        let level = match level {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        // Rows are told apart by their time.
        let after = lines.back().map_or(0, |last| last.unix_ns + 1);
        let unix_ns = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX).max(after);
        let uptime_ns = u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if lines.len() == RECENT_MAX {
            lines.pop_front();
        }
        lines.push_back(LogLine { unix_ns, uptime_ns, level, message });
    }
}

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _: LayerContext<'_, S>) {
        let mut words = Words::default();
        event.record(&mut words);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        self.push(now, *event.metadata().level(), format!("{}{}", words.message, words.fields));
    }
}

/// An event as one line of text.
#[derive(Default)]
struct Words {
    message: String,
    fields: String,
}

impl Visit for Words {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        // Writing to a string cannot fail.
        let _ = match field.name() {
            "message" => write!(self.message, "{value:?}"),
            name => write!(self.fields, " {name}={value:?}"),
        };
    }
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
    let recent = Recent::new();
    tracing_subscriber::registry()
        .with(file)
        .with(terminal)
        .with(recent.clone().with_filter(filter(level)))
        .try_init()
        .context("logging has already begun")?;
    log_panics();
    Ok(Logging { _writers: [file_writer, terminal_writer], recent })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_kept_cut_and_told_apart() {
        let recent = Recent::new();
        for number in 0..RECENT_MAX + 5 {
            recent.push(
                Duration::from_secs(7),
                Level::INFO,
                format!("{number} {}", "ä".repeat(RECENT_BYTES_MAX)),
            );
        }
        let lines = recent.lines();
        assert_eq!(lines.len(), RECENT_MAX);
        assert!(lines[0].message.starts_with("5 ") && lines[0].message.len() <= RECENT_BYTES_MAX);
        assert!(lines.is_sorted_by(|one, next| one.unix_ns < next.unix_ns));
    }
}
