//! Orders: what ORDER_BY sorts by, and UNION of sequences that are sorted already.

use std::cmp::Ordering;
use std::rc::Rc;

use photondb_proto::datum::Datum;

use crate::cursor::Cursor;
use crate::eval::{Now, Stop};
use crate::failure::{Failure, Outcome};
use crate::function::Function;
use crate::run::Run;
use crate::stream::Sequence;
use crate::value::Direction;

/// What rows are compared by: functions, the first that differs decides.
#[derive(Clone, Debug)]
pub struct SortKeys(pub Vec<(Function, Direction)>);

/// The values of a row's sort keys. A missing one comes before everything.
pub type SortValues = Vec<Option<Datum>>;

impl SortKeys {
    pub async fn values(&self, run: &Run, row: &Datum) -> Outcome<SortValues> {
        let mut values = Vec::with_capacity(self.0.len());
        for (function, _) in &self.0 {
            match function.datum(run, std::slice::from_ref(row)).await {
                Ok(datum) => values.push(Some(datum)),
                Err(failure) if failure.is_missing() => values.push(None),
                Err(failure) => return Err(failure),
            }
        }
        Ok(values)
    }

    /// [`SortKeys::values`] without waiting.
    pub fn values_now(&self, run: &Run, row: &Datum) -> Now<SortValues> {
        let value = |(function, _): &(Function, Direction)| match function
            .datum_now(run, std::slice::from_ref(row))
        {
            Err(Stop::Failed(failure)) if failure.is_missing() => Ok(None),
            other => other.map(Some),
        };
        self.0.iter().map(value).collect()
    }

    pub fn compare(&self, left: &SortValues, right: &SortValues) -> Ordering {
        for (index, (_, direction)) in self.0.iter().enumerate() {
            let order = left[index].cmp(&right[index]);
            let order = match direction {
                Direction::Ascending => order,
                Direction::Descending => order.reverse(),
            };
            if order != Ordering::Equal {
                return order;
            }
        }
        Ordering::Equal
    }

    /// Sorts rows, stably.
    pub async fn sort(&self, run: &Run, rows: Vec<Datum>) -> Outcome<Vec<Datum>> {
        let mut keyed = Vec::with_capacity(rows.len());
        for row in rows {
            run.tick().await;
            keyed.push((self.values(run, &row).await?, row));
        }
        keyed.sort_by(|(left, _), (right, _)| self.compare(left, right));
        Ok(keyed.into_iter().map(|(_, row)| row).collect())
    }
}

/// UNION with `interleave` by an order that the sequences have.
#[derive(Debug)]
pub struct OrderedUnion {
    pub sequences: Vec<Rc<Sequence>>,
    pub keys: SortKeys,
}

pub struct UnionCursor {
    cursors: Vec<Cursor>,
    /// The next row of each cursor with its sort values; `None` at its end.
    heads: Option<Vec<Option<(SortValues, Datum)>>>,
    keys: SortKeys,
}

impl UnionCursor {
    pub fn open(run: &Run, union: &OrderedUnion) -> Outcome<UnionCursor> {
        let cursors = union
            .sequences
            .iter()
            .map(|sequence| Cursor::open(run, sequence, None))
            .collect::<Outcome<_>>()?;
        Ok(UnionCursor { cursors, heads: None, keys: union.keys.clone() })
    }

    pub async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        let UnionCursor { cursors, heads, keys } = self;
        let mut filled = match heads.take() {
            Some(heads) => heads,
            None => {
                let mut first = Vec::with_capacity(cursors.len());
                for cursor in cursors.iter_mut() {
                    first.push(head(run, cursor, keys).await?);
                }
                first
            }
        };
        let least = filled
            .iter()
            .enumerate()
            .filter_map(|(index, head)| Some((index, &head.as_ref()?.0)))
            .min_by(|(_, left), (_, right)| keys.compare(left, right))
            .map(|(index, _)| index);
        let Some(least) = least else {
            *heads = Some(filled);
            return Ok(None);
        };
        let next = head(run, &mut cursors[least], keys).await?;
        let taken = std::mem::replace(&mut filled[least], next);
        if let (Some((before, _)), Some((after, _))) = (&taken, &filled[least])
            && keys.compare(before, after) == Ordering::Greater
        {
            return Err(Failure::logic("The streams given as arguments are not ordered by given ordering."));
        }
        *heads = Some(filled);
        Ok(taken.map(|(_, row)| row))
    }
}

async fn head(run: &Run, cursor: &mut Cursor, keys: &SortKeys) -> Outcome<Option<(SortValues, Datum)>> {
    let Some(row) = cursor.next_boxed(run).await? else { return Ok(None) };
    Ok(Some((keys.values(run, &row).await?, row)))
}
