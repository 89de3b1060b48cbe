//! Answers what queries ask ([`Op`]): from this core's tables, from a peer, or from the catalog.
//!
//! Always: a key has one home (hash, shard, store, core), so a point operation is one hop or none, and an operation over
//! many keys or a whole table is one message to each core concerned. A message bears the epoch of its sender's catalog:
//! one that is older than the receiver's is sent back and tried again once the sender has followed.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use futures_util::future::join_all;
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::op::{
    CatalogOp, CatalogReply, Change, Document, Durability, IndexId, IndexOp, IndexState, InsertRow, Key, Op,
    OpError, OpReply, PartBatch, ReadMode, RowChange, RowOutcome, Scan, TableId, TableRead, TableReply,
    TableWrite, WriteOptions,
};
use photondb_proto::outside::{OutsideOp, OutsideReply};
use photondb_storage::engine::{Cached, Lsn, StorageEngine};

use crate::OutsideJob;
use crate::access::Access;
use crate::catalog::{self, Table, change};
use crate::construct;
use crate::core::{Answer, Core, Request};
use crate::env::Env;
use crate::feed;
use crate::owner;
use crate::scan;
use crate::system;
use crate::table::{OpenStore, storage_failed};
use crate::write;

/// Most random bytes a query may ask for at once.
const RANDOM_BYTES_MAX: u32 = 16 << 20;
/// Most that are had without a call of the kernel.
const RANDOM_BYTES_AT_ONCE: u32 = 64;

/// Answers one operation of a query that runs on this core on a user's behalf.
///
/// # Errors
/// The query's.
pub async fn answer<E: Env>(core: &Rc<Core<E>>, access: &Access, op: Op) -> Result<OpReply, OpError> {
    access.check(&core.catalog(), &op)?;
    match op {
        Op::Random { bytes } => {
            if bytes > RANDOM_BYTES_MAX {
                return Err(QueryError::new(ErrorKind::ResourceLimit, "Too many random numbers at once."));
            }
            let mut random = vec![0; bytes as usize];
            core.env.random(&mut random);
            Ok(OpReply::Random(random))
        }
        Op::Outside(op) => Box::pin(outside(core, op)).await.map(OpReply::Outside),
        Op::Catalog(op) => Box::pin(catalog(core, op)).await.map(OpReply::Catalog),
        Op::Read { table, read, mode } => {
            Box::pin(read_table(core, access, table, read, mode)).await.map(OpReply::Read)
        }
        Op::Write { table, write } if table.as_system_table().is_some() => {
            Box::pin(write_system(core, access, table, write)).await.map(OpReply::Write)
        }
        Op::Write { table, write } => Box::pin(write_table(core, table, write)).await.map(OpReply::Write),
        // Feeds belong to the query that opened them: `cursor.rs` answers for them.
        Op::Feed(_) => Err(wrong_answer()),
    }
}

/// Hands something to the control side and waits for what comes of it.
async fn outside<E: Env>(core: &Core<E>, op: OutsideOp) -> Result<OutsideReply, QueryError> {
    let (answer, reply) = flume::bounded(1);
    let refused = |reason: &str| QueryError::new(ErrorKind::ResourceLimit, reason);
    core.outside.try_send(OutsideJob { op, answer }).map_err(|error| match error {
        flume::TrySendError::Full(_) => {
            refused("Too many scripts and HTTP requests are waiting already: try again later.")
        }
        flume::TrySendError::Disconnected(_) => {
            refused("This server runs no scripts and makes no HTTP requests.")
        }
    })?;
    let gone = || QueryError::new(ErrorKind::OpFailed, "The server is shutting down.");
    core.env.heard(reply.recv_async()).await.map_err(|_| gone())
}

/// What became of something that was to be answered without waiting.
pub enum AtOnce<A, Q> {
    Answered(A),
    /// It cannot be: here it is back.
    Waits(Q),
}

/// The reply to an operation that is under way.
pub type Reply = Pin<Box<dyn Future<Output = Result<OpReply, OpError>>>>;

/// An operation that could not be answered at once.
pub enum Waiting {
    /// It has not begun: give it to [`answer`].
    Op(Op),
    /// It was polled once with a waker that wakes nobody: await it.
    Begun(Reply),
}

