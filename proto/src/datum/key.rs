//! Order-preserving key bytes: comparing two keys as bytes gives ReQL's order of the values.
//!
//! | value | bytes |
//! |---|---|
//! | minval | `01` |
//! | array | `10`, its items, `00` |
//! | false, true | `20`, `21` |
//! | number | `30`, 8 bytes big-endian: the double's bits, all flipped when negative, else the sign bit set |
//! | binary | `40`, its bytes escaped, `00 00` |
//! | time | `48`, 8 bytes as a number's: the moment; the zone is not part of a key |
//! | string | `50`, its bytes escaped, `00 00` |
//! | maxval | `ff` |
//!
//! Escaped: each `00` becomes `00 ff`, so that the end sorts before any continuation. No value's bytes begin another's, and
//! every tag is above the `00` that ends an array, so arrays compare item by item, the shorter prefix first.
//! RethinkDB keeps printable text instead; ours is shorter, decodes, and only its limit ([`text_length`]) is kept, so that
//! the same keys are accepted.

use super::{Array, Datum, Slice, Text, Time, json};
use crate::error::{ErrorKind, QueryError};
use crate::limits;

/// Encoded bytes of a primary key or of a bound.
pub type Key = Vec<u8>;

const END: u8 = 0x00;
const MINVAL: u8 = 0x01;
const ARRAY: u8 = 0x10;
const FALSE: u8 = 0x20;
const TRUE: u8 = 0x21;
const NUMBER: u8 = 0x30;
const BINARY: u8 = 0x40;
const TIME: u8 = 0x48;
const STRING: u8 = 0x50;
const MAXVAL: u8 = 0xff;
const ESCAPED: u8 = 0xff;

/// RethinkDB's own text stops growing here: what lies behind is not looked at.
const TEXT_BYTES_MAX: usize = 250;

/// The key of a document.
///
/// # Errors
/// A type that cannot be a key, a string with a NUL, a key that is too long.
pub fn primary(datum: &Datum) -> Result<Key, QueryError> {
    check_primary_type(datum)?;
    let bytes = text_length(datum)?;
    // The letter of the type counts, the message does not count it.
    if bytes > limits::PRIMARY_KEY_CHARACTERS_MAX + 1 {
        let printed = json::to_pretty_string(datum);
        let text = format!(
            "Primary key too long (max {} characters): {printed}",
            limits::PRIMARY_KEY_CHARACTERS_MAX
        );
        return Err(logic(text));
    }
    let mut key = with_room(datum);
    encode(datum, Kind::Bound, &mut key)?;
    Ok(key)
}

/// Any value that may bound a range of keys: `MinVal`, `MaxVal` and arrays of them allowed, no limit of length.
///
/// # Errors
/// A type that cannot be a key.
pub fn bound(datum: &Datum) -> Result<Key, QueryError> {
    if !matches!(datum, Datum::MinVal | Datum::MaxVal) {
        check_primary_type(datum)?;
        text_length(datum)?;
    }
    let mut key = with_room(datum);
    encode(datum, Kind::Bound, &mut key)?;
    Ok(key)
}

/// The key of a value in a secondary index. A NUL in a string is fine here. Like every key it says itself where it ends
/// ([`first_length`]), so that a primary key may follow it.
///
/// # Errors
/// A type that cannot be a key; `MinVal` or `MaxVal` anywhere.
pub fn secondary(datum: &Datum) -> Result<Key, QueryError> {
    let mut key = with_room(datum);
    check_secondary_type(datum)?;
    encode(datum, Kind::Value, &mut key)?;
    Ok(key)
}

/// A bound of a range of a secondary index: as [`secondary`], with `MinVal` and `MaxVal`.
///
/// # Errors
/// A type that cannot be a key.
pub fn secondary_bound(datum: &Datum) -> Result<Key, QueryError> {
    let mut key = with_room(datum);
    check_secondary_type(datum)?;
    encode(datum, Kind::Bound, &mut key)?;
    Ok(key)
}

