//! The program `photondb-loadgen`. It stands here, beside the server, so that one build gives both and the integration
//! tests have it; its code is the crate of that name, which knows nothing of the server.

use std::process::ExitCode;

fn main() -> ExitCode {
    photondb_loadgen::main()
}
