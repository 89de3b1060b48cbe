//! What keeps the server from starting is one sentence that says what to do.

use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::machine::Machine;
use crate::server::{Folder, Server, program, serve, wait};

/// Starts a server that has to give up, with all of `parts` in the one line it prints.
#[track_caller]
fn check_refused(folder: &Folder, mut command: Command, parts: &[&str]) {
    let output = folder.0.join("refused.txt");
    let file = std::fs::File::create(&output).expect("the output file can be made");
    command.stdout(file.try_clone().expect("a descriptor")).stderr(file);
    let mut child = command.spawn().expect("the program starts");
    let status = wait(&mut child, Duration::from_secs(10));
    let _ = child.kill();
    let _ = child.wait();
    let text = std::fs::read_to_string(&output).expect("the output is text");
    assert!(status.is_some_and(|status| !status.success()), "{status:?}: {text}");
    assert!(!text.contains("panicked"), "{text}");
    let sentences: Vec<&str> = text.lines().filter(|line| line.starts_with("photondb: ")).collect();
    assert_eq!(
        (sentences.len(), text.trim_end().lines().count()),
        (1, 1),
        "one sentence and nothing else: {text}"
    );
    for part in parts {
        assert!(text.contains(part), "{text:?} does not say {part:?}");
    }
}

#[test]
fn a_data_directory_that_another_server_holds_is_refused() {
    let machine = Machine::shared();
    let folder = Folder::new("held");
    let server = Server::start(&machine, &folder, 1);
    let other = Folder::new("holder");
    let mut command = serve(&folder, 1);
    command.arg("--log-dir").arg(other.0.join("log"));
    check_refused(&folder, command, &["another process", "--data-dir"]);
    assert!(server.stop().success());
}

#[test]
fn a_data_directory_may_be_named_from_where_one_is() {
    let machine = Machine::shared();
    let folder = Folder::new("relative");
    for named in ["./data", "data", "deeper/data"] {
        let mut command = serve(&folder, 2);
        command.current_dir(&folder.0).args(["--data-dir", named]);
        let server = Server::start_with(&machine, &folder, command);
        let mut client = server.client();
        let databases =
            client.run(&crate::client::term(photondb_proto::term::number::DB_LIST, serde_json::json!([])));
        assert!(databases.as_array().is_some_and(|names| names.contains(&"rethinkdb".into())), "{databases}");
        assert!(folder.0.join(named).join("store-1").exists(), "{named}");
        assert!(server.stop().success());
    }
}

#[test]
fn a_port_in_use_is_refused() {
    let _machine = Machine::shared();
    let folder = Folder::new("port");
    let holder = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let port = holder.local_addr().expect("an address").port().to_string();
    for (held, other) in [("--driver-port", "--http-port"), ("--http-port", "--driver-port")] {
        let mut command = program();
        command.args(["serve", "--cores", "1", held, &port, other, "0"]);
        command.arg("--data-dir").arg(folder.data_dir());
        check_refused(&folder, command, &[&port, "in use", held]);
    }
}

#[test]
fn a_port_that_a_server_of_ours_shares_among_cores_is_refused() {
    let machine = Machine::shared();
    let (folder, other) = (Folder::new("first"), Folder::new("second"));
    let server = Server::start(&machine, &folder, 2);
    let mut command = program();
    command.args(["serve", "--cores", "2", "--no-http", "--driver-port", &server.driver.port().to_string()]);
    command.arg("--data-dir").arg(other.data_dir());
    check_refused(&other, command, &["in use", "--driver-port"]);
}

