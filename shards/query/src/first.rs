//! The first rows in an order: what ORDER_BY keeps when a LIMIT stands right behind it.
//!
//! Always: what is kept are the first of all rows that came, an earlier one before its equals, as sorting them all would give
//! them. Every part of a table keeps its own, and the coordinator the first of theirs. Rows are let go many at a time: a sort now
//! and then costs less than a heap that moves with every row, and keeps equals in their order.

use std::cmp::Ordering;
use std::rc::Rc;

use photondb_proto::datum::Datum;
use photondb_proto::datum::raw::Scalar;

use crate::failure::Outcome;
use crate::merge::{SortKeys, SortValues};
use crate::run::Run;
use crate::scalar::{self, scalar_of};
use crate::value::Direction;

/// Rows that are kept at least before those behind the first are let go.
const ROWS_BEFORE_CUT: usize = 256;

/// How many rows, and in what order.
#[derive(Clone, Debug)]
pub struct First {
    pub count: usize,
    pub keys: SortKeys,
}

/// The first of the rows that came so far.
#[derive(Debug)]
pub struct FirstRows {
    first: Rc<First>,
    rows: Vec<(SortValues, Datum)>,
    /// The rows are sorted up to the last that counts.
    is_cut: bool,
    bytes: usize,
}

impl FirstRows {
    pub fn new(first: Rc<First>) -> FirstRows {
        FirstRows { first, rows: Vec::new(), is_cut: false, bytes: 0 }
    }

    pub fn keys(&self) -> &SortKeys {
        &self.first.keys
    }

    /// The last row that counts at the moment; later ones that are not before it do not.
    fn last(&self) -> Option<&SortValues> {
        let place = self.first.count.checked_sub(1)?;
        self.rows.get(place).filter(|_| self.is_cut).map(|(values, _)| values)
    }

    /// Whether no row with that value of the first key is among the first. False also when that is not easy to say.
    pub fn leaves_out(&self, value: Scalar<'_>) -> bool {
        let (Some(last), [(_, direction), more @ ..]) = (self.last(), self.first.keys.0.as_slice()) else {
            return false;
        };
        let Some(held) = &last[0] else { return false };
        match (scalar::order(value, scalar_of(held)), direction) {
            (Some(Ordering::Greater), Direction::Ascending)
            | (Some(Ordering::Less), Direction::Descending) => true,
            (Some(Ordering::Equal), _) => more.is_empty(),
            (Some(Ordering::Less | Ordering::Greater) | None, _) => false,
        }
    }

    pub fn add(&mut self, run: &Run, values: SortValues, row: Datum) -> Outcome<()> {
        if self.last().is_some_and(|last| self.first.keys.compare(&values, last).is_ge()) {
            return Ok(());
        }
        let bytes = row.approximate_bytes();
        run.charge_for_good(bytes)?;
        self.bytes += bytes;
        self.rows.push((values, row));
        if self.rows.len() >= self.first.count.saturating_mul(2).max(ROWS_BEFORE_CUT) {
            self.cut();
            let kept = self.rows.iter().map(|(_, row)| row.approximate_bytes()).sum();
            run.give_back(self.bytes.saturating_sub(kept));
            self.bytes = kept;
        }
        Ok(())
    }

    fn cut(&mut self) {
        self.rows.sort_by(|(left, _), (right, _)| self.first.keys.compare(left, right));
        self.rows.truncate(self.first.count);
        self.is_cut = true;
    }

    /// The rows in their order.
    pub fn into_rows(mut self) -> Vec<Datum> {
        self.cut();
        self.rows.into_iter().map(|(_, row)| row).collect()
    }
}

#[cfg(test)]
mod tests {
    use photondb_proto::datum::Datum;

    use crate::harness::{Server, datum};

    /// Rows that lie in two parts, many more than are kept: keys of several types, some missing, many equal.
    fn server() -> Server {
        let row = |number: u32| {
            let mixed = number.wrapping_mul(2_654_435_761) >> 16;
            let key = match mixed % 7 {
                0 => String::new(),
                1 => r#","k":null"#.into(),
                2 => format!(r#","k":"s{}""#, mixed % 50),
                _ => format!(r#","k":{}"#, mixed % 90),
            };
            format!(r#"{{"id":{number},"m":{}{key}}}"#, mixed % 3)
        };
        let rows: Vec<String> = (0..1200).map(row).collect();
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        Server::new().with_table("t", &rows)
    }

    #[track_caller]
    fn rows(server: &mut Server, query: &str) -> Vec<Datum> {
        match datum(&server.run(&format!("[1,{query}]")).items[0]) {
            Datum::Array(rows) => rows.into_vec(),
            other => panic!("{query} gave {other:?}"),
        }
    }

    #[test]
    fn the_first_rows_are_those_that_sorting_all_would_give() {
        let mut server = server();
        for receiver in [
            r#"[15,["t"]]"#,
            r#"[39,[[15,["t"]],[69,[[2,[1]],[22,[[10,[1]],{}]]]]]]"#,
            r#"[39,[[15,["t"]],{"m":1}]]"#,
            r#"[41,[[15,["t"]]],{"index":"id"}]"#,
            r#"[38,[[15,["t"]],[69,[[2,[1]],[35,[[10,[1]],{"z":1}]]]]]]"#,
        ] {
            for keys in [
                r#""k","id""#,
                r#"[74,["k"]],"id""#,
                r#""m",[74,["k"]],[74,["id"]]"#,
                r#"[69,[[2,[1]],[170,[[10,[1]],"k"]]]],"id""#,
                r#"[74,["id"]]"#,
            ] {
                let ordered = format!("[41,[{receiver},{keys}]]");
                let all = rows(&mut server, &format!("[30,[{ordered},0]]"));
                for count in [0, 1, 7, 300, 5000] {
                    let first = rows(&mut server, &format!("[71,[{ordered},{count}]]"));
                    assert_eq!(first, all[..count.min(all.len())], "{ordered} {count}");
                }
            }
        }
    }
}
