//! Several rows of one write, applied together: those of a store as one batch of it, as far as the bounds of a batch allow.
//!
//! Always: between the last look at the rows of a batch and its application nothing waits. So first all rows are read and decided, which may
//! wait; if the store was written to meanwhile the rows are read again, and decided again where they are others. A row that is
//! written twice is decided the second time on what the first will leave. What storage refuses as a whole is tried row by row, so
//! that each row has the outcome it would have alone.

use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

use futures_util::future::join_all;
use photondb_proto::error::QueryError;
use photondb_proto::op::RowOutcome;
use photondb_query::write::{RowDecision, RowEffect};
use photondb_storage::engine::{BatchMax, Cached, Edit, Lsn, Part, StorageEngine, StorageError, Value};
use photondb_storage::touch_value;

use crate::env::Env;
use crate::index::{LocalIndexes, TakesLong};
use crate::panics::in_turns;
use crate::table::{Applied, OpenStore, Shard};
use crate::write::{Batch, Decide, homeless};

/// Rows of one batch.
const ROWS_MAX: usize = 256;
/// Times that a batch is tried, if others write to its rows or push its pages out of the cache, before its rows go one by one.
const TRIES_MAX: usize = 200;

/// A row that is to be changed.
struct Row<'a, 'k, S> {
    place: usize,
    key: &'k [u8],
    shard: &'a Shard<S>,
    /// What it was decided on.
    seen: Option<Value>,
    /// `None`: it is deleted.
    new: Option<Vec<u8>>,
    outcome: RowOutcome,
    /// What that changes in the indexes; they are made while others may have their turn, which those of large geometries need.
    entries: Option<Vec<Edit>>,
}

/// Rows that are to be changed, in their order.
struct Rows<'a, 'k, S> {
    rows: Vec<Row<'a, 'k, S>>,
    /// The last of each key.
    last: HashMap<&'k [u8], usize>,
}

impl<'a, 'k, S> Rows<'a, 'k, S> {
    fn with_capacity(rows: usize) -> Self {
        Rows { rows: Vec::with_capacity(rows), last: HashMap::with_capacity(rows) }
    }

    fn push(&mut self, row: Row<'a, 'k, S>) {
        self.last.insert(row.key, self.rows.len());
        self.rows.push(row);
    }

    /// What these rows will leave at a key, if they change it.
    fn left_at(&self, key: &[u8]) -> Option<Option<Value>> {
        let row = &self.rows[*self.last.get(key)?];
        Some(row.new.as_deref().map(Value::from))
    }
}

/// What memory had of a row when the store stood there.
struct Known {
    row: Cached<Option<Value>>,
    at: Lsn,
}

/// A batch as it would be applied now.
struct Built {
    parts: Vec<Part>,
    edits: Vec<Edit>,
}

impl<'a, E: Env> Batch<'a, E> {
    /// Changes the rows of these keys.
    ///
    /// # Errors
    /// The store's, if no row has been written; or what broke in deciding.
    pub async fn together(&mut self, keys: &[&[u8]], decide: &impl Decide) -> Result<(), QueryError> {
        let mut left: Vec<usize> = (0..keys.len()).collect();
        while let Some(first) = left.first() {
            let local = self.local;
            let store = &local.shard_of(keys[*first]).ok_or_else(homeless)?.store;
            let is_here =
                |key: &[u8]| local.shard_of(key).is_some_and(|shard| Rc::ptr_eq(&shard.store, store));
            let (here, elsewhere): (Vec<usize>, _) =
                left.into_iter().partition(|place| is_here(keys[*place]));
            left = elsewhere;
            self.of_store(store, keys, &here, decide).await?;
        }
        Ok(())
    }

    async fn of_store(
        &mut self,
        store: &Rc<OpenStore<E::Store>>,
        keys: &[&[u8]],
        mut places: &[usize],
        decide: &impl Decide,
    ) -> Result<(), QueryError> {
        while !places.is_empty() {
            for place in self.batch(store, keys, &mut places, decide).await? {
                self.pace().await;
                self.row(place, keys[place], decide).await?;
            }
        }
        Ok(())
    }

