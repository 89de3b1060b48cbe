//! A server in memory for tests: a catalog and tables in two parts that answer every op, and queries as JSON.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};

use photondb_proto::datum::{Datum, Text, document, json_parse, key};
use photondb_proto::error::{ErrorKind, Frame, QueryError};
use photondb_proto::op::*;
use photondb_proto::term::parse::{Parser, QueryMessage};
use photondb_proto::wire::response::AnswerKind;

use crate::exec::{Context, Execution, Step};
use crate::push::{Flow, Pipeline};

pub const NOW: f64 = 1_375_147_296.681;
/// Small, so that every query yields now and then.
const FUEL: u32 = 7;

/// What a query gave.
#[derive(Debug, PartialEq)]
pub struct Reply {
    pub kind: Option<AnswerKind>,
    pub items: Vec<String>,
    pub error: Option<(ErrorKind, String, String)>,
    pub batches: usize,
}

#[derive(Default)]
pub struct Server {
    tables: BTreeMap<(String, String), Table>,
    databases: Vec<String>,
    random: u64,
    /// Ops answered so far.
    pub ops: usize,
}

struct Table {
    info: TableInfo,
    rows: BTreeMap<Key, Vec<u8>>,
}

/// Polls a future that needs nothing to its end.
pub fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
            return value;
        }
    }
}

pub fn datum(text: &str) -> Datum {
    json_parse::parse(&Text::new(text)).expect("a test's JSON is sound")
}

fn failed(text: String) -> QueryError {
    QueryError::new(ErrorKind::OpFailed, text)
}

impl Server {
    pub fn new() -> Server {
        Server { databases: vec!["rethinkdb".into(), "test".into()], ..Server::default() }
    }

    /// A table of the database `test` with rows.
    pub fn with_table(mut self, name: &str, rows: &[&str]) -> Server {
        self.create("test", name, "id").expect("a new table");
        for row in rows {
            let row = datum(row);
            let Datum::Object(object) = &row else { panic!("rows are objects") };
            let key = key::primary(&object.field("id").expect("an id")).expect("a key");
            let table = self.tables.get_mut(&("test".into(), name.into())).expect("made above");
            table.rows.insert(key, document::to_bytes(&row));
        }
        self
    }

    fn create(&mut self, database: &str, name: &str, primary_key: &str) -> Result<(), QueryError> {
        let number = self.tables.len() as u8;
        let info = TableInfo {
            id: TableId([number; 16]),
            database_id: DatabaseId([7; 16]),
            database: database.into(),
            name: name.into(),
            primary_key: primary_key.into(),
            durability: Durability::Hard,
        };
        let table = Table { info, rows: BTreeMap::new() };
        match self.tables.insert((database.into(), name.into()), table) {
            None => Ok(()),
            Some(_) => Err(failed(format!("Table `{database}.{name}` already exists."))),
        }
    }

    fn answer(&mut self, op: Op) -> Result<OpReply, QueryError> {
        self.ops += 1;
        match op {
            Op::Catalog(op) => self.catalog(op).map(OpReply::Catalog),
            Op::Read { table, read, .. } => {
                let table = self.tables.values().find(|known| known.info.id == table).expect("a known table");
                read_table(table, read).map(OpReply::Read)
            }
            Op::Write { .. } => Err(failed("this server is read only".into())),
            Op::Random { bytes } => {
                let mut next = || {
                    self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    (self.random >> 33) as u8
                };
                Ok(OpReply::Random((0..bytes).map(|_| next()).collect()))
            }
        }
    }

    fn catalog(&mut self, op: CatalogOp) -> Result<CatalogReply, QueryError> {
        match op {
            CatalogOp::Database { name } if self.databases.contains(&name) => {
                Ok(CatalogReply::Database(DatabaseInfo { id: DatabaseId([7; 16]), name }))
            }
            CatalogOp::Database { name } => Err(failed(format!("Database `{name}` does not exist."))),
            CatalogOp::Table { database, table } => {
                if !self.databases.contains(&database) {
                    return Err(failed(format!("Database `{database}` does not exist.")));
                }
                match self.tables.get(&(database.clone(), table.clone())) {
                    Some(found) => Ok(CatalogReply::Table(found.info.clone())),
                    None => Err(failed(format!("Table `{database}.{table}` does not exist."))),
                }
            }
            other => Err(failed(format!("{other:?} is not for this server"))),
        }
    }

