//! What a server is spoken to in: how a connection begins, what a request looks like, where an answer ends and whether it is
//! good. The engine ([`crate::drive`]) is the same for all, so that a comparison compares servers and not clients.

use memchr::memmem;
use photondb_proto::wire::client::{ClientHandshake, ClientProgress, NONCE_BYTES, SaltedPassword};
use photondb_proto::wire::frame::{HEADER_BYTES, write_query};
use serde_json::Value;

use crate::operation::{Expect, Operation};
use crate::template::Subject;
use crate::world::World;

/// Why something failed: the kind under which it is counted, and the words of the first of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    pub kind: &'static str,
    pub message: String,
}

/// A whole answer at the front of what came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Bytes with all framing.
    pub bytes: usize,
    /// None: answers come in the order of the requests.
    pub token: Option<i64>,
    pub payload: &'a [u8],
}

/// What an answer means for its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Done,
    /// There is more, which has to be asked for.
    More,
    Failed(Failure),
}

/// The protocol of a kind of server.
pub trait Dialect: Clone + Send {
    type Greeting;

    /// Begins a connection.
    fn greet(&mut self, out: &mut Vec<u8>) -> Self::Greeting;
    /// Goes on with its beginning; true when requests may follow.
    ///
    /// # Errors
    /// The server's words when it refuses.
    fn greeted(
        &mut self,
        greeting: &mut Self::Greeting,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool, String>;
    fn request(
        &mut self,
        token: i64,
        operation: &Operation,
        step: usize,
        subject: Subject,
        world: &mut World,
        out: &mut Vec<u8>,
    );
    /// Asks for the rest of an answer.
    fn go_on(&mut self, token: i64, out: &mut Vec<u8>);
    /// The first whole answer, if it is here.
    ///
    /// # Errors
    /// When this is not the protocol.
    fn split<'a>(&self, unread: &'a [u8]) -> Result<Option<Answer<'a>>, String>;
    fn judge(&self, payload: &[u8], expect: Expect) -> Verdict;
}

/// How a connection logs in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Handshake {
    /// An authorization key, as old drivers send it; the user is admin
    #[value(name = "v0_4")]
    V0_4,
    /// User and password by SCRAM-SHA-256
    #[value(name = "v1_0")]
    V1_0,
}

/// ReQL: PhotonDB and RethinkDB.
#[derive(Clone)]
pub struct Reql {
    pub handshake: Handshake,
    pub user: String,
    pub password: String,
    /// Of the last login: salting takes a hundred milliseconds, and every connection of a user needs the same.
    salted: Option<SaltedPassword>,
}

impl Reql {
    pub fn new(handshake: Handshake, user: &str, password: &str) -> Reql {
        Reql { handshake, user: user.to_owned(), password: password.to_owned(), salted: None }
    }
}

impl Dialect for Reql {
    type Greeting = ClientHandshake;

    fn greet(&mut self, out: &mut Vec<u8>) -> ClientHandshake {
        match self.handshake {
            Handshake::V0_4 => ClientHandshake::v0_4(&self.password, out),
            Handshake::V1_0 => {
                let mut nonce = [0; NONCE_BYTES];
                getrandom::fill(&mut nonce).expect("the kernel gives random bytes");
                ClientHandshake::new(&self.user, &self.password, nonce, out).with_salted(self.salted.clone())
            }
        }
    }

    fn greeted(
        &mut self,
        greeting: &mut ClientHandshake,
        bytes: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<bool, String> {
        let progress = greeting.push(bytes, out).map_err(|error| error.to_string())?;
        if self.salted.is_none() {
            self.salted = greeting.salted().cloned();
        }
        Ok(progress == ClientProgress::Done)
    }

    fn request(
        &mut self,
        token: i64,
        operation: &Operation,
        step: usize,
        subject: Subject,
        world: &mut World,
        out: &mut Vec<u8>,
    ) {
        operation.steps[step].write(token, subject, world, out);
    }

    fn go_on(&mut self, token: i64, out: &mut Vec<u8>) {
        write_query(token, b"[2]", out);
    }

    fn split<'a>(&self, unread: &'a [u8]) -> Result<Option<Answer<'a>>, String> {
        let Some(size) = unread.get(8..HEADER_BYTES) else { return Ok(None) };
        let bytes = HEADER_BYTES + u32::from_le_bytes(size.try_into().expect("four bytes")) as usize;
        let Some(payload) = unread.get(HEADER_BYTES..bytes) else { return Ok(None) };
        let token = i64::from_le_bytes(unread[..8].try_into().expect("eight bytes"));
        Ok(Some(Answer { bytes, token: Some(token), payload }))
    }

    fn judge(&self, payload: &[u8], expect: Expect) -> Verdict {
        // Both servers begin an answer with its type; a number of two digits is an error.
        let kind = payload.strip_prefix(b"{\"t\":").and_then(|rest| rest.get(..2));
        let first = match kind {
            Some([digit @ b'1'..=b'3', b',' | b'}']) => digit - b'0',
            Some(_) | None => return failed(payload),
        };
        match (first, expect) {
            (3, _) => Verdict::More,
            (_, Expect::Any | Expect::Feed) => Verdict::Done,
            (_, Expect::Value) if payload.get(7..16) == Some(b"\"r\":[null") => {
                Verdict::Failed(Failure { kind: "missing document", message: MISSING.to_owned() })
            }
            (_, Expect::Value) => Verdict::Done,
            (_, Expect::Written) => written(payload),
        }
    }
}

