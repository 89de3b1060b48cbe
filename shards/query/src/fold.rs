//! What makes one value of many rows: count, sum, avg, min, max, reduce, distinct, gathering; over all rows or per group.
//!
//! Always: totals can be merged, so every part of a table makes its own and the coordinator merges them in any order
//! ([`Aggregation::partial`], [`Aggregation::merge`]). Rows on which a terminal's function finds something missing do not count.
//! `fold`, which is strictly in order, is not one of these: see [`FoldCursor`].

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use photondb_proto::datum::raw::{Raw, Scalar};
use photondb_proto::datum::{Datum, document, key};
use photondb_proto::op::{ScanOrder, TableRead, TableReply};

use crate::call::check_array_size;
use crate::cursor::{Cursor, Stages};
use crate::eval::{Now, Stop};
use crate::failure::{Failure, Outcome, Place};
use crate::first::{First, FirstRows};
use crate::function::Function;
use crate::push;
use crate::quick::{self, Totals};
use crate::run::{Run, wrong_reply};
use crate::scalar::{self, scalar_of};
use crate::scan::ScanCursor;
use crate::stream::{Sequence, Source, Stage, TableScan, sequence_of};
use crate::terms::Evaluation;
use crate::value::{Value, wrong_type};

/// What is made of the rows.
#[derive(Clone, Debug)]
pub struct Terminal {
    pub kind: TerminalKind,
    /// What it works on: a field, a function's result, or the row itself. REDUCE's function of two.
    pub function: Option<Function>,
    /// What [`TerminalKind::First`] keeps.
    pub first: Option<Rc<First>>,
    /// Where the term stands.
    pub place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TerminalKind {
    Count,
    Sum,
    Average,
    Min,
    Max,
    Reduce,
    Distinct,
    /// All rows as an array.
    Rows,
    /// The first rows in an order, as an array.
    First,
}

/// Which total each row belongs to.
#[derive(Clone, Debug)]
pub struct GroupBy {
    pub functions: Vec<Function>,
    /// The value of the index entry that led to the row is the last part of the key.
    pub by_entry: bool,
    pub multi: bool,
    /// What is done with rows after they are grouped.
    pub stages: Vec<Stage>,
    pub place: Place,
}

impl Terminal {
    pub fn travels(&self) -> bool {
        let mut keys = self.first.iter().flat_map(|first| &first.keys.0);
        self.function.as_ref().is_none_or(Function::travels) && keys.all(|(function, _)| function.travels())
    }

    /// The total of no rows.
    fn total(&self) -> Total {
        match (self.kind, &self.first) {
            (TerminalKind::Count, _) => Total::Count(0.0),
            (TerminalKind::Sum, _) => Total::Sum(0.0),
            (TerminalKind::Average, _) => Total::Average { sum: 0.0, count: 0.0 },
            (TerminalKind::Min | TerminalKind::Max, _) => Total::Best(None),
            (TerminalKind::Reduce, _) => Total::Reduced(None),
            (TerminalKind::Distinct, _) => Total::Distinct(BTreeSet::new()),
            (TerminalKind::First, Some(first)) => Total::First(FirstRows::new(first.clone())),
            (TerminalKind::Rows | TerminalKind::First, _) => Total::Rows(Vec::new()),
        }
    }
}

impl GroupBy {
    pub fn travels(&self) -> bool {
        self.functions.iter().all(Function::travels) && self.stages.iter().all(Stage::travels)
    }
}

/// A total under way.
#[derive(Debug)]
enum Total {
    Count(f64),
    Sum(f64),
    Average {
        sum: f64,
        count: f64,
    },
    /// What is compared, and its row.
    Best(Option<(Datum, Datum)>),
    Reduced(Option<Datum>),
    Distinct(BTreeSet<Datum>),
    Rows(Vec<Datum>),
    First(FirstRows),
}

/// Whether a row counts to a terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Counted {
    Yes,
    No,
}

/// What a terminal takes of a row.
enum Subject {
    /// The row itself.
    Row,
    Datum(Datum),
    /// The row does not count.
    Missing,
}