/// The length of the first key in `bytes`, behind which anything may follow.
pub fn first_length(bytes: &[u8]) -> Option<usize> {
    let (mut at, mut depth) = (0, 0u32);
    loop {
        let tag = *bytes.get(at)?;
        at += 1;
        match tag {
            ARRAY => depth += 1,
            END => depth = depth.checked_sub(1)?,
            MINVAL | MAXVAL | FALSE | TRUE => {}
            NUMBER | TIME => at += 8,
            STRING | BINARY => at += escaped_length(bytes.get(at..)?)?,
            _ => return None,
        }
        if depth == 0 {
            return (at <= bytes.len()).then_some(at);
        }
    }
}

/// The length of escaped bytes and their end.
fn escaped_length(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += bytes.get(at..)?.iter().position(|byte| *byte == 0)?;
        match *bytes.get(at + 1)? {
            END => return Some(at + 2),
            ESCAPED => at += 2,
            _ => return None,
        }
    }
}

/// The key of an entry of an index: the value's key, the row's, and, from the second time on that a row has the value, how
/// often it had it before. So entries are ordered by value and then by primary key, and every entry is there once.
pub fn entry(value: &[u8], primary: &[u8], repetition: u32) -> Key {
    let mut key = Key::with_capacity(value.len() + primary.len() + 4);
    key.extend_from_slice(value);
    key.extend_from_slice(primary);
    if repetition > 0 {
        key.extend_from_slice(&repetition.to_be_bytes());
    }
    key
}

/// The value's key and the row's of an index entry.
pub fn split_entry(entry: &[u8]) -> Option<(&[u8], &[u8])> {
    let (value, rest) = entry.split_at(first_length(entry)?);
    let primary = first_length(rest)?;
    Some((value, &rest[..primary]))
}

/// An entry as it is stored: keys of trees are bounded, so what a long value has beyond
/// [`limits::INDEX_KEY_BYTES_MAX`] goes into the entry's value.
pub fn store_entry(entry: &[u8]) -> (Key, Vec<u8>) {
    let kept = limits::INDEX_KEY_BYTES_MAX;
    match first_length(entry) {
        Some(length) if length > kept => {
            ([&entry[..kept], &entry[length..]].concat(), entry[kept..length].to_vec())
        }
        Some(_) | None => (entry.to_vec(), Vec::new()),
    }
}

/// The entry that was stored so.
pub fn stored_entry(key: &[u8], rest: &[u8]) -> Key {
    if rest.is_empty() {
        return key.to_vec();
    }
    let kept = limits::INDEX_KEY_BYTES_MAX.min(key.len());
    [&key[..kept], rest, &key[kept..]].concat()
}

/// A bound that lies behind all entries of this value and before those of greater ones: no primary key begins so.
pub fn behind_entries(value: &[u8]) -> Key {
    let mut key = Key::with_capacity(value.len() + 1);
    key.extend_from_slice(value);
    key.push(MAXVAL);
    key
}

/// Whether `MinVal` and `MaxVal` are keys.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Value,
    Bound,
}

/// Room for the whole key in the usual cases.
fn with_room(datum: &Datum) -> Key {
    let text = if let Datum::String(text) = datum { text.as_bytes().len() } else { 8 };
    Key::with_capacity(text + 3)
}

fn logic(message: impl Into<String>) -> QueryError {
    QueryError::new(ErrorKind::QueryLogic, message)
}

/// Where a value is wanted, null counts as missing.
fn wrong_or_missing(datum: &Datum, message: String) -> QueryError {
    let kind = if datum.is_null() { ErrorKind::NonExistence } else { ErrorKind::QueryLogic };
    QueryError::new(kind, message)
}

fn check_primary_type(datum: &Datum) -> Result<(), QueryError> {
    match datum {
        Datum::Bool(_)
        | Datum::Number(_)
        | Datum::String(_)
        | Datum::Array(_)
        | Datum::Binary(_)
        | Datum::Time(_) => Ok(()),
        Datum::MinVal | Datum::MaxVal | Datum::Null | Datum::Object(_) => {
            Err(wrong_type("Primary keys must be either a number, string, bool, pseudotype or array", datum))
        }
    }
}

