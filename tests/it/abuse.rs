//! What bad clients get: the documented error or a closed connection, never a crash, never a disturbed neighbour.
//!
//! Every case runs beside a second client that goes on working on the same core, and ends with a look at the memory.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use photondb_proto::limits;
use photondb_proto::term::number;
use photondb_proto::wire::frame;
use photondb_proto::wire::handshake::{MAGIC_JSON, MAGIC_V0_4};
use serde_json::{Value, json};

use crate::client::{
    CLIENT_ERROR, COMPILE_ERROR, Client, RUNTIME_ERROR, SUCCESS_ATOM, count, create, get, insert, table, term,
};
use crate::machine::Machine;
use crate::server::{Folder, Server};

/// The longest that a neighbour may wait for a get.
const NEIGHBOUR_MAX: Duration = Duration::from_millis(500);
/// What bad clients may leave behind.
const LEFT_BYTES_MAX: u64 = 32 << 20;
/// Within this time the server has given back what they made it take: the allocator keeps freed memory for ten seconds.
const GIVEN_BACK_MAX: Duration = Duration::from_secs(20);

/// Runs `bad` while a neighbour on the same core reads and writes; then the server must be as before.
#[track_caller]
fn check(name: &str, bad: impl FnOnce(&Server)) {
    check_within(name, NEIGHBOUR_MAX, bad);
}

/// [`check`] where a neighbour may have to wait longer.
#[track_caller]
fn check_within(name: &str, neighbour_max: Duration, bad: impl FnOnce(&Server)) {
    let machine = Machine::shared();
    let folder = Folder::new(name);
    let mut server = Server::start(&machine, &folder, 1);
    let mut client = server.client();
    create(&mut client, &["docs", "big"]);
    client.run(&insert("docs", &[json!({ "id": 1, "text": "x".repeat(300) })]));
    let before = server.resident_bytes();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let neighbour = scope.spawn(|| {
            let mut slowest = Duration::ZERO;
            let mut rounds = 0u32;
            while !over.load(Ordering::Relaxed) || rounds < 10 {
                let begun = Instant::now();
                assert_eq!(client.run(&get("docs", &json!(1)))["id"], 1);
                slowest = slowest.max(begun.elapsed());
                rounds += 1;
                std::thread::sleep(Duration::from_millis(2));
            }
            slowest
        });
        {
            // However `bad` ends, the neighbour ends too.
            let _over = Raised(&over);
            bad(&server);
        }
        let slowest = neighbour.join().expect("the neighbour is served");
        assert!(slowest < neighbour_max, "{name}: a neighbour waited for {slowest:?}");
    });
    assert!(server.is_running(), "{name}: the server has ended");
    let ended = Instant::now();
    loop {
        let grown = server.resident_bytes().saturating_sub(before);
        if grown < LEFT_BYTES_MAX {
            break;
        }
        assert!(ended.elapsed() < GIVEN_BACK_MAX, "{name}: the server has grown by {} MiB", grown >> 20);
        std::thread::sleep(Duration::from_millis(250));
    }
    assert_eq!(server.client().run(&term(number::ADD, json!([1, 2]))), json!(3), "{name}");
}

/// Raises its flag when it goes.
struct Raised<'f>(&'f AtomicBool);

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A socket without a handshake.
fn raw(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.driver).expect("it accepts");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a time limit");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

