//! Measures every row of the table of floors in one run on one machine: PhotonDB, Redis where it is installed, and any other
//! ReQL server by its address. Servers on CPU 0, clients on CPU 1. `bench/compare` builds and starts it.

use std::io::{Error, Result};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use photondb_bench::floors::{ROWS, Redis, Row, Unit};
use photondb_bench::load::Loadgen;
use photondb_bench::resp::{self, Resp};
use photondb_bench::server::{Server, emptied, local, on_server_cpu, pin_to_client_cpu};
use photondb_loadgen::choose::Distribution;
use photondb_loadgen::drive;
use photondb_loadgen::operation::{Operation, Records};
use photondb_loadgen::plan::{Io, Length, Pace, Plan, Style};
use photondb_loadgen::report::{Report, grouped};
use photondb_loadgen::world::Shape;

const DRIVER_PORT: u16 = 26015;
const REDIS_PORT: u16 = 26379;
/// The cache of the server whose memory is read: little more than what is loaded needs.
const SMALL_CACHE_MEGABYTES: u64 = 512;
/// How long a loaded server has to become idle before its memory is read.
const IDLE: Duration = Duration::from_secs(5);
/// The table stands between these in docs/benchmarks.md.
const BEGIN: &str = "<!-- bench/compare writes from here -->\n";
const END: &str = "<!-- to here -->\n";

/// Measure the whole table of floors, with Redis and other servers beside PhotonDB.
#[derive(Parser)]
struct Arguments {
    /// The server to measure
    #[arg(long, default_value = "target/release/photondb")]
    photondb: PathBuf,
    #[arg(long, default_value = "target/release/photondb-loadgen")]
    loadgen: PathBuf,
    #[arg(long, default_value = "redis-server")]
    redis: PathBuf,
    /// Another ReQL server that is running: HOST:PORT. It should be pinned to CPU 0 as well
    #[arg(long, value_name = "HOST:PORT")]
    other: Option<SocketAddr>,
    /// A folder on the disk to measure; emptied
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    #[arg(long, default_value_t = 200_000)]
    records: u64,
    /// Seconds of each row
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Everything is measured so often, Redis and the others in turn, and the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Have the client sleep until answers come. Else it asks for them again and again, Redis for its own as well: to wake a processor
    /// that sleeps costs the server more than many a query where a hypervisor has to do it
    #[arg(long)]
    sleeping_client: bool,
    /// Only rows whose command begins so; all without it
    #[arg(long)]
    only: Vec<String>,
    /// Write the table into this page
    #[arg(long, value_name = "docs/benchmarks.md")]
    write: Option<PathBuf>,
}

/// What one round measured, row by row.
struct Round {
    redis: Option<Redis>,
    ours: Vec<Figure>,
    others: Vec<Option<Figure>>,
}

/// One row as measured.
#[derive(Clone, Copy, Debug)]
struct Figure {
    value: f64,
    p50_ms: f64,
    p99_ms: f64,
}

struct Line {
    row: &'static Row,
    photondb: Figure,
    other: Option<Figure>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    pin_to_client_cpu()?;
    let rows: Vec<&Row> = ROWS.iter().filter(|row| is_wanted(row, &arguments)).collect();
    let mut rounds = Vec::new();
    for number in 1..=arguments.rounds {
        println!("Round {number} of {}", arguments.rounds);
        emptied(&arguments.data)?;
        let redis = measure_redis(&arguments)?;
        let ours = measure_photondb(&arguments, &rows)?;
        let others = match arguments.other {
            Some(address) => measure_other(&arguments, address, &rows)?,
            None => vec![None; rows.len()],
        };
        rounds.push(Round { redis, ours, others });
    }
    let redis = median_redis(&rounds);
    let line = |(place, row)| Line {
        row,
        photondb: median(rounds.iter().map(|round| round.ours[place])).expect("there is a round"),
        other: median(rounds.iter().filter_map(|round| round.others[place])),
    };
    let lines: Vec<Line> = rows.into_iter().enumerate().map(line).collect();
    let text = table(&arguments, redis, &lines);
    println!("{text}");
    if let Some(path) = &arguments.write {
        rewrite(path, &text)?;
    }
    Ok(())
}

