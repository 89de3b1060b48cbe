//! INDEX_CREATE, INDEX_DROP, INDEX_RENAME, INDEX_LIST, INDEX_STATUS, INDEX_WAIT.
//!
//! The catalog keeps indexes and says how far they are; what their functions mean and how they look is known here.

use std::rc::Rc;

use photondb_proto::datum::{Datum, ObjectBuilder, Slice};
use photondb_proto::error::ErrorKind;
use photondb_proto::op::{CatalogOp, CatalogReply, IndexDefinition, IndexOp, IndexState, TableId, TableInfo};
use photondb_proto::term::number;

use super::admin::{strict, table_argument, value};
use super::table::index_not_found;
use super::{Arity, Determinism, Invocation, TermDef};
use crate::blob::{self, Numbers, StoredIndex, count_terms};
use crate::call::Call;
use crate::failure::{Failure, Outcome};
use crate::function::{Function, Meaning};
use crate::run::{Run, wrong_reply};
use crate::value::Value;

pub static TERMS: &[TermDef] = &[
    strict(
        "INDEX_CREATE",
        number::INDEX_CREATE,
        Arity::between(2, 3),
        &["geo", "multi"],
        |run, invocation| Box::pin(create(run, invocation)),
    ),
    strict("INDEX_DROP", number::INDEX_DROP, Arity::exactly(2), &[], |run, invocation| {
        Box::pin(async move {
            let name = invocation.string(1)?.as_str().to_owned();
            change(run, &invocation, IndexOp::Drop { name }).await
        })
    }),
    strict("INDEX_RENAME", number::INDEX_RENAME, Arity::exactly(3), &["overwrite"], |run, invocation| {
        Box::pin(async move {
            let (from, to) = (free_name(&invocation, 1)?, free_name(&invocation, 2)?);
            let overwrite = flag(&invocation, "overwrite")?.unwrap_or(false);
            change(run, &invocation, IndexOp::Rename { from, to, overwrite }).await
        })
    }),
    strict("INDEX_LIST", number::INDEX_LIST, Arity::exactly(1), &[], |_, invocation| {
        Box::pin(async move {
            let indexes = table_argument(&invocation)?.info.indexes.iter();
            Ok(Datum::array(indexes.map(|index| Datum::string(&index.name)).collect()).into())
        })
    }),
    strict("INDEX_STATUS", number::INDEX_STATUS, Arity::at_least(1), &[], |run, invocation| {
        Box::pin(async move {
            let names = names(&invocation)?;
            states(run, &invocation, IndexOp::Status { names }).await
        })
    }),
    strict("INDEX_WAIT", number::INDEX_WAIT, Arity::at_least(1), &[], |run, invocation| {
        Box::pin(async move {
            let names = names(&invocation)?;
            states(run, &invocation, IndexOp::Wait { names }).await
        })
    }),
];

/// A name that is not that of the primary key.
fn free_name(call: &Call, index: usize) -> Outcome<String> {
    let primary_key = &table_argument(call)?.info.primary_key;
    let name = call.string(index)?;
    if name.as_str() == primary_key {
        return Err(Failure::logic(format!(
            "Index name conflict: `{primary_key}` is the name of the primary key."
        )));
    }
    Ok(name.as_str().to_owned())
}

fn flag(call: &Call, name: &str) -> Outcome<Option<bool>> {
    Ok(call.option_datum(name)?.map(|datum| datum.is_truthy()))
}

fn names(call: &Call) -> Outcome<Vec<String>> {
    table_argument(call)?;
    (1..call.count()).map(|index| Ok(call.string(index)?.as_str().to_owned())).collect()
}

async fn change(run: &Run, invocation: &Invocation, op: IndexOp) -> Outcome<Value> {
    let info = &table_argument(invocation)?.info;
    if info.id.as_system_table().is_some() {
        return Err(Failure::new(ErrorKind::OpFailed, refused_on_system_table(info, &op)));
    }
    Ok(value(run, CatalogOp::Index { table: info.id, op }).await?.into())
}

