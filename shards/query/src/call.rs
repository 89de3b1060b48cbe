//! The evaluated arguments of one term, as its evaluator sees them: typed access that blames the right place.
//!
//! Strict terms get their arguments evaluated left to right, with `args()` spliced in. An argument of the wrong
//! type is blamed on the argument; any other [`Failure`] an evaluator returns is blamed on the term itself.

use photondb_proto::datum::{Array, Datum, Object, Text};

use crate::failure::{Failure, Outcome, Place};
use crate::value::{Value, wrong_type};

/// An evaluated argument and where it stands in the query.
#[derive(Clone, Debug)]
pub struct Argument {
    pub value: Value,
    pub place: Place,
}

/// Limits and constants of the running query that pure terms may need.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `array_limit`: most elements of any array the query builds.
    pub array_elements_max: usize,
    /// `now()`: one moment for the whole query.
    pub now_epoch_seconds: f64,
    /// Most bytes of any single value the query builds.
    pub value_bytes_max: usize,
}

/// What an element of an array takes at least.
const ELEMENT_BYTES: usize = 16;

/// Fails when a value of `bytes` would be larger than the query may build.
pub fn check_value_size(bytes: usize, limits: &Limits) -> Outcome<()> {
    if bytes <= limits.value_bytes_max {
        return Ok(());
    }
    Err(value_too_large(limits.value_bytes_max))
}

/// One value would be larger than all that the query may hold.
pub fn value_too_large(bytes_max: usize) -> Failure {
    Failure::limit(format!(
        "The query would build a value of more than {bytes_max} bytes, its memory budget.  Build it in smaller parts, or raise \
         the server's query memory."
    ))
}

/// One call of a strict term.
#[derive(Clone, Debug)]
pub struct Call {
    pub arguments: Vec<Argument>,
    pub options: Vec<(&'static str, Argument)>,
    pub limits: Limits,
}

impl Call {
    pub fn count(&self) -> usize {
        self.arguments.len()
    }

    /// The datum at `index` (which the arity promises); streams have been gathered into arrays, other things refused.
    pub fn datum(&self, index: usize) -> Outcome<Datum> {
        as_datum(&self.arguments[index])
    }

    pub fn data(&self) -> Outcome<Vec<Datum>> {
        self.arguments.iter().map(as_datum).collect()
    }

    pub fn number(&self, index: usize) -> Outcome<f64> {
        match self.datum(index)? {
            Datum::Number(number) => Ok(number),
            other => Err(self.wrong(index, "NUMBER", &other)),
        }
    }

    /// A number without a fraction. Error text: `Number not an integer: 1.5`.
    pub fn integer(&self, index: usize) -> Outcome<i64> {
        let number = self.number(index)?;
        integer(number).map_err(|failure| failure.at(&self.arguments[index].place))
    }

    /// An integer of 32 bits, which is what counts and places are. Error text: `Integer too large: 4294967296`.
    pub fn small_integer(&self, index: usize) -> Outcome<i64> {
        let given = self.integer(index)?;
        match i32::try_from(given) {
            Ok(small) => Ok(i64::from(small)),
            Err(_) => {
                Err(Failure::logic(format!("Integer too large: {given}")).at(&self.arguments[index].place))
            }
        }
    }

    pub fn string(&self, index: usize) -> Outcome<Text> {
        match self.datum(index)? {
            Datum::String(text) => Ok(text),
            other => Err(self.wrong(index, "STRING", &other)),
        }
    }

    pub fn array(&self, index: usize) -> Outcome<Array> {
        match self.datum(index)? {
            Datum::Array(array) => Ok(array),
            other => Err(self.wrong(index, "ARRAY", &other)),
        }
    }

    pub fn object(&self, index: usize) -> Outcome<Object> {
        match self.datum(index)? {
            Datum::Object(object) => Ok(object),
            other => Err(self.wrong(index, "OBJECT", &other)),
        }
    }

    pub fn boolean(&self, index: usize) -> Outcome<bool> {
        Ok(self.datum(index)?.is_truthy())
    }

    pub fn option(&self, name: &str) -> Option<&Argument> {
        self.options.iter().find(|(key, _)| *key == name).map(|(_, argument)| argument)
    }

    pub fn option_datum(&self, name: &str) -> Outcome<Option<Datum>> {
        self.option(name).map(as_datum).transpose()
    }

    /// `Expected type X but found Y.`, blamed on the argument.
    pub fn wrong(&self, index: usize, wanted: &str, found: &Datum) -> Failure {
        wrong_type(wanted, found).at(&self.arguments[index].place)
    }

    /// An array result, refused when it is longer than `array_limit`.
    pub fn array_result(&self, items: Vec<Datum>) -> Outcome<Datum> {
        check_array_size(items.len(), &self.limits)?;
        Ok(Datum::array(items))
    }
}

/// Fails when an array of `count` elements would break `array_limit`.
pub fn check_array_size(count: usize, limits: &Limits) -> Outcome<()> {
    if count <= limits.array_elements_max {
        return check_value_size(count.saturating_mul(ELEMENT_BYTES), limits);
    }
    Err(Failure::limit(format!(
        "Array over size limit `{}`.  To raise the number of allowed elements, modify the `array_limit` option to `.run` \
         (not available in the Data Explorer), or use an index.",
        limits.array_elements_max
    )))
}

/// 2^53: beyond it a double skips integers.
pub const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// A number without a fraction.
pub fn integer(number: f64) -> Outcome<i64> {
    let whole = number as i64;
    if whole as f64 == number && number.abs() <= INTEGER_MAX {
        return Ok(whole);
    }
    let beyond = match number {
        number if number < -INTEGER_MAX => " (<-2^53)",
        number if number > INTEGER_MAX => " (>2^53)",
        _ => "",
    };
    Err(Failure::logic(format!("Number not an integer{beyond}: {}", exact_number(number))))
}

/// A number as C's `%.20g` prints it, which is how RethinkDB's messages show doubles.
pub fn exact_number(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into();
    }
    let scientific = format!("{number:.19e}");
    let (digits, exponent) = scientific.split_once('e').expect("scientific notation has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    if !(-4..20).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", without_trailing_zeros(digits), exponent.abs());
    }
    let decimals = usize::try_from(19 - exponent).expect("the exponent is below 20");
    without_trailing_zeros(&format!("{number:.decimals$}")).into()
}

fn without_trailing_zeros(digits: &str) -> &str {
    if digits.contains('.') { digits.trim_end_matches('0').trim_end_matches('.') } else { digits }
}

/// A result of arithmetic, refused when it is not finite.
pub fn finite(number: f64) -> Outcome<Datum> {
    if number.is_finite() {
        return Ok(Datum::Number(number));
    }
    Err(Failure::logic(format!("Non-finite number: {}", exact_number(number))))
}

fn as_datum(argument: &Argument) -> Outcome<Datum> {
    match &argument.value {
        Value::Datum(datum) => Ok(datum.clone()),
        other => match other.as_datum() {
            Some(datum) => Ok(datum.clone()),
            None => Err(other.wrong_kind("DATUM").at(&argument.place)),
        },
    }
}
