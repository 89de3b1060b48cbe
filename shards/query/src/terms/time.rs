//! Times: construction, decomposition, zones. The text form is next door in [`super::iso8601`].
//!
//! A time is a moment in milliseconds and a zone; the calendar is the proleptic Gregorian one, computed here with the
//! usual arithmetic on days since 1970-01-01: pure integer work needs no time library. Calendar terms hold for the
//! years 1400 to 9999 only, as in RethinkDB; arithmetic on moments has no such bounds.

use photondb_proto::datum::json::zone_text;
use photondb_proto::datum::pseudo::round_to_milliseconds;
use photondb_proto::datum::{Datum, Time, json};
use photondb_proto::term::number;

use super::iso8601;
use super::{Arity, Determinism, Eval, TermDef};
use crate::call::{Call, finite};
use crate::failure::{Failure, Outcome};

pub static TERMS: &[TermDef] = &[
    TermDef {
        name: "ISO8601",
        number: number::ISO8601,
        arity: Arity::exactly(1),
        options: &["default_timezone"],
        determinism: Determinism::Always,
        eval: Eval::Pure(parse),
    },
    TermDef::pure("TO_ISO8601", number::TO_ISO8601, Arity::exactly(1), print),
    TermDef::pure("EPOCH_TIME", number::EPOCH_TIME, Arity::exactly(1), epoch_time),
    TermDef::pure("TO_EPOCH_TIME", number::TO_EPOCH_TIME, Arity::exactly(1), |call| {
        Ok(Datum::Number(time(call, 0)?.epoch_seconds))
    }),
    TermDef {
        name: "NOW",
        number: number::NOW,
        arity: Arity::exactly(0),
        options: &[],
        determinism: Determinism::PerQuery,
        eval: Eval::Pure(now),
    },
    TermDef::pure("IN_TIMEZONE", number::IN_TIMEZONE, Arity::exactly(2), in_timezone),
    TermDef {
        name: "DURING",
        number: number::DURING,
        arity: Arity::exactly(3),
        options: &["left_bound", "right_bound"],
        determinism: Determinism::Always,
        eval: Eval::Pure(during),
    },
    TermDef::pure("DATE", number::DATE, Arity::exactly(1), date),
    TermDef::pure("TIME_OF_DAY", number::TIME_OF_DAY, Arity::exactly(1), |call| {
        Ok(Datum::Number(local(call)?.milliseconds_of_day as f64 / 1000.0))
    }),
    TermDef::pure("TIMEZONE", number::TIMEZONE, Arity::exactly(1), |call| {
        Ok(Datum::String(zone_text(time(call, 0)?.zone_minutes).into()))
    }),
    TermDef::pure("YEAR", number::YEAR, Arity::exactly(1), |call| part(call, |local| local.date.year)),
    TermDef::pure("MONTH", number::MONTH, Arity::exactly(1), |call| part(call, |local| local.date.month)),
    TermDef::pure("DAY", number::DAY, Arity::exactly(1), |call| part(call, |local| local.date.day)),
    TermDef::pure("DAY_OF_WEEK", number::DAY_OF_WEEK, Arity::exactly(1), |call| {
        part(call, Local::day_of_week)
    }),
    TermDef::pure("DAY_OF_YEAR", number::DAY_OF_YEAR, Arity::exactly(1), |call| {
        part(call, Local::day_of_year)
    }),
    TermDef::pure("HOURS", number::HOURS, Arity::exactly(1), |call| {
        part(call, |local| local.milliseconds_of_day / 3_600_000)
    }),
    TermDef::pure("MINUTES", number::MINUTES, Arity::exactly(1), |call| {
        part(call, |local| local.milliseconds_of_day / 60_000 % 60)
    }),
    TermDef::pure("SECONDS", number::SECONDS, Arity::exactly(1), |call| {
        Ok(Datum::Number((local(call)?.milliseconds_of_day % 60_000) as f64 / 1000.0))
    }),
    TermDef::pure("TIME", number::TIME, Arity::between(4, 7), construct),
    constant("MONDAY", number::MONDAY, |_| Ok(Datum::Number(1.0))),
    constant("TUESDAY", number::TUESDAY, |_| Ok(Datum::Number(2.0))),
    constant("WEDNESDAY", number::WEDNESDAY, |_| Ok(Datum::Number(3.0))),
    constant("THURSDAY", number::THURSDAY, |_| Ok(Datum::Number(4.0))),
    constant("FRIDAY", number::FRIDAY, |_| Ok(Datum::Number(5.0))),
    constant("SATURDAY", number::SATURDAY, |_| Ok(Datum::Number(6.0))),
    constant("SUNDAY", number::SUNDAY, |_| Ok(Datum::Number(7.0))),
    constant("JANUARY", number::JANUARY, |_| Ok(Datum::Number(1.0))),
    constant("FEBRUARY", number::FEBRUARY, |_| Ok(Datum::Number(2.0))),
    constant("MARCH", number::MARCH, |_| Ok(Datum::Number(3.0))),
    constant("APRIL", number::APRIL, |_| Ok(Datum::Number(4.0))),
    constant("MAY", number::MAY, |_| Ok(Datum::Number(5.0))),
    constant("JUNE", number::JUNE, |_| Ok(Datum::Number(6.0))),
    constant("JULY", number::JULY, |_| Ok(Datum::Number(7.0))),
    constant("AUGUST", number::AUGUST, |_| Ok(Datum::Number(8.0))),
    constant("SEPTEMBER", number::SEPTEMBER, |_| Ok(Datum::Number(9.0))),
    constant("OCTOBER", number::OCTOBER, |_| Ok(Datum::Number(10.0))),
    constant("NOVEMBER", number::NOVEMBER, |_| Ok(Datum::Number(11.0))),
    constant("DECEMBER", number::DECEMBER, |_| Ok(Datum::Number(12.0))),
];