impl Total {
    /// Adds what [`Totals::subject`] gave for a row.
    fn add_scalar(&mut self, subject: Scalar<'_>, row: Raw<'_>, kind: TerminalKind) -> Now<Counted> {
        match (self, subject) {
            (Total::Count(count), _) => *count += 1.0,
            (Total::Sum(sum), Scalar::Number(number)) => *sum += number,
            (Total::Average { sum, count }, Scalar::Number(number)) => {
                *sum += number;
                *count += 1.0;
            }
            (Total::Sum(_) | Total::Average { .. }, Scalar::Null) => return Ok(Counted::No),
            (Total::Best(best), subject) => {
                let order = match best {
                    Some((held, _)) => scalar::order(subject, scalar_of(held)).ok_or(Stop::Later)?,
                    None if kind == TerminalKind::Min => Ordering::Less,
                    None => Ordering::Greater,
                };
                let better = if kind == TerminalKind::Min { Ordering::Less } else { Ordering::Greater };
                if order == better {
                    *best = Some((quick::datum_of(subject).ok_or(Stop::Later)?, row.to_datum()));
                }
            }
            // One that may be among the first is looked at whole.
            (Total::First(rows), subject) if rows.leaves_out(subject) => {}
            (Total::Sum(_) | Total::Average { .. } | Total::First(_), _)
            | (Total::Reduced(_) | Total::Distinct(_) | Total::Rows(_), _) => return Err(Stop::Later),
        }
        Ok(Counted::Yes)
    }

    /// The total as a datum that [`Total::merge`] understands.
    fn partial(self) -> Datum {
        let optional = |datum: Option<Datum>| Datum::array(datum.into_iter().collect());
        match self {
            Total::Count(number) | Total::Sum(number) => Datum::Number(number),
            Total::Average { sum, count } => Datum::array(vec![Datum::Number(sum), Datum::Number(count)]),
            Total::Best(best) => {
                Datum::array(best.map_or_else(Vec::new, |(compared, row)| vec![compared, row]))
            }
            Total::Reduced(value) => optional(value),
            Total::Distinct(values) => Datum::array(values.into_iter().collect()),
            Total::Rows(rows) => Datum::array(rows),
            Total::First(rows) => Datum::array(rows.into_rows()),
        }
    }
}

/// A terminal over rows, perhaps per group.
pub struct Aggregation {
    terminal: Terminal,
    group: Option<GroupBy>,
    single: Total,
    /// Where each group's total stands.
    groups: BTreeMap<Datum, usize>,
    totals: Vec<Total>,
}

/// The end of an aggregation.
pub enum Aggregated {
    Single(Datum),
    Groups(Vec<(Datum, Datum)>),
}

impl Aggregation {
    pub fn new(terminal: Terminal, group: Option<GroupBy>) -> Aggregation {
        let single = terminal.total();
        Aggregation { terminal, group, single, groups: BTreeMap::new(), totals: Vec::new() }
    }

    pub fn terminal(&self) -> &Terminal {
        &self.terminal
    }

    pub fn group(&self) -> Option<&GroupBy> {
        self.group.as_ref()
    }

    /// Takes a row in, found under a key of the scan where the groups ask for it.
    pub async fn feed(&mut self, run: &Run, key: &[u8], row: Datum) -> Outcome<()> {
        match self.feed_now(run, &row) {
            Ok(()) => Ok(()),
            Err(Stop::Failed(failure)) => Err(failure),
            Err(Stop::Later) => {
                let later: Evaluation<'_, ()> = Box::pin(self.feed_later(run, key, row));
                later.await
            }
        }
    }

    /// Takes a row in, without waiting; one that would have to wait is not taken in at all.
    pub fn feed_now(&mut self, run: &Run, row: &Datum) -> Now<()> {
        let Aggregation { terminal, group, single, groups, totals } = self;
        let Some(group) = group else {
            terminal.add_now(run, single, row)?;
            return Ok(());
        };
        // A row of several groups may wait in the middle: it is taken in the other way from the start.
        if group.multi || group.by_entry || !group.stages.is_empty() {
            return Err(Stop::Later);
        }
        let key = group.key_now(run, row)?;
        if let Some(place) = groups.get(&key) {
            terminal.add_now(run, &mut totals[*place], row)?;
            return Ok(());
        }
        let mut total = terminal.total();
        if terminal.add_now(run, &mut total, row)? == Counted::Yes {
            insert(run, groups, key, totals.len())?;
            totals.push(total);
        }
        Ok(())
    }

