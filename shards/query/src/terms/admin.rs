//! Administration: databases, tables, their configuration and state.
//!
//! The catalog knows the answers ([`CatalogOp`]); these terms check names and options, ask, and shape what the catalog
//! does not. `config` and `status` give a row of a system table, which is written to like any other.
//! Virtual shards are a number in the configuration: `reconfigure` writes it, `rebalance` has nothing to move.

use std::cell::OnceCell;
use std::rc::Rc;

use photondb_proto::datum::{Datum, Object, ObjectBuilder, document, key};
use photondb_proto::error::ErrorKind;
use photondb_proto::limits;
use photondb_proto::op::{
    CatalogOp, CatalogReply, DatabaseInfo, Durability, Identifiers, KeyRange, ReadMode, SYSTEM_DATABASE,
    TableInfo, TableOptions, TableRead, TableReply, uuid_text,
};
use photondb_proto::term::number;

use super::options::{Named, check_name, durability};
use super::table::table_at;
use super::{Arity, Determinism, Eval, Evaluation, Invocation, TermDef};
use crate::blob;
use crate::call::Call;
use crate::failure::{Failure, Outcome};
use crate::function::Meaning;
use crate::run::{Run, wrong_reply};
use crate::stream::ranges_of;
use crate::value::{SelectedRow, TableHandle, Value, wrong_type};

pub static TERMS: &[TermDef] = &[
    strict("DB_CREATE", number::DB_CREATE, Arity::exactly(1), &[], |run, invocation| {
        Box::pin(db_create(run, invocation))
    }),
    strict("DB_DROP", number::DB_DROP, Arity::exactly(1), &[], |run, invocation| {
        Box::pin(db_drop(run, invocation))
    }),
    strict("DB_LIST", number::DB_LIST, Arity::exactly(0), &[], |run, _| Box::pin(db_list(run))),
    strict("TABLE_CREATE", number::TABLE_CREATE, Arity::between(1, 2), TABLE_OPTIONS, |run, invocation| {
        Box::pin(table_create(run, invocation))
    }),
    strict("TABLE_DROP", number::TABLE_DROP, Arity::between(1, 2), &[], |run, invocation| {
        Box::pin(table_drop(run, invocation))
    }),
    strict("TABLE_LIST", number::TABLE_LIST, Arity::between(0, 1), &[], |run, invocation| {
        Box::pin(table_list(run, invocation))
    }),
    strict("CONFIG", number::CONFIG, Arity::exactly(1), &[], |run, invocation| {
        Box::pin(config(run, invocation))
    }),
    strict("STATUS", number::STATUS, Arity::exactly(1), &[], |run, invocation| {
        Box::pin(status(run, invocation))
    }),
    strict("WAIT", number::WAIT, Arity::between(0, 1), &["timeout", "wait_for"], |run, invocation| {
        Box::pin(wait(run, invocation))
    }),
    strict(
        "RECONFIGURE",
        number::RECONFIGURE,
        Arity::between(0, 1),
        RECONFIGURE_OPTIONS,
        |run, invocation| Box::pin(reconfigure(run, invocation)),
    ),
    strict("REBALANCE", number::REBALANCE, Arity::between(0, 1), &[], |run, invocation| {
        Box::pin(rebalance(run, invocation))
    }),
    strict("SET_WRITE_HOOK", number::SET_WRITE_HOOK, Arity::exactly(2), &[], |run, invocation| {
        Box::pin(set_write_hook(run, invocation))
    }),
    strict("GET_WRITE_HOOK", number::GET_WRITE_HOOK, Arity::exactly(1), &[], |run, invocation| {
        Box::pin(get_write_hook(run, invocation))
    }),
];

const TABLE_OPTIONS: &[&str] =
    &["durability", "nonvoting_replica_tags", "primary_key", "primary_replica_tag", "replicas", "shards"];

const RECONFIGURE_OPTIONS: &[&str] =
    &["dry_run", "emergency_repair", "nonvoting_replica_tags", "primary_replica_tag", "replicas", "shards"];

/// The tag that every server bears.
const SERVER_TAG: &str = "default";

pub const fn strict(
    name: &'static str,
    number: u32,
    arity: Arity,
    options: &'static [&'static str],
    eval: for<'a> fn(&'a Run, Invocation) -> Evaluation<'a, Value>,
) -> TermDef {
    TermDef { name, number, arity, options, determinism: Determinism::Never, eval: Eval::Strict(eval) }
}

