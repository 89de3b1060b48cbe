//! Links on an io_uring: one ring, one receive and at most one send under way per link, all submitted with the wait.
//!
//! Always: a buffer that the kernel may write or read is not touched, moved or freed until its completion is here. So an
//! inbox is made room in only when no receive is under way, what is sent is taken out of the outbox first, and a link that
//! closes lives on until both are complete; a dropped ring waits for that too. `unsafe` here is one call: putting an
//! entry into the submission queue, whose buffers that rule keeps.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, opcode, squeue};
use rustix::io::Errno;

use super::sources::Sources;
use super::{Inbox, Links, News};

const ENTRIES: u32 = 1024;
/// Of the user data: set for a send.
const SEND: u64 = 1;

struct Link {
    stream: TcpStream,
    inbox: Inbox,
    outbox: Vec<u8>,
    /// What the kernel sends, and how much of it is sent.
    sending: Vec<u8>,
    sent: usize,
    receive_is_under_way: bool,
    send_is_under_way: bool,
    is_marked: bool,
    is_closing: bool,
}

impl Link {
    fn is_idle(&self) -> bool {
        !self.receive_is_under_way && !self.send_is_under_way
    }
}

/// See the head of the file.
pub struct Uring {
    ring: IoUring,
    sources: Sources,
    links: Vec<Option<Link>>,
    free: Vec<usize>,
    /// Numbers that are free from the next turn on: the news of this one may still name them.
    freed: Vec<usize>,
    /// Links with something to submit.
    marked: Vec<usize>,
}

impl Uring {
    /// # Errors
    /// When the kernel refuses.
    pub fn new() -> io::Result<Uring> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(ENTRIES * 8)
            .build(ENTRIES)
            // Kernels before 6.1 do not know these.
            .or_else(|_| IoUring::builder().setup_cqsize(ENTRIES * 8).build(ENTRIES))?;
        if !ring.params().is_feature_ext_arg() || !ring.params().is_feature_fast_poll() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring of this kernel is too old"));
        }
        let (free, freed, marked) = (Vec::new(), Vec::new(), Vec::new());
        Ok(Uring { ring, sources: Sources::default(), links: Vec::new(), free, freed, marked })
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

    fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the entry's buffer belongs to a link and stays untouched and allocated until the completion of the
            // entry is taken from the queue (see the head of the file); its descriptor is open for as long.
            if unsafe { self.ring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    /// Puts a link's receive and send into the queue, unless they are under way.
    fn arm(&mut self, number: usize) -> io::Result<()> {
        let Some(link) = &mut self.links[number] else { return Ok(()) };
        link.is_marked = false;
        if link.is_closing {
            return Ok(());
        }
        let descriptor = Fd(link.stream.as_raw_fd());
        let mut entries = [None, None];
        if !link.receive_is_under_way {
            link.receive_is_under_way = true;
            let space = link.inbox.space();
            let bytes = u32::try_from(space.len()).unwrap_or(u32::MAX);
            let entry = opcode::Recv::new(descriptor, space.as_mut_ptr(), bytes).build();
            entries[0] = Some(entry.user_data((number as u64) << 1));
        }
        if !link.send_is_under_way {
            if link.sent == link.sending.len() {
                link.sending.clear();
                link.sent = 0;
                std::mem::swap(&mut link.sending, &mut link.outbox);
            }
            let rest = &link.sending[link.sent..];
            if !rest.is_empty() {
                link.send_is_under_way = true;
                let bytes = u32::try_from(rest.len()).unwrap_or(u32::MAX);
                let entry = opcode::Send::new(descriptor, rest.as_ptr(), bytes);
                // Without the flag a peer that is gone would end this process by a signal.
                let entry = entry.flags(rustix::net::SendFlags::NOSIGNAL.bits().cast_signed()).build();
                entries[1] = Some(entry.user_data((number as u64) << 1 | SEND));
            }
        }
        entries.iter().flatten().try_for_each(|entry| self.push(entry))
    }

    /// Takes completions.
    fn reap(&mut self, news: &mut Vec<(usize, News)>) {
        loop {
            let entry = self.ring.completion().next();
            let Some(entry) = entry else { break };
            let number = (entry.user_data() >> 1) as usize;
            let result = entry.result();
            let Some(link) = self.links[number].as_mut() else { continue };
            let count = usize::try_from(result);
            if entry.user_data() & SEND == 0 {
                link.receive_is_under_way = false;
                if let Ok(count) = count {
                    link.inbox.add(count);
                }
            } else {
                link.send_is_under_way = false;
                link.sent += count.unwrap_or(0);
            }
            if link.is_closing {
                if link.is_idle() {
                    self.links[number] = None;
                    self.freed.push(number);
                }
                continue;
            }
            match count {
                Ok(0) => news.push((number, News::Ended(None))),
                Ok(_) if entry.user_data() & SEND == 0 => news.push((number, News::Bytes)),
                Ok(_) => {}
                Err(_) if matches!(Errno::from_raw_os_error(-result), Errno::INTR | Errno::AGAIN) => {}
                Err(_) => {
                    news.push((number, News::Ended(Some(io::Error::from_raw_os_error(-result)))));
                    continue;
                }
            }
            self.mark(number);
        }
    }
}

impl Links for Uring {
    fn open(&mut self, address: SocketAddr) -> io::Result<usize> {
        let stream = self.sources.begin(address)?;
        // On a socket that does not block, the ring would give up instead of waiting.
        stream.set_nonblocking(false)?;
        let link = Link {
            stream,
            inbox: Inbox::new(),
            outbox: Vec::new(),
            sending: Vec::new(),
            sent: 0,
            receive_is_under_way: false,
            send_is_under_way: false,
            is_marked: false,
            is_closing: false,
        };
        let number = self.free.pop().unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        self.links[number] = Some(link);
        self.mark(number);
        Ok(number)
    }

    fn close(&mut self, number: usize) {
        let link = self.link(number);
        link.is_closing = true;
        // Ends what is under way. A socket whose peer is gone already says so, and that is as good.
        let _ = link.stream.shutdown(Shutdown::Both);
        if link.is_idle() {
            self.links[number] = None;
            self.freed.push(number);
        }
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
            self.arm(link)?;
        }
        let timeout = Timespec::new().sec(wait.as_secs()).nsec(wait.subsec_nanos());
        let submitted = match wait.is_zero() {
            true => self.ring.submit(),
            false => self.ring.submitter().submit_with_args(1, &SubmitArgs::new().timespec(&timeout)),
        };
        match submitted.map_err(|error| Errno::from_io_error(&error).ok_or(error)) {
            Ok(_) | Err(Ok(Errno::TIME | Errno::INTR | Errno::BUSY | Errno::AGAIN)) => {}
            Err(Ok(errno)) => return Err(errno.into()),
            Err(Err(error)) => return Err(error),
        }
        self.reap(news);
        Ok(())
    }
}

impl Drop for Uring {
    /// Waits until the kernel lets go of every buffer.
    fn drop(&mut self) {
        for number in 0..self.links.len() {
            if self.links[number].as_ref().is_some_and(|link| !link.is_closing) {
                self.close(number);
            }
        }
        let mut news = Vec::new();
        while self.links.iter().any(Option::is_some) {
            if self.turn(Duration::from_secs(1), &mut news).is_err() {
                // Never seen; leaking the buffers is all that is safe then.
                std::mem::forget(std::mem::take(&mut self.links));
            }
        }
    }
}