fn check_secondary_type(datum: &Datum) -> Result<(), QueryError> {
    match datum {
        Datum::MinVal
        | Datum::Bool(_)
        | Datum::Number(_)
        | Datum::String(_)
        | Datum::Array(_)
        | Datum::Binary(_)
        | Datum::Time(_)
        | Datum::MaxVal => Ok(()),
        Datum::Null | Datum::Object(_) => {
            Err(wrong_type("Secondary keys must be a number, string, bool, pseudotype, or array", datum))
        }
    }
}

fn wrong_type(rule: &str, datum: &Datum) -> QueryError {
    if datum.pseudotype().is_some() {
        return wrong_pseudotype(datum);
    }
    let printed = json::to_message_string(datum);
    wrong_or_missing(datum, format!("{rule} (got type {}):\n{printed}", datum.type_name()))
}

fn wrong_pseudotype(datum: &Datum) -> QueryError {
    match datum.type_name() {
        "PTYPE<GEOMETRY>" => logic(
            "Cannot use a geometry value as a key value in a primary or non-geospatial secondary index.",
        ),
        other => logic(format!("Cannot use pseudotype {other} as a primary or secondary key value .")),
    }
}

fn wrong_item(datum: &Datum) -> QueryError {
    if datum.pseudotype().is_some() {
        return wrong_pseudotype(datum);
    }
    let message = format!(
        "Array keys can only contain numbers, strings, bools,  pseudotypes, or arrays (got {} of type {}).",
        json::to_pretty_string(datum),
        datum.type_name()
    );
    wrong_or_missing(datum, message)
}

/// Refuses NUL in strings, which RethinkDB's primary keys cannot hold.
fn refuse_nul(text: &Text) -> Result<(), QueryError> {
    if !text.as_bytes().contains(&0) {
        return Ok(());
    }
    let offset = text.as_bytes().iter().take_while(|byte| **byte != 0).count();
    let mut shown = String::new();
    for byte in text.as_bytes().iter().take(20) {
        match byte {
            b'"' => shown.push_str("\\\""),
            b'\\' => shown.push_str("\\\\"),
            b'\n' => shown.push_str("\\n"),
            b'\t' => shown.push_str("\\t"),
            b'\r' => shown.push_str("\\r"),
            b' '..=b'~' => shown.push(char::from(*byte)),
            other => shown.push_str(&format!("\\x{other:02X}")),
        }
    }
    let message =
        format!("String \"{shown}\" (truncated) contains NULL byte at offset {offset} in index key.");
    Err(logic(message))
}

/// The length of RethinkDB's text of a primary key; checks what the key is made of on the way. What cannot be too long
/// is not measured.
fn text_length(datum: &Datum) -> Result<usize, QueryError> {
    if matches!(datum, Datum::Number(_) | Datum::Bool(_) | Datum::Time(_)) {
        return Ok(0);
    }
    let mut bytes = 0;
    measure(datum, &mut bytes)?;
    Ok(bytes)
}

fn measure(datum: &Datum, bytes: &mut usize) -> Result<(), QueryError> {
    match datum {
        Datum::MinVal | Datum::MaxVal => *bytes += 1,
        Datum::Bool(_) => *bytes += 2,
        // `N`, sixteen hexadecimal digits, `#`, the number.
        Datum::Number(number) => *bytes += 18 + decimal_length(*number),
        Datum::Time(time) => *bytes += 6 + 18 + decimal_length(time.epoch_seconds),
        Datum::String(text) => {
            refuse_nul(text)?;
            *bytes += 1 + text.as_bytes().len();
        }
        Datum::Binary(data) => {
            *bytes += 8 + data.len() + data.iter().filter(|byte| **byte < 2).count();
        }
        Datum::Array(array) => {
            *bytes += 1;
            for item in array.iter() {
                if *bytes >= TEXT_BYTES_MAX {
                    break;
                }
                measure(&item, bytes)?;
                *bytes += 1;
            }
        }
        Datum::Null | Datum::Object(_) => return Err(wrong_item(datum)),
    }
    Ok(())
}

