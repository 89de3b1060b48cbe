//! Writes to `db_config`, `table_config`, `server_config` and `cluster_config`: what is configured by writing its row.
//!
//! Always: a new row makes the thing, a changed one changes it, a deleted one drops it, by the same plans as the terms for
//! it. Virtual shards are only counted: one server holds them all.

use photondb_proto::datum::{Array, Datum, json};
use photondb_proto::error::QueryError;
use photondb_proto::op::{DatabaseId, Durability, SYSTEM_DATABASE, Scope, TableId};

use super::change::{self, planned};
use super::edit::{Edit, Fields, Planned, text, uuid};
use super::{Database, KeptChanges, Server, Table, database_record, failed, row, table_record};

fn done(plan: change::Plan) -> Planned {
    Planned::Done(plan)
}

// ---------------------------------------------------------------- databases

/// # Errors
/// The row's.
pub fn database(edit: &Edit<'_>) -> Result<Planned, QueryError> {
    let id = uuid(edit.key).map(DatabaseId);
    let old = id.and_then(|id| edit.catalog.database(id));
    let Some(row) = edit.new else {
        let Some(old) = old else { return Ok(done(planned(edit.catalog, Vec::new(), Datum::Null))) };
        edit.require_config(Scope::Database(old.id))?;
        for table in edit.catalog.tables_of(old.id) {
            edit.require_config(Scope::Table(old.id, table.id))?;
        }
        return change::database_drop(edit.catalog, &old.name).map(done);
    };
    let fields = Fields { table: "db_config", row };
    fields.only(&["id", "name"])?;
    let name = fields.name("name", "database name")?;
    let is_taken = name == SYSTEM_DATABASE || edit.catalog.database_named(&name).is_ok();
    let id = match old {
        None => {
            edit.require_config(Scope::Global)?;
            if is_taken {
                return Err(failed(format!("Database `{name}` already exists.")));
            }
            id.ok_or_else(|| new_id_wanted("database", "db_config"))?
        }
        Some(old) => {
            edit.require_config(Scope::Database(old.id))?;
            if old.name != name && is_taken {
                let old = &old.name;
                return Err(failed(format!(
                    "Cannot rename database `{old}` to `{name}` because database `{name}` already exists."
                )));
            }
            old.id
        }
    };
    let records = vec![database_record(&Database { id, name })];
    Ok(done(planned(edit.catalog, records, Datum::Null)))
}

fn new_id_wanted(what: &str, table: &str) -> QueryError {
    failed(format!(
        "If you want to create a new {what} by inserting into `{SYSTEM_DATABASE}.{table}`, you must use an auto-generated \
         primary key."
    ))
}

// ---------------------------------------------------------------- tables

const TABLE_FIELDS: [&str; 10] = [
    "change_log",
    "db",
    "durability",
    "id",
    "indexes",
    "name",
    "primary_key",
    "shards",
    "write_acks",
    "write_hook",
];

/// # Errors
/// The row's.
pub fn table(edit: &Edit<'_>) -> Result<Planned, QueryError> {
    let id = uuid(edit.key).map(TableId);
    let old = id.and_then(|id| edit.catalog.table(id)).cloned();
    let Some(row) = edit.new else {
        let Some(old) = old else { return Ok(done(planned(edit.catalog, Vec::new(), Datum::Null))) };
        edit.require_config(Scope::Table(old.database, old.id))?;
        return change::table_drop(edit.catalog, &old).map(done);
    };
    let fields = Fields { table: "table_config", row };
    match old {
        Some(old) => change_table(edit, &fields, &old),
        None => {
            let id = id.ok_or_else(|| new_id_wanted("table", "table_config"))?;
            create_table(edit, &fields, id)
        }
    }
}

