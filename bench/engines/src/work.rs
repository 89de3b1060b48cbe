//! What every engine does, one piece after the other: a load, then work in a cache that holds everything, then in one that does not.
//!
//! Always: but for the load, a piece takes the same time for each engine. What a piece gives is a rate, but for space. In the small
//! cache the operating system is told to forget the files every quarter of a second: else an engine that reads through the page
//! cache would have all of the machine's memory as its cache.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::rows::{KEY_BYTES, Random, Row, Share, VALUE_BYTES, key, row};
use crate::stores::{Engine, Failed, Store, put_in_groups};

/// A line of the table.
pub struct Work {
    pub name: &'static str,
    pub better: Better,
    cache: Cache,
    measure: fn(&mut Bench<'_>) -> Result<f64, Failed>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    More,
    Less,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Cache {
    /// Holds everything twice.
    Large,
    /// Holds an eighth.
    Small,
}

const fn large(name: &'static str, measure: fn(&mut Bench<'_>) -> Result<f64, Failed>) -> Work {
    Work { name, better: Better::More, cache: Cache::Large, measure }
}

const fn small(name: &'static str, measure: fn(&mut Bench<'_>) -> Result<f64, Failed>) -> Work {
    Work { name, better: Better::More, cache: Cache::Small, measure }
}

/// In the order in which it is done. The first two are always done.
pub const WORK: [Work; 12] = [
    large("load, batches of 1,000, rows/s", |bench| bench.load()),
    Work {
        name: "space after the load, bytes on disk per byte of rows",
        better: Better::Less,
        cache: Cache::Large,
        measure: |bench| bench.space(),
    },
    large("random reads in cache, rows/s", |bench| bench.reads(Until::Over)),
    large("range scans of 100 in cache, rows/s", |bench| bench.scans(100, Until::Over)),
    large("durable single writes, 1 writer, rows/s", |bench| bench.writes(1, each_alone)),
    large("durable single writes, 8 writers, rows/s", |bench| bench.writes(8, each_alone)),
    large("durable single writes, 64 writers, rows/s", |bench| bench.writes(64, each_alone)),
    large("the same, grouped by the program, rows/s", |bench| bench.writes(64, put_in_groups)),
    large("durable atomic batches of 100, rows/s", |bench| bench.batches()),
    small("random reads beyond the cache, rows/s", |bench| bench.reads(Until::Forgotten)),
    small("range scans of 100 beyond the cache, rows/s", |bench| bench.scans(100, Until::Forgotten)),
    small("range scans of 10,000 beyond the cache, rows/s", |bench| bench.scans(10_000, Until::Forgotten)),
];

/// Done for every choice of work: there must be something to work on.
pub const ALWAYS: usize = 2;

/// Rows that are written while time is taken; made before.
const WRITTEN_ROWS: u64 = 20_000;
const BATCH_ROWS: usize = 100;
/// Between two times that the operating system forgets the files.
const FORGOTTEN_AFTER: Duration = Duration::from_millis(250);
/// Between two looks at the clock.
const LOOK_ROWS: u64 = 100;

/// How long reading goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Until {
    Over,
    /// In portions, each after the files were forgotten; what forgetting takes does not count.
    Forgotten,
}

pub struct Settings {
    pub directory: PathBuf,
    pub rows: u64,
    pub seconds: f64,
}

impl Settings {
    pub fn plain_bytes(&self) -> u64 {
        self.rows * (KEY_BYTES + VALUE_BYTES) as u64
    }

    pub fn large_cache_bytes(&self) -> u64 {
        (2 * self.plain_bytes()).next_multiple_of(1 << 20)
    }

    pub fn small_cache_bytes(&self) -> u64 {
        (self.plain_bytes() / 8).next_multiple_of(1 << 20)
    }
}

/// One engine in one round.
pub struct Bench<'a> {
    settings: &'a Settings,
    engine: &'a Engine,
    path: PathBuf,
    store: Option<(Box<dyn Store>, Cache)>,
    random: Random,
    version: u64,
}

impl<'a> Bench<'a> {
    /// Begins with an empty directory of the engine's own.
    pub fn new(settings: &'a Settings, engine: &'a Engine) -> Result<Bench<'a>, Failed> {
        let path = settings.directory.join(engine.name);
        match std::fs::remove_dir_all(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        std::fs::create_dir_all(&path)?;
        Ok(Bench { settings, engine, path, store: None, random: Random(1), version: 0 })
    }

    /// Does a piece of work in its cache.
    pub fn run(&mut self, work: &Work) -> Result<f64, Failed> {
        if self.store.as_ref().is_none_or(|(_, cache)| *cache != work.cache) {
            self.close()?;
            let cache_bytes = match work.cache {
                Cache::Large => self.settings.large_cache_bytes(),
                Cache::Small => self.settings.small_cache_bytes(),
            };
            self.store = Some(((self.engine.open)(&self.path, cache_bytes)?, work.cache));
            self.warm(work.cache)?;
        }
        (work.measure)(self)
    }

