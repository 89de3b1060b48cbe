//! Administration as pure functions: what a catalog operation answers, and which records it changes.
//!
//! Always: nothing is changed here. [`read`] answers from a copy; [`plan`] gives the records of a change, which its owner
//! commits in one batch and hands to every copy, and the answer for the client. Ids are arguments, so plans are
//! reproducible.

use photondb_proto::datum::{Datum, Object, document};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::limits;
use photondb_proto::op::{
    CatalogOp, CatalogReply, DatabaseId, Durability, Identifiers, SYSTEM_DATABASE, SYSTEM_DATABASE_ID,
    TableId, TableOptions,
};

use super::{
    Catalog, Database, Record, Server, Table, database_gone, database_record, failed, row, server_record,
    table_gone, table_record,
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
        | CatalogOp::TableConfigure { .. }
        | CatalogOp::SetWriteHook { .. }
        | CatalogOp::DatabaseConfigure { .. } => true,
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
        CatalogOp::DatabaseCreate { .. }
        | CatalogOp::DatabaseDrop { .. }
        | CatalogOp::TableCreate { .. }
        | CatalogOp::TableDrop { .. }
        | CatalogOp::TableConfigure { .. }
        | CatalogOp::SetWriteHook { .. }
        | CatalogOp::DatabaseConfigure { .. } => {
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
        CatalogOp::TableDrop { database, name } => table_drop(catalog, database, name),
        CatalogOp::TableConfigure { table, row } => table_configure(catalog, *table, row),
        CatalogOp::SetWriteHook { table, hook } => set_write_hook(catalog, *table, hook.as_deref()),
        CatalogOp::DatabaseConfigure { database, row } => database_configure(catalog, *database, row),
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

/// The records of a change, with the server's record that counts it.
fn counted(catalog: &Catalog, mut records: Vec<Record>, shards: u16) -> Vec<Record> {
    let server = Server {
        epoch: catalog.server.epoch + 1,
        next_shard: catalog.server.next_shard + u32::from(shards),
        ..catalog.server.clone()
    };
    records.push(server_record(&server));
    records
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
    Ok(Plan { records: counted(catalog, vec![database_record(&database)], 0), answer })
}

fn database_drop(catalog: &Catalog, name: &str) -> Result<Plan, QueryError> {
    if name == SYSTEM_DATABASE {
        return Err(special("you can't delete it."));
    }
    let database = catalog.database_named(name)?;
    let mut records: Vec<Record> = catalog.tables_of(database.id).map(|table| table_gone(table.id)).collect();
    let tables = records.len();
    records.push(database_gone(database.id));
    let answer = Datum::object([
        ("config_changes", config_change(row::database_config(database), Datum::Null)),
        ("dbs_dropped", Datum::Number(1.0)),
        ("tables_dropped", Datum::Number(tables as f64)),
    ]);
    Ok(Plan { records: counted(catalog, records, 0), answer })
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
    let shards = limits::SHARDS_DEFAULT.max(means.cores.next_power_of_two()).min(limits::SHARDS_MAX);
    let table = Table {
        id: TableId(means.fresh_id),
        database: owner.id,
        name: name.to_owned(),
        primary_key: options.primary_key.clone().unwrap_or_else(|| "id".to_owned()),
        durability: options.durability.unwrap_or_default(),
        write_acks: "majority".to_owned(),
        virtual_shards: virtual_shards(options.shards.unwrap_or(1))?,
        first_shard: catalog.server.next_shard,
        placement: (0..shards).map(|shard| shard % means.stores).collect(),
        write_hook: None,
    };
    let answer = Datum::object([
        (
            "config_changes",
            config_change(Datum::Null, row::table_config(catalog, &table, Identifiers::Names)),
        ),
        ("tables_created", Datum::Number(1.0)),
    ]);
    Ok(Plan { records: counted(catalog, vec![table_record(&table)], shards), answer })
}

fn virtual_shards(wanted: u32) -> Result<u32, QueryError> {
    if wanted == 0 {
        return Err(QueryError::new(ErrorKind::QueryLogic, "Every table must have at least one shard."));
    }
    if wanted > limits::VIRTUAL_SHARDS_MAX {
        let text = format!("Maximum number of shards is {}.", limits::VIRTUAL_SHARDS_MAX);
        return Err(QueryError::new(ErrorKind::QueryLogic, text));
    }
    Ok(wanted)
}

fn table_drop(catalog: &Catalog, database: &str, name: &str) -> Result<Plan, QueryError> {
    if database == SYSTEM_DATABASE {
        return Err(special("you can't drop tables in it."));
    }
    let table = catalog.table_named(database, name)?;
    let answer = Datum::object([
        ("config_changes", config_change(row::table_config(catalog, table, Identifiers::Names), Datum::Null)),
        ("tables_dropped", Datum::Number(1.0)),
    ]);
    Ok(Plan { records: counted(catalog, vec![table_gone(table.id)], 0), answer })
}

/// `config().update(…)` of a database renames it.
fn database_configure(catalog: &Catalog, id: DatabaseId, row: &[u8]) -> Result<Plan, QueryError> {
    let database = database_by_id(catalog, id)?;
    let row = Row::new("db_config", row)?;
    let Some(row) = row else {
        return database_drop(catalog, &database.name);
    };
    row.only(&["id", "name"])?;
    row.unchanged("id", &Datum::string(&id.to_string()))?;
    let name = row.name("name")?;
    if name != database.name && (name == SYSTEM_DATABASE || catalog.database_named(&name).is_ok()) {
        let old = &database.name;
        let text =
            format!("Cannot rename database `{old}` to `{name}` because database `{name}` already exists.");
        return Err(failed(text));
    }
    let database = Database { id, name };
    let answer = row::database_config(&database);
    Ok(Plan { records: counted(catalog, vec![database_record(&database)], 0), answer })
}

/// `config().update(…)` of a table renames it, moves it to another database, or sets what it promises.
fn table_configure(catalog: &Catalog, id: TableId, row: &[u8]) -> Result<Plan, QueryError> {
    let old = table_by_id(catalog, id)?;
    let database = catalog.database(old.database).map_or_else(String::new, |database| database.name.clone());
    let Some(row) = Row::new("table_config", row)? else {
        return table_drop(catalog, &database, &old.name);
    };
    let shown = row::table_config(catalog, old, Identifiers::Names);
    let Datum::Object(shown) = &shown else { unreachable!("rows are objects") };
    row.only(&[
        "db",
        "durability",
        "id",
        "indexes",
        "name",
        "primary_key",
        "shards",
        "write_acks",
        "write_hook",
    ])?;
    if row.object.field("primary_key") != shown.field("primary_key") {
        return Err(failed("It's illegal to change a table's primary key".to_owned()));
    }
    for field in ["id", "indexes", "write_hook"] {
        row.unchanged(field, &shown.field(field).unwrap_or(Datum::Null))?;
    }
    let mut table = old.clone();
    table.name = row.name("name")?;
    table.database = catalog.database_named(&row.name("db")?)?.id;
    table.durability = match row.name("durability")?.as_str() {
        "hard" => Durability::Hard,
        "soft" => Durability::Soft,
        other => return Err(row.wrong(&format!("In `durability`: `{other}` is neither `hard` nor `soft`."))),
    };
    table.write_acks = match row.name("write_acks")?.as_str() {
        acks @ ("single" | "majority") => acks.to_owned(),
        other => {
            return Err(row.wrong(&format!("In `write_acks`: `{other}` is neither `single` nor `majority`.")));
        }
    };
    table.virtual_shards = match row.object.field("shards") {
        Some(Datum::Array(shards)) => virtual_shards(u32::try_from(shards.len()).unwrap_or(u32::MAX))?,
        Some(_) | None => return Err(row.wrong("In `shards`: Expected an array.")),
    };
    let moved = (&table.name, table.database) != (&old.name, old.database);
    let target = row.name("db")?;
    if moved && catalog.table_named(&target, &table.name).is_ok() {
        let (from, to) = (format!("{database}.{}", old.name), format!("{target}.{}", table.name));
        let text = format!("Cannot rename table `{from}` to `{to}` because table `{to}` already exists.");
        return Err(failed(text));
    }
    let answer = row::table_config(catalog, &table, Identifiers::Names);
    Ok(Plan { records: counted(catalog, vec![table_record(&table)], 0), answer })
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
    Ok(Plan { records: counted(catalog, vec![table_record(&table)], 0), answer })
}

/// A row that a client wrote into a configuration table.
struct Row {
    table: &'static str,
    object: Object,
}

impl Row {
    /// `None` when the row was deleted.
    fn new(table: &'static str, bytes: &[u8]) -> Result<Option<Row>, QueryError> {
        match document::from_bytes(bytes) {
            Datum::Object(object) => Ok(Some(Row { table, object })),
            Datum::Null => Ok(None),
            _ => Err(failed(format!("A row of `{SYSTEM_DATABASE}.{table}` must be an object."))),
        }
    }

    fn wrong(&self, why: &str) -> QueryError {
        let table = self.table;
        failed(format!(
            "The change you're trying to make to `{SYSTEM_DATABASE}.{table}` has the wrong format. {why}"
        ))
    }

    fn only(&self, fields: &[&str]) -> Result<(), QueryError> {
        match self.object.iter().find(|(key, _)| !fields.contains(&key.as_str())) {
            Some((key, _)) => Err(self.wrong(&format!("Unexpected key(s) `{}`.", key.as_str()))),
            None => Ok(()),
        }
    }

    fn unchanged(&self, field: &str, shown: &Datum) -> Result<(), QueryError> {
        match self.object.field(field) {
            Some(found) if found == *shown => Ok(()),
            Some(_) if field == "indexes" => {
                let text = "The `indexes` field is read-only and can't be used to create or drop indexes.";
                Err(failed(text.to_owned()))
            }
            Some(_) if field == "write_hook" => {
                let text = "The `write_hook` field is read-only and can't be used to create or drop a write hook function.";
                Err(failed(text.to_owned()))
            }
            Some(_) => Err(self.wrong(&format!("The field `{field}` cannot be changed."))),
            None => Err(self.wrong(&format!("Expected a field named `{field}`."))),
        }
    }

    fn name(&self, field: &str) -> Result<String, QueryError> {
        match self.object.field(field) {
            Some(Datum::String(text)) => {
                let text = text.as_str();
                let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
                if text.is_empty() || !text.bytes().all(is_name) {
                    let why = format!("In `{field}`: `{text}` is invalid (Use A-Z, a-z, 0-9, _ and - only).");
                    return Err(self.wrong(&why));
                }
                Ok(text.to_owned())
            }
            Some(_) => Err(self.wrong(&format!("In `{field}`: Expected a string."))),
            None => Err(self.wrong(&format!("Expected a field named `{field}`."))),
        }
    }
}

#[cfg(test)]
mod tests {
    use photondb_proto::datum::json;

    use super::*;
    use crate::catalog::user_record;
    use photondb_proto::wire::scram::Credential;

    fn empty() -> Catalog {
        let server =
            Server { id: [1; 16], name: "here".into(), epoch: 1, next_shard: 1, salt_secret: [2; 16] };
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

    #[test]
    fn a_table_is_configured_by_writing_its_row() {
        let mut catalog = empty();
        carry_out(&mut catalog, &create("a"), 1);
        carry_out(&mut catalog, &table_create("a", "t"), 1);
        carry_out(&mut catalog, &table_create("a", "u"), 1);
        let id = catalog.table_named("a", "t").expect("made").id;
        #[track_caller]
        fn check(catalog: &Catalog, id: TableId, field: &str, value: Datum, want: &str) {
            let table = catalog.table(id).expect("made");
            let Datum::Object(row) = row::table_config(catalog, table, Identifiers::Names) else {
                panic!("rows are objects")
            };
            let mut changed = row.to_builder();
            changed.set(field, value);
            let row = document::to_bytes(&Datum::Object(changed.build()));
            let op = CatalogOp::TableConfigure { table: id, row };
            let mut catalog = catalog.clone();
            let said = carry_out(&mut catalog, &op, 1);
            assert!(said.contains(want), "{field}: {said}");
        }
        check(&catalog, id, "name", Datum::string("v"), r#""name":"v""#);
        check(&catalog, id, "name", Datum::string("u"), "because table `a.u` already exists.");
        check(&catalog, id, "durability", Datum::string("soft"), r#""durability":"soft""#);
        check(&catalog, id, "durability", Datum::string("limp"), "has the wrong format");
        check(
            &catalog,
            id,
            "primary_key",
            Datum::string("x"),
            "It's illegal to change a table's primary key",
        );
        check(&catalog, id, "indexes", Datum::array(vec![Datum::Null]), "The `indexes` field is read-only");
        check(&catalog, id, "shards", Datum::array(vec![]), "Every table must have at least one shard.");
        check(&catalog, id, "colour", Datum::Null, "Unexpected key(s) `colour`.");
    }
}
