//! The seam below all metadata: an ordered key-value store with atomic, durable batches.
//!
//! Owns the trait, its three implementations and the fence that keeps a second opener of a data directory out. Knows
//! nothing of what keys and values mean. Invariants: readers see whole batches only; after a power cut the batches that are there are
//! the first ones, in the order in which they were committed.

pub mod fence;
pub mod fjall;
pub mod memory;
pub mod sled;
pub mod snapshot;

#[doc(hidden)]
pub mod conformance;

use bytes::Bytes;
use dfs_common::{ErrorKind, FsError, FsResult};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

/// Point and ordered reads; of the newest committed state, or of one moment (a snapshot).
pub trait MetaRead: Send + Sync {
    /// The value of `key`.
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>>;
    /// At most `limit` pairs with `start <= key < end`, ascending.
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>>;
}

/// Changes that are applied together or not at all. A later change of the same key wins.
#[derive(Debug, Default)]
pub struct WriteBatch {
    /// Key and its new value; `None` deletes.
    pub changes: Vec<(Bytes, Option<Bytes>)>,
}

impl WriteBatch {
    /// The last change of each key, in key order: what a store applies.
    pub(crate) fn into_final_changes(self) -> std::collections::BTreeMap<Bytes, Option<Bytes>> {
        self.changes.into_iter().collect()
    }
}

/// An ordered key-value store.
pub trait MetaStore: MetaRead + 'static {
    /// Applies `batch` atomically; it and every batch before it are durable (survive a power cut, for the stores that promise
    /// it) on return.
    fn commit(&self, batch: WriteBatch) -> FsResult<()>;
    /// Applies `batch` atomically; it survives the end of this process on return, and is durable after the next
    /// [`MetaStore::commit`] or [`MetaStore::persist`].
    fn commit_unsynced(&self, batch: WriteBatch) -> FsResult<()>;
    /// Everything that can be read now is durable on return, what an earlier process committed included.
    fn persist(&self) -> FsResult<()>;
    /// Gives back the room of what was deleted and replaced; blocks until it is done, while others read and write. Answers the bytes on
    /// the disk before and after.
    ///
    /// # Errors
    /// `NotSupported` if the store does that by itself only; `Io`.
    fn compact(&self) -> FsResult<(u64, u64)> {
        Err(FsError::new(
            ErrorKind::NotSupported,
            format!(
                "the {} store gives room back by itself and cannot be told to",
                self.kind()
            ),
        ))
    }
    /// The state of this moment, unaffected by later commits.
    fn snapshot(&self) -> FsResult<Box<dyn MetaRead>>;
    /// `fjall`, `sled` or `memory`, for status and logs.
    fn kind(&self) -> &'static str;
}

/// Which store keeps the metadata. Chosen when the data directory is created, never changed afterwards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreKind {
    /// The default: durable across power cuts, bounded memory.
    #[default]
    Fjall,
    /// Survives the end of the process; does not survive a power cut.
    Sled,
    /// Nothing survives: for tests.
    Memory,
}

impl StoreKind {
    /// `fjall`, `sled` or `memory`.
    pub fn as_str(self) -> &'static str {
        match self {
            StoreKind::Fjall => "fjall",
            StoreKind::Sled => "sled",
            StoreKind::Memory => "memory",
        }
    }
}

impl fmt::Display for StoreKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for StoreKind {
    type Err = FsError;
    fn from_str(text: &str) -> FsResult<Self> {
        match text {
            "fjall" => Ok(StoreKind::Fjall),
            "sled" => Ok(StoreKind::Sled),
            "memory" => Ok(StoreKind::Memory),
            other => Err(FsError::new(
                ErrorKind::Invalid,
                format!("unknown store {other:?}: use fjall, sled or memory"),
            )),
        }
    }
}

/// Opens the store of `kind` in the directory `dir` (made if missing), with a cache of about `cache_bytes`.
///
/// # Errors
/// `Io` or `Corrupt` with the store's own words if the files cannot be used.
pub fn open(kind: StoreKind, dir: &Path, cache_bytes: u64) -> FsResult<Arc<dyn MetaStore>> {
    Ok(match kind {
        StoreKind::Fjall => Arc::new(fjall::FjallStore::open(dir, cache_bytes)?),
        StoreKind::Sled => Arc::new(sled::SledStore::open(dir, cache_bytes)?),
        StoreKind::Memory => Arc::new(memory::MemoryStore::default()),
    })
}
