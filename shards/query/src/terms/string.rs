//! Text, JSON text, binary data and names.
//!
//! Case changes touch ASCII letters only and positions of matches are byte offsets, as in RethinkDB; slicing and
//! counting go by code points. [`slice_text`], [`slice_binary`], [`slice_range`] and [`count_text`] are for the
//! sequence terms, whose receiver may be text or bytes.

use std::cell::OnceCell;
use std::ops::Range;

use photondb_proto::datum::json::{self, Written};
use photondb_proto::datum::json_parse;
use photondb_proto::datum::json_steps::Printing;
use photondb_proto::datum::{Datum, Object, Slice, Text};
use photondb_proto::term::number;
use regex::Regex;
use uuid::Uuid;

use super::object::get_field;
use super::pattern;
use super::time::Bound;
use super::{Arity, TermDef};
use crate::call::{Call, Limits, check_array_size, value_too_large};
use crate::failure::{Failure, Outcome};
use crate::run::Run;
use crate::value::wrong_type;

pub static TERMS: &[TermDef] = &[
    TermDef::pure("MATCH", number::MATCH, Arity::exactly(2), find_match),
    TermDef::pure("SPLIT", number::SPLIT, Arity::between(1, 3), split),
    TermDef::pure("UPCASE", number::UPCASE, Arity::exactly(1), |call| {
        Ok(Datum::String(call.string(0)?.to_ascii_uppercase().into()))
    }),
    TermDef::pure("DOWNCASE", number::DOWNCASE, Arity::exactly(1), |call| {
        Ok(Datum::String(call.string(0)?.to_ascii_lowercase().into()))
    }),
    TermDef::pure("TO_JSON_STRING", number::TO_JSON_STRING, Arity::exactly(1), to_json_string),
    TermDef::pure("JSON", number::JSON, Arity::exactly(1), json),
    TermDef::pure("FORMAT", number::FORMAT, Arity::exactly(2), format_template),
    TermDef::pure("BINARY", number::BINARY, Arity::exactly(1), binary),
];

// ---------------------------------------------------------------- match, split

fn find_match(call: &Call) -> Outcome<Datum> {
    let (text, pattern) = (call.string(0)?, call.string(1)?);
    let Some(captures) = pattern::compile(&pattern)?.captures(&text) else { return Ok(Datum::Null) };
    let whole = captures.get(0).expect("group 0 is the match");
    let groups =
        captures.iter().skip(1).map(|group| group.map_or(Datum::Null, |group| Datum::object(found(&group))));
    let groups = call.array_result(groups.collect())?;
    let [start, end, text] = found(&whole);
    Ok(Datum::object([start, end, text, ("groups", groups)]))
}

fn found(group: &regex::Match<'_>) -> [(&'static str, Datum); 3] {
    [
        ("start", Datum::Number(group.start() as f64)),
        ("end", Datum::Number(group.end() as f64)),
        ("str", Datum::string(group.as_str())),
    ]
}

/// `split(text, separator or null, most splits)`.
fn split(call: &Call) -> Outcome<Datum> {
    let text = call.string(0)?;
    let separator = if call.count() > 1 && !call.datum(1)?.is_null() { Some(call.string(1)?) } else { None };
    let splits_max = if call.count() > 2 { splits_max(call)? } else { usize::MAX };
    let parts: Vec<&str> = match separator.as_deref() {
        None => split_blanks(&text, splits_max),
        Some("") => split_characters(&text, splits_max),
        Some(separator) => text.splitn(splits_max.saturating_add(1), separator).collect(),
    };
    call.array_result(parts.into_iter().map(Datum::string).collect())
}

/// -1 stands for any number.
fn splits_max(call: &Call) -> Outcome<usize> {
    let (given, limit) = (call.integer(2)?, call.limits.array_elements_max);
    match usize::try_from(given) {
        Ok(splits) if splits <= limit => Ok(splits),
        Err(_) if given == -1 => Ok(usize::MAX),
        Ok(_) | Err(_) => {
            Err(Failure::logic(format!("Error: `split` size argument must be in range [-1, {limit}].")))
        }
    }
}

/// Words between runs of blanks; what is left after the last split keeps the blanks behind it.
fn split_blanks(text: &str, splits_max: usize) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let end = if parts.len() < splits_max { rest.find(char::is_whitespace) } else { None };
        let (part, after) = rest.split_at(end.unwrap_or(rest.len()));
        parts.push(part);
        rest = after.trim_start();
    }
    parts
}

