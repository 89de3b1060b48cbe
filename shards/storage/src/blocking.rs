//! [`Disk`] and [`Directory`] over ordinary files, for offline commands and for the library: every call blocks the thread.
//!
//! Always: the futures here are ready when first polled, so [`block_on`] needs no reactor. Files are opened with O_DIRECT
//! where the file system has it, because an offline command must not fill the page cache of a machine that serves, and
//! because it then reads exactly what the server's own direct I/O would; elsewhere (tmpfs) plain buffered I/O does.
//! Durability is `fdatasync` either way. Direct I/O wants aligned memory: a buffer is allocated one block longer than
//! asked and used from its first aligned byte, which needs no unsafe code and costs at most 4 KiB.

use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io;
use std::ops::Deref;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use rustix::fs::{FallocateFlags, OFlags, fallocate};
use rustix::io::Errno;

use crate::disk::{BLOCK_BYTES, Directory, Disk, DiskError, OpenMode};

/// Zeros are written in runs of this, so that preallocating a segment takes few calls and little memory.
const ZERO_RUN_BYTES: u32 = 1 << 20;

/// The directory of a store, through the ordinary calls of the operating system.
#[derive(Clone, Debug)]
pub struct BlockingDirectory {
    path: PathBuf,
}

/// An open file of a [`BlockingDirectory`].
#[derive(Debug)]
pub struct BlockingDisk {
    file: File,
    name: String,
}

/// Memory that direct I/O accepts: starts on a block boundary.
#[derive(Debug)]
pub struct BlockingBuffer {
    memory: Vec<u8>,
    start: usize,
    bytes: usize,
}

/// What a read gave; clones share the memory.
#[derive(Clone, Debug)]
pub struct BlockingPage(Rc<BlockingBuffer>);

impl BlockingDirectory {
    /// The directory at `path`, which is made if it is missing.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self, DiskError> {
        let path = path.into();
        std::fs::create_dir_all(&path)
            .map_err(|error| failed(&path.to_string_lossy(), "make directory", 0, 0, &error))?;
        Ok(Self { path })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    fn open_file(&self, name: &str, mode: OpenMode, flags: OFlags) -> io::Result<File> {
        let create = match mode {
            OpenMode::Existing => false,
            OpenMode::Create => true,
        };
        let flags = i32::try_from(flags.bits()).expect("open flags are a C int");
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(create)
            .custom_flags(flags)
            .open(self.path.join(name))
    }
}

impl Directory for BlockingDirectory {
    type File = BlockingDisk;

    async fn open(&self, name: &str, mode: OpenMode) -> Result<BlockingDisk, DiskError> {
        let direct = self.open_file(name, mode, OFlags::DIRECT);
        let opened = match direct {
            Err(error) if is(&error, Errno::INVAL) => self.open_file(name, mode, OFlags::empty()),
            Ok(_) | Err(_) => direct,
        };
        let file = opened.map_err(|error| failed(name, "open", 0, 0, &error))?;
        Ok(BlockingDisk { file, name: name.to_owned() })
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
        std::fs::rename(self.path.join(from), self.path.join(to))
            .map_err(|error| failed(from, "rename", 0, 0, &error))
    }

    async fn remove(&self, name: &str) -> Result<(), DiskError> {
        std::fs::remove_file(self.path.join(name)).map_err(|error| failed(name, "remove", 0, 0, &error))
    }

    async fn sync(&self) -> Result<(), DiskError> {
        let synced = File::open(&self.path).and_then(|directory| directory.sync_all());
        synced.map_err(|error| failed(&self.path.to_string_lossy(), "sync", 0, 0, &error))
    }
}

impl BlockingDisk {
    fn file_length(&self) -> Result<u64, DiskError> {
        Ok(self.file.metadata().map_err(|error| failed(&self.name, "length", 0, 0, &error))?.len())
    }
}

impl Disk for BlockingDisk {
    type Page = BlockingPage;
    type Buffer = BlockingBuffer;

    fn buffer(&self, bytes: u32) -> BlockingBuffer {
        BlockingBuffer::zeroed(bytes)
    }

