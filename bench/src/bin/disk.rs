//! One store on the real disk, much larger than its cache: each part of its life is a command, so that each can be measured
//! alone. The store is driven as a library, over the server's own executor and files, pinned to CPU 0.
//!
//! `disk load`, then any of the others. Where a figure is read against the disk, `fio` runs beside it on the store's own file.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::rc::Rc;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};
use hdrhistogram::Histogram;
use photondb_bench::fio::{self, DeviceReads, Pattern};
use photondb_bench::server::emptied;
use photondb_bench::work::{Random, document};
use photondb_runtime::Cures;
use photondb_runtime::behind::{Classes, behind};
use photondb_runtime::env::{Env, StoreOptions};
use photondb_runtime::uring::{self, UringEnv};
use photondb_storage::backend::Backend;
use photondb_storage::engine::{
    Cached, CommitInfo, Direction, Edit, Range, StorageEngine, Sweeping, TreeId, TreeName,
};

/// As in the server.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Measure a store on the real disk.
#[derive(Parser)]
struct Arguments {
    /// A folder on the disk to measure
    #[arg(long, default_value = "target/bench-data")]
    data: PathBuf,
    #[arg(long, default_value_t = 256)]
    cache_mb: u64,
    /// Documents, of 1.1 KB each
    #[arg(long, default_value_t = 4_000_000)]
    documents: u64,
    /// The disk as /sys/block names it
    #[arg(long, default_value = "vda")]
    device: String,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[command(subcommand)]
    part: Part,
}

#[derive(Subcommand)]
enum Part {
    /// Empty the folder and load the documents in random order, durably
    Load,
    /// Read documents uniformly, with so many reads in flight
    Reads {
        #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 32])]
        depths: Vec<usize>,
    },
    /// Go through everything, in the order of keys and in that of the disk
    Scan,
    /// The hit rate of a hot set, alone and beside a scan
    Hot,
    /// Latency of hard writes at half load, without and during checkpoints
    Checkpoints,
    /// Kill a process that writes as fast as it can, and open its store
    Recovery,
    /// What the killed process does
    #[command(hide = true)]
    Write,
    /// Delete half, load that again, delete everything, load everything
    Refill,
}

/// Edits of one durable batch of a load.
const BATCH_EDITS: u64 = 100;
/// Batches of a load in flight.
const LOADERS: u64 = 8;
/// As a server scans: rows and bytes of one call.
const SCAN_ROWS: usize = 512;
const SCAN_BYTES: usize = 128 << 10;
/// As a server gives others their turn.
const TURN: Duration = Duration::from_micros(500);
/// A slow scan is measured by its beginning.
const SCAN_MAX: Duration = Duration::from_secs(100);
const WRITERS: u64 = 64;
/// How long the process that is killed has written.
const KILLED_AFTER: Duration = Duration::from_secs(20);

type Engine = <UringEnv as Env>::Store;

/// An open store with its one tree.
struct Site {
    env: UringEnv,
    engine: Rc<Engine>,
    tree: TreeId,
    documents: u64,
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    match &arguments.part {
        Part::Load => load(&arguments),
        Part::Reads { depths } => reads(&arguments, depths),
        Part::Scan => on_store(&arguments, async |site| scan(&arguments, &site).await)?,
        Part::Hot => on_store(&arguments, async |site| hot(&arguments, &site).await)?,
        Part::Checkpoints => on_store(&arguments, async |site| checkpoints(&arguments, &site).await)?,
        Part::Recovery => recovery(&arguments),
        Part::Write => on_store(&arguments, async |site| write_for_ever(&site).await)?,
        Part::Refill => on_store(&arguments, async |site| refill(&arguments, &site).await)?,
    }
}

// ---------------------------------------------------------------- the store

