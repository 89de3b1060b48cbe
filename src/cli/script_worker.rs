//! `photondb script-worker`: the process that runs scripts of queries; the server starts it.

use super::{CommandRow, Shown};
use crate::outside::worker;

pub static SCRIPT_WORKER: CommandRow = CommandRow {
    path: &[worker::COMMAND],
    about: "Run scripts of queries; the server starts it",
    examples: "",
    shown: Shown::No,
    arguments: |command| command,
    run: |_, _| worker::run(),
};
