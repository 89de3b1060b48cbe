//! Recordings of what RethinkDB answered, carried out against the server by the replayer that comes with them.
//!
//! They stand beside the repository in `../shared/conformance` and are skipped where that folder is absent. The passes of
//! each file are kept in `conformance.txt`: a file that passes fewer cases than it once did fails the test, and more
//! are written down with `PHOTONDB_WRITE_BASELINE=1`. No file may crash or hang the server.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::machine::Machine;
use crate::server::{Folder, Server, wait};

/// The replays go on side by side, each with a server of its own.
const PARTS: usize = 3;
/// A case that takes longer counts as hanging. Scripts that never end are given up to 8 seconds by their recordings.
const CASE_SECONDS: &str = "12";
const REPLAY_MAX: Duration = Duration::from_secs(100);

fn recordings() -> Option<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/conformance");
    folder.join("replay.py").exists().then_some(folder)
}

fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/conformance.txt")
}

/// Lines of a file's name and its passes.
fn baseline() -> BTreeMap<String, u64> {
    let text = std::fs::read_to_string(baseline_path()).unwrap_or_default();
    let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    lines
        .map(|line| {
            let (name, passed) = line.rsplit_once(' ').expect("a name and a number");
            (name.trim().to_owned(), passed.parse().expect("a number"))
        })
        .collect()
}

/// Every `PARTS`-th recording, from the `part`-th.
fn part_of(folder: &Path, part: usize) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("the folder can be read")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "jsonl"))
        .collect();
    files.sort();
    files.into_iter().skip(part).step_by(PARTS).collect()
}

/// Replays one part and gives the verdict on each file.
fn replay(machine: &Machine, folder: &Path, part: usize) -> Value {
    let own = Folder::new("conformance");
    let mut server = Server::start(machine, &own, 2);
    let verdicts = own.0.join("verdicts.json");
    let mut child = Command::new("python3")
        .arg(folder.join("replay.py"))
        .args(["--host", "127.0.0.1", "--port", &server.driver.port().to_string()])
        .args(["--case-timeout", CASE_SECONDS, "--patience", "2", "--file-timeout", "40", "--list-failures"])
        .arg("--json")
        .arg(&verdicts)
        .arg("--corpus")
        .args(part_of(folder, part))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("python3 starts");
    let ended = wait(&mut child, REPLAY_MAX);
    let _ = child.kill();
    let _ = child.wait();
    assert!(server.is_running(), "the server has ended during the replay");
    assert!(ended.is_some(), "the replay did not end within {REPLAY_MAX:?}");
    assert!(server.stop().success(), "the server stops cleanly after the replay");
    let text = std::fs::read_to_string(&verdicts).expect("the replayer writes its verdicts");
    serde_json::from_str(&text).expect("JSON")
}

#[test]
fn the_recordings_pass_at_least_as_before_and_none_hangs_the_server() {
    let Some(folder) = recordings() else {
        println!("skipped: ../shared/conformance is absent");
        return;
    };
    let machine = Machine::alone();
    let parts: Vec<Value> = std::thread::scope(|scope| {
        let replays: Vec<_> = (0..PARTS)
            .map(|part| {
                scope.spawn({
                    let (machine, folder) = (&machine, &folder);
                    move || replay(machine, folder, part)
                })
            })
            .collect();
        replays.into_iter().map(|replay| replay.join().expect("the replay ends well")).collect()
    });
    let mut passed = BTreeMap::new();
    let (mut failed, mut hanging) = (0, Vec::new());
    for part in &parts {
        for (name, counts) in part["files"].as_object().expect("files") {
            passed.insert(name.clone(), counts["passed"].as_u64().expect("a number"));
            failed += counts["failed"].as_u64().expect("a number");
        }
        for case in part["cases"].as_array().expect("cases") {
            let why = case["why"].as_str().unwrap_or_default();
            // A user that the server does not know is refused, not lost.
            let lost = ["timeout", "cannot connect", "the server cannot", "the time for the file"];
            if lost.iter().any(|start| why.starts_with(start)) && !why.contains("WireError: refused:") {
                hanging.push(format!("{}:{} {} ({why})", case["file"], case["line"], case["src"]));
            }
        }
    }
    let total: u64 = passed.values().sum();
    println!("conformance: {total} cases pass, {failed} fail");
    assert!(hanging.is_empty(), "these cases hang or lose the server:\n{}", hanging.join("\n"));
    if std::env::var_os("PHOTONDB_WRITE_BASELINE").is_some() {
        write_baseline(&passed);
    }
    let fewer: Vec<String> = baseline()
        .iter()
        .filter_map(|(name, before)| {
            let now = passed.get(name).copied().unwrap_or(0);
            (now < *before).then(|| format!("{name}: {now} instead of {before}"))
        })
        .collect();
    assert!(fewer.is_empty(), "fewer cases pass than before:\n{}", fewer.join("\n"));
}

/// Numbers only grow here: a case that fails by chance does not lower them.
fn write_baseline(passed: &BTreeMap<String, u64>) {
    let mut best = baseline();
    for (name, now) in passed {
        let entry = best.entry(name.clone()).or_default();
        *entry = (*entry).max(*now);
    }
    let mut text = format!(
        "# Cases of each recording that pass; see conformance.rs. In all: {}\n",
        best.values().sum::<u64>()
    );
    for (name, passed) in best {
        text.push_str(&format!("{name} {passed}\n"));
    }
    std::fs::write(baseline_path(), text).expect("the baseline can be written");
}
