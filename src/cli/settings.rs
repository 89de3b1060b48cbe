//! Settings as flags: arguments made from a table, and the sources gathered from a parsed command line and the process.

use std::collections::BTreeMap;
use std::path::Path;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::config::layers::{FileText, Sources, Values, resolve, unknown_variables};
use crate::config::{ConfigError, FOREIGN, Fallback, Kind, SERVE, Setting};

/// Adds a flag for each setting of a table.
pub fn with_flags(command: Command, table: &'static [Setting]) -> Command {
    let mut command = command.next_line_help(false);
    for setting in table {
        command = command.arg(flag(setting));
    }
    command
}

/// Adds the flags that are refused by name, unseen in the help.
pub fn with_foreign_flags(command: Command) -> Command {
    let foreign = FOREIGN.iter().map(|foreign| {
        let argument =
            Arg::new(foreign.name).long(foreign.name).hide(true).num_args(0..=1).action(ArgAction::Append);
        match foreign.short {
            Some(short) => argument.short(short),
            None => argument,
        }
    });
    command.args(foreign)
}

fn flag(setting: &'static Setting) -> Arg {
    let default = match setting.fallback {
        Fallback::Text(_) if setting.kind == Kind::Switch => String::new(),
        Fallback::Text(text) => format!(" [default: {text}]"),
        Fallback::Nothing(_) => String::new(),
    };
    let also = match setting.aliases {
        [] => String::new(),
        aliases => format!(" [also: --{}]", aliases.join(", --")),
    };
    let mut argument = Arg::new(setting.name)
        .long(setting.name)
        .aliases(setting.aliases.iter().copied())
        .help(format!("{}{default}{also}", setting.help))
        .help_heading(setting.group.title());
    if let Some(short) = setting.short {
        argument = argument.short(short);
    }
    match setting.kind {
        Kind::Switch => argument.action(ArgAction::SetTrue),
        Kind::Whole { .. } | Kind::WholeOrAuto { .. } => {
            argument.value_name(setting.value_name).action(ArgAction::Append).allow_negative_numbers(true)
        }
        Kind::Text | Kind::Choice(_) | Kind::Path | Kind::Addresses => {
            argument.value_name(setting.value_name).action(ArgAction::Append)
        }
    }
}

/// The settings of `serve` from everywhere: the command line, the process's environment and the settings file.
pub fn serve_values(matches: &ArgMatches) -> Result<Values, ConfigError> {
    refuse_foreign(matches)?;
    let mut sources = sources(SERVE, matches);
    if let Some(path) = resolve(SERVE, &sources)?.path("config") {
        sources.file = Some(read_settings_file(path)?);
    }
    resolve(SERVE, &sources)
}

/// The settings of a client command: they know no file.
pub fn client_values(table: &'static [Setting], matches: &ArgMatches) -> Result<Values, ConfigError> {
    resolve(table, &sources(table, matches))
}

/// What is wrong with the process's environment without being an error.
pub fn environment_warnings() -> Vec<String> {
    unknown_variables(&environment())
}

fn read_settings_file(path: &Path) -> Result<FileText, ConfigError> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(FileText { name, text }),
        Err(error) => Err(ConfigError::File { file: name, reason: error.to_string() }),
    }
}

fn refuse_foreign(matches: &ArgMatches) -> Result<(), ConfigError> {
    let given = |name: &str| matches.value_source(name) == Some(ValueSource::CommandLine);
    match FOREIGN.iter().find(|foreign| given(foreign.name)) {
        Some(foreign) => {
            Err(ConfigError::Foreign { place: format!("--{}", foreign.name), instead: foreign.instead })
        }
        None => Ok(()),
    }
}

fn sources(table: &'static [Setting], matches: &ArgMatches) -> Sources {
    let mut flags = BTreeMap::new();
    for setting in table {
        if matches.value_source(setting.name) != Some(ValueSource::CommandLine) {
            continue;
        }
        let texts = match setting.kind {
            Kind::Switch => vec![matches.get_flag(setting.name).to_string()],
            Kind::Whole { .. }
            | Kind::WholeOrAuto { .. }
            | Kind::Text
            | Kind::Choice(_)
            | Kind::Path
            | Kind::Addresses => {
                matches.get_many::<String>(setting.name).into_iter().flatten().cloned().collect()
            }
        };
        flags.insert(setting.name.to_owned(), texts);
    }
    Sources { flags, environment: environment(), file: None }
}

/// The variables that may be settings; one that is no UTF-8 is none of ours.
fn environment() -> BTreeMap<String, String> {
    std::env::vars_os()
        .filter_map(|(name, text)| Some((name.into_string().ok()?, text.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("PHOTONDB_") || name.starts_with("RETHINKDB_"))
        .collect()
}
