//! When the writer thread's commits become durable, and what is known of those that a power cut took back.
//!
//! With [`Durability::Relaxed`] a group is answered when its commit would survive the end of the process; [`Persister`] has
//! everything synced within the delay. Commits become durable in their order. Invariants: each commit that is not synced by itself
//! has a number, which stands in the store since the commit itself, so that after a restart it is known which were kept; before
//! one gives inode numbers (or cursors, or map numbers), a durable record reserves them, so that a number that a client saw is never given
//! twice, even if the commit that gave it is lost.

use super::Applier;
use crate::namespace::txn::Txn;
use crate::namespace::{counters, keys};
use crate::store::{MetaRead, MetaStore};
use crate::stored;
use crate::worker::Worker;
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::clock::Clock;
use dfs_common::failpoint::{self, Failpoint};
use dfs_common::{CommitId, CommitPoint, Durability, ErrorKind, FsError, FsResult};
use dfs_proto::v1::StoredDurability;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;

/// Numbers that are reserved at once: a million entries are made for each sync that this costs.
const RESERVED_AT_ONCE: u64 = 1 << 20;
/// Starts whose last unsynced commit is remembered; a client that slept through more of them takes its commits for lost.
const EPOCHS_KEPT: u64 = 64;
/// The persister looks at least this often whether the durability was changed.
const LOOK_INTERVAL_MAX: Duration = Duration::from_millis(100);

struct Now {
    point: CommitPoint,
    durability: Durability,
    /// Monotonic time of the oldest commit that is not durable.
    oldest: Option<Duration>,
}

/// How far the store is, for everybody.
pub struct Progress {
    now: Mutex<Now>,
    clock: Arc<dyn Clock>,
    rollback_epoch: u64,
}

impl Progress {
    /// The last commit, and what is durable.
    pub fn point(&self) -> CommitPoint {
        self.now.lock().point
    }

    /// As it is set.
    pub fn durability(&self) -> Durability {
        self.now.lock().durability
    }

    /// The last start before which commits may have been lost; 0 is none.
    pub fn rollback_epoch(&self) -> u64 {
        self.rollback_epoch
    }

    fn synced(&self) -> CommitPoint {
        let mut now = self.now.lock();
        now.point.durable = now.point.last.number;
        now.oldest = None;
        now.point
    }

    fn unsynced(&self, number: u64) -> CommitPoint {
        let since = self.clock.monotonic();
        let mut now = self.now.lock();
        now.point.last.number = number;
        now.oldest.get_or_insert(since);
        now.point
    }

    /// Of `unsynced`'s epoch: commits up to the answer are kept. `u64::MAX` if that is now.
    pub(super) fn kept(&self, read: &dyn MetaRead, unsynced: Option<CommitId>) -> FsResult<u64> {
        match unsynced {
            Some(commit) if commit.epoch != self.point().last.epoch => {
                let number = read.get(&keys::unsynced(commit.epoch))?;
                number.map_or(Ok(0), |number| parse_number(&number))
            }
            _ => Ok(u64::MAX),
        }
    }
}

fn parse_number(value: &[u8]) -> FsResult<u64> {
    let number = value.try_into().map(u64::from_be_bytes);
    number.map_err(|_| {
        FsError::new(
            ErrorKind::Corrupt,
            "the number of a commit in the metadata store is damaged",
        )
    })
}

/// The writer thread's side.
pub struct Persistence {
    progress: Arc<Progress>,
    /// As it stands in the store.
    record: StoredDurability,
}

