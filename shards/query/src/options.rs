//! The options of `run`: those that steer the query itself, and those that terms fall back to.

use photondb_proto::datum::{Datum, Text};
use photondb_proto::error::{ErrorKind, QueryError};
use photondb_proto::limits;
use photondb_proto::term::{Term, number};

use crate::failure::{Failure, Place};
use crate::terms;

/// Options that no term takes.
const OWN: &[&str] = &[
    "array_limit",
    "binary_format",
    "db",
    "first_batch_scaledown_factor",
    "group_format",
    "max_batch_bytes",
    "max_batch_rows",
    "max_batch_seconds",
    "min_batch_rows",
    "noreply",
    "obsolete_batch",
    "profile",
    "time_format",
];

/// What a query's options say of the query itself.
#[derive(Clone, Debug)]
pub struct QueryOptions {
    pub array_elements_max: usize,
    pub noreply: bool,
    pub profile: bool,
    pub batch_rows_max: usize,
    pub batch_bytes_max: usize,
    /// The first batch is this many times smaller.
    pub first_batch_factor: usize,
    /// The database that the `db` option names; what is wrong with that option matters to a `table` without one alone.
    pub database: Option<Result<Text, Failure>>,
    /// Options for terms that do not say otherwise.
    pub fallbacks: Vec<(&'static str, Term)>,
}

fn compile_error(key: &str, text: String) -> QueryError {
    QueryError { kind: ErrorKind::Compile, message: text, backtrace: Place::root().option(key).frames() }
}

/// Reads the options of a query.
///
/// # Errors
/// Unknown or repeated options, values out of bounds.
pub fn read(options: Vec<(Text, Term)>) -> Result<QueryOptions, QueryError> {
    let mut read = QueryOptions {
        array_elements_max: limits::ARRAY_ELEMENTS_DEFAULT,
        noreply: false,
        profile: false,
        batch_rows_max: usize::MAX,
        batch_bytes_max: limits::BATCH_BYTES_MAX,
        first_batch_factor: limits::FIRST_BATCH_FACTOR,
        database: None,
        fallbacks: Vec::new(),
    };
    for (index, (key, _)) in options.iter().enumerate() {
        if options[..index].iter().any(|(known, _)| known == key) {
            let text = format!("Duplicate global optional argument: `{}`.", key.as_str());
            return Err(compile_error(key, text));
        }
    }
    for (key, term) in options {
        let name = key.as_str();
        if OWN.contains(&name) {
            own(&mut read, name, &term)?;
        } else {
            if let ("changefeed_queue_size", Term::Datum(datum)) = (name, &term) {
                limit(datum, "changefeed queue")?;
            }
            match terms::option_name(name) {
                Some(name) => read.fallbacks.push((name, term)),
                None => {
                    return Err(QueryError::new(
                        ErrorKind::Compile,
                        format!("Unrecognized global optional argument `{name}`."),
                    ));
                }
            }
        }
    }
    Ok(read)
}

fn own(read: &mut QueryOptions, name: &str, term: &Term) -> Result<(), QueryError> {
    let at_least_one = |number: f64| number.clamp(1.0, usize::MAX as f64) as usize;
    match (name, term) {
        ("db", term) => read.database = Some(database(term)),
        ("noreply", Term::Datum(datum)) => read.noreply = matches!(datum, Datum::Bool(true)),
        ("profile", Term::Datum(datum)) => read.profile = datum.is_truthy(),
        ("array_limit", Term::Datum(datum)) => read.array_elements_max = limit(datum, "array")?,
        ("max_batch_rows", Term::Datum(Datum::Number(number))) => read.batch_rows_max = at_least_one(*number),
        ("max_batch_bytes", Term::Datum(Datum::Number(number))) => {
            read.batch_bytes_max = at_least_one(*number).min(limits::BATCH_BYTES_MAX * 16);
        }
        ("first_batch_scaledown_factor", Term::Datum(Datum::Number(number))) => {
            read.first_batch_factor = at_least_one(*number);
        }
        ("max_batch_seconds", Term::Datum(Datum::Number(number))) => batch_seconds(*number)?,
        _ => {}
    }
    Ok(())
}

/// The name in a `DB` term.
fn database(term: &Term) -> Result<Text, Failure> {
    let arguments = match term {
        Term::Call(call) if call.number == number::DB => call.arguments.as_slice(),
        Term::Call(_) => return Err(Failure::logic("The `db` of a query must be the term DB.")),
        Term::Datum(other) => {
            let text = photondb_proto::datum::json::to_message_string(other);
            return Err(Failure::logic(format!("Expected type DATABASE but found DATUM:\n{text}")));
        }
    };
    match arguments {
        [Term::Datum(Datum::String(name))] => Ok(name.clone()),
        [Term::Datum(other)] => Err(crate::value::wrong_type("STRING", other)),
        _ => Err(Failure::logic("The `db` of a query must be named by a text.")),
    }
}

fn limit(datum: &Datum, what: &str) -> Result<usize, QueryError> {
    let Datum::Number(number) = datum else {
        let failure = crate::value::wrong_type("NUMBER", datum);
        return Err(failure.into_query_error());
    };
    let number = crate::call::integer(*number).map_err(Failure::into_query_error)?;
    match usize::try_from(number) {
        Ok(limit) if limit >= 1 => Ok(limit),
        Ok(_) | Err(_) => Err(QueryError::new(
            ErrorKind::QueryLogic,
            format!("Illegal {what} size limit `{number}`.  (Must be >= 1.)"),
        )),
    }
}

fn batch_seconds(seconds: f64) -> Result<(), QueryError> {
    let logic = |text: String| Err(QueryError::new(ErrorKind::QueryLogic, text));
    if seconds >= 86_400.0 {
        return logic(format!("max_batch_seconds is too large (got `{seconds}`, must be less than 86400)."));
    }
    if seconds <= 0.0 {
        return logic(format!("max_batch_seconds must be positive (got `{seconds}`)."));
    }
    Ok(())
}
