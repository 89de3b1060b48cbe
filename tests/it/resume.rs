//! Feeds that are resumed: on a new connection, after a crash of the server, and what refuses to be.
//!
//! A client lays what feeds tell over what they told before, over any number of connections: each change must follow on what is known
//! of its row, so a gap, a duplicate or a change out of order is seen at once; at the end it must have the table.

use std::collections::BTreeMap;
use std::io;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, SUCCESS_PARTIAL, create, get, insert, table, term};
use crate::machine::Machine;
use crate::server::{Folder, Server, serve};

const KEYS: u64 = 120;
/// Rows whose inserts end the histories: so many that every shard has some, since only changes of one shard are in order.
const LAST: std::ops::Range<u64> = KEYS..KEYS + 400;
const WRITERS: u64 = 3;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

fn keeping(folder: &Folder, cores: u32, bytes: u64) -> Command {
    let mut command = serve(folder, cores);
    command.arg("--change-log-bytes").arg(bytes.to_string());
    command
}

/// Changes rows of this writer until the server dies or it is told to end.
fn write(mut client: Client, seed: u64, durabilities: &[&str], end: &AtomicBool) {
    let mut random = Random(seed);
    while !end.load(Ordering::SeqCst) {
        let key = random.below(KEYS);
        let options = json!({ "durability": durabilities[random.below(durabilities.len() as u64) as usize] });
        let turn = random.below(1 << 50);
        let query = match random.below(4) {
            0 => json!([number::DELETE, [get("t", &json!(key))], options]),
            1 => json!([number::UPDATE, [get("t", &json!(key)), { "turn": turn }], options]),
            _ => {
                let row = json!({ "id": key, "n": random.below(10), "turn": turn });
                json!([number::INSERT, [table("t"), row], { "conflict": "replace", "durability": options["durability"] }])
            }
        };
        if client.try_run(&query).is_err() {
            return;
        }
    }
}

/// What feeds have told, by key, and the place to go on from.
struct Told {
    rows: BTreeMap<u64, Value>,
    token: Option<String>,
    resumed: u64,
    begun: u64,
    changes: u64,
}

impl Told {
    fn new() -> Told {
        Told { rows: BTreeMap::new(), token: None, resumed: 0, begun: 0, changes: 0 }
    }

    #[track_caller]
    fn take(&mut self, element: &Value) {
        assert!(element.get("error").is_none(), "{element}");
        let key = |row: &Value| row["id"].as_u64();
        if let Some(old) = element.get("old_val").filter(|old| !old.is_null()) {
            let known = self.rows.remove(&key(old).expect("rows have keys"));
            assert_eq!(known.as_ref(), Some(old), "{element}");
        }
        if let Some(new) = element.get("new_val").filter(|new| !new.is_null()) {
            let known = self.rows.insert(key(new).expect("rows have keys"), new.clone());
            assert_eq!(known, None, "{element}");
        }
        self.changes += 1;
        self.token = element["resume_token"].as_str().map(str::to_owned).or(self.token.take());
    }

    /// Opens a feed where the last one ended, or a new one, and takes up to `elements` of it, or all up to the last rows. Whether it
    /// has come to those.
    fn follow(&mut self, mut client: Client, source: &Value, elements: u64) -> io::Result<bool> {
        let mut options = json!({ "include_resume_token": true });
        match &self.token {
            Some(token) => options["resume_from"] = json!(token),
            None => {
                self.rows.clear();
                options["include_initial"] = json!(true);
            }
        }
        let token = client.send(&json!([number::CHANGES, [source], options]), &json!({}))?;
        let mut taken = 0;
        loop {
            let response = client.receive()?;
            if let Some(error) = response.error() {
                if error.contains("the server is stopping") {
                    return Err(io::ErrorKind::ConnectionReset.into());
                }
                assert!(error.contains("lost in a crash"), "{error}");
                self.token = None;
                return Ok(false);
            }
            assert_eq!((response.token, response.response_type), (token, SUCCESS_PARTIAL), "{response:?}");
            if taken == 0 {
                *(if options.get("resume_from").is_some() { &mut self.resumed } else { &mut self.begun }) +=
                    1;
            }
            for element in &response.results {
                self.take(element);
                taken += 1;
                if self.rows.range(LAST).count() == LAST.count() {
                    return Ok(true);
                }
                if taken >= elements && self.token.is_some() {
                    return Ok(false);
                }
            }
            client.send_as(token, "[2]")?;
        }
    }
}

