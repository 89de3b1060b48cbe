//! The commands of the program against a running server, and what it says when they fail.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::client::{create, insert};
use crate::machine::Machine;
use crate::server::{Folder, Server, program, serve};

/// What a run of the program came to.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn run(command: &mut Command) -> Ran {
    let output = command.output().expect("the program starts");
    Ran {
        code: output.status.code(),
        out: String::from_utf8(output.stdout).expect("text"),
        err: String::from_utf8(output.stderr).expect("text"),
    }
}

/// A command that talks to the server.
fn talk(server: &Server, words: &str) -> Ran {
    let mut command = program();
    command.args(words.split(' ')).args(["--driver-port", &server.driver.port().to_string()]);
    run(&mut command)
}

#[track_caller]
fn check_prints(server: &Server, words: &str, parts: &[&str]) {
    let ran = talk(server, words);
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words}: {}", ran.out);
    for part in parts {
        assert!(ran.out.contains(part), "{words} printed {:?}, which lacks {part:?}", ran.out);
    }
}

#[track_caller]
fn check_json(server: &Server, words: &str, check: impl FnOnce(&Value) -> bool) {
    let ran = talk(server, &format!("{words} --json"));
    assert_eq!(ran.code, Some(0), "{words}: {}", ran.err);
    let value =
        serde_json::from_str(&ran.out).unwrap_or_else(|error| panic!("{words}: {error} in {:?}", ran.out));
    assert!(check(&value), "{words} printed {value}");
}

/// The command fails with one sentence on standard error and nothing on standard output.
#[track_caller]
fn check_fails(ran: &Ran, parts: &[&str]) {
    assert!(ran.code.is_some_and(|code| code != 0), "it ended with {:?}", ran.code);
    assert_eq!(ran.out, "", "nothing goes to standard output");
    assert!(!ran.err.contains("panicked"), "{}", ran.err);
    assert!(ran.err.starts_with("photondb: ") || ran.err.starts_with("error: "), "{:?}", ran.err);
    for part in parts {
        assert!(ran.err.contains(part), "{:?} does not say {part:?}", ran.err);
    }
}

#[test]
fn databases_and_tables_are_made_listed_described_and_dropped() {
    let machine = Machine::shared();
    let folder = Folder::new("cli");
    let server = Server::start(&machine, &folder, 2);
    check_prints(&server, "db create shop", &["shop"]);
    check_prints(&server, "db list", &["DATABASE", "shop", "rethinkdb"]);
    check_json(&server, "db list", |names| {
        names.as_array().is_some_and(|names| names.contains(&json!("shop")))
    });
    check_prints(&server, "table create --db shop --primary-key sku products", &["shop.products"]);
    check_prints(&server, "table create shop.orders", &["shop.orders"]);
    check_prints(&server, "table list --db shop", &["orders", "products", "sku"]);
    check_json(&server, "table list --db shop", |names| *names == json!(["orders", "products"]));
    check_prints(&server, "table info shop.products", &["products", "sku", "documents"]);
    check_json(&server, "table info --db shop products", |info| {
        info["primary_key"] == "sku" && info["documents"] == 0 && info["name"] == "products"
    });
    check_prints(&server, "db info shop", &["shop", "orders"]);
    check_json(&server, "db info shop", |info| {
        info["name"] == "shop" && info["tables"] == json!(["orders", "products"])
    });
    check_prints(&server, "table drop shop.orders --force", &["shop.orders"]);
    check_json(&server, "table list --db shop", |names| *names == json!(["products"]));
    check_prints(&server, "db drop shop --force", &["shop", "1"]);
    check_json(&server, "db list", |names| {
        names.as_array().is_some_and(|names| !names.contains(&json!("shop")))
    });
}

#[test]
fn failures_are_one_sentence_and_a_code() {
    let machine = Machine::shared();
    let folder = Folder::new("cli-fails");
    let server = Server::start(&machine, &folder, 1);
    let mut client = server.client();
    create(&mut client, &["docs"]);
    client.run(&insert("docs", &[json!({ "id": 1 })]));
    for (words, parts) in [
        ("db create it", &["`it` already exists"][..]),
        ("db create a.b", &["a.b"]),
        ("db drop nowhere --force", &["`nowhere` does not exist"]),
        ("db info nowhere", &["`nowhere` does not exist"]),
        ("table create it.docs", &["`it.docs` already exists"]),
        ("table create nowhere.docs", &["`nowhere` does not exist"]),
        ("table info it.nowhere", &["`it.nowhere` does not exist"]),
        ("table list --db nowhere", &["`nowhere` does not exist"]),
        // Not at a terminal, dropping has to be said twice.
        ("table drop it.docs", &["--force"]),
        ("db drop it", &["--force"]),
        ("db list --user nobody", &["nobody", "--user"]),
        ("db list --password wrong", &["--password"]),
        ("db destroy it", &["destroy"]),
        ("table info it.docs.x", &["`it.docs.x` is no table", "DB.NAME"]),
        ("table create .docs", &["DB.NAME"]),
        ("db list --port-offset 65000", &["no port", "--port-offset 65000"]),
        ("table create", &["NAME"]),
    ] {
        check_fails(&talk(&server, words), parts);
    }
    // Nothing was dropped.
    check_json(&server, "table info it.docs", |info| info["documents"] == 1);
}