pub fn failed(text: String) -> Failure {
    Failure::new(ErrorKind::OpFailed, text)
}

// ---------------------------------------------------------------- write hooks

async fn set_write_hook(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let table = table_at(&invocation, 0)?;
    let argument = &invocation.call.arguments[1];
    let hook = match &argument.value {
        Value::Datum(Datum::Null) => None,
        Value::Datum(Datum::Binary(blob)) => {
            blob::write_hook_of(blob).map_err(|failure| failure.at(&argument.place))?;
            Some(blob.to_vec())
        }
        _ => Some(blob::write_hook(&invocation.function(1, Meaning::Nothing)?)?),
    };
    if table.info.id.as_system_table().is_some() {
        return Err(failed(format!(
            "Database `{SYSTEM_DATABASE}` is special; you can't set a write hook on the tables in it."
        )));
    }
    value(run, CatalogOp::SetWriteHook { table: table.info.id, hook }).await.map(Value::Datum)
}

async fn get_write_hook(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let table = table_at(&invocation, 0)?;
    if table.info.id.as_system_table().is_some() {
        return Ok(Value::null());
    }
    value(run, CatalogOp::WriteHook { table: table.info.id }).await.map(Value::Datum)
}

// ---------------------------------------------------------------- asking the catalog

pub async fn value(run: &Run, op: CatalogOp) -> Outcome<Datum> {
    match run.catalog(op).await? {
        CatalogReply::Value(bytes) => Ok(document::from_bytes(&bytes)),
        CatalogReply::Table(_)
        | CatalogReply::Database(_)
        | CatalogReply::Names(_)
        | CatalogReply::Indexes(_) => Err(wrong_reply()),
    }
}

async fn names(run: &Run, op: CatalogOp) -> Outcome<Vec<String>> {
    match run.catalog(op).await? {
        CatalogReply::Names(names) => Ok(names),
        CatalogReply::Table(_)
        | CatalogReply::Database(_)
        | CatalogReply::Indexes(_)
        | CatalogReply::Value(_) => Err(wrong_reply()),
    }
}

async fn table_info(run: &Run, database: String, table: String) -> Outcome<TableInfo> {
    match run.catalog(CatalogOp::Table { database, table, identifiers: Identifiers::Names }).await? {
        CatalogReply::Table(info) => Ok(info),
        CatalogReply::Database(_)
        | CatalogReply::Names(_)
        | CatalogReply::Indexes(_)
        | CatalogReply::Value(_) => Err(wrong_reply()),
    }
}

async fn database_info(run: &Run, name: String) -> Outcome<DatabaseInfo> {
    match run.catalog(CatalogOp::Database { name }).await? {
        CatalogReply::Database(info) => Ok(info),
        CatalogReply::Table(_)
        | CatalogReply::Names(_)
        | CatalogReply::Indexes(_)
        | CatalogReply::Value(_) => Err(wrong_reply()),
    }
}

fn name(call: &Call, index: usize, named: Named) -> Outcome<String> {
    let name = call.string(index)?;
    check_name(named, &name).map_err(|failure| failure.at(&call.arguments[index].place))?;
    Ok(name.as_str().to_owned())
}

/// The database argument at `index`, or the default one when there is no such argument.
fn database(run: &Run, call: &Call, index: Option<usize>) -> Outcome<String> {
    let Some(argument) = index.and_then(|index| call.arguments.get(index)) else {
        return Ok(run.default_database.borrow().clone()?.to_string());
    };
    match &argument.value {
        Value::Database(database) => Ok(database.name.clone()),
        other => Err(other.wrong_kind("DATABASE").at(&argument.place)),
    }
}

fn names_datum(names: Vec<String>) -> Value {
    Value::Datum(Datum::array(names.into_iter().map(|name| Datum::String(name.into())).collect()))
}

// ---------------------------------------------------------------- databases and tables

async fn db_create(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let name = name(&invocation.call, 0, Named::Database)?;
    Ok(value(run, CatalogOp::DatabaseCreate { name }).await?.into())
}

async fn db_drop(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let name = name(&invocation.call, 0, Named::Database)?;
    Ok(value(run, CatalogOp::DatabaseDrop { name }).await?.into())
}

