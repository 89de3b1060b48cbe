//! `/_metrics`: the figures of the server in Prometheus' text form (version 0.0.4).
//!
//! Always: one row of [`METRICS`] is one metric: its name, kind, labels, help and where its figure comes from; the text
//! and docs/reference/metrics.md are both made from it. We write the text ourselves because the figures arrive as whole
//! reports from the cores: a registry of live counters would only be a second place for them to be.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use photondb_proto::control::{CoreReport, DurationHistogram, QueryKind};

use super::board::{CoreState, Server, Snapshot};

/// One metric.
pub struct Metric {
    pub name: &'static str,
    pub kind: Kind,
    pub help: &'static str,
    pub figure: Figure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        }
    }
}

/// Where a metric's figures come from, and so its labels.
pub enum Figure {
    /// One figure of the server.
    Server(fn(&Process) -> f64),
    /// The versions, as labels.
    Build,
    /// One per HTTP status class.
    HttpAnswers,
    /// One of each core's last report.
    Core(fn(&CoreReport) -> u64),
    /// One of each core, whether it answers or not.
    State(fn(&CoreState, &Snapshot) -> f64),
    /// One per kind of query.
    Queries,
    /// One per core that sends to it.
    Queues,
    Durations(fn(&CoreReport) -> &DurationHistogram),
}

impl Figure {
    fn labels(&self) -> &'static str {
        match self {
            Figure::Server(_) => "",
            Figure::Build => "version, rethinkdb",
            Figure::HttpAnswers => "status",
            Figure::Core(_) | Figure::State(_) | Figure::Durations(_) => "core",
            Figure::Queries => "core, kind",
            Figure::Queues => "core, from",
        }
    }
}

/// Figures of the process as a whole.
#[derive(Clone, Debug)]
pub struct Process {
    pub server: Server,
    pub uptime: Duration,
    pub resident_bytes: u64,
    pub open_files: u64,
    pub cpu: Duration,
    /// HTTP answers by hundreds of their status, from 100.
    pub http_answers: [u64; 5],
}

const fn core(name: &'static str, kind: Kind, help: &'static str, figure: fn(&CoreReport) -> u64) -> Metric {
    Metric { name, kind, help, figure: Figure::Core(figure) }
}

const fn server(name: &'static str, kind: Kind, help: &'static str, figure: fn(&Process) -> f64) -> Metric {
    Metric { name, kind, help, figure: Figure::Server(figure) }
}

