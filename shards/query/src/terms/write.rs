//! Writes: INSERT, UPDATE, REPLACE, DELETE and SYNC.
//!
//! Always: rows are independent and each is changed atomically where it lives ([`crate::write`]); the coordinator sends keys,
//! documents and functions in batches and adds up what came of them. Only a function that may not or cannot travel
//! (`non_atomic`, or one that holds a table) is evaluated here, and its results are put whatever is there by then.
//! A row that fails counts as an error and the others go on; a batch that fails as a whole fails the query.

use std::rc::Rc;

use photondb_proto::datum::{Datum, ObjectBuilder, document, key};
use photondb_proto::error::ErrorKind;
use photondb_proto::limits;
use photondb_proto::op::{
    Change, Conflict, InsertRow, Key, ReturnChanges, RowChange, RowOutcome, TableInfo, TableRead, TableReply,
    TableWrite, WriteHook, WriteOptions,
};
use photondb_proto::term::number;

use super::admin::durability_option;
use super::options::{ConflictWord, conflict_word, return_changes};
use super::string::uuid_of_random;
use super::summary::WriteSummary;
use super::{Arity, Determinism, Eval, Evaluation, Invocation, TermDef};
use crate::call::Call;
use crate::cursor::Cursor;
use crate::eval::loaded;
use crate::failure::{Failure, Outcome};
use crate::fields::{RowTerm, Work};
use crate::function::{Function, Meaning};
use crate::row::{storable, updated};
use crate::run::{Run, wrong_reply};
use crate::shape::plain_object;
use crate::stream::{Sequence, SequenceKind, Stage, sequence_of};
use crate::value::{TableHandle, Value, wrong_type};
use crate::write::function_to_bytes;

pub static TERMS: &[TermDef] = &[
    strict("INSERT", number::INSERT, 2, INSERT_OPTIONS, |run, invocation| Box::pin(insert(run, invocation))),
    strict("UPDATE", number::UPDATE, 2, CHANGE_OPTIONS, |run, invocation| {
        Box::pin(rewrite(run, invocation, Rewrite::Update))
    }),
    strict("REPLACE", number::REPLACE, 2, CHANGE_OPTIONS, |run, invocation| {
        Box::pin(rewrite(run, invocation, Rewrite::Replace))
    }),
    strict("DELETE", number::DELETE, 1, DELETE_OPTIONS, |run, invocation| Box::pin(delete(run, invocation))),
    strict("SYNC", number::SYNC, 1, &[], |run, invocation| Box::pin(sync(run, invocation))),
];

const INSERT_OPTIONS: &[&str] =
    &["conflict", "durability", "ignore_write_hook", "return_changes", "return_vals"];
const CHANGE_OPTIONS: &[&str] =
    &["durability", "ignore_write_hook", "non_atomic", "return_changes", "return_vals"];
const DELETE_OPTIONS: &[&str] = &["durability", "ignore_write_hook", "return_changes", "return_vals"];

/// Rows of an insert that travel together at most: an array is at hand and one flush serves all of it.
const INSERT_ROWS_TOGETHER: usize = 1024;
/// A batch of an insert is sent once it holds this much.
const INSERT_BYTES_TOGETHER: usize = 4 << 20;

const fn strict(
    name: &'static str,
    number: u32,
    arguments: u16,
    options: &'static [&'static str],
    eval: for<'a> fn(&'a Run, Invocation) -> Evaluation<'a, Value>,
) -> TermDef {
    let arity = Arity::exactly(arguments);
    TermDef { name, number, arity, options, determinism: Determinism::Never, eval: Eval::Strict(eval) }
}

