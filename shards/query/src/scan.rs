//! Scans of a table's rows: asked for step by step, and merged from the parts that have them.
//!
//! Always: a step asks only those parts that have given all that they had. Rows stay in the block they came in until they are
//! asked for. What a client gets as it is comes as JSON from where it lies ([`TextCursor`]).

use std::rc::Rc;

use photondb_proto::datum::{Datum, document, key};
use photondb_proto::op::{Key, KeyBound, PartBatch, ScanOrder, ScanRange, TableRead, TableReply};
use photondb_proto::rows::{Row, RowBlock, RowForm};

use crate::failure::{Outcome, Place};
use crate::fields::{Paths, RowTerm, Work};
use crate::push;
use crate::run::{Run, wrong_reply};
use crate::stream::{Sequence, Source, Stage, TableScan};

/// Rows of the first step of a scan; later steps ask for more.
const FIRST_STEP_ROWS: u32 = 64;
const STEP_ROWS_MAX: u32 = 4096;
/// A part's answer to a step stops after about this many bytes.
const STEP_BYTES: u32 = 256 << 10;

/// Walks a table's rows, step by step, merging the parts.
pub struct ScanCursor {
    scan: TableScan,
    pipeline: Vec<u8>,
    form: RowForm,
    parts: Option<Vec<Part>>,
    rows_max: u32,
    /// Where to look first among unordered parts.
    turn: usize,
}

struct Part {
    number: u16,
    rows: RowBlock,
    /// How many of the rows were given.
    given: usize,
    next: Option<Vec<u8>>,
}

impl Part {
    /// It has rows to give, but must be asked for them.
    fn is_short(&self) -> bool {
        self.is_empty() && self.next.is_some()
    }

    fn is_empty(&self) -> bool {
        self.given == self.rows.len()
    }

    fn next_key(&self) -> &[u8] {
        self.rows.row(self.given).key
    }
}

/// A row that was given: its part, and which of that part's rows it is. It stands until the next is asked for.
#[derive(Clone, Copy)]
struct Given {
    part: usize,
    row: usize,
}

impl ScanCursor {
    pub fn new(scan: &TableScan, pipeline: Vec<u8>, wanted: Option<u64>) -> ScanCursor {
        let wanted = wanted.map(|rows| u32::try_from(rows).unwrap_or(STEP_ROWS_MAX));
        ScanCursor {
            scan: scan.clone(),
            pipeline,
            form: RowForm::Document,
            // Nobody need be asked for what cannot be there.
            parts: scan.ranges.is_empty().then(Vec::new),
            rows_max: wanted.unwrap_or(FIRST_STEP_ROWS).clamp(1, STEP_ROWS_MAX),
            turn: 0,
        }
    }

    /// The next row, if no part has to be asked first.
    pub fn at_hand(&mut self) -> Option<Row<'_>> {
        let given = self.take()?;
        Some(self.row(given))
    }

    fn row(&self, given: Given) -> Row<'_> {
        let parts = self.parts.as_deref().unwrap_or(&[]);
        parts[given.part].rows.row(given.row)
    }

    fn take(&mut self) -> Option<Given> {
        let parts = self.parts.as_mut()?;
        let part = match self.scan.order {
            ScanOrder::Any | ScanOrder::Keyed => {
                self.turn = next_unordered(parts, self.turn)?;
                self.turn
            }
            ScanOrder::Ascending | ScanOrder::Descending => {
                if parts.iter().any(Part::is_short) {
                    return None;
                }
                next_ordered(parts, self.scan.order)?
            }
        };
        let row = parts[part].given;
        parts[part].given += 1;
        Some(Given { part, row })
    }

    /// The next row with the key of its index value; the scan's rows must bear their entries' keys.
    pub async fn next_keyed(&mut self, run: &Run) -> Outcome<Option<(Key, Datum)>> {
        let Some(row) = self.next(run).await? else { return Ok(None) };
        let (value, _) = key::split_entry(row.key).ok_or_else(wrong_reply)?;
        Ok(Some((value.to_vec(), document::decode(row.value.into()))))
    }

    pub async fn next(&mut self, run: &Run) -> Outcome<Option<Row<'_>>> {
        let given = self.next_given(run).await?;
        Ok(given.map(|given| self.row(given)))
    }

    async fn next_given(&mut self, run: &Run) -> Outcome<Option<Given>> {
        loop {
            if let Some(given) = self.take() {
                return Ok(Some(given));
            }
            if self.parts.as_ref().is_some_and(|parts| !parts.iter().any(Part::is_short)) {
                return Ok(None);
            }
            self.step(run).await?;
        }
    }

    async fn step(&mut self, run: &Run) -> Outcome<()> {
        let resume = self.parts.as_mut().map(|parts| {
            parts
                .iter_mut()
                .filter(|part| part.is_empty())
                .filter_map(|part| Some((part.number, part.next.take()?)))
                .collect()
        });
        let pipeline = self.pipeline.clone();
        let mut step = self.scan.step(self.scan.order, pipeline, self.rows_max, STEP_BYTES);
        (step.resume, step.form) = (resume, self.form);
        let read = TableRead::Scan(step);
        self.rows_max = (self.rows_max.saturating_mul(4)).min(STEP_ROWS_MAX);
        let table = &self.scan.table;
        let TableReply::Parts(batches) = run.read(table.info.id, read, table.mode).await? else {
            return Err(wrong_reply());
        };
        let parts = self.parts.get_or_insert_default();
        for PartBatch { part, rows, partial: _, next } in batches {
            let answered = Part { number: part, rows, given: 0, next };
            match parts.iter_mut().find(|asked| asked.number == part) {
                Some(asked) => *asked = answered,
                None => parts.push(answered),
            }
        }
        Ok(())
    }
}

