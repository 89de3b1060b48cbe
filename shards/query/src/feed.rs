//! Changefeeds as a query sees them: what a feed is about, and the cursor over its elements.
//!
//! Always: only what can be followed row by row becomes a feed: a scan, keys, or the first rows in the order of an index,
//! with stages that travel. Stages behind `changes` are ordinary stages of the coordinator. A feed has no end; whether its
//! cursor waits for the next element or gives none for now is the consumer's to say ([`Run::awaits_feeds`]).

use std::collections::VecDeque;
use std::rc::Rc;

use photondb_proto::datum::{Datum, document};
use photondb_proto::error::ErrorKind;
use photondb_proto::feed::{
    ElementForm, Elements, FeedMember, FeedNumber, FeedOp, FeedRanges, FeedReply, FeedRows, FeedSpec,
    FirstRows,
};
use photondb_proto::op::ScanOrder;

use crate::cursor::Stages;
use crate::failure::{Failure, Outcome};
use crate::push;
use crate::run::{Run, wrong_reply};
use crate::stream::{Sequence, Source, Stage};
use crate::terms::Determinism;
use crate::value::{TableHandle, Value};

/// Elements a cursor takes at a time.
const ELEMENTS_TOGETHER: u32 = 256;
const BYTES_TOGETHER: u32 = 256 << 10;

/// One feed and the stages its elements pass.
#[derive(Clone, Debug)]
pub struct FeedBranch {
    pub spec: Rc<FeedSpec>,
    pub kind: FeedKind,
    pub stages: Vec<Stage>,
}

/// What the client is told a feed is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeedKind {
    Range,
    Point,
    Limit,
    Union,
}

impl FeedKind {
    /// The response note.
    fn note(self) -> u8 {
        match self {
            FeedKind::Range => 1,
            FeedKind::Point => 2,
            FeedKind::Limit => 3,
            FeedKind::Union => 4,
        }
    }
}

const INCLUDES_STATES: u8 = 5;

/// The notes of a response whose items come from such feeds.
pub fn notes(sequence: &Sequence) -> Vec<u8> {
    let Source::Feed(branches) = &sequence.source else {
        return match sequence.has_feed() {
            true => vec![FeedKind::Union.note()],
            false => Vec::new(),
        };
    };
    let mut kinds = branches.iter().map(|branch| branch.kind);
    let first = kinds.next().unwrap_or(FeedKind::Union);
    let kind = if kinds.all(|kind| kind == first) { first } else { FeedKind::Union };
    let mut notes = vec![kind.note()];
    let is_cut = sequence.stages.iter().any(|stage| matches!(stage, Stage::Limit(_) | Stage::Skip(_)));
    if !is_cut && branches.iter().any(|branch| branch.spec.include_states) {
        notes.push(INCLUDES_STATES);
    }
    notes
}

// ---------------------------------------------------------------- what is followed

/// The members of a feed on the changes of `value`.
///
/// # Errors
/// What cannot be followed.
pub fn members_of(run: &Run, value: &Value) -> Outcome<(FeedKind, Vec<FeedMember>)> {
    match value {
        Value::Table(table) => of_sequence(run, &Sequence::of_table(table.clone())),
        Value::Sequence(sequence) => of_sequence(run, sequence),
        Value::Row(row) if let Some(sequence) = &row.first_of => {
            of_sequence(run, &sequence.selecting(Stage::Limit(1)))
        }
        Value::Row(row) => {
            let rows = FeedRows::Keys { keys: vec![row.key.clone()], is_point: true };
            Ok((FeedKind::Point, vec![member(run, &row.table, rows, &[])?]))
        }
        Value::Grouped(_) => Err(after("group")),
        other => Err(other.wrong_kind("SELECTION")),
    }
}

fn after(term: &str) -> Failure {
    Failure::logic(format!("Cannot call `changes` after `{term}`."))
}

fn unfollowed() -> Failure {
    Failure::logic("Cannot call `changes` on this stream.")
}

