//! Reads of files, and writes that are durable when they end: a ring of the core's own beside those of the executor.
//!
//! The executor submits what began in a turn when the turn is over. Tasks whose reads ended together then work one after the other while the
//! disk has nothing to do, and all wait for it together: half of the time either of them rests. Here a few go to the kernel as soon as
//! there are so many, and the rest when the other tasks have run. And the core can nap (`turns.rs`) while they are under way.
//!
//! Always: a buffer and the file that the kernel uses stay with the ring until their completion was taken, whatever becomes of
//! who waits; a dropped ring waits for all of them. Completions are taken when something is submitted, and when the ring, which can be polled like a
//! socket, says that there are some. `unsafe` here is one call, putting an entry into the ring's queue, whose buffer that rule keeps.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use io_uring::squeue::Entry;
use io_uring::types::Fd;
use io_uring::{IoUring, opcode};

/// Entries of the queue of what is not submitted yet.
const ENTRIES: u32 = 64;
/// What is in flight; the kernel keeps their completions without asking for memory.
const FLIGHTS_MAX: usize = 2048;
/// So many are worth a call of their own.
const SUBMITTED_AT_ONCE: usize = 4;

/// Memory that a read fills, or a write is made of.
///
/// # Safety
/// Its bytes stay where they are when it is moved.
pub unsafe trait Target {
    fn bytes(&mut self) -> &mut [u8];
}

/// The ring of one core.
pub struct Flights<T: Target> {
    state: RefCell<State<T>>,
}

struct State<T> {
    ring: IoUring,
    flights: Vec<Option<Flight<T>>>,
    free: Vec<usize>,
    /// Entries that the kernel does not know of.
    unsent: usize,
    /// Who submits at the end of a turn.
    submitter: Option<Waker>,
}

struct Flight<T> {
    target: T,
    _file: Rc<OwnedFd>,
    /// Bytes read or written, or an error.
    result: Option<i32>,
    waker: Option<Waker>,
    is_wanted: bool,
}

/// Somebody waits for a flight.
struct Ticket<'a, T: Target> {
    flights: &'a Flights<T>,
    number: usize,
}

impl<T: Target> Flights<T> {
    /// # Errors
    /// The kernel's.
    pub fn new() -> io::Result<Rc<Flights<T>>> {
        let completions = FLIGHTS_MAX as u32 + ENTRIES;
        let ring = IoUring::builder()
            // No interrupt for a completion: the core enters the kernel often enough.
            .setup_coop_taskrun()
            .setup_single_issuer()
            .setup_cqsize(completions)
            .build(ENTRIES)
            // Kernels before 6.0 do not know these.
            .or_else(|_| IoUring::builder().setup_cqsize(completions).build(ENTRIES))?;
        let (flights, free) = (Vec::new(), Vec::new());
        let state = State { ring, flights, free, unsent: 0, submitter: None };
        Ok(Rc::new(Flights { state: RefCell::new(state) }))
    }

    /// Has something to read when [`Flights::take`] has something to take.
    ///
    /// # Errors
    /// The kernel's.
    pub fn bell(&self) -> io::Result<OwnedFd> {
        self.state.borrow().ring.as_fd().try_clone_to_owned()
    }

    /// Fills the target from an offset on: it and how many bytes were there, or `None` if the read is to be tried in another way.
    pub async fn read(&self, file: &Rc<OwnedFd>, offset: u64, target: T) -> Option<(T, usize)> {
        let entry = |file, bytes, length| opcode::Read::new(file, bytes, length).offset(offset).build();
        let number = self.begin(file, target, entry).ok()?;
        self.ended(number).await.ok()
    }

    /// Writes the source to a file that was opened so that a write is durable when it ends: how many bytes were written. Gives the
    /// source back if the write is to be tried in another way.
    pub async fn write(&self, file: &Rc<OwnedFd>, offset: u64, source: T) -> Result<io::Result<usize>, T> {
        let entry = |file, bytes: *mut u8, length| {
            opcode::Write::new(file, bytes.cast_const(), length).offset(offset).build()
        };
        let number = self.begin(file, source, entry)?;
        Ok(self.ended(number).await.map(|(_, bytes)| bytes))
    }

    async fn ended(&self, number: usize) -> io::Result<(T, usize)> {
        let ticket = Ticket { flights: self, number };
        poll_fn(|context| ticket.poll(context)).await
    }

