//! A server in a test's hand: tables in maps, a catalog of names, and the ops of queries answered as the runtime does.
//!
//! `World::answer` takes a query as it goes over the wire and gives the JSON of its rows or its error, so that a test is
//! rows of queries and answers. Tables have two parts, to show that nothing depends on where a row lives; steps of scans
//! are short and fuel is scarce, so that nothing depends on their being generous.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Bound;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context as TaskContext, Poll, Waker};

use photondb_proto::datum::{Datum, document, key};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::feed::{ElementForm, Elements, FeedNumber, FeedOp, FeedReply, FeedSpec};
use photondb_proto::op::*;
use photondb_proto::outside::{OutsideOp, OutsideReply};
use photondb_proto::rows::RowBlock;
use photondb_proto::term::parse::{Parser, QueryMessage};

use crate::exec::{AnswerKind, Context, Execution, Step};
use crate::geo::pace::Pace;
use crate::geo::question::Question;
use crate::index::IndexWriter;
use crate::push::{Flow, Pipeline, Seen};
use crate::write::{RowDecision, RowEffect, RowWriter};

const PARTS: u16 = 2;

/// What there is of the system database: rows that terms give, of which those of `table_config` may be changed.
const CONFIGURATION: [&str; 3] = ["db_config", "table_config", "table_status"];
/// Rows by their key, or by that of an entry.
type Entries = BTreeMap<Key, Rc<[u8]>>;

struct Table {
    info: TableInfo,
    config: Datum,
    parts: Vec<Entries>,
    /// Those of `info.indexes`, in the same order.
    indexes: Vec<IndexDefinition>,
    write_hook: Option<Vec<u8>>,
}

/// The server.
pub struct World {
    databases: BTreeMap<String, DatabaseId>,
    tables: Vec<Table>,
    next_id: u8,
    random_state: u64,
    /// What ops were asked, by name.
    pub asked: Vec<&'static str>,
    /// Answers scripts and HTTP requests.
    pub outside: Option<Outside>,
    /// Feeds that were opened.
    pub feeds: Vec<FeedSpec>,
    /// JSON of elements that feeds will give.
    pub feed_elements: Vec<String>,
}

pub type Outside = Box<dyn FnMut(OutsideOp) -> OutsideReply>;

fn failed(text: String) -> QueryError {
    QueryError::new(ErrorKind::OpFailed, text)
}

/// Drives a future that waits for nothing but fuel.
fn finish<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut TaskContext::from_waker(Waker::noop())) {
            return value;
        }
    }
}