/// The first part with rows, from `turn` on.
fn next_unordered(parts: &[Part], turn: usize) -> Option<usize> {
    let count = parts.len();
    (0..count).map(|step| (turn + step) % count).find(|at| !parts[*at].is_empty())
}

fn next_ordered(parts: &[Part], order: ScanOrder) -> Option<usize> {
    let filled = (0..parts.len()).filter(|at| !parts[*at].is_empty());
    if order == ScanOrder::Descending {
        filled.max_by_key(|at| parts[*at].next_key())
    } else {
        filled.min_by_key(|at| parts[*at].next_key())
    }
}

/// A scan in whose place those of the stages are carried out that travel, and the stages that are left.
pub fn open<'a>(
    run: &Run,
    scan: &TableScan,
    stages: &'a [Stage],
    wanted: Option<u64>,
) -> Outcome<(ScanCursor, &'a [Stage])> {
    let travelling = stages.iter().take_while(|stage| stage.travels()).count();
    let (there, here) = stages.split_at(travelling);
    let pipeline = push::encode(run, there, None)?;
    Ok((ScanCursor::new(scan, pipeline, fewest(wanted, here)), here))
}

/// The rows that the remaining stages can use at most, as far as that is plain.
fn fewest(wanted: Option<u64>, stages: &[Stage]) -> Option<u64> {
    let mut rows = wanted;
    let mut skipped = 0;
    for stage in stages {
        match stage {
            Stage::Limit(count) => return Some((count + skipped).min(rows.unwrap_or(u64::MAX))),
            Stage::Skip(count) => {
                skipped += count;
                rows = rows.map(|rows| rows.saturating_add(*count));
            }
            Stage::Map(_) => {}
            Stage::Filter(..) | Stage::Equal(_) | Stage::ConcatMap(_) | Stage::Row(_) | Stage::Zip(_) => {
                return None;
            }
        }
    }
    rows
}

// ---------------------------------------------------------------- as they are

/// Rows that are the client's as they are: their JSON is made where they lie.
pub struct TextCursor {
    scan: ScanCursor,
    /// How many rows are passed over first.
    skip: u64,
    /// How many are given then at most.
    limit: u64,
    given: Option<Given>,
}

impl TextCursor {
    /// None when there is work to be done with the rows on their way.
    pub fn open(run: &Run, sequence: &Sequence) -> Outcome<Option<TextCursor>> {
        let scan = match &sequence.source {
            Source::Scan(scan) if scan.further.is_none() => scan,
            _ => return Ok(None),
        };
        let (mut scan, left) = open(run, scan, &sequence.stages, None)?;
        let (mut skip, mut limit) = (0u64, u64::MAX);
        for stage in left {
            match stage {
                Stage::Skip(count) => {
                    skip = skip.saturating_add(*count.min(&limit));
                    limit = if limit == u64::MAX { limit } else { limit.saturating_sub(*count) };
                }
                Stage::Limit(count) => limit = limit.min(*count),
                _ => return Ok(None),
            }
        }
        scan.form = RowForm::Json;
        Ok(Some(TextCursor { scan, skip, limit, given: None }))
    }

