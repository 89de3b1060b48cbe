//! The database `rethinkdb` over the wire: its tables are read, filtered, joined, counted and written like any other, and
//! what is written there counts at once.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{Client, create, get, insert, table, term};
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

/// `config()` of something
fn config(of: Value) -> Value {
    term(number::CONFIG, json!([of]))
}

fn update(selection: &Value, change: Value) -> Value {
    term(number::UPDATE, json!([selection, change]))
}

/// A write that must be refused for its row: gives the row's error.
#[track_caller]
fn refused(client: &mut Client, write: &Value) -> String {
    let answer = client.run(write);
    assert_eq!(answer["errors"], 1, "{write} gave {answer}");
    answer["first_error"].as_str().expect("the first error").to_owned()
}

#[test]
fn configuration_is_written_through_rows() {
    let machine = Machine::shared();
    let folder = Folder::new("system-config");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["a", "b"]);
    let db = || json!([number::DB, ["it"]]);
    assert_eq!(client.run(&update(&config(table("a")), json!({"name": "c"})))["replaced"], 1);
    assert_eq!(client.run(&term(number::COUNT, json!([table("c")]))), 0);
    assert_eq!(client.run(&update(&config(table("c")), json!({"name": "c"})))["unchanged"], 1);
    for (change, want) in [
        (json!({"name": "b"}), "Can't rename table `it.c` to `it.b` because table `it.b` already exists."),
        (json!({"primary_key": "x"}), "It's illegal to change a table's primary key"),
        (json!({"indexes": [number::MAKE_ARRAY, ["i"]]}), "wrong format. The `indexes` field is read-only"),
        (
            json!({"write_acks": "all"}),
            "wrong format. In `write_acks`: Expected \"single\" or \"majority\", got: \"all\"",
        ),
        (
            json!({"shards": [number::MAKE_ARRAY, []]}),
            "wrong format. In `shards`: You must specify at least one shard.",
        ),
        (json!({"colour": 1}), "wrong format. Unexpected key(s) `colour`."),
    ] {
        let error = refused(&mut client, &update(&config(table("c")), change));
        assert!(error.contains(want), "{error}");
    }
    assert_eq!(
        client.run(&update(&config(table("c")), json!({"durability": "soft", "write_acks": "single"})))["replaced"],
        1
    );
    let row = client.run(&config(table("c")));
    assert_eq!((&row["durability"], &row["write_acks"]), (&json!("soft"), &json!("single")));
    assert_eq!(client.run(&update(&config(db()), json!({"name": "moved"})))["replaced"], 1);
    let error =
        refused(&mut client, &update(&config(json!([number::DB, ["moved"]])), json!({"name": "test"})));
    assert_eq!(error, "Cannot rename database `moved` to `test` because database `test` already exists.");
    let made = client.run(&term(number::INSERT, json!([system("db_config"), {"name": "made"}])));
    assert_eq!(made["inserted"], 1, "{made}");
    let row = json!({"name": "t", "db": "made", "primary_key": "k"});
    let made = client.run(&json!([number::INSERT, [system("table_config"), row], {"return_changes": true}]));
    assert_eq!(
        made["changes"][0]["new_val"]["shards"][0]["replicas"].as_array().map(Vec::len),
        Some(1),
        "{made}"
    );
    let made = json!([number::TABLE, [[number::DB, ["made"]], "t"]]);
    assert_eq!(client.run(&term(number::INSERT, json!([made, {"k": 1}])))["inserted"], 1);
    let gone = term(number::DELETE, json!([[number::FILTER, [system("table_config"), {"name": "t"}]]]));
    assert_eq!(client.run(&gone)["deleted"], 1);
    assert_eq!(client.fail(&made).message, "Table `made.t` does not exist.");
    let error = refused(
        &mut client,
        &update(
            &term(number::STATUS, json!([json!([number::TABLE, [[number::DB, ["moved"]], "c"]])])),
            json!({"x": 1}),
        ),
    );
    assert_eq!(error, "It's illegal to write to the `rethinkdb.table_status` table.");
    let server_row = system("server_config");
    assert_eq!(client.run(&update(&server_row, json!({"name": "renamed"})))["replaced"], 1);
    assert_eq!(fields(&mut client, &server_row, "name"), [r#""renamed""#]);
    let error =
        refused(&mut client, &update(&system("cluster_config"), json!({"heartbeat_timeout_secs": 1})));
    assert_eq!(error, "The heartbeat timeout must be at least two seconds");
    let failure = client.fail(&term(number::SYNC, json!([server_row])));
    assert_eq!(failure.message, "Artificial tables don't support `sync()`.");
}

/// Logs in as a user.
#[track_caller]
fn login(server: &Server, user: &str, password: &str) -> Result<Client, String> {
    let stream = TcpStream::connect(server.driver).expect("the server listens");
    Client::greet(stream, user, password).expect("the connection holds").map_err(|error| format!("{error:?}"))
}

fn user(name: &str) -> Value {
    term(number::GET, json!([system("users"), name]))
}

#[test]
fn users_come_log_in_change_their_password_and_go() {
    let machine = Machine::shared();
    let folder = Folder::new("users");
    let mut server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    let made = json!([number::INSERT, [system("users"), {"id": "bob", "password": "secret"}], {"return_changes": true}]);
    let made = client.run(&made);
    assert_eq!(
        made["changes"][0]["new_val"],
        json!({"id": "bob", "password": true}),
        "never the password itself"
    );
    assert!(login(&server, "bob", "secret").is_ok());
    assert!(login(&server, "bob", "wrong").is_err_and(|error| error.contains("Wrong password")));
    assert!(login(&server, "eve", "").is_err());
    assert_eq!(client.run(&update(&user("bob"), json!({"password": "new"})))["replaced"], 1);
    assert!(login(&server, "bob", "secret").is_err());
    assert!(login(&server, "bob", "new").is_ok());
    let few = json!({"password": {"password": "x", "iterations": 5}});
    assert_eq!(client.run(&update(&user("bob"), few))["unchanged"].as_u64(), Some(0));
    assert!(login(&server, "bob", "x").is_ok());
    for (row, want) in [
        (json!({"id": "z"}), "Expected a field named `password`."),
        (
            json!({"id": "z", "password": true}),
            "Expected an object or string to set the password, or `false` to keep it unset, got true.",
        ),
        (json!({"id": "z", "password": 1}), "Expected an object, string or boolean for `password`, got 1."),
        (
            json!({"id": "z", "password": {"password": "x", "iterations": 0}}),
            "Expected `iterations` to be an integer greater than zero, got 0.",
        ),
        (json!({"id": "z", "password": false, "x": 1}), "Unexpected key(s) `x`."),
        (json!({"id": "", "password": false}), "Empty username"),
    ] {
        let error = refused(&mut client, &term(number::INSERT, json!([system("users"), row])));
        assert_eq!(error, want);
    }
    let error = refused(&mut client, &term(number::DELETE, json!([user("admin")])));
    assert_eq!(error, "The user `admin` can't be deleted");
    assert_eq!(client.run(&update(&user("bob"), json!({"password": false})))["replaced"], 1);
    assert!(login(&server, "bob", "").is_ok());
    assert_eq!(client.run(&update(&user("admin"), json!({"password": "root"})))["replaced"], 1);
    assert!(server.stop().success());
    server = Server::start(&machine, &folder, 2);
    let mut client = login(&server, "admin", "root").expect("the password outlives a restart");
    assert_eq!(
        client.run(&system("users")),
        json!([{"id": "admin", "password": true}, {"id": "bob", "password": false}])
    );
    assert_eq!(client.run(&term(number::DELETE, json!([user("bob")])))["deleted"], 1);
    assert!(login(&server, "bob", "").is_err());
}

const PERMISSION_ERROR: Option<u64> = Some(6_000_000);

/// Grants at a scope: nothing, a database or a table.
#[track_caller]
fn grant(admin: &mut Client, scope: Option<Value>, permissions: Value) {
    let mut arguments: Vec<Value> = scope.into_iter().collect();
    arguments.extend([json!("bob"), permissions]);
    assert_eq!(admin.run(&term(number::GRANT, json!(arguments)))["granted"], 1);
}

#[track_caller]
fn denied(client: &mut Client, query: &Value, permission: &str) {
    let failure = client.fail(query);
    assert_eq!(
        failure.message,
        format!("User `bob` does not have the required `{permission}` permission."),
        "{query}"
    );
    assert_eq!(failure.error_type, PERMISSION_ERROR);
}

/// A server with the tables `t` (two rows) and `u`, and a user who may do nothing yet. What is first here is dropped first.
struct Bobs {
    bob: Client,
    admin: Client,
    _server: Server,
    _folder: Folder,
    _machine: Machine,
}

impl Bobs {
    #[track_caller]
    fn new() -> Bobs {
        let machine = Machine::shared();
        let folder = Folder::new("permissions");
        let server = Server::start(&machine, &folder, 2);
        let mut admin = server.client();
        create(&mut admin, &["t", "u"]);
        admin.run(&insert("t", &[json!({"id": 1}), json!({"id": 2})]));
        admin.run(&term(number::INSERT, json!([system("users"), {"id": "bob", "password": false}])));
        let bob = login(&server, "bob", "").expect("bob is let in");
        Bobs { bob, admin, _server: server, _folder: folder, _machine: machine }
    }
}

fn db() -> Value {
    json!([number::DB, ["it"]])
}

fn reads() -> Vec<Value> {
    vec![
        get("t", &json!(1)),
        table("t"),
        term(number::COUNT, json!([table("t")])),
        term(number::GET_ALL, json!([table("t"), 1, 2])),
        term(number::BETWEEN, json!([table("t"), 1, 2])),
        term(number::INFO, json!([table("t")])),
        json!([number::EQ_JOIN, [[number::MAKE_ARRAY, [{"a": 1}]], "a", table("t")]]),
    ]
}

fn writes() -> Vec<Value> {
    vec![
        insert("t", &[json!({"id": 3})]),
        update(&table("t"), json!({"n": 1})),
        term(number::REPLACE, json!([get("t", &json!(1)), {"id": 1}])),
        term(number::DELETE, json!([get("t", &json!(3))])),
        term(number::SYNC, json!([table("t")])),
    ]
}

/// What changes configuration; the last drops `u`.
fn configures() -> Vec<Value> {
    vec![
        config(table("t")),
        json!([number::RECONFIGURE, [table("t")], {"shards": 1, "replicas": 1}]),
        json!([number::REBALANCE, [table("t")]]),
        config(db()),
        term(number::INDEX_CREATE, json!([table("t"), "n"])),
        term(number::INDEX_DROP, json!([table("t"), "n"])),
        term(number::TABLE_CREATE, json!([db(), "v"])),
        term(number::TABLE_DROP, json!([db(), "u"])),
    ]
}

#[test]
fn a_user_may_do_nothing_but_look_around_until_it_is_granted() {
    let Bobs { bob, admin, .. } = &mut Bobs::new();
    reads().iter().for_each(|query| denied(bob, query, "read"));
    writes().iter().for_each(|query| denied(bob, query, "read"));
    let databases = [term(number::DB_CREATE, json!(["x"])), term(number::DB_DROP, json!(["it"]))];
    configures().iter().chain(&databases).for_each(|query| denied(bob, query, "config"));
    denied(bob, &term(number::GRANT, json!(["bob", {"read": true}])), "read");
    for free in [
        term(number::DB_LIST, json!([])),
        term(number::TABLE_LIST, json!([db()])),
        json!([number::WAIT, [table("t")]]),
    ] {
        bob.run(&free);
    }
    grant(admin, Some(table("t")), json!({"read": true}));
    reads().iter().for_each(|query| drop(bob.run(query)));
    writes().iter().for_each(|query| denied(bob, query, "write"));
    denied(bob, &table("u"), "read");
}

#[test]
fn what_is_granted_counts_at_once_and_the_narrowest_scope_decides() {
    let Bobs { bob, admin, .. } = &mut Bobs::new();
    grant(admin, None, json!({"read": true, "write": true, "config": true}));
    writes().iter().for_each(|query| drop(bob.run(query)));
    configures().iter().for_each(|query| drop(bob.run(query)));
    grant(admin, Some(db()), json!({"write": false, "config": false}));
    writes().iter().for_each(|query| denied(bob, query, "write"));
    denied(bob, &term(number::TABLE_DROP, json!([db(), "t"])), "config");
    grant(admin, Some(table("t")), json!({"read": false, "write": true}));
    denied(bob, &get("t", &json!(1)), "read");
    grant(admin, Some(table("t")), json!({"read": null}));
    writes().iter().for_each(|query| drop(bob.run(query)));
}

#[test]
fn the_system_database_inherits_no_permission() {
    let Bobs { bob, admin, .. } = &mut Bobs::new();
    grant(admin, None, json!({"read": true, "write": true, "config": true}));
    denied(bob, &system("users"), "read");
    grant(admin, Some(json!([number::DB, ["rethinkdb"]])), json!({"read": true}));
    bob.run(&system("users"));
    let eve = json!({"id": "eve", "password": false});
    denied(bob, &term(number::INSERT, json!([system("users"), eve])), "write");
}

#[test]
fn permissions_are_rows_that_are_written_and_go_with_their_user() {
    let Bobs { bob, admin, .. } = &mut Bobs::new();
    grant(admin, None, json!({"read": true, "write": true, "config": true}));
    grant(admin, Some(db()), json!({"write": false, "config": false}));
    grant(admin, Some(table("t")), json!({"read": false, "write": true}));
    let rows = term(number::FILTER, json!([system("permissions"), {"user": "bob"}]));
    let shown = admin.run(&rows);
    let shown = shown.as_array().expect("rows").iter();
    let mut shown: Vec<String> =
        shown.map(|row| format!("{} {} {}", row["database"], row["table"], row["permissions"])).collect();
    shown.sort();
    assert_eq!(
        shown,
        [
            r#""it" "t" {"read":false,"write":true}"#,
            r#""it" null {"config":false,"write":false}"#,
            r#"null null {"config":true,"read":true,"write":true}"#,
        ]
    );
    let write = |permissions: Value, conflict: &str| {
        let row = json!({"id": [number::MAKE_ARRAY, ["bob"]], "permissions": permissions});
        json!([number::INSERT, [system("permissions"), row], {"conflict": conflict}])
    };
    let nothing = json!({"read": null, "write": null, "config": null});
    assert_eq!(admin.run(&write(nothing, "replace"))["deleted"], 1);
    assert_eq!(
        refused(admin, &write(json!({"read": 1}), "error")),
        "Expected a boolean or null for `read`, got 1."
    );
    assert_eq!(admin.run(&term(number::DELETE, json!([rows])))["deleted"], 2);
    denied(bob, &table("t"), "read");
    grant(admin, None, json!({"read": true}));
    bob.run(&table("t"));
    admin.run(&term(number::DELETE, json!([user("bob")])));
    denied(bob, &table("t"), "read");
}

#[test]
fn running_queries_are_jobs_that_can_be_deleted() {
    let machine = Machine::shared();
    let folder = Folder::new("jobs");
    let server = Server::start(&machine, &folder, 2);
    let mut admin = server.client();
    create(&mut admin, &["t"]);
    let own = admin.run(&system("jobs"));
    assert_eq!(own.as_array().map(Vec::len), Some(1), "the question itself: {own}");
    let own = &own[0];
    assert_eq!((&own["type"], &own["info"]["user"]), (&json!("query"), &json!("admin")));
    assert_eq!(own["info"]["query"], "r.db(\"rethinkdb\").table(\"jobs\")");
    admin.run(&term(number::INSERT, json!([system("users"), {"id": "bob", "password": false}])));
    // A query that counts for ever, and one that waits for its client.
    let mut busy = server.client();
    let endless =
        json!([number::COUNT, [[number::FILTER, [[number::RANGE, [0, 9_000_000_000_000_000_u64]], false]]]]);
    busy.send(&endless, &json!({})).expect("sent");
    let mut idle = login(&server, "bob", "").expect("bob is let in");
    let numbers = json!([
        number::MAP,
        [[number::RANGE, []], [number::FUNC, [[number::MAKE_ARRAY, [1]], [number::VAR, [1]]]]]
    ]);
    let first = idle.ask_text(&json!([1, numbers, {"max_batch_rows": 5}]).to_string()).expect("a batch");
    let others = |admin: &mut Client| {
        let all = admin.run(&system("jobs"));
        let all = all.as_array().expect("rows").clone();
        all.into_iter()
            .filter(|job| !job["info"]["query"].as_str().unwrap_or_default().contains("jobs"))
            .collect::<Vec<_>>()
    };
    let end = Instant::now() + Duration::from_secs(20);
    while others(&mut admin).len() != 2 {
        assert!(Instant::now() < end, "both are jobs: {:?}", others(&mut admin));
        std::thread::sleep(Duration::from_millis(20));
    }
    grant(&mut admin, Some(json!([number::DB, ["rethinkdb"]])), json!({"read": true, "write": true}));
    let mut bob = login(&server, "bob", "").expect("bob is let in");
    assert_eq!(others(&mut bob).len(), 1, "of his own");
    let update = bob.run(&update(&system("jobs"), json!({"x": 1})));
    let only = "The `rethinkdb.jobs` system table only allows deletions, not inserts or updates.";
    assert_eq!(update["first_error"], only);
    for job in others(&mut admin) {
        let row = json!([number::GET, [system("jobs"), [number::MAKE_ARRAY, job["id"]]]]);
        assert_eq!(admin.run(&term(number::DELETE, json!([row])))["deleted"], 1, "{job}");
    }
    let ended = busy.receive().expect("an answer");
    assert_eq!(ended.error(), Some("Query terminated by the `rethinkdb.jobs` table."));
    idle.send_as(first.token, "[2]").expect("sent");
    let ended = idle.receive().expect("an answer");
    assert_eq!(ended.error(), Some("Query terminated by the `rethinkdb.jobs` table."));
    assert!(others(&mut admin).is_empty());
}

#[test]
fn the_server_tells_of_itself() {
    let machine = Machine::shared();
    let folder = Folder::new("status");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["t"]);
    client.run(&insert("t", &[json!({"id": 1}), json!({"id": 2}), json!({"id": 3})]));
    client.run(&get("t", &json!(1)));
    client.run(&table("t"));
    let status = client.run(&system("server_status"));
    let status = &status[0];
    assert!(
        status["process"]["version"].as_str().is_some_and(|version| version.starts_with("rethinkdb 2.4"))
    );
    assert_eq!(status["process"]["pid"], server.pid());
    assert_eq!(status["network"]["reql_port"], server.driver.port());
    assert_eq!(status["network"]["http_admin_port"], server.http.port());
    let table_id = client.run(&config(table("t")))["id"].clone();
    let key = json!([number::MAKE_ARRAY, ["table_server", table_id, status["id"]]]);
    let stats = client.run(&term(number::GET, json!([system("stats"), key])));
    assert_eq!((&stats["db"], &stats["table"]), (&json!("it"), &json!("t")));
    assert_eq!(stats["query_engine"]["written_docs_total"], 3);
    assert_eq!(stats["query_engine"]["read_docs_total"], 4);
    let cluster = client.run(&term(number::GET, json!([system("stats"), [number::MAKE_ARRAY, ["cluster"]]])));
    assert_eq!(cluster["query_engine"]["client_connections"], 1);
    assert_eq!(client.run(&term(number::COUNT, json!([system("stats")]))), 4);
    let logs = client.run(&term(number::FILTER, json!([system("logs"), {"level": "info"}])));
    let serving = logs
        .as_array()
        .expect("rows")
        .iter()
        .find(|line| line["message"].as_str().unwrap_or_default().contains("serving"));
    assert_eq!(serving.map(|line| &line["timestamp"]["$reql_type$"]), Some(&json!("TIME")), "{logs}");
    assert_eq!(client.run(&system("current_issues")), json!([]));
    let names = client.run(&term(number::TABLE_LIST, json!([[number::DB, ["rethinkdb"]]])));
    assert_eq!(names.as_array().map(Vec::len), Some(12), "those that begin with _ are not listed: {names}");
    client.run(&system("_debug_stats"));
    client.run(&system("_debug_table_status"));
    assert_eq!(client.fail(&system("nothing")).message, "Table `rethinkdb.nothing` does not exist.");
}

