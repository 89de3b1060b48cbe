//! The process that runs scripts, one after another, for [`super::script`].
//!
//! Always: before it reads the first script it has given up what it does not need: it can open no file and no socket, start no
//! process, and has bounded memory. Each script gets an engine of its own, so no script sees anything of another. Dates stand
//! for times. Frames on its pipes are a length (4 bytes, little-endian) and that many bytes, made and read by this file; before the frame of
//! an answer goes a byte that says that the script is begun.

use std::io::{Read, Write};
use std::time::{Duration, Instant};

use photondb_proto::datum::document::{put_bytes, put_varint, varint_at};
use photondb_proto::datum::{Datum, Time, document, pseudo};
use photondb_proto::datum::{ObjectBuilder, Text};
use photondb_proto::limits;
use photondb_proto::outside::{ScriptCall, ScriptReply};
use rquickjs::context::EvalOptions;
use rquickjs::function::Args;
use rquickjs::{Array, Context, Ctx, Function, Object, Runtime, Value};
use rustix::process::{Resource, Rlimit, setrlimit};

/// The hidden command that is this process.
pub const COMMAND: &str = "script-worker";
/// Largest frame: a script with its arguments, or a result, and a little around it.
pub const FRAME_BYTES_MAX: usize = limits::SCRIPT_BYTES_MAX + (1 << 16);
/// What the engine may allocate for one script.
const ENGINE_BYTES_MAX: usize = 128 << 20;
/// What the process may map in all, should the engine forget to count.
const ADDRESS_BYTES_MAX: u64 = 2 << 30;
/// The engine's stack; the main thread has 8 MB.
const STACK_BYTES_MAX: usize = 1 << 20;
/// Lower priority than the server's own threads.
const NICENESS: i32 = 10;

/// What it says before it runs a script.
pub const BEGUN: u8 = 0xb6;
const VALUE: u8 = 0;
const FUNCTION: u8 = 1;
const NO_FUNCTION: u8 = 2;
const FAILED: u8 = 3;
const TIMED_OUT: u8 = 4;

// ---------------------------------------------------------------- frames

/// The request for a script.
pub fn put_call(call: &ScriptCall) -> Vec<u8> {
    let mut out = call.timeout_ms.to_le_bytes().to_vec();
    put_bytes(call.source.as_bytes(), &mut out);
    if let Some(arguments) = &call.arguments {
        put_varint(u32::try_from(arguments.len()).expect("arguments fit in a query"), &mut out);
        arguments.iter().for_each(|argument| put_bytes(argument, &mut out));
    }
    out
}

fn take_call(bytes: &[u8]) -> Option<ScriptCall> {
    let (timeout, rest) = bytes.split_first_chunk::<8>()?;
    let (source, mut rest) = take_bytes(rest)?;
    let arguments = match varint_at(rest, 0) {
        None => None,
        Some((count, end)) => {
            rest = &rest[end..];
            let mut arguments = Vec::new();
            for _ in 0..count {
                let (argument, after) = take_bytes(rest)?;
                arguments.push(argument.to_vec());
                rest = after;
            }
            Some(arguments)
        }
    };
    let source = String::from_utf8(source.to_vec()).ok()?;
    Some(ScriptCall { source, arguments, timeout_ms: u64::from_le_bytes(*timeout) })
}

fn take_bytes(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, at) = varint_at(bytes, 0)?;
    bytes[at..].split_at_checked(length as usize)
}

fn put_reply(reply: &ScriptReply) -> Vec<u8> {
    let tagged = |tag: u8, bytes: &[u8]| [&[tag], bytes].concat();
    match reply {
        ScriptReply::Value(value) => tagged(VALUE, value),
        ScriptReply::Function => tagged(FUNCTION, &[]),
        ScriptReply::NoFunction => tagged(NO_FUNCTION, &[]),
        ScriptReply::Failed(message) => tagged(FAILED, message.as_bytes()),
        ScriptReply::TimedOut => tagged(TIMED_OUT, &[]),
        ScriptReply::Crashed => Vec::new(),
    }
}

/// The answer in a frame. A broken process may say anything, so values are checked.
pub fn take_reply(bytes: &[u8]) -> Option<ScriptReply> {
    let (tag, rest) = bytes.split_first()?;
    Some(match *tag {
        VALUE => {
            document::check(rest).ok()?;
            ScriptReply::Value(rest.to_vec())
        }
        FUNCTION => ScriptReply::Function,
        NO_FUNCTION => ScriptReply::NoFunction,
        FAILED => ScriptReply::Failed(String::from_utf8_lossy(rest).into_owned()),
        TIMED_OUT => ScriptReply::TimedOut,
        _ => return None,
    })
}

