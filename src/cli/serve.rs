//! `photondb serve`: run the server until it is told to stop.

use clap::{ArgMatches, Command};

use super::{CommandRow, Shown, settings};
use crate::Program;
use crate::boot;
use crate::config::SERVE as SETTINGS;
use crate::config::machine::Machine;
use crate::config::serve::serve_config;

pub static SERVE: CommandRow = CommandRow {
    path: &["serve"],
    about: "Run the server (what happens without a command too)",
    examples: "  photondb serve --dev-mode
  photondb serve --data-dir /var/lib/photondb --cache-size 4096
  photondb serve --bind all --initial-password auto
  photondb serve --config /etc/photondb.toml

Each setting can also be given as PHOTONDB_X or RETHINKDB_X in the environment (--data-dir as
PHOTONDB_DATA_DIR), or in the TOML file. Flags win, then the environment, then the file.",
    shown: Shown::Yes,
    arguments,
    run,
};

fn arguments(command: Command) -> Command {
    settings::with_foreign_flags(settings::with_flags(command, SETTINGS))
}

fn run(program: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    for warning in settings::environment_warnings() {
        eprintln!("{}: warning: {warning}", program.name());
    }
    let values = settings::serve_values(matches)?;
    let config = serve_config(&values, &Machine::ask())?;
    boot::serve(program, &config)
}
