//! The load generator against the real server: every workload for some hundred operations, and what it says when something
//! is wrong. Operations are counted, not timed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::machine::Machine;
use crate::server::{Folder, Server};

const LOADGEN: &str = env!("CARGO_BIN_EXE_photondb-loadgen");
const RECORDS: &str = "400";

fn loadgen(server: SocketAddr, line: &str) -> Output {
    let mut command = Command::new(LOADGEN);
    command.env_remove("PHOTONDB_PASSWORD").args(line.split_whitespace()).stdin(Stdio::null());
    if !line.starts_with("compare") {
        command.args(["--port", &server.port().to_string(), "--records", RECORDS, "--quiet"]);
    }
    command.output().expect("the program starts")
}

/// Runs it to a good end; gives its JSON report.
#[track_caller]
fn check(server: &Server, line: &str) -> Value {
    let output = loadgen(server.driver, &format!("{line} --json -"));
    let said = String::from_utf8_lossy(&output.stderr);
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(0), "{line}: {said}{report}");
    serde_json::from_str(&report).expect("the report is JSON")
}

/// Runs it to a bad end; what it says.
#[track_caller]
fn check_refused(server: SocketAddr, line: &str, code: i32, words: &str) {
    let output = loadgen(server, line);
    let said =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{line}: {said}");
    assert!(said.contains(words), "{line}: {said}");
}

fn count(report: &Value, name: &str) -> u64 {
    let operations = report["operations"].as_array().expect("operations");
    let row = operations.iter().find(|row| row["name"] == name).expect(name);
    row["count"].as_u64().expect("a number")
}

#[test]
fn every_workload_runs_without_an_error() {
    let machine = Machine::shared();
    let folder = Folder::new("loadgen");
    let server = Server::start(&machine, &folder, 1);
    assert_eq!(count(&check(&server, "load --index --batch 50"), "load"), 8);
    for (line, name, want) in [
        ("ping -n 300", "ping", 300),
        ("ping -n 300 --handshake v0_4", "ping", 300),
        ("get -n 300", "read", 300),
        ("get -n 300 --io sockets -t 2 -c 8", "read", 300),
        ("get -n 500 -c 4 -f 16 -t 2 --distribution zipfian", "read", 500),
        ("get -n 100 --rate 100000", "read", 100),
        ("update -n 200", "update", 200),
        ("insert -n 200 -t 2", "insert", 200),
        ("insert -n 200 --durability soft", "insert", 200),
        ("batch -n 5 --batch 20", "batch", 5),
        ("range -n 100", "range", 100),
        ("index -n 100", "index", 100),
        ("scan -n 3", "scan", 3),
        ("filter -n 10", "filter", 10),
        ("group -n 10", "group", 10),
        ("churn -n 100 -c 8", "connection", 100),
        ("churn -n 50 --io sockets --handshake v0_4", "connection", 50),
        ("feeds -n 100 --feeds 10 --listeners 3", "write", 100),
    ] {
        assert_eq!(count(&check(&server, line), name), want, "{line}");
    }
    for name in ["ycsb-a", "ycsb-b", "ycsb-c", "ycsb-d", "ycsb-e", "ycsb-f"] {
        let report = check(&server, &format!("{name} -n 200 -c 8 -f 2"));
        let rows = report["operations"].as_array().expect("operations");
        let counts = rows.iter().filter(|row| row["name"] != "all").map(|row| row["count"].as_u64());
        assert_eq!(counts.map(Option::unwrap_or_default).sum::<u64>(), 200, "{name}");
    }
}

const MIX: &str = r#"
distribution = "zipfian"
[[operation]]
name = "read"
weight = 3
reql = '[16, ["$table", "$key"]]'
expect = "value"
[[operation]]
name = "add and read"
reql = ['[56, ["$table", "$document"], {"durability": "soft"}]', '[16, ["$table", "$key"]]']
new_documents = 1
"#;

