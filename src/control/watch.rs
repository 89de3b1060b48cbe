//! Asks each core for a report four times a second and writes the answers on the board.
//!
//! Always: at most one question of the watcher is open per core, so a stuck core gathers no messages from here, and the
//! age of that question is the core's silence. An idle core wakes for it, which costs some 50 µs four times a second.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use photondb_proto::control::CoreReport;
use photondb_runtime::SilentCore;

use super::board::{Board, Phase, SILENCE_MAX};

type Answer = Pin<Box<dyn Future<Output = Result<CoreReport, SilentCore>> + Send>>;

/// The way to ask one core.
#[derive(Clone)]
pub struct CoreLink {
    pub number: u16,
    pub ask: Arc<dyn Fn() -> Answer + Send + Sync>,
}

const INTERVAL: Duration = Duration::from_millis(250);

type CoreLost = Arc<dyn Fn(u16) + Send + Sync>;

/// Watches one core until it or the server ends.
pub async fn watch(core: CoreLink, board: Arc<Board>, core_lost: CoreLost) {
    loop {
        board.asked(core.number, Instant::now());
        match answer(&core, &board).await {
            Ok(report) => board.answered(core.number, report),
            // Its queue is full of questions: it is as silent as before.
            Err(SilentCore::Busy) => {}
            Err(SilentCore::Gone) => {
                if board.phase() != Phase::Stopping {
                    board.ended(core.number);
                    core_lost(core.number);
                }
                return;
            }
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Waits for the answer, and logs when it is late. A core that closes its stores answers nothing, and need not.
async fn answer(core: &CoreLink, board: &Board) -> Result<CoreReport, SilentCore> {
    let asked = Instant::now();
    let mut answer = (core.ask)();
    if let Ok(answer) = tokio::time::timeout(SILENCE_MAX, &mut answer).await {
        return answer;
    }
    if board.phase() == Phase::Stopping {
        return answer.await;
    }
    tracing::warn!(core = core.number, "core {} has not answered for 1 s", core.number);
    let answer = answer.await;
    if answer.is_ok() {
        let silence_ms = asked.elapsed().as_millis();
        tracing::warn!(core = core.number, "core {} answers again after {silence_ms} ms", core.number);
    }
    answer
}

/// Brings the board up to date, as far as the cores answer within the time.
pub async fn refresh(board: &Board, patience: Duration) {
    let questions = board.links().into_iter().map(|core| async move {
        let answer = tokio::time::timeout(patience, (core.ask)()).await;
        (core.number, answer)
    });
    for (number, answer) in futures_util::future::join_all(questions).await {
        if let Ok(Ok(report)) = answer {
            board.answered(number, report);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::board::tests::{self, server};
    use super::*;

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
    }

    #[test]
    fn a_core_that_ends_is_reported_once_and_only_while_serving() {
        for (phase, want) in [(Phase::Serving, 1), (Phase::Stopping, 0)] {
            let board = Arc::new(Board::new(server()));
            board.attach([3].into_iter());
            board.enter(phase);
            let (told, heard) = std::sync::mpsc::channel();
            let lost: CoreLost = Arc::new(move |core| told.send(core).expect("a listener"));
            let core = tests::link(3, || Err(SilentCore::Gone));
            runtime().block_on(watch(core, board.clone(), lost));
            assert_eq!(heard.try_iter().count(), want, "{phase:?}");
        }
    }

    #[test]
    fn a_refresh_takes_what_answers() {
        let board = Board::new(server());
        board.attach([0, 1].into_iter());
        board.link(&tests::link(0, || Ok(CoreReport { shards: 7, ..CoreReport::default() })));
        board.link(&tests::link(1, || Err(SilentCore::Busy)));
        runtime().block_on(refresh(&board, Duration::from_millis(50)));
        let shards: Vec<Option<u64>> = board
            .snapshot()
            .cores
            .iter()
            .map(|core| core.report.as_ref().map(|report| report.shards))
            .collect();
        assert_eq!(shards, [Some(7), None]);
    }
}
