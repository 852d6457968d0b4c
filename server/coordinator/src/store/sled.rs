//! sled 0.34 as a selectable store. It survives the end of the process, not a power cut (see the store's decision record).
//!
//! sled has neither snapshots nor a way to hide a batch until it is flushed. Both come from one undo log kept in memory
//! (multi-version concurrency control with undo records): before a commit is applied, the old values of its keys are
//! recorded under the commit's number. A reader at number `n` takes, for each key, the oldest undo record of a commit
//! above `n`, and sled's value where there is none. Readers of the newest state read at the newest *flushed* commit, so
//! they never see a batch before it is as durable as sled can make it. Records are dropped when no snapshot needs them;
//! above [`UNDO_RECORDS_MAX`] the oldest snapshots are given up (their reads answer `Busy`) and commits go on.

use super::{MetaRead, MetaStore, WriteBatch};
use bytes::Bytes;
use dfs_common::{ErrorKind, FsError, FsResult};
use parking_lot::{Mutex, RwLock};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Undo records kept for snapshots; more would let a forgotten snapshot fill the memory.
pub const UNDO_RECORDS_MAX: usize = 1 << 20;

/// How long opening waits for sled's lock, and between two attempts.
const LOCK_WAIT: Duration = Duration::from_secs(3);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// sled as a [`MetaStore`].
pub struct SledStore {
    shared: Arc<Shared>,
    /// Commits one at a time; the number of a failed commit, if one failed.
    writer: Mutex<Option<u64>>,
}

struct Shared {
    tree: sled::Tree,
    // Keeps sled's threads running; dropped after the tree.
    _database: sled::Db,
    undo: RwLock<Undo>,
    undo_records_max: usize,
}

#[derive(Default)]
struct Undo {
    /// Newest flushed commit: what readers without a snapshot see.
    visible: u64,
    /// Per key, the commits that changed it and the value before each.
    records: BTreeMap<Bytes, BTreeMap<u64, Option<Bytes>>>,
    /// Keys per commit, to drop its records.
    commits: BTreeMap<u64, Vec<Bytes>>,
    count: usize,
    /// Open snapshots by the commit they see.
    snapshots: BTreeMap<u64, usize>,
    /// Snapshots of commits below were given up.
    oldest_readable: u64,
}

impl Undo {
    /// Drops the records that neither a snapshot nor a reader of `visible` needs.
    fn prune(&mut self) {
        let needed_from = self
            .snapshots
            .range(self.oldest_readable..)
            .next()
            .map_or(self.visible, |(commit, _)| *commit);
        while let Some(entry) = self.commits.first_entry() {
            if *entry.key() > needed_from {
                break;
            }
            let (commit, keys) = entry.remove_entry();
            for key in keys {
                if let Some(versions) = self.records.get_mut(&key) {
                    self.count -= usize::from(versions.remove(&commit).is_some());
                    if versions.is_empty() {
                        self.records.remove(&key);
                    }
                }
            }
        }
    }

    /// The value that `key` had at `commit`, if a later commit changed it.
    fn old_value(versions: &BTreeMap<u64, Option<Bytes>>, commit: u64) -> Option<&Option<Bytes>> {
        versions
            .range((Bound::Excluded(commit), Bound::Unbounded))
            .next()
            .map(|(_, value)| value)
    }
}

impl SledStore {
    /// Opens or makes the store in `dir`; sled follows `cache_bytes` only roughly.
    ///
    /// # Errors
    /// `Corrupt` if sled's files do not verify (as after a power cut), else `Io`.
    pub fn open(dir: &Path, cache_bytes: u64) -> FsResult<Self> {
        Self::open_with_limit(dir, cache_bytes, UNDO_RECORDS_MAX)
    }

