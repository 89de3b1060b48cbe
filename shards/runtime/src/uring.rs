//! Production's [`Env`] and disks: glommio executors over io_uring. The only file that names glommio.
//!
//! Always: an executor never waits longer than a beat for a wake that was lost, and the first file glommio sees on a device
//! is not empty. Both are cures for faults of glommio 0.9 (its preempt timer can park it beside runnable tasks; its probe
//! for polled I/O succeeds on an empty file and reads then fail), and tests switch them off to show the faults.
//! `unsafe` here is handing an epoll to glommio by descriptor, and saying that its buffers do not move.

use std::cell::{OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::io;
use std::ops::Deref;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use futures_lite::AsyncRead;
use glommio::io::{DmaBuffer, DmaFile, OpenOptions, ReadResult};
use glommio::net::TcpStream;
use glommio::timer::Timer;
use glommio::{GlommioError, LocalExecutorBuilder, Placement};
use photondb_storage::backend::Store;
use photondb_storage::disk::{BLOCK_BYTES, Directory, Disk, DiskError, OpenMode};
use photondb_storage::engine::StorageError;
use photondb_storage::memory::MemoryEngine;
use photondb_storage::slab::{SlabEngine, SlabOptions};
use rustix::fs::OFlags;

use crate::env::{Env, StoreOptions};
use crate::flights::{Flights, Target};
use crate::sockets::Sockets;
use crate::turns::Turns;
use crate::{Cures, StartError};

/// How often an executor with work wakes by itself: a lost wake costs at most this.
const BEAT: Duration = Duration::from_millis(5);
/// The same for an executor that had nothing to do since its last beat, and at most, for one that had nothing to do since
/// several: each beat costs some 50 us of CPU.
const IDLE_BEAT: Duration = Duration::from_millis(50);
const IDLE_BEAT_MAX: Duration = Duration::from_millis(200);
/// Timers of a beat, each twice as far as the one before: as many lost wakes in a row as are survived.
const BEAT_TIMERS: usize = 8;
/// Tasks that run in a beat of an idle executor: the beat itself, the soft flush, a report.
const IDLE_TASKS: u64 = 3;
/// A beat later than this by so much is worth a line in the log.
const STALL: Duration = Duration::from_millis(250);
/// Zeros written at a time when a file is preallocated.
const ZERO_RUN_BYTES: u32 = 1 << 20;
/// Of a file that is removed so much is freed at a time: 3 ms on a disk that is told of it (`discard`), 80 ms for 64 MiB at once.
const FREED_BYTES: u64 = 2 << 20;
/// Between two such parts.
const FREED_PAUSE: Duration = Duration::from_millis(1);
/// Random bytes fetched from the kernel at a time.
const RANDOM_POOL_BYTES: usize = 1024;
/// Memory registered with each executor's rings for its disk buffers; more comes from the allocator.
const IO_MEMORY_BYTES: usize = 4 << 20;
/// Entries of each ring. The kernel sizes the table in which it finds a poll to cancel by them: with glommio's 128, ten
/// thousand idle connections make every wait of another one half again as long.
const RING_ENTRIES: usize = 4096;
/// A file for the probe for polled I/O: not empty, on the data directory's device.
const PROBE_FILE: &str = "PROBE";

/// Runs `main` on this thread with an executor pinned to `cpu`, until it is done.
///
/// # Errors
/// A sentence when the executor cannot be made.
pub fn run<T, F: Future<Output = T>>(
    cpu: Option<usize>,
    data_dir: &Path,
    cures: Cures,
    main: impl FnOnce(UringEnv) -> F,
) -> Result<T, StartError> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    let executor = LocalExecutorBuilder::new(placement)
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_ENTRIES)
        .preempt_timer(cures.preempt_timer)
        .make()
        .map_err(|error| executor_error(&error))?;
    let sockets =
        Sockets::new().map_err(|error| StartError(format!("A core can have no epoll ({error}).")))?;
    let flights =
        Flights::new().inspect_err(|error| tracing::warn!(%error, "reads have no ring of their own")).ok();
    let turns = Turns::new(sockets.clone());
    let turns = turns.map_err(|error| StartError(format!("A core can have no bell ({error}).")))?;
    let env = UringEnv::new(data_dir, turns.clone(), sockets.clone(), flights.clone());
    executor.run(async move {
        if let Some(flights) = flights {
            let taken = flights.clone();
            let watched = flights.bell().and_then(|bell| sockets.watch(bell, move || taken.take()));
            watched.map_err(|error| StartError(format!("A core's epoll takes no ring ({error}).")))?;
            glommio::spawn_local(turns.task(submit(flights))).detach();
        }
        glommio::spawn_local(turns.clone().tend(executor_turn, ring)).detach();
        if cures.heartbeat {
            glommio::spawn_local(beat()).detach();
        }
        if cures.device_probe {
            probe_device(&env.shared.data_dir).await?;
        }
        Ok(turns.task(main(env)).await)
    })
}