/// The length of C's `%.20g`: twenty significant digits without trailing zeros.
fn decimal_length(number: f64) -> usize {
    let number = number + 0.0;
    if number == 0.0 {
        return 1;
    }
    let sign = usize::from(number < 0.0);
    let text = format!("{:.19e}", number.abs());
    let (mantissa, exponent) = text.split_once('e').expect("scientific notation has an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a small integer");
    let digits = mantissa.replace('.', "").trim_end_matches('0').len();
    let point = |digits: usize| if digits > 1 { digits + 1 } else { digits };
    sign + if !(-4..20).contains(&exponent) {
        point(digits) + if exponent.abs() >= 100 { 5 } else { 4 }
    } else if exponent < 0 {
        1 + exponent.unsigned_abs() as usize + digits
    } else {
        let whole = exponent as usize + 1;
        if digits > whole { digits + 1 } else { whole }
    }
}

fn encode(datum: &Datum, kind: Kind, key: &mut Key) -> Result<(), QueryError> {
    match datum {
        Datum::MinVal | Datum::MaxVal if kind == Kind::Value => {
            return Err(logic("Cannot use `r.minval` or `r.maxval` in an index key."));
        }
        Datum::MinVal => key.push(MINVAL),
        Datum::MaxVal => key.push(MAXVAL),
        Datum::Bool(value) => key.push(if *value { TRUE } else { FALSE }),
        Datum::Number(number) => {
            key.push(NUMBER);
            encode_double(*number, key);
        }
        Datum::Time(time) => {
            key.push(TIME);
            encode_double(time.epoch_seconds, key);
        }
        Datum::String(text) => {
            key.push(STRING);
            encode_bytes(text.as_bytes(), key);
        }
        Datum::Binary(bytes) => {
            key.push(BINARY);
            encode_bytes(bytes, key);
        }
        Datum::Array(array) => {
            key.push(ARRAY);
            for item in array.iter() {
                encode(&item, kind, key)?;
            }
            key.push(END);
        }
        Datum::Null | Datum::Object(_) => return Err(wrong_item(datum)),
    }
    Ok(())
}

fn encode_double(number: f64, key: &mut Key) {
    // Minus zero equals zero.
    let bits = if number == 0.0 { 0 } else { number.to_bits() };
    let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    key.extend_from_slice(&ordered.to_be_bytes());
}

fn encode_bytes(bytes: &[u8], key: &mut Key) {
    // Nearly always one run without a NUL.
    if bytes.contains(&0) {
        for byte in bytes {
            key.push(*byte);
            if *byte == 0 {
                key.push(ESCAPED);
            }
        }
    } else {
        key.extend_from_slice(bytes);
    }
    key.extend_from_slice(&[END, END]);
}

/// The value of a key made by [`primary`] or [`bound`]; `None` for other bytes. Times come back in zone +00:00.
pub fn decode(key: &[u8]) -> Option<Datum> {
    let (datum, rest) = decode_one(key, 0)?;
    rest.is_empty().then_some(datum)
}

fn decode_one(key: &[u8], depth: u32) -> Option<(Datum, &[u8])> {
    let (tag, rest) = key.split_first()?;
    let fixed = |datum| Some((datum, rest));
    match *tag {
        MINVAL => fixed(Datum::MinVal),
        MAXVAL => fixed(Datum::MaxVal),
        FALSE => fixed(Datum::Bool(false)),
        TRUE => fixed(Datum::Bool(true)),
        NUMBER => decode_double(rest).map(|(number, rest)| (Datum::Number(number), rest)),
        TIME => decode_double(rest)
            .map(|(epoch_seconds, rest)| (Datum::Time(Time { epoch_seconds, zone_minutes: 0 }), rest)),
        STRING => {
            let (bytes, rest) = decode_bytes(rest)?;
            Some((Datum::String(Text::from(String::from_utf8(bytes).ok()?)), rest))
        }
        BINARY => decode_bytes(rest).map(|(bytes, rest)| (Datum::Binary(Slice::from(bytes)), rest)),
        ARRAY if depth <= limits::DATUM_DEPTH_MAX => {
            let mut items = Vec::new();
            let mut rest = rest;
            loop {
                if let Some((&END, behind)) = rest.split_first() {
                    return Some((Datum::Array(Array::new(items)), behind));
                }
                let (item, behind) = decode_one(rest, depth + 1)?;
                items.push(item);
                rest = behind;
            }
        }
        _ => None,
    }
}

