//! Large queries and answers over the wire: parsed elsewhere, printed in steps, in their order, refused by name.

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, RUNTIME_ERROR, SUCCESS_ATOM, count, create, get, table, term};
use crate::machine::Machine;
use crate::server::{Folder, Server};

/// A document of about so many MiB: numbers, text and objects. On the wire arrays are terms.
fn document(id: u64, mebibytes: usize) -> (Value, Value) {
    let numbers: Vec<f64> = (0..1000).map(|number| f64::from(number) + 0.25).collect();
    let text = "\"é\\\n".repeat(40 << 10);
    let rows: Vec<Value> =
        (0..100).map(|row| json!({ "row": row, "odd": row % 2 == 1, "none": null })).collect();
    let parts = |array: &dyn Fn(Vec<Value>) -> Value| {
        let part = json!({ "numbers": array(numbers.iter().map(|number| json!(number)).collect()), "text": text,
            "rows": array(rows.clone()) });
        json!({ "id": id, "parts": array(vec![part; 4 * mebibytes]) })
    };
    (parts(&|items| json!([number::MAKE_ARRAY, items])), parts(&Value::Array))
}

fn insert(document: &Value) -> Value {
    term(number::INSERT, json!([table("docs"), document]))
}

#[track_caller]
fn check_row(client: &mut Client, id: u64, want: &Value) {
    let found = client.run(&get("docs", &json!(id)));
    assert!(found == *want, "row {id} is not what was inserted");
}

#[test]
fn a_large_document_comes_back_as_it_was_and_in_its_turn() {
    let machine = Machine::shared();
    let folder = Folder::new("large");
    let server = Server::start(&machine, &folder, 1);
    let client = &mut server.client();
    create(client, &["docs"]);
    let (sent, want) = document(1, 3);
    assert_eq!(client.run(&insert(&sent))["inserted"], 1);
    check_row(client, 1, &want);
    // What comes behind it on the connection is begun behind it, and waited for without a reply.
    let (sent, want) = document(2, 2);
    client.send(&insert(&sent), &json!({ "noreply": true })).expect("a large query is sent");
    let waited = client.send_text("[4]").expect("it takes queries");
    assert_eq!(client.receive().expect("an answer").token, waited);
    check_row(client, 2, &want);
    let large = client.send(&insert(&document(3, 2).0), &json!({})).expect("a large query is sent");
    let small = client.send(&count("docs"), &json!({})).expect("a query is sent");
    let mut tokens = [client.receive().expect("an answer").token, client.receive().expect("an answer").token];
    tokens.sort_unstable();
    assert_eq!(tokens, [large, small]);
    // A field of it changes; the rest stays.
    let change = json!([number::UPDATE, [get("docs", &json!(1)), { "parts": 1 }]]);
    assert_eq!(client.run(&change)["replaced"], 1);
    check_row(client, 1, &json!({ "id": 1, "parts": 1 }));
    // Many rows in one answer, and a large value that is no row.
    let all = client.run(&term(number::COERCE_TO, json!([table("docs"), "array"])));
    assert_eq!(all.as_array().map(Vec::len), Some(3));
    let error = client.ask_text(&format!("[1,[99999,[\"{}\"]]]", "x".repeat(1 << 20))).expect("an answer");
    assert_eq!(error.error(), Some("Unrecognized TermType: 99999."));
    let broken = client.ask_text(&format!("[1,[24,[\"{}\"]", "x".repeat(1 << 20))).expect("an answer");
    assert_eq!(broken.error(), Some("Client is buggy (failed to deserialize query)."));
    assert!(server.stop().success());
}

#[test]
fn what_is_sent_behind_a_long_query_is_begun_behind_it() {
    let machine = Machine::shared();
    let folder = Folder::new("long-queries");
    let server = Server::start(&machine, &folder, 1);
    let client = &mut server.client();
    create(client, &["docs"]);
    // Above what is begun while it is read, below what is parsed elsewhere.
    let text = "x".repeat(40 << 10);
    for id in 0..20 {
        let inserted = insert(&json!({ "id": id, "text": text }));
        client.send(&inserted, &json!({ "noreply": id % 2 == 0 })).expect("a long query is sent");
        let reply = (id % 2 == 1).then(|| client.receive().expect("an answer"));
        assert!(reply.is_none_or(|reply| reply.error().is_none()));
        let waited = client.send_text("[4]").expect("it takes queries");
        assert_eq!(client.receive().expect("an answer").token, waited);
        assert_eq!(client.run(&count("docs")), id + 1);
    }
    let broken = client.ask_text(&format!("[1,[24,[\"{text}\"]")).expect("an answer");
    assert_eq!(broken.error(), Some("Client is buggy (failed to deserialize query)."));
    // Many at once, each answered.
    let sent: Vec<i64> = (0..20)
        .map(|id| {
            client.send(&insert(&json!({ "id": 100 + id, "text": text })), &json!({})).expect("it is sent")
        })
        .collect();
    let mut answered: Vec<i64> = (0..20).map(|_| client.receive().expect("an answer").token).collect();
    answered.sort_unstable();
    assert_eq!(answered, sent);
    assert_eq!(client.run(&count("docs")), 40);
    // Who goes without waiting for its answers leaves what it asked for done or not, and the server well.
    let mut other = server.client();
    other
        .send(&insert(&json!({ "id": 200, "text": text })), &json!({ "noreply": true }))
        .expect("it is sent");
    drop(other);
    assert_eq!(client.run(&get("docs", &json!(3)))["id"], 3);
    assert!(server.stop().success());
}

#[test]
fn a_query_that_there_is_no_memory_for_is_refused_and_the_connection_stays() {
    let machine = Machine::shared();
    let folder = Folder::new("refused");
    let server = Server::start(&machine, &folder, 1);
    let client = &mut server.client();
    create(client, &["docs"]);
    for _ in 0..2 {
        let text = "x".repeat(90 << 20);
        let refused = client.ask_text(&format!("[1,[{},[\"{text}\"]]]", number::COUNT)).expect("an answer");
        assert_eq!(refused.response_type, RUNTIME_ERROR);
        let message = refused.error().expect("it is refused");
        assert!(message.ends_with("Send less in one query, or raise --query-memory."), "{message}");
        let next = client.ask_text(&format!("[1,{}]", count("docs"))).expect("the connection stays");
        assert_eq!(next.response_type, SUCCESS_ATOM);
    }
    assert!(server.stop().success());
}
