//! Measures what indexes cost: how fast documents are written while an index of many is constructed, against the rate without, and how
//! fast a table with one index is filled in batches. Server on CPU 0 with one core, client on CPU 1.

use std::io;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use photondb_bench::closed_loop::{Load, Protocol, run};
use photondb_bench::server::{Server, emptied, local, pin_to_client_cpu};
use photondb_bench::work::{Reql, Work, document, handshake, load_reql, query};
use photondb_proto::wire::frame::write_query;

const DRIVER_PORT: u16 = 26019;
const DOCS: &str = "[15,[[14,[\"bench\"]],\"docs\"]]";
const BULK: &str = "[15,[[14,[\"bench\"]],\"bulk\"]]";
const BATCH: u64 = 200;
/// Digits of the numbers that tell documents of batches apart.
const DIGITS: usize = 12;

/// Measure writes beside the construction of an index, and writes of batches into an indexed table.
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
    let load = |millis| Load {
        connections: 64,
        in_flight: 1,
        warm_up: Duration::from_millis(100),
        duration: Duration::from_millis(millis),
    };
    let mut inserts = Reql::new(Work::Write { next: arguments.documents });
    let alone = run(address, &mut inserts, load(arguments.seconds * 1000))?;
    println!("inserts, hard, alone             {:>9.0}/s p99 {} us", alone.per_second, alone.p99_us);
    let start = Instant::now();
    query(&mut stream, &format!("[1,[75,[{DOCS},\"n\"]],{{}}]"))?;
    let (mut rates, mut p99_us) = (Vec::new(), 0);
    loop {
        let slice = run(address, &mut inserts, load(300))?;
        let status = query(&mut stream, &format!("[1,[139,[{DOCS},\"n\"]],{{}}]"))?;
        if status.results[0][0]["ready"] == true {
            break;
        }
        rates.push(slice.per_second);
        p99_us = p99_us.max(slice.p99_us);
    }
    let beside = rates.iter().sum::<f64>() / rates.len().max(1) as f64;
    println!("inserts beside a construction    {beside:>9.0}/s p99 {p99_us} us, {} slices", rates.len());
    println!("of the rate alone                {:>9.2} (at least 0.5)", beside / alone.per_second);
    println!("the construction took            {:>9.1} s", start.elapsed().as_secs_f64());
    query(&mut stream, "[1,[60,[[14,[\"bench\"]],\"bulk\"]],{}]")?;
    query(&mut stream, &format!("[1,[75,[{BULK},\"n\"]],{{}}]"))?;
    query(&mut stream, &format!("[1,[140,[{BULK}]],{{}}]"))?;
    let bulk = Load { connections: 4, ..load(arguments.seconds * 1000) };
    let batches = run(address, &mut Bulk::new(), bulk)?;
    println!("batches of {BATCH} with one index    {:>9.0} documents/s", batches.per_second * BATCH as f64);
    Ok(())
}

/// Inserts of batches, soft, each document with a key and a number of its own.
struct Bulk {
    query: Vec<u8>,
    /// Where the digits are.
    digits: Vec<usize>,
    next: u64,
    token: i64,
}

impl Bulk {
    fn new() -> Bulk {
        let mut text = format!("[1,[56,[{BULK},[2,[");
        let mut digits = Vec::new();
        for number in 0..BATCH {
            let document = document(number).replace(&format!("\"n\":{number},"), "\"n\":100000000000,");
            for start in ["\"user", "\"n\":"] {
                let at = document.find(start).expect("the document has a key and a number") + start.len();
                digits.push(text.len() + at);
            }
            text.push_str(&document);
            text.push(',');
        }
        text.pop();
        text.push_str("]]],{\"durability\":\"soft\"}],{}]");
        Bulk { query: text.into_bytes(), digits, next: 0, token: 1 }
    }
}

impl Protocol for Bulk {
    fn greet(&self, stream: &mut TcpStream) -> io::Result<()> {
        handshake(stream)
    }

    fn request(&mut self, _connection: usize, out: &mut Vec<u8>) {
        for pair in self.digits.chunks(2) {
            self.next += 1;
            // A number does not begin with zero.
            let digits = format!("{:0DIGITS$}", 100_000_000_000 + self.next);
            for at in pair {
                self.query[*at..at + DIGITS].copy_from_slice(digits.as_bytes());
            }
        }
        self.token += 1;
        write_query(self.token, &self.query, out);
    }

    fn response(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(size) = bytes.get(8..12) else { return Ok(None) };
        let length = 12 + u32::from_le_bytes(size.try_into().expect("four bytes")) as usize;
        let Some(payload) = bytes.get(12..length) else { return Ok(None) };
        let wanted = format!("\"inserted\":{BATCH},");
        if payload.windows(wanted.len()).any(|part| part == wanted.as_bytes()) {
            return Ok(Some(length));
        }
        Err(io::Error::other(String::from_utf8_lossy(payload).into_owned()))
    }
}
