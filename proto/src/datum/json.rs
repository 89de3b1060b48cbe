//! JSON out of values. (JSON text in: [`super::json_parse`].)
//!
//! Replies are API: keys in order, numbers as RethinkDB prints them (RapidJSON's shortest form), text escaped no more
//! than JSON asks. Compact output is for the wire, pretty output for messages.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::{Datum, Time};

/// Characters of a value quoted in a message before it is cut.
const MESSAGE_CHARACTERS: usize = 300;
/// Base64 is broken into lines of this many characters.
const BASE64_LINE: usize = 76;
/// Integers up to this magnitude print without a fraction.
const INTEGER_MAX: u64 = 1 << 53;

/// What became of writing a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Whole,
    /// A part was written.
    TooLarge,
    /// The value holds a bound of this name, which has no JSON form.
    Bound(&'static str),
}

/// Appends compact JSON, as replies carry it. `MinVal` and `MaxVal`, which have no JSON form, print as their names.
pub fn write(datum: &Datum, out: &mut Vec<u8>) {
    write_within(datum, usize::MAX, out);
}

/// [`write`] that gives up soon after `out` has grown beyond `bytes_max`: a value that holds another many times may be far larger
/// as text than in memory.
pub fn write_within(datum: &Datum, bytes_max: usize, out: &mut Vec<u8>) -> Written {
    let mut writer = Writer { out, style: Style::Compact, bytes_max, bound: None };
    writer.datum(datum, 0);
    match writer.bound {
        Some(name) => Written::Bound(name),
        None if out.len() > bytes_max => Written::TooLarge,
        None => Written::Whole,
    }
}

/// Compact JSON text.
pub fn to_string(datum: &Datum) -> String {
    let mut out = Vec::new();
    write(datum, &mut out);
    String::from_utf8(out).expect("JSON output is UTF-8")
}

/// RethinkDB's pretty print used in messages: tab-indented, a tab after colons, one array item a line.
pub fn to_pretty_string(datum: &Datum) -> String {
    let mut out = Vec::new();
    Writer { out: &mut out, style: Style::Pretty, bytes_max: usize::MAX, bound: None }.datum(datum, 0);
    String::from_utf8(out).expect("JSON output is UTF-8")
}

/// Pretty print cut to 300 bytes with `...`, as messages quote values.
pub fn to_message_string(datum: &Datum) -> String {
    let mut out = Vec::new();
    // Text of the last value may be long; what is behind it is cut anyway.
    Writer { out: &mut out, style: Style::Pretty, bytes_max: MESSAGE_CHARACTERS, bound: None }
        .datum(datum, 0);
    let mut text = String::from_utf8(out).expect("JSON output is UTF-8");
    if text.len() > MESSAGE_CHARACTERS {
        let mut end = MESSAGE_CHARACTERS - 3;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push_str("...");
    }
    text
}

/// Appends a number as RethinkDB prints it: integers up to 2^53 without a fraction, others in the shortest form that
/// reads back the same, with an exponent below 1e-6 and from 1e21.
pub fn write_number(number: f64, out: &mut Vec<u8>) {
    let integer = number as i64;
    let exact = integer as f64 == number && integer.unsigned_abs() <= INTEGER_MAX;
    if exact && !(integer == 0 && number.is_sign_negative()) {
        if integer < 0 {
            out.push(b'-');
        }
        write_integer(integer.unsigned_abs(), out);
        return;
    }
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(number);
    let magnitude = number.abs();
    // In this range the shortest digits are laid out alike by everyone.
    if magnitude == 0.0 || (1e-5..1e16).contains(&magnitude) {
        out.extend_from_slice(text.as_bytes());
    } else {
        lay_out(text, out);
    }
}

/// Lays the shortest digits of a very large or very small number out as RapidJSON does: plain up to 21 digits before
/// the point and down to five zeros behind it, scientific without a plus sign otherwise.
fn lay_out(text: &str, out: &mut Vec<u8>) {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().expect("an exponent is a small integer");
    let unsigned = mantissa.strip_prefix('-').unwrap_or(mantissa);
    if unsigned.len() < mantissa.len() {
        out.push(b'-');
    }
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let mut digits = format!("{whole}{fraction}");
    // The value is 0.DIGITS times ten to the `point`.
    let mut point = whole.len() as i32 + exponent;
    let zeros = digits.len() - digits.trim_start_matches('0').len();
    digits.drain(..zeros);
    point -= zeros as i32;
    digits.truncate(digits.trim_end_matches('0').len().max(1));
    let count = digits.len() as i32;
    let laid = if count <= point && point <= 21 {
        format!("{digits}{}.0", "0".repeat((point - count) as usize))
    } else if 0 < point && point <= 21 {
        format!("{}.{}", &digits[..point as usize], &digits[point as usize..])
    } else if -6 < point && point <= 0 {
        format!("0.{}{digits}", "0".repeat(-point as usize))
    } else if count == 1 {
        format!("{digits}e{}", point - 1)
    } else {
        format!("{}.{}e{}", &digits[..1], &digits[1..], point - 1)
    };
    out.extend_from_slice(laid.as_bytes());
}

