//! Secondary indexes over the wire: what is read along an index is what a scan of all rows would find, also while rows change
//! and after a kill in the middle of its construction.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, create, insert, table, term};
use crate::machine::Machine;
use crate::server::{Folder, Server};

/// The same numbers for every run (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A row as the test knows it.
#[derive(Clone, Debug)]
struct Row {
    n: u64,
    tags: Vec<u64>,
    /// Longer than any key of a tree; the end decides.
    long: u64,
}

impl Row {
    fn any(random: &mut Random) -> Row {
        let tags = (0..random.below(4)).map(|_| random.below(5)).collect();
        Row { n: random.below(20), tags, long: random.below(4) }
    }

    fn document(&self, id: u64) -> Value {
        let tags = [json!(number::MAKE_ARRAY), json!(self.tags)];
        json!({ "id": id, "n": self.n, "tags": tags, "long": long(self.long) })
    }
}

fn long(end: u64) -> String {
    format!("{}{end}", "x".repeat(5000))
}

fn along(command: u32, arguments: Value, index: &str) -> Value {
    json!([command, arguments, { "index": index }])
}

/// Ids of the rows a term gives, as they come.
#[track_caller]
fn ids(client: &mut Client, rows: &Value) -> Vec<u64> {
    let found = client.run(&term(number::COERCE_TO, json!([[number::BRACKET, [rows, "id"]], "array"])));
    found.as_array().expect("an array").iter().map(|id| id.as_u64().expect("a whole id")).collect()
}

#[track_caller]
fn check(client: &mut Client, rows: &Value, mut want: Vec<u64>) {
    let mut found = ids(client, rows);
    found.sort_unstable();
    want.sort_unstable();
    assert_eq!(found, want, "{rows}");
    assert_eq!(client.run(&term(number::COUNT, json!([rows]))), json!(want.len()), "the count of {rows}");
}

fn index_create(client: &mut Client, name: &str, function: Option<Value>, options: Value) {
    let mut arguments = vec![table("docs"), json!(name)];
    arguments.extend(function);
    let created = client.run(&json!([number::INDEX_CREATE, arguments, options]));
    assert_eq!(created, json!({ "created": 1 }));
}

/// A function of the row 1.
fn of_row(body: Value) -> Option<Value> {
    Some(json!([number::FUNC, [[number::MAKE_ARRAY, [1]], body]]))
}

fn field(name: &str) -> Value {
    json!([number::BRACKET, [[number::VAR, [1]], name]])
}