// ---------------------------------------------------------------- the process

/// Runs scripts from standard input until it ends.
///
/// # Errors
/// Only for a person who starts it by hand: the sandbox cannot be made, or a pipe broke.
pub fn run() -> anyhow::Result<()> {
    give_up_rights()?;
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let mut length = [0; 4];
    while input.read_exact(&mut length).is_ok() {
        let length = u32::from_le_bytes(length) as usize;
        anyhow::ensure!(length <= FRAME_BYTES_MAX, "a request over the limit");
        let mut request = vec![0; length];
        input.read_exact(&mut request)?;
        let call = take_call(&request).ok_or_else(|| anyhow::anyhow!("a request that is none"))?;
        output.write_all(&[BEGUN])?;
        output.flush()?;
        let mut reply = put_reply(&evaluate(&call));
        if reply.len() > FRAME_BYTES_MAX {
            let most = limits::SCRIPT_BYTES_MAX;
            reply =
                put_reply(&ScriptReply::Failed(format!("The script's result takes more than {most} bytes.")));
        }
        output.write_all(&u32::try_from(reply.len())?.to_le_bytes())?;
        output.write_all(&reply)?;
        output.flush()?;
    }
    Ok(())
}

fn give_up_rights() -> anyhow::Result<()> {
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    for resource in [Resource::Fsize, Resource::Nofile, Resource::Core, Resource::Nproc] {
        setrlimit(resource, none)?;
    }
    let memory = Rlimit { current: Some(ADDRESS_BYTES_MAX), maximum: Some(ADDRESS_BYTES_MAX) };
    setrlimit(Resource::As, memory)?;
    rustix::thread::set_no_new_privs(true)?;
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    // Where priorities are fixed we run with the one we have.
    let _ = rustix::process::nice(NICENESS);
    Ok(())
}

// ---------------------------------------------------------------- scripts

/// Runs one script.
pub fn evaluate(call: &ScriptCall) -> ScriptReply {
    let deadline = Instant::now() + Duration::from_millis(call.timeout_ms);
    let engine = Runtime::new().and_then(|runtime| Context::full(&runtime).map(|context| (runtime, context)));
    let Ok((runtime, context)) = engine else {
        return ScriptReply::Failed("The JavaScript engine cannot be started.".to_owned());
    };
    runtime.set_memory_limit(ENGINE_BYTES_MAX);
    runtime.set_max_stack_size(STACK_BYTES_MAX);
    runtime.set_interrupt_handler(Some(Box::new(move || Instant::now() >= deadline)));
    let reply = context.with(|context| match in_context(&context, call) {
        Ok(reply) => reply,
        Err(Trouble::Said(message)) => ScriptReply::Failed(message),
        Err(Trouble::Thrown(_)) if Instant::now() >= deadline => ScriptReply::TimedOut,
        Err(Trouble::Thrown(error)) => ScriptReply::Failed(thrown(&context, &error)),
    });
    match reply {
        ScriptReply::Failed(_) if Instant::now() >= deadline => ScriptReply::TimedOut,
        reply => reply,
    }
}

/// Why a script has no result.
enum Trouble {
    Said(String),
    Thrown(rquickjs::Error),
}

impl From<rquickjs::Error> for Trouble {
    fn from(error: rquickjs::Error) -> Trouble {
        Trouble::Thrown(error)
    }
}

fn say<T>(message: &str) -> Result<T, Trouble> {
    Err(Trouble::Said(message.to_owned()))
}

/// What was thrown, as text.
fn thrown(context: &Ctx<'_>, error: &rquickjs::Error) -> String {
    if !error.is_exception() {
        return error.to_string();
    }
    let value = context.catch();
    let text = context
        .globals()
        .get::<_, Function<'_>>("String")
        .and_then(|string| string.call::<_, String>((value,)));
    text.unwrap_or_else(|_| "The script threw something that has no text.".to_owned())
}

