//! One query from its term to its answers, driven from outside step by step.
//!
//! Always: an execution never waits: a step ends when the fuel is used up, an op must be answered, or an answer is ready.
//! One future runs the whole query and, between the batches of a cursor, waits for [`Execution::next_batch`]. A batch looks one
//! row ahead, so a partial answer is never the last one, and nothing follows an answer that ended the query. An error while a
//! batch fills is told with the next batch, after the rows that were there before it.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use photondb_proto::control::QueryKind;
use photondb_proto::datum::json_steps::is_large;
use photondb_proto::datum::{Datum, Text};
use photondb_proto::error::QueryError;
use photondb_proto::feed::{ElementForm, Elements, FeedNumber, FeedOp, FeedReply};
use photondb_proto::limits;
use photondb_proto::op::{Op, OpError, OpReply};
use photondb_proto::term::Term;
pub use photondb_proto::wire::response::AnswerKind;

use crate::call::{Argument, Limits};
use crate::check::{self, Checked, Node, Standing};
use crate::cursor::Cursor;
use crate::eval::{self, Stop};
use crate::failure::{Failure, Outcome, Place};
use crate::feed;
use crate::geo::pace::{Pace, at_once};
use crate::group;
use crate::options::{self, QueryOptions};
use crate::run::{Ops, Run, wrong_reply};
use crate::scan::TextCursor;
use crate::stream::{self, Sequence, Source};
use crate::terms::string::{put_json, put_large_json, put_text};
use crate::value::Value;

/// What a query is told from outside.
#[derive(Clone, Debug)]
pub struct Context {
    /// On whose behalf: permissions.
    pub user: Rc<str>,
    /// `now()`.
    pub now_epoch_seconds: f64,
    /// What the query may gather.
    pub memory_bytes_max: usize,
}

/// Where a step ended.
#[derive(Debug)]
pub enum Step {
    OutOfFuel,
    Needs(Op),
    Ready(Answer),
    Failed(QueryError),
}

/// The largest answer that is one value: several documents of the largest size.
const ATOM_BYTES_MAX: usize = 256 << 20;

/// What is sent to the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub kind: AnswerKind,
    /// Comma-joined JSON.
    pub items: Rc<Vec<u8>>,
    pub count: usize,
    /// Response notes.
    pub notes: Vec<u8>,
    /// JSON.
    pub profile: Option<Vec<u8>>,
}

/// A query under way.
pub struct Execution {
    run: Rc<Run>,
    outbox: Rc<Outbox>,
    state: State,
    noreply: bool,
}

/// A query that was checked.
struct Query {
    node: Rc<Node>,
    /// Its global options, which are terms.
    fallbacks: Vec<(&'static str, Rc<Node>)>,
}

enum State {
    Running(Pin<Box<dyn Future<Output = Outcome<()>>>>),
    /// Evaluated when it was started.
    Finished(Option<Step>),
}

/// Where the query's future leaves its answers.
#[derive(Default)]
struct Outbox {
    answer: RefCell<Option<Answer>>,
    /// The next batch was asked for.
    wanted: Cell<bool>,
    kind: Cell<Option<QueryKind>>,
}

impl Execution {
    /// Checks a query and makes ready to run it.
    ///
    /// # Errors
    /// Compile errors, and options out of bounds.
    pub fn start(
        term: &Rc<Term>,
        options: Vec<(Text, Term)>,
        context: Context,
    ) -> Result<Execution, QueryError> {
        let options = options::read(options)?;
        let limits = Limits {
            array_elements_max: options.array_elements_max,
            now_epoch_seconds: context.now_epoch_seconds,
            value_bytes_max: context.memory_bytes_max,
        };
        let mut run = Run::new(limits, context.memory_bytes_max, context.user, Ops::Allowed);
        run.profile = options.profile.then(Box::default);
        let run = Rc::new(run);
        if let Some(database) = &options.database {
            *run.default_database.borrow_mut() = database.clone().map(|name| name.as_str().into());
        }
        let outbox = Rc::new(Outbox::default());
        let noreply = options.noreply;
        let state = match at_once(checked(term, &options, &outbox, &Pace::brief())) {
            Some(query) => begin(&run, query?, options, &outbox),
            None => {
                let (run, term, outbox) = (run.clone(), term.clone(), outbox.clone());
                State::Running(Box::pin(async move {
                    let query = checked(&term, &options, &outbox, &Pace::of(&run)).await?;
                    drop(term);
                    evaluate(&run, query, options, &outbox).await
                }))
            }
        };
        Ok(Execution { run, outbox, state, noreply })
    }

