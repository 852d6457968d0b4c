//! Who waits for whom, across all inodes. An owner waits for those who hold what one of its requests conflicts with, and (by
//! the rule of first come, first served) for those who came earlier and conflict with it.

use super::state::Inner;
use super::types::{Ask, LockOwner, Waiting};
use dfs_common::Ino;
use std::collections::HashSet;

/// Which edges count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Edges {
    /// Only locks that are held: a circle of these never resolves.
    Holders,
    /// Places in queues as well: a circle with one of these resolves when somebody is let pass.
    HoldersAndQueues,
}

/// All owners that those in `from` wait for, directly or not, and themselves.
pub(super) fn reachable(
    inner: &Inner,
    from: impl IntoIterator<Item = LockOwner>,
    edges: Edges,
) -> HashSet<LockOwner> {
    let mut open: Vec<LockOwner> = from.into_iter().collect();
    let mut seen: HashSet<LockOwner> = HashSet::new();
    while let Some(owner) = open.pop() {
        if !seen.insert(owner) {
            continue;
        }
        for (number, ino, ask) in inner.waits_of(owner) {
            let Some(inode) = inner.by_inode.get(&ino) else {
                continue;
            };
            let holders = inode.held.iter().map(|lock| lock.ask);
            open.extend(holders.filter(|held| held.conflicts(&ask)).map(|held| held.owner));
            if edges == Edges::HoldersAndQueues {
                let place =
                    |wait: &&Waiting| wait.ask.owner.session != owner.session || wait.number != number;
                let ahead = inode.waiting.iter().take_while(place);
                open.extend(
                    ahead
                        .filter(|wait| wait.ask.conflicts(&ask))
                        .map(|wait| wait.ask.owner),
                );
            }
        }
    }
    seen
}

/// Those who hold what conflicts with `ask`.
pub(super) fn holders(inner: &Inner, ino: Ino, ask: &Ask) -> Vec<LockOwner> {
    let held = inner.by_inode.get(&ino).map_or(&[][..], |inode| &inode.held[..]);
    let conflicting = held.iter().filter(|lock| lock.ask.conflicts(ask));
    conflicting.map(|lock| lock.ask.owner).collect()
}