/// The row of `stats` for a table on this server.
#[track_caller]
fn stats_of(client: &mut Client, name: &str) -> Value {
    let rows = client.run(&term(number::FILTER, json!([system("stats"), { "table": name }])));
    let rows = rows.as_array().expect("rows");
    rows.iter().find(|row| row["id"][0] == "table_server").expect("a row for the table").clone()
}

#[test]
fn stats_say_what_each_table_does_and_takes() {
    let machine = Machine::shared();
    let folder = Folder::new("system-stats");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["full", "empty"]);
    let text = "x".repeat(900);
    let rows: Vec<Value> = (0..500).map(|id| json!({ "id": id, "text": format!("{id} {text}") })).collect();
    client.run(&insert("full", &rows));
    for id in 0..20 {
        client.run(&get("full", &json!(id)));
    }
    let traffic = |row: &Value| {
        let figure = |name: &str| row["storage_engine"]["disk"][name].as_f64().expect("a figure");
        assert!(figure("read_bytes_per_sec") >= 0.0 && figure("written_bytes_per_sec") >= 0.0, "{row}");
        (figure("read_bytes_total"), figure("written_bytes_total"))
    };
    let check = |row: &Value, written: f64, read: f64| {
        let figure = |path: &str| row.pointer(path).and_then(Value::as_f64).expect("a figure");
        assert!(figure("/query_engine/written_docs_total") >= written, "{row}");
        assert!(figure("/query_engine/read_docs_total") >= read, "{row}");
        (figure("/storage_engine/cache/in_use_bytes"), figure("/storage_engine/disk/space_usage/data_bytes"))
    };
    let (cache, _) = check(&stats_of(&mut client, "full"), 500.0, 20.0);
    assert!((450_000.0..2_000_000.0).contains(&cache), "500 rows of 900 bytes take {cache} of the cache");
    let (_, written) = traffic(&stats_of(&mut client, "full"));
    assert!(
        (450_000.0..4_000_000.0).contains(&written),
        "{written} bytes were written for 500 rows of 900 bytes"
    );
    assert_eq!(traffic(&stats_of(&mut client, "empty")).0, 0.0, "nothing was read for a new table");
    let (cache, disk) = check(&stats_of(&mut client, "empty"), 0.0, 0.0);
    assert!(cache < 100_000.0 && disk == 0.0, "nothing takes {cache} and {disk}");
    // Stopping writes a checkpoint.
    assert!(server.stop().success());
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    client.run(&get("full", &json!(1)));
    let (read, _) = traffic(&stats_of(&mut client, "full"));
    assert!((4096.0..1_000_000.0).contains(&read), "{read} bytes were read for one row");
    let (_, disk) = check(&stats_of(&mut client, "full"), 0.0, 1.0);
    assert!((10_000.0..2_000_000.0).contains(&disk), "500 rows of 900 bytes take {disk} on disk");
}