pub fn write_small_integer(number: u32, out: &mut Vec<u8>) {
    write_integer(u64::from(number), out);
}

fn write_integer(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0u8; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// Appends a JSON string literal.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    write_escaped(text, out);
    out.push(b'"');
}

/// Appends a part of a string literal's text.
pub(super) fn write_escaped(text: &[u8], out: &mut Vec<u8>) {
    let mut rest = text;
    loop {
        let plain = plain_prefix(rest);
        out.extend_from_slice(&rest[..plain]);
        let Some(&byte) = rest.get(plain) else { break };
        write_escape(byte, out);
        rest = &rest[plain + 1..];
    }
}

fn write_escape(byte: u8, out: &mut Vec<u8>) {
    let short = match byte {
        b'"' => b'"',
        b'\\' => b'\\',
        0x08 => b'b',
        0x09 => b't',
        0x0a => b'n',
        0x0c => b'f',
        0x0d => b'r',
        control => {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.extend_from_slice(b"\\u00");
            out.push(HEX[usize::from(control >> 4)]);
            out.push(HEX[usize::from(control & 15)]);
            return;
        }
    };
    out.extend_from_slice(&[b'\\', short]);
}

/// How many bytes from the start need no escape.
fn plain_prefix(text: &[u8]) -> usize {
    if !has_escape(text) {
        return text.len();
    }
    let (words, rest) = text.as_chunks::<8>();
    let in_words = words.iter().enumerate().find_map(|(index, word)| Some(8 * index + escape_in(*word)?));
    let in_rest = || rest.iter().position(|byte| needs_escape(*byte) != 0).map(|at| 8 * words.len() + at);
    in_words.or_else(in_rest).unwrap_or(text.len())
}

/// Whether any byte needs an escape. Looks at as many bytes at a time as there are, up to 32, which the compiler does with the
/// processor's wide registers, and at the end at some once more with what is before them.
fn has_escape(text: &[u8]) -> bool {
    let wide = |bytes: &[u8; 32]| bytes.iter().fold(0, |any, byte| any | needs_escape(*byte)) != 0;
    let middle = |bytes: &[u8; 16]| bytes.iter().fold(0, |any, byte| any | needs_escape(*byte)) != 0;
    if let Some(last) = text.last_chunk::<32>() {
        return text.as_chunks::<32>().0.iter().any(wide) || wide(last);
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<16>(), text.last_chunk::<16>()) {
        return middle(first) | middle(last);
    }
    if let (Some(first), Some(last)) = (text.first_chunk::<8>(), text.last_chunk::<8>()) {
        return escape_in(*first).is_some() | escape_in(*last).is_some();
    }
    if let (Some([a, b, c, d]), Some([e, f, g, h])) = (text.first_chunk::<4>(), text.last_chunk::<4>()) {
        return escape_in([*a, *b, *c, *d, *e, *f, *g, *h]).is_some();
    }
    text.iter().any(|byte| needs_escape(*byte) != 0)
}

fn needs_escape(byte: u8) -> u8 {
    u8::from(byte < 0x20) | u8::from(byte == b'"') | u8::from(byte == b'\\')
}