/// Tables of the system database have no indexes and get none.
fn refused_on_system_table(info: &TableInfo, op: &IndexOp) -> String {
    let TableInfo { database, name: table, .. } = info;
    match op {
        IndexOp::Drop { name } => format!("Index `{name}` does not exist on table `{database}.{table}`."),
        IndexOp::Rename { from, to, .. } => {
            format!(
                "Index `{from}` does not exist or index `{to}` already exists on table `{database}.{table}`."
            )
        }
        IndexOp::Create(_) | IndexOp::Status { .. } | IndexOp::Wait { .. } | IndexOp::Ready { .. } => {
            format!(
                "Database `{database}` is special; you can't create secondary indexes on the tables in it."
            )
        }
    }
}

async fn create(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let name = free_name(&invocation, 1)?;
    let (mut index, numbers) = stored(&invocation, &name)?;
    index.multi = flag(&invocation, "multi")?.unwrap_or(index.multi);
    index.geo = flag(&invocation, "geo")?.unwrap_or(index.geo);
    let function = index.to_bytes(numbers)?;
    // What cannot be read back must not be kept.
    StoredIndex::from_bytes(&function)?;
    let definition = IndexDefinition { name, function, multi: index.multi, geo: index.geo };
    change(run, &invocation, IndexOp::Create(definition)).await
}

/// The function that the third argument is, or that takes the field of the index's name.
fn stored(invocation: &Invocation, name: &str) -> Outcome<(StoredIndex, Numbers)> {
    let plain = |function| StoredIndex { function, multi: false, geo: false };
    let Some(argument) = invocation.arguments.get(2) else {
        return Ok((plain(blob::field_function(name)?), Numbers::NONE));
    };
    if let Some(Datum::Binary(bytes)) = argument.value.as_datum() {
        return Ok((invocation.blame(2, StoredIndex::from_bytes(bytes))?, Numbers::NONE));
    }
    let function = Function::from_value(&argument.value, Meaning::Nothing, &argument.place)?;
    if function.determinism() != Determinism::Always {
        let text = "Could not prove function deterministic.  Index functions must be deterministic.";
        return Err(Failure::logic(text).at(function.body_place()));
    }
    // This term, those before the function, the function, the array of its parameters, these.
    let before: u32 = invocation.node.arguments.iter().take(2).map(|node| count_terms(&node.to_term())).sum();
    let parameters = function.arity().unwrap_or(0) as u32;
    Ok((plain(function), Numbers::behind(1 + before + 1 + 1 + parameters)))
}

async fn states(run: &Run, invocation: &Invocation, op: IndexOp) -> Outcome<Value> {
    let info = &table_argument(invocation)?.info;
    if info.id.as_system_table().is_some() {
        let (IndexOp::Status { names } | IndexOp::Wait { names }) = &op else { return Err(wrong_reply()) };
        return match names.first() {
            None => Ok(Datum::array(Vec::new()).into()),
            Some(name) => Err(index_not_found(info, name)),
        };
    }
    let states = asked(run, info.id, op).await?;
    Ok(Datum::array(states.iter().map(row).collect::<Outcome<Vec<_>>>()?).into())
}

async fn asked(run: &Run, table: TableId, op: IndexOp) -> Outcome<Vec<IndexState>> {
    match run.catalog(CatalogOp::Index { table, op }).await? {
        CatalogReply::Indexes(states) => Ok(states),
        CatalogReply::Table(_)
        | CatalogReply::Database(_)
        | CatalogReply::Names(_)
        | CatalogReply::Value(_) => Err(wrong_reply()),
    }
}

/// The function of an index.
///
/// # Errors
/// There is no such index any more.
pub async fn function(run: &Run, table: TableId, name: &str) -> Outcome<Function> {
    let states = asked(run, table, IndexOp::Status { names: vec![name.to_owned()] }).await?;
    let state = states.first().ok_or_else(wrong_reply)?;
    Ok(StoredIndex::from_bytes(&state.definition.function)?.function)
}

fn row(state: &IndexState) -> Outcome<Datum> {
    let IndexDefinition { name, function, multi, geo } = &state.definition;
    let mut row = ObjectBuilder::default();
    row.set("index", Datum::string(name));
    row.set("ready", Datum::Bool(state.ready));
    row.set("outdated", Datum::Bool(false));
    row.set("multi", Datum::Bool(*multi));
    row.set("geo", Datum::Bool(*geo));
    row.set("function", Datum::Binary(Slice::new(Rc::from(function.as_slice()))));
    row.set("query", Datum::String(StoredIndex::from_bytes(function)?.describe(name).into()));
    if !state.ready {
        row.set("progress", Datum::Number(state.progress));
    }
    Ok(Datum::Object(row.build()))
}
