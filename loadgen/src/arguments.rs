//! The command line: one subcommand per workload, all with the same options, and what is done with reports afterwards.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};

use crate::choose::Distribution;
use crate::dialect::Handshake;
use crate::plan::Io;
use crate::session::IN_FLIGHT_MAX;
use crate::template::placeholders;
use crate::workloads::{Durability, Kind, WORKLOADS, Workload};

pub const NAME: &str = "photondb-loadgen";
const CONNECTIONS_MAX: i64 = 60_000;
const THREADS_MAX: i64 = 256;
const DOCUMENT_BYTES_MAX: i64 = 16 << 20;
/// Documents of a batch: an array of more is refused by servers.
const BATCH_MAX: i64 = 100_000;
const RECORDS_MAX: i64 = 1 << 40;

/// Options of every run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Server to load
    #[arg(long, short = 'H', default_value = "127.0.0.1", help_heading = "Server")]
    pub host: String,
    /// Its port for drivers
    #[arg(long, short = 'P', default_value_t = 28015, help_heading = "Server")]
    pub port: u16,
    /// User to log in as
    #[arg(long, default_value = "admin", help_heading = "Server")]
    pub user: String,
    /// The user's password
    #[arg(
        long,
        default_value = "",
        env = "PHOTONDB_PASSWORD",
        hide_env_values = true,
        help_heading = "Server"
    )]
    pub password: String,
    /// How connections log in
    #[arg(long, value_enum, default_value_t = Handshake::V1_0, help_heading = "Server")]
    pub handshake: Handshake,
    /// Database
    #[arg(long, default_value = "bench", help_heading = "Server")]
    pub db: String,
    /// Table
    #[arg(long, default_value = "docs", help_heading = "Server")]
    pub table: String,

    /// Connections of all threads together [default: 64; 4 for load and batch, 1 for scan, filter, group and feeds]
    #[arg(long, short, value_parser = value_parser!(u32).range(1..=CONNECTIONS_MAX), help_heading = "Load")]
    pub connections: Option<u32>,
    /// Requests in flight on each connection
    #[arg(long, short = 'f', default_value_t = 1,
          value_parser = value_parser!(u32).range(1..=i64::from(IN_FLIGHT_MAX)), help_heading = "Load")]
    pub in_flight: u32,
    /// Threads, each with its share of the connections
    #[arg(long, short, default_value_t = 1, value_parser = value_parser!(u32).range(1..=THREADS_MAX), help_heading = "Load")]
    pub threads: u32,
    /// How long to measure: 30s, 500ms, 5m
    #[arg(long, short, default_value = "10s", value_parser = duration, help_heading = "Load")]
    pub duration: Duration,
    /// Stop after so many operations instead; nothing is warm-up then
    #[arg(long, short = 'n', value_parser = value_parser!(u64).range(1..), help_heading = "Load")]
    pub count: Option<u64>,
    /// How long to run before measuring
    #[arg(long, default_value = "1s", value_parser = duration, help_heading = "Load")]
    pub warm_up: Duration,
    /// Open loop: send so many operations a second at fixed times, whatever the server does, and count latency from when
    /// each was due. Without it the loop is closed: an answer calls forth the next request
    #[arg(long, short, value_parser = rate, help_heading = "Load")]
    pub rate: Option<f64>,
    /// How connections are moved
    #[arg(long, value_enum, default_value_t = Io::Auto, help_heading = "Load")]
    pub io: Io,
    /// Ask for answers again and again instead of sleeping until they come. It takes a processor for each thread, and spares the
    /// server the waking of one that sleeps, which in a virtual machine may cost more than a query
    #[arg(long, help_heading = "Load")]
    pub busy_poll: bool,
    /// The same seed asks for the same records in the same order
    #[arg(long, default_value_t = 1, help_heading = "Load")]
    pub seed: u64,

    /// Documents of the table
    #[arg(long, default_value_t = 200_000, value_parser = value_parser!(u64).range(1..=RECORDS_MAX as u64), help_heading = "Data")]
    pub records: u64,
    /// Which are asked for [default: zipfian for YCSB but latest for its D, else uniform]
    #[arg(long, value_enum, help_heading = "Data")]
    pub distribution: Option<Distribution>,
    /// Fields of a document: id, n, bucket, and texts
    #[arg(long, default_value_t = 13, value_parser = value_parser!(u32).range(4..=10_000), help_heading = "Data")]
    pub fields: u32,
    /// Bytes of a document as JSON, about
    #[arg(long, default_value_t = 1100, value_parser = value_parser!(u32).range(80..=DOCUMENT_BYTES_MAX), help_heading = "Data")]
    pub document_size: u32,
    /// When writes are acknowledged [default: hard; soft for load, batch and feeds]
    #[arg(long, value_enum, help_heading = "Data")]
    pub durability: Option<Durability>,
    /// Documents of a request of load and batch
    #[arg(long, default_value_t = 200, value_parser = value_parser!(u64).range(1..=BATCH_MAX as u64), help_heading = "Data")]
    pub batch: u64,

    /// Write the report as JSON too; - is standard output, and replaces the table there
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub json: Option<PathBuf>,
    /// Write the percentiles as HdrHistogram prints them, in milliseconds
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub hdr: Option<PathBuf>,
    /// Draw latency percentiles and throughput over time
    #[arg(long, value_name = "FILE.svg", help_heading = "Output")]
    pub plot: Option<PathBuf>,
    /// No progress while it runs
    #[arg(long, short, help_heading = "Output")]
    pub quiet: bool,
}

