//! Feeds that go on where another ended: the changes behind a resume token, from the change logs of the cores that own the rows.
//!
//! Always: what is read is durable and in the order of each shard's commits, and goes through the same evaluation as changes that are
//! published. A feed reads its logs to their ends, subscribes, and reads on to the stamps that it subscribed at: what is later
//! comes to it as it happens, so nothing is missing and nothing twice. No log waits for a reader: one that is overtaken
//! by what is dropped is told so.

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::rc::Rc;

use futures_util::future::join_all;
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::feed::{FeedRows, FeedSpec};
use photondb_proto::op::TableId;
use photondb_proto::resume::{COMMIT_COUNT_BITS, Commits, ResumeToken, ShardPlace};
use photondb_storage::changelog::{ChangeLogError, LogPlace, Position};
use photondb_storage::engine::StorageEngine;
use xxhash_rust::xxh3::Xxh3;

use super::evaluate::{Evaluator, Looked};
use super::publish;
use super::queue::Change;
use super::{FeedAnswer, FeedRequest, Plan, RowChange, Stamp, aborted, ask};
use crate::catalog::Table;
use crate::core::Core;
use crate::env::Env;
use crate::table::{OpenStore, storage_failed};

/// Bytes of a log that are read at a time.
const PORTION_BYTES: usize = 64 << 10;
/// Changes that are evaluated before others have their turn.
const CHANGES_TOGETHER: usize = 64;

/// Places in the logs of a core's stores.
pub type Places = Vec<(u16, LogPlace)>;

/// What one core has read.
#[derive(Debug)]
pub struct Portion {
    pub changes: Vec<RowChange>,
    /// How far it has come in each shard, whatever the plan made of the changes.
    pub reached: Vec<Stamp>,
    pub next: Places,
    pub more: bool,
}

// ---------------------------------------------------------------- where the rows are

fn refused(text: String) -> QueryError {
    QueryError::new(ErrorKind::OpFailed, text)
}

fn off(table: &Table) -> QueryError {
    refused(format!(
        "Changefeeds on table `{}` cannot be resumed: its changes are not kept. Set `change_log` in its `table_config`, or start \
         the server with `change-log-bytes` above 0.",
        table.name
    ))
}

/// Makes sure that the changes of a table are kept on this core from now on. Gives the last commit of each shard.
///
/// # Errors
/// The table is gone; changes are not kept; the store's.
pub async fn keep<E: Env>(core: &Rc<Core<E>>, id: TableId) -> Result<Vec<Stamp>, QueryError> {
    let table = core.catalog().table(id).cloned().ok_or_else(aborted)?;
    let local = core.tables.local(&table);
    if !local.keeps_changes() {
        return Err(off(&table));
    }
    let now_ms = core.env.unix_ms();
    for shard in local.shards.iter().flatten() {
        local.keep_changes(shard, now_ms).await.map_err(storage_failed)?;
    }
    Ok(publish::stamps(core, &table))
}

/// Reads on behind these commits: from their places, or from the first change behind them.
///
/// # Errors
/// Why that cannot be: changes are gone, or were never there.
pub async fn read<E: Env>(
    core: &Rc<Core<E>>,
    plan: Plan,
    after: &[Stamp],
    places: &Places,
) -> Result<Portion, QueryError> {
    keep(core, plan.table).await?;
    let table = core.catalog().table(plan.table).cloned().ok_or_else(aborted)?;
    let mut evaluator = Evaluator::new(plan, &core.tables.local(&table))?;
    evaluator.read_question(core).await?;
    let mut portion = Portion { changes: Vec::new(), reached: Vec::new(), next: Vec::new(), more: false };
    for (store, positions) in by_store(core, &table, after) {
        let failed = |error| told(&table, error);
        let log = crate::table::table_name(table.id);
        let place = match places.iter().find(|(number, _)| *number == store.number) {
            Some((_, place)) => *place,
            None => store.engine.change_place(&log, &positions).await.map_err(failed)?,
        };
        let run =
            store.engine.changes_behind(&log, &positions, place, PORTION_BYTES).await.map_err(failed)?;
        portion.next.push((store.number, run.next));
        portion.more |= run.more;
        let mut reached = BTreeMap::new();
        for (count, change) in run.changes.into_iter().enumerate() {
            reached.insert(change.shard, change.commit);
            let change = super::Committed {
                table: table.id,
                shard: change.shard,
                commit: change.commit,
                key: change.key,
                old: change.old,
                new: change.new,
            };
            portion.changes.extend(evaluator.changes(&mut Looked::new(&change)).await);
            if count % CHANGES_TOGETHER == CHANGES_TOGETHER - 1 {
                core.env.next_turn().await;
            }
        }
        portion.reached.extend(reached.into_iter().map(|(shard, commit)| Stamp { shard, commit }));
    }
    Ok(portion)
}