fn executor_error(error: &GlommioError<()>) -> StartError {
    let advice = if error.to_string().contains("memlock") {
        "raise it with `ulimit -l 1024` or LimitMEMLOCK= in the service"
    } else {
        "see whether the kernel and the container allow io_uring"
    };
    StartError(format!("A core's executor could not be made ({error}); {advice}."))
}

/// Submits reads and writes when other tasks have run, for ever.
async fn submit(flights: Rc<Flights<UringBuffer>>) {
    while flights.submit().await.is_err() {
        Timer::new(BEAT).await;
    }
}

/// A timer of next to nothing: glommio looks at its rings and timers only between two runs of its task queue.
async fn executor_turn() {
    Timer::new(Duration::from_micros(1)).await;
}

/// Wakes the executor for ever, and says when it came late.
async fn beat() {
    let mut rest = BEAT;
    loop {
        let before = Instant::now();
        first_of(rest).await;
        let late = before.elapsed().saturating_sub(rest);
        if late > STALL {
            tracing::warn!(
                late_ms = late.as_millis() as u64,
                "a core was busy with one piece of work for too long"
            );
        }
        // Asking sets the count back to zero.
        let tasks = glommio::executor().executor_stats().tasks_executed();
        rest = if tasks <= IDLE_TASKS { (rest * 2).clamp(IDLE_BEAT, IDLE_BEAT_MAX) } else { BEAT };
    }
}

/// Waits for `rest`, with spare timers behind it: the wake of a beat can be lost like any other, and then the next timer
/// makes the executor look again.
async fn first_of(rest: Duration) {
    let mut timers: [Timer; BEAT_TIMERS] = std::array::from_fn(|spare| Timer::new(rest * (1 << spare)));
    poll_fn(|context| {
        let mut rung = Poll::Pending;
        for timer in &mut timers {
            if Pin::new(timer).poll(context).is_ready() {
                rung = Poll::Ready(());
            }
        }
        rung
    })
    .await;
}

/// Makes glommio ask the device about polled I/O on a file that has something to read; the answer is kept per process.
async fn probe_device(data_dir: &Path) -> Result<(), StartError> {
    let path = data_dir.join(PROBE_FILE);
    let failed =
        |error: &dyn std::fmt::Display| StartError(format!("{} cannot be used: {error}.", path.display()));
    if std::fs::metadata(&path).map(|metadata| metadata.len()).unwrap_or(0) < u64::from(BLOCK_BYTES) {
        std::fs::write(&path, [b'.'; BLOCK_BYTES as usize]).map_err(|error| failed(&error))?;
    }
    let file = OpenOptions::new().read(true).dma_open(&path).await.map_err(|error| failed(&error))?;
    file.close().await.map_err(|error| failed(&error))
}

/// The world of one core.
#[derive(Clone)]
pub struct UringEnv {
    shared: Rc<Shared>,
}

struct Shared {
    data_dir: PathBuf,
    turns: Rc<Turns>,
    sockets: Rc<Sockets>,
    /// None where the kernel refuses another ring.
    flights: Option<Rc<Flights<UringBuffer>>>,
    began: Instant,
    random: RefCell<RandomPool>,
}

struct RandomPool {
    bytes: [u8; RANDOM_POOL_BYTES],
    used: usize,
}

impl UringEnv {
    /// The directory of a store, made if it is missing.
    fn store_directory(&self, number: u16) -> Result<UringDirectory, DiskError> {
        let path = self.shared.data_dir.join(store_name(number));
        let made = match std::fs::create_dir(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(error),
            Ok(()) => std::fs::File::open(&self.shared.data_dir).and_then(|directory| directory.sync_all()),
        };
        made.map_err(|error| failed(&store_name(number), "make directory", 0, 0, &error))?;
        let (turns, flights) = (self.shared.turns.clone(), self.shared.flights.clone());
        Ok(UringDirectory { path: path.into(), turns, flights })
    }

    /// The sockets of this core.
    pub fn sockets(&self) -> &Rc<Sockets> {
        &self.shared.sockets
    }