/// Options of single workloads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Special {
    pub is_fresh: bool,
    pub is_indexed: bool,
    pub feeds: u64,
    pub listeners: usize,
}

/// What to do.
pub enum Wish {
    Run { workload: &'static Workload, options: Options, special: Special },
    Mix { file: PathBuf, options: Options },
    Compare { before: PathBuf, after: PathBuf },
    Reference,
}

/// The whole command line.
pub fn command() -> Command {
    let mut command = Command::new(NAME)
        .version(env!("CARGO_PKG_VERSION"))
        .about("Load a server that speaks ReQL (PhotonDB, RethinkDB) and measure how fast it answers")
        .subcommand_required(true)
        .arg_required_else_help(true)
        .disable_help_subcommand(true)
        .subcommand_help_heading("Workloads and commands")
        .after_help(EXAMPLES);
    for workload in WORKLOADS {
        command = command.subcommand(special(workload, Options::augment_args(Command::new(workload.name))));
    }
    let report = |name: &'static str| {
        Arg::new(name).value_name(name.to_uppercase()).required(true).value_parser(value_parser!(PathBuf))
    };
    command
        .subcommand(mix(Options::augment_args(Command::new("mix"))))
        .subcommand(
            Command::new("compare")
                .about("Compare two reports that --json wrote: rates and latencies side by side, with ratios")
                .arg(report("before").value_name("BEFORE.json"))
                .arg(report("after").value_name("AFTER.json")),
        )
        .subcommand(Command::new("reference").about("Print docs/reference/loadgen.md").hide(true))
}

/// What `mix` has of its own.
fn mix(command: Command) -> Command {
    let file = Arg::new("file").value_name("FILE.toml").help("Says what to ask, as below").required(true);
    command
        .about("Run queries of your own, from a TOML file that says how often each comes")
        .arg(file.value_parser(value_parser!(PathBuf)))
        .after_help(mix_help())
}

/// A workload's own options and words.
fn special(workload: &Workload, command: Command) -> Command {
    let command = command.about(workload.about);
    let flag = |name: &'static str| Arg::new(name).long(name).action(clap::ArgAction::SetTrue);
    match (workload.name, workload.kind) {
        ("load", _) => command
            .arg(flag("fresh").help("Drop the table first if it is there").help_heading("Data"))
            .arg(flag("index").help("Have a secondary index on `bucket`").help_heading("Data"))
            .after_help("A table that is there is filled up: documents that it has are replaced."),
        (_, Kind::Feeds) => command
            .arg(number("feeds", "Changefeeds on the table").default_value("100"))
            .arg(number("listeners", "Connections that carry them").default_value("100"))
            .after_help(
                "A delivery's latency runs from when its write was to be sent until its change is here.\n\
                 --rate paces the writes; without it --connections times --in-flight are under way.",
            ),
        (_, Kind::Steady | Kind::Churn) => command,
    }
}

fn number(name: &'static str, help: &'static str) -> Arg {
    let parser = value_parser!(u32).range(1..=CONNECTIONS_MAX);
    Arg::new(name).long(name).value_name("N").help(help).value_parser(parser).help_heading("Load")
}

/// Reads the command line.
///
/// # Errors
/// clap's, which it prints itself.
pub fn parse(arguments: impl Iterator<Item = std::ffi::OsString>) -> Result<Wish, clap::Error> {
    let matches = command().try_get_matches_from(arguments)?;
    let (name, matches) = matches.subcommand().expect("a subcommand is required");
    let path = |name: &str| matches.get_one::<PathBuf>(name).expect("it is required").clone();
    Ok(match name {
        "compare" => Wish::Compare { before: path("before"), after: path("after") },
        "reference" => Wish::Reference,
        "mix" => Wish::Mix { file: path("file"), options: options(matches)? },
        _ => {
            let workload = crate::workloads::find(name).expect("subcommands are workloads");
            Wish::Run { workload, options: options(matches)?, special: specials(matches) }
        }
    })
}

fn options(matches: &ArgMatches) -> Result<Options, clap::Error> {
    let options = Options::from_arg_matches(matches)?;
    if options.handshake == Handshake::V0_4 && options.user != "admin" {
        let text = "--handshake v0_4 has no user names: it is always admin. Leave out --user, or take v1_0\n";
        return Err(clap::Error::raw(clap::error::ErrorKind::ArgumentConflict, text));
    }
    Ok(options)
}

fn specials(matches: &ArgMatches) -> Special {
    let flag = |name| matches.try_get_one::<bool>(name).ok().flatten().copied().unwrap_or(false);
    let number = |name| matches.try_get_one::<u32>(name).ok().flatten().copied().unwrap_or(0);
    let (feeds, listeners) = (u64::from(number("feeds")), number("listeners") as usize);
    Special {
        is_fresh: flag("fresh"),
        is_indexed: flag("index"),
        feeds,
        listeners: listeners.min(feeds as usize),
    }
}

