//! The index: chunk id → length and SHA-256, in sled, so that the inventory is listed without opening every file.
//!
//! It is not on the path of durability: nothing is acknowledged because the index has it, and when it is missing, damaged or was not
//! closed in good order, [`super::rebuild`] makes it again from the chunk files. sled loses everything at some power cuts
//! (docs/adr/0001-metadata-store.md); here that costs a scan. A damaged sled may panic: that is caught and counts as damage.

use super::StoredChunk;
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

/// sled's page cache.
const CACHE_BYTES: u64 = 4 << 20;
/// Key of the stamp that ties the index to the marker of a good close; no chunk id has this length.
const STAMP_KEY: &[u8] = b"stamp";
const VALUE_BYTES: usize = 8 + 32;

/// An open index.
pub struct ChunkIndex {
    database: sled::Db,
    damaged: AtomicBool,
}

fn failed(what: impl std::fmt::Display) -> FsError {
    FsError::new(ErrorKind::Io, format!("the chunk index failed: {what}"))
}

/// Runs an operation of sled; a panic inside it is an error.
fn guarded<T>(operation: impl FnOnce() -> sled::Result<T>) -> FsResult<T> {
    match catch_unwind(AssertUnwindSafe(operation)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(error)),
        Err(_) => Err(failed("it is damaged")),
    }
}

fn decode(key: &[u8], value: &[u8]) -> Option<StoredChunk> {
    if value.len() != VALUE_BYTES {
        return None;
    }
    Some(StoredChunk {
        chunk: ChunkId::from_slice(key)?,
        length: u64::from_be_bytes(value[..8].try_into().ok()?),
        sha256: value[8..].try_into().ok()?,
    })
}

impl ChunkIndex {
    /// Opens the index in `directory`, or makes it.
    ///
    /// # Errors
    /// `Io` if it is damaged beyond use: remove the directory and open again.
    pub fn open(directory: &Path) -> FsResult<Self> {
        let database = guarded(|| {
            sled::Config::new()
                .path(directory)
                .cache_capacity(CACHE_BYTES)
                .mode(sled::Mode::LowSpace)
                .flush_every_ms(None)
                .open()
        })?;
        Ok(ChunkIndex {
            database,
            damaged: AtomicBool::new(false),
        })
    }

    /// Runs an operation; the first failure is logged, and keeps this run from being closed in good order.
    fn run<T>(&self, operation: impl FnOnce(&sled::Db) -> sled::Result<T>) -> FsResult<T> {
        let result = guarded(|| operation(&self.database));
        if let Err(error) = &result
            && !self.damaged.swap(true, Ordering::Relaxed)
        {
            tracing::warn!(%error, "the chunk index will be made again at the next start");
        }
        result
    }

    /// Adds or replaces an entry. A failure is remembered, not answered: the file is the truth.
    pub fn insert(&self, stored: &StoredChunk) {
        let mut value = [0; VALUE_BYTES];
        value[..8].copy_from_slice(&stored.length.to_be_bytes());
        value[8..].copy_from_slice(&stored.sha256);
        let _ = self.run(|database| database.insert(stored.chunk.to_bytes(), &value[..]));
    }

    /// Removes an entry, likewise.
    pub fn remove(&self, chunk: ChunkId) {
        let _ = self.run(|database| database.remove(chunk.to_bytes()));
    }

    /// The entry of a chunk.
    pub fn get(&self, chunk: ChunkId) -> FsResult<Option<StoredChunk>> {
        let key = chunk.to_bytes();
        let value = self.run(|database| database.get(key))?;
        Ok(value.and_then(|value| decode(&key, &value)))
    }

    /// Entries behind `after` in order, at most `limit`.
    pub fn page(&self, after: Option<ChunkId>, limit: usize) -> FsResult<Vec<StoredChunk>> {
        self.run(|database| {
            let mut page = Vec::new();
            // Behind a key is the key with a zero byte added.
            let mut from = after.map_or(Vec::new(), |chunk| chunk.to_bytes().to_vec());
            if after.is_some() {
                from.push(0);
            }
            for entry in database.range(from..) {
                if page.len() == limit {
                    break;
                }
                let (key, value) = entry?;
                page.extend(decode(&key, &value));
            }
            Ok(page)
        })
    }

    /// The stamp of the last good close.
    pub fn stamp(&self) -> FsResult<Option<u64>> {
        let value = self.run(|database| database.get(STAMP_KEY))?;
        Ok(value.and_then(|value| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?))))
    }

    /// Sets the stamp and writes everything out. False if the index is damaged.
    pub fn seal(&self, stamp: u64) -> bool {
        let sealed = self.run(|database| {
            database.insert(STAMP_KEY, &stamp.to_be_bytes()[..])?;
            database.flush()
        });
        sealed.is_ok() && !self.damaged.load(Ordering::Relaxed)
    }
}
