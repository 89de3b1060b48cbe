//! Unmodified RethinkDB drivers against the server: Python (plain and asyncio) and JavaScript (rethinkdb, rethinkdb-ts).
//!
//! Each script in `drivers/` loads real data, asks questions, and computes every answer from the file itself. It prints a
//! line for each question that was answered wrongly and exits with 1 then.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use crate::environment::{npm, python, scripts};
use crate::machine::Machine;
use crate::server::{Folder, Server, wait};

/// A script that takes longer hangs.
const SCRIPT_MAX: Duration = Duration::from_secs(55);

/// Runs a script with the server's address and the folder of data sets; it has to end well.
#[track_caller]
fn check(interpreter: fn() -> Result<PathBuf, String>, script: &str, cores: u32) {
    let (interpreter, packages) = match (interpreter(), npm()) {
        (Ok(interpreter), Ok(packages)) => (interpreter, packages),
        (Err(missing), _) | (_, Err(missing)) => panic!("{missing}"),
    };
    let machine = Machine::shared();
    let folder = Folder::new("driver");
    let mut server = Server::start(&machine, &folder, cores);
    let printed = folder.0.join("script.txt");
    let file = std::fs::File::create(&printed).expect("the output file can be made");
    let mut child = Command::new(interpreter)
        .arg(scripts().join(script))
        .arg(server.driver.ip().to_string())
        .arg(server.driver.port().to_string())
        .arg(packages.join("node_modules/vega-datasets/data"))
        .env("NODE_PATH", packages.join("node_modules"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdout(file.try_clone().expect("a descriptor"))
        .stderr(file)
        .spawn()
        .expect("the interpreter starts");
    let status = wait(&mut child, SCRIPT_MAX);
    let _ = child.kill();
    let _ = child.wait();
    let text = std::fs::read_to_string(&printed).unwrap_or_default();
    assert!(status.is_some_and(|status| status.success()), "{script} ended with {status:?}:\n{text}");
    assert!(text.contains(" questions answered"), "{script} did not come to its end:\n{text}");
    assert!(server.is_running(), "the server did not survive {script}");
}

fn node() -> Result<PathBuf, String> {
    Ok(PathBuf::from("node"))
}

#[test]
fn the_python_driver_gets_the_answers_of_the_file() {
    check(python, "plain.py", 1);
}

#[test]
fn the_python_driver_gets_the_answers_of_the_file_with_asyncio() {
    check(python, "asynchronous.py", 2);
}

#[test]
fn the_javascript_driver_gets_the_answers_of_the_file() {
    check(node, "official.js", 2);
}

#[test]
fn the_typescript_driver_gets_the_answers_of_the_file() {
    check(node, "typescript.js", 1);
}

#[test]
fn the_tools_of_the_python_package_keep_everything() {
    check(python, "tools.py", 2);
}

#[test]
fn the_python_driver_follows_feeds() {
    check(python, "feeds.py", 2);
}