async fn db_list(run: &Run) -> Outcome<Value> {
    Ok(names_datum(names(run, CatalogOp::DatabaseList).await?))
}

/// The database and the table's name: `[database,] name`.
fn table_name(run: &Run, call: &Call) -> Outcome<(String, String)> {
    let last = call.count() - 1;
    let database = database(run, call, last.checked_sub(1))?;
    Ok((database, name(call, last, Named::Table)?))
}

async fn table_create(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let call = &invocation.call;
    let (database, name) = table_name(run, call)?;
    let options = TableOptions {
        primary_key: primary_key_option(call)?,
        durability: durability_option(call)?,
        shards: shards_option(call)?,
    };
    check_replicas(call)?;
    Ok(value(run, CatalogOp::TableCreate { database, name, options }).await?.into())
}

/// `null` says nothing: the import tool of the Python package sends it for a key that it was not told.
fn primary_key_option(call: &Call) -> Outcome<Option<String>> {
    if matches!(call.option_datum("primary_key")?, Some(Datum::Null)) {
        return Ok(None);
    }
    option_text(call, "primary_key")
}

async fn table_drop(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let (database, name) = table_name(run, &invocation.call)?;
    Ok(value(run, CatalogOp::TableDrop { database, name }).await?.into())
}

async fn table_list(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let database = database(run, &invocation.call, Some(0))?;
    Ok(names_datum(names(run, CatalogOp::TableList { database }).await?))
}

/// An option's text; blames the option for another type.
pub fn option_text(call: &Call, name: &str) -> Outcome<Option<String>> {
    let (Some(argument), Some(datum)) = (call.option(name), call.option_datum(name)?) else {
        return Ok(None);
    };
    match datum {
        Datum::String(text) => Ok(Some(text.as_str().to_owned())),
        other => Err(wrong_type("STRING", &other).at(&argument.place)),
    }
}

/// The option `durability` of a call; a global one reaches it too.
pub fn durability_option(call: &Call) -> Outcome<Option<Durability>> {
    let (Some(argument), Some(datum)) = (call.option("durability"), call.option_datum("durability")?) else {
        return Ok(None);
    };
    durability(&datum).map(Some).map_err(|failure| failure.at(&argument.place))
}

fn option_integer(call: &Call, name: &str) -> Outcome<Option<i64>> {
    let (Some(argument), Some(datum)) = (call.option(name), call.option_datum(name)?) else {
        return Ok(None);
    };
    let number = match datum {
        Datum::Number(number) => crate::call::integer(number),
        other => Err(wrong_type("NUMBER", &other)),
    };
    number.map(Some).map_err(|failure| failure.at(&argument.place))
}

fn shards_option(call: &Call) -> Outcome<Option<u32>> {
    let Some(shards) = option_integer(call, "shards")? else { return Ok(None) };
    if shards < 1 {
        return Err(Failure::logic("Every table must have at least one shard."));
    }
    match u32::try_from(shards) {
        Ok(shards) if shards <= limits::VIRTUAL_SHARDS_MAX => Ok(Some(shards)),
        Ok(_) | Err(_) => {
            Err(Failure::logic(format!("Maximum number of shards is {}.", limits::VIRTUAL_SHARDS_MAX)))
        }
    }
}

/// There is one server, tagged `default`: one replica is all there can be.
fn check_replicas(call: &Call) -> Outcome<()> {
    let tag = option_text(call, "primary_replica_tag")?;
    let nonvoting = call.option_datum("nonvoting_replica_tags")?;
    match call.option_datum("replicas")? {
        Some(Datum::Object(replicas)) => {
            let Some(tag) = tag else {
                return Err(Failure::logic(
                    "`primary_replica_tag` must be specified when `replicas` is an OBJECT.",
                ));
            };
            for (server_tag, count) in replicas.iter() {
                check_tag(&server_tag)?;
                let Datum::Number(count) = count else { return Err(wrong_type("NUMBER", &count)) };
                check_replica_count(crate::call::integer(count)?)?;
            }
            if !replicas.has(&tag) {
                return Err(Failure::logic(format!(
                    "Can't use server tag `{tag}` for primary replicas because you specified no replicas in server \
                     tag `{tag}`."
                )));
            }
            Ok(())
        }
        Some(_) | None if tag.is_some() => {
            Err(Failure::logic("`replicas` must be an OBJECT if `primary_replica_tag` is specified."))
        }
        Some(_) | None if nonvoting.is_some() => {
            Err(Failure::logic("`replicas` must be an OBJECT if `nonvoting_replica_tags` is specified."))
        }
        Some(_) => match option_integer(call, "replicas")? {
            Some(count) => check_replica_count(count),
            None => Ok(()),
        },
        None => Ok(()),
    }
}

