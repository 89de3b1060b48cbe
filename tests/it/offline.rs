//! The commands that work on a data directory while no server does: `check` and `reshard`.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, count, create, get, insert, table, term};
use crate::http::metric;
use crate::machine::Machine;
use crate::server::{Folder, Server, program, serve};

fn run(words: &[&str], data_dir: &Path) -> Output {
    program().args(words).arg(data_dir).output().expect("the program starts")
}

fn check(data_dir: &Path) -> (bool, Value) {
    let output = run(&["check", "--json"], data_dir);
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {text}"));
    (output.status.success(), report)
}

fn document(key: u64) -> Value {
    json!({ "id": key, "n": key % 10, "text": format!("{key}").repeat(200) })
}

fn fill(client: &mut Client, from: u64, to: u64) {
    for first in (from..to).step_by(200) {
        let documents: Vec<Value> = (first..to.min(first + 200)).map(document).collect();
        let inserted = client.run(&insert("docs", &documents));
        assert_eq!(inserted["inserted"], json!(documents.len()), "{inserted}");
    }
}

#[track_caller]
fn check_documents(client: &mut Client, documents: u64) {
    assert_eq!(client.run(&count("docs")), json!(documents));
    for key in (0..documents).step_by(97) {
        assert_eq!(client.run(&get("docs", &json!(key))), document(key));
    }
    let sum = client.run(&term(number::SUM, json!([table("docs"), "n"])));
    assert_eq!(sum, json!((0..documents).map(|key| key % 10).sum::<u64>()));
}

#[test]
fn a_check_finds_nothing_in_a_whole_directory_and_names_what_was_spoiled() {
    let machine = Machine::shared();
    let folder = Folder::new("check");
    let data_dir = folder.data_dir();
    // As they are, so that the test finds a document in the file.
    let mut command = serve(&folder, 2);
    command.args(["--compression-level", "0"]);
    let server = Server::start_with(&machine, &folder, command);
    create(&mut server.client(), &["docs"]);
    fill(&mut server.client(), 0, 2000);
    let refused = run(&["check"], &data_dir);
    assert!(!refused.status.success(), "a server holds the directory");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("in use by another process"));
    assert!(server.stop().success());

    let (whole, report) = check(&data_dir);
    assert!(whole, "{report}");
    assert_eq!((&report["damage_count"], &report["stores"]), (&json!(0), &json!(2)), "{report}");
    assert!(report["slots"].as_u64().expect("a number") >= 2000, "{report}");

    // A byte in the middle of a document's slot.
    let slabs = data_dir.join("store-1/slabs");
    let mut bytes = std::fs::read(&slabs).expect("the file is there");
    let is_text = |run: &[u8]| run[0].is_ascii_digit() && run.iter().all(|byte| *byte == run[0]);
    let place = bytes.windows(9).position(is_text).expect("a document of one digit");
    bytes[place] ^= 1;
    std::fs::write(&slabs, &bytes).expect("it can be written");
    let (whole, report) = check(&data_dir);
    assert!(!whole, "{report}");
    let damage = &report["damage"][0];
    assert_eq!((&damage["file"], &damage["table"]), (&json!("store-1/slabs"), &json!("it.docs")), "{report}");
    let key: u64 = damage["key"].as_str().expect("a key").parse().expect("a number");
    assert!(key < 2000, "{report}");
    assert!(damage["offset"].as_u64().expect("a number") <= place as u64, "{report}");

    let nothing = run(&["check"], &folder.0.join("elsewhere"));
    assert!(!nothing.status.success());
}

/// Serves on the backend, fills a table, stops, and serves again: how many documents there are then.
fn kept(backend: &str) -> (Folder, Value) {
    let machine = Machine::shared();
    let folder = Folder::new(&format!("backend-{backend}"));
    let command = || {
        let mut command = serve(&folder, 2);
        command.args(["--storage", backend]);
        command
    };
    let server = Server::start_with(&machine, &folder, command());
    create(&mut server.client(), &["docs"]);
    fill(&mut server.client(), 0, 600);
    check_documents(&mut server.client(), 600);
    assert!(server.stop().success());
    let server = Server::start_with(&machine, &folder, command());
    let tables = term(number::TABLE_LIST, json!([[number::DB, ["it"]]]));
    let documents = match server.client().try_run(&tables).expect("the server answers") {
        Ok(_) => {
            check_documents(&mut server.client(), 600);
            server.client().run(&count("docs"))
        }
        Err(_) => json!(0),
    };
    assert!(server.stop().success());
    (folder, documents)
}

