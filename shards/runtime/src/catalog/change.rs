//! Administration as pure functions: what a catalog operation answers, and which records it changes.
//!
//! Always: nothing is changed here. [`read`] answers from a copy; [`plan`] gives the records of a change, which its owner
//! commits in one batch and hands to every copy, and the answer for the client. Ids are arguments, so plans are
//! reproducible.

use photondb_proto::datum::{Datum, document};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::limits;
use photondb_proto::op::{
    CatalogOp, CatalogReply, DatabaseId, Durability, Identifiers, SYSTEM_DATABASE, SYSTEM_DATABASE_ID, Scope,
    TableId, TableOptions,
};

use super::{
    Catalog, Database, Record, Server, Table, database_gone, database_record, failed, index, permissions,
    row, server_record, table_gone, table_record,
};

/// What a plan needs from outside the catalog.
#[derive(Clone, Copy, Debug)]
pub struct Means {
    /// For what the plan makes.
    pub fresh_id: [u8; 16],
    /// Stores that new tables are spread over.
    pub stores: u16,
    pub cores: u16,
}

/// A change of the catalog, ready to be committed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub records: Vec<Record>,
    /// The answer of the administration term.
    pub answer: Datum,
}

/// Whether the operation changes the catalog, so that its owner must carry it out.
pub fn is_change(op: &CatalogOp) -> bool {
    match op {
        CatalogOp::DatabaseCreate { .. }
        | CatalogOp::DatabaseDrop { .. }
        | CatalogOp::TableCreate { .. }
        | CatalogOp::TableDrop { .. }
        | CatalogOp::SetWriteHook { .. }
        | CatalogOp::Reconfigure { .. }
        | CatalogOp::Grant { .. } => true,
        CatalogOp::Index { op, .. } => index::is_change(op),
        CatalogOp::Table { .. }
        | CatalogOp::Database { .. }
        | CatalogOp::DatabaseList
        | CatalogOp::TableList { .. }
        | CatalogOp::TableConfig { .. }
        | CatalogOp::DatabaseConfig { .. }
        | CatalogOp::TableStatus { .. }
        | CatalogOp::WriteHook { .. }
        | CatalogOp::Wait { .. } => false,
    }
}

/// Whether [`read`] has the whole answer.
pub fn is_at_hand(op: &CatalogOp) -> bool {
    !is_change(op) && !matches!(op, CatalogOp::Index { .. })
}

/// Answers an operation that changes nothing.
///
/// # Errors
/// The client's: something does not exist, or is special.
pub fn read(catalog: &Catalog, op: &CatalogOp) -> Result<CatalogReply, QueryError> {
    match op {
        CatalogOp::Table { database, table, .. } => {
            let table = catalog.table_named(database, table)?;
            Ok(CatalogReply::Table(catalog.table_info(table)))
        }
        CatalogOp::Database { name } if name == SYSTEM_DATABASE => {
            Ok(CatalogReply::Database(photondb_proto::op::DatabaseInfo {
                id: SYSTEM_DATABASE_ID,
                name: name.clone(),
            }))
        }
        CatalogOp::Database { name } => {
            Ok(CatalogReply::Database(catalog.database_info(catalog.database_named(name)?)))
        }
        CatalogOp::DatabaseList => {
            let mut names: Vec<String> = catalog.databases().map(|database| database.name.clone()).collect();
            names.push(SYSTEM_DATABASE.to_owned());
            names.sort();
            Ok(CatalogReply::Names(names))
        }
        CatalogOp::TableList { database } => {
            let database = catalog.database_named(database)?.id;
            Ok(CatalogReply::Names(catalog.tables_of(database).map(|table| table.name.clone()).collect()))
        }
        CatalogOp::TableConfig { table } if table.as_system_table().is_some() => {
            Err(special("you can't configure the tables in it."))
        }
        CatalogOp::TableStatus { table } if table.as_system_table().is_some() => {
            Err(special("the system tables in it don't have meaningful status information."))
        }
        CatalogOp::TableConfig { table } => {
            Ok(value(&row::table_config(catalog, table_by_id(catalog, *table)?, Identifiers::Names)))
        }
        CatalogOp::TableStatus { table } => {
            Ok(value(&row::table_status(catalog, table_by_id(catalog, *table)?, Identifiers::Names)))
        }
        CatalogOp::DatabaseConfig { database } => {
            Ok(value(&row::database_config(database_by_id(catalog, *database)?)))
        }
        CatalogOp::WriteHook { table } => Ok(value(&row::write_hook(table_by_id(catalog, *table)?))),
        CatalogOp::Wait { database, table } => wait(catalog, database, table.as_deref()),
        CatalogOp::Index { table, op } => index::read(catalog, table_by_id(catalog, *table)?, op),
        CatalogOp::DatabaseCreate { .. }
        | CatalogOp::DatabaseDrop { .. }
        | CatalogOp::TableCreate { .. }
        | CatalogOp::TableDrop { .. }
        | CatalogOp::SetWriteHook { .. }
        | CatalogOp::Reconfigure { .. }
        | CatalogOp::Grant { .. } => {
            Err(QueryError::new(ErrorKind::Internal, "a change of the catalog was asked of a copy"))
        }
    }
}