fn check_tag(tag: &str) -> Outcome<()> {
    if tag == SERVER_TAG {
        return Ok(());
    }
    Err(failed(format!("Could not find any servers with server tag `{tag}`.")))
}

fn check_replica_count(count: i64) -> Outcome<()> {
    match count {
        ..=0 => Err(Failure::logic(
            "You must set `replicas` to at least one. `replicas` includes the primary replica; if there are zero \
             replicas, there is nowhere to put the data.",
        )),
        1 => Ok(()),
        _ => Err(failed(format!(
            "Can't put {count} replicas on servers with the tag `{SERVER_TAG}` because there are only 1 servers with \
             the tag `{SERVER_TAG}`. It's impossible to have more replicas of the data than there are servers."
        ))),
    }
}

// ---------------------------------------------------------------- config and status

/// A row of a system table, already read.
async fn system_row(run: &Run, table: &str, id: &[u8; 16], row: Datum) -> Outcome<Value> {
    let info = table_info(run, SYSTEM_DATABASE.to_owned(), table.to_owned()).await?;
    let id = Datum::String(uuid_text(id).into());
    let document = OnceCell::new();
    document.get_or_init(|| row);
    let table = TableHandle { info: Rc::new(info), mode: ReadMode::Single };
    Ok(Value::Row(Rc::new(SelectedRow {
        table,
        key: key::primary(&id)?,
        key_datum: id,
        document,
        first_of: None,
        missing: None,
    })))
}

async fn config(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let argument = &invocation.call.arguments[0];
    match &argument.value {
        Value::Database(database) => {
            let row = value(run, CatalogOp::DatabaseConfig { database: database.id }).await?;
            system_row(run, "db_config", &database.id.0, row).await
        }
        Value::Table(table) => {
            let row = value(run, CatalogOp::TableConfig { table: table.info.id }).await?;
            system_row(run, "table_config", &table.info.id.0, row).await
        }
        other => Err(other.wrong_kind("TABLE").at(&argument.place)),
    }
}

async fn status(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let table = table_argument(&invocation.call)?;
    let row = value(run, CatalogOp::TableStatus { table: table.info.id }).await?;
    system_row(run, "table_status", &table.info.id.0, row).await
}

pub fn table_argument(call: &Call) -> Outcome<&TableHandle> {
    let argument = &call.arguments[0];
    match &argument.value {
        Value::Table(table) => Ok(table),
        other => Err(other.wrong_kind("TABLE").at(&argument.place)),
    }
}

// ---------------------------------------------------------------- wait, reconfigure, rebalance

/// What a term is applied to: one table, or a whole database.
async fn targets(run: &Run, call: &Call) -> Outcome<(String, Option<Rc<TableInfo>>)> {
    match call.arguments.first().map(|argument| (&argument.value, &argument.place)) {
        Some((Value::Table(table), _)) => Ok((table.info.database.clone(), Some(table.info.clone()))),
        Some((Value::Database(database), _)) => Ok((database.name.clone(), None)),
        Some((other, place)) => Err(other.wrong_kind("TABLE").at(place)),
        None => {
            let database = database(run, call, None)?;
            Ok((database_info(run, database).await?.name, None))
        }
    }
}

/// The states of readiness that `wait` can wait for. A table here is ready for all as soon as it exists.
const READINESS: [&str; 4] =
    ["ready_for_outdated_reads", "ready_for_reads", "ready_for_writes", "all_replicas_ready"];

