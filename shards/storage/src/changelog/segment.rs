//! Bytes of a change log's segments.
//!
//! A file is named `changes-LOG-NNNNNNNNNN`: the log's name in hexadecimal, and its own number. It begins with a head, frames follow;
//! each begins at a multiple of 4,096 bytes, with zeros behind it.
//!
//! ```text
//! head:   "PHOTONCH", version u32, bytes u32 of the head in blocks, checksum u64 of the head with this field zero, number u64,
//!         begun u64 (milliseconds since 1970), shards u32, then of each: shard u32, its last commit before the segment u64
//! frame:  bytes u32 of changes, count u32 of them, checksum u64 of the frame with this field zero, checksum of the frame before
//!         (or of the head) u64, durable u64 (the file's bytes that were durable before this was written), changes
//! change: shard u32, commit u64, time u64, key bytes u16, old bytes u32, new bytes u32 (all ones: no value), key, old, new
//! ```
//!
//! Always: checksums are bound to segment and offset, so what another file or an earlier life of this one left is not taken for
//! a frame, and frames are chained, so nothing that was written before a power loss follows on what is written after it.

use std::rc::Rc;

use crate::bytes::{Reader, checksum, round_up};
use crate::disk::BLOCK_BYTES;

const MAGIC: &[u8; 8] = b"PHOTONCH";
const VERSION: u32 = 1;
const HEAD_BYTES: usize = 44;
pub(crate) const FRAME_HEAD_BYTES: usize = 32;
const CHANGE_HEAD_BYTES: usize = 30;
const NO_VALUE: u32 = u32::MAX;
/// A frame has no more changes once it is as long as this.
pub(crate) const FRAME_BYTES: usize = 256 << 10;

/// A change of a row, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoggedChange {
    pub shard: u32,
    pub commit: u64,
    pub time_ms: u64,
    pub key: Vec<u8>,
    pub old: Option<Rc<[u8]>>,
    pub new: Option<Rc<[u8]>>,
}

/// What a segment says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub number: u64,
    pub begun_ms: u64,
    /// The last commit of each shard before this segment, by shard.
    pub bases: Vec<(u32, u64)>,
}

pub(crate) fn file_name(log: &[u8], number: u64) -> String {
    let hex: String = log.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("changes-{hex}-{number:010}")
}

/// The log and number of a segment's file.
pub(crate) fn of_file_name(name: &str) -> Option<(Vec<u8>, u64)> {
    let (hex, number) = name.strip_prefix("changes-")?.split_once('-')?;
    if number.len() != 10 || !hex.len().is_multiple_of(2) || !hex.is_ascii() {
        return None;
    }
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).ok();
    let log = (0..hex.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>()?;
    Some((log, number.parse().ok()?))
}

impl Head {
    /// Bytes in the file.
    pub fn bytes(&self) -> u32 {
        round_up((HEAD_BYTES + 12 * self.bases.len()) as u64, u64::from(BLOCK_BYTES)) as u32
    }

    /// Fills `target`, which is as long as [`Head::bytes`]; gives the checksum that the first frame follows.
    pub fn encode(&self, target: &mut [u8]) -> u64 {
        let mut bytes = Vec::with_capacity(target.len());
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.bytes().to_le_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(&self.number.to_le_bytes());
        bytes.extend_from_slice(&self.begun_ms.to_le_bytes());
        bytes.extend_from_slice(&(self.bases.len() as u32).to_le_bytes());
        for (shard, commit) in &self.bases {
            bytes.extend_from_slice(&shard.to_le_bytes());
            bytes.extend_from_slice(&commit.to_le_bytes());
        }
        bytes.resize(target.len(), 0);
        let sum = checksum(&bytes, self.number);
        bytes[16..24].copy_from_slice(&sum.to_le_bytes());
        target.copy_from_slice(&bytes);
        sum
    }

    /// Bytes that the head at the front of `block` takes; `None` when there is none.
    pub fn bytes_of(block: &[u8]) -> Option<u32> {
        let mut reader = Reader(block);
        let is_one = reader.bytes(8)? == MAGIC && reader.u32()? == VERSION;
        reader.u32().filter(|bytes| is_one && *bytes > 0 && bytes.is_multiple_of(BLOCK_BYTES))
    }

