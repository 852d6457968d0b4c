//! The admin service: what an administrator sees of the cluster.

use crate::namespace::{quota, read};
use crate::service::{CoordinatorService, total};
use dfs_common::cluster::NodeHealth;
use dfs_common::limits::QUOTAS_PAGE_MAX;
use dfs_common::{Durability, FsResult, Ino};
use dfs_proto::{convert, status, v1};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Serves the admin service on the coordinator's core.
pub struct AdminService {
    coordinator: Arc<CoordinatorService>,
}

impl AdminService {
    /// On the core of `coordinator`.
    pub fn new(coordinator: Arc<CoordinatorService>) -> Self {
        AdminService { coordinator }
    }

    fn report(&self) -> FsResult<v1::StatusReply> {
        let core = self.coordinator.core()?;
        let nodes = core.cluster.nodes();
        let counters = read::statfs_counters(&*core.store)?;
        let under_replicated = core.under_replicated()?;
        let nodes_up = nodes
            .iter()
            .all(|node| node.health == NodeHealth::Up && node.writable);
        let uptime = core.clock.monotonic().saturating_sub(core.started);
        Ok(v1::StatusReply {
            cluster: core.cluster_id.to_string(),
            coordinator_version: env!("CARGO_PKG_VERSION").to_string(),
            store: core.store.kind().to_string(),
            healthy: !nodes.is_empty() && nodes_up && under_replicated == 0 && core.applier.check().is_ok(),
            under_replicated,
            capacity_bytes: total(nodes.iter().map(|node| node.capacity_bytes)),
            used_bytes: total(nodes.iter().map(|node| node.used_bytes)),
            available_bytes: total(nodes.iter().map(|node| node.available_bytes)),
            nodes: nodes.iter().map(convert::node_info_to_wire).collect(),
            inodes: counters.inodes,
            chunks: counters.chunks,
            content_bytes: counters.content_bytes,
            sessions: u32::try_from(core.sessions.count()).unwrap_or(u32::MAX),
            replication: core.replication.factor,
            replication_floor: core.replication.floor,
            uptime_secs: uptime.as_secs(),
            freed_chunks: counters.freed_chunks,
            freed_bytes: counters.freed_bytes,
            durability_delay_ms: core.progress.durability().delay_ms(),
        })
    }

    async fn choose_quota(&self, request: v1::SetQuotaRequest) -> FsResult<v1::Empty> {
        let (ino, quota) = (Ino(request.ino), convert::quota_from_wire(request.quota));
        let core = self.coordinator.core()?;
        core.applier.set_quota(ino, quota).await?;
        tracing::info!(%ino, bytes = ?quota.bytes, inodes = ?quota.inodes, "a quota was set");
        Ok(v1::Empty {})
    }

    fn quotas(&self, after: Ino) -> FsResult<v1::ListQuotasReply> {
        let snapshot = self.coordinator.core()?.store.snapshot()?;
        let page = quota::list(&*snapshot, after, QUOTAS_PAGE_MAX)?;
        Ok(v1::ListQuotasReply {
            entries: page.iter().map(convert::quota_entry_to_wire).collect(),
        })
    }

    async fn choose_durability(&self, delay_ms: u64) -> FsResult<v1::Empty> {
        let durability = Durability::from_delay_ms(delay_ms)?;
        let core = self.coordinator.core()?;
        core.applier.set_durability(durability).await?;
        tracing::info!(%durability, "durability was set");
        Ok(v1::Empty {})
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn status(
        &self,
        _request: Request<v1::StatusRequest>,
    ) -> Result<Response<v1::StatusReply>, Status> {
        self.report()
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn set_quota(&self, request: Request<v1::SetQuotaRequest>) -> Result<Response<v1::Empty>, Status> {
        self.choose_quota(request.into_inner())
            .await
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn list_quotas(
        &self,
        request: Request<v1::ListQuotasRequest>,
    ) -> Result<Response<v1::ListQuotasReply>, Status> {
        self.quotas(Ino(request.into_inner().after))
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }

    async fn set_durability(
        &self,
        request: Request<v1::SetDurabilityRequest>,
    ) -> Result<Response<v1::Empty>, Status> {
        self.choose_durability(request.into_inner().delay_ms)
            .await
            .map(Response::new)
            .map_err(|error| status::to_status(&error))
    }
}