    /// Bytes the query has gathered and holds.
    pub fn memory_bytes(&self) -> usize {
        self.run.memory_bytes()
    }

    /// Goes on for about `fuel` ticks. After the last answer or a failure there is nothing to go on with.
    pub fn step(&mut self, fuel: u32) -> Step {
        let future = match &mut self.state {
            State::Finished(step) => {
                return step.take().unwrap_or_else(|| {
                    Step::Failed(Failure::internal("a query was stepped after its end").into_query_error())
                });
            }
            State::Running(future) => future,
        };
        self.run.refuel(fuel);
        match future.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
            Poll::Ready(Ok(())) => {
                self.state = State::Finished(None);
                match self.outbox.answer.borrow_mut().take() {
                    Some(answer) => Step::Ready(answer),
                    None => {
                        Step::Failed(Failure::internal("a query ended without an answer").into_query_error())
                    }
                }
            }
            Poll::Ready(Err(failure)) => {
                self.state = State::Finished(None);
                Step::Failed(failure.into_query_error())
            }
            Poll::Pending => {
                if let Some(answer) = self.outbox.answer.borrow_mut().take() {
                    return Step::Ready(answer);
                }
                match self.run.take_op() {
                    Some(op) => Step::Needs(op),
                    None => Step::OutOfFuel,
                }
            }
        }
    }

    /// Answers the op of [`Step::Needs`]; then step again.
    pub fn answer(&mut self, reply: Result<OpReply, OpError>) {
        self.run.answer(reply);
    }

    /// Asks for the batch after a partial answer; then step again.
    pub fn next_batch(&mut self) {
        self.outbox.wanted.set(true);
    }

    /// Times what the query does with that clock, if it asked for a profile.
    pub fn time_with(&self, clock: impl Fn() -> Duration + 'static) {
        if let Some(profile) = &self.run.profile {
            profile.time_with(Rc::new(clock));
        }
    }

    /// What it counts as: nothing, while it is checked.
    pub fn kind(&self) -> QueryKind {
        self.outbox.kind.get().unwrap_or(QueryKind::Pure)
    }

    /// Nothing is to be sent to the client, not even errors; one batch is run.
    pub fn noreply(&self) -> bool {
        self.noreply
    }
}

/// Checks a query and its options.
async fn checked(
    term: &Term,
    options: &QueryOptions,
    outbox: &Outbox,
    pace: &Pace<'_>,
) -> Result<Query, QueryError> {
    let mut fallbacks = Vec::new();
    for (name, term) in &options.fallbacks {
        let place = Place::root().option(name);
        fallbacks.push((*name, check::check_at(term, &[], &place, Standing::Query, pace).await?.node));
    }
    let Checked { node, kind, .. } = check::check(term, pace).await?;
    outbox.kind.set(Some(kind));
    Ok(Query { node, fallbacks })
}

/// Answers at once what needs no waiting, and prepares the rest.
fn begin(run: &Rc<Run>, query: Query, options: QueryOptions, outbox: &Rc<Outbox>) -> State {
    let mut found = None;
    if query.node.now && query.fallbacks.is_empty() && run.profile.is_none() {
        match eval::now(run, &query.node, &None) {
            Ok(Value::Datum(datum)) if !is_large(&datum) => {
                let step = match atom(run, &datum) {
                    Ok(answer) => Step::Ready(answer),
                    Err(failure) => Step::Failed(failure.into_query_error()),
                };
                return State::Finished(Some(step));
            }
            Err(Stop::Failed(failure)) => {
                return State::Finished(Some(Step::Failed(failure.into_query_error())));
            }
            Ok(Value::Datum(datum)) => found = Some(datum),
            Ok(_) | Err(Stop::Later) => {}
        }
    }
    let (run, outbox) = (run.clone(), outbox.clone());
    State::Running(Box::pin(async move {
        match found {
            Some(datum) => deliver(&run, Value::Datum(datum), &options, &outbox).await,
            None => evaluate(&run, query, options, &outbox).await,
        }
    }))
}

async fn evaluate(run: &Run, query: Query, options: QueryOptions, outbox: &Outbox) -> Outcome<()> {
    for (name, node) in &query.fallbacks {
        let value = eval::eval(run, node, &None).await?;
        let argument = Argument { value, place: node.place.clone() };
        run.globals.borrow_mut().push((name, argument));
    }
    let value = eval::eval(run, &query.node, &None).await?;
    deliver(run, value, &options, outbox).await
}