/// Characters, each with the combining marks behind it.
fn split_characters(text: &str, splits_max: usize) -> Vec<&str> {
    thread_local! {
        static CHARACTER: OnceCell<Regex> = const { OnceCell::new() };
    }
    let character = CHARACTER.with(|cell| {
        cell.get_or_init(|| Regex::new(r"(?s)\P{M}\p{M}*|\p{M}+").expect("a constant pattern compiles"))
            .clone()
    });
    let mut parts = Vec::new();
    let mut end = 0;
    for found in character.find_iter(text).take(splits_max) {
        parts.push(found.as_str());
        end = found.end();
    }
    if end < text.len() {
        parts.push(&text[end..]);
    }
    parts
}

// ---------------------------------------------------------------- slices and counts

/// The ends of a slice as the query gives them.
#[derive(Clone, Copy, Debug)]
pub struct SliceBounds {
    pub left: i64,
    pub right: i64,
    pub left_bound: Bound,
    pub right_bound: Bound,
}

impl SliceBounds {
    /// The places of `count` that the bounds name; negative ones count from the end. Empty when they cross.
    pub fn range(self, count: usize) -> Range<usize> {
        let count = i64::try_from(count).expect("a count fits");
        let from_start = |bound: i64| if bound < 0 { bound.saturating_add(count) } else { bound };
        let (left, right) = (from_start(self.left), from_start(self.right));
        // A right end before the beginning leaves nothing, closed or not.
        if right < 0 {
            return 0..0;
        }
        let left = left.max(0).saturating_add(i64::from(self.left_bound == Bound::Open));
        let right = right.saturating_add(i64::from(self.right_bound == Bound::Closed)).min(count);
        if left >= right {
            return 0..0;
        }
        let place = |bound: i64| usize::try_from(bound).expect("between 0 and count");
        place(left)..place(right)
    }
}

/// Code points of a text.
pub fn count_text(text: &str) -> usize {
    text.chars().count()
}

/// A part of a text by code points.
pub fn slice_text(text: &Text, bounds: SliceBounds) -> Text {
    let range = bounds.range(count_text(text));
    let mut offsets = text.char_indices().map(|(offset, _)| offset).chain([text.len()]);
    let start = offsets.by_ref().nth(range.start).unwrap_or(text.len());
    let end = match range.len() {
        0 => start,
        length => offsets.nth(length - 1).unwrap_or(text.len()),
    };
    Text::new(&text[start..end])
}

/// A part of binary data by bytes; shares them.
pub fn slice_binary(bytes: &Slice, bounds: SliceBounds) -> Slice {
    let range = bounds.range(bytes.len());
    bytes.part(range.start, range.end)
}

// ---------------------------------------------------------------- JSON, binary, names, templates

/// JSON that is printed in one step: a fraction of a millisecond.
const STEP_BYTES: usize = 128 << 10;

/// Appends a value's JSON.
///
/// # Errors
/// It has a bound in it, or is longer than `bytes_max`: then a part has been written.
pub fn put_json(datum: &Datum, bytes_max: usize, out: &mut Vec<u8>) -> Outcome<()> {
    written(json::write_within(datum, bytes_max, out), bytes_max)
}

/// [`put_json`] between whose steps others have their turn.
///
/// # Errors
/// Those of [`put_json`].
pub async fn put_large_json(run: &Run, datum: &Datum, bytes_max: usize, out: &mut Vec<u8>) -> Outcome<()> {
    out.reserve(datum.approximate_bytes().min(bytes_max));
    let mut printing = Printing::new(datum, bytes_max, out);
    loop {
        match printing.step(STEP_BYTES, out) {
            Some(end) => return written(end, bytes_max),
            None => run.turn().await,
        }
    }
}

fn written(end: Written, bytes_max: usize) -> Outcome<()> {
    match end {
        Written::Whole => Ok(()),
        Written::TooLarge => Err(value_too_large(bytes_max)),
        Written::Bound(name) => Err(has_bound(name)),
    }
}

/// Appends what is JSON already.
///
/// # Errors
/// It would be longer than `bytes_max`.
pub fn put_text(text: &[u8], bytes_max: usize, out: &mut Vec<u8>) -> Outcome<()> {
    if out.len() + text.len() > bytes_max {
        return Err(value_too_large(bytes_max));
    }
    out.extend_from_slice(text);
    Ok(())
}

pub fn has_bound(name: &str) -> Failure {
    Failure::logic(format!("Cannot convert `{name}` to JSON."))
}

/// A value's JSON as text.
pub fn json_text(datum: &Datum, limits: &Limits) -> Outcome<Text> {
    let mut out = Vec::new();
    put_json(datum, limits.value_bytes_max, &mut out)?;
    let text = String::from_utf8(out).map_err(|_| Failure::internal("JSON is UTF-8"))?;
    Ok(text.into())
}

