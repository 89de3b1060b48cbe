//! Writing where the rows are: the core that owns a row asks [`RowWriter`] what becomes of it.
//!
//! Always: nothing is written here. The owner reads a row, asks, reads again and asks once more if the row changed while
//! a function ran, then applies the decision. A writer is made once for a batch: its function is decoded and
//! checked then. Functions here ask for nothing ([`Ops::Forbidden`]): those that must are evaluated by the coordinator
//! ([`Change::Put`]).
//!
//! A function travels behind a head of 16 bytes, since its result may depend on them: `now` (epoch seconds, 8 bytes,
//! little-endian double) and `array_limit` (8 bytes, little-endian).

use std::rc::Rc;

use photondb_proto::datum::{Datum, Slice, Time, document, key};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::limits;
use photondb_proto::op::{Change, Conflict, Document, ReturnChanges, RowChange, RowOutcome, WriteOptions};

use crate::blob;
use crate::call::Limits;
use crate::failure::{Failure, Outcome};
use crate::function::{Function, Meaning};
pub use crate::row::{RowDecision, RowEffect};
use crate::row::{RowRules, updated};
use crate::run::{Ops, Run};

/// Memory one function may gather for one row: several documents of the largest size.
const FUNCTION_MEMORY_BYTES: usize = 256 << 20;
const HEAD_BYTES: usize = 16;

/// Decides rows of one batch of a write.
pub struct RowWriter {
    rules: RowRules,
    rule: Rule,
    hook: Option<Hook>,
}

/// The table's write hook, with the moment of the write.
struct Hook {
    asked: Asked,
    timestamp: Datum,
}

enum Rule {
    InsertOrError,
    InsertOrReplace,
    InsertOrUpdate,
    InsertOrAsk(Asked),
    Update(Asked),
    Merge(Document),
    Replace(Asked),
    Delete,
    Put(Vec<Result<Option<Document>, String>>),
}

/// A function that has come to the row.
struct Asked {
    function: Function,
    run: Run,
}

/// The bytes of a function that travels to the rows of a write.
pub fn function_to_bytes(function: &Function, limits: &Limits) -> Outcome<Vec<u8>> {
    let mut out = Vec::with_capacity(HEAD_BYTES + 64);
    out.extend_from_slice(&limits.now_epoch_seconds.to_le_bytes());
    out.extend_from_slice(&(limits.array_elements_max as u64).to_le_bytes());
    out.extend_from_slice(&function.to_bytes()?);
    Ok(out)
}

impl Asked {
    fn from_bytes(bytes: &[u8]) -> Outcome<Asked> {
        let Some((head, function)) = bytes.split_first_chunk::<HEAD_BYTES>() else {
            return Err(Failure::internal("a travelling function lacks its head"));
        };
        let (now, limit) = head.split_first_chunk::<8>().expect("the head has 16 bytes");
        let limit = u64::from_le_bytes(limit.try_into().expect("the other 8 bytes"));
        let limits = Limits {
            now_epoch_seconds: f64::from_le_bytes(*now),
            array_elements_max: usize::try_from(limit).unwrap_or(usize::MAX),
            value_bytes_max: FUNCTION_MEMORY_BYTES,
        };
        let run = Run::new(limits, FUNCTION_MEMORY_BYTES, "".into(), Ops::Forbidden);
        Ok(Asked { function: Function::from_bytes(function, Meaning::Constant)?, run })
    }

    async fn answer(&self, arguments: &[Datum]) -> Outcome<Datum> {
        self.function.datum(&self.run, arguments).await
    }
}

