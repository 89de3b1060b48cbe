//! What commands print: tables for people, JSON for programs, and the question before something is destroyed.
//!
//! Always: results go to standard output and nothing else does, so `--json` can be piped. A reader that went away is no
//! failure of ours to speak of, but the exit says so.

use std::io::{BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;

pub fn print_text(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("cannot write to standard output")
}

pub fn print_line(line: &str) -> anyhow::Result<()> {
    print_text(&format!("{line}\n"))
}

pub fn print_json(value: &Value) -> anyhow::Result<()> {
    print_line(&serde_json::to_string_pretty(value).expect("a JSON value prints"))
}

/// A table with a heading line.
pub fn print_rows(heading: &[&str], rows: &[Vec<String>]) -> anyhow::Result<()> {
    print_text(&table_text(heading, rows))
}

/// Pairs of a name and a value, one a line.
pub fn print_fields(fields: &[(&str, String)]) -> anyhow::Result<()> {
    let width = fields.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    let lines = fields.iter().map(|(name, value)| format!("{name:width$}  {}\n", plain(value)));
    print_text(&lines.collect::<String>())
}

fn table_text(heading: &[&str], rows: &[Vec<String>]) -> String {
    let heading: Vec<String> = heading.iter().map(|name| name.to_uppercase()).collect();
    let lines: Vec<Vec<String>> = std::iter::once(&heading)
        .chain(rows)
        .map(|line| line.iter().map(|cell| plain(cell)).collect())
        .collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> =
            line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// Text from a server without the control characters that would play tricks on the terminal.
fn plain(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// Refuses where nobody can be asked, before anything is done.
pub fn check_can_ask(what: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("will not drop {what} unasked, and this is no terminal to ask at: add --force to drop it");
    }
    Ok(())
}

/// Asks before something is destroyed. `what` completes "Drop …?".
pub fn confirm_drop(what: &str) -> anyhow::Result<()> {
    let (mut stderr, stdin) = (std::io::stderr().lock(), std::io::stdin());
    write!(stderr, "Drop {what} for ever? [y/N] ").and_then(|()| stderr.flush()).context("cannot ask")?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer).context("cannot read the answer")?;
    match answer.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(()),
        _ => bail!("nothing was dropped"),
    }
}

/// A line on standard error that grows with the work, if that is a terminal.
pub struct ProgressBar {
    shown: Option<Instant>,
    is_terminal: bool,
}

impl ProgressBar {
    pub fn new() -> ProgressBar {
        ProgressBar { shown: None, is_terminal: std::io::stderr().is_terminal() }
    }

    pub fn show(&mut self, what: &str, done: u64, total: u64) {
        const WIDTH: u64 = 40;
        let is_due = self.shown.is_none_or(|shown| shown.elapsed() >= Duration::from_millis(100));
        if !self.is_terminal || !is_due {
            return;
        }
        self.shown = Some(Instant::now());
        let share =
            |of: u64| (u128::from(done.min(total)) * u128::from(of) / u128::from(total.max(1))) as usize;
        let (filled, per_cent) = (share(WIDTH), share(100));
        let (bar, rest) = ("#".repeat(filled), ".".repeat(WIDTH as usize - filled));
        eprint!("\r[{bar}{rest}] {per_cent:3} % {what} ");
    }

    /// Clears the line, so that what comes next stands alone.
    pub fn end(&mut self) {
        if self.shown.take().is_some() {
            eprint!("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(heading: &[&str], rows: &[&[&str]], want: &str) {
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(|cell| (*cell).to_owned()).collect()).collect();
        assert_eq!(table_text(heading, &rows), want);
    }

    #[test]
    fn columns_line_up() {
        check(&["name"], &[], "NAME\n");
        check(&["name", "id"], &[&["a", "1"], &["longer", "22"]], "NAME    ID\na       1\nlonger  22\n");
        check(&["name", "id"], &[&["äö", "1"]], "NAME  ID\näö    1\n");
        check(&["n"], &[&["a\u{1b}[31mb"]], "N\na\u{fffd}[31mb\n");
    }
}
