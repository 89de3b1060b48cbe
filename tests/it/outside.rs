//! What queries ask of the world outside: `http` against a server of our own, and scripts whose processes are killed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use photondb_proto::term::number;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::client::Client;
use crate::loopback;
use crate::machine::Machine;
use crate::server::{Folder, Server, serve};

fn http(url: &str, options: Value) -> Value {
    json!([number::HTTP, [url], options])
}

/// A server that may ask other servers.
fn outgoing(machine: &Machine, folder: &Folder, flags: &[&str]) -> Server {
    let mut command = serve(folder, 1);
    command.args(flags);
    Server::start_with(machine, folder, command)
}

/// What a request brings: the value, or `! ` and the first line of the error.
fn bring(client: &mut Client, url: &str, options: &Value) -> Value {
    match client.try_run(&http(url, options.clone())).expect("the connection stays") {
        Ok(value) => value,
        Err(failure) => json!(format!("! {}", failure.message.lines().next().unwrap_or_default())),
    }
}

#[test]
fn http_gets_what_a_server_has() {
    let machine = Machine::shared();
    let folder = Folder::new("outside");
    let server = outgoing(&machine, &folder, &["--allow-http", "--http-allow-private"]);
    let mut client = server.client();
    let (address, asked) = loopback::start();
    let base = format!("http://{address}");
    let bytes = json!({"$reql_type$": "BINARY", "data": "AGJ5dGVz"});
    let (user, digest) =
        (json!({"user": "u", "pass": "p"}), json!({"user": "u", "pass": "p", "type": "digest"}));
    let wrong = json!({"user": "u", "pass": "q", "type": "digest"});
    let failed =
        |path: &str, reason: &str| json!(format!("! Error in HTTP GET of `{base}{path}`: {reason}."));
    for (path, options, want) in [
        ("/list", json!({}), json!([1, 2])),
        ("/plain", json!({}), json!("[1, 2]")),
        ("/plain", json!({"result_format": "json"}), json!([1, 2])),
        ("/list", json!({"result_format": "text"}), json!("[1, 2]")),
        ("/bytes", json!({}), bytes.clone()),
        ("/bytes", json!({"result_format": "binary"}), bytes),
        ("/typed?text/javascript", json!({}), json!([1, 2])),
        ("/typed?text/plain", json!({"result_format": "jsonp"}), json!([1, 2])),
        ("/typed?text/plain", json!({"result_format": "auto"}), json!("call([1, 2]);")),
        (
            "/typed?application/json",
            json!({}),
            failed("/typed?application/json", "failed to parse JSON response: Invalid value."),
        ),
        ("/basic", json!({"auth": user}), json!("in")),
        ("/basic", json!({}), failed("/basic", "status code 401")),
        ("/digest", json!({"auth": digest}), json!("in")),
        ("/digest", json!({"auth": wrong}), failed("/digest", "status code 401")),
        ("/status/404", json!({}), failed("/status/404", "status code 404")),
        ("/status/500", json!({"attempts": 1}), failed("/status/500", "status code 500")),
        ("/status/304", json!({}), failed("/status/304", "status code 304")),
        ("/status/204", json!({"result_format": "text"}), json!("")),
        ("/redirect/1", json!({"redirects": 0}), failed("/redirect/1", "status code 302")),
        ("/redirect/1", json!({}), failed("/redirect/1", "Number of redirects hit maximum amount")),
        ("/pages/0", json!({"page": "link-next", "page_limit": -1}), json!([0, 1, 2, 3, 4, 5, 6])),
        ("/pages/0", json!({"page": "link-next", "page_limit": 2}), json!([0, 1, 2, 3])),
        ("/pages/0", json!({"page": "link-next", "page_limit": 0}), json!([])),
        ("/busy/3", json!({"attempts": 3}), json!(3)),
        ("/busy/9", json!({"attempts": 2}), failed("/busy/9", "status code 503")),
        (
            "/slow",
            json!({"timeout": 0.3}),
            json!(format!("! Error in HTTP GET of `{base}/slow`: timed out after 0.300 seconds.")),
        ),
    ] {
        assert_eq!(bring(&mut client, &format!("{base}{path}"), &options), want, "{path} {options}");
    }
    assert_eq!((asked.times("/busy/9"), asked.times("/pages/3"), asked.times("/redirect/0")), (2, 1, 1));
    for (path, start) in [
        ("/cut", "Failure when receiving data from the peer"),
        ("/noise", "Failure when receiving data from the peer"),
    ] {
        let got = bring(&mut client, &format!("{base}{path}"), &json!({"attempts": 1}));
        let wanted = format!("! Error in HTTP GET of `{base}{path}`: {start}");
        assert!(got.as_str().is_some_and(|text| text.starts_with(&wanted)), "{path}: {got}");
    }
    let closed = format!("http://{}/", loopback::closed_port());
    let got = bring(&mut client, &closed, &json!({"attempts": 2}));
    assert_eq!(got, format!("! Error in HTTP GET of `{closed}`: Couldn't connect to server."));
    let missing = json!([number::DEFAULT, [http(&format!("{base}/status/404"), json!({})), "instead"]]);
    assert_eq!(client.run(&missing), "instead");
}

