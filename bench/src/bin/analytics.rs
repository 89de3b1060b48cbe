//! Times queries over many documents: a filtered count and a grouped average over 200,000 of 1.1 KB, on one data core and
//! on two, and a join of 10,000 rows with a table of 100,000, batched and one read a row. Prints
//! milliseconds and ratios.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use clap::Parser;
use photondb_bench::work::{handshake, load_reql, query};

/// The server with so many cores listens on this plus as many: the port of the one before may be taken for a while.
const DRIVER_PORT: u16 = 26016;
const LEFT_ROWS: u64 = 10_000;
const RIGHT_ROWS: u64 = 100_000;
/// Neighbours on the left name rows so far apart on the right.
const SPREAD: u64 = 7919;
/// Rows of the joined tables are made by the server, so many a query.
const ROWS_TOGETHER: u64 = 10_000;

/// Time queries over many documents.
#[derive(Parser)]
struct Arguments {
    /// The server to measure
    #[arg(long, default_value = "target/release/photondb")]
    photondb: PathBuf,
    /// A folder on the disk to measure; emptied
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    #[arg(long, default_value_t = 200_000)]
    documents: u64,
    /// Runs of each query; the fastest is shown, since the machine may be busy in one
    #[arg(long, default_value_t = 5)]
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
    match std::fs::remove_dir_all(&arguments.data) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => std::fs::create_dir_all(&arguments.data)?,
    }
    let alone = measure(&arguments, 1)?;
    let together = measure(&arguments, 2)?;
    println!(
        "two cores against one: filter {:.2} times, group {:.2} times",
        alone[0] / together[0],
        alone[1] / together[1]
    );
    Ok(())
}

/// Seconds of the filtered count and of the grouped average with so many data cores.
fn measure(arguments: &Arguments, cores: u32) -> io::Result<[f64; 2]> {
    let (_server, mut stream) = start(arguments, cores)?;
    println!("{cores} data core(s), {} documents", arguments.documents);
    load_reql(&mut stream, arguments.documents)?;
    load_joined(&mut stream)?;
    let docs = "[15,[[14,[\"bench\"]],\"docs\"]]";
    let field = |name: &str| format!("[170,[[10,[1]],\"{name}\"]]");
    let half = arguments.documents / 2;
    let filter = format!("[43,[[39,[{docs},[69,[[2,[1]],[22,[{},{half}]]]]]]]]", field("n"));
    let group = format!("[146,[[144,[{docs},[69,[[2,[1]],[28,[{},10]]]]]],\"n\"]]", field("n"));
    let seconds = [
        best(&mut stream, arguments.rounds, "filter(n >= N/2).count()", &filter)?,
        best(&mut stream, arguments.rounds, "group(n % 10).avg(n)", &group)?,
    ];
    let (left, right) = ("[15,[[14,[\"bench\"]],\"left\"]]", "[15,[[14,[\"bench\"]],\"right\"]]");
    let batched = format!("[145,[[31,[[31,[[50,[{left},\"k\",{right}]],\"right\"]],\"n\"]]]]");
    let nested = format!("[145,[[38,[{left},[69,[[2,[1]],[170,[[16,[{right},{}]],\"n\"]]]]]]]]", field("k"));
    let batched = best(&mut stream, arguments.rounds, "eq_join of 10,000 to 100,000", &batched)?;
    let nested = best(&mut stream, arguments.rounds, "map with a get in its function", &nested)?;
    let asked = one_query_a_row(&mut stream)?;
    println!("eq_join against a query a row: {:.1} times as fast (at least 10)", asked / batched);
    println!("eq_join against a get a row in the server: {:.1} times as fast", nested / batched);
    Ok(seconds)
}

/// Seconds of what a client without joins does: a `get` for each row.
fn one_query_a_row(stream: &mut TcpStream) -> io::Result<f64> {
    let start = Instant::now();
    for row in 0..LEFT_ROWS {
        let key = row * SPREAD % RIGHT_ROWS;
        query(stream, &format!("[1,[16,[[15,[[14,[\"bench\"]],\"right\"]],{key}]],{{}}]"))?;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{:<32} {:>9.1} ms", "a query a row", seconds * 1e3);
    Ok(seconds)
}

fn best(stream: &mut TcpStream, rounds: u32, name: &str, term: &str) -> io::Result<f64> {
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let start = Instant::now();
        query(stream, &format!("[1,{term},{{}}]"))?;
        best = best.min(start.elapsed().as_secs_f64());
    }
    println!("{name:<32} {:>9.1} ms", best * 1e3);
    Ok(best)
}

/// `left` names rows of `right` in no order.
fn load_joined(stream: &mut TcpStream) -> io::Result<()> {
    for (table, count, row) in [
        (
            "left",
            LEFT_ROWS,
            format!("{{\"id\":[10,[1]],\"k\":[28,[[26,[[10,[1]],{SPREAD}]],{RIGHT_ROWS}]]}}"),
        ),
        ("right", RIGHT_ROWS, "{\"id\":[10,[1]],\"n\":[10,[1]]}".to_owned()),
    ] {
        query(stream, &format!("[1,[60,[[14,[\"bench\"]],\"{table}\"]],{{}}]"))?;
        for start in (0..count).step_by(ROWS_TOGETHER as usize) {
            let rows = format!("[38,[[173,[{start},{}]],[69,[[2,[1]],{row}]]]]", start + ROWS_TOGETHER);
            let table = format!("[15,[[14,[\"bench\"]],\"{table}\"]]");
            query(stream, &format!("[1,[56,[{table},{rows}],{{\"durability\":\"soft\"}}],{{}}]"))?;
        }
    }
    Ok(())
}

/// A server with a folder of its own, and a connection to it.
fn start(arguments: &Arguments, cores: u32) -> io::Result<(Server, TcpStream)> {
    let port = DRIVER_PORT + cores as u16;
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let mut command = Command::new(&arguments.photondb);
    command.args(["serve", "--no-http", "--cache-size", "1024", "--cores", &cores.to_string()]);
    command.args(["--driver-port", &port.to_string(), "--data-dir"]);
    command.arg(arguments.data.join(format!("{cores}-cores"))).stdout(Stdio::null());
    let server = Server(command.spawn()?);
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        match TcpStream::connect(address) {
            Ok(mut stream) => {
                handshake(&mut stream)?;
                return Ok((server, stream));
            }
            Err(error) if Instant::now() > end => return Err(error),
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
    }
}
