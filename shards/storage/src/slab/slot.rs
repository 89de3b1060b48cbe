//! One value in its slot.
//!
//! ```text
//!  0  checksum u32      low half of XXH3 of bytes 4.., seeded with the slot's location
//!  4  tree u32
//!  8  plain bytes u32   of the value
//! 12  stored bytes u32  of the value as it lies here
//! 16  key bytes u16
//! 18  how u8            the value is stored: 0 as it is, 1 by zstd, 2 by zstd with a dictionary (see compress.rs)
//! 19  kind u8           3, a slot
//! 20  key, value, zeros up to a multiple of 16
//! ```
//!
//! A slot bears its key, for two reasons: a slot read at a stale location is told from the right one, and a chunk with few
//! live slots is emptied by looking up the keys in it, so that no map from slots back to trees is needed.

use crate::btree::cell::Location;
use crate::bytes::{Reader, checksum, round_up};
use crate::compress::How;
use crate::space::Run;

pub(crate) const SLOT_HEADER_BYTES: usize = 20;
/// Sizes of slots are multiples of this: the class of a slot is its size, and at most 15 bytes of it are lost.
pub(crate) const SLOT_UNIT_BYTES: u64 = 16;
const KIND: u8 = 3;

pub(crate) struct Slot<'a> {
    pub sum: u32,
    pub tree: u32,
    pub key: &'a [u8],
    pub how: How,
    pub plain_bytes: usize,
    pub stored: &'a [u8],
}

/// A value as it is to be stored.
pub(crate) struct Stored<'a> {
    pub how: How,
    pub plain_bytes: usize,
    pub bytes: &'a [u8],
}

impl<'a> Stored<'a> {
    pub fn plain(value: &'a [u8]) -> Self {
        Self { how: How::Plain, plain_bytes: value.len(), bytes: value }
    }
}

/// The place that the slot of an extent is bound to: its first block, since it has no chunk number when it is written.
pub(crate) fn extent_place(run: Run) -> Location {
    Location(1 << 63 | u64::from(run.block))
}

/// Bytes of the slot of a key and a value as it is stored.
pub(crate) fn slot_bytes(key: usize, value: usize) -> u32 {
    round_up((SLOT_HEADER_BYTES + key + value) as u64, SLOT_UNIT_BYTES) as u32
}

/// Appends the slot that will lie at `location`, and gives its checksum.
pub(crate) fn append(
    target: &mut Vec<u8>,
    location: Location,
    tree: u32,
    key: &[u8],
    value: &Stored<'_>,
) -> u32 {
    let start = target.len();
    target.extend_from_slice(&[0; 4]);
    target.extend_from_slice(&tree.to_le_bytes());
    target.extend_from_slice(&(value.plain_bytes as u32).to_le_bytes());
    target.extend_from_slice(&(value.bytes.len() as u32).to_le_bytes());
    target.extend_from_slice(&(key.len() as u16).to_le_bytes());
    target.extend_from_slice(&[value.how.number(), KIND]);
    target.extend_from_slice(key);
    target.extend_from_slice(value.bytes);
    target.resize(start + slot_bytes(key.len(), value.bytes.len()) as usize, 0);
    let sum = checksum(&target[start + 4..], location.0) as u32;
    target[start..start + 4].copy_from_slice(&sum.to_le_bytes());
    sum
}

/// Bytes of the slot at the front, if one is there. Its checksum is not looked at.
pub(crate) fn length(bytes: &[u8]) -> Option<u32> {
    let mut reader = Reader(bytes.get(12..SLOT_HEADER_BYTES)?);
    let (stored, key) = (reader.u32()?, reader.u16()?);
    reader.u8()?;
    (reader.u8()? == KIND).then(|| slot_bytes(usize::from(key), stored as usize))
}

/// The slot in exactly these bytes, or what is wrong with it.
pub(crate) fn decode(bytes: &[u8], location: Location) -> Result<Slot<'_>, String> {
    if length(bytes).map(|length| length as usize) != Some(bytes.len()) {
        return Err("no slot of the right size lies here".to_owned());
    }
    let sum = checksum(&bytes[4..], location.0) as u32;
    if sum.to_le_bytes() != bytes[..4] {
        let found = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        return Err(format!("the slot's checksum is {found:08x}, want {sum:08x}"));
    }
    let mut reader = Reader(&bytes[4..]);
    let parts = || -> Option<Slot<'_>> {
        let tree = reader.u32()?;
        let plain = reader.u32()?;
        let stored = reader.u32()?;
        let key_bytes = reader.u16()?;
        let how = How::from_number(reader.u8()?)?;
        reader.u8()?;
        let key = reader.bytes(usize::from(key_bytes))?;
        let stored = reader.bytes(stored as usize)?;
        let is_whole = how != How::Plain || plain as usize == stored.len();
        is_whole.then_some(Slot { sum, tree, key, how, plain_bytes: plain as usize, stored })
    }();
    parts.ok_or_else(|| "the slot is stored in a way that this program does not know".to_owned())
}

/// The slot in exactly these bytes, which a leaf says sums to `sum` and is this key's.
pub(crate) fn slot_of<'a>(
    bytes: &'a [u8],
    place: Location,
    sum: u32,
    tree: u32,
    key: &[u8],
) -> Result<Slot<'a>, String> {
    let slot = decode(bytes, place)?;
    if slot.sum != sum {
        return Err(format!("an older slot lies here: its checksum is {:08x}, want {sum:08x}", slot.sum));
    }
    if slot.tree != tree || slot.key != key {
        return Err("the slot is another key's".to_owned());
    }
    Ok(slot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_slot() {
        let location = Location::new(1, 4096);
        let mut bytes = Vec::new();
        let sum = append(&mut bytes, location, 5, b"key", &Stored::plain(b"value"));
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[4..20], [5, 0, 0, 0, 5, 0, 0, 0, 5, 0, 0, 0, 3, 0, 0, 3]);
        assert_eq!(bytes[20..], *b"keyvalue\0\0\0\0");
        assert_eq!(bytes[..4], sum.to_le_bytes());
        assert_eq!(slot_of(&bytes, location, sum, 5, b"key").unwrap().stored, b"value");
        assert!(slot_of(&bytes, location, sum, 6, b"key").is_err());
        assert!(slot_of(&bytes, location, sum ^ 1, 5, b"key").is_err());
        let small = Stored { how: How::WithDictionary, plain_bytes: 0x304, bytes: b"vw" };
        let mut compressed = Vec::new();
        append(&mut compressed, location, 5, b"key", &small);
        assert_eq!(compressed[4..20], [5, 0, 0, 0, 4, 3, 0, 0, 2, 0, 0, 0, 3, 0, 2, 3]);
        let slot = decode(&compressed, location).unwrap();
        assert_eq!((slot.how, slot.plain_bytes, slot.stored), (How::WithDictionary, 0x304, &b"vw"[..]));
        assert!(decode(&bytes, Location::new(1, 4112)).is_err());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(&flipped, location).is_err(), "bit {bit}");
        }
    }
}
