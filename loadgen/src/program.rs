//! The program: from the command line to the exit code.

use std::fs::File;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::arguments::{self, NAME, Options, Special, Wish};
use crate::choose::Distribution;
use crate::compare;
use crate::dialect::Reql;
use crate::drive::{self, DriveError, Outcome};
use crate::mix;
use crate::operation::Operation;
use crate::plan::{Length, Pace, Plan, Style};
use crate::plot;
use crate::prepare::{self, Asker, Making, PrepareError};
use crate::record::Second;
use crate::report::{Report, grouped, latency, write_hdr};
use crate::template::{Names, TemplateError};
use crate::workloads::{Durability, Kind, Needs, Workload};
use crate::world::Shape;

/// Seconds between progress lines when nobody watches a terminal.
const PROGRESS_SECONDS: u64 = 10;

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    #[error(transparent)]
    Drive(#[from] DriveError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error("{0}: {1}")]
    File(PathBuf, String),
    #[error("the host {0} is not known: {1}")]
    Host(String, io::Error),
}

/// Carries out this process's command line.
pub fn main() -> ExitCode {
    let wish = match arguments::parse(std::env::args_os()) {
        Ok(wish) => wish,
        Err(error) => error.exit(),
    };
    let done = match wish {
        Wish::Run { workload, options, special } => run_workload(workload, &options, &special),
        Wish::Mix { file, options } => run_mix(&file, &options),
        Wish::Compare { before, after } => compare(&before, &after),
        Wish::Reference => {
            print!("{}", arguments::reference_page());
            Ok(ExitCode::SUCCESS)
        }
    };
    done.unwrap_or_else(|failure| {
        eprintln!("{NAME}: {failure}");
        ExitCode::FAILURE
    })
}

fn run_workload(workload: &Workload, options: &Options, special: &Special) -> Result<ExitCode, Failure> {
    let names = names(options, workload.durability);
    let operations = workload.operations(&names, options.batch)?;
    let style = match workload.kind {
        Kind::Steady => Style::Steady,
        Kind::Churn => Style::Churn,
        Kind::Feeds => Style::Feeds { feeds: special.feeds, listeners: special.listeners },
    };
    let address = resolve(options)?;
    let mut plan = plan(options, address, operations, style);
    plan.connections = options.connections.map_or(workload.connections, |count| count as usize);
    plan.distribution = options.distribution.unwrap_or(workload.distribution);
    let mut reql = Reql::new(options.handshake, &options.user, &options.password);
    let mut asker = Asker::connect(address, &mut reql)?;
    let is_load = workload.needs == Needs::Makes;
    if is_load {
        let making = Making { is_fresh: special.is_fresh, is_indexed: special.is_indexed };
        prepare::make(&mut asker, &names, making)?;
        let batches = options.records.div_ceil(options.batch);
        plan.length = Length::Count(options.count.map_or(batches, |count| count.min(batches)));
    } else {
        prepare::check(&mut asker, &names, workload.needs, options.records)?;
    }
    let outcome = drive::run(&plan, &reql, progress(options))?;
    if is_load && outcome.cut_short.is_none() {
        prepare::sync(&mut asker, &names)?;
    }
    drop(asker);
    finish(workload.name, &plan, &outcome, options)
}

/// Queries of the user's own. The table is looked at only if a query names it.
fn run_mix(file: &Path, options: &Options) -> Result<ExitCode, Failure> {
    let names = names(options, Durability::Hard);
    let text = read_file(file)?;
    let mix = mix::parse(&text, &names).map_err(|error| Failure::File(file.to_owned(), error.to_string()))?;
    let address = resolve(options)?;
    let mut plan = plan(options, address, mix.operations, Style::Steady);
    plan.distribution = options.distribution.or(mix.distribution).unwrap_or(Distribution::Uniform);
    let mut reql = Reql::new(options.handshake, &options.user, &options.password);
    let mut asker = Asker::connect(address, &mut reql)?;
    let needs = if text.contains("$key") { Needs::Records } else { Needs::Nothing };
    prepare::check(&mut asker, &names, needs, options.records)?;
    drop(asker);
    let outcome = drive::run(&plan, &reql, progress(options))?;
    finish("mix", &plan, &outcome, options)
}

