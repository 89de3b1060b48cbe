//! How the catalog shows itself: rows of `table_config`, `table_status` and `db_config`.

use photondb_proto::datum::{Datum, ObjectBuilder};
use photondb_proto::op::{Durability, Identifiers, uuid_text};
use photondb_query::blob::describe_write_hook;

use super::{Catalog, Database, Table};

/// The row of `db_config`.
pub fn database_config(database: &Database) -> Datum {
    Datum::object([
        ("id", Datum::string(&uuid_text(&database.id.0))),
        ("name", Datum::string(&database.name)),
    ])
}

/// The row of `table_config`.
pub fn table_config(catalog: &Catalog, table: &Table, identifiers: Identifiers) -> Datum {
    let server = server(catalog, identifiers);
    let shard = Datum::object([
        ("nonvoting_replicas", Datum::array(Vec::new())),
        ("primary_replica", server.clone()),
        ("replicas", Datum::array(vec![server])),
    ]);
    let durability = match table.durability {
        Durability::Hard => "hard",
        Durability::Soft => "soft",
    };
    let indexes = table.indexes.iter().map(|index| Datum::string(&index.definition.name));
    // Rows look as RethinkDB's unless it was set.
    let kept = table.change_log.map(|kept| ("change_log", kept.datum()));
    let fields = [
        ("db", database(catalog, table, identifiers)),
        ("durability", Datum::string(durability)),
        ("id", Datum::string(&uuid_text(&table.id.0))),
        ("indexes", Datum::array(indexes.collect())),
        ("name", Datum::string(&table.name)),
        ("primary_key", Datum::string(&table.primary_key)),
        ("shards", Datum::array(vec![shard; table.virtual_shards as usize])),
        ("write_acks", Datum::string(&table.write_acks)),
        ("write_hook", write_hook(table)),
    ];
    let mut row = ObjectBuilder::default();
    kept.into_iter().chain(fields).for_each(|(name, value)| row.set(name, value));
    Datum::Object(row.build())
}

/// What `get_write_hook` answers.
pub fn write_hook(table: &Table) -> Datum {
    table.write_hook.as_deref().map_or(Datum::Null, describe_write_hook)
}

/// The row of `table_status`: one node is ready once it runs.
pub fn table_status(catalog: &Catalog, table: &Table, identifiers: Identifiers) -> Datum {
    let server = server(catalog, identifiers);
    let replica = Datum::object([("server", server.clone()), ("state", Datum::string("ready"))]);
    let shard = Datum::object([
        ("primary_replicas", Datum::array(vec![server.clone()])),
        ("replicas", Datum::array(vec![replica])),
    ]);
    let status = Datum::object([
        ("all_replicas_ready", Datum::Bool(true)),
        ("ready_for_outdated_reads", Datum::Bool(true)),
        ("ready_for_reads", Datum::Bool(true)),
        ("ready_for_writes", Datum::Bool(true)),
    ]);
    Datum::object([
        ("db", database(catalog, table, identifiers)),
        ("id", Datum::string(&uuid_text(&table.id.0))),
        ("name", Datum::string(&table.name)),
        ("raft_leader", server),
        ("shards", Datum::array(vec![shard; table.virtual_shards as usize])),
        ("status", status),
    ])
}

/// How rows name a table's database.
pub fn database(catalog: &Catalog, table: &Table, identifiers: Identifiers) -> Datum {
    match (catalog.database(table.database), identifiers) {
        (Some(database), Identifiers::Names) => Datum::string(&database.name),
        (Some(_), Identifiers::Uuids) | (None, _) => Datum::string(&uuid_text(&table.database.0)),
    }
}

/// How rows name this server.
pub fn server(catalog: &Catalog, identifiers: Identifiers) -> Datum {
    match identifiers {
        Identifiers::Names => Datum::string(&catalog.server.name),
        Identifiers::Uuids => Datum::string(&catalog.server_id()),
    }
}

/// How rows name a table.
pub fn table_name(table: &Table, identifiers: Identifiers) -> Datum {
    match identifiers {
        Identifiers::Names => Datum::string(&table.name),
        Identifiers::Uuids => Datum::string(&uuid_text(&table.id.0)),
    }
}
