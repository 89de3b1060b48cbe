//! Measures what must not grow: the slowest reads beside heavy work on the same core, processor time for an operation with more
//! cores and more documents, and memory under every workload. Server from CPU 0 on, client on CPU 1.

use std::io::{Error, Result};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};
use photondb_bench::load::Loadgen;
use photondb_bench::server::{Server, emptied, local, pin_to_client_cpu};
use photondb_bench::work::{handshake, query};
use photondb_loadgen::report::{Report, grouped};

const DRIVER_PORT: u16 = 26021;
/// Requests that a connection has in flight where reads come at a fixed rate: with one, a slow reply holds up those behind it on its connection,
/// and what is told is the client's queue.
const PACED_IN_FLIGHT: u32 = 8;
const DOCS: &str = "[15,[[14,[\"bench\"]],\"docs\"]]";

/// Measure what must not grow.
#[derive(Parser)]
struct Arguments {
    /// The server to measure
    #[arg(long, default_value = "target/release/photondb")]
    photondb: PathBuf,
    #[arg(long, default_value = "target/release/photondb-loadgen")]
    loadgen: PathBuf,
    /// A folder on the disk to measure; emptied
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The slowest of reads at half of their peak, alone and beside a bulk load, the construction of an index and checkpoints
    Stalls {
        #[arg(long, default_value_t = 200_000)]
        records: u64,
    },
    /// Processor time for a read and for a hard write with one core and with two
    Cores {
        #[arg(long, default_value_t = 200_000)]
        records: u64,
    },
    /// Processor time for a read and for a hard write as the table grows tenfold and tenfold again
    Growth {
        #[arg(long, default_value_t = 10_000)]
        from: u64,
        #[arg(long, default_value_t = 10_000_000)]
        to: u64,
    },
    /// Resident memory at its highest under every workload, against what was granted
    Memory {
        #[arg(long, default_value_t = 200_000)]
        records: u64,
        #[arg(long, default_value_t = 256)]
        cache_megabytes: u64,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    pin_to_client_cpu()?;
    emptied(&arguments.data)?;
    match arguments.what {
        What::Stalls { records } => stalls(&arguments, records),
        What::Cores { records } => cores(&arguments, records),
        What::Growth { from, to } => growth(&arguments, from, to),
        What::Memory { records, cache_megabytes } => memory(&arguments, records, cache_megabytes),
    }
}

impl Arguments {
    fn server(&self, cores: u16, cache_megabytes: u64) -> Result<Server> {
        let folder = self.data.join("photondb");
        Server::photondb_on(cores, cache_megabytes, &self.photondb, &folder, local(DRIVER_PORT))
    }

    fn loadgen(&self, records: u64) -> Loadgen {
        let (program, address) = (self.loadgen.clone(), local(DRIVER_PORT));
        Loadgen { program, address, records, busy_poll: false, batch: false }
    }