fn compare(before: &Path, after: &Path) -> Result<ExitCode, Failure> {
    let report = |path: &Path| -> Result<Report, Failure> {
        let read = serde_json::from_str(&read_file(path)?);
        read.map_err(|error| Failure::File(path.to_owned(), format!("this is no report: {error}")))
    };
    print!("{}", compare::compare(&report(before)?, &report(after)?));
    Ok(ExitCode::SUCCESS)
}

fn read_file(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::File(path.to_owned(), error.to_string()))
}

fn names(options: &Options, durability: Durability) -> Names {
    Names {
        db: options.db.clone(),
        table: options.table.clone(),
        durability: options.durability.unwrap_or(durability).name().to_owned(),
    }
}

fn resolve(options: &Options) -> Result<SocketAddr, Failure> {
    let failed = |error| Failure::Host(options.host.clone(), error);
    let mut addresses = (options.host.as_str(), options.port).to_socket_addrs().map_err(failed)?;
    addresses.next().ok_or_else(|| failed(io::Error::other("it has no address")))
}

fn plan(options: &Options, address: SocketAddr, operations: Vec<Operation>, style: Style) -> Plan {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Plan {
        address,
        io: options.io,
        busy_poll: options.busy_poll,
        threads: options.threads as usize,
        connections: options.connections.unwrap_or(64) as usize,
        in_flight: options.in_flight,
        style,
        operations,
        pace: options.rate.map_or(Pace::Closed, Pace::Open),
        warm_up: options.warm_up,
        length: options.count.map_or(Length::Duration(options.duration), Length::Count),
        records: options.records,
        shape: Shape::new(options.fields, options.document_size),
        distribution: options.distribution.unwrap_or(Distribution::Uniform),
        seed: options.seed,
        // Two runs that insert do not meet: each begins at its own millisecond and inserts less than a thousand documents in
        // one; and numbers stay below 2^53, where those of ReQL cease to be exact.
        first_insert: since.as_millis() as u64 * 1_000,
    }
}

/// Prints how it goes: over and over on one line of a terminal, else now and then a line.
fn progress(options: &Options) -> impl FnMut(&Second) + use<> {
    let is_terminal = io::stderr().is_terminal();
    let is_quiet = options.quiet;
    let mut errors = 0;
    move |second| {
        errors += second.errors;
        if is_quiet || (!is_terminal && !(second.second + 1).is_multiple_of(PROGRESS_SECONDS)) {
            return;
        }
        let (start, end) = if is_terminal { ("\r\x1b[K", "") } else { ("", "\n") };
        eprint!(
            "{start}{:>4} s  {:>9}/s  p50 {:>8}  p99 {:>8}  {} errors{end}",
            second.second + 1,
            grouped(second.count as f64),
            latency(second.p50_us),
            latency(second.p99_us),
            grouped(errors as f64),
        );
    }
}

/// Writes the report wherever it is wanted.
fn finish(name: &str, plan: &Plan, outcome: &Outcome, options: &Options) -> Result<ExitCode, Failure> {
    if io::stderr().is_terminal() && !options.quiet {
        eprint!("\r\x1b[K");
    }
    let report = Report::new(name, plan, outcome);
    let is_json_out = options.json.as_deref() == Some(Path::new("-"));
    if is_json_out {
        println!("{}", json(&report));
    } else {
        print!("{}", report.table());
    }
    if let Some(path) = options.json.as_deref().filter(|_| !is_json_out) {
        write_file(path, |out| writeln!(out, "{}", json(&report)))?;
    }
    if let Some(path) = &options.hdr {
        write_file(path, |out| write_hdr(outcome, out))?;
    }
    if let Some(path) = &options.plot {
        write_file(path, |out| out.write_all(plot::svg(&report).as_bytes()))?;
    }
    let is_good = report.errors.is_empty() && report.cut_short.is_none();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn json(report: &Report) -> String {
    serde_json::to_string_pretty(report).expect("a report is JSON")
}

fn write_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>,
) -> Result<(), Failure> {
    let written = File::create(path).and_then(|file| {
        let mut out = BufWriter::new(file);
        write(&mut out)?;
        out.flush()
    });
    written.map_err(|error| Failure::File(path.to_owned(), error.to_string()))
}
