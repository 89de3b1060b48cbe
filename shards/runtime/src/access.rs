//! What one connection's user may do: asked of every operation before it is answered.
//!
//! Always: whatever a query reaches, it reaches through an [`Op`], and none is answered unasked; so no term can forget to ask.
//! What the catalog says of a user and a table is remembered until the catalog changes: then it is asked again, so a change
//! counts at once on live connections, and reading a row costs no more than a look into a small map. `admin` may do all.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use photondb_proto::error::QueryError;
use photondb_proto::op::{
    CatalogOp, IndexOp, Op, SYSTEM_DATABASE, SYSTEM_DATABASE_ID, Scope, TableId, TableWrite, WriteHook,
};
use photondb_proto::outside::OutsideOp;

use crate::catalog::{ADMIN, Catalog, Permission};
use crate::system;

/// Tables whose rights are remembered at a time.
const KNOWN_MAX: usize = 1024;

/// A user's rights to the rows of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rights {
    read: bool,
    write: bool,
}

#[derive(Debug)]
pub struct Access {
    pub user: Rc<str>,
    is_admin: bool,
    /// The catalog's when `known` was asked for.
    epoch: Cell<u64>,
    known: RefCell<HashMap<TableId, Rights>>,
}

impl Access {
    pub fn new(user: Rc<str>) -> Access {
        Access { is_admin: &*user == ADMIN, user, epoch: Cell::new(0), known: RefCell::default() }
    }

    fn rights(&self, catalog: &Catalog, id: TableId) -> Rights {
        if self.is_admin {
            return Rights { read: true, write: true };
        }
        let mut known = self.known.borrow_mut();
        if self.epoch.replace(catalog.epoch()) != catalog.epoch() || known.len() > KNOWN_MAX {
            known.clear();
        }
        *known.entry(id).or_insert_with(|| match scope_of(catalog, id) {
            Some(scope) => Rights {
                read: catalog.permits(&self.user, scope, Permission::Read),
                write: catalog.permits(&self.user, scope, Permission::Write),
            },
            // It is gone, and whoever asks is told so.
            None => Rights { read: true, write: true },
        })
    }

    pub fn may_read(&self, catalog: &Catalog, id: TableId) -> bool {
        self.rights(catalog, id).read
    }

    /// # Errors
    /// PERMISSION_ERROR, when the user may not do that.
    pub fn check(&self, catalog: &Catalog, op: &Op) -> Result<(), QueryError> {
        if self.is_admin {
            return Ok(());
        }
        match op {
            // Feeds are checked when they are opened.
            Op::Random { .. } | Op::Feed(_) | Op::Outside(OutsideOp::Script(_)) => Ok(()),
            Op::Outside(OutsideOp::Http(_)) => {
                catalog.require(&self.user, Scope::Global, Permission::Connect)
            }
            Op::Read { table, .. } => self.check_rows(catalog, *table, &[Permission::Read]),
            Op::Write { table, write } => {
                self.check_rows(catalog, *table, &[Permission::Read, Permission::Write])?;
                match (ignores_hook(write), scope_of(catalog, *table)) {
                    (true, Some(scope)) => catalog.require(&self.user, scope, Permission::Config),
                    (true, None) | (false, _) => Ok(()),
                }
            }
            Op::Catalog(op) => self.check_catalog(catalog, op),
        }
    }

    /// Whether the user may follow the changes of a table.
    ///
    /// # Errors
    /// PERMISSION_ERROR.
    pub fn check_feed(&self, catalog: &Catalog, id: TableId) -> Result<(), QueryError> {
        if self.is_admin { Ok(()) } else { self.check_rows(catalog, id, &[Permission::Read]) }
    }

    fn check_rows(&self, catalog: &Catalog, id: TableId, wanted: &[Permission]) -> Result<(), QueryError> {
        if system::is_for_admin_only(id) {
            return Err(wanted[0].missing(&self.user));
        }
        let rights = self.rights(catalog, id);
        let missing = wanted.iter().find(|permission| match permission {
            Permission::Read => !rights.read,
            Permission::Write => !rights.write,
            Permission::Config | Permission::Connect => true,
        });
        missing.map_or(Ok(()), |permission| Err(permission.missing(&self.user)))
    }

    fn check_catalog(&self, catalog: &Catalog, op: &CatalogOp) -> Result<(), QueryError> {
        let config = |scope| catalog.require(&self.user, scope, Permission::Config);
        let table = |id| scope_of(catalog, id).map_or(Ok(()), config);
        match op {
            CatalogOp::Table { .. }
            | CatalogOp::Database { .. }
            | CatalogOp::DatabaseList
            | CatalogOp::TableList { .. }
            | CatalogOp::TableStatus { .. }
            | CatalogOp::Wait { .. } => Ok(()),
            CatalogOp::DatabaseCreate { .. } => config(Scope::Global),
            CatalogOp::DatabaseDrop { name } => {
                let Ok(database) = catalog.database_named(name) else { return Ok(()) };
                config(Scope::Database(database.id))?;
                let mut tables = catalog.tables_of(database.id);
                tables.try_for_each(|table| config(Scope::Table(database.id, table.id)))
            }
            CatalogOp::TableCreate { database, .. } => {
                database_scope(catalog, database).map_or(Ok(()), config)
            }
            CatalogOp::TableDrop { database, name } => match catalog.table_named(database, name) {
                Ok(table) => config(Scope::Table(table.database, table.id)),
                Err(_) => Ok(()),
            },
            CatalogOp::DatabaseConfig { database } => config(Scope::Database(*database)),
            CatalogOp::TableConfig { table: id }
            | CatalogOp::Reconfigure { table: id, .. }
            | CatalogOp::WriteHook { table: id }
            | CatalogOp::SetWriteHook { table: id, .. } => table(*id),
            CatalogOp::Index { table: id, op } => match op {
                IndexOp::Status { .. } | IndexOp::Wait { .. } => Ok(()),
                IndexOp::Create(_)
                | IndexOp::Drop { .. }
                | IndexOp::Rename { .. }
                | IndexOp::Ready { .. } => table(*id),
            },
            CatalogOp::Grant { .. } => {
                let permissions = system::permissions_table();
                self.check_rows(catalog, permissions, &[Permission::Read, Permission::Write])
            }
        }
    }
}

fn ignores_hook(write: &TableWrite) -> bool {
    match write {
        TableWrite::Insert { options, .. } | TableWrite::Change { options, .. } => {
            options.write_hook == WriteHook::Ignored
        }
        TableWrite::Sync => false,
    }
}

/// The scope of a table; `None` when there is no such table.
fn scope_of(catalog: &Catalog, id: TableId) -> Option<Scope> {
    match id.as_system_table() {
        Some(_) => Some(Scope::Table(SYSTEM_DATABASE_ID, id.named())),
        None => catalog.table(id).map(|table| Scope::Table(table.database, id)),
    }
}

fn database_scope(catalog: &Catalog, name: &str) -> Option<Scope> {
    match name {
        SYSTEM_DATABASE => Some(Scope::Database(SYSTEM_DATABASE_ID)),
        name => catalog.database_named(name).ok().map(|database| Scope::Database(database.id)),
    }
}
