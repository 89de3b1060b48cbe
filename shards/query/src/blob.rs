//! Functions as RethinkDB stores them: what `get_write_hook` and `index_status` give as binary data, and what restoring a
//! dump hands back.
//!
//! | part | bytes |
//! |---|---|
//! | kind | 0: ReQL (1, JavaScript, is refused: it is never deterministic) |
//! | captured variables | count (varint), then id (8 bytes) and datum each |
//! | depth of `r.row` | 4 bytes; if 1, a flag and a datum |
//! | parameters | count (varint), then id (8 bytes) each |
//! | body | length (4 bytes, with the NUL), JSON of the term, NUL, backtrace id (4 bytes) |
//!
//! Numbers are little-endian. In the JSON every term is an array that ends with a number more than on the wire (its backtrace
//! id), and constants are DATUM terms. We write captured values into the body, so there are never captured variables in what we
//! write; of what RethinkDB wrote we understand those that are scalars.

use photondb_proto::datum::document::{put_varint, varint_at};
use photondb_proto::datum::json_parse::{self, Pseudotypes};
use photondb_proto::datum::{Datum, Slice, Text, json};
use photondb_proto::limits;
use photondb_proto::term::{Call, Term, number};

use crate::check::{self, Standing};
use crate::eval::{self, Binding, Env};
use crate::failure::{Failure, Outcome, Place};
use crate::function::Function;
use crate::source;
use crate::terms::Determinism;
use crate::value::Value;

const REQL: u8 = 0;
const FUNC: u32 = number::FUNC;

/// What a write hook's bytes begin with.
const WRITE_HOOK_PREFIX: &[u8] = b"$reql_write_hook_function$";

const NO_WRITE_HOOK: &str =
    "Cannot create a write hook except from a reql_write_hook_function returned from `get_write_hook`.";

/// Bytes that are no stored function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("byte {at} of a stored function is not understood")]
pub struct BadBlob {
    pub at: usize,
}

// ---------------------------------------------------------------- write hooks

/// The stored form of a write hook.
///
/// # Errors
/// It is not deterministic, or does not take three arguments.
pub fn write_hook(hook: &Function) -> Outcome<Vec<u8>> {
    if hook.determinism() > Determinism::Always {
        let text = "Could not prove function deterministic.  Write hook functions must be deterministic.";
        return Err(Failure::logic(text).at(hook.body_place()));
    }
    if hook.arity() != Some(3) {
        return Err(Failure::logic("Write hook functions must expect 3 arguments."));
    }
    let mut blob = WRITE_HOOK_PREFIX.to_vec();
    put_function(hook, Numbers::NONE, &mut blob)?;
    Ok(blob)
}

/// The write hook that a blob holds.
///
/// # Errors
/// It holds none.
pub fn write_hook_of(blob: &[u8]) -> Outcome<Function> {
    let function = blob.strip_prefix(WRITE_HOOK_PREFIX).ok_or_else(|| Failure::logic(NO_WRITE_HOOK))?;
    match take_function(function) {
        Ok((function, [])) => Ok(function),
        Ok(_) | Err(_) => Err(Failure::logic(NO_WRITE_HOOK)),
    }
}

/// What `get_write_hook` and `table_config` show of a stored hook.
pub fn describe_write_hook(blob: &[u8]) -> Datum {
    let text = match write_hook_of(blob) {
        Ok(hook) => format!("setWriteHook({})", source::of_function(&hook)),
        Err(failure) => failure.message,
    };
    Datum::object([("function", Datum::Binary(Slice::from(blob))), ("query", Datum::String(text.into()))])
}

// ---------------------------------------------------------------- indexes

/// What an index's bytes begin with: the prefix and the versions of RethinkDB 2.4's format.
const INDEX_PREFIX: &[u8] = b"$reql_index_function$";
const INDEX_VERSIONS: [u8; 4] = [9, 7, 7, 7];
/// Versions below this spelled functions in another way.
const INDEX_VERSION_MIN: u8 = 7;
/// The parameter of an index's function that only takes a field.
const FIELD_PARAMETER: i64 = -19;

const NO_INDEX: &str = "Cannot create an sindex except from a reql_index_function returned from `index_status` in the \
                        field `function`.";