fn json(call: &Call) -> Outcome<Datum> {
    let text = call.string(0)?;
    let datum = json_parse::parse(&text)?;
    // An element takes two bytes of text: shorter texts hold no array that is too long.
    if text.len() / 2 > call.limits.array_elements_max {
        check_arrays(&datum, &call.limits)?;
    }
    Ok(datum)
}

fn check_arrays(datum: &Datum, limits: &Limits) -> Outcome<()> {
    match datum {
        Datum::Array(items) => {
            check_array_size(items.len(), limits)?;
            items.iter().try_for_each(|item| check_arrays(&item, limits))
        }
        Datum::Object(object) => object.iter().try_for_each(|(_, value)| check_arrays(&value, limits)),
        Datum::Null
        | Datum::Bool(_)
        | Datum::Number(_)
        | Datum::String(_)
        | Datum::Binary(_)
        | Datum::Time(_)
        | Datum::MinVal
        | Datum::MaxVal => Ok(()),
    }
}

fn to_json_string(call: &Call) -> Outcome<Datum> {
    let datum = call.datum(0)?;
    Ok(Datum::String(json_text(&datum, &call.limits)?))
}

fn binary(call: &Call) -> Outcome<Datum> {
    match call.datum(0)? {
        Datum::String(text) => Ok(Datum::Binary(Slice::from(text.as_bytes()))),
        Datum::Binary(bytes) => Ok(Datum::Binary(bytes)),
        other => Err(wrong_type("STRING", &other)),
    }
}

/// The namespace of names given to `uuid`.
const UUID_NAMESPACE: Uuid = Uuid::from_u128(0x91461c99_f89d_49d2_af96_d8e2e14e9b58);

/// `uuid(name)`: the same name gives the same UUID.
pub fn uuid_of_name(name: &str) -> String {
    Uuid::new_v5(&UUID_NAMESPACE, name.as_bytes()).to_string()
}

/// A random UUID (version 4) from 16 random bytes.
pub fn uuid_of_random(bytes: [u8; 16]) -> String {
    uuid::Builder::from_random_bytes(bytes).into_uuid().to_string()
}

/// `format("{name} …", {name: …})`.
fn format_template(call: &Call) -> Outcome<Datum> {
    let (template, values) = (call.string(0)?, call.object(1)?);
    let mut out = String::with_capacity(template.len());
    let mut rest = &*template;
    while let Some(next) = rest.chars().next() {
        rest = &rest[next.len_utf8()..];
        match next {
            '{' => {
                let (name, after) = tag(rest)?;
                push_value(&values, name, &call.limits, &mut out)?;
                rest = after;
            }
            '}' => return Err(Failure::logic("No parameter tags to close")),
            '\\' => {
                let escaped = rest.chars().next().unwrap_or('\\');
                rest = rest.get(escaped.len_utf8()..).unwrap_or("");
                out.push(escaped);
            }
            other => out.push(other),
        }
    }
    Ok(Datum::String(out.into()))
}

/// The name of the tag that begins `rest`, and what follows its brace.
fn tag(rest: &str) -> Outcome<(&str, &str)> {
    let Some(end) = rest.find(['{', '}', ',', '\\']) else {
        return Err(Failure::logic("Parameter tag must be closed"));
    };
    match rest.as_bytes()[end] {
        b'}' => Ok((&rest[..end], &rest[end + 1..])),
        b'{' => Err(Failure::logic("Nested template parameters are not allowed")),
        b',' => Err(Failure::logic("Formatting separator `,` is not allowed in parameter name")),
        _ => Err(Failure::logic("Reserved escape character `\\` is not allowed in parameter name")),
    }
}

