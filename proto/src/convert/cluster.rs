//! Nodes, placement groups and what changed of them.

use super::{at_most, check_address, invalid};
use crate::v1;
use dfs_common::cluster::{ClusterUpdate, NodeHealth, NodeInfo, PlacementGroup};
use dfs_common::limits::{NODES_MAX, PLACEMENT_GROUPS_MAX, REPLICATION_MAX};
use dfs_common::{DiskIncarnation, FsResult, NodeId, PgId};

fn health_code(health: NodeHealth) -> u32 {
    match health {
        NodeHealth::Up => 1,
        NodeHealth::Suspect => 2,
        NodeHealth::Down => 3,
    }
}

fn health_from_code(code: u32) -> FsResult<NodeHealth> {
    Ok(match code {
        1 => NodeHealth::Up,
        2 => NodeHealth::Suspect,
        3 => NodeHealth::Down,
        _ => return Err(invalid(format!("unknown health of a node {code}"))),
    })
}

/// A node's wire form.
pub fn node_info_to_wire(node: &NodeInfo) -> v1::NodeInfo {
    v1::NodeInfo {
        id: node.id.0,
        address: node.address.clone(),
        health: health_code(node.health),
        disk: node.disk.0,
        capacity_bytes: node.capacity_bytes,
        used_bytes: node.used_bytes,
        available_bytes: node.available_bytes,
        chunks: node.chunks,
        writable: node.writable,
    }
}

/// A node from the wire.
///
/// # Errors
/// `Invalid`: number 0, an address that is not `host:port`, an unknown health.
pub fn node_info_from_wire(node: v1::NodeInfo) -> FsResult<NodeInfo> {
    if node.id == 0 {
        return Err(invalid("node number 0 does not exist"));
    }
    check_address(&node.address)?;
    Ok(NodeInfo {
        id: NodeId(node.id),
        address: node.address,
        health: health_from_code(node.health)?,
        disk: DiskIncarnation(node.disk),
        capacity_bytes: node.capacity_bytes,
        used_bytes: node.used_bytes,
        available_bytes: node.available_bytes,
        chunks: node.chunks,
        writable: node.writable,
    })
}

/// A placement group's wire form.
pub fn placement_group_to_wire(group: &PlacementGroup) -> v1::PlacementGroup {
    v1::PlacementGroup {
        id: group.id.0,
        version: group.version,
        members: group.members.iter().map(|node| node.0).collect(),
    }
}

/// A placement group from the wire.
///
/// # Errors
/// `Invalid`: more members than [`REPLICATION_MAX`], or one twice.
pub fn placement_group_from_wire(group: v1::PlacementGroup) -> FsResult<PlacementGroup> {
    let members = group.members;
    at_most(
        members.len(),
        REPLICATION_MAX as usize,
        "members of a placement group",
    )?;
    if (1..members.len()).any(|at| members[..at].contains(&members[at])) {
        return Err(invalid("a placement group has a member twice"));
    }
    Ok(PlacementGroup {
        id: PgId(group.id),
        version: group.version,
        members: members.into_iter().map(NodeId).collect(),
    })
}

/// The wire form of what changed in the cluster.
pub fn cluster_update_to_wire(update: &ClusterUpdate) -> v1::ClusterUpdate {
    v1::ClusterUpdate {
        version: update.version,
        full: update.full,
        nodes: update.nodes.iter().map(node_info_to_wire).collect(),
        groups: update.groups.iter().map(placement_group_to_wire).collect(),
        removed_nodes: update.removed_nodes.iter().map(|node| node.0).collect(),
    }
}

/// What changed in the cluster, from the wire.
///
/// # Errors
/// `Invalid`: more than [`NODES_MAX`] nodes or [`PLACEMENT_GROUPS_MAX`] groups, and as [`node_info_from_wire`],
/// [`placement_group_from_wire`].
pub fn cluster_update_from_wire(update: v1::ClusterUpdate) -> FsResult<ClusterUpdate> {
    at_most(update.nodes.len(), NODES_MAX, "nodes")?;
    at_most(update.removed_nodes.len(), NODES_MAX, "removed nodes")?;
    at_most(update.groups.len(), PLACEMENT_GROUPS_MAX, "placement groups")?;
    Ok(ClusterUpdate {
        version: update.version,
        full: update.full,
        nodes: update
            .nodes
            .into_iter()
            .map(node_info_from_wire)
            .collect::<FsResult<_>>()?,
        groups: update
            .groups
            .into_iter()
            .map(placement_group_from_wire)
            .collect::<FsResult<_>>()?,
        removed_nodes: update.removed_nodes.into_iter().map(NodeId).collect(),
    })
}
