//! A small store as the program of this format version wrote it, byte by byte: today's program must open it.
//!
//! The files lie in `tests/golden/store-VERSION`. A change of the format that an older program would misread raises
//! `FORMAT_VERSION`; then `PHOTONDB_WRITE_GOLDEN=1 cargo nextest run -p photondb-storage golden` writes the files of the new
//! version. Files of a version are never written over: what was released must stay readable or be refused by its version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::blocking::{BlockingDirectory, block_on};
use crate::engine::{CommitInfo, StorageEngine};
use crate::slab::{SlabEngine, SlabOptions};
use crate::suite::{delete, named, put, read_all};
use crate::superblock::FORMAT_VERSION;
use crate::verify::verify;

fn options() -> SlabOptions {
    SlabOptions { wal_segment_bytes: 32 << 10, ..SlabOptions::default() }
}

fn folder() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    tests.join(format!("store-{FORMAT_VERSION}"))
}

/// Values in the leaf, in slots and in an extent.
fn value(number: u32) -> Vec<u8> {
    let bytes = match number {
        5 => 70_000,
        number => number as usize % 7 * 40,
    };
    (0..bytes).map(|at| (at as u32 * number % 251) as u8).collect()
}

fn want() -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows: BTreeMap<Vec<u8>, Vec<u8>> =
        (0..60_u32).map(|number| (number.to_be_bytes().to_vec(), value(number))).collect();
    rows.remove(&3_u32.to_be_bytes()[..]);
    rows.insert(b"late".to_vec(), b"in the log alone".to_vec());
    rows
}

/// A checkpoint with two trees, and behind it batches and a dropped tree in the log.
async fn make(directory: BlockingDirectory) {
    let engine = SlabEngine::open(directory, options()).await.expect("it is made");
    let docs = engine.create_tree(&named("docs")).await.expect("a tree");
    let other = engine.create_tree(&named("other")).await.expect("a tree");
    for number in 0..60_u32 {
        let edits = [put(docs, number.to_be_bytes(), value(number)), put(other, *b"n", number.to_le_bytes())];
        engine.commit(CommitInfo::default(), &edits).await.expect("a batch");
    }
    engine.checkpoint().await.expect("a checkpoint");
    let late = [put(docs, *b"late", *b"in the log alone"), delete(docs, 3_u32.to_be_bytes())];
    engine.commit(CommitInfo::default(), &late).await.expect("a batch");
    engine.drop_tree(other).await.expect("it goes");
    engine.flushed(engine.applied()).await.expect("a flush");
}

#[test]
fn the_store_of_this_format_opens_and_is_whole() {
    let golden = folder();
    if std::env::var_os("PHOTONDB_WRITE_GOLDEN").is_some() && !golden.exists() {
        block_on(make(BlockingDirectory::new(&golden).expect("a folder")));
    }
    let path = std::env::temp_dir().join(format!("photondb-golden-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let copy = BlockingDirectory::new(&path).expect("a folder");
    for file in std::fs::read_dir(&golden).expect("the golden store is there: see the head of this file") {
        let file = file.expect("an entry");
        std::fs::copy(file.path(), path.join(file.file_name())).expect("it can be copied");
    }
    block_on(async {
        let report = verify(&copy, &named("none"), &mut |_, _| {}).await.expect("it can be read");
        assert_eq!(report.problems, []);
        let engine = SlabEngine::open(copy.clone(), options()).await.expect("it opens");
        assert_eq!(engine.tree_names(), [named("docs")]);
        let docs = engine.tree(&named("docs")).expect("it is there");
        let rows: BTreeMap<Vec<u8>, Vec<u8>> =
            read_all(&engine, docs).await.expect("it can be read").into_iter().collect();
        assert!(rows == want(), "the golden store holds something else");
    });
    std::fs::remove_dir_all(&path).expect("it can be removed");
}
