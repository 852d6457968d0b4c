//! The ranges of one owner in the list of an inode's locks: they never overlap, and neighbours of one kind are one.

use super::types::{Ask, Held, Owner};
use dfs_common::lock::{LockKind, LockRange};

/// Takes `range` out of what `owner` holds, splitting what reaches beyond it. Answers how many locks there are more (or less).
pub(super) fn cut(held: &mut Vec<Held>, owner: Owner, range: LockRange) -> isize {
    let before = held.len();
    let mut kept = Vec::with_capacity(before + 1);
    for lock in held.drain(..) {
        if lock.ask.owner != owner || !lock.ask.range.overlaps(range) {
            kept.push(lock);
            continue;
        }
        let left = lock.ask.range.without(range).into_iter().flatten();
        kept.extend(left.map(|range| Held {
            ask: Ask { range, ..lock.ask },
            ..lock
        }));
    }
    *held = kept;
    held.len() as isize - before as isize
}

/// Puts a lock in the place of whatever its owner holds of that range, joined with its neighbours of the same kind.
/// Answers how many locks there are more (or less).
pub(super) fn put(held: &mut Vec<Held>, mut lock: Held) -> isize {
    let before = held.len();
    cut(held, lock.ask.owner, lock.ask.range);
    let (mut first, mut last) = (lock.ask.range.first(), lock.ask.range.last());
    held.retain(|other| {
        let same = other.ask.owner == lock.ask.owner && other.ask.kind == lock.ask.kind;
        let touches = same
            && (other.ask.range.last().checked_add(1) == Some(lock.ask.range.first())
                || lock.ask.range.last().checked_add(1) == Some(other.ask.range.first()));
        if touches {
            first = first.min(other.ask.range.first());
            last = last.max(other.ask.range.last());
        }
        !touches
    });
    if let Ok(range) = LockRange::new(first, last) {
        lock.ask.range = range;
    }
    held.push(lock);
    held.len() as isize - before as isize
}

/// True if `owner` holds all of `range`, as `kind` or stronger.
pub(super) fn covers(held: &[Held], owner: Owner, kind: LockKind, range: LockRange) -> bool {
    let mut own: Vec<LockRange> = held
        .iter()
        .filter(|lock| lock.ask.owner == owner && lock.ask.kind >= kind && lock.ask.range.overlaps(range))
        .map(|lock| lock.ask.range)
        .collect();
    own.sort_by_key(|range| range.first());
    let mut next = range.first();
    for part in own {
        if part.first() > next {
            return false;
        }
        match part.last().checked_add(1) {
            Some(after) if part.last() < range.last() => next = next.max(after),
            _ => return true,
        }
    }
    false
}
