//! The simulated twin of a core's world, and of a connection: everything `Env` and `Stream` ask for, in one [`Simulation`].
//!
//! Always: several cores of one machine share the simulation's clock and the directories of their stores, so a power loss is
//! one for all of them. What `random` gives follows from the seed, as everything does.

use std::cell::RefCell;
use std::collections::{BTreeMap, VecDeque};
use std::future::Future;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use photondb_runtime::env::{Env, StoreOptions, Stream, StreamEnd};
use photondb_storage::disk::DiskError;
use photondb_storage::engine::StorageError;

use crate::life::Backend;
use crate::{SimulatedDirectory, Simulation};

/// The wall clock when a simulation begins: a round moment, so that times in a failure's output are easy to read.
const BEGINNING_UNIX_MS: u64 = 1_700_000_000_000;

/// A machine's data directory and clock, as its cores see them, with stores of one backend.
#[derive(Clone)]
pub struct SimulatedEnv<B> {
    backend: B,
    simulation: Simulation,
    stores: Rc<RefCell<BTreeMap<u16, SimulatedDirectory>>>,
}

impl<B: Backend> SimulatedEnv<B> {
    pub fn new(simulation: &Simulation, backend: B) -> Self {
        Self { backend, simulation: simulation.clone(), stores: Rc::default() }
    }

    pub fn simulation(&self) -> &Simulation {
        &self.simulation
    }

    /// The machine as a power loss leaves it. This one must not be used any more.
    pub fn after_power_loss(&self) -> Self {
        let left =
            self.stores.borrow().iter().map(|(&number, store)| (number, store.after_power_loss())).collect();
        Self { stores: Rc::new(RefCell::new(left)), ..self.clone() }
    }

    /// The directory of a store, made if it is missing.
    pub fn directory(&self, number: u16) -> SimulatedDirectory {
        let mut stores = self.stores.borrow_mut();
        stores.entry(number).or_insert_with(|| SimulatedDirectory::new(&self.simulation)).clone()
    }
}

impl<B: Backend + 'static> Env for SimulatedEnv<B> {
    type Store = B::Engine;

    fn stores(&self) -> Result<Vec<u16>, DiskError> {
        Ok(self.stores.borrow().keys().copied().collect())
    }

    async fn open_store(&self, number: u16, options: StoreOptions) -> Result<B::Engine, StorageError> {
        let backend = self.backend.clone().naming(options.table_of);
        backend.open(self.directory(number), options.cache_bytes).await
    }

    fn unix_ms(&self) -> u64 {
        BEGINNING_UNIX_MS + self.simulation.now_us() / 1000
    }

    fn elapsed(&self) -> Duration {
        Duration::from_micros(self.simulation.now_us())
    }

    async fn sleep(&self, duration: Duration) {
        self.simulation.sleep_us(u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)).await;
    }

    async fn next_turn(&self) {
        self.simulation.yield_now().await;
    }

    fn random(&self, bytes: &mut [u8]) {
        let drawn = self.simulation.random(|random| random.bytes(bytes.len()));
        bytes.copy_from_slice(&drawn);
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.simulation.spawn(task);
    }
}

/// One end of a connection. Dropping it ends the other's stream.
pub struct SimulatedStream {
    simulation: Simulation,
    incoming: Rc<RefCell<Pipe>>,
    outgoing: Rc<RefCell<Pipe>>,
}

/// Bytes on their way; a kernel's socket buffer.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    ended: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

/// What a pipe holds before its writer must wait.
const PIPE_BYTES_MAX: usize = 64 << 10;

impl Pipe {
    fn wake(&mut self) {
        self.reader.take().into_iter().chain(self.writer.take()).for_each(Waker::wake);
    }
}

/// Both ends of a new connection.
pub fn connection(simulation: &Simulation) -> (SimulatedStream, SimulatedStream) {
    let (there, back): (Rc<RefCell<Pipe>>, Rc<RefCell<Pipe>>) = Default::default();
    let simulation = simulation.clone();
    let near =
        SimulatedStream { simulation: simulation.clone(), incoming: back.clone(), outgoing: there.clone() };
    (near, SimulatedStream { simulation, incoming: there, outgoing: back })
}