/// All that comes until the server closes; that it does not is a failure.
#[track_caller]
fn until_closed(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => {
            panic!("the connection was not closed ({error}) after {:?}", String::from_utf8_lossy(&bytes))
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn a_wrong_magic_number_is_told_so_and_closed() {
    check("magic", |server| {
        for magic in [0u32, 0xdead_beef, u32::MAX] {
            let mut stream = raw(server);
            stream.write_all(&magic.to_le_bytes()).expect("it takes bytes");
            let text = until_closed(&mut stream);
            assert!(text.contains("ERROR: Received an unsupported protocol version"), "{text:?}");
        }
        let mut stream = raw(server);
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("it takes bytes");
        until_closed(&mut stream);
    });
}

#[test]
fn an_endless_handshake_is_closed() {
    check("endless", |server| {
        let mut stream = raw(server);
        stream.write_all(&photondb_proto::wire::handshake::MAGIC_V1_0.to_le_bytes()).expect("it takes bytes");
        // The server may close while bytes are on their way.
        for _ in 0..64 {
            if stream.write_all(&[b'{'; 4096]).is_err() {
                break;
            }
        }
        until_closed(&mut stream);
        let mut stream = raw(server);
        stream.write_all(&MAGIC_V0_4.to_le_bytes()).expect("it takes bytes");
        stream.write_all(&u32::MAX.to_le_bytes()).expect("it takes bytes");
        let text = until_closed(&mut stream);
        assert!(text.starts_with("ERROR: "), "{text:?}");
    });
}

#[test]
fn the_old_handshake_serves_queries() {
    check("old", |server| {
        let mut stream = raw(server);
        let mut hello = MAGIC_V0_4.to_le_bytes().to_vec();
        hello.extend_from_slice(&0u32.to_le_bytes());
        hello.extend_from_slice(&MAGIC_JSON.to_le_bytes());
        // A query right behind the handshake, all in one piece.
        frame::write_query(9, b"[1,[24,[1,2]],{}]", &mut hello);
        stream.write_all(&hello).expect("it takes bytes");
        let mut answer = vec![0; 8 + 12];
        stream.read_exact(&mut answer).expect("it answers");
        assert_eq!(&answer[..8], b"SUCCESS\0");
        assert_eq!(answer[8], 9);
        let mut payload =
            vec![0; u32::from_le_bytes(answer[16..20].try_into().expect("four bytes")) as usize];
        stream.read_exact(&mut payload).expect("it answers");
        let response: Value = serde_json::from_slice(&payload).expect("JSON");
        assert_eq!((response["t"].as_u64(), &response["r"]), (Some(SUCCESS_ATOM), &json!([3])));
    });
}

#[test]
fn broken_queries_get_their_error_and_the_connection_lives_on() {
    const UNKNOWN: &str = "Unrecognized TermType: 9999.";
    const BROKEN: &str = "Client is buggy (failed to deserialize query).";
    let rows: &[(&str, u64, &str)] = &[
        ("", CLIENT_ERROR, BROKEN),
        ("{", CLIENT_ERROR, BROKEN),
        ("[1,[24,[1,2", CLIENT_ERROR, BROKEN),
        ("\u{0}\u{1}\u{2}", CLIENT_ERROR, BROKEN),
        ("{}", CLIENT_ERROR, "Server could not parse query: "),
        ("[]", CLIENT_ERROR, "Server could not parse query: "),
        ("[77]", CLIENT_ERROR, "Server could not parse query: Unrecognized QueryType: 77."),
        ("[1]", CLIENT_ERROR, "Server could not parse query: "),
        ("[1,[9999,[]],{}]", COMPILE_ERROR, UNKNOWN),
        ("[1,[24,[1,[9999,[]]]],{}]", COMPILE_ERROR, UNKNOWN),
        ("[1,[16,[1]],{}]", COMPILE_ERROR, "Expected 2 arguments but found 1."),
        ("[1,[14,[]],{}]", COMPILE_ERROR, "Expected 1 argument but found 0."),
        ("[1,[24,[1,2],{\"nonsense\":1}],{}]", COMPILE_ERROR, "Unrecognized optional argument `nonsense`."),
        ("[1,[\"16\",[1]],{}]", COMPILE_ERROR, "Expected a TermType as a NUMBER but found STRING."),
        // A database that is none matters to who asks for it, and to nobody else.
        (
            "[1,[15,[\"t\"]],{\"db\":\"test\"}]",
            RUNTIME_ERROR,
            "Expected type DATABASE but found DATUM:\n\"test\"",
        ),
    ];
    check("broken", |server| {
        let mut client = server.client();
        for (text, kind, message) in rows {
            let response = client.ask_text(text).expect("the connection holds");
            let found = response.error().unwrap_or("no error");
            assert!(found.starts_with(message), "{text} gave {found:?}, want {message:?}");
            assert_eq!(response.response_type, *kind, "{text}: {found}");
        }
        let response = client.ask_text("[1,[24,[1,2]],{\"db\":\"test\"}]").expect("the connection holds");
        assert_eq!(response.response_type, SUCCESS_ATOM, "{response:?}");
        let unknown =
            client.send_as(77, "[2]").and_then(|()| client.receive()).expect("the connection holds");
        assert_eq!(unknown.response_type, CLIENT_ERROR, "{unknown:?}");
        assert_eq!(client.run(&term(number::ADD, json!([1, 2]))), json!(3));
    });
}

#[test]
fn ten_thousand_nested_terms_are_an_error_and_not_a_crash() {
    const DEPTH: usize = 10_000;
    let nested = |before: &str, middle: &str, after: &str| {
        format!("[1,{}{middle}{},{{}}]", before.repeat(DEPTH), after.repeat(DEPTH))
    };
    check("deep", |server| {
        let mut client = server.client();
        for (before, middle, after) in [
            ("[24,[1,", "1", "]]"),
            ("[2,[", "1", "]]"),
            ("{\"a\":", "1", "}"),
            ("[", "1", "]"),
            ("[69,[[2,[1]],", "1", "]]"),
            ("[23,[", "true", "]]"),
        ] {
            let response = client.ask_text(&nested(before, middle, after)).expect("the connection holds");
            assert!(response.response_type >= CLIENT_ERROR, "{before} gave {response:?}");
        }
        // Depth that is made while the query runs, and text that is parsed into depth.
        let text = format!("{}1{}", "[".repeat(DEPTH), "]".repeat(DEPTH));
        let failure = client.fail(&term(number::JSON, json!([text])));
        assert!(!failure.message.is_empty());
        assert_eq!(client.run(&term(number::ADD, json!([1, 2]))), json!(3));
    });
}

#[test]
fn an_oversized_frame_is_refused_without_being_held() {
    check("oversized", |server| {
        for bytes in [limits::QUERY_BYTES_MAX + 1, u32::MAX] {
            let mut client = server.client();
            let mut header = 5i64.to_le_bytes().to_vec();
            header.extend_from_slice(&bytes.to_le_bytes());
            client.stream.write_all(&header).expect("it takes bytes");
            let response = client.receive().expect("it answers");
            assert_eq!((response.token, response.response_type), (5, CLIENT_ERROR), "{response:?}");
            let text = response.error().expect("an error");
            assert!(text.starts_with("Query size (") && text.contains("greater than maximum"), "{text}");
            // What follows is thrown away or the connection is closed; it is never gathered.
            for _ in 0..32 {
                if client.stream.write_all(&[0; 1 << 20]).is_err() {
                    break;
                }
            }
        }
    });
}

#[test]
fn a_client_that_sends_a_byte_at_a_time_is_served_and_disturbs_nobody() {
    check("slow", |server| {
        let mut client = server.client();
        let mut bytes = Vec::new();
        frame::write_query(3, b"[1,[24,[1,2]],{}]", &mut bytes);
        // A second each would take too long here; what matters is that every byte comes alone.
        for byte in bytes {
            client.stream.write_all(&[byte]).expect("it takes bytes");
            std::thread::sleep(Duration::from_millis(60));
        }
        let response = client.receive().expect("it answers");
        assert_eq!((response.token, response.results), (3, vec![json!(3)]));
    });
}

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    check("vanish", |server| {
        for turn in 0..200 {
            let mut client = server.client();
            let mut bytes = Vec::new();
            frame::write_query(1, json!([1, table("docs"), {}]).to_string().as_bytes(), &mut bytes);
            match turn % 4 {
                // In the middle of a frame, with the promise of a large one.
                0 => {
                    let mut header = 5i64.to_le_bytes().to_vec();
                    header.extend_from_slice(&(100u32 << 20).to_le_bytes());
                    client.stream.write_all(&header).expect("it takes bytes");
                    client.stream.write_all(&[b'['; 5000]).expect("it takes bytes");
                }
                1 => client.stream.write_all(&bytes[..bytes.len() / 2]).expect("it takes bytes"),
                // Before the answer.
                2 => client.stream.write_all(&bytes).expect("it takes bytes"),
                _ => client.stream.shutdown(Shutdown::Write).expect("an open socket"),
            }
        }
        // In the middle of the handshake.
        for _ in 0..100 {
            let mut stream = raw(server);
            stream.write_all(&MAGIC_V0_4.to_le_bytes()[..2]).expect("it takes bytes");
        }
        let end = Instant::now() + Duration::from_secs(5);
        let open =
            || crate::http::metric(server.http, "rethinkdb_client_connections", &[]).expect("a metric");
        while open() > 1.0 {
            assert!(Instant::now() < end, "{} connections are still open", open());
            std::thread::sleep(Duration::from_millis(200));
        }
    });
}

#[test]
fn a_reader_that_does_not_read_holds_bounded_memory() {
    const ROWS: usize = 400;
    const ROW_BYTES: usize = 100_000;
    check("reader", |server| {
        let mut client = server.client();
        for id in 0..ROWS {
            client.run(&insert("big", &[json!({ "id": id, "text": "y".repeat(ROW_BYTES) })]));
        }
        let before = server.resident_bytes();
        // 64 queries of 40 MB each, whose answers nobody reads: only their first batches may wait.
        let mut lazy: Vec<Client> = (0..4).map(|_| server.client()).collect();
        for client in &mut lazy {
            for _ in 0..16 {
                client
                    .send(&term(number::COERCE_TO, json!([table("big"), "array"])), &json!({}))
                    .expect("it takes queries");
            }
        }
        std::thread::sleep(Duration::from_secs(3));
        let grown = server.resident_bytes().saturating_sub(before);
        // The budget for queries is 64 MB; one answer being written for each connection comes on top.
        assert!(grown < 400 << 20, "answers that nobody reads take {} MiB", grown >> 20);
        drop(lazy);
        assert_eq!(client.run(&count("big")), json!(ROWS));
        client.run(&term(number::DELETE, json!([table("big")])));
    });
}

/// One small query may ask for values without bound: it gets an error, and the others go on.
#[test]
fn values_that_grow_without_bound_are_refused() {
    // Tens of megabytes of text are written in one go.
    check_within("growth", 4 * NEIGHBOUR_MAX, |server| {
        let mut client = server.client();
        let text = "x".repeat(100_000);
        let doubled = |function: &str, begin: &str| {
            format!(r#"[1,[187,[[173,[40]],{begin},[69,[[2,[1,2]],{function}]]]],{{}}]"#)
        };
        let queries = [
            // Text twice as long each time.
            doubled("[24,[[10,[1]],[10,[1]]]]", &format!("\"{text}\"")),
            // An object that holds the one before twice, written as text.
            format!("[1,[172,[{}]],{{}}]", &inner(&doubled(r#"{"l":[10,[1]],"r":[10,[1]]}"#, r#"{"a":1}"#))),
        ];
        for query in queries {
            let response = client.ask_text(&query).expect("it answers");
            let text = format!("{response:?}");
            assert!(
                text.contains("memory budget"),
                "{}: {text}",
                query.chars().take(200).collect::<String>()
            );
        }
        // Joined bit by bit, each time as long as all before: it takes long, and nobody else waits for it.
        let slow = r#"[1,[43,[[37,[[38,[[173,[30000]],[69,[[2,[3]],"ZZZ"]]]],[69,[[2,[1,2]],[24,[[10,[1]],[10,[2]]]]]]]]]],{}]"#;
        client.send_text(&slow.replace("ZZZ", &"z".repeat(1000))).expect("it takes queries");
        std::thread::sleep(Duration::from_millis(500));
    });
}

/// The term of a START message without options.
fn inner(query: &str) -> String {
    query.trim_start_matches("[1,").trim_end_matches(",{}]").to_owned()
}

#[test]
fn tokens_in_flight_are_answered_each_once() {
    check("tokens", |server| {
        let mut client = server.client();
        let mut wanted: std::collections::BTreeMap<i64, Value> = (0..3000u64)
            .map(|number| {
                let text = json!([1, [24, [number, 1]], {}]).to_string();
                (client.send_text(&text).expect("it takes queries"), json!(number + 1))
            })
            .collect();
        while !wanted.is_empty() {
            let response = client.receive().expect("it answers");
            let want = wanted.remove(&response.token).expect("a token in flight");
            assert_eq!(response.results, vec![want]);
        }
    });
}

#[test]
fn noreply_queries_are_not_answered_and_noreply_wait_waits_for_them() {
    check("noreply", |server| {
        let mut client = server.client();
        for id in 100..200 {
            let insert = term(number::INSERT, json!([table("docs"), { "id": id }]));
            client.send(&insert, &json!({ "noreply": true })).expect("it takes queries");
        }
        // An error is not answered either.
        client
            .send(&term(number::ERROR, json!(["unheard"])), &json!({ "noreply": true }))
            .expect("it takes queries");
        let response = client.ask_text("[4]").expect("it answers");
        assert_eq!(response.response_type, 4, "{response:?}");
        assert_eq!(client.run(&count("docs")), json!(101));
    });
}

#[test]
fn an_abandoned_cursor_can_be_stopped_and_goes_with_its_connection() {
    check("cursor", |server| {
        let mut client = server.client();
        let rows: Vec<Value> = (0..2000).map(|id| json!({ "id": id, "text": "z".repeat(500) })).collect();
        client.run(&insert("big", &rows));
        let first = client.ask_text(&json!([1, table("big"), {}]).to_string()).expect("it answers");
        assert_eq!(
            first.response_type,
            crate::client::SUCCESS_PARTIAL,
            "the table does not fit in one batch"
        );
        client.send_as(first.token, "[3]").expect("it takes queries");
        let stopped = client.receive().expect("it answers");
        assert_eq!((stopped.token, stopped.response_type), (first.token, crate::client::SUCCESS_SEQUENCE));
        client.send_as(first.token, "[2]").expect("it takes queries");
        assert_eq!(client.receive().expect("it answers").response_type, CLIENT_ERROR);
        for _ in 0..20 {
            client.ask_text(&json!([1, table("big"), {}]).to_string()).expect("it answers");
        }
        drop(client);
        let end = Instant::now() + Duration::from_secs(5);
        let open = || crate::http::metric(server.http, "rethinkdb_cursors_open", &[]).expect("a metric");
        while open() > 0.0 {
            assert!(Instant::now() < end, "{} cursors are still open", open());
            std::thread::sleep(Duration::from_millis(200));
        }
        server.client().run(&term(number::DELETE, json!([table("big")])));
    });
}
