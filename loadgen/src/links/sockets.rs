//! Links on sockets that do not block, watched by epoll: for kernels and containers that refuse io_uring.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};

use super::sources::Sources;
use super::{Inbox, Links, News};

const EVENTS: usize = 1024;

struct Link {
    stream: TcpStream,
    inbox: Inbox,
    outbox: Vec<u8>,
    is_marked: bool,
    /// The socket was full: its room is waited for.
    is_full: bool,
}

/// See the head of the file.
pub struct Sockets {
    epoll: OwnedFd,
    sources: Sources,
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    /// Numbers that are free from the next turn on: the news of this one may still name them.
    freed: Vec<usize>,
    /// Links with something to send.
    marked: Vec<usize>,
    events: Vec<epoll::Event>,
}

impl Sockets {
    /// # Errors
    /// When there is no descriptor left.
    pub fn new() -> io::Result<Sockets> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let (free, freed, marked) = (Vec::new(), Vec::new(), Vec::new());
        let (sources, events) = (Sources::default(), Vec::with_capacity(EVENTS));
        Ok(Sockets { epoll, sources, links: Vec::new(), free, freed, marked, events })
    }

    fn link(&mut self, link: usize) -> &mut Link {
        self.links[link].as_mut().expect("the link is open")
    }

    fn mark(&mut self, link: usize) {
        let state = self.links[link].as_mut().expect("the link is open");
        if !state.is_marked {
            state.is_marked = true;
            self.marked.push(link);
        }
    }

    /// Sends what the socket takes.
    fn flush(&mut self, number: usize) -> io::Result<()> {
        let Some(link) = &mut self.links[number] else { return Ok(()) };
        link.is_marked = false;
        let mut sent = 0;
        let mut is_full = false;
        while sent < link.outbox.len() && !is_full {
            match link.stream.write(&link.outbox[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => is_full = true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        link.outbox.drain(..sent);
        if is_full != link.is_full {
            link.is_full = is_full;
            let interest = if is_full { EventFlags::IN | EventFlags::OUT } else { EventFlags::IN };
            epoll::modify(&self.epoll, link.stream.as_fd(), EventData::new_u64(number as u64), interest)?;
        }
        Ok(())
    }

    /// Reads once; the level-triggered epoll tells again if there is more.
    fn receive(&mut self, number: usize) -> Option<News> {
        let link = self.links[number].as_mut()?;
        match link.stream.read(link.inbox.space()) {
            Ok(0) => Some(News::Ended(None)),
            Ok(count) => {
                link.inbox.add(count);
                Some(News::Bytes)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
            Err(error) => Some(News::Ended(Some(error))),
        }
    }
}

impl Links for Sockets {
    fn open(&mut self, address: SocketAddr) -> io::Result<usize> {
        let stream = self.sources.begin(address)?;
        let number = self.free.pop().unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        let data = EventData::new_u64(number as u64);
        epoll::add(&self.epoll, stream.as_fd(), data, EventFlags::IN)?;
        let (inbox, outbox) = (Inbox::new(), Vec::new());
        self.links[number] = Some(Link { stream, inbox, outbox, is_marked: false, is_full: false });
        Ok(number)
    }

    fn close(&mut self, link: usize) {
        self.links[link] = None;
        self.freed.push(link);
    }

    fn outbox(&mut self, link: usize) -> &mut Vec<u8> {
        self.mark(link);
        &mut self.link(link).outbox
    }

    fn boxes(&mut self, link: usize) -> (&mut Inbox, &mut Vec<u8>) {
        self.mark(link);
        let link = self.link(link);
        (&mut link.inbox, &mut link.outbox)
    }

    fn turn(&mut self, wait: Duration, news: &mut Vec<(usize, News)>) -> io::Result<()> {
        self.free.append(&mut self.freed);
        for link in std::mem::take(&mut self.marked) {
            if let Err(error) = self.flush(link) {
                news.push((link, News::Ended(Some(error))));
            }
        }
        let wait = if news.is_empty() { wait } else { Duration::ZERO };
        let timeout = Timespec { tv_sec: wait.as_secs().cast_signed(), tv_nsec: wait.subsec_nanos().into() };
        let mut events = std::mem::take(&mut self.events);
        events.clear();
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let number = event.data.u64() as usize;
            let flags = event.flags;
            if flags.contains(EventFlags::OUT) && self.links[number].is_some() {
                self.mark(number);
            }
            if flags.intersects(EventFlags::IN | EventFlags::ERR | EventFlags::HUP)
                && let Some(what) = self.receive(number)
            {
                news.push((number, what));
            }
        }
        self.events = events;
        Ok(())
    }
}