#[test]
fn every_backend_serves_and_a_directory_stays_with_its_own() {
    assert_eq!(kept("memory").1, json!(0));
    for (backend, other, said) in [
        ("slab", "btree", "--storage slab"),
        ("btree", "slab", "--storage btree"),
        ("btree", "memory", "memory does not see"),
    ] {
        let (folder, documents) = kept(backend);
        assert_eq!(documents, json!(600), "{backend}");
        let refused = serve(&folder, 2).args(["--storage", other]).output().expect("the program starts");
        assert!(!refused.status.success(), "{backend} was opened as {other}");
        let words = String::from_utf8_lossy(&refused.stderr);
        assert!(words.contains(said), "{words}");
        let (whole, report) = check(&folder.data_dir());
        assert!(whole, "{report}");
    }
}

fn stores(data_dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(data_dir).expect("it is there");
    let names = entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned());
    let mut stores: Vec<String> = names.filter(|name| name.contains("store")).collect();
    stores.sort();
    stores
}

#[track_caller]
fn reshard(data_dir: &Path, stores: &str) -> Value {
    let output = run(&["reshard", "--json", "--stores", stores], data_dir);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[test]
fn data_of_one_core_is_spread_over_two_and_gathered_again() {
    let machine = Machine::shared();
    let folder = Folder::new("reshard");
    let data_dir = folder.data_dir();
    let server = Server::start(&machine, &folder, 1);
    create(&mut server.client(), &["docs"]);
    fill(&mut server.client(), 0, 3000);
    assert!(server.stop().success());

    let done = reshard(&data_dir, "2");
    assert_eq!(done["shards_moved"], json!(8), "{done}");
    assert_eq!(stores(&data_dir), ["store-0", "store-1"]);
    let (whole, report) = check(&data_dir);
    assert!(whole, "{report}");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    check_documents(&mut client, 3000);
    for core in ["0", "1"] {
        let shards = metric(server.http, "rethinkdb_shards", &[("core", core)]).expect("a metric");
        assert!((shards - 8.0).abs() < 0.1, "core {core} has {shards} shards");
    }
    fill(&mut client, 3000, 3500);
    assert!(server.stop().success());

    let again = reshard(&data_dir, "2");
    assert_eq!(again["shards_moved"], json!(0), "{again}");
    let back = reshard(&data_dir, "1");
    assert_eq!((&back["shards_moved"], &back["stores_removed"]), (&json!(8), &json!(1)), "{back}");
    assert_eq!(stores(&data_dir), ["store-0"]);
    let server = Server::start(&machine, &folder, 1);
    check_documents(&mut server.client(), 3500);
}

#[test]
fn a_reshard_that_is_killed_loses_nothing_and_can_be_run_again() {
    let machine = Machine::shared();
    let folder = Folder::new("reshard-killed");
    let data_dir = folder.data_dir();
    let server = Server::start(&machine, &folder, 1);
    create(&mut server.client(), &["docs"]);
    fill(&mut server.client(), 0, 4000);
    assert!(server.stop().success());
    for (turn, life_ms) in [3, 10, 25, 50, 90, 140].into_iter().enumerate() {
        let (wanted, cores) = if turn % 2 == 0 { ("2", 1) } else { ("1", 2) };
        let mut child = program()
            .args(["reshard", "--stores", wanted])
            .arg(&data_dir)
            .spawn()
            .expect("the program starts");
        let end = Instant::now() + Duration::from_millis(life_ms);
        while Instant::now() < end && child.try_wait().expect("it can be asked").is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // It may have ended by itself.
        let _ = child.kill();
        child.wait().expect("it ends");
        let (whole, report) = check(&data_dir);
        assert!(whole, "turn {turn}: {report}");
        let server = Server::start(&machine, &folder, cores);
        check_documents(&mut server.client(), 4000);
        assert!(server.stop().success());
    }
    reshard(&data_dir, "2");
    let server = Server::start(&machine, &folder, 2);
    check_documents(&mut server.client(), 4000);
}
