//! A data directory and a number of cores are not tied to each other.

use std::io::Write;

use photondb_proto::term::number;
use photondb_proto::wire::client::Response;
use photondb_proto::wire::frame;
use serde_json::{Value, json};

use crate::client::{
    CLIENT_ERROR, Client, SUCCESS_ATOM, SUCCESS_SEQUENCE, count, create, get, insert, table, term,
};
use crate::http::metric;
use crate::machine::Machine;
use crate::server::{Folder, Server};

fn documents(from: u64, to: u64) -> Vec<Value> {
    (from..to).map(|key| json!({ "id": key, "n": key % 10, "text": "x".repeat(200) })).collect()
}

/// Reads and writes of every kind see all documents.
#[track_caller]
fn check_table(client: &mut Client, name: &str, documents: u64) {
    assert_eq!(client.run(&count(name)), json!(documents), "{name}");
    for key in (0..documents).step_by(37) {
        assert_eq!(client.run(&get(name, &json!(key)))["n"], json!(key % 10), "{name} {key}");
    }
    let sum = client.run(&term(number::SUM, json!([table(name), "n"])));
    assert_eq!(sum, json!((0..documents).map(|key| key % 10).sum::<u64>()), "{name}");
    let update = term(number::UPDATE, json!([table(name), { "seen": true }]));
    let answer = client.run(&update);
    assert_eq!(
        answer["replaced"].as_u64().unwrap_or(0) + answer["unchanged"].as_u64().unwrap_or(0),
        documents
    );
}

fn add(client: &mut Client, name: &str, from: u64, to: u64) {
    assert_eq!(client.run(&insert(name, &documents(from, to)))["inserted"], json!(to - from));
}

/// Opens the same data with each number of cores in turn, and adds to it each time.
fn check(folder_name: &str, core_counts: &[u32]) {
    let machine = Machine::shared();
    let folder = Folder::new(folder_name);
    for (turn, cores) in core_counts.iter().enumerate() {
        let server = Server::start(&machine, &folder, *cores);
        let mut client = server.client();
        let made_here = format!("made_{turn}");
        match turn {
            0 => create(&mut client, &["first", &made_here]),
            _ => {
                client.run(&term(number::TABLE_CREATE, json!([[number::DB, ["it"]], made_here])));
            }
        }
        let before = turn as u64 * 100;
        check_table(&mut client, "first", before);
        add(&mut client, "first", before, before + 100);
        add(&mut client, &made_here, 0, 50);
        for turn in 0..=turn {
            check_table(&mut client, &format!("made_{turn}"), 50);
        }
        // Half of the restarts are crashes.
        match turn % 2 {
            0 => assert!(server.stop().success(), "turn {turn}"),
            _ => server.kill(),
        }
    }
}

#[test]
fn data_made_with_one_core_opens_with_two_and_with_one_again() {
    check("one-two-one", &[1, 2, 1]);
}

#[test]
fn data_made_with_two_cores_opens_with_one_and_with_two_again() {
    check("two-one-two", &[2, 1, 2]);
}

#[test]
fn a_table_made_with_two_cores_uses_both() {
    let machine = Machine::shared();
    let folder = Folder::new("both");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["docs"]);
    add(&mut client, "docs", 0, 500);
    for core in ["0", "1"] {
        let logged = metric(server.http, "rethinkdb_wal_bytes_total", &[("core", core)]).expect("a metric");
        // Half of 500 documents of 200 bytes, give or take.
        assert!(logged > 20_000.0, "core {core} logged {logged} bytes of 100,000");
        let shards = metric(server.http, "rethinkdb_shards", &[("core", core)]).expect("a metric");
        assert!(shards >= 1.0, "core {core} has {shards} shards");
    }
}

/// Sends two queries of one token at once; the replies, whichever comes first.
fn both(client: &mut Client, token: i64, queries: [&Value; 2]) -> [Response; 2] {
    let mut frames = Vec::new();
    for query in queries {
        frame::write_query(token, query.to_string().as_bytes(), &mut frames);
    }
    client.stream.write_all(&frames).expect("the server reads");
    let replies = [(); 2].map(|()| client.receive().expect("the server answers"));
    assert!(replies.iter().all(|reply| reply.token == token), "{replies:?}");
    replies
}

#[test]
fn a_get_of_another_cores_row_has_its_token_until_it_is_answered() {
    const DOCUMENTS: u64 = 60;
    let machine = Machine::shared();
    let folder = Folder::new("tokens");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["docs"]);
    add(&mut client, "docs", 0, DOCUMENTS);
    let (mut stopped, mut refused) = (0, 0);
    for key in 0..DOCUMENTS {
        let query = json!([1, get("docs", &json!(key)), {}]);
        let token = 1000 + key as i64;
        let [first, second] = both(&mut client, token, [&query, &json!([3])]);
        match (first.response_type, second.response_type) {
            (SUCCESS_SEQUENCE, SUCCESS_SEQUENCE) => {
                assert!(first.results.is_empty() && second.results.is_empty(), "{first:?} {second:?}");
                stopped += 1;
            }
            // A row of this connection's core was there before the STOP.
            kinds => assert_eq!(kinds, (SUCCESS_ATOM, CLIENT_ERROR), "{first:?} {second:?}"),
        }
        let replies = both(&mut client, token, [&query, &query]);
        refused += replies.iter().filter(|reply| reply.response_type == CLIENT_ERROR).count();
        let is_row = |reply: &&Response| reply.results.first().is_some_and(|row| row["id"] == json!(key));
        assert!(replies.iter().any(|reply| is_row(&reply)), "{replies:?}");
        assert_eq!(client.run(&get("docs", &json!(key)))["n"], json!(key % 10), "its token is free again");
    }
    // Half of the rows are the other core's, give or take.
    assert!((10..50).contains(&stopped) && (10..50).contains(&refused), "{stopped} {refused}");
}
