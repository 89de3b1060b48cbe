//! The command line: one table of commands, one file per command.
//!
//! Always: a failure is one sentence on standard error and a non-zero exit (1 when the work failed, 2 when the command
//! line itself is wrong). No subcommand means `serve`, as with RethinkDB's binary, so every flag of `serve` may follow
//! the program's name directly.

mod check;
mod connection;
mod db;
mod output;
mod reference;
mod reshard;
mod script_worker;
mod serve;
mod settings;
mod table;
mod version;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::Program;

/// One command of the program.
pub struct CommandRow {
    /// Its words: `["db", "create"]`.
    pub path: &'static [&'static str],
    pub about: &'static str,
    pub examples: &'static str,
    /// Whether `--help` lists it.
    pub shown: Shown,
    pub arguments: fn(Command) -> Command,
    pub run: fn(Program, &ArgMatches) -> anyhow::Result<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Yes,
    No,
}

/// Every command, in the order of the help.
pub static COMMANDS: &[&CommandRow] = &[
    &serve::SERVE,
    &db::CREATE,
    &db::DROP,
    &db::LIST,
    &db::INFO,
    &table::CREATE,
    &table::DROP,
    &table::LIST,
    &table::INFO,
    &check::CHECK,
    &reshard::RESHARD,
    &version::VERSION,
    &reference::REFERENCE,
    &script_worker::SCRIPT_WORKER,
];

/// Words that hold commands of their own.
const GROUPS: &[(&str, &str)] = &[
    ("db", "Create, drop, list and describe databases"),
    ("table", "Create, drop, list and describe tables"),
];

/// A command of the `rethinkdb` binary that this program does not have.
struct ForeignCommand {
    name: &'static str,
    instead: Instead,
}

enum Instead {
    Nothing(&'static str),
    /// The program `rethinkdb-NAME` of the Python package, as with RethinkDB's binary.
    Tool,
}

const FOREIGN_COMMANDS: &[ForeignCommand] = &[
    ForeignCommand {
        name: "create",
        instead: Instead::Nothing("`serve` creates the data directory when it is missing"),
    },
    ForeignCommand { name: "proxy", instead: Instead::Nothing("this version runs single servers") },
    ForeignCommand { name: "export", instead: Instead::Tool },
    ForeignCommand { name: "import", instead: Instead::Tool },
    ForeignCommand { name: "dump", instead: Instead::Tool },
    ForeignCommand { name: "restore", instead: Instead::Tool },
    ForeignCommand { name: "index-rebuild", instead: Instead::Tool },
    ForeignCommand { name: "repl", instead: Instead::Tool },
];

impl ForeignCommand {
    fn tool(&self) -> String {
        format!("rethinkdb-{}", self.name)
    }

    fn refusal(&self) -> String {
        let instead = match self.instead {
            Instead::Nothing(instead) => instead.to_owned(),
            Instead::Tool => {
                format!("install the Python package `rethinkdb`, whose program `{}` it runs", self.tool())
            }
        };
        format!("PhotonDB has no command `{}` of its own: {instead}", self.name)
    }
}

fn foreign_command(name: &str) -> Option<&'static ForeignCommand> {
    FOREIGN_COMMANDS.iter().find(|foreign| foreign.name == name)
}

/// Becomes the tool, if there is one and it is installed.
fn run_foreign(program: Program, foreign: &ForeignCommand, arguments: &[OsString]) -> ExitCode {
    match foreign.instead {
        Instead::Nothing(_) => fail(program, &foreign.refusal(), 2),
        Instead::Tool => {
            let error = std::process::Command::new(foreign.tool()).args(arguments).exec();
            match error.kind() {
                std::io::ErrorKind::NotFound => fail(program, &foreign.refusal(), 2),
                _ => fail(program, &format!("`{}` cannot be run: {error}", foreign.tool()), 1),
            }
        }
    }
}

/// Runs the program with the arguments of the process.
pub fn main(program: Program) -> ExitCode {
    let mut arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let first = arguments.first().map(|first| first.to_string_lossy().into_owned());
    if means_serve(first.as_deref()) {
        arguments.insert(0, "serve".into());
    }
    if let Some(foreign) = first.as_deref().and_then(foreign_command) {
        return run_foreign(program, foreign, &arguments[1..]);
    }
    let asked = arguments.get(1).map(|word| word.to_string_lossy().into_owned());
    if let (Some("help"), Some(foreign)) = (first.as_deref(), asked.as_deref().and_then(foreign_command)) {
        return fail(program, &foreign.refusal(), 2);
    }
    let command = command_line(program);
    let matches = match command.try_get_matches_from(std::iter::once(program.name().into()).chain(arguments))
    {
        Ok(matches) => matches,
        Err(error) => return misused(&error),
    };
    if matches.get_flag("version") {
        return ended(program, output::print_line(&program.version_line()));
    }
    let (row, matches) = chosen(&matches);
    ended(program, (row.run)(program, matches))
}