/// Follows a table over connections and crashes.
fn live(
    name: &str,
    durabilities: &[&str],
    source: impl Fn(u64) -> Value + Sync,
    accepts: fn(&Value) -> bool,
) -> Told {
    let machine = Machine::shared();
    let folder = Folder::new(name);
    let mut told = Told::new();
    for round in 0..5 {
        let server = Server::start_with(&machine, &folder, keeping(&folder, 2, 64 << 20));
        if round == 0 {
            create(&mut server.client(), &["t"]);
        }
        let end = AtomicBool::new(false);
        let is_last = round == 4;
        let rows = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|writer| {
                    let (client, end) = (server.client(), &end);
                    scope.spawn(move || write(client, round * 100 + writer, durabilities, end))
                })
                .collect();
            let (address, told, source, end) = (server.driver, &mut told, &source, &end);
            let follower = scope.spawn(move || {
                let mut random = Random(round);
                let mut turn = 0;
                while let Ok(client) = Client::try_connect(address) {
                    let elements = if end.load(Ordering::SeqCst) { u64::MAX } else { 1 + random.below(300) };
                    turn += 1;
                    match told.follow(client, &source(turn), elements) {
                        Ok(true) => return,
                        Ok(false) => {}
                        Err(_) => assert!(!is_last, "the server lives"),
                    }
                }
            });
            std::thread::sleep(Duration::from_millis(700));
            if is_last {
                end.store(true, Ordering::SeqCst);
                writers.into_iter().for_each(|writer| writer.join().expect("writers end"));
                let last: Vec<Value> = LAST.map(|id| json!({ "id": id, "n": 9 })).collect();
                server.client().run(&insert("t", &last));
                follower.join().expect("the feed ends");
                let rows = server.client().run(&table("t"));
                let rows = rows.as_array().expect("rows").iter().filter(|row| accepts(row));
                let rows: BTreeMap<u64, Value> =
                    rows.map(|row| (row["id"].as_u64().expect("a key"), row.clone())).collect();
                assert!(server.stop().success());
                Some(rows)
            } else {
                server.kill();
                end.store(true, Ordering::SeqCst);
                None
            }
        });
        if let Some(rows) = rows {
            assert_eq!(told.rows, rows);
        }
    }
    told
}

#[test]
fn a_feed_of_hard_writes_goes_on_exactly_where_it_ended_over_connections_and_crashes() {
    let told = live("resume-hard", &["hard"], |_| table("t"), |_| true);
    assert_eq!(told.begun, 1, "no token was refused");
    assert!(told.resumed > 10 && told.changes > 300, "{} {}", told.resumed, told.changes);
}

/// What a crash takes back was told, since its writes were soft: then the token is refused, and the client begins anew.
#[test]
fn a_feed_of_soft_writes_goes_on_or_is_told_that_a_crash_took_changes() {
    let told = live("resume-soft", &["soft", "soft", "hard"], |_| table("t"), |_| true);
    assert!(told.resumed > 10 && told.changes > 300, "{} {}", told.resumed, told.changes);
}

/// Drivers number variables anew each time.
#[test]
fn a_filtered_feed_goes_on_with_an_equal_function() {
    let source = |turn: u64| {
        let more = json!([21, [[31, [[10, [turn]], "n"]], 5]]);
        term(number::FILTER, json!([table("t"), [69, [[2, [turn]], more]]]))
    };
    let told = live("resume-filter", &["hard"], source, |row| row["n"].as_u64() > Some(5));
    assert_eq!(told.begun, 1, "no token was refused");
    assert!(told.resumed > 5, "{}", told.resumed);
}

