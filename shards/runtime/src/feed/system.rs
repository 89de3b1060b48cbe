//! Feeds on system tables, whose rows nobody writes: they are made again and compared with what was told.
//!
//! Always: rows that are made of the catalog alone are made again when the catalog has changed, others every second too.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use photondb_proto::error::QueryError;
use photondb_proto::feed::FeedRows;
use photondb_proto::op::{Document, Key, KeyRange, ScanRange};
use photondb_query::push::Pipeline;

use super::evaluate::passed;
use super::{Plan, RowChange};
use crate::core::Core;
use crate::env::Env;
use crate::system;

/// How long rows that change by themselves are believed.
const BELIEVED: Duration = Duration::from_secs(1);

/// What a listener knows of a system table.
pub struct Snapshot {
    user: String,
    /// None before the first look.
    rows: RefCell<Option<BTreeMap<Key, Document>>>,
    taken_at: Cell<Duration>,
    /// Its rows may change though the catalog does not.
    is_restless: bool,
    is_stale: Cell<bool>,
}

impl Snapshot {
    /// None for a table that is not of the system.
    pub fn of(plan: &Plan, user: &str) -> Option<Snapshot> {
        plan.table.as_system_table()?;
        Some(Snapshot {
            user: user.to_owned(),
            rows: RefCell::default(),
            taken_at: Cell::default(),
            is_restless: system::is_restless(plan.table),
            is_stale: Cell::new(true),
        })
    }

    pub fn is_taken(&self) -> bool {
        self.rows.borrow().is_some()
    }

    /// The catalog has changed.
    pub fn doubt(&self) {
        self.is_stale.set(true);
    }

    /// When to look again.
    pub fn due(&self) -> Option<Duration> {
        self.is_restless.then(|| self.taken_at.get() + BELIEVED)
    }

    /// Looks at the rows again, if it is time; gives how they differ from those known. At first each has just come.
    ///
    /// # Errors
    /// Those of reading the table.
    pub async fn changes<E: Env>(
        &self,
        core: &Rc<Core<E>>,
        plan: &Plan,
    ) -> Result<Vec<RowChange>, QueryError> {
        let is_due = self.due().is_some_and(|due| due <= core.env.elapsed());
        if !self.is_stale.take() && !is_due {
            return Ok(Vec::new());
        }
        self.taken_at.set(core.env.elapsed());
        let rows = rows(core, &self.user, plan).await?;
        let known = self.rows.borrow_mut().replace(rows.clone()).unwrap_or_default();
        let change = |key: &Key, old: Option<&Document>, new: Option<&Document>| RowChange {
            part: 0,
            more: false,
            shard: 0,
            commit: 0,
            key: key.clone(),
            old_key: None,
            old: old.cloned(),
            new: new.cloned(),
        };
        let gone = known.iter().filter(|(key, _)| !rows.contains_key(*key));
        let mut changes: Vec<RowChange> = gone.map(|(key, old)| change(key, Some(old), None)).collect();
        for (key, new) in &rows {
            let old = known.get(key);
            if old != Some(new) {
                changes.push(change(key, old, Some(new)));
            }
        }
        Ok(changes)
    }
}

/// The plan's rows as they are now.
async fn rows<E: Env>(
    core: &Rc<Core<E>>,
    user: &str,
    plan: &Plan,
) -> Result<BTreeMap<Key, Document>, QueryError> {
    let range = |range: KeyRange| ScanRange { range, copies: 1 };
    let ranges: Vec<ScanRange> = match &plan.rows {
        FeedRows::Keys { keys, .. } => keys.iter().map(|key| range(KeyRange::only(key))).collect(),
        FeedRows::Ranges(ranges) => ranges.ranges.iter().cloned().map(range).collect(),
    };
    let mut pipeline = match plan.pipeline.is_empty() {
        true => None,
        false => Some(Pipeline::decode(&plan.pipeline)?),
    };
    let mut rows = BTreeMap::new();
    for (key, row) in system::rows_in(core, user, plan.table, &ranges).await? {
        if let Some(value) = passed(&mut pipeline, row.into()).await {
            rows.insert(key, value);
        }
    }
    Ok(rows)
}
