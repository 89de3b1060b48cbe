//! Runs a plan: threads with connections of their own, each a loop of "send what is due, wait for answers, account for them".
//!
//! Always: all threads begin to ask at the same moment, after every connection stands. In a closed loop each answer calls forth
//! the next request. In an open one requests are due at fixed times whether or not the server keeps up: one that finds no free
//! place waits, and its latency counts from when it was due, so that a stall is not left out for having kept us from asking
//! ("coordinated omission"). What is still unsent at the end counts with its waiting so far.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Barrier, Mutex, OnceLock};
use std::time::{Duration, Instant};

use memchr::memmem;

use crate::dialect::{Dialect, Failure, Verdict};
use crate::links::{Links, News, Sockets, Uring};
use crate::operation::{Dice, Expect, Records};
use crate::plan::{Io, Length, Pace, Plan, Style};
use crate::record::{Interval, Recorder, Second, Totals};
use crate::session::{Phase, Session};
use crate::template::Subject;
use crate::world::{Origin, World};

/// Connections that do not stand by then never will.
const CONNECT_MAX: Duration = Duration::from_secs(20);
/// What is in flight at the end is waited for so long.
const GRACE: Duration = Duration::from_secs(10);
/// A thread looks at the clock at least so often.
const WAIT_MAX: Duration = Duration::from_millis(100);
/// Unsent requests are counted in at most so many groups.
const UNSENT_GROUPS: u64 = 1000;
/// Handshakes that a thread has under way at once while it opens its connections.
const OPENING_MAX: usize = 128;

/// Why a run did not come about.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    #[error("{0}: connection refused: does a server listen there?")]
    Refused(SocketAddr),
    #[error("{0}: no connection: {1}")]
    Connection(SocketAddr, io::Error),
    #[error("{0} closed the connection in the handshake: does it speak ReQL?")]
    ClosedInHandshake(SocketAddr),
    #[error("the server refuses the login: {0}")]
    Login(String),
    #[error("{0} does not complete the handshake: {1} of {2} connections stand after 20 s")]
    Slow(SocketAddr, usize, usize),
    #[error("the changefeed was refused: {0}")]
    Feed(String),
    #[error("io_uring is not to be had here ({0}): take --io sockets")]
    NoUring(io::Error),
    #[error("waiting for the network failed: {0}")]
    Engine(io::Error),
}

impl DriveError {
    /// A connection that ended before it stood.
    pub(crate) fn no_connection(address: SocketAddr, reason: Option<io::Error>) -> DriveError {
        match reason {
            None => DriveError::ClosedInHandshake(address),
            Some(error) if error.kind() == io::ErrorKind::ConnectionRefused => DriveError::Refused(address),
            Some(error) => DriveError::Connection(address, error),
        }
    }
}

/// A run.
pub struct Outcome {
    pub totals: Totals,
    /// From the end of the warm-up to the last answer.
    pub seconds: f64,
    /// Why the run ended before its time.
    pub cut_short: Option<String>,
    pub io: &'static str,
}

/// What threads share.
struct Shared<'a> {
    plan: &'a Plan,
    epoch: Instant,
    start: OnceLock<Instant>,
    barrier: Barrier,
    /// Operations begun, when their number is bounded.
    claimed: AtomicU64,
    /// The first failure of a thread that opened its connections.
    failed: Mutex<Option<DriveError>>,
    cut_short: Mutex<Option<String>>,
}

/// Runs a plan; `progress` is told every second that is over.
///
/// # Errors
/// When the connections cannot be made. What fails later is counted in the outcome.
pub fn run<D: Dialect>(
    plan: &Plan,
    dialect: &D,
    mut progress: impl FnMut(&Second),
) -> Result<Outcome, DriveError> {
    let io = choose_io(plan.io)?;
    // No thread is without a connection of each kind.
    let threads = match plan.style {
        Style::Steady | Style::Churn => plan.threads.min(plan.connections),
        Style::Feeds { listeners, .. } => plan.threads.min(plan.connections).min(listeners),
    };
    let threads = threads.max(1);
    let shared = Shared {
        plan,
        epoch: Instant::now(),
        start: OnceLock::new(),
        barrier: Barrier::new(threads),
        claimed: AtomicU64::new(0),
        failed: Mutex::new(None),
        cut_short: Mutex::new(None),
    };
    let mut totals = Totals::new(plan.operations.len(), threads);
    let (sender, receiver) = channel();
    let seconds = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (sender, dialect, shared) = (sender.clone(), dialect.clone(), &shared);
                scope.spawn(move || work(shared, io, (thread, threads), dialect, sender))
            })
            .collect();
        drop(sender);
        for interval in receiver {
            if let Some(second) = totals.add(interval) {
                progress(&second);
            }
        }
        let seconds = workers.into_iter().map(|worker| worker.join().expect("a thread does not panic"));
        seconds.fold(0.0, f64::max)
    });
    totals.close();
    if let Some(error) = shared.failed.into_inner().expect("no thread panicked") {
        return Err(error);
    }
    let cut_short = shared.cut_short.into_inner().expect("no thread panicked");
    let io = match (io == Io::Uring, plan.busy_poll) {
        (true, false) => "io_uring",
        (true, true) => "io_uring, busy polling",
        (false, false) => "sockets",
        (false, true) => "sockets, busy polling",
    };
    Ok(Outcome { totals, seconds, cut_short, io })
}

