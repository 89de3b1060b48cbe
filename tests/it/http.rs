//! The HTTP port: health, metrics, limits.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use photondb_proto::term::number;
use serde_json::{Value, json};

use crate::client::{create, insert, term};
use crate::machine::Machine;
use crate::server::{Folder, Server, serve};

/// Status and body of an answer.
pub fn fetch(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).expect("the HTTP port is open");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
        .expect("it takes requests");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("it answers");
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status line");
    (status, text.split_once("\r\n\r\n").expect("a head").1.to_owned())
}

fn fetch_json(address: SocketAddr, path: &str) -> (u16, Value) {
    let (status, body) = fetch(address, path);
    (status, serde_json::from_str(&body).expect("JSON"))
}

/// The value of a metric's line that has these labels, summed over the others.
pub fn metric(address: SocketAddr, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let (status, body) = fetch(address, "/_metrics");
    assert_eq!(status, 200);
    let wanted: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    let values: Vec<f64> = body
        .lines()
        .filter(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' '])))
        .filter(|line| wanted.iter().all(|label| line.contains(label.as_str())))
        .map(|line| line.rsplit(' ').next().expect("a value").parse().expect("a number"))
        .collect();
    (!values.is_empty()).then(|| values.iter().sum())
}

#[test]
fn health_and_root_answer() {
    let machine = Machine::shared();
    let folder = Folder::new("health");
    let server = Server::start(&machine, &folder, 2);
    for (path, status) in [
        ("/health", "ok"),
        ("/health/live", "live"),
        ("/health/ready", "ready"),
        ("/health/startup", "started"),
    ] {
        let (code, body) = fetch_json(server.http, path);
        assert_eq!((code, body["status"].as_str()), (200, Some(status)), "{path}: {body}");
    }
    let (code, root) = fetch_json(server.http, "/");
    assert_eq!((code, root["name"].as_str()), (200, Some("PhotonDB")));
    assert!(root["version"].is_string(), "{root}");
    assert_eq!(fetch_json(server.http, "/nowhere").0, 404);
}

#[test]
fn metrics_count_what_happens() {
    let machine = Machine::shared();
    let folder = Folder::new("metrics");
    let server = Server::start(&machine, &folder, 2);
    let mut client = server.client();
    create(&mut client, &["docs"]);
    client.run(&insert("docs", &[json!({ "id": 1 }), json!({ "id": 2 })]));
    for _ in 0..20 {
        client.run(&term(number::ADD, json!([1, 2])));
    }
    client.fail(&term(number::DIV, json!([1, 0])));
    // A core's report may be a second old.
    std::thread::sleep(Duration::from_millis(1200));
    let value = |name: &str| metric(server.http, name, &[]).unwrap_or_else(|| panic!("{name} is missing"));
    assert!(value("rethinkdb_queries_total") >= 24.0);
    assert!(value("rethinkdb_query_errors_total") >= 1.0);
    assert!(value("rethinkdb_query_duration_seconds_count") >= 24.0);
    assert_eq!(value("rethinkdb_client_connections"), 1.0);
    assert!(value("rethinkdb_wal_flushes_total") >= 1.0);
    assert!(value("rethinkdb_memory_resident_bytes") > 1e6);
    assert_eq!(value("rethinkdb_core_responding"), 2.0);
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/reference/metrics.md"));
    let (_, body) = fetch(server.http, "/_metrics");
    for row in page.expect("the page is committed").lines().filter(|line| line.starts_with("| `")) {
        let name = row.split('`').nth(1).expect("a name");
        assert!(body.contains(&format!("# TYPE {name} ")), "{name} is documented but not served");
    }
}

#[test]
fn a_client_that_sends_slowly_is_closed_and_disturbs_nobody() {
    let machine = Machine::shared();
    let folder = Folder::new("slow-http");
    let server = Server::start(&machine, &folder, 1);
    let mut slow = TcpStream::connect(server.http).expect("the HTTP port is open");
    slow.write_all(b"GET / HT").expect("it takes bytes");
    let begun = Instant::now();
    assert_eq!(fetch(server.http, "/health/live").0, 200);
    assert!(begun.elapsed() < Duration::from_secs(2));
    slow.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    let mut rest = Vec::new();
    let end = slow.read_to_end(&mut rest);
    assert!(end.is_ok() || !rest.is_empty(), "the server still waits after 20 s: {end:?}");
    assert_eq!(server.client().run(&term(number::ADD, json!([1, 2]))), json!(3));
}

#[test]
fn without_http_only_the_driver_port_is_open() {
    let machine = Machine::shared();
    let folder = Folder::new("no-http");
    let mut command = serve(&folder, 1);
    command.arg("--no-http");
    let server = Server::start_with(&machine, &folder, command);
    assert_eq!(server.http.port(), 0, "{}", server.output());
    assert_eq!(server.client().run(&term(number::ADD, json!([1, 2]))), json!(3));
}
