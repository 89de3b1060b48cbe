//! Changefeeds over the wire: what a feed tells, laid over what it told first, is the table.
//!
//! Writers change a table on both cores while feeds of every kind listen; each feed must end at what a plain read of the
//! same rows gives, with no change that contradicts the ones before it.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, SUCCESS_PARTIAL, create, get, insert, table, term};
use crate::machine::Machine;
use crate::server::{Folder, Server};

const KEYS: u64 = 300;
const WRITES: u64 = 400;
/// The key whose insert ends the histories.
const LAST: u64 = KEYS - 1;

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

fn write(client: &mut Client, random: &mut Random, turn: u64) {
    let key = random.below(LAST);
    let durability = if random.below(2) == 0 { "soft" } else { "hard" };
    let row = json!({ "id": key, "n": random.below(10), "turn": turn });
    let options = json!({ "conflict": "replace", "durability": durability });
    let query = match random.below(4) {
        0 => json!([number::DELETE, [get("t", &json!(key))], { "durability": durability }]),
        1 => json!([number::UPDATE, [get("t", &json!(key)), { "turn": turn }], { "durability": durability }]),
        _ => json!([number::INSERT, [table("t"), row], options]),
    };
    client.run(&query);
}

/// What a feed has told so far, by key.
struct Told {
    name: &'static str,
    rows: BTreeMap<u64, Value>,
}

impl Told {
    /// Takes an element; what it says of the past must be what was told.
    #[track_caller]
    fn take(&mut self, element: &Value) {
        assert!(element.get("error").is_none(), "{}: {element}", self.name);
        let key = |row: &Value| row["id"].as_u64();
        if let Some(old) = element.get("old_val").filter(|old| !old.is_null()) {
            let known = self.rows.remove(&key(old).expect("rows have keys"));
            assert_eq!(known.as_ref(), Some(old), "{}: {element}", self.name);
        }
        if let Some(new) = element.get("new_val").filter(|new| !new.is_null()) {
            let known = self.rows.insert(key(new).expect("rows have keys"), new.clone());
            assert_eq!(known, None, "{}: {element}", self.name);
        }
    }
}

/// Follows a feed until `is_done` says that it has told the last change.
fn follow(mut client: Client, name: &'static str, source: Value, last: &Value) -> Told {
    let mut told = Told { name, rows: BTreeMap::new() };
    let query = json!([number::CHANGES, [source], { "include_initial": true }]);
    let token = client.send(&query, &json!({})).expect("it takes queries");
    loop {
        let response = client.receive().expect("it answers");
        assert_eq!((response.token, response.response_type), (token, SUCCESS_PARTIAL), "{response:?}");
        let mut is_done = false;
        for element in &response.results {
            told.take(element);
            is_done |= element["new_val"] == *last;
        }
        if is_done {
            return told;
        }
        client.send_as(token, "[2]").expect("it takes queries");
    }
}

