//! Acknowledged changes that are not durable yet, and those of them that turn out to be lost.
//!
//! The coordinator may answer a change before its store is synced ([`dfs_common::Durability`]). Should its machine lose power before
//! that, it says when the session is resumed which commits it kept, and an fsync of an inode that a later one changed fails: it must not
//! confirm what is not there any more (invariant I8). Bounded: above [`INODES_MAX`] durable answers are asked for.

use dfs_common::{CommitId, CommitPoint, ErrorKind, FsError, FsResult, Ino};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Changed inodes remembered, the same one counted for each commit.
const INODES_MAX: usize = 64 << 10;
/// For how long a loss is told. Who waited for the coordinator asks at once; who asks later has looked again, or did not care.
const TOLD_FOR: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
struct Loss {
    /// Counts the losses of this client.
    number: u64,
    since: Instant,
}

#[derive(Default)]
struct Inner {
    /// Of the coordinator that the session was opened or resumed at.
    epoch: u64,
    /// Commits that are not known to be durable, and the inodes that they changed.
    commits: BTreeMap<CommitId, Vec<Ino>>,
    /// Inodes of all of them.
    inodes: usize,
    /// An ended epoch, and its last commit that was kept.
    ended: Option<CommitId>,
    losses: u64,
    lost: HashMap<Ino, Loss>,
}

impl Inner {
    /// Takes the commits up to `last` away.
    fn take_through(&mut self, last: CommitId) -> BTreeMap<CommitId, Vec<Ino>> {
        let next = CommitId {
            number: last.number.saturating_add(1),
            ..last
        };
        let later = self.commits.split_off(&next);
        let taken = std::mem::replace(&mut self.commits, later);
        self.inodes -= taken.values().map(Vec::len).sum::<usize>();
        taken
    }

    fn lose(&mut self, inos: impl IntoIterator<Item = Ino>) {
        let now = Instant::now();
        self.lost
            .retain(|_, loss| now.duration_since(loss.since) < TOLD_FOR);
        self.losses += 1;
        let loss = Loss {
            number: self.losses,
            since: now,
        };
        self.lost.extend(inos.into_iter().map(|ino| (ino, loss)));
    }
}

/// See the module.
#[derive(Default)]
pub(crate) struct Unsynced {
    inner: Mutex<Inner>,
}

impl Unsynced {
    /// For a session that was opened at a coordinator of this epoch.
    pub(crate) fn new(epoch: u64) -> Self {
        let unsynced = Unsynced::default();
        unsynced.inner.lock().epoch = epoch;
        unsynced
    }

    /// A change of `inos` was answered, by a coordinator that the session was resumed at, or by one before.
    pub(crate) fn answered(&self, point: &CommitPoint, inos: impl FnOnce() -> Vec<Ino>) {
        let mut inner = self.inner.lock();
        if point.last.epoch < inner.epoch {
            // The answer of an ended epoch, met late.
            let kept = |ended: CommitId| ended.epoch == point.last.epoch && point.last.number <= ended.number;
            if !point.is_durable() && !inner.ended.is_some_and(kept) {
                inner.lose(inos());
            }
            return;
        }
        inner.take_through(CommitId {
            number: point.durable,
            ..point.last
        });
        if !point.is_durable() {
            let inos = inos();
            inner.inodes += inos.len();
            inner.commits.entry(point.last).or_default().extend(inos);
        }
    }

    /// True if answers must be durable, for too much is remembered.
    pub(crate) fn is_full(&self) -> bool {
        self.inner.lock().inodes >= INODES_MAX
    }

    /// The last commit that may be lost; its number is 0 if none may.
    pub(crate) fn last(&self) -> CommitId {
        let inner = self.inner.lock();
        let none = CommitId {
            epoch: inner.epoch,
            number: 0,
        };
        inner.commits.last_key_value().map_or(none, |(last, _)| *last)
    }

    /// The session goes on at a coordinator of `epoch`, which kept the commits up to `kept` of the epoch before. Answers the number of
    /// inodes with lost changes.
    pub(crate) fn resumed(&self, epoch: u64, kept: u64) -> usize {
        let mut inner = self.inner.lock();
        if epoch == inner.epoch {
            return 0;
        }
        let kept = CommitId {
            epoch: inner.epoch,
            number: kept,
        };
        inner.ended = Some(kept);
        inner.epoch = epoch;
        inner.take_through(kept);
        let lost = std::mem::take(&mut inner.commits);
        inner.inodes = 0;
        let lost: Vec<Ino> = lost.into_values().flatten().collect();
        let count = lost.len();
        if count > 0 {
            inner.lose(lost);
        }
        count
    }