fn value(datum: &Datum) -> CatalogReply {
    CatalogReply::Value(document::to_bytes(datum))
}

/// The catalog's answer for a table that is not there any more.
fn table_by_id(catalog: &Catalog, id: TableId) -> Result<&Table, QueryError> {
    catalog.table(id).map(|table| &**table).ok_or_else(|| failed(format!("Table `{id}` does not exist.")))
}

fn database_by_id(catalog: &Catalog, id: DatabaseId) -> Result<&Database, QueryError> {
    if id == SYSTEM_DATABASE_ID {
        return Err(special("you can't configure it."));
    }
    catalog.database(id).ok_or_else(|| failed(format!("Database `{id}` does not exist.")))
}

fn special(what: &str) -> QueryError {
    failed(format!("Database `{SYSTEM_DATABASE}` is special; {what}"))
}

/// Tables are ready as soon as they exist.
fn wait(catalog: &Catalog, database: &str, table: Option<&str>) -> Result<CatalogReply, QueryError> {
    if database == SYSTEM_DATABASE {
        return Err(special("the system tables in it are always available and don't need to be waited on."));
    }
    let ready = match table {
        Some(table) => catalog.table_named(database, table).map(|_| 1)?,
        None => catalog.tables_of(catalog.database_named(database)?.id).count(),
    };
    Ok(value(&Datum::object([("ready", Datum::Number(ready as f64))])))
}

/// What a change changes and answers.
///
/// # Errors
/// The client's: a name is taken, something does not exist, or is special.
pub fn plan(catalog: &Catalog, op: &CatalogOp, means: Means) -> Result<Plan, QueryError> {
    match op {
        CatalogOp::DatabaseCreate { name } => database_create(catalog, name, means),
        CatalogOp::DatabaseDrop { name } => database_drop(catalog, name),
        CatalogOp::TableCreate { database, name, options } => {
            table_create(catalog, database, name, options, means)
        }
        CatalogOp::TableDrop { database, name } => {
            if database == SYSTEM_DATABASE {
                return Err(special("you can't drop tables in it."));
            }
            table_drop(catalog, catalog.table_named(database, name)?)
        }
        CatalogOp::Reconfigure { table, shards } => reconfigure(catalog, *table, *shards),
        CatalogOp::Grant { scope, user, permissions: wanted } => {
            permissions::grant(catalog, *scope, user, &document::from_bytes(wanted))
        }
        CatalogOp::SetWriteHook { table, hook } => set_write_hook(catalog, *table, hook.as_deref()),
        CatalogOp::Index { table, op } => {
            let (table, answer) = index::plan(catalog, table_by_id(catalog, *table)?, op, means)?;
            Ok(planned(catalog, vec![table_record(&table)], answer))
        }
        CatalogOp::Table { .. }
        | CatalogOp::Database { .. }
        | CatalogOp::DatabaseList
        | CatalogOp::TableList { .. }
        | CatalogOp::TableConfig { .. }
        | CatalogOp::DatabaseConfig { .. }
        | CatalogOp::TableStatus { .. }
        | CatalogOp::WriteHook { .. }
        | CatalogOp::Wait { .. } => Err(QueryError::new(ErrorKind::Internal, "a reading is not a change")),
    }
}

