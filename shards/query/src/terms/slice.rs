//! Parts of sequences by position: LIMIT, SKIP, SLICE, NTH; SLICE also of strings and binaries.

use std::cell::OnceCell;
use std::rc::Rc;

use photondb_proto::datum::{Datum, Slice, key};
use photondb_proto::term::number;

use super::sequence::{finished, sequence, with_options};
use super::table::is_open;
use super::{Arity, Groups, Invocation, TermDef};
use crate::cursor::Cursor;
use crate::eval::{Now, Stop};
use crate::failure::{Failure, Outcome};
use crate::run::Run;
use crate::stream::{Sequence, Stage, sequence_of};
use crate::value::{SelectedRow, Value};

pub static TERMS: &[TermDef] = &[
    sequence("LIMIT", number::LIMIT, Arity::exactly(2), Groups::Each, limit_now, |run, invocation| {
        Box::pin(async move {
            let sequence = invocation.sequence(0)?;
            let count = limit_count(&invocation)?;
            finished(run, sequence.selecting(Stage::Limit(count))).await
        })
    }),
    sequence("SKIP", number::SKIP, Arity::exactly(2), Groups::Each, skip_now, |run, invocation| {
        Box::pin(skip(run, invocation))
    }),
    with_options(
        sequence("SLICE", number::SLICE, Arity::between(2, 3), Groups::Each, slice_now, |run, invocation| {
            Box::pin(slice(run, invocation))
        }),
        &["left_bound", "right_bound"],
    ),
    sequence("NTH", number::NTH, Arity::exactly(2), Groups::Each, nth_now, |run, invocation| {
        Box::pin(async move { nth_of(run, &invocation).await })
    }),
];

// ---------------------------------------------------------------- limit, skip

fn limit_count(invocation: &Invocation) -> Outcome<u64> {
    let count = invocation.small_integer(1)?;
    u64::try_from(count).map_err(|_| {
        let text = format!("LIMIT takes a non-negative argument (got {count})");
        Failure::logic(text).at(&invocation.call.arguments[1].place)
    })
}

fn limit_now(_: &Run, invocation: &Invocation) -> Now<Value> {
    let Value::Datum(Datum::Array(array)) = &invocation.call.arguments[0].value else {
        return Err(Stop::Later);
    };
    let count = usize::try_from(limit_count(invocation)?).unwrap_or(usize::MAX);
    Ok(Value::Datum(Datum::array(array.iter().take(count).collect())))
}

fn skip_now(_: &Run, invocation: &Invocation) -> Now<Value> {
    let Value::Datum(Datum::Array(array)) = &invocation.call.arguments[0].value else {
        return Err(Stop::Later);
    };
    let range = positions(array.len(), invocation.integer(1)?, None, Openness { left: false, right: false });
    Ok(Value::Datum(Datum::array(array.iter().skip(range.0).take(range.1 - range.0).collect())))
}

async fn skip(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let sequence = invocation.sequence(0)?;
    let count = invocation.integer(1)?;
    let Ok(count) = u64::try_from(count) else {
        return Err(Failure::logic("Cannot use a negative left index on a stream."));
    };
    finished(run, sequence.selecting(Stage::Skip(count))).await
}

// ---------------------------------------------------------------- slice

#[derive(Clone, Copy)]
struct Openness {
    left: bool,
    right: bool,
}

/// From `left` until before `right` among `size` positions; negative ones count from the end, no right one is the end.
fn positions(size: usize, left: i64, right: Option<i64>, open: Openness) -> (usize, usize) {
    let real = |index: i64| if index < 0 { index + size as i64 } else { index };
    let start = real(left) + i64::from(open.left);
    let end = match right {
        None => size as i64,
        Some(right) if real(right) < 0 => 0,
        Some(right) => real(right) + i64::from(!open.right),
    };
    let end = end.clamp(0, size as i64) as usize;
    (start.clamp(0, end as i64) as usize, end)
}

/// The bounds SLICE is given: (left, right, openness).
fn bounds(invocation: &Invocation) -> Outcome<(i64, Option<i64>, Openness)> {
    let left = invocation.integer(1)?;
    let right = if invocation.count() > 2 { Some(invocation.integer(2)?) } else { None };
    let open = Openness {
        left: is_open(invocation, "left_bound", false)?,
        right: is_open(invocation, "right_bound", true)?,
    };
    Ok((left, right, open))
}