/// The first of eight bytes that needs an escape.
fn escape_in(eight: [u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(eight);
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    // High bit of each byte of `word` that is zero, or of bytes above a zero one: exact for "is there any".
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word;
    let control = word.wrapping_sub(ONES * 0x20) & !word;
    let quote = zeros(word ^ (ONES * u64::from(b'"')));
    let backslash = zeros(word ^ (ONES * u64::from(b'\\')));
    let found = (control | quote | backslash) & HIGH;
    // The lowest marked byte is a true one: borrows only spread upward.
    (found != 0).then(|| found.trailing_zeros() as usize / 8)
}

/// Binary data as its pseudotype's `data` shows it.
pub fn binary_text(bytes: &[u8]) -> String {
    let encoded = BASE64.encode(bytes);
    let lines: Vec<&str> = encoded
        .as_bytes()
        .chunks(BASE64_LINE)
        .map(|line| std::str::from_utf8(line).expect("ASCII"))
        .collect();
    lines.join("\r\n")
}

/// A zone as `±hh:mm`.
pub fn zone_text(zone_minutes: i16) -> String {
    let sign = if zone_minutes < 0 { '-' } else { '+' };
    let minutes = zone_minutes.unsigned_abs();
    format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Style {
    Compact,
    Pretty,
}

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    style: Style,
    bytes_max: usize,
    /// A bound that was met.
    bound: Option<&'static str>,
}

impl Writer<'_> {
    fn datum(&mut self, datum: &Datum, depth: usize) {
        // A view is printed straight from its bytes.
        if self.style == Style::Compact {
            if let Datum::Object(object) = datum
                && let Some(view) = object.encoded()
            {
                self.bound = self.bound.or(view.bound());
                return view.write_json(self.out);
            }
            if let Datum::Array(array) = datum
                && let Some(view) = array.encoded()
            {
                self.bound = self.bound.or(view.bound());
                return view.write_json(self.out);
            }
        }
        match datum {
            Datum::Null => self.out.extend_from_slice(b"null"),
            Datum::Bool(true) => self.out.extend_from_slice(b"true"),
            Datum::Bool(false) => self.out.extend_from_slice(b"false"),
            Datum::Number(number) => write_number(*number, self.out),
            Datum::String(text) => write_string(text.as_bytes(), self.out),
            Datum::Array(array) => self.container(b"[]", array.iter(), depth, |writer, item| {
                writer.datum(&item, depth + 1);
            }),
            Datum::Object(object) => self.container(b"{}", object.iter(), depth, |writer, (key, value)| {
                writer.key(key.as_bytes());
                writer.datum(&value, depth + 1);
            }),
            Datum::Binary(bytes) => {
                let text = binary_text(bytes);
                let pairs: [(&str, &[u8]); 2] = [("$reql_type$", b"BINARY"), ("data", text.as_bytes())];
                self.container(b"{}", pairs.into_iter(), depth, |writer, (key, value)| {
                    writer.key(key.as_bytes());
                    write_string(value, writer.out);
                });
            }
            Datum::Time(time) => self.time(time, depth),
            Datum::MinVal => self.bound("r.minval"),
            Datum::MaxVal => self.bound("r.maxval"),
        }
    }

    fn bound(&mut self, name: &'static str) {
        self.bound = Some(name);
        self.out.extend_from_slice(name.as_bytes());
    }

    fn time(&mut self, time: &Time, depth: usize) {
        let fields = ["$reql_type$", "epoch_time", "timezone"];
        self.container(b"{}", fields.into_iter(), depth, |writer, field| {
            writer.key(field.as_bytes());
            match field {
                "$reql_type$" => write_string(b"TIME", writer.out),
                "epoch_time" => write_number(time.epoch_seconds, writer.out),
                _ => write_string(zone_text(time.zone_minutes).as_bytes(), writer.out),
            }
        });
    }

    fn container<T>(
        &mut self,
        brackets: &[u8; 2],
        items: impl Iterator<Item = T>,
        depth: usize,
        mut write: impl FnMut(&mut Self, T),
    ) {
        self.out.push(brackets[0]);
        let mut empty = true;
        for item in items {
            if !empty {
                self.out.push(b',');
            }
            empty = false;
            if self.out.len() > self.bytes_max {
                return;
            }
            self.line(depth + 1);
            write(self, item);
        }
        if !empty {
            self.line(depth);
        }
        self.out.push(brackets[1]);
    }

    fn line(&mut self, depth: usize) {
        if self.style == Style::Pretty {
            self.out.push(b'\n');
            self.out.extend(std::iter::repeat_n(b'\t', depth));
        }
    }

    fn key(&mut self, key: &[u8]) {
        write_string(key, self.out);
        self.out.push(b':');
        if self.style == Style::Pretty {
            self.out.push(b'\t');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_number(number: f64, want: &str) {
        let mut out = Vec::new();
        write_number(number, &mut out);
        assert_eq!(String::from_utf8_lossy(&out), want);
        assert_eq!(
            want.parse::<f64>().expect("a number").to_bits(),
            number.to_bits(),
            "{want} reads back the same"
        );
    }

    #[test]
    fn numbers_print_as_rethinkdb_prints_them() {
        check_number(0.0, "0");
        check_number(-0.0, "-0.0");
        check_number(-1.0, "-1");
        check_number(4_294_967_296.0, "4294967296");
        check_number(9_007_199_254_740_992.0, "9007199254740992");
        check_number(9_007_199_254_740_994.0, "9007199254740994.0");
        check_number(1e20, "100000000000000000000.0");
        check_number(1e21, "1e21");
        check_number(1.234_567_890_123_456_8e39, "1.2345678901234568e39");
        check_number(0.1 + 0.2, "0.30000000000000004");
        check_number(-1.5, "-1.5");
        check_number(1e-6, "0.000001");
        check_number(1.5e-7, "1.5e-7");
        check_number(f64::MIN_POSITIVE, "2.2250738585072014e-308");
        check_number(f64::MAX, "1.7976931348623157e308");
        check_number(1e16, "10000000000000000.0");
        check_number(123_456_789_012_345_680_000.0, "123456789012345680000.0");
        check_number(0.000_012, "0.000012");
        check_number(0.000_001_2, "0.0000012");
        check_number(5e-324, "5e-324");
        check_number(1_375_147_296.681, "1375147296.681");
    }

    #[test]
    fn text_is_escaped_no_more_than_json_asks() {
        assert_eq!(to_string(&Datum::string("a\"\\\u{1}\n\u{1f}é/")), r#""a\"\\\u0001\n\u001Fé/""#);
        for plain in ["", "1234567", "ÿÿÿÿÿÿÿÿ", "text longer than the eight bytes looked at together"]
        {
            assert_eq!(to_string(&Datum::string(plain)), format!("\"{plain}\""));
            let ended = format!("{plain}\"");
            assert_eq!(to_string(&Datum::string(&ended)), format!("\"{plain}\\\"\""));
        }
    }

    #[test]
    fn escapes_are_found_wherever_they_stand() {
        let escaped = |text: &[u8]| {
            let mut out = Vec::new();
            write_escaped(text, &mut out);
            out
        };
        let one_by_one = |text: &[u8]| -> Vec<u8> { text.chunks(1).flat_map(escaped).collect() };
        assert_eq!(one_by_one(b"a\"\\\x1f \x7f\xff"), b"a\\\"\\\\\\u001F \x7f\xff");
        for length in 0..100 {
            let plain = vec![b'x'; length];
            assert_eq!(escaped(&plain), plain);
            for place in 0..length {
                for (byte, neighbour) in [(b'"', b'#'), (b'\\', b']'), (0x1f, b' '), (0, 0xff)] {
                    let mut text = plain.clone();
                    text[place] = byte;
                    if let Some(behind) = text.get_mut(place + 1) {
                        *behind = neighbour;
                    }
                    assert_eq!(escaped(&text), one_by_one(&text), "{length} bytes, {byte:#x} at {place}");
                    text[place] = neighbour;
                    assert_eq!(escaped(&text), text, "{length} bytes, {neighbour:#x} at {place}");
                }
            }
        }
    }

    #[test]
    fn pretty_print_indents_by_tabs() {
        let value = Datum::object([
            ("a", Datum::array(vec![1.0.into(), Datum::array(vec![])])),
            ("b", Datum::object([])),
        ]);
        assert_eq!(to_pretty_string(&value), "{\n\t\"a\":\t[\n\t\t1,\n\t\t[]\n\t],\n\t\"b\":\t{}\n}");
        assert_eq!(to_string(&value), r#"{"a":[1,[]],"b":{}}"#);
    }

    #[test]
    fn pseudotypes_print_as_objects() {
        let time = Datum::Time(Time { epoch_seconds: 1.5, zone_minutes: -90 });
        assert_eq!(to_string(&time), r#"{"$reql_type$":"TIME","epoch_time":1.5,"timezone":"-01:30"}"#);
        let binary = Datum::Binary(b"abc".as_slice().into());
        assert_eq!(to_string(&binary), r#"{"$reql_type$":"BINARY","data":"YWJj"}"#);
        assert_eq!(binary_text(&[0; 58]).find("\r\n"), Some(76));
    }

    #[test]
    fn long_values_are_cut_in_messages() {
        let text = to_message_string(&Datum::string(&"é".repeat(300)));
        assert!(text.len() <= 300 && text.ends_with("..."), "{}", text.len());
    }
}
