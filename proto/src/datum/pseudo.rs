//! Pseudotypes: objects with a `$reql_type$` key that stand for times, binary data, geometry and literals.
//!
//! Times and binary data become values of their own when they enter; geometry and literals stay objects, checked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use super::{Datum, Object, Slice, Time, json};
use crate::error::{ErrorKind, QueryError};

/// The key that marks a pseudotype.
pub const TYPE_KEY: &str = "$reql_type$";

/// Converts an object that came from a client or from `r.json` and has a `$reql_type$` key into the value it stands
/// for (TIME, BINARY), or checks it (GEOMETRY, LITERAL).
///
/// # Errors
/// What is wrong with it, in RethinkDB's words.
pub fn from_object(object: Object) -> Result<Datum, QueryError> {
    let tag = object.field(TYPE_KEY);
    match &tag {
        Some(Datum::String(name)) => match name.as_str() {
            "TIME" => time(&object),
            "BINARY" => binary(&object),
            "GEOMETRY" => geometry(object),
            "LITERAL" => Ok(Datum::Object(object)),
            unknown => Err(logic(format!("Unknown $reql_type$ `{unknown}`."))),
        },
        Some(other) => Err(logic(format!("Expected type STRING but found {}.", other.type_name()))),
        None => Ok(Datum::Object(object)),
    }
}

fn logic(message: String) -> QueryError {
    QueryError::new(ErrorKind::QueryLogic, message)
}

fn time(object: &Object) -> Result<Datum, QueryError> {
    let broken = |what: String| {
        logic(format!(
            "Invalid time object constructed ({what}):\n{}",
            json::to_message_string(&Datum::Object(object.clone()))
        ))
    };
    let (mut epoch, mut zone) = (None, None);
    for (key, value) in object.iter() {
        match (key.as_str(), &value) {
            (TYPE_KEY, _) => {}
            ("epoch_time", Datum::Number(number)) => epoch = Some(*number),
            ("epoch_time", other) => {
                let printed = json::to_message_string(other);
                let type_name = other.type_name();
                return Err(broken(format!(
                    "field `epoch_time` must be a number (got `{printed}` of type {type_name})"
                )));
            }
            ("timezone", Datum::String(text)) => {
                let minutes = parse_zone(text);
                zone = Some(
                    minutes.ok_or_else(|| broken(format!("invalid timezone string `{}`", text.as_str())))?,
                );
            }
            ("timezone", other) => {
                let printed = json::to_message_string(other);
                let type_name = other.type_name();
                return Err(broken(format!(
                    "field `timezone` must be a string (got `{printed}` of type {type_name})"
                )));
            }
            (unknown, _) => return Err(broken(format!("unrecognized field `{unknown}`"))),
        }
    }
    let epoch = epoch.ok_or_else(|| broken("no field `epoch_time`".to_owned()))?;
    let zone_minutes = zone.ok_or_else(|| broken("no field `timezone`".to_owned()))?;
    Ok(Datum::Time(Time { epoch_seconds: round_to_milliseconds(epoch), zone_minutes }))
}

/// Times are kept to the millisecond.
pub fn round_to_milliseconds(epoch_seconds: f64) -> f64 {
    (epoch_seconds * 1000.0).round() / 1000.0
}

/// Minutes east of Greenwich of `Z`, `±hh`, `±hhmm` or `±hh:mm`. `-00:00` is not a zone.
pub fn parse_zone(text: &str) -> Option<i16> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, digits) = match text.as_bytes() {
        [b'+', digits @ ..] => (1, digits),
        [b'-', digits @ ..] => (-1, digits),
        _ => return None,
    };
    let (hours, minutes): ([u8; 2], [u8; 2]) = match digits {
        [a, b] => ([*a, *b], *b"00"),
        [a, b, c, d] | [a, b, b':', c, d] => ([*a, *b], [*c, *d]),
        _ => return None,
    };
    let number = |pair: [u8; 2]| {
        pair.iter()
            .all(u8::is_ascii_digit)
            .then(|| i16::from(pair[0] - b'0') * 10 + i16::from(pair[1] - b'0'))
    };
    let (hours, minutes) = (number(hours)?, number(minutes)?);
    if hours > 24 || minutes > 59 || (sign < 0 && hours == 0 && minutes == 0) {
        return None;
    }
    Some(sign * (hours * 60 + minutes))
}

fn binary(object: &Object) -> Result<Datum, QueryError> {
    let mut data = None;
    for (key, value) in object.iter() {
        match (key.as_str(), value) {
            (TYPE_KEY, _) => {}
            ("data", Datum::String(text)) => data = Some(text),
            ("data", other) => {
                return Err(logic(format!("Expected type STRING but found {}.", other.type_name())));
            }
            (unknown, _) => {
                return Err(logic(format!("Invalid binary pseudotype: illegal `{unknown}` key.")));
            }
        }
    }
    let data = data.ok_or_else(|| logic("Invalid binary pseudotype: lacking `data` key.".to_owned()))?;
    Ok(Datum::Binary(Slice::from(decode_base64(data.as_bytes())?)))
}

