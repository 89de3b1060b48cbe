//! Databases, tables, and the rows chosen by key: DB, TABLE, GET, GET_ALL, BETWEEN.
//!
//! Names resolve through the catalog when the term is evaluated. `db(x).table(y)` asks once, for the table.

use std::cell::OnceCell;
use std::rc::Rc;

use photondb_proto::datum::{Datum, Text, key};
use photondb_proto::error::ErrorKind;
use photondb_proto::op::{
    CatalogOp, CatalogReply, Identifiers, IndexInfo, KeyBound, KeyRange, ReadMode, ScanOrder, TableInfo,
};
use photondb_proto::term::number;

use super::options::{Named, check_name};
use super::{Arity, Determinism, Eval, Invocation, SequenceLater, TermDef};
use crate::call::Argument;
use crate::check::Node;
use crate::eval::{self, Env};
use crate::failure::{Failure, Outcome, Place};
use crate::index;
use crate::run::{Run, wrong_reply};
use crate::stream::{Bounds, ScanIndex, Sequence, SequenceKind, Source, TableScan, ranges_of};
use crate::value::{SelectedRow, TableHandle, Value, wrong_type};

const fn reading(
    name: &'static str,
    number: u32,
    arity: Arity,
    options: &'static [&'static str],
    evaluate: SequenceLater,
) -> TermDef {
    TermDef { name, number, arity, options, determinism: Determinism::Never, eval: Eval::Strict(evaluate) }
}

pub static TERMS: &[TermDef] = &[
    reading("DB", number::DB, Arity::exactly(1), &[], |run, invocation| Box::pin(database(run, invocation))),
    TermDef {
        name: "TABLE",
        number: number::TABLE,
        arity: Arity::between(1, 2),
        options: &["identifier_format", "read_mode", "use_outdated"],
        determinism: Determinism::Never,
        eval: Eval::Control { now: None, later: |run, node, env| Box::pin(table(run, node, env)) },
    },
    reading("GET", number::GET, Arity::exactly(2), &[], |_, invocation| {
        Box::pin(async move { get(&invocation) })
    }),
    reading("GET_ALL", number::GET_ALL, Arity::at_least(1), &["index"], |run, invocation| {
        Box::pin(get_all(run, invocation))
    }),
    reading("BETWEEN", number::BETWEEN, Arity::exactly(3), BETWEEN_OPTIONS, |_, invocation| {
        Box::pin(async move { between(&invocation, NullBounds::Refused) })
    }),
    reading(
        "BETWEEN_DEPRECATED",
        number::BETWEEN_DEPRECATED,
        Arity::exactly(3),
        BETWEEN_OPTIONS,
        |_, invocation| Box::pin(async move { between(&invocation, NullBounds::Unbounded) }),
    ),
];

const BETWEEN_OPTIONS: &[&str] = &["index", "left_bound", "right_bound"];

async fn database(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let name = invocation.string(0)?;
    invocation.blame(0, check_name(Named::Database, &name))?;
    match run.catalog(CatalogOp::Database { name: name.as_str().into() }).await? {
        CatalogReply::Database(info) => Ok(Value::Database(Rc::new(info))),
        CatalogReply::Table(_)
        | CatalogReply::Names(_)
        | CatalogReply::Indexes(_)
        | CatalogReply::Value(_) => Err(wrong_reply()),
    }
}

