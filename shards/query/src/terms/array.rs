//! Arrays: appending, sets, and changes at an index.
//!
//! Always: a result keeps within `array_limit`. An argument that should be an array and is not blames the whole
//! term, as RethinkDB does; an index blames its argument.

use std::collections::BTreeSet;

use photondb_proto::datum::{Array, Datum};
use photondb_proto::term::number;

use super::{Arity, TermDef};
use crate::call::Call;
use crate::failure::{Failure, Outcome};
use crate::value::wrong_type;

pub static TERMS: &[TermDef] = &[
    TermDef::pure("APPEND", number::APPEND, Arity::exactly(2), append),
    TermDef::pure("PREPEND", number::PREPEND, Arity::exactly(2), prepend),
    TermDef::pure("DIFFERENCE", number::DIFFERENCE, Arity::exactly(2), difference),
    TermDef::pure("SET_INSERT", number::SET_INSERT, Arity::exactly(2), set_insert),
    TermDef::pure("SET_UNION", number::SET_UNION, Arity::exactly(2), set_union),
    TermDef::pure("SET_INTERSECTION", number::SET_INTERSECTION, Arity::exactly(2), set_intersection),
    TermDef::pure("SET_DIFFERENCE", number::SET_DIFFERENCE, Arity::exactly(2), set_difference),
    TermDef::pure("INSERT_AT", number::INSERT_AT, Arity::exactly(3), insert_at),
    TermDef::pure("SPLICE_AT", number::SPLICE_AT, Arity::exactly(3), splice_at),
    TermDef::pure("CHANGE_AT", number::CHANGE_AT, Arity::exactly(3), change_at),
    TermDef::pure("DELETE_AT", number::DELETE_AT, Arity::between(2, 3), delete_at),
];

fn array(call: &Call, index: usize) -> Outcome<Array> {
    match call.datum(index)? {
        Datum::Array(array) => Ok(array),
        other => Err(wrong_type("ARRAY", &other)),
    }
}

fn append(call: &Call) -> Outcome<Datum> {
    let mut items = array(call, 0)?.into_vec();
    items.push(call.datum(1)?);
    call.array_result(items)
}

fn prepend(call: &Call) -> Outcome<Datum> {
    let mut items = array(call, 0)?.into_vec();
    items.insert(0, call.datum(1)?);
    call.array_result(items)
}

fn difference(call: &Call) -> Outcome<Datum> {
    let (items, removed) = (array(call, 0)?, array(call, 1)?);
    let removed: BTreeSet<Datum> = removed.iter().collect();
    call.array_result(items.iter().filter(|item| !removed.contains(item)).collect())
}

/// The items that come for the first time, in order.
fn distinct(items: impl Iterator<Item = Datum>, mut seen: BTreeSet<Datum>) -> Vec<Datum> {
    items.filter(|item| seen.insert(item.clone())).collect()
}

fn set_insert(call: &Call) -> Outcome<Datum> {
    let (items, new) = (array(call, 0)?, call.datum(1)?);
    call.array_result(distinct(items.iter().chain([new]), BTreeSet::new()))
}

fn set_union(call: &Call) -> Outcome<Datum> {
    let (left, right) = (array(call, 0)?, array(call, 1)?);
    call.array_result(distinct(left.iter().chain(right.iter()), BTreeSet::new()))
}

/// In the order of the second array.
fn set_intersection(call: &Call) -> Outcome<Datum> {
    let (left, right) = (array(call, 0)?, array(call, 1)?);
    let mut left: BTreeSet<Datum> = left.iter().collect();
    call.array_result(right.iter().filter(|item| left.remove(item)).collect())
}

fn set_difference(call: &Call) -> Outcome<Datum> {
    let (items, removed) = (array(call, 0)?, array(call, 1)?);
    call.array_result(distinct(items.iter(), removed.iter().collect()))
}

/// The index argument at `index` among `count` places; negative ones count from the end.
fn place(call: &Call, index: usize, count: usize) -> Outcome<usize> {
    let given = call.small_integer(index)?;
    match usize::try_from(given) {
        Ok(place) => Ok(place),
        Err(_) => count
            .checked_sub(given.unsigned_abs() as usize)
            .ok_or_else(|| Failure::missing(format!("Index out of bounds: {given}"))),
    }
}

fn check_bounds(index: usize, end: usize, size: usize) -> Outcome<()> {
    if index < end {
        return Ok(());
    }
    Err(Failure::missing(format!("Index `{index}` out of bounds for array of size: `{size}`.")))
}

fn insert_at(call: &Call) -> Outcome<Datum> {
    let mut items = array(call, 0)?.into_vec();
    let index = place(call, 1, items.len() + 1)?;
    check_bounds(index, items.len() + 1, items.len())?;
    items.insert(index, call.datum(2)?);
    call.array_result(items)
}

