//! Joins: nested loops over two sequences, and lookups of keys in a table.
//!
//! The right side of a nested loop is opened anew for each row of the left: nothing is gathered. EQ_JOIN reads the right
//! rows by key, many at a time. By primary key pairs come in the order of the left rows; by an index they come as they are
//! found, unless `ordered` asks for more: then the partners of some rows are gathered.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::rc::Rc;

use photondb_proto::datum::{Datum, document, key};
use photondb_proto::op::{Key, ScanOrder, TableRead, TableReply};

use crate::cursor::Cursor;
use crate::failure::{Failure, Outcome};
use crate::function::Function;
use crate::index;
use crate::run::{Run, wrong_reply};
use crate::scan::ScanCursor;
use crate::stream::{ScanIndex, Sequence, TableScan, ranges_of};
use crate::terms::object;
use crate::value::{TableHandle, wrong_type};

/// Left rows whose partners are read together.
const LOOKED_UP_TOGETHER: usize = 128;

#[derive(Debug)]
pub enum Join {
    Loops { left: Rc<Sequence>, right: Rc<Sequence>, function: Function, outer: bool },
    Lookup { left: Rc<Sequence>, lookup: Lookup },
}

/// How EQ_JOIN finds the right rows.
#[derive(Clone, Debug)]
pub struct Lookup {
    pub table: TableHandle,
    pub index: ScanIndex,
    /// Gives the key of a left row.
    pub function: Function,
    pub ordered: Ordered,
}

/// Whether pairs must come in the order of the left rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ordered {
    Yes,
    No,
}

impl Join {
    pub fn is_infinite(&self) -> bool {
        match self {
            Join::Loops { left, right, .. } => left.is_infinite() || right.is_infinite(),
            Join::Lookup { left, .. } => left.is_infinite(),
        }
    }

    pub fn has_feed(&self) -> bool {
        match self {
            Join::Loops { left, right, .. } => left.has_feed() || right.has_feed(),
            Join::Lookup { left, .. } => left.has_feed(),
        }
    }
}

pub enum JoinCursor {
    Loops {
        left: Box<Cursor>,
        right: Rc<Sequence>,
        function: Function,
        outer: bool,
        /// The left row, the cursor over the right ones, and whether any matched.
        current: Option<Box<(Datum, Cursor, bool)>>,
    },
    Lookup(Box<LookupCursor>),
}

impl JoinCursor {
    pub fn open(run: &Run, join: &Join) -> Outcome<JoinCursor> {
        Ok(match join {
            Join::Loops { left, right, function, outer } => JoinCursor::Loops {
                left: Box::new(Cursor::open(run, left, None)?),
                right: right.clone(),
                function: function.clone(),
                outer: *outer,
                current: None,
            },
            Join::Lookup { left, lookup } => JoinCursor::Lookup(Box::new(LookupCursor {
                left: Cursor::open(run, left, None)?,
                left_ended: false,
                lookup: lookup.clone(),
                pairs: VecDeque::new(),
                partners: None,
            })),
        })
    }

    pub async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        match self {
            JoinCursor::Loops { left, right, function, outer, current } => loop {
                let Some((row, cursor, matched)) = current.as_deref_mut() else {
                    let Some(row) = left.next_boxed(run).await? else { return Ok(None) };
                    *current = Some(Box::new((row, Cursor::open(run, right, None)?, false)));
                    continue;
                };
                let Some(partner) = cursor.next_boxed(run).await? else {
                    let alone = *outer && !*matched;
                    let row = row.clone();
                    *current = None;
                    if alone {
                        return Ok(Some(Datum::object([("left", row)])));
                    }
                    continue;
                };
                if function.datum(run, &[row.clone(), partner.clone()]).await?.is_truthy() {
                    *matched = true;
                    return Ok(Some(pair(row.clone(), partner)));
                }
            },
            JoinCursor::Lookup(lookup) => lookup.next(run).await,
        }
    }
}

fn pair(left: Datum, right: Datum) -> Datum {
    Datum::object([("left", left), ("right", right)])
}

/// Rows of a table by the keys of the left rows, many at a time.
pub struct LookupCursor {
    left: Cursor,
    left_ended: bool,
    lookup: Lookup,
    pairs: VecDeque<Datum>,
    /// The index entries of the left rows under way, and these rows by their value's key.
    partners: Option<(ScanCursor, HashMap<Key, Vec<Datum>>)>,
}