fn write_options(call: &Call) -> Outcome<WriteOptions> {
    if call.option("return_vals").is_some() {
        return Err(Failure::logic(
            "Error: encountered obsolete optarg `return_vals`.  Use `return_changes` instead.",
        ));
    }
    let changes = match (call.option("return_changes"), call.option_datum("return_changes")?) {
        (Some(argument), Some(datum)) => {
            return_changes(&datum).map_err(|failure| failure.at(&argument.place))?
        }
        _ => ReturnChanges::No,
    };
    let write_hook = match call.option_datum("ignore_write_hook")? {
        Some(datum) if datum.is_truthy() => WriteHook::Ignored,
        Some(_) | None => WriteHook::Asked,
    };
    Ok(WriteOptions { durability: durability_option(call)?, return_changes: changes, write_hook })
}

// ---------------------------------------------------------------- insert

async fn insert(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let call = &invocation.call;
    let target = &call.arguments[0];
    let Value::Table(table) = &target.value else {
        return Err(target.value.wrong_kind("TABLE").at(&target.place));
    };
    let options = write_options(call)?;
    let conflict = conflict(run, call)?;
    let mut insert = Insert {
        run,
        table: &table.info,
        conflict,
        options,
        summary: WriteSummary::new(options.return_changes, run.limits.array_elements_max),
        waiting: Vec::new(),
        bytes: 0,
    };
    let source = &call.arguments[1];
    let documents = loaded(run, source.value.clone()).await?;
    match &documents {
        Value::Datum(datum @ Datum::Object(_)) => insert.waiting.push(datum.clone()),
        other => {
            let sequence = sequence_of(other).map_err(|failure| failure.at(&source.place))?;
            sequence.check_finite().map_err(|failure| failure.at(&source.place))?;
            let mut cursor = Cursor::open(run, &sequence, None)?;
            while let Some(row) = cursor.next(run).await? {
                insert.add(row).await?;
            }
        }
    }
    insert.finish().await.map(Value::Datum)
}

fn conflict(run: &Run, call: &Call) -> Outcome<Conflict> {
    let Some(argument) = call.option("conflict") else { return Ok(Conflict::Error) };
    let Value::Function(function) = &argument.value else {
        let datum = argument.value.clone().into_datum().map_err(|failure| failure.at(&argument.place))?;
        let word = conflict_word(&datum).map_err(|failure| failure.at(&argument.place))?;
        return Ok(match word {
            ConflictWord::Error => Conflict::Error,
            ConflictWord::Replace => Conflict::Replace,
            ConflictWord::Update => Conflict::Update,
        });
    };
    if function.determinism() > Determinism::PerQuery {
        return Err(Failure::logic("The conflict function passed to `insert` must be deterministic."));
    }
    if function.arity().is_some_and(|arity| arity != 3) {
        return Err(Failure::logic("The conflict function passed to `insert` should expect 3 arguments."));
    }
    if !function.travels() {
        return Err(Failure::logic("The conflict function passed to `insert` must be deterministic."));
    }
    Ok(Conflict::Function(function_to_bytes(function, &run.limits)?))
}

/// An insert under way.
struct Insert<'a> {
    run: &'a Run,
    table: &'a TableInfo,
    conflict: Conflict,
    options: WriteOptions,
    summary: WriteSummary,
    /// Rows as they came, still to get their keys.
    waiting: Vec<Datum>,
    bytes: usize,
}