fn decode_double(key: &[u8]) -> Option<(f64, &[u8])> {
    let (bytes, rest) = key.split_first_chunk::<8>()?;
    let ordered = u64::from_be_bytes(*bytes);
    let bits = if ordered >> 63 == 1 { ordered & !(1 << 63) } else { !ordered };
    let number = f64::from_bits(bits);
    number.is_finite().then_some((number, rest))
}

fn decode_bytes(key: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut bytes = Vec::new();
    let mut at = 0;
    loop {
        match (key.get(at)?, key.get(at + 1)) {
            (0, Some(&END)) => return Some((bytes, &key[at + 2..])),
            (0, Some(&ESCAPED)) => {
                bytes.push(0);
                at += 2;
            }
            (0, Some(_) | None) => return None,
            (byte, _) => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
}

/// The shard (of a power of two of them) that holds `key`: low bits of XXH3-64 of the encoded key.
pub fn shard_of(key: &[u8], shards: u16) -> u16 {
    debug_assert!(shards.is_power_of_two());
    (xxhash_rust::xxh3::xxh3_64(key) & u64::from(shards - 1)) as u16
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn keys() -> impl Strategy<Value = Datum> {
        let leaf = prop_oneof![
            any::<bool>().prop_map(Datum::Bool),
            (-1e9..1e9f64).prop_map(Datum::Number),
            (-3..3i32).prop_map(|number| Datum::Number(f64::from(number))),
            "[a-c]{0,3}".prop_map(|text| Datum::string(&text)),
            proptest::collection::vec(0..3u8, 0..4).prop_map(|bytes| Datum::Binary(Slice::from(bytes))),
            (-5..5i32).prop_map(|s| Datum::Time(Time { epoch_seconds: f64::from(s), zone_minutes: 0 })),
        ];
        leaf.prop_recursive(3, 12, 4, |inner| proptest::collection::vec(inner, 0..4).prop_map(Datum::array))
    }

    proptest! {
        #[test]
        fn key_bytes_order_as_values_and_decode(a in keys(), b in keys()) {
            let (key_a, key_b) = (bound(&a).unwrap(), bound(&b).unwrap());
            prop_assert_eq!(key_a.cmp(&key_b), a.cmp(&b));
            prop_assert_eq!(decode(&key_a), Some(a));
        }

        #[test]
        fn foreign_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn golden_bytes_stay() {
        for (datum, want) in [
            (Datum::Number(1.0), &[0x30, 0xbf, 0xf0, 0, 0, 0, 0, 0, 0][..]),
            (Datum::Number(-0.0), &[0x30, 0x80, 0, 0, 0, 0, 0, 0, 0]),
            (Datum::string("ab"), &[0x50, b'a', b'b', 0, 0]),
            (Datum::array(vec![Datum::Bool(true), Datum::MaxVal]), &[0x10, 0x21, 0xff, 0]),
            (Datum::Binary(vec![0, 1].into()), &[0x40, 0, 0xff, 1, 0, 0]),
        ] {
            assert_eq!(bound(&datum).unwrap(), want, "{datum:?}");
        }
    }

    #[test]
    fn unfit_keys_are_refused_in_the_documented_words() {
        let message = |datum: &Datum| primary(datum).expect_err("unfit").message;
        assert_eq!(
            message(&Datum::Null),
            "Primary keys must be either a number, string, bool, pseudotype or array (got type NULL):\nnull"
        );
        assert_eq!(primary(&Datum::Null).unwrap_err().kind, ErrorKind::NonExistence);
        assert!(
            message(&Datum::string(&"x".repeat(128)))
                .starts_with("Primary key too long (max 127 characters): \"x")
        );
        assert!(primary(&Datum::string(&"x".repeat(127))).is_ok());
        assert_eq!(
            message(&Datum::string("abc\0\"é")),
            "String \"abc\\x00\\\"\\xC3\\xA9\" (truncated) contains NULL byte at offset 3 in index key."
        );
        let item = Datum::array(vec![1.0.into(), Datum::Null]);
        assert_eq!(
            message(&item),
            "Array keys can only contain numbers, strings, bools,  pseudotypes, or arrays (got null of type NULL)."
        );
        assert_eq!(primary(&item).unwrap_err().kind, ErrorKind::NonExistence);
        let point = Datum::object([("$reql_type$", "GEOMETRY".into())]);
        assert_eq!(
            message(&point),
            "Cannot use a geometry value as a key value in a primary or non-geospatial secondary index."
        );
    }

    #[test]
    fn secondary_keys_take_nul_and_end_where_they_say() {
        for datum in [Datum::string("a\0b"), Datum::array(vec!["\0".into(), 1.0.into()]), Datum::Bool(true)] {
            let mut bytes = secondary(&datum).expect("fit");
            let length = bytes.len();
            bytes.extend_from_slice(&primary(&"id".into()).expect("fit"));
            assert_eq!(first_length(&bytes), Some(length), "{datum:?}");
        }
        let bound = Datum::array(vec![Datum::MaxVal]);
        assert_eq!(
            secondary(&bound).unwrap_err().message,
            "Cannot use `r.minval` or `r.maxval` in an index key."
        );
        assert!(secondary_bound(&bound).is_ok());
        assert_eq!(
            secondary(&Datum::Null).unwrap_err().message,
            "Secondary keys must be a number, string, bool, pseudotype, or array (got type NULL):\nnull"
        );
    }

    #[test]
    fn entries_order_by_value_then_row_then_repetition_and_come_apart_again() {
        let value = |number: f64| secondary(&Datum::Number(number)).expect("fit");
        let row = |text: &str| primary(&text.into()).expect("fit");
        let entries = [
            entry(&value(1.0), &row("a"), 0),
            entry(&value(1.0), &row("a"), 1),
            entry(&value(1.0), &row("a"), 2),
            entry(&value(1.0), &row("ab"), 0),
            behind_entries(&value(1.0)),
            entry(&value(2.0), &row("a"), 0),
        ];
        assert!(entries.is_sorted());
        assert_eq!(split_entry(&entries[2]), Some((value(1.0).as_slice(), row("a").as_slice())));
        assert_eq!(split_entry(&entries[3]), Some((value(1.0).as_slice(), row("ab").as_slice())));
    }

    #[test]
    fn long_entries_are_stored_within_bounds_and_come_back() {
        for length in [10, 1000, 1021, 1022, 1023, 5000] {
            let value = secondary(&"x".repeat(length).as_str().into()).expect("fit");
            let full = entry(&value, &primary(&"id".into()).expect("fit"), 1);
            let (key, rest) = store_entry(&full);
            assert!(key.len() < 1100 && (rest.is_empty() == (value.len() <= limits::INDEX_KEY_BYTES_MAX)));
            assert_eq!(stored_entry(&key, &rest), full);
        }
    }

    #[test]
    fn the_length_of_a_number_is_that_of_20_digits() {
        // Each as C's printf("%.20g") prints it.
        for (number, want) in [
            (0.0, "0"),
            (-0.0, "0"),
            (1.0, "1"),
            (-15.5, "-15.5"),
            (0.1, "0.10000000000000000555"),
            (1e-5, "1.0000000000000000818e-05"),
            (1e19, "10000000000000000000"),
            (1e20, "1e+20"),
            (1.5e300, "1.5000000000000000788e+300"),
            (0.00025, "0.0002500000000000000052"),
        ] {
            assert_eq!(decimal_length(number), want.len(), "{number}");
        }
        // `A`, then per item `N`, sixteen digits, `#`, one digit and a separator.
        let array = |count| Datum::array(vec![1.0.into(); count]);
        assert!(primary(&array(6)).is_ok());
        assert!(primary(&array(7)).is_err());
    }
}