/// Decodes base64 that may hold white space.
fn decode_base64(text: &[u8]) -> Result<Vec<u8>, QueryError> {
    let mut digits = Vec::with_capacity(text.len());
    let mut padding = 0;
    for byte in text {
        match byte {
            b' ' | b'\t' | b'\r' | b'\n' | 0x0b | 0x0c => {}
            b'=' => padding += 1,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' if padding > 0 => {
                let text = "Invalid base64 format, data found after padding character '='.";
                return Err(logic(text.to_owned()));
            }
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' => digits.push(*byte),
            other => {
                return Err(logic(format!("Invalid base64 character found: '{}'.", char::from(*other))));
            }
        }
    }
    if digits.len() % 4 == 1 {
        let text = "Invalid base64 length: 1 character remaining, cannot decode a full byte.";
        return Err(logic(text.to_owned()));
    }
    clear_trailing_bits(&mut digits);
    BASE64.decode(&digits).map_err(|error| QueryError::new(ErrorKind::Internal, format!("base64: {error}")))
}

/// Makes the last digit of a partial group canonical: bits beyond the last whole byte do not count.
fn clear_trailing_bits(digits: &mut [u8]) {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mask = match digits.len() % 4 {
        2 => 0b11_0000,
        3 => 0b11_1100,
        _ => return,
    };
    if let Some(last) = digits.last_mut()
        && let Some(value) = ALPHABET.iter().position(|digit| digit == last)
    {
        *last = ALPHABET[value & mask];
    }
}

fn geometry(object: Object) -> Result<Datum, QueryError> {
    for (key, _) in object.iter() {
        if !matches!(key.as_str(), TYPE_KEY | "type" | "coordinates" | "crs") {
            return Err(logic(format!("Unrecognized field `{}` found in geometry object.", key.as_str())));
        }
    }
    for required in ["type", "coordinates"] {
        if !object.has(required) {
            return Err(logic(format!("Field `{required}` not found in geometry object.")));
        }
    }
    Ok(Datum::Object(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<const N: usize>(pairs: [(&str, Datum); N], want: Result<&str, &str>) {
        let Datum::Object(object) = Datum::object(pairs) else { unreachable!("an object was made") };
        let found = from_object(object).map(|datum| json::to_string(&datum)).map_err(|error| error.message);
        assert_eq!(found.as_deref().map_err(String::as_str), want);
    }

    #[test]
    fn times_are_checked_and_rounded() {
        let tag = || (TYPE_KEY, Datum::string("TIME"));
        let want = r#"{"$reql_type$":"TIME","epoch_time":1.235,"timezone":"+02:00"}"#;
        check([tag(), ("epoch_time", 1.2345.into()), ("timezone", "+02".into())], Ok(want));
        let lacking = "Invalid time object constructed (no field `epoch_time`):\n{\n\t\"$reql_type$\": \"TIME\",\n\t\"timezone\": \"Z\"\n}";
        check([tag(), ("timezone", "Z".into())], Err(lacking));
    }

    #[test]
    fn binary_data_is_decoded() {
        let tag = || (TYPE_KEY, Datum::string("BINARY"));
        let data = |text: &str| ("data", Datum::string(text));
        check([tag(), data("YW\r\nJj")], Ok(r#"{"$reql_type$":"BINARY","data":"YWJj"}"#));
        check([tag(), data("YR==")], Ok(r#"{"$reql_type$":"BINARY","data":"YQ=="}"#));
        check([tag()], Err("Invalid binary pseudotype: lacking `data` key."));
        check([tag(), data("a?")], Err("Invalid base64 character found: '?'."));
        check(
            [tag(), data("a")],
            Err("Invalid base64 length: 1 character remaining, cannot decode a full byte."),
        );
        check(
            [tag(), data("YQ==YQ==")],
            Err("Invalid base64 format, data found after padding character '='."),
        );
        check([tag(), data(""), ("x", 1.0.into())], Err("Invalid binary pseudotype: illegal `x` key."));
    }

    #[test]
    fn unknown_tags_are_refused() {
        check([(TYPE_KEY, "X".into())], Err("Unknown $reql_type$ `X`."));
    }

    #[test]
    fn zones_are_parsed() {
        for (text, want) in [
            ("Z", Some(0)),
            ("+00:00", Some(0)),
            ("-01:30", Some(-90)),
            ("+0530", Some(330)),
            ("+14", Some(840)),
            ("-00:00", None),
            ("+25:00", None),
            ("+1", None),
            ("+0:00", None),
            ("+00:60", None),
            ("é1:00", None),
        ] {
            assert_eq!(parse_zone(text), want, "{text}");
        }
    }
}
