//! The database `rethinkdb`: tables whose rows are made when they are asked for.
//!
//! Always: a system table is one row of [`TABLES`]; what it shows comes from the catalog and from what the cores tell
//! ([`Facts`]), by pure functions. Its rows are documents like any other, so that the very code that scans stored rows scans
//! them ([`read`]), and its writes are changes of the catalog. So no term knows that a table is of this kind.

mod config;
mod facts;
mod jobs;
mod logs;
mod read;
mod server;
mod stats;
mod users;
mod write;

use std::rc::Rc;

use photondb_proto::datum::{Datum, document};
use photondb_proto::error::QueryError;
use photondb_proto::op::{
    CatalogOp, CatalogReply, Durability, Identifiers, SYSTEM_DATABASE, SYSTEM_DATABASE_ID, TableId, TableInfo,
};

use crate::catalog::edit::{Edit, Planned};
use crate::catalog::{Catalog, configure, failed, permissions};
pub use facts::Facts;
pub use read::{read, rows_in};
pub use write::write;

/// Everything there is to know of a system table.
pub struct SystemTable {
    pub name: &'static str,
    /// Made part of its id, so never given to another table.
    number: u8,
    needs: Needs,
    rows: Rows,
    write: Write,
}

/// What a table's rows are made of beside the catalog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// Of every core.
    Figures,
    /// Of every core.
    Queries,
    Log,
    /// Of the catalog's owner.
    Scratch,
}

/// What becomes of writes to a table.
enum Write {
    Illegal,
    /// Each row is a change of the catalog.
    Catalog(fn(&Edit<'_>) -> Result<Planned, QueryError>),
    /// To delete a query is to interrupt it.
    Jobs,
    /// Rows are kept as they are.
    Scratch,
}

/// The rows of a table. With a key, the rows may be those under that key alone.
type Rows = for<'a> fn(&'a View, Option<&Datum>) -> RowIter<'a>;
type RowIter<'a> = Box<dyn Iterator<Item = Datum> + 'a>;

/// What rows are made of.
pub struct View {
    pub catalog: Rc<Catalog>,
    pub identifiers: Identifiers,
    /// Who looks.
    pub user: String,
    pub facts: Facts,
}

/// Sorted by name. A name that begins with `_` is not listed.
static TABLES: &[SystemTable] = &[
    SystemTable {
        name: "_debug_scratch",
        number: 15,
        needs: Needs::Scratch,
        rows: scratch,
        write: Write::Scratch,
    },
    SystemTable {
        name: "_debug_stats",
        number: 13,
        needs: Needs::Figures,
        rows: stats::debug,
        write: Write::Illegal,
    },
    SystemTable {
        name: "_debug_table_status",
        number: 14,
        needs: Needs::Nothing,
        rows: config::debug_statuses,
        write: Write::Illegal,
    },
    SystemTable {
        name: "cluster_config",
        number: 1,
        needs: Needs::Nothing,
        rows: server::cluster_config,
        write: Write::Catalog(configure::cluster),
    },
    SystemTable {
        name: "current_issues",
        number: 2,
        needs: Needs::Figures,
        rows: server::current_issues,
        write: Write::Illegal,
    },
    SystemTable {
        name: "db_config",
        number: 3,
        needs: Needs::Nothing,
        rows: config::databases,
        write: Write::Catalog(configure::database),
    },
    SystemTable { name: "jobs", number: 4, needs: Needs::Queries, rows: jobs::jobs, write: Write::Jobs },
    SystemTable { name: "logs", number: 5, needs: Needs::Log, rows: logs::logs, write: Write::Illegal },
    SystemTable {
        name: "permissions",
        number: PERMISSIONS,
        needs: Needs::Nothing,
        rows: users::permissions,
        write: Write::Catalog(permissions::edit),
    },
    SystemTable {
        name: "server_config",
        number: 7,
        needs: Needs::Nothing,
        rows: server::server_config,
        write: Write::Catalog(configure::server),
    },
    SystemTable {
        name: "server_status",
        number: 8,
        needs: Needs::Nothing,
        rows: server::server_status,
        write: Write::Illegal,
    },
    SystemTable {
        name: "stats",
        number: 9,
        needs: Needs::Figures,
        rows: stats::stats,
        write: Write::Illegal,
    },
    SystemTable {
        name: "table_config",
        number: 10,
        needs: Needs::Nothing,
        rows: config::tables,
        write: Write::Catalog(configure::table),
    },
    SystemTable {
        name: "table_status",
        number: 11,
        needs: Needs::Nothing,
        rows: config::statuses,
        write: Write::Illegal,
    },
    SystemTable {
        name: "users",
        number: 12,
        needs: Needs::Nothing,
        rows: users::users,
        write: Write::Catalog(crate::catalog::users::edit),
    },
];

/// The rows of `_debug_scratch`.
fn scratch<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    Box::new(view.facts.scratch.iter().map(|row| document::from_bytes(row)))
}

