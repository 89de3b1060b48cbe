//! Work on a data directory that no server holds: verifying it, spreading its shards.
//!
//! Always: the directory is locked first, so a server that runs keeps these out and the other way round. Everything here
//! blocks the thread, over blocking files; no executor is started.

pub mod check;
pub mod reshard;

use std::fs::File;
use std::path::{Path, PathBuf};

use photondb_storage::engine::StorageError;

use crate::{StartError, start, uring};

/// A locked data directory and the numbers of its stores.
struct Held {
    _lock: File,
    stores: Vec<u16>,
}

fn hold(data_dir: &Path) -> Result<Held, StartError> {
    let list = || uring::stores_of(data_dir).map_err(|error| StartError(format!("{error}.")));
    if list()?.is_empty() {
        return Err(StartError(format!("{} holds no data of PhotonDB.", data_dir.display())));
    }
    let lock = start::lock(data_dir)?;
    Ok(Held { _lock: lock, stores: list()? })
}

fn store_path(data_dir: &Path, store: u16) -> PathBuf {
    data_dir.join(uring::store_name(store))
}

fn store_failed(store: u16, error: &StorageError) -> StartError {
    StartError(format!("Store {store}: {error}."))
}