/// `30s`, `500ms`, `5m`, `1h`, or seconds without a unit.
fn duration(text: &str) -> Result<Duration, String> {
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let factor = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a duration is a number with ms, s, m or h".to_owned()),
    };
    let number: f64 = number.parse().map_err(|_| "a duration is a number with ms, s, m or h".to_owned())?;
    let seconds = number * factor;
    if seconds > 31_536_000.0 {
        return Err("that is more than a year".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "a rate is a number of operations a second".to_owned())?;
    if rate.is_finite() && (0.001..=1e9).contains(&rate) {
        Ok(rate)
    } else {
        Err("a rate lies between 0.001 and 1,000,000,000 operations a second".to_owned())
    }
}

const EXAMPLES: &str = "Examples:
  photondb-loadgen load --records 200000 --index    make a table and fill it
  photondb-loadgen get                              64 connections, one request each, 10 s
  photondb-loadgen get -c 16 -f 16 --plot get.svg   16 connections, 16 requests in flight each
  photondb-loadgen update --rate 5000 -d 60s        5,000 a second, whatever the server does
  photondb-loadgen ycsb-a --json before.json        YCSB's workload A, kept for later
  photondb-loadgen compare before.json after.json   what has become faster

The exit code is 0 when every operation succeeded, 1 when any failed, 2 for a wrong command line.
`photondb-loadgen WORKLOAD --help` lists the options, which are the same for all.";

/// docs/reference/loadgen.md: the help as the program prints it, options once.
pub fn reference_page() -> String {
    let mut command = command().term_width(100);
    command.build();
    let mut page = REFERENCE_INTRODUCTION.to_owned();
    let mut section = |title: &str, help: String| {
        let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
        page.push_str(&format!("\n## `{title}`\n\n```text\n{}\n```\n", lines.join("\n").trim_end()));
    };
    section(NAME, command.render_help().to_string());
    let whole = |name: &str| command.find_subcommand(name).expect("it is a command").clone();
    let own = |name: &'static str| {
        let workload = crate::workloads::find(name).expect("it is a workload");
        special(workload, Command::new(name)).disable_help_flag(true)
    };
    for command in [
        whole("get"),
        own("load"),
        own("feeds"),
        mix(Command::new("mix")).disable_help_flag(true),
        whole("compare"),
    ] {
        let name = format!("{NAME} {}", command.get_name());
        let help = command.term_width(100).bin_name(&name).render_help().to_string();
        section(&name, help);
    }
    page
}

const REFERENCE_INTRODUCTION: &str = "# The load generator

<!-- Made from loadgen/src by `photondb-loadgen reference`; a test keeps it fresh. -->

Every workload and `mix` take the options of `get`; of `load`, `feeds` and `mix`, this page shows only what they have of their own.
";

fn mix_help() -> String {
    let rows = placeholders().map(|(name, about)| format!("  {name:<12} {about}"));
    format!("{MIX_EXAMPLE}{}\n\n{MIX_KEYS}", rows.collect::<Vec<_>>().join("\n"))
}

const MIX_EXAMPLE: &str = "The file:
  distribution = \"zipfian\"              # or latest, uniform; --distribution goes before it

  [[operation]]
  name = \"read\"
  weight = 90
  reql = '[16, [\"$table\", \"$key\"]]'     # r.table(..).get(key), as it goes over the wire
  expect = \"value\"                      # null is an error

  [[operation]]
  name = \"add\"
  weight = 10
  new_documents = 1                     # $key and $document are of a record that is not there yet
  reql = '[56, [\"$table\", \"$document\"], {\"durability\": \"$durability\"}]'
  expect = \"written\"                    # a write result that counts an error is an error

Placeholders, each a text of its own in the query:
";

const MIX_KEYS: &str = "`reql` may be a list: queries about the same record asked one after the other, as one
operation. `options` holds global options as JSON. `weight` is 1 and `expect` is \"any\"
where they are left out.";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        for (text, want) in
            [("30", 30_000), ("1.5s", 1500), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(want)), "{text}");
        }
        for text in ["", "s", "5d", "-1s", "1.2.3", "9999999h"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[track_caller]
    fn check_refused(line: &str, words: &str) {
        let arguments = std::iter::once(NAME).chain(line.split_whitespace()).map(Into::into);
        let error = parse(arguments).err().expect("refused").to_string();
        assert!(error.contains(words), "{line}: {error}");
    }

    #[test]
    fn mistakes_are_named() {
        check_refused("gte", "unrecognized subcommand 'gte'");
        check_refused("get --rate 0", "a rate lies between");
        check_refused("get --duration soon", "a duration is a number with ms, s, m or h");
        check_refused("get --connections 0", "0 is not in 1..=60000");
        check_refused("get --handshake v0_4 --user eve", "it is always admin");
        check_refused("mix", "<FILE.toml>");
        check_refused("load --fields 1", "1 is not in 4..=10000");
    }
}