    /// Removes what it left on disk.
    pub fn end(mut self) -> Result<(), Failed> {
        self.close()?;
        Ok(std::fs::remove_dir_all(&self.path)?)
    }

    fn close(&mut self) -> Result<(), Failed> {
        self.store.take().map_or(Ok(()), |(store, _)| store.close())
    }

    fn store(&mut self) -> &mut dyn Store {
        &mut *self.store.as_mut().expect("it is opened before work is done").0
    }

    /// Fills a cache as far as it goes.
    fn warm(&mut self, cache: Cache) -> Result<(), Failed> {
        if self.version == 0 {
            return Ok(());
        }
        match cache {
            Cache::Large => (0..self.settings.rows).try_for_each(|number| self.read(number)),
            Cache::Small => self.reads(Until::Forgotten).map(|_| ()),
        }
    }

    fn load(&mut self) -> Result<f64, Failed> {
        let rows = self.settings.rows;
        let began = Instant::now();
        self.store().load(&mut (0..rows).map(|number| row(number, 0)))?;
        self.version = 1;
        Ok(rows as f64 / began.elapsed().as_secs_f64())
    }

    fn space(&mut self) -> Result<f64, Failed> {
        self.close()?;
        let mut bytes = 0;
        for_files(&self.path, &mut |path| {
            bytes += path.metadata()?.blocks() * 512;
            Ok(())
        })?;
        Ok(bytes as f64 / self.settings.plain_bytes() as f64)
    }

    fn read(&mut self, number: u64) -> Result<(), Failed> {
        match self.store().get(&key(number))? {
            Some(VALUE_BYTES) => Ok(()),
            Some(_) | None => Err(format!("the row {number} is not what was written").into()),
        }
    }

    fn reads(&mut self, until: Until) -> Result<f64, Failed> {
        self.timed(until, |bench| {
            for _ in 0..LOOK_ROWS {
                let number = bench.random.below(bench.settings.rows);
                bench.read(number)?;
            }
            Ok(LOOK_ROWS)
        })
    }

    /// Each begins in the lower half, so that as many rows follow.
    fn scans(&mut self, rows: usize, until: Until) -> Result<f64, Failed> {
        self.timed(until, |bench| {
            let from = format!("{:016x}", bench.random.number() >> 1).into_bytes();
            match bench.store().scan(&from, rows)? {
                bytes if bytes == rows * VALUE_BYTES => Ok(rows as u64),
                bytes => Err(format!("a scan gave {bytes} bytes").into()),
            }
        })
    }

    fn writes(
        &mut self,
        writers: usize,
        put: fn(&mut dyn Store, Vec<Share<'_>>) -> Result<u64, Failed>,
    ) -> Result<f64, Failed> {
        let rows = self.fresh();
        let began = Instant::now();
        let until = began + Duration::from_secs_f64(self.settings.seconds);
        let share = |writer| Share { rows: &rows, next: writer, step: writers, until };
        let count = put(self.store(), (0..writers).map(share).collect())?;
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }

    fn batches(&mut self) -> Result<f64, Failed> {
        let rows = self.fresh();
        let mut batches = rows.chunks(BATCH_ROWS).cycle();
        self.timed(Until::Over, |bench| {
            let batch: Vec<&Row> = batches.by_ref().take(1).flatten().collect();
            bench.store().put(&batch)?;
            Ok(batch.len() as u64)
        })
    }

    /// New versions of some rows.
    fn fresh(&mut self) -> Vec<Row> {
        self.version += 1;
        (0..WRITTEN_ROWS).map(|_| row(self.random.below(self.settings.rows), self.version)).collect()
    }

    /// The rate at which rows are done.
    fn timed(
        &mut self,
        until: Until,
        mut work: impl FnMut(&mut Self) -> Result<u64, Failed>,
    ) -> Result<f64, Failed> {
        let whole = Duration::from_secs_f64(self.settings.seconds);
        let (mut taken, mut done) = (Duration::ZERO, 0);
        while taken < whole {
            let portion = match until {
                Until::Over => whole,
                Until::Forgotten => {
                    for_files(&self.path, &mut forget)?;
                    FORGOTTEN_AFTER
                }
            };
            let began = Instant::now();
            while began.elapsed() < portion {
                done += work(self)?;
            }
            taken += began.elapsed();
        }
        Ok(done as f64 / taken.as_secs_f64())
    }
}

/// Every writer puts its rows as the engine has it.
fn each_alone(store: &mut dyn Store, shares: Vec<Share<'_>>) -> Result<u64, Failed> {
    store.put_side_by_side(shares)
}

/// Lets the operating system forget what it has cached of a file.
fn forget(path: &Path) -> Result<(), Failed> {
    let file = std::fs::File::open(path)?;
    file.sync_all()?;
    Ok(rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?)
}

/// Files that go while we look are none of ours.
fn for_files(directory: &Path, act: &mut impl FnMut(&Path) -> Result<(), Failed>) -> Result<(), Failed> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            for_files(&path, act)?;
        } else if let Err(error) = act(&path)
            && path.exists()
        {
            return Err(error);
        }
    }
    Ok(())
}