/// An index as it is stored: its function, then a byte each for `multi` and `geo`.
#[derive(Clone, Debug)]
pub struct StoredIndex {
    pub function: Function,
    pub multi: bool,
    pub geo: bool,
}

impl StoredIndex {
    /// The stored form. `numbers` are those of the function's body.
    ///
    /// # Errors
    /// The function captured something that is not data.
    pub fn to_bytes(&self, numbers: Numbers) -> Outcome<Vec<u8>> {
        let mut blob = INDEX_PREFIX.to_vec();
        blob.extend_from_slice(&INDEX_VERSIONS);
        put_function(&self.function, numbers, &mut blob)?;
        blob.extend_from_slice(&[u8::from(self.multi), u8::from(self.geo)]);
        Ok(blob)
    }

    /// # Errors
    /// The blob holds no index.
    pub fn from_bytes(blob: &[u8]) -> Outcome<StoredIndex> {
        let rest = blob.strip_prefix(INDEX_PREFIX).ok_or_else(|| Failure::logic(NO_INDEX))?;
        let broken = |why: String| {
            Failure::logic(format!(
                "Binary blob passed to index create could not be interpreted as a reql_index_function ({why})."
            ))
        };
        let Some((&[version, ..], rest)) = rest.split_first_chunk::<4>() else {
            return Err(broken("it ends too early".into()));
        };
        if version < INDEX_VERSION_MIN {
            return Err(broken("it was made by a RethinkDB before 2.2".into()));
        }
        match take_function(rest) {
            Ok((function, &[multi, geo])) => Ok(StoredIndex { function, multi: multi != 0, geo: geo != 0 }),
            Ok(_) => Err(broken("its end is not what it should be".into())),
            Err(error) => Err(broken(error.to_string())),
        }
    }

    /// `indexCreate('name', function(var1) { return …; })`
    pub fn describe(&self, name: &str) -> String {
        let options = [("multi", self.multi), ("geo", self.geo)];
        let options: Vec<String> =
            options.iter().filter(|(_, set)| *set).map(|(name, _)| format!("{name}: true")).collect();
        let options =
            if options.is_empty() { String::new() } else { format!(", {{{}}}", options.join(", ")) };
        format!("indexCreate('{name}', {}{options})", source::of_function(&self.function))
    }
}

/// The function of an index that is named like its field.
///
/// # Errors
/// None but broken invariants.
pub fn field_function(name: &str) -> Outcome<Function> {
    let call = |number, arguments| Term::Call(Box::new(Call { number, arguments, options: Vec::new() }));
    let parameter = Datum::Number(FIELD_PARAMETER as f64);
    let row = call(number::VAR, vec![Term::Datum(parameter.clone())]);
    let body = call(number::GET_FIELD, vec![row, Term::Datum(Datum::string(name))]);
    let lambda = call(FUNC, vec![Term::Datum(Datum::array(vec![parameter])), body]);
    Ok(Function::lambda(check::check_inside(&lambda, &[], &Place::root(), Standing::Function)?, None))
}

// ---------------------------------------------------------------- writing

/// The numbers that RethinkDB gives the terms of a query, counted from the front.
#[derive(Clone, Copy, Debug)]
pub struct Numbers {
    next: u32,
    step: u32,
}

impl Numbers {
    /// Terms that were in no query: all have number 0.
    pub const NONE: Numbers = Numbers { next: 0, step: 0 };

    /// For what stands behind `count` terms of a query.
    pub fn behind(count: u32) -> Numbers {
        Numbers { next: count, step: 1 }
    }

    fn take(&mut self) -> u32 {
        let number = self.next;
        self.next += self.step;
        number
    }
}

/// The number of terms in a term, itself included.
pub fn count_terms(term: &Term) -> u32 {
    match term {
        Term::Call(call) => {
            let parts = call.arguments.iter().chain(call.options.iter().map(|(_, term)| term));
            1 + parts.map(count_terms).sum::<u32>()
        }
        Term::Datum(Datum::Array(items)) => {
            1 + items.iter().map(|item| count_terms(&Term::Datum(item))).sum::<u32>()
        }
        Term::Datum(Datum::Object(object)) => {
            1 + object.iter().map(|(_, value)| count_terms(&Term::Datum(value))).sum::<u32>()
        }
        Term::Datum(_) => 1,
    }
}

