//! Changefeeds under load: one connection writes, many feeds on some connections are told; one thread drives them all by
//! epoll and measures from when a write was to be sent until its change is here, for every delivery.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use memchr::memmem;
use photondb_proto::wire::frame::write_query;
use rustix::event::epoll;

use crate::work::handshake;

const TABLE: &str = "[15,[[14,[\"bench\"]],\"feeds\"]]";
/// Writes under way when they are not paced.
const IN_FLIGHT: u64 = 64;
const WRITER: u64 = u64::MAX;
/// Received at a time.
const RECEIVE_BYTES: usize = 256 << 10;

/// What the feeds are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watched {
    /// The table: every change is told.
    Everything,
    /// A filter that no change passes.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
pub struct FanOut {
    pub listeners: u64,
    pub watched: Watched,
    /// None: as fast as they are acknowledged.
    pub writes_per_second: Option<u64>,
    pub warm_up: Duration,
    pub duration: Duration,
}

#[derive(Clone, Debug)]
pub struct Deliveries {
    pub writes_per_second: f64,
    pub deliveries_per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
    /// Times that a feed was told that it missed changes.
    pub overflows: u64,
}

struct Connection {
    stream: TcpStream,
    /// Room for what is received, of which so much is there.
    received: Vec<u8>,
    filled: usize,
    out: Vec<u8>,
}

