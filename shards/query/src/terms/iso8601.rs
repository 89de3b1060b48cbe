//! Times as ISO 8601 text, with the texts RethinkDB uses when it refuses one.
//!
//! Read: calendar dates (`2013-07-30`, `20130730`, `2013-07`, `2013`) and ordinal dates (`2013-211`, `2013211`),
//! optionally `T` and hours, minutes, seconds and a fraction with or without colons, optionally a zone (`Z`, `+hh`,
//! `+hhmm`, `+hh:mm`). Separators are all there or all missing. Week dates are refused. A zone must come from the
//! text or as a default. Each of the three parts is scanned by the same [`Scan`], which knows its part's name for messages.

use photondb_proto::datum::Time;
use photondb_proto::datum::json::zone_text;

use super::time::{Date, Local, moment};
use crate::failure::{Failure, Outcome};

const WEEK_DATE: &str = "Due to limitations in the boost time library we use for parsing, we cannot support ISO week \
                         dates right now.  Sorry about that!  Please use years, calendar dates, or ordinal dates instead.";

/// The time that `text` names; its zone is `default_zone` if it names none.
pub fn parse(text: &str, default_zone: Option<i16>) -> Outcome<Time> {
    let (date_text, rest) = text.split_once('T').unwrap_or((text, ""));
    let zone_start = rest.find(['Z', '+', '-']).unwrap_or(rest.len());
    let (time_text, zone_text) = rest.split_at(zone_start);
    let date = parse_date(date_text)?;
    let seconds_of_day = if time_text.is_empty() { 0.0 } else { parse_time(time_text)? };
    let zone = if zone_text.is_empty() { default_zone } else { Some(parse_zone(zone_text)?) };
    let Some(zone) = zone else {
        return Err(Failure::logic(
            "ISO 8601 string has no time zone, and no default time zone was provided.",
        ));
    };
    Ok(moment(date, seconds_of_day, zone))
}

fn parse_date(text: &str) -> Outcome<Date> {
    let mut scan = Scan::new("date", text);
    let year = scan.digits(4)?;
    let first = scan.separator('-');
    if scan.at_end() {
        return Date::checked(year, 1, 1);
    }
    if scan.peek() == Some('W') {
        return Err(Failure::logic(WEEK_DATE));
    }
    let month = scan.digits(2)?;
    let second = scan.separator('-');
    if scan.at_end() {
        return Date::checked(year, month, 1);
    }
    let digit = scan.digits(1)?;
    if scan.at_end() {
        if second == Separator::Present {
            return Err(scan.separators("hyphens"));
        }
        return ordinal(year, month * 10 + digit);
    }
    let day = digit * 10 + scan.digits(1)?;
    scan.end()?;
    if first != second {
        return Err(scan.separators("hyphens"));
    }
    Date::checked(year, month, day)
}

fn ordinal(year: i64, day_of_year: i64) -> Outcome<Date> {
    let first = Date::checked(year, 1, 1)?;
    if !(1..=366).contains(&day_of_year) {
        return Err(Failure::logic("Error in time logic: Day of year value is out of range 1..366."));
    }
    Ok(Date::of_days(first.days() + day_of_year - 1))
}

/// Seconds since midnight.
fn parse_time(text: &str) -> Outcome<f64> {
    let mut scan = Scan::new("time", text);
    let hours = scan.digits(2)?;
    if hours > 24 {
        return Err(Failure::logic(format!("Hours out of range in `{text}`.")));
    }
    let mut seconds = hours as f64 * 3600.0;
    let first = scan.separator(':');
    if scan.at_end() {
        return Ok(seconds);
    }
    let minutes = scan.digits(2)?;
    if minutes > 59 {
        return Err(Failure::logic(format!("Minutes out of range in `{text}`.")));
    }
    seconds += minutes as f64 * 60.0;
    let second = scan.separator(':');
    if scan.at_end() {
        return Ok(seconds);
    }
    let whole = scan.digits(2)?;
    if first != second {
        return Err(scan.separators("colons"));
    }
    seconds += whole as f64;
    if scan.separator('.') == Separator::Present {
        seconds += scan.fraction()?;
    }
    scan.end()?;
    Ok(seconds)
}

/// Minutes east of Greenwich.
pub fn parse_zone(text: &str) -> Outcome<i16> {
    if text == "Z" {
        return Ok(0);
    }
    let (west, digits) = match (text.strip_prefix('-'), text.strip_prefix('+')) {
        (Some(digits), _) => (true, digits),
        (None, Some(digits)) => (false, digits),
        (None, None) => {
            return Err(Failure::logic(format!("Timezone `{text}` does not start with `-` or `+`.")));
        }
    };
    let mut scan = Scan { part: "timezone", text, rest: digits };
    let hours = scan.digits(2)?;
    scan.separator(':');
    let minutes = if scan.at_end() { 0 } else { scan.digits(2)? };
    scan.end()?;
    if hours > 24 {
        return Err(Failure::logic(format!("Hours out of range in `{text}`.")));
    }
    if minutes > 59 {
        return Err(Failure::logic(format!("Minutes out of range in `{text}`.")));
    }
    let total = i16::try_from(hours * 60 + minutes).expect("at most 24 hours");
    if west && total == 0 {
        return Err(Failure::logic("`-00:00` is not a valid time offset."));
    }
    Ok(if west { -total } else { total })
}