fn member(run: &Run, table: &TableHandle, rows: FeedRows, stages: &[Stage]) -> Outcome<FeedMember> {
    Ok(FeedMember { table: table.info.id, rows, pipeline: push::encode(run, stages, None)? })
}

fn of_sequence(run: &Run, sequence: &Sequence) -> Outcome<(FeedKind, Vec<FeedMember>)> {
    let (stages, limit) = cut(&sequence.stages)?;
    match &sequence.source {
        Source::Scan(scan) => {
            check_stages(stages)?;
            let first = match (limit, scan.order) {
                (None, _) => None,
                (Some(_), ScanOrder::Any | ScanOrder::Keyed) => {
                    return Err(Failure::logic(
                        "Cannot get changes on the first elements of an unordered stream.",
                    ));
                }
                (Some(_), _) if scan.table.info.id.as_system_table().is_some() => {
                    return Err(Failure::logic("System tables don't support changefeeds on `.limit()`."));
                }
                (Some(limit), order) => Some(FirstRows { order, rows_max: limit_rows(run, limit)? }),
            };
            if scan.further.is_some() {
                return Err(unfollowed());
            }
            let rows = FeedRows::Ranges(FeedRanges {
                index: scan.index.id(),
                ranges: scan.ranges.iter().map(|range| range.range.clone()).collect(),
                question: scan.question.as_ref().map_or_else(Vec::new, |question| question.bytes().to_vec()),
                first,
            });
            let kind = if first.is_some() { FeedKind::Limit } else { FeedKind::Range };
            Ok((kind, vec![member(run, &scan.table, rows, stages)?]))
        }
        Source::Keys { table, keys } => {
            check_stages(stages)?;
            if limit.is_some() {
                return Err(Failure::logic(
                    "Cannot get changes on the first elements of an unordered stream.",
                ));
            }
            let mut keys = (**keys).clone();
            keys.dedup();
            let rows = FeedRows::Keys { keys, is_point: false };
            Ok((FeedKind::Range, vec![member(run, table, rows, stages)?]))
        }
        Source::Concatenation(sequences) => {
            if limit.is_some() {
                return Err(Failure::logic("Cannot call `changes` on a slice of a union."));
            }
            let mut members = Vec::new();
            let mut kinds = Vec::new();
            for part in sequences.iter() {
                let mut part = (**part).clone();
                part.stages.extend_from_slice(stages);
                let (kind, found) = of_sequence(run, &part)?;
                kinds.push(kind);
                members.extend(found);
            }
            let first = kinds.first().copied().unwrap_or(FeedKind::Range);
            let kind = if kinds.iter().all(|kind| *kind == first) { first } else { FeedKind::Union };
            Ok((kind, members))
        }
        Source::Rows(_) => Err(Failure::logic("Cannot call `changes` on an eager stream.")),
        Source::IndexValues(_) => Err(after("distinct")),
        Source::Range { .. }
        | Source::Parallel { .. }
        | Source::OrderedUnion(_)
        | Source::Join(_)
        | Source::Fold(_)
        | Source::Feed(_) => Err(unfollowed()),
    }
}

/// The stages before a closing limit, and that limit.
fn cut(stages: &[Stage]) -> Outcome<(&[Stage], Option<u64>)> {
    let place = stages.iter().position(|stage| matches!(stage, Stage::Limit(_)));
    match place {
        None => Ok((stages, None)),
        Some(place) if place + 1 < stages.len() => Err(Failure::logic(
            "Changefeeds are not supported on queries that have a transformation following a `limit` term.  Put the \
             transformation before the `limit`, or behind `changes`.",
        )),
        Some(place) => match stages[place] {
            Stage::Limit(limit) => Ok((&stages[..place], Some(limit))),
            _ => Ok((stages, None)),
        },
    }
}

