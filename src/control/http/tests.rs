//! The door over a real socket: errors, limits and probes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use photondb_proto::control::CoreReport;
use photondb_runtime::OutsideDoor;

use crate::control::board::tests::{link, server};
use crate::control::{Control, ControlOptions, CoreLink, listen};
use crate::outside::OutsideOptions;
use crate::outside::http::HttpOptions;

fn start() -> (Control, SocketAddr) {
    let listeners = listen(&["127.0.0.1:0".parse().expect("an address")]).expect("a port");
    let address = listeners[0].local_addr().expect("an address");
    let options = ControlOptions {
        listeners,
        http_timeout: Duration::from_secs(30),
        server: server(),
        outside: OutsideOptions { http: HttpOptions::Off },
        outside_jobs: OutsideDoor::open().1,
        core_lost: Arc::new(|_| {}),
    };
    (Control::start(options).expect("a thread"), address)
}

fn send(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a time limit");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn get(address: SocketAddr, path: &str) -> String {
    send(address, &format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"))
}

#[track_caller]
fn check(answer: &str, status: &str, part: &str) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "want {status}, got {answer}");
    assert!(answer.contains(part), "want {part}, got {answer}");
}

#[test]
fn resources_and_mistakes_answer_in_their_form() {
    let (control, address) = start();
    control.serve(vec![link(0, || Ok(CoreReport { shards: 7, ..CoreReport::default() }))]);
    check(&get(address, "/"), "200", "\"version\":\"1.2.3\"");
    check(&get(address, "/health"), "200", "\"status\":\"ok\"");
    check(&get(address, "/health/live"), "200", "{\"status\":\"live\"}");
    check(&get(address, "/health/ready"), "200", "{\"status\":\"ready\"}");
    check(&get(address, "/_metrics"), "200", "rethinkdb_shards{core=\"0\"} 7");
    check(&get(address, "/_metrics"), "200", "content-type: text/plain; version=0.0.4");
    check(&get(address, "/nothing"), "404", "{\"error\":{\"code\":\"not_found\"");
    let post =
        send(address, "POST /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
    check(&post, "405", "\"code\":\"method_not_allowed\"");
    assert!(post.contains("allow: GET,HEAD"), "{post}");
    let head = send(address, "HEAD /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200") && head.ends_with("\r\n\r\n"), "{head}");
    check(&send(address, "nonsense\r\n\r\n"), "400", "");
    control.stop();
    assert!(TcpStream::connect(address).is_err(), "the port is closed after a stop");
}

#[test]
fn probes_follow_the_life_of_the_server() {
    let (control, address) = start();
    check(&get(address, "/health/live"), "200", "live");
    check(&get(address, "/health/startup"), "503", "{\"status\":\"starting\"");
    check(&get(address, "/health/ready"), "503", "{\"status\":\"starting\"");
    control.serve(vec![link(0, || Ok(CoreReport::default()))]);
    check(&get(address, "/health/startup"), "200", "started");
    control.begin_stop();
    check(&get(address, "/health/ready"), "503", "{\"status\":\"stopping\"");
    check(&get(address, "/health/live"), "200", "live");
    control.stop();
}

#[test]
fn a_silent_core_fails_liveness_by_name_while_metrics_answer() {
    let (control, address) = start();
    let stuck = CoreLink { number: 1, ask: Arc::new(|| Box::pin(std::future::pending())) };
    control.serve(vec![link(0, || Ok(CoreReport { shards: 7, ..CoreReport::default() })), stuck]);
    std::thread::sleep(Duration::from_millis(1200));
    check(&get(address, "/health/live"), "503", "core 1 has not answered for 1");
    check(&get(address, "/health/live"), "503", "\"cores\":[1]");
    check(&get(address, "/health/ready"), "503", "failing");
    check(&get(address, "/_metrics"), "200", "rethinkdb_core_responding{core=\"1\"} 0");
    check(&get(address, "/_metrics"), "200", "rethinkdb_shards{core=\"0\"} 7");
    control.stop();
}

#[test]
fn a_client_that_never_finishes_its_head_is_cut_off() {
    let (control, address) = start();
    let silent = send(address, "GET /health HTTP/1.1\r\nhost: x\r\n");
    assert!(silent.is_empty() || silent.starts_with("HTTP/1.1 408"), "{silent}");
    control.stop();
}

#[test]
fn a_stop_does_not_wait_for_idle_connections() {
    let (control, address) = start();
    let idle = TcpStream::connect(address).expect("a connection");
    check(&get(address, "/health/live"), "200", "live");
    let begun = std::time::Instant::now();
    control.stop();
    assert!(begun.elapsed() < Duration::from_secs(2));
    drop(idle);
}