/// Every metric, in the order of the page.
pub static METRICS: &[Metric] = &[
    Metric {
        name: "rethinkdb_build_info",
        kind: Kind::Gauge,
        help: "Always 1; the labels say which version runs.",
        figure: Figure::Build,
    },
    server(
        "rethinkdb_start_time_seconds",
        Kind::Gauge,
        "When the server started, in seconds since 1970.",
        |process| {
            let since = process.server.started_at.duration_since(SystemTime::UNIX_EPOCH);
            since.unwrap_or_default().as_secs_f64()
        },
    ),
    server("rethinkdb_uptime_seconds", Kind::Gauge, "How long the server has run.", |process| {
        process.uptime.as_secs_f64()
    }),
    server("rethinkdb_memory_resident_bytes", Kind::Gauge, "Memory of the process.", |process| {
        process.resident_bytes as f64
    }),
    server("rethinkdb_cpu_seconds_total", Kind::Counter, "CPU time of the process.", |process| {
        process.cpu.as_secs_f64()
    }),
    server("rethinkdb_open_files", Kind::Gauge, "Open file descriptors, sockets included.", |process| {
        process.open_files as f64
    }),
    server(
        "rethinkdb_cache_limit_bytes",
        Kind::Gauge,
        "What --cache-size allows, over all cores.",
        |process| process.server.cache_bytes as f64,
    ),
    server(
        "rethinkdb_query_memory_limit_bytes",
        Kind::Gauge,
        "What --query-memory allows, over all cores.",
        |process| process.server.query_memory_bytes as f64,
    ),
    Metric {
        name: "rethinkdb_http_answers_total",
        kind: Kind::Counter,
        help: "HTTP requests answered, by hundreds of their status.",
        figure: Figure::HttpAnswers,
    },
    Metric {
        name: "rethinkdb_core_responding",
        kind: Kind::Gauge,
        help: "1 while the core answers within a second, 0 when it is stuck or has ended.",
        figure: Figure::State(|core, snapshot| f64::from(u8::from(core.responds(snapshot.now)))),
    },
    Metric {
        name: "rethinkdb_core_silent_seconds",
        kind: Kind::Gauge,
        help: "How long the core has owed an answer.",
        figure: Figure::State(|core, snapshot| core.silence(snapshot.now).as_secs_f64()),
    },
    Metric {
        name: "rethinkdb_queries_total",
        kind: Kind::Counter,
        help: "Queries finished, by kind.",
        figure: Figure::Queries,
    },
    core("rethinkdb_query_errors_total", Kind::Counter, "Queries that ended in an error.", |report| {
        report.query_errors
    }),
    Metric {
        name: "rethinkdb_query_duration_seconds",
        kind: Kind::Histogram,
        help: "From a query's last byte received to its answer written.",
        figure: Figure::Durations(|report| &report.query_duration),
    },
    core("rethinkdb_queries_in_flight", Kind::Gauge, "Queries being worked on.", |report| {
        report.queries_in_flight
    }),
    core("rethinkdb_cursors_open", Kind::Gauge, "Cursors and feeds that clients hold open.", |report| {
        report.cursors_open
    }),
    core("rethinkdb_feeds_open", Kind::Gauge, "Changefeeds that clients listen to.", |report| {
        report.feeds_open
    }),
    core(
        "rethinkdb_feed_elements_waiting",
        Kind::Gauge,
        "Elements of feeds that wait for their clients.",
        |report| report.feed_elements_waiting,
    ),
    core(
        "rethinkdb_feed_bytes_waiting",
        Kind::Gauge,
        "Memory of the changes that wait for clients of feeds; those that several wait for count once.",
        |report| report.feed_bytes_waiting,
    ),
    core(
        "rethinkdb_feed_elements_delivered_total",
        Kind::Counter,
        "Elements of feeds that clients were sent.",
        |report| report.feed_elements_delivered,
    ),
    core(
        "rethinkdb_feed_elements_skipped_total",
        Kind::Counter,
        "Elements of feeds that were left out, and told so, because their clients were too slow.",
        |report| report.feed_elements_skipped,
    ),
    core("rethinkdb_client_connections", Kind::Gauge, "Driver connections.", |report| {
        report.connections_open
    }),
    core("rethinkdb_client_connections_total", Kind::Counter, "Driver connections accepted.", |report| {
        report.connections_total
    }),
    core("rethinkdb_received_bytes_total", Kind::Counter, "Bytes received from drivers.", |report| {
        report.bytes_received
    }),
    core("rethinkdb_sent_bytes_total", Kind::Counter, "Bytes sent to drivers.", |report| report.bytes_sent),
    core("rethinkdb_cache_hits_total", Kind::Counter, "Reads that the cache answered.", |report| {
        report.cache_hits
    }),
    core("rethinkdb_cache_misses_total", Kind::Counter, "Reads that went to disk.", |report| {
        report.cache_misses
    }),
    core("rethinkdb_cache_bytes", Kind::Gauge, "Memory that the cache holds.", |report| report.cache_bytes),
    core(
        "rethinkdb_dirty_bytes",
        Kind::Gauge,
        "Changed data in memory that only the log has on disk.",
        |report| report.dirty_bytes,
    ),
    core("rethinkdb_disk_bytes", Kind::Gauge, "Space that the stores take on disk.", |report| {
        report.disk_bytes
    }),
    core("rethinkdb_change_log_bytes", Kind::Gauge, "Space that the change logs take on disk.", |report| {
        report.change_log_bytes
    }),
    core("rethinkdb_change_log_segments", Kind::Gauge, "Segments of the change logs.", |report| {
        report.change_log_segments
    }),
    core(
        "rethinkdb_change_log_oldest_timestamp_seconds",
        Kind::Gauge,
        "When the oldest segment of a change log was begun, in seconds since 1970; 0 without any.",
        |report| report.change_log_since_ms / 1000,
    ),
    core("rethinkdb_wal_flushes_total", Kind::Counter, "Flushes of the write-ahead log.", |report| {
        report.wal_flushes
    }),
    core("rethinkdb_wal_bytes_total", Kind::Counter, "Bytes written to the write-ahead log.", |report| {
        report.wal_bytes
    }),
    Metric {
        name: "rethinkdb_wal_flush_duration_seconds",
        kind: Kind::Histogram,
        help: "How long a flush of the write-ahead log took.",
        figure: Figure::Durations(|report| &report.wal_flush_duration),
    },
    Metric {
        name: "rethinkdb_foreground_wait_seconds",
        kind: Kind::Histogram,
        help: "How long a task of the core that clients wait for waits for its turn, sampled ten times a second.",
        figure: Figure::Durations(|report| &report.foreground_wait),
    },
    Metric {
        name: "rethinkdb_background_wait_seconds",
        kind: Kind::Histogram,
        help: "How long checkpoints, constructions of indexes and other background work rested after each slice of the core's time.",
        figure: Figure::Durations(|report| &report.background_wait),
    },
    core("rethinkdb_checkpoints_total", Kind::Counter, "Checkpoints finished.", |report| report.checkpoints),
    Metric {
        name: "rethinkdb_queue_depth",
        kind: Kind::Gauge,
        help: "Requests waiting in the ring towards the core, by the core that sent them.",
        figure: Figure::Queues,
    },
    core("rethinkdb_shards", Kind::Gauge, "Shards on the core.", |report| report.shards),
    core("rethinkdb_stores", Kind::Gauge, "Stores that the core has open.", |report| report.stores),
    core("rethinkdb_store_read_only", Kind::Gauge, "1 when a store of the core takes no writes.", |report| {
        u64::from(report.read_only.is_some())
    }),
    core(
        "rethinkdb_disk_full",
        Kind::Gauge,
        "1 when a store of the core refuses writes for want of room.",
        |report| u64::from(report.disk_full.is_some()),
    ),
    core("rethinkdb_catalog_epoch", Kind::Gauge, "Version of the catalog that the core knows.", |report| {
        report.catalog_epoch
    }),
];

