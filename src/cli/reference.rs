//! `photondb reference PAGE`: prints a generated page of docs/reference; for those who change the program.

use clap::{Arg, ArgMatches, Command};

use super::{CommandRow, Shown};
use crate::Program;
use crate::reference::PAGES;

pub static REFERENCE: CommandRow = CommandRow {
    path: &["reference"],
    about: "Print a generated page of docs/reference",
    examples: "",
    shown: Shown::No,
    arguments,
    run,
};

fn arguments(command: Command) -> Command {
    let names: Vec<&str> = PAGES.iter().map(|page| page.name).collect();
    command.arg(Arg::new("page").required(true).value_name("PAGE").value_parser(names))
}

fn run(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let name = matches.get_one::<String>("page").expect("required");
    let page = PAGES.iter().find(|page| page.name == name).expect("checked by the parser");
    super::output::print_text(&(page.write)())
}