fn limit_rows(run: &Run, limit: u64) -> Outcome<u32> {
    let most = run.limits.array_elements_max;
    match u32::try_from(limit) {
        Ok(rows) if rows as usize <= most => Ok(rows),
        Ok(_) | Err(_) => Err(Failure::new(
            ErrorKind::ResourceLimit,
            format!(
                "Array size limit `{most}` exceeded.  (`.limit(X).changes()` is illegal if X is larger than the array size \
                 limit.)"
            ),
        )),
    }
}

fn check_stages(stages: &[Stage]) -> Outcome<()> {
    for stage in stages {
        match stage {
            Stage::ConcatMap(_) => return Err(after("concat_map")),
            Stage::Zip(_) => return Err(after("zip")),
            Stage::Skip(_) | Stage::Limit(_) => return Err(unfollowed()),
            Stage::Map(_) | Stage::Filter(..) | Stage::Equal(_) | Stage::Row(_) => {}
        }
        for function in stage.functions() {
            if function.determinism() == Determinism::Never {
                return Err(Failure::logic("Cannot call `changes` after a non-deterministic function.")
                    .at(function.body_place()));
            }
        }
        if !stage.travels() {
            return Err(unfollowed());
        }
    }
    Ok(())
}

// ---------------------------------------------------------------- following

/// Gives the elements of feeds as they come.
pub struct FeedCursor {
    branches: Vec<Branch>,
}

struct Branch {
    spec: Rc<FeedSpec>,
    number: Option<FeedNumber>,
    elements: VecDeque<Datum>,
    stages: Stages,
}

/// Opens a feed.
pub async fn open(run: &Run, spec: &Rc<FeedSpec>) -> Outcome<FeedNumber> {
    match run.feed(FeedOp::Open(Box::new((**spec).clone()))).await? {
        FeedReply::Opened(number) => Ok(number),
        FeedReply::Elements { .. } => Err(wrong_reply()),
    }
}

impl FeedCursor {
    pub fn new(branches: &[FeedBranch]) -> FeedCursor {
        let branches = branches.iter().map(|branch| Branch {
            spec: branch.spec.clone(),
            number: None,
            elements: VecDeque::new(),
            stages: Stages::new(&branch.stages),
        });
        FeedCursor { branches: branches.collect() }
    }

    /// Every branch has been limited to what it has given.
    pub fn is_ended(&self) -> bool {
        self.branches.iter().all(|branch| branch.stages.is_closed())
    }

    /// The next element; `None` at the end, or when there is none for now and nobody waits.
    pub async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        loop {
            for branch in &mut self.branches {
                if branch.number.is_none() {
                    branch.number = Some(open(run, &branch.spec).await?);
                }
                if let Some(row) = branch.at_hand(run).await? {
                    return Ok(Some(row));
                }
            }
            let open = self.branches.iter().filter(|branch| !branch.stages.is_closed());
            let feeds: Vec<FeedNumber> = open.filter_map(|branch| branch.number).collect();
            if feeds.is_empty() {
                return Ok(None);
            }
            let next = FeedOp::Next {
                feeds,
                form: ElementForm::Documents,
                elements_max: ELEMENTS_TOGETHER,
                bytes_max: BYTES_TOGETHER,
                wait: run.awaits_feeds.get(),
            };
            let FeedReply::Elements { feed, elements: Elements::Documents(documents) } =
                run.feed(next).await?
            else {
                return Err(wrong_reply());
            };
            if documents.is_empty() {
                return Ok(None);
            }
            let branch = self.branches.iter_mut().find(|branch| branch.number == Some(feed));
            let elements = documents.into_iter().map(|bytes| document::decode(bytes.into()));
            branch.ok_or_else(wrong_reply)?.elements.extend(elements);
        }
    }
}

impl Branch {
    /// The next row of elements that have come.
    async fn at_hand(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        loop {
            run.tick().await;
            if let Some(row) = self.stages.next_expanded(run).await? {
                return Ok(Some(row));
            }
            if self.stages.is_closed() {
                return Ok(None);
            }
            let Some(element) = self.elements.pop_front() else { return Ok(None) };
            if let Some(row) = self.stages.pass(run, element, 0).await? {
                return Ok(Some(row));
            }
        }
    }
}