const fn constant(name: &'static str, number: u32, eval: fn(&Call) -> Outcome<Datum>) -> TermDef {
    TermDef::pure(name, number, Arity::exactly(0), eval)
}

/// Years the calendar terms know.
const YEARS: std::ops::RangeInclusive<i64> = 1400..=9999;
const DAY_MILLISECONDS: i64 = 86_400_000;

/// A day of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    pub year: i64,
    /// 1 to 12.
    pub month: i64,
    /// 1 to 31.
    pub day: i64,
}

impl Date {
    /// Days since 1970-01-01. Years begin in March, so that the leap day is a year's last.
    pub fn days(self) -> i64 {
        let year = if self.month <= 2 { self.year - 1 } else { self.year };
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let day_of_year = (153 * ((self.month + 9) % 12) + 2) / 5 + self.day - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }

    pub fn of_days(days: i64) -> Date {
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let march_month = (5 * day_of_year + 2) / 153;
        let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Date { year, month, day: day_of_year - (153 * march_month + 2) / 5 + 1 }
    }

    /// A day that exists. Error texts as RethinkDB's calendar library words them.
    pub fn checked(year: i64, month: i64, day: i64) -> Outcome<Date> {
        if !YEARS.contains(&year) {
            return Err(bad_year());
        }
        if !(1..=12).contains(&month) {
            return Err(Failure::logic("Error in time logic: Month number is out of range 1..12."));
        }
        if !(1..=31).contains(&day) {
            return Err(Failure::logic("Error in time logic: Day of month value is out of range 1..31."));
        }
        let date = Date { year, month, day };
        if Date::of_days(date.days()) != date {
            return Err(Failure::logic("Error in time logic: Day of month is not valid for year."));
        }
        Ok(date)
    }
}

fn bad_year() -> Failure {
    Failure::logic("Error in time logic: Year is out of valid range: 1400..9999.")
}

/// A moment as the clocks of its zone show it.
pub struct Local {
    pub date: Date,
    pub milliseconds_of_day: i64,
}

