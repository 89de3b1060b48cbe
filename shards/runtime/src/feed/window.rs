//! The first rows of a table in the order of an index, kept right under any change.
//!
//! Always: `rows` are the first rows of the table, some more than the window shows, so that a row that leaves is followed by the
//! next one without reading. When too few are known and the table has more, the window says that it must be read again.

use std::cmp::Ordering;
use std::collections::HashMap;
use std::rc::Rc;

use photondb_proto::datum::key;
use photondb_proto::op::{Document, Key, ScanOrder};

/// A row and its place in the order.
pub type Row = (Key, Rc<Document>);

pub struct Window {
    rows: Vec<Row>,
    order: ScanOrder,
    /// Rows shown.
    shown: usize,
    /// The table has no rows beyond `rows`.
    is_whole: bool,
    row_of: RowOf,
    /// What it showed before it became short.
    before: Vec<Row>,
}

/// What a client is told: the value that leaves, the value that enters, with their places.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    pub key: Key,
    pub old: Option<(u32, Rc<Document>)>,
    pub new: Option<(u32, Rc<Document>)>,
}

/// Rows known beyond those shown.
pub fn spare(shown: u32) -> u32 {
    (shown / 4).clamp(8, 256)
}

impl Window {
    pub fn new(rows: Vec<Row>, order: ScanOrder, shown: u32, is_whole: bool, row_of: RowOf) -> Window {
        Window { rows, order, shown: shown as usize, is_whole, row_of, before: Vec::new() }
    }

    pub fn shown(&self) -> &[Row] {
        &self.rows[..self.rows.len().min(self.shown)]
    }

    fn compare(&self, left: &[u8], right: &[u8]) -> Ordering {
        match self.order {
            ScanOrder::Descending => right.cmp(left),
            ScanOrder::Any | ScanOrder::Keyed | ScanOrder::Ascending => left.cmp(right),
        }
    }

    fn place(&self, key: &[u8]) -> Result<usize, usize> {
        self.rows.binary_search_by(|(other, _)| self.compare(other, key))
    }

    /// Whether it shows less than it should and must be [read again](Window::refill).
    pub fn is_short(&self) -> bool {
        self.rows.len() < self.shown && !self.is_whole
    }

    /// The row at `from` is now this and stands at `key`, or is gone. The shift is right unless the window
    /// [is short](Window::is_short) afterwards.
    pub fn set(&mut self, from: &[u8], key: Key, value: Option<Document>) -> Option<Shift> {
        let left = match self.place(from) {
            Ok(place) => {
                if self.rows.len() <= self.shown && !self.is_whole {
                    self.before.clone_from(&self.rows);
                }
                Some((place, self.rows.remove(place).1))
            }
            Err(_) => None,
        };
        let mut entered = None;
        if let Some(value) = value {
            let place = self.place(&key).unwrap_or_else(|place| place);
            if place < self.rows.len() || self.is_whole {
                let value = Rc::new(value);
                self.rows.insert(place, (key.clone(), value.clone()));
                entered = Some((place, value));
            }
        }
        let shown = self.shown;
        let is_shown = |row: &(usize, Rc<Document>)| row.0 < shown;
        let (was, is) = (left.filter(is_shown), entered.filter(is_shown));
        // The row at the edge came in for one that left, or went out for one that came.
        let (old, new) = match (was, is) {
            (Some(was), Some(is)) => (Some(was), Some(is)),
            (Some(was), None) => {
                let edge = shown.checked_sub(1).and_then(|edge| Some((edge, self.rows.get(edge)?.1.clone())));
                (Some(was), edge)
            }
            (None, Some(is)) => {
                let edge = self.rows.get(shown).map(|row| (shown - 1, row.1.clone()));
                (edge, Some(is))
            }
            (None, None) => (None, None),
        };
        let kept = shown + 2 * spare(shown as u32) as usize;
        if self.rows.len() > kept {
            self.rows.truncate(kept);
            self.is_whole = false;
        }
        let placed = |row: Option<(usize, Rc<Document>)>| row.map(|(place, value)| (place as u32, value));
        let shift = Shift { key, old: placed(old), new: placed(new) };
        let values = |row: &Option<(u32, Rc<Document>)>| row.as_ref().map(|(_, value)| value.clone());
        (values(&shift.old) != values(&shift.new)).then_some(shift)
    }
}

impl Window {
    /// What leads from rows that it showed to those it shows.
    pub fn shifts(&self, before: &[Row]) -> Vec<Shift> {
        shifts(before, self.shown(), self.row_of)
    }

    /// Takes rows that were read again, of a window that was short; gives what leads there from what it showed before that.
    pub fn refill(&mut self, rows: Vec<Row>, is_whole: bool) -> Vec<Shift> {
        let before = std::mem::take(&mut self.before);
        self.rows = rows;
        self.is_whole = is_whole;
        self.shifts(&before)
    }
}

