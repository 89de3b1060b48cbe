//! The workloads that need no file: one row each.
//!
//! YCSB's six are those of Cooper et al., "Benchmarking Cloud Serving Systems with YCSB", SoCC 2010, table 1.

use crate::choose::Distribution;
use crate::operation::{Expect, Operation, Records};
use crate::template::{Names, Template, TemplateError};

/// What a run needs to be there before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Nothing,
    /// The table with all of its records.
    Records,
    /// And the index on `bucket`.
    Index,
    /// The table, with whatever in it.
    Table,
    /// Nothing: the run makes it.
    Makes,
}

/// What connections do in a workload; see [`crate::plan::Style`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Steady,
    Churn,
    Feeds,
}

/// How long writes take to be acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Durability {
    /// When it is on disk
    Hard,
    /// When it is in memory
    Soft,
}

impl Durability {
    pub fn name(self) -> &'static str {
        match self {
            Durability::Hard => "hard",
            Durability::Soft => "soft",
        }
    }
}

/// One kind of request of a workload.
pub struct Row {
    name: &'static str,
    weight: u32,
    records: RowRecords,
    steps: &'static [&'static str],
    expect: Expect,
}

/// [`Records`] before --batch is known.
enum RowRecords {
    Existing,
    New,
    NewBatch,
    LoadedBatch,
}

pub struct Workload {
    pub name: &'static str,
    pub about: &'static str,
    pub needs: Needs,
    pub kind: Kind,
    pub rows: &'static [Row],
    /// Unless options say otherwise.
    pub distribution: Distribution,
    pub durability: Durability,
    pub connections: usize,
}

impl Workload {
    /// Its operations.
    ///
    /// # Errors
    /// Never for our own rows, as a test shows.
    pub fn operations(&self, names: &Names, batch: u64) -> Result<Vec<Operation>, TemplateError> {
        let operation = |row: &Row| {
            let records = match row.records {
                RowRecords::Existing => Records::Existing,
                RowRecords::New => Records::New(1),
                RowRecords::NewBatch => Records::New(batch),
                RowRecords::LoadedBatch => Records::Loaded(batch),
            };
            let steps = row.steps.iter().map(|step| Template::parse(step, "{}", names));
            Ok(Operation {
                name: row.name.to_owned(),
                weight: row.weight,
                records,
                steps: steps.collect::<Result<_, _>>()?,
                expect: row.expect,
            })
        };
        self.rows.iter().map(operation).collect()
    }
}

const GET: &str = r#"[16,["$table","$key"]]"#;
const UPDATE: &str = r#"[53,[[16,["$table","$key"]],"$change"],{"durability":"$durability"}]"#;
const INSERT: &str = r#"[56,["$table","$document"],{"durability":"$durability"}]"#;
const INSERT_BATCH: &str = r#"[56,["$table","$documents"],{"durability":"$durability"}]"#;
const LOAD_BATCH: &str = r#"[56,["$table","$documents"],{"durability":"$durability","conflict":"replace"}]"#;
const RANGE: &str = r#"[71,[[41,[[182,["$table","$key",[181,[]]]]],{"index":"id"}],50]]"#;
const RANGE_SOME: &str = r#"[71,[[41,[[182,["$table","$key",[181,[]]]]],{"index":"id"}],"$length"]]"#;
const BY_INDEX: &str = r#"[71,[[78,["$table","$bucket"],{"index":"bucket"}],50]]"#;
const SCAN: &str = r#""$table""#;
const FILTER: &str = r#"[43,[[39,["$table",[69,[[2,[1]],[22,[[170,[[10,[1]],"n"]],"$half"]]]]]]]]"#;
const GROUP: &str = r#"[146,[[144,["$table",[69,[[2,[1]],[28,[[170,[[10,[1]],"n"]],10]]]]]],"n"]]"#;
const FEED: &str = r#"[152,["$table"]]"#;
const FEED_WRITE: &str = r#"[56,["$table",{"id":"$random","sent":"$sent","text":"$text"}],{"durability":"$durability","conflict":"replace"}]"#;
pub const PING: &str = "[24,[1,2]]";

const fn row(
    name: &'static str,
    weight: u32,
    records: RowRecords,
    steps: &'static [&'static str],
    expect: Expect,
) -> Row {
    Row { name, weight, records, steps, expect }
}

const fn read(weight: u32) -> Row {
    row("read", weight, RowRecords::Existing, &[GET], Expect::Value)
}

const fn update(weight: u32) -> Row {
    row("update", weight, RowRecords::Existing, &[UPDATE], Expect::Written)
}

const fn insert(weight: u32) -> Row {
    row("insert", weight, RowRecords::New, &[INSERT], Expect::Written)
}

const fn workload(name: &'static str, about: &'static str, needs: Needs, rows: &'static [Row]) -> Workload {
    Workload {
        name,
        about,
        needs,
        kind: Kind::Steady,
        rows,
        distribution: Distribution::Uniform,
        durability: Durability::Hard,
        connections: 64,
    }
}

