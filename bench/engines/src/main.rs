//! Runs PhotonDB's store, redb, fjall and RocksDB through the same work on one machine, and prints a table.
//!
//! ```text
//! ROCKSDB_INCLUDE_DIR=/usr/include ROCKSDB_LIB_DIR=/usr/lib/x86_64-linux-gnu LIBCLANG_PATH=/usr/lib/llvm-14/lib \
//!     cargo run --release -- --data DIR
//! ```
//!
//! Those are the places of Debian's packages librocksdb-dev and libclang-dev; a C++ compiler is needed too.
//!
//! Always: the engines take turns within a round, and a figure is the median over the rounds, so that a noisy machine hits all
//! of them alike.

mod rows;
mod stores;
mod work;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use stores::{ENGINES, Engine, Failed};
use work::{ALWAYS, Bench, Better, Settings, WORK, Work};

fn command() -> Command {
    let number = |name: &'static str, default: &'static str, help: &'static str| {
        let range = value_parser!(u64).range(1..);
        Arg::new(name).long(name).value_name("N").default_value(default).value_parser(range).help(help)
    };
    Command::new("photondb-bench-engines")
        .about("Compares PhotonDB's store with redb, fjall and RocksDB on this machine")
        .arg(
            Arg::new("data")
                .long("data")
                .value_name("DIR")
                .required(true)
                .value_parser(value_parser!(PathBuf))
                .help("Where to work; a directory of each engine's name is made in it, and removed"),
        )
        .arg(number("rows", "200000", "Rows of 1.1 KB; at least 40000"))
        .arg(number("rounds", "3", "How often; figures are medians"))
        .arg(number("seconds", "2", "For each piece of work"))
        .arg(
            Arg::new("engine")
                .long("engine")
                .value_name("NAME")
                .action(ArgAction::Append)
                .value_parser(ENGINES.map(|engine| engine.name))
                .ignore_case(true)
                .help("Only this engine; may be given several times"),
        )
        .arg(
            Arg::new("work")
                .long("work")
                .value_name("TEXT")
                .action(ArgAction::Append)
                .help("Beside the load, only work whose name has this in it; may be given several times"),
        )
}

fn main() -> ExitCode {
    match run(&command().get_matches()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\n{error}");
            ExitCode::FAILURE
        }
    }
}

fn run(matches: &ArgMatches) -> Result<(), Failed> {
    let number = |name: &str| *matches.get_one::<u64>(name).expect("it has a default");
    let settings = Settings {
        directory: matches.get_one::<PathBuf>("data").expect("it is required").clone(),
        rows: number("rows"),
        seconds: number("seconds") as f64,
    };
    if settings.rows < 40_000 {
        return Err("--rows must be 40000 at least, so that the longest scans find enough.".into());
    }
    let named =
        |name: &str| matches.get_many::<String>(name).map(|values| values.cloned().collect::<Vec<_>>());
    let engines: Vec<&Engine> = match named("engine") {
        Some(names) => ENGINES.iter().filter(|engine| is_among(engine.name, &names)).collect(),
        None => ENGINES.iter().collect(),
    };
    let chosen: Vec<&Work> = match named("work") {
        Some(texts) => {
            let is_wanted = |work: &Work| texts.iter().any(|text| work.name.contains(text.as_str()));
            let others = WORK[ALWAYS..].iter().filter(|work| is_wanted(work));
            WORK[..ALWAYS].iter().chain(others).collect()
        }
        None => WORK.iter().collect(),
    };
    let mut figures = vec![vec![Vec::new(); engines.len()]; chosen.len()];
    let (began, rounds) = (Instant::now(), number("rounds"));
    for round in 1..=rounds {
        for (place, engine) in engines.iter().enumerate() {
            let mut bench = Bench::new(&settings, engine)
                .map_err(|error| format!("--data {}: {error}", settings.directory.display()))?;
            for (line, work) in chosen.iter().enumerate() {
                let seconds = began.elapsed().as_secs();
                eprint!("\r\x1b[K{seconds} s, round {round} of {rounds}, {}: {}", engine.name, work.name);
                // A terminal that is gone is no reason to stop.
                let _ = std::io::stderr().flush();
                let figure =
                    bench.run(work).map_err(|error| format!("{}, {}: {error}", engine.name, work.name))?;
                figures[line][place].push(figure);
            }
            bench.end()?;
        }
    }
    eprintln!("\r\x1b[K{} s", began.elapsed().as_secs());
    print(&settings, rounds, &engines, &chosen, figures);
    Ok(())
}

fn is_among(name: &str, names: &[String]) -> bool {
    names.iter().any(|wanted| wanted.eq_ignore_ascii_case(name))
}

fn print(
    settings: &Settings,
    rounds: u64,
    engines: &[&Engine],
    chosen: &[&Work],
    figures: Vec<Vec<Vec<f64>>>,
) {
    let system = rustix::system::uname();
    println!(
        "{} CPUs, Linux {}. {} rows of {} bytes with their keys, medians of {rounds} rounds of {} s. Caches of {} and {} MB.\n",
        std::thread::available_parallelism().map_or(1, usize::from),
        system.release().to_string_lossy(),
        settings.rows,
        settings.plain_bytes() / settings.rows,
        settings.seconds,
        settings.large_cache_bytes() >> 20,
        settings.small_cache_bytes() >> 20,
    );
    let names: Vec<&str> = engines.iter().map(|engine| engine.name).collect();
    println!("| work | {} | {} to the best other |", names.join(" | "), names[0]);
    println!("|---|{}", "---|".repeat(names.len() + 1));
    for (work, numbers) in chosen.iter().zip(figures) {
        let medians: Vec<f64> = numbers.into_iter().map(median).collect();
        let of_best = medians[1..]
            .iter()
            .map(|other| match work.better {
                Better::More => medians[0] / other,
                Better::Less => other / medians[0],
            })
            .min_by(f64::total_cmp);
        let cells: Vec<String> = medians.iter().map(|figure| in_digits(*figure)).collect();
        let of_best = of_best.map_or_else(String::new, |of_best| format!("{of_best:.2}"));
        println!("| {} | {} | {of_best} |", work.name, cells.join(" | "));
    }
}

fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    if numbers.len() % 2 == 1 { numbers[middle] } else { f64::midpoint(numbers[middle - 1], numbers[middle]) }
}

/// With commas between thousands, or two digits behind the point.
fn in_digits(figure: f64) -> String {
    if figure < 100.0 {
        return format!("{figure:.2}");
    }
    let digits = format!("{figure:.0}");
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