/// Answers an operation without waiting, if that can be. A write is applied as far as it can be, so that one that waits for
/// nothing but its flush takes its place in the next, and a soft one is done. A step of a scan of this core goes as far as it can.
pub fn answer_at_once<E: Env>(
    core: &Rc<Core<E>>,
    access: &Access,
    op: Op,
) -> AtOnce<Result<OpReply, OpError>, Waiting> {
    if let Err(refusal) = access.check(&core.catalog(), &op) {
        return AtOnce::Answered(Err(refusal));
    }
    match op {
        Op::Catalog(op) if change::is_at_hand(&op) => {
            AtOnce::Answered(read_catalog(core, &op).map(OpReply::Catalog))
        }
        Op::Random { bytes } if bytes <= RANDOM_BYTES_AT_ONCE => {
            let mut random = vec![0; bytes as usize];
            core.env.random(&mut random);
            AtOnce::Answered(Ok(OpReply::Random(random)))
        }
        Op::Read {
            table: id,
            read: TableRead::Get { key },
            mode: mode @ (ReadMode::Single | ReadMode::Outdated),
        } => match cached_row(core, id, &key) {
            Some(row) => AtOnce::Answered(Ok(OpReply::Read(TableReply::Row(row)))),
            None => AtOnce::Waits(Waiting::Op(Op::Read { table: id, read: TableRead::Get { key }, mode })),
        },
        Op::Read { table: id, read: TableRead::Scan(scan), mode } => match scanned_here(core, id, &scan) {
            Some(table) => {
                let core = core.clone();
                begun(Box::pin(async move { scan_parts(&core, &table, scan, mode).await.map(OpReply::Read) }))
            }
            None => AtOnce::Waits(Waiting::Op(Op::Read { table: id, read: TableRead::Scan(scan), mode })),
        },
        Op::Write { table, write } => match begin_write(core, table, write) {
            Ok(writing) => begun(writing),
            Err(write) => AtOnce::Waits(Waiting::Op(Op::Write { table, write })),
        },
        Op::Catalog(_) | Op::Random { .. } | Op::Read { .. } | Op::Outside(_) | Op::Feed(_) => {
            AtOnce::Waits(Waiting::Op(op))
        }
    }
}

/// Polls once with a waker that wakes nobody.
fn polled_once<T>(
    mut begun: Pin<Box<dyn Future<Output = T>>>,
) -> AtOnce<T, Pin<Box<dyn Future<Output = T>>>> {
    match begun.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(ended) => AtOnce::Answered(ended),
        Poll::Pending => AtOnce::Waits(begun),
    }
}

/// What becomes of an operation that has just begun.
fn begun(reply: Reply) -> AtOnce<Result<OpReply, OpError>, Waiting> {
    match polled_once(reply) {
        AtOnce::Answered(reply) => AtOnce::Answered(reply),
        AtOnce::Waits(reply) => AtOnce::Waits(Waiting::Begun(reply)),
    }
}

/// The table of a step of a scan that gives rows of this core as they are: it waits for the store and for its turn alone. With work to be
/// done on its way it may take long.
fn scanned_here<E: Env>(core: &Rc<Core<E>>, id: TableId, scan: &Scan) -> Option<Rc<Table>> {
    let table = core.catalog().table(id)?.clone();
    (scan.pipeline.is_empty() && core.homes(&table) == [core.number]).then_some(table)
}

/// The writing of rows that all have one home, or the write as it was. It waits for the store alone or for a peer's reply, whose waits may be
/// polled by one task and then by another.
fn begin_write<E: Env>(core: &Rc<Core<E>>, id: TableId, write: TableWrite) -> Result<Reply, TableWrite> {
    let catalog = core.catalog();
    let Some(table) = catalog.table(id) else { return Err(write) };
    let (core, table) = (core.clone(), table.clone());
    match home_of_all(&core, &table, &write) {
        Some(home) if home == core.number => {
            Ok(Box::pin(async move { write_here(&core, &table, write).await.map(OpReply::Write) }))
        }
        Some(peer) if core.mesh.may_ask(peer) => {
            Ok(Box::pin(async move { write_there(&core, peer, id, write).await.map(OpReply::Write) }))
        }
        Some(_) | None => Err(write),
    }
}

