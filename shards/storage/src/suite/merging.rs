//! Reading several trees as one, beside a map of all their entries.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::{
    DIRECTIONS, EVERYTHING, Host, Random, bounds_around, commit, model_range_of, named, put, random_key,
};
use crate::engine::{Direction, Range, StorageEngine, StorageError, TreeId, TreeName, VisitEnd};

pub fn merges(host: &mut impl Host) {
    let names: Vec<TreeName> = (0..5).map(|number| named(&number.to_string())).collect();
    let mut model: BTreeMap<Vec<u8>, (usize, Vec<u8>)> = BTreeMap::new();
    let mut random = Random::new(7);
    host.run(async |engine| {
        let mut trees = Vec::new();
        for name in &names {
            trees.push(engine.create_tree(name).await.unwrap());
        }
        for number in 0..1200 {
            // The second tree has nothing, the third little.
            let tree = if number % 50 == 0 { 2 } else { [0, 3, 4][number % 3] };
            let mut key = random_key(&mut random, 3000);
            key.push(tree as u8);
            let bytes = random.below(400) as usize;
            let value = if random.one_in(3) { Vec::new() } else { random.bytes(bytes) };
            commit(engine, &[put(trees[tree], key.clone(), value.clone())]).await;
            model.insert(key, (tree, value));
        }
        let merged = read_merged(engine, &trees, &model, &EVERYTHING, DIRECTIONS[0], (1000, 1 << 20)).await;
        assert!(merged > model.len() / 2, "only {merged} of {} were in memory", model.len());
    });
    let keys: Vec<Vec<u8>> = model.keys().cloned().collect();
    let bounds = bounds_around(&keys);
    host.run(async |engine| {
        let trees: Vec<TreeId> = names.iter().map(|name| engine.tree(name).unwrap()).collect();
        for (start, end) in bounds.iter().flat_map(|start| bounds.iter().map(move |end| (start, end))) {
            let range = Range { start: start.clone(), end: end.clone() };
            for direction in DIRECTIONS {
                let limits = [(1, 0), (7, 1 << 20), (1000, 3000), (50, 1 << 20)][random.below(4) as usize];
                read_merged(engine, &trees, &model, &range, direction, limits).await;
            }
        }
        engine.drop_tree(trees[1]).await.unwrap();
        let dropped = engine.merge(&trees, &EVERYTHING, Direction::Forward, 1, 1);
        assert!(matches!(dropped, Err(StorageError::NoTree(_))));
    });
}

/// Reads all of a range of several trees, comparing it with a map, and says how many entries came from memory.
pub async fn read_merged(
    engine: &impl StorageEngine,
    trees: &[TreeId],
    model: &BTreeMap<Vec<u8>, (usize, Vec<u8>)>,
    range: &Range,
    direction: Direction,
    (rows_max, bytes_max): (usize, usize),
) -> usize {
    let mut want = model_range_of(model, range, direction).into_iter();
    let (mut rest, mut in_memory) = (range.clone(), 0);
    loop {
        let merged = engine.merge(trees, &rest, direction, rows_max, bytes_max).unwrap();
        assert!(merged.entries.len() <= rows_max);
        in_memory += merged.entries.len();
        let mut last = None;
        for entry in &merged.entries {
            let (key, (tree, value)) = want.next().expect("no more entries than there are");
            assert!(merged.key(entry) == key && entry.tree == *tree && *entry.value == **value);
            last = Some(key.clone());
        }
        match merged.end {
            VisitEnd::Range => {
                assert!(want.next().is_none(), "{range:?} {direction:?} ends too early");
                return in_memory;
            }
            VisitEnd::More => assert!(last.is_some(), "nothing was given though there may be more"),
            VisitEnd::Missing => {
                for tree in trees {
                    engine.range(*tree, &rest, direction, rows_max + 1, bytes_max).await.unwrap();
                }
                let Some((key, (tree, value))) = want.next() else { continue };
                assert_eq!(engine.get(trees[*tree], key).await.unwrap().as_deref(), Some(&value[..]));
                last = Some(key.clone());
            }
        }
        match (last, direction) {
            (None, _) => {}
            (Some(last), Direction::Forward) => rest.start = Bound::Excluded(last),
            (Some(last), Direction::Backward) => rest.end = Bound::Excluded(last),
        }
    }
}