#[test]
fn http_sends_what_the_query_says() {
    let machine = Machine::shared();
    let folder = Folder::new("outside");
    let server = outgoing(&machine, &folder, &["--allow-http", "--http-allow-private"]);
    let mut client = server.client();
    let (address, _) = loopback::start();
    let base = format!("http://{address}");
    let form = json!("application/x-www-form-urlencoded");
    for (path, options, method, query, body, media) in [
        ("/echo", json!({}), "GET", "", "", Value::Null),
        ("/echo?a=1", json!({"params": {"b": "x &", "c": null}}), "GET", "a=1&b=x%20%26&c=", "", Value::Null),
        (
            "/echo",
            json!({"method": "POST", "data": {"a": "ö", "b": 1.5}}),
            "POST",
            "",
            "a=%C3%B6&b=1.5",
            form.clone(),
        ),
        ("/echo", json!({"method": "POST", "data": "raw"}), "POST", "", "raw", form.clone()),
        (
            "/echo",
            json!({"method": "PUT", "data": {"a": [2, [1, {}]]}}),
            "PUT",
            "",
            r#"{"a":[1,{}]}"#,
            json!("application/json"),
        ),
        (
            "/echo",
            json!({"method": "PATCH", "data": {"a": null}}),
            "PATCH",
            "",
            r#"{"a":null}"#,
            json!("application/json"),
        ),
        ("/echo", json!({"method": "DELETE", "data": "gone"}), "DELETE", "", "gone", Value::Null),
        (
            "/echo",
            json!({"method": "POST", "data": "{}", "header": {"Content-Type": "application/json"}}),
            "POST",
            "",
            "{}",
            json!("application/json"),
        ),
        ("/moved/307", json!({"method": "POST", "data": "kept"}), "POST", "moved", "kept", form),
        ("/moved/303", json!({"method": "POST", "data": "lost"}), "GET", "moved", "", Value::Null),
        ("/redirect/2", json!({"redirects": 3}), "GET", "", "", Value::Null),
    ] {
        let got = bring(&mut client, &format!("{base}{path}"), &options);
        let told = (got["method"].as_str(), got["query"].as_str(), got["body"].as_str());
        assert_eq!(told, (Some(method), Some(query), Some(body)), "{path} {options}: {got}");
        assert_eq!(got["headers"]["content-type"], media, "{path} {options}");
        assert!(
            got["headers"]["user-agent"].as_str().is_some_and(|agent| agent.starts_with("RethinkDB/")),
            "{got}"
        );
    }
    let headers = json!({"header": {"X-One": "1", "Cookie": "secret", "X-Two": 2}});
    let got = bring(&mut client, &format!("{base}/echo"), &headers);
    assert_eq!(
        [&got["headers"]["x-one"], &got["headers"]["x-two"], &got["headers"]["cookie"]],
        ["1", "2", "secret"]
    );
    let lines = json!({"header": [2, ["X-One: 1", "X-Two: a:b"]]});
    let got = bring(&mut client, &format!("{base}/echo"), &lines);
    assert_eq!([&got["headers"]["x-one"], &got["headers"]["x-two"]], ["1", "a:b"]);
    let secret = json!({"auth": {"user": "u", "pass": "p"}, "header": {"Cookie": "secret"}});
    let got = bring(&mut client, &format!("{base}/away"), &secret);
    assert_eq!(
        (&got["headers"]["authorization"], &got["headers"]["cookie"]),
        (&Value::Null, &Value::Null),
        "{got}"
    );
    let head = bring(&mut client, &format!("{base}/list"), &json!({"method": "HEAD"}));
    assert_eq!(head["content-length"], "6", "{head}");
    // The second page is the last: a function says where the next one is.
    let query = json!([number::BRACKET, [[number::BRACKET, [[number::VAR, [1]], "body"]], "query"]]);
    let next = json!([number::BRANCH, [[number::EQ, [query, "n=2"]], null, {"params": {"n": 2}}]]);
    let page = json!([number::FUNC, [[2, [1]], next]]);
    let got = bring(
        &mut client,
        &format!("{base}/echo"),
        &json!({"params": {"n": 1}, "page": page, "page_limit": 5}),
    );
    let queries: Vec<&str> =
        got.as_array().expect("pages").iter().filter_map(|page| page["query"].as_str()).collect();
    assert_eq!(queries, ["n=1", "n=2"]);
}