const MISSING: &str =
    "no document has the key that was asked for: was the table loaded with as many --records?";

/// Whether a write result counts no errors and nothing that it did not find.
fn written(payload: &[u8]) -> Verdict {
    let is_zero = |name: &[u8]| {
        let after = memmem::find(payload, name).map(|at| &payload[at + name.len()..]);
        after.is_none_or(|rest| rest.starts_with(b"0,") || rest.starts_with(b"0}"))
    };
    if is_zero(b"\"errors\":") {
        if is_zero(b"\"skipped\":") {
            return Verdict::Done;
        }
        return Verdict::Failed(Failure { kind: "missing document", message: MISSING.to_owned() });
    }
    let result: Option<Value> = serde_json::from_slice(payload).ok();
    let message = result.as_ref().and_then(|result| result["r"][0]["first_error"].as_str());
    Verdict::Failed(Failure {
        kind: "write refused",
        message: first_line(message.unwrap_or("no reason given")),
    })
}

/// What is none of the good answers.
fn failed(payload: &[u8]) -> Verdict {
    let Ok(answer) = serde_json::from_slice::<Value>(payload) else {
        let message = String::from_utf8_lossy(&payload[..payload.len().min(100)]).into_owned();
        return Verdict::Failed(Failure { kind: "nonsense", message });
    };
    // Query errors by number: ql2.proto's ErrorType.
    let kind = match (answer["t"].as_u64(), answer["e"].as_u64()) {
        (Some(16), _) => "client error",
        (Some(17), _) => "compile error",
        (_, Some(1_000_000)) => "internal",
        (_, Some(2_000_000)) => "resource limit",
        (_, Some(3_000_000)) => "query logic",
        (_, Some(3_100_000)) => "non existence",
        (_, Some(4_100_000)) => "operation failed",
        (_, Some(4_200_000)) => "operation indeterminate",
        (_, Some(5_000_000)) => "user error",
        (_, Some(6_000_000)) => "permission",
        (_, _) => "runtime error",
    };
    Verdict::Failed(Failure {
        kind,
        message: first_line(answer["r"][0].as_str().unwrap_or("no reason given")),
    })
}

fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reql() -> Reql {
        Reql::new(Handshake::V1_0, "admin", "")
    }

    #[track_caller]
    fn check(payload: &str, expect: Expect, want: Result<Verdict, (&str, &str)>) {
        let want = want.unwrap_or_else(|(kind, message)| {
            let kind = Box::leak(kind.to_owned().into_boxed_str());
            Verdict::Failed(Failure { kind, message: message.to_owned() })
        });
        assert_eq!(reql().judge(payload.as_bytes(), expect), want, "{payload}");
    }

    #[test]
    fn answers_are_judged_by_what_was_asked() {
        check(r#"{"t":1,"r":[null]}"#, Expect::Any, Ok(Verdict::Done));
        check(r#"{"t":1,"r":[{"id":1}],"n":[]}"#, Expect::Value, Ok(Verdict::Done));
        check(r#"{"t":2,"r":[]}"#, Expect::Any, Ok(Verdict::Done));
        check(r#"{"t":3,"r":[1,2]}"#, Expect::Any, Ok(Verdict::More));
        check(r#"{"t":1,"r":[{"deleted":0,"errors":0,"inserted":1}]}"#, Expect::Written, Ok(Verdict::Done));
        check(
            r#"{"t":1,"r":[{"deleted":0,"errors":1,"first_error":"Duplicate\nkey"}]}"#,
            Expect::Written,
            Err(("write refused", "Duplicate")),
        );
        check(
            r#"{"t":18,"e":4100000,"r":["Table `a.b` does not exist."],"b":[]}"#,
            Expect::Any,
            Err(("operation failed", "Table `a.b` does not exist.")),
        );
        check(r#"{"t":16,"r":["no"]}"#, Expect::Any, Err(("client error", "no")));
        check("<html>", Expect::Any, Err(("nonsense", "<html>")));
    }

    #[test]
    fn a_missing_document_is_an_error() {
        check(r#"{"t":1,"r":[null],"n":[]}"#, Expect::Value, Err(("missing document", MISSING)));
        let skipped = r#"{"t":1,"r":[{"deleted":0,"errors":0,"skipped":1}]}"#;
        check(skipped, Expect::Written, Err(("missing document", MISSING)));
    }

    #[test]
    fn answers_are_cut_where_they_end() {
        let mut bytes = Vec::new();
        write_query(5, b"{}", &mut bytes);
        bytes.extend_from_slice(b"next");
        let reql = reql();
        for length in 0..bytes.len() {
            let found = reql.split(&bytes[..length]).expect("the protocol");
            let want = Answer { bytes: 14, token: Some(5), payload: b"{}" };
            assert_eq!(found, (length >= 14).then_some(want), "{length} bytes");
        }
    }
}