#[test]
fn a_server_that_is_not_there_is_told_so() {
    let _machine = Machine::shared();
    // A port that was free a moment ago.
    let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|socket| socket.local_addr()).expect("a port");
    let ran = run(program().args(["db", "list", "--driver-port", &free.port().to_string()]));
    check_fails(&ran, &["no server answers", "photondb serve"]);
    // One that accepts and says nothing.
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = silent.local_addr().expect("an address").port().to_string();
    let ran = run(program().args(["db", "list", "--connect-timeout", "1", "--driver-port", &port]));
    check_fails(&ran, &["silent", "--connect-timeout"]);
}

#[test]
fn a_password_guards_the_commands() {
    let machine = Machine::shared();
    let folder = Folder::new("cli-password");
    let mut command = serve(&folder, 1);
    command.args(["--initial-password", "open sesame"]);
    let server = Server::start_with(&machine, &folder, command);
    let port = server.driver.port().to_string();
    check_fails(&talk(&server, "db list"), &["admin", "--password"]);
    let ran = run(program().args(["db", "list", "--driver-port", &port, "--password", "open sesame"]));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let ran =
        run(program().args(["db", "list", "--driver-port", &port]).env("RETHINKDB_PASSWORD", "open sesame"));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let file = folder.0.join("password");
    std::fs::write(&file, "open sesame\n").expect("a file can be made");
    let ran = run(program().args(["db", "list", "--driver-port", &port, "--password-file"]).arg(&file));
    assert_eq!(ran.code, Some(0), "{}", ran.err);
}

#[test]
fn help_and_version_are_for_people_and_programs() {
    for (words, parts) in [
        ("--help", &["serve", "db", "table", "Examples:"][..]),
        ("serve --help", &["--data-dir", "--cache-size", "Network:"]),
        ("db --help", &["create", "drop", "list", "info"]),
        ("table create --help", &["--primary-key", "--db"]),
        ("version", &["photondb", env!("CARGO_PKG_VERSION")]),
        ("--version", &["photondb", env!("CARGO_PKG_VERSION")]),
    ] {
        let ran = run(program().args(words.split(' ')));
        assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{words}");
        for part in parts {
            assert!(ran.out.contains(part), "{words} does not print {part:?}: {}", ran.out);
        }
    }
    let ran = run(Command::new(env!("CARGO_BIN_EXE_rethinkdb")).arg("--version"));
    assert!(ran.out.starts_with("rethinkdb 2.4"), "{}", ran.out);
    let ran = run(program().args(["version", "--json"]));
    let version: Value = serde_json::from_str(&ran.out).expect("JSON");
    assert_eq!(version["photondb"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn commands_of_the_old_binary_that_are_no_more_say_what_to_use() {
    for (words, part) in [("create", "serve"), ("dump", "rethinkdb-dump"), ("proxy", "single")] {
        check_fails(&run(program().arg(words).env("PATH", "")), &[part]);
        check_fails(&run(program().args(["help", words])), &[part]);
    }
}

#[test]
fn the_tools_of_the_python_package_are_run_where_they_are_installed() {
    let folder = Folder::new("cli-tools");
    let tool = folder.0.join("rethinkdb-index-rebuild");
    std::fs::write(&tool, "#!/bin/sh\necho \"rebuilt $*\"; exit 7\n").expect("a file can be made");
    std::fs::set_permissions(&tool, std::fs::Permissions::from_mode(0o755))
        .expect("it can be made a program");
    let ran = run(program().args(["index-rebuild", "-c", "h:1", "--force"]).env("PATH", &folder.0));
    assert_eq!((ran.code, ran.out.as_str()), (Some(7), "rebuilt -c h:1 --force\n"), "{}", ran.err);
}

#[test]
fn commands_find_a_server_by_its_port_offset() {
    let machine = Machine::shared();
    let folder = Folder::new("cli-offset");
    let server = Server::start(&machine, &folder, 1);
    let port = server.driver.port();
    let ran =
        run(program().args(["db", "list", "--driver-port", &(port - 7).to_string(), "--port-offset", "7"]));
    assert_eq!((ran.code, ran.err.as_str()), (Some(0), ""), "{}", ran.out);
    let mut command = program();
    command.args(["db", "list", "--driver-port", &(port - 7).to_string()]).env("RETHINKDB_PORT_OFFSET", "7");
    assert_eq!(run(&mut command).code, Some(0));
}