async fn table(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<Value> {
    let mut names = Vec::with_capacity(2);
    for child in &node.arguments {
        match child.def.number {
            number::ARGS => {
                names.extend(
                    eval::spliced(run, child, env).await?.into_iter().map(|name| (name, child.place.clone())),
                );
            }
            // The table is asked for with its database's name; the database need not be asked for by itself.
            number::DB if child.arguments[0].def.number != number::ARGS => {
                let name = eval::datum(run, &child.arguments[0], env).await?;
                let Datum::String(text) = &name else {
                    return Err(wrong_type("STRING", &name).at(&child.arguments[0].place));
                };
                check_name(Named::Database, text).map_err(|failure| failure.at(&child.place))?;
                names.push((name, child.place.clone()));
            }
            _ => match eval::eval(run, child, env).await? {
                Value::Database(info) if node.arguments.len() == 2 => {
                    names.push((Datum::string(&info.name), child.place.clone()));
                }
                value => {
                    let value = eval::loaded(run, value).await?;
                    names.push((
                        value.into_datum().map_err(|failure| failure.at(&child.place))?,
                        child.place.clone(),
                    ));
                }
            },
        }
    }
    let (mode, identifiers) = options(run, node, env).await?;
    let (database, name) = match names.as_slice() {
        // `db(x).table()`: the database stands where the name should.
        [(_, place)] if node.arguments[0].def.number == number::DB => {
            let value = eval::eval(run, &node.arguments[0], env).await?;
            return Err(value.wrong_kind("DATUM").at(place));
        }
        [name] => (None, name),
        [database, name] => (Some(database), name),
        _ => {
            let message = crate::check::arity_message(node.def.arity, names.len()).unwrap_or_default();
            return Err(Failure::logic(message));
        }
    };
    let (Datum::String(text), place) = name else {
        return Err(wrong_type("STRING", &name.0).at(&name.1));
    };
    check_name(Named::Table, text).map_err(|failure| failure.at(place))?;
    let database_name = match database {
        Some((Datum::String(text), _)) => text.as_str().to_owned(),
        Some((other, place)) => return Err(wrong_type("STRING", other).at(place)),
        None => run.default_database.borrow().clone()?.to_string(),
    };
    let op = CatalogOp::Table { database: database_name, table: text.as_str().into(), identifiers };
    match run.catalog(op).await {
        Ok(CatalogReply::Table(info)) => Ok(Value::Table(TableHandle { info: Rc::new(info), mode })),
        Ok(
            CatalogReply::Database(_)
            | CatalogReply::Names(_)
            | CatalogReply::Indexes(_)
            | CatalogReply::Value(_),
        ) => Err(wrong_reply()),
        Err(failure) => Err(match database {
            Some((_, place)) if failure.message.starts_with("Database") => failure.at(place),
            Some(_) | None => failure,
        }),
    }
}

async fn options(run: &Run, node: &Rc<Node>, env: &Env) -> Outcome<(ReadMode, Identifiers)> {
    let mut options: Vec<(&'static str, Argument)> = Vec::new();
    for (name, child) in &node.options {
        options
            .push((name, Argument { value: eval::eval(run, child, env).await?, place: child.place.clone() }));
    }
    for (name, argument) in run.globals.borrow().iter() {
        if node.def.options.contains(name) && !options.iter().any(|(own, _)| own == name) {
            options.push((name, argument.clone()));
        }
    }
    let (mut mode, mut identifiers) = (ReadMode::default(), Identifiers::default());
    for (name, argument) in options {
        let datum = argument.value.into_datum().map_err(|failure| failure.at(&argument.place))?;
        match name {
            "use_outdated" => {
                return Err(Failure::logic(
                    "The `use_outdated` optarg is no longer supported.  Use the `read_mode` optarg instead.",
                ));
            }
            "read_mode" => mode = mode_of(&datum).map_err(|failure| failure.at(&argument.place))?,
            _ => identifiers = identifiers_of(&datum).map_err(|failure| failure.at(&argument.place))?,
        }
    }
    Ok((mode, identifiers))
}

fn text_of(datum: &Datum) -> Outcome<Text> {
    match datum {
        Datum::String(text) => Ok(text.clone()),
        other => Err(wrong_type("STRING", other)),
    }
}

fn mode_of(datum: &Datum) -> Outcome<ReadMode> {
    match text_of(datum)?.as_str() {
        "single" | "_debug_direct" => Ok(ReadMode::Single),
        "majority" => Ok(ReadMode::Majority),
        "outdated" => Ok(ReadMode::Outdated),
        other => Err(Failure::logic(format!(
            "Read mode `{other}` unrecognized (options are \"majority\", \"single\", and \"outdated\")."
        ))),
    }
}

fn identifiers_of(datum: &Datum) -> Outcome<Identifiers> {
    match text_of(datum)?.as_str() {
        "name" => Ok(Identifiers::Names),
        "uuid" => Ok(Identifiers::Uuids),
        other => Err(Failure::logic(format!(
            "Identifier format `{other}` unrecognized (options are \"name\" and \"uuid\")."
        ))),
    }
}

/// The table that an argument is.
pub fn table_at(invocation: &Invocation, index: usize) -> Outcome<TableHandle> {
    match &invocation.call.arguments[index].value {
        Value::Table(table) => Ok(table.clone()),
        other => invocation.blame(index, Err(other.wrong_kind("TABLE"))),
    }
}

fn get(invocation: &Invocation) -> Outcome<Value> {
    let table = table_at(invocation, 0)?;
    let key_datum = invocation.datum(1)?;
    let key = key::primary(&key_datum)?;
    let document = OnceCell::new();
    Ok(Value::Row(Rc::new(SelectedRow { table, key, key_datum, document, first_of: None, missing: None })))
}

/// The index that the option of that name asks for; `None` without one.
///
/// # Errors
/// There is no such index, or it does not cover the table yet.
pub fn index_option(invocation: &Invocation, table: &TableHandle) -> Outcome<Option<ScanIndex>> {
    let Some(index) = invocation.call.option("index") else { return Ok(None) };
    let value = match &index.value {
        Value::Ordering(ordering) => &ordering.value,
        value => value,
    };
    let name = value.clone().into_datum().and_then(|datum| text_of(&datum));
    let name = name.map_err(|failure| failure.at(&index.place))?;
    if name.as_str() == table.info.primary_key {
        return Ok(Some(ScanIndex::Primary));
    }
    Ok(Some(ScanIndex::Secondary(Rc::new(index_named(table, name.as_str())?.clone()))))
}

pub fn index_not_found(table: &TableInfo, name: &str) -> Failure {
    let text = format!("Index `{name}` was not found on table `{}.{}`.", table.database, table.name);
    Failure::new(ErrorKind::OpFailed, text)
}

/// # Errors
/// There is no such index, or it does not cover the table yet.
fn index_named<'a>(table: &'a TableHandle, name: &str) -> Outcome<&'a IndexInfo> {
    let (database, table_name) = (&table.info.database, &table.info.name);
    let found = table.info.indexes.iter().find(|index| index.name == name);
    let Some(found) = found else {
        return Err(index_not_found(&table.info, name));
    };
    if !found.ready {
        let text = format!(
            "Index `{name}` on table `{database}.{table_name}` was accessed before its construction was finished."
        );
        return Err(Failure::new(ErrorKind::OpFailed, text));
    }
    Ok(found)
}

