//! The work that is compared: documents of 13 fields and 1.1 KB by key, over ReQL and over Redis' protocol.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use photondb_proto::wire::client::{ClientHandshake, ClientProgress, Response, ResponseDecoder};
use photondb_proto::wire::frame::write_query;

use crate::closed_loop::Protocol;

/// A small generator (SplitMix64, Steele et al. 2014): the same keys in every run.
#[derive(Clone, Copy, Debug)]
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }
}

pub fn key(number: u64) -> String {
    format!("user{number:012}")
}

/// A document as JSON: the key, a number, a flag and ten texts of 100 characters.
pub fn document(number: u64) -> String {
    let mut text =
        format!("{{\"id\":\"{}\",\"n\":{number},\"flag\":{}", key(number), number.is_multiple_of(2));
    let mut random = Random(number);
    for field in 0..10 {
        text.push_str(&format!(",\"field{field}\":\""));
        text.extend((0..98).map(|_| char::from(b'a' + random.below(26) as u8)));
        text.push('"');
    }
    text.push('}');
    text
}

/// What is asked again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A document by key, any of so many.
    Read { documents: u64 },
    /// A new document, from this number on, acknowledged when it is durable.
    Write { next: u64 },
    /// A computation that touches no data.
    Pure,
}

/// PhotonDB and RethinkDB.
pub struct Reql {
    work: Work,
    random: Random,
    token: i64,
    query: Vec<u8>,
}

const TABLE: &str = "[15,[[14,[\"bench\"]],\"docs\"]]";

impl Reql {
    pub fn new(work: Work) -> Reql {
        Reql { work, random: Random(1), token: 1, query: Vec::new() }
    }
}

impl Protocol for Reql {
    fn greet(&self, stream: &mut TcpStream) -> io::Result<()> {
        handshake(stream)
    }

    fn request(&mut self, _connection: usize, out: &mut Vec<u8>) {
        self.query.clear();
        let written = match &mut self.work {
            Work::Read { documents } => {
                let key = key(self.random.below(*documents));
                write!(self.query, "[1,[16,[{TABLE},\"{key}\"]],{{}}]")
            }
            Work::Write { next } => {
                *next += 1;
                write!(self.query, "[1,[56,[{TABLE},{}]],{{}}]", document(*next))
            }
            Work::Pure => write!(self.query, "[1,[24,[1,2]],{{}}]"),
        };
        written.expect("writing to memory does not fail");
        self.token += 1;
        write_query(self.token, &self.query, out);
    }

    fn response(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(size) = bytes.get(8..12) else { return Ok(None) };
        let length = 12 + u32::from_le_bytes(size.try_into().expect("four bytes")) as usize;
        if bytes.len() < length {
            return Ok(None);
        }
        let payload = &bytes[12..length];
        let failed = !payload.starts_with(b"{\"t\":1,") || payload.starts_with(b"{\"t\":1,\"r\":[null]");
        let errors =
            self.work != Work::Pure && payload.windows(11).take(200).any(|part| part == b"\"errors\":1,");
        if failed || errors {
            return Err(io::Error::other(String::from_utf8_lossy(payload).into_owned()));
        }
        Ok(Some(length))
    }
}

/// Logs in as admin without a password.
///
/// # Errors
/// When the connection breaks or the server refuses.
pub fn handshake(stream: &mut TcpStream) -> io::Result<()> {
    let mut out = Vec::new();
    let mut client = ClientHandshake::new("admin", "", [7; 18], &mut out);
    let mut buffer = [0; 1024];
    loop {
        stream.write_all(&std::mem::take(&mut out))?;
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed in the handshake"));
        }
        if client.push(&buffer[..count], &mut out).map_err(io::Error::other)? == ClientProgress::Done {
            return Ok(());
        }
    }
}

