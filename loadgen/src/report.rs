//! What a run says at its end: a table for people, JSON for programs, HdrHistogram's percentiles for its tools.

use std::fmt::Write as _;
use std::io::{self, Write};

use serde::{Deserialize, Serialize};

use crate::drive::Outcome;
use crate::plan::{Pace, Plan};
use crate::record::{Latencies, Second, latencies};

/// Quantiles of every operation in a report; a plot draws a line through them.
const QUANTILES: &[f64] = &[
    0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995,
    0.998, 0.999, 0.9995, 0.9999, 0.99999, 1.0,
];
/// The name of the row in which all operations are added up.
pub const ALL: &str = "all";

/// A run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub workload: String,
    pub server: String,
    pub connections: u64,
    pub in_flight: u64,
    pub threads: u64,
    /// Operations a second of an open loop; absent for a closed one.
    pub rate: Option<f64>,
    pub records: u64,
    pub io: String,
    pub seconds: f64,
    pub operations: Vec<Row>,
    pub errors: Vec<Error>,
    /// Requests of an open loop that were due and not sent by the end.
    pub unsent: u64,
    pub cut_short: Option<String>,
    pub by_second: Vec<Second>,
}

/// One kind of operation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub name: String,
    pub count: u64,
    pub per_second: f64,
    /// Where operations write several.
    pub documents_per_second: Option<f64>,
    pub mean_us: f64,
    /// Pairs of quantile and microseconds.
    pub quantiles_us: Vec<(f64, f64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Error {
    pub kind: String,
    pub count: u64,
    /// The words of the first.
    pub message: String,
}

impl Row {
    /// Of `latencies`, `unsent` are of requests that were never sent: they count for the percentiles and not for the rate.
    fn new(name: &str, documents: u64, latencies: &Latencies, unsent: u64, seconds: f64) -> Row {
        let us = |nanoseconds: u64| nanoseconds as f64 / 1e3;
        let count = latencies.len().saturating_sub(unsent);
        let per_second = if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let quantile = |quantile: &f64| (*quantile, us(latencies.value_at_quantile(*quantile)));
        Row {
            name: name.to_owned(),
            count,
            per_second,
            documents_per_second: (documents > 1).then_some(per_second * documents as f64),
            mean_us: latencies.mean() / 1e3,
            quantiles_us: QUANTILES.iter().map(quantile).collect(),
        }
    }

    /// Microseconds at a quantile that every report has.
    pub fn at(&self, quantile: f64) -> f64 {
        let found = self.quantiles_us.iter().find(|(known, _)| (known - quantile).abs() < 1e-9);
        found.map_or(0.0, |(_, us)| *us)
    }
}

impl Report {
    pub fn new(workload: &str, plan: &Plan, outcome: &Outcome) -> Report {
        let totals = &outcome.totals;
        let unsent_operation = plan.first_asked();
        let rows = plan.operations.iter().zip(&totals.latencies).enumerate();
        let rows = rows.map(|(index, (operation, latencies))| {
            let unsent = if index == unsent_operation { totals.unsent } else { 0 };
            Row::new(&operation.name, operation.documents(), latencies, unsent, outcome.seconds)
        });
        let mut operations: Vec<Row> = rows.collect();
        // Deliveries and the writes that cause them do not add up.
        if operations.len() > 1 && unsent_operation == 0 {
            operations.push(Row::new(ALL, 1, &all(outcome), totals.unsent, outcome.seconds));
        }
        let errors = totals.failures.iter().map(|(kind, failed)| Error {
            kind: (*kind).to_owned(),
            count: failed.count,
            message: failed.message.clone(),
        });
        Report {
            workload: workload.to_owned(),
            server: plan.address.to_string(),
            connections: plan.connections as u64,
            in_flight: plan.in_flight.into(),
            threads: plan.threads as u64,
            rate: match plan.pace {
                Pace::Closed => None,
                Pace::Open(rate) => Some(rate),
            },
            records: plan.records,
            io: outcome.io.to_owned(),
            seconds: outcome.seconds,
            operations,
            errors: errors.collect(),
            unsent: totals.unsent,
            cut_short: outcome.cut_short.clone(),
            by_second: totals.seconds.clone(),
        }
    }

    pub fn error_count(&self) -> u64 {
        self.errors.iter().map(|error| error.count).sum()
    }

    /// For people.
    pub fn table(&self) -> String {
        let loop_kind = match self.rate {
            Some(rate) => format!("open loop at {}/s", grouped(rate)),
            None => "closed loop".to_owned(),
        };
        let mut text = format!(
            "{} on {}: {} connections, {} in flight each, {loop_kind}, {:.1} s, {}, {} thread{}\n\n",
            self.workload,
            self.server,
            self.connections,
            self.in_flight,
            self.seconds,
            self.io,
            self.threads,
            if self.threads == 1 { "" } else { "s" },
        );
        let columns = ["operations", "a second", "mean", "p50", "p90", "p99", "p99.9", "max"];
        let _ = write!(text, "{:<18}", "");
        columns.iter().for_each(|column| {
            let _ = write!(text, "{column:>12}");
        });
        for row in &self.operations {
            let _ = write!(
                text,
                "\n{:<18}{:>12}{:>12}",
                row.name,
                grouped(row.count as f64),
                grouped(row.per_second)
            );
            for us in [row.mean_us, row.at(0.5), row.at(0.9), row.at(0.99), row.at(0.999), row.at(1.0)] {
                let _ = write!(text, "{:>12}", latency(us));
            }
            if let Some(documents) = row.documents_per_second {
                let _ = write!(text, "\n{:<18}{:>12}{:>12}", "  documents", "", grouped(documents));
            }
        }
        text.push('\n');
        if self.unsent > 0 {
            let _ = writeln!(
                text,
                "\n{} requests were due and not sent by the end: this rate is not kept. The percentiles count their waiting.",
                grouped(self.unsent as f64)
            );
        }
        if let Some(reason) = &self.cut_short {
            let _ = writeln!(text, "\nended early: {reason}");
        }
        if self.errors.is_empty() {
            text.push_str("\nno errors\n");
        } else {
            let _ = writeln!(text, "\n{} errors:", grouped(self.error_count() as f64));
            for error in &self.errors {
                let _ =
                    writeln!(text, "{:>12}  {}: {}", grouped(error.count as f64), error.kind, error.message);
            }
        }
        text
    }
}

/// All operations together.
fn all(outcome: &Outcome) -> Latencies {
    let mut all = latencies();
    for part in &outcome.totals.latencies {
        all.add(part).expect("all have the same bounds");
    }
    all
}

/// The percentiles of all operations in the format of HdrHistogram's own printer, in milliseconds.
///
/// # Errors
/// The writer's.
pub fn write_hdr(outcome: &Outcome, out: &mut impl Write) -> io::Result<()> {
    const TICKS_PER_HALF_DISTANCE: u32 = 5;
    let all = all(outcome);
    let ms = |nanoseconds: f64| nanoseconds / 1e6;
    writeln!(out, "{:>12} {:>14} {:>10} {:>14}\n", "Value", "Percentile", "TotalCount", "1/(1-Percentile)")?;
    let mut total = 0;
    for step in all.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        total += step.count_since_last_iteration();
        let quantile = step.quantile_iterated_to();
        let value = ms(step.value_iterated_to() as f64);
        if quantile < 1.0 {
            let inverse = 1.0 / (1.0 - quantile);
            writeln!(out, "{value:>12.3} {quantile:>14.12} {total:>10} {inverse:>14.2}")?;
        } else {
            writeln!(out, "{value:>12.3} {quantile:>14.12} {total:>10}")?;
        }
    }
    let (mean, deviation) = (ms(all.mean()), ms(all.stdev()));
    writeln!(out, "#[Mean    = {mean:>12.3}, StdDeviation   = {deviation:>12.3}]")?;
    writeln!(out, "#[Max     = {:>12.3}, Total count    = {:>12}]", ms(all.max() as f64), all.len())?;
    writeln!(out, "#[Buckets = {:>12}, SubBuckets     = {:>12}]", all.buckets(), all.distinct_values())
}

/// `12,345`, or with digits behind the point where that is little.
pub fn grouped(number: f64) -> String {
    if number < 100.0 && number.fract() > 0.0 {
        return format!("{number:.2}");
    }
    let digits = format!("{number:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Microseconds with the unit that suits them.
pub fn latency(us: f64) -> String {
    match us {
        us if us < 1_000.0 => format!("{us:.0} us"),
        us if us < 100_000.0 => format!("{:.2} ms", us / 1e3),
        us if us < 1_000_000.0 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.2} s", us / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_readable() {
        for (number, want) in
            [(0.0, "0"), (0.58, "0.58"), (999.4, "999"), (1000.0, "1,000"), (1_234_567.0, "1,234,567")]
        {
            assert_eq!(grouped(number), want);
        }
        for (us, want) in
            [(12.4, "12 us"), (1234.0, "1.23 ms"), (123_456.0, "123 ms"), (2_500_000.0, "2.50 s")]
        {
            assert_eq!(latency(us), want);
        }
    }
}