/// A row of this core that is in memory; nothing says that there is no such row.
fn cached_row<E: Env>(core: &Rc<Core<E>>, id: TableId, key: &[u8]) -> Option<Option<Document>> {
    let table = table_of(core, id).ok()?;
    let local = core.tables.local(&table);
    match local.shard_of(key)?.cached(key) {
        Ok(Cached::Hit(row)) => {
            local.read.add(u64::from(row.is_some()));
            Some(row.map(|row| row.to_vec()))
        }
        Ok(Cached::Miss) | Err(_) => None,
    }
}

/// The answer to a peer's request that is under way.
pub type Serving = Pin<Box<dyn Future<Output = Answer>>>;

/// Answers a peer's request without waiting, if that can be: a row that is in memory, a write that waits for nothing. What waits was
/// begun as far as it could be.
pub fn serve_at_once<E: Env>(core: &Rc<Core<E>>, request: Request) -> AtOnce<Answer, Serving> {
    let core = core.clone();
    match request {
        Request::Read { epoch, table, read: TableRead::Get { key }, mode: ReadMode::Single }
            if epoch == core.epoch() =>
        {
            match cached_row(&core, table, &key) {
                Some(row) => AtOnce::Answered(Answer::Read(Ok(TableReply::Row(row)))),
                None => AtOnce::Waits(Box::pin(async move {
                    Answer::Read(read_here(&core, table, TableRead::Get { key }, ReadMode::Single).await)
                })),
            }
        }
        Request::Write { epoch, table, write } if epoch == core.epoch() => {
            polled_once(Box::pin(async move {
                Answer::Write(match table_of(&core, table) {
                    Ok(table) => write_here(&core, &table, write).await,
                    Err(gone) => Err(gone),
                })
            }))
        }
        request @ (Request::Read { .. }
        | Request::Write { .. }
        | Request::Catalog(_)
        | Request::SystemWrite { .. }
        | Request::Tell(_)
        | Request::Follow(_)
        | Request::Feed(_)
        | Request::Construct { .. }
        | Request::Progress { .. }) => AtOnce::Waits(Box::pin(async move { serve(&core, request).await })),
    }
}

/// Answers a request of a peer.
async fn serve<E: Env>(core: &Rc<Core<E>>, request: Request) -> Answer {
    let Some(epoch) = epoch_of(&request) else {
        return serve_now(core, request).await;
    };
    // A newer message waits until this core has followed; an older one goes back.
    if epoch > core.epoch() {
        core.catalog_watchers.until(|| core.epoch() >= epoch).await;
    }
    if epoch < core.epoch() {
        return Answer::Stale { epoch: core.epoch(), request: Box::new(request) };
    }
    serve_now(core, request).await
}

async fn serve_now<E: Env>(core: &Rc<Core<E>>, request: Request) -> Answer {
    match request {
        Request::Read { table, read, mode, .. } => Answer::Read(read_here(core, table, read, mode).await),
        Request::Write { table, write, .. } => Answer::Write(match table_of(core, table) {
            Ok(table) => write_here(core, &table, write).await,
            Err(gone) => Err(gone),
        }),
        Request::Catalog(op) => Answer::Catalog(change_catalog(core, op).await),
        Request::SystemWrite { table, write, user } => {
            Answer::Write(system::write(core, table, write, &user).await)
        }
        Request::Tell(question) => Answer::Told(core.tell(question)),
        Request::Follow(records) => {
            core.follow(&records);
            Answer::Followed
        }
        Request::Construct { table, index } => Answer::Constructed(match table_of(core, table) {
            Ok(table) => construct::part(core, &table, index).await,
            Err(_) => Ok(()),
        }),
        Request::Progress { table, .. } => Answer::Progress(progress_here(core, table)),
        Request::Feed(request) => Answer::Feed(feed::serve(core, request).await),
    }
}

fn epoch_of(request: &Request) -> Option<u64> {
    match request {
        Request::Read { epoch, .. } | Request::Write { epoch, .. } | Request::Progress { epoch, .. } => {
            Some(*epoch)
        }
        Request::Catalog(_)
        | Request::SystemWrite { .. }
        | Request::Tell(_)
        | Request::Follow(_)
        | Request::Feed(_)
        | Request::Construct { .. } => None,
    }
}