/// A plan of these records and the server's, which counts the change.
pub fn planned(catalog: &Catalog, records: Vec<Record>, answer: Datum) -> Plan {
    let mut plan = planned_server(&catalog.server);
    plan.records.splice(0..0, records);
    plan.answer = answer;
    plan
}

/// A plan that changes what the server says of itself.
pub fn planned_server(server: &Server) -> Plan {
    let server = Server { epoch: server.epoch + 1, ..server.clone() };
    Plan { records: vec![server_record(&server)], answer: Datum::Null }
}

/// A plan that makes a table, whose shards get numbers of their own.
pub fn planned_with_shards(catalog: &Catalog, table: &Table, answer: Datum) -> Plan {
    let next_shard = catalog.server.next_shard + u32::from(table.shards());
    let mut plan = planned_server(&Server { next_shard, ..catalog.server.clone() });
    plan.records.insert(0, table_record(table));
    plan.answer = answer;
    plan
}

fn config_change(old: Datum, new: Datum) -> Datum {
    Datum::array(vec![Datum::object([("new_val", new), ("old_val", old)])])
}

fn database_create(catalog: &Catalog, name: &str, means: Means) -> Result<Plan, QueryError> {
    if name == SYSTEM_DATABASE || catalog.database_named(name).is_ok() {
        return Err(failed(format!("Database `{name}` already exists.")));
    }
    let database = Database { id: DatabaseId(means.fresh_id), name: name.to_owned() };
    let answer = Datum::object([
        ("config_changes", config_change(Datum::Null, row::database_config(&database))),
        ("dbs_created", Datum::Number(1.0)),
    ]);
    Ok(planned(catalog, vec![database_record(&database)], answer))
}

pub fn database_drop(catalog: &Catalog, name: &str) -> Result<Plan, QueryError> {
    if name == SYSTEM_DATABASE {
        return Err(special("you can't delete it."));
    }
    let database = catalog.database_named(name)?;
    let mut records: Vec<Record> = catalog.tables_of(database.id).map(|table| table_gone(table.id)).collect();
    let tables = records.len();
    records.push(database_gone(database.id));
    records.extend(permissions::records_gone(catalog, |_, scope| match scope {
        Scope::Global => false,
        Scope::Database(id) | Scope::Table(id, _) => id == database.id,
    }));
    let answer = Datum::object([
        ("config_changes", config_change(row::database_config(database), Datum::Null)),
        ("dbs_dropped", Datum::Number(1.0)),
        ("tables_dropped", Datum::Number(tables as f64)),
    ]);
    Ok(planned(catalog, records, answer))
}

fn table_create(
    catalog: &Catalog,
    database: &str,
    name: &str,
    options: &TableOptions,
    means: Means,
) -> Result<Plan, QueryError> {
    if database == SYSTEM_DATABASE {
        return Err(special("you can't create new tables in it."));
    }
    let owner = catalog.database_named(database)?;
    if catalog.table_named(database, name).is_ok() {
        return Err(failed(format!("Table `{database}.{name}` already exists.")));
    }
    let fresh = fresh_table(catalog, TableId(means.fresh_id), owner.id, name, means);
    let table = Table {
        primary_key: options.primary_key.clone().unwrap_or_else(|| fresh.primary_key.clone()),
        durability: options.durability.unwrap_or_default(),
        virtual_shards: virtual_shards(options.shards.unwrap_or(1))?,
        ..fresh
    };
    let answer = Datum::object([
        (
            "config_changes",
            config_change(Datum::Null, row::table_config(catalog, &table, Identifiers::Names)),
        ),
        ("tables_created", Datum::Number(1.0)),
    ]);
    Ok(planned_with_shards(catalog, &table, answer))
}

