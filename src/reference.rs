//! The generated pages of docs/reference: each is made from the table that the program itself runs on.

use photondb_query::terms::{self, Determinism, TermDef};

use crate::{cli, config, control};

/// A page that the program can print.
pub struct Page {
    pub name: &'static str,
    pub write: fn() -> String,
}

pub static PAGES: &[Page] = &[
    Page { name: "settings", write: config::reference::settings_page },
    Page { name: "commands", write: cli::commands_page },
    Page { name: "reql", write: reql_page },
    Page { name: "metrics", write: control::metrics::metrics_page },
];

/// Terms of RethinkDB 2.4 that the table may lack yet.
const LATER: &[(u32, &str)] = &[
    (152, "CHANGES"),
    (157, "GEOJSON"),
    (158, "TO_GEOJSON"),
    (159, "POINT"),
    (160, "LINE"),
    (161, "POLYGON"),
    (162, "DISTANCE"),
    (163, "INTERSECTS"),
    (164, "INCLUDES"),
    (165, "CIRCLE"),
    (166, "GET_INTERSECTING"),
    (167, "FILL"),
    (168, "GET_NEAREST"),
    (171, "POLYGON_SUB"),
    (188, "GRANT"),
];

/// docs/reference/reql.md.
fn reql_page() -> String {
    let mut rows: Vec<(u32, String)> = terms::all().map(|def| (def.number, term_row(def))).collect();
    let lacking = LATER.iter().filter(|(number, _)| terms::find(*number).is_none());
    rows.extend(lacking.map(|(number, name)| (*number, format!("| {number} | {name} | | | | not yet |"))));
    rows.sort();
    let rows: Vec<String> = rows.into_iter().map(|(_, row)| row).collect();
    format!("{REQL_INTRODUCTION}{}\n", rows.join("\n"))
}

const REQL_INTRODUCTION: &str = "# ReQL

<!-- Made from shards/query/src/terms by `photondb reference reql`; a test keeps it fresh. -->

Every term by its number on the wire, with how many arguments it takes (what it is called on counts), its options, and when it gives
the same for the same arguments: always, once per query (`now`), on one machine (geometry), or never. Index functions and write hooks take
terms of the first kind alone; updates and replaces those of the second too, and all others with `non_atomic`. A term that reads a table
never counts as giving the same.

| number | term | arguments | options | same result | status |
|---|---|---|---|---|---|
";

fn term_row(def: &TermDef) -> String {
    let (min, max) = (def.arity.min, def.arity.max);
    let arguments = match max {
        Some(max) if max == min => format!("{min}"),
        Some(max) => format!("{min} to {max}"),
        None => format!("{min} or more"),
    };
    let options: Vec<String> = def.options.iter().map(|name| format!("`{name}`")).collect();
    let same = match def.determinism {
        Determinism::Always => "always",
        Determinism::PerQuery => "per query",
        Determinism::PerServer => "per machine",
        Determinism::Never => "never",
    };
    format!("| {} | {} | {arguments} | {} | {same} | works |", def.number, def.name, options.join(", "))
}

/// Fails when the committed page is not what the tables give; with `PHOTONDB_WRITE_REFERENCE` set, writes it instead.
#[cfg(test)]
#[track_caller]
pub fn check_fresh(name: &str, page: &str) {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let path = root.join(format!("docs/reference/{name}.md"));
    if std::env::var_os("PHOTONDB_WRITE_REFERENCE").is_some() {
        std::fs::write(&path, page).expect("the page can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == page,
        "docs/reference/{name}.md is stale: run `cargo run -- reference {name} > docs/reference/{name}.md`"
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_reql_page_is_fresh() {
        super::check_fresh("reql", &super::reql_page());
    }
}