/// The engine to use: asks the kernel.
fn choose_io(wanted: Io) -> Result<Io, DriveError> {
    match (wanted, Uring::new()) {
        (Io::Sockets, _) | (Io::Auto, Err(_)) => Ok(Io::Sockets),
        (Io::Auto | Io::Uring, Ok(_)) => Ok(Io::Uring),
        (Io::Uring, Err(error)) => Err(DriveError::NoUring(error)),
    }
}

/// One thread; gives the seconds until its last answer.
fn work<D: Dialect>(
    shared: &Shared<'_>,
    io: Io,
    place: (usize, usize),
    dialect: D,
    sender: Sender<Interval>,
) -> f64 {
    // The kernel may otherwise wake us 50 us late, which an open loop would count against the server.
    let _ = rustix::thread::set_current_timer_slack(NonZeroU64::new(1));
    if io == Io::Uring {
        match Uring::new() {
            Ok(links) => Worker::new(shared, place, dialect, links, sender).run(),
            Err(error) => give_up(shared, DriveError::NoUring(error)),
        }
    } else {
        match Sockets::new() {
            Ok(links) => Worker::new(shared, place, dialect, links, sender).run(),
            Err(error) => give_up(shared, DriveError::Engine(error)),
        }
    }
}

fn give_up(shared: &Shared<'_>, error: DriveError) -> f64 {
    shared.failed.lock().expect("no thread panicked").get_or_insert(error);
    shared.barrier.wait();
    0.0
}

struct Worker<'a, L: Links, D: Dialect> {
    shared: &'a Shared<'a>,
    plan: &'a Plan,
    links: L,
    dialect: D,
    world: World,
    dice: Dice,
    /// By the number of their link.
    sessions: Vec<Option<Session<D>>>,
    thread: usize,
    threads: usize,
    /// In an open loop: a link for each request that may be sent now.
    vacant: VecDeque<usize>,
    /// Requests under way, without changefeeds; of connections that are made for one query, those connections.
    under_way: usize,
    /// Connections that stand or are being made.
    alive: usize,
    greeted: usize,
    /// Changefeeds that have not answered yet.
    feeds_awaited: usize,
    recorder: Recorder,
    end: Option<Instant>,
    is_started: bool,
    /// Nothing more is to be begun.
    is_over: bool,
    /// Connections in a row that came to nothing.
    lost_in_a_row: u32,
    /// What ends the run at once.
    fatal: Option<DriveError>,
}

/// Why a run of connections that are made for one query each is given up.
const LOST_IN_A_ROW_MAX: u32 = 100;

