//! Cuts query frames out of a byte stream: token (i64), size (u32), JSON of that size; all little-endian.
//!
//! Always: the buffer holds at most one frame more than was pushed last, because the session takes every whole frame
//! before it reads again; a frame's query is a view into the buffer, not a copy. An idle decoder owns no memory. A large frame
//! is gathered in pieces, so that no growing buffer is copied over and over, and handed on whole: who takes it puts it together
//! where that holds nobody up. A frame whose size is over the limit is never buffered: it is answered, drained and the connection closed.

use crate::error::{ErrorKind, QueryError};
use crate::limits;

/// Bytes of token and size before each query.
pub const HEADER_BYTES: usize = 12;
/// A buffer larger than this is given back once it is empty.
const KEPT_BYTES: usize = 16 << 10;

/// A query of this size or more is a [`LargeFrame`]: to parse it takes milliseconds.
pub const LARGE_BYTES_MIN: usize = 256 << 10;
/// The first piece of a large frame, and the largest.
const PIECE_BYTES: std::ops::RangeInclusive<usize> = 64 << 10..=4 << 20;

/// One query as it came: its token and its JSON, which the parser may scribble on.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame<'a> {
    pub token: i64,
    pub query: &'a mut [u8],
}

/// A large query: its token and its JSON, cut somewhere.
#[derive(Debug, Default)]
pub struct LargeFrame {
    pub token: i64,
    pub pieces: Vec<Vec<u8>>,
    /// Bytes of the query that have come, and that have not.
    pub bytes: usize,
    pub missing: usize,
}

impl LargeFrame {
    /// Takes bytes as far as they belong to it; gives the others.
    fn take<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let (mut mine, others) = bytes.split_at(self.missing.min(bytes.len()));
        while !mine.is_empty() {
            let room = |piece: &Vec<u8>| piece.capacity() - piece.len();
            if self.pieces.last().is_none_or(|last| room(last) == 0) {
                let bytes = self.bytes.clamp(*PIECE_BYTES.start(), *PIECE_BYTES.end()).min(self.missing);
                self.pieces.push(Vec::with_capacity(bytes));
            }
            let last = self.pieces.last_mut().expect("there is one with room");
            let (fits, rest) = mine.split_at(room(last).min(mine.len()));
            last.extend_from_slice(fits);
            self.bytes += fits.len();
            self.missing -= fits.len();
            mine = rest;
        }
        others
    }
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
    /// The frame before what `buffer` holds.
    large: Option<Box<LargeFrame>>,
}

impl FrameDecoder {
    /// Adds received bytes.
    pub fn push(&mut self, bytes: &[u8]) {
        let bytes = self.large.as_mut().map_or(bytes, |large| large.take(bytes));
        self.compact();
        // Room grows as bytes come, but never beyond the end of the frame: its size is only what the peer says.
        let missing = self.missing_bytes();
        if missing > KEPT_BYTES && self.buffer.capacity() - self.buffer.len() < bytes.len() {
            self.buffer.reserve_exact(missing.min(self.buffer.len()).max(bytes.len()));
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes are pushed, or a large frame is taken.
    ///
    /// # Errors
    /// [`Oversized`] when the size field is over [`limits::QUERY_BYTES_MAX`]; the decoder must not be used after it.
    pub fn next_frame(&mut self) -> Result<Option<Frame<'_>>, Oversized> {
        if self.large.is_some() {
            return Ok(None);
        }
        let Some(size) = self.size_of_next()? else { return Ok(None) };
        let start = self.taken + HEADER_BYTES;
        if size >= LARGE_BYTES_MIN {
            let mut large =
                Box::new(LargeFrame { token: self.token_of_next(), missing: size, ..LargeFrame::default() });
            self.taken = self.buffer.len() - large.take(&self.buffer[start..]).len();
            self.large = Some(large);
            self.release();
            return Ok(None);
        }
        let end = start + size;
        if self.buffer.len() < end {
            return Ok(None);
        }
        let token = self.token_of_next();
        self.taken = end;
        Ok(Some(Frame { token, query: &mut self.buffer[start..end] }))
    }

    /// The large frame that is next, once it is whole.
    pub fn next_large(&mut self) -> Option<LargeFrame> {
        self.large.take_if(|large| large.missing == 0).map(|large| *large)
    }

    /// Gives up a large frame that is not whole: its token, and how many more bytes of it will come.
    pub fn give_up_large(&mut self) -> Option<(i64, usize)> {
        self.large.take_if(|large| large.missing > 0).map(|large| (large.token, large.missing))
    }

    /// Whether a frame has begun and is not whole: a client that stays silent now is slow, not idle.
    pub fn is_mid_frame(&self) -> bool {
        self.large.is_some() || self.buffer.len() > self.taken
    }

    /// Bytes pushed and not yet given out.
    pub fn pending_bytes(&self) -> usize {
        self.large.as_ref().map_or(0, |large| large.bytes) + self.buffer.len() - self.taken
    }

    /// Bytes that are held.
    pub fn held_bytes(&self) -> usize {
        let pieces = self.large.iter().flat_map(|large| &large.pieces);
        pieces.map(Vec::capacity).sum::<usize>() + self.buffer.capacity()
    }

    /// Bytes the frame at the front still lacks; zero when that is not known yet. Lets the caller read large frames in
    /// large pieces.
    pub fn missing_bytes(&self) -> usize {
        if let Some(large) = &self.large {
            return large.missing;
        }
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
        write_query(1, &vec![b' '; LARGE_BYTES_MIN - 1], &mut bytes);
        decoder.push(&bytes);
        assert_eq!(frames(&mut decoder).len(), 1);
        decoder.release();
        assert_eq!(decoder.held_bytes(), 0);
    }

    #[test]
    fn large_frame_comes_between_its_neighbours_however_it_is_split() {
        let large: Vec<u8> = (0..LARGE_BYTES_MIN + 70_000).map(|index| index as u8).collect();
        let mut bytes = Vec::new();
        write_query(1, b"[4]", &mut bytes);
        write_query(2, &large, &mut bytes);
        write_query(3, b"[5]", &mut bytes);
        for step in [1usize << 30, 100_000, 65_536, 17] {
            let (mut decoder, mut found) = (FrameDecoder::default(), Vec::new());
            for part in bytes.chunks(step) {
                decoder.push(part);
                found.extend(frames(&mut decoder));
                if let Some(frame) = decoder.next_large() {
                    assert_eq!((frame.bytes, frame.missing), (large.len(), 0));
                    found.push((frame.token, frame.pieces.concat()));
                    found.extend(frames(&mut decoder));
                }
            }
            assert_eq!(
                found,
                [(1, b"[4]".to_vec()), (2, large.clone()), (3, b"[5]".to_vec())],
                "steps of {step}"
            );
            assert_eq!((decoder.pending_bytes(), decoder.is_mid_frame()), (0, false));
        }
    }

    #[test]
    fn large_frame_that_is_given_up_is_forgotten() {
        let mut decoder = FrameDecoder::default();
        let mut bytes = Vec::new();
        write_query(9, &vec![b' '; 1 << 20], &mut bytes);
        decoder.push(&bytes[..300_000]);
        assert_eq!(frames(&mut decoder), []);
        assert!(decoder.held_bytes() < 600_000, "room grows as bytes come");
        assert_eq!(decoder.give_up_large(), Some((9, bytes.len() - 300_000)));
        assert_eq!(decoder.pending_bytes(), 0);
    }
}
