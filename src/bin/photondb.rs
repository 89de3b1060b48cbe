//! The program `photondb`.

use std::process::ExitCode;

fn main() -> ExitCode {
    photondb::cli::main(photondb::Program::Photondb)
}
