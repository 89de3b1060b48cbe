//! `photondb check DIR`.

use std::path::PathBuf;

use anyhow::bail;
use clap::{Arg, ArgMatches, Command, value_parser};
use photondb_runtime::offline::check::{Checked, Damage, check};
use serde_json::json;

use super::db::json_flag;
use super::output::ProgressBar;
use super::{CommandRow, Shown, output};
use crate::Program;

pub static CHECK: CommandRow = CommandRow {
    path: &["check"],
    about: "Verify a data directory that no server is running on",
    examples: "  photondb check ./photondb_data\n  photondb check ./photondb_data --json",
    shown: Shown::Yes,
    arguments: |command| arguments(command),
    run,
};

/// The data directory of an offline command.
pub fn directory() -> Arg {
    Arg::new("directory")
        .required(true)
        .value_name("DIR")
        .value_parser(value_parser!(PathBuf))
        .help("The data directory; no server may be running on it")
}

fn arguments(command: Command) -> Command {
    command.arg(directory()).arg(json_flag().help("Print JSON instead of text"))
}

fn run(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let directory = matches.get_one::<PathBuf>("directory").expect("required");
    let mut bar = ProgressBar::new();
    let checked =
        check(directory, &mut |store, done, total| bar.show(&format!("store {store}"), done, total));
    bar.end();
    let checked = checked?;
    match matches.get_flag("json") {
        true => output::print_json(&as_json(&checked))?,
        false => output::print_text(&as_text(&checked))?,
    }
    match checked.damage_count {
        0 => Ok(()),
        1 => bail!("one thing is damaged"),
        count => bail!("{count} things are damaged"),
    }
}

fn as_json(checked: &Checked) -> serde_json::Value {
    let damage = |damage: &Damage| {
        json!({
            "store": damage.store,
            "file": damage.file,
            "offset": damage.offset,
            "table": damage.table,
            "key": damage.key,
            "what": damage.what,
        })
    };
    json!({
        "stores": checked.stores,
        "tables": checked.tables,
        "entries": checked.entries,
        "pages": checked.pages,
        "slots": checked.slots,
        "log_records": checked.log_records,
        "bytes_read": checked.bytes_read,
        "orphan_bytes": checked.orphan_bytes,
        "damage_count": checked.damage_count,
        "damage": checked.damage.iter().map(damage).collect::<Vec<_>>(),
    })
}

fn as_text(checked: &Checked) -> String {
    let mut text = String::new();
    for damage in &checked.damage {
        text.push_str(&format!("{}, offset {}", damage.file, damage.offset));
        if let Some(table) = &damage.table {
            text.push_str(&format!(", table {table}"));
        }
        if let Some(key) = &damage.key {
            text.push_str(&format!(", document {key}"));
        }
        text.push_str(&format!(": {}\n", damage.what));
    }
    text.push_str(&format!(
        "{} table(s) in {} store(s): {} entries, {} pages, {} slots and {} log records verified, {} bytes read, {} bytes in use \
         by nothing.\n",
        checked.tables,
        checked.stores,
        checked.entries,
        checked.pages,
        checked.slots,
        checked.log_records,
        checked.bytes_read,
        checked.orphan_bytes,
    ));
    text
}
