//! `logs`: the newest lines of the server's log.

use photondb_proto::datum::{Datum, Time};

use super::{RowIter, View};
use crate::LogLine;
use crate::catalog::row::server;

pub fn logs<'a>(view: &'a View, _: Option<&Datum>) -> RowIter<'a> {
    Box::new(view.facts.log.iter().map(|line| {
        let id = vec![Datum::string(&stamp(line)), Datum::string(&view.catalog.server_id())];
        let epoch_seconds = (line.unix_ns / 1_000_000) as f64 / 1000.0;
        Datum::object([
            ("id", Datum::array(id)),
            ("level", Datum::string(line.level)),
            ("message", Datum::string(&line.message)),
            ("server", server(&view.catalog, view.identifiers)),
            ("timestamp", Datum::Time(Time { epoch_seconds, zone_minutes: 0 })),
            ("uptime", Datum::Number(line.uptime_ns as f64 / 1e9)),
        ])
    }))
}

/// `2026-01-09T02:11:28.190829936`: sorts as the lines came.
fn stamp(line: &LogLine) -> String {
    let (seconds, fraction) = (line.unix_ns / 1_000_000_000, line.unix_ns % 1_000_000_000);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days as i64);
    let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{fraction:09}")
}

/// The date of a day since 1970-01-01: eras of 400 years that begin in March, so that leap days come last.
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_are_dates() {
        for (seconds, want) in [
            (0, "1970-01-01T00:00:00.000000007"),
            (951_782_400, "2000-02-29T00:00:00.000000007"),
            (1_767_225_599, "2025-12-31T23:59:59.000000007"),
        ] {
            let line = LogLine {
                unix_ns: seconds * 1_000_000_000 + 7,
                uptime_ns: 0,
                level: "info",
                message: String::new(),
            };
            assert_eq!(stamp(&line), want);
        }
    }
}
