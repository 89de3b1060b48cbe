//! Arithmetic, rounding and bits.
//!
//! Always: a result is finite, or the term fails. An operand of the wrong type is blamed on the whole term, since the
//! variadic terms fold their operands two by two; only MOD and the one-argument terms blame the operand.

use photondb_proto::datum::pseudo::round_to_milliseconds;
use photondb_proto::datum::{Datum, Time};
use photondb_proto::term::number;

use super::{Arity, TermDef};
use crate::call::{Call, INTEGER_MAX, check_array_size, check_value_size, finite, integer};
use crate::failure::{Failure, Outcome};
use crate::value::wrong_type;

pub static TERMS: &[TermDef] = &[
    TermDef::pure("ADD", number::ADD, Arity::at_least(1), sum),
    TermDef::pure("SUB", number::SUB, Arity::at_least(1), |call| fold(call, subtract)),
    TermDef::pure("MUL", number::MUL, Arity::at_least(1), |call| fold(call, multiply)),
    TermDef::pure("DIV", number::DIV, Arity::at_least(1), |call| fold(call, divide)),
    TermDef::pure("MOD", number::MOD, Arity::exactly(2), modulo),
    TermDef::pure("FLOOR", number::FLOOR, Arity::exactly(1), |call| finite(call.number(0)?.floor())),
    TermDef::pure("CEIL", number::CEIL, Arity::exactly(1), |call| finite(call.number(0)?.ceil())),
    TermDef::pure("ROUND", number::ROUND, Arity::exactly(1), |call| finite(call.number(0)?.round())),
    TermDef::pure("BIT_AND", number::BIT_AND, Arity::at_least(1), |call| {
        fold_bits(call, |left, right| left & right)
    }),
    TermDef::pure("BIT_OR", number::BIT_OR, Arity::at_least(1), |call| {
        fold_bits(call, |left, right| left | right)
    }),
    TermDef::pure("BIT_XOR", number::BIT_XOR, Arity::at_least(1), |call| {
        fold_bits(call, |left, right| left ^ right)
    }),
    TermDef::pure("BIT_NOT", number::BIT_NOT, Arity::exactly(1), |call| {
        Ok(Datum::Number(!bits(&call.datum(0)?)? as f64))
    }),
    TermDef::pure("BIT_SAL", number::BIT_SAL, Arity::exactly(2), shift_left),
    TermDef::pure("BIT_SAR", number::BIT_SAR, Arity::exactly(2), shift_right),
];

/// Applies `operation` from the left over all operands; a single operand is the result, whatever it is.
fn fold(call: &Call, operation: fn(&Call, Datum, Datum) -> Outcome<Datum>) -> Outcome<Datum> {
    let mut result = call.datum(0)?;
    for index in 1..call.count() {
        result = operation(call, result, call.datum(index)?)?;
    }
    Ok(result)
}

fn as_number(datum: &Datum) -> Outcome<f64> {
    match datum {
        Datum::Number(number) => Ok(*number),
        other => Err(wrong_type("NUMBER", other)),
    }
}

/// Texts are joined at once: two by two, the first would be copied as often as there are others.
fn sum(call: &Call) -> Outcome<Datum> {
    if call.count() < 2 || !matches!(call.datum(0)?, Datum::String(_)) {
        return fold(call, add);
    }
    let mut texts = Vec::with_capacity(call.count());
    for index in 0..call.count() {
        match call.datum(index)? {
            Datum::String(text) => texts.push(text),
            other => return Err(wrong_type("STRING", &other)),
        }
    }
    let bytes = texts.iter().map(|text| text.len()).sum();
    check_value_size(bytes, &call.limits)?;
    let mut joined = String::with_capacity(bytes);
    texts.iter().for_each(|text| joined.push_str(text));
    Ok(Datum::String(joined.into()))
}

fn add(call: &Call, left: Datum, right: Datum) -> Outcome<Datum> {
    match (left, right) {
        (Datum::Number(left), Datum::Number(right)) => finite(left + right),
        (Datum::Time(time), seconds) | (seconds, Datum::Time(time)) => later(time, as_number(&seconds)?),
        (Datum::Number(_), other) => Err(wrong_type("NUMBER", &other)),
        (Datum::String(_), other) => Err(wrong_type("STRING", &other)),
        (Datum::Array(left), Datum::Array(right)) => {
            check_array_size(left.len() + right.len(), &call.limits)?;
            let mut items = left.into_vec();
            items.extend(right.iter());
            Ok(Datum::array(items))
        }
        (Datum::Array(_), other) => Err(wrong_type("ARRAY", &other)),
        (other, _) => Err(wrong_type("NUMBER", &other)),
    }
}