#[test]
fn a_feed_laid_over_its_initial_values_is_the_table() {
    let machine = Machine::shared();
    let folder = Folder::new("feeds");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["t"]);
    let rows: Vec<Value> = (0..LAST).step_by(2).map(|id| json!({ "id": id, "n": id % 10 })).collect();
    client.run(&insert("t", &rows));
    let last = json!({ "id": LAST, "n": 0, "turn": "last" });
    let few = term(number::FILTER, json!([table("t"), [69, [[2, [1]], [19, [[31, [[10, [1]], "n"]], 5]]]]]));
    let order = json!([number::ORDER_BY, [table("t")], { "index": [number::DESC, ["id"]] }]);
    let negated = json!([69, [[2, [1]], [number::SUB, [0, [number::BRACKET, [[10, [1]], "n"]]]]]]);
    client.run(&term(number::INDEX_CREATE, json!([table("t"), "n"])));
    client.run(&term(number::INDEX_CREATE, json!([table("t"), "negated", negated])));
    client.run(&term(number::INDEX_WAIT, json!([table("t")])));
    let along_n = json!({ "index": "n" });
    let by_n = json!([number::ORDER_BY, [table("t")], along_n]);
    let by_negated = json!([number::ORDER_BY, [table("t")], { "index": [number::DESC, ["negated"]] }]);
    let named = json!([number::PLUCK, [by_negated, "id", "n", "turn"]]);
    let sources = [
        ("range of an index", json!([number::BETWEEN, [table("t"), 0, 4], along_n])),
        ("keys of an index", json!([number::GET_ALL, [table("t"), 0, 3, 7], along_n])),
        ("limit of an index", term(number::LIMIT, json!([by_n, 80]))),
        ("limit of a descending index", term(number::LIMIT, json!([named, 80]))),
        ("greatest of an index", json!([number::MAX, [table("t")], { "index": "negated" }])),
        ("table", table("t")),
        ("range", term(number::BETWEEN, json!([table("t"), 100, KEYS]))),
        ("filter", few),
        ("limit", term(number::LIMIT, json!([order, 40]))),
        ("point", get("t", &json!(LAST))),
    ];
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..3)
            .map(|writer| {
                let mut client = server.client();
                scope.spawn(move || {
                    let mut random = Random(writer);
                    (0..WRITES).for_each(|turn| write(&mut client, &mut random, turn));
                })
            })
            .collect();
        let feeds: Vec<_> = sources
            .iter()
            .map(|(name, source)| {
                let (client, last) = (server.client(), &last);
                scope.spawn(move || (source.clone(), follow(client, name, source.clone(), last)))
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().expect("writers end"));
        client.run(&insert("t", std::slice::from_ref(&last)));
        for feed in feeds {
            let (source, told) = feed.join().expect("feeds end");
            let found = match client.run(&source) {
                Value::Array(rows) => rows,
                row => vec![row],
            };
            let found: BTreeMap<u64, Value> =
                found.into_iter().map(|row| (row["id"].as_u64().expect("a key"), row)).collect();
            assert_eq!(told.rows, found, "{}", told.name);
        }
    });
    assert!(server.stop().success());
}

/// Opens a feed and takes its first, empty answer.
fn opened(server: &Server, source: Value, options: Value) -> (Client, i64) {
    let mut client = server.client();
    let token =
        client.send(&json!([number::CHANGES, [source], options]), &json!({})).expect("it takes queries");
    let response = client.receive().expect("it answers");
    assert_eq!((response.response_type, response.results.len()), (SUCCESS_PARTIAL, 0), "{response:?}");
    (client, token)
}

/// The next elements of a feed.
fn more(client: &mut Client, token: i64) -> Vec<Value> {
    client.send_as(token, "[2]").expect("it takes queries");
    let response = client.receive().expect("it answers");
    assert_eq!(response.response_type, SUCCESS_PARTIAL, "{response:?}");
    response.results
}

