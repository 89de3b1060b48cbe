//! What a store has promised: every batch in the order it was applied, how many of them are durable, trees made and dropped.
//!
//! Always: each batch also writes its number into the tree [`SEQUENCE_TREE`], so that a recovered store says how many batches
//! it holds. Batches become durable in order, so it must then hold exactly the first so many, whole, and at least those that
//! were acknowledged. Trees are made and dropped by calls that take time; where exactly in the order they took effect is known
//! up to the batches that ran meanwhile, and within that window either outcome is right. A tree's name is used once.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use photondb_storage::engine::{Edit, StorageEngine, StorageError, TreeName};
use photondb_storage::suite::{named, read_all};

pub const SEQUENCE_TREE: &str = "sequence";
pub const SEQUENCE_KEY: &[u8] = b"batches";

/// Contents of all trees.
pub type Model = BTreeMap<TreeName, Rows>;
pub type Rows = BTreeMap<Vec<u8>, Rc<[u8]>>;
/// What a damaged store gave for each key that could be read; trees that it has not are not there.
pub type Readable = BTreeMap<TreeName, BTreeMap<Vec<u8>, Option<Rc<[u8]>>>>;

/// What a store that was lied to must still hold, or say that it is damaged.
#[derive(Clone, Copy, Debug)]
pub struct Floor {
    pub batches: u64,
    /// False when the log's last flush may be lost: trees may have been made and dropped in it, and their calls have ended.
    pub keeps_trees: bool,
}

/// One change of a batch; `None` deletes.
#[derive(Clone)]
pub struct Change {
    pub tree: TreeName,
    pub key: Vec<u8>,
    pub value: Option<Rc<[u8]>>,
}

/// The life of a store since it was last verified.
#[derive(Clone)]
pub struct History {
    /// What it held then, after `first` batches.
    base: Model,
    first: u64,
    batches: Vec<Vec<Change>>,
    acknowledged: u64,
    trees: BTreeMap<TreeName, TreeLife>,
    live: Model,
}

#[derive(Clone, Default)]
struct TreeLife {
    made: Option<Window>,
    dropped: Option<Window>,
}

/// When a call took effect, in numbers of batches.
#[derive(Clone, Copy, Debug)]
struct Window {
    from: u64,
    /// `None` while the call goes on.
    to: Option<u64>,
    acknowledged: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Certainty {
    Yes,
    No,
    Either,
}

impl Default for History {
    fn default() -> Self {
        Self::after(Model::new(), 0)
    }
}

impl History {
    fn after(base: Model, first: u64) -> Self {
        let live = base.clone();
        Self { base, first, batches: Vec::new(), acknowledged: first, trees: BTreeMap::new(), live }
    }

    /// Batches applied in the store's whole life.
    pub fn count(&self) -> u64 {
        self.first + self.batches.len() as u64
    }

    pub fn acknowledged(&self) -> u64 {
        self.acknowledged
    }

    /// What the store holds now.
    pub fn live(&self) -> &Model {
        &self.live
    }

    /// Names of the trees that neither are being made nor dropped.
    pub fn settled_trees(&self) -> Vec<TreeName> {
        let settled = |name: &&TreeName| self.trees.get(*name).is_none_or(|life| life.dropped.is_none());
        self.live.keys().filter(settled).cloned().collect()
    }

    pub fn applied(&mut self, batch: Vec<Change>) {
        for change in &batch {
            change.apply(&mut self.live);
        }
        self.batches.push(batch);
    }

    /// The first `count` batches are durable.
    pub fn acknowledge(&mut self, count: u64) {
        assert!(count <= self.count());
        self.acknowledged = self.acknowledged.max(count);
        for life in self.trees.values_mut() {
            for window in life.made.iter_mut().chain(&mut life.dropped) {
                window.acknowledged |= window.to.is_some_and(|to| to < count);
            }
        }
    }

    pub fn making(&mut self, name: &TreeName) {
        if !self.live.contains_key(name) {
            let window = self.window();
            self.trees.entry(name.clone()).or_default().made = Some(window);
        }
    }

    pub fn made(&mut self, name: &TreeName) {
        let count = self.count();
        if let Some(window) = self.trees.get_mut(name).and_then(|life| life.made.as_mut()) {
            window.to = Some(count);
        }
        self.live.entry(name.clone()).or_default();
    }

