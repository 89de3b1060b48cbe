//! Carries out one hot operation so many times, for a program that counts instructions: `hot OPERATION TIMES FOLDER`. Without
//! arguments it lists the operations that the guard watches.

use std::path::PathBuf;
use std::process::ExitCode;

use photondb_bench::hot::OPERATIONS;
use photondb_bench::server::emptied;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, times, folder] = arguments.as_slice() else {
        for operation in OPERATIONS.iter().filter(|operation| operation.is_guarded) {
            println!("{}", operation.name);
        }
        return ExitCode::SUCCESS;
    };
    let (Some(operation), Ok(times)) =
        (OPERATIONS.iter().find(|operation| operation.name == name), times.parse::<u64>())
    else {
        eprintln!("hot OPERATION TIMES FOLDER");
        return ExitCode::FAILURE;
    };
    let folder = PathBuf::from(folder);
    if let Err(error) = emptied(&folder) {
        eprintln!("{}: {error}", folder.display());
        return ExitCode::FAILURE;
    }
    let mut run = (operation.make)(&folder);
    for _ in 0..times {
        run();
    }
    ExitCode::SUCCESS
}