/// [`index_option`] of terms that need an index in the order of its values.
pub fn ordered_index_option(invocation: &Invocation, table: &TableHandle) -> Outcome<Option<ScanIndex>> {
    let index = index_option(invocation, table)?;
    match &index {
        Some(ScanIndex::Secondary(info)) if info.geo => Err(geo_only(info)),
        Some(ScanIndex::Primary | ScanIndex::Secondary(_)) | None => Ok(index),
    }
}

fn geo_only(index: &IndexInfo) -> Failure {
    Failure::logic(format!(
        "Index `{}` is a geospatial index.  Only get_nearest and get_intersecting can use a geospatial index.",
        index.name
    ))
}

async fn get_all(_: &Run, invocation: Invocation) -> Outcome<Value> {
    let table = table_at(&invocation, 0)?;
    let index = index_option(&invocation, &table)?;
    let mut keys = Vec::with_capacity(invocation.count().saturating_sub(1));
    for place in 1..invocation.count() {
        let datum = invocation.datum(place)?;
        if datum.is_null() {
            return invocation.blame(place, Err(Failure::missing("Keys cannot be NULL.")));
        }
        if datum.type_name() == "PTYPE<GEOMETRY>" {
            return invocation.blame(place, Err(no_geo_get_all()));
        }
        keys.push(datum);
    }
    let source = match index {
        Some(ScanIndex::Secondary(info)) if info.geo => return Err(geo_only(&info)),
        Some(index @ ScanIndex::Secondary(_)) => {
            let ranges = keys.iter().map(index::range_of_value).collect::<Outcome<Vec<_>>>()?;
            let ranges = ranges_of(ranges);
            Source::Scan(TableScan { ranges, ..TableScan::new(table.clone(), index) })
        }
        Some(ScanIndex::Primary) | None => {
            let mut keys = keys.iter().map(key::primary).collect::<Result<Vec<_>, _>>()?;
            // Rows come in the order of their keys; a key given twice gives its row twice.
            keys.sort();
            Source::Keys { table: table.clone(), keys: Rc::new(keys) }
        }
    };
    let sequence = Sequence { source, stages: Vec::new(), table: Some(table), kind: SequenceKind::Selection };
    Ok(Value::Sequence(Rc::new(sequence)))
}

fn no_geo_get_all() -> Failure {
    Failure::logic("Cannot use a geospatial index with `get_all`. Use `get_intersecting` instead.")
}

// ---------------------------------------------------------------- between

