//! Little-endian numbers in blocks: a cursor that reads without panicking, and appending writes.
//!
//! Everything that storage puts on disk is little-endian, so that a dump is read the same on every machine.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Reads numbers and runs of bytes off the front; `None` when too few are left.
#[derive(Clone)]
pub(crate) struct Reader<'a>(pub &'a [u8]);

impl<'a> Reader<'a> {
    pub fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(head)
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.bytes(1).map(|bytes| bytes[0])
    }

    pub fn u16(&mut self) -> Option<u16> {
        let bytes = self.bytes(2)?;
        Some(u16::from_le_bytes(bytes.try_into().ok()?))
    }

    pub fn u32(&mut self) -> Option<u32> {
        let bytes = self.bytes(4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    }

    pub fn u64(&mut self) -> Option<u64> {
        let bytes = self.bytes(8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    }
}

/// XXH3 of the bytes, bound to the place they lie at: bytes that were written elsewhere do not match.
pub(crate) fn checksum(bytes: &[u8], place: u64) -> u64 {
    xxh3_64_with_seed(bytes, place)
}

/// `value` rounded up to a multiple of `unit`.
pub(crate) fn round_up(value: u64, unit: u64) -> u64 {
    value.div_ceil(unit) * unit
}
