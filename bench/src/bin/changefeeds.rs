//! Measures changefeeds: deliveries a second and the time from write to delivery for different numbers of listeners, and what
//! listeners cost the writer. Server on CPU 0 with one core, client on CPU 1.

use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use photondb_bench::fan_out::{Deliveries, FanOut, Watched, run};
use photondb_bench::server::{Server, emptied, local, pin_to_client_cpu};
use photondb_bench::work::{handshake, query};

const DRIVER_PORT: u16 = 26016;

/// Measure deliveries of changefeeds and what listeners cost the writer.
#[derive(Parser)]
struct Arguments {
    /// The server to measure
    #[arg(long, default_value = "target/release/photondb")]
    photondb: PathBuf,
    /// A folder on the disk to measure; emptied
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    /// Numbers of listeners
    #[arg(long, value_delimiter = ',', default_values_t = [1, 100, 1_000, 10_000])]
    listeners: Vec<u64>,
    /// Deliveries a second that the paced writer aims at
    #[arg(long, default_value_t = 200_000)]
    deliveries: u64,
    /// The paced writer writes no more than so often a second
    #[arg(long, default_value_t = 10_000)]
    writes_max: u64,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    pin_to_client_cpu()?;
    emptied(&arguments.data)?;
    let address = local(DRIVER_PORT);
    let _server = Server::photondb(&arguments.photondb, &arguments.data.join("photondb"), address)?;
    let mut stream = TcpStream::connect(address)?;
    handshake(&mut stream)?;
    query(&mut stream, "[1,[57,[\"bench\"]],{}]")?;
    query(&mut stream, "[1,[60,[[14,[\"bench\"]],\"feeds\"]],{}]")?;
    let measure = |listeners: u64, watched: Watched, writes_per_second: Option<u64>| {
        let (warm_up, duration) = (Duration::from_secs(1), Duration::from_secs(arguments.seconds));
        run(address, FanOut { listeners, watched, writes_per_second, warm_up, duration })
    };
    println!("paced writer, all listeners follow the table");
    for listeners in arguments.listeners.iter().copied() {
        let rate = (arguments.deliveries / listeners.max(1)).clamp(1, arguments.writes_max);
        show(&format!("{listeners} listeners"), &measure(listeners, Watched::Everything, Some(rate))?);
    }
    println!("writer with 64 soft writes in flight");
    let rows = [
        ("no listener", 0, Watched::Nothing),
        ("100 listeners whose filter rejects", 100, Watched::Nothing),
        ("100 listeners told of everything", 100, Watched::Everything),
    ];
    let mut alone = 0.0;
    for (name, listeners, watched) in rows {
        let figures = measure(listeners, watched, None)?;
        show(name, &figures);
        if listeners == 0 {
            alone = figures.writes_per_second;
        } else {
            println!("    the writer keeps {:.2} of its rate", figures.writes_per_second / alone);
        }
    }
    Ok(())
}

fn show(name: &str, figures: &Deliveries) {
    let Deliveries { writes_per_second, deliveries_per_second, p50_us, p99_us, overflows } = figures;
    println!(
        "{name:<36} {writes_per_second:>8.0} writes/s {deliveries_per_second:>9.0} deliveries/s   p50 {p50_us:>7} us   p99 \
         {p99_us:>7} us   {overflows} overflows"
    );
}
