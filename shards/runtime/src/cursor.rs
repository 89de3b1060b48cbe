//! Queries of one session under way: from START to the last batch.
//!
//! Always: a query is in one of three places: run in the read loop that took it, run by a task of its own, or idle in the
//! session's table of cursors until CONTINUE. Its token is taken until its last reply. STOP drops what is idle, and asks
//! what runs to end: then both the batch and the STOP are answered with an empty sequence.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use photondb_proto::control::QueryKind;
use photondb_proto::datum::{Datum, Text};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::feed::{FeedOp, FeedReply};
use photondb_proto::op::{Document, Op, OpError, OpReply, ReadMode, TableRead, TableReply};
use photondb_proto::term::Term;
use photondb_proto::wire::response;
use photondb_query::exec::{Answer, AnswerKind, Context, Execution, Step};
use photondb_query::terms::summary::WriteSummary;

use crate::access::Access;
use crate::admission::Watchers;
use crate::core::{Answer as PeerAnswer, Request, add};
use crate::env::Env;
use crate::feed;
use crate::hot::{self, PointRead};
use crate::jobs::Running;
use crate::panics::caught_step;
use crate::route::{self, AtOnce, Waiting};
use crate::session::{Gathering, Session};

/// Work of one step: some 100 us.
const FUEL: u32 = 5_000;
/// A step that took longer is followed by a rest.
const TURN: Duration = Duration::from_micros(300);
/// Characters of a query in the log.
const LOGGED_CHARACTERS: usize = 2_000;

/// A query whose token is taken.
pub struct Cursor {
    token: i64,
    term: Rc<Term>,
    noreply: bool,
    began: Duration,
    /// None while a task runs it.
    execution: RefCell<Option<Execution>>,
    /// CONTINUEs that came while a batch was being computed.
    continues: Cell<u32>,
    /// STOPs that wait for the running batch to end.
    stops: Cell<u32>,
    /// Woken when the running batch is to end.
    stop_watchers: Watchers,
    /// The connection is gone.
    abandoned: Cell<bool>,
    /// No batch has been answered yet.
    is_first: Cell<bool>,
    /// Counted among the open cursors.
    counted: Cell<bool>,
    /// Its number among the core's jobs.
    job: Cell<Option<u64>>,
    /// Somebody deleted it from `rethinkdb.jobs`.
    interrupted: Cell<bool>,
    /// Feeds that it opened: they are closed with it.
    feeds: RefCell<Vec<Box<dyn Any>>>,
}

impl Running for Cursor {
    fn text(&self) -> String {
        photondb_query::source::of_query(&self.term)
    }

    fn began(&self) -> Duration {
        self.began
    }

    fn interrupt(&self) {
        self.interrupted.set(true);
        self.stop_watchers.wake_all();
    }
}

fn interrupted() -> QueryError {
    QueryError::new(ErrorKind::OpIndeterminate, "Query terminated by the `rethinkdb.jobs` table.")
}

impl Cursor {
    fn new(token: i64, term: Rc<Term>, noreply: bool, began: Duration) -> Cursor {
        Cursor {
            token,
            term,
            noreply,
            began,
            execution: RefCell::new(None),
            continues: Cell::new(0),
            stops: Cell::new(0),
            stop_watchers: Watchers::default(),
            abandoned: Cell::new(false),
            is_first: Cell::new(true),
            counted: Cell::new(false),
            job: Cell::new(None),
            interrupted: Cell::new(false),
            feeds: RefCell::default(),
        }
    }

    /// The connection is gone: what runs ends at its next step, unless nobody waits for its reply anyway.
    pub fn abandon(&self) {
        self.abandoned.set(true);
        self.execution.borrow_mut().take();
        self.feeds.take();
        self.stop_watchers.wake_all();
    }

    fn is_ending(&self) -> bool {
        self.stops.get() > 0 || self.interrupted.get() || (self.abandoned.get() && !self.noreply)
    }
}

/// What a step of the drive led to.
enum Halt<E: Env> {
    /// The batch is done.
    Answer(Answer),
    Failed(QueryError),
    Waits(Pause<E>),
}

/// A batch must wait: for the answer to an operation, or for its turn.
struct Pause<E: Env> {
    waiting: Option<Waiting>,
    /// Held if that answer may be large and has begun to be gathered.
    gathering: Option<Gathering<E>>,
}