impl RowWriter {
    /// For the rows of an insert.
    ///
    /// # Errors
    /// The function's bytes are none: the whole write fails.
    pub fn for_insert(
        primary_key: &str,
        conflict: &Conflict,
        options: WriteOptions,
    ) -> Result<RowWriter, QueryError> {
        let rule = match conflict {
            Conflict::Error => Rule::InsertOrError,
            Conflict::Replace => Rule::InsertOrReplace,
            Conflict::Update => Rule::InsertOrUpdate,
            Conflict::Function(bytes) => {
                Rule::InsertOrAsk(Asked::from_bytes(bytes).map_err(Failure::into_query_error)?)
            }
        };
        Ok(RowWriter::new(primary_key, rule, options))
    }

    /// For the rows of an update, replace or delete.
    ///
    /// # Errors
    /// The function's bytes are none: the whole write fails.
    pub fn for_change(
        primary_key: &str,
        change: Change,
        options: WriteOptions,
    ) -> Result<RowWriter, QueryError> {
        let asked = |bytes: &[u8]| Asked::from_bytes(bytes).map_err(Failure::into_query_error);
        let rule = match change {
            Change::Update(bytes) => Rule::Update(asked(&bytes)?),
            Change::Merge(object) => Rule::Merge(object),
            Change::Replace(bytes) => Rule::Replace(asked(&bytes)?),
            Change::Delete => Rule::Delete,
            Change::Put(rows) => Rule::Put(rows),
        };
        Ok(RowWriter::new(primary_key, rule, options))
    }

    fn new(primary_key: &str, rule: Rule, options: WriteOptions) -> RowWriter {
        let rules = RowRules { primary_key: primary_key.to_owned(), return_changes: options.return_changes };
        RowWriter { rules, rule, hook: None }
    }

    /// Asks the table's write hook what is to be written.
    ///
    /// # Errors
    /// The hook's bytes are none: the whole write fails.
    pub fn with_hook(mut self, blob: &[u8], now_ms: u64) -> Result<RowWriter, QueryError> {
        let function = blob::write_hook_of(blob).map_err(Failure::into_query_error)?;
        let epoch_seconds = now_ms as f64 / 1000.0;
        let limits = Limits {
            now_epoch_seconds: epoch_seconds,
            array_elements_max: limits::ARRAY_ELEMENTS_DEFAULT,
            value_bytes_max: FUNCTION_MEMORY_BYTES,
        };
        let run = Run::new(limits, FUNCTION_MEMORY_BYTES, "".into(), Ops::Forbidden);
        let timestamp = Datum::Time(Time { epoch_seconds, zone_minutes: 0 });
        self.hook = Some(Hook { asked: Asked { function, run }, timestamp });
        Ok(self)
    }

    /// What is written in the place of what the write wants.
    async fn hooked(&self, key: &Datum, old: &Datum, wanted: Outcome<Datum>) -> Outcome<Datum> {
        let Some(hook) = &self.hook else { return wanted };
        let wanted = wanted?;
        let context = Datum::object([("primary_key", key.clone()), ("timestamp", hook.timestamp.clone())]);
        let deletes = wanted.is_null();
        let new = hook.asked.answer(&[context, old.clone(), wanted]).await.map_err(|mut failure| {
            failure.message = format!("Error in write hook: {}", failure.message);
            failure
        })?;
        match (deletes, new.is_null()) {
            (true, false) => Err(Failure::new(
                ErrorKind::OpFailed,
                "A write hook function must not turn a deletion into a replace/insert.",
            )),
            (false, true) => Err(Failure::new(
                ErrorKind::OpFailed,
                "A write hook function must not turn a replace/insert into a deletion.",
            )),
            (true, true) | (false, false) => Ok(new),
        }
    }

