//! Redis' protocol for the load generator's engine: GET and SET of the documents that ReQL servers hold, so that the same
//! client loop measures both.

use photondb_loadgen::dialect::{Answer, Dialect, Failure, Verdict};
use photondb_loadgen::operation::{Expect, Operation, Records};
use photondb_loadgen::template::Subject;
use photondb_loadgen::world::World;

/// What is asked; an operation's name says which.
pub const GET: &str = "GET";
pub const SET: &str = "SET";

#[derive(Clone, Default)]
pub struct Resp {
    key: Vec<u8>,
    document: Vec<u8>,
}

/// One kind of request to Redis.
pub fn operation(name: &str, records: Records) -> Operation {
    Operation { name: name.to_owned(), weight: 1, records, steps: Vec::new(), expect: Expect::Value }
}

fn put_command(parts: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", parts.len()).as_bytes());
    for part in parts {
        out.extend_from_slice(format!("${}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

impl Dialect for Resp {
    type Greeting = ();

    fn greet(&mut self, out: &mut Vec<u8>) {
        put_command(&[b"PING"], out);
    }

    fn greeted(&mut self, (): &mut (), bytes: &[u8], _out: &mut Vec<u8>) -> Result<bool, String> {
        match bytes {
            b"+PONG\r\n" => Ok(true),
            bytes if b"+PONG\r\n".starts_with(bytes) => Err("a greeting in two pieces".to_owned()),
            bytes => Err(String::from_utf8_lossy(bytes).into_owned()),
        }
    }

    fn request(
        &mut self,
        _token: i64,
        operation: &Operation,
        _step: usize,
        subject: Subject,
        world: &mut World,
        out: &mut Vec<u8>,
    ) {
        self.key.clear();
        world.put_key(subject.record, &mut self.key);
        let key = &self.key[1..self.key.len() - 1];
        if operation.name == GET {
            put_command(&[b"GET", key], out);
        } else {
            self.document.clear();
            world.put_document(subject.record, &mut self.document);
            put_command(&[b"SET", key, &self.document], out);
        }
    }

    fn go_on(&mut self, _token: i64, _out: &mut Vec<u8>) {}

    fn split<'a>(&self, unread: &'a [u8]) -> Result<Option<Answer<'a>>, String> {
        let Some(end) = memchr::memchr(b'\n', unread).map(|at| at + 1) else { return Ok(None) };
        let line = unread[..end].trim_ascii_end();
        let bytes = match line.strip_prefix(b"$") {
            Some(b"-1") | None => end,
            Some(digits) => {
                let length = std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<usize>().ok());
                end + length.ok_or("a length that is no number")? + 2
            }
        };
        Ok(unread.get(..bytes).map(|payload| Answer { bytes, token: None, payload }))
    }

    fn judge(&self, payload: &[u8], _expect: Expect) -> Verdict {
        if payload.starts_with(b"$-1") || payload.starts_with(b"-") {
            let message = String::from_utf8_lossy(payload).trim_end().to_owned();
            return Verdict::Failed(Failure { kind: "Redis refused", message });
        }
        Verdict::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_cut_and_judged() {
        let resp = Resp::default();
        for (bytes, want) in [
            (&b"+OK\r\n+OK\r\n"[..], Some((5, true))),
            (b"$3\r\nabc\r\n", Some((9, true))),
            (b"$3\r\nabc\r", None),
            (b"$3", None),
            (b"$-1\r\n", Some((5, false))),
            (b"-ERR no\r\n", Some((9, false))),
        ] {
            let found = resp.split(bytes).expect("the protocol");
            let judged = found
                .map(|answer| (answer.bytes, resp.judge(answer.payload, Expect::Value) == Verdict::Done));
            assert_eq!(judged, want, "{}", String::from_utf8_lossy(bytes));
        }
    }
}