    fn open_with_limit(dir: &Path, cache_bytes: u64, undo_records_max: usize) -> FsResult<Self> {
        let config = sled::Config::new()
            .path(dir)
            .cache_capacity(cache_bytes)
            // Every commit flushes by itself.
            .flush_every_ms(None);
        let deadline = Instant::now() + LOCK_WAIT;
        let database = loop {
            match config.open() {
                // sled's own threads free its lock a moment after the store was dropped.
                Err(sled::Error::Io(_)) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
                outcome => break outcome.map_err(|error| failure("opening", error))?,
            }
        };
        let tree = database
            .open_tree("meta")
            .map_err(|error| failure("opening", error))?;
        Ok(SledStore {
            shared: Arc::new(Shared {
                tree,
                _database: database,
                undo: RwLock::default(),
                undo_records_max,
            }),
            writer: Mutex::default(),
        })
    }
}

fn failure(doing: &str, error: sled::Error) -> FsError {
    let kind = match &error {
        sled::Error::Corruption { .. } => ErrorKind::Corrupt,
        sled::Error::Io(io) if io.kind() == std::io::ErrorKind::StorageFull => ErrorKind::NoSpace,
        _ => ErrorKind::Io,
    };
    FsError::new(kind, format!("{doing} the metadata store (sled): {error}"))
}

fn to_bytes(value: sled::IVec) -> Bytes {
    Bytes::copy_from_slice(&value)
}

impl Shared {
    fn get_at(&self, undo: &Undo, commit: u64, key: &[u8]) -> FsResult<Option<Bytes>> {
        if let Some(old) = undo
            .records
            .get(key)
            .and_then(|versions| Undo::old_value(versions, commit))
        {
            return Ok(old.clone());
        }
        let value = self.tree.get(key).map_err(|error| failure("reading", error))?;
        Ok(value.map(to_bytes))
    }

    fn scan_at(
        &self,
        undo: &Undo,
        commit: u64,
        start: &[u8],
        end: &[u8],
        limit: usize,
    ) -> FsResult<Vec<(Bytes, Bytes)>> {
        if start >= end || limit == 0 {
            return Ok(Vec::new());
        }
        let mut changed = undo
            .records
            .range::<[u8], _>((Bound::Included(start), Bound::Excluded(end)))
            .filter_map(|(key, versions)| Some((key, Undo::old_value(versions, commit)?)))
            .peekable();
        let mut current = self
            .tree
            .range::<&[u8], _>((Bound::Included(start), Bound::Excluded(end)))
            .map(|item| item.map_err(|error| failure("reading", error)))
            .peekable();
        let mut pairs = Vec::new();
        while pairs.len() < limit {
            // Undo records win over sled's value of the same key.
            let take_changed = match (changed.peek(), current.peek()) {
                (None, None) => break,
                (Some(_), None) => true,
                (None, Some(_)) => false,
                (Some(_), Some(Err(_))) => false,
                (Some((key, _)), Some(Ok((now, _)))) => key[..] <= now[..],
            };
            if take_changed {
                let Some((key, old)) = changed.next() else { break };
                if matches!(current.peek(), Some(Ok((now, _))) if now[..] == key[..]) {
                    current.next();
                }
                if let Some(value) = old {
                    pairs.push((key.clone(), value.clone()));
                }
            } else if let Some(item) = current.next() {
                let (key, value) = item?;
                pairs.push((to_bytes(key), to_bytes(value)));
            }
        }
        Ok(pairs)
    }
}

impl MetaRead for SledStore {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        let undo = self.shared.undo.read();
        self.shared.get_at(&undo, undo.visible, key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        let undo = self.shared.undo.read();
        self.shared.scan_at(&undo, undo.visible, start, end, limit)
    }
}