fn ended(program: Program, result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(program, &format!("{error:#}"), 1),
    }
}

/// No word at all, or a flag that is not one of the program's own.
fn means_serve(first: Option<&str>) -> bool {
    match first {
        None => true,
        Some("-h" | "--help" | "-v" | "-V" | "--version") => false,
        Some(word) => word.starts_with('-'),
    }
}

fn fail(program: Program, sentence: &str, code: u8) -> ExitCode {
    eprintln!("{}: {sentence}", program.name());
    ExitCode::from(code)
}

/// Prints help where it was asked for, and otherwise what is wrong with the command line.
fn misused(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(2),
    }
}

fn chosen(matches: &ArgMatches) -> (&'static CommandRow, &ArgMatches) {
    let (mut words, mut matches) = (Vec::new(), matches);
    while let Some((word, inner)) = matches.subcommand() {
        words.push(word.to_owned());
        matches = inner;
    }
    let row = COMMANDS.iter().find(|row| row.path == words.as_slice());
    (row.expect("every parsed command is a row"), matches)
}

/// The whole grammar, made from the table.
pub fn command_line(program: Program) -> Command {
    let mut root = Command::new(program.name())
        .about("A realtime document database that every RethinkDB driver can talk to")
        .override_usage(format!("{0} [COMMAND] [OPTIONS]\n       {0} [OPTIONS OF serve]", program.name()))
        .after_help(format!(
            "Without a command, {0} serves. `{0} serve --help` lists its settings.\n\n{EXAMPLES}",
            program.name()
        ))
        .disable_version_flag(true)
        .max_term_width(100)
        .arg(
            Arg::new("version")
                .long("version")
                .short('v')
                .visible_short_alias('V')
                .action(ArgAction::SetTrue)
                .exclusive(true)
                .help("Print version"),
        );
    for row in COMMANDS {
        match row.path {
            [_] => root = root.subcommand(row_command(row)),
            [group, _] => {
                root = match root.find_subcommand(*group) {
                    Some(_) => root,
                    None => root.subcommand(group_command(group)),
                };
                root = root.mut_subcommand(*group, |command| command.subcommand(row_command(row)));
            }
            longer => unreachable!("no command has the path {longer:?}"),
        }
    }
    root
}

const EXAMPLES: &str = "\
Examples:
  photondb                                  serve on this machine, data in ./photondb_data
  photondb serve --bind all --initial-password auto
  photondb db create shop
  photondb table create --db shop --primary-key sku products
  photondb table info --db shop products --json";

fn group_command(group: &'static str) -> Command {
    let about = GROUPS.iter().find(|(name, _)| *name == group).map(|(_, about)| *about);
    Command::new(group)
        .about(about.expect("every group is listed"))
        .subcommand_required(true)
        .arg_required_else_help(true)
}

fn row_command(row: &'static CommandRow) -> Command {
    let name = row.path.last().expect("a path is not empty");
    let mut command = Command::new(*name).about(row.about).hide(row.shown == Shown::No);
    if !row.examples.is_empty() {
        command = command.after_help(format!("Examples:\n{}", row.examples));
    }
    (row.arguments)(command)
}

/// docs/reference/commands.md.
pub fn commands_page() -> String {
    let mut page = String::from(
        "# Commands\n\n<!-- Made from src/cli by `photondb reference commands`; a test keeps it fresh. -->\n\n\
         `rethinkdb` is the same program under its old name.\n",
    );
    let mut root = command_line(Program::Photondb).term_width(100);
    root.build();
    add_help(&mut page, "photondb", &mut root.clone());
    for row in COMMANDS.iter().filter(|row| row.shown == Shown::Yes) {
        let mut command = root.clone();
        for word in row.path {
            command = command.find_subcommand(word).expect("a row is a command").clone();
        }
        add_help(&mut page, &format!("photondb {}", row.path.join(" ")), &mut command);
    }
    page
}

