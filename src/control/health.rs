//! What the server says of its health, judged from a snapshot of the board.
//!
//! Live: nothing is stuck, so a restart would help nobody. Ready: send it work. Started: recovery is over. A store that
//! takes no writes leaves the server live and ready, since it goes on reading: that is "degraded".

use serde::Serialize;

use super::board::{CoreState, Phase, Snapshot};

/// The answer to one of the health questions.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Verdict {
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The cores at fault.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cores: Vec<u16>,
    #[serde(skip)]
    pub passes: bool,
}

/// The full picture, for people.
#[derive(Debug, Serialize)]
pub struct Overview {
    #[serde(flatten)]
    pub verdict: OverviewVerdict,
    pub version: &'static str,
    pub uptime_seconds: u64,
    pub cores: Vec<CoreLine>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct OverviewVerdict {
    pub status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    #[serde(skip)]
    pub passes: bool,
}

/// One core in the overview.
#[derive(Debug, Serialize)]
pub struct CoreLine {
    pub core: u16,
    pub responding: bool,
    pub silent_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_only: Option<String>,
}

fn pass(status: &'static str) -> Verdict {
    Verdict { status, reason: None, cores: Vec::new(), passes: true }
}

fn fail(status: &'static str, reason: String, cores: Vec<u16>) -> Verdict {
    Verdict { status, reason: Some(reason), cores, passes: false }
}

/// Fails, and names the cores, when one has been silent for a second or has ended.
pub fn live(snapshot: &Snapshot) -> Verdict {
    let silent: Vec<&CoreState> = snapshot.cores.iter().filter(|core| !core.responds(snapshot.now)).collect();
    if silent.is_empty() {
        return pass("live");
    }
    let sentence = |core: &&CoreState| match core.gone {
        true => format!("core {} has ended", core.number),
        false => {
            format!("core {} has not answered for {} ms", core.number, core.silence(snapshot.now).as_millis())
        }
    };
    let reasons: Vec<String> = silent.iter().map(sentence).collect();
    fail("failing", reasons.join("; "), silent.iter().map(|core| core.number).collect())
}

/// Passes when the server takes queries.
pub fn ready(snapshot: &Snapshot) -> Verdict {
    match snapshot.phase {
        Phase::Starting => fail("starting", "the stores are being opened".to_owned(), Vec::new()),
        Phase::Stopping => fail("stopping", "the server is stopping".to_owned(), Vec::new()),
        Phase::Serving => match live(snapshot) {
            live if live.passes => pass("ready"),
            stuck => stuck,
        },
    }
}

/// Passes once the stores are open, and from then on.
pub fn startup(snapshot: &Snapshot) -> Verdict {
    match snapshot.phase {
        Phase::Starting => ready(snapshot),
        Phase::Serving | Phase::Stopping => pass("started"),
    }
}

/// Everything at once.
pub fn overview(snapshot: &Snapshot, version: &'static str, uptime_seconds: u64) -> Overview {
    let line = |core: &CoreState| CoreLine {
        core: core.number,
        responding: core.responds(snapshot.now),
        silent_ms: u64::try_from(core.silence(snapshot.now).as_millis()).unwrap_or(u64::MAX),
        read_only: core.report.as_ref().and_then(|report| report.read_only.clone()),
    };
    let cores: Vec<CoreLine> = snapshot.cores.iter().map(line).collect();
    let ready = ready(snapshot);
    let stuck_store = cores.iter().find_map(|core| Some((core.core, core.read_only.as_ref()?)));
    let verdict = match (ready.passes, stuck_store) {
        (false, _) => OverviewVerdict { status: ready.status, reason: ready.reason, passes: false },
        (true, None) => OverviewVerdict { status: "ok", reason: None, passes: true },
        (true, Some((core, reason))) => {
            let reason = format!("a store of core {core} takes no writes: {reason}");
            OverviewVerdict { status: "degraded", reason: Some(reason), passes: true }
        }
    };
    Overview { verdict, version, uptime_seconds, cores }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use photondb_proto::control::CoreReport;

    use super::*;

    /// Cores that have owed an answer for so many milliseconds.
    fn snapshot(phase: Phase, silences_ms: &[u64]) -> Snapshot {
        let start = Instant::now();
        let now = start + Duration::from_secs(60);
        let core = |(number, silence_ms): (usize, &u64)| CoreState {
            number: u16::try_from(number).expect("few cores"),
            asked: Some(now - Duration::from_millis(*silence_ms)),
            report: None,
            gone: false,
        };
        Snapshot { phase, now, cores: silences_ms.iter().enumerate().map(core).collect() }
    }

    #[track_caller]
    fn check(
        question: fn(&Snapshot) -> Verdict,
        phase: Phase,
        silences_ms: &[u64],
        want: (bool, &str, &[u16]),
    ) {
        let verdict = question(&snapshot(phase, silences_ms));
        assert_eq!(
            (verdict.passes, verdict.status, verdict.cores.as_slice()),
            want,
            "{phase:?} {silences_ms:?}"
        );
    }

    #[test]
    fn each_question_has_its_answer_in_each_phase() {
        check(live, Phase::Starting, &[], (true, "live", &[]));
        check(live, Phase::Serving, &[0, 999], (true, "live", &[]));
        check(live, Phase::Serving, &[0, 1000, 3000], (false, "failing", &[1, 2]));
        check(live, Phase::Stopping, &[0], (true, "live", &[]));
        check(ready, Phase::Starting, &[], (false, "starting", &[]));
        check(ready, Phase::Serving, &[0, 999], (true, "ready", &[]));
        check(ready, Phase::Serving, &[1500], (false, "failing", &[0]));
        check(ready, Phase::Stopping, &[0], (false, "stopping", &[]));
        check(startup, Phase::Starting, &[], (false, "starting", &[]));
        check(startup, Phase::Serving, &[5000], (true, "started", &[]));
        check(startup, Phase::Stopping, &[], (true, "started", &[]));
    }

    #[test]
    fn a_silent_core_is_named() {
        let verdict = live(&snapshot(Phase::Serving, &[0, 1500]));
        assert_eq!(verdict.reason.as_deref(), Some("core 1 has not answered for 1500 ms"));
    }

    #[test]
    fn a_read_only_store_degrades_but_does_not_fail() {
        let mut snapshot = snapshot(Phase::Serving, &[0]);
        snapshot.cores[0].report =
            Some(CoreReport { read_only: Some("a flush failed".to_owned()), ..CoreReport::default() });
        let overview = overview(&snapshot, "1", 0);
        assert_eq!((overview.verdict.status, overview.verdict.passes), ("degraded", true));
        assert_eq!(
            overview.verdict.reason.as_deref(),
            Some("a store of core 0 takes no writes: a flush failed")
        );
    }
}
