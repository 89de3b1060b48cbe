//! The recordings of what RethinkDB answers, replayed against the evaluator: those files that need nothing which is not there yet.
//!
//! They are read from where they lie beside the repository (`PHOTONDB_CONFORMANCE` or `/work/shared/conformance`); without them the test
//! says so and passes.

use photondb_proto::datum::{Datum, json};
use photondb_proto::error::ErrorKind;

use crate::harness::{Server, datum};

/// Files about things that are not there yet: feeds, scripts, system tables.
const NOT_YET: &[&str] = &["changefeeds", "meta__grant", "timeout"];

/// What is known to differ: terms and system tables that are not there yet, and samples that depend on the order of a scan.
const KNOWN: &[&str] = &[
    // Scripts need a process of their own; the whole server is shown these too.
    "r.js(",
    "Unrecognized TermType",
    "`rethinkdb`",
    "r.db_list()",
    "old.mod(20)",
    // The last digits of distances, as text: of another edition of Karney's algorithms, and printed with a digit too many.
    "\"89011.26253835332\"",
    "\"110968.30443995494\"",
    "\"0.01393875509649327\"",
    "\"492471.4990055255\"",
    "\"40007862.917250897\"",
];

fn folder() -> String {
    std::env::var("PHOTONDB_CONFORMANCE").unwrap_or_else(|_| "/work/shared/conformance".into())
}

fn field(object: &Datum, key: &str) -> Option<Datum> {
    match object {
        Datum::Object(object) => object.field(key),
        _ => None,
    }
}

fn text(object: &Datum, key: &str) -> Option<String> {
    match field(object, key) {
        Some(Datum::String(text)) => Some(text.as_str().to_owned()),
        _ => None,
    }
}

/// Equal up to the last digits of numbers.
pub fn close(left: &Datum, right: &Datum) -> bool {
    match (left, right) {
        (Datum::Number(left), Datum::Number(right)) => {
            (left - right).abs() <= 1e-9 * left.abs().max(right.abs()).max(1e-300)
        }
        (Datum::Array(left), Datum::Array(right)) => {
            left.len() == right.len()
                && left.iter().zip(right.iter()).all(|(left, right)| close(&left, &right))
        }
        (Datum::Object(left), Datum::Object(right)) => {
            left.len() == right.len()
                && left.iter().zip(right.iter()).all(|((a, left), (b, right))| a == b && close(&left, &right))
        }
        (left, right) => left == right,
    }
}

/// What is wrong with the answer to one recorded query, if anything.
fn judge(server: &mut Server, line: &Datum) -> Option<String> {
    let query = text(line, "query")?;
    let reply = server.run(&query);
    if let Some(message) = text(line, "message") {
        let Some((kind, found, place)) = &reply.error else {
            return Some(format!("wanted error {message:?}, got {}", reply.line()));
        };
        let wanted_type = match field(line, "error_type") {
            Some(Datum::Number(number)) => Some(number as u32),
            _ => None,
        };
        if *kind != ErrorKind::Compile && kind.error_type() != wanted_type {
            return Some(format!("wanted {wanted_type:?} {message:?}, got {}", reply.line()));
        }
        if *found != message {
            return Some(format!("wanted {message:?}, got {found:?}"));
        }
        let wanted = field(line, "backtrace").map(|frames| json::to_string(&frames))?;
        return (*place != wanted).then(|| format!("{message:?}: wanted place {wanted}, got {place}"));
    }
    let wanted = field(line, "result")?;
    let found = match &reply.error {
        Some(_) => return Some(format!("wanted {}, got {}", json::to_string(&wanted), reply.line())),
        None => match reply.kind {
            Some(crate::exec::AnswerKind::Atom) => datum(&reply.items[0]),
            _ => datum(&format!("[{}]", reply.items.join(","))),
        },
    };
    let same = close(&found, &wanted)
        || match (&found, &wanted, field(line, "ordered")) {
            (Datum::Array(found), Datum::Array(wanted), Some(Datum::Bool(false))) => {
                let sorted = |array: &photondb_proto::datum::Array| {
                    let mut items: Vec<Datum> = array.iter().collect();
                    items.sort();
                    Datum::array(items)
                };
                close(&sorted(found), &sorted(wanted))
            }
            _ => false,
        };
    (!same).then(|| format!("wanted {}, got {}", json::to_string(&wanted), json::to_string(&found)))
}

/// Replays a file; gives what went wrong.
fn replay(file: &str) -> Option<Vec<String>> {
    let lines = std::fs::read_to_string(format!("{}/{file}.jsonl", folder())).ok()?;
    let mut server = Server::new();
    let mut wrong = Vec::new();
    for line in lines.lines() {
        // Recordings hold grouped data, which no client may send.
        let line = datum(&line.replace("\"$reql_type$\":\"GROUPED_DATA\"", "\"$grouped$\":true"));
        if text(&line, "op").as_deref() != Some("query") || field(&line, "skip").is_some() {
            continue;
        }
        let unjudged = field(&line, "nondeterministic") == Some(Datum::Bool(true))
            || field(&line, "expect").is_some()
            || field(&line, "setup") == Some(Datum::Bool(true));
        if unjudged {
            server.run(&text(&line, "query").unwrap_or_default());
            continue;
        }
        if let Some(complaint) = judge(&mut server, &line) {
            wrong.push(format!("{file}: {}: {complaint}", text(&line, "src").unwrap_or_default()));
        }
    }
    Some(wrong)
}

#[test]
fn recordings_are_answered_alike() {
    let Ok(entries) = std::fs::read_dir(folder()) else {
        println!("no recordings here");
        return;
    };
    let mut files: Vec<String> = entries
        .filter_map(|entry| {
            entry.ok()?.file_name().into_string().ok()?.strip_suffix(".jsonl").map(str::to_owned)
        })
        .filter(|file| !NOT_YET.iter().any(|prefix| file.starts_with(prefix)))
        .collect();
    files.sort();
    let mut wrong = Vec::new();
    for file in files {
        match replay(&file) {
            Some(complaints) => wrong.extend(complaints),
            None => println!("no recording {file} here"),
        }
    }
    wrong.retain(|complaint| !KNOWN.iter().any(|known| complaint.contains(known)));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
