//! Administration: what an administrator may ask of a cluster.

use dfs_common::cluster::NodeInfo;
use dfs_common::{ErrorKind, FsResult};
use serde::Serialize;
use std::time::Duration;

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
}

/// Connection to a coordinator's admin service.
#[derive(Clone)]
pub struct AdminClient {}

impl AdminClient {
    /// For the coordinator at `host:port`; connects at the first call. `deadline` bounds each call.
    ///
    /// # Errors
    /// `Invalid` if `coordinator` is not `host:port`.
    pub fn connect_lazy(_coordinator: &str, _deadline: Duration) -> FsResult<Self> {
        Err(ErrorKind::NotSupported.into())
    }
    /// State of the cluster.
    pub async fn status(&self) -> FsResult<ClusterStatus> {
        Err(ErrorKind::NotSupported.into())
    }
}
