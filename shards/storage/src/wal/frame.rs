//! One write of the log: a run of blocks with a piece of the stream of records.
//!
//! ```text
//!  0  magic u32           "PWAL"
//!  4  flags u32           1: the payload begins with a record; what was unfinished before it is void
//!  8  position u64        bytes of records in the log before this payload
//! 16  segment u64         the number of the file it is in
//! 24  previous u64        checksum of the frame before
//! 32  payload bytes u32
//! 36  back u32            bytes of records before this payload that the same flush wrote
//! 40  checksum u64        XXH3 of bytes 0..40 and the payload
//! 48  payload, then zeros up to the end of a block
//! ```
//!
//! Always: a frame begins a block and is written once, never again: a torn write can only hurt what nobody was told is
//! durable. The chain of checksums says where the log ends: bytes that an older life of a recycled segment left, or that
//! a client put into a value, cannot continue it. A frame says what was flushed before it was written, so that one that lies
//! behind the end tells damage in the middle of the log from a torn tail ([`flushed_before`]). A padded block per flush costs less than writing the last block anew
//! would, and it needs no way back.

use crate::bytes::{Reader, round_up};
use crate::disk::BLOCK_BYTES;
use xxhash_rust::xxh3::Xxh3;

pub(crate) const FRAME_HEADER_BYTES: usize = 48;
/// Payload of one frame at most: bounds the buffer of a write.
pub(crate) const PAYLOAD_BYTES_MAX: usize = (1 << 20) - FRAME_HEADER_BYTES;
const MAGIC: u32 = u32::from_le_bytes(*b"PWAL");
const FLAG_BEGINS: u32 = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHead {
    /// Whether the payload begins with a record.
    pub begins: Begins,
    pub position: u64,
    pub segment: u64,
    pub previous: u64,
    pub back: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Begins {
    Record,
    Middle,
}

/// Bytes on disk of a frame with so much payload.
pub(crate) fn frame_bytes(payload: usize) -> u32 {
    round_up((FRAME_HEADER_BYTES + payload) as u64, u64::from(BLOCK_BYTES)) as u32
}

fn sum_of(head: &[u8], payload: &[u8]) -> u64 {
    let mut hash = Xxh3::new();
    hash.update(head);
    hash.update(payload);
    hash.digest()
}

/// Fills a zeroed buffer of [`frame_bytes`] and gives the frame's checksum.
pub(crate) fn encode(head: FrameHead, payload: &[u8], target: &mut [u8]) -> u64 {
    let flags = match head.begins {
        Begins::Record => FLAG_BEGINS,
        Begins::Middle => 0,
    };
    target[..4].copy_from_slice(&MAGIC.to_le_bytes());
    target[4..8].copy_from_slice(&flags.to_le_bytes());
    target[8..16].copy_from_slice(&head.position.to_le_bytes());
    target[16..24].copy_from_slice(&head.segment.to_le_bytes());
    target[24..32].copy_from_slice(&head.previous.to_le_bytes());
    target[32..36].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    target[36..40].copy_from_slice(&head.back.to_le_bytes());
    target[FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload.len()].copy_from_slice(payload);
    let sum = sum_of(&target[..40], payload);
    target[40..48].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Payload bytes that a frame at the front claims to have, if it looks like a frame.
pub(crate) fn payload_bytes(block: &[u8]) -> Option<usize> {
    let mut reader = Reader(block);
    if reader.u32()? != MAGIC {
        return None;
    }
    reader.bytes(28)?;
    let bytes = reader.u32()? as usize;
    (bytes <= PAYLOAD_BYTES_MAX).then_some(bytes)
}

/// The payload and checksum of the frame that continues the log here; `None` when there is none.
pub(crate) fn decode<'a>(bytes: &'a [u8], expected: &FrameHead) -> Option<(Begins, &'a [u8], u64)> {
    let payload_bytes = payload_bytes(bytes)?;
    let payload = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload_bytes)?;
    let mut reader = Reader(bytes.get(4..FRAME_HEADER_BYTES)?);
    let flags = reader.u32()?;
    let head = (reader.u64()?, reader.u64()?, reader.u64()?);
    reader.bytes(8)?;
    let sum = reader.u64()?;
    if head != (expected.position, expected.segment, expected.previous)
        || sum_of(&bytes[..40], payload) != sum
    {
        return None;
    }
    let begins = if flags & FLAG_BEGINS == 0 { Begins::Middle } else { Begins::Record };
    Some((begins, payload, sum))
}

/// The position up to which the log was flushed when a whole frame was written to the segment; `None` for other bytes.
pub(crate) fn flushed_before(bytes: &[u8], segment: u64) -> Option<u64> {
    let payload = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + payload_bytes(bytes)?)?;
    let mut reader = Reader(bytes.get(8..FRAME_HEADER_BYTES)?);
    let (position, found) = (reader.u64()?, reader.u64()?);
    reader.bytes(12)?;
    let (back, sum) = (reader.u32()?, reader.u64()?);
    (found == segment && sum_of(&bytes[..40], payload) == sum)
        .then(|| position.saturating_sub(u64::from(back)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_frame_and_no_other_bytes_pass() {
        let head = FrameHead { begins: Begins::Record, position: 5, segment: 6, previous: 7, back: 8 };
        let mut bytes = vec![0; frame_bytes(3) as usize];
        let sum = encode(head, b"abc", &mut bytes);
        assert_eq!(bytes.len(), 4096);
        assert_eq!(bytes[..12], [b'P', b'W', b'A', b'L', 1, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(bytes[32..40], [3, 0, 0, 0, 8, 0, 0, 0]);
        assert_eq!(bytes[40..48], sum.to_le_bytes());
        assert_eq!(bytes[48..52], *b"abc\0");
        assert_eq!(decode(&bytes, &head), Some((Begins::Record, &b"abc"[..], sum)));
        for bit in 0..51 * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&flipped, &head), None, "bit {bit}");
        }
        assert_eq!(decode(&bytes, &FrameHead { position: 4, ..head }), None);
        assert_eq!(decode(&bytes, &FrameHead { segment: 5, ..head }), None);
        assert_eq!(decode(&bytes, &FrameHead { previous: 0, ..head }), None);
        assert_eq!(decode(&bytes[..50], &head), None);
        let late = FrameHead { position: 100, ..head };
        encode(late, b"abc", &mut bytes);
        assert_eq!(flushed_before(&bytes, 6), Some(92));
        assert_eq!(flushed_before(&bytes, 5), None);
        assert_eq!(flushed_before(&bytes[..50], 6), None);
    }
}
