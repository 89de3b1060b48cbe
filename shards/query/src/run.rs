//! What all parts of one evaluation share: fuel, the hatch through which ops go out and replies come in, limits, memory.
//!
//! Always: at most one op is out, since evaluation is sequential. Used-up fuel makes the next tick pend once: whoever polls
//! sees [`Run::is_exhausted`] and may poll again at once, or, in a real executor, has been woken already, so that the same
//! futures serve [`crate::exec`] (stepped) and [`crate::push`] (awaited).

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll};

use photondb_proto::datum::Datum;
use photondb_proto::feed::{FeedOp, FeedReply};
use photondb_proto::op::{
    CatalogOp, CatalogReply, Op, OpError, OpReply, ReadMode, RowOutcome, TableId, TableRead, TableReply,
    TableWrite,
};
use photondb_proto::outside::{HttpCall, HttpReply, OutsideOp, OutsideReply, ScriptCall, ScriptReply};

use crate::call::{Argument, Limits};
use crate::failure::{Failure, Outcome};
use crate::geo;
use crate::profile::Profile;

/// Ticks a future gets when it is polled by an executor that hands out none.
pub const FUEL_SLICE: u32 = 20_000;

/// What looking at a vertex of a geometry costs: reading, checking and comparing it takes so many times as long as a term.
const TICKS_PER_VERTEX: u32 = 10;

/// Whether this evaluation may ask for ops. Functions that run where the rows are may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ops {
    Allowed,
    Forbidden,
}

/// One evaluation's shared state.
pub struct Run {
    fuel: Cell<u32>,
    exhausted: Cell<bool>,
    ops: Ops,
    outgoing: RefCell<Option<Op>>,
    incoming: RefCell<Option<Result<OpReply, OpError>>>,
    pub limits: Limits,
    memory_bytes: Cell<usize>,
    memory_bytes_max: usize,
    /// Options of `run` that terms fall back to.
    pub globals: RefCell<Vec<(&'static str, Argument)>>,
    pub default_database: RefCell<Outcome<Rc<str>>>,
    pub user: Rc<str>,
    /// Whether a feed that has nothing is waited for; else it ends there for now.
    pub awaits_feeds: Cell<bool>,
    /// Where time is counted, if the query asked for it.
    pub profile: Option<Box<Profile>>,
}

impl Run {
    pub fn new(limits: Limits, memory_bytes_max: usize, user: Rc<str>, ops: Ops) -> Run {
        Run {
            fuel: Cell::new(FUEL_SLICE),
            exhausted: Cell::new(false),
            ops,
            outgoing: RefCell::new(None),
            incoming: RefCell::new(None),
            limits,
            memory_bytes: Cell::new(0),
            memory_bytes_max,
            globals: RefCell::new(Vec::new()),
            default_database: RefCell::new(Ok("test".into())),
            user,
            awaits_feeds: Cell::new(true),
            profile: None,
        }
    }

    // ---------------------------------------------------------------- fuel

    pub fn refuel(&self, fuel: u32) {
        self.fuel.set(fuel);
        self.exhausted.set(false);
    }

    /// Takes a tick; false when there is none left.
    pub fn spend(&self) -> bool {
        match self.fuel.get().checked_sub(1) {
            Some(left) => {
                self.fuel.set(left);
                true
            }
            None => false,
        }
    }

    /// Pays for the making of a large value, so that many of them yield as often as much small work does.
    pub fn spend_for(&self, datum: &Datum) {
        let ticks = match datum {
            Datum::String(text) => text.len() >> 10,
            Datum::Binary(bytes) => bytes.len() >> 10,
            Datum::Array(array) => array.len() >> 6,
            Datum::Object(object) => object.len() >> 6,
            Datum::Null
            | Datum::Bool(_)
            | Datum::Number(_)
            | Datum::Time(_)
            | Datum::MinVal
            | Datum::MaxVal => 0,
        };
        if ticks > 0 {
            self.fuel.set(self.fuel.get().saturating_sub(u32::try_from(ticks).unwrap_or(u32::MAX)));
        }
    }

    /// Pays for having looked at geometries: a query over many large ones yields between any two of them.
    pub fn spend_for_shapes<'a>(&self, shapes: impl IntoIterator<Item = &'a Datum>) {
        let vertices = shapes.into_iter().map(geo::vertex_count).fold(0, usize::saturating_add);
        let ticks = u32::try_from(vertices).unwrap_or(u32::MAX).saturating_mul(TICKS_PER_VERTEX);
        self.fuel.set(self.fuel.get().saturating_sub(ticks));
    }

    pub fn is_exhausted(&self) -> bool {
        self.exhausted.get()
    }

    /// Takes a tick, or waits once for more fuel.
    pub async fn tick(&self) {
        if !self.spend() {
            Refuel { run: self, asked: false }.await;
        }
    }

    /// Lets others have their turn, in the middle of long work.
    pub async fn turn(&self) {
        self.fuel.set(0);
        self.tick().await;
    }

    // ---------------------------------------------------------------- ops

    /// The op that evaluation waits for.
    pub fn take_op(&self) -> Option<Op> {
        self.outgoing.borrow_mut().take()
    }

    pub fn answer(&self, reply: Result<OpReply, OpError>) {
        *self.incoming.borrow_mut() = Some(reply);
    }