    /// What an insert does to the row of its key. `new` is a document with that key, fit to be stored.
    pub async fn insert(&self, old: Option<Rc<[u8]>>, new: &[u8]) -> RowDecision {
        let Some(old) = old else {
            return match self.hook {
                Some(_) => Box::pin(self.hooked_insert(new)).await,
                None => self.inserted(new),
            };
        };
        let (old, new) = (view(old), document::from_bytes(new));
        let key = field(&new, &self.rules.primary_key);
        let wanted = match &self.rule {
            Rule::InsertOrError => return self.rules.duplicate(&old, &new),
            Rule::InsertOrReplace => Ok(new),
            Rule::InsertOrUpdate => updated(&old, &new),
            Rule::InsertOrAsk(asked) => Box::pin(asked.answer(&[key.clone(), old.clone(), new])).await,
            Rule::Update(_) | Rule::Merge(_) | Rule::Replace(_) | Rule::Delete | Rule::Put(_) => {
                Err(misused())
            }
        };
        let wanted = match self.hook {
            Some(_) => Box::pin(self.hooked(&key, &old, wanted)).await,
            None => wanted,
        };
        self.rules.decide(&key, &old, wanted)
    }

    /// What the hook makes of a document whose key is free.
    async fn hooked_insert(&self, new: &[u8]) -> RowDecision {
        let new = document::from_bytes(new);
        let key = field(&new, &self.rules.primary_key);
        let wanted = self.hooked(&key, &Datum::Null, Ok(new)).await;
        self.rules.decide(&key, &Datum::Null, wanted)
    }

    /// A key that is free needs no look at the document.
    fn inserted(&self, new: &[u8]) -> RowDecision {
        let (old, shown) = match self.rules.return_changes {
            ReturnChanges::No => (None, None),
            ReturnChanges::Changed | ReturnChanges::Always => {
                (Some(document::to_bytes(&Datum::Null)), Some(new.to_vec()))
            }
        };
        let outcome = RowOutcome { kind: RowChange::Inserted, old, new: shown };
        RowDecision { effect: RowEffect::Put(new.to_vec()), outcome }
    }

    /// What an update, replace or delete does to the row under `key`. `index` is its place among the keys of the
    /// [`Change`] this writer was made for.
    pub async fn change(&self, index: usize, key: &[u8], old: Option<Rc<[u8]>>) -> RowDecision {
        if let (Rule::Merge(object), Some(old), None) = (&self.rule, &old, &self.hook)
            && let Some(decision) = self.rules.set(old, object)
        {
            return decision;
        }
        let old = old.map_or(Datum::Null, view);
        let wanted = match &self.rule {
            Rule::Update(_) | Rule::Merge(_) if old.is_null() => Ok(Datum::Null),
            Rule::Merge(object) => updated(&old, &document::from_bytes(object)),
            Rule::Update(asked) => {
                asked.answer(std::slice::from_ref(&old)).await.and_then(|change| updated(&old, &change))
            }
            Rule::Replace(asked) => asked.answer(std::slice::from_ref(&old)).await,
            Rule::Delete => Ok(Datum::Null),
            Rule::Put(rows) => match rows.get(index) {
                Some(Ok(Some(bytes))) => Ok(document::from_bytes(bytes)),
                Some(Ok(None)) => Ok(Datum::Null),
                Some(Err(message)) => Err(Failure::logic(message.clone())),
                None => Err(misused()),
            },
            Rule::InsertOrError | Rule::InsertOrReplace | Rule::InsertOrUpdate | Rule::InsertOrAsk(_) => {
                Err(misused())
            }
        };
        let key = match old.is_null() {
            true => key::decode(key).unwrap_or(Datum::Null),
            false => field(&old, &self.rules.primary_key),
        };
        let wanted = match self.hook {
            Some(_) => Box::pin(self.hooked(&key, &old, wanted)).await,
            None => wanted,
        };
        self.rules.decide(&key, &old, wanted)
    }
}

/// A stored row.
fn view(bytes: Rc<[u8]>) -> Datum {
    document::decode_storable(Slice::new(bytes))
}

fn field(document: &Datum, name: &str) -> Datum {
    match document {
        Datum::Object(object) => object.field(name).unwrap_or(Datum::Null),
        _ => Datum::Null,
    }
}

fn misused() -> Failure {
    Failure::internal("a row was handed to the writer of another write")
}