/// Begins a query. Its reply goes to `out` if it is known at once.
pub fn start<E: Env>(
    session: &Rc<Session<E>>,
    token: i64,
    term: Term,
    options: Vec<(Text, Term)>,
    out: &mut Vec<u8>,
) {
    let term = Rc::new(term);
    let began = session.core.env.elapsed();
    let wants_no_reply = asks_noreply(&options);
    let mut execution = match execution(session, &term, options) {
        Ok(execution) => execution,
        Err(error) => {
            add(&session.core.figures.query_errors, 1);
            if !wants_no_reply {
                response::error(token, &error, out);
            }
            return;
        }
    };
    let cursor = Cursor::new(token, term, execution.noreply(), began);
    match drive(session, &mut execution, &cursor.term) {
        Halt::Waits(pause) => {
            let cursor = enlist(session, cursor);
            spawn(session, cursor, execution, pause);
        }
        Halt::Answer(answer) => {
            count(session, &cursor, execution.kind());
            if cursor.noreply {
                return;
            }
            session.answer(token, &answer, out);
            if answer.kind == AnswerKind::Partial {
                let cursor = enlist(session, cursor);
                rest(session, &cursor, execution);
            }
        }
        Halt::Failed(error) => {
            count(session, &cursor, execution.kind());
            add(&session.core.figures.query_errors, 1);
            if !cursor.noreply {
                response::error(token, &error, out);
            }
        }
    }
}

/// Carries out a query that is the write of one row. Its reply goes to `out` if it is known at once.
pub fn start_write<E: Env>(session: &Rc<Session<E>>, token: i64, term: Term, write: Op, out: &mut Vec<u8>) {
    let cursor = Cursor::new(token, Rc::new(term), false, session.core.env.elapsed());
    match route::answer_at_once(&session.core, &session.access, write) {
        AtOnce::Answered(reply) => written(session, &cursor, reply, out),
        AtOnce::Waits(waiting) => {
            let cursor = enlist(session, cursor);
            let (session, in_flight) = (session.clone(), session.begin());
            session.core.env.clone().spawn(async move {
                match outcome(&session, &cursor, waiting).await {
                    Some(reply) => {
                        session.reply(|out| written(&session, &cursor, reply, out));
                        ended(&session, &cursor);
                    }
                    None => stopped(&session, &cursor),
                }
                drop(in_flight);
            });
        }
    }
}

/// Appends the answer to a write of one row.
fn written<E: Env>(
    session: &Rc<Session<E>>,
    cursor: &Cursor,
    reply: Result<OpReply, OpError>,
    out: &mut Vec<u8>,
) {
    count(session, cursor, QueryKind::Write);
    let outcomes = match reply {
        Ok(OpReply::Write(outcomes)) => Ok(outcomes),
        Ok(_) => Err(route::wrong_answer()),
        Err(error) => Err(error),
    };
    match outcomes {
        Ok(outcomes) => {
            response::atom(cursor.token, |out| WriteSummary::write_json(outcomes, out), out);
        }
        Err(error) => {
            add(&session.core.figures.query_errors, 1);
            response::error(cursor.token, &error, out);
        }
    }
}

/// What runs a query.
fn execution<E: Env>(
    session: &Session<E>,
    term: &Rc<Term>,
    options: Vec<(Text, Term)>,
) -> Result<Execution, QueryError> {
    let core = &session.core;
    let context = Context {
        user: session.access.user.clone(),
        now_epoch_seconds: core.env.unix_ms() as f64 / 1000.0,
        memory_bytes_max: core.budget.free_bytes(),
    };
    let execution = caught_step(|| Execution::start(term, options, context)).and_then(|started| started)?;
    let env = core.env.clone();
    execution.time_with(move || env.elapsed());
    Ok(execution)
}

