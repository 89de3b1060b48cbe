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

/// The key of a document.
///
/// # Errors
/// A type that cannot be a key, a string with a NUL, a key that is too long.
pub fn primary(datum: &Datum) -> Result<Key, QueryError> {
    check_primary_type(datum)?;
    check_strings(datum)?;
    if text_length(datum) > limits::PRIMARY_KEY_CHARACTERS_MAX {
        let printed = json::to_pretty_string(datum);
        let text = format!(
            "Primary key too long (max {} characters): {printed}",
            limits::PRIMARY_KEY_CHARACTERS_MAX
        );
        return Err(QueryError::new(ErrorKind::QueryLogic, text));
    }
    let mut key = Key::with_capacity(16);
    encode(datum, &mut key)?;
    Ok(key)
}

/// Any value that may bound a range of keys: `MinVal`, `MaxVal` and arrays of them allowed, no limit of length.
///
/// # Errors
/// A type that cannot be a key.
pub fn bound(datum: &Datum) -> Result<Key, QueryError> {
    if !matches!(datum, Datum::MinVal | Datum::MaxVal) {
        check_primary_type(datum)?;
        check_strings(datum)?;
    }
    let mut key = Key::with_capacity(16);
    encode(datum, &mut key)?;
    Ok(key)
}

fn check_primary_type(datum: &Datum) -> Result<(), QueryError> {
    let kind = match datum {
        Datum::Bool(_)
        | Datum::Number(_)
        | Datum::String(_)
        | Datum::Array(_)
        | Datum::Binary(_)
        | Datum::Time(_) => return Ok(()),
        Datum::Null => ErrorKind::NonExistence,
        Datum::MinVal | Datum::MaxVal | Datum::Object(_) => ErrorKind::QueryLogic,
    };
    let text = format!(
        "Primary keys must be either a number, string, bool, pseudotype or array (got type {}):\n{}",
        datum.type_name(),
        json::to_message_string(datum)
    );
    Err(QueryError::new(kind, text))
}

/// Refuses NUL in strings, which RethinkDB's keys cannot hold.
fn check_strings(datum: &Datum) -> Result<(), QueryError> {
    match datum {
        Datum::String(text) => match text.as_bytes().iter().position(|byte| *byte == 0) {
            None => Ok(()),
            Some(offset) => {
                let shown: String = text.chars().take(20).collect();
                let shown = json::to_string(&Datum::string(&shown));
                let text =
                    format!("String {shown} (truncated) contains NULL byte at offset {offset} in index key.");
                Err(QueryError::new(ErrorKind::QueryLogic, text))
            }
        },
        Datum::Array(array) => array.iter().try_for_each(|item| check_strings(&item)),
        Datum::MinVal
        | Datum::Null
        | Datum::Bool(_)
        | Datum::Number(_)
        | Datum::Object(_)
        | Datum::Binary(_)
        | Datum::Time(_)
        | Datum::MaxVal => Ok(()),
    }
}

/// The length of the key as RethinkDB would write it.
fn text_length(datum: &Datum) -> usize {
    let number = |value: f64| {
        let mut text = Vec::new();
        json::write_number(value, &mut text);
        // `N`, sixteen hexadecimal digits, `#`, the number.
        18 + text.len()
    };
    match datum {
        Datum::Number(value) => number(*value),
        Datum::String(text) => 1 + text.as_bytes().len(),
        Datum::Bool(_) => 2,
        Datum::Array(array) => 1 + array.iter().map(|item| text_length(&item) + 1).sum::<usize>(),
        Datum::Time(time) => "PTIME:".len() + number(time.epoch_seconds),
        Datum::Binary(bytes) => {
            "PBINARY:".len() + bytes.len() + bytes.iter().filter(|byte| **byte < 2).count()
        }
        Datum::MinVal | Datum::MaxVal | Datum::Null | Datum::Object(_) => 1,
    }
}

fn encode(datum: &Datum, key: &mut Key) -> Result<(), QueryError> {
    match datum {
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
                encode(&item, key)?;
            }
            key.push(END);
        }
        Datum::Null | Datum::Object(_) => {
            let text = format!(
                "Array keys can only contain numbers, strings, bools,  pseudotypes, or arrays (got {} of type {}).",
                json::to_message_string(datum),
                datum.type_name()
            );
            return Err(QueryError::new(ErrorKind::QueryLogic, text));
        }
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
    for byte in bytes {
        key.push(*byte);
        if *byte == 0 {
            key.push(ESCAPED);
        }
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
        ARRAY if depth < limits::DATUM_DEPTH_MAX => {
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
            message(&Datum::string(&"x".repeat(127)))
                .starts_with("Primary key too long (max 127 characters): \"x")
        );
        assert!(primary(&Datum::string(&"x".repeat(126))).is_ok());
        assert_eq!(
            message(&Datum::string("a\0b")),
            "String \"a\\u0000b\" (truncated) contains NULL byte at offset 1 in index key."
        );
    }
}
