//! SIGTERM and SIGINT drain and stop; a second signal stops at once.

use std::time::{Duration, Instant};

use photondb_proto::term::number;
use rustix::process::Signal;
use serde_json::json;

use crate::client::{create, get, insert, table, term};
use crate::machine::Machine;
use crate::server::{Folder, Server, log_text};

const STOP_MAX: Duration = Duration::from_secs(5);

#[track_caller]
fn check_stops(name: &str, signal: Signal) {
    let machine = Machine::shared();
    let folder = Folder::new(name);
    let mut server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["docs"]);
    client.run(&insert("docs", &[json!({ "id": 1, "kept": "hard" })]));
    let soft =
        json!([number::INSERT, [table("docs"), { "id": 2, "kept": "soft" }], { "durability": "soft" }]);
    client.run(&soft);
    // Connections that stay open do not hold it up.
    let begun = Instant::now();
    server.signal(signal);
    let status = server.wait(STOP_MAX).expect("it stops within 5 s");
    assert!(status.success(), "{status:?}: {}", server.output());
    println!("{name}: stopped after {:?}", begun.elapsed());
    let log = log_text(&folder.data_dir());
    assert!(
        log.contains("stopping on SIG") && log.trim_end().ends_with("stopped"),
        "the log ends otherwise:\n{log}"
    );
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    for id in [1, 2] {
        assert!(client.run(&get("docs", &json!(id))).is_object(), "document {id} is lost in a clean stop");
    }
}

#[test]
fn sigterm_stops_cleanly_and_keeps_even_soft_writes() {
    check_stops("sigterm", Signal::TERM);
}

#[test]
fn sigint_stops_cleanly() {
    check_stops("sigint", Signal::INT);
}

#[test]
fn a_second_signal_stops_at_once() {
    let machine = Machine::shared();
    let folder = Folder::new("twice");
    let mut server = Server::start(&machine, &folder, 1);
    let mut client = server.client();
    create(&mut client, &["docs"]);
    // A query that takes long: draining waits for it.
    let slow = term(
        number::REDUCE,
        json!([
            [number::RANGE, [2_000_000_000u32]],
            [
                number::FUNC,
                [[number::MAKE_ARRAY, [1, 2]], [number::ADD, [[number::VAR, [1]], [number::VAR, [2]]]]]
            ]
        ]),
    );
    client.send(&slow, &json!({})).expect("it takes queries");
    std::thread::sleep(Duration::from_millis(200));
    server.signal(Signal::TERM);
    std::thread::sleep(Duration::from_millis(300));
    let begun = Instant::now();
    server.signal(Signal::TERM);
    let status = server.wait(Duration::from_secs(1)).expect("it stops at once");
    assert!(begun.elapsed() < Duration::from_secs(1));
    println!("stopped with {status:?}");
    // What was acknowledged before is safe all the same.
    let server = Server::start(&machine, &folder, 1);
    assert_eq!(
        server.client().run(&term(number::TABLE_LIST, json!([[number::DB, ["it"]]]))),
        json!(["docs"])
    );
}

#[test]
fn a_query_that_runs_for_ever_does_not_hold_up_the_stop() {
    let machine = Machine::shared();
    let folder = Folder::new("busy");
    let mut server = Server::start(&machine, &folder, 1);
    let mut client = server.client();
    let endless = term(
        number::COUNT,
        json!([
            [number::RANGE, []],
            [number::FUNC, [[number::MAKE_ARRAY, [1]], [number::EQ, [[number::VAR, [1]], -1]]]]
        ]),
    );
    client.send(&endless, &json!({})).expect("it takes queries");
    // Others are served beside it.
    let begun = Instant::now();
    assert_eq!(server.client().run(&term(number::ADD, json!([1, 2]))), json!(3));
    assert!(begun.elapsed() < Duration::from_secs(2), "a neighbour waited for {:?}", begun.elapsed());
    server.signal(Signal::TERM);
    server.wait(STOP_MAX).expect("it stops within 5 s");
}