type StorePositions<S> = (Rc<OpenStore<S>>, Vec<Position>);

/// The stores of this core that hold these shards.
fn by_store<E: Env>(core: &Rc<Core<E>>, table: &Rc<Table>, after: &[Stamp]) -> Vec<StorePositions<E::Store>> {
    let mut stores: BTreeMap<u16, StorePositions<E::Store>> = BTreeMap::new();
    for shard in core.tables.local(table).shards.iter().flatten() {
        let Some(stamp) = after.iter().find(|stamp| stamp.shard == shard.number) else { continue };
        let is_change = stamp.commit & ((1 << COMMIT_COUNT_BITS) - 1) != 0;
        let position = Position { shard: stamp.shard, commit: stamp.commit, is_change };
        let store = stores.entry(shard.store.number).or_insert_with(|| (shard.store.clone(), Vec::new()));
        store.1.push(position);
    }
    stores.into_values().collect()
}

/// A log's failure in the words of a client.
fn told(table: &Table, error: ChangeLogError) -> QueryError {
    let since = |since_ms: u64| match since_ms {
        0 => "none are there now".to_owned(),
        since_ms => format!("changes are there since {}", utc(since_ms)),
    };
    match error {
        ChangeLogError::Off => off(table),
        ChangeLogError::TooOld { since_ms } => refused(format!(
            "The resume token is too old: changes of table `{}` behind it are not kept any more; {}.",
            table.name,
            since(since_ms)
        )),
        ChangeLogError::Lost { since_ms } => refused(format!(
            "The resume token is of a change of table `{}` that was lost in a crash, since its write was not durable; {}.",
            table.name,
            since(since_ms)
        )),
        ChangeLogError::Unknown { .. } => foreign(),
        ChangeLogError::Storage(error) => storage_failed(error),
    }
}

fn foreign() -> QueryError {
    QueryError::new(
        ErrorKind::QueryLogic,
        "The resume token is of another changefeed: it goes on only with the same table, rows and functions.",
    )
}

/// Milliseconds since 1970 as people read them.
fn utc(unix_ms: u64) -> String {
    let seconds = unix_ms / 1000;
    // Civil from days, after Howard Hinnant: years begin in March, 400 of them have 146,097 days.
    let days = seconds / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

// ---------------------------------------------------------------- where the listener is

/// What tells a feed from others, over restarts.
fn fingerprint<'a>(plans: impl Iterator<Item = &'a Plan>) -> u64 {
    let mut hasher = Xxh3::new();
    for plan in plans {
        std::hash::Hash::hash(plan, &mut hasher);
    }
    hasher.finish()
}

/// What a feed needs to be opened that has tokens, or goes on behind one.
pub struct Opening {
    feed: u64,
    resumed: Option<Vec<Commits>>,
}

impl Opening {
    /// `None` for feeds that have nothing to do with tokens.
    ///
    /// # Errors
    /// What it is to go on behind is no token, or of another feed.
    pub fn of(spec: &FeedSpec) -> Result<Option<Opening>, QueryError> {
        if !spec.include_resume_token && spec.resume_from.is_none() {
            return Ok(None);
        }
        let plans: Vec<Plan> = spec.members.iter().map(Plan::of).collect();
        let feed = fingerprint(plans.iter());
        let Some(token) = &spec.resume_from else { return Ok(Some(Opening { feed, resumed: None })) };
        let token = ResumeToken::decode(token).map_err(|error| {
            QueryError::new(ErrorKind::QueryLogic, format!("The resume token cannot be used: {error}."))
        })?;
        if token.feed != feed || token.members.len() != plans.len() {
            return Err(foreign());
        }
        Ok(Some(Opening { feed, resumed: Some(token.members) }))
    }

    /// Of a feed with so many members.
    pub fn tokens(&self, members: usize) -> Tokens {
        Tokens { feed: self.feed, members: vec![MemberTokens::default(); members] }
    }