/// Appends a function, whose body's term is the next of `numbers`.
///
/// # Errors
/// It captured something that is not data.
pub fn put_function(function: &Function, mut numbers: Numbers, out: &mut Vec<u8>) -> Outcome<()> {
    let Some((parameters, body, env)) = function.anatomy() else {
        return Err(Failure::logic("Only functions can be stored, not values that stand for them."));
    };
    out.push(REQL);
    put_varint(0, out);
    out.extend_from_slice(&0u32.to_le_bytes());
    put_varint(u32::try_from(parameters.len()).expect("parameters fit in a query"), out);
    parameters.iter().for_each(|id| out.extend_from_slice(&id.to_le_bytes()));
    let mut text = Vec::new();
    let first = numbers.next;
    put_term(&body.to_term(), parameters, env, &mut numbers, &mut text)?;
    let length = i32::try_from(text.len() + 1).map_err(|_| Failure::limit("The function is too large."))?;
    out.extend_from_slice(&length.to_le_bytes());
    out.extend_from_slice(&text);
    out.push(0);
    out.extend_from_slice(&first.to_le_bytes());
    Ok(())
}

/// The JSON of a term. `bound` are the variables that are bound inside; others are replaced by their values.
fn put_term(term: &Term, bound: &[i64], env: &Env, numbers: &mut Numbers, out: &mut Vec<u8>) -> Outcome<()> {
    let call = match term {
        Term::Datum(datum) => return put_datum(datum, numbers, out),
        Term::Call(call) => call,
    };
    let mut bound = bound.to_vec();
    match (call.number, call.arguments.as_slice()) {
        (number::VAR, [Term::Datum(Datum::Number(id))]) if !bound.contains(&(*id as i64)) => {
            return match eval::lookup(env, *id as i64) {
                Some(Value::Datum(datum)) => put_datum(datum, numbers, out),
                Some(_) | None => Err(Failure::logic("A stored function may only use data from outside it.")),
            };
        }
        (FUNC, [Term::Datum(Datum::Array(ids)), _]) => bound.extend(ids.iter().filter_map(|id| match id {
            Datum::Number(id) => Some(id as i64),
            _ => None,
        })),
        _ => {}
    }
    let own = numbers.take();
    put_head(call.number, out);
    for (index, argument) in call.arguments.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_term(argument, &bound, env, numbers, out)?;
    }
    out.push(b']');
    if !call.options.is_empty() {
        for (index, (key, option)) in call.options.iter().enumerate() {
            out.extend_from_slice(if index == 0 { b",{" } else { b"," });
            json::write_string(key.as_bytes(), out);
            out.push(b':');
            put_term(option, &bound, env, numbers, out)?;
        }
        out.push(b'}');
    }
    put_end(own, out);
    Ok(())
}

fn put_end(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(format!(",{number}]").as_bytes());
}

/// A term as far as its first argument.
fn put_head(number: u32, out: &mut Vec<u8>) {
    out.extend_from_slice(format!("[{number},[").as_bytes());
}

fn put_datum(datum: &Datum, numbers: &mut Numbers, out: &mut Vec<u8>) -> Outcome<()> {
    match datum {
        Datum::Array(items) => {
            let own = numbers.take();
            put_head(number::MAKE_ARRAY, out);
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                put_datum(&item, numbers, out)?;
            }
            out.push(b']');
            put_end(own, out);
        }
        Datum::Object(object) => put_pairs(object.iter(), numbers, out)?,
        Datum::Time(_) | Datum::Binary(_) => {
            let plain = json_parse::parse_with(&json::to_string(datum).into(), Pseudotypes::Plain)?;
            let Datum::Object(object) = &plain else {
                return Err(Failure::internal("times and binary data are printed as objects"));
            };
            put_pairs(object.iter(), numbers, out)?;
        }
        Datum::MinVal | Datum::MaxVal => {
            let bound = if matches!(datum, Datum::MinVal) { number::MINVAL } else { number::MAXVAL };
            put_head(bound, out);
            out.push(b']');
            put_end(numbers.take(), out);
        }
        Datum::Null | Datum::Bool(_) | Datum::Number(_) | Datum::String(_) => {
            out.extend_from_slice(b"[1,");
            json::write(datum, out);
            put_end(numbers.take(), out);
        }
    }
    Ok(())
}

