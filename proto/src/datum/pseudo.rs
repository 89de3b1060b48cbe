//! Pseudotypes: objects with a `$reql_type$` key that stand for times, binary data, geometry and literals.
//!
//! Times and binary data become values of their own when they enter; geometry and literals stay objects, checked.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

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
            "LITERAL" => literal(object),
            unknown => Err(logic(format!("Unknown $reql_type$ `PTYPE<{unknown}>`."))),
        },
        Some(other) => Err(logic(format!(
            "Error: Field `{TYPE_KEY}` must be a string (got `{}` of type {}):\n{}",
            json::to_message_string(other),
            other.type_name(),
            json::to_message_string(&Datum::Object(object.clone()))
        ))),
        None => Ok(Datum::Object(object)),
    }
}

fn logic(message: String) -> QueryError {
    QueryError::new(ErrorKind::QueryLogic, message)
}

fn time(object: &Object) -> Result<Datum, QueryError> {
    // The object is shown as far as it was put right: with its time rounded.
    let broken = |what: String| {
        let mut shown = object.to_builder();
        if let Some(Datum::Number(number)) = object.field("epoch_time") {
            shown.set("epoch_time", Datum::Number(round_to_milliseconds(number)));
        }
        logic(format!(
            "Invalid time object constructed ({what}):\n{}",
            json::to_message_string(&Datum::Object(shown.build()))
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
                zone = Some(minutes.ok_or_else(|| {
                    broken(format!("invalid timezone string `{}`", json::to_message_string(&value)))
                })?);
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
            ("data", Datum::String(text)) => data = Some(decode_base64(text.as_str())?),
            ("data", other) => return Err(expected("STRING", &other)),
            (unknown, _) => {
                return Err(logic(format!("Invalid binary pseudotype: illegal `{unknown}` key.")));
            }
        }
    }
    let data = data.ok_or_else(|| logic("Invalid binary pseudotype: lacking `data` key.".to_owned()))?;
    Ok(Datum::Binary(Slice::from(data)))
}

/// A value of the wrong type; null counts as missing.
fn expected(want: &str, found: &Datum) -> QueryError {
    let kind = if found.is_null() { ErrorKind::NonExistence } else { ErrorKind::QueryLogic };
    QueryError::new(kind, format!("Expected type {want} but found {}.", found.type_name()))
}

/// Bytes of base64 text. White space may stand anywhere and the padding may be missing.
fn decode_base64(text: &str) -> Result<Vec<u8>, QueryError> {
    // What we print ourselves, and what drivers send, is the strict form.
    if let Ok(bytes) = BASE64.decode(text.as_bytes()) {
        return Ok(bytes);
    }
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3);
    let (mut bits, mut count) = (0u32, 0);
    let mut characters = text.chars();
    for character in characters.by_ref() {
        let value = match character {
            'A'..='Z' => character as u32 - 'A' as u32,
            'a'..='z' => character as u32 - 'a' as u32 + 26,
            '0'..='9' => character as u32 - '0' as u32 + 52,
            '+' => 62,
            '/' => 63,
            '\r' | '\n' | ' ' | '\t' => continue,
            '=' => break,
            other => return Err(logic(format!("Invalid base64 character found: '{other}'."))),
        };
        bits = bits << 6 | value;
        count += 1;
        if count == 4 {
            bytes.extend_from_slice(&bits.to_be_bytes()[1..]);
            (bits, count) = (0, 0);
        }
    }
    match count {
        0 => {}
        1 => {
            return Err(logic(
                "Invalid base64 length: 1 character remaining, cannot decode a full byte.".to_owned(),
            ));
        }
        _ => bytes.extend_from_slice(&(bits << (24 - 6 * count)).to_be_bytes()[1..count]),
    }
    if characters.any(|character| !matches!(character, '=' | '\r' | '\n' | ' ' | '\t')) {
        return Err(logic("Invalid base64 format, data found after padding character '='.".to_owned()));
    }
    Ok(bytes)
}

fn geometry(object: Object) -> Result<Datum, QueryError> {
    for (key, value) in object.iter() {
        match (key.as_str(), &value) {
            (TYPE_KEY | "crs", _) | ("coordinates", Datum::Array(_)) | ("type", Datum::String(_)) => {}
            ("coordinates", other) => return Err(expected("ARRAY", other)),
            ("type", other) => return Err(expected("STRING", other)),
            (unknown, _) => {
                return Err(logic(format!("Unrecognized field `{unknown}` found in geometry object.")));
            }
        }
    }
    for required in ["type", "coordinates"] {
        if !object.has(required) {
            return Err(logic(format!("Field `{required}` not found in geometry object.")));
        }
    }
    Ok(Datum::Object(object))
}

/// Refusal of a literal where none may stand.
pub const STRAY_LITERAL: &str = "Stray literal keyword found: literal is only legal inside of the object passed to merge \
                                 or update and cannot nest inside other literals.";

/// Where a literal may stand is the evaluator's to know.
fn literal(object: Object) -> Result<Datum, QueryError> {
    match object.iter().find(|(key, _)| !matches!(key.as_str(), TYPE_KEY | "value")) {
        Some((key, _)) => Err(logic(format!("Invalid literal term with illegal key `{}`.", key.as_str()))),
        None => Ok(Datum::Object(object)),
    }
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
        let lacking = "Invalid time object constructed (no field `epoch_time`):\n{\n\t\"$reql_type$\":\t\"TIME\",\n\t\"timezone\":\t\"Z\"\n}";
        check([tag(), ("timezone", "Z".into())], Err(lacking));
        let zone = "Invalid time object constructed (invalid timezone string `\"x\"`):\n{\n\t\"$reql_type$\":\t\"TIME\",\n\t\"epoch_time\":\t1.235,\n\t\"timezone\":\t\"x\"\n}";
        check([tag(), ("epoch_time", 1.2345.into()), ("timezone", "x".into())], Err(zone));
    }

    #[test]
    fn binary_data_is_decoded() {
        let tag = || (TYPE_KEY, Datum::string("BINARY"));
        let data = |text: &str| ("data", Datum::string(text));
        check([tag(), data("YW\r\nJj")], Ok(r#"{"$reql_type$":"BINARY","data":"YWJj"}"#));
        check([tag(), data("YR==")], Ok(r#"{"$reql_type$":"BINARY","data":"YQ=="}"#));
        check([tag(), data("AP5 6AA")], Ok(r#"{"$reql_type$":"BINARY","data":"AP56AA=="}"#));
        check([tag(), data("AEI")], Ok(r#"{"$reql_type$":"BINARY","data":"AEI="}"#));
        check([tag()], Err("Invalid binary pseudotype: lacking `data` key."));
        let misplaced = "Invalid base64 format, data found after padding character '='.";
        check([tag(), data("ABCDEFGH==?")], Err(misplaced));
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
        check([(TYPE_KEY, "X".into())], Err("Unknown $reql_type$ `PTYPE<X>`."));
        let number = "Error: Field `$reql_type$` must be a string (got `1` of type NUMBER):\n{\n\t\"$reql_type$\":\t1\n}";
        check([(TYPE_KEY, 1.0.into())], Err(number));
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
