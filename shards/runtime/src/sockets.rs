//! Sockets of a core: one epoll says which of them can go on, and tasks read and write them directly.
//!
//! Always: a socket is registered once, for both directions and edge-triggered, so a request costs no call but its own `recv` and
//! `send`. What an edge said is kept with the socket until a call finds nothing left. The epoll is asked once a turn (`turns.rs`), and the
//! executor polls it, as one descriptor, only when it has had nothing to tell for a while: while a core is busy, nothing that arrives
//! interrupts it. (An executor that polls each socket by itself pays for arming the poll, and for an interrupt when it completes.)

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType, sockopt,
};

use crate::env::{Stream, StreamEnd};

/// Connections the kernel holds for a listener that is busy.
const BACKLOG: i32 = 4096;
/// A peer that has been silent for this long is asked whether it is there,
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
/// again after each pause of this,
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// and is gone when so many questions went without an answer.
const KEEPALIVE_PROBES: u32 = 6;
/// Nothing waits in a call, and a peer that is gone is an error, not a signal.
const SEND: SendFlags = SendFlags::DONTWAIT.union(SendFlags::NOSIGNAL);
/// Events taken at a time; the rest follow a turn later.
const EVENTS_AT_ONCE: usize = 512;

// ---------------------------------------------------------------- one epoll for all

/// The sockets of one core.
pub struct Sockets {
    epoll: OwnedFd,
    ends: RefCell<Ends>,
    watched: RefCell<Vec<Watched>>,
}

/// Something else of the core that has news now and then.
struct Watched {
    _descriptor: OwnedFd,
    take: Box<dyn Fn()>,
}

/// Added to its number where it is registered.
const WATCHED: u64 = 1 << 62;

/// Where the epoll writes what it tells.
pub struct Events([MaybeUninit<Event>; EVENTS_AT_ONCE]);

impl Default for Events {
    fn default() -> Events {
        Events([const { MaybeUninit::uninit() }; EVENTS_AT_ONCE])
    }
}

/// What is known of each registered socket, by the number it is registered under.
#[derive(Default)]
struct Ends {
    list: Vec<End>,
    free: Vec<usize>,
}

struct End {
    /// Nothing has said that there is nothing to read.
    readable: bool,
    /// The peer sends no more: the end will not be announced again.
    hung_up: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Sockets {
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Rc<Sockets>> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Rc::new(Sockets { epoll, ends: RefCell::default(), watched: RefCell::default() }))
    }

    /// Watches one more descriptor, that of something which is no socket: `take` is called when it has something to read, and takes all of it.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch(&self, descriptor: OwnedFd, take: impl Fn() + 'static) -> io::Result<()> {
        self.add_watched(descriptor, EventFlags::IN, Box::new(take))
    }

    /// Watches one more descriptor, whose news is told once for each time that there is some.
    ///
    /// # Errors
    /// The kernel's.
    pub fn watch_edges(&self, descriptor: OwnedFd) -> io::Result<()> {
        self.add_watched(descriptor, EventFlags::IN | EventFlags::ET, Box::new(|| {}))
    }

    fn add_watched(&self, descriptor: OwnedFd, flags: EventFlags, take: Box<dyn Fn()>) -> io::Result<()> {
        let mut watched = self.watched.borrow_mut();
        epoll::add(&self.epoll, &descriptor, EventData::new_u64(WATCHED + watched.len() as u64), flags)?;
        watched.push(Watched { _descriptor: descriptor, take });
        Ok(())
    }

    /// For the executor to poll: has something to read when the epoll has something to tell.
    pub fn epoll(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    /// Takes what the epoll tells, after a wait for it if there is nothing yet, and wakes the tasks whose sockets can go on;
    /// whether it told anything.
    pub fn look(&self, events: &mut Events, wait: Duration) -> bool {
        let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let told = match epoll::wait(&self.epoll, &mut events.0, Some(&wait)) {
            Ok((told, _)) => told,
            // A ring has completions: the next look tells of them.
            Err(Errno::INTR) => return true,
            Err(_) => return false,
        };
        for event in &*told {
            let (data, flags) = (event.data, event.flags);
            if let Some(place) = data.u64().checked_sub(WATCHED) {
                (self.watched.borrow()[place as usize].take)();
                continue;
            }
            let mut ends = self.ends.borrow_mut();
            let end = &mut ends.list[data.u64() as usize];
            let gone = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
            end.hung_up |= flags.intersects(gone);
            let (mut reader, mut writer) = (None, None);
            if flags.intersects(EventFlags::IN | gone) {
                end.readable = true;
                reader = end.reader.take();
            }
            if flags.intersects(EventFlags::OUT | gone) {
                writer = end.writer.take();
            }
            drop(ends);
            [reader, writer].into_iter().flatten().for_each(Waker::wake);
        }
        !told.is_empty()
    }

    fn register(self: &Rc<Self>, socket: OwnedFd, flags: EventFlags) -> io::Result<Registered> {
        let number = {
            let ends = &mut *self.ends.borrow_mut();
            // What came before it was registered is found by trying.
            let end = End { readable: true, hung_up: false, reader: None, writer: None };
            match ends.free.pop() {
                Some(number) => {
                    ends.list[number] = end;
                    number
                }
                None => {
                    ends.list.push(end);
                    ends.list.len() - 1
                }
            }
        };
        let registered = Registered { socket, number, sockets: self.clone() };
        let data = EventData::new_u64(number as u64);
        epoll::add(&self.epoll, &registered.socket, data, flags | EventFlags::ET)?;
        Ok(registered)
    }
}

