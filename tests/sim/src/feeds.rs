//! Changefeeds of whole servers, from seeds: what a feed tells, laid over what it told first, is what a query finds.
//!
//! Some cores serve writers and listeners over the driver protocol. Listeners follow the table in every way there is, some of
//! them slow, some with queues that overflow, some that hang up and come back. Nothing a feed says may contradict what it said
//! before, and at the end each has told exactly what a query gives. Then the power may fail: what a feed told of
//! durable writes must be there afterwards.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;

use photondb_proto::term::number;
use photondb_runtime::DataPlaneOptions;
use photondb_runtime::env::StreamEnd;
use photondb_runtime::in_one_world::CoresInOneWorld;
use serde_json::{Value, json};

use crate::client::Client;
use crate::env::SimulatedEnv;
use crate::following::{Rows, key, table};
use crate::slab::Slab;
use crate::{Simulation, for_seeds, seeds};

type World = SimulatedEnv<Slab>;

const KEYS: u64 = 40;
const WRITERS: u64 = 3;
const WRITES_EACH: u64 = 60;
/// The keys whose inserts end a history: changes come in order within a shard alone, and these lie in all of them. They are
/// among the first rows in every order.
const LAST: std::ops::Range<u64> = KEYS..KEYS + 12;

/// A way to follow the table, and the rows it is about.
struct Kind {
    name: &'static str,
    source: Value,
    /// Squashing, overflows and multi indexes say less than every change of every row.
    options: Value,
}

fn kinds() -> Vec<Kind> {
    let along = |index: &str| json!({ "index": index });
    let backwards = json!({ "index": [number::DESC, ["negated"]] });
    let few = json!([69, [[2, [1]], [19, [[31, [[10, [1]], "n"]], 5]]]]);
    let by = |options: Value| json!([number::ORDER_BY, [table()], options]);
    let kind = |name, source| Kind { name, source, options: json!({}) };
    let squashed = |name, source| Kind { name, source, options: json!({ "squash": true }) };
    vec![
        kind("table", table()),
        squashed("table, squashed", table()),
        kind("range", json!([number::BETWEEN, [table(), 10, 100]])),
        kind("filter", json!([number::FILTER, [table(), few]])),
        kind("point", json!([number::GET, [table(), LAST.start]])),
        kind("range of an index", json!([number::BETWEEN, [table(), 0, 4,], along("n")])),
        squashed("keys of an index, squashed", json!([number::GET_ALL, [table(), 0, 3], along("n")])),
        kind("first of an index", json!([number::LIMIT, [by(along("n")), 30]])),
        squashed("first of an index, squashed", json!([number::LIMIT, [by(along("n")), 30]])),
        kind("last of an index", json!([number::LIMIT, [by(backwards), 30]])),
        kind(
            "union",
            json!([
                number::UNION,
                [[number::BETWEEN, [table(), [180, []], 15]], [number::BETWEEN, [table(), 15, [181, []]]]]
            ]),
        ),
    ]
}

/// What a feed has told so far, by key.
#[derive(Default)]
struct Told {
    rows: Rows,
    /// The last change of each key: the row, or the row that is gone.
    latest: BTreeMap<u64, (Value, bool)>,
}

impl Told {
    /// Takes an element; what it says of the past must be what was told. False when it says that changes were left out.
    fn take(&mut self, element: &Value) -> Result<bool, String> {
        if element.get("error").is_some() {
            return Ok(false);
        }
        self.rows.lay(element, 1)?;
        if let Some(old) = element.get("old_val").filter(|old| !old.is_null()) {
            self.latest.insert(key(old), (old.clone(), true));
        }
        // Initial values are what a read would find, durable or not.
        if let Some(new) = element.get("new_val").filter(|new| !new.is_null())
            && element.get("old_val").is_some()
        {
            self.latest.insert(key(new), (new.clone(), false));
        }
        Ok(true)
    }
}

/// One server's life.
struct Site {
    simulation: Simulation,
    server: Rc<CoresInOneWorld<World>>,
    /// Tasks that have not ended.
    busy: Cell<u64>,
    /// What feeds of the whole table told, for after a power loss.
    told: RefCell<Vec<Rc<RefCell<Told>>>>,
    hard_only: bool,
}

impl Site {
    fn random(&self, end: u64) -> u64 {
        self.simulation.random(|random| random.below(end))
    }

    async fn pause(&self) {
        let pause = self.random(4000);
        self.simulation.sleep_us(pause).await;
    }

    async fn client(&self) -> Result<Client, StreamEnd> {
        Client::connect(&self.simulation, &self.server).await
    }

