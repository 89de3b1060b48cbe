//! The database `rethinkdb` over the wire: its tables are read, filtered, joined and counted like any other.

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, create, term};
use crate::machine::Machine;
use crate::server::{Folder, Server};

/// `r.db('rethinkdb').table(name)`
fn system(name: &str) -> Value {
    term(number::TABLE, json!([[number::DB, ["rethinkdb"]], name]))
}

/// The rows of a sequence, each cut down to one field, sorted.
#[track_caller]
fn fields(client: &mut Client, sequence: &Value, field: &str) -> Vec<String> {
    let values = client.run(&term(number::BRACKET, json!([sequence, field])));
    let mut values: Vec<String> =
        values.as_array().expect("a sequence").iter().map(ToString::to_string).collect();
    values.sort();
    values
}

#[test]
fn system_tables_are_read_like_tables() {
    let machine = Machine::shared();
    let folder = Folder::new("system");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["a", "b", "c"]);
    let configs = system("table_config");
    assert_eq!(client.run(&term(number::COUNT, json!([configs]))), 3);
    assert_eq!(fields(&mut client, &configs, "name"), [r#""a""#, r#""b""#, r#""c""#]);
    let filtered = term(number::FILTER, json!([configs, {"name": "b"}]));
    let row = client.run(&term(number::NTH, json!([filtered, 0])));
    assert_eq!((&row["db"], &row["primary_key"]), (&json!("it"), &json!("id")));
    let id = &row["id"];
    assert_eq!(client.run(&term(number::GET, json!([configs, id]))), row);
    assert_eq!(client.run(&term(number::GET, json!([configs, "x"]))), Value::Null);
    let by_key = term(number::GET_ALL, json!([configs, id, id]));
    assert_eq!(client.run(&term(number::COUNT, json!([by_key]))), 2);
    let from = json!([number::BETWEEN, [configs, id, [number::MAXVAL, []]]]);
    let ordered = json!([number::ORDER_BY, [from], {"index": "id"}]);
    assert_eq!(client.run(&term(number::NTH, json!([ordered, 0]))), row);
    let down = json!([number::ORDER_BY, [configs], {"index": [number::DESC, ["id"]]}]);
    let ids = client.run(&term(number::BRACKET, json!([down, "id"])));
    let ids: Vec<&str> = ids.as_array().expect("rows").iter().filter_map(Value::as_str).collect();
    assert!(ids.len() == 3 && ids.is_sorted_by(|one, next| one > next), "{ids:?}");
    let joined = json!([number::EQ_JOIN, [system("table_status"), "id", configs]]);
    assert_eq!(client.run(&term(number::COUNT, json!([joined]))), 3);
    let by_uuid =
        json!([number::TABLE, [[number::DB, ["rethinkdb"]], "table_config"], {"identifier_format": "uuid"}]);
    let database = client.run(&term(number::INFO, json!([[number::DB, ["it"]]])));
    let one = client.run(&term(number::GET, json!([by_uuid, id])));
    assert_eq!(one["db"], database["id"]);
    assert_eq!(fields(&mut client, &system("db_config"), "name"), [r#""it""#, r#""test""#]);
    assert_eq!(client.run(&system("users")), json!([{"id": "admin", "password": false}]));
    let info = client.run(&term(number::INFO, json!([configs])));
    assert_eq!((&info["id"], &info["doc_count_estimates"]), (&Value::Null, &json!([3])));
}