impl Local {
    pub fn of(time: Time) -> Outcome<Local> {
        // Far outside the calendar; also keeps the integers below from overflowing.
        if time.epoch_seconds.abs() > 1e12 {
            return Err(bad_year());
        }
        let milliseconds =
            (time.epoch_seconds * 1000.0).round() as i64 + i64::from(time.zone_minutes) * 60_000;
        let date = Date::of_days(milliseconds.div_euclid(DAY_MILLISECONDS));
        if !YEARS.contains(&date.year) {
            return Err(bad_year());
        }
        Ok(Local { date, milliseconds_of_day: milliseconds.rem_euclid(DAY_MILLISECONDS) })
    }

    /// Monday is 1.
    fn day_of_week(&self) -> i64 {
        (self.date.days() + 3).rem_euclid(7) + 1
    }

    fn day_of_year(&self) -> i64 {
        self.date.days() - Date { month: 1, day: 1, ..self.date }.days() + 1
    }
}

/// The moment when clocks of a zone show a date and a time of day.
pub fn moment(date: Date, seconds_of_day: f64, zone_minutes: i16) -> Time {
    let seconds = date.days() as f64 * 86_400.0 + seconds_of_day - f64::from(zone_minutes) * 60.0;
    Time { epoch_seconds: round_to_milliseconds(seconds), zone_minutes }
}

fn time(call: &Call, index: usize) -> Outcome<Time> {
    match call.datum(index)? {
        Datum::Time(time) => Ok(time),
        other => {
            let text = format!("Not a TIME pseudotype: `{}`.", json::to_message_string(&other));
            let failure = if other.is_null() { Failure::missing(text) } else { Failure::logic(text) };
            Err(failure.at(&call.arguments[index].place))
        }
    }
}

fn local(call: &Call) -> Outcome<Local> {
    Local::of(time(call, 0)?)
}

fn part(call: &Call, part: fn(&Local) -> i64) -> Outcome<Datum> {
    Ok(Datum::Number(part(&local(call)?) as f64))
}

fn epoch_time(call: &Call) -> Outcome<Datum> {
    let epoch_seconds = round_to_milliseconds(call.number(0)?);
    finite(epoch_seconds)?;
    Ok(Datum::Time(Time { epoch_seconds, zone_minutes: 0 }))
}

fn now(call: &Call) -> Outcome<Datum> {
    let epoch_seconds = round_to_milliseconds(call.limits.now_epoch_seconds);
    Ok(Datum::Time(Time { epoch_seconds, zone_minutes: 0 }))
}

fn zone(call: &Call, index: usize) -> Outcome<i16> {
    let text = call.string(index)?;
    iso8601::parse_zone(&text).map_err(|failure| failure.at(&call.arguments[index].place))
}

fn in_timezone(call: &Call) -> Outcome<Datum> {
    let time = time(call, 0)?;
    Ok(Datum::Time(Time { zone_minutes: zone(call, 1)?, ..time }))
}

fn parse(call: &Call) -> Outcome<Datum> {
    let text = call.string(0)?;
    let default_zone = match call.option("default_timezone") {
        None => None,
        Some(argument) => match call.option_datum("default_timezone")? {
            Some(Datum::String(zone)) => {
                Some(iso8601::parse_zone(&zone).map_err(|failure| failure.at(&argument.place))?)
            }
            Some(other) => return Err(crate::value::wrong_type("STRING", &other).at(&argument.place)),
            None => None,
        },
    };
    let time = iso8601::parse(&text, default_zone).map_err(|failure| failure.at(&call.arguments[0].place))?;
    Ok(Datum::Time(time))
}

fn print(call: &Call) -> Outcome<Datum> {
    Ok(Datum::String(iso8601::print(time(call, 0)?)?.into()))
}

fn date(call: &Call) -> Outcome<Datum> {
    let time = time(call, 0)?;
    Ok(Datum::Time(moment(Local::of(time)?.date, 0.0, time.zone_minutes)))
}