impl MetaStore for SledStore {
    fn commit(&self, batch: WriteBatch) -> FsResult<()> {
        let mut failed = self.writer.lock();
        if failed.is_some() {
            return Err(FsError::new(
                ErrorKind::Io,
                "an earlier write failed, so the metadata store (sled) takes no more until it is restarted",
            ));
        }
        if batch.changes.is_empty() {
            return Ok(());
        }
        let changes = batch.into_final_changes();
        let mut old = Vec::with_capacity(changes.len());
        for key in changes.keys() {
            let value = self
                .shared
                .tree
                .get(key)
                .map_err(|error| failure("reading", error))?;
            old.push(value.map(to_bytes));
        }
        let commit = {
            let mut undo = self.shared.undo.write();
            let commit = undo.visible + 1;
            for (key, old) in changes.keys().zip(old) {
                undo.records.entry(key.clone()).or_default().insert(commit, old);
            }
            undo.count += changes.len();
            undo.commits.insert(commit, changes.keys().cloned().collect());
            commit
        };
        let mut writes = sled::Batch::default();
        for (key, value) in changes {
            match value {
                Some(value) => writes.insert(&key[..], &value[..]),
                None => writes.remove(&key[..]),
            }
        }
        let outcome = self
            .shared
            .tree
            .apply_batch(writes)
            .and_then(|()| self.shared.tree.flush());
        if let Err(error) = outcome {
            // The undo records stay, so readers go on seeing the state before.
            *failed = Some(commit);
            return Err(failure("writing", error));
        }
        let mut undo = self.shared.undo.write();
        undo.visible = commit;
        while undo.count > self.shared.undo_records_max {
            let Some((oldest, _)) = undo.snapshots.range(undo.oldest_readable..).next() else {
                break;
            };
            undo.oldest_readable = oldest + 1;
            tracing::warn!(
                snapshot = undo.oldest_readable - 1,
                "snapshot given up: too many changes since it was taken"
            );
            undo.prune();
        }
        undo.prune();
        Ok(())
    }

    /// Synced all the same: what sled has not written yet does not survive the end of the process.
    fn commit_unsynced(&self, batch: WriteBatch) -> FsResult<()> {
        self.commit(batch)
    }
    fn persist(&self) -> FsResult<()> {
        let synced = self.shared.tree.flush();
        synced.map(drop).map_err(|error| failure("syncing", error))
    }
    fn snapshot(&self) -> FsResult<Box<dyn MetaRead>> {
        let mut undo = self.shared.undo.write();
        let commit = undo.visible;
        *undo.snapshots.entry(commit).or_default() += 1;
        Ok(Box::new(SledSnapshot {
            shared: self.shared.clone(),
            commit,
        }))
    }

    fn kind(&self) -> &'static str {
        "sled"
    }
}

struct SledSnapshot {
    shared: Arc<Shared>,
    commit: u64,
}

impl SledSnapshot {
    fn check(&self, undo: &Undo) -> FsResult<()> {
        if self.commit < undo.oldest_readable {
            return Err(FsError::new(
                ErrorKind::Busy,
                "this snapshot was given up because too much changed since it was taken: take a new one",
            ));
        }
        Ok(())
    }
}

impl MetaRead for SledSnapshot {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        let undo = self.shared.undo.read();
        self.check(&undo)?;
        self.shared.get_at(&undo, self.commit, key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        let undo = self.shared.undo.read();
        self.check(&undo)?;
        self.shared.scan_at(&undo, self.commit, start, end, limit)
    }
}

impl Drop for SledSnapshot {
    fn drop(&mut self) {
        let mut undo = self.shared.undo.write();
        if let Some(count) = undo.snapshots.get_mut(&self.commit) {
            *count -= 1;
            if *count == 0 {
                undo.snapshots.remove(&self.commit);
            }
        }
        undo.prune();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::put;

    #[test]
    fn forgotten_snapshot_is_given_up_and_commits_go_on() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open_with_limit(dir.path(), 1 << 20, 10).unwrap();
        store.commit(put(&[("k", "0")])).unwrap();
        let old = store.snapshot().unwrap();
        for round in 0..30 {
            let value = format!("{round}");
            store.commit(put(&[("k", &value), (&value, "x")])).unwrap();
        }
        assert_eq!(old.get(b"k").unwrap_err().kind(), ErrorKind::Busy);
        assert!(store.shared.undo.read().count <= 12);
        assert_eq!(store.get(b"k").unwrap().unwrap(), "29");
        let fresh = store.snapshot().unwrap();
        store.commit(put(&[("k", "new")])).unwrap();
        assert_eq!(fresh.get(b"k").unwrap().unwrap(), "29");
        drop((old, fresh));
        assert_eq!(store.shared.undo.read().count, 0);
    }
}