/// Asks a peer, and again if it knows a newer catalog, once this core has followed.
async fn request<E: Env>(core: &Rc<Core<E>>, peer: u16, mut request: Request) -> Answer {
    loop {
        match &mut request {
            Request::Read { epoch, .. } | Request::Write { epoch, .. } | Request::Progress { epoch, .. } => {
                *epoch = core.epoch();
            }
            Request::Catalog(_)
            | Request::SystemWrite { .. }
            | Request::Tell(_)
            | Request::Follow(_)
            | Request::Feed(_)
            | Request::Construct { .. } => {}
        }
        match core.mesh.request(peer, request).await {
            Answer::Stale { epoch, request: back } => {
                core.catalog_watchers.until(|| core.epoch() >= epoch).await;
                request = *back;
            }
            answer @ (Answer::Read(_)
            | Answer::Write(_)
            | Answer::Catalog(_)
            | Answer::Followed
            | Answer::Feed(_)
            | Answer::Told(_)
            | Answer::Constructed(_)
            | Answer::Progress(_)) => return answer,
        }
    }
}

pub fn wrong_answer() -> QueryError {
    QueryError::new(ErrorKind::Internal, "a core answered another question than it was asked")
}

fn table_of<E: Env>(core: &Core<E>, id: TableId) -> Result<Rc<Table>, QueryError> {
    let catalog = core.catalog();
    catalog.table(id).cloned().ok_or_else(|| catalog::failed(format!("Table `{id}` does not exist.")))
}

// ---------------------------------------------------------------- reading

async fn read_table<E: Env>(
    core: &Rc<Core<E>>,
    access: &Access,
    id: TableId,
    read: TableRead,
    mode: ReadMode,
) -> Result<TableReply, QueryError> {
    if id.as_system_table().is_some() {
        return system::read(core, &access.user, id, read).await;
    }
    let table = table_of(core, id)?;
    match read {
        TableRead::Get { key } => {
            let home = core.home(&table, &key);
            read_at(core, home, id, TableRead::Get { key }, mode).await
        }
        TableRead::GetMany { keys } => get_many(core, &table, keys, mode).await,
        TableRead::Scan(scan) => scan_parts(core, &table, scan, mode).await,
        read @ TableRead::Count { .. } => count(core, &table, read, mode).await,
    }
}

async fn read_at<E: Env>(
    core: &Rc<Core<E>>,
    peer: u16,
    table: TableId,
    read: TableRead,
    mode: ReadMode,
) -> Result<TableReply, QueryError> {
    if peer == core.number {
        return read_here(core, table, read, mode).await;
    }
    match request(core, peer, Request::Read { epoch: 0, table, read, mode }).await {
        Answer::Read(reply) => reply,
        Answer::Write(_)
        | Answer::Catalog(_)
        | Answer::Followed
        | Answer::Feed(_)
        | Answer::Told(_)
        | Answer::Constructed(_)
        | Answer::Progress(_)
        | Answer::Stale { .. } => Err(wrong_answer()),
    }
}

async fn get_many<E: Env>(
    core: &Rc<Core<E>>,
    table: &Rc<Table>,
    keys: Vec<Key>,
    mode: ReadMode,
) -> Result<TableReply, QueryError> {
    let total = keys.len();
    let groups = by_home(core, table, keys.into_iter(), |key| key);
    let parts = groups.into_iter().map(|(peer, places, keys)| async move {
        let reply = read_at(core, peer, table.id, TableRead::GetMany { keys }, mode).await?;
        let TableReply::Rows(rows) = reply else { return Err(wrong_answer()) };
        Ok((places, rows))
    });
    let mut rows: Vec<Option<Document>> = vec![None; total];
    for part in join_all(parts).await {
        let (places, found) = part?;
        for (place, row) in places.into_iter().zip(found) {
            rows[place] = row;
        }
    }
    Ok(TableReply::Rows(rows))
}

/// Splits items by the core that holds their key: (core, places of the items, items).
fn by_home<E: Env, T>(
    core: &Core<E>,
    table: &Table,
    items: impl Iterator<Item = T>,
    key: impl Fn(&T) -> &[u8],
) -> Vec<(u16, Vec<usize>, Vec<T>)> {
    let mut groups: Vec<(u16, Vec<usize>, Vec<T>)> = Vec::new();
    for (place, item) in items.enumerate() {
        let home = core.home(table, key(&item));
        let group = match groups.iter_mut().find(|(core, _, _)| *core == home) {
            Some(group) => group,
            None => {
                groups.push((home, Vec::new(), Vec::new()));
                groups.last_mut().expect("one was pushed")
            }
        };
        group.1.push(place);
        group.2.push(item);
    }
    groups
}