/// Has another core answer a query that is nothing but the read of one of its rows. No task waits meanwhile: the reply is written when it
/// is taken.
pub fn read_elsewhere<E: Env>(
    session: &Rc<Session<E>>,
    token: i64,
    term: Term,
    options: Vec<(Text, Term)>,
    PointRead { peer, table, key }: PointRead,
) {
    let core = &session.core;
    let cursor = enlist(session, Cursor::new(token, Rc::new(term), false, core.env.elapsed()));
    let in_flight = session.begin();
    let read = TableRead::Get { key };
    let request = Request::Read { epoch: core.epoch(), table, read, mode: ReadMode::Single };
    let session = session.clone();
    core.mesh.ask(peer, request, move |answer| {
        let fits = |row: &Option<Document>| {
            hot::is_short(row.as_deref()) && session.hold(row.as_ref().map_or(0, Vec::len)).is_ok()
        };
        match answer {
            _ if cursor.is_ending() => stopped(&session, &cursor),
            PeerAnswer::Read(Ok(TableReply::Row(row))) if fits(&row) => {
                count(&session, &cursor, QueryKind::Read);
                session.reply(|out| hot::write_row(token, row.as_deref(), out));
                ended(&session, &cursor);
            }
            // What is unusual goes the long way, from its start.
            _ => match execution(&session, &cursor.term, options) {
                Ok(execution) => {
                    let pause = Pause { waiting: None, gathering: None };
                    spawn(&session, cursor, execution, pause);
                }
                Err(error) => {
                    add(&session.core.figures.query_errors, 1);
                    session.reply(|out| response::error(token, &error, out));
                    ended(&session, &cursor);
                }
            },
        }
        drop(in_flight);
    });
}

/// Takes the query's token, until [`end`].
fn enlist<E: Env>(session: &Rc<Session<E>>, cursor: Cursor) -> Rc<Cursor> {
    let cursor = Rc::new(cursor);
    session.cursors.borrow_mut().insert(cursor.token, cursor.clone());
    let number = session.core.jobs.begin(cursor.clone(), session.access.user.clone(), session.peer);
    cursor.job.set(Some(number));
    cursor
}

/// The next batch of a query.
pub fn resume<E: Env>(session: &Rc<Session<E>>, cursor: &Rc<Cursor>, out: &mut Vec<u8>) {
    if cursor.interrupted.get() {
        response::error(cursor.token, &interrupted(), out);
        return end(session, cursor);
    }
    let Some(mut execution) = cursor.execution.borrow_mut().take() else {
        cursor.continues.set(cursor.continues.get() + 1);
        return;
    };
    execution.next_batch();
    match drive(session, &mut execution, &cursor.term) {
        Halt::Waits(pause) => spawn(session, cursor.clone(), execution, pause),
        Halt::Answer(answer) => {
            session.answer(cursor.token, &answer, out);
            match answer.kind {
                AnswerKind::Partial => rest(session, cursor, execution),
                AnswerKind::Atom | AnswerKind::Sequence => end(session, cursor),
            }
        }
        Halt::Failed(error) => {
            add(&session.core.figures.query_errors, 1);
            response::error(cursor.token, &error, out);
            end(session, cursor);
        }
    }
}

/// Ends a query before its end.
pub fn stop<E: Env>(session: &Rc<Session<E>>, cursor: &Rc<Cursor>, out: &mut Vec<u8>) {
    if cursor.execution.borrow_mut().take().is_some() {
        write_empty(cursor.token, out);
        return end(session, cursor);
    }
    cursor.stops.set(cursor.stops.get() + 1);
    cursor.stop_watchers.wake_all();
}

pub fn asks_noreply(options: &[(Text, Term)]) -> bool {
    options
        .iter()
        .any(|(name, value)| name.as_str() == "noreply" && matches!(value, Term::Datum(Datum::Bool(true))))
}

/// Steps a query as far as it goes without waiting, at most one step's fuel. What gathers rows begins no more once that has taken a turn.
fn drive<E: Env>(session: &Rc<Session<E>>, execution: &mut Execution, term: &Term) -> Halt<E> {
    let pause = |waiting| Halt::Waits(Pause { waiting, gathering: None });
    let env = &session.core.env;
    let began = env.elapsed();
    loop {
        let step = match caught_step(|| execution.step(FUEL)) {
            Ok(step) => step,
            Err(error) => {
                let query: String = format!("{term:?}").chars().take(LOGGED_CHARACTERS).collect();
                tracing::error!(query, "this query panicked");
                return Halt::Failed(error);
            }
        };
        match step {
            Step::Ready(answer) => return Halt::Answer(answer),
            Step::Failed(error) => return Halt::Failed(error),
            Step::OutOfFuel => return pause(None),
            Step::Needs(Op::Feed(op)) => match feed::next_at_once(&session.core, &op) {
                Some(reply) => execution.answer(Ok(OpReply::Feed(reply))),
                None => return pause(Some(Waiting::Op(Op::Feed(op)))),
            },
            Step::Needs(op) => {
                let mut gathering = None;
                if gathers(&op) {
                    let has_time = env.elapsed().saturating_sub(began) < TURN;
                    gathering = if has_time { session.gather_at_once() } else { None };
                    if gathering.is_none() {
                        return pause(Some(Waiting::Op(op)));
                    }
                }
                match route::answer_at_once(&session.core, &session.access, op) {
                    AtOnce::Answered(reply) => execution.answer(reply),
                    AtOnce::Waits(waiting) => {
                        return Halt::Waits(Pause { waiting: Some(waiting), gathering });
                    }
                }
            }
        }
    }
}

