//! Stores with damaged bytes on their disk: what is lost is what lay there, and it is named.

use std::os::unix::fs::FileExt;

use crate::blocking::{BlockingDirectory, block_on};
use crate::engine::{CommitInfo, Direction, StorageEngine, StorageError};
use crate::slab::SlabEngine;
use crate::slab::tests::{Blocking, SMALL};
use crate::suite::{self, EVERYTHING, Host, named};
use crate::wal::frame;

const DOCUMENTS: u32 = 3000;

fn value(number: u32) -> Vec<u8> {
    suite::Random::new(u64::from(number)).bytes(400)
}

/// Overwrites bytes of a file of the store.
fn spoil(host: &Blocking, file: &str, offset: u64, bytes: &[u8]) {
    let path = host.directory.path().join(file);
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, offset).unwrap();
}

fn bytes_of(host: &Blocking, file: &str) -> Vec<u8> {
    std::fs::read(host.directory.path().join(file)).unwrap()
}

/// Where some bytes first lie in a file.
fn place_of(host: &Blocking, file: &str, bytes: &[u8]) -> u64 {
    let all = bytes_of(host, file);
    all.windows(bytes.len()).position(|window| window == bytes).expect("the bytes are in the file") as u64
}

fn filled(name: &str) -> Blocking {
    let mut host = Blocking::new(name, SMALL);
    host.run(async |engine| {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        for number in 0..DOCUMENTS {
            let edit = suite::put(tree, number.to_be_bytes(), value(number));
            engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
        }
    });
    host
}

/// Scans everything, passing over what cannot be read; the numbers that were found and the errors.
async fn scan_beside(
    engine: &SlabEngine<BlockingDirectory>,
    direction: Direction,
) -> (Vec<u32>, Vec<StorageError>) {
    let tree = engine.tree(&named("a")).unwrap();
    let (mut rest, mut found, mut errors) = (Some(EVERYTHING), Vec::new(), Vec::new());
    while let Some(mut range) = rest {
        rest = match engine.range(tree, &range, direction, 100, 1 << 20).await {
            Ok(portion) => {
                for (key, bytes) in &portion.entries {
                    let number = u32::from_be_bytes(key.as_slice().try_into().unwrap());
                    assert_eq!(bytes[..], value(number));
                    found.push(number);
                }
                let last = std::ops::Bound::Excluded(found.last().unwrap().to_be_bytes().to_vec());
                match direction {
                    Direction::Forward => range.start = last,
                    Direction::Backward => range.end = last,
                }
                portion.more.then_some(range)
            }
            Err(error) => {
                errors.push(error);
                engine.behind_damage(tree, &range, direction).await.unwrap()
            }
        };
    }
    found.sort_unstable();
    (found, errors)
}

fn named_place(error: &StorageError) -> (&str, u64, &str) {
    match error {
        StorageError::Corrupt { file, offset, what } => (file, *offset, what),
        other => panic!("{other}"),
    }
}

#[test]
fn a_damaged_slot_costs_its_document_alone_and_is_named() {
    let mut host = filled("damaged-slot");
    let place = place_of(&host, "slabs", &value(1234));
    spoil(&host, "slabs", place + 7, b"?");
    host.run(async |engine| {
        let tree = engine.tree(&named("a")).unwrap();
        let error = engine.get(tree, &1234_u32.to_be_bytes()).await.unwrap_err();
        let (file, offset, what) = named_place(&error);
        assert!(file == "slabs" && (offset..offset + 8192).contains(&place), "{error}");
        assert!(what.contains("\\x00\\x00\\x04\\xd2"), "{what}");
        for direction in [Direction::Forward, Direction::Backward] {
            let (found, errors) = scan_beside(engine, direction).await;
            assert_eq!(errors, std::slice::from_ref(&error));
            assert!(found.into_iter().eq((0..DOCUMENTS).filter(|number| *number != 1234)));
        }
        // Who knows the key can delete what cannot be read, or write it anew.
        for edit in [
            suite::put(tree, 1234_u32.to_be_bytes(), value(1234)),
            suite::delete(tree, 1234_u32.to_be_bytes()),
        ] {
            engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
            assert!(engine.get(tree, &1234_u32.to_be_bytes()).await.is_ok());
        }
    });
}

