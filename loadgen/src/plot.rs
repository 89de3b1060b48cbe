//! A report as a picture: latency by percentile, on the scale of HdrHistogram's plots (each further nine as wide as the one
//! before), and throughput with p99 over time. SVG written by hand, since it is some lines and some words.

use std::fmt::Write as _;

use crate::report::{ALL, Report, grouped, latency};

const WIDTH: f64 = 900.0;
const CHART_HEIGHT: f64 = 260.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 90.0;
/// Between the charts, for titles and the words of axes.
const GAP: f64 = 80.0;
const PLOT_WIDTH: f64 = WIDTH - LEFT - RIGHT;
const HEIGHT: f64 = 2.0 * CHART_HEIGHT + 3.0 * GAP;
const COLOURS: &[&str] =
    &["#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#8c564b", "#17becf", "#7f7f7f"];
const RATE_COLOUR: &str = "#1f77b4";
const LATENCY_COLOUR: &str = "#d62728";
/// Lines across a chart.
const STEPS: u32 = 5;

/// Draws a report.
pub fn svg(report: &Report) -> String {
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    let title = format!(
        "{} on {}: {} connections, {} in flight each, {}",
        report.workload,
        report.server,
        report.connections,
        report.in_flight,
        report.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{}/s", grouped(rate)))
    );
    text(&mut svg, LEFT, 24.0, "start", "black", &title);
    percentiles(&mut svg, report, GAP);
    over_time(&mut svg, report, 2.0 * GAP + CHART_HEIGHT);
    svg.push_str("</svg>\n");
    svg
}

/// Latency (logarithmic) by the number of nines.
fn percentiles(svg: &mut String, report: &Report, top: f64) {
    const NINES_MAX: f64 = 5.0;
    frame(svg, top, "latency by percentile");
    let all = report.operations.iter().flat_map(|row| row.quantiles_us.iter().map(|(_, us)| us.max(1.0)));
    let (low, high) =
        all.fold((f64::INFINITY, 1.0), |(low, high): (f64, f64), us| (low.min(us), high.max(us)));
    let (low, high) =
        (low.min(high).log10().floor(), high.log10().ceil().max(low.min(high).log10().floor() + 1.0));
    let y = |us: f64| top + CHART_HEIGHT * (1.0 - (us.max(1.0).log10() - low) / (high - low));
    let x = |quantile: f64| LEFT + PLOT_WIDTH * (-(1.0 - quantile).log10()).min(NINES_MAX) / NINES_MAX;
    for power in low as i32..=high as i32 {
        let us = 10_f64.powi(power);
        line(svg, (LEFT, y(us)), (LEFT + PLOT_WIDTH, y(us)));
        text(svg, LEFT - 8.0, y(us) + 4.0, "end", "black", &latency(us));
    }
    for (quantile, label) in
        [(0.0, "0%"), (0.9, "90%"), (0.99, "99%"), (0.999, "99.9%"), (0.9999, "99.99%"), (0.99999, "99.999%")]
    {
        line(svg, (x(quantile), top), (x(quantile), top + CHART_HEIGHT));
        text(svg, x(quantile), top + CHART_HEIGHT + 18.0, "middle", "black", label);
    }
    let rows = report.operations.iter().filter(|row| row.name != ALL && row.count > 0);
    for (index, row) in rows.enumerate() {
        let colour = COLOURS[index % COLOURS.len()];
        let points = row.quantiles_us.iter().map(|(quantile, us)| (x(*quantile), y(*us)));
        path(svg, points, colour);
        let place = top + 18.0 + 16.0 * index as f64;
        text(svg, LEFT + 12.0, place, "start", colour, &row.name);
    }
}

/// Operations a second, and p99, by second.
fn over_time(svg: &mut String, report: &Report, top: f64) {
    frame(svg, top, "over time: operations a second (left), p99 (right)");
    let seconds = report.by_second.as_slice();
    let rate_max = round_up(seconds.iter().map(|second| second.count as f64).fold(1.0, f64::max));
    let latency_max = round_up(seconds.iter().map(|second| second.p99_us).fold(1.0, f64::max));
    let last = seconds.last().map_or(1.0, |second| second.second as f64).max(1.0);
    let x = |second: u64| LEFT + PLOT_WIDTH * second as f64 / last;
    let y = |share: f64| top + CHART_HEIGHT * (1.0 - share);
    for step in 0..=STEPS {
        let share = f64::from(step) / f64::from(STEPS);
        line(svg, (LEFT, y(share)), (LEFT + PLOT_WIDTH, y(share)));
        text(svg, LEFT - 8.0, y(share) + 4.0, "end", RATE_COLOUR, &grouped(rate_max * share));
        let right = LEFT + PLOT_WIDTH + 8.0;
        text(svg, right, y(share) + 4.0, "start", LATENCY_COLOUR, &latency(latency_max * share));
        let second = format!("{:.0} s", last * share);
        text(svg, LEFT + PLOT_WIDTH * share, top + CHART_HEIGHT + 18.0, "middle", "black", &second);
    }
    let rates = seconds.iter().map(|second| (x(second.second), y(second.count as f64 / rate_max)));
    path(svg, rates, RATE_COLOUR);
    path(
        svg,
        seconds.iter().map(|second| (x(second.second), y(second.p99_us / latency_max))),
        LATENCY_COLOUR,
    );
}

