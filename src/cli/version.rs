//! `photondb version`.

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{CommandRow, Shown};
use crate::{Program, RETHINKDB_VERSION};

pub static VERSION: CommandRow = CommandRow {
    path: &["version"],
    about: "Print the version",
    examples: "",
    shown: Shown::Yes,
    arguments,
    run,
};

fn arguments(command: Command) -> Command {
    command.arg(Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON"))
}

fn run(program: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    if matches.get_flag("json") {
        let version = serde_json::json!({ "photondb": crate::VERSION, "rethinkdb": RETHINKDB_VERSION });
        return super::output::print_json(&version);
    }
    super::output::print_line(&program.version_line())
}
