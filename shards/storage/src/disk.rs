//! The seam between a store and the world: files and directories as traits.
//!
//! Production implements them over io_uring (`runtime/uring.rs`), offline commands over blocking files, the simulator
//! over memory with faults. Buffers move by value: the kernel owns them until completion even if the future is dropped.

use std::ops::Deref;

/// Offsets, lengths and buffers of direct I/O are multiples of this.
pub const BLOCK_BYTES: u32 = 4096;

/// An I/O that failed; names the file so that a log line is enough at 3 a.m.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DiskError {
    #[error("{file}: no space left on the device")]
    Full { file: String },
    #[error("{file}: no such file")]
    NotFound { file: String },
    #[error("{file}: {operation} of {bytes} bytes at offset {offset} failed: {reason}")]
    Io { file: String, operation: &'static str, offset: u64, bytes: u64, reason: String },
}

/// One open file of a store.
#[allow(async_fn_in_trait, reason = "a store lives on one thread; its futures need not be Send")]
pub trait Disk {
    /// What a read gives.
    type Page: Deref<Target = [u8]> + Clone;
    /// What a write takes: aligned for direct I/O, zeroed, exactly as long as asked.
    type Buffer: AsMut<[u8]> + AsRef<[u8]>;

    fn buffer(&self, bytes: u32) -> Self::Buffer;
    /// Reads `bytes` at `offset`, both multiples of [`BLOCK_BYTES`]. A read past the end gives fewer bytes.
    async fn read(&self, offset: u64, bytes: u32) -> Result<Self::Page, DiskError>;
    /// Writes the whole buffer at `offset`; durable only after [`Disk::sync`].
    async fn write(&self, offset: u64, source: Self::Buffer) -> Result<(), DiskError>;
    /// Makes every completed write durable (fdatasync).
    async fn sync(&self) -> Result<(), DiskError>;
    /// Writes the whole buffer at `offset`; it is durable when this ends. Says nothing of other writes.
    async fn write_durably(&self, offset: u64, source: Self::Buffer) -> Result<(), DiskError> {
        self.write(offset, source).await?;
        self.sync().await
    }
    /// Reserves and zero-fills up to `bytes` so that later writes do not change the file's metadata.
    async fn preallocate(&self, bytes: u64) -> Result<(), DiskError>;
    /// Gives the blocks of a range back to the file system; it reads as zeros.
    async fn punch(&self, offset: u64, bytes: u64) -> Result<(), DiskError>;
    async fn truncate(&self, bytes: u64) -> Result<(), DiskError>;
    /// Length in bytes.
    async fn length(&self) -> Result<u64, DiskError>;
}

/// The directory of one store. Changes of it are durable after [`Directory::sync`].
#[allow(async_fn_in_trait, reason = "a store lives on one thread; its futures need not be Send")]
pub trait Directory {
    type File: Disk;

    /// Opens a file, made empty if `create` and it is missing.
    async fn open(&self, name: &str, mode: OpenMode) -> Result<Self::File, DiskError>;
    async fn list(&self) -> Result<Vec<String>, DiskError>;
    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Who has the file open may find it shorter from then on.
    async fn remove(&self, name: &str) -> Result<(), DiskError>;
    async fn sync(&self) -> Result<(), DiskError>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    Existing,
    Create,
}