#[derive(Clone, Copy, PartialEq, Eq)]
enum NullBounds {
    Refused,
    Unbounded,
}

/// Whether the bound option of that name says `open`.
pub fn is_open(invocation: &Invocation, name: &str, otherwise: bool) -> Outcome<bool> {
    let Some(argument) = invocation.call.option(name) else { return Ok(otherwise) };
    let text = argument.value.clone().into_datum().and_then(|datum| text_of(&datum));
    match text.map_err(|failure| failure.at(&argument.place))?.as_str() {
        "open" => Ok(true),
        "closed" => Ok(false),
        other => {
            Err(Failure::logic(format!("Expected `open` or `closed` for optarg `{name}` (got `{other}`).")))
        }
    }
}

/// The slice of a table that an argument is, or is all of.
pub fn slice_at(invocation: &Invocation, index: usize) -> Outcome<Sequence> {
    match &invocation.call.arguments[index].value {
        Value::Table(table) => {
            let mut slice = Sequence::of_table(table.clone());
            slice.kind = SequenceKind::Slice;
            Ok(slice)
        }
        Value::Sequence(sequence) if sequence.kind == SequenceKind::Slice => Ok((**sequence).clone()),
        other => invocation.blame(index, Err(other.wrong_kind("TABLE_SLICE"))),
    }
}

/// Where the table stands that a term is applied to: what cannot be done with a slice is blamed there.
pub fn table_place(invocation: &Invocation) -> &Place {
    let mut node = &invocation.node;
    while node.def.number != number::TABLE
        && let Some(receiver) = node.arguments.first()
    {
        node = receiver;
    }
    &node.place
}

fn between(invocation: &Invocation, nulls: NullBounds) -> Outcome<Value> {
    let mut slice = slice_at(invocation, 0)?;
    let left_open = is_open(invocation, "left_bound", false)?;
    let right_open = is_open(invocation, "right_bound", true)?;
    let left = bound_datum(invocation, 1, nulls, Datum::MinVal)?;
    let right = bound_datum(invocation, 2, nulls, Datum::MaxVal)?;
    let Source::Scan(scan) = &mut slice.source else {
        return Err(Failure::internal("a slice is a scan"));
    };
    let index = ordered_index_option(invocation, &scan.table)?;
    if scan.bounds.is_some() {
        let failure = Failure::logic("Cannot perform multiple BETWEENs on the same table.");
        return Err(failure.at(table_place(invocation)));
    }
    if let Some(index) = index
        && scan.index != index
    {
        if scan.order != ScanOrder::Any {
            let (wanted, has) = (index.name(&scan.table), scan.index.name(&scan.table));
            let text = format!("Cannot call BETWEEN on index `{wanted}` after ordering on index `{has}`.");
            return Err(Failure::logic(text).at(table_place(invocation)));
        }
        scan.index = index;
    }
    let range = match &scan.index {
        ScanIndex::Primary => primary_range(&left, left_open, &right, right_open)?,
        ScanIndex::Secondary(_) => index::range_between(&left, left_open, &right, right_open)?,
    };
    scan.ranges = ranges_of([range]);
    scan.bounds = Some(Rc::new(Bounds { left, right, left_open, right_open }));
    Ok(Value::Sequence(Rc::new(slice)))
}

fn primary_range(left: &Datum, left_open: bool, right: &Datum, right_open: bool) -> Outcome<KeyRange> {
    let bound = |datum: &Datum, open: bool| -> Outcome<KeyBound> {
        let key = key::bound(datum)?;
        Ok(if open { KeyBound::Excluded(key) } else { KeyBound::Included(key) })
    };
    Ok(KeyRange {
        start: if matches!(left, Datum::MinVal) { KeyBound::Unbounded } else { bound(left, left_open)? },
        end: if matches!(right, Datum::MaxVal) { KeyBound::Unbounded } else { bound(right, right_open)? },
    })
}

fn bound_datum(invocation: &Invocation, index: usize, nulls: NullBounds, unbounded: Datum) -> Outcome<Datum> {
    match (invocation.datum(index)?, nulls) {
        (Datum::Null, NullBounds::Unbounded) => Ok(unbounded),
        (Datum::Null, NullBounds::Refused) => {
            let text = "Cannot use `null` in BETWEEN, use `r.minval` or `r.maxval` to denote unboundedness.";
            invocation.blame(index, Err(Failure::logic(text)))
        }
        (datum, _) => Ok(datum),
    }
}
