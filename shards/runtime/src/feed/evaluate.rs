//! A plan as it is evaluated where the rows are: which places a row has in it, and what its listeners see of the row.
//!
//! A place is where a row stands in the plan's order: its primary key, or an entry of the plan's index as it is stored. A row
//! has a place for each of its entries in the plan's ranges, so along a multi index it may have several.

use std::rc::Rc;

use photondb_proto::datum::{document, key};
use photondb_proto::error::QueryError;
use photondb_proto::feed::FeedRows;
use photondb_proto::op::{Document, IndexId, Key, KeyBound, KeyRange};
use photondb_proto::rows::RowBlock;
use photondb_query::geo::question::Question;
use photondb_query::push::Pipeline;
use photondb_storage::engine::Value;

use super::publish::Committed;
use super::{Plan, RowChange, aborted};
use crate::core::Core;
use crate::env::Env;
use crate::index::LocalIndex;
use crate::panics::caught;
use crate::questions::question;
use crate::table::LocalTable;

pub struct Evaluator {
    plan: Plan,
    index: Option<Rc<LocalIndex>>,
    question: Option<Rc<Question>>,
    pipeline: Option<Pipeline>,
}

/// Entries of a change's old and new row.
type BothEntries = (Rc<[Key]>, Rc<[Key]>);

/// A change while it is evaluated for one plan after the other: entries of an index are made once for all of them.
pub struct Looked<'a> {
    change: &'a Committed,
    entries: Vec<(IndexId, BothEntries)>,
}

impl<'a> Looked<'a> {
    pub fn new(change: &'a Committed) -> Looked<'a> {
        Looked { change, entries: Vec::new() }
    }

    async fn entries(&mut self, index: &LocalIndex) -> BothEntries {
        if let Some((_, entries)) = self.entries.iter().find(|(id, _)| *id == index.id) {
            return entries.clone();
        }
        let of = async |row: &Option<Value>| -> Rc<[Key]> {
            match row {
                Some(row) => index.entries(&self.change.key, row).await.into(),
                None => [].into(),
            }
        };
        let entries = (of(&self.change.old).await, of(&self.change.new).await);
        self.entries.push((index.id, entries.clone()));
        entries
    }
}

impl Evaluator {
    /// # Errors
    /// The index is gone, or the plan's bytes are none.
    pub fn new<S>(plan: Plan, local: &LocalTable<S>) -> Result<Evaluator, QueryError> {
        let index = plan.rows.index().map(|id| local.index(id).ok_or_else(aborted)).transpose()?;
        let pipeline = match plan.pipeline.is_empty() {
            true => None,
            false => Some(Pipeline::decode(&plan.pipeline)?),
        };
        Ok(Evaluator { plan, index, question: None, pipeline })
    }

