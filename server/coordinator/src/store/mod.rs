//! The seam below all metadata: an ordered key-value store with atomic, durable batches.

use bytes::Bytes;
use dfs_common::FsResult;

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

/// An ordered key-value store.
pub trait MetaStore: MetaRead + 'static {
    /// Applies `batch` atomically; durable (survives a power cut, for the stores that promise it) on return.
    fn commit(&self, batch: WriteBatch) -> FsResult<()>;
    /// The state of this moment, unaffected by later commits.
    fn snapshot(&self) -> FsResult<Box<dyn MetaRead>>;
    /// `fjall`, `sled` or `memory`, for status and logs.
    fn kind(&self) -> &'static str;
}
