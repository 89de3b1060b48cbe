//! What every [`StorageEngine`] must do, as one list of behaviours that each backend runs on each kind of disk.
//!
//! A [`Host`] opens a store, runs the work of one opening with the store's background going, and closes it; running again
//! is a reopening. So one text serves blocking files, the simulated disk and memory. Crashes are not here: they need a disk
//! that forgets, see the simulation.

pub mod merging;

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::engine::{
    Cached, CommitInfo, Direction, Edit, Range, StorageEngine, StorageError, TreeId, TreeName,
};

/// Where a backend runs.
pub trait Host {
    type Engine: StorageEngine;

    /// Opens the store as it was left, runs `test` with the background work going, and closes the store.
    fn run<T>(&mut self, test: impl AsyncFnOnce(&Self::Engine) -> T) -> T;
}

/// A behaviour: its claim, and the check of it on an empty store.
pub struct Behaviour<H> {
    pub claim: &'static str,
    pub check: fn(&mut H),
}

/// All behaviours, for hosts of one kind. Each wants a host with an empty store.
pub fn behaviours<H: Host>() -> Vec<Behaviour<H>> {
    let row = |claim, check| Behaviour { claim, check };
    vec![
        row("what is put is read back until it is deleted", puts_and_deletes),
        row("values of every size come back whole", values_of_every_size),
        row("a range runs both ways between any bounds", ranges_both_ways),
        row("a range stops at rows and bytes and goes on behind the last key", ranges_in_portions),
        row("several trees are read as one in the order of their keys", merging::merges),
        row("several keys are read as one after another would be", many_gets),
        row("a scan can pass over the first entry of a range", passing_over),
        row("counts and n-th entries agree with the range", counts_and_nth),
        row("a batch over several trees applies in its order", batches_over_trees),
        row("a batch with an unknown tree changes nothing", failed_batches),
        row("trees are created, named, dropped and made anew", trees_come_and_go),
        row("a dropped tree's space serves the next", drops_of_many),
        row("what was committed is there after reopening", reopening),
        row("a bulk build fills a tree that then lives as others do", bulk_builds),
        row("a tree filled, emptied and filled again is whole", filled_and_emptied),
        row("positions of the log rise with every batch", positions_rise),
        row("random work gives what a map gives", random_work),
    ]
}

/// Runs every behaviour, each on a host that `make` gives, and says which claim it is at.
pub fn run_all<H: Host>(mut make: impl FnMut() -> H) {
    for behaviour in behaviours::<H>() {
        println!("{}", behaviour.claim);
        (behaviour.check)(&mut make());
    }
}

/// The chance of tests: SplitMix64 (Steele, Lea and Flood, 2014), a stream of numbers that follows from its seed.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds would else give streams that are shifts of each other by one constant.
        Self(seed.wrapping_mul(0xd134_2543_de82_ef95) ^ 0x5851_f42d_4c95_7f2d)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `end`, which is not zero.
    pub fn below(&mut self, end: u64) -> u64 {
        assert!(end > 0, "no number is below zero");
        self.number() % end
    }

    /// True once in `times`.
    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(count + 8);
        while bytes.len() < count {
            bytes.extend_from_slice(&self.number().to_le_bytes());
        }
        bytes.truncate(count);
        bytes
    }

    /// The size of a value: mostly small, sometimes of a slot's largest class, seldom an extent's.
    pub fn value_bytes(&mut self) -> usize {
        let end = match self.below(40) {
            0 => 300_000,
            1..=3 => 66_000,
            4..=9 => 5_000,
            10.. => 300,
        };
        self.below(end) as usize
    }
}

/// Documents of some 300 bytes as applications have them: the same fields, other values.
pub fn document(random: &mut Random) -> Vec<u8> {
    let names = ["Ada", "Grace", "Alan", "Edsger", "Barbara", "Donald", "Leslie"];
    let cities = ["Lisbon", "Berlin", "Tokyo", "Oslo", "Nairobi", "Lima"];
    let mut pick = |list: &[&str]| list[random.below(list.len() as u64) as usize].to_owned();
    let (name, city, other) = (pick(&names), pick(&cities), pick(&names));
    format!(
        "{{\"id\":\"{:016x}\",\"type\":\"customer\",\"first_name\":\"{name}\",\"last_name\":\"{other}son\",\
         \"email\":\"{name}.{}@example.com\",\"address\":{{\"street\":\"{} Main Street\",\"city\":\"{city}\",\
         \"postal_code\":\"{:05}\"}},\"created_at\":{},\"orders_count\":{},\"newsletter\":{},\"tier\":\"standard\"}}",
        random.number(),
        random.below(10_000),
        random.below(200),
        random.below(99_999),
        1_700_000_000 + random.below(10_000_000),
        random.below(40),
        random.one_in(2),
    )
    .into_bytes()
}