const OFF: &str = "Changefeeds on table `t` cannot be resumed: its changes are not kept. Set `change_log` in its `table_config`, or \
                   start the server with `change-log-bytes` above 0.";

fn changes(source: &Value, options: Value) -> Value {
    json!([number::CHANGES, [source], options])
}

/// The token of the first element of a feed, after `write`.
fn token_of(server: &Server, source: &Value, write: &Value) -> String {
    let mut client = server.client();
    let query = changes(source, json!({ "include_resume_token": true, "include_states": true }));
    let token = client.send(&query, &json!({})).expect("it takes queries");
    let ready = client.receive().expect("it answers").results;
    assert_eq!(ready[0]["state"], "ready");
    assert!(ready[0]["resume_token"].is_string(), "{ready:?}");
    client.send_as(token, "[2]").expect("it takes queries");
    server.client().run(write);
    let change = client.receive().expect("it answers").results.swap_remove(0);
    change["resume_token"].as_str().expect("it has a token").to_owned()
}

#[test]
fn what_cannot_be_resumed_says_why() {
    let machine = Machine::shared();
    let folder = Folder::new("resume-refused");
    let server = Server::start_with(&machine, &folder, keeping(&folder, 2, 1 << 20));
    let mut client = server.client();
    create(&mut client, &["t", "u"]);
    client.run(&term(number::INDEX_CREATE, json!([table("t"), "n"])));
    client.run(&term(number::INDEX_WAIT, json!([table("t")])));
    let token = token_of(&server, &table("t"), &insert("t", &[json!({ "id": 1 })]));
    let from = |token: &str| json!({ "resume_from": token });
    let other =
        "The resume token is of another changefeed: it goes on only with the same table, rows and functions.";
    let order = json!([number::ORDER_BY, [table("t")], { "index": "id" }]);
    let mut changed = token.clone();
    changed.replace_range(20..21, if &changed[20..21] == "A" { "B" } else { "A" });
    let malformed = "The resume token cannot be used: it is not a resume token, or it was changed.";
    for (source, options, want) in [
        (table("u"), from(&token), other),
        (get("t", &json!(1)), from(&token), other),
        (term(number::BETWEEN, json!([table("t"), 1, 2])), from(&token), other),
        (table("t"), from("garbage"), malformed),
        (table("t"), from(&changed), malformed),
        (table("t"), from(&token[..token.len() - 3]), malformed),
        (table("t"), json!({ "resume_from": 3 }), "Expected type STRING but found NUMBER."),
        (
            table("t"),
            json!({ "resume_from": token, "include_initial": true }),
            "A changefeed that is resumed has no initial values: leave out `include_initial` or `resume_from`.",
        ),
        (
            json!([number::BETWEEN, [table("t"), 0, 4], { "index": "n" }]),
            json!({ "include_resume_token": true, "include_initial": true }),
            "A changefeed along a secondary index has no initial values with resume tokens: its rows move while they are read. Take \
             tokens from a feed without `include_initial` and read the rows behind its `ready`.",
        ),
        (
            term(number::LIMIT, json!([order, 5])),
            json!({ "include_resume_token": true }),
            "A changefeed on the first rows of an order cannot be resumed: follow it with `include_initial` instead.",
        ),
    ] {
        assert_eq!(client.fail(&changes(&source, options)).message, want);
    }
    // What follows the token is dropped: more than a megabyte of changes on each core.
    let text = "x".repeat(60_000);
    for round in 0..80 {
        let rows: Vec<Value> = (0..4).map(|id| json!({ "id": id, "round": round, "text": text })).collect();
        client.run(&json!([number::INSERT, [table("t"), [2, rows]], { "conflict": "replace" }]));
    }
    let failure = client.fail(&changes(&table("t"), from(&token)));
    assert!(
        failure.message.contains("too old") && failure.message.contains("changes are there since 2"),
        "{failure:?}"
    );
    client.run(&json!([number::TABLE_DROP, [[14, ["it"]], "t"]]));
    client.run(&json!([number::TABLE_CREATE, [[14, ["it"]], "t"]]));
    assert_eq!(client.fail(&changes(&table("t"), from(&token))).message, other);
    std::thread::sleep(Duration::from_millis(300));
    let of_dropped = std::fs::read_dir(folder.data_dir()).expect("a directory").flatten().flat_map(|store| {
        std::fs::read_dir(store.path()).into_iter().flatten().flatten().map(|file| file.file_name())
    });
    let left: Vec<_> = of_dropped.filter(|name| name.to_string_lossy().starts_with("changes-")).collect();
    assert!(left.len() <= 2, "only of the other table: {left:?}");
    let token = token_of(&server, &table("t"), &insert("t", &[json!({ "id": 1 })]));
    assert!(server.stop().success());

    let server = Server::start(&machine, &folder, 2);
    for options in [from(&token), json!({ "include_resume_token": true })] {
        assert_eq!(server.client().fail(&changes(&table("t"), options)).message, OFF);
    }
    assert!(server.stop().success());
    // Nothing was kept meanwhile, so what was kept before is of no use.
    let server = Server::start_with(&machine, &folder, keeping(&folder, 2, 1 << 20));
    let failure = server.client().fail(&changes(&table("t"), from(&token)));
    assert!(failure.message.contains("too old"), "{failure:?}");
    assert!(server.stop().success());
}