/// The next number above that begins with 1, 2 or 5.
fn round_up(number: f64) -> f64 {
    let power = 10_f64.powf(number.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    steps.iter().map(|step| step * power).find(|rounded| *rounded >= number).unwrap_or(number)
}

fn frame(svg: &mut String, top: f64, title: &str) {
    text(svg, LEFT, top - 10.0, "start", "black", title);
    let _ = writeln!(
        svg,
        "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{PLOT_WIDTH}\" height=\"{CHART_HEIGHT}\" fill=\"none\" stroke=\"black\"/>"
    );
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64)) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn path(svg: &mut String, points: impl Iterator<Item = (f64, f64)>, colour: &str) {
    svg.push_str("<polyline fill=\"none\" stroke-width=\"1.5\" stroke=\"");
    svg.push_str(colour);
    svg.push_str("\" points=\"");
    for (x, y) in points {
        let _ = write!(svg, "{x:.1},{y:.1} ");
    }
    svg.push_str("\"/>\n");
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, colour: &str, words: &str) {
    let escaped = words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"{colour}\">{escaped}</text>"
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Second;
    use crate::report::Row;

    fn report(rows: &[&str], seconds: u64) -> Report {
        let second = |second| Second {
            second,
            count: 1000 + second,
            errors: 0,
            p50_us: 10.0,
            p99_us: 100.0 * (second + 1) as f64,
            max_us: 1000.0,
        };
        let row = |name: &&str| Row {
            name: (*name).to_owned(),
            count: 100,
            per_second: 10.0,
            documents_per_second: None,
            mean_us: 50.0,
            quantiles_us: vec![(0.0, 0.0), (0.5, 40.0), (0.99, 900.0), (1.0, 20_000.0)],
        };
        Report {
            workload: "a<b & c".to_owned(),
            server: "127.0.0.1:28015".to_owned(),
            connections: 1,
            in_flight: 1,
            threads: 1,
            rate: Some(100.0),
            records: 10,
            io: "io_uring".to_owned(),
            seconds: seconds as f64,
            operations: rows.iter().map(row).collect(),
            errors: Vec::new(),
            unsent: 0,
            cut_short: None,
            by_second: (0..seconds).map(second).collect(),
        }
    }

    /// Whether every tag that opens closes again, in the right order, and text holds no bare mark.
    #[track_caller]
    fn check_well_formed(svg: &str) {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = svg;
        while let Some(start) = rest.find('<') {
            assert!(!rest[..start].contains('>'), "a bare > in {:?}", &rest[..start]);
            let after_ampersands = rest[..start].split('&').skip(1);
            for entity in after_ampersands {
                assert!(["amp;", "lt;", "gt;"].iter().any(|known| entity.starts_with(known)), "&{entity}");
            }
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes of {tag}");
            assert!(!tag.contains('<') && !tag.contains("NaN") && !tag.contains("inf"), "{tag}");
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name));
            } else if !tag.ends_with('/') {
                open.push(tag.split(' ').next().expect("a name"));
            }
            rest = &rest[end + 1..];
        }
        assert!(open.is_empty() && rest.trim().is_empty(), "{open:?} {rest:?}");
    }

    #[test]
    fn the_picture_is_well_formed() {
        for (rows, seconds) in
            [(&["read", "up<date"][..], 10), (&["read"], 1), (&["read"], 0), (&[], 0), (&["a"; 20], 3000)]
        {
            check_well_formed(&svg(&report(rows, seconds)));
        }
    }

    #[test]
    fn every_operation_and_second_is_in_the_picture() {
        let svg = svg(&report(&["read", "update"], 4));
        assert_eq!(svg.matches("<polyline").count(), 4);
        assert!(svg.contains(">read</text>") && svg.contains(">update</text>"), "{svg}");
        assert!(svg.contains("a&lt;b &amp; c"), "{svg}");
    }

    #[test]
    fn scales_end_at_round_numbers() {
        for (number, want) in [(1.0, 1.0), (1.2, 2.0), (30.0, 50.0), (96_775.0, 100_000.0)] {
            assert!((round_up(number) - want).abs() < 1e-6, "{number}");
        }
    }
}