impl<'a, L: Links, D: Dialect> Worker<'a, L, D> {
    fn new(
        shared: &'a Shared<'a>,
        (thread, threads): (usize, usize),
        dialect: D,
        links: L,
        sender: Sender<Interval>,
    ) -> Worker<'a, L, D> {
        let plan = shared.plan;
        let origin = Origin {
            seed: plan.seed,
            thread: thread as u64,
            threads: threads as u64,
            records: plan.records,
            shape: plan.shape,
            distribution: plan.distribution,
            first_insert: plan.first_insert,
            epoch: shared.epoch,
        };
        Worker {
            shared,
            plan,
            links,
            dialect,
            world: World::new(&origin),
            dice: Dice::new(plan.operations.iter().map(|operation| operation.weight)),
            sessions: Vec::new(),
            thread,
            threads,
            vacant: VecDeque::new(),
            under_way: 0,
            alive: 0,
            greeted: 0,
            feeds_awaited: 0,
            recorder: Recorder::new(plan.operations.len(), shared.epoch, sender),
            end: None,
            is_started: false,
            is_over: false,
            lost_in_a_row: 0,
            fatal: None,
        }
    }

    /// Gives the seconds from the end of the warm-up to the last answer.
    fn run(mut self) -> f64 {
        let opened = self.open_all();
        if let Err(error) = opened {
            // A thread that fails still meets the others, so that none waits for ever.
            return give_up(self.shared, error);
        }
        self.shared.barrier.wait();
        if self.shared.failed.lock().expect("no thread panicked").is_some() {
            return 0.0;
        }
        let start = *self.shared.start.get_or_init(Instant::now);
        let from = match self.plan.length {
            Length::Duration(duration) => {
                self.end = Some(start + self.plan.warm_up + duration);
                start + self.plan.warm_up
            }
            Length::Count(_) => start,
        };
        self.recorder.begin(from);
        self.is_started = true;
        if let Err(error) = self.serve(start) {
            self.cut_short(format!("waiting for the network failed: {error}"));
        }
        let last = self.recorder.last_completion;
        self.recorder.finish();
        let until = self.end.map_or(last, |end| if self.alive > 0 { last.max(end) } else { last });
        until.saturating_duration_since(from).as_secs_f64()
    }

    fn cut_short(&mut self, reason: String) {
        self.shared.cut_short.lock().expect("no thread panicked").get_or_insert(reason);
        self.is_over = true;
    }

    /// This thread's share of so many.
    fn share(&self, all: usize) -> usize {
        all / self.threads + usize::from(self.thread < all % self.threads)
    }

    /// Opens every connection, then every changefeed.
    fn open_all(&mut self) -> Result<(), DriveError> {
        let askers = self.share(self.plan.connections);
        let (feeds, listeners) = match self.plan.style {
            Style::Feeds { feeds, listeners } => (self.share(feeds as usize), self.share(listeners)),
            Style::Steady => (0, 0),
            // Each is opened for its query.
            Style::Churn => return Ok(()),
        };
        let deadline = Instant::now() + CONNECT_MAX;
        let wanted = askers + listeners;
        while self.greeted < wanted {
            while self.alive < wanted && self.alive - self.greeted < OPENING_MAX {
                self.open(Instant::now());
            }
            self.turn(WAIT_MAX).map_err(DriveError::Engine)?;
            if let Some(error) = self.fatal.take() {
                return Err(error);
            }
            if Instant::now() > deadline {
                return Err(DriveError::Slow(self.plan.address, self.greeted, wanted));
            }
        }
        for feed in 0..feeds {
            let link = askers + feed % listeners.max(1);
            let subject = Subject { record: 0, count: 0, due: Instant::now() };
            self.request(link, 0, subject);
            self.feeds_awaited += 1;
        }
        while self.feeds_awaited > 0 {
            self.turn(WAIT_MAX).map_err(DriveError::Engine)?;
            if let Some(error) = self.fatal.take() {
                return Err(error);
            }
            if Instant::now() > deadline {
                return Err(DriveError::Feed("not all of them are open after 20 s".to_owned()));
            }
        }
        Ok(())
    }

    /// Begins a connection.
    fn open(&mut self, began: Instant) {
        match self.links.open(self.plan.address) {
            Ok(link) => {
                let greeting = self.dialect.greet(self.links.outbox(link));
                if self.sessions.len() <= link {
                    self.sessions.resize_with(link + 1, || None);
                }
                self.sessions[link] = Some(Session::new(Phase::Greeting { greeting, began }));
                self.alive += 1;
            }
            Err(error) => {
                self.lost(DriveError::no_connection(self.plan.address, Some(error)));
                self.replace(Instant::now());
            }
        }
    }

    /// A connection that came to nothing.
    fn lost(&mut self, error: DriveError) {
        if !self.is_started {
            self.fatal.get_or_insert(error);
            return;
        }
        self.recorder.failed(Failure { kind: "connection", message: error.to_string() });
        self.lost_in_a_row += 1;
        if self.lost_in_a_row == LOST_IN_A_ROW_MAX {
            self.cut_short(format!("{LOST_IN_A_ROW_MAX} connections in a row failed, the first: {error}"));
        }
    }

    /// The measured part.
    fn serve(&mut self, start: Instant) -> io::Result<()> {
        let mut due = self.schedule(start);
        if self.plan.style == Style::Churn {
            for _ in 0..self.share(self.plan.connections) {
                self.vacate(0, start);
            }
        } else {
            // Askers were opened first, so theirs are the first links.
            for _ in 0..self.plan.in_flight {
                for link in 0..self.share(self.plan.connections) {
                    self.vacate(link, Instant::now());
                }
            }
        }
        let mut grace = None;
        loop {
            let now = Instant::now();
            self.recorder.tick(now);
            self.is_over |= self.end.is_some_and(|end| now >= end);
            let mut wait = WAIT_MAX;
            if let Some(due) = &mut due {
                wait = self.send_due(due, now);
            }
            if self.is_over {
                let until = *grace.get_or_insert_with(|| {
                    self.count_unsent(due.as_ref());
                    now + GRACE
                });
                if self.under_way == 0 || now >= until || self.alive == 0 {
                    break;
                }
            } else if let Some(end) = self.end {
                wait = wait.min(end - now);
            }
            self.turn(wait)?;
        }
        self.count_unanswered();
        Ok(())
    }

    fn schedule(&self, start: Instant) -> Option<Schedule> {
        let Pace::Open(rate) = self.plan.pace else { return None };
        // Threads take turns, so that their requests together are evenly spaced.
        let step = self.threads as f64 / rate;
        Some(Schedule { start, offset: self.thread as f64 / rate, step, next: 0 })
    }

    /// Sends what is due in an open loop as far as there is room; gives how long until the next is due.
    fn send_due(&mut self, schedule: &mut Schedule, now: Instant) -> Duration {
        while !self.is_over {
            let due = schedule.due();
            if due > now {
                return (due - now).min(WAIT_MAX);
            }
            if self.end.is_some_and(|end| due >= end) {
                break;
            }
            let Some(link) = self.vacant.pop_front() else { break };
            if self.plan.style != Style::Churn && self.sessions[link].is_none() {
                continue;
            }
            schedule.next += 1;
            self.begin(link, due);
        }
        WAIT_MAX
    }

    /// Requests that were due and found no room until the end.
    fn count_unsent(&mut self, schedule: Option<&Schedule>) {
        let (Some(schedule), Some(end)) = (schedule, self.end) else { return };
        let end = end.min(Instant::now());
        let last =
            (end.saturating_duration_since(schedule.start).as_secs_f64() - schedule.offset) / schedule.step;
        let count = (last.max(0.0).ceil() as u64).saturating_sub(schedule.next);
        let group = count.div_ceil(UNSENT_GROUPS).max(1);
        let mut schedule = *schedule;
        let until = schedule.next + count;
        let operation = self.plan.first_asked();
        while schedule.next < until {
            let together = group.min(until - schedule.next);
            self.recorder.unsent(operation, schedule.due(), end, together);
            schedule.next += together;
        }
    }

    fn count_unanswered(&mut self) {
        let seconds = GRACE.as_secs();
        for session in self.sessions.iter().flatten() {
            for request in session.in_flight() {
                if self.plan.operations[request.operation].expect != Expect::Feed {
                    let message = format!("not answered {seconds} s after the end");
                    self.recorder.failed(Failure { kind: "no answer", message });
                }
            }
        }
    }

    /// A request may be sent on this link: in a closed loop it is.
    fn vacate(&mut self, link: usize, now: Instant) {
        match self.plan.pace {
            Pace::Closed => self.begin(link, now),
            Pace::Open(_) => self.vacant.push_back(link),
        }
    }

    /// Begins an operation that was due then, unless the run is over.
    fn begin(&mut self, link: usize, due: Instant) {
        if self.is_over {
            return;
        }
        if self.plan.style == Style::Churn {
            self.under_way += 1;
            self.open(due);
            return;
        }
        if self.start_operation(link, due) {
            self.under_way += 1;
        }
    }

    /// Draws an operation and sends its first step; false when there is nothing left to do.
    fn start_operation(&mut self, link: usize, due: Instant) -> bool {
        let index = match self.plan.length {
            Length::Duration(_) => 0,
            Length::Count(count) => {
                let index = self.shared.claimed.fetch_add(1, Ordering::Relaxed);
                if index >= count {
                    self.is_over = true;
                    return false;
                }
                index
            }
        };
        let operation = self.dice.throw(&mut self.world.random);
        let (record, count) = match self.plan.operations[operation].records {
            Records::Existing => (self.world.choose(), 1),
            Records::New(count) => (self.world.begin_insert(count), count),
            Records::Loaded(count) => {
                (index * count, count.min(self.plan.records.saturating_sub(index * count)))
            }
        };
        self.request(link, operation, Subject { record, count, due });
        true
    }

    fn request(&mut self, link: usize, operation: usize, subject: Subject) {
        let Some(session) = self.sessions[link].as_mut() else { return };
        let token = session.begin(operation, subject);
        let out = self.links.outbox(link);
        let operation = &self.plan.operations[operation];
        self.dialect.request(token, operation, 0, subject, &mut self.world, out);
    }

    /// Moves bytes once and accounts for what came.
    fn turn(&mut self, wait: Duration) -> io::Result<()> {
        let mut news = Vec::new();
        if self.plan.busy_poll {
            let began = Instant::now();
            self.links.turn(Duration::ZERO, &mut news)?;
            while news.is_empty() && began.elapsed() < wait {
                // Threads of the kernel that work for the server may have nowhere else to run.
                std::thread::yield_now();
                self.links.turn(Duration::ZERO, &mut news)?;
            }
        } else {
            self.links.turn(wait, &mut news)?;
        }
        let now = Instant::now();
        for (link, what) in news {
            if self.sessions.get(link).is_none_or(Option::is_none) {
                continue;
            }
            match what {
                News::Bytes => self.received(link, now),
                News::Ended(reason) => self.ended(link, reason),
            }
        }
        Ok(())
    }

    fn received(&mut self, link: usize, now: Instant) {
        if let Some(Session { phase: Phase::Greeting { greeting, began }, .. }) = &mut self.sessions[link] {
            let (inbox, out) = self.links.boxes(link);
            let result = self.dialect.greeted(greeting, inbox.unread(), out);
            let (bytes, began) = (inbox.unread().len(), *began);
            inbox.take(bytes);
            match result {
                Ok(false) => {}
                Ok(true) => self.is_greeted(link, began),
                Err(message) => {
                    self.drop_link(link);
                    self.lost(DriveError::Login(message));
                    self.replace(now);
                }
            }
            return;
        }
        while self.sessions[link].is_some() {
            match self.answer(link, now) {
                Ok(true) => {}
                Ok(false) => break,
                Err(message) => {
                    let error = io::Error::new(io::ErrorKind::InvalidData, message);
                    self.ended(link, Some(error));
                }
            }
        }
    }

    fn is_greeted(&mut self, link: usize, began: Instant) {
        self.greeted += 1;
        if let Some(session) = &mut self.sessions[link] {
            session.phase = Phase::Ready;
        }
        if self.plan.style == Style::Churn && !self.start_operation(link, began) {
            self.under_way -= 1;
            self.drop_link(link);
        }
    }

    /// Takes one answer; false when there is none.
    fn answer(&mut self, link: usize, now: Instant) -> Result<bool, String> {
        let Some(session) = self.sessions[link].as_mut() else { return Ok(false) };
        let (inbox, out) = self.links.boxes(link);
        let Some(answer) = self.dialect.split(inbox.unread())? else { return Ok(false) };
        let Some(request) = session.find(answer.token) else {
            return Err("the server answered what was not asked".to_owned());
        };
        let operation = &self.plan.operations[request.operation];
        let verdict = self.dialect.judge(answer.payload, operation.expect);
        let is_first_of_feed = operation.expect == Expect::Feed && request.step == 0;
        if operation.expect == Expect::Feed {
            request.step = 1;
            let changes = Changes { payload: answer.payload, world: &self.world };
            changes.record(request.operation, now, &mut self.recorder);
        }
        let bytes = answer.bytes;
        inbox.take(bytes);
        let mut asked = *request;
        match verdict {
            Verdict::More => {
                self.dialect.go_on(asked.token, out);
                self.feeds_awaited -= usize::from(is_first_of_feed);
            }
            Verdict::Done if operation.expect == Expect::Feed => {
                session.end(asked.token);
                self.feed_ended("the server ended a changefeed".to_owned());
            }
            Verdict::Done if asked.step + 1 < operation.steps.len() => {
                request.step += 1;
                asked.step += 1;
                self.dialect.request(asked.token, operation, asked.step, asked.subject, &mut self.world, out);
            }
            Verdict::Done => {
                session.end(asked.token);
                self.recorder.done(asked.operation, asked.subject.due, now);
                self.finished(link, asked.subject, asked.operation);
            }
            Verdict::Failed(failure) => {
                session.end(asked.token);
                if operation.expect == Expect::Feed {
                    self.feed_ended(failure.message);
                } else {
                    self.recorder.failed(failure);
                    self.finished(link, asked.subject, asked.operation);
                }
            }
        }
        Ok(true)
    }

    fn feed_ended(&mut self, message: String) {
        if self.is_started {
            self.recorder.failed(Failure { kind: "changefeed ended", message });
        } else {
            self.fatal.get_or_insert(DriveError::Feed(message));
        }
    }

    /// An operation is over, well or not: its place is free.
    fn finished(&mut self, link: usize, subject: Subject, operation: usize) {
        if matches!(self.plan.operations[operation].records, Records::New(_)) {
            self.world.settle(subject.record, subject.count);
        }
        self.under_way -= 1;
        let now = Instant::now();
        if self.plan.style == Style::Churn {
            self.lost_in_a_row = 0;
            self.drop_link(link);
            self.vacate(0, now);
        } else {
            self.vacate(link, now);
        }
    }

    /// After a connection that was made for one query and came to nothing.
    fn replace(&mut self, now: Instant) {
        if self.is_started && self.plan.style == Style::Churn {
            self.under_way -= 1;
            self.vacate(0, now);
        }
    }

    fn drop_link(&mut self, link: usize) {
        self.links.close(link);
        self.sessions[link] = None;
        self.alive -= 1;
    }

    /// The server, or the network, ended a connection.
    fn ended(&mut self, link: usize, reason: Option<io::Error>) {
        let Some(session) = self.sessions[link].take() else { return };
        self.links.close(link);
        self.alive -= 1;
        let why = reason.as_ref().map_or_else(|| "closed by the server".to_owned(), io::Error::to_string);
        if let Phase::Greeting { .. } = session.phase {
            self.lost(DriveError::no_connection(self.plan.address, reason));
            self.replace(Instant::now());
            return;
        }
        let mut subjects = Vec::new();
        for request in session.in_flight() {
            if self.plan.operations[request.operation].expect == Expect::Feed {
                subjects.push(None);
            } else {
                subjects.push(Some((request.subject, request.operation)));
            }
        }
        for subject in &subjects {
            self.recorder.failed(Failure { kind: "connection lost", message: why.clone() });
            if let Some((subject, operation)) = subject {
                self.under_way -= 1;
                if matches!(self.plan.operations[*operation].records, Records::New(_)) {
                    self.world.settle(subject.record, subject.count);
                }
            }
        }
        if !self.is_started {
            self.fatal.get_or_insert(DriveError::no_connection(self.plan.address, reason));
        } else if self.plan.style == Style::Churn {
            self.vacate(0, Instant::now());
        } else if subjects.is_empty() {
            self.recorder.failed(Failure { kind: "connection lost", message: why.clone() });
        }
        if self.is_started && self.alive == 0 && self.plan.style != Style::Churn && !self.is_over {
            self.cut_short(format!("the server ended every connection ({why})"));
        }
    }
}