/// A socket and its number; closed with this, which takes it out of the epoll too.
struct Registered {
    socket: OwnedFd,
    number: usize,
    sockets: Rc<Sockets>,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut ends = self.sockets.ends.borrow_mut();
        let end = &mut ends.list[self.number];
        (end.reader, end.writer) = (None, None);
        ends.free.push(self.number);
    }
}

impl Registered {
    fn with<T>(&self, look: impl FnOnce(&mut End) -> T) -> T {
        look(&mut self.sockets.ends.borrow_mut().list[self.number])
    }

    /// Calls while there may be something to read; registers the task when there is nothing.
    fn poll_readable<T>(
        &self,
        context: &mut Context<'_>,
        mut call: impl FnMut(&OwnedFd) -> Result<T, Errno>,
    ) -> Poll<Result<T, Errno>> {
        while self.with(|end| end.readable) {
            match call(&self.socket) {
                Err(Errno::AGAIN) => self.with(|end| end.readable = false),
                Err(Errno::INTR) => {}
                result => return Poll::Ready(result),
            }
        }
        self.with(|end| remember(&mut end.reader, context.waker()));
        Poll::Pending
    }

    /// Calls until something is taken or there is no room; then registers the task.
    fn poll_writable(
        &self,
        context: &mut Context<'_>,
        mut call: impl FnMut(&OwnedFd) -> Result<usize, Errno>,
    ) -> Poll<Result<usize, StreamEnd>> {
        loop {
            match call(&self.socket) {
                Err(Errno::AGAIN) => {
                    self.with(|end| remember(&mut end.writer, context.waker()));
                    return Poll::Pending;
                }
                Err(Errno::INTR) => {}
                sent => return Poll::Ready(sent.map_err(|_| StreamEnd)),
            }
        }
    }
}

fn remember(kept: &mut Option<Waker>, waker: &Waker) {
    match kept {
        Some(kept) if kept.will_wake(waker) => {}
        Some(_) | None => *kept = Some(waker.clone()),
    }
}

// ---------------------------------------------------------------- listening

/// A listening socket that belongs to no core yet.
pub struct BoundListener(StdListener);

