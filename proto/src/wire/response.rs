//! Writes response frames straight into a session's send buffer: token, size, JSON.
//!
//! Results arrive as JSON bytes already, items joined by commas; nothing is copied twice. The size goes in last, so a
//! frame is begun and ended on one buffer ([`begin`], [`end`]).

use crate::datum::json;
use crate::error::{ErrorKind, Frame, QueryError};

/// The shape of a successful answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnswerKind {
    Atom,
    /// The last batch of a sequence.
    Sequence,
    /// More follows on CONTINUE.
    Partial,
}

impl AnswerKind {
    fn number(self) -> u8 {
        match self {
            AnswerKind::Atom => 1,
            AnswerKind::Sequence => 2,
            AnswerKind::Partial => 3,
        }
    }
}

/// Writes the head of a frame whose size is not known yet; gives the place for [`end`].
pub fn begin(token: i64, out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&token.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    start
}

/// Fills in the size of the frame begun at `start`. A response of 4 GiB or more, which no frame can carry, is replaced by
/// the error that says so.
pub fn end(start: usize, out: &mut Vec<u8>) {
    let bytes = out.len() - start - 12;
    match u32::try_from(bytes) {
        Ok(size) => out[start + 8..start + 12].copy_from_slice(&size.to_le_bytes()),
        Err(_) => {
            let token = i64::from_le_bytes(out[start..start + 8].try_into().expect("eight bytes"));
            out.truncate(start);
            let text = format!("Response size ({bytes}) greater than maximum ({}).", u32::MAX);
            error(token, &QueryError::new(ErrorKind::ResourceLimit, text), out);
        }
    }
}

/// A successful answer. `items` is comma-joined JSON; `profile` is JSON.
pub fn answer(
    token: i64,
    kind: AnswerKind,
    items: &[u8],
    notes: &[u8],
    profile: Option<&[u8]>,
    out: &mut Vec<u8>,
) {
    let start = begin(token, out);
    before_items(kind, out);
    out.extend_from_slice(items);
    behind_items(kind, notes, profile, out);
    end(start, out);
}

/// What is around the items of a successful answer, which are sent from elsewhere. Gives their place in `out`.
pub fn answer_around(
    token: i64,
    kind: AnswerKind,
    items_bytes: usize,
    notes: &[u8],
    profile: Option<&[u8]>,
    out: &mut Vec<u8>,
) -> usize {
    let start = begin(token, out);
    before_items(kind, out);
    let place = out.len();
    behind_items(kind, notes, profile, out);
    let bytes = u32::try_from(out.len() - start - 12 + items_bytes).expect("batches are bounded");
    out[start + 8..start + 12].copy_from_slice(&bytes.to_le_bytes());
    place
}

fn before_items(kind: AnswerKind, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"t\":");
    out.push(b'0' + kind.number());
    out.extend_from_slice(b",\"r\":[");
}

fn behind_items(kind: AnswerKind, notes: &[u8], profile: Option<&[u8]>, out: &mut Vec<u8>) {
    out.push(b']');
    if let Some(profile) = profile {
        out.extend_from_slice(b",\"p\":");
        out.extend_from_slice(profile);
    }
    if kind != AnswerKind::Atom || !notes.is_empty() {
        out.extend_from_slice(b",\"n\":[");
        for (index, note) in notes.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            json::write_small_integer(u32::from(*note), out);
        }
        out.push(b']');
    }
    out.push(b'}');
}

/// An atom whose JSON `write` appends: the way of a point read, without a buffer between.
pub fn atom(token: i64, write: impl FnOnce(&mut Vec<u8>), out: &mut Vec<u8>) {
    let start = begin(token, out);
    out.extend_from_slice(b"{\"t\":1,\"r\":[");
    write(out);
    out.extend_from_slice(b"]}");
    end(start, out);
}

/// An error with its class, text and backtrace.
pub fn error(token: i64, failure: &QueryError, out: &mut Vec<u8>) {
    let start = begin(token, out);
    out.extend_from_slice(b"{\"t\":");
    json::write_small_integer(u32::from(failure.kind.response_type()), out);
    if let Some(error_type) = failure.kind.error_type() {
        out.extend_from_slice(b",\"e\":");
        json::write_small_integer(error_type, out);
    }
    out.extend_from_slice(b",\"r\":[");
    json::write_string(failure.message.as_bytes(), out);
    out.extend_from_slice(b"],\"b\":[");
    for (index, frame) in failure.backtrace.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        match frame {
            Frame::Argument(position) => json::write_small_integer(*position, out),
            Frame::Optional(name) => json::write_string(name.as_bytes(), out),
        }
    }
    out.extend_from_slice(b"]}");
    end(start, out);
}

/// The answer to NOREPLY_WAIT.
pub fn wait_complete(token: i64, out: &mut Vec<u8>) {
    let start = begin(token, out);
    out.extend_from_slice(b"{\"t\":4,\"r\":[]}");
    end(start, out);
}

/// The answer to SERVER_INFO.
pub fn server_info(token: i64, id: &str, name: &str, out: &mut Vec<u8>) {
    let start = begin(token, out);
    out.extend_from_slice(b"{\"t\":5,\"r\":[{\"id\":");
    json::write_string(id.as_bytes(), out);
    out.extend_from_slice(b",\"name\":");
    json::write_string(name.as_bytes(), out);
    out.extend_from_slice(b",\"proxy\":false}]}");
    end(start, out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(write: impl FnOnce(&mut Vec<u8>), want: &str) {
        let mut out = vec![b'#'];
        write(&mut out);
        assert_eq!(out[1..9], 7i64.to_le_bytes());
        assert_eq!(out[9..13], (want.len() as u32).to_le_bytes());
        assert_eq!(String::from_utf8_lossy(&out[13..]), want);
    }

    #[test]
    fn responses_have_the_documented_form() {
        check(|out| answer(7, AnswerKind::Atom, b"1", &[], None, out), r#"{"t":1,"r":[1]}"#);
        check(|out| answer(7, AnswerKind::Sequence, b"", &[], None, out), r#"{"t":2,"r":[],"n":[]}"#);
        let partial = r#"{"t":3,"r":[1,2],"p":[],"n":[1,5]}"#;
        check(|out| answer(7, AnswerKind::Partial, b"1,2", &[1, 5], Some(b"[]"), out), partial);
        check(|out| wait_complete(7, out), r#"{"t":4,"r":[]}"#);
        check(|out| server_info(7, "i", "n", out), r#"{"t":5,"r":[{"id":"i","name":"n","proxy":false}]}"#);
        let failure = QueryError {
            kind: ErrorKind::User,
            message: "a \"b\"".into(),
            backtrace: vec![Frame::Argument(1), Frame::Optional("index".into())],
        };
        check(|out| error(7, &failure, out), r#"{"t":18,"e":5000000,"r":["a \"b\""],"b":[1,"index"]}"#);
        let failure = QueryError::new(ErrorKind::Compile, "x");
        check(|out| error(7, &failure, out), r#"{"t":17,"r":["x"],"b":[]}"#);
    }
}
