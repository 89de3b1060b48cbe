//! Changefeeds: from the commit of a row to the elements a client is sent.
//!
//! Two sides, joined by messages. The core that owns a row *publishes* ([`publish`]): a committed change waits until it is as
//! durable as its write asked for, is evaluated once for each distinct [`Plan`], and goes to the cores that subscribed. The
//! core of a connection *listens* ([`listen`]): it keeps one subscription for each plan, shared by all its listeners,
//! and each listener has its own bounded queue ([`queue`]), so a slow client fills nobody else's memory.
//!
//! Always:
//! - Changes of a shard are published in commit order, and none before the flush that its write waited for; a soft change
//!   waits for the hard ones before it.
//! - A value read for `include_initial` ([`segment`]) comes with the commit number of each shard that it reflects exactly. A change
//!   is delivered if its commit is later than that of the segment its key was read in; a change of a key that is still to
//!   be read is not, since the read will show it. So initial values and changes never contradict, and none is lost or seen twice.
//! - Rows of system tables are not published: who listens looks at them again ([`system`]).
//! - Nothing is dropped in silence: what does not fit is counted and told in the stream, or ends the feed.

mod evaluate;
mod listen;
mod log;
mod publish;
mod queue;
mod segment;
mod system;
mod trail;
mod window;

use std::rc::Rc;

use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::feed::{FeedMember, FeedRows};
use photondb_proto::op::{Document, Key, TableId};

pub use listen::{Listening, next, next_at_once, open};
pub use publish::{Committed, Publishing};

use crate::core::{Answer, Core};
use crate::env::Env;

/// What is evaluated once for all who want the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    pub table: TableId,
    pub rows: FeedRows,
    pub pipeline: Vec<u8>,
}

impl Plan {
    pub fn of(member: &FeedMember) -> Plan {
        Plan { table: member.table, rows: member.rows.clone(), pipeline: member.pipeline.clone() }
    }
}

/// A subscription, as the cores name it to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubscriptionId {
    /// The core that listens.
    pub core: u16,
    pub number: u64,
}

/// A change of one row, after the plan's pipeline.
#[derive(Clone, Debug)]
pub struct RowChange {
    pub shard: u32,
    pub commit: u64,
    /// Where the row stands now in the plan's order, or stood last.
    pub key: Key,
    /// Where it stood before, if that was elsewhere.
    pub old_key: Option<Key>,
    pub old: Option<Document>,
    pub new: Option<Document>,
    /// Which of the changes of this commit it is, and whether another follows.
    pub part: u32,
    pub more: bool,
}

/// What one core asks of another.
#[derive(Debug)]
pub enum FeedRequest {
    /// Publish to this subscription from now on → [`FeedAnswer::Stamps`].
    Subscribe {
        id: SubscriptionId,
        plan: Plan,
    },
    Unsubscribe {
        id: SubscriptionId,
        plan: Plan,
    },
    /// Say to this subscription how far the table's changes have come.
    Reach {
        id: SubscriptionId,
        table: TableId,
    },
    /// Changes for subscriptions of the receiver, in order, and how many were left out before them.
    Publish(Vec<(u64, Published)>),
    /// Rows as they are now, behind the key `after` → [`FeedAnswer::Segment`].
    Read {
        plan: Plan,
        after: Option<Key>,
        rows_max: u32,
    },
    /// Keep the changes of the table from now on, if they are kept at all → [`FeedAnswer::Stamps`].
    Keep {
        table: TableId,
    },
    /// Kept changes behind these commits, from these places on → [`FeedAnswer::Logged`].
    Log {
        plan: Plan,
        after: Vec<Stamp>,
        places: log::Places,
    },
}

impl FeedRequest {
    /// Whether change logs are written for it. That must not be broken off: what is on its way to a file would be lost.
    fn writes(&self) -> bool {
        match self {
            FeedRequest::Keep { .. } | FeedRequest::Log { .. } => true,
            FeedRequest::Subscribe { .. }
            | FeedRequest::Unsubscribe { .. }
            | FeedRequest::Reach { .. }
            | FeedRequest::Publish(_)
            | FeedRequest::Read { .. } => false,
        }
    }
}

#[derive(Clone, Debug)]
pub enum Published {
    Change(RowChange),
    Skipped(u64),
    /// All changes up to these stamps came before this, and they are durable.
    Reached(Vec<Stamp>),
}

#[derive(Debug)]
pub enum FeedAnswer {
    Done,
    /// The last commit of each shard.
    Stamps(Result<Vec<Stamp>, QueryError>),
    Segment(Result<Segment, QueryError>),
    Logged(Result<log::Portion, QueryError>),
}

/// The commit number that a shard had reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub shard: u32,
    pub commit: u64,
}

/// Rows of one core as they were at its stamps.
#[derive(Debug)]
pub struct Segment {
    /// After the plan's pipeline, in the order of the plan.
    pub rows: Vec<(Key, Document)>,
    /// The segment ends with this key; `None`: with the last row.
    pub upto: Option<Key>,
    pub stamps: Vec<Stamp>,
}

/// The feed's table is gone, or what it ran on.
pub fn aborted() -> QueryError {
    QueryError::new(ErrorKind::OpFailed, "Changefeed aborted (unavailable).")
}

/// Answers a peer, or this core itself.
pub async fn serve<E: Env>(core: &Rc<Core<E>>, request: FeedRequest) -> FeedAnswer {
    match request {
        FeedRequest::Subscribe { id, plan } => FeedAnswer::Stamps(publish::subscribe(core, id, plan)),
        FeedRequest::Unsubscribe { id, plan } => {
            core.publishing.unsubscribe(id, &plan);
            FeedAnswer::Done
        }
        FeedRequest::Reach { id, table } => {
            publish::reach(core, id, table).await;
            FeedAnswer::Done
        }
        FeedRequest::Publish(changes) => {
            listen::deliver(core, changes);
            FeedAnswer::Done
        }
        FeedRequest::Read { plan, after, rows_max } => {
            FeedAnswer::Segment(segment::read(core, &plan, after, rows_max).await)
        }
        FeedRequest::Keep { table } => FeedAnswer::Stamps(log::keep(core, table).await),
        FeedRequest::Log { plan, after, places } => {
            FeedAnswer::Logged(log::read(core, plan, &after, &places).await)
        }
    }
}

/// Asks a core, which may be this one.
async fn ask<E: Env>(core: &Rc<Core<E>>, peer: u16, request: FeedRequest) -> FeedAnswer {
    if peer == core.number {
        if !request.writes() {
            return serve(core, request).await;
        }
        // It goes on to its end, although who asked may be gone before.
        let (sender, answer) = flume::bounded(1);
        let serving = core.clone();
        core.env.spawn(async move {
            let _ = sender.send(serve(&serving, request).await);
        });
        return answer.recv_async().await.unwrap_or(FeedAnswer::Done);
    }
    match core.mesh.request(peer, crate::core::Request::Feed(request)).await {
        Answer::Feed(answer) => answer,
        Answer::Read(_)
        | Answer::Write(_)
        | Answer::Catalog(_)
        | Answer::Followed
        | Answer::Told(_)
        | Answer::Constructed(_)
        | Answer::Progress(_)
        | Answer::Stale { .. } => FeedAnswer::Done,
    }
}
