//! Compares PhotonDB with Redis in one run: servers pinned to CPU 0, this client to CPU 1, the same loop, the same
//! documents. Prints rates, latencies and ratios. `bench/against-redis` builds and starts it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use photondb_bench::closed_loop::{Figures, Load, run};
use photondb_bench::server::{Server, emptied, local, on_server_cpu, pin_to_client_cpu};
use photondb_bench::work::{Reql, Resp, Work, handshake, load_redis, load_reql};

const REDIS_PORT: u16 = 26379;
const DRIVER_PORT: u16 = 26015;

/// Compare PhotonDB with Redis on the same pins in the same run.
#[derive(Parser)]
struct Arguments {
    /// The server to measure
    #[arg(long, default_value = "target/release/photondb")]
    photondb: PathBuf,
    #[arg(long, default_value = "redis-server")]
    redis: PathBuf,
    /// A folder on the disk to measure; emptied
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    #[arg(long, default_value_t = 200_000)]
    documents: u64,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Requests in flight on each connection
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    #[arg(long, default_value_t = 5)]
    seconds: u64,
    /// Rounds of all measurements; the best of each is shown, since the machine may be busy in one
    #[arg(long, default_value_t = 2)]
    rounds: u32,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    pin_to_client_cpu()?;
    emptied(&arguments.data)?;
    let (redis, photondb) = (local(REDIS_PORT), local(DRIVER_PORT));
    let _redis_server = start_redis(&arguments, redis)?;
    let _photondb_server = Server::photondb(&arguments.photondb, &arguments.data.join("photondb"), photondb)?;

    println!("loading {} documents into each", arguments.documents);
    load_redis(&mut TcpStream::connect(redis)?, arguments.documents)?;
    let mut stream = TcpStream::connect(photondb)?;
    handshake(&mut stream)?;
    load_reql(&mut stream, arguments.documents)?;

    let load = Load {
        connections: arguments.connections,
        in_flight: arguments.in_flight,
        warm_up: Duration::from_secs(1),
        duration: Duration::from_secs(arguments.seconds),
    };
    let documents = arguments.documents;
    let mut best: [Option<Figures>; 5] = Default::default();
    for round in 0..u64::from(arguments.rounds) {
        let fresh = documents + (round + 1) * 100_000_000;
        let read = Work::Read { documents };
        let write = Work::Write { next: fresh };
        keep(&mut best[0], "Redis GET", run(redis, &mut Resp::new(read), load)?);
        keep(&mut best[1], "PhotonDB get", run(photondb, &mut Reql::new(read), load)?);
        keep(&mut best[2], "Redis SET, appendfsync always", run(redis, &mut Resp::new(write), load)?);
        keep(&mut best[3], "PhotonDB insert, hard", run(photondb, &mut Reql::new(write), load)?);
        keep(&mut best[4], "PhotonDB expr(1).add(2)", run(photondb, &mut Reql::new(Work::Pure), load)?);
    }
    let rate = |index: usize| best[index].as_ref().map_or(0.0, |figures| figures.per_second);
    println!("get / GET:                {:.2} (at least 0.50)", rate(1) / rate(0));
    println!("hard insert / fsynced SET: {:.2} (at least 0.33)", rate(3) / rate(2));
    Ok(())
}

fn keep(best: &mut Option<Figures>, name: &str, figures: Figures) {
    let Figures { per_second, p50_us, p99_us } = figures;
    println!("{name:<32} {per_second:>9.0}/s   p50 {p50_us:>6} us   p99 {p99_us:>6} us");
    if best.as_ref().is_none_or(|best| best.per_second < per_second) {
        *best = Some(figures);
    }
}

fn start_redis(arguments: &Arguments, address: SocketAddr) -> io::Result<Server> {
    let folder = arguments.data.join("redis");
    std::fs::create_dir_all(&folder)?;
    let mut command = on_server_cpu(&arguments.redis);
    command.args(["--port", &address.port().to_string(), "--save", "", "--appendonly", "yes"]);
    command.args(["--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]);
    command.arg("--dir").arg(folder);
    Server::start(command, address)
}
