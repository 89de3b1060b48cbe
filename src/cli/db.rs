//! `photondb db create|drop|list|info`.

use clap::{Arg, ArgAction, ArgMatches, Command};
use photondb_proto::term::number;
use serde_json::json;

use super::connection::{self, Connection, call, db, text, texts};
use super::{CommandRow, Shown, output};
use crate::Program;

pub static CREATE: CommandRow = CommandRow {
    path: &["db", "create"],
    about: "Create a database",
    examples: "  photondb db create shop",
    shown: Shown::Yes,
    arguments: |command| with_name(command),
    run: create,
};

pub static DROP: CommandRow = CommandRow {
    path: &["db", "drop"],
    about: "Drop a database with all its tables",
    examples: "  photondb db drop shop\n  photondb db drop shop --force",
    shown: Shown::Yes,
    arguments: |command| with_name(command).arg(super::table::force()),
    run: drop,
};

pub static LIST: CommandRow = CommandRow {
    path: &["db", "list"],
    about: "List the databases",
    examples: "  photondb db list\n  photondb db list --json",
    shown: Shown::Yes,
    arguments: |command| connection::with_flags(command.arg(json_flag())),
    run: list,
};

pub static INFO: CommandRow = CommandRow {
    path: &["db", "info"],
    about: "Describe a database",
    examples: "  photondb db info shop",
    shown: Shown::Yes,
    arguments: |command| with_name(command),
    run: info,
};

pub fn json_flag() -> Arg {
    Arg::new("json").long("json").action(ArgAction::SetTrue).help("Print JSON instead of a table")
}

fn with_name(command: Command) -> Command {
    let name = Arg::new("name").required(true).value_name("NAME").help("The database");
    connection::with_flags(command.arg(name).arg(json_flag()))
}

fn name(matches: &ArgMatches) -> &str {
    matches.get_one::<String>("name").expect("required")
}

fn create(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let name = name(matches);
    let answer = Connection::open(matches)?.run(&call(number::DB_CREATE, &[json!(name)]))?;
    match matches.get_flag("json") {
        true => output::print_json(&answer),
        false => output::print_line(&format!("Created database `{name}`.")),
    }
}

fn drop(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let name = name(matches);
    if !matches.get_flag("force") {
        output::check_can_ask(&format!("database `{name}`"))?;
    }
    let mut connection = Connection::open(matches)?;
    if !matches.get_flag("force") {
        let tables = texts(&connection.run(&call(number::TABLE_LIST, &[db(name)]))?).len();
        output::confirm_drop(&format!("database `{name}` with its {tables} table(s)"))?;
    }
    let answer = connection.run(&call(number::DB_DROP, &[json!(name)]))?;
    match matches.get_flag("json") {
        true => output::print_json(&answer),
        false => output::print_line(&format!(
            "Dropped database `{name}` with {} table(s).",
            text(&answer["tables_dropped"])
        )),
    }
}

fn list(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let mut connection = Connection::open(matches)?;
    let names = connection.run(&call(number::DB_LIST, &[]))?;
    if matches.get_flag("json") {
        return output::print_json(&names);
    }
    let mut rows = Vec::new();
    for name in texts(&names) {
        let tables = texts(&connection.run(&call(number::TABLE_LIST, &[db(&name)]))?).len();
        rows.push(vec![name, tables.to_string()]);
    }
    output::print_rows(&["database", "tables"], &rows)
}

fn info(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let name = name(matches);
    let mut connection = Connection::open(matches)?;
    let config = connection.run(&call(number::CONFIG, &[db(name)]))?;
    let tables = texts(&connection.run(&call(number::TABLE_LIST, &[db(name)]))?);
    if matches.get_flag("json") {
        return output::print_json(&json!({ "id": config["id"], "name": config["name"], "tables": tables }));
    }
    output::print_fields(&[
        ("name", text(&config["name"])),
        ("id", text(&config["id"])),
        ("tables", if tables.is_empty() { "none".to_owned() } else { tables.join(", ") }),
    ])
}