async fn wait(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let call = &invocation.call;
    if let Some(state) = option_text(call, "wait_for")?
        && !READINESS.contains(&state.as_str())
    {
        let [outdated, reads, writes, all] = READINESS;
        return Err(Failure::logic(format!(
            "Unknown table readiness state: '{state}', must be one of '{outdated}', '{reads}', '{writes}', or '{all}'"
        )));
    }
    if let Some(timeout) = call.option("timeout") {
        match call.option_datum("timeout")? {
            Some(Datum::Number(_)) | None => {}
            Some(other) => return Err(wrong_type("NUMBER", &other).at(&timeout.place)),
        }
    }
    let (database, table) = targets(run, call).await?;
    let table = table.map(|table| table.name.clone());
    Ok(value(run, CatalogOp::Wait { database, table }).await?.into())
}

/// The tables a term is applied to, to do `what` with them.
async fn target_tables(run: &Run, call: &Call, what: &str) -> Outcome<Vec<Rc<TableInfo>>> {
    let (database, table) = targets(run, call).await?;
    if database == SYSTEM_DATABASE {
        return Err(failed(format!(
            "Database `{SYSTEM_DATABASE}` is special; you can't {what} the tables in it."
        )));
    }
    if let Some(table) = table {
        return Ok(vec![table]);
    }
    let mut tables = Vec::new();
    for table in names(run, CatalogOp::TableList { database: database.clone() }).await? {
        tables.push(Rc::new(table_info(run, database.clone(), table).await?));
    }
    Ok(tables)
}

fn change(old: Datum, new: Datum) -> Datum {
    Datum::object([("new_val", new), ("old_val", old)])
}

async fn reconfigure(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let call = &invocation.call;
    if call
        .option("emergency_repair")
        .is_some_and(|option| !matches!(option.value, Value::Datum(Datum::Null)))
    {
        return emergency_repair(run, call).await;
    }
    let Some(shards) = shards_option(call)? else {
        return Err(Failure::logic("Missing required argument `shards`."));
    };
    if call.option("replicas").is_none() {
        return Err(Failure::logic("Missing required argument `replicas`."));
    }
    check_replicas(call)?;
    let dry_run = call.option_datum("dry_run")?.is_some_and(|datum| datum.is_truthy());
    let (mut config_changes, mut status_changes) = (Vec::new(), Vec::new());
    for table in target_tables(run, call, "configure").await? {
        let table = table.id;
        let old = value(run, CatalogOp::TableConfig { table }).await?;
        let new = with_shards(&old, shards)?;
        if dry_run {
            config_changes.push(change(old, new));
            continue;
        }
        let old_status = value(run, CatalogOp::TableStatus { table }).await?;
        let new = value(run, CatalogOp::Reconfigure { table, shards }).await?;
        let new_status = value(run, CatalogOp::TableStatus { table }).await?;
        config_changes.push(change(old, new));
        status_changes.push(change(old_status, new_status));
    }
    let mut answer = ObjectBuilder::default();
    let count = if dry_run { 0 } else { config_changes.len() };
    answer.set("config_changes", Datum::array(config_changes));
    answer.set("reconfigured", Datum::Number(count as f64));
    if !dry_run {
        answer.set("status_changes", Datum::array(status_changes));
    }
    Ok(Datum::Object(answer.build()).into())
}

/// Nothing here ever needs it: a table is on one server, and there it is.
async fn emergency_repair(run: &Run, call: &Call) -> Outcome<Value> {
    match option_text(call, "emergency_repair")?.as_deref() {
        Some("unsafe_rollback" | "unsafe_rollback_or_erase" | "_debug_recommit") => {
            let table = table_argument(call)?.info.id;
            value(run, CatalogOp::TableConfig { table }).await?;
            Err(failed("This table doesn't need to be repaired.".to_owned()))
        }
        Some(_) | None => Err(Failure::logic(
            "`emergency_repair` should be \"unsafe_rollback\" or \"unsafe_rollback_or_erase\"",
        )),
    }
}

/// A row of `table_config` with as many shards like its first.
fn with_shards(config: &Datum, shards: u32) -> Outcome<Datum> {
    let Datum::Object(row) = config else {
        return Err(Failure::internal("a table's configuration is an object"));
    };
    let first = match row.field("shards") {
        Some(Datum::Array(shards)) => shards.item(0),
        Some(_) | None => None,
    };
    let first = first.ok_or_else(|| Failure::internal("a table has a shard"))?;
    let mut row = row.to_builder();
    row.set("shards", Datum::array(vec![first; shards as usize]));
    Ok(Datum::Object(row.build()))
}

