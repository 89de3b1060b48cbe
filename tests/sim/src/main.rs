//! Runs many seeds on all cores, or one seed again with everything it does: `photondb-sim --seeds 100000`,
//! `photondb-sim --seed 17 --trace`.
//!
//! Always: a seed that fails is printed with what it broke and how to run it again, and the exit says so.

use std::io::Write;
use std::panic::catch_unwind;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::{Arg, ArgAction, ArgMatches, Command, value_parser};
use photondb_sim::Trace;
use photondb_sim::plan::Plan;
use photondb_sim::trial::{Flaw, Met, run};

fn command() -> Command {
    let number = |name: &'static str, help: &'static str| {
        Arg::new(name).long(name).value_parser(value_parser!(u64)).value_name("N").help(help)
    };
    Command::new("photondb-sim")
        .about("Tries to break a store of PhotonDB on a simulated disk")
        .arg(number("seeds", "Run so many seeds [default: 10000]"))
        .arg(number("from", "The first of them [default: 0]"))
        .arg(number("seed", "Run this seed alone").conflicts_with_all(["seeds", "from"]))
        .arg(
            Arg::new("trace")
                .long("trace")
                .action(ArgAction::SetTrue)
                .requires("seed")
                .help("Print its plan and every operation of the disk"),
        )
        .arg(number("threads", "Run on so many threads [default: the machine's cores]"))
}

fn main() -> ExitCode {
    let matches = command().get_matches();
    let number = |name: &str| matches.get_one::<u64>(name).copied();
    match number("seed") {
        Some(seed) => run_one(seed, &matches),
        None => run_many(number("from").unwrap_or(0), number("seeds").unwrap_or(10_000), number("threads")),
    }
}

fn run_one(seed: u64, matches: &ArgMatches) -> ExitCode {
    let trace = if matches.get_flag("trace") { Trace::Printed } else { Trace::Off };
    match catch_unwind(|| run(seed, trace, Flaw::None)) {
        Ok(met) => {
            println!("seed {seed} holds: {met:?}");
            ExitCode::SUCCESS
        }
        Err(_) => {
            println!("{:#?}\nseed {seed} fails", Plan::draw(seed));
            ExitCode::FAILURE
        }
    }
}

/// What the threads share.
struct Progress {
    next: AtomicU64,
    done: AtomicU64,
    ended: AtomicBool,
    failed: Mutex<Vec<u64>>,
    met: Mutex<Met>,
}

fn run_many(from: u64, seeds: u64, threads: Option<u64>) -> ExitCode {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let threads = threads.unwrap_or(cores).clamp(1, 1024);
    let progress = Progress {
        next: AtomicU64::new(from),
        done: AtomicU64::new(0),
        ended: AtomicBool::new(false),
        failed: Mutex::default(),
        met: Mutex::default(),
    };
    let began = Instant::now();
    std::thread::scope(|scope| {
        let show = scope.spawn(|| show(&progress, seeds, began));
        let workers: Vec<_> =
            (0..threads).map(|_| scope.spawn(|| work(&progress, from.saturating_add(seeds)))).collect();
        workers.into_iter().for_each(|worker| worker.join().expect("its panics are caught"));
        progress.ended.store(true, Ordering::Relaxed);
        show.join().expect("printing does not panic");
    });
    let mut failed = progress.failed.into_inner().expect("no thread is left");
    failed.sort_unstable();
    let met = progress.met.into_inner().expect("no thread is left");
    println!("{seeds} seeds in {:.1} s: {met:?}", began.elapsed().as_secs_f64());
    for seed in &failed {
        println!("seed {seed} fails; see it with --seed {seed} --trace");
    }
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn work(progress: &Progress, end: u64) {
    loop {
        let seed = progress.next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return;
        }
        match catch_unwind(|| run(seed, Trace::Off, Flaw::None)) {
            Ok(met) => progress.met.lock().expect("adding does not panic").add(met),
            Err(_) => progress.failed.lock().expect("pushing does not panic").push(seed),
        }
        progress.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// A line on standard error that grows with the work.
fn show(progress: &Progress, seeds: u64, began: Instant) {
    const WIDTH: u64 = 40;
    loop {
        let ended = progress.ended.load(Ordering::Relaxed);
        let done = progress.done.load(Ordering::Relaxed);
        let filled = (done * WIDTH / seeds.max(1)).min(WIDTH) as usize;
        let (bar, rest) = ("#".repeat(filled), ".".repeat(WIDTH as usize - filled));
        let rate = done as f64 / began.elapsed().as_secs_f64().max(0.001);
        let failed = progress.failed.lock().expect("pushing does not panic").len();
        eprint!("\r[{bar}{rest}] {done} of {seeds} seeds, {rate:.0} a second, {failed} failed ");
        // A terminal that is gone is no reason to stop.
        let _ = std::io::stderr().flush();
        if ended {
            eprintln!();
            return;
        }
        std::thread::sleep(Duration::from_millis(200));
    }
}