    fn new(
        data_dir: &Path,
        turns: Rc<Turns>,
        sockets: Rc<Sockets>,
        flights: Option<Rc<Flights<UringBuffer>>>,
    ) -> UringEnv {
        let random = RefCell::new(RandomPool { bytes: [0; RANDOM_POOL_BYTES], used: RANDOM_POOL_BYTES });
        let (data_dir, began) = (data_dir.to_owned(), Instant::now());
        UringEnv { shared: Rc::new(Shared { data_dir, turns, sockets, flights, began, random }) }
    }
}

impl Env for UringEnv {
    type Store = Store<UringDirectory>;

    fn stores(&self) -> Result<Vec<u16>, DiskError> {
        stores_of(&self.shared.data_dir)
    }

    async fn open_store(&self, number: u16, options: StoreOptions) -> Result<Self::Store, StorageError> {
        let StoreOptions { backend, cache_bytes, compression_level, compression_bytes_min, table_of } =
            options;
        let Some(placement) = backend.placement() else { return Ok(Store::Memory(MemoryEngine::new())) };
        let options = SlabOptions {
            placement: Some(placement),
            cache_bytes,
            compression_level,
            compression_bytes_min,
            table_of,
            ..SlabOptions::default()
        };
        Ok(Store::Disk(SlabEngine::open(self.store_directory(number)?, options).await?))
    }
    fn unix_ms(&self) -> u64 {
        unix_ms()
    }

    fn elapsed(&self) -> Duration {
        self.shared.began.elapsed()
    }

    async fn sleep(&self, duration: Duration) {
        Timer::new(duration).await;
    }

    async fn next_turn(&self) {
        self.shared.turns.next().await;
    }

    async fn heard<T>(&self, wait: impl Future<Output = T>) -> T {
        self.shared.turns.heard(wait).await
    }

    fn random(&self, bytes: &mut [u8]) {
        if bytes.len() > RANDOM_POOL_BYTES / 4 {
            return random_bytes(bytes);
        }
        let mut pool = self.shared.random.borrow_mut();
        if pool.used + bytes.len() > RANDOM_POOL_BYTES {
            random_bytes(&mut pool.bytes);
            pool.used = 0;
        }
        let start = pool.used;
        pool.used += bytes.len();
        let end = pool.used;
        bytes.copy_from_slice(&pool.bytes[start..end]);
        pool.bytes[start..end].fill(0);
    }

    fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        glommio::spawn_local(self.shared.turns.task(task)).detach();
    }
}

/// The stores in a data directory.
pub fn stores_of(data_dir: &Path) -> Result<Vec<u16>, DiskError> {
    let list_error = |error: io::Error| failed(&data_dir.to_string_lossy(), "list", 0, 0, &error);
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(data_dir).map_err(list_error)? {
        let name = entry.map_err(list_error)?.file_name();
        let number: Option<u16> =
            name.to_str().and_then(|name| name.strip_prefix("store-")).and_then(|text| text.parse().ok());
        numbers.extend(number);
    }
    numbers.sort_unstable();
    Ok(numbers)
}

pub(crate) fn store_name(number: u16) -> String {
    format!("store-{number}")
}

/// Wall clock for start-up code, which runs outside any core.
pub fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Fills `bytes` from the kernel.
pub fn random_bytes(bytes: &mut [u8]) {
    let mut filled = 0;
    while filled < bytes.len() {
        match rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()) {
            Ok(count) => filled += count,
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => panic!("the kernel gives no random bytes: {errno}"),
        }
    }
}

// ---------------------------------------------------------------- files

/// A store's directory.
#[derive(Clone)]
pub struct UringDirectory {
    path: Rc<Path>,
    turns: Rc<Turns>,
    flights: Option<Rc<Flights<UringBuffer>>>,
}

/// A file of a store, opened for direct I/O.
pub struct UringFile {
    file: DmaFile,
    name: Rc<str>,
    turns: Rc<Turns>,
    /// The same file, for the core's own ring.
    own: Option<OwnFile>,
}

struct OwnFile {
    flights: Rc<Flights<UringBuffer>>,
    path: PathBuf,
    read: Rc<OwnedFd>,
    /// Opened so that a write ends when it is durable; from the first such write on.
    durable: OnceCell<Rc<OwnedFd>>,
}

impl OwnFile {
    fn open(flights: &Rc<Flights<UringBuffer>>, path: PathBuf) -> io::Result<OwnFile> {
        let read = Rc::new(open_direct(&path, OFlags::RDONLY)?);
        Ok(OwnFile { flights: flights.clone(), path, read, durable: OnceCell::new() })
    }

    fn durable(&self) -> io::Result<&Rc<OwnedFd>> {
        if let Some(durable) = self.durable.get() {
            return Ok(durable);
        }
        let opened = Rc::new(open_direct(&self.path, OFlags::RDWR | OFlags::DSYNC)?);
        Ok(self.durable.get_or_init(|| opened))
    }
}

