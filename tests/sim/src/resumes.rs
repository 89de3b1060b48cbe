//! Feeds that are resumed, from seeds: over hang-ups, overflows, restarts and power losses a feed tells each change once, and nothing
//! is missing.
//!
//! A client keeps what it was told with the last resume token, goes back to that when it is cut off, and opens the feed behind the token. What
//! it is told must follow from what it knows, row by row and place by place, and at the end it has what a query finds. Feeds
//! are opened on an empty table, so they need no initial values.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use photondb_proto::term::number;
use photondb_runtime::env::StreamEnd;
use photondb_runtime::in_one_world::CoresInOneWorld;
use photondb_runtime::{ChangeLogRetention, DataPlaneOptions};
use serde_json::{Value, json};

use crate::client::Client;
use crate::env::SimulatedEnv;
use crate::following::{Rows, table};
use crate::slab::Slab;
use crate::{Simulation, for_seeds, seeds};

type World = SimulatedEnv<Slab>;

const KEYS: u64 = 30;
const WRITERS: u64 = 3;
const WRITES_EACH: u64 = 40;
/// Rows whose inserts end a history: they lie on all cores, and in every part of what is followed.
const LAST: std::ops::Range<u64> = KEYS..KEYS + 20;

/// What is followed, and in how many places a row may be found there.
struct Kind {
    name: &'static str,
    source: Value,
    options: Value,
    places: usize,
}

fn kinds() -> Vec<Kind> {
    let along = |index: &str| json!({ "index": index });
    let few = json!([69, [[2, [1]], [19, [[31, [[10, [1]], "n"]], 5]]]]);
    let range = |from: Value, to: Value| json!([number::BETWEEN, [table(), from, to]]);
    let corner = |x: f64, y: f64| json!([number::POINT, [x, y]]);
    let area = json!([
        number::POLYGON,
        [corner(-1.0, -1.0), corner(4.5, -1.0), corner(4.5, 1.0), corner(-1.0, 1.0)]
    ]);
    let kind = |name, source, places| Kind { name, source, options: json!({}), places };
    vec![
        kind("table", table(), 1),
        kind("filter", json!([number::FILTER, [table(), few]]), 1),
        kind(
            "union",
            json!([
                number::UNION,
                [range(json!([180, []]), json!(KEYS + 10)), range(json!(KEYS + 10), json!([181, []]))]
            ]),
            1,
        ),
        kind("union of equal parts", json!([number::UNION, [table(), table()]]), 2),
        kind("range of an index", json!([number::BETWEEN, [table(), 0, 4], along("n")]), 1),
        kind("range of a multi index", json!([number::BETWEEN, [table(), 0, 6], along("tags")]), 3),
        kind("area of a geo index", json!([number::GET_INTERSECTING, [table(), area], along("at")]), 1),
        Kind { name: "table, squashed", source: table(), options: json!({ "squash": true }), places: 1 },
        Kind {
            name: "keys of an index, squashed",
            source: json!([number::GET_ALL, [table(), 0, 3], along("n")]),
            options: json!({ "squash": true }),
            places: 1,
        },
    ]
}

/// What a feed has told, over all its connections.
#[derive(Default)]
struct Told {
    rows: Rows,
    /// The last token, and what had been told with it.
    token: Option<String>,
    rows_then: Rows,
    resumed: u64,
    overflows: u64,
    is_done: bool,
}

impl Told {
    fn take(&mut self, element: &Value, places: usize) -> Result<(), String> {
        self.rows.lay(element, places)?;
        if let Some(token) = element.get("resume_token") {
            self.token = token.as_str().map(str::to_owned);
            self.rows_then.clone_from(&self.rows);
        }
        Ok(())
    }

    /// The last rows have been told by so many members.
    fn has_last(&self, members: usize) -> bool {
        LAST.into_iter().all(|id| self.rows.count(id) >= members)
    }
}