/// Turns the query's value into answers.
async fn deliver(run: &Run, value: Value, options: &QueryOptions, outbox: &Outbox) -> Outcome<()> {
    let answer = match eval::loaded(run, value).await? {
        Value::Datum(datum) => any_atom(run, &datum).await?,
        Value::Table(table) => return batches(run, &Sequence::of_table(table), options, outbox).await,
        Value::Sequence(sequence) if sequence.is_eager() => {
            any_atom(run, &stream::gather(run, &sequence).await?).await?
        }
        Value::Sequence(sequence) if sequence.has_feed() => {
            return feed_batches(run, &sequence, options, outbox).await;
        }
        Value::Sequence(sequence) => return batches(run, &sequence, options, outbox).await,
        Value::Grouped(grouped) => any_atom(run, &group::to_datum(group::data(run, &grouped).await?)).await?,
        other @ (Value::Database(_) | Value::Function(_) | Value::Ordering(_) | Value::Row(_)) => {
            return Err(Failure::logic(format!(
                "Query result must be of type DATUM, GROUPED_DATA, or STREAM (got {}).",
                other.kind_name()
            )));
        }
    };
    *outbox.answer.borrow_mut() = Some(answer);
    Ok(())
}

fn profile(run: &Run) -> Option<Vec<u8>> {
    run.profile.as_ref().map(|profile| profile.take())
}

fn atom(run: &Run, datum: &Datum) -> Outcome<Answer> {
    let mut items = Vec::with_capacity(64);
    put_json(datum, ATOM_BYTES_MAX, &mut items)?;
    Ok(atom_of(run, items))
}

async fn any_atom(run: &Run, datum: &Datum) -> Outcome<Answer> {
    let mut items = Vec::with_capacity(64);
    put_row(run, datum, &mut items).await?;
    Ok(atom_of(run, items))
}

fn atom_of(run: &Run, items: Vec<u8>) -> Answer {
    Answer { kind: AnswerKind::Atom, items: items.into(), count: 1, notes: Vec::new(), profile: profile(run) }
}

async fn put_row(run: &Run, row: &Datum, items: &mut Vec<u8>) -> Outcome<()> {
    match is_large(row) {
        true => Box::pin(put_large_json(run, row, ATOM_BYTES_MAX, items)).await,
        false => put_json(row, ATOM_BYTES_MAX, items),
    }
}

/// Delivers a sequence, batch by batch.
async fn batches(run: &Run, sequence: &Sequence, options: &QueryOptions, outbox: &Outbox) -> Outcome<()> {
    let mut rows = Rows::open(run, sequence)?;
    let rows_max = match sequence.source {
        Source::Range { .. } => options.batch_rows_max.min(limits::RANGE_BATCH_ROWS),
        _ => options.batch_rows_max,
    };
    let mut bytes_max = (options.batch_bytes_max / options.first_batch_factor).max(1);
    let mut is_there = rows.advance(run).await?;
    loop {
        let (mut items, mut count) = (Vec::new(), 0);
        let mut failed = None;
        while std::mem::take(&mut is_there) {
            if count > 0 {
                items.push(b',');
            }
            count += rows.put(run, (rows_max, bytes_max), &mut items).await?;
            match rows.advance(run).await {
                Ok(more) => is_there = more,
                Err(failure) => failed = Some(failure),
            }
            if count >= rows_max || items.len() >= bytes_max {
                break;
            }
        }
        let more = is_there || failed.is_some();
        let kind = if more { AnswerKind::Partial } else { AnswerKind::Sequence };
        let answer = Answer { kind, items: items.into(), count, notes: Vec::new(), profile: profile(run) };
        *outbox.answer.borrow_mut() = Some(answer);
        if !more {
            return Ok(());
        }
        Wanted { outbox }.await;
        if let Some(failure) = failed {
            return Err(failure);
        }
        bytes_max = options.batch_bytes_max;
    }
}

/// The rows of a sequence, on their way to the client.
enum Rows {
    Values { cursor: Box<Cursor>, row: Option<Datum> },
    Texts(Box<TextCursor>),
}

impl Rows {
    fn open(run: &Run, sequence: &Sequence) -> Outcome<Rows> {
        match TextCursor::open(run, sequence)? {
            Some(texts) => Ok(Rows::Texts(Box::new(texts))),
            None => {
                let cursor = Box::new(Cursor::open(run, sequence, None)?);
                Ok(Rows::Values { cursor, row: None })
            }
        }
    }

    /// Goes to the next row; false when there is none.
    async fn advance(&mut self, run: &Run) -> Outcome<bool> {
        match self {
            Rows::Values { cursor, row } => {
                *row = cursor.next(run).await?;
                Ok(row.is_some())
            }
            Rows::Texts(texts) => texts.advance(run).await,
        }
    }