    pub async fn ask(&self, op: Op) -> Outcome<OpReply> {
        if self.ops == Ops::Forbidden {
            return Err(Failure::internal("a function that runs where its rows are asked for other rows"));
        }
        let _span = self.profile.as_ref().and_then(|profile| profile.asking(&op));
        *self.outgoing.borrow_mut() = Some(op);
        Ok(Reply { run: self }.await?)
    }

    pub async fn catalog(&self, op: CatalogOp) -> Outcome<CatalogReply> {
        match self.ask(Op::Catalog(op)).await? {
            OpReply::Catalog(reply) => Ok(reply),
            OpReply::Read(_)
            | OpReply::Write(_)
            | OpReply::Random(_)
            | OpReply::Outside(_)
            | OpReply::Feed(_) => Err(wrong_reply()),
        }
    }

    pub async fn read(&self, table: TableId, read: TableRead, mode: ReadMode) -> Outcome<TableReply> {
        match self.ask(Op::Read { table, read, mode }).await? {
            OpReply::Read(reply) => Ok(reply),
            OpReply::Catalog(_)
            | OpReply::Write(_)
            | OpReply::Random(_)
            | OpReply::Outside(_)
            | OpReply::Feed(_) => Err(wrong_reply()),
        }
    }

    pub async fn write(&self, table: TableId, write: TableWrite) -> Outcome<Vec<RowOutcome>> {
        match self.ask(Op::Write { table, write }).await? {
            OpReply::Write(rows) => Ok(rows),
            OpReply::Catalog(_)
            | OpReply::Read(_)
            | OpReply::Random(_)
            | OpReply::Outside(_)
            | OpReply::Feed(_) => Err(wrong_reply()),
        }
    }

    pub async fn random(&self, bytes: usize) -> Outcome<Vec<u8>> {
        let bytes = u32::try_from(bytes).map_err(|_| Failure::limit("Too many random numbers at once."))?;
        match self.ask(Op::Random { bytes }).await? {
            OpReply::Random(random) => Ok(random),
            OpReply::Catalog(_)
            | OpReply::Read(_)
            | OpReply::Write(_)
            | OpReply::Outside(_)
            | OpReply::Feed(_) => Err(wrong_reply()),
        }
    }

    pub async fn script(&self, call: ScriptCall) -> Outcome<ScriptReply> {
        match self.ask(Op::Outside(OutsideOp::Script(call))).await? {
            OpReply::Outside(OutsideReply::Script(reply)) => Ok(reply),
            _ => Err(wrong_reply()),
        }
    }

    pub async fn http(&self, call: HttpCall) -> Outcome<HttpReply> {
        match self.ask(Op::Outside(OutsideOp::Http(call))).await? {
            OpReply::Outside(OutsideReply::Http(reply)) => Ok(reply),
            _ => Err(wrong_reply()),
        }
    }

    pub async fn feed(&self, op: FeedOp) -> Outcome<FeedReply> {
        match self.ask(Op::Feed(op)).await? {
            OpReply::Feed(reply) => Ok(reply),
            OpReply::Catalog(_)
            | OpReply::Read(_)
            | OpReply::Write(_)
            | OpReply::Random(_)
            | OpReply::Outside(_) => Err(wrong_reply()),
        }
    }

    // ---------------------------------------------------------------- memory

    /// Accounts for what a query gathers; given back when the charge is dropped.
    pub fn charge(&self) -> Charge<'_> {
        Charge { run: self, bytes: 0 }
    }

    pub fn memory_bytes(&self) -> usize {
        self.memory_bytes.get()
    }

    /// Accounts for something that stays until the query ends.
    pub fn charge_for_good(&self, bytes: usize) -> Outcome<()> {
        let total = self.memory_bytes.get().saturating_add(bytes);
        if total > self.memory_bytes_max {
            return Err(Failure::limit(format!(
                "The query gathers more than its memory budget of {} bytes.  Use an index, a limit or an aggregation, or \
                 raise the server's query memory.",
                self.memory_bytes_max
            )));
        }
        self.memory_bytes.set(total);
        Ok(())
    }

    /// Takes back a part of what was charged.
    pub fn give_back(&self, bytes: usize) {
        self.memory_bytes.set(self.memory_bytes.get().saturating_sub(bytes));
    }
}

pub fn wrong_reply() -> Failure {
    Failure::internal("an operation got the reply of another")
}

/// Bytes accounted for while this lives.
pub struct Charge<'a> {
    run: &'a Run,
    bytes: usize,
}

impl Charge<'_> {
    pub fn add(&mut self, bytes: usize) -> Outcome<()> {
        self.run.charge_for_good(bytes)?;
        self.bytes += bytes;
        Ok(())
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.run.give_back(self.bytes);
    }
}

struct Refuel<'a> {
    run: &'a Run,
    asked: bool,
}

impl Future for Refuel<'_> {
    type Output = ();
    fn poll(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<()> {
        if self.asked {
            if self.run.fuel.get() == 0 {
                self.run.refuel(FUEL_SLICE);
            }
            return Poll::Ready(());
        }
        self.asked = true;
        self.run.exhausted.set(true);
        task.waker().wake_by_ref();
        Poll::Pending
    }
}

struct Reply<'a> {
    run: &'a Run,
}

impl Future for Reply<'_> {
    type Output = Result<OpReply, OpError>;
    fn poll(self: Pin<&mut Self>, _: &mut TaskContext<'_>) -> Poll<Self::Output> {
        match self.run.incoming.borrow_mut().take() {
            Some(reply) => Poll::Ready(reply),
            None => Poll::Pending,
        }
    }
}