/// A table with everything by default, its shards spread over the stores.
pub fn fresh_table(catalog: &Catalog, id: TableId, database: DatabaseId, name: &str, means: Means) -> Table {
    let shards = limits::SHARDS_DEFAULT.max(means.cores.next_power_of_two()).min(limits::SHARDS_MAX);
    Table {
        id,
        database,
        name: name.to_owned(),
        primary_key: "id".to_owned(),
        durability: Durability::Hard,
        write_acks: "majority".to_owned(),
        virtual_shards: 1,
        first_shard: catalog.server.next_shard,
        placement: (0..shards).map(|shard| shard % means.stores).collect(),
        write_hook: None,
        change_log: None,
        indexes: Vec::new(),
    }
}

/// `reconfigure` of a table: another number of virtual shards.
fn reconfigure(catalog: &Catalog, id: TableId, shards: u32) -> Result<Plan, QueryError> {
    let table = Table { virtual_shards: virtual_shards(shards)?, ..table_by_id(catalog, id)?.clone() };
    let answer = row::table_config(catalog, &table, Identifiers::Names);
    Ok(planned(catalog, vec![table_record(&table)], answer))
}

pub fn virtual_shards(wanted: u32) -> Result<u32, QueryError> {
    if wanted == 0 {
        return Err(QueryError::new(ErrorKind::QueryLogic, "Every table must have at least one shard."));
    }
    if wanted > limits::VIRTUAL_SHARDS_MAX {
        let text = format!("Maximum number of shards is {}.", limits::VIRTUAL_SHARDS_MAX);
        return Err(QueryError::new(ErrorKind::QueryLogic, text));
    }
    Ok(wanted)
}

pub fn table_drop(catalog: &Catalog, table: &Table) -> Result<Plan, QueryError> {
    let answer = Datum::object([
        ("config_changes", config_change(row::table_config(catalog, table, Identifiers::Names), Datum::Null)),
        ("tables_dropped", Datum::Number(1.0)),
    ]);
    let mut records =
        permissions::records_gone(catalog, |_, scope| matches!(scope, Scope::Table(_, id) if id == table.id));
    records.push(table_gone(table.id));
    Ok(planned(catalog, records, answer))
}

fn set_write_hook(catalog: &Catalog, id: TableId, hook: Option<&[u8]>) -> Result<Plan, QueryError> {
    let old = table_by_id(catalog, id)?;
    let word = match (&old.write_hook, hook) {
        (_, None) => "deleted",
        (Some(_), Some(_)) => "replaced",
        (None, Some(_)) => "created",
    };
    let table = Table { write_hook: hook.map(<[u8]>::to_vec), ..old.clone() };
    let answer = Datum::object([(word, Datum::Number(1.0))]);
    Ok(planned(catalog, vec![table_record(&table)], answer))
}

#[cfg(test)]
mod tests {
    use photondb_proto::datum::json;

    use super::*;
    use crate::catalog::user_record;
    use photondb_proto::wire::scram::Credential;

    fn empty() -> Catalog {
        let server = crate::catalog::Server {
            id: [1; 16],
            name: "here".into(),
            epoch: 1,
            next_shard: 1,
            salt_secret: [2; 16],
            tags: vec!["default".into()],
            heartbeat_timeout_secs: 10.0,
        };
        let admin = user_record("admin", &Credential::derive(b"", [0; 16], 1));
        Catalog::from_records(&[server_record(&server), admin]).expect("our own records").expect("a server")
    }