/// Sets what is kept of the table's changes.
fn keep(client: &mut Client, change_log: Value) -> Value {
    let config = term(number::CONFIG, json!([table("t")]));
    client.run(&term(number::UPDATE, json!([config, { "change_log": change_log }])))
}

#[test]
fn what_is_kept_of_changes_is_set_for_each_table() {
    let machine = Machine::shared();
    let folder = Folder::new("resume-table");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["t", "u"]);
    let config = term(number::CONFIG, json!([table("t")]));
    let plain = client.run(&config);
    assert!(plain.get("change_log").is_none(), "a row looks as RethinkDB's: {plain}");
    let tokens = changes(&table("t"), json!({ "include_resume_token": true }));
    assert_eq!(client.fail(&tokens).message, OFF);
    for (given, want) in [
        (json!(5), "In `change_log`: Expected an object, got 5"),
        (json!({}), "In `change_log`: Expected a field named `bytes`."),
        (json!({ "bytes": 1.5 }), "In `bytes`: Expected a whole number from 0 up, got 1.5"),
        (json!({ "bytes": 1, "age": "a" }), "In `age`: Expected a whole number from 0 up, got \"a\""),
        (json!({ "bytes": 1, "days": 1 }), "Unexpected key(s) `days`."),
    ] {
        let outcome = keep(&mut client, given);
        assert_eq!(outcome["errors"], 1, "{outcome}");
        let message = outcome["first_error"].as_str().expect("a message");
        assert!(message.contains(want), "{message:?} has {want:?}");
    }
    assert_eq!(keep(&mut client, json!({ "bytes": 1 << 20 }))["replaced"], 1);
    assert_eq!(client.run(&config)["change_log"], json!({ "age": 86_400, "bytes": 1 << 20 }));
    let other = changes(&table("u"), json!({ "include_resume_token": true }));
    assert!(client.fail(&other).message.contains("its changes are not kept"));
    let token = token_of(&server, &table("t"), &insert("t", &[json!({ "id": 1 })]));
    client.run(&insert("t", &[json!({ "id": 2 })]));
    assert!(server.stop().success());

    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    let resumed = changes(&table("t"), json!({ "resume_from": token }));
    let feed = client.send(&resumed, &json!({})).expect("it takes queries");
    let told = client.receive().expect("it answers");
    assert_eq!(told.results, [json!({ "new_val": { "id": 2 }, "old_val": null })]);
    client.send_as(feed, "[3]").expect("it takes queries");
    client.receive().expect("it answers");
    let figure = |name: &str| crate::http::metric(server.http, name, &[]).expect("a metric");
    let begun = figure("rethinkdb_change_log_oldest_timestamp_seconds");
    assert!(figure("rethinkdb_change_log_segments") >= 1.0 && begun > 1.6e9, "{begun}");

    // What is written while nothing is kept is a gap, and what is kept again does not hide it.
    let first = token_of(&server, &table("t"), &insert("t", &[json!({ "id": 3 })]));
    for change_log in [json!({ "bytes": 0 }), json!(null)] {
        keep(&mut client, change_log);
        // The other core may know a little later.
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !matches!(client.try_run(&resumed), Ok(Err(failure)) if failure.message == OFF) {
            assert!(std::time::Instant::now() < end, "it is still kept");
            client = server.client();
        }
    }
    client.run(&insert("t", &(10..60).map(|id| json!({ "id": id })).collect::<Vec<Value>>()));
    keep(&mut client, json!({ "bytes": 1 << 20, "age": 60 }));
    client.run(&insert("t", &[json!({ "id": 100 })]));
    let failure = client.fail(&changes(&table("t"), json!({ "resume_from": first })));
    assert!(failure.message.contains("too old"), "{failure:?}");
    token_of(&server, &table("t"), &insert("t", &[json!({ "id": 4 })]));
    assert!(server.stop().success());
}