    /// Takes a row in the quick way; [`Stop::Later`] when it must go the long way, and was not taken in.
    pub fn add_quick(&mut self, run: &Run, quick: &mut Totals, row: Raw<'_>) -> Now<()> {
        let found = if quick.is_grouped() { quick.find(row)? } else { None };
        let subject = match quick.subject(row)? {
            Some(subject) => subject,
            // What lacks a key has its place in an order.
            None if self.terminal.kind == TerminalKind::First => return Err(Stop::Later),
            None => return Ok(()),
        };
        match found {
            _ if !quick.is_grouped() => self.single.add_scalar(subject, row, self.terminal.kind),
            Some(place) => self.totals[place].add_scalar(subject, row, self.terminal.kind),
            None => {
                let mut total = self.terminal.total();
                if total.add_scalar(subject, row, self.terminal.kind)? == Counted::No {
                    return Ok(());
                }
                let key = quick.group(row)?;
                let place = match self.groups.get(&key) {
                    // A row that went the long way began this group.
                    Some(place) => {
                        self.totals[*place].add_scalar(subject, row, self.terminal.kind)?;
                        *place
                    }
                    None => {
                        insert(run, &mut self.groups, key, self.totals.len())?;
                        self.totals.push(total);
                        self.totals.len() - 1
                    }
                };
                quick.remember(place);
                Ok(Counted::Yes)
            }
        }
        .map(|_| ())
    }