    /// Writes the row that was gone to, or several at once that a batch of that many rows and bytes has room for, and says how many.
    async fn put(
        &mut self,
        run: &Run,
        (rows_max, bytes_max): (usize, usize),
        items: &mut Vec<u8>,
    ) -> Outcome<usize> {
        match self {
            Rows::Values { row: Some(row), .. } => put_row(run, row, items).await?,
            Rows::Values { row: None, .. } => return Ok(0),
            Rows::Texts(texts) => {
                if items.is_empty()
                    && let Some((whole, rows)) = texts.whole(rows_max, bytes_max)
                {
                    *items = whole;
                    return Ok(rows);
                }
                put_text(texts.text(), ATOM_BYTES_MAX, items)?;
            }
        }
        Ok(1)
    }
}

/// Delivers changes as they come: the first batch is what there is at once, every other has at least one element.
async fn feed_batches(
    run: &Run,
    sequence: &Sequence,
    options: &QueryOptions,
    outbox: &Outbox,
) -> Outcome<()> {
    let notes = feed::notes(sequence);
    let rows_max = u32::try_from(options.batch_rows_max).unwrap_or(u32::MAX);
    let bytes_max = u32::try_from(options.batch_bytes_max).unwrap_or(u32::MAX);
    let mut taking = Taking::open(run, sequence).await?;
    run.awaits_feeds.set(false);
    loop {
        let taken = taking.batch(run, rows_max, bytes_max).await?;
        let kind = if taken.is_last { AnswerKind::Sequence } else { AnswerKind::Partial };
        let answer = Answer {
            kind,
            items: taken.items,
            count: taken.count as usize,
            notes: notes.clone(),
            profile: profile(run),
        };
        *outbox.answer.borrow_mut() = Some(answer);
        if taken.is_last {
            return Ok(());
        }
        Wanted { outbox }.await;
        if let Some(failure) = taken.failed {
            return Err(failure);
        }
        run.awaits_feeds.set(true);
    }
}

/// How the elements of feeds are taken.
enum Taking {
    /// As they are: their JSON is made once for all who listen.
    Plain(FeedNumber),
    Through(Box<Cursor>),
}

struct Taken {
    items: Rc<Vec<u8>>,
    count: u32,
    is_last: bool,
    /// Told with the next batch.
    failed: Option<Failure>,
}

impl Taking {
    async fn open(run: &Run, sequence: &Sequence) -> Outcome<Taking> {
        if let (Source::Feed(branches), []) = (&sequence.source, sequence.stages.as_slice())
            && let [branch] = branches.as_slice()
            && branch.stages.is_empty()
        {
            return Ok(Taking::Plain(feed::open(run, &branch.spec).await?));
        }
        Ok(Taking::Through(Box::new(Cursor::open(run, sequence, None)?)))
    }

    async fn batch(&mut self, run: &Run, rows_max: u32, bytes_max: u32) -> Outcome<Taken> {
        match self {
            Taking::Plain(number) => {
                let next = FeedOp::Next {
                    feeds: vec![*number],
                    form: ElementForm::Json,
                    elements_max: rows_max,
                    bytes_max,
                    wait: run.awaits_feeds.get(),
                };
                match run.feed(next).await? {
                    FeedReply::Elements { elements: Elements::Json { items, count }, .. } => {
                        Ok(Taken { items, count, is_last: false, failed: None })
                    }
                    FeedReply::Elements { elements: Elements::Documents(_), .. } | FeedReply::Opened(_) => {
                        Err(wrong_reply())
                    }
                }
            }
            Taking::Through(cursor) => {
                let mut taken = Taken { items: Rc::default(), count: 0, is_last: false, failed: None };
                let mut items = Vec::new();
                while taken.count < rows_max && items.len() < bytes_max as usize {
                    let row = match cursor.next(run).await {
                        Ok(Some(row)) => row,
                        Ok(None) => break,
                        Err(failure) if taken.count == 0 => return Err(failure),
                        Err(failure) => {
                            taken.failed = Some(failure);
                            taken.items = items.into();
                            return Ok(taken);
                        }
                    };
                    if taken.count > 0 {
                        items.push(b',');
                    }
                    put_row(run, &row, &mut items).await?;
                    taken.count += 1;
                    run.awaits_feeds.set(false);
                }
                taken.items = items.into();
                taken.is_last = cursor.is_ended();
                Ok(taken)
            }
        }
    }
}

/// Waits for [`Execution::next_batch`].
struct Wanted<'a> {
    outbox: &'a Outbox,
}

impl Future for Wanted<'_> {
    type Output = ();
    fn poll(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<()> {
        if self.outbox.wanted.replace(false) { Poll::Ready(()) } else { Poll::Pending }
    }
}