pub fn named(name: &str) -> TreeName {
    TreeName(name.as_bytes().into())
}

pub fn put(tree: TreeId, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> Edit {
    Edit::Put { tree, key: key.into(), value: value.into() }
}

pub fn delete(tree: TreeId, key: impl Into<Vec<u8>>) -> Edit {
    Edit::Delete { tree, key: key.into() }
}

pub const EVERYTHING: Range = Range { start: Bound::Unbounded, end: Bound::Unbounded };

async fn commit(engine: &impl StorageEngine, edits: &[Edit]) {
    let lsn = engine.commit(CommitInfo::default(), edits).await.unwrap();
    engine.flushed(lsn).await.unwrap();
}

type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// All entries of a range, in portions of `rows_max` and `bytes_max`.
pub async fn read_range(
    engine: &impl StorageEngine,
    tree: TreeId,
    range: &Range,
    direction: Direction,
    rows_max: usize,
    bytes_max: usize,
) -> Result<Rows, StorageError> {
    let mut rest = range.clone();
    let mut rows = Rows::new();
    loop {
        let portion = engine.range(tree, &rest, direction, rows_max, bytes_max).await?;
        assert!(portion.entries.len() <= rows_max, "a portion has more than {rows_max} rows");
        assert!(!portion.more || !portion.entries.is_empty(), "an empty portion says that there is more");
        for (key, value) in portion.entries {
            rows.push((key, value.to_vec()));
        }
        let Some((last, _)) = rows.last().filter(|_| portion.more) else { return Ok(rows) };
        match direction {
            Direction::Forward => rest.start = Bound::Excluded(last.clone()),
            Direction::Backward => rest.end = Bound::Excluded(last.clone()),
        }
    }
}

pub async fn read_all(engine: &impl StorageEngine, tree: TreeId) -> Result<Rows, StorageError> {
    read_range(engine, tree, &EVERYTHING, Direction::Forward, 1000, 1 << 20).await
}

fn puts_and_deletes(host: &mut impl Host) {
    host.run(async |engine| {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        assert_eq!(engine.get(tree, b"k").await.unwrap(), None);
        for value in [&b"one"[..], b"", b"three"] {
            commit(engine, &[put(tree, *b"k", value)]).await;
            assert_eq!(engine.get(tree, b"k").await.unwrap().as_deref(), Some(value));
            let Ok(Cached::Hit(hit)) = engine.cached(tree, b"k") else {
                panic!("a value just read is in the cache")
            };
            assert_eq!(hit.as_deref(), Some(value));
        }
        assert_eq!(engine.get(tree, b"").await.unwrap(), None);
        commit(engine, &[put(tree, *b"", *b"the empty key is a key")]).await;
        assert_eq!(engine.count(tree, &EVERYTHING).await.unwrap(), 2);
        commit(engine, &[delete(tree, *b"k"), delete(tree, *b"never there")]).await;
        assert_eq!(engine.get(tree, b"k").await.unwrap(), None);
        assert_eq!(engine.count(tree, &EVERYTHING).await.unwrap(), 1);
    });
}

fn values_of_every_size(host: &mut impl Host) {
    let edges = [
        0,
        1,
        63,
        64,
        65,
        511,
        512,
        4095,
        4096,
        4097,
        65_000,
        65_535,
        65_536,
        65_537,
        200_000,
        (1 << 20) + 1,
        9 << 20,
    ];
    let value = |bytes: usize| Random::new(bytes as u64).bytes(bytes);
    let key = |bytes: usize| (bytes as u64).to_be_bytes();
    host.run(async |engine| {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        for bytes in edges {
            commit(engine, &[put(tree, key(bytes), value(bytes))]).await;
            let read = engine.get(tree, &key(bytes)).await.unwrap();
            assert!(read.as_deref() == Some(&value(bytes)[..]), "a value of {bytes} bytes");
        }
    });
    host.run(async |engine| {
        let tree = engine.tree(&named("a")).unwrap();
        for bytes in edges {
            let read = engine.get(tree, &key(bytes)).await.unwrap();
            assert!(read.as_deref() == Some(&value(bytes)[..]), "a value of {bytes} bytes after reopening");
        }
    });
}

/// Fills tree "a" with `count` keys of varying length and gives them, sorted.
async fn filled(engine: &impl StorageEngine, count: u64) -> (TreeId, BTreeMap<Vec<u8>, Vec<u8>>) {
    let tree = engine.create_tree(&named("a")).await.unwrap();
    let mut random = Random::new(count);
    let mut model = BTreeMap::new();
    while (model.len() as u64) < count {
        let mut edits = Vec::new();
        for _ in 0..50 {
            let key = random_key(&mut random, count * 4);
            let bytes = random.below(200) as usize;
            let value = random.bytes(bytes);
            edits.push(put(tree, key.clone(), value.clone()));
            model.insert(key, value);
        }
        commit(engine, &edits).await;
    }
    (tree, model)
}

/// Keys with long common beginnings, some of them long, some the beginning of others.
fn random_key(random: &mut Random, count: u64) -> Vec<u8> {
    let number = random.below(count);
    let text = match number % 5 {
        0 => format!("user/{number}"),
        1 => format!("user/{}/orders/{number:08}", number % 11),
        2 => format!("u{number:0>300}"),
        3 => "z".repeat((number % 40) as usize),
        4.. => format!("{number}"),
    };
    text.into_bytes()
}

pub fn bounds_around(keys: &[Vec<u8>]) -> Vec<Bound<Vec<u8>>> {
    let mut bounds = vec![Bound::Unbounded];
    for place in [0, 1, keys.len() / 3, keys.len() / 2, keys.len() - 1] {
        let mut behind = keys[place].clone();
        behind.push(0);
        for key in [keys[place].clone(), behind] {
            bounds.push(Bound::Included(key.clone()));
            bounds.push(Bound::Excluded(key));
        }
    }
    bounds.push(Bound::Included(vec![]));
    bounds.push(Bound::Excluded(vec![0xff; 9]));
    bounds
}

fn model_range(model: &BTreeMap<Vec<u8>, Vec<u8>>, range: &Range, direction: Direction) -> Rows {
    model_range_of(model, range, direction)
        .into_iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// What a range of a map gives, an inverted one being empty.
pub fn model_range_of<'a, V>(
    model: &'a BTreeMap<Vec<u8>, V>,
    range: &Range,
    direction: Direction,
) -> Vec<(&'a Vec<u8>, &'a V)> {
    let inside = |key: &Vec<u8>| {
        let after_start = match &range.start {
            Bound::Included(start) => key >= start,
            Bound::Excluded(start) => key > start,
            Bound::Unbounded => true,
        };
        let before_end = match &range.end {
            Bound::Included(end) => key <= end,
            Bound::Excluded(end) => key < end,
            Bound::Unbounded => true,
        };
        after_start && before_end
    };
    let mut rows: Vec<_> = model.iter().filter(|(key, _)| inside(key)).collect();
    if direction == Direction::Backward {
        rows.reverse();
    }
    rows
}

const DIRECTIONS: [Direction; 2] = [Direction::Forward, Direction::Backward];

fn ranges_both_ways(host: &mut impl Host) {
    host.run(async |engine| {
        let (tree, model) = filled(engine, 400).await;
        let keys: Vec<Vec<u8>> = model.keys().cloned().collect();
        let bounds = bounds_around(&keys);
        for start in &bounds {
            for end in &bounds {
                let range = Range { start: start.clone(), end: end.clone() };
                for direction in DIRECTIONS {
                    let rows = read_range(engine, tree, &range, direction, 10_000, 1 << 24).await.unwrap();
                    assert!(rows == model_range(&model, &range, direction), "{range:?} {direction:?}");
                }
            }
        }
    });
}

fn ranges_in_portions(host: &mut impl Host) {
    host.run(async |engine| {
        let (tree, model) = filled(engine, 300).await;
        for direction in DIRECTIONS {
            let want = model_range(&model, &EVERYTHING, direction);
            for (rows_max, bytes_max) in
                [(1, 1 << 20), (7, 1 << 20), (100, 1 << 20), (1000, 0), (1000, 500), (300, 1 << 20)]
            {
                let rows =
                    read_range(engine, tree, &EVERYTHING, direction, rows_max, bytes_max).await.unwrap();
                assert!(rows == want, "{direction:?} by {rows_max} rows and {bytes_max} bytes");
            }
        }
        let few = engine.range(tree, &EVERYTHING, Direction::Forward, 1000, 500).await.unwrap();
        let bytes: usize = few.entries.iter().map(|(_, value)| value.len()).sum();
        assert!(few.more && bytes < 500 + 200 + 4096, "{bytes} bytes are not about 500");
        let empty = engine.create_tree(&named("empty")).await.unwrap();
        let nothing = engine.range(empty, &EVERYTHING, Direction::Backward, 5, 500).await.unwrap();
        assert!(nothing.entries.is_empty() && !nothing.more);
    });
}

fn many_gets(host: &mut impl Host) {
    let mut random = Random::new(3);
    let keys: Vec<Vec<u8>> = (0..600).map(|_| random_key(&mut random, 900)).collect();
    for _ in 0..2 {
        host.run(async |engine| {
            if engine.tree(&named("a")).is_none() {
                filled(engine, 300).await;
            }
            let tree = engine.tree(&named("a")).unwrap();
            let values = engine.get_many(tree, &keys).await.unwrap();
            assert_eq!(values.len(), keys.len());
            assert!(values.iter().any(Option::is_some) && values.iter().any(Option::is_none));
            for (key, value) in keys.iter().zip(values) {
                assert_eq!(value, engine.get(tree, key).await.unwrap());
            }
        });
    }
}

fn passing_over(host: &mut impl Host) {
    host.run(async |engine| {
        let (tree, model) = filled(engine, 300).await;
        for direction in DIRECTIONS {
            let mut want = model_range(&model, &EVERYTHING, direction);
            let mut rest = Some(EVERYTHING);
            while let Some(range) = rest {
                let found = engine.range(tree, &range, direction, 1, 0).await.unwrap();
                let first = found.entries.first().map(|(key, value)| (key.clone(), value.to_vec()));
                assert_eq!(first.as_ref(), want.first());
                if !want.is_empty() {
                    want.remove(0);
                }
                rest = engine.behind_damage(tree, &range, direction).await.unwrap();
            }
            assert!(want.is_empty());
        }
    });
}

fn counts_and_nth(host: &mut impl Host) {
    host.run(async |engine| {
        let (tree, model) = filled(engine, 700).await;
        let keys: Vec<Vec<u8>> = model.keys().cloned().collect();
        let bounds = bounds_around(&keys);
        for start in &bounds {
            for end in &bounds {
                let range = Range { start: start.clone(), end: end.clone() };
                let want = model_range(&model, &range, Direction::Forward);
                let count = engine.count(tree, &range).await.unwrap();
                assert_eq!(count, want.len() as u64, "{range:?}");
                for n in [0, 1, count / 2, count.saturating_sub(1), count, u64::MAX] {
                    let forward = engine.nth(tree, &range, Direction::Forward, n).await.unwrap();
                    let want_forward = want.get(n as usize).map(|(key, _)| key);
                    assert_eq!(forward.as_ref().map(|(key, _)| key), want_forward, "{range:?} {n}");
                    let backward = engine.nth(tree, &range, Direction::Backward, n).await.unwrap();
                    let from_end = (count.checked_sub(1)).and_then(|last| last.checked_sub(n));
                    let want_backward = from_end.map(|place| &want[place as usize]);
                    let found = backward.map(|(key, value)| (key, value.to_vec()));
                    assert_eq!(found.as_ref(), want_backward, "{range:?} {n} from the end");
                }
            }
        }
    });
}

fn batches_over_trees(host: &mut impl Host) {
    host.run(async |engine| {
        let a = engine.create_tree(&named("a")).await.unwrap();
        let b = engine.create_tree(&named("b")).await.unwrap();
        commit(engine, &[put(a, *b"x", *b"1"), put(b, *b"x", *b"2"), put(a, *b"y", *b"3")]).await;
        // Within a batch the later change of a key wins.
        commit(engine, &[delete(a, *b"x"), put(a, *b"x", *b"4"), put(b, *b"x", *b"5"), delete(b, *b"x")])
            .await;
        assert_eq!(engine.get(a, b"x").await.unwrap().as_deref(), Some(&b"4"[..]));
        assert_eq!(engine.get(b, b"x").await.unwrap(), None);
        assert_eq!(read_all(engine, a).await.unwrap().len(), 2);
        assert_eq!(engine.count(b, &EVERYTHING).await.unwrap(), 0);
        let edits: Vec<Edit> = (0..3000_u32)
            .flat_map(|n| [put(a, n.to_be_bytes(), [7; 90]), put(b, n.to_be_bytes(), [])])
            .collect();
        commit(engine, &edits).await;
        assert_eq!(engine.count(a, &EVERYTHING).await.unwrap(), 3002);
        assert_eq!(engine.count(b, &EVERYTHING).await.unwrap(), 3000);
    });
}

fn failed_batches(host: &mut impl Host) {
    host.run(async |engine| {
        let a = engine.create_tree(&named("a")).await.unwrap();
        let gone = engine.create_tree(&named("gone")).await.unwrap();
        engine.drop_tree(gone).await.unwrap();
        let failed =
            engine.commit(CommitInfo::default(), &[put(a, *b"x", *b"1"), put(gone, *b"x", *b"1")]).await;
        assert!(matches!(failed, Err(StorageError::NoTree(_))));
        assert_eq!(engine.get(a, b"x").await.unwrap(), None);
        assert!(matches!(engine.get(gone, b"x").await, Err(StorageError::NoTree(_))));
        assert!(matches!(engine.count(gone, &EVERYTHING).await, Err(StorageError::NoTree(_))));
        assert!(matches!(engine.drop_tree(gone).await, Err(StorageError::NoTree(_))));
    });
}

fn trees_come_and_go(host: &mut impl Host) {
    host.run(async |engine| {
        let a = engine.create_tree(&named("a")).await.unwrap();
        assert_eq!(engine.create_tree(&named("a")).await.unwrap(), a);
        let b = engine.create_tree(&named("b")).await.unwrap();
        assert_ne!(a, b);
        commit(engine, &[put(a, *b"k", *b"old"), put(b, *b"k", *b"b")]).await;
        engine.drop_tree(a).await.unwrap();
        assert_eq!(engine.tree(&named("a")), None);
        assert_eq!(engine.tree_names(), [named("b")]);
        let anew = engine.create_tree(&named("a")).await.unwrap();
        assert_eq!(engine.get(anew, b"k").await.unwrap(), None);
        commit(engine, &[put(anew, *b"k", *b"new")]).await;
        let flushed = engine.applied();
        engine.flushed(flushed).await.unwrap();
    });
    host.run(async |engine| {
        let mut names = engine.tree_names();
        names.sort();
        assert_eq!(names, [named("a"), named("b")]);
        let a = engine.tree(&named("a")).unwrap();
        assert_eq!(engine.get(a, b"k").await.unwrap().as_deref(), Some(&b"new"[..]));
        engine.drop_tree(a).await.unwrap();
    });
    host.run(async |engine| assert_eq!(engine.tree_names(), [named("b")]));
}

fn drops_of_many(host: &mut impl Host) {
    for round in 0..6_u64 {
        host.run(async |engine| {
            if let Some(old) = engine.tree(&named("a")) {
                engine.drop_tree(old).await.unwrap();
            }
            let (tree, model) = filled(engine, 1500).await;
            let big = Random::new(round).bytes(500_000);
            commit(engine, &[put(tree, *b"big", big.clone())]).await;
            assert_eq!(engine.count(tree, &EVERYTHING).await.unwrap(), model.len() as u64 + 1);
            let read = engine.get(tree, b"big").await.unwrap();
            assert!(read.as_deref() == Some(&big[..]));
        });
    }
}

fn reopening(host: &mut impl Host) {
    let mut want = BTreeMap::new();
    for round in 0..5_u32 {
        host.run(async |engine| {
            let tree = engine.create_tree(&named("a")).await.unwrap();
            let have: BTreeMap<_, _> = read_all(engine, tree).await.unwrap().into_iter().collect();
            assert!(have == want, "round {round}");
            for n in 0..200_u32 {
                let key = (n * (round + 1)).to_be_bytes().to_vec();
                let value = vec![round as u8; (n * 7) as usize];
                // Closing flushes, so the last ones need no wait.
                engine.commit(CommitInfo::default(), &[put(tree, key.clone(), value.clone())]).await.unwrap();
                want.insert(key, value);
            }
        });
    }
}

fn bulk_builds(host: &mut impl Host) {
    let entry = |n: u32| (n.to_be_bytes().to_vec(), vec![(n % 251) as u8; (n % 300) as usize]);
    host.run(async |engine| {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        engine.bulk_build(tree, &mut (0..5000).map(|n| entry(n * 2))).await.unwrap();
        assert_eq!(engine.count(tree, &EVERYTHING).await.unwrap(), 5000);
        commit(engine, &[put(tree, 3_u32.to_be_bytes(), *b"odd"), delete(tree, 4_u32.to_be_bytes())]).await;
        let empty = engine.create_tree(&named("empty")).await.unwrap();
        engine.bulk_build(empty, &mut std::iter::empty()).await.unwrap();
    });
    host.run(async |engine| {
        let tree = engine.tree(&named("a")).unwrap();
        let mut want: BTreeMap<_, _> = (0..5000).map(|n| entry(n * 2)).collect();
        want.insert(3_u32.to_be_bytes().to_vec(), b"odd".to_vec());
        want.remove(&4_u32.to_be_bytes()[..]);
        let have: BTreeMap<_, _> = read_all(engine, tree).await.unwrap().into_iter().collect();
        assert!(have == want);
        assert_eq!(engine.count(engine.tree(&named("empty")).unwrap(), &EVERYTHING).await.unwrap(), 0);
    });
}

fn filled_and_emptied(host: &mut impl Host) {
    for round in 0..3_u32 {
        host.run(async |engine| {
            let tree = engine.create_tree(&named("a")).await.unwrap();
            assert_eq!(engine.count(tree, &EVERYTHING).await.unwrap(), 0, "round {round}");
            let numbers: Vec<u32> = (0..4000).map(|n: u32| n.wrapping_mul(2_654_435_761) ^ round).collect();
            for some in numbers.chunks(100) {
                let edits: Vec<Edit> =
                    some.iter().map(|n| put(tree, n.to_be_bytes(), [round as u8; 120])).collect();
                commit(engine, &edits).await;
            }
            assert_eq!(engine.count(tree, &EVERYTHING).await.unwrap(), 4000);
            let order: Vec<&u32> =
                if round == 1 { numbers.iter().rev().collect() } else { numbers.iter().collect() };
            for some in order.chunks(100) {
                let edits: Vec<Edit> = some.iter().map(|n| delete(tree, n.to_be_bytes())).collect();
                commit(engine, &edits).await;
            }
            assert!(read_all(engine, tree).await.unwrap().is_empty());
        });
    }
}

fn positions_rise(host: &mut impl Host) {
    let last = host.run(async |engine| {
        let tree = engine.create_tree(&named("a")).await.unwrap();
        let mut last = engine.applied();
        for n in 0..20_u8 {
            let lsn = engine.commit(CommitInfo::default(), &[put(tree, [n], [n])]).await.unwrap();
            assert!(lsn > last && engine.applied() >= lsn);
            last = lsn;
        }
        engine.flushed(last).await.unwrap();
        last
    });
    host.run(async |engine| {
        let tree = engine.tree(&named("a")).unwrap();
        let lsn = engine.commit(CommitInfo::default(), &[put(tree, *b"k", *b"v")]).await.unwrap();
        assert!(lsn > last, "positions are not reused by the next opening");
    });
}

/// Seeds of [`random_work`]; each is a store of its own life in the one host.
const RANDOM_SEEDS: u64 = 6;
const RANDOM_OPENINGS: u64 = 4;
const RANDOM_STEPS: u64 = 150;

fn random_work(host: &mut impl Host) {
    for seed in 0..RANDOM_SEEDS {
        println!("  random work, seed {seed}");
        let mut random = Random::new(seed);
        let mut model: BTreeMap<TreeName, BTreeMap<Vec<u8>, Vec<u8>>> = BTreeMap::new();
        host.run(async |engine| {
            for name in engine.tree_names() {
                engine.drop_tree(engine.tree(&name).unwrap()).await.unwrap();
            }
        });
        for _ in 0..RANDOM_OPENINGS {
            host.run(async |engine| {
                compare(engine, &model).await;
                for _ in 0..RANDOM_STEPS {
                    step(engine, &mut random, &mut model).await;
                }
                compare(engine, &model).await;
            });
        }
    }
}

/// Fails unless the store holds just what the model holds.
pub async fn compare(engine: &impl StorageEngine, model: &BTreeMap<TreeName, BTreeMap<Vec<u8>, Vec<u8>>>) {
    let mut names = engine.tree_names();
    names.sort();
    assert!(names.iter().eq(model.keys()), "trees {names:?}");
    for (name, want) in model {
        let tree = engine.tree(name).unwrap();
        let have: BTreeMap<_, _> = read_all(engine, tree).await.unwrap().into_iter().collect();
        assert!(have == *want, "tree {name:?}: {} entries, want {}", have.len(), want.len());
        assert_eq!(engine.count(tree, &EVERYTHING).await.unwrap(), want.len() as u64);
    }
}

async fn step(
    engine: &impl StorageEngine,
    random: &mut Random,
    model: &mut BTreeMap<TreeName, BTreeMap<Vec<u8>, Vec<u8>>>,
) {
    let name = named(&format!("tree {}", random.below(3)));
    let tree = engine.create_tree(&name).await.unwrap();
    let rows = model.entry(name.clone()).or_default();
    match random.below(60) {
        0 => {
            engine.drop_tree(tree).await.unwrap();
            model.remove(&name);
        }
        1..=10 => {
            let range = random_range(random);
            let direction = DIRECTIONS[random.below(2) as usize];
            let want = model_range(rows, &range, direction);
            let rows_max = 1 + random.below(50) as usize;
            let have = read_range(engine, tree, &range, direction, rows_max, 20_000).await.unwrap();
            assert!(have == want, "{range:?} {direction:?}");
            assert_eq!(engine.count(tree, &range).await.unwrap(), want.len() as u64);
            let n = random.below(want.len() as u64 + 1);
            let nth = engine
                .nth(tree, &range, direction, n)
                .await
                .unwrap()
                .map(|(key, value)| (key, value.to_vec()));
            assert!(nth.as_ref() == want.get(n as usize));
        }
        11..=20 => {
            let key = random_key(random, 800);
            let read = engine.get(tree, &key).await.unwrap();
            assert!(read.as_deref() == rows.get(&key).map(Vec::as_slice));
        }
        21.. => {
            let mut edits = Vec::new();
            let growing = random.below(4);
            for _ in 0..=random.below(20) {
                let key = random_key(random, 800);
                if random.below(4) < growing {
                    let bytes = random.value_bytes();
                    let value = random.bytes(bytes);
                    edits.push(put(tree, key.clone(), value.clone()));
                    rows.insert(key, value);
                } else {
                    edits.push(delete(tree, key.clone()));
                    rows.remove(&key);
                }
            }
            let lsn = engine.commit(CommitInfo::default(), &edits).await.unwrap();
            if random.one_in(3) {
                engine.flushed(lsn).await.unwrap();
            }
        }
    }
}

fn random_range(random: &mut Random) -> Range {
    let mut bound = || {
        let key = random_key(random, 800);
        match random.below(5) {
            0 => Bound::Unbounded,
            1 | 2 => Bound::Included(key),
            3.. => Bound::Excluded(key),
        }
    };
    Range { start: bound(), end: bound() }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;
    use crate::blocking::block_on_with;
    use crate::memory::MemoryEngine;

    /// A store in memory, opened anew for each run.
    struct MemoryHost(MemoryEngine);

    impl Host for MemoryHost {
        type Engine = MemoryEngine;

        fn run<T>(&mut self, test: impl AsyncFnOnce(&MemoryEngine) -> T) -> T {
            let engine = self.0.reopen();
            let background = pin!(engine.work());
            block_on_with(background, async {
                let result = test(&engine).await;
                engine.close().await.unwrap();
                result
            })
        }
    }

    #[test]
    fn memory_does_what_every_store_does() {
        run_all(|| MemoryHost(MemoryEngine::new()));
    }
}
