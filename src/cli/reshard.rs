//! `photondb reshard DIR`.

use std::path::PathBuf;

use clap::{Arg, ArgMatches, Command, value_parser};
use photondb_runtime::offline::reshard::reshard;
use serde_json::json;

use super::check::directory;
use super::db::json_flag;
use super::output::ProgressBar;
use super::{CommandRow, Shown, output};
use crate::Program;

pub static RESHARD: CommandRow = CommandRow {
    path: &["reshard"],
    about: "Spread the shards of a data directory that no server is running on over other cores",
    examples: "  photondb reshard ./photondb_data\n  photondb reshard ./photondb_data --stores 8",
    shown: Shown::Yes,
    arguments: |command| arguments(command),
    run,
};

fn arguments(command: Command) -> Command {
    let stores = Arg::new("stores")
        .long("stores")
        .value_name("N")
        .value_parser(value_parser!(u16).range(1..=1024))
        .help("Spread them over so many stores, one for each core that will serve [default: the machine's cores]");
    command.arg(directory()).arg(stores).arg(json_flag().help("Print JSON instead of text"))
}

fn run(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let directory = matches.get_one::<PathBuf>("directory").expect("required");
    let cores = || std::thread::available_parallelism().map_or(1, |cores| cores.get().min(1024) as u16);
    let stores = matches.get_one::<u16>("stores").copied().unwrap_or_else(cores);
    let mut bar = ProgressBar::new();
    let done = reshard(directory, stores, &mut |done, total| bar.show("moving", done, total));
    bar.end();
    let done = done?;
    if matches.get_flag("json") {
        return output::print_json(&json!({
            "stores": done.stores,
            "shards_moved": done.shards_moved,
            "entries_moved": done.entries_moved,
            "stores_removed": done.stores_removed,
        }));
    }
    output::print_line(&format!(
        "{} shard(s) with {} entries were moved; {} store(s) now, {} removed.",
        done.shards_moved, done.entries_moved, done.stores, done.stores_removed
    ))
}