/// One life of the server.
struct Site {
    simulation: Simulation,
    server: CoresInOneWorld<World>,
    told: Rc<Vec<RefCell<Told>>>,
    /// Writers and listeners that have not ended.
    busy: Cell<u64>,
}

impl Site {
    fn random(&self, end: u64) -> u64 {
        self.simulation.random(|random| random.below(end))
    }

    async fn pause(&self) {
        let pause = self.random(4000);
        self.simulation.sleep_us(pause).await;
    }

    async fn write(self: Rc<Self>) -> Result<(), StreamEnd> {
        let mut client = Client::connect(&self.simulation, &self.server).await?;
        for _ in 0..WRITES_EACH {
            let get = json!([number::GET, [table(), self.random(KEYS)]]);
            let tags: Vec<u64> = (0..self.random(4)).map(|_| self.random(10)).collect();
            let fields = json!({
                "n": self.random(10), "tags": [2, tags], "at": [number::POINT, [self.random(10), 0]], "turn": self.random(1 << 40)
            });
            let mut row = fields.clone();
            row["id"] = get[1][1].clone();
            let query = match self.random(5) {
                0 => json!([number::DELETE, [get]]),
                1 => json!([number::UPDATE, [get, fields]]),
                _ => json!([number::REPLACE, [get, row]]),
            };
            client.run(&query).await?;
            if self.random(3) == 0 {
                self.pause().await;
            }
            // So long that feeds to which nothing happens are told a token.
            if self.random(40) == 0 {
                self.simulation.sleep_us(3_000_000).await;
            }
        }
        Ok(())
    }

    /// Follows until the last rows come, with hang-ups on the way, and compares.
    async fn follow(self: Rc<Self>, kind: Kind, number: usize) -> Result<(), StreamEnd> {
        let told = &self.told.clone()[number];
        let patience = self.random(3);
        let overflows = self.random(3) == 0;
        let members = if kind.name == "union of equal parts" { 2 } else { 1 };
        loop {
            let mut client = Client::connect(&self.simulation, &self.server).await?;
            let mut options = kind.options.clone();
            options["include_resume_token"] = json!(true);
            options["include_states"] = json!(true);
            if overflows {
                options["overflow"] = json!("error");
                options["changefeed_queue_size"] = json!(1 + self.random(6));
            }
            let token = told.borrow().token.clone();
            if let Some(token) = token {
                options["resume_from"] = json!(token);
                let told = &mut *told.borrow_mut();
                told.resumed += 1;
                told.rows.clone_from(&told.rows_then);
            }
            let token =
                client.send(&json!([1, [number::CHANGES, [kind.source], options], {}]).to_string()).await?;
            let answers = if self.random(3) == 0 { u64::MAX } else { 1 + self.random(12) };
            for _ in 0..answers {
                let response = client.receive().await?;
                let seed = self.simulation.seed();
                if overflows && response.response_type == 18 {
                    told.borrow_mut().overflows += 1;
                    break;
                }
                assert_eq!(response.response_type, 3, "seed {seed}: {}: {response:?}", kind.name);
                for element in &response.results {
                    if let Err(text) = told.borrow_mut().take(element, kind.places) {
                        panic!("seed {seed}: {:?}: {text}", kind.name);
                    }
                }
                if told.borrow().has_last(members) {
                    let rows = told.borrow().rows.clone();
                    return self.compare(&kind, &rows).await;
                }
                if self.random(3) < patience {
                    self.pause().await;
                }
                client.send_as(token, "[2]").await?;
            }
            self.pause().await;
        }
    }