fn later(time: Time, seconds: f64) -> Outcome<Datum> {
    let epoch_seconds = round_to_milliseconds(time.epoch_seconds + seconds);
    finite(epoch_seconds)?;
    Ok(Datum::Time(Time { epoch_seconds, ..time }))
}

fn subtract(_: &Call, left: Datum, right: Datum) -> Outcome<Datum> {
    match (left, right) {
        (Datum::Time(left), Datum::Time(right)) => {
            finite(round_to_milliseconds(left.epoch_seconds - right.epoch_seconds))
        }
        (Datum::Time(time), seconds) => later(time, -as_number(&seconds)?),
        (left, right) => finite(as_number(&left)? - as_number(&right)?),
    }
}

fn multiply(call: &Call, left: Datum, right: Datum) -> Outcome<Datum> {
    let (array, times) = match (left, right) {
        (Datum::Array(array), times) | (times, Datum::Array(array)) => (array, integer(as_number(&times)?)?),
        (left, right) => return finite(as_number(&left)? * as_number(&right)?),
    };
    let times = usize::try_from(times)
        .map_err(|_| Failure::logic("Cannot multiply an ARRAY by a negative number."))?;
    check_array_size(array.len().saturating_mul(times), &call.limits)?;
    let items = array.into_vec();
    let mut result = Vec::with_capacity(items.len() * times);
    // An empty array may be repeated any number of times.
    let rounds = if items.is_empty() { 0 } else { times };
    (0..rounds).for_each(|_| result.extend_from_slice(&items));
    Ok(Datum::array(result))
}

fn divide(_: &Call, left: Datum, right: Datum) -> Outcome<Datum> {
    let (left, right) = (as_number(&left)?, as_number(&right)?);
    if right == 0.0 {
        return Err(Failure::logic("Cannot divide by zero."));
    }
    finite(left / right)
}

fn modulo(call: &Call) -> Outcome<Datum> {
    let (left, right) = (call.integer(0)?, call.integer(1)?);
    if right == 0 {
        return Err(Failure::logic("Cannot take a number modulo 0."));
    }
    Ok(Datum::Number((left % right) as f64))
}

/// An operand of a bit term: an integer in [-2^53, 2^53).
fn bits(datum: &Datum) -> Outcome<i64> {
    let number = as_number(datum)?;
    if number == INTEGER_MAX {
        return Err(Failure::logic(format!("Integer too large: {}", number as i64)));
    }
    integer(number)
}

fn fold_bits(call: &Call, operation: fn(i64, i64) -> i64) -> Outcome<Datum> {
    let mut result = bits(&call.datum(0)?)?;
    for index in 1..call.count() {
        result = operation(result, bits(&call.datum(index)?)?);
    }
    Ok(Datum::Number(result as f64))
}

/// How far to shift; beyond all bits any distance is the same.
fn distance(call: &Call) -> Outcome<u64> {
    u64::try_from(bits(&call.datum(1)?)?).map_err(|_| Failure::logic("Cannot bit-shift by a negative value"))
}

fn shift_left(call: &Call) -> Outcome<Datum> {
    let (number, distance) = (bits(&call.datum(0)?)?, distance(call)?);
    if number == 0 {
        return Ok(Datum::Number(0.0));
    }
    // A double shifts without losing bits until it overflows, 1,024 places up.
    finite(number as f64 * 2f64.powi(i32::try_from(distance.min(2_000)).expect("bounded")))
}

fn shift_right(call: &Call) -> Outcome<Datum> {
    let (number, distance) = (bits(&call.datum(0)?)?, distance(call)?);
    Ok(Datum::Number((number >> distance.min(63)) as f64))
}

#[cfg(test)]
mod tests {
    use crate::terms::probe::answer;

    #[track_caller]
    fn check(name: &str, arguments: &str, want: &str) {
        assert_eq!(answer(super::TERMS, name, arguments), want, "{name} {arguments}");
    }

    const EARLY: &str = r#"{"$reql_type$":"TIME","epoch_time":10.5,"timezone":"+02:00"}"#;
    const LATE: &str = r#"{"$reql_type$":"TIME","epoch_time":11.75,"timezone":"+00:00"}"#;

