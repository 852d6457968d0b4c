//! Who waits for whom, across all inodes. An owner waits for those who hold what one of its requests conflicts with, and (by
//! the rule of first come, first served) for those who came earlier and conflict with it.

use super::state::Inner;
use super::types::Owner;
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
    from: impl IntoIterator<Item = Owner>,
    edges: Edges,
) -> HashSet<Owner> {
    let mut open: Vec<Owner> = from.into_iter().collect();
    let mut seen: HashSet<Owner> = HashSet::new();
    while let Some(owner) = open.pop() {
        if !seen.insert(owner) {
            continue;
        }
        for (number, ino, ask) in inner.waits_of(owner) {
            let Some(inode) = inner.by_inode.get(&ino) else {
                continue;
            };
            open.extend(inner.in_the_way(ino, &ask).map(|lock| lock.ask.owner));
            if edges == Edges::HoldersAndQueues {
                let ahead = inode
                    .waiting
                    .iter()
                    .take_while(|wait| !wait.is(owner.session, number));
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
