//! The default backend as the simulation runs it.

use photondb_storage::engine::{StorageError, TreeName};
use photondb_storage::slab::{Placement, SlabEngine, SlabOptions};

use crate::SimulatedDirectory;
use crate::life::Backend;

/// The default backend with limits small enough that a short workload fills segments of the log, evicts pages and makes
/// checkpoints, different ones from seed to seed.
#[derive(Clone, Copy)]
pub struct Slab(SlabOptions);

impl Slab {
    pub fn new(seed: u64) -> Self {
        let wal_segment_bytes = [64 << 10, 256 << 10, 1 << 20][(seed % 3) as usize];
        let checkpoint_log_bytes = [200 << 10, 4 << 20][(seed % 2) as usize];
        let checkpoint_dirty_bytes = [0, 20_000, 400_000][(seed / 3 % 3) as usize];
        // The backend `btree` meets the same troubles.
        let placement = (seed % 5 == 4).then_some(Placement::Leaves);
        Self(SlabOptions {
            placement,
            wal_segment_bytes,
            checkpoint_log_bytes,
            checkpoint_dirty_bytes,
            ..SlabOptions::default()
        })
    }
}

impl Backend for Slab {
    type Engine = SlabEngine<SimulatedDirectory>;

    fn naming(self, table_of: fn(&TreeName) -> Option<&[u8]>) -> Self {
        Self(SlabOptions { table_of, ..self.0 })
    }

    async fn open(
        &self,
        directory: SimulatedDirectory,
        cache_bytes: u64,
    ) -> Result<Self::Engine, StorageError> {
        SlabEngine::open(directory, SlabOptions { cache_bytes, ..self.0 }).await
    }

    async fn checkpoint(engine: &Self::Engine) -> Result<(), StorageError> {
        engine.checkpoint().await
    }
}