fn change_table(edit: &Edit<'_>, fields: &Fields<'_>, old: &Table) -> Result<Planned, QueryError> {
    edit.require_config(Scope::Table(old.database, old.id))?;
    let (name, database) = (fields.name("name", "table name")?, owner(edit, fields)?);
    let shown = row::table_config(edit.catalog, old, edit.identifiers);
    let Datum::Object(shown) = &shown else { unreachable!("rows are objects") };
    check_indexes(fields, shown.field("indexes").as_ref())?;
    if fields.text("primary_key")? != old.primary_key {
        return Err(failed("It's illegal to change a table's primary key".to_owned()));
    }
    let virtual_shards = shards(edit, fields, &fields.get("shards")?)?;
    let write_acks = write_acks(fields, &fields.get("write_acks")?)?;
    let durability = durability(fields, &fields.get("durability")?)?;
    let change_log = change_log(fields)?;
    if fields.get("write_hook")? != shown.field("write_hook").unwrap_or(Datum::Null) {
        return Err(fields.wrong(
            "The `write_hook` field is read-only and can't be used to create or drop a write hook function.",
        ));
    }
    fields.only(&TABLE_FIELDS)?;
    let moved = (&name, database.id) != (&old.name, old.database);
    if moved && edit.catalog.table_named(&database.name, &name).is_ok() {
        let from = edit.catalog.database(old.database).map_or("", |database| &database.name);
        let (from, to) = (format!("{from}.{}", old.name), format!("{}.{name}", database.name));
        let text = format!("Can't rename table `{from}` to `{to}` because table `{to}` already exists.");
        return Err(failed(text));
    }
    let table = Table {
        name,
        database: database.id,
        virtual_shards,
        write_acks,
        durability,
        change_log,
        ..old.clone()
    };
    let mut records = vec![table_record(&table)];
    if database.id != old.database {
        records.extend(super::permissions::records_moved(edit.catalog, old.id, database.id));
    }
    Ok(done(planned(edit.catalog, records, Datum::Null)))
}

fn create_table(edit: &Edit<'_>, fields: &Fields<'_>, id: TableId) -> Result<Planned, QueryError> {
    let (name, database) = (fields.name("name", "table name")?, owner(edit, fields)?);
    edit.require_config(Scope::Database(database.id))?;
    let given = |field: &str| fields.row.field(field);
    if given("indexes").is_some() {
        check_indexes(fields, Some(&Datum::Array(Array::new(Vec::new()))))?;
    }
    let primary_key = given("primary_key").map(|_| fields.text("primary_key")).transpose()?;
    let shards = given("shards").map(|given| shards(edit, fields, &given)).transpose()?;
    let write_acks = given("write_acks").map(|given| write_acks(fields, &given)).transpose()?;
    let durability = given("durability").map(|given| durability(fields, &given)).transpose()?;
    let change_log = change_log(fields)?;
    if given("write_hook").is_some_and(|given| !given.is_null()) {
        return Err(fields.wrong(
            "The `write_hook` field is read-only and can't be used to create or drop a write hook function.",
        ));
    }
    fields.only(&TABLE_FIELDS)?;
    if edit.catalog.table_named(&database.name, &name).is_ok() {
        return Err(failed(format!("Table `{}.{name}` already exists.", database.name)));
    }
    let fresh = change::fresh_table(edit.catalog, id, database.id, &name, edit.means);
    let table = Table {
        primary_key: primary_key.unwrap_or_else(|| fresh.primary_key.clone()),
        virtual_shards: shards.unwrap_or(fresh.virtual_shards),
        write_acks: write_acks.unwrap_or_else(|| fresh.write_acks.clone()),
        durability: durability.unwrap_or(fresh.durability),
        change_log,
        ..fresh
    };
    Ok(done(change::planned_with_shards(edit.catalog, &table, Datum::Null)))
}

/// The database that the field `db` names.
fn owner<'a>(edit: &Edit<'a>, fields: &Fields<'_>) -> Result<&'a Database, QueryError> {
    let value = fields.get("db")?;
    if let photondb_proto::op::Identifiers::Uuids = edit.identifiers {
        let found = uuid(&value).and_then(|id| edit.catalog.database(DatabaseId(id)));
        let shown = || json::to_message_string(&value);
        return found.ok_or_else(|| fields.wrong(&format!("There is no database with UUID {}.", shown())));
    }
    let name = fields.name_in("db", "database name", &value)?;
    edit.catalog.database_named(&name).map_err(|error| fields.wrong(&error.message))
}