#[test]
fn the_token_of_a_feed_to_which_nothing_happens_moves_on() {
    let machine = Machine::shared();
    let folder = Folder::new("resume-idle");
    let server = Server::start_with(&machine, &folder, keeping(&folder, 2, 1 << 20));
    let mut client = server.client();
    create(&mut client, &["t"]);
    let none = json!([69, [[2, [1]], [17, [[31, [[10, [1]], "id"]], -1]]]]);
    let filtered = json!([number::FILTER, [table("t"), none]]);
    let mut listener = server.client();
    let options = json!({ "include_resume_token": true, "include_states": true, "include_types": true });
    let token = listener.send(&changes(&filtered, options), &json!({})).expect("it takes queries");
    let ready = listener.receive().expect("it answers").results;
    let first = ready[0]["resume_token"].as_str().expect("a token").to_owned();
    listener.send_as(token, "[2]").expect("it takes queries");
    // More than is kept, so that the first token is of no use any more.
    let text = "x".repeat(60_000);
    for round in 0..80 {
        let rows: Vec<Value> = (0..4).map(|id| json!({ "id": id, "round": round, "text": text })).collect();
        client.run(&json!([number::INSERT, [table("t"), [2, rows]], { "conflict": "replace" }]));
    }
    let resumed = |token: &str| changes(&filtered, json!({ "resume_from": token, "include_states": true }));
    assert!(client.fail(&resumed(&first)).message.contains("too old"));
    let end = std::time::Instant::now() + Duration::from_secs(40);
    loop {
        let told = listener.receive().expect("it answers").results.swap_remove(0);
        listener.send_as(token, "[2]").expect("it takes queries");
        assert_eq!(told.as_object().expect("an object").len(), 2, "nothing but a token: {told}");
        assert_eq!(told["type"], "state");
        let mut client = server.client();
        let later = told["resume_token"].as_str().expect("a token");
        client.send(&resumed(later), &json!({})).expect("it takes queries");
        let answer = client.receive().expect("it answers");
        if answer.response_type == SUCCESS_PARTIAL {
            break;
        }
        assert!(std::time::Instant::now() < end, "its token does not move: {answer:?}");
    }
    assert!(server.stop().success());
}