#[test]
fn http_checks_certificates_unless_told_not_to() {
    let machine = Machine::shared();
    let folder = Folder::new("outside");
    let server = outgoing(&machine, &folder, &["--allow-http", "--http-allow-private"]);
    let mut client = server.client();
    let base = format!("https://{}/list", loopback::start_tls());
    let got = bring(&mut client, &base, &json!({"attempts": 1}));
    let wanted = format!("! Error in HTTP GET of `{base}`: SSL connect error");
    assert!(got.as_str().is_some_and(|text| text.starts_with(&wanted)), "{got}");
    assert_eq!(bring(&mut client, &base, &json!({"verify": false})), json!([1, 2]));
}

#[test]
fn http_is_off_unless_allowed_and_keeps_out_of_private_places() {
    let machine = Machine::shared();
    let (address, asked) = loopback::start();
    let folder = Folder::new("outside");
    let server = outgoing(&machine, &folder, &[]);
    let failure = server.client().fail(&http(&format!("http://{address}/list"), json!({})));
    assert!(failure.message.contains("--allow-http"), "{failure:?}");
    server.stop();
    let server = outgoing(&machine, &folder, &["--allow-http"]);
    let mut client = server.client();
    let port = address.port();
    for host in [
        "127.0.0.1",
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "127.1",
        "2130706433",
        "169.254.169.254",
    ] {
        let got =
            bring(&mut client, &format!("http://{host}:{port}/list"), &json!({"attempts": 1, "timeout": 5}));
        assert!(got.as_str().is_some_and(|text| text.starts_with("! Error in HTTP GET")), "{host}: {got}");
    }
    assert_eq!(asked.times("/list"), 0, "a request came through");
}

fn script(source: &str, options: Value) -> Value {
    json!([number::JAVASCRIPT, [source], options])
}

/// The processes that run scripts for the server.
fn workers(server: &Server) -> Vec<Pid> {
    let children = format!("/proc/{0}/task", server.pid());
    let tasks = std::fs::read_dir(children).expect("it runs");
    let lists = tasks.flatten().filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<i32>>())
        .filter(|id| {
            let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
            // Behind the name in brackets stands the state: dead ones that nobody has asked for yet run nothing.
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        })
        .filter_map(Pid::from_raw)
        .collect()
}

#[test]
fn a_script_that_goes_wrong_is_an_error_and_the_next_one_works() {
    let machine = Machine::shared();
    let folder = Folder::new("outside");
    let server = outgoing(&machine, &folder, &[]);
    let mut client = server.client();
    let works = |client: &mut Client| assert_eq!(client.run(&script("6 * 7", json!({}))), 42);
    works(&mut client);

    let endless = "while (true) {}";
    let begun = Instant::now();
    let failure = client.fail(&script(endless, json!({"timeout": 0.3})));
    assert_eq!(failure.message, format!("JavaScript query `{endless}` timed out after 0.300 seconds."));
    assert!(begun.elapsed() < Duration::from_secs(15));
    works(&mut client);

    let hungry = "var a = []; while (true) a.push('x'.repeat(1 << 20) + a.length)";
    let failure = client.fail(&script(hungry, json!({"timeout": 30})));
    assert!(failure.message.contains("out of memory"), "{failure:?}");
    let failure = client.fail(&script("(function f() { return f(); })()", json!({})));
    assert!(failure.message.contains("Maximum call stack size exceeded"), "{failure:?}");
    works(&mut client);

    // Killed in the middle of a script, and killed while they wait for one.
    client.send(&script(endless, json!({"timeout": 120})), &json!({})).expect("it takes queries");
    let answered = AtomicBool::new(false);
    let response = std::thread::scope(|scope| {
        // One that is killed before the script reaches it is only replaced: so again, until the script was hit.
        scope.spawn(|| {
            while !answered.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(300));
                // It may have been answered meanwhile: then the next script has begun to run there.
                if !answered.load(Ordering::Relaxed) {
                    kill_all(&server);
                }
            }
        });
        let response = client.receive();
        answered.store(true, Ordering::Relaxed);
        response.expect("it answers")
    });
    let message = response.error().unwrap_or_default();
    assert_eq!(message, format!("Javascript query `{endless}` caused a crash in a worker process."));
    works(&mut client);
    assert!(kill_all(&server) > 0, "no script has a process");
    works(&mut client);
    let function = script("(function(row) { return row + 1; })", json!({}));
    assert_eq!(client.run(&json!([number::MAP, [[2, [1, 2, 3]], function]])), json!([2, 3, 4]));
}

/// Kills them, waits until they are gone, and counts them.
fn kill_all(server: &Server) -> usize {
    let found = workers(server);
    for worker in &found {
        let _ = kill_process(*worker, Signal::KILL);
    }
    let begun = Instant::now();
    while workers(server).iter().any(|worker| found.contains(worker)) {
        assert!(begun.elapsed() < Duration::from_secs(30), "a process that was killed stays");
        std::thread::sleep(Duration::from_millis(10));
    }
    found.len()
}