    async fn feed_later(&mut self, run: &Run, key: &[u8], row: Datum) -> Outcome<()> {
        let Aggregation { terminal, group, single, groups, totals } = self;
        let Some(group) = group else {
            terminal.add(run, single, row).await?;
            return Ok(());
        };
        let keys = group.keys(run, key, &row).await?;
        for key in keys {
            if group.stages.is_empty() {
                add_to(run, (groups, totals), key, terminal, row.clone()).await?;
                continue;
            }
            let mut stages = Stages::new(&group.stages);
            let mut next = stages.pass(run, row.clone(), 0).await?;
            loop {
                if let Some(row) = next {
                    add_to(run, (groups, totals), key.clone(), terminal, row).await?;
                }
                next = stages.next_expanded(run).await?;
                if next.is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    pub fn partial(self) -> Datum {
        if self.group.is_none() {
            return self.single.partial();
        }
        let pair = |(key, total): (Datum, Total)| Datum::array(vec![key, total.partial()]);
        Datum::array(in_order(self.groups, self.totals).map(pair).collect())
    }

    /// Takes in what [`Aggregation::partial`] gave elsewhere.
    pub async fn merge(&mut self, run: &Run, partial: Datum) -> Outcome<()> {
        let Aggregation { terminal, group, single, groups, totals } = self;
        if group.is_none() {
            return terminal.merge(run, single, partial).await;
        }
        let Datum::Array(pairs) = partial else { return Err(broken_partial()) };
        for pair in pairs.iter() {
            run.tick().await;
            let Datum::Array(pair) = pair else { return Err(broken_partial()) };
            let (Some(key), Some(partial)) = (pair.item(0), pair.item(1)) else {
                return Err(broken_partial());
            };
            let place = match groups.get(&key) {
                Some(place) => *place,
                None => {
                    insert(run, groups, key, totals.len())?;
                    totals.push(terminal.total());
                    totals.len() - 1
                }
            };
            terminal.merge(run, &mut totals[place], partial).await?;
        }
        Ok(())
    }

    /// The result.
    ///
    /// # Errors
    /// Terminals that need at least one row.
    pub fn finish(self) -> Outcome<Aggregated> {
        let Aggregation { terminal, group, single, groups, totals } = self;
        if group.is_none() {
            return Ok(Aggregated::Single(terminal.finish(single)?));
        }
        let pairs = in_order(groups, totals).map(|(key, total)| Ok((key, terminal.finish(total)?)));
        Ok(Aggregated::Groups(pairs.collect::<Outcome<_>>()?))
    }
}

fn broken_partial() -> Failure {
    Failure::internal("a partial result is not what its terminal makes")
}

/// The totals of groups in the order of their keys.
fn in_order(groups: BTreeMap<Datum, usize>, totals: Vec<Total>) -> impl Iterator<Item = (Datum, Total)> {
    let mut totals: Vec<Option<Total>> = totals.into_iter().map(Some).collect();
    groups.into_iter().filter_map(move |(key, place)| Some((key, totals[place].take()?)))
}

/// Adds a row to a group. A group none of whose rows counts is no group.
async fn add_to(
    run: &Run,
    (groups, totals): (&mut BTreeMap<Datum, usize>, &mut Vec<Total>),
    key: Datum,
    terminal: &Terminal,
    row: Datum,
) -> Outcome<()> {
    if let Some(place) = groups.get(&key) {
        terminal.add(run, &mut totals[*place], row).await?;
        return Ok(());
    }
    let mut total = terminal.total();
    if terminal.add(run, &mut total, row).await? == Counted::Yes {
        insert(run, groups, key, totals.len())?;
        totals.push(total);
    }
    Ok(())
}

fn insert(run: &Run, groups: &mut BTreeMap<Datum, usize>, key: Datum, place: usize) -> Outcome<()> {
    if groups.len() >= run.limits.array_elements_max {
        return Err(Failure::limit(format!("Too many groups (> {}).", run.limits.array_elements_max)));
    }
    run.charge_for_good(key.approximate_bytes())?;
    groups.insert(key, place);
    Ok(())
}

impl GroupBy {
    /// The group of a row that belongs to one only.
    fn key_now(&self, run: &Run, row: &Datum) -> Now<Datum> {
        let mut parts = Vec::new();
        for function in &self.functions {
            let part = match function.datum_now(run, std::slice::from_ref(row)) {
                Err(Stop::Failed(failure)) if failure.is_missing() => Datum::Null,
                other => other?,
            };
            if self.functions.len() == 1 {
                return Ok(part);
            }
            parts.push(part);
        }
        Ok(Datum::array(parts))
    }

    /// The groups of a row that was found under a key.
    async fn keys(&self, run: &Run, key: &[u8], row: &Datum) -> Outcome<Vec<Datum>> {
        let mut parts = Vec::with_capacity(self.functions.len() + 1);
        for function in &self.functions {
            match function.datum(run, std::slice::from_ref(row)).await {
                Ok(datum) => parts.push(datum),
                Err(failure) if failure.is_missing() => parts.push(Datum::Null),
                Err(failure) => return Err(failure),
            }
        }
        if self.by_entry {
            let value = key::split_entry(key).and_then(|(value, _)| key::decode(value));
            parts.push(value.ok_or_else(wrong_reply)?);
        }
        let join =
            |mut parts: Vec<Datum>| if parts.len() == 1 { parts.remove(0) } else { Datum::array(parts) };
        if !self.multi {
            return Ok(vec![join(parts)]);
        }
        let mut combinations: Vec<Vec<Datum>> = vec![Vec::new()];
        for part in parts {
            let choices = match &part {
                Datum::Array(items) if items.is_empty() => vec![Datum::Null],
                Datum::Array(items) => items.iter().collect(),
                _ => vec![part],
            };
            combinations = combinations
                .iter()
                .flat_map(|head| {
                    choices.iter().map(|choice| [head.as_slice(), std::slice::from_ref(choice)].concat())
                })
                .collect();
            check_array_size(combinations.len(), &run.limits)?;
        }
        Ok(combinations.into_iter().map(join).collect())
    }
}

impl Terminal {
    /// What the terminal works on, where that is a function's result: without waiting.
    fn subject_now(&self, run: &Run, total: &Total, row: &Datum) -> Now<Subject> {
        let result = match (total, &self.function) {
            (Total::Count(_) | Total::Distinct(_) | Total::Rows(_) | Total::First(_), _)
            | (Total::Reduced(None), _) => {
                return Ok(Subject::Row);
            }
            (Total::Reduced(Some(held)), Some(function)) => {
                return function.datum_now(run, &[held.clone(), row.clone()]).map(Subject::Datum);
            }
            (_, None) => return Ok(Subject::Row),
            (_, Some(function)) => function.datum_now(run, std::slice::from_ref(row)),
        };
        match result {
            Err(Stop::Failed(failure)) if failure.is_missing() => Ok(Subject::Missing),
            other => other.map(Subject::Datum),
        }
    }

    async fn subject_later(&self, run: &Run, total: &Total, row: &Datum) -> Outcome<Subject> {
        let Some(function) = &self.function else { return Ok(Subject::Row) };
        if let Total::Reduced(Some(held)) = total {
            return function.datum(run, &[held.clone(), row.clone()]).await.map(Subject::Datum);
        }
        match function.datum(run, std::slice::from_ref(row)).await {
            Err(failure) if failure.is_missing() => Ok(Subject::Missing),
            other => other.map(Subject::Datum),
        }
    }

    fn number(&self, subject: &Datum) -> Outcome<Option<f64>> {
        match subject {
            Datum::Number(number) => Ok(Some(*number)),
            Datum::Null => Ok(None),
            other => Err(wrong_type("NUMBER", other)
                .at(self.function.as_ref().map_or(&self.place, Function::body_place))),
        }
    }

    fn add_now(&self, run: &Run, total: &mut Total, row: &Datum) -> Now<Counted> {
        if let Total::First(rows) = total {
            let values = rows.keys().values_now(run, row)?;
            rows.add(run, values, row.clone())?;
            return Ok(Counted::Yes);
        }
        let subject = self.subject_now(run, total, row)?;
        Ok(self.apply(run, total, subject, row)?)
    }

    async fn add(&self, run: &Run, total: &mut Total, row: Datum) -> Outcome<Counted> {
        run.tick().await;
        if let Total::First(rows) = total {
            let values = rows.keys().values(run, &row).await?;
            rows.add(run, values, row)?;
            return Ok(Counted::Yes);
        }
        let subject = match self.subject_now(run, total, &row) {
            Ok(subject) => subject,
            Err(Stop::Failed(failure)) => return Err(failure),
            Err(Stop::Later) => self.subject_later(run, total, &row).await?,
        };
        self.apply(run, total, subject, &row)
    }

    fn apply(&self, run: &Run, total: &mut Total, subject: Subject, row: &Datum) -> Outcome<Counted> {
        let subject = match &subject {
            Subject::Row => row,
            Subject::Datum(datum) => datum,
            Subject::Missing => return Ok(Counted::No),
        };
        match total {
            Total::Count(count) => *count += 1.0,
            Total::Sum(sum) => match self.number(subject)? {
                Some(number) => *sum += number,
                None => return Ok(Counted::No),
            },
            Total::Average { sum, count } => match self.number(subject)? {
                Some(number) => {
                    *sum += number;
                    *count += 1.0;
                }
                None => return Ok(Counted::No),
            },
            Total::Best(best) => self.keep_best(best, subject.clone(), row.clone()),
            Total::Reduced(reduced) => *reduced = Some(subject.clone()),
            Total::Distinct(values) => {
                if !values.contains(subject) {
                    run.charge_for_good(subject.approximate_bytes())?;
                    values.insert(subject.clone());
                    check_array_size(values.len(), &run.limits)?;
                }
            }
            Total::Rows(rows) => {
                run.charge_for_good(row.approximate_bytes())?;
                rows.push(row.clone());
                if rows.len() > run.limits.array_elements_max {
                    return Err(Failure::limit(format!(
                        "Grouped data over size limit `{}`.  Try putting a reduction (like `.reduce` or `.count`) on the \
                         end.",
                        run.limits.array_elements_max
                    )));
                }
            }
            Total::First(_) => return Err(Failure::internal("rows of an order are added with their keys")),
        }
        Ok(Counted::Yes)
    }

    fn keep_best(&self, best: &mut Option<(Datum, Datum)>, subject: Datum, row: Datum) {
        let better = match best {
            None => true,
            Some((held, _)) if self.kind == TerminalKind::Min => subject < *held,
            Some((held, _)) => subject > *held,
        };
        if better {
            *best = Some((subject, row));
        }
    }

    async fn merge(&self, run: &Run, total: &mut Total, partial: Datum) -> Outcome<()> {
        match (total, partial) {
            (Total::Count(total) | Total::Sum(total), Datum::Number(number)) => *total += number,
            (Total::Average { sum, count }, Datum::Array(parts)) => match (parts.item(0), parts.item(1)) {
                (Some(Datum::Number(more)), Some(Datum::Number(rows))) => {
                    *sum += more;
                    *count += rows;
                }
                _ => return Err(broken_partial()),
            },
            (Total::Best(best), Datum::Array(parts)) => {
                if let (Some(subject), Some(row)) = (parts.item(0), parts.item(1)) {
                    self.keep_best(best, subject, row);
                }
            }
            (
                total @ (Total::Reduced(_) | Total::Distinct(_) | Total::Rows(_) | Total::First(_)),
                Datum::Array(rows),
            ) => {
                for row in rows.iter() {
                    self.add(run, total, row).await?;
                }
            }
            _ => return Err(broken_partial()),
        }
        Ok(())
    }

    fn finish(&self, total: Total) -> Outcome<Datum> {
        let empty = |what: &str| {
            Failure::missing(format!(
                "Cannot take the {what} of an empty stream.  (If you passed `{what}` a field name, it may be that no elements \
                 of the stream had that field.)"
            ))
        };
        match total {
            Total::Count(count) => Ok(Datum::Number(count)),
            Total::Sum(sum) => crate::call::finite(sum),
            Total::Average { count: 0.0, .. } => Err(Failure::missing(
                "Cannot take the average of an empty stream.  (If you passed `avg` a field name, it may be that no elements \
                 of the stream had that field.)",
            )),
            Total::Average { sum, count } => crate::call::finite(sum / count),
            Total::Best(Some((_, row))) => Ok(row),
            Total::Best(None) if self.kind == TerminalKind::Min => Err(empty("min")),
            Total::Best(None) => Err(empty("max")),
            Total::Reduced(Some(value)) => Ok(value),
            Total::Reduced(None) => {
                let failure = Failure::missing("Cannot reduce over an empty stream.");
                Err(failure.at(self.function.as_ref().map_or(&self.place, Function::body_place)))
            }
            Total::Distinct(values) => Ok(Datum::array(values.into_iter().collect())),
            Total::Rows(rows) => Ok(Datum::array(rows)),
            Total::First(rows) => Ok(Datum::array(rows.into_rows())),
        }
    }
}

/// Runs a terminal over a sequence: where the rows are if it can travel, else here.
pub async fn aggregate(
    run: &Run,
    sequence: &Sequence,
    terminal: Terminal,
    group: Option<GroupBy>,
) -> Outcome<Aggregated> {
    if let Source::Scan(scan) = &sequence.source
        && sequence.stages.iter().all(Stage::travels)
        && terminal.travels()
        && group.as_ref().is_none_or(GroupBy::travels)
        && !(matches!(terminal.kind, TerminalKind::Rows | TerminalKind::First) && is_ordered(scan))
    {
        let is_plain = group.is_none() && sequence.stages.is_empty() && scan.question.is_none();
        if terminal.kind == TerminalKind::Count && is_plain {
            return count_rows(run, scan).await;
        }
        return aggregate_there(run, scan, &sequence.stages, terminal, group).await;
    }
    let by_entry = group.as_ref().is_some_and(|group| group.by_entry);
    let mut aggregation = Aggregation::new(terminal, group);
    if let (Source::Scan(scan), true) = (&sequence.source, by_entry) {
        let order = if is_ordered(scan) { scan.order } else { ScanOrder::Keyed };
        let mut cursor = ScanCursor::new(&TableScan { order, ..scan.clone() }, Vec::new(), None);
        while let Some(row) = cursor.next(run).await? {
            aggregation.feed(run, row.key, document::decode(row.value.into())).await?;
        }
        return aggregation.finish();
    }
    let mut cursor = Cursor::open(run, sequence, None)?;
    while let Some(row) = cursor.next(run).await? {
        aggregation.feed(run, &[], row).await?;
    }
    aggregation.finish()
}

/// Whether the order of a scan's rows was asked for: those of a group keep it.
fn is_ordered(scan: &TableScan) -> bool {
    match scan.order {
        ScanOrder::Any | ScanOrder::Keyed => false,
        ScanOrder::Ascending | ScanOrder::Descending => true,
    }
}

async fn count_rows(run: &Run, scan: &TableScan) -> Outcome<Aggregated> {
    if scan.ranges.is_empty() {
        return Ok(Aggregated::Single(Datum::Number(0.0)));
    }
    let read = TableRead::Count { index: scan.index.id(), ranges: scan.ranges.to_vec() };
    match run.read(scan.table.info.id, read, scan.table.mode).await? {
        TableReply::Count(count) => Ok(Aggregated::Single(Datum::Number(count as f64))),
        TableReply::Row(_) | TableReply::Rows(_) | TableReply::Parts(_) => Err(wrong_reply()),
    }
}

/// Most rows and bytes of a step whose rows become totals: nothing comes back but totals.
const STEP_ROWS: u32 = u32::MAX;
const STEP_BYTES: u32 = 4 << 20;

async fn aggregate_there(
    run: &Run,
    scan: &TableScan,
    stages: &[Stage],
    terminal: Terminal,
    group: Option<GroupBy>,
) -> Outcome<Aggregated> {
    let pipeline = push::encode(run, stages, Some((&terminal, group.as_ref())))?;
    let by_entry = group.as_ref().is_some_and(|group| group.by_entry);
    let order = if by_entry { ScanOrder::Keyed } else { ScanOrder::Any };
    let mut aggregation = Aggregation::new(terminal, group);
    // Nobody need be asked for what cannot be there.
    if scan.ranges.is_empty() {
        return aggregation.finish();
    }
    let mut step = scan.step(order, pipeline, STEP_ROWS, STEP_BYTES);
    loop {
        let read = TableRead::Scan(step.clone());
        let TableReply::Parts(batches) = run.read(scan.table.info.id, read, scan.table.mode).await? else {
            return Err(wrong_reply());
        };
        let mut open = Vec::new();
        for batch in batches {
            if let Some(partial) = batch.partial {
                aggregation.merge(run, document::decode(partial.into())).await?;
            }
            open.extend(batch.next.map(|next| (batch.part, next)));
        }
        if open.is_empty() {
            return aggregation.finish();
        }
        step.resume = Some(open);
    }
}

// ---------------------------------------------------------------- fold

/// FOLD with `emit`: a stream made strictly in order.
#[derive(Debug)]
pub struct FoldSource {
    pub sequence: Rc<Sequence>,
    pub base: Datum,
    pub function: Function,
    pub emit: Function,
    pub final_emit: Option<Function>,
}

pub struct FoldCursor {
    cursor: Option<Cursor>,
    accumulator: Datum,
    function: Function,
    emit: Function,
    final_emit: Option<Function>,
    emitted: std::collections::VecDeque<Datum>,
}

impl FoldCursor {
    pub fn open(run: &Run, fold: &FoldSource) -> Outcome<FoldCursor> {
        Ok(FoldCursor {
            cursor: Some(Cursor::open(run, &fold.sequence, None)?),
            accumulator: fold.base.clone(),
            function: fold.function.clone(),
            emit: fold.emit.clone(),
            final_emit: fold.final_emit.clone(),
            emitted: std::collections::VecDeque::new(),
        })
    }

    pub async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        loop {
            if let Some(row) = self.emitted.pop_front() {
                return Ok(Some(row));
            }
            let Some(cursor) = &mut self.cursor else { return Ok(None) };
            match cursor.next_boxed(run).await? {
                Some(row) => {
                    let arguments = [self.accumulator.clone(), row];
                    let next = self.function.datum(run, &arguments).await?;
                    let [old, row] = arguments;
                    self.emit(run, self.emit.clone(), &[old, row, next.clone()]).await?;
                    self.accumulator = next;
                }
                None => {
                    self.cursor = None;
                    if let Some(function) = self.final_emit.clone() {
                        let accumulator = self.accumulator.clone();
                        self.emit(run, function, &[accumulator]).await?;
                    }
                }
            }
        }
    }

    async fn emit(&mut self, run: &Run, function: Function, arguments: &[Datum]) -> Outcome<()> {
        let value = function.call(run, arguments).await?;
        let sequence = match &value {
            Value::Datum(Datum::Array(array)) => {
                self.emitted.extend(array.iter());
                return Ok(());
            }
            Value::Datum(datum) => return Err(wrong_type("ARRAY", datum).at(function.body_place())),
            other => sequence_of(other).map_err(|failure| failure.at(function.body_place()))?,
        };
        self.emitted.extend(crate::stream::gather_rows(run, &sequence).await?);
        Ok(())
    }
}

/// FOLD without `emit`: one value.
pub async fn fold(run: &Run, sequence: &Sequence, base: Datum, function: &Function) -> Outcome<Datum> {
    let mut accumulator = base;
    let mut cursor = Cursor::open(run, sequence, None)?;
    while let Some(row) = cursor.next(run).await? {
        accumulator = function.datum(run, &[accumulator, row]).await?;
    }
    Ok(accumulator)
}