/// The figure in the middle; of an even number the lower one of the two.
fn median(figures: impl Iterator<Item = Figure>) -> Option<Figure> {
    let mut figures: Vec<Figure> = figures.collect();
    figures.sort_by(|one, other| one.value.total_cmp(&other.value));
    figures.get(figures.len().saturating_sub(1) / 2).copied()
}

fn median_redis(rounds: &[Round]) -> Option<Redis> {
    let of = |field: fn(&Redis) -> f64| {
        let values = rounds.iter().filter_map(|round| round.redis.as_ref().map(field));
        median(values.map(|value| Figure { value, p50_ms: 0.0, p99_ms: 0.0 })).map(|figure| figure.value)
    };
    let (get, get_many, hard_set) =
        (of(|redis| redis.get)?, of(|redis| redis.get_many)?, of(|redis| redis.hard_set)?);
    Some(Redis { get, get_many, hard_set })
}

fn is_wanted(row: &Row, arguments: &Arguments) -> bool {
    arguments.only.is_empty() || arguments.only.iter().any(|start| row.line.starts_with(start.as_str()))
}

/// Redis' GET and SET, when Redis is there.
fn measure_redis(arguments: &Arguments) -> Result<Option<Redis>> {
    if Command::new(&arguments.redis).arg("--version").output().is_err() {
        println!(
            "redis-server is not installed (Debian's package redis-server): no floor can be told without it"
        );
        return Ok(None);
    }
    let address = local(REDIS_PORT);
    let folder = arguments.data.join("redis");
    std::fs::create_dir_all(&folder)?;
    let mut command = on_server_cpu(&arguments.redis);
    command.args(["--port", &REDIS_PORT.to_string(), "--save", "", "--appendonly", "yes"]);
    command.args(["--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]);
    command.arg("--dir").arg(&folder);
    let _server = Server::start(command, address)?;
    let ask = |name: &str, (connections, in_flight), records, length| {
        let plan =
            redis_plan(arguments, address, resp::operation(name, records), (connections, in_flight), length);
        let outcome = drive::run(&plan, &Resp::default(), |_| {}).map_err(Error::other)?;
        let report = Report::new(name, &plan, &outcome);
        if !report.errors.is_empty() {
            return Err(Error::other(format!("Redis: {:?}", report.errors)));
        }
        println!("Redis {name:<44} {:>12}/s", grouped(report.operations[0].per_second));
        Ok::<f64, Error>(report.operations[0].per_second)
    };
    let timed = Length::Duration(Duration::from_secs(arguments.seconds));
    ask(resp::SET, (16, 16), Records::Loaded(1), Length::Count(arguments.records))?;
    Ok(Some(Redis {
        get: ask(resp::GET, (64, 1), Records::Existing, timed)?,
        get_many: ask(resp::GET, (16, 16), Records::Existing, timed)?,
        hard_set: ask(resp::SET, (64, 1), Records::New(1), timed)?,
    }))
}

fn redis_plan(
    arguments: &Arguments,
    address: SocketAddr,
    operation: Operation,
    (connections, in_flight): (usize, u32),
    length: Length,
) -> Plan {
    Plan {
        address,
        io: Io::Auto,
        busy_poll: !arguments.sleeping_client,
        threads: 1,
        connections,
        in_flight,
        style: Style::Steady,
        operations: vec![operation],
        pace: Pace::Closed,
        warm_up: Duration::from_secs(1),
        length,
        records: arguments.records,
        shape: Shape::new(13, 1100),
        distribution: Distribution::Uniform,
        seed: 1,
        first_insert: 1 << 40,
    }
}

fn measure_photondb(arguments: &Arguments, rows: &[&'static Row]) -> Result<Vec<Figure>> {
    let address = local(DRIVER_PORT);
    let memory = match rows.iter().any(|row| row.unit == Unit::Megabytes) {
        true => measure_memory(arguments)?,
        false => 0.0,
    };
    let mut figures = Vec::new();
    // A bulk load begins in an empty server, which has no checkpoint of other rows' writes to make.
    for (place, rows) in rows.chunk_by(|one, other| is_loaded(one) == is_loaded(other)).enumerate() {
        let folder = arguments.data.join(format!("photondb-{place}"));
        let _server = Server::photondb(&arguments.photondb, &folder, address)?;
        prepare(arguments, address, rows)?;
        for row in rows {
            let figure = match row.unit {
                Unit::Megabytes => Figure { value: memory, p50_ms: 0.0, p99_ms: 0.0 },
                Unit::PerSecond | Unit::DocumentsPerSecond | Unit::Milliseconds => {
                    ask(arguments, address, row)?
                }
            };
            println!("PhotonDB {:<55} {:>12}", row.work, grouped(figure.value));
            figures.push(figure);
        }
    }
    Ok(figures)
}

/// Whether a row is about the table that is loaded as a row.
fn is_loaded(row: &Row) -> bool {
    row.line.contains("--table indexed")
}

/// What a server with a small cache takes when it is loaded and idle, in MB.
fn measure_memory(arguments: &Arguments) -> Result<f64> {
    let (folder, address) = (arguments.data.join("memory"), local(DRIVER_PORT));
    let server = Server::photondb_on(1, SMALL_CACHE_MEGABYTES, &arguments.photondb, &folder, address)?;
    loadgen(arguments, address, "load --fresh")?;
    std::thread::sleep(IDLE);
    Ok(server.resident_bytes()? as f64 / f64::from(1 << 20))
}

fn measure_other(
    arguments: &Arguments,
    address: SocketAddr,
    rows: &[&'static Row],
) -> Result<Vec<Option<Figure>>> {
    prepare(arguments, address, rows)?;
    let ask = |row: &&'static Row| match row.unit {
        Unit::Megabytes => Ok(None),
        Unit::PerSecond | Unit::DocumentsPerSecond | Unit::Milliseconds => {
            ask(arguments, address, row).map(Some)
        }
    };
    rows.iter().map(ask).collect()
}

/// The tables that rows ask of.
fn prepare(arguments: &Arguments, address: SocketAddr, rows: &[&Row]) -> Result<()> {
    if rows.iter().any(|row| !row.line.is_empty() && !row.line.contains("--table")) {
        loadgen(arguments, address, "load --fresh")?;
    }
    if rows.iter().any(|row| row.line.contains("--table feeds")) {
        loadgen(arguments, address, "load --table feeds --fresh -n 1")?;
    }
    if rows.iter().any(|row| is_loaded(row)) && !rows.iter().any(|row| row.line.starts_with("load")) {
        loadgen(arguments, address, "load --table indexed --index --fresh")?;
    }
    Ok(())
}

fn ask(arguments: &Arguments, address: SocketAddr, row: &Row) -> Result<Figure> {
    let report = loadgen(arguments, address, row.line)?;
    let operation = report.operations.iter().find(|operation| operation.name == row.operation);
    let lacks = || Error::other(format!("the report of `{}` lacks {}", row.line, row.operation));
    let operation = operation.ok_or_else(lacks)?;
    let value = match row.unit {
        Unit::PerSecond | Unit::Megabytes => operation.per_second,
        Unit::DocumentsPerSecond => operation.documents_per_second.unwrap_or_default(),
        Unit::Milliseconds => operation.at(0.5) / 1e3,
    };
    Ok(Figure { value, p50_ms: operation.at(0.5) / 1e3, p99_ms: operation.at(0.99) / 1e3 })
}

fn loadgen(arguments: &Arguments, address: SocketAddr, line: &str) -> Result<Report> {
    let loadgen = Loadgen {
        program: arguments.loadgen.clone(),
        address,
        records: arguments.records,
        busy_poll: !arguments.sleeping_client,
        batch: false,
    };
    loadgen.run(&format!("{line} --duration {}s", arguments.seconds))
}

/// The page's part: the machine, Redis, and the table.
fn table(arguments: &Arguments, redis: Option<Redis>, lines: &[Line]) -> String {
    let mut text = format!("{}\n\n", machine());
    match redis {
        Some(redis) => text.push_str(&format!(
            "Redis in the same run (the median of {} rounds here and below): GET {}/s, with 16 connections of 16 in flight {}/s, SET with appendfsync always {}/s.\n\n",
            arguments.rounds,
            grouped(redis.get),
            grouped(redis.get_many),
            grouped(redis.hard_set)
        )),
        None => text.push_str("Redis was not installed: the floors of this machine are unknown.\n\n"),
    }
    let other = arguments.other.map_or(String::new(), |address| format!(" {address} |"));
    text.push_str(&format!(
        "| work | `photondb-loadgen` | RethinkDB, as given | PhotonDB | p50 | p99 | floor | of the floor | |{other}\n"
    ));
    text.push_str(&format!(
        "|---|---|---|---|---|---|---|---|---|{}\n",
        if other.is_empty() { "" } else { "---|" }
    ));
    for line in lines {
        text.push_str(&table_row(line, redis));
    }
    text
}

fn table_row(line: &Line, redis: Option<Redis>) -> String {
    let Line { row, photondb, other } = line;
    let show = |value: f64| match row.unit {
        Unit::PerSecond | Unit::DocumentsPerSecond => format!("{}/s", grouped(value)),
        Unit::Milliseconds => format!("{value:.1} ms"),
        Unit::Megabytes => format!("{value:.0} MB"),
    };
    let time = |ms: f64| if ms > 0.0 { format!("{ms:.2} ms") } else { String::new() };
    let (floor, reached, verdict) = match redis {
        None => (String::new(), String::new(), "unknown"),
        Some(redis) => {
            let floor = row.must_reach(redis, SMALL_CACHE_MEGABYTES as f64);
            let reached = row.reached(photondb.value, floor);
            let is_quick = row.p99_ms_max.is_none_or(|max| photondb.p99_ms <= max);
            let verdict = if reached >= 1.0 && is_quick { "reached" } else { "**short**" };
            (show(floor), format!("{reached:.2}"), verdict)
        }
    };
    let limit = row.p99_ms_max.map_or(String::new(), |max| format!(", p99 {max:.0} ms"));
    let command = if row.line.is_empty() { String::new() } else { format!("`{}`", row.line) };
    let other = other.map_or(String::new(), |figure| format!(" {} |", show(figure.value)));
    format!(
        "| {} | {command} | {} | {} | {} | {} | {floor}{limit} | {reached} | {verdict} |{other}\n",
        row.work,
        show(row.rethinkdb),
        show(photondb.value),
        time(photondb.p50_ms),
        time(photondb.p99_ms),
    )
}

/// One line about where this was measured.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cpu = field(&read("/proc/cpuinfo"), "model name");
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get).max(2);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let gigabytes = memory.trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / f64::from(1 << 20);
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("Machine: {cpus} CPUs ({cpu}), {gigabytes:.0} GiB, Linux {}.", kernel.trim())
}

/// Puts the table into the page.
fn rewrite(path: &Path, table: &str) -> Result<()> {
    let page = std::fs::read_to_string(path)?;
    let place = page.find(BEGIN).zip(page.find(END)).filter(|(begin, end)| begin < end);
    let (begin, end) = place.ok_or_else(|| {
        Error::other(format!("{} has no lines {:?} and {:?}", path.display(), BEGIN.trim(), END.trim()))
    })?;
    std::fs::write(path, format!("{}{BEGIN}{table}{}", &page[..begin], &page[end..]))
}
