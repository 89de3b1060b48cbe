//! JAVASCRIPT: values and functions that another language computes, in a process of its own ([`Run::script`]).
//!
//! Always: a script is never deterministic, so nothing that it gives travels to the rows. A function is its source: each call
//! evaluates it anew, so calls share no state.

use photondb_proto::datum::{Datum, document};
use photondb_proto::error::ErrorKind;
use photondb_proto::limits;
use photondb_proto::outside::{ScriptCall, ScriptReply};
use photondb_proto::term::number;

use super::{Arity, Determinism, Eval, Invocation, TermDef};
use crate::failure::{Failure, Outcome, Place};
use crate::function::Function;
use crate::run::Run;
use crate::value::Value;

pub static TERMS: &[TermDef] = &[TermDef {
    name: "JAVASCRIPT",
    number: number::JAVASCRIPT,
    arity: Arity::exactly(1),
    options: &["timeout"],
    determinism: Determinism::Never,
    eval: Eval::Strict(|run, invocation| Box::pin(script(run, invocation))),
}];

/// What a script may take unless it says otherwise.
const TIMEOUT_DEFAULT_S: f64 = 5.0;

/// A script and how long it may run.
#[derive(Clone, Debug)]
pub struct Script {
    source: String,
    timeout_ms: u64,
}

async fn script(run: &Run, invocation: Invocation) -> Outcome<Value> {
    let source = invocation.string(0)?.as_str().to_owned();
    let seconds = match invocation.option("timeout").zip(invocation.option_datum("timeout")?) {
        None => TIMEOUT_DEFAULT_S,
        Some((_, Datum::Number(seconds))) => seconds,
        Some((argument, other)) => return Err(crate::value::wrong_type("NUMBER", &other).at(&argument.place)),
    };
    let script = Script { source, timeout_ms: timeout_ms(seconds, limits::SCRIPT_TIMEOUT_MAX_MS) };
    match script.ask(run, None).await? {
        Some(datum) => Ok(Value::Datum(datum)),
        None => Ok(Value::Function(Function::script(script, invocation.place().clone()))),
    }
}

/// Milliseconds of a time limit in seconds.
pub fn timeout_ms(seconds: f64, most: u64) -> u64 {
    ((seconds * 1000.0).max(0.0) as u64).min(most)
}

impl Script {
    /// The value of the function that the script gives.
    pub async fn call(&self, run: &Run, arguments: &[Datum], place: &Place) -> Outcome<Datum> {
        let value = self.ask(run, Some(arguments)).await.map_err(|failure| failure.at(place))?;
        value.ok_or_else(|| Failure::internal("a script's function was not called").at(place))
    }

    /// `None` when the script gives a function and none was to be called.
    async fn ask(&self, run: &Run, arguments: Option<&[Datum]>) -> Outcome<Option<Datum>> {
        if let Some(arguments) = arguments {
            arguments.iter().try_for_each(check_passable)?;
        }
        let arguments: Option<Vec<Vec<u8>>> =
            arguments.map(|arguments| arguments.iter().map(document::to_bytes).collect());
        let bytes = self.source.len() + arguments.iter().flatten().map(Vec::len).sum::<usize>();
        if bytes > limits::SCRIPT_BYTES_MAX {
            let most = limits::SCRIPT_BYTES_MAX;
            return Err(Failure::limit(format!(
                "A script and its arguments may take {most} bytes together, not {bytes}."
            )));
        }
        let call = ScriptCall { source: self.source.clone(), arguments, timeout_ms: self.timeout_ms };
        let source = &self.source;
        Err(match run.script(call).await? {
            ScriptReply::Value(bytes) => return Ok(Some(document::from_bytes(&bytes))),
            ScriptReply::Function => return Ok(None),
            ScriptReply::Failed(message) => Failure::logic(message),
            ScriptReply::NoFunction => Failure::logic(format!(
                "Javascript query `{source}` returned a value when it should have returned a function."
            )),
            ScriptReply::TimedOut => {
                let (seconds, rest) = (self.timeout_ms / 1000, self.timeout_ms % 1000);
                Failure::logic(format!(
                    "JavaScript query `{source}` timed out after {seconds}.{rest:03} seconds."
                ))
            }
            ScriptReply::Crashed => Failure::new(
                ErrorKind::Internal,
                format!("Javascript query `{source}` caused a crash in a worker process."),
            ),
        })
    }
}

/// Fails for what JavaScript has nothing for.
fn check_passable(datum: &Datum) -> Outcome<()> {
    match datum {
        Datum::MinVal => Err(Failure::logic("`r.minval` cannot be passed to `r.js`.")),
        Datum::MaxVal => Err(Failure::logic("`r.maxval` cannot be passed to `r.js`.")),
        Datum::Binary(_) => Err(Failure::logic("`r.binary` data cannot be used in `r.js`.")),
        Datum::Array(items) => items.iter().try_for_each(|item| check_passable(&item)),
        Datum::Object(object) => object.iter().try_for_each(|(_, value)| check_passable(&value)),
        Datum::Null | Datum::Bool(_) | Datum::Number(_) | Datum::String(_) | Datum::Time(_) => Ok(()),
    }
}