/// A workload of YCSB.
const fn ycsb(name: &'static str, about: &'static str, rows: &'static [Row]) -> Workload {
    Workload { distribution: Distribution::Zipfian, ..workload(name, about, Needs::Records, rows) }
}

/// A workload of queries over the whole table.
const fn whole(name: &'static str, about: &'static str, rows: &'static [Row]) -> Workload {
    Workload { connections: 1, ..workload(name, about, Needs::Records, rows) }
}

/// Every workload, in the order of the help.
pub static WORKLOADS: &[Workload] = &[
    Workload {
        durability: Durability::Soft,
        connections: 4,
        ..workload(
            "load",
            "Make the database and the table and fill it with --records documents",
            Needs::Makes,
            &[row("load", 1, RowRecords::LoadedBatch, &[LOAD_BATCH], Expect::Written)],
        )
    },
    workload(
        "ping",
        "Add two numbers: the protocol and nothing else",
        Needs::Nothing,
        &[row("ping", 1, RowRecords::Existing, &[PING], Expect::Any)],
    ),
    workload("get", "Read documents by primary key", Needs::Records, &[read(1)]),
    workload("update", "Change one field of documents by primary key", Needs::Records, &[update(1)]),
    workload("insert", "Insert new documents, one a request", Needs::Table, &[insert(1)]),
    Workload {
        durability: Durability::Soft,
        connections: 4,
        ..workload(
            "batch",
            "Insert new documents, --batch of them a request",
            Needs::Table,
            &[row("batch", 1, RowRecords::NewBatch, &[INSERT_BATCH], Expect::Written)],
        )
    },
    workload(
        "range",
        "Read the 50 documents from a primary key on, in order",
        Needs::Records,
        &[row("range", 1, RowRecords::Existing, &[RANGE], Expect::Any)],
    ),
    workload(
        "index",
        "Read 50 documents by a secondary index (needs load --index)",
        Needs::Index,
        &[row("index", 1, RowRecords::Existing, &[BY_INDEX], Expect::Any)],
    ),
    whole(
        "scan",
        "Read the whole table, batch after batch; one operation is one table",
        &[row("scan", 1, RowRecords::Existing, &[SCAN], Expect::Any)],
    ),
    whole(
        "filter",
        "Count the documents whose n is at least half of --records",
        &[row("filter", 1, RowRecords::Existing, &[FILTER], Expect::Any)],
    ),
    whole(
        "group",
        "Average n by n % 10 over the whole table",
        &[row("group", 1, RowRecords::Existing, &[GROUP], Expect::Any)],
    ),
    Workload {
        kind: Kind::Feeds,
        durability: Durability::Soft,
        connections: 1,
        ..workload(
            "feeds",
            "Follow a table with --feeds changefeeds while connections write to it",
            Needs::Table,
            &[
                row("delivery", 0, RowRecords::Existing, &[FEED], Expect::Feed),
                row("write", 1, RowRecords::Existing, &[FEED_WRITE], Expect::Written),
            ],
        )
    },
    Workload {
        kind: Kind::Churn,
        ..workload(
            "churn",
            "Connect, shake hands, ask one query, close",
            Needs::Nothing,
            &[row("connection", 1, RowRecords::Existing, &[PING], Expect::Any)],
        )
    },
    ycsb("ycsb-a", "YCSB A: half reads, half updates; zipfian", &[read(50), update(50)]),
    ycsb("ycsb-b", "YCSB B: 95% reads, 5% updates; zipfian", &[read(95), update(5)]),
    ycsb("ycsb-c", "YCSB C: reads; zipfian", &[read(100)]),
    Workload {
        distribution: Distribution::Latest,
        ..ycsb("ycsb-d", "YCSB D: 95% reads of the latest, 5% inserts", &[read(95), insert(5)])
    },
    ycsb(
        "ycsb-e",
        "YCSB E: 95% ranges of up to 100 documents, 5% inserts; zipfian",
        &[row("range", 95, RowRecords::Existing, &[RANGE_SOME], Expect::Any), insert(5)],
    ),
    ycsb(
        "ycsb-f",
        "YCSB F: half reads, half reads followed by a write of the same; zipfian",
        &[read(50), row("read-modify-write", 50, RowRecords::Existing, &[GET, UPDATE], Expect::Written)],
    ),
];

pub fn find(name: &str) -> Option<&'static Workload> {
    WORKLOADS.iter().find(|workload| workload.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_a_query() {
        let names = Names { db: "d".to_owned(), table: "t".to_owned(), durability: "soft".to_owned() };
        for workload in WORKLOADS {
            let operations = workload.operations(&names, 10).expect(workload.name);
            assert_eq!(operations.len(), workload.rows.len());
        }
    }
}
