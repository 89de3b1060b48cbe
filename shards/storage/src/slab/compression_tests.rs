//! Documents that are stored smaller than they are: what it gains, and that they come back as they were.

use crate::blocking::BlockingDirectory;
use crate::engine::{CommitInfo, Direction, Edit, Range, StorageEngine, TreeId};
use crate::slab::tests::{Blocking, SMALL};
use crate::slab::{SlabEngine, SlabOptions};
use crate::suite::{self, EVERYTHING, Host, Random, document, named};

const DOCUMENTS: u32 = 12_000;

/// Trees whose names begin with the same letter belong to one table.
const BY_LETTER: SlabOptions =
    SlabOptions { cache_bytes: 2 << 20, table_of: |name| name.0.get(..1), ..SMALL };

fn document_of(number: u32) -> Vec<u8> {
    document(&mut Random::new(u64::from(number)))
}

async fn put_documents(
    engine: &SlabEngine<BlockingDirectory>,
    trees: &[TreeId],
    numbers: std::ops::Range<u32>,
) {
    for number in numbers {
        let tree = trees[number as usize % trees.len()];
        let edit = suite::put(tree, number.to_be_bytes(), document_of(number));
        engine.commit(CommitInfo::default(), &[edit]).await.unwrap();
        if number % 64 == 0 {
            crate::event::yield_now().await;
        }
    }
}

async fn fill(engine: &SlabEngine<BlockingDirectory>, trees: &[TreeId], from: u32) {
    put_documents(engine, trees, from..from + DOCUMENTS).await;
    engine.checkpoint().await.unwrap();
}

/// Entries of the tree of dictionaries: two for each.
async fn dictionaries(engine: &SlabEngine<BlockingDirectory>) -> u64 {
    let name = crate::engine::TreeName(super::dictionaries::DICTIONARIES.into());
    let tree = engine.shared.state.borrow().by_name.get(&name).copied();
    match tree {
        Some(tree) => engine.count(TreeId(tree), &EVERYTHING).await.unwrap(),
        None => 0,
    }
}

/// Live bytes per plain byte of what was filled in twice, the second time with what the store learned from the first.
fn stored_share(name: &str, options: SlabOptions) -> f64 {
    let mut host = Blocking::new(name, options);
    let before = host.run(async |engine| {
        let trees = [
            engine.create_tree(&named("a1")).await.unwrap(),
            engine.create_tree(&named("a2")).await.unwrap(),
        ];
        fill(engine, &trees, 0).await;
        engine.stats().live_bytes
    });
    let after = host.run(async |engine| {
        let trees = ["a1", "a2"].map(|name| engine.tree(&named(name)).unwrap());
        fill(engine, &trees, DOCUMENTS).await;
        for number in (0..2 * DOCUMENTS).step_by(7) {
            let value = engine.get(trees[number as usize % 2], &number.to_be_bytes()).await.unwrap();
            assert_eq!(value.as_deref(), Some(&document_of(number)[..]), "{number}");
        }
        let rows = suite::read_all(engine, trees[0]).await.unwrap();
        assert!(rows.iter().all(|(_, value)| value.starts_with(b"{")) && rows.len() == DOCUMENTS as usize);
        assert_eq!(engine.tree_names(), [named("a1"), named("a2")]);
        engine.stats().live_bytes
    });
    let plain: usize = (DOCUMENTS..2 * DOCUMENTS).map(|number| document_of(number).len()).sum();
    (after - before) as f64 / plain as f64
}

#[test]
fn a_dictionary_halves_the_slots_of_documents_of_300_bytes() {
    let plain = stored_share("plain", SlabOptions { compression_level: 0, ..BY_LETTER });
    let alone = stored_share("alone", SlabOptions { table_of: |_| None, ..BY_LETTER });
    let with = stored_share("with-dictionary", BY_LETTER);
    println!(
        "bytes of slots per byte of documents: {plain:.2} plain, {alone:.2} alone, {with:.2} with a dictionary"
    );
    assert!(plain > 1.0 && alone < 0.95 && with < 0.55, "{plain:.2} {alone:.2} {with:.2}");
}

#[test]
fn a_table_gets_its_dictionaries_once_however_long_the_first_checkpoint_takes_to_come() {
    let rarely = 1 << 30;
    let options = SlabOptions {
        cache_bytes: 256 << 20,
        checkpoint_dirty_bytes: rarely,
        checkpoint_log_bytes: rarely,
        ..BY_LETTER
    };
    let mut host = Blocking::new("dictionaries-once", options);
    host.run(async |engine| {
        let trees = [engine.create_tree(&named("a1")).await.unwrap()];
        put_documents(engine, &trees, 0..5_000).await;
        assert_eq!(dictionaries(engine).await, 2);
        // Some 24 MiB: the second dictionary is made after 16 of them.
        put_documents(engine, &trees, 5_000..90_000).await;
        assert_eq!(dictionaries(engine).await, 4);
        let before = engine.stats().live_bytes;
        engine.checkpoint().await.unwrap();
        let plain: usize = (0..90_000).map(|number| document_of(number).len()).sum();
        let stored = engine.stats().live_bytes - before;
        assert!(
            stored * 2 < plain as u64,
            "{stored} of {plain} bytes: the first checkpoint had no dictionary"
        );
    });
}

#[test]
fn a_dictionary_goes_with_the_last_tree_of_its_table() {
    let mut host = Blocking::new("dictionary-goes", BY_LETTER);
    host.run(async |engine| {
        let trees = [
            engine.create_tree(&named("a1")).await.unwrap(),
            engine.create_tree(&named("b1")).await.unwrap(),
        ];
        fill(engine, &trees, 0).await;
        let other = engine.create_tree(&named("a2")).await.unwrap();
        fill(engine, &[trees[0], trees[1], other], DOCUMENTS).await;
        assert_eq!(dictionaries(engine).await, 4);
        engine.drop_tree(trees[0]).await.unwrap();
        assert_eq!(dictionaries(engine).await, 4);
    });
    host.run(async |engine| {
        engine.drop_tree(engine.tree(&named("a2")).unwrap()).await.unwrap();
        assert_eq!(dictionaries(engine).await, 2);
        let tree = engine.tree(&named("b1")).unwrap();
        let rows = suite::read_all(engine, tree).await.unwrap();
        assert!(rows.iter().all(|(_, value)| value.starts_with(b"{")));
        // The chunks of documents that move are read with the dictionary that they were written with.
        let edits: Vec<Edit> =
            rows.iter().step_by(2).map(|(key, _)| suite::delete(tree, key.clone())).collect();
        engine.commit(CommitInfo::default(), &edits).await.unwrap();
        engine.checkpoint().await.unwrap();
        engine.checkpoint().await.unwrap();
        let left =
            engine.range(tree, &Range { ..EVERYTHING }, Direction::Forward, 10_000, 1 << 24).await.unwrap();
        assert!(
            left.entries.iter().map(|(key, value)| (key.clone(), value.to_vec())).eq(rows
                .into_iter()
                .skip(1)
                .step_by(2)
                .take(left.entries.len()))
        );
    });
}