    /// Decides and applies as many rows as one batch may hold. Gives those that are to go alone: they will meet the error that
    /// stood in the way.
    async fn batch(
        &mut self,
        store: &Rc<OpenStore<E::Store>>,
        keys: &[&[u8]],
        places: &mut &[usize],
        decide: &impl Decide,
    ) -> Result<Vec<usize>, QueryError> {
        let engine = &store.engine;
        let BatchMax { edits: edits_max, value_bytes: bytes_max } = engine.batch_max();
        let mut indexes = self.local.indexes();
        let rows_max = (edits_max / (1 + 2 * indexes.len())).clamp(1, ROWS_MAX);
        let known = self.load(store, keys, &places[..rows_max.min(places.len())]).await;
        let mut known = known.into_iter();
        let mut seen_at = engine.applied();
        let mut rows = Rows::with_capacity(rows_max.min(places.len()));
        let (mut alone, mut bytes) = (Vec::new(), 0);
        while let Some((&place, rest)) = places.split_first()
            && rows.rows.len() < rows_max
            && bytes < bytes_max
        {
            *places = rest;
            self.pace().await;
            match self.decided(place, keys[place], known.next(), &rows, &indexes, decide).await? {
                Ok(Some(row)) => {
                    bytes += row.new.as_ref().map_or(0, Vec::len);
                    rows.push(row);
                }
                Ok(None) => {}
                Err(_) => alone.push(place),
            }
        }
        for _ in 0..TRIES_MAX {
            if rows.rows.is_empty() {
                break;
            }
            let at_hand =
                |row: &Row<'_, '_, E::Store>| row.shard.tree_at_hand(self.local, &indexes).is_some();
            if engine.applied() != seen_at
                || !Rc::ptr_eq(&indexes, &self.local.indexes())
                || !rows.rows.iter().all(at_hand)
            {
                let known = std::mem::replace(&mut indexes, self.local.indexes());
                seen_at = engine.applied();
                if !Rc::ptr_eq(&known, &indexes) {
                    rows.rows.iter_mut().for_each(|row| row.entries = None);
                }
                rows = self.looked_at_again(rows, &indexes, decide, &mut alone).await?;
                continue;
            }
            let built = self.build(&mut rows.rows);
            let applied = engine.apply_parts(&built.parts, &built.edits);
            if let Ok(Cached::Hit(lsn)) = applied {
                self.applied(store, rows.rows, built, lsn);
                return Ok(alone);
            }
            // Before anything waits: others are to have these numbers.
            give_back_numbers(&rows.rows, &built.parts);
            let prepared = match applied {
                Ok(_) => engine.prepare(&built.edits).await,
                Err(error) => Err(error),
            };
            take_back(&mut rows.rows, &built.parts, built.edits);
            if prepared.is_err() {
                break;
            }
        }
        alone.extend(rows.rows.into_iter().map(|row| row.place));
        Ok(alone)
    }

    /// Looks rows up together, and reads those that are not in memory beside each other. What cannot be read says so to who reads it alone.
    async fn load(&self, store: &OpenStore<E::Store>, keys: &[&[u8]], places: &[usize]) -> Vec<Known> {
        let engine = &store.engine;
        let at = engine.applied();
        let shard_of = |place: &usize| self.local.shard_of(keys[*place]);
        let tree_of = |place: &usize| shard_of(place).and_then(Shard::tree);
        let asked = places.iter().filter_map(|place| Some((tree_of(place)?, keys[*place])));
        let mut found = engine.cached_many(&asked.collect::<Vec<_>>()).unwrap_or_default().into_iter();
        let mut missing: BTreeMap<usize, Vec<Vec<u8>>> = BTreeMap::new();
        let (mut known, mut held, bytes_max) =
            (Vec::with_capacity(places.len()), 0, engine.batch_max().value_bytes);
        for place in places {
            let row = match tree_of(place) {
                Some(_) => found.next().unwrap_or(Cached::Miss),
                None => Cached::Hit(None),
            };
            if let (Some(shard), Cached::Miss) = (shard_of(place), &row) {
                missing.entry(shard.place).or_default().push(keys[*place].to_vec());
            }
            held += match &row {
                Cached::Hit(Some(row)) => {
                    touch_value(row);
                    row.len()
                }
                Cached::Hit(None) | Cached::Miss => 0,
            };
            known.push(Known { row: if held <= bytes_max { row } else { Cached::Miss }, at });
        }
        let reads = missing.iter().filter_map(|(place, keys)| {
            let shard = self.local.shards[*place].as_ref()?;
            Some(shard.get_many(keys))
        });
        drop(join_all(reads).await);
        known
    }