    /// What a member goes on behind.
    pub fn places(&self, member: usize) -> Option<&Commits> {
        self.resumed.as_ref()?.get(member)
    }
}

/// Shards whose changes a plan is about, and the core of each.
pub fn shards_of<E: Env>(core: &Core<E>, table: &Table, plan: &Plan) -> BTreeMap<u32, u16> {
    let is_wanted: Box<dyn Fn(usize) -> bool> = match &plan.rows {
        FeedRows::Keys { keys, .. } => {
            let shard =
                |key: &Vec<u8>| usize::from(photondb_proto::datum::key::shard_of(key, table.shards()));
            let wanted: Vec<usize> = keys.iter().map(shard).collect();
            Box::new(move |place| wanted.contains(&place))
        }
        FeedRows::Ranges(_) => Box::new(|_| true),
    };
    let placed = table.placement.iter().enumerate().filter(|(place, _)| is_wanted(*place));
    placed.map(|(place, store)| (table.first_shard + place as u32, core.core_of(*store))).collect()
}

/// How far a member has read the logs of its cores.
pub struct Reading {
    cores: Vec<CoreReading>,
}

struct CoreReading {
    core: u16,
    after: Vec<Stamp>,
    places: Places,
    reached: BTreeMap<u32, u64>,
    more: bool,
}

impl Reading {
    /// Reading behind these commits, which must be of exactly these shards.
    ///
    /// # Errors
    /// They are of others.
    pub fn behind(stamps: &[Stamp], shards: &BTreeMap<u32, u16>) -> Result<Reading, QueryError> {
        let mut cores: BTreeMap<u16, Vec<Stamp>> = BTreeMap::new();
        for stamp in stamps {
            let core = shards.get(&stamp.shard).ok_or_else(foreign)?;
            cores.entry(*core).or_default().push(*stamp);
        }
        if stamps.len() != shards.len() {
            return Err(foreign());
        }
        let cores = cores.into_iter().map(|(core, after)| CoreReading {
            core,
            after,
            places: Vec::new(),
            reached: BTreeMap::new(),
            more: true,
        });
        Ok(Reading { cores: cores.collect() })
    }

    /// Whether some log was not read to its end.
    pub fn has_more(&self) -> bool {
        self.cores.iter().any(|core| core.more)
    }

    /// Whether all changes up to these stamps have been read, once more is known to be there.
    pub fn has_reached(&self, stamps: &[Stamp]) -> bool {
        let reached = |core: &CoreReading, stamp: &Stamp| {
            core.reached.get(&stamp.shard).is_some_and(|commit| *commit >= stamp.commit)
                || core.after.iter().any(|after| after.shard == stamp.shard && after.commit >= stamp.commit)
        };
        let is_behind = |core: &CoreReading, stamp: &&Stamp| {
            core.after.iter().any(|after| after.shard == stamp.shard) && !reached(core, stamp)
        };
        self.cores.iter().all(|core| !core.more || !stamps.iter().any(|stamp| is_behind(core, &stamp)))
    }

    /// Whether the logs ended before these stamps: something is missing.
    pub fn is_short_of(&self, stamps: &[Stamp]) -> bool {
        let is_change = |stamp: &&Stamp| stamp.commit & ((1 << COMMIT_COUNT_BITS) - 1) != 0;
        let is_reached = |core: &CoreReading, stamp: &Stamp| {
            core.reached.get(&stamp.shard).is_some_and(|commit| *commit >= stamp.commit)
        };
        let is_missing = |core: &CoreReading, stamp: &Stamp| {
            let after = core.after.iter().find(|after| after.shard == stamp.shard);
            after.is_some_and(|after| after.commit < stamp.commit) && !is_reached(core, stamp)
        };
        let mut changes = stamps.iter().filter(is_change);
        changes.any(|stamp| self.cores.iter().any(|core| is_missing(core, stamp)))
    }

    pub fn is_about(&self, shard: u32) -> bool {
        self.cores.iter().any(|core| core.after.iter().any(|after| after.shard == shard))
    }

    /// There may be more behind what was the end.
    pub fn look_again(&mut self) {
        self.cores.iter_mut().for_each(|core| core.more = true);
    }

