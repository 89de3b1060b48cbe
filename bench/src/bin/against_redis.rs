//! Compares PhotonDB with Redis in one run: servers pinned to CPU 0, this client to CPU 1, the same loop, the same
//! documents. Prints rates, latencies and ratios. `bench/against-redis` builds and starts it.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use photondb_bench::closed_loop::{Figures, Load, run};
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

/// A server that ends with its owner.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    pin_to_client_cpu()?;
    match std::fs::remove_dir_all(&arguments.data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => std::fs::create_dir_all(&arguments.data)?,
    }
    let (redis, photondb) = (address(REDIS_PORT), address(DRIVER_PORT));
    let _redis_server = start_redis(&arguments, redis)?;
    let _photondb_server = start_photondb(&arguments, photondb)?;

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

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn pin_to_client_cpu() -> io::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(1);
    rustix::thread::sched_setaffinity(None, &cpus)?;
    Ok(())
}

/// The program pinned to CPU 0.
fn on_server_cpu(program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", "0"]).arg(program).stdout(Stdio::null());
    command
}

fn start_redis(arguments: &Arguments, address: SocketAddr) -> io::Result<Server> {
    let folder = arguments.data.join("redis");
    std::fs::create_dir_all(&folder)?;
    let mut command = on_server_cpu(&arguments.redis);
    command.args(["--port", &address.port().to_string(), "--save", "", "--appendonly", "yes"]);
    command.args(["--appendfsync", "always", "--auto-aof-rewrite-percentage", "0"]);
    command.arg("--dir").arg(folder);
    wait_for(Server(command.spawn()?), address)
}

fn start_photondb(arguments: &Arguments, address: SocketAddr) -> io::Result<Server> {
    let mut command = on_server_cpu(&arguments.photondb);
    command.args(["serve", "--cores", "1", "--no-http", "--cache-size", "2048", "--driver-port"]);
    command.arg(address.port().to_string()).arg("--data-dir").arg(arguments.data.join("photondb"));
    wait_for(Server(command.spawn()?), address)
}

fn wait_for(server: Server, address: SocketAddr) -> io::Result<Server> {
    let end = Instant::now() + Duration::from_secs(20);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > end {
            return Err(io::Error::new(
                io::ErrorKind::TimedOut,
                format!("nothing listens on {address} after 20 s"),
            ));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(server)
}
