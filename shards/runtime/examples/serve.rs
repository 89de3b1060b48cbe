//! The data plane alone, for measuring it without the rest of the server: `serve DATA_DIR PORT CPU…`.

use std::path::PathBuf;
use std::time::Duration;

use photondb_runtime::{DataPlane, DataPlaneOptions};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let data_dir = PathBuf::from(arguments.next().expect("a data directory"));
    let driver_port = arguments.next().and_then(|port| port.parse().ok()).expect("a port");
    let cpus = arguments.filter_map(|cpu| cpu.parse().ok()).collect();
    let options = DataPlaneOptions { data_dir, driver_port, cpus, ..DataPlaneOptions::default() };
    let plane = match DataPlane::start(options) {
        Ok(plane) => plane,
        Err(error) => return eprintln!("{error}"),
    };
    println!("{:?}", plane.summary());
    // A line shows the cores' figures; the end of the standard input ends the server.
    while std::io::stdin().read_line(&mut String::new()).is_ok_and(|bytes| bytes > 0) {
        for core in plane.cores() {
            println!("{:#?}", futures_lite::future::block_on(core.report()));
        }
    }
    println!("{:?}", plane.stop(Duration::from_secs(5)));
}