impl Insert<'_> {
    async fn add(&mut self, row: Datum) -> Outcome<()> {
        self.bytes += row.approximate_bytes();
        self.waiting.push(row);
        if self.waiting.len() >= INSERT_ROWS_TOGETHER || self.bytes >= INSERT_BYTES_TOGETHER {
            self.send().await?;
        }
        Ok(())
    }

    async fn finish(mut self) -> Outcome<Datum> {
        self.send().await?;
        Ok(self.summary.into_datum())
    }

    /// Sends what waits and adds up the outcomes in the order of the rows.
    async fn send(&mut self) -> Outcome<()> {
        self.bytes = 0;
        if self.waiting.is_empty() {
            return Ok(());
        }
        self.give_keys().await?;
        let (mut ready, mut turns) = (Vec::new(), Vec::new());
        for row in std::mem::take(&mut self.waiting) {
            // A row that failed keeps its turn among the outcomes.
            turns.push(match insert_row(self.table, &row) {
                Ok(row) => {
                    ready.push(row);
                    None
                }
                Err(failure) => Some(refused(failure)),
            });
        }
        let mut outcomes = Vec::new();
        if !ready.is_empty() {
            let write =
                TableWrite::Insert { rows: ready, conflict: self.conflict.clone(), options: self.options };
            outcomes = self.run.write(self.table.id, write).await?;
        }
        let mut outcomes = outcomes.into_iter();
        for turn in turns {
            let outcome = turn.or_else(|| outcomes.next()).ok_or_else(wrong_reply)?;
            self.summary.add(outcome);
        }
        Ok(())
    }

    /// Rows without a primary key get a random one.
    async fn give_keys(&mut self) -> Outcome<()> {
        let primary_key = &self.table.primary_key;
        let lacks = |row: &Datum| matches!(row, Datum::Object(object) if !object.has(primary_key));
        let lacking = self.waiting.iter().filter(|row| lacks(row)).count();
        if lacking == 0 {
            return Ok(());
        }
        let random = self.run.random(lacking * 16).await?;
        let mut random = random.chunks_exact(16);
        for row in &mut self.waiting {
            if !lacks(row) {
                continue;
            }
            let Datum::Object(object) = &*row else { continue };
            let bytes = random.next().and_then(|bytes| bytes.try_into().ok()).ok_or_else(wrong_reply)?;
            let key = Datum::String(uuid_of_random(bytes).into());
            self.summary.add_generated_key(key.clone());
            let mut builder = object.to_builder();
            builder.set(primary_key.as_str(), key);
            *row = Datum::Object(builder.build());
        }
        Ok(())
    }
}

/// A document with its key, fit to be stored.
fn insert_row(table: &TableInfo, row: &Datum) -> Outcome<InsertRow> {
    let object = match row {
        Datum::Object(object) if row.pseudotype().is_none() => object,
        other => return Err(wrong_type("OBJECT", other)),
    };
    let name = &table.primary_key;
    let key = object.field(name).ok_or_else(|| Failure::internal("every row has been given a key"))?;
    Ok(InsertRow { key: key::primary(&key)?, document: storable(row)? })
}

/// The outcome of a row that never reached its table.
fn refused(failure: Failure) -> RowOutcome {
    RowOutcome { kind: RowChange::Error(failure.message), old: None, new: None }
}

// ---------------------------------------------------------------- update, replace, delete

/// What becomes of a row's old value and a function's result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rewrite {
    Update,
    Replace,
}

/// What is done to every row of a write.
enum RowWork {
    /// Where the row lives.
    There(Change),
    /// Here: the function may not or cannot travel.
    Here(Rewrite, Function),
}

async fn rewrite(run: &Run, mut invocation: Invocation, rewrite: Rewrite) -> Outcome<Value> {
    let options = write_options(&invocation.call)?;
    let atomic = !invocation.call.option_datum("non_atomic")?.is_some_and(|datum| datum.is_truthy());
    let written = invocation.node.arguments.iter().skip(1);
    let determinism = written.map(|node| node.determinism).max().unwrap_or(Determinism::Always);
    let argument = &mut invocation.call.arguments[1];
    argument.value = loaded(run, argument.value.clone()).await?;
    let function = Function::from_value(&argument.value, Meaning::Constant, &argument.place)?;
    let determinism = determinism.max(function.determinism());
    if atomic && determinism > Determinism::PerQuery {
        return Err(Failure::logic(
            "Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?",
        ));
    }
    let here = determinism > Determinism::PerQuery || !function.travels();
    let work = match (here, rewrite) {
        (true, _) => RowWork::Here(rewrite, function),
        (false, Rewrite::Update) => RowWork::There(match function.constant().and_then(plain_object) {
            Some(object) => Change::Merge(object),
            None => Change::Update(function_to_bytes(&function, &run.limits)?),
        }),
        (false, Rewrite::Replace) => {
            RowWork::There(Change::Replace(function_to_bytes(&function, &run.limits)?))
        }
    };
    change_rows(run, &invocation.call, &work, options).await
}