    async fn compare(&self, kind: &Kind, told: &Rows) -> Result<(), StreamEnd> {
        let mut client = Client::connect(&self.simulation, &self.server).await?;
        let found = Rows::found(&mut client, &kind.source).await?;
        assert_eq!(*told, found, "seed {}: {}", self.simulation.seed(), kind.name);
        Ok(())
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

async fn prepare(client: &mut Client) -> Result<(), StreamEnd> {
    client.run(&json!([number::DB_CREATE, ["d"]])).await?;
    client.run(&json!([number::TABLE_CREATE, [[number::DB, ["d"]], "t"], { "shards": 3 }])).await?;
    for (index, options) in
        [("n", json!({})), ("tags", json!({ "multi": true })), ("at", json!({ "geo": true }))]
    {
        client.run(&json!([number::INDEX_CREATE, [table(), index], options])).await?;
    }
    Ok(())
}

/// A server's life, until its power fails after so many operations of its disk, or the last rows were told.
async fn life(
    env: World,
    cores: usize,
    told: Rc<Vec<RefCell<Told>>>,
    is_first: bool,
    operations: Option<u64>,
) {
    let options = DataPlaneOptions {
        cpus: (0..cores).collect(),
        cache_bytes: 8 << 20,
        change_log: Some(ChangeLogRetention { bytes_max: 64 << 20, age_ms_max: u64::MAX }),
        ..DataPlaneOptions::default()
    };
    let server = CoresInOneWorld::start(&env, options).await.expect("it starts");
    let simulation = env.simulation().clone();
    let site =
        Rc::new(Site { simulation: simulation.clone(), server, told: told.clone(), busy: Cell::new(0) });
    let mut client = Client::connect(&simulation, &site.server).await.expect("it takes connections");
    if is_first {
        prepare(&mut client).await.expect("the server does not hang up");
    }
    client.run(&json!([number::INDEX_WAIT, [table()]])).await.expect("the server does not hang up");
    // Until the other cores know.
    simulation.sleep_us(50_000).await;
    let kinds = kinds();
    let listeners = kinds.len() as u64;
    for (number, kind) in kinds.into_iter().enumerate() {
        site.spawn(site.clone().follow(kind, number));
    }
    while told.iter().any(|told| told.borrow().token.is_none()) {
        simulation.sleep_us(500).await;
    }
    if let Some(operations) = operations {
        let directory = env.directory(0);
        directory.stop_at(directory.operations() + operations);
    }
    (0..WRITERS).for_each(|_| site.spawn(site.clone().write()));
    site.until_busy(listeners).await;
    if operations.is_some() {
        // Whoever is left to the end of this life sees its power fail, too.
        return;
    }
    for id in LAST {
        let last = json!({ "id": id, "n": 0, "tags": [2, [1]], "at": [number::POINT, [0, 0]] });
        client.run(&json!([number::INSERT, [table(), last]])).await.expect("the server does not hang up");
    }
    site.until_busy(0).await;
    told.iter().for_each(|told| told.borrow_mut().is_done = true);
}

#[test]
fn a_feed_goes_on_behind_its_token_over_hang_ups_and_power_losses() {
    let (resumed, overflows) = (Cell::new(0), Cell::new(0));
    for_seeds(120, |seed| {
        let simulation = Simulation::new(seed);
        let mut env = SimulatedEnv::new(&simulation, Slab::new(seed));
        let cores = 1 + (seed % 2) as usize;
        let told: Rc<Vec<RefCell<Told>>> = Rc::new(kinds().iter().map(|_| RefCell::default()).collect());
        for number in 0..3 {
            let operations = (number < 2).then(|| 5 + simulation.random(|random| random.below(150)));
            simulation.run(life(env.clone(), cores, told.clone(), number == 0, operations));
            env = env.after_power_loss();
        }
        for told in told.iter() {
            assert!(told.borrow().is_done, "seed {seed}");
            resumed.set(resumed.get() + told.borrow().resumed);
            overflows.set(overflows.get() + told.borrow().overflows);
        }
    });
    if seeds(2).len() > 1 {
        let (resumed, overflows) = (resumed.get(), overflows.get());
        assert!(resumed > 1000 && overflows > 20, "{resumed} resumes, {overflows} overflows");
    }
}