/// Opens the store, does something with it and closes it.
fn on_store<T>(arguments: &Arguments, work: impl AsyncFnOnce(Rc<Site>) -> T) -> io::Result<T> {
    let documents = arguments.documents;
    let options = StoreOptions {
        backend: Backend::Slab,
        cache_bytes: arguments.cache_mb << 20,
        compression_level: 1,
        compression_bytes_min: 129,
        table_of: |name| Some(&name.0),
    };
    let ran = uring::run(Some(0), &arguments.data, Cures::default(), |env| async move {
        let began = Instant::now();
        let engine = Rc::new(env.open_store(0, options).await.expect("the store opens"));
        println!("opened in {:.2} s", began.elapsed().as_secs_f64());
        // As in the server.
        let classes = Rc::<Classes>::default();
        let (foreground, background, training) = (engine.clone(), engine.clone(), engine.clone());
        env.spawn(async move { foreground.foreground().await });
        let background = async move { background.background().await.expect("the background works") };
        env.spawn(behind(&env, &classes, background));
        env.spawn(async move {
            while let Some(samples) = training.training().await {
                let (sender, trained) = flume::bounded(1);
                std::thread::spawn(move || sender.send(samples.train()));
                let trained = trained.recv_async().await.expect("it is trained");
                training.set_dictionary(trained).await.expect("a dictionary is kept");
            }
        });
        let tree = engine.create_tree(&TreeName((*b"bench").into())).await.expect("a tree");
        let site = Rc::new(Site { env, engine: engine.clone(), tree, documents });
        let done = work(site).await;
        let began = Instant::now();
        engine.close().await.expect("the store closes");
        println!("closed in {:.2} s", began.elapsed().as_secs_f64());
        done
    });
    ran.map_err(|error| io::Error::other(error.to_string()))
}

/// A key as generated ids are: sixteen bytes, neighbours far apart.
fn key(number: u64) -> Vec<u8> {
    let (mut high, mut low) = (Random(number ^ 0x5eed), Random(number));
    let number = (u128::from(high.below(u64::MAX)) << 64) | u128::from(low.below(u64::MAX));
    number.to_be_bytes().to_vec()
}

impl Site {
    async fn commit(&self, edits: &[Edit]) {
        let lsn = self.engine.commit(CommitInfo::default(), edits).await.expect("a write");
        self.engine.flushed(lsn).await.expect("a flush");
    }

    fn put(&self, number: u64) -> Edit {
        Edit::Put { tree: self.tree, key: key(number), value: document(number).into_bytes() }
    }

    /// Reads a document; whether it was in the cache.
    async fn read(&self, number: u64) -> bool {
        let key = key(number);
        let (value, was_cached) = match self.engine.cached(self.tree, &key).expect("it reads") {
            Cached::Hit(value) => (value, true),
            Cached::Miss => (self.engine.get(self.tree, &key).await.expect("it reads"), false),
        };
        assert!(value.is_some(), "every document is there");
        was_cached
    }

    /// Applies an edit for each wanted number, in durable batches, several in flight; edits per second.
    async fn edit_all(self: &Rc<Self>, edit: fn(&Site, u64) -> Edit, is_wanted: fn(u64) -> bool) -> f64 {
        let began = Instant::now();
        let (next, edits) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        self.side_by_side(LOADERS, |site, _| {
            let (next, edits) = (next.clone(), edits.clone());
            async move {
                while next.get() < site.documents {
                    let first = next.replace(next.get() + BATCH_EDITS);
                    let end = (first + BATCH_EDITS).min(site.documents);
                    let batch: Vec<Edit> = (first..end)
                        .filter(|number| is_wanted(*number))
                        .map(|number| edit(&site, number))
                        .collect();
                    site.commit(&batch).await;
                    edits.set(edits.get() + batch.len());
                }
            }
        })
        .await;
        edits.get() as f64 / began.elapsed().as_secs_f64()
    }

    /// Runs tasks and waits for all of them.
    async fn side_by_side<F: Future<Output = ()> + 'static>(
        self: &Rc<Self>,
        tasks: u64,
        task: impl Fn(Rc<Site>, u64) -> F,
    ) {
        let left = Rc::new(Cell::new(tasks));
        for number in 0..tasks {
            let (left, task) = (left.clone(), task(self.clone(), number));
            self.env.spawn(async move {
                task.await;
                left.set(left.get() - 1);
            });
        }
        while left.get() > 0 {
            self.env.sleep(Duration::from_millis(1)).await;
        }
    }

    fn space(&self, data: &Path) -> String {
        let live = self.engine.stats().live_bytes;
        let on_disk = disk_bytes(data);
        format!(
            "{} MB on disk, {:.2} of {} MB of live slots",
            on_disk >> 20,
            on_disk as f64 / live.max(1) as f64,
            live >> 20
        )
    }
}