fn push_value(values: &Object, name: &str, limits: &Limits, out: &mut String) -> Outcome<()> {
    match get_field(values, name)? {
        Datum::String(text) => out.push_str(&text),
        other => out.push_str(&json_text(&other, limits)?),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use photondb_proto::datum::{Slice, Text};

    use super::{Bound, SliceBounds, count_text, slice_binary, slice_text, uuid_of_name};
    use crate::terms::probe::answer;

    #[track_caller]
    fn check(name: &str, arguments: &str, want: &str) {
        assert_eq!(answer(super::TERMS, name, arguments), want, "{name} {arguments}");
    }

    #[test]
    fn a_match_tells_where_and_what() {
        check(
            "MATCH",
            r#"["abcdefg", "a(b.e)|b(c.e)"]"#,
            r#"{"end":5,"groups":[null,{"end":5,"start":2,"str":"cde"}],"start":1,"str":"bcde"}"#,
        );
        check("MATCH", r#"["abcdefg", "a(b.e)|B(c.e)"]"#, "null");
        check("MATCH", r#"["éa", "a"]"#, r#"{"end":3,"groups":[],"start":2,"str":"a"}"#);
    }

    #[track_caller]
    fn check_split(arguments: &str, want: &str) {
        check("SPLIT", arguments, want);
    }

    #[test]
    fn split_goes_by_blanks_characters_or_a_separator() {
        check_split(r#"[""]"#, "[]");
        check_split(r#"["", " "]"#, r#"[""]"#);
        check_split(r#"["", ""]"#, "[]");
        check_split(r#"["  aaaa bbbb  cccc "]"#, r#"["aaaa","bbbb","cccc"]"#);
        check_split(r#"["aaaa bbbb  cccc ", " "]"#, r#"["aaaa","bbbb","","cccc",""]"#);
        check_split(r#"["abc", ""]"#, r#"["a","b","c"]"#);
        check_split(r#"["aaaa bbbb  cccc ", "b"]"#, r#"["aaaa ","","","","  cccc "]"#);
        check_split(r#"["aaaa bbbb  cccc ", null, 3]"#, r#"["aaaa","bbbb","cccc"]"#);
        check_split(r#"["aaaa bbbb  cccc ", null, 2]"#, r#"["aaaa","bbbb","cccc "]"#);
        check_split(r#"["aaaa bbbb  cccc ", null, 0]"#, r#"["aaaa bbbb  cccc "]"#);
        check_split(r#"["abcd", "", 2]"#, r#"["a","b","cd"]"#);
        check_split(r#"["a-b-c", "-", 1]"#, r#"["a","b-c"]"#);
        check_split(r#"["a\u00a0b", null, -1]"#, r#"["a","b"]"#);
        check_split(r#"["e\u0301a", ""]"#, "[\"e\u{301}\",\"a\"]");
        check_split(r#"["a", "b", -2]"#, "! Error: `split` size argument must be in range [-1, 100].");
        check_split(r#"["a", 5]"#, "! Expected type STRING but found NUMBER.");
    }

    #[test]
    fn case_changes_in_ascii_only() {
        check("UPCASE", r#"["aé"]"#, r#""Aé""#);
        check("DOWNCASE", r#"["AÉ"]"#, r#""aÉ""#);
    }

    #[test]
    fn json_goes_both_ways() {
        check("JSON", r#"["{\"a\": [1, 2.5]}"]"#, r#"{"a":[1,2.5]}"#);
        check("JSON", r#"["{\"a\":1,\"a\":2}"]"#, r#"! Duplicate key "a" in JSON."#);
        check("TO_JSON_STRING", r#"[{"a":[1]}]"#, r#""{\"a\":[1]}""#);
    }

    #[test]
    fn binary_is_made_of_text_only() {
        check("BINARY", r#"["data"]"#, r#"{"$reql_type$":"BINARY","data":"ZGF0YQ=="}"#);
        check("BINARY", "[{}]", "! Expected type STRING but found OBJECT.");
    }

    #[test]
    fn names_give_the_uuids_rethinkdb_gives() {
        assert_eq!(uuid_of_name("slava@example.com"), "90691cbc-b5ea-5826-ae98-951e30fc3b2d");
    }

    #[test]
    fn templates_are_filled_in() {
        check("FORMAT", r#"["{a} is {b}", {"a":"x","b":[1]}]"#, r#""x is [1]""#);
        check("FORMAT", r#"["\\{a\\}", {}]"#, r#""{a}""#);
        check("FORMAT", r#"["{a", {}]"#, "! Parameter tag must be closed");
        check("FORMAT", r#"["a}", {}]"#, "! No parameter tags to close");
        check("FORMAT", r#"["{a{", {}]"#, "! Nested template parameters are not allowed");
        check("FORMAT", r#"["{a}", {}]"#, "! No attribute `a` in object:\n{}");
    }

    #[test]
    fn slices_clamp_to_what_is_there() {
        #[track_caller]
        fn check(left: i64, right: i64, want: &str) {
            let bounds = SliceBounds { left, right, left_bound: Bound::Closed, right_bound: Bound::Open };
            assert_eq!(&*slice_binary(&Slice::from(b"abcdefg".as_slice()), bounds), want.as_bytes());
            assert_eq!(&*slice_text(&Text::new("abcdefg"), bounds), want);
        }
        check(-3, -1, "ef");
        check(0, 2, "ab");
        check(3, -1, "def");
        check(-5, 5, "cde");
        check(-8, 2, "ab");
        check(5, 9, "fg");
        check(5, 3, "");
        check(0, -9, "");
        check(9, 12, "");
        let bounds = SliceBounds { left: 1, right: -1, left_bound: Bound::Open, right_bound: Bound::Closed };
        assert_eq!(&*slice_text(&Text::new("éàü€x"), bounds), "ü€x");
        assert_eq!(count_text("éàü€x"), 5);
    }
}