fn during(call: &Call) -> Outcome<Datum> {
    let (time, start, end) = (time(call, 0)?, time(call, 1)?, time(call, 2)?);
    let (moment, start, end) = (time.epoch_seconds, start.epoch_seconds, end.epoch_seconds);
    let after = match bound(call, "left_bound", Bound::Closed)? {
        Bound::Open => start < moment,
        Bound::Closed => start <= moment,
    };
    let before = match bound(call, "right_bound", Bound::Open)? {
        Bound::Open => moment < end,
        Bound::Closed => moment <= end,
    };
    Ok(Datum::Bool(after && before))
}

/// Whether an end of a range belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    Open,
    Closed,
}

/// The option `left_bound` or `right_bound` of a call.
pub fn bound(call: &Call, name: &str, default: Bound) -> Outcome<Bound> {
    let (Some(argument), Some(datum)) = (call.option(name), call.option_datum(name)?) else {
        return Ok(default);
    };
    let failure = match datum {
        Datum::String(text) => match &*text {
            "open" => return Ok(Bound::Open),
            "closed" => return Ok(Bound::Closed),
            other => {
                Failure::logic(format!("Expected `open` or `closed` for optarg `{name}` (got `{other}`)."))
            }
        },
        other => crate::value::wrong_type("STRING", &other),
    };
    Err(failure.at(&argument.place))
}

/// `time(year, month, day, zone)` or `time(year, month, day, hours, minutes, seconds, zone)`.
fn construct(call: &Call) -> Outcome<Datum> {
    let count = call.count();
    if count != 4 && count != 7 {
        return Err(Failure::logic(format!("Got {count} arguments to TIME (expected 4 or 7).")));
    }
    let (year, month, day) = (call.integer(0)?, call.integer(1)?, call.integer(2)?);
    let seconds_of_day = match count {
        4 => 0.0,
        _ => call.integer(3)? as f64 * 3600.0 + call.integer(4)? as f64 * 60.0 + call.number(5)?,
    };
    let zone_minutes = zone(call, count - 1)?;
    Ok(Datum::Time(moment(Date::checked(year, month, day)?, seconds_of_day, zone_minutes)))
}

#[cfg(test)]
mod tests {
    use super::{Date, Local};
    use crate::terms::probe::{answer, answer_with};

    #[track_caller]
    fn check(name: &str, arguments: &str, want: &str) {
        assert_eq!(answer(super::TERMS, name, arguments), want, "{name} {arguments}");
    }