/// The page that Prometheus reads.
pub fn render(snapshot: &Snapshot, process: &Process) -> String {
    let mut page = String::with_capacity(16 << 10);
    for metric in METRICS {
        writeln!(page, "# HELP {} {}", metric.name, metric.help).expect("a string");
        writeln!(page, "# TYPE {} {}", metric.name, metric.kind.name()).expect("a string");
        write_figures(&mut page, metric, snapshot, process).expect("a string");
    }
    page
}

fn write_figures(
    page: &mut String,
    metric: &Metric,
    snapshot: &Snapshot,
    process: &Process,
) -> std::fmt::Result {
    let name = metric.name;
    let reports = || snapshot.cores.iter().filter_map(|core| Some((core.number, core.report.as_ref()?)));
    match &metric.figure {
        Figure::Server(figure) => writeln!(page, "{name} {}", figure(process))?,
        Figure::Build => {
            let (version, rethinkdb) = (process.server.version, crate::RETHINKDB_VERSION);
            writeln!(page, "{name}{{version=\"{version}\",rethinkdb=\"{rethinkdb}\"}} 1")?;
        }
        Figure::HttpAnswers => {
            for (index, count) in process.http_answers.iter().enumerate() {
                writeln!(page, "{name}{{status=\"{}xx\"}} {count}", index + 1)?;
            }
        }
        Figure::Core(figure) => {
            for (core, report) in reports() {
                writeln!(page, "{name}{{core=\"{core}\"}} {}", figure(report))?;
            }
        }
        Figure::State(figure) => {
            for core in &snapshot.cores {
                writeln!(page, "{name}{{core=\"{}\"}} {}", core.number, figure(core, snapshot))?;
            }
        }
        Figure::Queries => {
            for (core, report) in reports() {
                for (kind, count) in QueryKind::ALL.iter().zip(report.queries) {
                    writeln!(page, "{name}{{core=\"{core}\",kind=\"{}\"}} {count}", kind.name())?;
                }
            }
        }
        Figure::Queues => {
            for (core, report) in reports() {
                for (from, depth) in report.queue_depths.iter().enumerate() {
                    writeln!(page, "{name}{{core=\"{core}\",from=\"{from}\"}} {depth}")?;
                }
            }
        }
        Figure::Durations(figure) => {
            for (core, report) in reports() {
                write_durations(page, name, core, figure(report))?;
            }
        }
    }
    Ok(())
}

fn write_durations(
    page: &mut String,
    name: &str,
    core: u16,
    durations: &DurationHistogram,
) -> std::fmt::Result {
    let mut below = 0;
    let (_, bounded) = durations.buckets.split_last().expect("a histogram has buckets");
    for (index, count) in bounded.iter().enumerate() {
        below += count;
        let bound_seconds = (1u64 << index) as f64 / 1e6;
        writeln!(page, "{name}_bucket{{core=\"{core}\",le=\"{bound_seconds}\"}} {below}")?;
    }
    let count = durations.count();
    writeln!(page, "{name}_bucket{{core=\"{core}\",le=\"+Inf\"}} {count}")?;
    writeln!(page, "{name}_sum{{core=\"{core}\"}} {}", durations.sum_us as f64 / 1e6)?;
    writeln!(page, "{name}_count{{core=\"{core}\"}} {count}")
}