async fn delete(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let options = write_options(&invocation.call)?;
    change_rows(run, &invocation.call, &RowWork::There(Change::Delete), options).await
}

/// Changes the rows that the first argument selects.
async fn change_rows(run: &Run, call: &Call, work: &RowWork, options: WriteOptions) -> Outcome<Value> {
    let target = &call.arguments[0];
    let mut summary = WriteSummary::new(options.return_changes, run.limits.array_elements_max);
    let (table, sequence) = match &target.value {
        Value::Row(row) if let Some(missing) = &row.missing => return Err(missing.clone()),
        Value::Row(row) => {
            let keys = vec![row.key.clone()];
            change_batch(run, &row.table, keys, work, options, &mut summary).await?;
            return Ok(Value::Datum(summary.into_datum()));
        }
        Value::Table(table) => (table.clone(), Rc::new(Sequence::of_table(table.clone()))),
        Value::Sequence(sequence) => match (&sequence.table, sequence.kind) {
            (Some(table), SequenceKind::Selection | SequenceKind::Slice) => (table.clone(), sequence.clone()),
            (Some(_) | None, _) => return Err(target.value.wrong_kind("SELECTION").at(&target.place)),
        },
        Value::Datum(_)
        | Value::Database(_)
        | Value::Function(_)
        | Value::Grouped(_)
        | Value::Ordering(_) => return Err(target.value.wrong_kind("SELECTION").at(&target.place)),
    };
    // Only the keys are needed here: the stage that takes them travels to the rows.
    let key_of = RowTerm {
        work: Work::Field(table.info.primary_key.as_str().into()),
        name: "get_field".into(),
        place: target.place.clone(),
    };
    let keys_of_rows = sequence.transforming(Stage::Row(Rc::new(key_of)));
    let mut cursor = Cursor::open(run, &keys_of_rows, None)?;
    let mut keys = Vec::new();
    while let Some(key) = cursor.next(run).await? {
        keys.push(key::primary(&key)?);
        if keys.len() == limits::WRITE_BATCH_ROWS {
            change_batch(run, &table, std::mem::take(&mut keys), work, options, &mut summary).await?;
        }
    }
    if !keys.is_empty() {
        change_batch(run, &table, keys, work, options, &mut summary).await?;
    }
    Ok(Value::Datum(summary.into_datum()))
}

async fn change_batch(
    run: &Run,
    table: &TableHandle,
    keys: Vec<Key>,
    work: &RowWork,
    options: WriteOptions,
    summary: &mut WriteSummary,
) -> Outcome<()> {
    let change = match work {
        RowWork::There(change) => change.clone(),
        RowWork::Here(rewrite, function) => evaluate_here(run, table, &keys, *rewrite, function).await?,
    };
    let count = keys.len();
    let outcomes = run.write(table.info.id, TableWrite::Change { keys, change, options }).await?;
    if outcomes.len() != count {
        return Err(wrong_reply());
    }
    outcomes.into_iter().for_each(|outcome| summary.add(outcome));
    Ok(())
}

/// Evaluates a function here for the rows as they are now.
async fn evaluate_here(
    run: &Run,
    table: &TableHandle,
    keys: &[Key],
    rewrite: Rewrite,
    function: &Function,
) -> Outcome<Change> {
    let read = TableRead::GetMany { keys: keys.to_vec() };
    let TableReply::Rows(rows) = run.read(table.info.id, read, table.mode).await? else {
        return Err(wrong_reply());
    };
    let mut results = Vec::with_capacity(rows.len());
    for row in rows {
        let old = row.map_or(Datum::Null, |bytes| document::decode(bytes.into()));
        results.push(match new_value(run, rewrite, function, &old).await {
            Ok(Datum::Null) => Ok(None),
            Ok(new) => Ok(Some(document::to_bytes(&new))),
            Err(failure) => Err(row_error(failure)?),
        });
    }
    Ok(Change::Put(results))
}