    /// Runs a query to its end.
    #[track_caller]
    pub fn run(&mut self, query: &str) -> Reply {
        let mut text = query.as_bytes().to_vec();
        let parsed = Parser::default().parse(&mut text);
        let QueryMessage::Start { term, options } = (match parsed {
            Ok(message) => message,
            Err(error) => return Reply::of_error(error),
        }) else {
            panic!("a START")
        };
        let context = Context { user: "admin".into(), now_epoch_seconds: NOW, memory_bytes_max: 64 << 20 };
        let mut execution = match Execution::start(&term, options, context) {
            Ok(execution) => execution,
            Err(error) => return Reply::of_error(error),
        };
        let mut reply = Reply { kind: None, items: Vec::new(), error: None, batches: 0 };
        loop {
            match execution.step(FUEL) {
                Step::OutOfFuel => {}
                Step::Needs(op) => {
                    let answer = self.answer(op);
                    execution.answer(answer);
                }
                Step::Ready(answer) => {
                    reply.batches += 1;
                    reply.kind.get_or_insert(answer.kind);
                    let items = format!("[{}]", String::from_utf8(answer.items).expect("JSON is UTF-8"));
                    let Datum::Array(items) = raw(&items) else { panic!("an array") };
                    assert_eq!(items.len(), answer.count);
                    reply.items.extend(items.iter().map(|item| photondb_proto::datum::json::to_string(&item)));
                    if answer.kind != AnswerKind::Partial {
                        return reply;
                    }
                    execution.next_batch();
                }
                Step::Failed(error) => {
                    let failed = Reply::of_error(error);
                    return Reply { kind: reply.kind, items: reply.items, error: failed.error, batches: reply.batches };
                }
            }
        }
    }
}

/// JSON with pseudotypes left as objects would be best; what is compared is printed again anyway.
fn raw(text: &str) -> Datum {
    let text = text.replace("\"$reql_type$\":\"GROUPED_DATA\"", "\"$grouped$\":true");
    datum(&text)
}

impl Reply {
    fn of_error(error: QueryError) -> Reply {
        let frames: Vec<String> = error
            .backtrace
            .iter()
            .map(|frame| match frame {
                Frame::Argument(index) => index.to_string(),
                Frame::Optional(name) => format!("\"{name}\""),
            })
            .collect();
        let error = Some((error.kind, error.message, format!("[{}]", frames.join(","))));
        Reply { kind: None, items: Vec::new(), error, batches: 0 }
    }

    /// The reply as one line: items, or the error.
    pub fn line(&self) -> String {
        match &self.error {
            Some((kind, message, place)) => format!("! {kind:?} {message} {place}"),
            None => match self.kind {
                Some(AnswerKind::Atom) => self.items.join(","),
                Some(AnswerKind::Sequence | AnswerKind::Partial) => format!("<{}>", self.items.join(",")),
                None => "nothing".into(),
            },
        }
    }
}

// ---------------------------------------------------------------- tables

fn in_range(key: &Key, range: &KeyRange) -> bool {
    let after = match &range.start {
        KeyBound::Unbounded => true,
        KeyBound::Included(start) => key >= start,
        KeyBound::Excluded(start) => key > start,
    };
    after
        && match &range.end {
            KeyBound::Unbounded => true,
            KeyBound::Included(end) => key <= end,
            KeyBound::Excluded(end) => key < end,
        }
}

fn read_table(table: &Table, read: TableRead) -> Result<TableReply, QueryError> {
    Ok(match read {
        TableRead::Get { key } => TableReply::Row(table.rows.get(&key).cloned()),
        TableRead::GetMany { keys } => {
            TableReply::Rows(keys.iter().map(|key| table.rows.get(key).cloned()).collect())
        }
        TableRead::Count { range } => {
            TableReply::Count(table.rows.keys().filter(|key| in_range(key, &range)).count() as u64)
        }
        TableRead::Scan(scan) => {
            let parts: Vec<(u16, Option<Vec<u8>>)> = match &scan.resume {
                None => vec![(0, None), (1, None)],
                Some(parts) => parts.iter().map(|(part, next)| (*part, Some(next.clone()))).collect(),
            };
            let batches = parts.into_iter().map(|(part, from)| scan_part(table, &scan, part, from));
            TableReply::Parts(batches.collect::<Result<_, _>>()?)
        }
    })
}

/// A part holds every other row and answers at most three rows read a step.
fn scan_part(table: &Table, scan: &Scan, part: u16, from: Option<Vec<u8>>) -> Result<PartBatch, QueryError> {
    let mut pipeline = Pipeline::decode(&scan.pipeline)?;
    let mut rows = Vec::new();
    let own = table.rows.iter().enumerate().filter(|(index, (key, _))| {
        index % 2 == usize::from(part) && in_range(key, &scan.range)
    });
    let mut own: Vec<(&Key, &Vec<u8>)> = own.map(|(_, pair)| pair).collect();
    if scan.order == ScanOrder::Descending {
        own.reverse();
    }
    let start = from.map_or(0, |from| usize::from(from[0]));
    let mut next = None;
    for (read, (key, row)) in own.iter().enumerate().skip(start) {
        if read - start == 3 || rows.len() >= scan.rows_max as usize {
            next = Some(vec![read as u8]);
            break;
        }
        let key = if scan.order == ScanOrder::Any { &[][..] } else { key.as_slice() };
        if finish(pipeline.feed(key, Rc::from(row.as_slice()), &mut rows))? == Flow::Enough {
            break;
        }
    }
    Ok(PartBatch { part, rows, partial: pipeline.partial(), next })
}
