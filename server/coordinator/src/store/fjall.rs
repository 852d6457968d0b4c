//! The default store: fjall, a log-structured merge tree in one keyspace named `meta`.
//!
//! A commit appends the batch to fjall's journal and, unless it may be synced later, syncs it before any reader can see it. After a failed sync fjall
//! refuses all further commits until it is opened again, so a batch of unknown fate is never acknowledged. Every read
//! uses a fjall snapshot: without one, a scan could see half of a batch that is being applied.

use super::{MetaRead, MetaStore, WriteBatch};
use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use bytes::Bytes;
use dfs_common::{ErrorKind, FsError, FsResult};
use std::path::Path;

/// Bytes that gather in memory before they are written as a table; also what a restart replays.
const MEMTABLE_BYTES_MAX: u64 = 32 << 20;
/// Journal files kept on disk at most.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;

/// fjall as a [`MetaStore`]; survives a power cut.
pub struct FjallStore {
    // Declared before the database: handles go first when the store is dropped.
    meta: Keyspace,
    database: Database,
}

impl FjallStore {
    /// Opens or makes the store in `dir`, with a block cache of `cache_bytes`.
    ///
    /// # Errors
    /// `Io` if the files cannot be read or written, or another process has them; `Corrupt` if they do not verify.
    pub fn open(dir: &Path, cache_bytes: u64) -> FsResult<Self> {
        let database = Database::builder(dir)
            .cache_size(cache_bytes)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .open()
            .map_err(|error| failure("opening", error))?;
        let meta = database
            .keyspace("meta", || {
                KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES_MAX)
            })
            .map_err(|error| failure("opening", error))?;
        Ok(FjallStore { meta, database })
    }

    fn view(&self) -> FjallView {
        FjallView {
            snapshot: self.database.snapshot(),
            meta: self.meta.clone(),
        }
    }
}

fn failure(doing: &str, error: ::fjall::Error) -> FsError {
    use ::fjall::Error;
    let (kind, what) = match error {
        Error::Io(io) => {
            return FsError::from(io).context(format_args!("{doing} the metadata store (fjall)"));
        }
        Error::Locked => (
            ErrorKind::Busy,
            "another process has it open: stop that one first".to_string(),
        ),
        Error::Poisoned => (
            ErrorKind::Io,
            "an earlier write failed, so the store takes no more until it is restarted".to_string(),
        ),
        Error::JournalRecovery(_)
        | Error::InvalidTrailer
        | Error::InvalidTag(_)
        | Error::Decompress(_)
        | Error::Unrecoverable => (ErrorKind::Corrupt, error.to_string()),
        Error::InvalidVersion(_) => (ErrorKind::UnknownVersion, error.to_string()),
        other => (ErrorKind::Io, other.to_string()),
    };
    FsError::new(kind, format!("{doing} the metadata store (fjall): {what}"))
}

impl MetaRead for FjallStore {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        self.view().get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        self.view().scan(start, end, limit)
    }
}

impl FjallStore {
    /// Later batches stand behind earlier ones in the journal, and a journal is synced before the next one begins, so a power
    /// cut takes from the end.
    fn write(&self, batch: WriteBatch, mode: PersistMode) -> FsResult<()> {
        if batch.changes.is_empty() {
            return match mode {
                PersistMode::Buffer => Ok(()),
                _ => self.persist(),
            };
        }
        let mut writes = self.database.batch().durability(Some(mode));
        // One change per key: fjall gives all items of a batch the same sequence number.
        for (key, value) in batch.into_final_changes() {
            match value {
                Some(value) => writes.insert(&self.meta, &key[..], &value[..]),
                None => writes.remove(&self.meta, &key[..]),
            }
        }
        writes.commit().map_err(|error| failure("writing", error))
    }
}

impl MetaStore for FjallStore {
    fn commit(&self, batch: WriteBatch) -> FsResult<()> {
        self.write(batch, PersistMode::SyncAll)
    }
    fn commit_unsynced(&self, batch: WriteBatch) -> FsResult<()> {
        self.write(batch, PersistMode::Buffer)
    }
    fn persist(&self) -> FsResult<()> {
        let synced = self.database.persist(PersistMode::SyncAll);
        synced.map_err(|error| failure("syncing", error))
    }
    /// What is in memory goes into a table first, so that the journals before it can go.
    fn compact(&self) -> FsResult<(u64, u64)> {
        let failed = |error| failure("compacting", error);
        self.meta.rotate_memtable_and_wait().map_err(failed)?;
        // Of the tables: journals are made in advance, whatever is in them.
        let before = self.meta.disk_space();
        self.meta.major_compact().map_err(failed)?;
        Ok((before, self.meta.disk_space()))
    }
    fn snapshot(&self) -> FsResult<Box<dyn MetaRead>> {
        Ok(Box::new(self.view()))
    }
    fn kind(&self) -> &'static str {
        "fjall"
    }
}

struct FjallView {
    snapshot: Snapshot,
    meta: Keyspace,
}

impl MetaRead for FjallView {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        let value = self
            .snapshot
            .get(&self.meta, key)
            .map_err(|error| failure("reading", error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        if start >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let mut pairs = Vec::new();
        for item in self.snapshot.range(&self.meta, start..end).take(limit) {
            let (key, value) = item.into_inner().map_err(|error| failure("reading", error))?;
            pairs.push((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)));
        }
        Ok(pairs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compacting_gives_back_the_room_of_what_was_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let store = FjallStore::open(dir.path(), 8 << 20).unwrap();
        let key = |number: u32| Bytes::copy_from_slice(&number.to_be_bytes());
        let value = |number: u32| -> Bytes {
            (0..200u32)
                .flat_map(|n| ((n + number).wrapping_mul(2_654_435_761)).to_le_bytes())
                .collect()
        };
        let changes = (0..2000)
            .map(|number| (key(number), Some(value(number))))
            .collect();
        store.commit(WriteBatch { changes }).unwrap();
        store.compact().unwrap();
        let changes = (1..2000).map(|number| (key(number), None)).collect();
        store.commit(WriteBatch { changes }).unwrap();
        let (before, after) = store.compact().unwrap();
        assert!(before > 100_000 && after < before / 4, "{before} {after}");
        assert_eq!(store.get(&key(0)).unwrap(), Some(value(0)));
        drop(store);
        let store = FjallStore::open(dir.path(), 8 << 20).unwrap();
        assert_eq!(store.scan(&[0], &[255], 10).unwrap(), [(key(0), value(0))]);
    }
}
