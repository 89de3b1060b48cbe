//! A store's life over openings and power losses, checked against its [`History`] at every opening.

use std::cell::RefCell;
use std::rc::Rc;

use photondb_storage::engine::{StorageEngine, StorageError, TreeName};

use crate::history::{History, contents};
use crate::workload::{Site, Workload};
use crate::{SimulatedDirectory, Simulation};

/// A backend to be tested.
#[allow(async_fn_in_trait, reason = "a simulation is one thread")]
pub trait Backend: Clone {
    type Engine: StorageEngine + 'static;

    /// With trees that belong to tables as these functions say.
    fn naming(self, _table_of: fn(&TreeName) -> Option<&[u8]>) -> Self {
        self
    }

    async fn open(
        &self,
        directory: SimulatedDirectory,
        cache_bytes: u64,
    ) -> Result<Self::Engine, StorageError>;

    /// Writes a checkpoint now, if the backend has such a thing.
    async fn checkpoint(_engine: &Self::Engine) -> Result<(), StorageError> {
        Ok(())
    }
}

/// Small, so that a short workload does not stay within the cache.
const CACHE_BYTES: u64 = 1 << 20;

pub struct Life<B> {
    pub backend: B,
    pub simulation: Simulation,
    pub directory: SimulatedDirectory,
    pub history: Rc<RefCell<History>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The power goes while the store is open.
    Loss,
    Closed,
}

impl<B: Backend> Life<B> {
    pub fn new(backend: B, seed: u64) -> Self {
        Self::within(backend, Simulation::new(seed))
    }

    pub fn within(backend: B, simulation: Simulation) -> Self {
        let directory = SimulatedDirectory::new(&simulation);
        Self { backend, simulation, directory, history: Rc::default() }
    }

    /// Opens the store, checks what it holds, works, ends as told; `None` when the world was stopped on the way.
    pub fn opening(&self, workload: Option<Workload>, ending: Ending) -> Option<()> {
        self.simulation.run(async {
            let engine =
                self.open().await.unwrap_or_else(|error| self.fail(&format!("it does not open: {error}")));
            self.verify(&*engine).await;
            if let Some(workload) = workload {
                let site = Site::new(&self.simulation, engine.clone(), self.history.clone());
                site.work(workload).await.unwrap_or_else(|error| self.fail(&error.to_string()));
                let errors = site.errors.take();
                assert!(errors.is_empty(), "seed {}: {errors:?}", self.simulation.seed());
            }
            if ending == Ending::Closed {
                engine
                    .close()
                    .await
                    .unwrap_or_else(|error| self.fail(&format!("it does not close: {error}")));
                self.history.borrow_mut().acknowledge_all();
            }
        })
    }

    /// Opens the store and starts its background work; to be called within a run of the simulation.
    pub async fn open(&self) -> Result<Rc<B::Engine>, StorageError> {
        let engine = Rc::new(self.backend.open(self.directory.clone(), CACHE_BYTES).await?);
        let (background, traced) = (engine.clone(), self.simulation.is_traced());
        self.simulation.spawn(async move {
            if let Err(error) = background.work().await
                && traced
            {
                println!("the background work ended: {error}");
            }
        });
        Ok(engine)
    }

    /// Checks that the store holds what it promised.
    pub async fn verify(&self, engine: &B::Engine) {
        let held =
            contents(engine).await.unwrap_or_else(|error| self.fail(&format!("its contents: {error}")));
        let recovered = self.history.borrow_mut().recovered(held);
        recovered.unwrap_or_else(|what| self.fail(&what));
    }

    pub fn lose_power(&mut self) {
        self.directory = self.directory.after_power_loss();
    }

    pub fn fail(&self, what: &str) -> ! {
        panic!("seed {}: {what}", self.simulation.seed())
    }
}

/// Several openings with power losses at places that the seed chooses, then two without.
pub fn live(backend: impl Backend, seed: u64, workload: Workload) {
    let mut life = Life::new(backend, seed);
    let openings = life.simulation.random(|random| 2 + random.below(3));
    for _ in 0..openings {
        let (stop_at, ending) = life.simulation.random(|random| {
            let end = [30, 300, 3000][random.below(3) as usize];
            let ending = if random.one_in(5) { Ending::Closed } else { Ending::Loss };
            (random.below(end), ending)
        });
        life.directory.stop_at(stop_at);
        life.opening(Some(workload), ending);
        life.lose_power();
    }
    for _ in 0..2 {
        life.opening(None, Ending::Closed);
        life.lose_power();
    }
}
