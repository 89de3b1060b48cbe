//! One record of the log: a batch of edits, or a tree created or dropped.
//!
//! ```text
//! bytes u32       of what follows the checksum
//! checksum u32    low half of XXH3 of what follows
//! kind u8         1 batch, 2 tree created, 3 tree dropped, 4 batch whose first edit's change a change log keeps, 5 batches
//! batch:          shard u32, term u64, commit number u64, transaction u64, commit time u64, edits:
//!                   1 put     tree u32, key bytes u16, key, value bytes u32, value
//!                   2 delete  tree u32, key bytes u16, key
//!                   3 extent  tree u32, key bytes u16, key, block u32, blocks u32, slot bytes u32, sum u32
//! created:        tree u32, name
//! dropped:        tree u32
//! batches:        bytes u32 of what follows of a batch, its kind u8 (1 or 4) and what follows the kind; again
//! ```
//!
//! Batches of one record are one batch: of a record that is not whole nothing is applied.
//!
//! A large value lies in an extent that was durable before its record, so the record only names the extent.

use crate::bytes::{Reader, checksum};
use crate::engine::{CommitInfo, Edit, Part};
use crate::space::Run;

const BATCH: u8 = 1;
const CREATED: u8 = 2;
const DROPPED: u8 = 3;
const KEPT_BATCH: u8 = 4;
const BATCHES: u8 = 5;
const PUT: u8 = 1;
const DELETE: u8 = 2;
const EXTENT: u8 = 3;
pub(crate) const RECORD_HEADER_BYTES: usize = 8;
/// Bytes of a batch before its edits, with its length and kind.
const BATCH_HEADER_BYTES: usize = 4 + 1 + 36;

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
pub(crate) struct Batch<'a> {
    pub info: CommitInfo,
    pub changes: Vec<Change<'a>>,
    /// The change that the first edit makes goes to the table's change log.
    pub is_kept: bool,
}

