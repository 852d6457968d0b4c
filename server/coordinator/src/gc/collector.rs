//! Deletes the replicas of freed chunks, and forgets a chunk when every one of them is gone.
//!
//! A step looks at one page of the freed chunks. A chunk that was freed long enough ago is deleted on every node that may have
//! it: those with a receipt and the other members of its placement group, where an upload may have arrived without one. Only
//! when all confirmed is its record removed; a node that is down or does not answer keeps the record for a later pass.

use crate::applier::Applier;
use crate::cluster::state::ClusterState;
use crate::gc::hold::Hold;
use crate::namespace::chunks::FreedChunk;
use crate::namespace::{keys, read};
use crate::store::MetaStore;
use crate::worker::Worker;
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::capability::{CapabilityKey, ChunkAccess};
use dfs_common::clock::Clock;
use dfs_common::cluster::NodeHealth;
use dfs_common::service::ChunkConnector;
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, NodeId, SessionId, Timestamp};
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// Freed chunks that one step looks at.
const PAGE: usize = 256;
/// Chunks that are being deleted at once.
const DELETES_AT_ONCE: usize = 8;
/// Between two pages: bounds the rate to a few thousand chunks a second.
const PAUSE: Duration = Duration::from_millis(50);
/// Between two passes, at most.
const PASS_INTERVAL_MAX: Duration = Duration::from_secs(5);
/// Validity of a capability to delete.
const VALIDITY_MS: u64 = 60_000;
/// The coordinator itself, in capabilities.
const COORDINATOR: SessionId = SessionId(0);

/// What the collector works with.
pub struct CollectorParts {
    /// The metadata.
    pub store: Arc<dyn MetaStore>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Addresses and health of datanodes.
    pub cluster: Arc<ClusterState>,
    /// Removes records.
    pub applier: Arc<Applier>,
    /// Reaches datanodes.
    pub chunks: Arc<dyn ChunkConnector>,
    /// Signs the deletions.
    pub capability_key: CapabilityKey,
    /// How long a freed chunk is kept.
    pub delay: Duration,
    /// Whether anything may be deleted at all.
    pub hold: Arc<Hold>,
}

/// The collector.
pub struct ChunkCollector {
    parts: CollectorParts,
    progress: Mutex<Progress>,
}

#[derive(Default)]
struct Progress {
    /// Where the next page starts; empty: at the start of the table.
    from: Bytes,
    deleted: u64,
    /// Chunks of this pass, and of the last whole one, that were old enough and had to be kept.
    kept: u64,
    kept_last_pass: u64,
}

impl ChunkCollector {
    /// Over these parts.
    pub fn new(parts: CollectorParts) -> Self {
        ChunkCollector {
            parts,
            progress: Mutex::default(),
        }
    }

    fn is_due(&self, freed: Timestamp) -> bool {
        let freed_ms = i128::from(freed.secs) * 1000 + i128::from(freed.nanos / 1_000_000);
        let now_ms = i128::from(self.parts.clock.now_unix_ms());
        now_ms - freed_ms >= self.parts.delay.as_millis() as i128
    }

    /// The nodes that may have a replica.
    fn holders(&self, id: ChunkId, freed: &FreedChunk) -> BTreeSet<NodeId> {
        let members = self.parts.cluster.members(id.group()).unwrap_or_default();
        freed.chunk.replicas.iter().copied().chain(members).collect()
    }

    fn address(&self, node: NodeId) -> FsResult<String> {
        self.parts.cluster.with(|nodes, _| match nodes.get(&node) {
            Some(node) if node.info.health != NodeHealth::Down => Ok(node.info.address.clone()),
            _ => Err(FsError::new(
                ErrorKind::Unavailable,
                format!("node {node} is down or unknown"),
            )),
        })
    }

    async fn delete_replica(&self, id: ChunkId, node: NodeId) -> FsResult<()> {
        let address = self.address(node)?;
        let expires_unix_ms = self.parts.clock.now_unix_ms() + VALIDITY_MS;
        let capability =
            self.parts
                .capability_key
                .sign(COORDINATOR, id, ChunkAccess::Delete, expires_unix_ms);
        let service = self.parts.chunks.chunk_service(&address)?;
        service.delete_chunk(capability).await
    }