#[test]
fn a_damaged_leaf_costs_its_documents_and_the_scan_goes_on_behind_it() {
    let mut host = filled("damaged-leaf");
    // Any leaf with more than one entry below the root holds the last bytes of neighbouring keys side by side.
    let pages = bytes_of(&host, "pages");
    let is_leaf = |block: &&[u8]| block[12] == 1 && block[8..12] != [0; 4] && block[14] > 20;
    let block = pages.chunks(4096).position(|block| is_leaf(&block)).unwrap() as u64;
    spoil(&host, "pages", block * 4096 + 2000, b"spoiled");
    host.run(async |engine| {
        let (found, errors) = scan_beside(engine, Direction::Forward).await;
        assert_eq!(errors.len(), usize::from(found.len() < DOCUMENTS as usize), "{errors:?}");
        if let Some(error) = errors.first() {
            assert_eq!(named_place(error).1, block * 4096, "{error}");
            let lost = DOCUMENTS as usize - found.len();
            assert!((1..600).contains(&lost), "{lost} documents are lost");
        }
        let (backward, _) = scan_beside(engine, Direction::Backward).await;
        assert_eq!(found, backward);
        // The store is not read-only: what is whole can be written.
        let tree = engine.tree(&named("a")).unwrap();
        let edit = suite::put(tree, found[0].to_be_bytes(), value(found[0]));
        engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
    });
}

/// Commits in a store that is not closed: all of them are in the log alone. Gives where each frame begins.
fn logged(name: &str) -> (Blocking, Vec<u64>) {
    let host = Blocking::new(name, SMALL);
    let engine = block_on(SlabEngine::open(host.directory.clone(), SMALL)).unwrap();
    block_on(async {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        for number in 0..20_u32 {
            let edit = suite::put(tree, number.to_be_bytes(), vec![7; 5000]);
            let lsn = engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
            engine.flushed(lsn).await.unwrap();
        }
    });
    drop(engine);
    let log = bytes_of(&host, "wal-0000000001");
    let is_frame = |offset: &usize| frame::payload_bytes(&log[*offset..]).is_some();
    let frames = (0..log.len()).step_by(4096).filter(is_frame).map(|offset| offset as u64).collect();
    (host, frames)
}

#[test]
fn damage_in_the_middle_of_the_log_is_an_error_and_a_torn_tail_is_not() {
    let (host, frames) = logged("damaged-log");
    assert_eq!(frames.len(), 20);
    let last = *frames.last().unwrap();
    spoil(&host, "wal-0000000001", last + 4096 + 10, b"torn");
    let engine = block_on(SlabEngine::open(host.directory.clone(), SMALL)).unwrap();
    let tree = engine.tree(&named("a")).unwrap();
    assert_eq!(block_on(engine.count(tree, &EVERYTHING)).unwrap(), 19);
    drop(engine);

    for (name, damaged) in [("first", 0), ("middle", 9), ("last-but-one", 18)] {
        let (host, frames) = logged(&format!("damaged-log-{name}"));
        spoil(&host, "wal-0000000001", frames[damaged] + 100, b"??");
        let Err(error) = block_on(SlabEngine::open(host.directory.clone(), SMALL)) else {
            panic!("{name}: a log without its middle was taken for whole")
        };
        let (file, offset, _) = named_place(&error);
        assert_eq!((file, offset), ("wal-0000000001", frames[damaged]), "{name}");
    }
}

#[test]
fn a_frame_that_a_disk_put_before_the_place_where_redo_begins_shows_that_the_log_is_damaged() {
    let (host, frames) = logged("misdirected-log");
    block_on(async {
        let engine = SlabEngine::open(host.directory.clone(), SMALL).await.unwrap();
        engine.checkpoint().await.unwrap();
        let tree = engine.tree(&named("a")).unwrap();
        for number in 0..3_u32 {
            let edit = suite::put(tree, number.to_be_bytes(), vec![8; 3000]);
            let lsn = engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
            engine.flushed(lsn).await.unwrap();
        }
    });
    let log = bytes_of(&host, "wal-0000000001");
    let redo = *frames.last().unwrap() as usize + 2 * 4096;
    let is_frame = |offset: usize| frame::payload_bytes(&log[offset..]).is_some();
    assert!((0..3).all(|number| is_frame(redo + number * 4096)), "three frames of a block each");
    let last = &log[redo + 2 * 4096..redo + 3 * 4096];
    spoil(&host, "wal-0000000001", 4096, last);
    spoil(&host, "wal-0000000001", redo as u64, &[0; 3 * 4096]);
    let Err(error) = block_on(SlabEngine::open(host.directory.clone(), SMALL)) else {
        panic!("three flushed batches are gone, and nobody says so")
    };
    let (file, offset, _) = named_place(&error);
    assert_eq!((file, offset), ("wal-0000000001", redo as u64));
}