fn slice_now(_: &Run, invocation: &Invocation) -> Now<Value> {
    let Value::Datum(datum) = &invocation.call.arguments[0].value else { return Err(Stop::Later) };
    let (left, right, open) = bounds(invocation)?;
    let cut = |size: usize| positions(size, left, right, open);
    Ok(Value::Datum(match datum {
        Datum::Array(array) => {
            let (start, end) = cut(array.len());
            Datum::array(array.iter().skip(start).take(end - start).collect())
        }
        Datum::String(text) => {
            let (start, end) = cut(text.chars().count());
            Datum::String(text.chars().skip(start).take(end - start).collect::<String>().into())
        }
        Datum::Binary(bytes) => {
            let (start, end) = cut(bytes.len());
            Datum::Binary(Slice::from(&bytes[start..end]))
        }
        other => {
            let text = format!("Expected ARRAY, BINARY, or STRING, but found {}.", other.type_name());
            let failure = if other.is_null() { Failure::missing(text) } else { Failure::logic(text) };
            return Err(Stop::Failed(failure.at(&invocation.call.arguments[0].place)));
        }
    }))
}

async fn slice(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let sequence = match sequence_of(&invocation.call.arguments[0].value) {
        Ok(sequence) => sequence,
        Err(_) => return Err(Failure::logic("Cannot slice non-sequences.")),
    };
    let (left, right, open) = bounds(&invocation)?;
    if sequence.is_eager() {
        let rows = crate::stream::gather_rows(run, &sequence).await?;
        let (start, end) = positions(rows.len(), left, right, open);
        let rows: Vec<Datum> = rows[start..end].to_vec();
        return Ok(match &sequence.table {
            Some(table) => Value::Sequence(Rc::new(Sequence::of_selected_rows(table.clone(), rows))),
            None => Value::Datum(Datum::array(rows)),
        });
    }
    let Ok(left) = u64::try_from(left) else {
        return Err(Failure::logic("Cannot use a negative left index on a stream."));
    };
    let start = left + u64::from(open.left);
    let end = match right {
        None => None,
        Some(-1) if open.right => {
            return Err(Failure::logic("Cannot slice to an open right index of -1 on a stream."));
        }
        Some(-1) => None,
        Some(right) => match u64::try_from(right) {
            Ok(right) => Some(right + u64::from(!open.right)),
            Err(_) => return Err(Failure::logic("Cannot use a right index < -1 on a stream.")),
        },
    };
    let mut sliced = sequence.selecting(Stage::Skip(start));
    if let Some(end) = end {
        sliced = sliced.selecting(Stage::Limit(end.saturating_sub(start)));
    }
    finished(run, sliced).await
}

// ---------------------------------------------------------------- nth

fn out_of_bounds(index: i64) -> Failure {
    Failure::missing(format!("Index out of bounds: {index}"))
}

pub fn nth_now(_: &Run, invocation: &Invocation) -> Now<Value> {
    let Value::Datum(Datum::Array(array)) = &invocation.call.arguments[0].value else {
        return Err(Stop::Later);
    };
    let index = invocation.small_integer(1)?;
    let real = if index < 0 { index + array.len() as i64 } else { index };
    let item = usize::try_from(real).ok().and_then(|real| array.item(real));
    Ok(Value::Datum(item.ok_or_else(|| out_of_bounds(index))?))
}

pub async fn nth_of(run: &Run, invocation: &Invocation) -> Outcome<Value> {
    let sequence = invocation.sequence(0)?;
    let index = invocation.small_integer(1)?;
    let row = match u64::try_from(index) {
        Ok(offset) => {
            let mut cursor = Cursor::open(run, &sequence.selecting(Stage::Skip(offset)), Some(offset + 1))?;
            cursor.next(run).await?
        }
        Err(_) if sequence.is_eager() => {
            let rows = crate::stream::gather_rows(run, &sequence).await?;
            usize::try_from(index + rows.len() as i64).ok().and_then(|real| rows.get(real).cloned())
        }
        Err(_) if index == -1 => {
            sequence.check_finite()?;
            let mut cursor = Cursor::open(run, &sequence, None)?;
            let mut last = None;
            while let Some(row) = cursor.next(run).await? {
                last = Some(row);
            }
            last
        }
        Err(_) => {
            return Err(Failure::logic(format!("Cannot use an index < -1 ({index}) on a stream.")));
        }
    };
    let row = row.ok_or_else(|| out_of_bounds(index))?;
    selected(&sequence, row, false)
}

/// A row of a selection can still be written to.
pub fn selected(sequence: &Sequence, row: Datum, is_first: bool) -> Outcome<Value> {
    let Some(table) = &sequence.table else { return Ok(Value::Datum(row)) };
    let key_datum = match &row {
        Datum::Object(object) => object.field(&table.info.primary_key),
        _ => None,
    };
    let Some(key_datum) = key_datum else { return Ok(Value::Datum(row)) };
    let key = key::primary(&key_datum)?;
    let document = OnceCell::from(row);
    let first_of = is_first.then(|| Rc::new(sequence.clone()));
    Ok(Value::Row(Rc::new(SelectedRow {
        table: table.clone(),
        key,
        key_datum,
        document,
        first_of,
        missing: None,
    })))
}