/// A failure of one row is that row's error; one of the server or of the user's budget is the query's.
fn row_error(failure: Failure) -> Outcome<String> {
    match failure.kind {
        ErrorKind::QueryLogic
        | ErrorKind::NonExistence
        | ErrorKind::User
        | ErrorKind::OpFailed
        | ErrorKind::ResourceLimit => Ok(failure.message),
        ErrorKind::Client
        | ErrorKind::Compile
        | ErrorKind::Internal
        | ErrorKind::OpIndeterminate
        | ErrorKind::Permission => Err(failure),
    }
}

async fn new_value(run: &Run, rewrite: Rewrite, function: &Function, old: &Datum) -> Outcome<Datum> {
    match rewrite {
        Rewrite::Update if old.is_null() => Ok(Datum::Null),
        Rewrite::Update => updated(old, &function.datum(run, std::slice::from_ref(old)).await?),
        Rewrite::Replace => function.datum(run, std::slice::from_ref(old)).await,
    }
}

// ---------------------------------------------------------------- sync

async fn sync(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let target = &invocation.call.arguments[0];
    let Value::Table(table) = &target.value else {
        return Err(target.value.wrong_kind("TABLE").at(&target.place));
    };
    run.write(table.info.id, TableWrite::Sync).await?;
    let mut answer = ObjectBuilder::default();
    answer.set("synced", Datum::Number(1.0));
    Ok(Value::Datum(Datum::Object(answer.build())))
}

#[cfg(test)]
mod tests {
    use crate::world::World;

    const T: &str = r#"[15,["t"]]"#;

    /// Asks one query after another of a new server; `$t` is the table.
    #[track_caller]
    fn check(rows: &[(&str, &str)]) {
        let mut world = World::new();
        for (query, want) in rows {
            let query = format!("[1,{}]", query.replace("$t", T));
            assert_eq!(world.answer(&query), *want, "{query}");
        }
    }

    /// A write's answer from what is not zero in it.
    fn counted(parts: &str) -> String {
        let names = ["deleted", "errors", "inserted", "replaced", "skipped", "unchanged"];
        let count = |name: &str| {
            let found = parts.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
            format!("\"{name}\":{}", found.unwrap_or("0"))
        };
        format!("{{{}}}", names.map(count).join(","))
    }