    /// The head and its checksum; `None` when it is not whole.
    pub fn decode(bytes: &[u8], number: u64) -> Option<(Head, u64)> {
        let mut unsummed = bytes.to_vec();
        unsummed.get_mut(16..24)?.fill(0);
        let mut reader = Reader(&bytes[16..]);
        let sum = reader.u64()?;
        if checksum(&unsummed, number) != sum || reader.u64()? != number {
            return None;
        }
        let begun_ms = reader.u64()?;
        let count = reader.u32()?;
        let bases = (0..count).map(|_| Some((reader.u32()?, reader.u64()?))).collect::<Option<Vec<_>>>()?;
        Some((Head { number, begun_ms, bases }, sum))
    }

    pub fn base(&self, shard: u32) -> Option<u64> {
        self.bases.iter().find(|(other, _)| *other == shard).map(|(_, commit)| *commit)
    }
}

/// Appends a change. Gives its length.
pub(crate) fn append(
    target: &mut Vec<u8>,
    (shard, commit, time_ms): (u32, u64, u64),
    key: &[u8],
    old: Option<&[u8]>,
    new: Option<&[u8]>,
) -> usize {
    let before = target.len();
    let bytes = |value: Option<&[u8]>| value.map_or(NO_VALUE, |value| value.len() as u32);
    target.extend_from_slice(&shard.to_le_bytes());
    target.extend_from_slice(&commit.to_le_bytes());
    target.extend_from_slice(&time_ms.to_le_bytes());
    target.extend_from_slice(&(key.len() as u16).to_le_bytes());
    target.extend_from_slice(&bytes(old).to_le_bytes());
    target.extend_from_slice(&bytes(new).to_le_bytes());
    target.extend_from_slice(key);
    target.extend_from_slice(old.unwrap_or_default());
    target.extend_from_slice(new.unwrap_or_default());
    target.len() - before
}

/// A change whose values have not been copied.
pub(crate) struct Borrowed<'a> {
    pub shard: u32,
    pub commit: u64,
    pub time_ms: u64,
    key: &'a [u8],
    old: Option<&'a [u8]>,
    new: Option<&'a [u8]>,
}

impl Borrowed<'_> {
    pub fn to_change(&self) -> LoggedChange {
        LoggedChange {
            shard: self.shard,
            commit: self.commit,
            time_ms: self.time_ms,
            key: self.key.to_vec(),
            old: self.old.map(Rc::from),
            new: self.new.map(Rc::from),
        }
    }
}

/// The changes of a frame, or of a part of it that begins with a change.
pub(crate) fn changes(bytes: &[u8]) -> impl Iterator<Item = Borrowed<'_>> {
    let mut reader = Reader(bytes);
    std::iter::from_fn(move || {
        if reader.0.len() < CHANGE_HEAD_BYTES {
            return None;
        }
        let (shard, commit, time_ms) = (reader.u32()?, reader.u64()?, reader.u64()?);
        let (key_bytes, old_bytes, new_bytes) = (reader.u16()?, reader.u32()?, reader.u32()?);
        let key = reader.bytes(usize::from(key_bytes))?;
        let mut value = |bytes: u32| match bytes {
            NO_VALUE => Some(None),
            bytes => reader.bytes(bytes as usize).map(Some),
        };
        Some(Borrowed { shard, commit, time_ms, key, old: value(old_bytes)?, new: value(new_bytes)? })
    })
}

/// Bytes in the file of a frame with so many of changes.
pub(crate) fn frame_bytes(payload: usize) -> u32 {
    round_up((FRAME_HEAD_BYTES + payload) as u64, u64::from(BLOCK_BYTES)) as u32
}

/// Where a frame stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Site {
    pub segment: u64,
    pub offset: u64,
}

impl Site {
    fn seed(self) -> u64 {
        self.segment.rotate_left(40) ^ self.offset
    }
}

/// Fills `target`, which is as long as [`frame_bytes`] says; gives the frame's checksum.
pub(crate) fn encode_frame(
    site: Site,
    previous: u64,
    durable: u64,
    (payload, count): (&[u8], u32),
    target: &mut [u8],
) -> u64 {
    target[..4].copy_from_slice(&(payload.len() as u32).to_le_bytes());
    target[4..8].copy_from_slice(&count.to_le_bytes());
    target[8..16].fill(0);
    target[16..24].copy_from_slice(&previous.to_le_bytes());
    target[24..32].copy_from_slice(&durable.to_le_bytes());
    let end = FRAME_HEAD_BYTES + payload.len();
    target[FRAME_HEAD_BYTES..end].copy_from_slice(payload);
    target[end..].fill(0);
    let sum = checksum(&target[..end], site.seed());
    target[8..16].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// A frame that is whole.
pub(crate) struct Frame<'a> {
    pub payload: &'a [u8],
    pub sum: u64,
    pub previous: u64,
    pub durable: u64,
}