#[track_caller]
fn check_all(client: &mut Client, rows: &BTreeMap<u64, Row>, random: &mut Random) {
    let docs = table("docs");
    let those = |wanted: &dyn Fn(&Row) -> bool| -> Vec<u64> {
        rows.iter().filter(|(_, row)| wanted(row)).map(|(id, _)| *id).collect()
    };
    let (a, b) = (random.below(20), random.below(20));
    let (low, high) = (a.min(b), a.max(b));
    check(client, &along(number::GET_ALL, json!([docs, a]), "n"), those(&|row| row.n == a));
    let twice = [those(&|row| row.n == a), those(&|row| row.n == a), those(&|row| row.n == 50)].concat();
    check(client, &along(number::GET_ALL, json!([docs, a, 50, a]), "n"), twice);
    let between = along(number::BETWEEN, json!([docs, low, high]), "n");
    check(client, &between, those(&|row| (low..high).contains(&row.n)));
    let compound = json!([number::MAKE_ARRAY, [a, 1]]);
    let want = those(&|row| row.n == a && row.tags.len() == 1);
    check(client, &along(number::GET_ALL, json!([docs, compound]), "n_tags"), want);
    let prefix = |bound: u32| json!([number::MAKE_ARRAY, [a, [bound]]]);
    let of_prefix = json!([docs, prefix(number::MINVAL), prefix(number::MAXVAL)]);
    check(client, &along(number::BETWEEN, of_prefix, "n_tags"), those(&|row| row.n == a));
    let tagged = rows.iter().flat_map(|(id, row)| row.tags.iter().filter(|tag| **tag == 3).map(|_| *id));
    check(client, &along(number::GET_ALL, json!([docs, 3]), "tags"), tagged.collect());
    check(client, &along(number::GET_ALL, json!([docs, long(2)]), "long"), those(&|row| row.long == 2));
    let longs = along(number::BETWEEN, json!([docs, long(1), long(3)]), "long");
    check(client, &longs, those(&|row| (1..3).contains(&row.long)));
    let mut ordered: Vec<(u64, u64)> = rows.iter().map(|(id, row)| (row.n, *id)).collect();
    ordered.sort_unstable();
    let want: Vec<u64> = ordered.iter().map(|(_, id)| *id).collect();
    assert_eq!(ids(client, &along(number::ORDER_BY, json!([docs]), "n")), want);
    let descending = json!([number::ORDER_BY, [docs], { "index": [number::DESC, ["n"]] }]);
    assert_eq!(ids(client, &descending), want.iter().rev().copied().collect::<Vec<_>>());
    let mut tied: Vec<(u64, std::cmp::Reverse<u64>)> =
        rows.iter().map(|(id, row)| (row.n, std::cmp::Reverse(*id))).collect();
    tied.sort_unstable();
    let by_both = json!([number::ORDER_BY, [docs, [number::DESC, ["id"]]], { "index": "n" }]);
    assert_eq!(ids(client, &by_both), tied.iter().map(|(_, id)| id.0).collect::<Vec<_>>());
    let mut values: Vec<u64> = rows.values().map(|row| row.n).collect();
    values.sort_unstable();
    values.dedup();
    assert_eq!(client.run(&along(number::DISTINCT, json!([docs]), "n")), json!(values));
}

#[test]
fn what_indexes_give_is_what_scans_would_find() {
    let machine = Machine::shared();
    let folder = Folder::new("index");
    let mut server = Server::start(&machine, &folder, 2);
    let client = &mut server.client();
    create(client, &["docs"]);
    let random = &mut Random(7);
    let mut rows: BTreeMap<u64, Row> = BTreeMap::new();
    let half = |rows: &mut BTreeMap<u64, Row>, client: &mut Client, random: &mut Random, from: u64| {
        for id in from..from + 150 {
            rows.insert(id, Row::any(random));
        }
        let documents: Vec<Value> = rows.range(from..).map(|(id, row)| row.document(*id)).collect();
        client.run(&insert("docs", &documents));
    };
    half(&mut rows, client, random, 0);
    index_create(client, "n", None, json!({}));
    index_create(client, "tags", None, json!({ "multi": true }));
    index_create(client, "long", None, json!({}));
    let size = json!([number::COUNT, [field("tags")]]);
    index_create(client, "n_tags", of_row(json!([number::MAKE_ARRAY, [field("n"), size]])), json!({}));
    half(&mut rows, client, random, 150);
    let ready = client.run(&term(number::INDEX_WAIT, json!([table("docs")])));
    assert!(ready.as_array().expect("rows").iter().all(|index| index["ready"] == json!(true)), "{ready}");
    for _ in 0..8 {
        check_all(client, &rows, random);
        for _ in 0..20 {
            let id = random.below(300);
            if random.below(4) == 0 {
                rows.remove(&id);
                client.run(&term(number::DELETE, json!([[number::GET, [table("docs"), id]]])));
            } else {
                let row = Row::any(random);
                let put =
                    json!([number::INSERT, [table("docs"), row.document(id)], { "conflict": "replace" }]);
                client.run(&put);
                rows.insert(id, row);
            }
        }
    }
    assert!(server.stop().success());
    server = Server::start(&machine, &folder, 2);
    check_all(&mut server.client(), &rows, random);
    assert!(server.stop().success());
}