    #[test]
    fn inserts_put_documents_one_or_many() {
        check(&[
            (r#"[56,[$t,{"id":1,"a":2}]]"#, &counted("inserted=1")),
            (r#"[56,[$t,[2,[{"id":2},{"id":3}]]]]"#, &counted("inserted=2")),
            ("[43,[$t]]", "3"),
            ("[16,[$t,1]]", r#"{"a":2,"id":1}"#),
            (r#"[56,[$t,[38,[[173,[10,20]],[69,[[2,[1]],{"id":[10,[1]]}]]]]]]"#, &counted("inserted=10")),
            ("[43,[$t]]", "13"),
            ("[56,[$t,1]]", "! Cannot convert NUMBER to SEQUENCE"),
            ("[56,[1,{}]]", "! Expected type TABLE but found DATUM:\n1"),
        ]);
    }

    #[test]
    fn rows_that_fail_are_counted_and_the_others_go_on() {
        check(&[
            (
                r#"[56,[$t,[2,[true,{"id":1},{"id":null}]]]]"#,
                r#"{"deleted":0,"errors":2,"first_error":"Expected type OBJECT but found BOOL.","inserted":1,"replaced":0,"skipped":0,"unchanged":0}"#,
            ),
            (
                r#"[56,[$t,[2,[{"id":2},{"id":2,"b":1}]]]]"#,
                r#"{"deleted":0,"errors":1,"first_error":"Duplicate primary key `id`:\n{\n\t\"id\":\t2\n}\n{\n\t\"b\":\t1,\n\t\"id\":\t2\n}","inserted":1,"replaced":0,"skipped":0,"unchanged":0}"#,
            ),
        ]);
    }

    #[test]
    fn keys_are_made_for_rows_without() {
        check(&[
            (r#"[43,[[170,[[56,[$t,[2,[{"a":1},{"id":5},{"a":2}]]]],"generated_keys"]]]]"#, "2"),
            ("[43,[$t]]", "3"),
        ]);
    }

    #[test]
    fn conflicts_end_as_the_option_says() {
        let conflict = |row: &str, option: &str| format!(r#"[56,[$t,{row}],{{"conflict":{option}}}]"#);
        let join =
            r#"[69,[[2,[1,2,3]],{"id":[10,[1]],"n":[24,[[170,[[10,[2]],"n"]],[170,[[10,[3]],"n"]]]]}]]"#;
        check(&[
            (r#"[56,[$t,{"id":1,"n":1}]]"#, &counted("inserted=1")),
            (&conflict(r#"{"id":1,"a":1}"#, r#""update""#), &counted("replaced=1")),
            (&conflict(r#"{"id":1,"a":1}"#, r#""update""#), &counted("unchanged=1")),
            ("[16,[$t,1]]", r#"{"a":1,"id":1,"n":1}"#),
            (&conflict(r#"{"id":1,"n":2}"#, r#""replace""#), &counted("replaced=1")),
            (&conflict(r#"{"id":1,"n":40}"#, join), &counted("replaced=1")),
            ("[16,[$t,1]]", r#"{"id":1,"n":42}"#),
            (&conflict(r#"{"id":1,"n":40}"#, "[69,[[2,[1,2,3]],null]]"), &counted("deleted=1")),
            (
                &conflict(r#"{"id":1}"#, r#""x""#),
                "! Conflict option `x` unrecognized (options are \"error\", \"replace\" and \"update\").",
            ),
            (
                &conflict(r#"{"id":1}"#, "[69,[[2,[1,2,3]],[151,[]]]]"),
                "! The conflict function passed to `insert` must be deterministic.",
            ),
        ]);
    }

    #[test]
    fn changes_are_returned_when_asked_for() {
        let changes = |query: &str| format!(r#"[170,[{query},"changes"]]"#);
        check(&[
            (
                &changes(r#"[56,[$t,{"id":1}],{"return_changes":true}]"#),
                r#"[{"new_val":{"id":1},"old_val":null}]"#,
            ),
            (&changes(r#"[53,[[16,[$t,1]],{"id":1}],{"return_changes":true}]"#), "[]"),
            (
                &changes(r#"[53,[[16,[$t,1]],{"id":1}],{"return_changes":"always"}]"#),
                r#"[{"new_val":{"id":1},"old_val":{"id":1}}]"#,
            ),
            (
                &changes(r#"[56,[$t,{"id":1,"a":1}],{"return_changes":"always"}]"#),
                r#"[{"error":"Duplicate primary key `id`:\n{\n\t\"id\":\t1\n}\n{\n\t\"a\":\t1,\n\t\"id\":\t1\n}","new_val":{"id":1},"old_val":{"id":1}}]"#,
            ),
            (
                &changes(r#"[54,[[16,[$t,1]]],{"return_changes":true}]"#),
                r#"[{"new_val":null,"old_val":{"id":1}}]"#,
            ),
            (
                r#"[54,[$t],{"return_changes":"sometimes"}]"#,
                "! Invalid return_changes value `sometimes` (options are `true`, `false`, and `'always'`.)",
            ),
            (
                r#"[54,[$t],{"return_vals":true}]"#,
                "! Error: encountered obsolete optarg `return_vals`.  Use `return_changes` instead.",
            ),
        ]);
    }

    #[test]
    fn updates_and_replaces_rewrite_what_is_selected() {
        let add = r#"[69,[[2,[9]],{"n":[24,[[170,[[10,[9]],"id"]],1]]}]]"#;
        check(&[
            (r#"[56,[$t,[38,[[173,[20]],[69,[[2,[1]],{"id":[10,[1]]}]]]]]]"#, &counted("inserted=20")),
            (&format!("[53,[$t,{add}]]"), &counted("replaced=20")),
            ("[16,[$t,7]]", r#"{"id":7,"n":8}"#),
            (r#"[53,[[182,[$t,5,10]],{"m":1}]]"#, &counted("replaced=5")),
            (r#"[53,[[39,[$t,{"m":1}]],{"m":1}]]"#, &counted("unchanged=5")),
            (r#"[53,[[16,[$t,100]],{"m":1}]]"#, &counted("skipped=1")),
            (r#"[55,[[16,[$t,100]],{"id":100}]]"#, &counted("inserted=1")),
            ("[55,[[16,[$t,100]],null]]", &counted("deleted=1")),
            ("[55,[[16,[$t,100]],null]]", &counted("skipped=1")),
            ("[53,[[16,[$t,1]],null]]", &counted("unchanged=1")),
            ("[54,[[71,[$t,3]]]]", &counted("deleted=3")),
            ("[54,[$t]]", &counted("deleted=17")),
            ("[53,[[2,[1]],{}]]", "! Expected type SELECTION but found DATUM:\n[\n\t1\n]"),
        ]);
    }

    #[test]
    fn functions_that_may_not_travel_need_the_flag() {
        let refusal = "! Could not prove argument deterministic.  Maybe you want to use the non_atomic flag?";
        check(&[
            (r#"[56,[$t,[2,[{"id":1,"a":1},{"id":2}]]]]"#, &counted("inserted=2")),
            ("[53,[$t,[16,[$t,1]]]]", refusal),
            (r#"[53,[$t,[69,[[2,[1]],{"x":[43,[$t]]}]]]]"#, refusal),
            (r#"[53,[$t,[69,[[2,[1]],{"x":[43,[$t]]}]]],{"non_atomic":true}]"#, &counted("replaced=2")),
            ("[16,[$t,2]]", r#"{"id":2,"x":2}"#),
            (
                r#"[170,[[55,[$t,[69,[[2,[1]],[43,[$t]]]]],{"non_atomic":true}],"first_error"]]"#,
                r#""Inserted value must be an OBJECT (got NUMBER):\n2""#,
            ),
            // A captured row is no datum yet: the function stays here.
            (
                r#"[64,[[69,[[2,[7]],[53,[[16,[$t,2]],[69,[[2,[8]],{"y":[170,[[10,[7]],"a"]]}]]]]]],[16,[$t,1]]]]"#,
                &counted("replaced=1"),
            ),
            ("[16,[$t,2]]", r#"{"id":2,"x":2,"y":1}"#),
        ]);
    }

    #[test]
    fn a_function_that_fails_fails_its_row() {
        check(&[
            (r#"[56,[$t,[2,[{"id":1,"a":1},{"id":2}]]]]"#, &counted("inserted=2")),
            (
                r#"[53,[$t,[69,[[2,[1]],{"b":[170,[[10,[1]],"a"]]}]]]]"#,
                r#"{"deleted":0,"errors":1,"first_error":"No attribute `a` in object:\n{\n\t\"id\":\t2\n}","inserted":0,"replaced":1,"skipped":0,"unchanged":0}"#,
            ),
            (
                r#"[170,[[55,[[16,[$t,1]],{"id":2}]],"first_error"]]"#,
                r#""Primary key `id` cannot be changed (`{\n\t\"a\":\t1,\n\t\"b\":\t1,\n\t\"id\":\t1\n}` -> `{\n\t\"id\":\t2\n}`).""#,
            ),
        ]);
    }

    #[test]
    fn literals_replace_and_remove_in_updates() {
        check(&[
            (r#"[56,[$t,{"id":1,"a":{"b":1},"c":2}]]"#, &counted("inserted=1")),
            (r#"[53,[[16,[$t,1]],{"a":[137,[{"d":1}]],"c":[137,[]]}]]"#, &counted("replaced=1")),
            ("[16,[$t,1]]", r#"{"a":{"d":1},"id":1}"#),
        ]);
    }

    #[test]
    fn soft_and_hard_are_all_the_durability_there_is() {
        check(&[
            (r#"[54,[$t],{"durability":"soft"}]"#, &counted("")),
            (
                r#"[54,[$t],{"durability":"none"}]"#,
                "! Durability option `none` unrecognized (options are \"hard\" and \"soft\").",
            ),
            ("[138,[$t]]", r#"{"synced":1}"#),
        ]);
    }

    #[test]
    fn a_row_is_written_without_reading_it_first() {
        let mut world = World::new();
        world.answer(r#"[1,[53,[[16,[[15,["t"]],1]],{"a":1}]]]"#);
        assert_eq!(world.asked, ["write"]);
    }

    #[test]
    fn a_write_hook_has_the_last_word() {
        let stamp = r#"[69,[[2,[1,2,3]],[35,[[10,[3]],{"k":[170,[[10,[1]],"primary_key"]],"t":[102,[[170,[[10,[1]],"timestamp"]]]]}]]]]"#;
        let first_error = |write: &str| format!(r#"[170,[{write},"first_error"]]"#);
        let function = |body: &str| format!("[189,[$t,[69,[[2,[1,2,3]],{body}]]]]");
        check(&[
            ("[190,[$t]]", "null"),
            (&format!("[189,[$t,{stamp}]]"), r#"{"created":1}"#),
            (r#"[56,[$t,{"id":5}]]"#, &counted("inserted=1")),
            ("[16,[$t,5]]", r#"{"id":5,"k":5,"t":1}"#),
            (r#"[56,[$t,{"id":6}],{"ignore_write_hook":true}]"#, &counted("inserted=1")),
            ("[16,[$t,6]]", r#"{"id":6}"#),
            (r#"[53,[$t,{"a":1}]]"#, &counted("replaced=2")),
            ("[16,[$t,6]]", r#"{"a":1,"id":6,"k":6,"t":1}"#),
            (
                r#"[170,[[190,[$t]],"query"]]"#,
                r#""setWriteHook(function(var1, var2, var3) { return var3.merge({\"k\": var1(\"primary_key\"), \"t\": var1(\"timestamp\").toEpochTime()}); })""#,
            ),
            (r#"[189,[$t,[170,[[190,[$t]],"function"]]]]"#, r#"{"replaced":1}"#),
            (
                &first_error(r#"[55,[[16,[$t,5]],null]]"#),
                r#""Error in write hook: Cannot perform merge on a non-object non-sequence `null`.""#,
            ),
            (&function("[10,[2]]"), r#"{"replaced":1}"#),
            (
                &first_error(r#"[54,[$t]]"#),
                r#""A write hook function must not turn a deletion into a replace/insert.""#,
            ),
            (
                &first_error(r#"[56,[$t,{"id":9}]]"#),
                r#""A write hook function must not turn a replace/insert into a deletion.""#,
            ),
            ("[189,[$t,null]]", r#"{"deleted":1}"#),
            ("[54,[$t]]", &counted("deleted=2")),
            (
                "[189,[$t,[155,[\"x\"]]]]",
                "! Cannot create a write hook except from a reql_write_hook_function returned from `get_write_hook`.",
            ),
            ("[189,[$t,[69,[[2,[1]],1]]]]", "! Write hook functions must expect 3 arguments."),
            (
                &function("[103,[]]"),
                "! Could not prove function deterministic.  Write hook functions must be deterministic.",
            ),
            ("[189,[$t,1]]", "! Expected type FUNCTION but found DATUM:\n1"),
        ]);
    }

    #[test]
    fn for_each_adds_up_what_its_writes_did() {
        check(&[
            (r#"[68,[[2,[1,2,3]],[69,[[2,[1]],[56,[$t,{"id":[10,[1]]}]]]]]]"#, &counted("inserted=3")),
            ("[43,[$t]]", "3"),
        ]);
    }
}
