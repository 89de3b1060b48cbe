//! docs/reference/settings.md, made from the tables.

use std::fmt::Write;

use super::layers::variable;
use super::{CLIENT, FOREIGN, Fallback, Group, SERVE, Setting};

/// The whole page.
pub fn settings_page() -> String {
    let mut page = String::from(INTRODUCTION);
    page.push_str("\n## The server\n");
    for group in Group::ALL {
        group_section(&mut page, SERVE, group);
    }
    page.push_str(
        "\n## The commands that talk to a server\n\nFlags of `db` and `table`; from the environment too, but not from a \
         settings file.\n",
    );
    group_section(&mut page, CLIENT, Group::Connection);
    page.push_str(
        "\n## Options of the `rethinkdb` binary that are refused\n\n| option | instead |\n|---|---|\n",
    );
    for foreign in FOREIGN {
        writeln!(page, "| `--{}` | {} |", foreign.name, foreign.instead).expect("a string");
    }
    page
}

const INTRODUCTION: &str = "# Settings

<!-- Made from src/config.rs by `photondb reference settings`; a test keeps it fresh. -->

Each setting can be given as a flag, in the environment, or in the TOML file that `--config` names. A flag wins over
`PHOTONDB_X`, that over `RETHINKDB_X`, that over the file, that over the default. In the file keys may be written with
dashes or underscores; a key that is no setting is an error. A switch is `true` or `false` in the environment and the
file; as a flag it stands alone.

```toml
# photondb.toml
bind = [\"10.0.0.5\"]
data-dir = \"/var/lib/photondb\"
cache-size = 4096
```
";

fn group_section(page: &mut String, table: &[Setting], group: Group) {
    let mut settings = table.iter().filter(|setting| setting.group == group).peekable();
    if settings.peek().is_none() {
        return;
    }
    writeln!(page, "\n### {}", group.title()).expect("a string");
    for setting in settings {
        setting_entry(page, setting);
    }
}

fn setting_entry(page: &mut String, setting: &Setting) {
    let short = setting.short.map(|short| format!(", `-{short}`")).unwrap_or_default();
    writeln!(page, "\n#### `--{}`{short}\n\n{}.", setting.name, setting.help).expect("a string");
    if !setting.more.is_empty() {
        writeln!(page, "\n{}", setting.more).expect("a string");
    }
    let default = match setting.fallback {
        Fallback::Text(text) => format!("`{text}`"),
        Fallback::Nothing(meaning) => meaning.to_owned(),
    };
    writeln!(page, "\n- Value: {}", setting.kind.describe()).expect("a string");
    writeln!(page, "- Default: {default}").expect("a string");
    writeln!(page, "- Environment: `{}`", variable("PHOTONDB", setting.name)).expect("a string");
    if !setting.aliases.is_empty() {
        let aliases: Vec<String> = setting.aliases.iter().map(|alias| format!("`--{alias}`")).collect();
        writeln!(page, "- Also called: {}", aliases.join(", ")).expect("a string");
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_settings_page_is_fresh() {
        crate::reference::check_fresh("settings", &super::settings_page());
    }
}