fn check_indexes(fields: &Fields<'_>, shown: Option<&Datum>) -> Result<(), QueryError> {
    let sorted = |value: &Datum| -> Option<Vec<String>> {
        let Datum::Array(names) = value else { return None };
        let mut names = names.iter().map(|name| text(&name)).collect::<Option<Vec<String>>>()?;
        names.sort();
        Some(names)
    };
    let given = fields.get("indexes")?;
    if sorted(&given).is_some() && sorted(&given) == shown.and_then(sorted) {
        return Ok(());
    }
    Err(fields.wrong("The `indexes` field is read-only and can't be used to create or drop indexes."))
}

fn one_of(fields: &Fields<'_>, field: &str, value: &Datum, words: [&str; 2]) -> Result<String, QueryError> {
    if let Some(word) = text(value).filter(|word| words.contains(&word.as_str())) {
        return Ok(word);
    }
    let (found, [one, other]) = (json::to_message_string(value), words);
    Err(fields.wrong(&format!("In `{field}`: Expected \"{one}\" or \"{other}\", got: {found}")))
}

fn write_acks(fields: &Fields<'_>, value: &Datum) -> Result<String, QueryError> {
    one_of(fields, "write_acks", value, ["single", "majority"])
}

fn durability(fields: &Fields<'_>, value: &Datum) -> Result<Durability, QueryError> {
    let word = one_of(fields, "durability", value, ["hard", "soft"])?;
    Ok(if word == "soft" { Durability::Soft } else { Durability::Hard })
}

/// What a row says is to be kept of the table's changes. Without the field, and where it is null, the server's settings hold.
fn change_log(fields: &Fields<'_>) -> Result<Option<KeptChanges>, QueryError> {
    let wrong = |why: &str| fields.wrong(&format!("In `change_log`: {why}"));
    let given = match fields.row.field("change_log") {
        None | Some(Datum::Null) => return Ok(None),
        Some(Datum::Object(given)) => given,
        Some(other) => {
            return Err(wrong(&format!("Expected an object, got {}", json::to_message_string(&other))));
        }
    };
    super::edit::check_keys(&given, |key| ["age", "bytes"].contains(&key))
        .map_err(|error| wrong(&error.message))?;
    let whole = |field: &str| match given.field(field) {
        None => Ok(None),
        // Numbers up to there are exact.
        Some(Datum::Number(number)) if number.fract() == 0.0 && (0.0..=9e15).contains(&number) => {
            Ok(Some(number as u64))
        }
        Some(other) => {
            let found = json::to_message_string(&other);
            Err(wrong(&format!("In `{field}`: Expected a whole number from 0 up, got {found}")))
        }
    };
    let bytes_max = whole("bytes")?.ok_or_else(|| wrong("Expected a field named `bytes`."))?;
    let age_secs = whole("age")?.unwrap_or(KeptChanges::AGE_SECS_DEFAULT);
    Ok(Some(KeptChanges { bytes_max, age_secs }))
}

/// How many virtual shards a row lists, each of which is on this server.
fn shards(edit: &Edit<'_>, fields: &Fields<'_>, value: &Datum) -> Result<u32, QueryError> {
    let wrong = |why: &str| fields.wrong(&format!("In `shards`: {why}"));
    let Datum::Array(shards) = value else {
        return Err(wrong(&format!("Expected an array, got {}", json::to_message_string(value))));
    };
    if shards.is_empty() {
        return Err(wrong("You must specify at least one shard."));
    }
    for shard in shards.iter() {
        check_shard(edit, &shard).map_err(|why| wrong(&why))?;
    }
    change::virtual_shards(u32::try_from(shards.len()).unwrap_or(u32::MAX))
}

