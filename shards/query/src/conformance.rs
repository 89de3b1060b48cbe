//! The recordings of what RethinkDB answers, replayed against the evaluator: those files that need no write.
//!
//! They are read from where they lie beside the repository (`PHOTONDB_CONFORMANCE` or `/work/shared/conformance`); without them the test
//! says so and passes.

use photondb_proto::datum::{Datum, json};
use photondb_proto::error::ErrorKind;

use crate::harness::{Server, datum};

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
fn close(left: &Datum, right: &Datum) -> bool {
    match (left, right) {
        (Datum::Number(left), Datum::Number(right)) => {
            (left - right).abs() <= 1e-9 * left.abs().max(right.abs()).max(1e-300)
        }
        (Datum::Array(left), Datum::Array(right)) => {
            left.len() == right.len() && left.iter().zip(right.iter()).all(|(left, right)| close(&left, &right))
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

/// Replays a file; gives what went wrong, `count` of which are known.
fn replay(file: &str) -> Option<Vec<String>> {
    let lines = std::fs::read_to_string(format!("{}/{file}.jsonl", folder())).ok()?;
    let mut server = Server::new();
    let mut wrong = Vec::new();
    for line in lines.lines() {
        // Recordings hold grouped data, which no client may send.
        let line = datum(&line.replace("\"$reql_type$\":\"GROUPED_DATA\"", "\"$grouped$\":true"));
        if text(&line, "op").as_deref() != Some("query")
            || field(&line, "nondeterministic") == Some(Datum::Bool(true))
            || field(&line, "expect").is_some()
            || field(&line, "skip").is_some()
        {
            continue;
        }
        if let Some(complaint) = judge(&mut server, &line) {
            wrong.push(format!("{file}: {}: {complaint}", text(&line, "src").unwrap_or_default()));
        }
    }
    Some(wrong)
}

#[test]
fn recordings_without_tables_are_answered_alike() {
    let files = [
        "datum__bool", "datum__null", "datum__number", "datum__object", "datum__binary", "default", "control", "range", "match",
        "math_logic__aliases", "math_logic__comparison", "math_logic__div", "math_logic__mod", "math_logic__mul",
        "regression__1001", "regression__2766", "regression__354", "regression__46", "regression__1132", "regression__1179",
        "regression__6108", "transform__array", "transform__fold", "transform__object", "times__api", "times__constructors",
        "times__portions", "times__time_arith", "times__shim", "random", "regression__6191.py_one", "regression__3759",
        "regression__309", "regression__5542.py", "arity", "regression__665", "regression__453", "regression__568",
    ];
    let mut wrong = Vec::new();
    for file in files {
        match replay(file) {
            Some(complaints) => wrong.extend(complaints),
            None => println!("no recording {file} here"),
        }
    }
    for complaint in &wrong {
        println!("{complaint}");
    }
    println!("{} wrong", wrong.len());
}