impl SimulatedStream {
    /// A network moves what it likes at a time, but something.
    fn portion(&self, bytes_max: usize) -> usize {
        self.simulation.random(|random| {
            if random.one_in(3) { 1 + random.below(bytes_max as u64) as usize } else { bytes_max }
        })
    }
}

impl Stream for SimulatedStream {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut [u8]) -> Poll<Result<usize, StreamEnd>> {
        let mut pipe = self.incoming.borrow_mut();
        let bytes_max = pipe.bytes.len().min(buffer.len());
        if bytes_max == 0 {
            if pipe.ended || buffer.is_empty() {
                return Poll::Ready(Ok(0));
            }
            pipe.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        let bytes = self.portion(bytes_max);
        for (place, byte) in buffer.iter_mut().zip(pipe.bytes.drain(..bytes)) {
            *place = byte;
        }
        pipe.wake();
        Poll::Ready(Ok(bytes))
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<Result<usize, StreamEnd>> {
        let mut pipe = self.outgoing.borrow_mut();
        if pipe.ended {
            return Poll::Ready(Err(StreamEnd));
        }
        let bytes_max = bytes.len().min(PIPE_BYTES_MAX - pipe.bytes.len());
        if bytes_max == 0 && !bytes.is_empty() {
            pipe.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        let taken = if bytes.is_empty() { 0 } else { self.portion(bytes_max) };
        pipe.bytes.extend(&bytes[..taken]);
        pipe.wake();
        Poll::Ready(Ok(taken))
    }
}

impl Drop for SimulatedStream {
    fn drop(&mut self) {
        for pipe in [&self.incoming, &self.outgoing] {
            pipe.borrow_mut().ended = true;
            pipe.borrow_mut().wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use photondb_storage::disk::{Directory, OpenMode};
    use photondb_storage::memory::MemoryEngine;

    use super::*;

    async fn read_to_end(mut stream: SimulatedStream) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 1000];
        loop {
            match poll_fn(|context| stream.poll_read(context, &mut buffer)).await {
                Ok(0) | Err(StreamEnd) => return all,
                Ok(bytes) => all.extend_from_slice(&buffer[..bytes]),
            }
        }
    }

    #[test]
    fn a_connection_carries_all_bytes_in_order_and_ends() {
        crate::for_seeds(20, |seed| {
            let simulation = Simulation::new(seed);
            let (mut near, far) = connection(&simulation);
            let sent: Vec<u8> = (0..200_000_u32).map(|n| (n % 251) as u8).collect();
            let sending = sent.clone();
            simulation.spawn(async move {
                let mut rest = &sending[..];
                while !rest.is_empty() {
                    let taken = poll_fn(|context| near.poll_write(context, rest)).await.unwrap();
                    rest = &rest[taken..];
                }
            });
            assert!(simulation.run(read_to_end(far)).is_some_and(|received| received == sent));
        });
    }

    /// Stores in memory, beside a directory that shows they were opened.
    #[derive(Clone)]
    struct Memory;

    impl Backend for Memory {
        type Engine = MemoryEngine;

        async fn open(
            &self,
            directory: SimulatedDirectory,
            _cache_bytes: u64,
        ) -> Result<MemoryEngine, StorageError> {
            directory.open("opened", OpenMode::Create).await?;
            directory.sync().await?;
            Ok(MemoryEngine::new())
        }
    }

    #[test]
    fn time_and_stores_of_a_machine_are_its_own() {
        let simulation = Simulation::new(3);
        let env = SimulatedEnv::new(&simulation, Memory);
        simulation.run(async {
            env.sleep(Duration::from_secs(3600)).await;
            assert_eq!(env.elapsed(), Duration::from_secs(3600));
            assert_eq!(env.unix_ms(), BEGINNING_UNIX_MS + 3_600_000);
            let options = StoreOptions {
                backend: photondb_storage::backend::Backend::Slab,
                cache_bytes: 1 << 20,
                compression_level: 1,
                compression_bytes_min: 129,
                table_of: |name| Some(&name.0),
            };
            env.open_store(2, options).await.unwrap();
        });
        let left = env.after_power_loss();
        assert_eq!(left.stores().unwrap(), [2]);
        assert!(left.directory(2).lengths().contains_key("opened"));
    }
}