#[test]
fn the_scratch_table_keeps_rows_until_the_server_stops() {
    let machine = Machine::shared();
    let folder = Folder::new("system-scratch");
    let server = Server::start(&machine, &folder, 2);
    let (mut one, mut other) = (server.client(), server.client());
    let scratch = system("_debug_scratch");
    let written = one.run(&json!([number::INSERT, [scratch, [2, [{ "id": 1 }, { "id": 2 }]]]]));
    assert_eq!((&written["inserted"], &written["errors"]), (&json!(2), &json!(0)));
    let row = term(number::GET, json!([scratch, 1]));
    assert_eq!(other.run(&update(&row, json!({ "version": 1 })))["replaced"], 1);
    assert_eq!(one.run(&row), json!({ "id": 1, "version": 1 }));
    assert_eq!(
        other.run(&term(number::DELETE, json!([term(number::GET, json!([scratch, 2]))])))["deleted"],
        1
    );
    for client in [&mut one, &mut other] {
        assert_eq!(client.run(&scratch), json!([{ "id": 1, "version": 1 }]));
    }
    let large = json!({ "id": "large", "text": "x".repeat(2 << 20) });
    assert!(refused(&mut one, &json!([number::INSERT, [scratch, large]])).contains("at most 1048576 bytes"));
    assert!(!fields(&mut one, &system("db_config"), "name").is_empty());
}
