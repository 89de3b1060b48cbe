//! Measures how fast documents are written while an index of many is constructed, against the rate without. Server on CPU 0 with
//! one core, client on CPU 1.

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use photondb_bench::server::{Server, emptied, local, pin_to_client_cpu};
use photondb_bench::work::{document, handshake, load_reql, query};

const DRIVER_PORT: u16 = 26019;
const DOCS: &str = "[15,[[14,[\"bench\"]],\"docs\"]]";
/// How often the construction is looked at.
const GLANCE: Duration = Duration::from_millis(50);

/// Measure writes beside the construction of an index.
#[derive(Parser)]
struct Arguments {
    /// The server to measure
    #[arg(long, default_value = "target/release/photondb")]
    photondb: PathBuf,
    /// A folder on the disk to measure; emptied
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    /// Documents that the index is made of
    #[arg(long, default_value_t = 200_000)]
    documents: u64,
    /// Connections that write, each one document at a time
    #[arg(long, default_value_t = 64)]
    writers: u64,
    /// Seconds without a construction
    #[arg(long, default_value_t = 4)]
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
    load_reql(&mut stream, arguments.documents)?;
    for durability in ["hard", "soft"] {
        measure(&arguments, address, &mut stream, durability)?;
    }
    Ok(())
}

fn measure(
    arguments: &Arguments,
    address: SocketAddr,
    stream: &mut TcpStream,
    durability: &str,
) -> io::Result<()> {
    let (written, is_over) = (AtomicU64::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let writers: Vec<_> = (0..arguments.writers)
            .map(|writer| {
                let (written, is_over) = (&written, &is_over);
                scope.spawn(move || write(address, durability, writer, written, is_over))
            })
            .collect();
        std::thread::sleep(Duration::from_millis(500));
        let (alone, _) = rate(&written, || {
            std::thread::sleep(Duration::from_secs(arguments.seconds));
            Ok(())
        })?;
        let (beside, seconds) = rate(&written, || construct(stream, durability))?;
        is_over.store(true, Ordering::Relaxed);
        println!("{durability} inserts alone                {alone:>9.0}/s");
        println!("{durability} inserts beside a construction {beside:>9.0}/s, which took {seconds:.1} s");
        println!("of the rate alone                 {:>9.2} (at least 0.5)", beside / alone);
        for writer in writers {
            writer.join().map_err(|_| io::Error::other("a writer panicked"))??;
        }
        Ok(())
    })
}

/// What was written a second while something was done, and how many seconds that took.
fn rate(written: &AtomicU64, work: impl FnOnce() -> io::Result<()>) -> io::Result<(f64, f64)> {
    let (start, before) = (Instant::now(), written.load(Ordering::Relaxed));
    work()?;
    let seconds = start.elapsed().as_secs_f64();
    Ok(((written.load(Ordering::Relaxed) - before) as f64 / seconds, seconds))
}

/// Makes an index and waits until it is ready.
fn construct(stream: &mut TcpStream, name: &str) -> io::Result<()> {
    query(stream, &format!("[1,[75,[{DOCS},\"{name}\",[69,[[2,[1]],[170,[[10,[1]],\"n\"]]]]]],{{}}]"))?;
    loop {
        let status = query(stream, &format!("[1,[139,[{DOCS},\"{name}\"]],{{}}]"))?;
        if status.results[0][0]["ready"] == true {
            return Ok(());
        }
        std::thread::sleep(GLANCE);
    }
}

/// Inserts documents of its own until it is over.
fn write(
    address: SocketAddr,
    durability: &str,
    writer: u64,
    written: &AtomicU64,
    is_over: &AtomicBool,
) -> io::Result<()> {
    let mut stream = TcpStream::connect(address)?;
    handshake(&mut stream)?;
    let row = document(writer);
    let mut number = 0;
    while !is_over.load(Ordering::Relaxed) {
        let own = format!("{{\"id\":\"{durability} {writer} {number}\",");
        let rest = row.find("\"n\"").expect("the document has a number");
        let row = [&own, &row[rest..]].concat();
        query(&mut stream, &format!("[1,[56,[{DOCS},{row}],{{\"durability\":\"{durability}\"}}],{{}}]"))?;
        number += 1;
        written.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}