#[test]
fn a_row_is_told_once_for_each_of_its_entries_and_a_dropped_index_ends_its_feeds() {
    let machine = Machine::shared();
    let folder = Folder::new("feed-multi");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["t"]);
    client.run(&json!([number::INDEX_CREATE, [table("t"), "tags"], { "multi": true }]));
    client.run(&json!([number::INDEX_CREATE, [table("t"), "place"], { "geo": true }]));
    client.run(&term(number::INDEX_WAIT, json!([table("t")])));
    let tagged = json!([number::BETWEEN, [table("t"), "b", "e"], { "index": "tags" }]);
    let (mut tagged, token) = opened(&server, tagged, json!({}));
    let circle = json!([number::CIRCLE, [[2, [10, 50]], 1000]]);
    let near = json!([number::GET_INTERSECTING, [table("t"), circle], { "index": "place" }]);
    let (mut near, near_token) = opened(&server, near, json!({}));
    let row = |tags: &[&str], longitude: f64| {
        let point = term(number::POINT, json!([longitude, 50]));
        json!({ "id": 1, "tags": [2, tags], "place": point })
    };
    let write = |client: &mut Client, row: Value| {
        client.run(&json!([number::INSERT, [table("t"), row], { "conflict": "replace" }]));
    };
    let mut seen = |count: usize| {
        let mut seen: Vec<(Value, Value)> = Vec::new();
        while seen.len() < count {
            let found = more(&mut tagged, token);
            let tags = |row: &Value| row["tags"].clone();
            seen.extend(found.iter().map(|change| (tags(&change["old_val"]), tags(&change["new_val"]))));
        }
        seen
    };
    write(&mut client, row(&["a", "b", "c", "x"], 30.0));
    let (first, second) = (json!(["a", "b", "c", "x"]), json!(["c", "d", "d", "e"]));
    assert_eq!(seen(2), vec![(Value::Null, first.clone()); 2]);
    write(&mut client, row(&["c", "d", "d", "e"], 10.0));
    let moved = (first, second.clone());
    assert_eq!(seen(3), [moved.clone(), moved, (Value::Null, second.clone())]);
    write(&mut client, row(&["x"], 10.001));
    assert_eq!(seen(3), vec![(second, Value::Null); 3]);
    write(&mut client, row(&["b"], -120.0));
    let came: Vec<Value> = (0..3).fold(Vec::new(), |mut came, _| {
        if came.len() < 3 {
            came.extend(more(&mut near, near_token));
        }
        came
    });
    let places = came.iter().map(|change| (change["old_val"].is_null(), change["new_val"].is_null()));
    assert_eq!(places.collect::<Vec<_>>(), [(true, false), (false, false), (false, true)], "{came:?}");
    // What the feed along the index has told so far is taken before it ends.
    assert_eq!(seen(1).len(), 1);
    tagged_ends(&mut client, &server);
}

fn tagged_ends(client: &mut Client, server: &Server) {
    let by_tag = json!([number::GET_ALL, [table("t"), "b"], { "index": "tags" }]);
    let (mut feed, token) = opened(server, by_tag, json!({}));
    feed.send_as(token, "[2]").expect("it takes queries");
    client.run(&term(number::INDEX_DROP, json!([table("t"), "tags"])));
    let response = feed.receive().expect("it answers");
    assert_eq!(response.error(), Some("Changefeed aborted (unavailable)."), "{response:?}");
}

#[test]
fn system_tables_tell_what_becomes_of_their_rows() {
    let machine = Machine::shared();
    let folder = Folder::new("feed-system");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["t"]);
    let system = |name: &str| json!([number::TABLE, [[14, ["rethinkdb"]], name]]);
    let initial = json!({ "include_initial": true });
    let open = |source: Value| {
        let mut feed = server.client();
        let token =
            feed.send(&json!([number::CHANGES, [source], initial]), &json!({})).expect("it takes queries");
        let first = feed.receive().expect("it answers").results;
        (feed, token, first)
    };
    let names = json!([number::PLUCK, [system("table_config"), "name", "indexes"]]);
    let (mut tables, token, mut first) = open(names);
    while first.is_empty() {
        first = more(&mut tables, token);
    }
    assert_eq!(first, [json!({ "new_val": { "name": "t", "indexes": [] } })]);
    let (mut stats, stats_token, first) = open(json!([number::GET, [system("stats"), [2, ["cluster"]]]]));
    assert_eq!(first.len(), 1, "{first:?}");
    client.run(&term(number::INDEX_CREATE, json!([table("t"), "n"])));
    let told =
        json!([{ "old_val": { "name": "t", "indexes": [] }, "new_val": { "name": "t", "indexes": ["n"] } }]);
    assert_eq!(json!(more(&mut tables, token)), told);
    client.run(&json!([number::TABLE_DROP, [[14, ["it"]], "t"]]));
    let told = json!([{ "old_val": { "name": "t", "indexes": ["n"] }, "new_val": null }]);
    assert_eq!(json!(more(&mut tables, token)), told);
    let change = more(&mut stats, stats_token).remove(0);
    assert_eq!(change["new_val"]["id"], json!(["cluster"]));
    assert_ne!(change["new_val"], change["old_val"]);
    let first = json!([number::LIMIT, [[number::ORDER_BY, [system("stats")], { "index": "id" }], 1]]);
    let failed = client.fail(&term(number::CHANGES, json!([first])));
    assert!(failed.message.contains("System tables don't support changefeeds on `.limit()`."), "{failed:?}");
}