    pub fn dropping(&mut self, name: &TreeName) {
        let window = self.window();
        self.trees.entry(name.clone()).or_default().dropped = Some(window);
    }

    pub fn dropped(&mut self, name: &TreeName) {
        let count = self.count();
        let window = self.trees.get_mut(name).and_then(|life| life.dropped.as_mut());
        window.expect("its dropping was told").to = Some(count);
        self.live.remove(name);
    }

    /// Trees made or dropped by calls that ended are durable.
    pub fn acknowledge_trees(&mut self, names: &[TreeName]) {
        for name in names {
            let Some(life) = self.trees.get_mut(name) else { continue };
            for window in life.made.iter_mut().chain(&mut life.dropped) {
                window.acknowledged |= window.to.is_some();
            }
        }
    }

    /// All that happened so far is durable.
    pub fn acknowledge_all(&mut self) {
        let names: Vec<TreeName> = self.trees.keys().cloned().collect();
        self.acknowledge(self.count());
        self.acknowledge_trees(&names);
    }

    fn window(&self) -> Window {
        Window { from: self.count(), to: None, acknowledged: false }
    }

    /// Checks what a reopened store holds against what was promised; then that is what is promised from here on.
    pub fn recovered(&mut self, held: Model) -> Result<(), String> {
        let count = batches_in(&held)?;
        if count < self.acknowledged || count > self.count() {
            return Err(format!("{count} batches, want {} to {}", self.acknowledged, self.count()));
        }
        let mut want = std::mem::take(&mut self.base);
        for batch in &self.batches[..(count - self.first) as usize] {
            batch.iter().for_each(|change| change.apply(&mut want));
        }
        for (name, life) in &self.trees {
            let there = held.contains_key(name);
            match life.present(count, want.contains_key(name)) {
                Certainty::Yes if !there => {
                    return Err(format!("after {count} batches tree {} is lost: {life}", text(&name.0)));
                }
                Certainty::No if there => {
                    return Err(format!("after {count} batches tree {} is there: {life}", text(&name.0)));
                }
                Certainty::Yes | Certainty::No | Certainty::Either => {}
            }
            match there {
                true => drop(want.entry(name.clone()).or_default()),
                false => drop(want.remove(name)),
            }
        }
        differences(&held, &want).map_err(|what| format!("after {count} batches {what}"))?;
        *self = Self::after(held, count);
        Ok(())
    }
}

/// A store whose disk lied: what can be read of it must still be what was promised.
impl History {
    /// Every key that was ever put, by tree.
    pub fn keys(&self) -> BTreeMap<TreeName, BTreeSet<Vec<u8>>> {
        let mut keys: BTreeMap<TreeName, BTreeSet<Vec<u8>>> = BTreeMap::new();
        for name in self.trees.keys() {
            keys.entry(name.clone()).or_default();
        }
        for (name, rows) in &self.base {
            keys.entry(name.clone()).or_default().extend(rows.keys().cloned());
        }
        for change in self.batches.iter().flatten() {
            keys.entry(change.tree.clone()).or_default().insert(change.key.clone());
        }
        keys
    }

    /// Checks that a running store holds what was applied. Trees whose making or dropping failed are not looked at.
    pub fn holds(&self, mut held: Model) -> Result<(), String> {
        let mut want = self.live.clone();
        for (name, life) in &self.trees {
            let is_open = |window: &Option<Window>| window.is_some_and(|window| window.to.is_none());
            if is_open(&life.made) || is_open(&life.dropped) {
                held.remove(name);
                want.remove(name);
            }
        }
        differences(&held, &want)
    }