    /// Runs a workload for the time that was asked for.
    fn run(&self, loadgen: &Loadgen, line: &str) -> Result<Report> {
        loadgen.run(&format!("{line} --duration {}s", self.seconds))
    }
}

/// The rate of a run's only operation, and its time at a quantile in milliseconds.
fn rate(report: &Report) -> f64 {
    report.operations.first().map_or(0.0, |operation| operation.per_second)
}

fn ms_at(report: &Report, quantile: f64) -> f64 {
    report.operations.first().map_or(0.0, |operation| operation.at(quantile) / 1e3)
}

// ---------------------------------------------------------------- stalls

fn stalls(arguments: &Arguments, records: u64) -> Result<()> {
    let _server = arguments.server(1, 2048)?;
    let loadgen = arguments.loadgen(records);
    loadgen.run("load --fresh")?;
    let peak = rate(&arguments.run(&loadgen, "get")?);
    println!("get at its peak                       {:>9}/s", grouped(peak));
    let paced = format!("get -f {PACED_IN_FLIGHT} --rate {:.0}", peak / 2.0);
    let quiet = arguments.run(&loadgen, &paced)?;
    say_reads("alone", &quiet, None);
    for (name, pace) in [("a paced bulk load", "--rate 50"), ("a bulk load at full speed", "")] {
        let mut stream = TcpStream::connect(local(DRIVER_PORT))?;
        handshake(&mut stream)?;
        let load = Loadgen { records: records * 10, ..loadgen.clone() };
        let mut beside = load.beside(&format!("load --table other --fresh {pace}"))?;
        std::thread::sleep(Duration::from_millis(500));
        let index = format!("of {}", name.len());
        query(
            &mut stream,
            &format!("[1,[75,[{DOCS},\"{index}\",[69,[[2,[1]],[170,[[10,[1]],\"n\"]]]]]],{{}}]"),
        )?;
        let busy = arguments.run(&loadgen, &paced)?;
        if beside.is_over()? {
            return Err(Error::other("the load was over too early: take fewer seconds"));
        }
        drop(beside);
        say_reads(&format!("beside {name} and an index"), &busy, Some(&quiet));
    }
    Ok(())
}

fn say_reads(name: &str, report: &Report, quiet: Option<&Report>) {
    let times = quiet.map_or(String::new(), |quiet| {
        format!(", {:.1} times (at most 3)", ms_at(report, 0.999) / ms_at(quiet, 0.999))
    });
    println!(
        "{name:<38}{:>9}/s  p50 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms{times}",
        grouped(rate(report)),
        ms_at(report, 0.5),
        ms_at(report, 0.99),
        ms_at(report, 0.999)
    );
}

// ---------------------------------------------------------------- cores and growth

/// Microseconds of the server's processors for one operation.
fn cost(arguments: &Arguments, server: &Server, loadgen: &Loadgen, line: &str) -> Result<f64> {
    // Without a warm-up all that the server does is counted on both sides.
    let before = server.processor_seconds()?;
    let report = arguments.run(loadgen, &format!("{line} --warm-up 0s"))?;
    let spent = server.processor_seconds()? - before;
    let operations: u64 = report.operations.iter().map(|operation| operation.count).sum();
    Ok(spent * 1e6 / operations.max(1) as f64)
}

/// Waits until the server is done with what came before: checkpoints, and what was dropped.
fn settle(server: &Server) -> Result<()> {
    const LOOK: Duration = Duration::from_secs(2);
    const LOOKS_MAX: u32 = 60;
    for _ in 0..LOOKS_MAX {
        let before = server.processor_seconds()?;
        std::thread::sleep(LOOK);
        if server.processor_seconds()? - before < LOOK.as_secs_f64() / 20.0 {
            return Ok(());
        }
    }
    Err(Error::other("the server is still busy two minutes after the load"))
}

const COSTED: [&str; 2] = ["get", "update"];

/// Times that each number of cores is measured, one after the other; the least of each counts, since other guests of a machine only take away.
const CORES_ROUNDS: usize = 3;

/// The second core has its CPU together with the client, which is therefore one that interrupts nobody.
fn cores(arguments: &Arguments, records: u64) -> Result<()> {
    emptied(&arguments.data)?;
    let loadgen = Loadgen { batch: true, ..arguments.loadgen(records) };
    let mut least = [[f64::INFINITY; COSTED.len()]; 2];
    for _ in 0..CORES_ROUNDS {
        for (cores, least) in (1..).zip(&mut least) {
            let server = arguments.server(cores, 2048)?;
            loadgen.run("load --fresh")?;
            settle(&server)?;
            for (line, least) in COSTED.iter().zip(least) {
                *least = least.min(cost(arguments, &server, &loadgen, line)?);
            }
            drop(server);
            emptied(&arguments.data)?;
        }
    }
    for (place, line) in COSTED.iter().enumerate() {
        let [one, two] = least.map(|least| least[place]);
        println!(
            "{line:<8} {one:>7.2} us of processor time each on one core, {two:>7.2} us on two: {:.2} times (at most 1.25)",
            two / one
        );
    }
    Ok(())
}

fn growth(arguments: &Arguments, from: u64, to: u64) -> Result<()> {
    let server = arguments.server(1, 6144)?;
    let mut records = from;
    while records <= to {
        let loadgen = arguments.loadgen(records);
        // Four fields: the key, a number, a bucket and a short text.
        loadgen.run("load --fresh --fields 4 --document-size 100")?;
        settle(&server)?;
        let [get, update] = COSTED.map(|line| cost(arguments, &server, &loadgen, line));
        println!(
            "{:>11} documents: get {:>6.2} us, hard update {:>6.2} us, {} MB resident",
            grouped(records as f64),
            get?,
            update?,
            server.resident_bytes()? >> 20
        );
        records *= 10;
    }
    Ok(())
}

// ---------------------------------------------------------------- memory

/// Queries may use this part of the cache's size beside it.
const QUERY_PART: u64 = 4;
/// What the program itself and a connection may take beyond that.
const OWN_MEGABYTES: u64 = 64;
const CONNECTION_BYTES: u64 = 8 << 10;

fn memory(arguments: &Arguments, records: u64, cache_megabytes: u64) -> Result<()> {
    let server = arguments.server(1, cache_megabytes)?;
    let loadgen = arguments.loadgen(records);
    let lines = [
        ("load --fresh --index", 4),
        ("get", 64),
        ("get -c 1000", 1000),
        ("update", 64),
        ("insert", 64),
        ("insert --durability soft", 64),
        ("batch", 4),
        ("range", 64),
        ("index", 64),
        ("scan", 1),
        ("filter", 1),
        ("group", 1),
        ("ycsb-a", 64),
        ("ycsb-e", 64),
        ("churn", 64),
        ("feeds --feeds 1000 --listeners 1000", 1064),
    ];
    println!("{:<42}{:>10}{:>10}", "workload", "highest", "granted");
    let mut over = 0;
    for (line, connections) in lines {
        arguments.run(&loadgen, line)?;
        let highest = server.highest_resident_bytes()?;
        let granted = ((cache_megabytes + cache_megabytes / QUERY_PART + OWN_MEGABYTES) << 20)
            + connections * CONNECTION_BYTES;
        let verdict = if highest <= granted { "" } else { "  more than was granted" };
        over += u32::from(highest > granted);
        println!("{line:<42}{:>7} MB{:>7} MB{verdict}", highest >> 20, granted >> 20);
    }
    if over > 0 {
        return Err(Error::other(format!("{over} workloads took more memory than was granted")));
    }
    Ok(())
}