#[test]
fn a_feed_ends_when_its_table_is_dropped_and_when_the_server_stops() {
    let machine = Machine::shared();
    let folder = Folder::new("feed-ends");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["dropped", "kept"]);
    let follow = |name: &str| {
        let mut client = server.client();
        let token =
            client.send(&term(number::CHANGES, json!([table(name)])), &json!({})).expect("it takes queries");
        let response = client.receive().expect("it answers");
        assert_eq!((response.response_type, response.results.len()), (SUCCESS_PARTIAL, 0), "{response:?}");
        assert_eq!(response.notes, [1]);
        client.send_as(token, "[2]").expect("it takes queries");
        client
    };
    let (mut dropped, mut kept) = (follow("dropped"), follow("kept"));
    client.run(&json!([number::TABLE_DROP, [[14, ["it"]], "dropped"]]));
    let response = dropped.receive().expect("it answers");
    assert_eq!(response.error(), Some("Changefeed aborted (unavailable)."), "{response:?}");
    let stopping = std::thread::spawn(move || server.stop());
    let response = kept.receive().expect("it answers");
    assert_eq!(response.error(), Some("Changefeed aborted: the server is stopping."), "{response:?}");
    assert!(stopping.join().expect("the server stops").success());
}

/// Waits until a metric has that value; a core reports once a second.
#[track_caller]
fn until_metric(server: &Server, name: &str, wanted: f64) {
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        let found = crate::http::metric(server.http, name, &[]).expect("a metric");
        if found == wanted {
            return;
        }
        assert!(Instant::now() < end, "{name} is {found}, not {wanted}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A client that does not read is told how much it missed, and its neighbour misses nothing.
#[test]
fn a_slow_listener_is_told_how_many_changes_it_missed() {
    let machine = Machine::shared();
    let folder = Folder::new("feed-overflow");
    let server = Server::start(&machine, &folder, 1);
    let mut client = server.client();
    create(&mut client, &["t"]);
    let open = |options: Value| {
        let mut client = server.client();
        let token = client
            .send(&json!([number::CHANGES, [table("t")], options]), &json!({}))
            .expect("it takes queries");
        client.receive().expect("it answers");
        (client, token)
    };
    let (mut slow, slow_token) = open(json!({ "changefeed_queue_size": 10 }));
    let (mut ended, ended_token) = open(json!({ "changefeed_queue_size": 10, "overflow": "error" }));
    let (mut other, other_token) = open(json!({}));
    let rows: Vec<Value> = (0..25).map(|id| json!({ "id": id })).collect();
    client.run(&insert("t", &rows));
    // All of them wait for the one, the last three for the other, and none for the feed that has ended.
    until_metric(&server, "rethinkdb_feed_elements_waiting", 28.0);
    slow.send_as(slow_token, "[2]").expect("it takes queries");
    let response = slow.receive().expect("it answers");
    let text = "Changefeed cache over array size limit, skipped 22 elements.";
    assert_eq!(response.results[0], json!({ "error": text }), "{response:?}");
    assert_eq!(response.results.len(), 4, "and what came after: {response:?}");
    ended.send_as(ended_token, "[2]").expect("it takes queries");
    let response = ended.receive().expect("it answers");
    assert!(response.error().is_some_and(|error| error.contains("could not wait")), "{response:?}");
    other.send_as(other_token, "[2]").expect("it takes queries");
    assert_eq!(other.receive().expect("it answers").results.len(), 25);
}

#[test]
fn a_feed_ends_when_its_user_may_not_read_any_more() {
    let machine = Machine::shared();
    let folder = Folder::new("feed-rights");
    let server = Server::start(&machine, &folder, 2);
    let mut admin = server.client();
    create(&mut admin, &["t", "other"]);
    let users = term(number::TABLE, json!([[number::DB, ["rethinkdb"]], "users"]));
    admin.run(&term(number::INSERT, json!([users, { "id": "bob", "password": "secret" }])));
    let grant = |of: Value, rights: Value| term(number::GRANT, json!([of, "bob", rights]));
    admin.run(&grant(json!([number::DB, ["it"]]), json!({ "read": true })));
    let listen = |name: &str| {
        let stream = std::net::TcpStream::connect(server.driver).expect("it listens");
        let mut client =
            Client::greet(stream, "bob", "secret").expect("the connection stays").expect("bob is let in");
        let token =
            client.send(&term(number::CHANGES, json!([table(name)])), &json!({})).expect("it takes queries");
        assert_eq!(client.receive().expect("it answers").response_type, SUCCESS_PARTIAL);
        client.send_as(token, "[2]").expect("it takes queries");
        client
    };
    let (mut refused, mut other) = (listen("t"), listen("other"));
    admin.run(&insert("t", &[json!({ "id": 1 })]));
    let response = refused.receive().expect("it answers");
    assert_eq!(response.results, [json!({ "new_val": { "id": 1 }, "old_val": null })]);
    refused.send_as(response.token, "[2]").expect("it takes queries");
    until_metric(&server, "rethinkdb_feeds_open", 2.0);
    admin.run(&grant(table("t"), json!({ "read": false })));
    let response = refused.receive().expect("it answers");
    let text = "User `bob` does not have the required `read` permission.";
    assert_eq!(response.error(), Some(text), "{response:?}");
    until_metric(&server, "rethinkdb_feeds_open", 1.0);
    admin.run(&insert("other", &[json!({ "id": 1 })]));
    assert_eq!(other.receive().expect("it answers").results.len(), 1, "his other feed lives on");
    let delivered = crate::http::metric(server.http, "rethinkdb_feed_elements_delivered_total", &[]);
    assert!(delivered.is_some_and(|count| count >= 1.0), "{delivered:?}");
}

#[test]
fn the_first_row_of_an_index_can_be_followed_before_there_is_one() {
    let machine = Machine::shared();
    let folder = Folder::new("feed-first");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["t"]);
    client.run(&json!([number::INDEX_CREATE, [table("t"), "n"]]));
    client.run(&term(number::INDEX_WAIT, json!([table("t")])));
    let first = |kind: u32| json!([kind, [table("t")], { "index": "n" }]);
    for (kind, name) in [(number::MAX, "max"), (number::MIN, "min")] {
        let message = format!("`{name}` found no entries in the specified index.");
        let delete = term(number::DELETE, json!([first(kind)]));
        let field = term(number::BRACKET, json!([first(kind), "n"]));
        for query in [first(kind), delete, field] {
            assert_eq!(client.fail(&query).message, message, "{query}");
        }
        assert_eq!(client.run(&term(number::DEFAULT, json!([first(kind), 5]))), json!(5));
    }
    let (mut most, most_token) = opened(&server, first(number::MAX), json!({}));
    let (mut least, least_token) = opened(&server, first(number::MIN), json!({}));
    let row = |id: u64| json!({ "id": id, "n": id });
    client.run(&insert("t", &[row(1)]));
    let came = json!([{ "new_val": row(1), "old_val": null }]);
    assert_eq!(json!(more(&mut most, most_token)), came);
    assert_eq!(json!(more(&mut least, least_token)), came);
    client.run(&insert("t", &[row(2)]));
    let grew = json!([{ "new_val": row(2), "old_val": row(1) }]);
    assert_eq!(json!(more(&mut most, most_token)), grew);
}
