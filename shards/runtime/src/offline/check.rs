//! Verifies every store of a data directory and names what is damaged in the words of its user: table and document key.
//!
//! Always: nothing is changed. The catalog comes from store 0 as far as it can be read; what it cannot name any more is
//! named by file and offset alone.

use std::path::Path;

use photondb_proto::datum::{json, key};
use photondb_storage::blocking::{BlockingDirectory, block_on};
use photondb_storage::engine::TreeName;
use photondb_storage::verify::{Problem, Report, verify};

use super::{hold, store_failed, store_path};
use crate::StartError;
use crate::catalog::{Catalog, Record};
use crate::table::{CATALOG_TREE, is_primary, shard_of_tree};

/// Something damaged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub store: u16,
    /// Relative to the data directory.
    pub file: String,
    pub offset: u64,
    /// `database.table`.
    pub table: Option<String>,
    /// The primary key of the document as JSON, or the first that may be concerned.
    pub key: Option<String>,
    pub what: String,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct Checked {
    pub stores: u16,
    pub tables: u64,
    pub entries: u64,
    pub pages: u64,
    pub slots: u64,
    pub log_records: u64,
    pub bytes_read: u64,
    pub orphan_bytes: u64,
    pub damage: Vec<Damage>,
    /// More than are named when there are very many.
    pub damage_count: u64,
}

/// Checks a data directory. `progress` is told the store, bytes read of it, and all bytes of it.
///
/// # Errors
/// A server holds the directory, it is none of ours, or the disk fails.
pub fn check(data_dir: &Path, progress: &mut dyn FnMut(u16, u64, u64)) -> Result<Checked, StartError> {
    let held = hold(data_dir)?;
    let mut checked = Checked { stores: held.stores.len() as u16, ..Checked::default() };
    let catalog_tree = TreeName(CATALOG_TREE.into());
    let mut catalog = None;
    for store in &held.stores {
        let failed = |error| store_failed(*store, &error);
        let directory =
            BlockingDirectory::new(store_path(data_dir, *store)).map_err(|error| failed(error.into()))?;
        let told: &mut dyn FnMut(u64, u64) = &mut |done, total| progress(*store, done, total);
        let report = block_on(verify(&directory, &catalog_tree, told)).map_err(failed)?;
        if *store == 0 {
            catalog = read_catalog(&report, &mut checked);
        }
        add(&mut checked, *store, report, catalog.as_ref());
    }
    if let Some(catalog) = &catalog {
        checked.tables = catalog.tables().count() as u64;
        add_missing_stores(&mut checked, &held.stores, catalog);
    }
    Ok(checked)
}

fn read_catalog(report: &Report, checked: &mut Checked) -> Option<Catalog> {
    let records: Vec<Record> =
        report.kept.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect();
    match Catalog::from_records(&records) {
        Ok(catalog) => catalog,
        Err(error) => {
            let damage = Damage {
                store: 0,
                file: "store-0".to_owned(),
                offset: 0,
                table: None,
                key: None,
                what: error.to_string(),
            };
            checked.damage_count += 1;
            checked.damage.push(damage);
            None
        }
    }
}

fn add(checked: &mut Checked, store: u16, report: Report, catalog: Option<&Catalog>) {
    checked.entries += report.entries;
    checked.pages += report.pages;
    checked.slots += report.slots;
    checked.log_records += report.log_records;
    checked.bytes_read += report.bytes_read;
    checked.orphan_bytes += report.orphan_bytes;
    checked.damage_count += report.problem_count;
    checked.damage.extend(report.problems.into_iter().map(|problem| damage_of(store, problem, catalog)));
}

fn damage_of(store: u16, problem: Problem, catalog: Option<&Catalog>) -> Damage {
    let table = problem.tree.as_ref().and_then(shard_of_tree).and_then(|(id, _)| catalog?.table(id).cloned());
    let name = table.as_ref().map(|table| {
        let database = catalog.and_then(|catalog| catalog.database(table.database));
        format!("{}.{}", database.map_or("?", |database| &database.name), table.name)
    });
    let is_document = table.is_some() && problem.tree.as_ref().is_some_and(is_primary);
    let key_text = |bytes: Vec<u8>| match key::decode(&bytes).filter(|_| is_document) {
        Some(datum) => json::to_string(&datum),
        None => bytes.escape_ascii().to_string(),
    };
    Damage {
        store,
        file: format!("store-{store}/{}", problem.file),
        offset: problem.offset,
        table: name,
        key: problem.key.map(key_text),
        what: problem.what,
    }
}

fn add_missing_stores(checked: &mut Checked, stores: &[u16], catalog: &Catalog) {
    for table in catalog.tables() {
        let missing = table.placement.iter().find(|store| !stores.contains(store));
        let Some(store) = missing else { continue };
        let database = catalog.database(table.database).map_or("?", |database| &database.name);
        checked.damage_count += 1;
        checked.damage.push(Damage {
            store: *store,
            file: format!("store-{store}"),
            offset: 0,
            table: Some(format!("{database}.{}", table.name)),
            key: None,
            what: "the store is missing, and shards of the table lie in it".to_owned(),
        });
    }
}
