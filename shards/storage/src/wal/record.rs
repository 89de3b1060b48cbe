//! One record of the log: a batch of edits, or a tree created or dropped.
//!
//! ```text
//! bytes u32       of what follows the checksum
//! checksum u32    low half of XXH3 of what follows
//! kind u8         1 batch, 2 tree created, 3 tree dropped, 4 batch whose first edit's change a change log keeps
//! batch:          shard u32, term u64, commit number u64, transaction u64, commit time u64, edits:
//!                   1 put     tree u32, key bytes u16, key, value bytes u32, value
//!                   2 delete  tree u32, key bytes u16, key
//!                   3 extent  tree u32, key bytes u16, key, block u32, blocks u32, slot bytes u32, sum u32
//! created:        tree u32, name
//! dropped:        tree u32
//! ```
//!
//! A large value lies in an extent that was durable before its record, so the record only names the extent.

use crate::bytes::{Reader, checksum};
use crate::engine::{CommitInfo, Edit};
use crate::space::Run;

const BATCH: u8 = 1;
const CREATED: u8 = 2;
const DROPPED: u8 = 3;
const KEPT_BATCH: u8 = 4;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const EXTENT: u8 = 3;
pub(crate) const RECORD_HEADER_BYTES: usize = 8;

/// A large value's place, written before its record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub run: Run,
    pub slot_bytes: u32,
    pub sum: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change<'a> {
    Put { tree: u32, key: &'a [u8], value: &'a [u8] },
    Delete { tree: u32, key: &'a [u8] },
    Extent { tree: u32, key: &'a [u8], extent: Extent },
}

#[derive(Debug)]
pub(crate) enum Record<'a> {
    Batch {
        info: CommitInfo,
        changes: Vec<Change<'a>>,
        /// The change that the first edit makes goes to the table's change log.
        is_kept: bool,
    },
    Created {
        tree: u32,
        name: &'a [u8],
    },
    Dropped {
        tree: u32,
    },
}

fn begin(log: &mut Vec<u8>, kind: u8) -> usize {
    let start = log.len();
    log.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
    log.push(kind);
    start
}

fn finish(log: &mut [u8], start: usize) {
    let body = start + RECORD_HEADER_BYTES;
    let bytes = u32::try_from(log.len() - body).expect("a batch is smaller than 4 GiB");
    let sum = checksum(&log[body..], 0) as u32;
    log[start..start + 4].copy_from_slice(&bytes.to_le_bytes());
    log[start + 4..body].copy_from_slice(&sum.to_le_bytes());
}

/// Appends a batch. `extents` holds, for each edit, where its value lies already.
pub(crate) fn append_batch(log: &mut Vec<u8>, info: &CommitInfo, edits: &[Edit], extents: &[Option<Extent>]) {
    put_batch(log, BATCH, info, edits, extents);
}

/// [`append_batch`] of one whose first edit's change goes to the table's change log.
pub(crate) fn append_kept_batch(
    log: &mut Vec<u8>,
    info: &CommitInfo,
    edits: &[Edit],
    extents: &[Option<Extent>],
) {
    put_batch(log, KEPT_BATCH, info, edits, extents);
}

fn put_batch(log: &mut Vec<u8>, kind: u8, info: &CommitInfo, edits: &[Edit], extents: &[Option<Extent>]) {
    let start = begin(log, kind);
    log.extend_from_slice(&info.shard.to_le_bytes());
    for number in [info.term, info.commit_number, info.transaction, info.commit_time_ms] {
        log.extend_from_slice(&number.to_le_bytes());
    }
    for (place, edit) in edits.iter().enumerate() {
        let mut head = |kind: u8, tree: u32, key: &[u8]| {
            log.push(kind);
            log.extend_from_slice(&tree.to_le_bytes());
            log.extend_from_slice(&(key.len() as u16).to_le_bytes());
            log.extend_from_slice(key);
        };
        match (edit, extents.get(place).copied().flatten()) {
            (Edit::Put { tree, key, .. }, Some(extent)) => {
                head(EXTENT, tree.0, key);
                for number in [extent.run.block, extent.run.blocks, extent.slot_bytes, extent.sum] {
                    log.extend_from_slice(&number.to_le_bytes());
                }
            }
            (Edit::Put { tree, key, value }, None) => {
                head(PUT, tree.0, key);
                log.extend_from_slice(&(value.len() as u32).to_le_bytes());
                log.extend_from_slice(value);
            }
            (Edit::Delete { tree, key }, _) => head(DELETE, tree.0, key),
        }
    }
    finish(log, start);
}

pub(crate) fn append_created(log: &mut Vec<u8>, tree: u32, name: &[u8]) {
    let start = begin(log, CREATED);
    log.extend_from_slice(&tree.to_le_bytes());
    log.extend_from_slice(name);
    finish(log, start);
}

pub(crate) fn append_dropped(log: &mut Vec<u8>, tree: u32) {
    let start = begin(log, DROPPED);
    log.extend_from_slice(&tree.to_le_bytes());
    finish(log, start);
}

