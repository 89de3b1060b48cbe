//! `photondb table create|drop|list|info`.

use clap::{Arg, ArgAction, ArgMatches, Command};
use photondb_proto::term::number;
use serde_json::{Value, json};

use super::connection::{self, Connection, call, db, table, text, texts};
use super::db::json_flag;
use super::{CommandRow, Shown, output};
use crate::Program;

pub static CREATE: CommandRow = CommandRow {
    path: &["table", "create"],
    about: "Create a table",
    examples: "  photondb table create users
  photondb table create --db shop --primary-key sku products
  photondb table create shop.orders",
    shown: Shown::Yes,
    arguments: |command| with_name(command).arg(primary_key()),
    run: create,
};

pub static DROP: CommandRow = CommandRow {
    path: &["table", "drop"],
    about: "Drop a table with all its documents",
    examples: "  photondb table drop --db shop products\n  photondb table drop shop.products --force",
    shown: Shown::Yes,
    arguments: |command| with_name(command).arg(force()),
    run: drop,
};

pub static LIST: CommandRow = CommandRow {
    path: &["table", "list"],
    about: "List the tables of a database",
    examples: "  photondb table list --db shop",
    shown: Shown::Yes,
    arguments: |command| connection::with_flags(command.arg(db_flag()).arg(json_flag())),
    run: list,
};

pub static INFO: CommandRow = CommandRow {
    path: &["table", "info"],
    about: "Describe a table",
    examples: "  photondb table info --db shop products\n  photondb table info shop.products --json",
    shown: Shown::Yes,
    arguments: |command| with_name(command),
    run: info,
};

/// The flag that drops without asking.
pub fn force() -> Arg {
    Arg::new("force").long("force").short('f').action(ArgAction::SetTrue).help("Drop without asking")
}

fn primary_key() -> Arg {
    Arg::new("primary-key")
        .long("primary-key")
        .value_name("FIELD")
        .help("Field that identifies a document [default: id]")
}

fn db_flag() -> Arg {
    Arg::new("db").long("db").value_name("DB").help("Its database [default: test]")
}

fn with_name(command: Command) -> Command {
    let name = Arg::new("name")
        .required(true)
        .value_name("[DB.]NAME")
        .help("The table; its database may stand before a dot");
    connection::with_flags(command.arg(name).arg(db_flag()).arg(json_flag()))
}

/// Database and table as the command line names them. Names hold no dots, so the first one separates.
fn names(matches: &ArgMatches) -> anyhow::Result<(String, String)> {
    let name = matches.get_one::<String>("name").expect("required");
    let given = matches.get_one::<String>("db").cloned();
    if name.matches('.').count() > 1 || name.starts_with('.') || name.ends_with('.') {
        anyhow::bail!("`{name}` is no table: say NAME or DB.NAME, and neither name holds a dot or is empty")
    }
    match (name.split_once('.'), given) {
        (None, given) => Ok((given.unwrap_or_else(|| "test".to_owned()), name.clone())),
        (Some((before, after)), None) => Ok((before.to_owned(), after.to_owned())),
        (Some((before, after)), Some(given)) if before == given => Ok((given, after.to_owned())),
        (Some((before, _)), Some(given)) => {
            anyhow::bail!("`{name}` names the database `{before}`, but --db says `{given}`: keep one of them")
        }
    }
}

fn create(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let (db_name, name) = names(matches)?;
    let options = match matches.get_one::<String>("primary-key") {
        Some(field) => json!({ "primary_key": field }),
        None => json!({}),
    };
    let term = json!([number::TABLE_CREATE, [db(&db_name), name], options]);
    let answer = Connection::open(matches)?.run(&term)?;
    match matches.get_flag("json") {
        true => output::print_json(&answer),
        false => output::print_line(&format!("Created table `{db_name}.{name}`.")),
    }
}

fn drop(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let (db_name, name) = names(matches)?;
    if !matches.get_flag("force") {
        output::check_can_ask(&format!("table `{db_name}.{name}`"))?;
    }
    let mut connection = Connection::open(matches)?;
    if !matches.get_flag("force") {
        let documents = connection.run(&call(number::COUNT, &[table(&db_name, &name)]))?;
        output::confirm_drop(&format!("table `{db_name}.{name}` with its {} document(s)", text(&documents)))?;
    }
    let answer = connection.run(&call(number::TABLE_DROP, &[db(&db_name), json!(name)]))?;
    match matches.get_flag("json") {
        true => output::print_json(&answer),
        false => output::print_line(&format!("Dropped table `{db_name}.{name}`.")),
    }
}

fn list(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let db_name = matches.get_one::<String>("db").map_or("test", String::as_str);
    let mut connection = Connection::open(matches)?;
    let names = connection.run(&call(number::TABLE_LIST, &[db(db_name)]))?;
    if matches.get_flag("json") {
        return output::print_json(&names);
    }
    let mut rows = Vec::new();
    for name in texts(&names) {
        let info = connection.run(&call(number::INFO, &[table(db_name, &name)]))?;
        rows.push(vec![name, text(&info["primary_key"]), texts(&info["indexes"]).join(", ")]);
    }
    output::print_rows(&["table", "primary key", "indexes"], &rows)
}

fn info(_: Program, matches: &ArgMatches) -> anyhow::Result<()> {
    let (db_name, name) = names(matches)?;
    let mut connection = Connection::open(matches)?;
    let table = table(&db_name, &name);
    let config = connection.run(&call(number::CONFIG, std::slice::from_ref(&table)))?;
    let status = connection.run(&call(number::STATUS, std::slice::from_ref(&table)))?;
    let documents = connection.run(&call(number::COUNT, std::slice::from_ref(&table)))?;
    let ready = status["status"]["all_replicas_ready"].clone();
    if matches.get_flag("json") {
        let mut all = config.as_object().cloned().unwrap_or_default();
        all.insert("documents".to_owned(), documents);
        all.insert("status".to_owned(), status["status"].clone());
        return output::print_json(&Value::Object(all));
    }
    let indexes = texts(&config["indexes"]);
    output::print_fields(&[
        ("name", text(&config["name"])),
        ("database", text(&config["db"])),
        ("id", text(&config["id"])),
        ("primary key", text(&config["primary_key"])),
        ("indexes", if indexes.is_empty() { "none".to_owned() } else { indexes.join(", ") }),
        ("documents", text(&documents)),
        ("durability", text(&config["durability"])),
        ("write acks", text(&config["write_acks"])),
        ("ready", if ready == Value::Bool(true) { "yes".to_owned() } else { "no".to_owned() }),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, want: Result<(&str, &str), &str>) {
        let command = with_name(Command::new("t"));
        let matches =
            command.try_get_matches_from(std::iter::once("t").chain(line.split(' '))).expect("arguments");
        let found = names(&matches).map_err(|error| error.to_string());
        let want = want.map(|(db, name)| (db.to_owned(), name.to_owned())).map_err(str::to_owned);
        assert_eq!(found, want, "{line}");
    }

    #[test]
    fn the_database_stands_in_the_flag_or_before_a_dot() {
        check("users", Ok(("test", "users")));
        check("users --db shop", Ok(("shop", "users")));
        check("shop.users", Ok(("shop", "users")));
        check("shop.users --db shop", Ok(("shop", "users")));
        check(
            "shop.users --db work",
            Err("`shop.users` names the database `shop`, but --db says `work`: keep one of them"),
        );
    }
}