async fn rebalance(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let mut changes = Vec::new();
    for table in target_tables(run, &invocation.call, "rebalance").await? {
        // Nothing moves, but it is asked of those who may configure the table.
        value(run, CatalogOp::TableConfig { table: table.id }).await?;
        let status = value(run, CatalogOp::TableStatus { table: table.id }).await?;
        changes.push(change(status.clone(), status));
    }
    let count = changes.len() as f64;
    let answer = [("rebalanced", Datum::Number(count)), ("status_changes", Datum::array(changes))];
    Ok(Datum::object(answer).into())
}

// ---------------------------------------------------------------- counts

/// `doc_count_estimates` of INFO: the number of documents, spread over the virtual shards.
pub async fn document_count_estimates(run: &Run, info: &TableInfo) -> Outcome<Datum> {
    let read = TableRead::Count { index: None, ranges: ranges_of([KeyRange::all()]).to_vec() };
    let TableReply::Count(count) = run.read(info.id, read, ReadMode::Single).await? else {
        return Err(wrong_reply());
    };
    if info.id.as_system_table().is_some() {
        return Ok(Datum::array(vec![Datum::Number(count as f64)]));
    }
    let shards = match value(run, CatalogOp::TableStatus { table: info.id }).await? {
        Datum::Object(row) => virtual_shards(&row),
        _ => 1,
    };
    let (each, more) = (count / shards, count % shards);
    let estimate = |shard: u64| Datum::Number((each + u64::from(shard < more)) as f64);
    Ok(Datum::array((0..shards).map(estimate).collect()))
}

fn virtual_shards(status: &Object) -> u64 {
    match status.field("shards") {
        Some(Datum::Array(shards)) => (shards.len() as u64).max(1),
        Some(_) | None => 1,
    }
}

#[cfg(test)]
mod tests {
    use crate::world::World;

    #[track_caller]
    fn check(rows: &[(&str, &str)]) {
        let mut world = World::new();
        for (query, want) in rows {
            assert_eq!(world.answer(&format!("[1,{query}]")), *want, "{query}");
        }
    }