impl Persistence {
    /// Takes over a store that epoch `epoch` opened: what is in it becomes durable, and numbers that lost commits may have given
    /// are passed over.
    ///
    /// # Errors
    /// `Corrupt`, and those of the store.
    pub fn open(store: &dyn MetaStore, epoch: u64, clock: Arc<dyn Clock>) -> FsResult<Self> {
        let mut record = stored::durability(store)?;
        let durability = Durability::from_delay_ms(record.delay_ms)
            .map_err(|error| FsError::new(ErrorKind::Corrupt, error.message().to_string()))?;
        let mut txn = Txn::new(store);
        if record.numbers_reserved > 0 {
            tracing::warn!(
                "the coordinator did not end in good order: if its machine lost power, the last {} ms before are lost, but for what fsync confirmed",
                record.delay_ms
            );
            match counters::get(&txn) {
                Ok(mut counters) => {
                    counters.numbers_below = counters.numbers_below.max(record.numbers_reserved);
                    counters::put(&mut txn, &counters);
                    record.numbers_reserved = counters.numbers_below;
                }
                // A repair makes them again, above what is reserved.
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    tracing::error!(%error, "there are no totals: run dfs admin fsck --repair");
                }
                Err(error) => return Err(error),
            }
            record.rollback_epoch = epoch;
            stored::put_durability(&mut txn, &record);
        }
        let (start, _) = keys::unsynced_commits();
        for (key, _) in txn.scan(&start, &keys::unsynced(epoch.saturating_sub(EPOCHS_KEPT)), 1024)? {
            txn.delete(key);
        }
        // With it, changes or not, everything is durable that an earlier process left.
        store.commit(txn.into_batch())?;
        let point = CommitPoint {
            last: CommitId { epoch, number: 0 },
            durable: 0,
        };
        Ok(Persistence {
            progress: Arc::new(Progress {
                now: Mutex::new(Now {
                    point,
                    durability,
                    oldest: None,
                }),
                clock,
                rollback_epoch: record.rollback_epoch,
            }),
            record,
        })
    }

    /// What others see of it.
    pub fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    /// From the commit of this transaction on, which must be urgent; with a delay it reserves numbers anew.
    pub(super) fn set(&mut self, txn: &mut Txn<'_>, durability: Durability) {
        self.record.delay_ms = durability.delay_ms();
        self.record.numbers_reserved = 0;
        stored::put_durability(txn, &self.record);
        self.progress.now.lock().durability = durability;
    }

    pub(super) fn is_relaxed(&self) -> bool {
        self.record.delay_ms > 0
    }

    /// Commits a group; `urgent`: it and all before it are durable on return, whatever is set.
    ///
    /// # Errors
    /// Those of the store; the outcome is unknown then.
    pub(super) fn commit(
        &mut self,
        store: &dyn MetaStore,
        mut txn: Txn<'_>,
        urgent: bool,
    ) -> FsResult<CommitPoint> {
        let (mut sync, mut reserves) = (urgent || !self.is_relaxed(), false);
        if txn.is_empty() {
            return match sync && !self.progress.point().is_durable() {
                true => store.persist().map(|()| {
                    failpoint::reach(Failpoint::PersistAfterSync);
                    self.progress.synced()
                }),
                false => Ok(self.progress.point()),
            };
        }
        if self.is_relaxed() {
            let given = counters::get(&txn)?.numbers_below;
            if given > self.record.numbers_reserved {
                self.record.numbers_reserved = given.saturating_add(RESERVED_AT_ONCE);
                stored::put_durability(&mut txn, &self.record);
                (sync, reserves) = (true, true);
            }
        }
        if sync {
            store.commit(txn.into_batch())?;
            if reserves {
                failpoint::reach(Failpoint::ReserveAfterStore);
            }
            return Ok(self.progress.synced());
        }
        let CommitId { epoch, number } = self.progress.point().last;
        let number = number + 1;
        txn.put(
            keys::unsynced(epoch),
            Bytes::copy_from_slice(&number.to_be_bytes()),
        );
        // Before anybody can see it: who sees it and syncs must not be told that all is durable.
        let point = self.progress.unsynced(number);
        store.commit_unsynced(txn.into_batch())?;
        failpoint::reach(Failpoint::CommitAfterAppend);
        Ok(point)
    }

    /// The last thing that is written: everything is durable, and the next start knows that nothing was lost.
    pub(super) fn close(&mut self, store: &dyn MetaStore) -> FsResult<()> {
        let mut txn = Txn::new(store);
        if self.record.numbers_reserved > 0 {
            self.record.numbers_reserved = 0;
            stored::put_durability(&mut txn, &self.record);
        }
        store.commit(txn.into_batch())?;
        self.progress.synced();
        Ok(())
    }
}

/// Has everything synced that is older than the delay.
pub struct Persister {
    progress: Arc<Progress>,
    applier: Arc<Applier>,
    syncs: Mutex<u64>,
}

impl Persister {
    /// Of the applier's commits.
    pub fn new(progress: Arc<Progress>, applier: Arc<Applier>) -> Self {
        Persister {
            progress,
            applier,
            syncs: Mutex::new(0),
        }
    }
}

#[async_trait]
impl Worker for Persister {
    fn name(&self) -> &'static str {
        "persister"
    }
    fn status(&self) -> String {
        let CommitPoint { last, durable } = self.progress.point();
        format!(
            "{}: {} commits are not durable yet, {} syncs",
            self.progress.durability(),
            last.number - durable,
            self.syncs.lock()
        )
    }
    async fn step(&self) -> Duration {
        let (delay, oldest) = {
            let now = self.progress.now.lock();
            (Duration::from_millis(now.durability.delay_ms()), now.oldest)
        };
        let look = match delay {
            Duration::ZERO => LOOK_INTERVAL_MAX,
            delay => delay.min(LOOK_INTERVAL_MAX),
        };
        let Some(oldest) = oldest else { return look };
        let age = self.progress.clock.monotonic().saturating_sub(oldest);
        if age < delay {
            return look.min(delay - age);
        }
        match self.applier.barrier().await {
            Ok(()) => *self.syncs.lock() += 1,
            Err(error) => tracing::warn!(%error, "commits could not be synced"),
        }
        look
    }
}

#[cfg(test)]
mod tests;
