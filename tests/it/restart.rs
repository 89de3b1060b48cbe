//! SIGKILL in the middle of hard writes: what was acknowledged is there afterwards, whole; nothing is there in part.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, create, table, term};
use crate::machine::Machine;
use crate::server::{Folder, Server};

const ROUNDS: u64 = 20;
const CONNECTIONS: u64 = 6;
/// Different in every round, so that the kill meets different moments.
const LIFE_MS: [u64; 5] = [40, 90, 150, 230, 310];

/// A document whose every field follows from its key, so that a torn one is seen. Sizes go from some bytes to some
/// kilobytes, over several slots and log blocks.
fn document(key: u64) -> Value {
    let length = (key.wrapping_mul(2_654_435_761) % 6000) as usize;
    let letter = char::from(b'a' + (key % 26) as u8);
    json!({ "id": key, "text": letter.to_string().repeat(length), "length": length, "last": key * 3 })
}

/// Inserts documents until the server dies; gives the keys that were acknowledged and the one that may be there.
fn write_until_death(mut client: Client, first: u64, dead: &AtomicBool) -> (Vec<u64>, u64) {
    let mut acknowledged = Vec::new();
    for key in (first..).step_by(CONNECTIONS as usize) {
        let insert = term(number::INSERT, json!([table("docs"), document(key)]));
        match client.try_run(&insert) {
            Ok(Ok(answer)) => {
                assert_eq!(answer["inserted"], 1, "{answer}");
                acknowledged.push(key);
            }
            Ok(Err(failure)) => panic!("an insert was refused: {failure:?}"),
            Err(error) => {
                assert!(dead.load(Ordering::SeqCst), "the connection broke before the kill: {error}");
                return (acknowledged, key);
            }
        }
    }
    unreachable!("keys do not end")
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_is_torn_when_the_server_is_killed() {
    let machine = Machine::alone();
    let folder = Folder::new("restart");
    let mut server = Server::start(&machine, &folder, 2);
    create(&mut server.client(), &["docs"]);
    // Whether each key has been acknowledged.
    let mut written: BTreeMap<u64, bool> = BTreeMap::new();
    for round in 0..ROUNDS {
        let first = written.last_key_value().map_or(0, |(last, _)| last + CONNECTIONS);
        let dead = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..CONNECTIONS)
                .map(|writer| {
                    let client = server.client();
                    let dead = &dead;
                    scope.spawn(move || write_until_death(client, first + writer, dead))
                })
                .collect();
            std::thread::sleep(Duration::from_millis(LIFE_MS[round as usize % LIFE_MS.len()]));
            dead.store(true, Ordering::SeqCst);
            server.kill();
            for writer in writers {
                let (acknowledged, last) = writer.join().expect("the writer ends");
                written.extend(acknowledged.into_iter().map(|key| (key, true)));
                written.insert(last, false);
            }
        });
        server = Server::start(&machine, &folder, 2);
        check_all(&mut server.client(), &mut written, round);
    }
    assert!(written.len() as u64 > ROUNDS * CONNECTIONS, "only {} documents were written", written.len());
    assert!(server.stop().success());
}

/// Everything acknowledged is there, everything there is whole, and a key that was under way is settled from now on.
#[track_caller]
fn check_all(client: &mut Client, written: &mut BTreeMap<u64, bool>, round: u64) {
    let rows = client.run(&table("docs"));
    let mut found = BTreeMap::new();
    for row in rows.as_array().expect("a table is a sequence") {
        let key = row["id"].as_u64().expect("a whole key");
        assert_eq!(*row, document(key), "round {round}: document {key} is torn");
        assert!(found.insert(key, ()).is_none(), "round {round}: document {key} is there twice");
    }
    for (key, acknowledged) in written.iter() {
        assert!(
            !acknowledged || found.contains_key(key),
            "round {round}: document {key} was acknowledged and is lost"
        );
    }
    for key in found.keys() {
        assert!(written.contains_key(key), "round {round}: document {key} was never written");
    }
    written.retain(|key, _| found.contains_key(key));
    written.values_mut().for_each(|acknowledged| *acknowledged = true);
}

#[test]
fn updates_and_deletes_survive_a_kill_too() {
    let machine = Machine::shared();
    let folder = Folder::new("changes");
    let server = Server::start(&machine, &folder, 1);
    let mut client = server.client();
    create(&mut client, &["docs"]);
    for key in 0..60 {
        client.run(&term(number::INSERT, json!([table("docs"), document(key)])));
    }
    for key in 0..60 {
        let row = term(number::GET, json!([table("docs"), key]));
        match key % 3 {
            0 => client.run(&term(number::DELETE, json!([row]))),
            1 => client.run(&term(number::UPDATE, json!([row, { "changed": key }]))),
            _ => client.run(&term(number::REPLACE, json!([row, { "id": key }]))),
        };
    }
    server.kill();
    let server = Server::start(&machine, &folder, 1);
    let mut client = server.client();
    for key in 0..60 {
        let mut want = match key % 3 {
            0 => Value::Null,
            1 => document(key),
            _ => json!({ "id": key }),
        };
        if key % 3 == 1 {
            want["changed"] = json!(key);
        }
        assert_eq!(client.run(&term(number::GET, json!([table("docs"), key]))), want, "document {key}");
    }
}

#[test]
fn databases_and_tables_survive_a_kill() {
    let machine = Machine::shared();
    let folder = Folder::new("catalog");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["kept", "dropped"]);
    client.run(&term(number::TABLE_DROP, json!([[number::DB, ["it"]], "dropped"])));
    client.run(&term(number::DB_CREATE, json!(["gone"])));
    client.run(&term(number::DB_DROP, json!(["gone"])));
    server.kill();
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    assert_eq!(client.run(&term(number::TABLE_LIST, json!([[number::DB, ["it"]]]))), json!(["kept"]));
    let names = client.run(&term(number::DB_LIST, json!([])));
    assert!(!names.as_array().expect("a list").contains(&json!("gone")), "{names}");
    // A table dropped and made anew under the same name is empty.
    client.run(&term(number::INSERT, json!([table("kept"), { "id": 1 }])));
    client.run(&term(number::TABLE_DROP, json!([[number::DB, ["it"]], "kept"])));
    client.run(&term(number::TABLE_CREATE, json!([[number::DB, ["it"]], "kept"])));
    server.kill();
    let server = Server::start(&machine, &folder, 2);
    assert_eq!(server.client().run(&crate::client::count("kept")), json!(0));
}
