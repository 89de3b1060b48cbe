//! A small store as the program of each format version wrote it, byte by byte: today's program must open it.
//!
//! The files lie in `tests/golden/store-VERSION`. A change of the format that an older program would misread raises
//! `FORMAT_VERSION`; then `PHOTONDB_WRITE_GOLDEN=1 cargo nextest run -p photondb-storage golden` writes the files of the new
//! version. Files of a version are never written over: what was released must stay readable or be refused by its version.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::blocking::{BlockingDirectory, block_on};
use photondb_proto::datum::{Datum, document};

use crate::engine::{Cached, CommitInfo, Part, StorageEngine};
use crate::slab::{SlabEngine, SlabOptions};
use crate::suite::{delete, named, put, read_all};
use crate::superblock::{FORMAT_VERSION, FORMAT_VERSION_OLDEST};
use crate::verify::verify;

fn options() -> SlabOptions {
    SlabOptions { wal_segment_bytes: 32 << 10, ..SlabOptions::default() }
}

fn folder(version: u32) -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    tests.join(format!("store-{version}"))
}

/// A document as a server stores it, with a directory of its fields.
fn directed() -> Vec<u8> {
    let field = |name: &'static str| (name, Datum::String(name.repeat(40).as_str().into()));
    let bytes = document::to_bytes(&Datum::object([field("a"), field("b"), field("c"), field("id")]));
    assert_eq!(bytes[0], 12, "such an object has a directory");
    bytes
}

/// A document whose short values stand before the long ones, which come first by their names.
fn near() -> Vec<u8> {
    let long = |name: &'static str| (name, Datum::String(name.repeat(40).as_str().into()));
    let bytes =
        document::to_bytes(&Datum::object([long("a"), long("b"), long("c"), ("n", Datum::Number(5.0))]));
    assert_eq!(bytes[14..18], [1, b'n', 4, 5], "the number is behind the directory");
    bytes
}

/// Values in the leaf, in slots and in an extent.
fn value(number: u32) -> Vec<u8> {
    let bytes = match number {
        5 => 70_000,
        number => number as usize % 7 * 40,
    };
    (0..bytes).map(|at| (at as u32 * number % 251) as u8).collect()
}

fn want(version: u32) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut rows: BTreeMap<Vec<u8>, Vec<u8>> =
        (0..60_u32).map(|number| (number.to_be_bytes().to_vec(), value(number))).collect();
    rows.remove(&3_u32.to_be_bytes()[..]);
    rows.insert(b"late".to_vec(), b"in the log alone".to_vec());
    if version >= 4 {
        rows.insert(b"first of two".to_vec(), directed());
        rows.insert(b"second of two".to_vec(), vec![7; 70_000]);
    }
    if version >= 5 {
        rows.extend((0..600).map(shared));
    }
    if version >= 6 {
        rows.insert(b"near".to_vec(), near());
    }
    rows
}

/// A row of a tree whose inner page has a prefix: many keys that begin alike.
fn shared(number: u16) -> (Vec<u8>, Vec<u8>) {
    (format!("many begin like this/{number:04}").into_bytes(), vec![number as u8; 100])
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
    for (key, value) in (0..600).map(shared) {
        engine.commit(CommitInfo::default(), &[put(docs, key, value)]).await.expect("a batch");
    }
    engine.commit(CommitInfo::default(), &[put(docs, *b"near", near())]).await.expect("a batch");
    engine.checkpoint().await.expect("a checkpoint");
    let late = [put(docs, *b"late", *b"in the log alone"), delete(docs, 3_u32.to_be_bytes())];
    engine.commit(CommitInfo::default(), &late).await.expect("a batch");
    let two = [put(docs, *b"first of two", directed()), put(docs, *b"second of two", vec![7; 70_000])];
    let part = |commit_number| Part {
        info: CommitInfo { shard: 1, commit_number, ..CommitInfo::default() },
        edits: 1,
        kept: None,
    };
    while let Cached::Miss = engine.apply_parts(&[part(8), part(9)], &two).expect("it is accepted") {
        engine.prepare(&two).await.expect("there is room");
    }
    engine.drop_tree(other).await.expect("it goes");
    engine.flushed(engine.applied()).await.expect("a flush");
}

#[test]
fn the_stores_of_every_format_open_and_are_whole() {
    let newest = folder(FORMAT_VERSION);
    if std::env::var_os("PHOTONDB_WRITE_GOLDEN").is_some() && !newest.exists() {
        block_on(make(BlockingDirectory::new(&newest).expect("a folder")));
    }
    for version in FORMAT_VERSION_OLDEST..=FORMAT_VERSION {
        check(version);
    }
}

#[track_caller]
fn check(version: u32) {
    let path = std::env::temp_dir().join(format!("photondb-golden-{version}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    let copy = BlockingDirectory::new(&path).expect("a folder");
    let files = std::fs::read_dir(folder(version));
    for file in files.expect("the golden store is there: see the head of this file") {
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
        assert!(rows == want(version), "the golden store holds something else");
    });
    let superblocks = std::fs::read(path.join("superblocks")).expect("they are there");
    let versions: Vec<u8> = superblocks.chunks(4096).map(|block| block[8]).collect();
    assert!(versions.contains(&(FORMAT_VERSION as u8)), "what is opened is of this version: {versions:?}");
    std::fs::remove_dir_all(&path).expect("it can be removed");
}