    /// What is to become of a row behind others; `None` if it stays as it is, and has its outcome.
    async fn decided<'k>(
        &mut self,
        place: usize,
        key: &'k [u8],
        known: Option<Known>,
        before: &Rows<'a, 'k, E::Store>,
        indexes: &LocalIndexes,
        decide: &impl Decide,
    ) -> Result<Result<Option<Row<'a, 'k, E::Store>>, StorageError>, QueryError> {
        let local = self.local;
        let shard = local.shard_of(key).ok_or_else(homeless)?;
        let seen = match self.read(key, shard, known, before, indexes).await {
            Ok(seen) => seen,
            Err(error) => return Ok(Err(error)),
        };
        let RowDecision { effect, outcome } = decide(place, seen.clone()).await?;
        let new = match effect {
            RowEffect::Keep => {
                self.ended(place, outcome);
                return Ok(Ok(None));
            }
            RowEffect::Put(document) => Some(document),
            RowEffect::Delete => None,
        };
        let entries = Some(self.entries(key, shard, seen.as_ref(), new.as_deref(), indexes).await);
        Ok(Ok(Some(Row { place, key, shard, seen, new, outcome, entries })))
    }

    /// What changes in the indexes.
    async fn entries(
        &self,
        key: &[u8],
        shard: &Shard<E::Store>,
        seen: Option<&Value>,
        new: Option<&[u8]>,
        indexes: &LocalIndexes,
    ) -> Vec<Edit> {
        let mut edits = Vec::new();
        let new: Option<Value> = if indexes.is_empty() { None } else { new.map(Rc::from) };
        let rows = (seen, new.as_ref());
        for index in indexes.iter() {
            if let Err(TakesLong) = index.add_edits(shard.place, key, rows, &mut edits) {
                let making = index.add_edits_in_turns(shard.place, key, rows, &mut edits);
                Box::pin(in_turns(making, async || self.core.env.next_turn().await)).await;
            }
        }
        edits
    }

    /// A row as it will be behind others.
    async fn read(
        &self,
        key: &[u8],
        shard: &Shard<E::Store>,
        known: Option<Known>,
        before: &Rows<'_, '_, E::Store>,
        indexes: &LocalIndexes,
    ) -> Result<Option<Value>, StorageError> {
        if let Some(left) = before.left_at(key) {
            return Ok(left);
        }
        if shard.tree_at_hand(self.local, indexes).is_none() {
            Box::pin(shard.make(self.local, indexes, self.now_ms)).await?;
        }
        if let Some(Known { row: Cached::Hit(row), at }) = known
            && at == shard.store.engine.applied()
        {
            return Ok(row);
        }
        match shard.cached(key)? {
            Cached::Hit(row) => Ok(row),
            Cached::Miss => Box::pin(shard.get(key)).await,
        }
    }

    /// The rows as they are to be changed after others may have changed them.
    async fn looked_at_again<'k>(
        &mut self,
        rows: Rows<'a, 'k, E::Store>,
        indexes: &LocalIndexes,
        decide: &impl Decide,
        alone: &mut Vec<usize>,
    ) -> Result<Rows<'a, 'k, E::Store>, QueryError> {
        let mut left = Rows::with_capacity(rows.rows.len());
        for mut row in rows.rows {
            let now = self.read(row.key, row.shard, None, &left, indexes).await;
            if now.as_ref().is_ok_and(|now| now.as_deref() == row.seen.as_deref()) {
                if row.entries.is_none() {
                    let Row { key, shard, seen, new, .. } = &row;
                    let entries = self.entries(key, shard, seen.as_ref(), new.as_deref(), indexes);
                    row.entries = Some(entries.await);
                }
                left.push(row);
                continue;
            }
            match self.decided(row.place, row.key, None, &left, indexes, decide).await? {
                Ok(Some(row)) => left.push(row),
                Ok(None) => {}
                Err(_) => alone.push(row.place),
            }
        }
        Ok(left)
    }

    /// The edits of the rows; their new documents and entries go into those.
    fn build(&self, rows: &mut [Row<'_, '_, E::Store>]) -> Built {
        let entries = rows.iter().map(|row| row.entries.as_ref().map_or(0, Vec::len)).sum::<usize>();
        let mut built =
            Built { parts: Vec::with_capacity(rows.len()), edits: Vec::with_capacity(rows.len() + entries) };
        for Row { key, shard, seen, new, entries, .. } in rows {
            let tree = shard.tree().expect("it was made before the row was read");
            let before = built.edits.len();
            built.edits.push(match new.take() {
                Some(value) => Edit::Put { tree, key: key.to_vec(), value },
                None => Edit::Delete { tree, key: key.to_vec() },
            });
            built.edits.extend(entries.take().into_iter().flatten());
            let part = shard.part(built.edits.len() - before, seen.as_ref(), self.now_ms);
            shard.set_next_commit(part.info.commit_number + 1);
            built.parts.push(part);
        }
        built
    }

    fn applied(
        &mut self,
        store: &Rc<OpenStore<E::Store>>,
        mut rows: Vec<Row<'_, '_, E::Store>>,
        Built { parts, edits }: Built,
        lsn: Lsn,
    ) {
        self.wrote(store, lsn);
        let is_watched = self.is_watched();
        if is_watched {
            take_back(&mut rows, &parts, edits);
        }
        for (row, part) in rows.into_iter().zip(parts) {
            if is_watched {
                let applied = Applied { lsn, commit: part.info.commit_number, old: row.seen, new: row.new };
                self.publish(row.shard, row.key, applied);
            }
            self.ended(row.place, row.outcome);
        }
    }
}

/// Gives back the commit numbers of what was not applied.
fn give_back_numbers<S: StorageEngine>(rows: &[Row<'_, '_, S>], parts: &[Part]) {
    for (row, part) in rows.iter().zip(parts).rev() {
        row.shard.set_next_commit(part.info.commit_number);
    }
}

/// Gives the rows their new documents and entries again.
fn take_back<S>(rows: &mut [Row<'_, '_, S>], parts: &[Part], edits: Vec<Edit>) {
    let mut edits = edits.into_iter();
    for (row, part) in rows.iter_mut().zip(parts) {
        let mut own = edits.by_ref().take(part.edits);
        row.new = match own.next() {
            Some(Edit::Put { value, .. }) => Some(value),
            Some(Edit::Delete { .. }) | None => None,
        };
        row.entries = Some(own.collect());
    }
}
