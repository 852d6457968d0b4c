//! The default store: fjall, a log-structured merge tree in one keyspace named `meta`.
//!
//! A commit appends the batch to fjall's journal and, unless it may be synced later, syncs it before any reader can see it. After a failed sync fjall
//! refuses all further commits until it is opened again, so a batch of unknown fate is never acknowledged. Every read
//! uses a fjall snapshot: without one, a scan could see half of a batch that is being applied. What a crash left of its journals is looked at
//! before fjall does ([`recovery`]).

mod ahead;
mod journal;
mod recovery;
mod synced;

use super::{MetaRead, MetaStore, WriteBatch};
use ::fjall::config::PartitioningPolicy;
use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, Snapshot};
use ahead::ZerosAhead;
use bytes::Bytes;
use dfs_common::{ErrorKind, FsError, FsResult};
use parking_lot::Mutex;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::{Duration, Instant};
use synced::SyncedMark;

/// Bytes that gather in memory before they are written as a table. fjall holds writers up at five of them, so five times this, and what a skip
/// list takes beside, is what writing costs in memory; a restart replays as much.
const MEMTABLE_BYTES_MAX: u64 = 8 << 20;
/// Threads that flush and compact. The first of fjall's only flushes, and puts each compaction that it is given back in the queue: with one other
/// it does so without a pause, on a processor of its own, for as long as the other one compacts. The third takes those, and finds nothing to do.
const WORKERS: usize = 3;
/// Journal files kept on disk at most.
const JOURNAL_BYTES_MAX: u64 = 256 << 20;

/// `fdatasync`: content, and of the file's own data what it takes to read that. Times are not worth a commit of the file system's journal.
const SYNC: PersistMode = PersistMode::SyncData;

/// How long opening waits for fjall's lock, and between two attempts.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// fjall as a [`MetaStore`]; survives a power cut.
pub struct FjallStore {
    // Declared before the database: handles go first when the store is dropped.
    meta: Keyspace,
    database: Database,
    journal: Mutex<Journal>,
}

/// What goes with the journal. Also the right to write: numbers of batches are known to whoever has it.
struct Journal {
    mark: SyncedMark,
    ahead: ZerosAhead,
}

/// Keeps others out while the journals are looked at. fjall takes the same lock then, and whoever has it first looks first.
///
/// # Errors
/// `Busy`, `Io`.
fn lock(dir: &Path) -> FsResult<Option<File>> {
    let path = dir.join("lock");
    let file = match File::options().write(true).open(&path) {
        Ok(file) => file,
        // Nothing was ever written here.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FsError::from(error).context(format_args!("opening {}", path.display()))),
    };
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            // fjall's own threads free its lock a moment after the store was dropped.
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => std::thread::sleep(LOCK_RETRY),
            Err(TryLockError::WouldBlock) => return Err(failure("opening", ::fjall::Error::Locked)),
            Err(TryLockError::Error(error)) => return Err(failure("opening", ::fjall::Error::Io(error))),
        }
    }
}

impl FjallStore {
    /// Opens or makes the store in `dir`, with a block cache of `cache_bytes`.
    ///
    /// # Errors
    /// `Io` if the files cannot be read or written, `Busy` if another process has them; `Corrupt` if they do not verify, unless that is the end of
    /// a write that a crash cut short, which is cut off.
    pub fn open(dir: &Path, cache_bytes: u64) -> FsResult<Self> {
        let mut synced = None;
        if let Some(_lock) = lock(dir)? {
            synced = synced::read(dir)?;
            recovery::repair(dir, synced)?;
        }
        let database = Database::builder(dir)
            .cache_size(cache_bytes)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(WORKERS)
            .open()
            .map_err(|error| failure("opening", error))?;
        let meta = database
            .keyspace("meta", || {
                KeyspaceCreateOptions::default()
                    .max_memtable_size(MEMTABLE_BYTES_MAX)
                    .filter_block_partitioning_policy(partitioned())
                    .index_block_partitioning_policy(partitioned())
            })
            .map_err(|error| failure("opening", error))?;
        // Numbers are given from here on: what was synced before must not speak for them.
        let below = database.seqno();
        let mark = SyncedMark::create(dir, synced.unwrap_or(0).min(below.saturating_sub(1)))?;
        Ok(FjallStore {
            meta,
            database,
            journal: Mutex::new(Journal {
                mark,
                ahead: ZerosAhead::new(dir),
            }),
        })
    }

    fn view(&self) -> FjallView {
        FjallView {
            snapshot: self.database.snapshot(),
            meta: self.meta.clone(),
        }
    }
}

/// Filters and indexes are read in blocks of 4 KiB, except for the youngest tables, which keep theirs in memory. Whole, a table's filter is as
/// large as a megabyte: a cache that cannot hold all of them would read one for nearly every key.
fn partitioned() -> PartitioningPolicy {
    PartitioningPolicy::new([false, true])
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
        let mut journal = self.journal.lock();
        journal.ahead.before(journal::bytes_of(&batch));
        let mut writes = self.database.batch().durability(Some(mode));
        if mode == PersistMode::Buffer {
            // Never there: only the journal tells of it.
            writes.remove(&self.meta, journal::UNSYNCED_KEY);
        }
        // One change per key: fjall gives all items of a batch the same sequence number.
        for (key, value) in batch.into_final_changes() {
            match value {
                Some(value) => writes.insert(&self.meta, &key[..], &value[..]),
                None => writes.remove(&self.meta, &key[..]),
            }
        }
        // fjall may take numbers for itself meanwhile, so the batch's own is this one or a later one.
        let seqno = self.database.seqno();
        writes.commit().map_err(|error| failure("writing", error))?;
        journal.mark.written(seqno);
        if mode != PersistMode::Buffer {
            journal.mark.synced();
        }
        Ok(())
    }
}

impl MetaStore for FjallStore {
    fn commit(&self, batch: WriteBatch) -> FsResult<()> {
        self.write(batch, SYNC)
    }
    fn commit_unsynced(&self, batch: WriteBatch) -> FsResult<()> {
        self.write(batch, PersistMode::Buffer)
    }
    fn persist(&self) -> FsResult<()> {
        let mut journal = self.journal.lock();
        let synced = self.database.persist(SYNC);
        synced.map_err(|error| failure("syncing", error))?;
        journal.mark.synced();
        Ok(())
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
mod tests;
