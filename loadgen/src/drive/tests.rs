//! The engine against a server that stalls: what each kind of loop makes of that.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::Receiver;

use super::*;
use crate::choose::Distribution;
use crate::dialect::Answer;
use crate::operation::Operation;
use crate::world::Shape;

const STALL: Duration = Duration::from_millis(400);

/// One byte asks, one byte answers; a connection begins with nothing.
#[derive(Clone)]
struct Bytes;

impl Dialect for Bytes {
    type Greeting = ();
    fn greet(&mut self, out: &mut Vec<u8>) {
        out.push(b'h');
    }
    fn greeted(&mut self, _: &mut (), _: &[u8], _: &mut Vec<u8>) -> Result<bool, String> {
        Ok(true)
    }
    fn request(&mut self, _: i64, _: &Operation, _: usize, _: Subject, _: &mut World, out: &mut Vec<u8>) {
        out.push(b'q');
    }
    fn go_on(&mut self, _: i64, _: &mut Vec<u8>) {}
    fn split<'a>(&self, unread: &'a [u8]) -> Result<Option<Answer<'a>>, String> {
        Ok(unread.first().map(|_| Answer { bytes: 1, token: None, payload: &unread[..1] }))
    }
    fn judge(&self, _: &[u8], _: Expect) -> Verdict {
        Verdict::Done
    }
}

/// Answers each byte; stops once for a while after so many.
fn server(stall_after: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it listens");
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a client");
        let mut buffer = [0; 256];
        let mut answered = 0;
        while let Ok(count @ 1..) = stream.read(&mut buffer) {
            if (answered..answered + count).contains(&stall_after) {
                std::thread::sleep(STALL);
            }
            answered += count;
            if stream.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
    });
    address
}

fn plan(address: SocketAddr, pace: Pace, length: Length) -> Plan {
    let operation = Operation {
        name: "byte".to_owned(),
        weight: 1,
        records: Records::Existing,
        steps: Vec::new(),
        expect: Expect::Any,
    };
    Plan {
        address,
        io: Io::Auto,
        busy_poll: false,
        threads: 1,
        connections: 1,
        in_flight: 1,
        style: Style::Steady,
        operations: vec![operation],
        pace,
        warm_up: Duration::ZERO,
        length,
        records: 10,
        shape: Shape { fields: 1, text_bytes: 1 },
        distribution: Distribution::Uniform,
        seed: 1,
        first_insert: 100,
    }
}

/// Answers that took more than half a stall.
fn slow(outcome: &Outcome) -> u64 {
    let histogram = &outcome.totals.latencies[0];
    let half = (STALL / 2).as_nanos() as u64;
    histogram.len() - histogram.count_between(0, half)
}

#[test]
fn an_open_loop_counts_a_stall_for_all_that_had_to_wait() {
    // 1,000 a second: a stall of 0.4 s delays the 200 requests due in its first half by more than half of it.
    let plan = plan(server(100), Pace::Open(1000.0), Length::Count(600));
    let outcome = run(&plan, &Bytes, |_| {}).expect("it runs");
    assert_eq!(outcome.totals.latencies[0].len(), 600);
    assert!(slow(&outcome) >= 190, "{} answers are slow", slow(&outcome));
}

#[test]
fn a_closed_loop_meets_a_stall_once() {
    let plan = plan(server(100), Pace::Closed, Length::Count(600));
    let outcome = run(&plan, &Bytes, |_| {}).expect("it runs");
    assert_eq!(outcome.totals.latencies[0].len(), 600);
    assert!((1..100).contains(&slow(&outcome)), "{} answers are slow", slow(&outcome));
}

#[test]
fn busy_polling_takes_every_answer_and_keeps_to_its_time() {
    for (io, name) in [(Io::Sockets, "sockets, busy polling"), (Io::Auto, "busy polling")] {
        let counted = Plan { io, busy_poll: true, ..plan(server(100), Pace::Closed, Length::Count(600)) };
        let outcome = run(&counted, &Bytes, |_| {}).expect("it runs");
        assert_eq!(outcome.totals.latencies[0].len(), 600);
        assert!(outcome.io.ends_with(name), "{}", outcome.io);
        // While the server stalls nothing comes at all.
        let length = Length::Duration(Duration::from_millis(200));
        let paced =
            Plan { io, busy_poll: true, in_flight: 1000, ..plan(server(1), Pace::Open(1000.0), length) };
        let outcome = run(&paced, &Bytes, |_| {}).expect("it runs");
        assert_eq!(outcome.totals.latencies[0].len(), 200);
        assert!(outcome.totals.unsent < 20, "{} were not sent", outcome.totals.unsent);
    }
}

#[test]
fn what_an_open_loop_could_not_send_counts_with_its_waiting() {
    // The server stops before its first answer for as long as the run: one request is sent, the others are not.
    let length = Length::Duration(Duration::from_millis(200));
    let plan = plan(server(1), Pace::Open(1000.0), length);
    let outcome = run(&plan, &Bytes, |_| {}).expect("it runs");
    let counted = outcome.totals.latencies[0].len();
    assert_eq!(counted, 200, "every request that was due is counted");
    assert!(outcome.totals.unsent > 150, "{} were not sent", outcome.totals.unsent);
}

#[test]
fn requests_are_due_at_even_distances() {
    let start = Instant::now();
    let schedule = |thread: usize, next| Schedule { start, offset: thread as f64 / 100.0, step: 0.02, next };
    let due = |thread, next| (schedule(thread, next).due() - start).as_millis();
    assert_eq!([due(0, 0), due(1, 0), due(0, 1), due(1, 1)], [0, 10, 20, 30]);
}

#[test]
fn a_worker_tells_its_seconds_even_when_nobody_listens() {
    let (sender, receiver): (Sender<Interval>, Receiver<Interval>) = channel();
    drop(receiver);
    Recorder::new(1, Instant::now(), sender).finish();
}