    /// Deletes every replica; true if all confirmed. Nodes in `failing` are not asked again in this step.
    async fn delete(&self, id: ChunkId, freed: &FreedChunk, failing: &Mutex<BTreeSet<NodeId>>) -> bool {
        let mut all = true;
        for node in self.holders(id, freed) {
            if failing.lock().contains(&node) {
                all = false;
                continue;
            }
            if let Err(error) = self.delete_replica(id, node).await {
                tracing::debug!(chunk = %id, %node, %error, "replica of a freed chunk is kept");
                failing.lock().insert(node);
                all = false;
            }
        }
        all
    }

    /// One page; true if it was the last of the pass.
    async fn collect(&self) -> FsResult<bool> {
        let (start, end) = keys::freed_chunks();
        let from = Some(self.progress.lock().from.clone()).filter(|from| !from.is_empty());
        let page = self.parts.store.scan(&from.unwrap_or(start), &end, PAGE)?;
        let next = match page.last() {
            Some((last, _)) if page.len() == PAGE => Bytes::from([&last[..], b"\0"].concat()),
            _ => Bytes::new(),
        };
        let mut due = Vec::new();
        for (key, value) in page {
            let freed = FreedChunk::decode(value)?;
            let id = keys::parse_freed_chunk(&key)
                .ok_or_else(|| FsError::new(ErrorKind::Corrupt, "a freed chunk has a malformed key"))?;
            if self.is_due(freed.freed) {
                due.push((id, freed));
            }
        }
        if !due.is_empty() {
            // A replica must not go before the commit that freed its chunk is there to stay.
            self.parts.applier.barrier().await?;
        }
        let due_count = due.len() as u64;
        let failing = Mutex::default();
        let deleted: Vec<ChunkId> = futures::stream::iter(due)
            .map(|(id, freed)| {
                let failing = &failing;
                async move { self.delete(id, &freed, failing).await.then_some(id) }
            })
            .buffer_unordered(DELETES_AT_ONCE)
            .filter_map(std::future::ready)
            .collect()
            .await;
        let deleted_count = deleted.len() as u64;
        if !deleted.is_empty() {
            self.parts.applier.forget_freed(deleted).await?;
        }
        let is_last = next.is_empty();
        let mut progress = self.progress.lock();
        progress.from = next;
        progress.deleted += deleted_count;
        progress.kept += due_count - deleted_count;
        if is_last {
            progress.kept_last_pass = std::mem::take(&mut progress.kept);
        }
        Ok(is_last)
    }
}

#[async_trait]
impl Worker for ChunkCollector {
    fn name(&self) -> &'static str {
        "chunk-collector"
    }
    fn status(&self) -> String {
        let (waiting, bytes) = match read::statfs_counters(&*self.parts.store) {
            Ok(counters) => (counters.freed_chunks, counters.freed_bytes),
            Err(error) => return format!("the store cannot be read: {error}"),
        };
        let progress = self.progress.lock();
        if self.parts.hold.is_holding() {
            return format!("held after a restore: {waiting} freed chunks ({bytes} bytes) wait");
        }
        format!(
            "{waiting} freed chunks ({bytes} bytes) wait, {} of them for datanodes; {} deleted",
            progress.kept_last_pass, progress.deleted
        )
    }
    async fn step(&self) -> Duration {
        let pass_interval = self.parts.delay.min(PASS_INTERVAL_MAX).max(PAUSE);
        match self
            .parts
            .hold
            .try_end(&self.parts.cluster, &self.parts.applier)
            .await
        {
            Ok(true) => {}
            Ok(false) => return pass_interval,
            Err(error) => {
                tracing::warn!(%error, "the hold after a restore could not be ended");
                return pass_interval;
            }
        }
        match self.collect().await {
            Ok(false) => PAUSE,
            Ok(true) => pass_interval,
            Err(error) => {
                tracing::warn!(%error, "freed chunks could not be collected");
                pass_interval
            }
        }
    }
}