fn put_pairs(
    pairs: impl Iterator<Item = (Text, Datum)>,
    numbers: &mut Numbers,
    out: &mut Vec<u8>,
) -> Outcome<()> {
    let own = numbers.take();
    put_head(number::MAKE_OBJ, out);
    out.extend_from_slice(b"],{");
    for (index, (key, value)) in pairs.enumerate() {
        if index > 0 {
            out.push(b',');
        }
        json::write_string(key.as_bytes(), out);
        out.push(b':');
        put_datum(&value, numbers, out)?;
    }
    out.push(b'}');
    put_end(own, out);
    Ok(())
}

// ---------------------------------------------------------------- reading

/// Reads a function; gives what follows it too.
///
/// # Errors
/// Bytes that are none, or of a kind that is not understood.
pub fn take_function(bytes: &[u8]) -> Result<(Function, &[u8]), BadBlob> {
    let mut reader = Reader { bytes, at: 0 };
    if reader.byte()? != REQL {
        return Err(BadBlob { at: 0 });
    }
    let mut env = None;
    let mut captured = Vec::new();
    for _ in 0..reader.count()? {
        let id = reader.id()?;
        captured.push(id);
        env = Binding::new(id, Value::Datum(reader.datum()?), env);
    }
    if reader.word()? != 0 {
        return Err(reader.bad());
    }
    let parameters = (0..reader.count()?).map(|_| reader.id()).collect::<Result<Vec<i64>, BadBlob>>()?;
    let body = reader.body()?;
    reader.word()?;
    let ids = parameters.iter().map(|id| Datum::Number(*id as f64)).collect();
    let term = Term::Call(Box::new(Call {
        number: FUNC,
        arguments: vec![Term::Datum(Datum::array(ids)), body],
        options: Vec::new(),
    }));
    let node = check::check_inside(&term, &captured, &Place::root(), Standing::Function)
        .map_err(|_| reader.bad())?;
    Ok((Function::lambda(node, env), &bytes[reader.at..]))
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn bad(&self) -> BadBlob {
        BadBlob { at: self.at }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], BadBlob> {
        let end = self.at.checked_add(count).filter(|end| *end <= self.bytes.len()).ok_or(self.bad())?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], BadBlob> {
        Ok(self.take(N)?.try_into().expect("as many bytes as were asked for"))
    }

    fn byte(&mut self) -> Result<u8, BadBlob> {
        Ok(self.fixed::<1>()?[0])
    }

    fn word(&mut self) -> Result<u32, BadBlob> {
        Ok(u32::from_le_bytes(self.fixed()?))
    }

    fn id(&mut self) -> Result<i64, BadBlob> {
        Ok(i64::from_le_bytes(self.fixed()?))
    }

    fn varint(&mut self) -> Result<u32, BadBlob> {
        let (number, end) = varint_at(self.bytes, self.at).ok_or(self.bad())?;
        self.at = end;
        Ok(number)
    }

    /// A count of things of a byte at least.
    fn count(&mut self) -> Result<usize, BadBlob> {
        let count = self.varint()? as usize;
        if count > self.bytes.len() - self.at { Err(self.bad()) } else { Ok(count) }
    }

    fn text(&mut self) -> Result<Text, BadBlob> {
        let length = self.count()?;
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| self.bad())?;
        Ok(Text::new(text))
    }

    /// A captured value; arrays and objects are not understood.
    fn datum(&mut self) -> Result<Datum, BadBlob> {
        const BOOL: u8 = 2;
        const NULL: u8 = 3;
        const DOUBLE: u8 = 4;
        const STRING: u8 = 6;
        const NEGATIVE: u8 = 7;
        const POSITIVE: u8 = 8;
        const BINARY: u8 = 9;
        let datum = match self.byte()? {
            BOOL => Datum::Bool(self.byte()? != 0),
            NULL => Datum::Null,
            DOUBLE => Datum::Number(f64::from_le_bytes(self.fixed()?)),
            STRING => Datum::String(self.text()?),
            NEGATIVE => Datum::Number(-f64::from(self.varint()?)),
            POSITIVE => Datum::Number(f64::from(self.varint()?)),
            BINARY => {
                let length = self.count()?;
                Datum::Binary(Slice::from(self.take(length)?))
            }
            _ => return Err(self.bad()),
        };
        Ok(datum)
    }

    fn body(&mut self) -> Result<Term, BadBlob> {
        let length = self.word()? as usize;
        let text = self.take(length)?.strip_suffix(&[0]).ok_or(self.bad())?;
        let text = std::str::from_utf8(text).map_err(|_| self.bad())?;
        let json = json_parse::parse_with(&Text::new(text), Pseudotypes::Plain).map_err(|_| self.bad())?;
        term_of(&json, 0).ok_or(self.bad())
    }
}

