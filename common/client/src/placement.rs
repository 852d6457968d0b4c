//! Where replicas are: the cluster's nodes and placement groups as of the last refresh, and nodes that failed just now.
//!
//! Refreshed by versioned deltas, only when something is missing or failed; it may be old, which costs a failed attempt and
//! never a wrong answer.

use crate::client::Inner;
use crate::waiting::What;
use dfs_common::cluster::{ClusterUpdate, NodeHealth, NodeInfo, PlacementGroup};
use dfs_common::service::ChunkService;
use dfs_common::{ChunkId, FsResult, NodeId, PgId};
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A node that failed is asked last for this long.
const AVOID: Duration = Duration::from_secs(5);
/// Refreshes wanted sooner than this after one share it.
const REFRESH_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// A member of a placement group.
#[derive(Clone, Debug)]
pub(crate) struct Member {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    /// Not down, able to write, and did not fail just now.
    pub(crate) good: bool,
}

#[derive(Default)]
struct State {
    version: u64,
    nodes: HashMap<NodeId, NodeInfo>,
    groups: HashMap<PgId, PlacementGroup>,
}

/// The cluster as this client knows it.
#[derive(Default)]
pub(crate) struct ClusterView {
    state: RwLock<State>,
    avoided: Mutex<HashMap<NodeId, Instant>>,
    refreshed: tokio::sync::Mutex<Option<Instant>>,
}

impl ClusterView {
    fn apply(&self, update: ClusterUpdate) {
        let mut state = self.state.write();
        if update.full {
            *state = State::default();
        }
        state.version = update.version;
        state
            .nodes
            .extend(update.nodes.into_iter().map(|node| (node.id, node)));
        state
            .groups
            .extend(update.groups.into_iter().map(|group| (group.id, group)));
        for node in update.removed_nodes {
            state.nodes.remove(&node);
        }
    }

    /// Members of `group` in writing order; `None` if the group is not known (yet).
    pub(crate) fn members(&self, group: PgId) -> Option<Vec<Member>> {
        let state = self.state.read();
        let group = state.groups.get(&group)?;
        let avoided = self.avoided.lock();
        let now = Instant::now();
        let member = |id: &NodeId| {
            let node = state.nodes.get(id)?;
            let failed = avoided.get(id).is_some_and(|until| *until > now);
            Some(Member {
                node: *id,
                address: node.address.clone(),
                good: node.health != NodeHealth::Down && node.writable && !failed,
            })
        };
        Some(group.members.iter().filter_map(member).collect())
    }

    /// The node failed just now: others are asked first for a while.
    pub(crate) fn avoid(&self, node: NodeId) {
        let now = Instant::now();
        let mut avoided = self.avoided.lock();
        avoided.retain(|_, until| *until > now);
        avoided.insert(node, now + AVOID);
    }

    /// The node answered.
    pub(crate) fn trust(&self, node: NodeId) {
        let mut avoided = self.avoided.lock();
        if !avoided.is_empty() {
            avoided.remove(&node);
        }
    }
}

impl Inner {
    /// Asks what changed in the cluster, unless that was done just now.
    pub(crate) async fn refresh_cluster(&self) -> FsResult<()> {
        let mut refreshed = self.cluster.refreshed.lock().await;
        if refreshed.is_some_and(|at| at.elapsed() < REFRESH_INTERVAL_MIN) {
            return Ok(());
        }
        let known = self.cluster.state.read().version;
        let ask = |identity| self.metadata.cluster_state(identity, known);
        let update = self.call(What::new("asking for the cluster state"), ask).await?;
        self.cluster.apply(update);
        *refreshed = Some(Instant::now());
        Ok(())
    }

    /// Members of a chunk's group, refreshing once if the group is not known or has no member.
    pub(crate) async fn members_of(&self, chunk: ChunkId) -> FsResult<Vec<Member>> {
        if let Some(members) = self.cluster.members(chunk.group())
            && !members.is_empty()
        {
            return Ok(members);
        }
        self.refresh_cluster().await?;
        Ok(self.cluster.members(chunk.group()).unwrap_or_default())
    }

    pub(crate) fn chunk_service(&self, member: &Member) -> FsResult<Arc<dyn ChunkService>> {
        self.chunks.chunk_service(&member.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::DiskIncarnation;

    fn node(id: u32, health: NodeHealth) -> NodeInfo {
        NodeInfo {
            id: NodeId(id),
            address: format!("node:{id}"),
            health,
            disk: DiskIncarnation(1),
            capacity_bytes: 1,
            used_bytes: 0,
            available_bytes: 1,
            chunks: 0,
            writable: true,
        }
    }

    #[test]
    fn deltas_and_failures_decide_who_is_asked_first() {
        let view = ClusterView::default();
        assert!(view.members(PgId(1)).is_none());
        let group = PlacementGroup {
            id: PgId(1),
            version: 1,
            members: vec![NodeId(2), NodeId(1), NodeId(3)],
        };
        view.apply(ClusterUpdate {
            version: 5,
            full: true,
            nodes: vec![
                node(1, NodeHealth::Up),
                node(2, NodeHealth::Up),
                node(3, NodeHealth::Down),
            ],
            groups: vec![group],
            removed_nodes: vec![],
        });
        let good = |view: &ClusterView| {
            let members = view.members(PgId(1)).unwrap();
            members.iter().map(|m| (m.node.0, m.good)).collect::<Vec<_>>()
        };
        assert_eq!(good(&view), [(2, true), (1, true), (3, false)]);
        view.avoid(NodeId(2));
        assert_eq!(good(&view), [(2, false), (1, true), (3, false)]);
        view.trust(NodeId(2));
        view.apply(ClusterUpdate {
            version: 6,
            nodes: vec![node(3, NodeHealth::Up)],
            removed_nodes: vec![NodeId(1)],
            ..ClusterUpdate::default()
        });
        assert_eq!(good(&view), [(2, true), (3, true)]);
    }
}
