//! INFO: what a value is, as an object.

use photondb_proto::datum::{Datum, ObjectBuilder, json};
use photondb_proto::op::ScanOrder;

use super::Invocation;
use super::admin::document_count_estimates;
use crate::eval;
use crate::failure::Outcome;
use crate::run::Run;
use crate::source;
use crate::stream::{SequenceKind, Source, TableScan};
use crate::value::{TableHandle, Value};

pub async fn info(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let value = match invocation.call.arguments[0].value.clone() {
        row @ Value::Row(_) => {
            eval::loaded(run, row.clone()).await?;
            row
        }
        value => value,
    };
    let mut info = ObjectBuilder::default();
    info.set("type", Datum::string(value.type_name()));
    match &value {
        Value::Datum(datum) => {
            if let Datum::Binary(bytes) = datum {
                info.set("count", Datum::Number(bytes.len() as f64));
            }
            info.set("value", Datum::String(json::to_pretty_string(datum).into()));
        }
        Value::Database(database) => {
            info.set("name", Datum::string(&database.name));
            info.set("id", Datum::String(database.id.to_string().into()));
        }
        Value::Table(table) => return Ok(Value::Datum(table_info(run, table).await?)),
        Value::Sequence(sequence) => {
            if let (SequenceKind::Slice, Source::Scan(scan)) = (sequence.kind, &sequence.source) {
                slice_info(&mut info, scan);
            }
            if let Some(table) = &sequence.table {
                info.set("table", table_info(run, table).await?);
            }
        }
        Value::Row(row) => info.set("table", table_info(run, &row.table).await?),
        Value::Function(function) => {
            info.set("source_code", Datum::String(source::of_function(function).into()));
        }
        Value::Grouped(_) | Value::Ordering(_) => {}
    }
    Ok(Value::Datum(Datum::Object(info.build())))
}

async fn table_info(run: &Run, table: &TableHandle) -> Outcome<Datum> {
    let info = &table.info;
    let id = match info.id.as_system_table() {
        Some(_) => Datum::Null,
        None => Datum::String(info.id.to_string().into()),
    };
    Ok(Datum::object([
        ("type", Datum::string("TABLE")),
        ("name", Datum::string(&info.name)),
        ("id", id),
        ("primary_key", Datum::string(&info.primary_key)),
        ("doc_count_estimates", document_count_estimates(run, info).await?),
        ("indexes", Datum::array(info.indexes.iter().map(|index| Datum::string(&index.name)).collect())),
        (
            "db",
            Datum::object([
                ("type", Datum::string("DB")),
                ("name", Datum::string(&info.database)),
                ("id", Datum::String(info.database_id.to_string().into())),
            ]),
        ),
    ]))
}

fn slice_info(info: &mut ObjectBuilder, scan: &TableScan) {
    info.set("index", Datum::string(scan.index.name(&scan.table)));
    let sorting = match scan.order {
        ScanOrder::Any | ScanOrder::Keyed => "UNORDERED",
        ScanOrder::Ascending => "ASCENDING",
        ScanOrder::Descending => "DESCENDING",
    };
    info.set("sorting", Datum::string(sorting));
    let (mut left, mut right) = (("unbounded", None), ("unbounded", None));
    if let Some(bounds) = &scan.bounds {
        let side = |datum: &Datum, open: bool| match datum {
            Datum::MinVal | Datum::MaxVal => ("unbounded", None),
            datum => (if open { "open" } else { "closed" }, Some(datum.clone())),
        };
        left = side(&bounds.left, bounds.left_open);
        right = side(&bounds.right, bounds.right_open);
    }
    info.set("left_bound_type", Datum::string(left.0));
    info.set("right_bound_type", Datum::string(right.0));
    info.set("left_bound", left.1.unwrap_or(Datum::Null));
    info.set("right_bound", right.1.unwrap_or(Datum::Null));
}