fn check_shard(edit: &Edit<'_>, shard: &Datum) -> Result<(), String> {
    let Datum::Object(shard) = shard else {
        return Err(format!("Expected an object, got {}", json::to_message_string(shard)));
    };
    let here = row::server(edit.catalog, edit.identifiers);
    let known = |server: &Datum| match server {
        server if *server == here => Ok(()),
        Datum::String(name) => Err(format!("Server `{}` does not exist or is not connected.", name.as_str())),
        other => Err(format!("Expected a server name; got {}", json::to_message_string(other))),
    };
    let list = |field: &str| match shard.field(field) {
        Some(Datum::Array(servers)) => {
            let servers: Vec<Datum> = servers.iter().collect();
            servers.iter().try_for_each(known).map_err(|why| format!("In `{field}`: {why}"))?;
            match servers.len() {
                0 | 1 => Ok(servers.len()),
                _ => Err(format!(
                    "In `{field}`: Server `{}` is listed more than once.",
                    edit.catalog.server.name
                )),
            }
        }
        Some(other) => {
            Err(format!("In `{field}`: Expected an array, got {}", json::to_message_string(&other)))
        }
        None if field == "nonvoting_replicas" => Ok(0),
        None => Err(format!("Expected a field named `{field}`.")),
    };
    if list("replicas")? == 0 {
        return Err("You must specify at least one replica for each shard.".to_owned());
    }
    let nonvoting = list("nonvoting_replicas")?;
    let primary =
        shard.field("primary_replica").ok_or("Expected a field named `primary_replica`.".to_owned())?;
    known(&primary).map_err(|why| format!("In `primary_replica`: {why}"))?;
    if nonvoting > 0 {
        let name = &edit.catalog.server.name;
        return Err(format!("The primary replica (`{name}`) must not be a nonvoting replica."));
    }
    let fields = ["nonvoting_replicas", "primary_replica", "replicas"];
    super::edit::check_keys(shard, |key| fields.contains(&key)).map_err(|error| error.message)
}

// ---------------------------------------------------------------- the server

/// # Errors
/// The row's.
pub fn server(edit: &Edit<'_>) -> Result<Planned, QueryError> {
    let is_this = *edit.key == Datum::string(&edit.catalog.server_id());
    let illegal =
        |what: &str| failed(format!("It's illegal to {what} the `{SYSTEM_DATABASE}.server_config` table."));
    let Some(row) = edit.new else { return Err(illegal("delete rows from")) };
    if !is_this {
        return Err(illegal("insert new rows into"));
    }
    let fields = Fields { table: "server_config", row };
    fields.only(&["cache_size_mb", "id", "name", "tags"])?;
    let name = fields.name("name", "server name")?;
    let Datum::Array(given) = fields.get("tags")? else {
        return Err(fields.wrong("In `tags`: Expected an array."));
    };
    let mut tags = Vec::new();
    for tag in given.iter() {
        tags.push(fields.name_in("tags", "server tag", &tag)?);
    }
    tags.sort();
    tags.dedup();
    if fields.get("cache_size_mb")? != Datum::string("auto") {
        return Err(failed(
            "The cache gets its size when the server starts: set it with --cache-size.".to_owned(),
        ));
    }
    let server = Server { name, tags, ..edit.catalog.server.clone() };
    Ok(done(change::planned_server(&server)))
}

/// # Errors
/// The row's.
pub fn cluster(edit: &Edit<'_>) -> Result<Planned, QueryError> {
    let illegal =
        |what: &str| failed(format!("It's illegal to {what} the `{SYSTEM_DATABASE}.cluster_config` table."));
    let Some(row) = edit.new else { return Err(illegal("delete rows from")) };
    if *edit.key != Datum::string("heartbeat") {
        return Err(illegal("insert new rows into"));
    }
    let fields = Fields { table: "cluster_config", row };
    fields.only(&["heartbeat_timeout_secs", "id"])?;
    let heartbeat_timeout_secs = match fields.get("heartbeat_timeout_secs")? {
        Datum::Number(seconds) if seconds >= 2.0 => seconds,
        Datum::Number(_) => {
            return Err(failed("The heartbeat timeout must be at least two seconds".to_owned()));
        }
        other => {
            let found = json::to_message_string(&other);
            return Err(fields.wrong(&format!("In `heartbeat_timeout_secs`: Expected a number, got {found}")));
        }
    };
    let server = Server { heartbeat_timeout_secs, ..edit.catalog.server.clone() };
    Ok(done(change::planned_server(&server)))
}