    /// Gives its number, or the target back when there is no place.
    fn begin(
        &self,
        file: &Rc<OwnedFd>,
        mut target: T,
        entry: impl FnOnce(Fd, *mut u8, u32) -> Entry,
    ) -> Result<usize, T> {
        let state = &mut *self.state.borrow_mut();
        let number = match state.free.pop() {
            Some(number) => number,
            None if state.flights.len() == FLIGHTS_MAX => return Err(target),
            None => {
                state.flights.push(None);
                state.flights.len() - 1
            }
        };
        let bytes = target.bytes();
        let length = u32::try_from(bytes.len()).expect("a buffer is smaller than 4 GiB");
        let entry = entry(Fd(file.as_raw_fd()), bytes.as_mut_ptr(), length).user_data(number as u64);
        // SAFETY: the target's bytes and the open file stay in `flights` until the completion of this entry was taken.
        let pushed = unsafe { state.ring.submission().push(&entry) };
        if pushed.is_err() {
            state.free.push(number);
            return Err(target);
        }
        let flight = Flight { target, _file: file.clone(), result: None, waker: None, is_wanted: true };
        state.flights[number] = Some(flight);
        state.unsent += 1;
        if state.unsent >= SUBMITTED_AT_ONCE {
            // What fails now is tried at the end of the turn.
            let _ = state.submit();
            state.take();
        }
        if state.unsent > 0
            && let Some(submitter) = state.submitter.take()
        {
            submitter.wake();
        }
        Ok(number)
    }

    /// Submits what was begun, when the tasks that could run have run. Runs until that fails.
    ///
    /// # Errors
    /// The kernel's; what was begun can be submitted later.
    pub async fn submit(&self) -> io::Result<()> {
        poll_fn(|context| {
            let state = &mut *self.state.borrow_mut();
            if state.unsent > 0 {
                state.submit()?;
                state.take();
            }
            state.submitter = Some(context.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// Takes what has ended, and wakes who waits for it.
    pub fn take(&self) {
        self.state.borrow_mut().take();
    }
}

impl<T: Target> State<T> {
    fn submit(&mut self) -> io::Result<()> {
        self.ring.submit()?;
        self.unsent = self.ring.submission().len();
        Ok(())
    }

    fn take(&mut self) {
        for entry in self.ring.completion() {
            let number = entry.user_data() as usize;
            let Some(flight) = &mut self.flights[number] else { continue };
            flight.result = Some(entry.result());
            if !flight.is_wanted {
                self.flights[number] = None;
                self.free.push(number);
            } else if let Some(waker) = flight.waker.take() {
                waker.wake();
            }
        }
    }
}

impl<T: Target> Ticket<'_, T> {
    fn poll(&self, context: &mut Context<'_>) -> Poll<io::Result<(T, usize)>> {
        let state = &mut *self.flights.state.borrow_mut();
        let slot = &mut state.flights[self.number];
        let flight = slot.as_mut().expect("a ticket is polled until its flight has ended");
        let Some(result) = flight.result else {
            match &mut flight.waker {
                Some(waker) => waker.clone_from(context.waker()),
                None => flight.waker = Some(context.waker().clone()),
            }
            return Poll::Pending;
        };
        let ended = slot.take().map(|flight| flight.target);
        let bytes = usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result));
        Poll::Ready(bytes.map(|bytes| (ended.expect("it was there"), bytes)))
    }
}

impl<T: Target> Drop for Ticket<'_, T> {
    fn drop(&mut self) {
        let state = &mut *self.flights.state.borrow_mut();
        match &mut state.flights[self.number] {
            Some(flight) if flight.result.is_none() => flight.is_wanted = false,
            ended @ (Some(_) | None) => {
                *ended = None;
                state.free.push(self.number);
            }
        }
    }
}

impl<T: Target> Drop for Flights<T> {
    fn drop(&mut self) {
        let state = self.state.get_mut();
        while state.flights.iter().flatten().any(|flight| flight.result.is_none()) {
            if let Err(error) = state.ring.submit_and_wait(1)
                && error.kind() != io::ErrorKind::Interrupted
            {
                // The kernel may still write to the buffers: they are given up.
                std::mem::take(&mut state.flights).into_iter().for_each(std::mem::forget);
                return;
            }
            state.take();
        }
    }
}