/// The name goes at once, the blocks in parts: others wait for the file system's journal while a part is freed.
fn remove_in_parts(path: &Path) -> io::Result<()> {
    let file = std::fs::File::options().write(true).open(path);
    std::fs::remove_file(path)?;
    let Ok(file) = file else { return Ok(()) };
    // Where it has another name, the blocks are that one's.
    let of_nobody = file.metadata().ok().filter(|now| now.nlink() == 0);
    let mut bytes = of_nobody.map_or(0, |now| now.len());
    while bytes > 0 {
        bytes = bytes.saturating_sub(FREED_BYTES);
        // Where that fails the kernel frees what is left when the file is closed.
        if file.set_len(bytes).is_err() {
            break;
        }
        std::thread::sleep(FREED_PAUSE);
    }
    Ok(())
}

fn open_direct(path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::DIRECT | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, rustix::fs::Mode::empty())?)
}

/// Memory that direct I/O takes.
pub struct UringBuffer(DmaBuffer);

/// What a read gave.
#[derive(Clone)]
pub enum UringPage {
    Executor(ReadResult),
    /// So many bytes of the buffer.
    Ring(Rc<UringBuffer>, usize),
}

impl Deref for UringPage {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match self {
            UringPage::Executor(page) => page,
            UringPage::Ring(buffer, bytes) => &buffer.0.as_bytes()[..*bytes],
        }
    }
}

// SAFETY: a buffer points to memory that is its own until it is dropped.
unsafe impl Target for UringBuffer {
    fn bytes(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

impl AsRef<[u8]> for UringBuffer {
    fn as_ref(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl AsMut<[u8]> for UringBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        self.0.as_bytes_mut()
    }
}

impl Directory for UringDirectory {
    type File = UringFile;

    async fn open(&self, name: &str, mode: OpenMode) -> Result<UringFile, DiskError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true);
        match mode {
            OpenMode::Existing => {}
            OpenMode::Create => {
                options.create(true);
            }
        }
        let path = self.path.join(name);
        let file = self.turns.of_executor(options.dma_open(&path)).await;
        let file = file.map_err(|error| failed(name, "open", 0, 0, &error.into()))?;
        let own = self.flights.as_ref().map(|flights| OwnFile::open(flights, path)).transpose();
        let own = own.map_err(|error| failed(name, "open", 0, 0, &error))?;
        Ok(UringFile { file, name: name.into(), turns: self.turns.clone(), own })
    }