async fn scan_parts<E: Env>(
    core: &Rc<Core<E>>,
    table: &Rc<Table>,
    mut scan: Scan,
    mode: ReadMode,
) -> Result<TableReply, QueryError> {
    let parts: Vec<(u16, Option<Vec<u8>>)> = match scan.resume.take() {
        Some(parts) => parts.into_iter().map(|(part, next)| (part, Some(next))).collect(),
        None => core.homes(table).into_iter().map(|part| (part, None)).collect(),
    };
    if parts.iter().any(|(part, _)| *part >= core.mesh.cores()) {
        return Err(wrong_answer());
    }
    let scan = &scan;
    let batches = parts.into_iter().map(|(part, next)| async move {
        let resume = next.map(|next| vec![(part, next)]);
        let read = TableRead::Scan(Scan { resume, ..scan.clone() });
        match read_at(core, part, table.id, read, mode).await? {
            TableReply::Parts(batches) => Ok(batches),
            TableReply::Row(_) | TableReply::Rows(_) | TableReply::Count(_) => Err(wrong_answer()),
        }
    });
    let batches: Vec<Vec<PartBatch>> =
        join_all(batches).await.into_iter().collect::<Result<_, QueryError>>()?;
    Ok(TableReply::Parts(batches.into_iter().flatten().collect()))
}

async fn count<E: Env>(
    core: &Rc<Core<E>>,
    table: &Rc<Table>,
    read: TableRead,
    mode: ReadMode,
) -> Result<TableReply, QueryError> {
    let read = &read;
    let counts = core.homes(table).into_iter().map(|peer| async move {
        match read_at(core, peer, table.id, read.clone(), mode).await? {
            TableReply::Count(count) => Ok(count),
            TableReply::Row(_) | TableReply::Rows(_) | TableReply::Parts(_) => Err(wrong_answer()),
        }
    });
    let counts = join_all(counts).await.into_iter().collect::<Result<Vec<u64>, QueryError>>()?;
    Ok(TableReply::Count(counts.into_iter().sum()))
}

/// This core's part of a read.
async fn read_here<E: Env>(
    core: &Rc<Core<E>>,
    id: TableId,
    read: TableRead,
    mode: ReadMode,
) -> Result<TableReply, QueryError> {
    let table = table_of(core, id)?;
    let local = core.tables.local(&table);
    let reply = match read {
        TableRead::Get { key } => {
            let shard = local.shard_of(&key).ok_or_else(wrong_answer)?;
            let row = shard.get(&key).await.map_err(storage_failed)?;
            local.read.add(u64::from(row.is_some()));
            TableReply::Row(row.map(|row| row.to_vec()))
        }
        TableRead::GetMany { keys } => {
            let rows = local.get_many(keys).await?;
            local.read.add(rows.iter().flatten().count() as u64);
            TableReply::Rows(rows)
        }
        TableRead::Scan(scan) => TableReply::Parts(vec![scan::part(core, &local, scan).await?]),
        TableRead::Count { index, ranges } => {
            TableReply::Count(scan::count(&scan::Along::new(&local, index)?, &ranges).await?)
        }
    };
    match mode {
        ReadMode::Single | ReadMode::Outdated => {}
        ReadMode::Majority => flush_all(core).await?,
    }
    Ok(reply)
}

/// Waits until everything this core's stores have applied so far is durable.
async fn flush_all<E: Env>(core: &Rc<Core<E>>) -> Result<(), QueryError> {
    for store in core.tables.stores.values() {
        core.flush(store, store.engine.applied()).await.map_err(storage_failed)?;
    }
    Ok(())
}

// ---------------------------------------------------------------- writing

