//! Workers over the cluster: health by silence, and placement groups for the nodes that there are.

use super::placement::Placement;
use super::state::ClusterState;
use crate::applier::Applier;
use crate::worker::Worker;
use async_trait::async_trait;
use dfs_common::FsResult;
use dfs_common::cluster::NodeHealth;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Between two looks at the cluster.
const INTERVAL: Duration = Duration::from_millis(250);

/// Makes the placement groups that are missing.
pub struct GroupMaker {
    state: Arc<ClusterState>,
    placement: Arc<Placement>,
    applier: Arc<Applier>,
    /// One making at a time, or two would make the same groups; held while the applier works.
    making: tokio::sync::Mutex<()>,
    /// Version of the cluster for which nothing was missing.
    settled: AtomicU64,
}

impl GroupMaker {
    /// Over this cluster.
    pub fn new(state: Arc<ClusterState>, placement: Arc<Placement>, applier: Arc<Applier>) -> Self {
        GroupMaker {
            state,
            placement,
            applier,
            making: tokio::sync::Mutex::default(),
            settled: AtomicU64::new(0),
        }
    }

    /// Makes what is missing; durable on return.
    pub async fn make_missing(&self) -> FsResult<()> {
        let _one = self.making.lock().await;
        let version = self.state.version();
        if self.settled.load(Ordering::Relaxed) == version {
            return Ok(());
        }
        let missing = self.placement.missing_groups();
        if missing.is_empty() {
            self.settled.store(version, Ordering::Relaxed);
            return Ok(());
        }
        let made = self.applier.create_groups(missing).await?;
        tracing::info!(groups = made.len(), "made placement groups");
        Ok(())
    }
}

/// Watches health and makes missing groups.
pub struct ClusterWorker {
    state: Arc<ClusterState>,
    groups: Arc<GroupMaker>,
}

impl ClusterWorker {
    /// Over this cluster.
    pub fn new(state: Arc<ClusterState>, groups: Arc<GroupMaker>) -> Self {
        ClusterWorker { state, groups }
    }
}

#[async_trait]
impl Worker for ClusterWorker {
    fn name(&self) -> &'static str {
        "cluster"
    }
    fn status(&self) -> String {
        let nodes = self.state.nodes();
        let count = |health| nodes.iter().filter(|node| node.health == health).count();
        format!(
            "{} datanodes up, {} suspect, {} down; {} placement groups",
            count(NodeHealth::Up),
            count(NodeHealth::Suspect),
            count(NodeHealth::Down),
            self.state.groups().len()
        )
    }
    async fn step(&self) -> Duration {
        self.state.refresh_health();
        if let Err(error) = self.groups.make_missing().await {
            tracing::warn!(%error, "placement groups could not be made");
        }
        INTERVAL
    }
}