    #[test]
    fn databases_and_tables_come_and_go() {
        check(&[
            ("[59,[]]", r#"["test"]"#),
            (r#"[170,[[57,["a"]],"dbs_created"]]"#, "1"),
            (r#"[57,["a"]]"#, "! Database `a` already exists."),
            (r#"[57,["a b"]]"#, "! Database name `a b` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
            (r#"[170,[[60,[[14,["a"]],"x"]],"tables_created"]]"#, "1"),
            (r#"[60,[[14,["a"]],"x"]]"#, "! Table `a.x` already exists."),
            (r#"[60,["y!"]]"#, "! Table name `y!` invalid (Use A-Z, a-z, 0-9, _ and - only)."),
            (r#"[60,[[14,["a"]]]]"#, "! Expected type DATUM but found DATABASE:\ndb(\"a\")"),
            (r#"[62,[[14,["a"]]]]"#, r#"["x"]"#),
            ("[62,[]]", r#"["t"]"#),
            (r#"[170,[[61,["t"]],"tables_dropped"]]"#, "1"),
            (r#"[61,["t"]]"#, "! Table `test.t` does not exist."),
            (r#"[170,[[58,["a"]],"tables_dropped"]]"#, "1"),
            (r#"[58,["a"]]"#, "! Database `a` does not exist."),
        ]);
    }

    #[test]
    fn options_of_table_create_are_checked() {
        let create = |options: &str| format!(r#"[60,["x"],{options}]"#);
        check(&[
            (&create(r#"{"shards":0}"#), "! Every table must have at least one shard."),
            (&create(r#"{"shards":65}"#), "! Maximum number of shards is 64."),
            (
                &create(r#"{"replicas":2}"#),
                "! Can't put 2 replicas on servers with the tag `default` because there are only 1 servers with the tag \
                 `default`. It's impossible to have more replicas of the data than there are servers.",
            ),
            (
                &create(r#"{"replicas":{"x":1},"primary_replica_tag":"x"}"#),
                "! Could not find any servers with server tag `x`.",
            ),
            (
                &create(r#"{"durability":"x"}"#),
                "! Durability option `x` unrecognized (options are \"hard\" and \"soft\").",
            ),
            (&create(r#"{"primary_key":1}"#), "! Expected type STRING but found NUMBER."),
            (&create(r#"{"x":1}"#), "! Unrecognized optional argument `x`."),
            (&format!(r#"[170,[{},"tables_created"]]"#, create(r#"{"primary_key":"k","replicas":1}"#)), "1"),
            (
                &format!(
                    r#"[170,[{},"tables_created"]]"#,
                    create(r#"{"primary_key":null}"#).replace('x', "y")
                ),
                "1",
            ),
            (r#"[170,[[56,[[15,["x"]],{"k":1}]],"inserted"]]"#, "1"),
        ]);
    }

    #[test]
    fn configuration_is_a_row_that_can_be_written() {
        check(&[
            (r#"[170,[[174,[[15,["t"]]]],"primary_key"]]"#, r#""id""#),
            (r#"[170,[[53,[[174,[[15,["t"]]]],{"name":"u"}]],"replaced"]]"#, "1"),
            (r#"[170,[[174,[[15,["t"]]]],"name"]]"#, r#""u""#),
            (r#"[170,[[174,[[14,["test"]]]],"name"]]"#, r#""test""#),
            (r#"[53,[[174,[[59,[]]]],{}]]"#, "! Expected type TABLE but found DATUM:\n[\n\t\"test\"\n]"),
        ]);
    }

    #[test]
    fn reconfigure_sets_the_number_of_virtual_shards() {
        let reconfigure = |options: &str| format!(r#"[176,[[15,["t"]]],{options}]"#);
        check(&[
            (&reconfigure("{}"), "! Missing required argument `shards`."),
            (&reconfigure(r#"{"shards":2}"#), "! Missing required argument `replicas`."),
            (
                &format!(
                    r#"[33,[{},"reconfigured"]]"#,
                    reconfigure(r#"{"shards":2,"replicas":1,"dry_run":true}"#)
                ),
                r#"{"reconfigured":0}"#,
            ),
            (&format!(r#"[170,[{},"reconfigured"]]"#, reconfigure(r#"{"shards":2,"replicas":1}"#)), "1"),
            (r#"[43,[[170,[[174,[[15,["t"]]]],"shards"]]]]"#, "2"),
            (r#"[170,[[179,[[15,["t"]]]],"rebalanced"]]"#, "1"),
            (
                &reconfigure(r#"{"emergency_repair":"unsafe_rollback"}"#),
                "! This table doesn't need to be repaired.",
            ),
        ]);
    }

    #[test]
    fn info_counts_documents_by_virtual_shard() {
        check(&[
            (r#"[170,[[176,[[15,["t"]]],{"shards":2,"replicas":1}],"reconfigured"]]"#, "1"),
            (r#"[170,[[56,[[15,["t"]],[2,[{"id":1},{"id":2},{"id":3}]]]],"inserted"]]"#, "3"),
            (r#"[170,[[79,[[15,["t"]]]],"doc_count_estimates"]]"#, "[2,1]"),
            (r#"[170,[[79,[[14,["test"]]]],"name"]]"#, r#""test""#),
        ]);
    }

    #[test]
    fn tables_are_ready_and_have_no_indexes() {
        check(&[
            (r#"[177,[[15,["t"]]],{"wait_for":"all_replicas_ready"}]"#, r#"{"ready":1}"#),
            (r#"[177,[[14,["test"]]]]"#, r#"{"ready":1}"#),
            (
                r#"[177,[[15,["t"]]],{"wait_for":"x"}]"#,
                "! Unknown table readiness state: 'x', must be one of 'ready_for_outdated_reads', 'ready_for_reads', \
                 'ready_for_writes', or 'all_replicas_ready'",
            ),
            (r#"[77,[[15,["t"]]]]"#, "[]"),
            (r#"[139,[[15,["t"]]]]"#, "[]"),
            (r#"[76,[[15,["t"]],"i"]]"#, "! Index `i` does not exist on table `test.t`."),
            (r#"[75,[[15,["t"]],"id"]]"#, "! Index name conflict: `id` is the name of the primary key."),
            (
                r#"[156,[[15,["t"]],"i","j"]]"#,
                "! Index `i` does not exist or index `j` already exists on table `test.t`.",
            ),
            (r#"[140,[[15,["t"]],"i"]]"#, "! Index `i` was not found on table `test.t`."),
        ]);
    }
}