    /// Goes to the next row; false when there is none.
    pub async fn advance(&mut self, run: &Run) -> Outcome<bool> {
        self.given = None;
        while self.limit > 0 {
            if !run.spend() {
                run.tick().await;
            }
            let given = match self.scan.take() {
                Some(given) => given,
                None => match self.scan.next_given(run).await? {
                    Some(given) => given,
                    None => return Ok(false),
                },
            };
            if self.skip == 0 {
                self.limit -= 1;
                self.given = Some(given);
                return Ok(true);
            }
            self.skip -= 1;
        }
        Ok(false)
    }

    /// The texts of the row that was gone to and of all that follow it in its block, and how many they are, if they are given one after
    /// the other and are no more than that.
    pub fn whole(&mut self, rows_max: usize, bytes_max: usize) -> Option<(Vec<u8>, usize)> {
        let Some(Given { part, row: 0 }) = self.given else { return None };
        let parts = self.scan.parts.as_mut()?;
        let is_alone = match self.scan.scan.order {
            ScanOrder::Any | ScanOrder::Keyed => true,
            ScanOrder::Ascending | ScanOrder::Descending => {
                let others = || parts.iter().enumerate().filter(|(at, _)| *at != part);
                others().all(|(_, other)| other.is_empty() && other.next.is_none())
            }
        };
        let rows = parts[part].rows.len();
        let follow = rows - 1;
        if !is_alone || follow as u64 > self.limit || rows > rows_max || parts[part].rows.bytes() > bytes_max
        {
            return None;
        }
        self.limit -= follow as u64;
        self.given = None;
        parts[part].given = 0;
        Some((std::mem::take(&mut parts[part].rows).into_items(), rows))
    }

    /// The row that was gone to.
    pub fn text(&self) -> &[u8] {
        self.given.map_or(&[], |given| self.scan.row(given).value)
    }
}

// ---------------------------------------------------------------- values of an index

/// The values of an index, each once. Where a value has many entries those that follow are leapt over.
pub struct ValuesCursor {
    scan: ScanCursor,
    last: Option<Key>,
    /// Entries of the last value that were passed by.
    repeats: u32,
}

/// Entries of one value that are read before the rest of them is leapt over.
const REPEATS_MAX: u32 = 48;

impl ValuesCursor {
    pub fn open(run: &Run, scan: &TableScan, wanted: Option<u64>) -> Outcome<ValuesCursor> {
        // The rows themselves can stay where they are.
        let nothing = Work::Pluck(Paths::new(Vec::new())?);
        let nothing = RowTerm { work: nothing, name: "pluck".into(), place: Place::root() };
        let pipeline = push::encode(run, &[Stage::Row(Rc::new(nothing))], None)?;
        Ok(ValuesCursor { scan: ScanCursor::new(scan, pipeline, wanted), last: None, repeats: 0 })
    }

    pub async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        loop {
            let Some((value, _)) = self.scan.next_keyed(run).await? else { return Ok(None) };
            if self.last.as_ref() != Some(&value) {
                let datum = key::decode(&value).ok_or_else(wrong_reply)?;
                self.last = Some(value);
                self.repeats = 0;
                return Ok(Some(datum));
            }
            self.repeats += 1;
            if self.repeats == REPEATS_MAX && self.scan.scan.order == ScanOrder::Ascending {
                let mut rest = self.scan.scan.clone();
                rest.ranges = behind(&rest.ranges, key::behind_entries(&value));
                let pipeline = std::mem::take(&mut self.scan.pipeline);
                self.scan = ScanCursor::new(&rest, pipeline, None);
            }
        }
    }
}

/// What of the ranges lies behind a bound.
fn behind(ranges: &[ScanRange], bound: Key) -> Rc<[ScanRange]> {
    let is_left = |range: &&ScanRange| match &range.range.end {
        KeyBound::Unbounded => true,
        KeyBound::Included(end) | KeyBound::Excluded(end) => *end > bound,
    };
    let cut = |range: &ScanRange| {
        let mut range = range.clone();
        let is_before = match &range.range.start {
            KeyBound::Unbounded => true,
            KeyBound::Included(start) | KeyBound::Excluded(start) => *start < bound,
        };
        if is_before {
            range.range.start = KeyBound::Excluded(bound.clone());
        }
        range
    };
    ranges.iter().filter(is_left).map(cut).collect()
}
