//! Writes of one row, which become operations without an evaluation, beside the same writes evaluated.

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, create, table, term};
use crate::machine::Machine;
use crate::server::{Folder, Server};

/// What a write of `row` answers, whichever way it goes.
fn answer(client: &mut Client, write: &Value, options: &Value) -> String {
    client.send_as(7, &json!([1, write, options]).to_string()).expect("it takes queries");
    format!("{:?}", client.receive().expect("it answers"))
}

fn insert(name: &str, document: Value) -> Value {
    term(number::INSERT, json!([table(name), document]))
}

fn update(name: &str, key: Value, object: Value) -> Value {
    term(number::UPDATE, json!([[number::GET, [table(name), key]], object]))
}

/// Writes to a table, each behind those before it.
fn writes(name: &str) -> Vec<Value> {
    let literal = json!({ "deep": [number::LITERAL, [{ "b": 2 }]] });
    let mut writes = vec![
        insert(name, json!({ "id": 1, "a": "text", "deep": { "a": 1 }, "n": 5 })),
        insert(name, json!({ "id": 1, "other": true })),
        insert(name, json!({ "id": null })),
        insert(name, json!({ "id": "x".repeat(200) })),
        insert(name, json!(5)),
        insert(name, json!({ "id": 2, "$reql_type$": "LITERAL" })),
        insert("missing", json!({ "id": 1 })),
        update(name, json!(1), json!({ "a": "other", "z": null })),
        update(name, json!(1), json!({ "a": "other", "z": null })),
        update(name, json!(1), json!({ "n": 5.0 })),
        update(name, json!(1), json!({ "n": -0.0 })),
        update(name, json!(1), json!({ "n": 0 })),
        update(name, json!(1), json!({})),
        update(name, json!(1), json!({ "deep": { "b": 2 } })),
        update(name, json!(1), json!({ "deep": 3, "list": [number::MAKE_ARRAY, [1, { "x": 1 }]] })),
        update(name, json!(1), literal),
        update(name, json!(1), json!({ "id": 1, "a": 1 })),
        update(name, json!(1), json!({ "id": 2 })),
        update(name, json!(1), json!(null)),
        update(name, json!(1), json!("no object")),
        update(name, json!(404), json!({ "a": 1 })),
        update(name, json!(null), json!({ "a": 1 })),
        update("missing", json!(1), json!({ "a": 1 })),
        update(name, json!(1), json!({ "large": "x".repeat(100_000) })),
        update(name, json!(1), json!({ "large": "y" })),
    ];
    for durability in ["soft", "hard", "none"] {
        let mut write = update(name, json!(1), json!({ "durability": durability }));
        write.as_array_mut().expect("a term").push(json!({ "durability": durability }));
        writes.push(write);
    }
    // Rows of both cores, and enough fields for a directory.
    for row in 0..40 {
        let fields: serde_json::Map<String, Value> =
            (0..row).map(|field| (format!("f{field}"), json!("v".repeat(field)))).collect();
        let mut document = Value::Object(fields);
        document["id"] = json!(format!("row {row}"));
        writes.push(insert(name, document));
        writes.push(update(
            name,
            json!(format!("row {row}")),
            json!({ "f1": row, "f20": "set", "g": [2, [row]] }),
        ));
    }
    writes
}

#[test]
fn a_write_of_one_row_answers_and_does_the_same_with_an_evaluation_and_without() {
    let machine = Machine::shared();
    let folder = Folder::new("writes");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["short", "long"]);
    for (short, long) in writes("short").iter().zip(&writes("long")) {
        let found = answer(&mut client, short, &json!({}));
        // An option that says nothing new, but takes the query the long way.
        let want = answer(&mut client, long, &json!({ "noreply": false }));
        assert_eq!(found, want.replace("`it.long`", "`it.short`"), "{short}");
    }
    let rows = |name| term(number::ORDER_BY, json!([table(name), "id"]));
    let found = client.run(&rows("short"));
    assert_eq!(found, client.run(&rows("long")));
    assert_eq!(found.as_array().map(Vec::len), Some(41));
}