/// What leads from the rows shown before to those shown now: a row that moves is told as one, and one that leaves goes with
/// one that enters.
fn shifts(before: &[Row], now: &[Row], row_of: RowOf) -> Vec<Shift> {
    let places = |rows: &[Row]| -> HashMap<Key, usize> {
        rows.iter().enumerate().map(|(place, (key, _))| (key.clone(), place)).collect()
    };
    let (before_places, now_places) = (places(before), places(now));
    let row = |rows: &[Row], place: usize| (place as u32, rows[place].1.clone());
    let mut shifts = Vec::new();
    let mut stays = |key: &Key, old: usize, new: usize| {
        let (old, new) = (row(before, old), row(now, new));
        if old.1 != new.1 {
            shifts.push(Shift { key: key.clone(), old: Some(old), new: Some(new) });
        }
    };
    let mut leaving: Vec<usize> = Vec::new();
    for (old, (key, _)) in before.iter().enumerate() {
        match now_places.get(key) {
            Some(new) => stays(key, old, *new),
            None => leaving.push(old),
        }
    }
    let mut entering: Vec<usize> =
        (0..now.len()).filter(|new| !before_places.contains_key(&now[*new].0)).collect();
    entering.retain(|new| {
        let key = &now[*new].0;
        let moved = leaving.iter().position(|old| row_of(&before[*old].0) == row_of(key));
        if let Some(moved) = moved {
            stays(key, leaving.remove(moved), *new);
        }
        moved.is_none()
    });
    let (mut leaving, mut entering) = (leaving.into_iter(), entering.into_iter());
    loop {
        let (old, new) = (leaving.next(), entering.next());
        let key = match (old, new) {
            (_, Some(new)) => now[new].0.clone(),
            (Some(old), None) => before[old].0.clone(),
            (None, None) => return shifts,
        };
        let (old, new) = (old.map(|old| row(before, old)), new.map(|new| row(now, new)));
        shifts.push(Shift { key, old, new });
    }
}

/// What a place says of whose it is.
pub type RowOf = fn(&[u8]) -> &[u8];

/// Places are primary keys.
pub fn by_key(place: &[u8]) -> &[u8] {
    place
}

/// Places are entries of an index. Of one whose value was too long to be stored whole, nobody knows.
pub fn by_entry(place: &[u8]) -> &[u8] {
    key::split_entry(place).map_or(place, |(_, primary)| primary)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// SplitMix64.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            (mixed ^ (mixed >> 31)) % bound
        }
    }

    fn first(table: &std::collections::BTreeMap<Key, Document>, order: ScanOrder, count: usize) -> Vec<Row> {
        let row = |(key, value): (&Key, &Document)| (key.clone(), Rc::new(value.clone()));
        match order {
            ScanOrder::Descending => table.iter().rev().take(count).map(row).collect(),
            ScanOrder::Any | ScanOrder::Keyed | ScanOrder::Ascending => {
                table.iter().take(count).map(row).collect()
            }
        }
    }

    /// Applies what a client is told to what it shows.
    fn told(shown: &mut Vec<Row>, shift: &Shift, order: ScanOrder, now: &[Row]) {
        if let Some((_, old)) = &shift.old {
            let place = shown.iter().position(|(_, value)| value == old).expect("what leaves is shown");
            shown.remove(place);
        }
        if let Some((_, new)) = &shift.new {
            let row = now.iter().find(|(_, value)| value == new).expect("what enters is there");
            shown.push(row.clone());
        }
        shown.sort();
        if order == ScanOrder::Descending {
            shown.reverse();
        }
    }

    #[test]
    fn a_window_is_always_the_first_rows_and_its_shifts_lead_there() {
        for seed in 0..400 {
            let mut random = Random(seed);
            let order = if seed % 2 == 0 { ScanOrder::Ascending } else { ScanOrder::Descending };
            let count = 1 + random.below(6) as usize;
            let spare = random.below(4) as usize;
            let mut table = std::collections::BTreeMap::new();
            for _ in 0..random.below(40) {
                table.insert(vec![random.below(40) as u8], vec![random.below(250) as u8, 1]);
            }
            // Values are unique, so that a value names its row.
            let mut next = 0u16;
            for (key, value) in &mut table {
                *value = vec![key[0], 0xff];
            }
            let rows = first(&table, order, count + spare);
            let is_whole = rows.len() == table.len();
            let mut window = Window::new(rows, order, count as u32, is_whole, by_key);
            let mut shown = window.shown().to_vec();
            for _ in 0..60 {
                let key = vec![random.below(40) as u8];
                next += 1;
                let value = (random.below(2) == 0).then(|| next.to_be_bytes().to_vec());
                match &value {
                    Some(value) => table.insert(key.clone(), value.clone()),
                    None => table.remove(&key),
                };
                let before = window.shown().to_vec();
                let shift = window.set(&key.clone(), key, value);
                let shifts = match window.is_short() {
                    false => shift.into_iter().collect(),
                    true => {
                        let rows = first(&table, order, count + spare);
                        let is_whole = rows.len() == table.len();
                        window.refill(rows, is_whole)
                    }
                };
                let now = first(&table, order, count);
                assert_eq!(window.shown(), now, "seed {seed}, before {before:?}");
                for shift in shifts {
                    told(&mut shown, &shift, order, &now);
                }
                assert_eq!(shown, now, "seed {seed}");
            }
        }
    }
}