/// Along an index in no order shards are read in groups, and what is asked for ends within one again and again.
#[test]
fn rows_along_an_index_come_once_however_many_are_asked_for() {
    let machine = Machine::shared();
    let folder = Folder::new("index-groups");
    let server = Server::start(&machine, &folder, 2);
    let client = &mut server.client();
    create(client, &["docs"]);
    index_create(client, "n", None, json!({}));
    let rows = 4000;
    let range = json!([number::RANGE, [rows]]);
    let object = json!({ "id": [number::VAR, [1]], "n": [number::MOD, [[number::VAR, [1]], 4]] });
    client.run(&term(number::INSERT, json!([table("docs"), [number::MAP, [range, of_row(object)]]])));
    client.run(&term(number::INDEX_WAIT, json!([table("docs")])));
    let all: Vec<u64> = (0..rows).filter(|id| id % 4 < 2).collect();
    let found = along(number::GET_ALL, json!([table("docs"), 1, 0]), "n");
    check(client, &found, all.clone());
    // The first steps give one row, then four, then sixteen.
    let late = json!([number::GE, [field("id"), rows - 40]]);
    let last = json!([number::FILTER, [found, of_row(late)]]);
    check(client, &json!([number::LIMIT, [last, 20]]), all[all.len() - 20..].to_vec());
    for limit in [1, 2, 7, 130, 500, 1999, 2000, 2001] {
        let mut limited = ids(client, &json!([number::LIMIT, [found, limit]]));
        assert_eq!(limited.len(), limit.min(all.len()), "{limit}");
        limited.sort_unstable();
        limited.dedup();
        assert_eq!(limited.len(), limit.min(all.len()), "{limit}: a row came twice");
        assert!(limited.iter().all(|id| id % 4 < 2), "{limit}: {limited:?}");
        let skipped = json!([number::LIMIT, [[number::SKIP, [found, 2000 - limit.min(2000)]], 2000]]);
        assert_eq!(ids(client, &skipped).len(), limit.min(all.len()), "{limit}");
    }
    assert!(server.stop().success());
}

#[test]
fn an_index_is_whole_after_a_kill_during_its_construction() {
    let machine = Machine::shared();
    let folder = Folder::new("index-kill");
    let mut server = Server::start(&machine, &folder, 2);
    create(&mut server.client(), &["docs"]);
    let rows = 20_000;
    let range = json!([number::RANGE, [rows]]);
    let object = json!({ "id": [number::VAR, [1]], "n": [number::MOD, [[number::VAR, [1]], 10]] });
    let documents = json!([number::MAP, [range, of_row(object)]]);
    server.client().run(&term(number::INSERT, json!([table("docs"), documents])));
    index_create(&mut server.client(), "n", None, json!({}));
    for life_ms in [0, 20, 60] {
        std::thread::sleep(Duration::from_millis(life_ms));
        server.kill();
        server = Server::start(&machine, &folder, 2);
    }
    let client = &mut server.client();
    let began = Instant::now();
    client.run(&term(number::INDEX_WAIT, json!([table("docs"), "n"])));
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    for n in 0..10 {
        let found = along(number::GET_ALL, json!([table("docs"), n]), "n");
        assert_eq!(client.run(&term(number::COUNT, json!([found]))), json!(rows / 10));
    }
    assert!(server.stop().success());
}

#[test]
fn an_index_that_was_waited_for_is_ready_for_every_client() {
    let machine = Machine::shared();
    let folder = Folder::new("index-wait");
    let server = Server::start(&machine, &folder, 2);
    let mut clients: Vec<Client> = (0..8).map(|_| server.client()).collect();
    create(&mut clients[0], &["docs"]);
    clients[0].run(&insert("docs", &[json!({ "id": 1, "n": 5 })]));
    for round in 0..100 {
        let name = format!("n{round}");
        index_create(&mut clients[0], &name, of_row(field("n")), json!({}));
        clients[round % 8].run(&term(number::INDEX_WAIT, json!([table("docs"), name])));
        let found = term(number::COUNT, json!([along(number::GET_ALL, json!([table("docs"), 5]), &name)]));
        for client in &mut clients {
            assert_eq!(client.run(&found), json!(1), "round {round}");
        }
    }
    assert!(server.stop().success());
}