    /// # Errors
    /// `Io`: changes of `ino` are lost, and `seen` does not know. It does from now on.
    pub(crate) fn report(&self, ino: Ino, seen: &AtomicU64) -> FsResult<()> {
        let loss = self.inner.lock().lost.get(&ino).copied();
        match loss {
            Some(loss)
                if loss.since.elapsed() < TOLD_FOR
                    && seen.fetch_max(loss.number, Ordering::SeqCst) < loss.number =>
            {
                Err(FsError::new(
                    ErrorKind::Io,
                    "the coordinator lost power before changes of this file were synced: they are lost",
                ))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(epoch: u64, number: u64, durable: u64) -> CommitPoint {
        CommitPoint {
            last: CommitId { epoch, number },
            durable,
        }
    }

    fn answered(unsynced: &Unsynced, at: CommitPoint, ino: u64) {
        unsynced.answered(&at, || vec![Ino(ino)]);
    }

    fn is_lost(unsynced: &Unsynced, ino: u64) -> bool {
        let told = unsynced.report(Ino(ino), &AtomicU64::new(0));
        told.is_err_and(|error| error.kind() == ErrorKind::Io)
    }

    #[test]
    fn fsync_fails_for_what_was_lost_and_for_nothing_else_once_per_handle() {
        let unsynced = Unsynced::new(3);
        answered(&unsynced, point(3, 1, 0), 11);
        answered(&unsynced, point(3, 2, 0), 12);
        answered(&unsynced, point(3, 4, 1), 14);
        // Answers overtake each other.
        answered(&unsynced, point(3, 3, 0), 13);
        assert_eq!(unsynced.last(), CommitId { epoch: 3, number: 4 });
        // A connection was lost, no coordinator.
        assert_eq!(unsynced.resumed(3, u64::MAX), 0);
        assert_eq!(unsynced.resumed(4, 2), 2);
        let lost = [11, 12, 13, 14].map(|ino| is_lost(&unsynced, ino));
        assert_eq!(lost, [false, false, true, true]);
        let handles = [AtomicU64::new(0), AtomicU64::new(0)];
        for handle in &handles {
            unsynced.report(Ino(13), handle).unwrap_err();
            unsynced.report(Ino(13), handle).unwrap();
        }
        assert_eq!(unsynced.last(), CommitId { epoch: 4, number: 0 });
        // Another loss is told again.
        answered(&unsynced, point(4, 1, 0), 13);
        assert_eq!(unsynced.resumed(5, 0), 1);
        unsynced.report(Ino(13), &handles[0]).unwrap_err();
    }

    #[test]
    fn durable_answers_leave_nothing_to_lose() {
        let unsynced = Unsynced::new(1);
        answered(&unsynced, point(1, 1, 0), 11);
        answered(&unsynced, point(1, 2, 1), 12);
        assert_eq!(unsynced.inner.lock().commits.len(), 1);
        assert_eq!(unsynced.inner.lock().inodes, 1);
        answered(&unsynced, point(1, 2, 2), 13);
        assert_eq!((unsynced.last().number, unsynced.inner.lock().inodes), (0, 0));
        assert_eq!(unsynced.resumed(2, 0), 0);
    }

    #[test]
    fn late_answer_of_an_ended_epoch_is_lost_unless_its_commit_was_kept() {
        let unsynced = Unsynced::new(1);
        unsynced.resumed(2, 5);
        answered(&unsynced, point(1, 5, 0), 15);
        answered(&unsynced, point(1, 6, 0), 16);
        answered(&unsynced, point(1, 9, 9), 19);
        let lost = [15, 16, 19].map(|ino| is_lost(&unsynced, ino));
        assert_eq!(lost, [false, true, false]);
        unsynced.resumed(3, u64::MAX);
        answered(&unsynced, point(1, 1, 0), 11);
        assert!(is_lost(&unsynced, 11));
    }

    #[test]
    fn durable_answers_are_asked_for_when_too_much_is_remembered() {
        let unsynced = Unsynced::new(1);
        for number in 1..=64 {
            assert!(!unsynced.is_full());
            unsynced.answered(&point(1, number, 0), || (0..1024).map(Ino).collect());
        }
        assert!(unsynced.is_full());
        answered(&unsynced, point(1, 64, 64), 1);
        assert!(!unsynced.is_full());
    }
}