fn in_context(context: &Ctx<'_>, call: &ScriptCall) -> Result<ScriptReply, Trouble> {
    let classes = Classes::of(context)?;
    let mut options = EvalOptions::default();
    options.strict = false;
    let value: Value<'_> = context.eval_with_options(call.source.as_str(), options)?;
    let Some(arguments) = &call.arguments else {
        if value.is_function() {
            return Ok(ScriptReply::Function);
        }
        return Ok(ScriptReply::Value(document::to_bytes(&classes.datum(&value, 0)?)));
    };
    let Some(function) = value.as_function() else { return Ok(ScriptReply::NoFunction) };
    let mut given = Args::new(context.clone(), arguments.len());
    for argument in arguments {
        given.push_arg(classes.value(context, &document::from_bytes(argument))?)?;
    }
    let result: Value<'_> = function.call_arg(given)?;
    Ok(ScriptReply::Value(document::to_bytes(&classes.datum(&result, 0)?)))
}

/// What is asked of the engine's own classes, before a script can put others in their place.
struct Classes<'js> {
    date: Object<'js>,
    regexp: Object<'js>,
    time_of: Function<'js>,
    make_date: Function<'js>,
}

impl<'js> Classes<'js> {
    fn of(context: &Ctx<'js>) -> Result<Classes<'js>, rquickjs::Error> {
        Ok(Classes {
            date: context.globals().get("Date")?,
            regexp: context.globals().get("RegExp")?,
            time_of: context.eval("(getTime => date => getTime.call(date))(Date.prototype.getTime)")?,
            make_date: context.eval("(Date => time => new Date(time))(Date)")?,
        })
    }

    fn value(&self, context: &Ctx<'js>, datum: &Datum) -> Result<Value<'js>, Trouble> {
        Ok(match datum {
            Datum::Null => Value::new_null(context.clone()),
            Datum::Bool(truth) => Value::new_bool(context.clone(), *truth),
            Datum::Number(number) => Value::new_number(context.clone(), *number),
            Datum::String(text) => rquickjs::String::from_str(context.clone(), text.as_str())?.into_value(),
            Datum::Time(time) => self.make_date.call((time.epoch_seconds * 1000.0,))?,
            Datum::Array(items) => {
                let array = Array::new(context.clone())?;
                for (index, item) in items.iter().enumerate() {
                    array.set(index, self.value(context, &item)?)?;
                }
                array.into_value()
            }
            Datum::Object(object) => {
                let made = Object::new(context.clone())?;
                for (key, value) in object.iter() {
                    made.set(key.as_str(), self.value(context, &value)?)?;
                }
                made.into_value()
            }
            Datum::Binary(_) => return say("`r.binary` data cannot be used in `r.js`."),
            Datum::MinVal => return say("`r.minval` cannot be passed to `r.js`."),
            Datum::MaxVal => return say("`r.maxval` cannot be passed to `r.js`."),
        })
    }

    fn datum(&self, value: &Value<'js>, depth: u32) -> Result<Datum, Trouble> {
        if depth >= limits::DATUM_DEPTH_MAX {
            return say("Recursion limit exceeded in js_to_json (circular reference?).");
        }
        if value.is_undefined() {
            return say("Cannot convert javascript `undefined` to ql::datum_t.");
        }
        if value.is_null() {
            return Ok(Datum::Null);
        }
        if let Some(truth) = value.as_bool() {
            return Ok(Datum::Bool(truth));
        }
        if let Some(number) = value.as_number() {
            return finite(number).map(Datum::Number);
        }
        if let Some(text) = value.as_string() {
            return Ok(Datum::String(Text::from(text.to_string()?)));
        }
        if value.is_function() {
            return say("Returning functions from within `r.js` is unsupported.");
        }
        if let Some(array) = value.as_array() {
            let items = array.iter::<Value<'js>>().map(|item| self.datum(&item?, depth + 1));
            return Ok(Datum::array(items.collect::<Result<_, Trouble>>()?));
        }
        match value.as_object() {
            Some(object) => self.object(object, depth),
            None => say("Unrecognized value type when converting to ql::datum_t."),
        }
    }

    fn object(&self, object: &Object<'js>, depth: u32) -> Result<Datum, Trouble> {
        if object.is_instance_of(&self.date) {
            let epoch_ms: f64 = self.time_of.call((object.clone(),))?;
            return Ok(Datum::Time(Time { epoch_seconds: finite(epoch_ms)? / 1000.0, zone_minutes: 0 }));
        }
        if object.is_instance_of(&self.regexp) {
            return say("Cannot convert javascript `RegExp` to ql::datum_t.");
        }
        let mut builder = ObjectBuilder::default();
        for pair in object.props::<String, Value<'js>>() {
            let (key, value) = pair?;
            builder.set(key.as_str(), self.datum(&value, depth + 1)?);
        }
        let object = builder.build();
        if !object.has(pseudo::TYPE_KEY) {
            return Ok(Datum::Object(object));
        }
        pseudo::from_object(object).map_err(|error| Trouble::Said(error.message))
    }
}

fn finite(number: f64) -> Result<f64, Trouble> {
    if number.is_finite() { Ok(number) } else { say("Number return value is not finite.") }
}

#[cfg(test)]
mod tests {
    use photondb_proto::datum::{json, json_parse};

