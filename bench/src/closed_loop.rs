//! A closed loop: each of many connections keeps a fixed number of requests in flight; one thread drives them all by epoll.
//!
//! The same loop drives every server, so that a ratio compares servers and not clients. Requests are made by a
//! [`Protocol`], which also says where a response ends; nothing is parsed beyond that while the clock runs.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;

/// How one kind of server is spoken to.
pub trait Protocol {
    /// Brings a fresh connection to where requests may follow.
    fn greet(&self, stream: &mut TcpStream) -> io::Result<()>;
    /// Appends the next request.
    fn request(&mut self, connection: usize, out: &mut Vec<u8>);
    /// The length of the first whole response in `bytes`.
    ///
    /// # Errors
    /// When the server answered an error.
    fn response(&self, bytes: &[u8]) -> io::Result<Option<usize>>;
}

/// How hard and how long.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    pub connections: usize,
    pub in_flight: usize,
    pub warm_up: Duration,
    pub duration: Duration,
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Figures {
    pub per_second: f64,
    pub p50_us: u64,
    pub p99_us: u64,
}

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    out: Vec<u8>,
    /// When each request in flight was sent, oldest first.
    sent: std::collections::VecDeque<Instant>,
}

/// Runs the load and measures it.
///
/// # Errors
/// When a connection breaks or the server answers an error.
pub fn run(address: SocketAddr, protocol: &mut impl Protocol, load: Load) -> io::Result<Figures> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut connections = Vec::with_capacity(load.connections);
    for index in 0..load.connections {
        let mut stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        protocol.greet(&mut stream)?;
        stream.set_nonblocking(true)?;
        let event = epoll::EventData::new_u64(index as u64);
        epoll::add(&epoll, stream.as_fd(), event, epoll::EventFlags::IN)?;
        let sent = std::collections::VecDeque::new();
        connections.push(Connection { stream, received: Vec::new(), out: Vec::new(), sent });
    }
    for (index, connection) in connections.iter_mut().enumerate() {
        for _ in 0..load.in_flight {
            connection.ask(index, protocol);
        }
        connection.flush()?;
    }
    let measured_from = Instant::now() + load.warm_up;
    let end = measured_from + load.duration;
    let mut histogram = Histogram::<u64>::new_with_bounds(1, 60_000_000, 3).expect("the bounds are sound");
    let mut events = Vec::with_capacity(256);
    let timeout = rustix::event::Timespec { tv_sec: 5, tv_nsec: 0 };
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
        if events.is_empty() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the server has not answered for 5 s"));
        }
        let now = Instant::now();
        if now >= end {
            break;
        }
        for event in &events {
            let index = event.data.u64() as usize;
            let connection = &mut connections[index];
            for sent in connection.receive(index, protocol)? {
                if sent >= measured_from {
                    histogram.saturating_record(sent.elapsed().as_micros() as u64);
                }
            }
            connection.flush()?;
        }
    }
    Ok(Figures {
        per_second: histogram.len() as f64 / load.duration.as_secs_f64(),
        p50_us: histogram.value_at_quantile(0.5),
        p99_us: histogram.value_at_quantile(0.99),
    })
}

impl Connection {
    fn ask(&mut self, index: usize, protocol: &mut impl Protocol) {
        protocol.request(index, &mut self.out);
        self.sent.push_back(Instant::now());
    }

    /// Takes what has come, asks anew for each response; gives when the answered requests were sent.
    fn receive(&mut self, index: usize, protocol: &mut impl Protocol) -> io::Result<Vec<Instant>> {
        let mut buffer = [0; 64 << 10];
        let count = match self.stream.read(&mut buffer) {
            Ok(0) => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed a connection"));
            }
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        self.received.extend_from_slice(&buffer[..count]);
        let mut answered = Vec::new();
        let mut at = 0;
        while let Some(length) = protocol.response(&self.received[at..])? {
            at += length;
            answered.extend(self.sent.pop_front());
            self.ask(index, protocol);
        }
        self.received.drain(..at);
        Ok(answered)
    }

    /// Sends what is asked. Requests are small against the socket's buffer: if it is full after all, waits.
    fn flush(&mut self) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        let mut at = 0;
        while at < self.out.len() {
            match self.stream.write(&self.out[at..]) {
                Ok(count) => at += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        self.out.clear();
        Ok(())
    }
}