fn splice_at(call: &Call) -> Outcome<Datum> {
    let mut items = array(call, 0)?.into_vec();
    let index = place(call, 1, items.len() + 1)?;
    check_bounds(index, items.len() + 1, items.len())?;
    let new = array(call, 2)?;
    items.splice(index..index, new.iter());
    call.array_result(items)
}

fn change_at(call: &Call) -> Outcome<Datum> {
    let mut items = array(call, 0)?.into_vec();
    let index = place(call, 1, items.len())?;
    check_bounds(index, items.len(), items.len())?;
    items[index] = call.datum(2)?;
    call.array_result(items)
}

fn delete_at(call: &Call) -> Outcome<Datum> {
    let mut items = array(call, 0)?.into_vec();
    let size = items.len();
    let start = place(call, 1, size)?;
    if call.count() == 2 {
        check_bounds(start, size, size)?;
        items.remove(start);
        return call.array_result(items);
    }
    let end = place(call, 2, size)?;
    check_bounds(start, size + 1, size)?;
    check_bounds(end, size + 1, size)?;
    if start > end {
        return Err(Failure::logic(format!("Start index `{start}` is greater than end index `{end}`.")));
    }
    items.drain(start..end);
    call.array_result(items)
}

#[cfg(test)]
mod tests {
    use crate::terms::probe::answer;

    #[track_caller]
    fn check(name: &str, arguments: &str, want: &str) {
        assert_eq!(answer(super::TERMS, name, arguments), want, "{name} {arguments}");
    }

    #[test]
    fn items_are_added_at_the_ends() {
        check("APPEND", r#"[[1, 2], "a"]"#, r#"[1,2,"a"]"#);
        check("PREPEND", "[[1, 2], 0]", "[0,1,2]");
        check("APPEND", r#"["abc", 3]"#, "! Expected type ARRAY but found STRING.");
        check("APPEND", "[null, 3]", "! Expected type ARRAY but found NULL.");
    }

    #[test]
    fn sets_hold_each_value_once_in_order_of_appearance() {
        check("DIFFERENCE", "[[1, 1, 2, 3], [2, 2]]", "[1,1,3]");
        check("SET_INSERT", "[[1, 1, 2, 3], 1]", "[1,2,3]");
        check("SET_INSERT", "[[1, 1, 2, 3], 4]", "[1,2,3,4]");
        check("SET_UNION", "[[1, 1, 2, 3], [3, 4, 5, 5]]", "[1,2,3,4,5]");
        check("SET_INTERSECTION", "[[1, 1, 2, 3], [1, 1, 2, 2]]", "[1,2]");
        check("SET_DIFFERENCE", "[[1, 1, 2, 3], [1, 10]]", "[2,3]");
    }

    #[test]
    fn places_count_from_either_end() {
        check("INSERT_AT", "[[1, 2], 0, 9]", "[9,1,2]");
        check("INSERT_AT", "[[1, 2], 2, 9]", "[1,2,9]");
        check("INSERT_AT", "[[1, 2], -1, 9]", "[1,2,9]");
        check("INSERT_AT", "[[1, 2], -3, 9]", "[9,1,2]");
        check("SPLICE_AT", "[[1, 2], 1, [8, 9]]", "[1,8,9,2]");
        check("CHANGE_AT", "[[1, 2], -1, 9]", "[1,9]");
        check("DELETE_AT", "[[1, 2, 3], 0]", "[2,3]");
        check("DELETE_AT", "[[1, 2, 3], -1]", "[1,2]");
        check("DELETE_AT", "[[1, 2, 3], 1, 3]", "[1]");
        check("DELETE_AT", "[[1, 2, 3], 0, -1]", "[3]");
        check("DELETE_AT", "[[1, 2, 3], 3, 3]", "[1,2,3]");
    }

    #[test]
    fn places_out_of_bounds_are_missing() {
        check("INSERT_AT", "[[1, 2], 3, 9]", "! Index `3` out of bounds for array of size: `2`.");
        check("INSERT_AT", "[[1, 2], -4, 9]", "! Index out of bounds: -4");
        check("SPLICE_AT", "[[1, 2], 3, [9]]", "! Index `3` out of bounds for array of size: `2`.");
        check("CHANGE_AT", "[[1, 2], 2, 9]", "! Index `2` out of bounds for array of size: `2`.");
        check("DELETE_AT", "[[1, 2], 2]", "! Index `2` out of bounds for array of size: `2`.");
        check("DELETE_AT", "[[1, 2], 1, 0]", "! Start index `1` is greater than end index `0`.");
        check("DELETE_AT", "[[1, 2], 1, 3]", "! Index `3` out of bounds for array of size: `2`.");
        check("DELETE_AT", "[[1, 2], 1.5]", "! Number not an integer: 1.5");
        check("DELETE_AT", "[[1, 2], 4294967296]", "! Integer too large: 4294967296");
        check("SPLICE_AT", "[[1, 2], 1, 9]", "! Expected type ARRAY but found NUMBER.");
    }
}