    /// Reads what is asked of geometries: before rows are looked at.
    ///
    /// # Errors
    /// The bytes are no question.
    pub async fn read_question<E: Env>(&mut self, core: &Core<E>) -> Result<(), QueryError> {
        if self.question.is_none()
            && let FeedRows::Ranges(ranges) = &self.plan.rows
        {
            self.question = question(core, &ranges.question).await?;
        }
        Ok(())
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The index whose entries are the plan's places. Rows of a geo index are found by going through the table.
    pub fn order(&self) -> Option<IndexId> {
        self.index.as_ref().filter(|_| !self.asks()).map(|index| index.id)
    }

    /// Whether something is asked of geometries.
    fn asks(&self) -> bool {
        matches!(&self.plan.rows, FeedRows::Ranges(ranges) if !ranges.question.is_empty())
    }

    /// The places of a change's old and new row.
    async fn both_places(&self, looked: &mut Looked<'_>) -> (Vec<Key>, Vec<Key>) {
        let change = looked.change;
        if self.order().is_some()
            && let Some(index) = &self.index
        {
            let (old, new) = looked.entries(index).await;
            return (self.among(&old), self.among(&new));
        }
        let places = async |row: &Option<Value>| match row {
            Some(row) => self.places(&change.key, row).await,
            None => Vec::new(),
        };
        (places(&change.old).await, places(&change.new).await)
    }

    /// The places of a row.
    pub async fn places(&self, key: &[u8], row: &Value) -> Vec<Key> {
        let is_there = match (&self.index, &self.question, &self.plan.rows) {
            (Some(index), Some(question), _) => index.meets(question, row).await,
            (Some(_), None, _) if self.asks() => false,
            (Some(index), None, _) => return self.among(&index.entries(key, row).await),
            (None, _, FeedRows::Keys { keys, .. }) => {
                keys.binary_search_by(|other| other.as_slice().cmp(key)).is_ok()
            }
            (None, _, FeedRows::Ranges(ranges)) => is_within(&ranges.ranges, key),
        };
        if is_there { vec![key.to_vec()] } else { Vec::new() }
    }

    /// Those of a row's entries that are in the plan's ranges, as they are stored.
    fn among(&self, entries: &[Key]) -> Vec<Key> {
        let FeedRows::Ranges(ranges) = &self.plan.rows else { return Vec::new() };
        let among = entries.iter().filter(|entry| is_within(&ranges.ranges, entry));
        let mut places: Vec<Key> = among.map(|entry| key::store_entry(entry).0).collect();
        places.sort();
        places.dedup();
        places
    }

    /// What the plan's listeners see of a row; `None` when that is nothing. A row that the pipeline fails on is none of its rows.
    pub async fn value(&mut self, row: Value) -> Option<Document> {
        passed(&mut self.pipeline, row).await
    }

    /// What the plan's listeners see of a change: one for each place that is left or taken.
    pub async fn changes(&mut self, looked: &mut Looked<'_>) -> Vec<RowChange> {
        let change = looked.change;
        let (left, taken) = self.both_places(looked).await;
        let old = match &change.old {
            Some(row) if !left.is_empty() => self.value(row.clone()).await,
            Some(_) | None => None,
        };
        let new = match &change.new {
            Some(row) if !taken.is_empty() => self.value(row.clone()).await,
            Some(_) | None => None,
        };
        let told = moves(left, taken).into_iter().filter_map(|(left, taken)| {
            let old = left.as_ref().and(old.as_ref());
            let new = taken.as_ref().and(new.as_ref());
            let has_moved = left.is_some() && taken.is_some() && left != taken;
            // Found out once: whoever compares them behind this compares bytes.
            let is_same = document::are_same(old, new);
            let new = if is_same { old } else { new };
            if is_same && !(has_moved && old.is_some()) {
                return None;
            }
            let old_key = left.clone().filter(|_| has_moved);
            let key = taken.or(left)?;
            let (old, new) = (old.cloned(), new.cloned());
            let (shard, commit) = (change.shard, change.commit);
            Some(RowChange { shard, commit, key, old_key, old, new, part: 0, more: true })
        });
        let mut told: Vec<RowChange> = told.collect();
        (0..).zip(&mut told).for_each(|(part, change)| change.part = part);
        if let Some(last) = told.last_mut() {
            last.more = false;
        }
        told
    }
}

/// What a pipeline, if there is one, makes of a row.
pub async fn passed(pipeline: &mut Option<Pipeline>, row: Value) -> Option<Document> {
    let Some(pipeline) = pipeline else { return Some(row.to_vec()) };
    let mut out = RowBlock::default();
    match caught(pipeline.feed(&[], row, &mut out)).await {
        Ok(Ok(_)) => out.iter().last().map(|row| row.value.to_vec()),
        Ok(Err(_)) | Err(_) => None,
    }
}

/// Places left and taken, in pairs: first those that stay, then those that a row may be said to have moved between.
fn moves(mut left: Vec<Key>, mut taken: Vec<Key>) -> Vec<(Option<Key>, Option<Key>)> {
    let mut moves = Vec::with_capacity(left.len().max(taken.len()));
    left.retain(|place| match taken.binary_search(place) {
        Ok(at) => {
            let place = taken.remove(at);
            moves.push((Some(place.clone()), Some(place)));
            false
        }
        Err(_) => true,
    });
    let (mut left, mut taken) = (left.into_iter(), taken.into_iter());
    loop {
        match (left.next(), taken.next()) {
            (None, None) => return moves,
            both => moves.push(both),
        }
    }
}

fn is_within(ranges: &[KeyRange], key: &[u8]) -> bool {
    ranges.iter().any(|range| {
        let starts = match &range.start {
            KeyBound::Unbounded => true,
            KeyBound::Included(start) => start.as_slice() <= key,
            KeyBound::Excluded(start) => start.as_slice() < key,
        };
        let ends = match &range.end {
            KeyBound::Unbounded => true,
            KeyBound::Included(end) => key <= end.as_slice(),
            KeyBound::Excluded(end) => key < end.as_slice(),
        };
        starts && ends
    })
}