    #[test]
    fn a_value_beyond_the_memory_of_the_query_is_not_built() {
        let half = "x".repeat(600 << 10);
        let refused = answer(super::TERMS, "ADD", &format!(r#"["{half}","{half}"]"#));
        assert!(
            refused.starts_with("! The query would build a value of more than 1048576 bytes"),
            "{refused}"
        );
    }

    #[test]
    fn addition_joins_numbers_text_arrays_and_moves_times() {
        check("ADD", "[1, 2, 3.5]", "6.5");
        check("ADD", r#"["a", "b"]"#, r#""ab""#);
        check("ADD", "[[1], [2, 3]]", "[1,2,3]");
        check("ADD", "[null]", "null");
        check(
            "ADD",
            &format!("[{EARLY}, 1]"),
            r#"{"$reql_type$":"TIME","epoch_time":11.5,"timezone":"+02:00"}"#,
        );
        check(
            "ADD",
            &format!("[1, {EARLY}]"),
            r#"{"$reql_type$":"TIME","epoch_time":11.5,"timezone":"+02:00"}"#,
        );
        check("ADD", &format!("[{EARLY}, {LATE}]"), "! Expected type NUMBER but found PTYPE<TIME>.");
        check("ADD", r#"["a", 5]"#, "! Expected type STRING but found NUMBER.");
        check("ADD", r#"[5, "a"]"#, "! Expected type NUMBER but found STRING.");
        check("ADD", "[5, null]", "! Expected type NUMBER but found NULL.");
        check("ADD", "[true, 1]", "! Expected type NUMBER but found BOOL.");
        check("ADD", "[1e308, 1e308]", "! Non-finite number: inf");
    }

    #[test]
    fn subtraction_gives_numbers_times_and_durations() {
        check("SUB", "[1, 2, 3]", "-4");
        check("SUB", &format!("[{LATE}, {EARLY}]"), "1.25");
        check(
            "SUB",
            &format!("[{EARLY}, 0.5]"),
            r#"{"$reql_type$":"TIME","epoch_time":10,"timezone":"+02:00"}"#,
        );
        check("SUB", &format!("[1, {EARLY}]"), "! Expected type NUMBER but found PTYPE<TIME>.");
    }

    #[test]
    fn products_and_quotients_follow_the_numbers() {
        check("MUL", "[1, 2, 3, 4, 5]", "120");
        check("MUL", "[[1, 2], 2]", "[1,2,1,2]");
        check("MUL", "[2, [1, 2]]", "[1,2,1,2]");
        check("MUL", "[[], 1.5]", "! Number not an integer: 1.5");
        check("MUL", "[[], 9007199254740992]", "[]");
        check("MUL", "[[1], -1]", "! Cannot multiply an ARRAY by a negative number.");
        check("MUL", r#"["b", "a"]"#, "! Expected type NUMBER but found STRING.");
        check("DIV", "[4.9, 0.7]", "7.000000000000001");
        check("DIV", "[1, 2, 3, 4, 5]", "0.008333333333333333");
        check("DIV", "[1, 0]", "! Cannot divide by zero.");
        check("DIV", "[1, 5e-324]", "! Non-finite number: inf");
        check("MOD", "[-10, -3]", "-1");
        check("MOD", "[10, 0]", "! Cannot take a number modulo 0.");
        check("MOD", "[1.1, 2]", "! Number not an integer: 1.1000000000000000888");
    }

    #[test]
    fn arrays_over_the_limit_are_refused() {
        let want = "! Array over size limit `100`.  To raise the number of allowed elements, modify the `array_limit` \
                    option to `.run` (not available in the Data Explorer), or use an index.";
        check("MUL", "[[1], 101]", want);
        check("MUL", "[[1], 9007199254740992]", want);
    }

    #[test]
    fn rounding_goes_away_from_zero_at_halves() {
        check("ROUND", "[2.5]", "3");
        check("ROUND", "[-2.5]", "-3");
        check("FLOOR", "[-1.5]", "-2");
        check("CEIL", "[1.2]", "2");
        check("CEIL", "[-0.5]", "-0.0");
        check("FLOOR", r#"["a"]"#, "! Expected type NUMBER but found STRING.");
    }

    #[test]
    fn bits_are_those_of_a_signed_integer() {
        check("BIT_AND", "[12, 10]", "8");
        check("BIT_OR", "[12, 10]", "14");
        check("BIT_XOR", "[12, 10, 1]", "7");
        check("BIT_NOT", "[7]", "-8");
        check("BIT_SAL", "[5, 4]", "80");
        check("BIT_SAL", "[1, 2000]", "! Non-finite number: inf");
        check("BIT_SAR", "[-32, 3]", "-4");
        check("BIT_SAR", "[32, 300]", "0");
        check("BIT_SAR", "[32, -1]", "! Cannot bit-shift by a negative value");
        check("BIT_AND", "[9007199254740992, 1]", "! Integer too large: 9007199254740992");
        check("BIT_AND", "[1.5, 1]", "! Number not an integer: 1.5");
        check("BIT_AND", "[9007199254740994, 1]", "! Number not an integer (>2^53): 9007199254740994");
    }
}
