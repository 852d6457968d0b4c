//! The locks of one inode while a part of a declaration is taken in: sorted by owner and place, so that many ranges of one file
//! cost their number times its logarithm, not its square.

use super::types::{Ask, Held, Owner};
use dfs_common::lock::LockRange;
use std::collections::{BTreeMap, HashMap};
use std::time::Instant;

/// What is held of one inode. The ranges of one owner never overlap, and neighbours of one kind are one.
pub(super) struct Sorted {
    /// By owner, then by the first byte.
    by_owner: HashMap<Owner, BTreeMap<u64, Held>>,
    /// Owners for which the list has to be written again: how many locks each had before.
    changed: HashMap<Owner, usize>,
}

/// The locks in `own` that overlap `range`, from the last one to the first.
fn overlapping(own: &BTreeMap<u64, Held>, range: LockRange) -> impl Iterator<Item = &Held> {
    own.range(..=range.last())
        .rev()
        .map(|(_, lock)| lock)
        .take_while(move |lock| lock.ask.range.overlaps(range))
}

impl Sorted {
    pub(super) fn of(held: &[Held]) -> Self {
        let mut by_owner: HashMap<Owner, BTreeMap<u64, Held>> = HashMap::new();
        for lock in held {
            let own = by_owner.entry(lock.ask.owner).or_default();
            own.insert(lock.ask.range.first(), *lock);
        }
        Sorted {
            by_owner,
            changed: HashMap::new(),
        }
    }

    /// True if the owner holds all of what it asks for, as that kind or stronger.
    pub(super) fn covers(&self, ask: &Ask) -> bool {
        let Some(own) = self.by_owner.get(&ask.owner) else {
            return false;
        };
        // Backwards: everything behind `end` is covered.
        let mut end = ask.range.last();
        for lock in overlapping(own, ask.range) {
            let range = lock.ask.range;
            if lock.ask.kind < ask.kind || range.last() < end {
                return false;
            }
            match range.first().checked_sub(1) {
                Some(before) if range.first() > ask.range.first() => end = before,
                _ => return true,
            }
        }
        false
    }

    /// True if another owner holds what conflicts with `ask`.
    pub(super) fn is_in_the_way(&self, ask: &Ask) -> bool {
        self.by_owner
            .iter()
            .filter(|(owner, _)| **owner != ask.owner)
            .any(|(_, own)| overlapping(own, ask.range).any(|lock| lock.ask.conflicts(ask)))
    }

    /// Puts a lock in the place of whatever its owner holds of that range, joined with its neighbours of the same kind.
    pub(super) fn put(&mut self, ask: Ask) {
        let own = self.by_owner.entry(ask.owner).or_default();
        self.changed.entry(ask.owner).or_insert(own.len());
        let replaced: Vec<Held> = overlapping(own, ask.range).copied().collect();
        for lock in replaced {
            own.remove(&lock.ask.range.first());
            for range in lock.ask.range.without(ask.range).into_iter().flatten() {
                let ask = Ask { range, ..lock.ask };
                own.insert(range.first(), Held { ask, ..lock });
            }
        }
        let (mut first, mut last) = (ask.range.first(), ask.range.last());
        let before = own.range(..first).next_back().map(|(_, lock)| lock.ask);
        if let Some(before) = before
            && before.kind == ask.kind
            && before.range.last().checked_add(1) == Some(first)
        {
            first = before.range.first();
            own.remove(&first);
        }
        let after = last
            .checked_add(1)
            .and_then(|next| own.get(&next))
            .map(|lock| lock.ask);
        if let Some(after) = after
            && after.kind == ask.kind
        {
            last = after.range.last();
            own.remove(&after.range.first());
        }
        let range = LockRange::new(first, last).unwrap_or(ask.range);
        let since = Instant::now();
        own.insert(
            first,
            Held {
                ask: Ask { range, ..ask },
                since,
            },
        );
    }

    /// How many locks each owner has more (or less) than in the list that this began with.
    pub(super) fn more(&self) -> impl Iterator<Item = (Owner, isize)> {
        self.changed.iter().map(|(owner, before)| {
            let now = self.by_owner.get(owner).map_or(0, BTreeMap::len);
            (*owner, now as isize - *before as isize)
        })
    }

    /// The list again.
    pub(super) fn into_held(self) -> Vec<Held> {
        let owners = self.by_owner.into_values();
        owners.flat_map(BTreeMap::into_values).collect()
    }
}
