//! The same program under the name that scripts of RethinkDB users call.

use std::process::ExitCode;

fn main() -> ExitCode {
    photondb::cli::main(photondb::Program::Rethinkdb)
}
