//! Comparisons of any values in ReQL's total order, and NOT. (AND and OR stop early and live with the control terms.)

use std::cmp::Ordering;

use photondb_proto::datum::Datum;
use photondb_proto::term::number;

use super::{Arity, TermDef};
use crate::call::Call;
use crate::failure::Outcome;
use crate::value::Value;

pub static TERMS: &[TermDef] = &[
    TermDef::pure("EQ", number::EQ, Arity::at_least(2), |call| chain(call, Ordering::is_eq)),
    TermDef::pure("NE", number::NE, Arity::at_least(2), |call| {
        Ok(Datum::Bool(!chain(call, Ordering::is_eq)?.is_truthy()))
    }),
    TermDef::pure("LT", number::LT, Arity::at_least(2), |call| chain(call, Ordering::is_lt)),
    TermDef::pure("LE", number::LE, Arity::at_least(2), |call| chain(call, Ordering::is_le)),
    TermDef::pure("GT", number::GT, Arity::at_least(2), |call| chain(call, Ordering::is_gt)),
    TermDef::pure("GE", number::GE, Arity::at_least(2), |call| chain(call, Ordering::is_ge)),
    TermDef::pure("NOT", number::NOT, Arity::exactly(1), |call| Ok(Datum::Bool(!call.boolean(0)?))),
];

/// Whether the last two values found so far make a chain of comparisons false: what follows them is not evaluated.
pub fn is_decided(term: u32, before: &Value, last: &Value) -> bool {
    let wanted = match term {
        number::EQ | number::NE => Ordering::is_eq,
        number::LT => Ordering::is_lt,
        number::LE => Ordering::is_le,
        number::GT => Ordering::is_gt,
        number::GE => Ordering::is_ge,
        _ => return false,
    };
    match (before, last) {
        (Value::Datum(before), Value::Datum(last)) => !wanted(before.cmp(last)),
        _ => false,
    }
}

/// Whether every two neighbours stand in the wanted order.
fn chain(call: &Call, wanted: fn(Ordering) -> bool) -> Outcome<Datum> {
    let data = call.data()?;
    Ok(Datum::Bool(data.windows(2).all(|pair| wanted(pair[0].cmp(&pair[1])))))
}

#[cfg(test)]
mod tests {
    use crate::terms::probe::answer;

    #[track_caller]
    fn check(name: &str, arguments: &str, want: &str) {
        assert_eq!(answer(super::TERMS, name, arguments), want, "{name} {arguments}");
    }

    #[test]
    fn comparisons_are_chained() {
        check("LT", "[1, 2, 3]", "true");
        check("LT", "[1, 3, 2]", "false");
        check("LE", "[1, 1]", "true");
        check("GT", "[3, 2, 2]", "false");
        check("GE", "[3, 2, 2]", "true");
        check("EQ", "[1, 1.0, 1]", "true");
        check("NE", "[1, 1, 2]", "true");
        check("NE", "[1, 1]", "false");
    }

    #[test]
    fn types_compare_by_their_names() {
        check("LT", r#"[[], true, null, 12, {}, "abc"]"#, "true");
        check(
            "LT",
            r#"[{"$reql_type$":"BINARY","data":""}, {"$reql_type$":"TIME","epoch_time":0,"timezone":"+00:00"}, ""]"#,
            "true",
        );
        check("LT", r#"[{"a":0,"c":2}, {"a":0,"b":1,"c":2}]"#, "false");
    }

    #[test]
    fn only_null_and_false_are_false() {
        check("NOT", "[null]", "true");
        check("NOT", "[false]", "true");
        check("NOT", "[0]", "false");
        check("NOT", r#"[""]"#, "false");
    }
}