async fn write_table<E: Env>(
    core: &Rc<Core<E>>,
    id: TableId,
    write: TableWrite,
) -> Result<Vec<RowOutcome>, QueryError> {
    let table = table_of(core, id)?;
    let (total, groups) = split_write(core, &table, write);
    let table = &table;
    let parts = groups.into_iter().map(|(peer, places, write)| async move {
        let outcomes = write_at(core, peer, table, write).await?;
        Ok((places, outcomes))
    });
    let mut outcomes: Vec<Option<RowOutcome>> = (0..total).map(|_| None).collect();
    for part in join_all(parts).await {
        let (places, part): (Vec<usize>, Vec<RowOutcome>) = part?;
        for (place, outcome) in places.into_iter().zip(part) {
            outcomes[place] = Some(outcome);
        }
    }
    outcomes.into_iter().collect::<Option<Vec<_>>>().ok_or_else(wrong_answer)
}

/// The core that is the home of all rows of a write, if it is one.
fn home_of_all<E: Env>(core: &Core<E>, table: &Table, write: &TableWrite) -> Option<u16> {
    if core.mesh.cores() == 1 {
        return Some(core.number);
    }
    let home = |key: &[u8]| core.home(table, key);
    match write {
        TableWrite::Sync => None,
        TableWrite::Insert { rows, .. } => the_one(rows.iter().map(|row| home(&row.key))),
        TableWrite::Change { keys, .. } => the_one(keys.iter().map(|key| home(key))),
    }
}

/// What all of them are, if they are the same.
fn the_one(mut homes: impl Iterator<Item = u16>) -> Option<u16> {
    let first = homes.next()?;
    homes.all(|home| home == first).then_some(first)
}

type WriteGroups = Vec<(u16, Vec<usize>, TableWrite)>;

/// The number of rows, and what each core does of a write.
fn split_write<E: Env>(core: &Core<E>, table: &Table, write: TableWrite) -> (usize, WriteGroups) {
    match write {
        TableWrite::Sync => {
            (0, core.homes(table).into_iter().map(|peer| (peer, Vec::new(), TableWrite::Sync)).collect())
        }
        TableWrite::Insert { rows, conflict, options } => {
            let total = rows.len();
            let groups = by_home(core, table, rows.into_iter(), |row: &InsertRow| &row.key);
            let group = |(peer, places, rows)| {
                (peer, places, TableWrite::Insert { rows, conflict: conflict.clone(), options })
            };
            (total, groups.into_iter().map(group).collect())
        }
        TableWrite::Change { keys, change, options } => {
            let total = keys.len();
            let groups = match change {
                Change::Put(values) => {
                    let items = keys.into_iter().zip(values);
                    let groups = by_home(core, table, items, |(key, _)| key);
                    let group = |(peer, places, items): (u16, Vec<usize>, Vec<_>)| {
                        let (keys, values) = items.into_iter().unzip();
                        (peer, places, TableWrite::Change { keys, change: Change::Put(values), options })
                    };
                    groups.into_iter().map(group).collect()
                }
                change @ (Change::Update(_) | Change::Merge(_) | Change::Replace(_) | Change::Delete) => {
                    let groups = by_home(core, table, keys.into_iter(), |key| key);
                    let group = |(peer, places, keys)| {
                        (peer, places, TableWrite::Change { keys, change: change.clone(), options })
                    };
                    groups.into_iter().map(group).collect()
                }
            };
            (total, groups)
        }
    }
}

async fn write_at<E: Env>(
    core: &Rc<Core<E>>,
    peer: u16,
    table: &Rc<Table>,
    write: TableWrite,
) -> Result<Vec<RowOutcome>, QueryError> {
    if peer == core.number {
        return Box::pin(write_here(core, table, write)).await;
    }
    write_there(core, peer, table.id, write).await
}

/// A peer's part of a write.
async fn write_there<E: Env>(
    core: &Rc<Core<E>>,
    peer: u16,
    table: TableId,
    write: TableWrite,
) -> Result<Vec<RowOutcome>, QueryError> {
    match request(core, peer, Request::Write { epoch: 0, table, write }).await {
        Answer::Write(outcomes) => outcomes,
        Answer::Read(_)
        | Answer::Catalog(_)
        | Answer::Followed
        | Answer::Feed(_)
        | Answer::Told(_)
        | Answer::Constructed(_)
        | Answer::Progress(_)
        | Answer::Stale { .. } => Err(wrong_answer()),
    }
}

