//! The hold after a restore: no chunk is deleted until every datanode has told all that it has.
//!
//! A restored coordinator knows less than its datanodes. Until it has heard all of them, and for a while at least, the collector deletes nothing, so
//! that an administrator who sees that it was the wrong backup may take another one. What the metadata does not know is counted; nobody deletes
//! it, then or later. The hold is a record of the store, so it outlasts restarts; what the datanodes told is asked for again by each.

use crate::applier::Applier;
use crate::cluster::state::ClusterState;
use crate::namespace::keys;
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::clock::Clock;
use dfs_common::limits::RESTORE_HOLD_MIN;
use dfs_common::{ChunkId, FsResult, NodeId};
use dfs_proto::v1::StoredRestore;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Whether chunks may be deleted, and what is known of the datanodes meanwhile.
pub struct Hold {
    holding: AtomicBool,
    restored: Option<StoredRestore>,
    /// Of this start: the upper half of the versions that datanodes were told by it.
    epoch: u64,
    clock: Arc<dyn Clock>,
    started: Duration,
    passed: Mutex<BTreeSet<NodeId>>,
    unknown_chunks: AtomicU64,
}

impl Hold {
    /// As the store says, at the start with this epoch.
    pub fn new(restored: Option<StoredRestore>, epoch: u64, clock: Arc<dyn Clock>) -> Self {
        Hold {
            holding: AtomicBool::new(restored.as_ref().is_some_and(|restore| restore.holding)),
            restored,
            epoch,
            started: clock.monotonic(),
            clock,
            passed: Mutex::default(),
            unknown_chunks: AtomicU64::new(0),
        }
    }

    /// True if nothing may be deleted.
    pub fn is_holding(&self) -> bool {
        self.holding.load(Ordering::Acquire)
    }

    /// The last restore, if there was one.
    pub fn restored(&self) -> Option<&StoredRestore> {
        self.restored.as_ref()
    }

    /// A datanode says that it has these chunks.
    pub fn told(&self, read: &dyn MetaRead, node: NodeId, chunks: &[Bytes]) -> FsResult<()> {
        for id in chunks {
            let Some(id) = ChunkId::from_slice(id) else {
                continue;
            };
            let known = read.get(&keys::chunk(id))?.is_some() || read.get(&keys::freed_chunk(id))?.is_some();
            if !known {
                tracing::debug!(chunk = %id, %node, "a chunk that the metadata does not know is kept");
                self.unknown_chunks.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// A datanode has told everything since it was told this version of the cluster state. One from before this start says nothing
    /// of what this coordinator was told.
    pub fn passed(&self, node: NodeId, known_state_version: u64) {
        if known_state_version >> 32 == self.epoch & u64::from(u32::MAX) {
            self.passed.lock().insert(node);
        }
    }

    /// Datanodes that have not told everything.
    pub fn waited_for(&self, cluster: &ClusterState) -> Vec<NodeId> {
        let passed = self.passed.lock();
        let nodes = cluster.nodes().into_iter().map(|node| node.id);
        nodes.filter(|node| !passed.contains(node)).collect()
    }

    /// Reports of chunks that the metadata does not know.
    pub fn unknown_chunks(&self) -> u64 {
        self.unknown_chunks.load(Ordering::Relaxed)
    }

    /// Ends the hold if its time has come; true if chunks may be deleted.
    pub async fn try_end(&self, cluster: &ClusterState, applier: &Applier) -> FsResult<bool> {
        if !self.is_holding() {
            return Ok(true);
        }
        let held = self.clock.monotonic().saturating_sub(self.started);
        if held < RESTORE_HOLD_MIN || cluster.nodes().is_empty() || !self.waited_for(cluster).is_empty() {
            return Ok(false);
        }
        tracing::info!(
            unknown_chunks = self.unknown_chunks(),
            "every datanode has told what it has: chunks may be deleted again"
        );
        self.release(applier).await?;
        Ok(true)
    }

    /// Ends the hold at once.
    pub async fn release(&self, applier: &Applier) -> FsResult<()> {
        applier.end_hold().await?;
        self.holding.store(false, Ordering::Release);
        Ok(())
    }
}