    /// Each key has one writer, which counts its versions.
    async fn write(self: Rc<Self>, writer: u64) -> Result<(), StreamEnd> {
        let mut client = self.client().await?;
        for version in 1..=WRITES_EACH {
            let id = self.random(KEYS / WRITERS) * WRITERS + writer;
            let hard = self.hard_only || self.random(2) == 0;
            let durability = json!({ "durability": if hard { "hard" } else { "soft" } });
            let row = json!({ "id": id, "n": self.random(10), "version": version });
            let get = json!([number::GET, [table(), id]]);
            let query = match self.random(5) {
                0 => json!([number::DELETE, [get], durability]),
                1 => json!([number::UPDATE, [get, { "version": version, "n": self.random(10) }], durability]),
                _ => json!([number::REPLACE, [get, row], durability]),
            };
            client.run(&query).await?;
            if self.random(3) == 0 {
                self.pause().await;
            }
        }
        Ok(())
    }

    /// Follows the table until the last row comes, and compares.
    async fn follow(self: Rc<Self>, kind: Kind) -> Result<(), StreamEnd> {
        let mut options = kind.options.clone();
        options["include_initial"] = json!(true);
        if self.random(4) == 0 {
            options["changefeed_queue_size"] = json!(3 + self.random(10));
        }
        let patience = self.random(3);
        loop {
            self.pause().await;
            let mut client = self.client().await?;
            let query = json!([1, [number::CHANGES, [kind.source], options], {}]).to_string();
            let token = client.send(&query).await?;
            let told = Rc::new(RefCell::new(Told::default()));
            if kind.name == "table" {
                self.told.borrow_mut().push(told.clone());
            }
            // Some hang up after a while.
            let mut answers_left = if self.random(3) == 0 { 1 + self.random(12) } else { u64::MAX };
            if self.listen(&kind, &mut client, token, &told, patience, &mut answers_left).await? {
                let found = Rows::found(&mut client, &kind.source).await?;
                let told = told.borrow();
                let seed = self.simulation.seed();
                assert_eq!(told.rows, found, "seed {seed}: what {:?} told is not what is there", kind.name);
                return Ok(());
            }
        }
    }

    /// True when the last row has come, false when the feed is to be opened anew.
    async fn listen(
        &self,
        kind: &Kind,
        client: &mut Client,
        token: i64,
        told: &RefCell<Told>,
        patience: u64,
        answers_left: &mut u64,
    ) -> Result<bool, StreamEnd> {
        loop {
            let response = client.receive().await?;
            assert_eq!((response.token, response.response_type), (token, 3), "{}: {response:?}", kind.name);
            for element in &response.results {
                let taken = told.borrow_mut().take(element);
                let seed = self.simulation.seed();
                match taken {
                    Ok(true) => {}
                    Ok(false) => return Ok(false),
                    Err(text) => panic!("seed {seed}: {:?}: {text}", kind.name),
                }
            }
            let mut last = if kind.name == "point" { LAST.start..LAST.start + 1 } else { LAST };
            if last.all(|id| told.borrow().rows.count(id) > 0) {
                // The feed gives way to the query that compares.
                client.send_as(token, "[3]").await?;
                client.receive().await?;
                return Ok(true);
            }
            *answers_left -= 1;
            if *answers_left == 0 {
                return Ok(false);
            }
            if self.random(3) < patience {
                self.pause().await;
            }
            client.send_as(token, "[2]").await?;
        }
    }

    fn spawn(self: &Rc<Self>, task: impl Future<Output = Result<(), StreamEnd>> + 'static) {
        self.busy.set(self.busy.get() + 1);
        let site = self.clone();
        self.simulation.spawn(async move {
            task.await.expect("the server does not hang up");
            site.busy.set(site.busy.get() - 1);
        });
    }

    async fn until_busy(&self, tasks: u64) {
        while self.busy.get() > tasks {
            self.simulation.sleep_us(500).await;
        }
    }
}

fn options(cores: usize) -> DataPlaneOptions {
    DataPlaneOptions { cpus: (0..cores).collect(), cache_bytes: 8 << 20, ..DataPlaneOptions::default() }
}

async fn prepare(client: &mut Client) -> Result<(), StreamEnd> {
    client.run(&json!([number::DB_CREATE, ["d"]])).await?;
    client.run(&json!([number::TABLE_CREATE, [[number::DB, ["d"]], "t"], { "shards": 3 }])).await?;
    let rows: Vec<Value> =
        (0..KEYS).step_by(2).map(|id| json!({ "id": id, "n": id % 10, "version": 0 })).collect();
    client.run(&json!([number::INSERT, [table(), [2, rows]]])).await?;
    let negated = json!([69, [[2, [1]], [25, [0, [170, [[10, [1]], "n"]]]]]]);
    client.run(&json!([number::INDEX_CREATE, [table(), "n"]])).await?;
    client.run(&json!([number::INDEX_CREATE, [table(), "negated", negated]])).await?;
    client.run(&json!([number::INDEX_WAIT, [table()]])).await?;
    Ok(())
}