/// docs/reference/metrics.md.
pub fn metrics_page() -> String {
    let mut page = String::from(
        "# Metrics\n\n<!-- Made from src/control/metrics.rs by `photondb reference metrics`; a test keeps it fresh. -->\n\n\
         `GET /_metrics` on the HTTP port answers these in Prometheus' text form. Figures of a core come from its last\n\
         report, which is fresh unless the core is stuck; then `rethinkdb_core_responding` is 0 and the rest stands still.\n\n\
         | metric | kind | labels | meaning |\n|---|---|---|---|\n",
    );
    for metric in METRICS {
        let (kind, labels) = (metric.kind.name(), metric.figure.labels());
        writeln!(page, "| `{}` | {kind} | {labels} | {} |", metric.name, metric.help).expect("a string");
    }
    page
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::board::{Phase, tests};
    use super::*;

    fn page() -> String {
        let mut report = CoreReport { core: 1, queries: [5, 4, 3, 2], shards: 16, ..CoreReport::default() };
        report.queue_depths = vec![0, 9];
        for duration_us in [0, 1, 3, u64::MAX >> 1] {
            report.query_duration.record(duration_us);
        }
        report.query_duration.sum_us = 1_500_000;
        let core = CoreState { number: 1, asked: None, report: Some(report), gone: false };
        let silent = CoreState { number: 2, asked: None, report: None, gone: true };
        let snapshot = Snapshot { phase: Phase::Serving, now: Instant::now(), cores: vec![core, silent] };
        let process = Process {
            server: tests::server(),
            uptime: Duration::from_millis(1500),
            resident_bytes: 4096,
            open_files: 7,
            cpu: Duration::ZERO,
            http_answers: [0, 3, 0, 1, 0],
        };
        render(&snapshot, &process)
    }

    #[track_caller]
    fn check_line(line: &str) {
        assert!(page().lines().any(|found| found == line), "{line} is missing from\n{}", page());
    }

    #[test]
    fn figures_carry_their_labels() {
        check_line("# TYPE rethinkdb_queries_total counter");
        check_line("rethinkdb_queries_total{core=\"1\",kind=\"read\"} 5");
        check_line("rethinkdb_queries_total{core=\"1\",kind=\"pure\"} 2");
        check_line("rethinkdb_shards{core=\"1\"} 16");
        check_line("rethinkdb_queue_depth{core=\"1\",from=\"1\"} 9");
        check_line("rethinkdb_core_responding{core=\"1\"} 1");
        check_line("rethinkdb_core_responding{core=\"2\"} 0");
        check_line("rethinkdb_build_info{version=\"1.2.3\",rethinkdb=\"2.4.4\"} 1");
        check_line("rethinkdb_http_answers_total{status=\"4xx\"} 1");
        check_line("rethinkdb_uptime_seconds 1.5");
    }

    #[test]
    fn histogram_buckets_add_up() {
        check_line("rethinkdb_query_duration_seconds_bucket{core=\"1\",le=\"0.000001\"} 1");
        check_line("rethinkdb_query_duration_seconds_bucket{core=\"1\",le=\"0.000002\"} 2");
        check_line("rethinkdb_query_duration_seconds_bucket{core=\"1\",le=\"0.000004\"} 3");
        check_line("rethinkdb_query_duration_seconds_bucket{core=\"1\",le=\"16.777216\"} 3");
        check_line("rethinkdb_query_duration_seconds_bucket{core=\"1\",le=\"+Inf\"} 4");
        check_line("rethinkdb_query_duration_seconds_count{core=\"1\"} 4");
        check_line("rethinkdb_query_duration_seconds_sum{core=\"1\"} 1.5");
    }

    #[test]
    fn names_are_sound_and_single() {
        let mut names: Vec<&str> = METRICS.iter().map(|metric| metric.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), METRICS.len());
        for metric in METRICS {
            assert!(metric.name.starts_with("rethinkdb_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            assert!(!metric.help.contains(['\n', '\\', '|']), "{}", metric.name);
        }
    }

    #[test]
    fn the_metrics_page_is_fresh() {
        crate::reference::check_fresh("metrics", &metrics_page());
    }
}
