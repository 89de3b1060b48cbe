//! The generated pages of docs/reference: each is made from the table that the program itself runs on.

use crate::{cli, config, control};

/// A page that the program can print.
pub struct Page {
    pub name: &'static str,
    pub write: fn() -> String,
}

pub static PAGES: &[Page] = &[
    Page { name: "settings", write: config::reference::settings_page },
    Page { name: "commands", write: cli::commands_page },
    Page { name: "metrics", write: control::metrics::metrics_page },
];

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
