//! Administration: what an administrator may ask of a cluster.

use dfs_common::cluster::NodeInfo;
use dfs_common::limits::{MESSAGE_BYTES_MAX, QUOTAS_MAX};
use dfs_common::{Durability, FsResult, Ino, Quota, QuotaEntry};
use dfs_proto::convert::{node_info_from_wire, quota_to_wire, quotas_from_wire};
use dfs_proto::grpc::{channel_lazy, within};
use dfs_proto::v1;
use serde::Serialize;
use std::time::Duration;
use tonic::transport::Channel;

/// State of a cluster.
#[derive(Serialize, Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Its id.
    pub cluster: String,
    /// Version of the coordinator's program.
    pub coordinator_version: String,
    /// Metadata store: `fjall`, `sled` or `memory`.
    pub store: String,
    /// Every node up, every chunk with all its replicas.
    pub healthy: bool,
    /// Datanodes.
    pub nodes: Vec<NodeInfo>,
    /// Chunks with fewer live replicas than they shall have.
    pub under_replicated: u64,
    /// Raw size of all nodes in bytes.
    pub capacity_bytes: u64,
    /// Raw bytes used on all nodes.
    pub used_bytes: u64,
    /// Raw bytes that can still be written.
    pub available_bytes: u64,
    /// Inodes.
    pub inodes: u64,
    /// Chunks.
    pub chunks: u64,
    /// Bytes of file content, each once.
    pub content_bytes: u64,
    /// Open sessions.
    pub sessions: u32,
    /// Replicas that a new chunk shall have.
    pub replication: u32,
    /// Replicas without which a write is not acknowledged.
    pub replication_floor: u32,
    /// Seconds since the coordinator started.
    pub uptime_secs: u64,
    /// Within this many milliseconds an acknowledged change of metadata is durable; 0: when it is acknowledged.
    pub durability_delay_ms: u64,
}

/// Connection to a coordinator's admin service; clones share it.
#[derive(Clone)]
pub struct AdminClient {
    service: v1::admin_client::AdminClient<Channel>,
    deadline: Duration,
}

impl AdminClient {
    /// For the coordinator at `host:port`; connects at the first call. `deadline` bounds each call.
    ///
    /// # Errors
    /// `Invalid` if `coordinator` is not `host:port`, or outside a tokio runtime.
    pub fn connect_lazy(coordinator: &str, deadline: Duration) -> FsResult<Self> {
        let channel = channel_lazy(coordinator, deadline)?;
        Ok(AdminClient {
            service: v1::admin_client::AdminClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX),
            deadline,
        })
    }

    /// State of the cluster.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`.
    pub async fn status(&self) -> FsResult<ClusterStatus> {
        let mut service = self.service.clone();
        let reply = within(self.deadline, service.status(v1::StatusRequest {})).await?;
        let nodes: FsResult<Vec<NodeInfo>> = reply.nodes.into_iter().map(node_info_from_wire).collect();
        Ok(ClusterStatus {
            cluster: reply.cluster,
            coordinator_version: reply.coordinator_version,
            store: reply.store,
            healthy: reply.healthy,
            nodes: nodes?,
            under_replicated: reply.under_replicated,
            capacity_bytes: reply.capacity_bytes,
            used_bytes: reply.used_bytes,
            available_bytes: reply.available_bytes,
            inodes: reply.inodes,
            chunks: reply.chunks,
            content_bytes: reply.content_bytes,
            sessions: reply.sessions,
            replication: reply.replication,
            replication_floor: reply.replication_floor,
            uptime_secs: reply.uptime_secs,
            durability_delay_ms: reply.durability_delay_ms,
        })
    }

    /// Limits what may lie below the directory `ino`, whoever adds to it; a quota without limits is none.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`; `Invalid` if a file has names below the directory and elsewhere; `Unavailable`, `TimedOut`, `Io`.
    pub async fn set_quota(&self, ino: Ino, quota: Quota) -> FsResult<()> {
        let mut service = self.service.clone();
        let request = v1::SetQuotaRequest {
            ino: ino.0,
            quota: Some(quota_to_wire(&quota)),
        };
        within(self.deadline, service.set_quota(request)).await?;
        Ok(())
    }

    /// All quotas, by inode number.
    ///
    /// # Errors
    /// `Unavailable`, `TimedOut`.
    pub async fn quotas(&self) -> FsResult<Vec<QuotaEntry>> {
        let mut quotas: Vec<QuotaEntry> = Vec::new();
        while quotas.len() < QUOTAS_MAX {
            let mut service = self.service.clone();
            let after = quotas.last().map_or(0, |last| last.ino.0);
            let request = v1::ListQuotasRequest { after };
            let page = quotas_from_wire(within(self.deadline, service.list_quotas(request)).await?)?;
            // One that goes backwards would never end.
            if page.first().is_none_or(|first| first.ino.0 <= after) {
                break;
            }
            quotas.extend(page);
        }
        Ok(quotas)
    }

    /// Chooses when changes of metadata are durable, for all clients from now on and across restarts.
    ///
    /// # Errors
    /// `Invalid` (delay), `Unavailable`, `TimedOut`, `Io`.
    pub async fn set_durability(&self, durability: Durability) -> FsResult<()> {
        let mut service = self.service.clone();
        let request = v1::SetDurabilityRequest {
            delay_ms: durability.delay_ms(),
        };
        within(self.deadline, service.set_durability(request)).await?;
        Ok(())
    }
}
