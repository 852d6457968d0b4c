//! Cluster membership as clients and servers see it: nodes, placement groups, versioned deltas.

use crate::ids::{DiskIncarnation, NodeId, PgId};
use serde::{Deserialize, Serialize};

/// Health of a datanode as the coordinator sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeHealth {
    /// Heartbeats arrive.
    Up,
    /// No heartbeat for [`crate::limits::NODE_SUSPECT`].
    Suspect,
    /// No heartbeat for [`crate::limits::NODE_DOWN`].
    Down,
}

/// A datanode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its number.
    pub id: NodeId,
    /// `host:port` of its chunk service.
    pub address: String,
    /// Health.
    pub health: NodeHealth,
    /// Disk incarnation of its last registration.
    pub disk: DiskIncarnation,
    /// Size of its disks in bytes.
    pub capacity_bytes: u64,
    /// Bytes of chunks.
    pub used_bytes: u64,
    /// Bytes that can still be written.
    pub available_bytes: u64,
    /// Chunks.
    pub chunks: u64,
    /// False after a failed sync: the node only reads.
    pub writable: bool,
}

/// Placement group: the datanodes that hold its chunks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlacementGroup {
    /// Its number.
    pub id: PgId,
    /// Grows with every change of the members.
    pub version: u64,
    /// Members in writing order, no duplicates.
    pub members: Vec<NodeId>,
}

/// What changed in the cluster; a full state when `full`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ClusterUpdate {
    /// Version after applying this update.
    pub version: u64,
    /// True if `nodes` and `groups` are everything there is.
    pub full: bool,
    /// New and changed nodes.
    pub nodes: Vec<NodeInfo>,
    /// New and changed groups.
    pub groups: Vec<PlacementGroup>,
    /// Nodes that were removed.
    pub removed_nodes: Vec<NodeId>,
}

/// Totals for `statfs`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StatFs {
    /// Raw size divided by the replication factor, in bytes.
    pub capacity_bytes: u64,
    /// What can still be written, divided likewise, in bytes.
    pub available_bytes: u64,
    /// Bytes of file content (each counted once, not per replica).
    pub used_bytes: u64,
    /// Inodes in use.
    pub inodes: u64,
}