    async fn read(&self, offset: u64, bytes: u32) -> Result<BlockingPage, DiskError> {
        assert_aligned(offset, u64::from(bytes));
        let mut buffer = BlockingBuffer::zeroed(bytes);
        let mut filled = 0;
        while filled < buffer.bytes {
            let read = self.file.read_at(&mut buffer.as_mut()[filled..], offset + filled as u64);
            match read {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(&self.name, "read", offset, u64::from(bytes), &error)),
            }
            // A short read ends inside the last block; going on from there would be unaligned.
            if !filled.is_multiple_of(BLOCK_BYTES as usize) {
                break;
            }
        }
        buffer.bytes = filled;
        Ok(BlockingPage(Rc::new(buffer)))
    }

    async fn write(&self, offset: u64, source: BlockingBuffer) -> Result<(), DiskError> {
        let bytes = source.as_ref().len() as u64;
        assert_aligned(offset, bytes);
        self.file
            .write_all_at(source.as_ref(), offset)
            .map_err(|error| failed(&self.name, "write", offset, bytes, &error))
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.file.sync_data().map_err(|error| failed(&self.name, "sync", 0, 0, &error))
    }

    async fn preallocate(&self, bytes: u64) -> Result<(), DiskError> {
        let mut end = self.file_length()?.next_multiple_of(u64::from(BLOCK_BYTES));
        let zeros = BlockingBuffer::zeroed(ZERO_RUN_BYTES);
        while end < bytes {
            let run = (bytes - end).next_multiple_of(u64::from(BLOCK_BYTES)).min(u64::from(ZERO_RUN_BYTES));
            self.file
                .write_all_at(&zeros.as_ref()[..run as usize], end)
                .map_err(|error| failed(&self.name, "preallocate", end, run, &error))?;
            end += run;
        }
        Ok(())
    }

    async fn punch(&self, offset: u64, bytes: u64) -> Result<(), DiskError> {
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        fallocate(&self.file, mode, offset, bytes)
            .map_err(|errno| failed(&self.name, "punch", offset, bytes, &io::Error::from(errno)))
    }

    async fn truncate(&self, bytes: u64) -> Result<(), DiskError> {
        self.file.set_len(bytes).map_err(|error| failed(&self.name, "truncate", 0, bytes, &error))
    }

    async fn length(&self) -> Result<u64, DiskError> {
        self.file_length()
    }
}

impl BlockingBuffer {
    fn zeroed(bytes: u32) -> Self {
        let bytes = bytes as usize;
        let memory = vec![0; bytes + BLOCK_BYTES as usize];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES as usize);
        assert!(
            start < BLOCK_BYTES as usize,
            "a block boundary lies within the first block of any allocation"
        );
        Self { memory, start, bytes }
    }
}

impl AsRef<[u8]> for BlockingBuffer {
    fn as_ref(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.bytes]
    }
}

impl AsMut<[u8]> for BlockingBuffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.bytes]
    }
}

impl Deref for BlockingPage {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        (*self.0).as_ref()
    }
}

fn assert_aligned(offset: u64, bytes: u64) {
    let block = u64::from(BLOCK_BYTES);
    assert!(
        offset.is_multiple_of(block) && bytes.is_multiple_of(block),
        "I/O of {bytes} bytes at {offset} is unaligned"
    );
}

fn is(error: &io::Error, errno: Errno) -> bool {
    error.raw_os_error() == Some(errno.raw_os_error())
}

fn failed(file: &str, operation: &'static str, offset: u64, bytes: u64, error: &io::Error) -> DiskError {
    let file = file.to_owned();
    match error.kind() {
        io::ErrorKind::NotFound => DiskError::NotFound { file },
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskError::Full { file },
        _ => DiskError::Io { file, operation, offset, bytes, reason: error.to_string() },
    }
}

/// Runs a future of a store over blocking files to its end.
///
/// Panics when the future waits for something that this thread will never do: a store whose log is flushed by
/// [`crate::engine::StorageEngine::background`] needs [`block_on_with`].
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    block_on_with(pin!(std::future::pending::<()>()), future)
}

