//! What this client holds, by inode: for declaring it when the session is resumed, and for giving it up with the open file or
//! the process that it belongs to.

use crate::types::FileHandle;
use dfs_common::Ino;
use dfs_common::lock::{LockDeclaration, LockOwner, LockRange, LockSpec};
use std::collections::HashMap;

/// A lock and the open file that it was asked for through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) lock: LockSpec,
    pub(super) through: FileHandle,
}

/// The locks of all inodes. The ranges of one owner never overlap; the parts of one request stay apart from those of another, so
/// that each knows its open file.
#[derive(Default)]
pub(super) struct HeldLocks {
    by_inode: HashMap<Ino, Vec<Held>>,
}

impl HeldLocks {
    /// Puts a lock in the place of whatever its owner has of that range.
    pub(super) fn put(&mut self, ino: Ino, held: Held) {
        self.cut(ino, held.lock.owner, held.lock.range);
        self.by_inode.entry(ino).or_default().push(held);
    }

    /// A flock of another kind is about to be asked for: the coordinator gives up the one that its owner has, whatever comes of that.
    /// True if there was one.
    pub(super) fn forget_other_kind(&mut self, ino: Ino, lock: &LockSpec) -> bool {
        let had = self.any(ino, |held| {
            held.lock.owner == lock.owner && held.lock.kind != lock.kind
        });
        if had {
            self.cut(ino, lock.owner, LockRange::WHOLE);
        }
        had
    }

    /// Takes `range` out of what `owner` has. Answers what it had of the inode before.
    pub(super) fn cut(&mut self, ino: Ino, owner: LockOwner, range: LockRange) -> Vec<Held> {
        let Some(all) = self.by_inode.get_mut(&ino) else {
            return Vec::new();
        };
        let before: Vec<Held> = all
            .iter()
            .filter(|held| held.lock.owner == owner)
            .copied()
            .collect();
        all.retain(|held| held.lock.owner != owner);
        for held in &before {
            let left = held.lock.range.without(range);
            all.extend(left.into_iter().flatten().map(|range| Held {
                lock: LockSpec { range, ..held.lock },
                ..*held
            }));
        }
        if all.is_empty() {
            self.by_inode.remove(&ino);
        }
        before
    }

    /// Makes what `owner` has of the inode what it was before.
    pub(super) fn restore(&mut self, ino: Ino, owner: LockOwner, before: Vec<Held>) {
        self.cut(ino, owner, LockRange::WHOLE);
        if !before.is_empty() {
            self.by_inode.entry(ino).or_default().extend(before);
        }
    }

    /// Owners of locks of the inode of which `of` says yes, each once.
    pub(super) fn owners(&self, ino: Ino, of: impl Fn(&Held) -> bool) -> Vec<LockOwner> {
        let held = self.by_inode.get(&ino).into_iter().flatten();
        let mut owners: Vec<LockOwner> = held.filter(|held| of(held)).map(|held| held.lock.owner).collect();
        owners.sort_unstable();
        owners.dedup();
        owners
    }

    /// Everything, as it is declared.
    pub(super) fn declarations(&self) -> Vec<LockDeclaration> {
        let inodes = self.by_inode.iter();
        inodes
            .flat_map(|(ino, held)| {
                held.iter().map(|held| LockDeclaration {
                    ino: *ino,
                    lock: held.lock,
                })
            })
            .collect()
    }

    /// A declared lock is lost. Answers what it was.
    pub(super) fn lose(&mut self, lost: &LockDeclaration) -> Vec<Held> {
        let mut before = self.cut(lost.ino, lost.lock.owner, lost.lock.range);
        before.retain(|held| held.lock.range.overlaps(lost.lock.range));
        before
    }

    /// True if there is a lock of the inode of which `of` says yes.
    pub(super) fn any(&self, ino: Ino, of: impl Fn(&Held) -> bool) -> bool {
        self.by_inode.get(&ino).is_some_and(|held| held.iter().any(of))
    }

    /// Forgets what is held through an open file.
    pub(super) fn forget_through(&mut self, ino: Ino, handle: FileHandle) {
        if let Some(all) = self.by_inode.get_mut(&ino) {
            all.retain(|held| held.through != handle);
            if all.is_empty() {
                self.by_inode.remove(&ino);
            }
        }
    }

    /// Forgets everything. Answers it.
    pub(super) fn clear(&mut self) -> Vec<(Ino, Held)> {
        let all = self.by_inode.drain();
        all.flat_map(|(ino, held)| held.into_iter().map(move |held| (ino, held)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::lock::{LockKind, LockStyle};

    const INO: Ino = Ino(5);

    fn owner(number: u64) -> LockOwner {
        LockOwner {
            style: LockStyle::Process,
            number,
        }
    }

    fn held(number: u64, first: u64, last: u64, kind: LockKind, through: u64) -> Held {
        Held {
            lock: LockSpec {
                owner: owner(number),
                kind,
                range: range(first, last),
                pid: 1,
            },
            through: FileHandle(through),
        }
    }

    fn range(first: u64, last: u64) -> LockRange {
        LockRange::new(first, last).unwrap()
    }

    fn ranges(locks: &HeldLocks, number: u64) -> Vec<(u64, u64)> {
        let declared = locks.declarations();
        let own = declared
            .iter()
            .filter(|declared| declared.lock.owner == owner(number));
        let mut ranges: Vec<_> = own
            .map(|own| (own.lock.range.first(), own.lock.range.last()))
            .collect();
        ranges.sort_unstable();
        ranges
    }

    #[test]
    fn part_of_a_lock_is_given_up_and_the_others_of_the_inode_stay() {
        let mut locks = HeldLocks::default();
        locks.put(INO, held(1, 0, 99, LockKind::Shared, 1));
        locks.put(INO, held(2, 0, 99, LockKind::Shared, 2));
        let before = locks.cut(INO, owner(1), range(10, 19));
        assert_eq!(
            (ranges(&locks, 1), ranges(&locks, 2)),
            (vec![(0, 9), (20, 99)], vec![(0, 99)])
        );
        locks.restore(INO, owner(1), before);
        assert_eq!(ranges(&locks, 1), [(0, 99)]);
        locks.put(INO, held(1, 50, u64::MAX, LockKind::Exclusive, 3));
        assert_eq!(ranges(&locks, 1), [(0, 49), (50, u64::MAX)]);
        assert_eq!(
            locks.owners(INO, |held| held.through == FileHandle(3)),
            [owner(1)]
        );
        locks.cut(INO, owner(1), LockRange::WHOLE);
        locks.cut(INO, owner(2), LockRange::WHOLE);
        assert!(locks.by_inode.is_empty());
    }

    #[test]
    fn lost_lock_names_the_open_files_that_it_was_held_through() {
        let mut locks = HeldLocks::default();
        locks.put(INO, held(1, 0, 9, LockKind::Shared, 1));
        locks.put(INO, held(1, 10, 19, LockKind::Shared, 2));
        let lost = |first, last| LockDeclaration {
            ino: INO,
            lock: held(1, first, last, LockKind::Shared, 0).lock,
        };
        let through: Vec<_> = locks
            .lose(&lost(10, 19))
            .iter()
            .map(|held| held.through)
            .collect();
        assert_eq!(through, [FileHandle(2)]);
        let is_through = |handle| locks.any(INO, |held| held.through == handle);
        assert!(is_through(FileHandle(1)) && !is_through(FileHandle(2)));
        assert_eq!(ranges(&locks, 1), [(0, 9)]);
        assert_eq!(locks.clear().len(), 1);
        assert!(locks.declarations().is_empty());
    }
}