/// Bytes of changes that the frame beginning here says it has; `None` when none can begin here.
pub(crate) fn payload_bytes(block: &[u8]) -> Option<usize> {
    let mut reader = Reader(block);
    let (bytes, count) = (reader.u32()?, reader.u32()?);
    (bytes > 0 && count > 0).then_some(bytes as usize)
}

pub(crate) fn decode_frame(bytes: &[u8], site: Site) -> Option<Frame<'_>> {
    let end = FRAME_HEAD_BYTES + payload_bytes(bytes)?;
    let mut reader = Reader(bytes.get(8..end)?);
    let (sum, previous, durable) = (reader.u64()?, reader.u64()?, reader.u64()?);
    let mut head = [0; FRAME_HEAD_BYTES];
    head.copy_from_slice(&bytes[..FRAME_HEAD_BYTES]);
    head[8..16].fill(0);
    let mut unsummed = Vec::with_capacity(end);
    unsummed.extend_from_slice(&head);
    unsummed.extend_from_slice(reader.0);
    (checksum(&unsummed, site.seed()) == sum).then_some(Frame { payload: reader.0, sum, previous, durable })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_head() {
        let head = Head { number: 3, begun_ms: 4, bases: vec![(5, 6), (7, 8)] };
        let mut block = vec![1; head.bytes() as usize];
        let sum = head.encode(&mut block);
        assert_eq!(block[..16], *b"PHOTONCH\x01\0\0\0\0\x10\0\0");
        let numbers: Vec<u8> = [sum, 3, 4].into_iter().flat_map(u64::to_le_bytes).collect();
        assert_eq!(block[16..40], numbers);
        assert_eq!(block[40..48], [2, 0, 0, 0, 5, 0, 0, 0]);
        assert_eq!(block[48..56], 6u64.to_le_bytes());
        assert_eq!(Head::bytes_of(&block), Some(4096));
        assert_eq!(Head::decode(&block, 3), Some((head, sum)));
        assert_eq!(Head::decode(&block, 4), None);
        block[60] ^= 1;
        assert_eq!(Head::decode(&block, 3), None);
    }

    #[test]
    fn golden_bytes_of_a_frame() {
        let mut payload = Vec::new();
        append(&mut payload, (1, 2, 3), b"k", None, Some(b"new"));
        append(&mut payload, (1, 4, 5), b"k", Some(b"new"), Some(b""));
        assert_eq!(payload[20..34], [1, 0, 255, 255, 255, 255, 3, 0, 0, 0, b'k', b'n', b'e', b'w']);
        let site = Site { segment: 6, offset: 4096 };
        let mut bytes = vec![1; frame_bytes(payload.len()) as usize];
        let sum = encode_frame(site, 7, 8, (&payload, 2), &mut bytes);
        assert_eq!(bytes[..8], [68, 0, 0, 0, 2, 0, 0, 0]);
        let numbers: Vec<u8> = [sum, 7, 8].into_iter().flat_map(u64::to_le_bytes).collect();
        assert_eq!(bytes[8..32], numbers);
        let frame = decode_frame(&bytes, site).expect("it is whole");
        assert_eq!((frame.previous, frame.durable, frame.sum), (7, 8, sum));
        let found: Vec<LoggedChange> = changes(frame.payload).map(|change| change.to_change()).collect();
        let values = |change: &LoggedChange| {
            (change.old.as_deref().map(<[u8]>::to_vec), change.new.as_deref().map(<[u8]>::to_vec))
        };
        assert_eq!(values(&found[0]), (None, Some(b"new".to_vec())));
        assert_eq!(values(&found[1]), (Some(b"new".to_vec()), Some(Vec::new())));
        assert_eq!((found[1].shard, found[1].commit, found[1].time_ms), (1, 4, 5));
        assert!(decode_frame(&bytes, Site { segment: 6, offset: 8192 }).is_none());
        for bit in 0..(FRAME_HEAD_BYTES + payload.len()) * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_frame(&flipped, site).is_none(), "{bit}");
        }
    }

    #[test]
    fn names_of_files_tell_log_and_number() {
        assert_eq!(file_name(b"T\x01", 12), "changes-5401-0000000012");
        assert_eq!(of_file_name("changes-5401-0000000012"), Some((b"T\x01".to_vec(), 12)));
        for other in
            ["changes-5401-12", "changes-540-0000000012", "wal-0000000012", "changes-54zz-0000000012"]
        {
            assert_eq!(of_file_name(other), None, "{other}");
        }
    }
}
