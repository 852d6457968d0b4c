//! Acknowledged changes that are not durable yet, and those of them that turn out to be lost.
//!
//! The coordinator may answer a change before its store is synced ([`dfs_common::Durability`]). Should its machine lose power before
//! that, it says when the session is resumed which commits it kept, and the next fsync of an inode that a later one changed fails: an
//! fsync must not confirm what is not there any more (invariant I8).

use dfs_common::{CommitId, CommitPoint, ErrorKind, FsError, FsResult, Ino};
use parking_lot::Mutex;
use std::collections::{BTreeMap, HashSet};

/// Commits remembered; from there on answers are asked for that are durable.
const COMMITS_MAX: usize = 64 << 10;

#[derive(Default)]
struct Inner {
    /// Of the coordinator that the session was opened or resumed at.
    epoch: u64,
    /// Commits of this epoch that are not known to be durable, and the inodes that they changed.
    commits: BTreeMap<u64, Vec<Ino>>,
    /// An ended epoch, and its last commit that was kept.
    ended: Option<CommitId>,
    /// Inodes with lost changes that no fsync has reported.
    lost: HashSet<Ino>,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Unsynced {
    inner: Mutex<Inner>,
}

fn error() -> FsError {
    FsError::new(
        ErrorKind::Io,
        "the coordinator lost power before changes of this file were synced: they are lost",
    )
}

impl Unsynced {
    /// For a session that was opened at a coordinator of this epoch.
    pub(crate) fn new(epoch: u64) -> Self {
        let unsynced = Unsynced::default();
        unsynced.inner.lock().epoch = epoch;
        unsynced
    }

    /// A change of `inos` was answered.
    pub(crate) fn answered(&self, point: &CommitPoint, inos: impl FnOnce() -> Vec<Ino>) {
        let mut inner = self.inner.lock();
        if point.last.epoch < inner.epoch {
            // The answer of an ended epoch, met late.
            let kept = |ended: CommitId| ended.epoch == point.last.epoch && point.last.number <= ended.number;
            if !point.is_durable() && !inner.ended.is_some_and(kept) {
                inner.lost.extend(inos());
            }
            return;
        }
        if point.last.epoch == inner.epoch {
            inner.commits = match point.durable.checked_add(1) {
                Some(next) => inner.commits.split_off(&next),
                None => BTreeMap::new(),
            };
        }
        if !point.is_durable() {
            inner.commits.entry(point.last.number).or_default().extend(inos());
        }
    }

    /// True if answers must be durable, for too much is remembered.
    pub(crate) fn is_full(&self) -> bool {
        self.inner.lock().commits.len() >= COMMITS_MAX
    }

    /// The last commit that may be lost; its number is 0 if none may.
    pub(crate) fn last(&self) -> CommitId {
        let inner = self.inner.lock();
        CommitId {
            epoch: inner.epoch,
            number: inner.commits.last_key_value().map_or(0, |(number, _)| *number),
        }
    }

    /// The session goes on at a coordinator of `epoch`, which kept the commits up to `kept` of the epoch before. Answers the inodes
    /// with lost changes.
    pub(crate) fn resumed(&self, epoch: u64, kept: u64) -> Vec<Ino> {
        let mut inner = self.inner.lock();
        if epoch == inner.epoch {
            return Vec::new();
        }
        inner.ended = Some(CommitId {
            epoch: inner.epoch,
            number: kept,
        });
        inner.epoch = epoch;
        let commits = std::mem::take(&mut inner.commits);
        let lost = commits.into_iter().filter(|(number, _)| *number > kept);
        let lost: Vec<Ino> = lost.flat_map(|(_, inos)| inos).collect();
        inner.lost.extend(&lost);
        lost
    }

    /// # Errors
    /// `Io`, once: changes of `ino` are lost.
    pub(crate) fn report(&self, ino: Ino) -> FsResult<()> {
        match self.inner.lock().lost.remove(&ino) {
            true => Err(error()),
            false => Ok(()),
        }
    }

    /// What the open files of lost changes report.
    pub(crate) fn error(&self) -> FsError {
        error()
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

    #[test]
    fn fsync_fails_once_for_what_was_lost_and_for_nothing_else() {
        let unsynced = Unsynced::new(3);
        answered(&unsynced, point(3, 1, 0), 11);
        answered(&unsynced, point(3, 2, 0), 12);
        answered(&unsynced, point(3, 4, 1), 14);
        // Answers overtake each other.
        answered(&unsynced, point(3, 3, 0), 13);
        assert_eq!(unsynced.last(), CommitId { epoch: 3, number: 4 });
        // A connection was lost, no coordinator.
        assert!(unsynced.resumed(3, u64::MAX).is_empty());
        assert_eq!(unsynced.resumed(4, 2), [Ino(13), Ino(14)]);
        for ino in [11, 12] {
            unsynced.report(Ino(ino)).unwrap();
        }
        for ino in [13, 14] {
            assert_eq!(unsynced.report(Ino(ino)).unwrap_err().kind(), ErrorKind::Io);
            unsynced.report(Ino(ino)).unwrap();
        }
        assert_eq!(unsynced.last(), CommitId { epoch: 4, number: 0 });
    }

    #[test]
    fn durable_answers_leave_nothing_to_lose() {
        let unsynced = Unsynced::new(1);
        answered(&unsynced, point(1, 1, 0), 11);
        answered(&unsynced, point(1, 2, 1), 12);
        assert_eq!(unsynced.inner.lock().commits.len(), 1);
        answered(&unsynced, point(1, 2, 2), 13);
        assert_eq!(unsynced.last().number, 0);
        assert!(unsynced.resumed(2, 0).is_empty());
    }

    #[test]
    fn late_answer_of_an_ended_epoch_is_lost_unless_its_commit_was_kept() {
        let unsynced = Unsynced::new(1);
        unsynced.resumed(2, 5);
        answered(&unsynced, point(1, 5, 0), 15);
        answered(&unsynced, point(1, 6, 0), 16);
        answered(&unsynced, point(1, 9, 9), 19);
        unsynced.report(Ino(15)).unwrap();
        unsynced.report(Ino(19)).unwrap();
        unsynced.report(Ino(16)).unwrap_err();
        unsynced.resumed(3, u64::MAX);
        answered(&unsynced, point(1, 1, 0), 11);
        unsynced.report(Ino(11)).unwrap_err();
    }
}
