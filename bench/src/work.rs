//! Documents of 13 fields and 1.1 KB, and a client that asks one query after another.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use photondb_proto::wire::client::{ClientHandshake, ClientProgress, Response, ResponseDecoder};
use photondb_proto::wire::frame::write_query;

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

const TABLE: &str = "[15,[[14,[\"bench\"]],\"docs\"]]";

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
