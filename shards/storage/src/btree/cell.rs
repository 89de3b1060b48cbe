//! What stands behind a key in a leaf: the value itself when it is small, else where it lies.
//!
//! ```text
//! inline    0, then the value's bytes
//! placed    1, location u64, slot bytes u32, sum u32      the value lies in a slot of a chunk
//! unplaced  2, value number u64, value bytes u32, zero u32   only in memory: the value has no place on disk yet
//! ```
//!
//! Always: no page on disk holds an unplaced cell; the checkpoint gives every value a place before it writes the page.
//! Small values stay in the leaf because a slot of their own would cost them more than their bytes. A leaf knows the checksum of
//! a slot, so that an older slot of the same key, left where a write was lost, is not taken for the right one.

use crate::bytes::Reader;

/// Values up to this many bytes live in the leaf: beyond it a leaf of 8 KiB would hold too few entries. Where values are to
/// live in leaves ([`crate::slab::Placement::Leaves`]), all do that a leaf can hold.
pub(crate) const INLINE_BYTES_MAX: usize = 128;
const INLINE: u8 = 0;
const PLACED: u8 = 1;
const UNPLACED: u8 = 2;
/// Bytes of a cell that points to its value.
pub(crate) const POINTER_BYTES: usize = 17;

/// Where a slot lies: the chunk's number and the byte in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Location(pub u64);

impl Location {
    pub fn new(chunk: u32, offset: u32) -> Self {
        Self(u64::from(chunk) << 32 | u64::from(offset))
    }

    pub fn chunk(self) -> u32 {
        (self.0 >> 32) as u32
    }

    pub fn offset(self) -> u32 {
        self.0 as u32
    }
}

/// A slot as its leaf knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Slotted {
    pub location: Location,
    pub slot_bytes: u32,
    pub sum: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell<'a> {
    Inline(&'a [u8]),
    Placed(Slotted),
    Unplaced { number: u64, value_bytes: u32 },
}

/// A value that lies outside its leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pointer {
    Placed(Slotted),
    Unplaced { number: u64, value_bytes: u32 },
}

impl<'a> Cell<'a> {
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(bytes);
        let tag = reader.u8()?;
        match tag {
            INLINE => Some(Cell::Inline(reader.0)),
            PLACED | UNPLACED => {
                let (number, bytes, sum) = (reader.u64()?, reader.u32()?, reader.u32()?);
                if !reader.0.is_empty() {
                    return None;
                }
                Some(match tag {
                    PLACED => Cell::Placed(Slotted { location: Location(number), slot_bytes: bytes, sum }),
                    _ => Cell::Unplaced { number, value_bytes: bytes },
                })
            }
            _ => None,
        }
    }

    pub fn pointer(&self) -> Option<Pointer> {
        match *self {
            Cell::Inline(_) => None,
            Cell::Placed(slotted) => Some(Pointer::Placed(slotted)),
            Cell::Unplaced { number, value_bytes } => Some(Pointer::Unplaced { number, value_bytes }),
        }
    }
}

impl Pointer {
    pub fn encode(self) -> [u8; POINTER_BYTES] {
        let (tag, number, bytes, sum) = match self {
            Pointer::Placed(slotted) => (PLACED, slotted.location.0, slotted.slot_bytes, slotted.sum),
            Pointer::Unplaced { number, value_bytes } => (UNPLACED, number, value_bytes, 0),
        };
        let mut cell = [0; POINTER_BYTES];
        cell[0] = tag;
        cell[1..9].copy_from_slice(&number.to_le_bytes());
        cell[9..13].copy_from_slice(&bytes.to_le_bytes());
        cell[13..].copy_from_slice(&sum.to_le_bytes());
        cell
    }
}

/// The cell of a small value, in a buffer on the stack.
pub(crate) fn inline_cell<'a>(value: &[u8], buffer: &'a mut [u8; 1 + INLINE_BYTES_MAX]) -> &'a [u8] {
    buffer[0] = INLINE;
    buffer[1..=value.len()].copy_from_slice(value);
    &buffer[..=value.len()]
}

/// The cell of a value of any size that a leaf can hold.
pub(crate) fn whole_cell(value: &[u8]) -> Vec<u8> {
    let mut cell = Vec::with_capacity(1 + value.len());
    cell.push(INLINE);
    cell.extend_from_slice(value);
    cell
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_cells() {
        let slotted = Slotted { location: Location::new(3, 0x40), slot_bytes: 0x102, sum: 0x304 };
        let placed = Pointer::Placed(slotted);
        assert_eq!(placed.encode(), [1, 0x40, 0, 0, 0, 3, 0, 0, 0, 2, 1, 0, 0, 4, 3, 0, 0]);
        assert_eq!(Cell::decode(&placed.encode()).unwrap().pointer(), Some(placed));
        assert_eq!(inline_cell(b"ab", &mut [0; 129]), [0, b'a', b'b']);
        assert_eq!(whole_cell(b"ab"), [0, b'a', b'b']);
        for broken in [&[][..], &[1, 2], &[3], &[1; 18]] {
            assert_eq!(Cell::decode(broken), None);
        }
    }
}
