//! What the control plane knows of the server: its phase, and each core's last answer.
//!
//! Always: a lock here is held for a copy, never across an await. Nothing on a core ever takes it. The time is an
//! argument, so that silence is tested without waiting.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use photondb_proto::control::CoreReport;

use super::watch::CoreLink;

/// Facts of the server that do not change while it runs.
#[derive(Clone, Debug)]
pub struct Server {
    pub version: &'static str,
    pub started: Instant,
    pub started_at: SystemTime,
    pub cache_bytes: u64,
    pub query_memory_bytes: u64,
}

/// Where the server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The stores are being recovered.
    Starting,
    Serving,
    Stopping,
}

/// What is known of one core.
#[derive(Clone, Debug)]
pub struct CoreState {
    pub number: u16,
    /// When the question was put that it has not answered yet.
    pub asked: Option<Instant>,
    /// Its last answer.
    pub report: Option<CoreReport>,
    /// It has ended.
    pub gone: bool,
}

/// A core that has not answered for this long counts as stuck.
pub const SILENCE_MAX: Duration = Duration::from_secs(1);

impl CoreState {
    /// How long the core has owed an answer.
    pub fn silence(&self, now: Instant) -> Duration {
        self.asked.map_or(Duration::ZERO, |asked| now.saturating_duration_since(asked))
    }

    pub fn responds(&self, now: Instant) -> bool {
        !self.gone && self.silence(now) < SILENCE_MAX
    }
}

/// A copy of all that is known, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub phase: Phase,
    pub now: Instant,
    pub cores: Vec<CoreState>,
}

/// The shared knowledge of the control thread and `boot`.
pub struct Board {
    pub server: Server,
    inner: Mutex<Inner>,
}

struct Inner {
    phase: Phase,
    cores: Vec<CoreState>,
    links: Vec<CoreLink>,
}

impl Board {
    pub fn new(server: Server) -> Board {
        let inner = Inner { phase: Phase::Starting, cores: Vec::new(), links: Vec::new() };
        Board { server, inner: Mutex::new(inner) }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Every change is a plain assignment, so a panic elsewhere cannot have left half of one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn enter(&self, phase: Phase) {
        self.inner().phase = phase;
    }

    pub fn phase(&self) -> Phase {
        self.inner().phase
    }

    pub fn attach(&self, numbers: impl Iterator<Item = u16>) {
        let state = |number| CoreState { number, asked: None, report: None, gone: false };
        self.inner().cores = numbers.map(state).collect();
    }

    pub(super) fn link(&self, core: &CoreLink) {
        self.inner().links.push(core.clone());
    }

    pub(super) fn links(&self) -> Vec<CoreLink> {
        self.inner().links.clone()
    }

    fn with_core(&self, number: u16, change: impl FnOnce(&mut CoreState)) {
        if let Some(core) = self.inner().cores.iter_mut().find(|core| core.number == number) {
            change(core);
        }
    }

    /// Notes a question; one that is still open keeps its time.
    pub fn asked(&self, number: u16, now: Instant) {
        self.with_core(number, |core| {
            core.asked.get_or_insert(now);
        });
    }

    pub fn answered(&self, number: u16, report: CoreReport) {
        self.with_core(number, |core| {
            core.asked = None;
            core.report = Some(report);
        });
    }

    pub fn ended(&self, number: u16) {
        self.with_core(number, |core| core.gone = true);
    }

    pub fn snapshot(&self) -> Snapshot {
        let inner = self.inner();
        Snapshot { phase: inner.phase, now: Instant::now(), cores: inner.cores.clone() }
    }
}

#[cfg(test)]
pub mod tests {
    use photondb_runtime::SilentCore;

    use super::*;

    pub fn server() -> Server {
        Server {
            version: "1.2.3",
            started: Instant::now(),
            started_at: SystemTime::UNIX_EPOCH,
            cache_bytes: 64,
            query_memory_bytes: 16,
        }
    }

    pub fn link(number: u16, answer: fn() -> Result<CoreReport, SilentCore>) -> CoreLink {
        CoreLink { number, ask: std::sync::Arc::new(move || Box::pin(async move { answer() })) }
    }

    #[test]
    fn silence_is_the_age_of_the_oldest_open_question() {
        let board = Board::new(server());
        board.attach([0].into_iter());
        let start = Instant::now();
        let silence_at = |seconds: u64| {
            let core = &board.snapshot().cores[0];
            let now = start + Duration::from_secs(seconds);
            (core.silence(now).as_secs(), core.responds(now))
        };
        assert_eq!(silence_at(9), (0, true));
        board.asked(0, start);
        board.asked(0, start + Duration::from_secs(2));
        assert_eq!(silence_at(0), (0, true));
        assert_eq!(silence_at(3), (3, false));
        board.answered(0, CoreReport::default());
        assert_eq!(silence_at(9), (0, true));
        board.ended(0);
        assert_eq!(silence_at(9), (0, false));
    }
}
