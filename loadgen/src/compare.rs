//! Two reports side by side.

use std::fmt::Write as _;

use crate::report::{Report, Row, grouped, latency};

/// The figures of operations that both reports have, with ratios: after / before.
pub fn compare(before: &Report, after: &Report) -> String {
    let mut text = format!("before: {}\nafter:  {}\n", settings(before), settings(after));
    if settings(before) != settings(after) {
        text.push_str("the two were not run alike: ratios may say nothing\n");
    }
    let _ = write!(text, "\n{:<34}{:>14}{:>14}{:>10}", "", "before", "after", "ratio");
    for row in &before.operations {
        let Some(other) = after.operations.iter().find(|other| other.name == row.name) else { continue };
        rows(row, other, &mut text);
    }
    let _ = writeln!(
        text,
        "\n{:<34}{:>14}{:>14}",
        "errors",
        grouped(before.error_count() as f64),
        grouped(after.error_count() as f64)
    );
    text
}

fn settings(report: &Report) -> String {
    let pace = report.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{}/s", grouped(rate)));
    format!(
        "{}, {} connections, {} in flight each, {pace}, {} records",
        report.workload, report.connections, report.in_flight, report.records
    )
}

fn rows(before: &Row, after: &Row, text: &mut String) {
    let mut row = |name: &str, show: fn(f64) -> String, before: f64, after: f64| {
        let ratio = if before > 0.0 { format!("{:.2}", after / before) } else { "-".to_owned() };
        let _ = write!(text, "\n{name:<34}{:>14}{:>14}{ratio:>10}", show(before), show(after));
    };
    let name = &before.name;
    row(&format!("{name}, a second"), grouped, before.per_second, after.per_second);
    row(&format!("{name}, mean"), latency, before.mean_us, after.mean_us);
    for (label, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        row(&format!("{name}, {label}"), latency, before.at(quantile), after.at(quantile));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(per_second: f64, p50_us: f64) -> Report {
        let quantiles_us = vec![(0.5, p50_us), (0.9, 2.0), (0.99, 3.0), (0.999, 4.0), (1.0, 5.0)];
        let row = Row {
            name: "read".to_owned(),
            count: 10,
            per_second,
            documents_per_second: None,
            mean_us: 1.0,
            quantiles_us,
        };
        Report {
            workload: "get".to_owned(),
            server: "127.0.0.1:1".to_owned(),
            connections: 1,
            in_flight: 1,
            threads: 1,
            rate: None,
            records: 10,
            io: "io_uring".to_owned(),
            seconds: 1.0,
            operations: vec![row],
            errors: Vec::new(),
            unsent: 0,
            cut_short: None,
            by_second: Vec::new(),
        }
    }

    #[test]
    fn ratios_are_after_by_before() {
        let text = compare(&report(1000.0, 200.0), &report(1500.0, 100.0));
        let line = |start: &str| text.lines().find(|line| line.starts_with(start)).expect(start).to_owned();
        assert!(line("read, a second").ends_with("1,000         1,500      1.50"), "{text}");
        assert!(line("read, p50").ends_with("200 us        100 us      0.50"), "{text}");
        assert!(!text.contains("not run alike"), "{text}");
    }

    #[test]
    fn unlike_runs_are_told() {
        let mut other = report(1.0, 1.0);
        other.connections = 2;
        assert!(compare(&report(1.0, 1.0), &other).contains("not run alike"));
    }
}