/// Goes on with a query in a task of its own until its batch is done, and further while CONTINUEs wait.
fn spawn<E: Env>(session: &Rc<Session<E>>, cursor: Rc<Cursor>, execution: Execution, pause: Pause<E>) {
    let in_flight = session.begin();
    let noreply = cursor.noreply.then(|| session.begin_noreply());
    let session = session.clone();
    session.core.env.clone().spawn(async move {
        batches(&session, &cursor, execution, pause).await;
        drop((noreply, in_flight));
    });
}

async fn batches<E: Env>(
    session: &Rc<Session<E>>,
    cursor: &Rc<Cursor>,
    mut execution: Execution,
    pause: Pause<E>,
) {
    let mut pause = Some(pause);
    loop {
        let Some(halt) = batch(session, cursor, &mut execution, pause.take()).await else {
            return stopped(session, cursor);
        };
        if cursor.is_first.replace(false) {
            count(session, cursor, execution.kind());
        }
        let halt = match halt {
            Halt::Answer(answer) if !cursor.noreply => match session.hold(answer.items.len()) {
                Ok(()) => Halt::Answer(answer),
                Err(error) => Halt::Failed(error),
            },
            other => other,
        };
        let more = match halt {
            Halt::Answer(answer) => {
                if !cursor.noreply {
                    session.reply_answer(cursor.token, &answer);
                }
                answer.kind == AnswerKind::Partial && !cursor.noreply
            }
            Halt::Failed(error) => {
                add(&session.core.figures.query_errors, 1);
                if !cursor.noreply {
                    session.reply(|out| response::error(cursor.token, &error, out));
                }
                false
            }
            Halt::Waits(_) => unreachable!("a batch waits inside"),
        };
        if !more {
            return ended(session, cursor);
        }
        if cursor.stops.get() > 0 || cursor.abandoned.get() || cursor.interrupted.get() {
            return stopped(session, cursor);
        }
        if cursor.continues.get() == 0 {
            return rest(session, cursor, execution);
        }
        cursor.continues.set(cursor.continues.get() - 1);
        execution.next_batch();
    }
}

/// Gives the token back behind the last reply: CONTINUEs and STOPs that came too late find none, as if they had come now.
fn ended<E: Env>(session: &Rc<Session<E>>, cursor: &Rc<Cursor>) {
    let late = cursor.continues.take() + cursor.stops.take();
    (0..late).for_each(|_| session.reply(|out| write_empty(cursor.token, out)));
    end(session, cursor);
}

/// What becomes of what a query waits for; `None` when it is to end before that.
async fn outcome<E: Env>(
    session: &Rc<Session<E>>,
    cursor: &Cursor,
    waiting: Waiting,
) -> Option<Result<OpReply, OpError>> {
    let reply = async {
        Some(match waiting {
            Waiting::Begun(reply) => reply.await,
            Waiting::Op(op) => Box::pin(answer(session, cursor, op)).await,
        })
    };
    let ending = async {
        cursor.stop_watchers.until(|| cursor.is_ending()).await;
        None
    };
    futures_lite::future::or(reply, ending).await
}

