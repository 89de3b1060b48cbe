//! Ordered scans of an index whose further sort keys decide between rows with equal values.
//!
//! Always: rows of one value are gathered and sorted, within `array_limit` and the memory budget; those of different values
//! come in the order of the scan.

use std::collections::VecDeque;
use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::op::Key;

use crate::call::check_array_size;
use crate::failure::Outcome;
use crate::merge::SortKeys;
use crate::run::Run;
use crate::scan::ScanCursor;

pub struct TiesCursor {
    scan: ScanCursor,
    keys: Rc<SortKeys>,
    /// The first row of the next value.
    head: Option<(Key, Datum)>,
    sorted: VecDeque<Datum>,
    ended: bool,
}

impl TiesCursor {
    pub fn new(scan: ScanCursor, keys: Rc<SortKeys>) -> TiesCursor {
        TiesCursor { scan, keys, head: None, sorted: VecDeque::new(), ended: false }
    }

    pub fn at_hand(&mut self) -> Option<Datum> {
        self.sorted.pop_front()
    }

    pub async fn next(&mut self, run: &Run) -> Outcome<Option<Datum>> {
        if self.sorted.is_empty() && !self.ended {
            self.fill(run).await?;
        }
        Ok(self.sorted.pop_front())
    }

    /// Gathers and sorts the rows of the next value.
    async fn fill(&mut self, run: &Run) -> Outcome<()> {
        let first = match self.head.take() {
            Some(head) => Some(head),
            None => self.scan.next_keyed(run).await?,
        };
        let Some((value, first)) = first else {
            self.ended = true;
            return Ok(());
        };
        let mut rows = vec![first];
        let mut charge = run.charge();
        loop {
            match self.scan.next_keyed(run).await? {
                Some((next, row)) if next == value => {
                    charge.add(row.approximate_bytes())?;
                    rows.push(row);
                    check_array_size(rows.len(), &run.limits)?;
                }
                Some(head) => {
                    self.head = Some(head);
                    break;
                }
                None => {
                    self.ended = true;
                    break;
                }
            }
        }
        let rows = if rows.len() > 1 { self.keys.sort(run, rows).await? } else { rows };
        self.sorted = rows.into();
        Ok(())
    }
}