/// Bytes that the files below a folder have on disk.
fn disk_bytes(folder: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

fn slabs(arguments: &Arguments) -> PathBuf {
    arguments.data.join("store-0/slabs")
}

// ---------------------------------------------------------------- the parts

fn load(arguments: &Arguments) -> io::Result<()> {
    emptied(&arguments.data)?;
    on_store(arguments, async |site| {
        let rate = site.edit_all(Site::put, |_| true).await;
        println!("load, durable batches of {BATCH_EDITS}: {rate:.0} documents/s");
        println!("{}", site.space(&arguments.data));
    })
}

fn reads(arguments: &Arguments, depths: &[usize]) -> io::Result<()> {
    for &depth in depths {
        let before = fio::rate(&slabs(arguments), Pattern::RandomRead, depth, arguments.seconds / 2)?;
        let ours = on_store(arguments, async |site| reads_at(arguments, &site, depth as u64).await)??;
        let after = fio::rate(&slabs(arguments), Pattern::RandomRead, depth, arguments.seconds / 2)?;
        let fio = (before.reads_per_second + after.reads_per_second) / 2.0;
        println!(
            "{depth} in flight: {:.0} documents/s, {:.0}% from the cache; {:.0} device reads/s, {:.2} and {:.0} bytes per miss; \
             fio {fio:.0} reads/s: {:.2} by device reads, {:.2} by documents",
            ours.documents_per_second,
            ours.hit_rate * 100.0,
            ours.device_reads_per_second,
            ours.reads_per_miss,
            ours.bytes_per_miss,
            ours.device_reads_per_second / fio,
            ours.documents_per_second / fio,
        );
    }
    Ok(())
}

struct ReadFigures {
    documents_per_second: f64,
    hit_rate: f64,
    device_reads_per_second: f64,
    reads_per_miss: f64,
    bytes_per_miss: f64,
}

async fn reads_at(arguments: &Arguments, site: &Rc<Site>, depth: u64) -> io::Result<ReadFigures> {
    // Until the cache is full of what uniform reads leave in it.
    let span = Duration::from_secs(arguments.seconds);
    read_uniformly(site, depth, site.documents, span).await;
    let device = DeviceReads::of(&arguments.device)?;
    let Reads { reads, hits } = read_uniformly(site, depth, site.documents, span).await;
    let device = DeviceReads::of(&arguments.device)?.since(device);
    let misses = (reads - hits) as f64;
    Ok(ReadFigures {
        documents_per_second: reads as f64 / span.as_secs_f64(),
        hit_rate: hits as f64 / reads as f64,
        device_reads_per_second: device.reads as f64 / span.as_secs_f64(),
        reads_per_miss: device.reads as f64 / misses,
        bytes_per_miss: device.bytes as f64 / misses,
    })
}

#[derive(Clone, Copy, Default)]
struct Reads {
    reads: u64,
    /// Of them from the cache.
    hits: u64,
}

/// Reads any of the first documents for a while.
async fn read_uniformly(site: &Rc<Site>, depth: u64, documents: u64, span: Duration) -> Reads {
    let (end, count) = (Instant::now() + span, Rc::new(Cell::new(Reads::default())));
    site.side_by_side(depth, |site, number| {
        let count = count.clone();
        async move {
            let mut random = Random(number ^ u64::from(site.env.elapsed().subsec_nanos()));
            while Instant::now() < end {
                let was_cached = site.read(random.below(documents)).await;
                let Reads { reads, hits } = count.get();
                count.set(Reads { reads: reads + 1, hits: hits + u64::from(was_cached) });
                if reads.is_multiple_of(64) {
                    // What the cache answers never waits.
                    site.env.next_turn().await;
                }
            }
        }
    })
    .await;
    count.get()
}

async fn scan(arguments: &Arguments, site: &Rc<Site>) -> io::Result<()> {
    for (name, by_disk) in [("in the order of the disk", true), ("in the order of keys", false)] {
        let fio = fio::rate(&slabs(arguments), Pattern::SequentialRead, 4, arguments.seconds / 2)?;
        let (device, began) = (DeviceReads::of(&arguments.device)?, Instant::now());
        let (rows, bytes) = match by_disk {
            true => sweep_all(site, || began.elapsed() < SCAN_MAX).await,
            false => scan_all(site, || began.elapsed() < SCAN_MAX).await,
        };
        let seconds = began.elapsed().as_secs_f64();
        let device = DeviceReads::of(&arguments.device)?.since(device);
        let live = site.engine.stats().live_bytes as f64 * rows as f64 / site.documents as f64;
        println!(
            "{rows} documents {name}: {:.0} documents/s, {:.0} MB/s of documents, {:.0} MB/s of slots; {:.0} device reads/s of {:.0} \
             bytes, {:.2} bytes read per byte of slots; fio reads {:.0} MB/s in sequence: {:.2}",
            rows as f64 / seconds,
            bytes as f64 / seconds / 1e6,
            live / seconds / 1e6,
            device.reads as f64 / seconds,
            device.bytes as f64 / device.reads.max(1) as f64,
            device.bytes as f64 / live,
            fio.bytes_per_second / 1e6,
            live / seconds / fio.bytes_per_second,
        );
    }
    Ok(())
}

/// Sweeps everything, as long as it is wanted; documents and their bytes.
async fn sweep_all(site: &Rc<Site>, is_wanted: impl Fn() -> bool) -> (u64, u64) {
    let mut range = Range { start: Bound::Unbounded, end: Bound::Unbounded };
    let (mut rows, mut bytes, mut turn) = (0, 0, Instant::now());
    loop {
        let mut see = async |values: &[&[u8]]| {
            rows += values.len() as u64;
            bytes += values.iter().map(|value| value.len() as u64).sum::<u64>();
            if turn.elapsed() > TURN {
                site.env.next_turn().await;
                turn = Instant::now();
            }
            Sweeping::GoOn
        };
        let last = site.engine.sweep(site.tree, &range, usize::MAX, &mut see).await.expect("it reads");
        match last {
            Some(last) if is_wanted() => range.start = Bound::Excluded(last),
            Some(_) | None => return (rows, bytes),
        }
    }
}

/// Scans everything, as long as it is wanted; documents and their bytes.
async fn scan_all(site: &Rc<Site>, is_wanted: impl Fn() -> bool) -> (u64, u64) {
    let mut range = Range { start: Bound::Unbounded, end: Bound::Unbounded };
    let (mut rows, mut bytes) = (0, 0);
    loop {
        let run = site.engine.range(site.tree, &range, Direction::Forward, SCAN_ROWS, SCAN_BYTES).await;
        let run = run.expect("it reads");
        rows += run.entries.len() as u64;
        bytes += run.entries.iter().map(|(_, value)| value.len() as u64).sum::<u64>();
        match run.entries.last() {
            Some((last, _)) if run.more && is_wanted() => range.start = Bound::Excluded(last.clone()),
            Some(_) | None => return (rows, bytes),
        }
    }
}

async fn hot(arguments: &Arguments, site: &Rc<Site>) -> io::Result<()> {
    let hot = (arguments.cache_mb << 20) / 2 / 1200;
    let span = Duration::from_secs(arguments.seconds);
    let rate = |Reads { reads, hits }: Reads| hits as f64 * 100.0 / reads as f64;
    for by_disk in [true, false] {
        read_uniformly(site, 16, hot, span).await;
        let alone = rate(read_uniformly(site, 4, hot, span).await);
        let (is_scanning, scanned) = (Rc::new(Cell::new(true)), Rc::new(Cell::new(0)));
        site.env.spawn({
            let (site, is_scanning, scanned) = (site.clone(), is_scanning.clone(), scanned.clone());
            async move {
                while is_scanning.get() {
                    let (rows, _) = match by_disk {
                        true => sweep_all(&site, || is_scanning.get()).await,
                        false => scan_all(&site, || is_scanning.get()).await,
                    };
                    scanned.set(scanned.get() + rows);
                }
            }
        });
        let beside = rate(read_uniformly(site, 4, hot, span * 2).await);
        is_scanning.set(false);
        site.env.sleep(Duration::from_secs(1)).await;
        println!(
            "a hot set of {hot} documents, half of the cache: {alone:.1}% from the cache alone, {beside:.1}% beside a scan of {} documents \
             in the order of {}",
            scanned.get(),
            if by_disk { "the disk" } else { "keys" },
        );
    }
    Ok(())
}

/// Latencies in microseconds.
type Latencies = Rc<RefCell<Histogram<u64>>>;

fn latencies() -> Latencies {
    Rc::new(RefCell::new(Histogram::new_with_bounds(1, 60_000_000, 3).expect("the bounds are sound")))
}

/// Writes from 64 writers as fast as they can for a while; writes per second.
async fn write_closed(site: &Rc<Site>, span: Duration) -> f64 {
    let (end, count) = (Instant::now() + span, Rc::new(Cell::new(0_u64)));
    site.side_by_side(WRITERS, |site, number| {
        let count = count.clone();
        async move {
            let mut random = Random(number);
            while Instant::now() < end {
                site.commit(&[site.put(random.below(site.documents))]).await;
                count.set(count.get() + 1);
            }
        }
    })
    .await;
    count.get() as f64 / span.as_secs_f64()
}

async fn checkpoints(arguments: &Arguments, site: &Rc<Site>) -> io::Result<()> {
    let full = write_closed(site, Duration::from_secs(arguments.seconds)).await;
    let found = Rc::new(Beside { without: latencies(), during: latencies() });
    let is_writing = Rc::new(Cell::new(true));
    site.env.spawn({
        let (site, found, is_writing) = (site.clone(), found.clone(), is_writing.clone());
        async move { write_at(&site, full / 2.0, &found, &is_writing).await }
    });
    let before = site.engine.stats().checkpoints;
    // The store begins them by itself, one after the other and with a rest between them.
    site.env.sleep(Duration::from_secs(arguments.seconds * 4)).await;
    is_writing.set(false);
    let checkpoints = site.engine.stats().checkpoints - before;
    site.env.sleep(Duration::from_secs(1)).await;
    println!("{WRITERS} writers: {full:.0} hard writes/s; half of that offered; {checkpoints} checkpoints");
    for (name, found) in [("without", &found.without), ("during", &found.during)] {
        let found = found.borrow();
        println!(
            "{name}: {} writes, p50 {} us, p99 {} us, p99.9 {} us",
            found.len(),
            found.value_at_quantile(0.5),
            found.value_at_quantile(0.99),
            found.value_at_quantile(0.999)
        );
    }
    Ok(())
}

/// Offers writes at a fixed rate, whatever becomes of them; the time runs from when each was to begin.
/// Latencies of writes by whether a checkpoint was being written when they began or ended.
struct Beside {
    without: Latencies,
    during: Latencies,
}

async fn write_at(site: &Rc<Site>, rate: f64, found: &Rc<Beside>, is_writing: &Rc<Cell<bool>>) {
    let (began, mut sent) = (Instant::now(), 0_u64);
    let mut random = Random(9);
    while is_writing.get() {
        let due = (began.elapsed().as_secs_f64() * rate) as u64;
        for number in sent..due {
            let wanted = began + Duration::from_secs_f64(number as f64 / rate);
            let (site, found, edit) = (site.clone(), found.clone(), site.put(random.below(site.documents)));
            site.env.clone().spawn(async move {
                let was_checkpointing = site.engine.stats().is_checkpointing;
                site.commit(&[edit]).await;
                let is_beside = was_checkpointing || site.engine.stats().is_checkpointing;
                let latencies = if is_beside { &found.during } else { &found.without };
                latencies.borrow_mut().saturating_record(wanted.elapsed().as_micros() as u64);
            });
        }
        sent = due;
        site.env.sleep(Duration::from_micros(200)).await;
    }
}

async fn write_for_ever(site: &Rc<Site>) -> io::Result<()> {
    write_closed(site, Duration::from_secs(3600)).await;
    Ok(())
}

fn recovery(arguments: &Arguments) -> io::Result<()> {
    for _ in 0..3 {
        let mut writer = Command::new(std::env::current_exe()?)
            .arg("--data")
            .arg(&arguments.data)
            .args(["--cache-mb", &arguments.cache_mb.to_string()])
            .args(["--documents", &arguments.documents.to_string(), "write"])
            .stdout(Stdio::null())
            .spawn()?;
        std::thread::sleep(KILLED_AFTER);
        writer.kill()?;
        writer.wait()?;
        println!("killed after {} s of writing by {WRITERS} writers", KILLED_AFTER.as_secs());
        on_store(arguments, async |_| ())?;
    }
    Ok(())
}

async fn refill(arguments: &Arguments, site: &Rc<Site>) -> io::Result<()> {
    let delete: fn(&Site, u64) -> Edit = |site, number| Edit::Delete { tree: site.tree, key: key(number) };
    type Step = (&'static str, fn(&Site, u64) -> Edit, fn(u64) -> bool);
    let steps: [Step; 4] = [
        ("half deleted", delete, |number| number.is_multiple_of(2)),
        ("that half loaded again", Site::put, |number| number.is_multiple_of(2)),
        ("everything deleted", delete, |_| true),
        ("everything loaded again", Site::put, |_| true),
    ];
    for (name, edit, is_wanted) in steps {
        let rate = site.edit_all(edit, is_wanted).await;
        println!("{name}: {rate:.0} documents/s; {}", site.space(&arguments.data));
        site.env.sleep(Duration::from_secs(2)).await;
        println!("  2 s later: {}", site.space(&arguments.data));
    }
    Ok(())
}