    async fn list(&self) -> Result<Vec<String>, DiskError> {
        let list_error = |error: io::Error| failed(&self.path.to_string_lossy(), "list", 0, 0, &error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(list_error)? {
            let entry = entry.map_err(list_error)?;
            if entry.file_type().map_err(list_error)?.is_file() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        // Not done here: it waits while the file system's journal does, 80 ms behind a large file that is being removed.
        let (old, new) = (self.path.join(from), self.path.join(to));
        let renamed = self.turns.blocking(move || std::fs::rename(old, new)).await;
        renamed.map_err(|error| failed(from, "rename", 0, 0, &error))
    }

    async fn remove(&self, name: &str) -> Result<(), DiskError> {
        let path = self.path.join(name);
        let removed = self.turns.blocking(move || remove_in_parts(&path)).await;
        removed.map_err(|error| failed(name, "remove", 0, 0, &error))
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let sync = async {
            let directory = glommio::io::Directory::open(&*self.path).await?;
            let synced = directory.sync().await;
            synced.and(directory.close().await)
        };
        let name = || self.path.to_string_lossy();
        let wrong = |error: GlommioError<()>| failed(&name(), "sync", 0, 0, &error.into());
        self.turns.of_executor(sync).await.map_err(wrong)
    }
}

impl UringFile {
    fn failed(&self, operation: &'static str, offset: u64, bytes: u64, error: GlommioError<()>) -> DiskError {
        failed(&self.name, operation, offset, bytes, &error.into())
    }

    /// Whether all of a write of `bytes` was written.
    fn written(&self, offset: u64, bytes: usize, written: io::Result<usize>) -> Result<(), DiskError> {
        match written {
            Ok(written) if written == bytes => Ok(()),
            // The kernel stops short only when the device is full.
            Ok(_) => Err(DiskError::Full { file: self.name.to_string() }),
            Err(error) => Err(failed(&self.name, "write", offset, bytes as u64, &error)),
        }
    }
}

impl Disk for UringFile {
    type Page = UringPage;
    type Buffer = UringBuffer;

    fn buffer(&self, bytes: u32) -> UringBuffer {
        let mut buffer = self.file.alloc_dma_buffer(bytes as usize);
        buffer.as_bytes_mut().fill(0);
        UringBuffer(buffer)
    }

    async fn read(&self, offset: u64, bytes: u32) -> Result<UringPage, DiskError> {
        if let Some(OwnFile { flights, read, .. }) = &self.own {
            let buffer = UringBuffer(self.file.alloc_dma_buffer(bytes as usize));
            if let Some((buffer, bytes)) = flights.read(read, offset, buffer).await {
                return Ok(UringPage::Ring(Rc::new(buffer), bytes));
            }
        }
        let read = self.file.read_at_aligned(offset, bytes as usize);
        let page = self.turns.of_executor(read).await;
        page.map(UringPage::Executor).map_err(|error| self.failed("read", offset, u64::from(bytes), error))
    }

    async fn write(&self, offset: u64, source: UringBuffer) -> Result<(), DiskError> {
        let bytes = source.0.len();
        let written = self.turns.of_executor(self.file.write_at(source.0, offset)).await;
        self.written(offset, bytes, written.map_err(io::Error::from))
    }

    /// One request (`O_DSYNC`) in place of two: 188 us for 40 KiB where a write and an fdatasync took 426 us.
    async fn write_durably(&self, offset: u64, mut source: UringBuffer) -> Result<(), DiskError> {
        let bytes = source.0.len();
        if let Some(own) = &self.own {
            let file = own.durable().map_err(|error| failed(&self.name, "open", 0, 0, &error))?;
            source = match own.flights.write(file, offset, source).await {
                Ok(written) => return self.written(offset, bytes, written),
                Err(source) => source,
            };
        }
        self.write(offset, source).await?;
        self.sync().await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.turns.of_executor(self.file.fdatasync()).await.map_err(|error| self.failed("sync", 0, 0, error))
    }

    async fn preallocate(&self, bytes: u64) -> Result<(), DiskError> {
        let mut end = self.length().await?.next_multiple_of(u64::from(BLOCK_BYTES));
        if end >= bytes {
            return Ok(());
        }
        let reserved = self.turns.of_executor(self.file.pre_allocate(bytes, false)).await;
        reserved.map_err(|error| self.failed("preallocate", 0, bytes, error))?;
        while end < bytes {
            let run = (bytes - end).next_multiple_of(u64::from(BLOCK_BYTES)).min(u64::from(ZERO_RUN_BYTES));
            self.write(end, self.buffer(u32::try_from(run).expect("a run is small"))).await?;
            end += run;
        }
        Ok(())
    }

    async fn punch(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        self.turns
            .of_executor(self.file.deallocate(offset, bytes))
            .await
            .map_err(|error| self.failed("punch", offset, bytes, error))
    }

    async fn truncate(&self, bytes: u64) -> Result<(), DiskError> {
        // The executor would hand this to its thread for blocking calls, which can lose its caller.
        let path = self.file.path().map(|path| path.to_path_buf());
        let cut = move || {
            let path = path.ok_or(io::ErrorKind::NotFound)?;
            std::fs::OpenOptions::new().write(true).open(path)?.set_len(bytes)
        };
        let cut = self.turns.blocking(cut).await;
        cut.map_err(|error| failed(&self.name, "truncate", 0, bytes, &error))
    }

    async fn length(&self) -> Result<u64, DiskError> {
        self.turns
            .of_executor(self.file.file_size())
            .await
            .map_err(|error| self.failed("length", 0, 0, error))
    }
}

fn failed(file: &str, operation: &'static str, offset: u64, bytes: u64, error: &io::Error) -> DiskError {
    let file = file.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound { file },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full { file },
        _ => DiskError::Io { file, operation, offset, bytes, reason: error.to_string() },
    }
}

// ---------------------------------------------------------------- sockets

/// Waits until an epoll has something to tell. glommio polls what it takes for a socket: it begins to when it is given one, and the first
/// read after that ends, here with an error, since there is nothing to receive.
async fn ring(epoll: BorrowedFd<'_>) {
    let Ok(copy) = epoll.try_clone_to_owned() else {
        // Descriptors ran out: look again in a while.
        Timer::new(BEAT).await;
        return;
    };
    // SAFETY: the descriptor is a copy that we own and give up here; the new owner closes it.
    let mut bell = unsafe { TcpStream::from_raw_fd(copy.into_raw_fd()) };
    let _ = poll_fn(|context| Pin::new(&mut bell).poll_read(context, &mut [0])).await;
}

// ---------------------------------------------------------------- probes

/// Whether the kernel lets this process use io_uring.
///
/// # Errors
/// What is wrong and what to do.
pub fn probe_uring() -> Result<(), StartError> {
    let Err(error) = io_uring::IoUring::new(2) else { return Ok(()) };
    let advice = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::PERM | rustix::io::Errno::ACCESS) => {
            "the container's seccomp profile or kernel.io_uring_disabled forbids it: allow io_uring_setup, io_uring_enter \
             and io_uring_register (Docker: --security-opt seccomp=unconfined or a profile with them)"
        }
        Some(rustix::io::Errno::NOSYS) => "this kernel has none: Linux 5.10 or newer is needed",
        Some(rustix::io::Errno::NOMEM) => "locked memory ran out: raise `ulimit -l` or LimitMEMLOCK=",
        Some(_) | None => "the kernel refuses it",
    };
    Err(StartError(format!("PhotonDB needs io_uring, but {advice} ({error}).")))
}

