//! What the coordinator is told of the chunks here: the whole inventory once per registration, changes after that.
//!
//! Invariant: what a heartbeat reported stays queued until that heartbeat is acknowledged; when the queue overflows, the whole
//! inventory is reported again, so nothing is ever missed. A chunk may be reported twice.

use crate::store::ChunkStore;
use dfs_common::limits::{HEARTBEAT_INVENTORY_MAX, INVENTORY_PENDING_MAX};
use dfs_common::{ChunkId, FsResult};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A change of the inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// The chunk is here now.
    Added(ChunkId),
    /// The chunk is gone.
    Removed(ChunkId),
}

/// Where the listing of the whole inventory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listing {
    /// Everything up to this chunk was reported.
    Behind(Option<ChunkId>),
    /// Everything was reported.
    Done,
}

#[derive(Debug)]
struct Queue {
    changes: VecDeque<Change>,
    listing: Listing,
    /// Grows when the queue is emptied or the listing begins anew: a report taken before is void.
    generation: u64,
}

/// Changes that wait for a heartbeat.
#[derive(Debug)]
pub struct Inventory {
    queue: Mutex<Queue>,
}

/// What one heartbeat says.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Chunks that are here; at most [`HEARTBEAT_INVENTORY_MAX`].
    pub added: Vec<ChunkId>,
    /// Chunks that are gone; at most [`HEARTBEAT_INVENTORY_MAX`].
    pub removed: Vec<ChunkId>,
    changes: usize,
    listing: Option<Listing>,
    generation: u64,
}

impl Default for Inventory {
    /// With the whole inventory still to report.
    fn default() -> Self {
        Inventory {
            queue: Mutex::new(Queue {
                changes: VecDeque::new(),
                listing: Listing::Behind(None),
                generation: 0,
            }),
        }
    }
}

impl Inventory {
    /// Queues a change. Call it after the store's index has it.
    pub fn push(&self, change: Change) {
        let mut queue = self.queue.lock();
        if queue.changes.len() >= INVENTORY_PENDING_MAX {
            queue.restart();
        }
        queue.changes.push_back(change);
    }

    /// Reports the whole inventory again: the coordinator may not know it.
    pub fn restart(&self) {
        self.queue.lock().restart();
    }

    /// True when nothing waits.
    pub fn is_settled(&self) -> bool {
        let queue = self.queue.lock();
        queue.changes.is_empty() && queue.listing == Listing::Done
    }

    /// True when the whole inventory was reported and acknowledged since it was last begun; changes may wait.
    pub fn is_complete(&self) -> bool {
        self.queue.lock().listing == Listing::Done
    }

    /// The next report, which stays queued until [`Inventory::acknowledge`].
    pub async fn report(&self, store: &dyn ChunkStore) -> FsResult<Report> {
        let (mut report, listing) = {
            let queue = self.queue.lock();
            // Of a chunk that came and went the last change is said: a report has no order.
            let mut present: BTreeMap<ChunkId, bool> = BTreeMap::new();
            for change in queue.changes.iter().take(HEARTBEAT_INVENTORY_MAX) {
                match change {
                    Change::Added(chunk) => present.insert(*chunk, true),
                    Change::Removed(chunk) => present.insert(*chunk, false),
                };
            }
            let chunks = |here: bool| {
                let of_these = present.iter().filter(move |(_, present)| **present == here);
                of_these.map(|(chunk, _)| *chunk).collect()
            };
            let report = Report {
                added: chunks(true),
                removed: chunks(false),
                changes: queue.changes.len().min(HEARTBEAT_INVENTORY_MAX),
                listing: None,
                generation: queue.generation,
            };
            (report, queue.listing)
        };
        let room = HEARTBEAT_INVENTORY_MAX - report.changes;
        if let Listing::Behind(after) = listing
            && room > 0
        {
            let page = store.list(after, room).await?;
            report.listing = Some(match page.last() {
                Some(last) if page.len() == room => Listing::Behind(Some(last.chunk)),
                _ => Listing::Done,
            });
            // The page was read after the changes were queued: what it shows is here.
            let listed: BTreeSet<ChunkId> = page.iter().map(|stored| stored.chunk).collect();
            report.removed.retain(|chunk| !listed.contains(chunk));
            report.added.retain(|chunk| !listed.contains(chunk));
            report.added.extend(listed);
        }
        Ok(report)
    }

    /// The coordinator has `report`.
    pub fn acknowledge(&self, report: &Report) {
        let mut queue = self.queue.lock();
        if queue.generation != report.generation {
            return;
        }
        let taken = report.changes.min(queue.changes.len());
        queue.changes.drain(..taken);
        if let Some(listing) = report.listing {
            queue.listing = listing;
        }
    }
}

impl Queue {
    fn restart(&mut self) {
        // A removal must not be forgotten: the listing would not show it.
        self.changes.retain(|change| matches!(change, Change::Removed(_)));
        if self.changes.len() >= INVENTORY_PENDING_MAX {
            // So many removals in one interval: the coordinator finds out from the whole inventory.
            self.changes.clear();
        }
        self.listing = Listing::Behind(None);
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests;
