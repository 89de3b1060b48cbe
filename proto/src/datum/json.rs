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
const INTEGER_MAX: f64 = 9_007_199_254_740_992.0;

/// Appends compact JSON, as replies carry it. The caller has refused `MinVal` and `MaxVal`, which have no JSON form;
/// should one come through it prints as its name.
pub fn write(datum: &Datum, out: &mut Vec<u8>) {
    Writer { out, style: Style::Compact }.datum(datum, 0);
}

/// Compact JSON text.
pub fn to_string(datum: &Datum) -> String {
    let mut out = Vec::new();
    write(datum, &mut out);
    String::from_utf8(out).expect("JSON output is UTF-8")
}

/// RethinkDB's pretty print used in messages: tab-indented, a space after colons.
pub fn to_pretty_string(datum: &Datum) -> String {
    let mut out = Vec::new();
    Writer { out: &mut out, style: Style::Pretty }.datum(datum, 0);
    String::from_utf8(out).expect("JSON output is UTF-8")
}

/// Pretty print cut to 300 bytes with `...`, as messages quote values.
pub fn to_message_string(datum: &Datum) -> String {
    let mut text = to_pretty_string(datum);
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
    if number.fract() == 0.0 && number.abs() <= INTEGER_MAX && !(number == 0.0 && number.is_sign_negative()) {
        write_integer(number as i64, out);
        return;
    }
    if number < 0.0 || (number == 0.0 && number.is_sign_negative()) {
        out.push(b'-');
    }
    if number == 0.0 {
        out.extend_from_slice(b"0.0");
        return;
    }
    let (digits, exponent) = shortest_digits(number.abs());
    write_decimal(&digits, exponent, out);
}

/// The shortest digits of a positive number, and the power of ten of the last one.
fn shortest_digits(number: f64) -> (Vec<u8>, i32) {
    let mut buffer = ryu::Buffer::new();
    let text = buffer.format_finite(number);
    let (mantissa, exponent) = match text.split_once('e') {
        Some((mantissa, exponent)) => (mantissa, exponent.parse().expect("ryu prints a number")),
        None => (text, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut exponent = exponent - i32::try_from(fraction.len()).expect("few digits");
    let mut digits: Vec<u8> =
        whole.bytes().chain(fraction.bytes()).skip_while(|digit| *digit == b'0').collect();
    while digits.len() > 1 && digits.last() == Some(&b'0') {
        digits.pop();
        exponent += 1;
    }
    (digits, exponent)
}

fn write_decimal(digits: &[u8], exponent: i32, out: &mut Vec<u8>) {
    let count = i32::try_from(digits.len()).expect("few digits");
    // The number is 0.digits x 10^point.
    let point = count + exponent;
    if exponent >= 0 && point <= 21 {
        out.extend_from_slice(digits);
        out.extend(std::iter::repeat_n(b'0', exponent as usize));
        out.extend_from_slice(b".0");
    } else if (1..=21).contains(&point) {
        out.extend_from_slice(&digits[..point as usize]);
        out.push(b'.');
        out.extend_from_slice(&digits[point as usize..]);
    } else if (-5..=0).contains(&point) {
        out.extend_from_slice(b"0.");
        out.extend(std::iter::repeat_n(b'0', -point as usize));
        out.extend_from_slice(digits);
    } else {
        out.push(digits[0]);
        if digits.len() > 1 {
            out.push(b'.');
            out.extend_from_slice(&digits[1..]);
        }
        out.push(b'e');
        write_integer(i64::from(point - 1), out);
    }
}

pub fn write_small_integer(number: u32, out: &mut Vec<u8>) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    let mut rest = number;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn write_integer(number: i64, out: &mut Vec<u8>) {
    if number < 0 {
        out.push(b'-');
    }
    match u32::try_from(number.unsigned_abs()) {
        Ok(small) => write_small_integer(small, out),
        Err(_) => out.extend_from_slice(number.unsigned_abs().to_string().as_bytes()),
    }
}

/// What follows a backslash for each byte that must be escaped; 0 for bytes that stand for themselves.
const ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 0x20 {
        table[byte] = b'u';
        byte += 1;
    }
    table[0x08] = b'b';
    table[0x09] = b't';
    table[0x0a] = b'n';
    table[0x0c] = b'f';
    table[0x0d] = b'r';
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table
};

/// Appends a JSON string literal.
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let mut start = 0;
    for (index, byte) in text.iter().enumerate() {
        let escape = ESCAPES[usize::from(*byte)];
        if escape == 0 {
            continue;
        }
        out.extend_from_slice(&text[start..index]);
        start = index + 1;
        out.push(b'\\');
        out.push(escape);
        if escape == b'u' {
            const HEX: &[u8; 16] = b"0123456789ABCDEF";
            out.extend_from_slice(b"00");
            out.push(HEX[usize::from(byte >> 4)]);
            out.push(HEX[usize::from(byte & 15)]);
        }
    }
    out.extend_from_slice(&text[start..]);
    out.push(b'"');
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
}

impl Writer<'_> {
    fn datum(&mut self, datum: &Datum, depth: usize) {
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
            Datum::MinVal => self.out.extend_from_slice(b"r.minval"),
            Datum::MaxVal => self.out.extend_from_slice(b"r.maxval"),
        }
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
            self.out.push(b' ');
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
    }

    #[test]
    fn text_is_escaped_no_more_than_json_asks() {
        assert_eq!(to_string(&Datum::string("a\"\\\u{1}\n\u{1f}é/")), r#""a\"\\\u0001\n\u001Fé/""#);
    }

    #[test]
    fn pretty_print_indents_by_tabs() {
        let value = Datum::object([
            ("a", Datum::array(vec![1.0.into(), Datum::array(vec![])])),
            ("b", Datum::object([])),
        ]);
        assert_eq!(to_pretty_string(&value), "{\n\t\"a\": [\n\t\t1,\n\t\t[]\n\t],\n\t\"b\": {}\n}");
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