/// Whether files in `data_dir` can be read and written past the page cache.
///
/// # Errors
/// What is wrong and what to do.
pub fn probe_direct_io(data_dir: &Path) -> Result<(), StartError> {
    let refuse = |what: &str| {
        let place = data_dir.display();
        StartError(format!(
            "The file system of {place} {what}: choose a --data-dir on a disk (ext4, XFS, btrfs)."
        ))
    };
    /// `f_type` of a tmpfs, which keeps files in memory only.
    const TMPFS: i64 = 0x0102_1994;
    let file_system = rustix::fs::statfs(data_dir)
        .map_err(|errno| StartError(format!("{} cannot be used: {errno}.", data_dir.display())))?;
    if file_system.f_type as i64 == TMPFS {
        return Err(refuse("is tmpfs, which has no direct I/O and forgets everything at a restart"));
    }
    let path = data_dir.join(PROBE_FILE);
    if std::fs::metadata(&path).map(|metadata| metadata.len()).unwrap_or(0) < u64::from(BLOCK_BYTES) {
        std::fs::write(&path, [b'.'; BLOCK_BYTES as usize])
            .map_err(|error| StartError(format!("{} cannot be written: {error}.", path.display())))?;
    }
    match rustix::fs::open(
        &path,
        OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC,
        rustix::fs::Mode::empty(),
    ) {
        Ok(_) => Ok(()),
        Err(rustix::io::Errno::INVAL) => Err(refuse("has no direct I/O (O_DIRECT)")),
        Err(errno) => Err(StartError(format!("{} cannot be opened: {errno}.", path.display()))),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn scratch_dir(name: &str) -> PathBuf {
        // The target directory is on a disk; the temporary one may be on tmpfs.
        let executable = std::env::current_exe().expect("tests are files");
        let place = executable
            .parent()
            .expect("a file is in a directory")
            .join(format!("{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&place);
        std::fs::create_dir_all(&place).expect("the target directory is writable");
        place
    }

    /// What an executor makes of the work, in a directory of its own.
    pub(crate) fn ran<T, F: Future<Output = T>>(name: &str, work: impl FnOnce(UringEnv) -> F) -> T {
        let place = scratch_dir(name);
        let ran = run(None, &place, Cures::default(), work);
        let _ = std::fs::remove_dir_all(&place);
        ran.expect("an executor can be made")
    }

    fn directory_of(env: &UringEnv) -> UringDirectory {
        let Shared { data_dir, turns, flights, .. } = &*env.shared;
        UringDirectory { path: data_dir.as_path().into(), turns: turns.clone(), flights: flights.clone() }
    }

    /// A preempt timer that fires before a task has run now and then, but hardly ever several times in a row.
    const SHORT: Duration = Duration::from_micros(30);

    /// Whether an executor that is preempted all the time gets to the end of its work, once it has begun: the very first turn has no
    /// heartbeat yet, and what is lost there is tried again.
    fn ends(cures: Cures, limit: Duration) -> bool {
        for _ in 0..10 {
            let place = scratch_dir(if cures.heartbeat { "beating" } else { "silent" });
            let (begin, begun) = flume::bounded(1);
            let (done, ended) = flume::bounded(1);
            // Without the cure this thread may never end; it goes with the process.
            std::thread::spawn(move || {
                let work = |_| async move {
                    let _ = begin.send(());
                    for _ in 0..5_000 {
                        Timer::new(Duration::from_micros(10)).await;
                    }
                };
                let ran = run(None, &place, cures, work);
                let _ = std::fs::remove_dir_all(&place);
                let _ = done.send(ran.is_ok());
            });
            if begun.recv_timeout(Duration::from_secs(2)).is_ok() {
                return ended.recv_timeout(limit) == Ok(true);
            }
        }
        panic!("no executor begins its work")
    }

    #[test]
    fn an_executor_that_loses_a_wake_goes_on_with_the_next_beat() {
        let cured = Cures { preempt_timer: SHORT, ..Cures::default() };
        assert!((0..3).all(|_| ends(cured, Duration::from_secs(10))), "with the heartbeat it goes on");
        let ill = Cures { heartbeat: false, ..cured };
        let hangs = (0..50).any(|_| !ends(ill, Duration::from_secs(3)));
        assert!(
            hangs,
            "without it, it sleeps beside runnable tasks: if that is cured upstream, drop the heartbeat"
        );
    }

    /// Reads as where the kernel refuses us a ring of our own. The answer about polled I/O is kept for the life of a process, so
    /// this runs in a process of its own.
    fn reads_after_an_empty_file(cures: Cures) -> Result<(), DiskError> {
        let place = scratch_dir(if cures.device_probe { "probed" } else { "unprobed" });
        let work = |env: UringEnv| async move {
            let directory = UringDirectory { flights: None, ..directory_of(&env) };
            let file = directory.open("empty", OpenMode::Create).await?;
            file.preallocate(64 << 10).await?;
            let page = file.read(0, BLOCK_BYTES).await?;
            assert!(page.iter().all(|byte| *byte == 0) && page.len() == BLOCK_BYTES as usize);
            Ok(())
        };
        let ran = run(None, &place, cures, work);
        let _ = std::fs::remove_dir_all(&place);
        ran.expect("an executor can be made")
    }

    const CHILD: &str = "PHOTONDB_TEST_CHILD";

    #[track_caller]
    fn check_in_child(test: &str, role: &str, want_success: bool) {
        let executable = std::env::current_exe().expect("tests are files");
        let output = std::process::Command::new(executable)
            .args(["--exact", test, "--nocapture"])
            .env(CHILD, role)
            .output()
            .expect("the test can be started again");
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), want_success, "{role}: {text}");
    }

    #[test]
    fn a_device_whose_first_file_is_empty_can_be_read() {
        let cured = Cures::default();
        match std::env::var(CHILD).as_deref() {
            Ok("cured") => reads_after_an_empty_file(cured).expect("with the probe it reads"),
            Ok(_) => {
                let ill = Cures { device_probe: false, ..cured };
                reads_after_an_empty_file(ill).expect("without the probe the first read fails");
            }
            Err(_) => {
                let test = "uring::tests::a_device_whose_first_file_is_empty_can_be_read";
                check_in_child(test, "cured", true);
                check_in_child(test, "ill", false);
            }
        }
    }

    #[test]
    fn what_peers_send_comes_whole_and_in_order_with_its_end() {
        use std::io::{Read, Write};

        use crate::env::Stream;
        use crate::sockets::BoundListener;

        const PEERS: usize = 40;
        let bound = BoundListener::bind(([127, 0, 0, 1], 0).into()).expect("a free port");
        let address = bound.address().expect("it listens");
        let peer = move |number: usize| {
            let mut peer = std::net::TcpStream::connect(address).expect("it listens");
            let sent: Vec<u8> = (0..number * 20_000 + 1).map(|place| (place * 7 + number) as u8).collect();
            peer.write_all(&sent).expect("it reads");
            // The end comes right behind the last bytes.
            peer.shutdown(std::net::Shutdown::Write).expect("it is open");
            let mut back = Vec::new();
            peer.read_to_end(&mut back).expect("it answers");
            back == sent
        };
        let work = |env: UringEnv| async move {
            let listener = bound.into_listener(env.sockets()).expect("a core takes it");
            let peers: Vec<_> = (0..PEERS).map(|number| std::thread::spawn(move || peer(number))).collect();
            let mut echoes = Vec::new();
            for _ in 0..PEERS {
                let (mut socket, from) = listener.accept().await.expect("they connect");
                assert!(from.is_some());
                echoes.push(glommio::spawn_local(async move {
                    let (mut held, mut buffer) = (Vec::new(), [0; 4096]);
                    loop {
                        match poll_fn(|context| socket.poll_read(context, &mut buffer)).await.expect("open") {
                            0 => break,
                            count => held.extend_from_slice(&buffer[..count]),
                        }
                    }
                    let mut rest = held.as_slice();
                    while !rest.is_empty() {
                        let taken = poll_fn(|context| socket.poll_write(context, rest)).await.expect("open");
                        rest = &rest[taken..];
                    }
                }));
            }
            for echo in echoes {
                echo.await;
            }
            peers.into_iter().all(|peer| peer.join().expect("a peer does not fail"))
        };
        assert!(ran("sockets", work), "every peer had back what it sent");
    }

    #[test]
    fn reads_beside_each_other_give_what_was_written_and_some_are_dropped() {
        const BLOCKS: u64 = 300;
        let work = |env: UringEnv| async move {
            let directory = directory_of(&env);
            let file = Rc::new(directory.open("a", OpenMode::Create).await?);
            file.preallocate(BLOCKS * u64::from(BLOCK_BYTES)).await?;
            for block in 0..BLOCKS {
                let mut buffer = file.buffer(BLOCK_BYTES);
                buffer.as_mut().fill(block as u8);
                file.write(block * u64::from(BLOCK_BYTES), buffer).await?;
            }
            for round in 0..20 {
                let readers: Vec<_> = (0..BLOCKS)
                    .map(|block| {
                        let file = file.clone();
                        glommio::spawn_local(async move {
                            let page = file.read(block * u64::from(BLOCK_BYTES), 2 * BLOCK_BYTES).await?;
                            let length = if block + 1 == BLOCKS { 1 } else { 2 } * BLOCK_BYTES as usize;
                            assert!(page.len() == length && page[BLOCK_BYTES as usize - 1] == block as u8);
                            Ok::<_, DiskError>(page)
                        })
                    })
                    .collect();
                for (number, reader) in readers.into_iter().enumerate() {
                    if number % 7 == round % 7 {
                        drop(reader.cancel().await);
                    } else {
                        reader.await?;
                    }
                }
            }
            Ok(())
        };
        let read: Result<(), DiskError> = ran("reads", work);
        read.expect("no read fails");
    }

    #[test]
    fn files_hold_what_was_written_and_say_when_they_are_missing() {
        let work = |env: UringEnv| async move {
            let directory = directory_of(&env);
            let missing = directory.open("nothing", OpenMode::Existing).await.err();
            assert_eq!(missing, Some(DiskError::NotFound { file: "nothing".into() }));
            let file = directory.open("a", OpenMode::Create).await?;
            file.preallocate(3 * u64::from(BLOCK_BYTES)).await?;
            let mut buffer = file.buffer(BLOCK_BYTES);
            assert!(buffer.as_ref().iter().all(|byte| *byte == 0), "buffers are zeroed");
            buffer.as_mut().fill(7);
            file.write(u64::from(BLOCK_BYTES), buffer).await?;
            file.sync().await?;
            assert_eq!(file.length().await?, 3 * u64::from(BLOCK_BYTES));
            let page = file.read(u64::from(BLOCK_BYTES), 4 * BLOCK_BYTES).await?;
            assert_eq!(page.len(), 2 * BLOCK_BYTES as usize, "a read past the end is short");
            assert_eq!((page[0], page[BLOCK_BYTES as usize]), (7, 0));
            file.punch(u64::from(BLOCK_BYTES), u64::from(BLOCK_BYTES)).await?;
            assert_eq!(file.read(u64::from(BLOCK_BYTES), BLOCK_BYTES).await?[0], 0);
            file.truncate(u64::from(BLOCK_BYTES)).await?;
            assert_eq!(file.length().await?, u64::from(BLOCK_BYTES));
            directory.rename("a", "b").await?;
            directory.sync().await?;
            assert_eq!(directory.list().await?, ["PROBE", "b"]);
            // Freed in several parts, and missing after that.
            let file = directory.open("b", OpenMode::Existing).await?;
            file.preallocate(2 * FREED_BYTES + u64::from(BLOCK_BYTES)).await?;
            let held = std::fs::File::open(directory.path.join("b")).expect("it is there");
            directory.remove("b").await?;
            let left = held.metadata().expect("it is open").len();
            assert_eq!(left, 0, "its blocks are free though somebody has it open");
            drop(held);
            // What has another name keeps its blocks.
            std::fs::write(directory.path.join("c"), b"kept").expect("a file");
            std::fs::hard_link(directory.path.join("c"), directory.path.join("d")).expect("a second name");
            directory.remove("c").await?;
            assert_eq!(std::fs::read(directory.path.join("d")).expect("it is there"), b"kept");
            let again = directory.remove("b").await.err();
            assert_eq!(again, Some(DiskError::NotFound { file: "b".into() }));
            let renamed = directory.rename("b", "a").await;
            assert_eq!(renamed, Err(DiskError::NotFound { file: "b".into() }));
            directory.sync().await
        };
        ran("files", work).expect("no call fails");
    }
}