/// A server on which writers and listeners of every kind meet. Gives what feeds of the table told.
async fn history(env: World, cores: usize, hard_only: bool, told: Rc<RefCell<Vec<Rc<RefCell<Told>>>>>) {
    let server = Rc::new(CoresInOneWorld::start(&env, options(cores)).await.expect("it starts"));
    let simulation = env.simulation().clone();
    let site = Rc::new(Site {
        simulation: simulation.clone(),
        server,
        busy: Cell::new(0),
        told: RefCell::default(),
        hard_only,
    });
    let mut client = site.client().await.expect("the server takes connections");
    prepare(&mut client).await.expect("the server does not hang up");
    let kinds = kinds();
    let listeners = kinds.len() as u64;
    for kind in kinds {
        site.spawn(site.clone().follow(kind));
    }
    for writer in 0..WRITERS {
        site.spawn(site.clone().write(writer));
    }
    // What was told is kept as it comes, since the world may stop at any moment.
    let watched = site.clone();
    simulation.spawn(async move {
        loop {
            told.borrow_mut().clone_from(&watched.told.borrow());
            watched.simulation.sleep_us(200).await;
        }
    });
    site.until_busy(listeners).await;
    for id in LAST {
        let last = json!({ "id": id, "n": 0, "version": 1 });
        client.run(&json!([number::INSERT, [table(), last]])).await.expect("the server does not hang up");
    }
    site.until_busy(0).await;
}

#[test]
fn feeds_of_every_kind_tell_exactly_what_becomes_of_the_table() {
    for_seeds(400, |seed| {
        let simulation = Simulation::new(seed);
        let env = SimulatedEnv::new(&simulation, Slab::new(seed));
        let cores = 1 + (seed % 3) as usize;
        let done = simulation.run(history(env, cores, false, Rc::default()));
        assert_eq!(done, Some(()), "seed {seed}");
    });
}

#[test]
fn what_a_feed_tells_of_durable_writes_survives_a_power_loss() {
    let compared = Cell::new(0_usize);
    for_seeds(300, |seed| {
        let simulation = Simulation::new(seed);
        let env = SimulatedEnv::new(&simulation, Slab::new(seed));
        let cores = 1 + (seed % 2) as usize;
        let told: Rc<RefCell<Vec<Rc<RefCell<Told>>>>> = Rc::default();
        // Most histories take some more operations of the first store than that.
        env.directory(0).stop_at(60 + simulation.random(|random| random.below(300)));
        simulation.run(history(env.clone(), cores, true, told.clone()));
        let left = env.after_power_loss();
        let found = simulation.run(async {
            let server = CoresInOneWorld::start(&left, options(cores)).await.expect("it starts again");
            let mut client = Client::connect(&simulation, &server).await.expect("it takes connections");
            let tables = json!([number::TABLE_LIST, [[number::DB, ["d"]]]]);
            let exists = client.run(&json!([number::DB_LIST, []])).await.expect("it answers");
            let exists = exists.as_array().is_some_and(|names| names.contains(&json!("d")))
                && client.run(&tables).await.expect("it answers") == json!(["t"]);
            if exists { client.run(&table()).await.expect("it answers") } else { json!([]) }
        });
        let found = found.expect("nothing stops the world");
        let found: BTreeMap<u64, &Value> =
            found.as_array().into_iter().flatten().map(|row| (key(row), row)).collect();
        for told in told.borrow().iter() {
            compared.set(compared.get() + told.borrow().latest.len());
            for (id, (row, is_gone)) in &told.borrow().latest {
                let version = |row: &Value| row["version"].as_u64();
                let holds = match (found.get(id), is_gone) {
                    (Some(found), false) => version(found) >= version(row),
                    // A later write may have come, but not the row that is gone.
                    (Some(found), true) => version(found) > version(row),
                    // The writer may have deleted it since.
                    (None, _) => true,
                };
                assert!(holds, "seed {seed}: told {row} (gone: {is_gone}), found {:?}", found.get(id));
            }
        }
    });
    assert!(
        compared.get() > 1000 || seeds(2).len() == 1,
        "only {} rows were told before the power failed",
        compared.get()
    );
}
