//! JSON text in: what `r.json` does. Our own reader, because its error sentences are API (RapidJSON's, census §19).
//!
//! Always: nesting is bounded by [`limits::DATUM_DEPTH_MAX`] before it can hurt the stack; pseudotypes are converted as
//! their objects close. Queries do not come this way: they are read from simd-json's tape.

use super::{Datum, ObjectBuilder, Text, pseudo};
use crate::error::{ErrorKind, QueryError};
use crate::limits;

/// Text longer than this is quoted only in part.
const QUOTED_BYTES: usize = 40;

/// What becomes of objects with a `$reql_type$` key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pseudotypes {
    /// They become what they stand for.
    Converted,
    /// They stay objects, unchecked: the text is no data of a client.
    Plain,
}

/// Parses JSON text; pseudotypes are converted.
///
/// # Errors
/// `Failed to parse "…" as JSON: …`, duplicate keys, a null byte, broken pseudotypes.
pub fn parse(text: &Text) -> Result<Datum, QueryError> {
    parse_with(text, Pseudotypes::Converted)
}

/// [`parse`], with a choice about pseudotypes.
///
/// # Errors
/// Those of [`parse`].
pub fn parse_with(text: &Text, pseudotypes: Pseudotypes) -> Result<Datum, QueryError> {
    if text.as_bytes().contains(&0) {
        return Err(logic("Encountered unescaped null byte in JSON string."));
    }
    let mut reader = Reader { bytes: text.as_bytes(), at: 0, pseudotypes };
    let outcome = reader.document();
    outcome.map_err(|problem| match problem {
        Problem::Syntax(reason) => logic(format!("Failed to parse \"{}\" as JSON: {reason}", quoted(text))),
        Problem::Query(error) => error,
    })
}

fn logic(message: impl Into<String>) -> QueryError {
    QueryError::new(ErrorKind::QueryLogic, message)
}

fn quoted(text: &Text) -> String {
    let text = text.as_str();
    if text.len() <= QUOTED_BYTES {
        return text.to_owned();
    }
    let mut end = QUOTED_BYTES - 3;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", &text[..end])
}

enum Problem {
    Syntax(&'static str),
    Query(QueryError),
}

const INVALID: Problem = Problem::Syntax("Invalid value.");

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    pseudotypes: Pseudotypes,
}