/// Carries out one query on a connection that does nothing else.
///
/// # Errors
/// When the connection breaks or the query fails.
pub fn query(stream: &mut TcpStream, query: &str) -> io::Result<Response> {
    let mut out = Vec::new();
    write_query(1, query.as_bytes(), &mut out);
    stream.write_all(&out)?;
    let mut decoder = ResponseDecoder::default();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed during a query"));
        }
        decoder.push(&buffer[..count]);
        if let Some(response) = decoder.next_response()? {
            return match response.error() {
                Some(text) => Err(io::Error::other(text.to_owned())),
                None => Ok(response),
            };
        }
    }
}

/// Makes the table and fills it, soft, in batches.
///
/// # Errors
/// When the server refuses.
pub fn load_reql(stream: &mut TcpStream, documents: u64) -> io::Result<()> {
    const BATCH: u64 = 200;
    query(stream, "[1,[57,[\"bench\"]],{}]")?;
    query(stream, "[1,[60,[[14,[\"bench\"]],\"docs\"]],{}]")?;
    for start in (0..documents).step_by(BATCH as usize) {
        let batch: Vec<String> = (start..documents.min(start + BATCH)).map(document).collect();
        query(
            stream,
            &format!("[1,[56,[{TABLE},[2,[{}]]],{{\"durability\":\"soft\"}}],{{}}]", batch.join(",")),
        )?;
    }
    Ok(())
}

/// Redis: GET and SET of the same documents.
pub struct Resp {
    work: Work,
    random: Random,
}

impl Resp {
    pub fn new(work: Work) -> Resp {
        Resp { work, random: Random(1) }
    }
}

fn put_command(parts: &[&str], out: &mut Vec<u8>) {
    let mut text = format!("*{}\r\n", parts.len());
    for part in parts {
        text.push_str(&format!("${}\r\n{part}\r\n", part.len()));
    }
    out.extend_from_slice(text.as_bytes());
}

impl Protocol for Resp {
    fn greet(&self, _stream: &mut TcpStream) -> io::Result<()> {
        Ok(())
    }

    fn request(&mut self, _connection: usize, out: &mut Vec<u8>) {
        match &mut self.work {
            Work::Read { documents } => put_command(&["GET", &key(self.random.below(*documents))], out),
            Work::Write { next } => {
                *next += 1;
                put_command(&["SET", &key(*next), &document(*next)], out);
            }
            Work::Pure => put_command(&["PING"], out),
        }
    }

    fn response(&self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let Some(end) = bytes.windows(2).position(|pair| pair == b"\r\n") else { return Ok(None) };
        match bytes[0] {
            b'+' => Ok(Some(end + 2)),
            b'$' if bytes[1] != b'-' => {
                let text = std::str::from_utf8(&bytes[1..end]).map_err(io::Error::other)?;
                let length: usize = text.parse().map_err(io::Error::other)?;
                let whole = end + 2 + length + 2;
                Ok((bytes.len() >= whole).then_some(whole))
            }
            _ => Err(io::Error::other(String::from_utf8_lossy(&bytes[..end]).into_owned())),
        }
    }
}

/// Fills Redis with the same documents.
///
/// # Errors
/// When the connection breaks.
pub fn load_redis(stream: &mut TcpStream, documents: u64) -> io::Result<()> {
    const BATCH: u64 = 200;
    let protocol = Resp::new(Work::Pure);
    let mut buffer = vec![0; 64 << 10];
    for start in (0..documents).step_by(BATCH as usize) {
        let mut out = Vec::new();
        let count = documents.min(start + BATCH) - start;
        for number in start..start + count {
            put_command(&["SET", &key(number), &document(number)], &mut out);
        }
        stream.write_all(&out)?;
        let mut received = Vec::new();
        let mut answered = 0;
        while answered < count {
            let bytes = stream.read(&mut buffer)?;
            received.extend_from_slice(&buffer[..bytes]);
            while let Some(length) = protocol.response(&received)? {
                received.drain(..length);
                answered += 1;
            }
        }
    }
    Ok(())
}