/// When requests of an open loop are due.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start: Instant,
    offset: f64,
    /// Seconds between two.
    step: f64,
    next: u64,
}

impl Schedule {
    fn due(&self) -> Instant {
        self.start + Duration::from_secs_f64(self.offset + self.step * self.next as f64)
    }
}

/// An answer of a changefeed.
struct Changes<'a> {
    payload: &'a [u8],
    world: &'a World,
}

impl Changes<'_> {
    /// Records each change by the time that its new document says it was to be sent at.
    fn record(&self, operation: usize, now: Instant, recorder: &mut Recorder) {
        const SENT: &[u8] = b"\"sent\":";
        for row in memmem::find_iter(self.payload, b"\"new_val\":{") {
            let Some(at) = memmem::find(&self.payload[row..], SENT) else { break };
            let digits =
                self.payload[row + at + SENT.len()..].iter().take_while(|byte| byte.is_ascii_digit());
            let sent = digits.fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
            recorder.done(operation, self.world.sent_at(sent).min(now), now);
        }
        if memmem::find(self.payload, b"array size limit, skipped").is_some() {
            let message = "a feed's queue overflowed: it was not told of every change".to_owned();
            recorder.failed(Failure { kind: "changes left out", message });
        }
    }
}

#[cfg(test)]
mod tests;