#[test]
fn a_mix_runs_and_reports_are_written_compared_and_drawn() {
    let machine = Machine::shared();
    let folder = Folder::new("loadgen-mix");
    let server = Server::start(&machine, &folder, 1);
    let path = |name: &str| folder.0.join(name).to_string_lossy().into_owned();
    let read = |name: &str| std::fs::read_to_string(folder.0.join(name)).expect("it was written");
    std::fs::write(folder.0.join("mix.toml"), MIX).expect("a file can be written");
    std::fs::write(folder.0.join("bad.toml"), MIX.replace("$document", "$documnet")).expect("written");
    check(&server, "load");
    let report = check(&server, &format!("mix {} -n 200 -c 4", path("mix.toml")));
    assert_eq!(count(&report, "read") + count(&report, "add and read"), 200);
    assert!(count(&report, "read") > count(&report, "add and read"), "{report}");
    check_refused(
        server.driver,
        &format!("mix {}", path("bad.toml")),
        1,
        "line 8, operation \"add and read\": there is no placeholder $documnet",
    );
    check_refused(server.driver, &format!("mix {}", path("none.toml")), 1, "none.toml: No such file");

    let outputs = ["json", "hdr", "plot"].map(|name| format!("--{name} {}", path(name))).join(" ");
    let output = loadgen(server.driver, &format!("ycsb-a -n 200 -c 4 {outputs}"));
    assert_eq!(output.status.code(), Some(0));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("\nread ") && table.contains("\nno errors\n"), "{table}");
    assert!(read("hdr").contains("Total count    =          200]"), "{}", read("hdr"));
    assert!(read("plot").ends_with("</svg>\n"));
    let compared = loadgen(server.driver, &format!("compare {0} {0}", path("json")));
    let compared = String::from_utf8_lossy(&compared.stdout).into_owned();
    assert!(compared.contains("read, p99") && compared.contains("      1.00\n"), "{compared}");
    check_refused(server.driver, &format!("compare {0} {0}", path("hdr")), 1, "this is no report");
}

#[test]
fn mistakes_are_said_in_a_sentence() {
    let machine = Machine::shared();
    let folder = Folder::new("loadgen-errors");
    let server = Server::start(&machine, &folder, 1);
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port");
    check_refused(closed, "ping", 1, "connection refused: does a server listen there?");
    check_refused(server.driver, "get", 1, "there is no table bench.docs: run `photondb-loadgen load` first");
    check_refused(server.driver, "ping --password wrong", 1, "the server refuses the login: Wrong password");
    check_refused(
        server.driver,
        "ping --handshake v0_4 --password wrong",
        1,
        "the server refuses the login: ERROR: Incorrect authorization key.",
    );
    check_refused(server.driver, "ping --user nobody", 1, "the server refuses the login: Unknown user");
    check_refused(server.driver, "gte", 2, "unrecognized subcommand 'gte'");
    check_refused(server.driver, "get --rate fast", 2, "a rate is a number of operations a second");
    let mut client = server.client();
    client.run(&json!([57, ["bench"]]));
    client.run(&json!([60, [[14, ["bench"]], "docs"]]));
    check_refused(server.driver, "get", 1, "the table bench.docs has fewer than 400 records");
    check(&server, "load");
    check_refused(server.driver, "index", 1, "has no index `bucket`: run `photondb-loadgen load --index`");
}

/// A server that speaks V0_4 and closes each connection after five answers.
fn short_of_breath() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it listens");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || serve_five(stream));
        }
    });
    address
}

fn serve_five(mut stream: TcpStream) -> std::io::Result<()> {
    stream.read_exact(&mut [0; 12])?;
    stream.write_all(b"SUCCESS\0")?;
    for _ in 0..5 {
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        let size = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        stream.read_exact(&mut vec![0; size as usize])?;
        let payload = b"{\"t\":1,\"r\":[3]}";
        let mut answer = head[..8].to_vec();
        answer.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        answer.extend_from_slice(payload);
        stream.write_all(&answer)?;
    }
    Ok(())
}

#[test]
fn a_server_that_closes_midway_ends_the_run_early() {
    for io in ["uring", "sockets"] {
        let line = format!("ping --handshake v0_4 -n 1000 -c 4 --io {io}");
        let output = loadgen(short_of_breath(), &line);
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{io}: {said}");
        assert!(said.contains("ended early: the server ended every connection"), "{io}: {said}");
        assert!(said.contains("4  connection lost: "), "{io}: {said}");
    }
}