    /// The next portion of every core that has more: its changes, and how far they reach.
    ///
    /// # Errors
    /// See [`read`].
    pub async fn next<E: Env>(
        &mut self,
        core: &Rc<Core<E>>,
        plan: &Plan,
    ) -> Result<(Vec<RowChange>, Vec<Stamp>), QueryError> {
        let asked = self.cores.iter_mut().filter(|reading| reading.more).map(|reading| async move {
            let (after, places) = (reading.after.clone(), reading.places.clone());
            let request = FeedRequest::Log { plan: plan.clone(), after, places };
            let FeedAnswer::Logged(portion) = ask(core, reading.core, request).await else {
                return Err(aborted());
            };
            let portion = portion?;
            reading.places = portion.next;
            reading.more = portion.more;
            reading.reached.extend(portion.reached.iter().map(|stamp| (stamp.shard, stamp.commit)));
            Ok((portion.changes, portion.reached))
        });
        let (mut changes, mut reached) = (Vec::new(), Vec::new());
        for portion in join_all(asked).await {
            let (of_core, stamps) = portion?;
            changes.extend(of_core);
            reached.extend(stamps);
        }
        Ok((changes, reached))
    }
}

/// How far what was sent to a client reaches, and its token.
#[derive(Clone, Debug)]
pub struct Tokens {
    feed: u64,
    members: Vec<MemberTokens>,
}

#[derive(Clone, Debug, Default)]
struct MemberTokens {
    /// By shard: the last commit told whole, and the parts told of the next one.
    places: BTreeMap<u32, (u64, u32)>,
    /// False until all initial values are told: what is told before is no place to go on from.
    is_ready: bool,
}

impl Tokens {
    /// A change was told, and all before it were.
    pub fn pass(&mut self, member: u16, change: &Change) {
        let Some(member) = self.members.get_mut(usize::from(member)) else { return };
        let place = member.places.entry(change.shard).or_default();
        if change.commit > place.0 {
            *place = if change.more { (place.0, change.part + 1) } else { (change.commit, 0) };
        }
    }

    /// All changes up to these places were told, and the initial values, if there are any.
    pub fn reach(&mut self, member: u16, places: &Commits) {
        let Some(member) = self.members.get_mut(usize::from(member)) else { return };
        for reached in places {
            let place = member.places.entry(reached.shard).or_default();
            if reached.commit > place.0 {
                *place = (reached.commit, reached.parts);
            }
        }
        member.is_ready = true;
    }

    /// Whether these places are ahead of what was told.
    pub fn is_before(&self, member: u16, places: &Commits) -> bool {
        let Some(member) = self.members.get(usize::from(member)) else { return false };
        let told = |shard: u32| member.places.get(&shard).map_or(0, |(commit, _)| *commit);
        places.iter().any(|place| place.commit > told(place.shard))
    }

    /// The place to go on from; `None` until there is one.
    pub fn text(&self) -> Option<String> {
        if !self.members.iter().all(|member| member.is_ready) {
            return None;
        }
        let commits = |member: &MemberTokens| {
            let places = member.places.iter();
            places
                .map(|(shard, (commit, parts))| ShardPlace { shard: *shard, commit: *commit, parts: *parts })
                .collect()
        };
        Some(ResumeToken { feed: self.feed, members: self.members.iter().map(commits).collect() }.encode())
    }
}

/// Places behind whole commits.
pub fn whole(stamps: impl IntoIterator<Item = Stamp>) -> Commits {
    let place = |stamp: Stamp| ShardPlace { shard: stamp.shard, commit: stamp.commit, parts: 0 };
    stamps.into_iter().map(place).collect()
}

/// Parts of changes that a resumed feed has told before, of the first change behind its place in each shard.
#[derive(Debug, Default)]
pub struct PartsTold(BTreeMap<u32, (u32, Option<u64>)>);

impl PartsTold {
    pub fn of(places: &Commits) -> PartsTold {
        let partial = places.iter().filter(|place| place.parts > 0);
        PartsTold(partial.map(|place| (place.shard, (place.parts, None))).collect())
    }

    /// Whether a change, which comes behind those before it, is one of them.
    pub fn holds(&mut self, change: &RowChange) -> bool {
        let Some((parts, commit)) = self.0.get_mut(&change.shard) else { return false };
        if *commit.get_or_insert(change.commit) != change.commit {
            self.0.remove(&change.shard);
            return false;
        }
        change.part < *parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_people_read_them() {
        for (unix_ms, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399_999, "2000-02-28T23:59:59Z"),
            (951_782_400_000, "2000-02-29T00:00:00Z"),
            (1_732_201_477_000, "2024-11-21T15:04:37Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(utc(unix_ms), text);
        }
    }
}