/// This core's part of a write: applies row by row, then waits for one flush if the write is hard.
async fn write_here<E: Env>(
    core: &Rc<Core<E>>,
    table: &Rc<Table>,
    write: TableWrite,
) -> Result<Vec<RowOutcome>, QueryError> {
    let options = match &write {
        TableWrite::Sync => {
            flush_all(core).await?;
            return Ok(Vec::new());
        }
        TableWrite::Insert { options, .. } | TableWrite::Change { options, .. } => *options,
    };
    let local = core.tables.local(table);
    let (outcomes, written) = write::rows(core, table, &local, write).await?;
    let changed = |outcome: &&RowOutcome| {
        matches!(outcome.kind, RowChange::Inserted | RowChange::Deleted | RowChange::Replaced)
    };
    local.written.add(outcomes.iter().filter(changed).count() as u64);
    if is_hard(table, &options) {
        for (store, lsn) in written {
            core.flush(&store, lsn).await.map_err(storage_failed)?;
        }
    } else if !written.is_empty() {
        core.flush_soon();
    }
    Ok(outcomes)
}

fn is_hard(table: &Table, options: &WriteOptions) -> bool {
    options.durability.unwrap_or(table.durability) == Durability::Hard
}

/// Where a write ends in each store's log.
pub type Written<S> = Vec<(Rc<OpenStore<S>>, Lsn)>;

// ---------------------------------------------------------------- catalog

async fn catalog<E: Env>(core: &Rc<Core<E>>, op: CatalogOp) -> Result<CatalogReply, QueryError> {
    if let CatalogOp::Index { table, op: op @ (IndexOp::Status { .. } | IndexOp::Wait { .. }) } = op {
        return index_states(core, table, op).await;
    }
    if !change::is_change(&op) {
        return read_catalog(core, &op);
    }
    let owner = core.core_of(0);
    if owner == core.number {
        let here = core.clone();
        return to_its_end(core, async move { change_catalog(&here, op).await }).await;
    }
    match core.mesh.request(owner, Request::Catalog(op)).await {
        Answer::Catalog(reply) => reply,
        Answer::Read(_)
        | Answer::Write(_)
        | Answer::Followed
        | Answer::Feed(_)
        | Answer::Told(_)
        | Answer::Constructed(_)
        | Answer::Progress(_)
        | Answer::Stale { .. } => Err(wrong_answer()),
    }
}

/// States of indexes, once they are ready if the op says so.
async fn index_states<E: Env>(
    core: &Rc<Core<E>>,
    table: TableId,
    op: IndexOp,
) -> Result<CatalogReply, QueryError> {
    let waits = matches!(op, IndexOp::Wait { .. });
    let op = CatalogOp::Index { table, op };
    let states = || match change::read(&core.catalog(), &op)? {
        CatalogReply::Indexes(states) => Ok(states),
        CatalogReply::Table(_)
        | CatalogReply::Database(_)
        | CatalogReply::Names(_)
        | CatalogReply::Value(_) => Err(wrong_answer()),
    };
    if waits {
        let ended = |states: &Vec<IndexState>| states.iter().all(|state| state.ready);
        core.catalog_watchers.until(|| states().as_ref().map_or(true, ended)).await;
    }
    let mut states = states()?;
    if states.iter().all(|state| state.ready) {
        if waits {
            // A peer answers once it has followed as far as this core: then the index is ready for its clients too.
            join_all((0..core.mesh.cores()).map(|peer| progress_at(core, peer, table))).await;
        }
        return Ok(CatalogReply::Indexes(states));
    }
    let table = table_of(core, table)?;
    let parts = core.homes(&table).into_iter().map(|peer| progress_at(core, peer, table.id));
    let parts = join_all(parts).await.into_iter().collect::<Result<Vec<_>, QueryError>>()?;
    for state in &mut states {
        let index = table.indexes.iter().find(|index| index.definition.name == state.definition.name);
        let of_index = parts.iter().flatten().filter(|(id, ..)| index.is_some_and(|index| index.id == *id));
        let (done, total) = of_index.fold((0, 0), |(done, all), (_, more, total)| (done + more, all + total));
        // All rows may be done while the last flush is not.
        let done = (done as f64 / total.max(1) as f64).min(0.999);
        state.progress = if state.ready { 1.0 } else { done };
    }
    Ok(CatalogReply::Indexes(states))
}