    /// Carries a change out on a copy; gives the answer or the error's text.
    fn carry_out(catalog: &mut Catalog, op: &CatalogOp, stores: u16) -> String {
        let fresh_id = [catalog.epoch() as u8; 16];
        match plan(catalog, op, Means { fresh_id, stores, cores: stores }) {
            Ok(plan) => {
                catalog.apply(&plan.records).expect("our own records");
                json::to_string(&plan.answer)
            }
            Err(error) => error.message,
        }
    }

    fn table_create(database: &str, name: &str) -> CatalogOp {
        CatalogOp::TableCreate {
            database: database.into(),
            name: name.into(),
            options: TableOptions::default(),
        }
    }

    fn create(name: &str) -> CatalogOp {
        CatalogOp::DatabaseCreate { name: name.into() }
    }

    #[track_caller]
    fn check(catalog: &mut Catalog, op: &CatalogOp, want: &str) {
        assert_eq!(carry_out(catalog, op, 2), want);
    }

    #[test]
    fn changes_answer_as_documented_and_reach_every_copy() {
        let mut catalog = empty();
        let id = "01010101-0101-0101-0101-010101010101";
        let want = format!(
            r#"{{"config_changes":[{{"new_val":{{"id":"{id}","name":"a"}},"old_val":null}}],"dbs_created":1}}"#
        );
        check(&mut catalog, &create("a"), &want);
        check(&mut catalog, &create("a"), "Database `a` already exists.");
        check(&mut catalog, &create("rethinkdb"), "Database `rethinkdb` already exists.");
        check(&mut catalog, &table_create("b", "t"), "Database `b` does not exist.");
        let row = r#"{"db":"a","durability":"hard","id":"02020202-0202-0202-0202-020202020202","indexes":[],"name":"t","primary_key":"id","shards":[{"nonvoting_replicas":[],"primary_replica":"here","replicas":["here"]}],"write_acks":"majority","write_hook":null}"#;
        let want = format!(r#"{{"config_changes":[{{"new_val":{row},"old_val":null}}],"tables_created":1}}"#);
        check(&mut catalog, &table_create("a", "t"), &want);
        check(&mut catalog, &table_create("a", "t"), "Table `a.t` already exists.");
        let special = "Database `rethinkdb` is special; you can't create new tables in it.";
        check(&mut catalog, &table_create("rethinkdb", "t"), special);
        let copy = Catalog::from_records(&catalog.records()).expect("our own records").expect("a server");
        assert_eq!(copy.records(), catalog.records());
        let drop = CatalogOp::DatabaseDrop { name: "a".into() };
        let want = format!(
            r#"{{"config_changes":[{{"new_val":null,"old_val":{{"id":"{id}","name":"a"}}}}],"dbs_dropped":1,"tables_dropped":1}}"#
        );
        check(&mut catalog, &drop, &want);
        assert_eq!((catalog.tables().count(), catalog.epoch()), (0, 4));
        check(&mut catalog, &drop, "Database `a` does not exist.");
    }

    #[test]
    fn shards_of_a_table_use_every_store_evenly() {
        let mut catalog = empty();
        carry_out(&mut catalog, &create("a"), 1);
        for (stores, want) in [(1, 16), (2, 16), (3, 16), (32, 32), (48, 64)] {
            carry_out(&mut catalog, &table_create("a", &format!("t{stores}")), stores);
            let table = catalog.table_named("a", &format!("t{stores}")).expect("made");
            assert_eq!(table.shards(), want);
            let used = |store| table.placement.iter().filter(|placed| **placed == store).count();
            let (least, most) = ((0..stores).map(used).min(), (0..stores).map(used).max());
            assert!(most.unwrap_or(0) - least.unwrap_or(0) <= 1, "{stores} stores: {:?}", table.placement);
        }
        let mut numbers: Vec<u32> = catalog
            .tables()
            .flat_map(|table| (0..u32::from(table.shards())).map(|shard| table.first_shard + shard))
            .collect();
        let count = numbers.len();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), count, "no two shards have one number");
    }
}