    fn at(seconds: &str, zone: &str) -> String {
        format!(r#"{{"$reql_type$":"TIME","epoch_time":{seconds},"timezone":"{zone}"}}"#)
    }

    #[test]
    fn every_day_of_the_calendar_counts_one_up() {
        let first = Date { year: 1399, month: 12, day: 31 }.days();
        let last = Date { year: 10_000, month: 1, day: 1 }.days();
        let mut previous = Date::of_days(first);
        for days in first + 1..=last {
            let date = Date::of_days(days);
            assert_eq!(date.days(), days);
            let next_day = date.day == previous.day + 1 && date.month == previous.month;
            let next_month =
                date.day == 1 && (date.month == previous.month + 1 || date.year == previous.year + 1);
            assert!(next_day || next_month, "{previous:?} then {date:?}");
            previous = date;
        }
        assert_eq!(Date::of_days(0), Date { year: 1970, month: 1, day: 1 });
    }

    #[test]
    fn a_time_comes_apart_in_its_own_zone() {
        let time = format!("[{}]", at("1375147296.681", "+00:00"));
        let parts = [("YEAR", "2013"), ("MONTH", "7"), ("DAY", "30"), ("HOURS", "1"), ("MINUTES", "21")];
        parts.iter().for_each(|(name, want)| check(name, &time, want));
        check("SECONDS", &time, "36.681");
        check("DAY_OF_WEEK", &time, "2");
        check("DAY_OF_YEAR", &time, "211");
        check("TIME_OF_DAY", &time, "4896.681");
        check("DATE", &time, &at("1375142400", "+00:00"));
        let west = format!("[{}]", at("1375147296.681", "-07:30"));
        check("DAY", &west, "29");
        check("HOURS", &west, "17");
        check("TIMEZONE", &west, r#""-07:30""#);
        check("DATE", &west, &at("1375083000", "-07:30"));
        check("TO_EPOCH_TIME", &west, "1375147296.681");
    }

    #[test]
    fn the_calendar_ends_but_arithmetic_does_not() {
        let want = "! Error in time logic: Year is out of valid range: 1400..9999.";
        check("YEAR", &format!("[{}]", at("253430000000", "+00:00")), want);
        check("YEAR", &format!("[{}]", at("-17990000000", "+00:00")), want);
        check("YEAR", &format!("[{}]", at("-17980000000", "+00:00")), "1400");
        check("YEAR", &format!("[{}]", at("1e300", "+00:00")), want);
        check("TO_EPOCH_TIME", &format!("[{}]", at("253440000000", "+00:00")), "253440000000");
        check("TIME", r#"[1399, 1, 1, "Z"]"#, want);
        check("TIME", r#"[2013, 13, 1, "Z"]"#, "! Error in time logic: Month number is out of range 1..12.");
        check(
            "TIME",
            r#"[2013, 1, 32, "Z"]"#,
            "! Error in time logic: Day of month value is out of range 1..31.",
        );
        check("TIME", r#"[2013, 2, 29, "Z"]"#, "! Error in time logic: Day of month is not valid for year.");
    }

    #[test]
    fn times_are_made_from_their_parts() {
        check("TIME", r#"[2013, 7, 29, 23, 30, 0.1, "-07:00"]"#, &at("1375165800.1", "-07:00"));
        check("TIME", r#"[2013, 7, 29, "-07:00"]"#, &at("1375081200", "-07:00"));
        check("TIME", r#"[2013, 7, 29, 23, 30]"#, "! Got 5 arguments to TIME (expected 4 or 7).");
        check("TIME", r#"[2013, 7, 29, 23]"#, "! Expected type STRING but found NUMBER.");
        check("EPOCH_TIME", "[1.4444445]", &at("1.444", "+00:00"));
        check("EPOCH_TIME", "[-1]", &at("-1", "+00:00"));
        check("NOW", "[]", &at("1375147296.681", "+00:00"));
        check("IN_TIMEZONE", &format!(r#"[{}, "+02"]"#, at("5", "+00:00")), &at("5", "+02:00"));
        check("IN_TIMEZONE", r#"[5, "+02"]"#, "! Not a TIME pseudotype: `5`.");
        check("SUNDAY", "[]", "7");
        check("DECEMBER", "[]", "12");
    }

    #[test]
    fn during_is_closed_to_the_left_and_open_to_the_right() {
        #[track_caller]
        fn check(middle: &str, options: &[(&'static str, &str)], want: &str) {
            let arguments =
                format!("[{}, {}, {}]", at(middle, "+00:00"), at("1", "+00:00"), at("3", "+01:00"));
            assert_eq!(answer_with(super::TERMS, "DURING", &arguments, options), want);
        }
        check("1", &[], "true");
        check("1", &[("left_bound", r#""open""#)], "false");
        check("2", &[], "true");
        check("3", &[], "false");
        check("3", &[("right_bound", r#""closed""#)], "true");
        check(
            "3",
            &[("right_bound", r#""x""#)],
            "! Expected `open` or `closed` for optarg `right_bound` (got `x`).",
        );
    }

    #[test]
    fn milliseconds_survive_decomposition() {
        let time = photondb_proto::datum::Time { epoch_seconds: 2.058, zone_minutes: 0 };
        assert_eq!(Local::of(time).map(|local| local.milliseconds_of_day).ok(), Some(2058));
    }
}