/// Runs `future` to its end and, whenever it waits, the store's `background` work, which may be handed in again and again.
/// It must not be handed in once it has ended.
pub fn block_on_with<T>(
    mut background: Pin<&mut (impl Future + ?Sized)>,
    future: impl Future<Output = T>,
) -> T {
    let mut future = pin!(future);
    let woken = Arc::new(Woken(AtomicBool::new(true)));
    let waker = Waker::from(woken.clone());
    let mut context = Context::from_waker(&waker);
    let mut background_ended = false;
    loop {
        woken.0.store(false, Ordering::Relaxed);
        if let Poll::Ready(result) = future.as_mut().poll(&mut context) {
            return result;
        }
        // The background is polled even when nobody woke it: its last waker may belong to an earlier call.
        if !background_ended {
            background_ended = background.as_mut().poll(&mut context).is_ready();
            if background_ended {
                continue;
            }
        }
        assert!(woken.0.load(Ordering::Relaxed), "a blocking future waits for something that cannot come");
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> BlockingDirectory {
        let path = std::env::temp_dir().join(format!("photondb-blocking-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        BlockingDirectory::new(path).unwrap()
    }

    fn filled(disk: &BlockingDisk, bytes: u32, byte: u8) -> BlockingBuffer {
        let mut buffer = disk.buffer(bytes);
        buffer.as_mut().fill(byte);
        buffer
    }

    #[test]
    fn written_blocks_read_back_and_reads_past_the_end_are_short() {
        let directory = scratch("read");
        block_on(async {
            let disk = directory.open("a", OpenMode::Create).await.unwrap();
            disk.write(4096, filled(&disk, 8192, 7)).await.unwrap();
            disk.sync().await.unwrap();
            assert_eq!(disk.length().await.unwrap(), 12288);
            let page = disk.read(0, 16384).await.unwrap();
            assert_eq!(page.len(), 12288);
            assert!(page[..4096].iter().all(|&byte| byte == 0));
            assert!(page[4096..].iter().all(|&byte| byte == 7));
            assert_eq!(disk.read(16384, 4096).await.unwrap().len(), 0);
            disk.truncate(5000).await.unwrap();
            assert_eq!(disk.read(4096, 4096).await.unwrap().len(), 904);
        });
        std::fs::remove_dir_all(directory.path()).unwrap();
    }

    #[test]
    fn preallocated_and_punched_ranges_are_zero_and_keep_their_length() {
        let directory = scratch("punch");
        block_on(async {
            let disk = directory.open("a", OpenMode::Create).await.unwrap();
            disk.write(0, filled(&disk, 4096, 1)).await.unwrap();
            disk.preallocate(3 << 20).await.unwrap();
            assert_eq!(disk.length().await.unwrap(), 3 << 20);
            disk.write(8192, filled(&disk, 4096, 2)).await.unwrap();
            disk.punch(0, 4096).await.unwrap();
            assert_eq!(disk.length().await.unwrap(), 3 << 20);
            let page = disk.read(0, 12288).await.unwrap();
            assert!(page[..8192].iter().all(|&byte| byte == 0));
            assert!(page[8192..].iter().all(|&byte| byte == 2));
        });
        std::fs::remove_dir_all(directory.path()).unwrap();
    }

    #[test]
    fn names_are_listed_renamed_removed_and_missing_ones_said_so() {
        let directory = scratch("names");
        block_on(async {
            let missing = directory.open("a", OpenMode::Existing).await.unwrap_err();
            assert_eq!(missing, DiskError::NotFound { file: "a".into() });
            directory.open("a", OpenMode::Create).await.unwrap();
            directory.open("b", OpenMode::Create).await.unwrap();
            directory.rename("a", "c").await.unwrap();
            directory.sync().await.unwrap();
            assert_eq!(directory.list().await.unwrap(), ["b", "c"]);
            directory.remove("b").await.unwrap();
            assert_eq!(directory.list().await.unwrap(), ["c"]);
        });
        std::fs::remove_dir_all(directory.path()).unwrap();
    }

    #[test]
    fn a_waiting_future_gets_the_background_run() {
        let flag = std::cell::Cell::new(false);
        let mut background = pin!(std::future::poll_fn(|context: &mut Context<'_>| {
            flag.set(true);
            context.waker().wake_by_ref();
            Poll::<()>::Pending
        }));
        for _ in 0..2 {
            flag.set(false);
            let waits = std::future::poll_fn(|_| if flag.get() { Poll::Ready(5) } else { Poll::Pending });
            assert_eq!(block_on_with(background.as_mut(), waits), 5);
        }
    }
}