#[derive(Debug)]
pub(crate) enum Record<'a> {
    /// All of them or none.
    Batches(Vec<Batch<'a>>),
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

/// Appends the batches of some parts as one record. `edits` are those of the parts, one after the other; `extents` holds, for
/// each edit, where its value lies already.
pub(crate) fn append_parts(
    log: &mut Vec<u8>,
    parts: &[Part],
    mut edits: &[Edit],
    mut extents: &[Option<Extent>],
) {
    let kind = |part: &Part| if part.kept.is_some() { KEPT_BATCH } else { BATCH };
    if let [part] = parts {
        let start = begin(log, kind(part));
        put_batch(log, &part.info, edits, extents);
        return finish(log, start);
    }
    let start = begin(log, BATCHES);
    for part in parts {
        let at = log.len();
        log.extend_from_slice(&[0; 4]);
        log.push(kind(part));
        let (own, rest) = edits.split_at(part.edits);
        let (own_extents, rest_extents) = extents.split_at(part.edits.min(extents.len()));
        put_batch(log, &part.info, own, own_extents);
        (edits, extents) = (rest, rest_extents);
        let bytes = u32::try_from(log.len() - at - 4).expect("a batch is smaller than 4 GiB");
        log[at..at + 4].copy_from_slice(&bytes.to_le_bytes());
    }
    finish(log, start);
}

fn put_batch(log: &mut Vec<u8>, info: &CommitInfo, edits: &[Edit], extents: &[Option<Extent>]) {
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

/// Bytes of the record of edits, at most, whatever parts they are of.
pub(crate) fn batch_bytes(edits: &[Edit]) -> u64 {
    let edit_bytes = |edit: &Edit| match edit {
        Edit::Put { key, value, .. } => 11 + key.len() + value.len(),
        Edit::Delete { key, .. } => 7 + key.len(),
    };
    let bytes: usize = edits.iter().map(|edit| BATCH_HEADER_BYTES + edit_bytes(edit)).sum();
    (RECORD_HEADER_BYTES + 1 + bytes.max(BATCH_HEADER_BYTES)) as u64
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
        kind @ (BATCH | KEPT_BATCH) => Some(Record::Batches(vec![decode_batch(kind, reader)?])),
        BATCHES => {
            let mut batches = Vec::new();
            while !reader.0.is_empty() {
                let bytes = reader.u32()?;
                let mut batch = Reader(reader.bytes(bytes as usize)?);
                let kind = batch.u8()?;
                batches.push(decode_batch(kind, batch)?);
            }
            Some(Record::Batches(batches))
        }
        CREATED => Some(Record::Created { tree: reader.u32()?, name: reader.0 }),
        DROPPED => Some(Record::Dropped { tree: reader.u32()? }),
        _ => None,
    }
}

fn decode_batch(kind: u8, mut reader: Reader<'_>) -> Option<Batch<'_>> {
    let is_kept = match kind {
        BATCH => false,
        KEPT_BATCH => true,
        _ => return None,
    };
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
    Some(Batch { info, changes, is_kept })
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
        let part = Part { info, edits: 3, kept: None };
        append_parts(&mut log, &[part], &edits, &[None, None, Some(extent)]);
        assert_eq!(log[..4], [83, 0, 0, 0]);
        assert_eq!(log[8..13], [1, 1, 0, 0, 0]);
        assert_eq!(log[45..59], [1, 6, 0, 0, 0, 1, 0, b'k', 2, 0, 0, 0, b'v', b'w']);
        assert_eq!(log[59..67], [2, 7, 0, 0, 0, 1, 0, b'd']);
        assert_eq!(log[67..75], [3, 8, 0, 0, 0, 1, 0, b'e']);
        assert_eq!(log[75..], [9, 0, 0, 0, 18, 0, 0, 0, 0x8e, 0x11, 1, 0, 10, 0, 0, 0]);
        let (record, bytes) = decode(&log).unwrap().unwrap();
        assert_eq!(bytes, log.len());
        let Record::Batches(batches) = record else { panic!("a batch") };
        let [Batch { info, changes, is_kept: false }] = &batches[..] else { panic!("one batch") };
        assert_eq!((info.shard, info.commit_time_ms, changes.len()), (1, 5, 3));
        assert_eq!(changes[2], Change::Extent { tree: 8, key: b"e", extent });
    }

    #[test]
    fn golden_bytes_of_a_record_of_two_batches() {
        let mut log = Vec::new();
        let edits = [
            Edit::Put { tree: TreeId(6), key: b"k".to_vec(), value: vec![1; 70_000] },
            Edit::Put { tree: TreeId(7), key: b"e".to_vec(), value: Vec::new() },
            Edit::Delete { tree: TreeId(6), key: b"d".to_vec() },
        ];
        let extent = Extent { run: Run { block: 9, blocks: 18 }, slot_bytes: 70_030, sum: 10 };
        let part = |commit_number, edits, kept| {
            let info = CommitInfo { shard: 1, commit_number, ..CommitInfo::default() };
            Part { info, edits, kept }
        };
        let parts = [part(3, 2, Some(None)), part(4, 1, None)];
        append_parts(&mut log, &parts, &edits, &[Some(extent), None, None]);
        assert!(log.len() as u64 <= batch_bytes(&edits));
        assert_eq!(log[..4], [(log.len() - 8) as u8, 0, 0, 0]);
        assert_eq!(log[8..18], [5, 73, 0, 0, 0, 4, 1, 0, 0, 0]);
        assert_eq!(log[50..58], [3, 6, 0, 0, 0, 1, 0, b'k']);
        assert_eq!(log[74..86], [1, 7, 0, 0, 0, 1, 0, b'e', 0, 0, 0, 0]);
        assert_eq!(log[86..92], [45, 0, 0, 0, 1, 1]);
        let (record, bytes) = decode(&log).unwrap().unwrap();
        assert_eq!(bytes, log.len());
        let Record::Batches(batches) = record else { panic!("batches") };
        let read: Vec<_> = batches
            .iter()
            .map(|batch| (batch.info.commit_number, batch.changes.len(), batch.is_kept))
            .collect();
        assert_eq!(read, [(3, 2, true), (4, 1, false)]);
        assert_eq!(batches[0].changes[0], Change::Extent { tree: 6, key: b"k", extent });
        assert_eq!(batches[1].changes[0], Change::Delete { tree: 6, key: b"d" });
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