impl Reader<'_> {
    fn document(&mut self) -> Result<Datum, Problem> {
        self.space();
        if self.at == self.bytes.len() {
            return Err(Problem::Syntax("The document is empty."));
        }
        let value = self.value(0)?;
        self.space();
        if self.at < self.bytes.len() {
            return Err(Problem::Syntax("The document root must not be followed by other values."));
        }
        Ok(value)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn value(&mut self, depth: u32) -> Result<Datum, Problem> {
        if depth > limits::DATUM_DEPTH_MAX {
            return Err(Problem::Query(QueryError::new(
                ErrorKind::ResourceLimit,
                format!("Nesting depth limit {} exceeded in JSON.", limits::DATUM_DEPTH_MAX),
            )));
        }
        match self.peek() {
            Some(b'n') => self.word(b"null", Datum::Null),
            Some(b't') => self.word(b"true", Datum::Bool(true)),
            Some(b'f') => self.word(b"false", Datum::Bool(false)),
            Some(b'"') => Ok(Datum::String(self.string()?)),
            Some(b'[') => self.array(depth),
            Some(b'{') => self.object(depth),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) | None => Err(INVALID),
        }
    }

    fn word(&mut self, word: &[u8], value: Datum) -> Result<Datum, Problem> {
        if self.bytes[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(value);
        }
        Err(INVALID)
    }

    fn array(&mut self, depth: u32) -> Result<Datum, Problem> {
        self.at += 1;
        let mut items = Vec::new();
        self.space();
        if self.take(b']') {
            return Ok(Datum::array(items));
        }
        loop {
            items.push(self.value(depth + 1)?);
            self.space();
            if self.take(b']') {
                return Ok(Datum::array(items));
            }
            if !self.take(b',') {
                return Err(Problem::Syntax("Missing a comma or ] after an array element."));
            }
            self.space();
        }
    }

    fn object(&mut self, depth: u32) -> Result<Datum, Problem> {
        self.at += 1;
        let mut builder = ObjectBuilder::default();
        self.space();
        if self.take(b'}') {
            return Ok(Datum::Object(builder.build()));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(Problem::Syntax("Missing a name for object member."));
            }
            let key = self.string()?;
            self.space();
            if !self.take(b':') {
                return Err(Problem::Syntax("Missing a colon after a name of object member."));
            }
            self.space();
            let value = self.value(depth + 1)?;
            if builder.add(key.clone(), value).is_err() {
                return Err(Problem::Query(logic(format!("Duplicate key \"{}\" in JSON.", key.as_str()))));
            }
            self.space();
            if self.take(b'}') {
                break;
            }
            if !self.take(b',') {
                return Err(Problem::Syntax("Missing a comma or } after an object member."));
            }
            self.space();
        }
        if builder.field(pseudo::TYPE_KEY).is_some() && self.pseudotypes != Pseudotypes::Plain {
            return pseudo::from_object(builder.build()).map_err(Problem::Query);
        }
        Ok(Datum::Object(builder.build()))
    }

    fn number(&mut self) -> Result<Datum, Problem> {
        let start = self.at;
        self.take(b'-');
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits(),
            Some(_) | None => return Err(INVALID),
        }
        if self.take(b'.') {
            let before = self.at;
            self.digits();
            if self.at == before {
                return Err(Problem::Syntax("Miss fraction part in number."));
            }
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            let before = self.at;
            self.digits();
            if self.at == before {
                return Err(Problem::Syntax("Miss exponent in number."));
            }
        }
        let text = std::str::from_utf8(&self.bytes[start..self.at]).expect("digits are ASCII");
        let number: f64 = text.parse().map_err(|_| INVALID)?;
        if number == 0.0 && text == "-0" {
            // An integer: only `-0.0` is the negative zero.
            return Ok(Datum::Number(0.0));
        }
        if number.is_infinite() {
            return Err(Problem::Syntax("Number too big to be stored in double."));
        }
        Ok(Datum::Number(number))
    }

    fn digits(&mut self) {
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
    }

    fn string(&mut self) -> Result<Text, Problem> {
        self.at += 1;
        let mut text = Vec::new();
        loop {
            match self.peek() {
                None => return Err(Problem::Syntax("Missing a closing quotation mark in string.")),
                Some(b'"') => break,
                Some(b'\\') => self.escape(&mut text)?,
                Some(0..=0x1f) => return Err(Problem::Syntax("Invalid encoding in string.")),
                Some(byte) => {
                    text.push(byte);
                    self.at += 1;
                }
            }
        }
        self.at += 1;
        let text = String::from_utf8(text).map_err(|_| Problem::Syntax("Invalid encoding in string."))?;
        Ok(Text::from(text))
    }

    fn escape(&mut self, text: &mut Vec<u8>) -> Result<(), Problem> {
        self.at += 1;
        let plain = match self.peek() {
            Some(byte @ (b'"' | b'\\' | b'/')) => byte,
            Some(b'b') => 0x08,
            Some(b'f') => 0x0c,
            Some(b'n') => b'\n',
            Some(b'r') => b'\r',
            Some(b't') => b'\t',
            Some(b'u') => {
                self.at += 1;
                let character = self.unicode()?;
                text.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
                return Ok(());
            }
            Some(_) | None => return Err(Problem::Syntax("Invalid escape character in string.")),
        };
        text.push(plain);
        self.at += 1;
        Ok(())
    }

    fn unicode(&mut self) -> Result<char, Problem> {
        const BROKEN_PAIR: Problem = Problem::Syntax("The surrogate pair in string is invalid.");
        let first = self.hex()?;
        if !(0xd800..0xdc00).contains(&first) {
            return char::from_u32(first).ok_or(BROKEN_PAIR);
        }
        if !(self.take(b'\\') && self.take(b'u')) {
            return Err(BROKEN_PAIR);
        }
        let second = self.hex()?;
        if !(0xdc00..0xe000).contains(&second) {
            return Err(BROKEN_PAIR);
        }
        char::from_u32(0x1_0000 + ((first - 0xd800) << 10) + (second - 0xdc00)).ok_or(BROKEN_PAIR)
    }

    fn hex(&mut self) -> Result<u32, Problem> {
        let mut number = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            let digit = digit.ok_or(Problem::Syntax("Incorrect hex digit after \\u escape in string."))?;
            number = number * 16 + digit;
            self.at += 1;
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datum::json;

    #[track_caller]
    fn check(text: &str, want: Result<&str, &str>) {
        let found =
            parse(&Text::new(text)).map(|datum| json::to_string(&datum)).map_err(|error| error.message);
        assert_eq!(found.as_deref().map_err(String::as_str), want);
    }

    #[test]
    fn text_is_read() {
        check(r#" {"b":[1,-2.5e3,true],"a":null} "#, Ok(r#"{"a":null,"b":[1,-2500,true]}"#));
        check(r#""\u00e9\ud83d\ude00\n\/""#, Ok("\"é😀\\n/\""));
        check(r#"{"$reql_type$":"BINARY","data":"YQ=="}"#, Ok(r#"{"$reql_type$":"BINARY","data":"YQ=="}"#));
        check("-0", Ok("0"));
        check("-0.0", Ok("-0.0"));
    }

    #[test]
    fn errors_are_rapidjsons() {
        for (text, reason) in [
            ("", "The document is empty."),
            ("[1", "Missing a comma or ] after an array element."),
            ("[1,", "Invalid value."),
            ("{", "Missing a name for object member."),
            ("{\"a\"", "Missing a colon after a name of object member."),
            ("{\"a\":1", "Missing a comma or } after an object member."),
            ("1 2", "The document root must not be followed by other values."),
            ("1.", "Miss fraction part in number."),
            ("1e", "Miss exponent in number."),
            ("1e999", "Number too big to be stored in double."),
            ("\"a", "Missing a closing quotation mark in string."),
            ("\"\\ud800\"", "The surrogate pair in string is invalid."),
            ("\"\\q\"", "Invalid escape character in string."),
            ("nul", "Invalid value."),
        ] {
            check(text, Err(&format!("Failed to parse \"{text}\" as JSON: {reason}")));
        }
        let long = "[".repeat(41);
        let want = format!("Failed to parse \"{}...\" as JSON: Invalid value.", "[".repeat(37));
        check(&long, Err(&want));
        // Whoever takes the value says whether literals may be in it.
        let literal = r#"{"$reql_type$":"LITERAL","value":1}"#;
        check(literal, Ok(literal));
        check(r#"{"a":1,"a":2}"#, Err("Duplicate key \"a\" in JSON."));
    }

    #[test]
    fn deep_text_is_refused() {
        check(&"[".repeat(100_000), Err("Nesting depth limit 500 exceeded in JSON."));
    }
}
