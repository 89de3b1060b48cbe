//! Cuts query frames out of a byte stream: token (i64), size (u32), JSON of that size; all little-endian.
//!
//! Always: the buffer holds at most one frame more than was pushed last, because the session takes every whole frame
//! before it reads again; a frame's query is a view into the buffer, not a copy. An idle decoder owns no memory. A frame whose
//! size is over the limit is never buffered: it is answered, drained and the connection closed.

use crate::error::{ErrorKind, QueryError};
use crate::limits;

/// Bytes of token and size before each query.
pub const HEADER_BYTES: usize = 12;
/// A buffer larger than this is given back once it is empty.
const KEPT_BYTES: usize = 16 << 10;

/// One query as it came: its token and its JSON, which the parser may scribble on.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub token: i64,
    pub query: &'a mut [u8],
}

/// A frame that is over the limit. The caller answers `token` with [`Oversized::error`] and closes after draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oversized {
    pub token: i64,
    pub bytes: u32,
}

impl Oversized {
    pub fn error(&self) -> QueryError {
        let maximum = limits::QUERY_BYTES_MAX;
        let text = format!("Query size ({}) greater than maximum ({maximum}).", self.bytes);
        QueryError::new(ErrorKind::Client, text)
    }

    /// Whether the payload is worth reading to its end so that the client sees the answer.
    pub fn drains(&self) -> bool {
        self.bytes < limits::QUERY_DRAIN_BYTES_MAX
    }
}

/// Collects bytes and gives whole frames.
#[derive(Debug, Default)]
pub struct FrameDecoder {
    buffer: Vec<u8>,
    /// Bytes of `buffer` that were given out already.
    taken: usize,
}

impl FrameDecoder {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        self.compact();
        // Room grows as bytes come, but never beyond the end of the frame: its size is only what the peer says.
        let missing = self.missing_bytes();
        if missing > KEPT_BYTES && self.buffer.capacity() - self.buffer.len() < bytes.len() {
            self.buffer.reserve_exact(missing.min(self.buffer.len()).max(bytes.len()));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`Oversized`] when the size field is over [`limits::QUERY_BYTES_MAX`]; the decoder must not be used after it.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Oversized> {
        let Some(size) = self.size_of_next()? else { return Ok(None) };
        let start = self.taken + HEADER_BYTES;
        let end = start + size;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let token = self.token_of_next();
        self.taken = end;
        Ok(Some(Frame { token, query: &mut self.buffer[start..end] }))
    }

    /// Whether a frame has begun and is not whole: a client that stays silent now is slow, not idle.
    pub fn is_mid_frame(&self) -> bool {
        self.buffer.len() > self.taken
    }

    /// Bytes pushed and not yet given out.
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len() - self.taken
    }

    /// Bytes that are held.
    pub fn held_bytes(&self) -> usize {
        self.buffer.capacity()
    }

    /// Bytes the frame at the front still lacks; zero when that is not known yet. Lets the caller read large frames in
    /// large pieces.
    pub fn missing_bytes(&self) -> usize {
        match self.size_of_next() {
            Ok(Some(size)) => (HEADER_BYTES + size).saturating_sub(self.buffer.len() - self.taken),
            Ok(None) | Err(_) => 0,
        }
    }

    fn size_of_next(&self) -> Result<Option<usize>, Oversized> {
        let Some(header) = self.buffer.get(self.taken..self.taken + HEADER_BYTES) else { return Ok(None) };
        let bytes = u32::from_le_bytes(header[8..].try_into().expect("four bytes"));
        if bytes > limits::QUERY_BYTES_MAX {
            return Err(Oversized { token: self.token_of_next(), bytes });
        }
        Ok(Some(bytes as usize))
    }

    fn token_of_next(&self) -> i64 {
        i64::from_le_bytes(self.buffer[self.taken..self.taken + 8].try_into().expect("eight bytes"))
    }

    /// Drops what was given out.
    fn compact(&mut self) {
        if self.taken == self.buffer.len() {
            self.taken = 0;
            self.buffer.clear();
            if self.buffer.capacity() > KEPT_BYTES {
                self.buffer = Vec::new();
            }
        } else if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.taken = 0;
        }
    }

    /// Gives the buffer back when nothing is in it: for a connection that goes idle.
    pub fn release(&mut self) {
        if self.taken == self.buffer.len() {
            self.taken = 0;
            self.buffer = Vec::new();
        }
    }
}

/// Appends a frame as a client sends it.
///
/// # Panics
/// When the query is 4 GiB or larger.
pub fn write_query(token: i64, query: &[u8], out: &mut Vec<u8>) {
    out.extend_from_slice(&token.to_le_bytes());
    out.extend_from_slice(&u32::try_from(query.len()).expect("a query is smaller than 4 GiB").to_le_bytes());
    out.extend_from_slice(query);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(decoder: &mut FrameDecoder) -> Vec<(i64, Vec<u8>)> {
        let mut found = Vec::new();
        while let Some(frame) = decoder.next_frame().expect("in bounds") {
            found.push((frame.token, frame.query.to_vec()));
        }
        found
    }

    #[test]
    fn frame_split_at_every_byte_decodes_the_same() {
        let mut bytes = Vec::new();
        write_query(7, b"[5]", &mut bytes);
        write_query(-1, b"", &mut bytes);
        write_query(i64::MAX, &[b'x'; 300], &mut bytes);
        let want = vec![(7, b"[5]".to_vec()), (-1, Vec::new()), (i64::MAX, vec![b'x'; 300])];
        for split in 0..=bytes.len() {
            let mut decoder = FrameDecoder::default();
            decoder.push(&bytes[..split]);
            let mut found = frames(&mut decoder);
            decoder.push(&bytes[split..]);
            found.extend(frames(&mut decoder));
            assert_eq!(found, want, "split at {split}");
            assert!(!decoder.is_mid_frame());
        }
    }

    #[test]
    fn size_over_the_limit_is_refused_before_the_payload() {
        let mut decoder = FrameDecoder::default();
        decoder.push(&3i64.to_le_bytes());
        decoder.push(&(limits::QUERY_BYTES_MAX + 1).to_le_bytes());
        let refused = decoder.next_frame().expect_err("over the limit");
        assert_eq!(refused, Oversized { token: 3, bytes: 134_217_728 });
        assert_eq!(refused.error().message, "Query size (134217728) greater than maximum (134217727).");
    }

    #[test]
    fn idle_decoder_holds_no_memory() {
        let mut decoder = FrameDecoder::default();
        let mut bytes = Vec::new();
        write_query(1, &vec![b' '; 1 << 20], &mut bytes);
        decoder.push(&bytes);
        assert_eq!(frames(&mut decoder).len(), 1);
        decoder.release();
        assert_eq!(decoder.held_bytes(), 0);
    }
}