/// The number of `permissions`, which `grant` needs the right to write to.
const PERMISSIONS: u8 = 6;

impl SystemTable {
    fn of(id: TableId) -> Option<(&'static SystemTable, Identifiers)> {
        let (number, identifiers) = id.as_system_table()?;
        let table = TABLES.iter().find(|table| table.number == number)?;
        Some((table, identifiers))
    }

    fn is_listed(&self) -> bool {
        !self.name.starts_with('_')
    }

    fn info(&self, identifiers: Identifiers) -> TableInfo {
        TableInfo {
            id: TableId::of_system_table(self.number, identifiers),
            database_id: SYSTEM_DATABASE_ID,
            database: SYSTEM_DATABASE.to_owned(),
            name: self.name.to_owned(),
            primary_key: "id".to_owned(),
            durability: Durability::Soft,
            indexes: Vec::new(),
        }
    }
}

/// Whether rows of a system table change though the catalog does not.
pub fn is_restless(id: TableId) -> bool {
    SystemTable::of(id).is_some_and(|(table, _)| table.needs != Needs::Nothing)
}

/// The id of `permissions`.
pub const fn permissions_table() -> TableId {
    TableId::of_system_table(PERMISSIONS, Identifiers::Names)
}

/// The name of a system table.
pub fn name_of(id: TableId) -> Option<&'static str> {
    SystemTable::of(id).map(|(table, _)| table.name)
}

/// Whether nobody but `admin` may touch the table, whatever is granted: those that are not listed.
pub fn is_for_admin_only(id: TableId) -> bool {
    SystemTable::of(id).is_some_and(|(table, _)| !table.is_listed())
}

/// Answers what is asked of the system database's names; `None` when the operation is about something else.
pub fn catalog(op: &CatalogOp) -> Option<Result<CatalogReply, QueryError>> {
    if let CatalogOp::Table { database, table, identifiers } = op
        && database == SYSTEM_DATABASE
    {
        let found = TABLES.iter().find(|row| row.name == table);
        let gone = || failed(format!("Table `{SYSTEM_DATABASE}.{table}` does not exist."));
        return Some(found.map(|found| CatalogReply::Table(found.info(*identifiers))).ok_or_else(gone));
    }
    if let CatalogOp::TableList { database } = op
        && database == SYSTEM_DATABASE
    {
        let listed = TABLES.iter().filter(|table| table.is_listed());
        return Some(Ok(CatalogReply::Names(listed.map(|table| table.name.to_owned()).collect())));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names_of_system_tables_are_their_own() {
        assert!(TABLES.is_sorted_by(|one, next| one.name < next.name), "sorted by name");
        for table in TABLES {
            let same = TABLES.iter().filter(|other| other.number == table.number).count();
            assert_eq!(same, 1, "{}", table.name);
            for identifiers in [Identifiers::Names, Identifiers::Uuids] {
                let info = table.info(identifiers);
                let (found, how) = SystemTable::of(info.id).expect("its own id");
                assert_eq!((found.name, how), (table.name, identifiers));
            }
        }
        assert!(SystemTable::of(TableId([7; 16])).is_none());
    }
}