impl BoundListener {
    /// Listens on `address` beside other listeners of the same port in this process.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bind(address: SocketAddr) -> io::Result<BoundListener> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        sockopt::set_socket_reuseport(&socket, true)?;
        if address.is_ipv6() {
            sockopt::set_ipv6_v6only(&socket, true)?;
        }
        keep_alive(&socket)?;
        // Replies are gathered by us; waiting for more only adds latency.
        sockopt::set_tcp_nodelay(&socket, true)?;
        rustix::net::bind(&socket, &address)?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(BoundListener(StdListener::from(socket)))
    }

    pub fn address(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Gives the socket to a core.
    ///
    /// # Errors
    /// The kernel's.
    pub fn into_listener(self, sockets: &Rc<Sockets>) -> io::Result<Listener> {
        sockets.register(self.0.into(), EventFlags::IN).map(Listener)
    }
}

/// Makes the kernel ask silent peers whether they are there. Accepted connections take this, like all options, over from their listener. A
/// peer that is gone while data is on its way to it is given up after the kernel's own retries. We set no time limit for that
/// (`TCP_USER_TIMEOUT`): it would also end connections of clients that are there and only do not read for a while.
fn keep_alive(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEPALIVE_PROBES)?;
    Ok(())
}

/// A core's own listener.
pub struct Listener(Registered);

impl Listener {
    /// The next connection and its peer.
    ///
    /// # Errors
    /// The kernel's, for instance when descriptors run out; the listener stays good.
    pub async fn accept(&self) -> io::Result<(Socket, Option<SocketAddr>)> {
        let accept = |listener: &OwnedFd| {
            rustix::net::acceptfrom_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)
        };
        let (socket, peer) = poll_fn(|context| self.0.poll_readable(context, accept)).await?;
        let both = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP;
        let socket = self.0.sockets.register(socket, both)?;
        Ok((Socket(socket), peer.and_then(|peer| peer.try_into().ok())))
    }
}

// ---------------------------------------------------------------- connections

/// A client's connection.
pub struct Socket(Registered);

impl Stream for Socket {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, StreamEnd>> {
        let wanted = buffer.len();
        let receive = |socket: &OwnedFd| {
            rustix::net::recv(socket, &mut *buffer, RecvFlags::DONTWAIT).map(|(_, count)| count)
        };
        self.0.poll_readable(context, receive).map(|received| {
            if received.is_ok_and(|count| count < wanted) {
                // All that had come: what comes next is announced, but for an end that was announced already.
                self.0.with(|end| end.readable = end.hung_up);
            }
            received.map_err(|_| StreamEnd)
        })
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, StreamEnd>> {
        self.0.poll_writable(context, |socket| rustix::net::send(socket, bytes, SEND))
    }

    fn poll_write_pieces(
        &mut self,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<Result<usize, StreamEnd>> {
        match pieces {
            [piece] => self.poll_write(context, piece),
            _ => self.0.poll_writable(context, |socket| {
                rustix::net::sendmsg(socket, pieces, &mut SendAncillaryBuffer::default(), SEND)
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepted_connections_ask_silent_peers_whether_they_are_there() {
        let listener = BoundListener::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        listener.0.set_nonblocking(false).expect("a socket can wait");
        let _client =
            std::net::TcpStream::connect(listener.address().expect("an address")).expect("it listens");
        let (accepted, _) = listener.0.accept().expect("a connection has come");
        assert_eq!(sockopt::socket_keepalive(&accepted), Ok(true));
        assert_eq!(sockopt::tcp_keepidle(&accepted), Ok(KEEPALIVE_IDLE));
        assert_eq!(sockopt::tcp_keepintvl(&accepted), Ok(KEEPALIVE_INTERVAL));
        assert_eq!(sockopt::tcp_keepcnt(&accepted), Ok(KEEPALIVE_PROBES));
        assert_eq!(sockopt::tcp_nodelay(&accepted), Ok(true));
    }
}