impl World {
    /// With the database `test` and in it an empty table `t`.
    pub fn new() -> World {
        let mut world = World {
            databases: BTreeMap::new(),
            tables: Vec::new(),
            next_id: 1,
            random_state: 1,
            asked: Vec::new(),
            outside: None,
            feeds: Vec::new(),
            feed_elements: Vec::new(),
        };
        world.answer(r#"[1,[57,["test"]]]"#);
        world.answer(r#"[1,[60,["t"]]]"#);
        world.asked.clear();
        world
    }

    /// The answer's JSON (of a sequence: its rows in brackets), or `! ` and the error's text.
    #[track_caller]
    pub fn answer(&mut self, query: &str) -> String {
        self.ask(query).unwrap_or_else(|error| format!("! {}", error.message))
    }

    /// The answer's JSON, or the query's error.
    #[track_caller]
    pub fn ask(&mut self, query: &str) -> Result<String, QueryError> {
        let mut bytes = query.as_bytes().to_vec();
        let message = Parser::default().parse(&mut bytes)?;
        let QueryMessage::Start { term, options } = message else { panic!("not a START: {query}") };
        let context = Context {
            user: "admin".into(),
            now_epoch_seconds: 1_375_147_296.681,
            memory_bytes_max: 64 << 20,
        };
        let mut execution = Execution::start(&term.into(), options, context)?;
        let mut rows: Vec<String> = Vec::new();
        loop {
            match execution.step(50) {
                Step::OutOfFuel => {}
                Step::Needs(op) => {
                    let reply = self.reply(op);
                    execution.answer(reply);
                }
                Step::Failed(error) => return Err(error),
                Step::Ready(answer) => {
                    let items = String::from_utf8(answer.items.to_vec()).expect("JSON is UTF-8");
                    let end = answer.kind != AnswerKind::Partial;
                    if answer.kind == AnswerKind::Atom {
                        return Ok(items);
                    }
                    if answer.count > 0 {
                        rows.push(items);
                    }
                    if end {
                        return Ok(format!("[{}]", rows.join(",")));
                    }
                    execution.next_batch();
                }
            }
        }
    }

    pub fn reply(&mut self, op: Op) -> Result<OpReply, OpError> {
        match op {
            Op::Catalog(op) => self.catalog(op).map(OpReply::Catalog),
            Op::Read { table, read, .. } => self.read(table, read).map(OpReply::Read),
            Op::Write { table, write } => self.write(table, write).map(OpReply::Write),
            Op::Outside(op) => {
                self.asked.push("outside");
                let play = self.outside.as_mut().ok_or_else(|| failed("there is nothing outside".into()))?;
                Ok(OpReply::Outside(play(op)))
            }
            Op::Feed(op) => Ok(OpReply::Feed(self.feed(op))),
            Op::Random { bytes } => {
                self.asked.push("random");
                let mut random = Vec::new();
                while random.len() < bytes as usize {
                    random.extend_from_slice(&self.random().to_le_bytes());
                }
                random.truncate(bytes as usize);
                Ok(OpReply::Random(random))
            }
        }
    }

    /// Feeds here give what the test [left](World::feed_elements) for them, to whichever asks first.
    fn feed(&mut self, op: FeedOp) -> FeedReply {
        match op {
            FeedOp::Open(spec) => {
                self.feeds.push(*spec);
                FeedReply::Opened(FeedNumber(self.feeds.len() as u64))
            }
            FeedOp::Next { feeds, form, elements_max, wait, .. } => {
                let count = self.feed_elements.len().min(elements_max as usize);
                assert!(count > 0 || !wait, "nothing would ever come");
                let taken: Vec<String> = self.feed_elements.drain(..count).collect();
                let document = |text: &String| document::to_bytes(&crate::harness::datum(text));
                let elements = match form {
                    ElementForm::Json => {
                        Elements::Json { items: taken.join(",").into_bytes().into(), count: count as u32 }
                    }
                    ElementForm::Documents => Elements::Documents(taken.iter().map(document).collect()),
                };
                FeedReply::Elements { feed: feeds[0], elements }
            }
        }
    }

    /// The same for every new server (SplitMix64).
    fn random(&mut self) -> u64 {
        self.random_state = self.random_state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.random_state ^ (self.random_state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn table(&mut self, id: TableId) -> Result<&mut Table, QueryError> {
        self.tables
            .iter_mut()
            .find(|table| table.info.id == id)
            .ok_or_else(|| failed(format!("Table `{id}` does not exist.")))
    }

    // ---------------------------------------------------------------- rows

    fn read(&mut self, table: TableId, read: TableRead) -> Result<TableReply, QueryError> {
        self.asked.push(match &read {
            TableRead::Get { .. } => "get",
            TableRead::GetMany { .. } => "get_many",
            TableRead::Scan(_) => "scan",
            TableRead::Count { .. } => "count",
        });
        let table = self.table(table)?;
        let row = |key: &Key| table.parts.iter().find_map(|part| part.get(key)).map(|row| row.to_vec());
        Ok(match read {
            TableRead::Get { key } => TableReply::Row(row(&key)),
            TableRead::GetMany { keys } => TableReply::Rows(keys.iter().map(row).collect()),
            TableRead::Count { index, ranges } => {
                let count = |entries: &Entries| {
                    let count = |range: &ScanRange| entries.range(bounds(&range.range)).count() as u64;
                    ranges.iter().map(|range| count(range) * u64::from(range.copies)).sum::<u64>()
                };
                TableReply::Count((0..PARTS).map(|part| count(&table.entries(part, index))).sum())
            }
            TableRead::Scan(scan) => {
                let parts = match &scan.resume {
                    None => (0..PARTS).map(|part| (part, None)).collect(),
                    Some(resume) => {
                        resume.iter().map(|(part, next)| (*part, Some(next.clone()))).collect::<Vec<_>>()
                    }
                };
                let asked = table.asked(&scan)?;
                let batches = parts.into_iter().map(|(number, next)| {
                    scan_part(number, &table.entries(number, scan.index), &scan, asked.as_ref(), next)
                });
                TableReply::Parts(batches.collect::<Result<_, _>>()?)
            }
        })
    }

    fn write(&mut self, table: TableId, write: TableWrite) -> Result<Vec<RowOutcome>, QueryError> {
        self.asked.push("write");
        if table.as_system_table().is_some() {
            return self.write_config(write);
        }
        let table = self.table(table)?;
        let primary_key = table.info.primary_key.clone();
        let mut outcomes = Vec::new();
        match write {
            TableWrite::Insert { rows, conflict, options } => {
                let writer = RowWriter::for_insert(&primary_key, &conflict, options)?;
                let writer = table.hooked(writer, options)?;
                for row in rows {
                    let decision = finish(writer.insert(table.row(&row.key), &row.document));
                    outcomes.push(table.apply(row.key, decision));
                }
            }
            TableWrite::Change { keys, change, options } => {
                let writer = RowWriter::for_change(&primary_key, change, options)?;
                let writer = table.hooked(writer, options)?;
                for (index, key) in keys.into_iter().enumerate() {
                    let decision = finish(writer.change(index, &key, table.row(&key)));
                    outcomes.push(table.apply(key, decision));
                }
            }
            TableWrite::Sync => {}
        }
        Ok(outcomes)
    }

    /// A change of one row of `table_config`.
    fn write_config(&mut self, write: TableWrite) -> Result<Vec<RowOutcome>, QueryError> {
        let TableWrite::Change { keys, change, options } = write else {
            return Err(failed("no insert".into()));
        };
        let writer = RowWriter::for_change("id", change, options)?;
        let is_wanted = |table: &&mut Table| {
            key::primary(&Datum::string(&table.info.id.to_string())).is_ok_and(|key| key == keys[0])
        };
        let Some(table) = self.tables.iter_mut().find(is_wanted) else { return Ok(Vec::new()) };
        let old = Some(document::to_bytes(&table.config).into());
        let decision = finish(writer.change(0, &keys[0], old));
        if let RowEffect::Put(bytes) = decision.effect {
            table.config = document::from_bytes(&bytes);
        }
        Ok(vec![decision.outcome])
    }

    // ---------------------------------------------------------------- catalog

    fn fresh_id(&mut self) -> [u8; 16] {
        self.next_id += 1;
        [self.next_id; 16]
    }

    fn database(&self, name: &str) -> Result<DatabaseId, QueryError> {
        let found = self.databases.get(name).copied();
        found.ok_or_else(|| failed(format!("Database `{name}` does not exist.")))
    }

    fn named(&self, database: &str, name: &str) -> Result<usize, QueryError> {
        self.database(database)?;
        self.tables
            .iter()
            .position(|table| table.info.database == database && table.info.name == name)
            .ok_or_else(|| failed(format!("Table `{database}.{name}` does not exist.")))
    }

    fn catalog(&mut self, op: CatalogOp) -> Result<CatalogReply, QueryError> {
        let number = |number: usize| Datum::Number(number as f64);
        let change =
            |old: Datum, new: Datum| Datum::array(vec![Datum::object([("new_val", new), ("old_val", old)])]);
        let database_row = |id: &DatabaseId, name: &str| {
            Datum::object([("id", Datum::string(&id.to_string())), ("name", Datum::string(name))])
        };
        Ok(match op {
            CatalogOp::Table { database, table, identifiers }
                if database == SYSTEM_DATABASE && CONFIGURATION.contains(&table.as_str()) =>
            {
                CatalogReply::Table(TableInfo {
                    id: TableId::of_system_table(1, identifiers),
                    database_id: SYSTEM_DATABASE_ID,
                    database,
                    name: table,
                    primary_key: "id".to_owned(),
                    durability: Durability::Soft,
                    indexes: Vec::new(),
                })
            }
            CatalogOp::Table { database, table, .. } => {
                let index = self.named(&database, &table)?;
                CatalogReply::Table(self.tables[index].info.clone())
            }
            CatalogOp::Database { name } => {
                CatalogReply::Database(DatabaseInfo { id: self.database(&name)?, name })
            }
            CatalogOp::DatabaseList => CatalogReply::Names(self.databases.keys().cloned().collect()),
            CatalogOp::TableList { database } => {
                self.database(&database)?;
                let of = self.tables.iter().filter(|table| table.info.database == database);
                CatalogReply::Names(of.map(|table| table.info.name.clone()).collect())
            }
            CatalogOp::DatabaseCreate { name } => {
                let id = DatabaseId(self.fresh_id());
                let row = database_row(&id, &name);
                if self.databases.insert(name.clone(), id).is_some() {
                    return Err(failed(format!("Database `{name}` already exists.")));
                }
                value([("config_changes", change(Datum::Null, row)), ("dbs_created", number(1))])
            }
            CatalogOp::DatabaseDrop { name } => {
                let id = self.database(&name)?;
                let before = self.tables.len();
                self.tables.retain(|table| table.info.database != name);
                self.databases.remove(&name);
                value([
                    ("config_changes", change(database_row(&id, &name), Datum::Null)),
                    ("dbs_dropped", number(1)),
                    ("tables_dropped", number(before - self.tables.len())),
                ])
            }
            CatalogOp::TableCreate { database, name, options } => {
                let row = self.table_create(&database, &name, options)?;
                value([("config_changes", change(Datum::Null, row)), ("tables_created", number(1))])
            }
            CatalogOp::TableDrop { database, name } => {
                let index = self.named(&database, &name)?;
                let row = self.tables.remove(index).config;
                value([("config_changes", change(row, Datum::Null)), ("tables_dropped", number(1))])
            }
            CatalogOp::TableConfig { table } => encoded(&self.table(table)?.config),
            CatalogOp::DatabaseConfig { database } => {
                let found = self.databases.iter().find(|(_, id)| **id == database);
                let (name, id) = found.ok_or_else(|| failed("no such database".into()))?;
                encoded(&database_row(id, name))
            }
            CatalogOp::TableStatus { table } => encoded(&self.table(table)?.config),
            CatalogOp::Reconfigure { table, shards } => {
                let table = self.table(table)?;
                let Datum::Object(config) = &table.config else { panic!("rows are objects") };
                let mut config = config.to_builder();
                config.set("shards", Datum::array(vec![Datum::string("shard"); shards as usize]));
                table.config = Datum::Object(config.build());
                encoded(&table.config)
            }
            CatalogOp::Index { table, op } => {
                let id = IndexId(self.fresh_id());
                self.table(table)?.index_op(op, id)?
            }
            CatalogOp::WriteHook { table } => {
                let hook = self.table(table)?.write_hook.as_deref();
                encoded(&hook.map_or(Datum::Null, crate::blob::describe_write_hook))
            }
            CatalogOp::SetWriteHook { table, hook } => {
                let table = self.table(table)?;
                let word = match (&table.write_hook, &hook) {
                    (_, None) => "deleted",
                    (Some(_), Some(_)) => "replaced",
                    (None, Some(_)) => "created",
                };
                table.write_hook = hook;
                value([(word, number(1))])
            }
            CatalogOp::Grant { permissions, .. } => {
                value([("new_val", document::from_bytes(&permissions)), ("old_val", Datum::Null)])
            }
            CatalogOp::Wait { database, table } => {
                let count = match table {
                    Some(table) => self.named(&database, &table).map(|_| 1)?,
                    None => self.tables.iter().filter(|table| table.info.database == database).count(),
                };
                value([("ready", number(count))])
            }
        })
    }

    fn table_create(
        &mut self,
        database: &str,
        name: &str,
        options: TableOptions,
    ) -> Result<Datum, QueryError> {
        let database_id = self.database(database)?;
        if self.named(database, name).is_ok() {
            return Err(failed(format!("Table `{database}.{name}` already exists.")));
        }
        let info = TableInfo {
            id: TableId(self.fresh_id()),
            database_id,
            database: database.to_owned(),
            name: name.to_owned(),
            primary_key: options.primary_key.unwrap_or_else(|| "id".to_owned()),
            durability: options.durability.unwrap_or_default(),
            indexes: Vec::new(),
        };
        let shards = vec![Datum::string("shard"); options.shards.unwrap_or(1) as usize];
        let config = Datum::object([
            ("id", Datum::string(&info.id.to_string())),
            ("name", Datum::string(name)),
            ("primary_key", Datum::string(&info.primary_key)),
            ("shards", Datum::array(shards)),
        ]);
        let parts = (0..PARTS).map(|_| BTreeMap::new()).collect();
        let indexes = Vec::new();
        self.tables.push(Table { info, config: config.clone(), parts, indexes, write_hook: None });
        Ok(config)
    }
}

impl Table {
    fn hooked(&self, writer: RowWriter, options: WriteOptions) -> Result<RowWriter, QueryError> {
        match (&self.write_hook, options.write_hook) {
            (Some(hook), WriteHook::Asked) => writer.with_hook(hook, 1_000),
            (Some(_), WriteHook::Ignored) | (None, _) => Ok(writer),
        }
    }

    /// What a scan of a part walks along: its rows, or the entries of an index, made of the rows as they are now.
    fn entries(&self, part: u16, index: Option<IndexId>) -> Entries {
        let rows = &self.parts[usize::from(part)];
        let Some(id) = index else { return rows.clone() };
        let writer = self.writer(id);
        let entries = |(key, row): (&Key, &Rc<[u8]>)| {
            let row = row.clone();
            finish(writer.entries(key, &row))
                .into_iter()
                .map(move |entry| (entry, row.clone()))
                .collect::<Vec<_>>()
        };
        rows.iter().flat_map(entries).collect()
    }

    fn writer(&self, id: IndexId) -> IndexWriter {
        let place = self.info.indexes.iter().position(|index| index.id == id).expect("the query knows it");
        IndexWriter::new(&self.indexes[place].function).expect("our own bytes")
    }

    /// What a scan asks of geometries.
    fn asked(&self, scan: &Scan) -> Result<Option<(Question, IndexWriter)>, QueryError> {
        let Some(id) = scan.index.filter(|_| !scan.question.is_empty()) else { return Ok(None) };
        let question = finish(Question::from_bytes(&scan.question, &Pace::pending()))?;
        Ok(Some((question, self.writer(id))))
    }

    fn index(&self, name: &str, error: String) -> Result<usize, QueryError> {
        self.info.indexes.iter().position(|index| index.name == name).ok_or_else(|| failed(error))
    }

    fn sort_indexes(&mut self) {
        self.indexes.sort_by(|left, right| left.name.cmp(&right.name));
        self.info.indexes.sort_by(|left, right| left.name.cmp(&right.name));
    }

    fn index_op(&mut self, op: IndexOp, id: IndexId) -> Result<CatalogReply, QueryError> {
        let table = format!("{}.{}", self.info.database, self.info.name);
        let one = |what| value([(what, Datum::Number(1.0))]);
        match op {
            IndexOp::Create(definition) => {
                let IndexDefinition { name, multi, geo, .. } = definition.clone();
                if self.index(&name, String::new()).is_ok() {
                    return Err(failed(format!("Index `{name}` already exists on table `{table}`.")));
                }
                self.indexes.push(definition);
                self.info.indexes.push(IndexInfo { id, name, multi, geo, ready: true });
                self.sort_indexes();
                Ok(one("created"))
            }
            IndexOp::Drop { name } => {
                let place =
                    self.index(&name, format!("Index `{name}` does not exist on table `{table}`."))?;
                self.indexes.remove(place);
                self.info.indexes.remove(place);
                Ok(one("dropped"))
            }
            IndexOp::Rename { from, to, overwrite } => {
                let text = format!(
                    "Index `{from}` does not exist or index `{to}` already exists on table `{table}`."
                );
                let place = self.index(&from, text.clone())?;
                if from == to {
                    return Ok(value([("renamed", Datum::Number(0.0))]));
                }
                match self.index(&to, String::new()).ok() {
                    Some(_) if !overwrite => return Err(failed(text)),
                    taken => {
                        self.indexes[place].name.clone_from(&to);
                        self.info.indexes[place].name = to;
                        taken.map(|taken| (self.indexes.remove(taken), self.info.indexes.remove(taken)));
                    }
                }
                self.sort_indexes();
                Ok(one("renamed"))
            }
            IndexOp::Status { names } | IndexOp::Wait { names } => {
                for name in &names {
                    self.index(name, format!("Index `{name}` was not found on table `{table}`."))?;
                }
                let wanted = self.indexes.iter();
                let wanted = wanted.filter(|index| names.is_empty() || names.contains(&index.name));
                let state = |index: &IndexDefinition| IndexState {
                    definition: index.clone(),
                    ready: true,
                    progress: 1.0,
                };
                Ok(CatalogReply::Indexes(wanted.map(state).collect()))
            }
            IndexOp::Ready { .. } => Err(failed("only the runtime says so".into())),
        }
    }

    fn row(&self, key: &Key) -> Option<Rc<[u8]>> {
        self.parts.iter().find_map(|part| part.get(key)).cloned()
    }

    fn apply(&mut self, key: Key, decision: RowDecision) -> RowOutcome {
        let home = usize::from(key.iter().fold(0u16, |sum, byte| sum + u16::from(*byte)) % PARTS);
        match decision.effect {
            RowEffect::Keep => {}
            RowEffect::Put(bytes) => {
                self.parts[home].insert(key, bytes.into());
            }
            RowEffect::Delete => {
                self.parts[home].remove(&key);
            }
        }
        decision.outcome
    }
}

fn encoded(datum: &Datum) -> CatalogReply {
    CatalogReply::Value(document::to_bytes(datum))
}

fn value<const N: usize>(pairs: [(&str, Datum); N]) -> CatalogReply {
    encoded(&Datum::object(pairs))
}

fn bounds(range: &KeyRange) -> (Bound<Key>, Bound<Key>) {
    let bound = |bound: &KeyBound| match bound {
        KeyBound::Unbounded => Bound::Unbounded,
        KeyBound::Included(key) => Bound::Included(key.clone()),
        KeyBound::Excluded(key) => Bound::Excluded(key.clone()),
    };
    (bound(&range.start), bound(&range.end))
}

/// Rows a part gives in one step, whatever the query asks for.
const STEP_ROWS: usize = 3;

fn scan_part(
    number: u16,
    rows: &Entries,
    scan: &Scan,
    asked: Option<&(Question, IndexWriter)>,
    next: Option<Vec<u8>>,
) -> Result<PartBatch, QueryError> {
    let descending = scan.order == ScanOrder::Descending;
    let mut found: Vec<(&Key, &Rc<[u8]>, u32)> = Vec::new();
    for ScanRange { range, copies } in &scan.ranges {
        found.extend(rows.range(bounds(range)).map(|(key, row)| (key, row, *copies)));
    }
    if descending {
        found.reverse();
    }
    if let Some(last) = next {
        found.retain(|(key, _, _)| if descending { **key < last } else { **key > last });
    }
    let (mut out, mut last, mut enough) = (RowBlock::new(scan.form), None, false);
    let more = found.len() > STEP_ROWS;
    let mut pipeline = match scan.pipeline.is_empty() {
        true => None,
        false => Some(Pipeline::decode(&scan.pipeline)?),
    };
    let is_plain =
        asked.is_none() && scan.order == ScanOrder::Any && found.iter().all(|(_, _, copies)| *copies == 1);
    if let Some(mut taken) = pipeline.take_if(|pipeline| is_plain && pipeline.is_quick()) {
        let shown = &found[..found.len().min(STEP_ROWS)];
        let last = shown.last().map(|(key, _, _)| (*key).clone());
        let mut rows: Vec<&[u8]> = shown.iter().map(|(_, row, _)| &***row).collect();
        loop {
            match taken.see(&rows, &mut out, usize::MAX)? {
                Seen::All => break,
                Seen::Some(count) | Seen::Waits(count) => {
                    finish(taken.go_on(&[], &mut out))?;
                    rows.drain(..count);
                }
            }
        }
        let partial = taken.partial();
        return Ok(PartBatch { part: number, rows: out, partial, next: last.filter(|_| more) });
    }
    for (key, row, copies) in found.into_iter().take(STEP_ROWS) {
        let given = match asked {
            None => vec![row.clone(); copies as usize],
            Some((question, writer)) => finish(writer.answers(question, key, row)),
        };
        for row in given {
            match &mut pipeline {
                None => out.push(key, &row),
                Some(pipeline) => {
                    enough |= finish(pipeline.feed(key, row.clone(), &mut out))? == Flow::Enough
                }
            }
        }
        last = Some(key.clone());
    }
    let next = if more && !enough { last } else { None };
    Ok(PartBatch { part: number, rows: out, partial: pipeline.and_then(Pipeline::partial), next })
}