fn add_help(page: &mut String, title: &str, command: &mut Command) {
    let help = command.clone().term_width(100).render_help().to_string();
    page.push_str(&format!("\n## `{title}`\n\n```text\n{}\n```\n", help.trim_end()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        command_line(Program::Photondb).debug_assert();
    }

    #[test]
    fn the_commands_page_is_fresh() {
        crate::reference::check_fresh("commands", &commands_page());
    }

    #[track_caller]
    fn check_parses(line: &str, want: Result<&[&str], ErrorKind>) {
        let words = std::iter::once("photondb").chain(line.split_whitespace());
        let found = command_line(Program::Photondb).try_get_matches_from(words);
        match (found, want) {
            (Ok(matches), Ok(path)) => assert_eq!(chosen(&matches).0.path, path, "{line}"),
            (Err(error), Err(kind)) => assert_eq!(error.kind(), kind, "{line}: {error}"),
            (Ok(_), Err(kind)) => panic!("{line} was accepted, want {kind:?}"),
            (Err(error), Ok(_)) => panic!("{line}: {error}"),
        }
    }

    #[test]
    fn a_command_line_is_a_row_or_a_mistake() {
        check_parses("serve", Ok(&["serve"]));
        check_parses("serve --port 1 -d x --bind all --bind 10.0.0.1", Ok(&["serve"]));
        check_parses("serve --directory x --no-http-admin -o 3 -c 2 -n a", Ok(&["serve"]));
        check_parses("serve --io-threads 64 --daemon", Ok(&["serve"]));
        check_parses("serve --driver-prt 1", Err(ErrorKind::UnknownArgument));
        check_parses("serve extra", Err(ErrorKind::UnknownArgument));
        check_parses("serve --data-dir", Err(ErrorKind::InvalidValue));
        check_parses("db create shop", Ok(&["db", "create"]));
        check_parses("db create", Err(ErrorKind::MissingRequiredArgument));
        check_parses("db drop shop --force", Ok(&["db", "drop"]));
        check_parses("db list --json --host h --driver-port 1 --user u --password p", Ok(&["db", "list"]));
        check_parses("db list --force", Err(ErrorKind::UnknownArgument));
        check_parses("db destroy", Err(ErrorKind::InvalidSubcommand));
        check_parses("db", Err(ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand));
        check_parses("table create t --db d --primary-key k", Ok(&["table", "create"]));
        check_parses("table list --db d", Ok(&["table", "list"]));
        check_parses("table info t --primary-key k", Err(ErrorKind::UnknownArgument));
        check_parses("check data --json", Ok(&["check"]));
        check_parses("check", Err(ErrorKind::MissingRequiredArgument));
        check_parses("reshard data --stores 8", Ok(&["reshard"]));
        check_parses("reshard data --stores 0", Err(ErrorKind::ValueValidation));
        check_parses("version", Ok(&["version"]));
        check_parses("--help", Err(ErrorKind::DisplayHelp));
        check_parses("serve --help", Err(ErrorKind::DisplayHelp));
        check_parses("frobnicate", Err(ErrorKind::InvalidSubcommand));
    }

    #[test]
    fn a_version_needs_no_command() {
        for flag in ["-v", "-V", "--version"] {
            let matches = command_line(Program::Rethinkdb).try_get_matches_from(["rethinkdb", flag]);
            assert!(matches.expect("a command line").get_flag("version"), "{flag}");
        }
        assert!(Program::Rethinkdb.version_line().starts_with("rethinkdb 2.4"));
        assert!(Program::Photondb.version_line().starts_with("photondb "));
    }

    #[test]
    fn flags_without_a_command_are_those_of_serve() {
        for (first, want) in [
            (None, true),
            (Some("-d"), true),
            (Some("--bind=all"), true),
            (Some("db"), false),
            (Some("-v"), false),
        ] {
            assert_eq!(means_serve(first), want, "{first:?}");
        }
    }

    #[test]
    fn every_option_of_the_old_binary_is_taken_or_refused_by_name() {
        let serve = command_line(Program::Rethinkdb).find_subcommand("serve").expect("serve").clone();
        let known = |name: &str| {
            serve.get_arguments().any(|argument| {
                argument.get_long() == Some(name)
                    || argument.get_all_aliases().is_some_and(|aliases| aliases.contains(&name))
            })
        };
        for name in OLD_OPTIONS.split_whitespace() {
            assert!(known(name), "--{name} is unknown");
        }
    }

    const OLD_OPTIONS: &str = "directory server-name server-tag io-threads direct-io no-direct-io cache-size \
        initial-password log-file no-update-check config-file bind bind-cluster bind-driver bind-http no-default-bind \
        cluster-port driver-port http-port client-port port-offset join join-delay cluster-reconnect-timeout \
        canonical-address reql-http-proxy web-static-directory no-http-admin cores pid-file daemon runuser rungroup \
        http-tls-key http-tls-cert driver-tls-key driver-tls-cert driver-tls-ca cluster-tls-key cluster-tls-cert \
        cluster-tls-ca tls-min-protocol tls-ciphers tls-ecdh-curve tls-dhparams";
}