    /// Checks that what was read is what the store held after some number of batches, not fewer than `floor`.
    pub fn explains(&self, read: &Readable, floor: Floor) -> Result<(), String> {
        let Floor { batches: floor, keeps_trees } = floor;
        let told = match read.get(&named(SEQUENCE_TREE)).map(|rows| rows.get(SEQUENCE_KEY)) {
            None | Some(Some(None)) => Some(0),
            Some(None) => None,
            Some(Some(Some(value))) => {
                let bytes = value[..].try_into().map_err(|_| "the number of batches is no number")?;
                Some(u64::from_le_bytes(bytes))
            }
        };
        if told.is_some_and(|told| (floor..self.first).contains(&told)) {
            // An earlier opening's batches are gone, and what the store was then is not kept here.
            return Ok(());
        }
        let mut trees = self.trees.clone();
        if !keeps_trees {
            for life in trees.values_mut() {
                life.made.iter_mut().chain(&mut life.dropped).for_each(|window| window.acknowledged = false);
            }
        }
        let mut model = self.base.clone();
        let mut found = Err(format!("{told:?} batches, want {floor} to {}", self.count()));
        for count in self.first..=self.count() {
            if let Some(index) = count.checked_sub(self.first + 1) {
                self.batches[index as usize].iter().for_each(|change| change.apply(&mut model));
            }
            if count < floor || told.is_some_and(|told| told != count) {
                continue;
            }
            found = matches(&trees, &model, read, count);
            if found.is_ok() {
                return Ok(());
            }
        }
        found
    }
}

fn matches(
    trees: &BTreeMap<TreeName, TreeLife>,
    model: &Model,
    read: &Readable,
    count: u64,
) -> Result<(), String> {
    for name in model.keys().chain(trees.keys()) {
        let has_rows = model.contains_key(name);
        let present = trees.get(name).map_or(Certainty::Yes, |life| life.present(count, has_rows));
        match (present, read.get(name)) {
            (Certainty::Yes, None) => {
                let life = trees.get(name).cloned().unwrap_or_default();
                return Err(format!("after {count} batches tree {} is lost: {life}", text(&name.0)));
            }
            (Certainty::No, Some(_)) => {
                return Err(format!("after {count} batches tree {} is there", text(&name.0)));
            }
            (Certainty::Yes | Certainty::Either, Some(rows)) => {
                let want = |key: &Vec<u8>| model.get(name).and_then(|rows| rows.get(key));
                if let Some((key, _)) = rows.iter().find(|(key, value)| value.as_ref() != want(key)) {
                    let (tree, key) = (text(&name.0), text(key));
                    return Err(format!("after {count} batches tree {tree} gives a wrong value for {key:?}"));
                }
            }
            (Certainty::No | Certainty::Either, None) => {}
        }
    }
    Ok(())
}

impl Change {
    fn apply(&self, model: &mut Model) {
        let rows = model.entry(self.tree.clone()).or_default();
        match &self.value {
            Some(value) => rows.insert(self.key.clone(), value.clone()),
            None => rows.remove(&self.key),
        };
    }
}

impl Window {
    fn took_effect(window: Option<Self>, count: u64) -> Certainty {
        let Some(window) = window else { return Certainty::No };
        if window.acknowledged || window.to.is_some_and(|to| count > to) {
            return Certainty::Yes;
        }
        if count < window.from { Certainty::No } else { Certainty::Either }
    }
}

impl TreeLife {
    fn present(&self, count: u64, had_rows: bool) -> Certainty {
        let made = match (self.made, had_rows) {
            // It was there from the beginning, or a batch that was recovered wrote into it.
            (None, _) | (_, true) => Certainty::Yes,
            (made, false) => Window::took_effect(made, count),
        };
        match (made, Window::took_effect(self.dropped, count)) {
            (Certainty::No, _) | (_, Certainty::Yes) => Certainty::No,
            (Certainty::Yes, Certainty::No) => Certainty::Yes,
            (Certainty::Yes | Certainty::Either, Certainty::No | Certainty::Either) => Certainty::Either,
        }
    }
}

impl std::fmt::Display for TreeLife {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "made {:?}, dropped {:?}", self.made, self.dropped)
    }
}

fn batches_in(held: &Model) -> Result<u64, String> {
    let row = held.get(&named(SEQUENCE_TREE)).and_then(|rows| rows.get(SEQUENCE_KEY));
    let Some(row) = row else { return Ok(0) };
    let bytes = row[..].try_into().map_err(|_| "the number of batches is no number".to_owned())?;
    Ok(u64::from_le_bytes(bytes))
}