/// An address of this machine beyond loopback, if it has one. Connecting a datagram socket sends nothing.
fn outer_address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("192.0.2.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

#[test]
fn listening_beyond_loopback_needs_a_password() {
    let machine = Machine::shared();
    let folder = Folder::new("exposed");
    let mut addresses = vec!["all".to_owned()];
    addresses.extend(outer_address());
    for address in addresses {
        let mut command = serve(&folder, 1);
        command.args(["--bind", &address]);
        check_refused(&folder, command, &["password", "--initial-password", "--allow-empty-password"]);
    }
    let mut command = serve(&folder, 1);
    command.args(["--bind", "all", "--initial-password", "secret"]);
    let server = Server::start_with(&machine, &folder, command);
    drop(server);
    // Now that it has one, it is served beyond loopback without the flag.
    let mut command = serve(&folder, 1);
    command.args(["--bind", "all"]);
    drop(Server::start_with(&machine, &folder, command));
    let other = Folder::new("open");
    let mut command = serve(&other, 1);
    command.args(["--bind", "all", "--allow-empty-password"]);
    drop(Server::start_with(&machine, &other, command));
}

#[test]
fn dev_mode_is_for_loopback() {
    let machine = Machine::shared();
    let folder = Folder::new("dev");
    let mut command = serve(&folder, 1);
    command.args(["--dev-mode", "--bind", "all"]);
    check_refused(&folder, command, &["--dev-mode", "loopback"]);
    let mut command = serve(&folder, 1);
    command.arg("--dev-mode");
    drop(Server::start_with(&machine, &folder, command));
}

#[test]
fn a_file_system_without_direct_io_is_refused() {
    let _machine = Machine::shared();
    let folder = Folder::new("tmpfs");
    // Where Linux keeps shared memory is a tmpfs; a machine without it has nothing to show here.
    let shm = Path::new("/dev/shm");
    if !is_tmpfs(shm) {
        println!("skipped: /dev/shm is no tmpfs");
        return;
    }
    let data_dir = shm.join(format!("photondb-it-{}", std::process::id()));
    let mut command = program();
    command.args(["serve", "--cores", "1", "--driver-port", "0", "--no-http"]);
    command.arg("--data-dir").arg(&data_dir).arg("--log-dir").arg(folder.0.join("log"));
    check_refused(&folder, command, &["direct I/O", "--data-dir"]);
    let _ = std::fs::remove_dir_all(data_dir);
}

fn is_tmpfs(path: &Path) -> bool {
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    mounts.lines().any(|line| {
        let mut words = line.split(' ').skip(1);
        words.next() == path.to_str() && words.next() == Some("tmpfs")
    })
}

#[test]
fn an_unknown_format_version_is_refused() {
    let machine = Machine::shared();
    let folder = Folder::new("format");
    assert!(Server::start(&machine, &folder, 1).stop().success());
    let superblocks = folder.data_dir().join("store-0/superblocks");
    let mut bytes = std::fs::read(&superblocks).expect("a store has superblocks");
    for block in bytes.chunks_mut(4096).filter(|block| block.starts_with(b"PHOTONDB")) {
        block[8..12].copy_from_slice(&99u32.to_le_bytes());
    }
    std::fs::write(&superblocks, bytes).expect("they can be written");
    check_refused(&folder, serve(&folder, 1), &["format version 99"]);
}

#[test]
fn the_files_of_rethinkdb_are_not_touched() {
    let _machine = Machine::shared();
    let folder = Folder::new("rethinkdb");
    std::fs::create_dir_all(folder.data_dir()).expect("a folder can be made");
    std::fs::write(folder.data_dir().join("metadata"), "RethinkDB").expect("a file can be made");
    check_refused(&folder, serve(&folder, 1), &["RethinkDB", "rethinkdb-dump"]);
}

#[test]
fn settings_that_are_wrong_are_named() {
    let _machine = Machine::shared();
    let folder = Folder::new("settings");
    for (arguments, part) in [
        (&["--cache-size", "lots"][..], "cache-size"),
        (&["--cores", "0"], "cores"),
        (&["--driver-port", "70000"], "driver-port"),
        (&["--join", "somewhere:29015"], "join"),
        (&["--io-threads", "64"], "io-threads"),
        (&["--tls-ciphers", "x"], "tls-ciphers"),
    ] {
        let output = program().arg("serve").args(arguments).arg("--data-dir").arg(folder.data_dir()).output();
        let output = output.expect("the program starts");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && text.contains(part), "{arguments:?}: {text}");
    }
    let config = folder.0.join("photondb.toml");
    std::fs::write(&config, "cache-sise = 100\n").expect("a file can be made");
    let output = program().args(["serve", "--config"]).arg(&config).output().expect("the program starts");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("photondb.toml:1: there is no setting `cache-sise`"),
        "{text}"
    );
}

#[test]
fn settings_come_from_flags_environment_and_file() {
    let machine = Machine::shared();
    let folder = Folder::new("sources");
    let config = folder.0.join("photondb.toml");
    std::fs::write(&config, "cache-size = 48\nserver-name = \"of_the_file\"\n").expect("a file can be made");
    let mut command = program();
    command.args(["--cores", "1", "--driver-port", "0", "--config"]).arg(&config);
    command.env("PHOTONDB_DATA_DIR", folder.data_dir()).env("RETHINKDB_HTTP_PORT", "0");
    command.env("PHOTONDB_CLUSTER_PORT", "0").env("PHOTONDB_CASHE_SIZE", "9");
    let server = Server::start_with(&machine, &folder, command);
    let text = server.output();
    assert!(text.contains("did you mean PHOTONDB_CACHE_SIZE?"), "{text}");
    assert!(text.contains("48 MB") && text.contains("\"of_the_file\""), "{text}");
    assert!(folder.data_dir().join("LOCK").exists());
}