async fn progress_at<E: Env>(
    core: &Rc<Core<E>>,
    peer: u16,
    table: TableId,
) -> Result<Vec<(IndexId, u64, u64)>, QueryError> {
    if peer == core.number {
        return Ok(progress_here(core, table));
    }
    match request(core, peer, Request::Progress { epoch: 0, table }).await {
        Answer::Progress(progress) => Ok(progress),
        Answer::Read(_)
        | Answer::Write(_)
        | Answer::Catalog(_)
        | Answer::Followed
        | Answer::Told(_)
        | Answer::Constructed(_)
        | Answer::Feed(_)
        | Answer::Stale { .. } => Err(wrong_answer()),
    }
}

fn progress_here<E: Env>(core: &Rc<Core<E>>, table: TableId) -> Vec<(IndexId, u64, u64)> {
    let Ok(table) = table_of(core, table) else { return Vec::new() };
    let indexes = core.tables.local(&table).indexes();
    let progress = indexes.iter().map(|index| {
        let progress = &index.progress;
        (index.id, progress.done.get(), progress.total.get())
    });
    progress.collect()
}

/// Has a core construct its part of an index.
pub async fn construct_at<E: Env>(
    core: &Rc<Core<E>>,
    peer: u16,
    table: TableId,
    index: IndexId,
) -> Result<(), QueryError> {
    if peer == core.number {
        return construct::part(core, &table_of(core, table)?, index).await;
    }
    match request(core, peer, Request::Construct { table, index }).await {
        Answer::Constructed(constructed) => constructed,
        Answer::Read(_)
        | Answer::Write(_)
        | Answer::Catalog(_)
        | Answer::Followed
        | Answer::Told(_)
        | Answer::Progress(_)
        | Answer::Feed(_)
        | Answer::Stale { .. } => Err(wrong_answer()),
    }
}

/// Carries out a change that has begun though its client go away: hence in a task of its own.
async fn to_its_end<E: Env, T: 'static>(
    core: &Rc<Core<E>>,
    change: impl Future<Output = Result<T, QueryError>> + 'static,
) -> Result<T, QueryError> {
    let (done, changed) = flume::bounded(1);
    core.env.clone().spawn(async move {
        let _ = done.send(change.await);
    });
    changed.recv_async().await.unwrap_or_else(|_| Err(wrong_answer()))
}

/// Writes to a system table where the catalog is.
async fn write_system<E: Env>(
    core: &Rc<Core<E>>,
    access: &Access,
    table: TableId,
    write: TableWrite,
) -> Result<Vec<RowOutcome>, QueryError> {
    let (owner, user) = (core.core_of(0), access.user.to_string());
    if owner == core.number {
        let here = core.clone();
        return to_its_end(core, async move { system::write(&here, table, write, &user).await }).await;
    }
    match core.mesh.request(owner, Request::SystemWrite { table, write, user }).await {
        Answer::Write(outcomes) => outcomes,
        Answer::Read(_)
        | Answer::Catalog(_)
        | Answer::Followed
        | Answer::Told(_)
        | Answer::Constructed(_)
        | Answer::Progress(_)
        | Answer::Feed(_)
        | Answer::Stale { .. } => Err(wrong_answer()),
    }
}

/// Answers from this core's copy.
fn read_catalog<E: Env>(core: &Core<E>, op: &CatalogOp) -> Result<CatalogReply, QueryError> {
    system::catalog(op).unwrap_or_else(|| change::read(&core.catalog(), op))
}

/// Carries out a change as the catalog's owner.
///
/// # Errors
/// The client's, or the store's.
pub async fn change_catalog<E: Env>(core: &Rc<Core<E>>, op: CatalogOp) -> Result<CatalogReply, QueryError> {
    let owner = core.owner.as_ref().ok_or_else(wrong_answer)?;
    let _inside = owner.turnstile.enter().await;
    let plan = change::plan(&core.catalog(), &op, owner::means(core))?;
    let changed = catalog::tables_of(&plan.records);
    owner::commit(core, plan.records).await?;
    construct::begin_of(core, &core.catalog().tables_among(&changed));
    Ok(CatalogReply::Value(photondb_proto::datum::document::to_bytes(&plan.answer)))
}