/// `2013-07-30T01:21:36.681+00:00`; milliseconds only when there are some.
pub fn print(time: Time) -> Outcome<String> {
    let local = Local::of(time)?;
    let Date { year, month, day } = local.date;
    let milliseconds = local.milliseconds_of_day % 1000;
    let seconds = local.milliseconds_of_day / 1000;
    let fraction = if milliseconds == 0 { String::new() } else { format!(".{milliseconds:03}") };
    Ok(format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}{fraction}{}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60,
        zone_text(time.zone_minutes)
    ))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Separator {
    Present,
    Absent,
}

/// Reads one part of a time text from left to right.
struct Scan<'a> {
    /// For messages: `date`, `time` or `timezone`.
    part: &'static str,
    text: &'a str,
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn new(part: &'static str, text: &'a str) -> Scan<'a> {
        Scan { part, text, rest: text }
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn at_end(&self) -> bool {
        self.rest.is_empty()
    }

    fn separator(&mut self, separator: char) -> Separator {
        match self.rest.strip_prefix(separator) {
            Some(rest) => {
                self.rest = rest;
                Separator::Present
            }
            None => Separator::Absent,
        }
    }

    fn digits(&mut self, count: usize) -> Outcome<i64> {
        let mut number = 0;
        for _ in 0..count {
            let (part, text) = (self.part, self.text);
            let Some(found) = self.peek() else {
                return Err(Failure::logic(format!("Truncated {part} string `{text}`.")));
            };
            let Some(digit) = found.to_digit(10) else {
                return Err(Failure::logic(format!(
                    "Invalid {part} string `{text}` (got `{found}` but expected a digit)."
                )));
            };
            number = number * 10 + i64::from(digit);
            self.rest = &self.rest[1..];
        }
        Ok(number)
    }

    /// Digits behind a decimal point, at least one.
    fn fraction(&mut self) -> Outcome<f64> {
        let whole = self.rest;
        self.digits(1)?;
        while self.peek().is_some_and(|next| next.is_ascii_digit()) {
            self.rest = &self.rest[1..];
        }
        let digits = &whole[..whole.len() - self.rest.len()];
        Ok(format!("0.{digits}").parse().expect("digits are a number"))
    }

    fn end(&self) -> Outcome<()> {
        if self.at_end() {
            return Ok(());
        }
        let Scan { part, text, rest } = self;
        Err(Failure::logic(format!("Garbage characters `{rest}` at end of {part} string `{text}`.")))
    }

    fn separators(&self, name: &str) -> Failure {
        let part = if self.part == "date" { "Date" } else { "Time" };
        Failure::logic(format!("{part} string `{}` must have 0 or 2 {name}.", self.text))
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, print};

    #[track_caller]
    fn check(text: &str, want: &str) {
        let found = parse(text, None).and_then(print);
        assert_eq!(found.unwrap_or_else(|failure| format!("! {}", failure.message)), want, "{text}");
    }

    #[test]
    fn dates_come_with_and_without_separators() {
        check("2013-07-30T20:56:05-07:00", "2013-07-30T20:56:05-07:00");
        check("20130730T205605-0700", "2013-07-30T20:56:05-07:00");
        check("2013-211T20Z", "2013-07-30T20:00:00+00:00");
        check("2013211T20:56Z", "2013-07-30T20:56:00+00:00");
        check("2013-07T00Z", "2013-07-01T00:00:00+00:00");
        check("2013TZ", "2013-01-01T00:00:00+00:00");
        check("2013-07-29T18:21:36.680000-07:00", "2013-07-29T18:21:36.680-07:00");
        check("2016-366T00Z", "2016-12-31T00:00:00+00:00");
    }

    #[test]
    fn malformed_texts_say_what_is_wrong() {
        check(
            "2013-07-30T20:56:05",
            "! ISO 8601 string has no time zone, and no default time zone was provided.",
        );
        check("2013-0730T00Z", "! Date string `2013-0730` must have 0 or 2 hyphens.");
        check("2013-07-30T20:5605Z", "! Time string `20:5605` must have 0 or 2 colons.");
        check("2013-07-3aT00Z", "! Invalid date string `2013-07-3a` (got `a` but expected a digit).");
        check("2013-07-301T00Z", "! Garbage characters `1` at end of date string `2013-07-301`.");
        check("201TZ", "! Truncated date string `201`.");
        check("2013-07-30T2aZ", "! Invalid time string `2a` (got `a` but expected a digit).");
        check("2013-07-30T20-00:00", "! `-00:00` is not a valid time offset.");
        check("2013-07-30T20+01:60", "! Minutes out of range in `+01:60`.");
        check("2013-02-30TZ", "! Error in time logic: Day of month is not valid for year.");
        check("1399TZ", "! Error in time logic: Year is out of valid range: 1400..9999.");
        assert!(parse("2013-W01-1TZ", None).is_err_and(|failure| failure.message.contains("week dates")));
    }

    #[test]
    fn a_default_zone_fills_in() {
        let text = parse("2013-07-30T20:56:05", Some(-420)).and_then(print);
        assert_eq!(text.ok().as_deref(), Some("2013-07-30T20:56:05-07:00"));
    }
}