impl LookupCursor {
    async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        loop {
            if let Some(pair) = self.pairs.pop_front() {
                return Ok(Some(pair));
            }
            if let Some((scan, lefts)) = &mut self.partners {
                match scan.next_keyed(run).await? {
                    Some((value, partner)) => {
                        let lefts = lefts.get(&value).into_iter().flatten();
                        self.pairs.extend(lefts.map(|left| pair(left.clone(), partner.clone())));
                    }
                    None => self.partners = None,
                }
                continue;
            }
            if self.left_ended {
                return Ok(None);
            }
            let rows = self.left_rows(run).await?;
            match (&self.lookup.index, self.lookup.ordered) {
                _ if rows.is_empty() => {}
                (ScanIndex::Primary, _) => self.look_up(run, rows).await?,
                (ScanIndex::Secondary(_), Ordered::No) => {
                    let scan = self.scan(&rows)?;
                    let mut lefts: HashMap<Key, Vec<Datum>> = HashMap::new();
                    rows.into_iter().for_each(|(key, row)| lefts.entry(key).or_default().push(row));
                    self.partners = Some((scan, lefts));
                }
                (ScanIndex::Secondary(_), Ordered::Yes) => self.gather(run, rows).await?,
            }
        }
    }

    /// The next left rows that have a key, with it.
    async fn left_rows(&mut self, run: &Run) -> Outcome<Vec<(Key, Datum)>> {
        let mut rows = Vec::new();
        while rows.len() < LOOKED_UP_TOGETHER {
            let Some(row) = self.left.next_boxed(run).await? else {
                self.left_ended = true;
                break;
            };
            if let Some(key) = self.lookup.key(run, &row).await? {
                rows.push((key, row));
            }
        }
        Ok(rows)
    }

    async fn look_up(&mut self, run: &Run, rows: Vec<(Key, Datum)>) -> Outcome<()> {
        let (keys, rows): (Vec<Key>, Vec<Datum>) = rows.into_iter().unzip();
        let table = &self.lookup.table;
        let read = TableRead::GetMany { keys };
        let TableReply::Rows(found) = run.read(table.info.id, read, table.mode).await? else {
            return Err(wrong_reply());
        };
        for (row, partner) in rows.into_iter().zip(found) {
            if let Some(bytes) = partner {
                self.pairs.push_back(pair(row, document::decode(bytes.into())));
            }
        }
        Ok(())
    }

    /// A scan of the entries that these rows ask for, each once.
    fn scan(&self, rows: &[(Key, Datum)]) -> Outcome<ScanCursor> {
        let Lookup { table, index, .. } = &self.lookup;
        let keys: BTreeSet<&Key> = rows.iter().map(|(key, _)| key).collect();
        let ranges = ranges_of(keys.into_iter().map(|key| index::range_of_key(key)));
        let scan =
            TableScan { ranges, order: ScanOrder::Keyed, ..TableScan::new(table.clone(), index.clone()) };
        Ok(ScanCursor::new(&scan, Vec::new(), Some(rows.len() as u64)))
    }

    /// Pairs in the order of the left rows: the partners of all of them are gathered first.
    async fn gather(&mut self, run: &Run, rows: Vec<(Key, Datum)>) -> Outcome<()> {
        let mut scan = self.scan(&rows)?;
        let mut charge = run.charge();
        let mut partners: HashMap<Key, Vec<Datum>> = HashMap::new();
        while let Some((value, partner)) = scan.next_keyed(run).await? {
            charge.add(partner.approximate_bytes())?;
            partners.entry(value).or_default().push(partner);
        }
        for (key, row) in rows {
            let partners = partners.get(&key).into_iter().flatten();
            self.pairs.extend(partners.map(|partner| pair(row.clone(), partner.clone())));
        }
        Ok(())
    }
}

impl Lookup {
    /// The key a left row asks for; rows without one have no partners.
    async fn key(&self, run: &Run, row: &Datum) -> Outcome<Option<Key>> {
        let datum = match self.function.datum(run, std::slice::from_ref(row)).await {
            Ok(Datum::Null) => return Ok(None),
            Ok(datum) => datum,
            Err(failure) if failure.is_missing() => return Ok(None),
            Err(failure) => return Err(failure),
        };
        let key = match &self.index {
            ScanIndex::Primary => key::primary(&datum),
            ScanIndex::Secondary(_) => key::secondary_bound(&datum),
        };
        Ok(Some(key.map_err(|error| Failure::from(error).at(self.function.body_place()))?))
    }
}

/// ZIP: merges the right side of a pair into the left.
pub fn zip(row: &Datum) -> Outcome<Datum> {
    let refused = || Failure::logic("ZIP can only be called on the result of a join.");
    let Datum::Object(object) = row else { return Err(wrong_type("OBJECT", row)) };
    match (object.field("left"), object.field("right")) {
        (Some(left), Some(right)) => object::merge(&left, &right),
        (Some(left), None) => Ok(left),
        (None, _) => Err(refused()),
    }
}