/// Bytes of the record of a batch, at most.
pub(crate) fn batch_bytes(edits: &[Edit]) -> u64 {
    let edit_bytes = |edit: &Edit| match edit {
        Edit::Put { key, value, .. } => 11 + key.len() + value.len(),
        Edit::Delete { key, .. } => 7 + key.len(),
    };
    (RECORD_HEADER_BYTES + 37 + edits.iter().map(edit_bytes).sum::<usize>()) as u64
}

/// A record from the front of the log: it and its whole length; `None` when it is not all there.
pub(crate) fn decode(log: &[u8]) -> Result<Option<(Record<'_>, usize)>, String> {
    let mut reader = Reader(log);
    let (Some(bytes), Some(sum)) = (reader.u32(), reader.u32()) else { return Ok(None) };
    let Some(body) = reader.bytes(bytes as usize) else { return Ok(None) };
    if checksum(body, 0) as u32 != sum {
        return Err("the checksum of a record is wrong".to_owned());
    }
    let record = decode_body(body).ok_or("a record is broken though its checksum is right")?;
    Ok(Some((record, RECORD_HEADER_BYTES + bytes as usize)))
}

fn decode_body(body: &[u8]) -> Option<Record<'_>> {
    let mut reader = Reader(body);
    match reader.u8()? {
        kind @ (BATCH | KEPT_BATCH) => {
            let info = CommitInfo {
                shard: reader.u32()?,
                term: reader.u64()?,
                commit_number: reader.u64()?,
                transaction: reader.u64()?,
                commit_time_ms: reader.u64()?,
            };
            let mut changes = Vec::new();
            while !reader.0.is_empty() {
                changes.push(decode_change(&mut reader)?);
            }
            Some(Record::Batch { info, changes, is_kept: kind == KEPT_BATCH })
        }
        CREATED => Some(Record::Created { tree: reader.u32()?, name: reader.0 }),
        DROPPED => Some(Record::Dropped { tree: reader.u32()? }),
        _ => None,
    }
}

fn decode_change<'a>(reader: &mut Reader<'a>) -> Option<Change<'a>> {
    let kind = reader.u8()?;
    let tree = reader.u32()?;
    let key_bytes = reader.u16()?;
    let key = reader.bytes(usize::from(key_bytes))?;
    match kind {
        PUT => {
            let value_bytes = reader.u32()?;
            Some(Change::Put { tree, key, value: reader.bytes(value_bytes as usize)? })
        }
        DELETE => Some(Change::Delete { tree, key }),
        EXTENT => {
            let run = Run { block: reader.u32()?, blocks: reader.u32()? };
            Some(Change::Extent {
                tree,
                key,
                extent: Extent { run, slot_bytes: reader.u32()?, sum: reader.u32()? },
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::TreeId;

    #[test]
    fn golden_bytes_of_a_record() {
        let mut log = Vec::new();
        let info = CommitInfo { shard: 1, term: 2, commit_number: 3, transaction: 4, commit_time_ms: 5 };
        let edits = [
            Edit::Put { tree: TreeId(6), key: b"k".to_vec(), value: b"vw".to_vec() },
            Edit::Delete { tree: TreeId(7), key: b"d".to_vec() },
            Edit::Put { tree: TreeId(8), key: b"e".to_vec(), value: vec![1; 70_000] },
        ];
        let extent = Extent { run: Run { block: 9, blocks: 18 }, slot_bytes: 70_030, sum: 10 };
        append_batch(&mut log, &info, &edits, &[None, None, Some(extent)]);
        assert_eq!(log[..4], [83, 0, 0, 0]);
        assert_eq!(log[8..13], [1, 1, 0, 0, 0]);
        assert_eq!(log[45..59], [1, 6, 0, 0, 0, 1, 0, b'k', 2, 0, 0, 0, b'v', b'w']);
        assert_eq!(log[59..67], [2, 7, 0, 0, 0, 1, 0, b'd']);
        assert_eq!(log[67..75], [3, 8, 0, 0, 0, 1, 0, b'e']);
        assert_eq!(log[75..], [9, 0, 0, 0, 18, 0, 0, 0, 0x8e, 0x11, 1, 0, 10, 0, 0, 0]);
        let (record, bytes) = decode(&log).unwrap().unwrap();
        assert_eq!(bytes, log.len());
        let Record::Batch { info, changes, is_kept: false } = record else { panic!("a batch") };
        assert_eq!((info.shard, info.commit_time_ms, changes.len()), (1, 5, 3));
        assert_eq!(changes[2], Change::Extent { tree: 8, key: b"e", extent });
    }

    #[test]
    fn a_record_cut_or_flipped_anywhere_is_never_taken_for_whole() {
        let mut log = Vec::new();
        append_created(&mut log, 3, b"name");
        for cut in 0..log.len() {
            assert!(decode(&log[..cut]).unwrap().is_none());
        }
        for bit in 0..log.len() * 8 {
            let mut flipped = log.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(decode(&flipped), Ok(Some(_))));
        }
    }
}
