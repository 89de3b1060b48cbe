//! Thousands of tables on one server: what they cost in memory, on disk and at start.

use std::path::Path;
use std::time::{Duration, Instant};

use photondb_proto::term::number;
use serde_json::json;

use crate::client::{Client, count, create, insert, term};
use crate::machine::Machine;
use crate::server::{Folder, Server};

const TABLES: u64 = 2_000;
/// Of all cores together.
const BYTES_PER_TABLE_MAX: u64 = 4 << 10;
const START_MAX: Duration = Duration::from_secs(5);
/// A few segments of the log may come and go.
const FILES_MAX: usize = 30;
/// Changes of the catalog on their way at a time.
const IN_FLIGHT: u64 = 50;

fn name(table: u64) -> String {
    format!("t{table:05}")
}

fn create_all(client: &mut Client) {
    for first in (0..TABLES).step_by(IN_FLIGHT as usize) {
        for table in first..first + IN_FLIGHT {
            let query = term(number::TABLE_CREATE, json!([[number::DB, ["it"]], name(table)]));
            client.send(&query, &json!({})).expect("it takes queries");
        }
        for _ in 0..IN_FLIGHT {
            let response = client.receive().expect("it answers");
            assert_eq!(response.error(), None, "{response:?}");
        }
    }
}

fn files(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).expect("it can be listed");
    let count = |path: &Path| if path.is_dir() { files(path) } else { 1 };
    entries.map(|entry| count(&entry.expect("an entry").path())).sum()
}

fn check_all(client: &mut Client) {
    let list = client.run(&term(number::TABLE_LIST, json!([[number::DB, ["it"]]])));
    assert_eq!(list.as_array().map(Vec::len), Some(TABLES as usize));
    for of in ["table_config", "table_status"] {
        let rows = term(number::TABLE, json!([[number::DB, ["rethinkdb"]], of]));
        assert_eq!(client.run(&term(number::COUNT, json!([rows]))), json!(TABLES), "{of}");
    }
}

#[test]
fn thousands_of_tables_cost_little_memory_and_no_files_and_are_soon_there_again() {
    let machine = Machine::alone();
    let folder = Folder::new("tables");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &[]);
    let (bytes_before, files_before) = (server.resident_bytes(), files(&folder.data_dir()));
    let began = Instant::now();
    create_all(&mut client);
    let created = began.elapsed();
    let bytes = server.resident_bytes().saturating_sub(bytes_before) / TABLES;
    let more_files = files(&folder.data_dir()).saturating_sub(files_before);
    println!("{TABLES} tables: made in {created:.1?}, {bytes} bytes of memory each, {more_files} files");
    assert!(bytes < BYTES_PER_TABLE_MAX, "a table that nobody touched takes {bytes} bytes");
    assert!(more_files < FILES_MAX, "{more_files} files more");
    check_all(&mut client);
    client.run(&insert(&name(7), &[json!({ "id": 1 })]));
    server.kill();

    let began = Instant::now();
    let server = Server::start(&machine, &folder, 2);
    let started = began.elapsed();
    println!("ready {started:.1?} after it was killed");
    assert!(started < START_MAX, "it was ready after {started:?}");
    let mut client = server.client();
    check_all(&mut client);
    assert_eq!(client.run(&count(&name(7))), json!(1));
    let began = Instant::now();
    let dropped = client.run(&term(number::DB_DROP, json!(["it"])));
    assert_eq!(dropped["tables_dropped"], json!(TABLES));
    println!("dropped in {:.1?}", began.elapsed());
    assert!(server.stop().success());
}