/// One batch to its end; `None` when it is to end before that.
async fn batch<E: Env>(
    session: &Rc<Session<E>>,
    cursor: &Rc<Cursor>,
    execution: &mut Execution,
    pause: Option<Pause<E>>,
) -> Option<Halt<E>> {
    let (mut waiting, mut gathering) = pause.map_or((None, None), |pause| (pause.waiting, pause.gathering));
    let mut held = session.core.budget.lease();
    let mut since = session.core.env.elapsed();
    loop {
        if let Err(error) = held.set(execution.memory_bytes() as u64) {
            return Some(Halt::Failed(error));
        }
        if gathering.is_none() && matches!(&waiting, Some(Waiting::Op(op)) if gathers(op)) {
            gathering = Some(session.gather().await);
        }
        match waiting.take() {
            Some(waiting) => {
                let is_idle = matches!(waiting, Waiting::Op(Op::Feed(FeedOp::Next { wait: true, .. })));
                let _idle = is_idle.then(|| session.wait_idly());
                execution.answer(outcome(session, cursor, waiting).await?);
            }
            None => match session.core.env.elapsed().saturating_sub(since) {
                held if held > TURN => session.core.rest(held).await,
                _ => session.core.env.next_turn().await,
            },
        }
        if cursor.is_ending() {
            return None;
        }
        since = session.core.env.elapsed();
        match drive(session, execution, &cursor.term) {
            Halt::Waits(pause) => {
                waiting = pause.waiting;
                gathering = gathering.or(pause.gathering);
            }
            halt @ (Halt::Answer(_) | Halt::Failed(_)) => return Some(halt),
        }
    }
}

/// Answers an operation of the query.
async fn answer<E: Env>(session: &Rc<Session<E>>, cursor: &Cursor, op: Op) -> Result<OpReply, OpError> {
    let core = &session.core;
    match op {
        Op::Feed(FeedOp::Open(spec)) => {
            let opening = feed::open(core, Access::new(session.access.user.clone()), *spec);
            let handle = Box::pin(opening).await?;
            let number = handle.number();
            cursor.feeds.borrow_mut().push(Box::new(handle));
            Ok(OpReply::Feed(FeedReply::Opened(number)))
        }
        Op::Feed(FeedOp::Next { feeds, form, elements_max, bytes_max, wait }) => {
            feed::next(core, &feeds, form, elements_max, bytes_max, wait).await.map(OpReply::Feed)
        }
        Op::Catalog(_) | Op::Read { .. } | Op::Write { .. } | Op::Random { .. } | Op::Outside(_) => {
            route::answer(core, &session.access, op).await
        }
    }
}

/// Whether the answer may be large.
fn gathers(op: &Op) -> bool {
    match op {
        Op::Read { read: TableRead::Scan(_) | TableRead::GetMany { .. }, .. } => true,
        Op::Read { read: TableRead::Get { .. } | TableRead::Count { .. }, .. }
        | Op::Write { .. }
        | Op::Catalog(_)
        | Op::Random { .. }
        | Op::Outside(_)
        | Op::Feed(_) => false,
    }
}

/// Answers the batch that was stopped, CONTINUEs behind it and the STOPs.
fn stopped<E: Env>(session: &Rc<Session<E>>, cursor: &Rc<Cursor>) {
    if cursor.interrupted.get() && cursor.stops.get() == 0 {
        if !cursor.noreply {
            session.reply(|out| response::error(cursor.token, &interrupted(), out));
        }
        return end(session, cursor);
    }
    let replies = 1 + cursor.continues.take() + cursor.stops.take();
    (0..replies).for_each(|_| session.reply(|out| write_empty(cursor.token, out)));
    end(session, cursor);
}

/// Keeps a query until CONTINUE.
fn rest<E: Env>(session: &Rc<Session<E>>, cursor: &Rc<Cursor>, execution: Execution) {
    cursor.is_first.set(false);
    if cursor.abandoned.get() {
        return end(session, cursor);
    }
    if !cursor.counted.replace(true) {
        add(&session.core.figures.cursors_open, 1);
    }
    cursor.execution.replace(Some(execution));
}

/// Gives the token back.
fn end<E: Env>(session: &Rc<Session<E>>, cursor: &Rc<Cursor>) {
    session.cursors.borrow_mut().remove(&cursor.token);
    cursor.feeds.take();
    uncount(session, cursor);
}

/// Takes a cursor out of the count of open ones and out of the jobs.
pub fn uncount<E: Env>(session: &Rc<Session<E>>, cursor: &Cursor) {
    if let Some(number) = cursor.job.take() {
        session.core.jobs.end(number);
    }
    if cursor.counted.replace(false) {
        let open = &session.core.figures.cursors_open;
        open.set(open.get() - 1);
    }
}

/// Counts a query whose first answer is there.
fn count<E: Env>(session: &Rc<Session<E>>, cursor: &Cursor, kind: QueryKind) {
    let took = session.core.env.elapsed().saturating_sub(cursor.began);
    session.core.figures.query_ended(kind, took.as_micros() as u64);
}

fn write_empty(token: i64, out: &mut Vec<u8>) {
    response::answer(token, AnswerKind::Sequence, b"", &[], None, out);
}