impl Connection {
    fn open(address: SocketAddr) -> io::Result<Connection> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        handshake(&mut stream)?;
        stream.set_nonblocking(true)?;
        Ok(Connection { stream, received: vec![0; RECEIVE_BYTES], filled: 0, out: Vec::new() })
    }

    /// Reads what is there; gives whole responses, each with its token.
    fn receive(
        &mut self,
        mut each: impl FnMut(i64, &[u8], &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        if self.filled == self.received.len() {
            self.received.resize(2 * self.filled, 0);
        }
        match self.stream.read(&mut self.received[self.filled..]) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed a connection"));
            }
            Ok(count) => self.filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
        let mut at = 0;
        while let Some((head, rest)) = self.received[at..self.filled].split_first_chunk::<12>() {
            let (token, size) = head.split_at(8);
            let token = i64::from_le_bytes(token.try_into().expect("eight bytes"));
            let size = u32::from_le_bytes(size.try_into().expect("four bytes")) as usize;
            let Some(payload) = rest.get(..size) else { break };
            each(token, payload, &mut self.out)?;
            at += 12 + size;
        }
        self.received.copy_within(at..self.filled, 0);
        self.filled -= at;
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

struct Meter {
    rows: memmem::Finder<'static>,
    sent: memmem::Finder<'static>,
    skipped: memmem::Finder<'static>,
    began: Instant,
    measured_from: Duration,
    latency: Histogram<u64>,
    deliveries: u64,
    overflows: u64,
}

impl Meter {
    /// Counts the changes in a response; the new row of each bears when its write was to be sent, in microseconds.
    fn take(&mut self, payload: &[u8]) {
        let now = self.began.elapsed();
        let is_measured = now >= self.measured_from;
        let now_us = now.as_micros() as u64;
        for row in self.rows.find_iter(payload) {
            let Some(at) = self.sent.find(&payload[row..]) else { break };
            let digits = payload[row + at + self.sent.needle().len()..]
                .iter()
                .take_while(|byte| byte.is_ascii_digit());
            let sent = digits.fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
            if is_measured {
                self.deliveries += 1;
                self.latency.saturating_record(now_us.saturating_sub(sent));
            }
        }
        // It is said before anything else.
        self.overflows += u64::from(self.skipped.find(&payload[..payload.len().min(200)]).is_some());
    }
}

/// Opens the feeds, writes, and measures. The table must be there.
///
/// # Errors
/// When a connection breaks or the server answers an error.
pub fn run(address: SocketAddr, load: FanOut) -> io::Result<Deliveries> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let watch = |connection: &Connection, number: u64| {
        let event = epoll::EventData::new_u64(number);
        epoll::add(&epoll, connection.stream.as_fd(), event, epoll::EventFlags::IN)
    };
    let mut listening = Vec::new();
    for number in 0..load.listeners.min(100) {
        let connection = Connection::open(address)?;
        watch(&connection, number)?;
        listening.push(connection);
    }
    let mut writer = Connection::open(address)?;
    watch(&writer, WRITER)?;
    open_feeds(&mut listening, load)?;

    let began = Instant::now();
    let (measured_from, end) = (load.warm_up, load.warm_up + load.duration);
    let latency = Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are sound");
    let mut meter = Meter {
        rows: memmem::Finder::new("\"new_val\":{"),
        sent: memmem::Finder::new("\"sent\":"),
        skipped: memmem::Finder::new("array size limit, skipped"),
        began,
        measured_from,
        latency,
        deliveries: 0,
        overflows: 0,
    };
    let (mut sent, mut acknowledged, mut measured) = (0_u64, 0_u64, 0_u64);
    let mut events = Vec::with_capacity(256);
    let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 500_000 };
    while began.elapsed() < end {
        let due = match load.writes_per_second {
            Some(rate) => (began.elapsed().as_micros() as u64 * rate) / 1_000_000,
            None => acknowledged + IN_FLIGHT,
        };
        while sent < due {
            let at = match load.writes_per_second {
                Some(rate) => sent * 1_000_000 / rate,
                None => began.elapsed().as_micros() as u64,
            };
            sent += 1;
            let (id, run) = (sent % 100_000, load.listeners);
            let row = format!("{{\"id\":{id},\"sent\":{at},\"text\":\"{run:08}{sent:032}\"}}");
            let options = "{\"conflict\":\"replace\",\"durability\":\"soft\"}";
            write_query(
                sent as i64,
                format!("[1,[56,[{TABLE},{row}],{options}],{{}}]").as_bytes(),
                &mut writer.out,
            );
        }
        writer.flush()?;
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
        for event in &events {
            if event.data.u64() == WRITER {
                writer.receive(|_, payload, _| {
                    if !payload.starts_with(b"{\"t\":1,") {
                        return Err(io::Error::other(String::from_utf8_lossy(payload).into_owned()));
                    }
                    acknowledged += 1;
                    measured += u64::from(began.elapsed() >= measured_from);
                    Ok(())
                })?;
                continue;
            }
            let connection = &mut listening[event.data.u64() as usize];
            connection.receive(|token, payload, out| {
                if !payload.starts_with(b"{\"t\":3,") {
                    return Err(io::Error::other(String::from_utf8_lossy(payload).into_owned()));
                }
                meter.take(payload);
                write_query(token, b"[2]", out);
                Ok(())
            })?;
            connection.flush()?;
        }
    }
    let seconds = load.duration.as_secs_f64();
    Ok(Deliveries {
        writes_per_second: measured as f64 / seconds,
        deliveries_per_second: meter.deliveries as f64 / seconds,
        p50_us: meter.latency.value_at_quantile(0.5),
        p99_us: meter.latency.value_at_quantile(0.99),
        overflows: meter.overflows,
    })
}

/// Opens all feeds and takes the first answer of each, which is empty.
fn open_feeds(listening: &mut [Connection], load: FanOut) -> io::Result<()> {
    let source = match load.watched {
        Watched::Everything => TABLE.to_owned(),
        Watched::Nothing => format!("[39,[{TABLE},[69,[[2,[1]],[17,[[31,[[10,[1]],\"sent\"]],-1]]]]]]"),
    };
    let count = listening.len() as u64;
    for token in 0..load.listeners {
        let connection = &mut listening[(token % count) as usize];
        write_query(token as i64, format!("[1,[152,[{source}]],{{}}]").as_bytes(), &mut connection.out);
    }
    for (number, connection) in listening.iter_mut().enumerate() {
        connection.flush()?;
        let wanted = (number as u64..load.listeners).step_by(count as usize).count();
        let mut opened = 0;
        while opened < wanted {
            connection.receive(|token, payload, out| {
                if !payload.starts_with(b"{\"t\":3,") {
                    return Err(io::Error::other(String::from_utf8_lossy(payload).into_owned()));
                }
                write_query(token, b"[2]", out);
                opened += 1;
                Ok(())
            })?;
            std::thread::yield_now();
        }
        connection.flush()?;
    }
    Ok(())
}