fn differences(held: &Model, want: &Model) -> Result<(), String> {
    if !held.keys().eq(want.keys()) {
        return Err(format!("there are the trees {:?}, want {:?}", names(held), names(want)));
    }
    for (name, rows) in want {
        let have = &held[name];
        let lost = rows.keys().find(|key| !have.contains_key(*key));
        let extra = have.keys().find(|key| !rows.contains_key(*key));
        let other = rows
            .iter()
            .find(|(key, value)| have.get(*key).is_some_and(|held| held != *value))
            .map(|(key, _)| key);
        let wrong = [("lost", lost), ("too many", extra), ("different", other)];
        if let Some((what, Some(key))) = wrong.into_iter().find(|(_, key)| key.is_some()) {
            let (tree, key) = (text(&name.0), text(key));
            return Err(format!(
                "tree {tree} has {} entries, want {}; {what}: {key:?}",
                have.len(),
                rows.len()
            ));
        }
    }
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn names(model: &Model) -> Vec<String> {
    model.keys().map(|name| text(&name.0)).collect()
}

/// Everything that a store holds.
pub async fn contents(engine: &impl StorageEngine) -> Result<Model, StorageError> {
    let mut model = Model::new();
    for name in engine.tree_names() {
        let tree = engine.tree(&name).expect("a tree that has a name");
        let rows = read_all(engine, tree).await?;
        model.insert(name, rows.into_iter().map(|(key, value)| (key, value.into())).collect());
    }
    Ok(model)
}

/// The edit that makes a batch say its number.
pub fn sequence_edit(engine: &impl StorageEngine, number: u64) -> Edit {
    let tree = engine.tree(&named(SEQUENCE_TREE)).expect("it is made first of all");
    Edit::Put { tree, key: SEQUENCE_KEY.to_vec(), value: number.to_le_bytes().to_vec() }
}

pub fn sequence_change(number: u64) -> Change {
    Change {
        tree: named(SEQUENCE_TREE),
        key: SEQUENCE_KEY.to_vec(),
        value: Some(number.to_le_bytes()[..].into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history of `count` batches, batch `n` putting key `n`, the first `acknowledged` of them durable.
    fn history(count: u8, acknowledged: u64) -> History {
        let mut history = History::default();
        for tree in [SEQUENCE_TREE, "a"] {
            history.making(&named(tree));
            history.made(&named(tree));
        }
        for number in 0..count {
            let change = Change { tree: named("a"), key: vec![number], value: Some([number][..].into()) };
            history.applied(vec![change, sequence_change(u64::from(number) + 1)]);
        }
        history.acknowledge(acknowledged);
        history
    }

    fn held(sequence: u64, keys: &[u8]) -> Model {
        let mut model = Model::new();
        model.insert(named("a"), keys.iter().map(|&key| (vec![key], [key][..].into())).collect());
        model.insert(named(SEQUENCE_TREE), Rows::new());
        if sequence > 0 {
            sequence_change(sequence).apply(&mut model);
        }
        model
    }

    #[track_caller]
    fn check(held: Model, want: Result<(), &str>) {
        match (history(3, 2).recovered(held), want) {
            (Ok(()), Ok(())) => {}
            (Err(what), Err(want)) => assert!(what.contains(want), "{what:?}, want {want:?}"),
            (found, want) => panic!("{found:?}, want {want:?}"),
        }
    }

    #[test]
    fn only_whole_prefixes_with_all_that_was_acknowledged_pass() {
        check(held(3, &[0, 1, 2]), Ok(()));
        check(held(2, &[0, 1]), Ok(()));
        check(held(1, &[0]), Err("1 batches, want 2 to 3"));
        check(held(4, &[0, 1, 2]), Err("4 batches, want 2 to 3"));
        check(held(3, &[0, 2]), Err("lost"));
        check(held(2, &[0, 1, 2]), Err("too many"));
        check(Model::new(), Err("0 batches"));
    }

    #[test]
    fn a_tree_may_be_there_or_not_only_in_the_window_of_its_making() {
        for (sequence, makes_it_certain) in [(2, None), (3, Some(true))] {
            for there in [true, false] {
                let mut history = history(2, 0);
                history.making(&named("t"));
                history.made(&named("t"));
                history.applied(vec![sequence_change(3)]);
                let mut held = held(sequence, &[0, 1]);
                if there {
                    held.insert(named("t"), Rows::new());
                }
                let right = makes_it_certain.is_none_or(|certain| certain == there);
                assert_eq!(history.recovered(held).is_ok(), right, "{sequence} {there}");
            }
        }
    }
}