/// The term of a stored term's JSON.
fn term_of(json: &Datum, depth: u32) -> Option<Term> {
    let Datum::Array(parts) = json else { return None };
    let parts: Vec<Datum> = parts.iter().collect();
    let (Some(Datum::Number(kind)), true) = (parts.first(), depth < limits::TERM_DEPTH_MAX) else {
        return None;
    };
    let number = *kind as u32;
    if number == number::DATUM {
        return parts.get(1).map(|datum| Term::Datum(datum.clone()));
    }
    let mut call = Call { number, arguments: Vec::new(), options: Vec::new() };
    for part in &parts[1..] {
        match part {
            Datum::Array(arguments) => {
                let terms = arguments.iter().map(|argument| term_of(&argument, depth + 1));
                call.arguments = terms.collect::<Option<_>>()?;
            }
            Datum::Object(options) => {
                let terms = options.iter().map(|(key, option)| Some((key, term_of(&option, depth + 1)?)));
                call.options = terms.collect::<Option<_>>()?;
            }
            _ => {}
        }
    }
    Some(Term::Call(Box::new(call)))
}

#[cfg(test)]
mod tests {
    use photondb_proto::term::parse::{Parser, QueryMessage};

    use super::*;
    use crate::terms::probe::datum;

    fn function(term: &str) -> Function {
        let mut bytes = format!("[1,{term}]").into_bytes();
        let Ok(QueryMessage::Start { term, .. }) = Parser::default().parse(&mut bytes) else {
            panic!("a query")
        };
        let node = check::check_inside(&term, &[7], &Place::root(), Standing::Function).expect("sound");
        Function::lambda(node, Binding::new(7, Value::Datum(datum(r#"{"a":[1,"x",null]}"#)), None))
    }

    /// The stored function in words, and that it stays the same when it is stored again.
    #[track_caller]
    fn check(term: &str, want: &str) {
        let mut bytes = Vec::new();
        put_function(&function(term), Numbers::NONE, &mut bytes).expect("it can be stored");
        let (read, rest) = take_function(&bytes).expect("our own bytes");
        assert!(rest.is_empty());
        assert_eq!(source::of_function(&read), want);
        let mut again = Vec::new();
        put_function(&read, Numbers::NONE, &mut again).expect("it can be stored");
        assert_eq!(again, bytes);
    }

    #[test]
    fn functions_survive_being_stored() {
        check("[69,[[2,[1]],[170,[[10,[1]],\"a\"]]]]", "function(var1) { return var1(\"a\"); }");
        check("[69,[[2,[1]],[24,[[13,[]],1.5]]]]", "function(var1) { return var1.add(1.5); }");
        check(
            "[69,[[2,[1]],[2,[[10,[7]],[181,[]]]]]]",
            r#"function(var1) { return r.expr([{"a": [1, "x", null]}, r.maxval]); }"#,
        );
        check(
            r#"[69,[[2,[1]],[39,[[10,[1]],[69,[[2,[2]],[21,[[10,[2]],{"k":"v"}]]]]],{"default":true}]]]"#,
            r#"function(var1) { return var1.filter(function(var2) { return var2.gt({"k": "v"}); }, {"default": true}); }"#,
        );
        check(
            r#"[69,[[2,[1]],[99,["2020-01-01T00:00:00Z"]]]]"#,
            r#"function(var1) { return r.iso8601("2020-01-01T00:00:00Z"); }"#,
        );
    }

    /// What RethinkDB 2.4 wrote for `lambda x: r.expr([0, 1]).append(x["value"])` and for an index on a field.
    #[test]
    fn functions_that_rethinkdb_stored_are_read() {
        let stored = |head: &[u8], json: &str, tail: &[u8]| {
            let length = (json.len() as i32 + 1).to_le_bytes();
            [head, &length[..], json.as_bytes(), &[0][..], tail].concat()
        };
        let bytes = stored(
            b"\0\0\0\0\0\0\x01\x01\0\0\0\0\0\0\0",
            r#"[29,[[2,[[1,0,11],[1,1,12]],10],[170,[[10,[[1,1,22]],21],[1,"value",23]],20]],9]"#,
            b"\x09\0\0\0\0\0",
        );
        let (read, rest) = take_function(&bytes).expect("a stored function");
        assert_eq!(
            source::of_function(&read),
            r#"function(var1) { return r.expr([0, 1]).append(var1("value")); }"#
        );
        assert_eq!(rest, [0, 0]);
        let bytes = stored(
            b"\0\0\0\0\0\0\x01\xed\xff\xff\xff\xff\xff\xff\xff",
            r#"[31,[[10,[[1,-19,0]],0],[1,"a",0]],0]"#,
            b"\0\0\0\0",
        );
        let (read, _) = take_function(&bytes).expect("a stored function");
        assert_eq!(source::of_function(&read), r#"function(_var19) { return _var19.getField("a"); }"#);
    }

    #[test]
    fn indexes_are_stored_as_rethinkdb_stores_them() {
        let stored = |head: &[u8], json: &str, tail: &[u8]| {
            let length = (json.len() as i32 + 1).to_le_bytes();
            let start = [INDEX_PREFIX, b"\x09\x07\x07\x07\0\0\0\0\0\0\x01"].concat();
            [&start, head, &length[..], json.as_bytes(), &[0][..], tail].concat()
        };
        let field = field_function("a").expect("a function");
        let index = StoredIndex { function: field, multi: false, geo: false };
        let want =
            stored(&(-19i64).to_le_bytes(), r#"[31,[[10,[[1,-19,0]],0],[1,"a",0]],0]"#, &[0, 0, 0, 0, 0, 0]);
        assert_eq!(index.to_bytes(Numbers::NONE).expect("data"), want);
        let body = "[69,[[2,[1]],[29,[[2,[0,1]],[170,[[10,[1]],\"value\"]]]]]]";
        let index = StoredIndex { function: function(body), multi: true, geo: true };
        let json = r#"[29,[[2,[[1,0,11],[1,1,12]],10],[170,[[10,[[1,1,15]],14],[1,"value",16]],13]],9]"#;
        let want = stored(&1i64.to_le_bytes(), json, &[9, 0, 0, 0, 1, 1]);
        assert_eq!(index.to_bytes(Numbers::behind(9)).expect("data"), want);
        let read = StoredIndex::from_bytes(&want).expect("our own bytes");
        assert_eq!(
            read.describe("i"),
            "indexCreate('i', function(var1) { return r.expr([0, 1]).append(var1(\"value\")); }, \
             {multi: true, geo: true})"
        );
        for cut in 0..want.len() {
            assert!(StoredIndex::from_bytes(&want[..cut]).is_err(), "{cut} bytes");
        }
    }

    #[test]
    fn other_bytes_are_refused() {
        let mut bytes = Vec::new();
        put_function(&function("[69,[[2,[1]],[10,[1]]]]"), Numbers::NONE, &mut bytes)
            .expect("it can be stored");
        for cut in 0..bytes.len() {
            assert!(take_function(&bytes[..cut]).is_err(), "{cut} of {} bytes", bytes.len());
        }
        for place in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[place] ^= 0x55;
            // Whatever comes of it, it comes without a panic.
            let _ = take_function(&broken);
        }
    }
}