    use super::*;

    fn run(source: &str, arguments: Option<&str>, timeout_ms: u64) -> String {
        let datum = |text: &str| json_parse::parse(&Text::new(text)).expect("JSON");
        let arguments = arguments.map(|text| match datum(text) {
            Datum::Array(items) => items.iter().map(|item| document::to_bytes(&item)).collect(),
            _ => panic!("arguments are an array"),
        });
        let call = ScriptCall { source: source.to_owned(), arguments, timeout_ms };
        assert_eq!(take_call(&put_call(&call)).as_ref(), Some(&call), "requests survive their pipe");
        let reply = evaluate(&call);
        assert_eq!(take_reply(&put_reply(&reply)).as_ref(), Some(&reply), "answers survive their pipe");
        match reply {
            ScriptReply::Value(bytes) => json::to_string(&document::from_bytes(&bytes)),
            ScriptReply::Failed(message) => format!("! {message}"),
            other => format!("{other:?}"),
        }
    }

    #[track_caller]
    fn check(source: &str, want: &str) {
        assert_eq!(run(source, None, 5000), want, "{source}");
    }

    #[track_caller]
    fn check_call(source: &str, arguments: &str, want: &str) {
        assert_eq!(run(source, Some(arguments), 5000), want, "{source} {arguments}");
    }

    #[test]
    fn values_go_both_ways() {
        check("1 + 1; 2 + 2", "4");
        check("({b: [1, 'x', null], a: {c: true}})", r#"{"a":{"c":true},"b":[1,"x",null]}"#);
        check("new Date(1500)", r#"{"$reql_type$":"TIME","epoch_time":1.5,"timezone":"+00:00"}"#);
        check("(function(a) { return a; })", "Function");
        check_call(
            "(function(a, b) { return [b, a]; })",
            r#"[1, {"x":["é", null]}]"#,
            r#"[{"x":["é",null]},1]"#,
        );
        let time = r#"[{"$reql_type$":"TIME","epoch_time":2.5,"timezone":"+02:00"}]"#;
        check_call("(function(t) { return t.getTime(); })", time, "2500");
        check_call("1", "[]", "NoFunction");
    }

    #[test]
    fn what_has_no_value_says_so() {
        check("undefined", "! Cannot convert javascript `undefined` to ql::datum_t.");
        check("({a: undefined})", "! Cannot convert javascript `undefined` to ql::datum_t.");
        check("1/0", "! Number return value is not finite.");
        check("[function() {}]", "! Returning functions from within `r.js` is unsupported.");
        check("/a/", "! Cannot convert javascript `RegExp` to ql::datum_t.");
        check("var a = []; a.push(a); a", "! Recursion limit exceeded in js_to_json (circular reference?).");
        check("function() { return 1; }", "! SyntaxError: function name expected");
        check("throw 'x'", "! x");
        check("throw new TypeError('no')", "! TypeError: no");
        check("nothing", "! ReferenceError: nothing is not defined");
    }

    #[test]
    fn scripts_are_bounded() {
        assert_eq!(run("while (true) {}", None, 50), "TimedOut");
        assert_eq!(run("try { while (true) {} } catch (e) { 1 }", None, 50), "TimedOut");
        check("function f() { return f(); } f()", "! RangeError: Maximum call stack size exceeded");
        let hungry = run("var a = []; while (true) a.push('x'.repeat(1 << 20) + a.length)", None, 20_000);
        assert!(hungry.contains("out of memory"), "{hungry}");
    }

    #[test]
    fn a_script_sees_nothing_of_another() {
        check("globalThis.left = 1; Date.prototype.getTime = () => 7; 1", "1");
        check("typeof left", "\"undefined\"");
        check(
            "typeof require + typeof std + typeof os + typeof fetch",
            "\"undefinedundefinedundefinedundefined\"",
        );
    }
}
