//! What the writer thread does for datanodes: registration, placement groups.

use super::NodeRegistration;
use super::group::next_number;
use crate::namespace::keys;
use crate::namespace::txn::Txn;
use crate::stored;
use dfs_common::cluster::{NodeHealth, NodeInfo, PlacementGroup};
use dfs_common::limits::{NODES_MAX, PLACEMENT_GROUPS_MAX};
use dfs_common::{ErrorKind, FsError, FsResult, NodeId, PgId};

/// What the cluster is told of a datanode that has just registered.
pub(super) fn info(id: NodeId, registration: &NodeRegistration) -> NodeInfo {
    let load = registration.load;
    NodeInfo {
        id,
        address: registration.address.clone(),
        health: NodeHealth::Up,
        disk: load.disk,
        capacity_bytes: load.capacity_bytes,
        used_bytes: load.used_bytes,
        available_bytes: load.available_bytes,
        chunks: load.chunks,
        writable: load.writable,
    }
}

/// Registers a datanode, or knows it again by its uuid.
///
/// # Errors
/// `Unauthenticated` (another secret), `Busy` (too many datanodes), `Corrupt`.
pub(super) fn register(txn: &mut Txn<'_>, registration: &NodeRegistration) -> FsResult<NodeId> {
    let records = stored::nodes_in(txn)?;
    let known = records.iter().find(|record| record.uuid == registration.uuid);
    let id = match known {
        Some(record) if record.secret != registration.secret => {
            return Err(FsError::new(
                ErrorKind::Unauthenticated,
                format!(
                    "datanode {} is registered with another secret: its data directory was changed or copied",
                    registration.uuid
                ),
            ));
        }
        Some(record) => record.info.id,
        None if records.len() >= NODES_MAX => {
            return Err(FsError::new(
                ErrorKind::Busy,
                format!("the cluster has {NODES_MAX} datanodes: remove some first"),
            ));
        }
        None => {
            let number = next_number(txn, keys::next_node())?;
            NodeId(
                u32::try_from(number)
                    .map_err(|_| FsError::new(ErrorKind::NoSpace, "all node numbers were used"))?,
            )
        }
    };
    let info = info(id, registration);
    if known.is_none_or(|record| record.info.address != info.address || record.info.disk != info.disk) {
        let record = stored::NodeRecord {
            uuid: registration.uuid.clone(),
            secret: registration.secret,
            info,
        };
        stored::put_node(txn, &record);
    }
    Ok(id)
}

/// Makes placement groups of these members, numbered upwards.
///
/// # Errors
/// `NoSpace` (too many groups), `Corrupt`.
pub(super) fn create_groups(txn: &mut Txn<'_>, groups: Vec<Vec<NodeId>>) -> FsResult<Vec<PlacementGroup>> {
    let mut made = Vec::with_capacity(groups.len());
    for members in groups {
        let number = next_number(txn, keys::next_placement_group())?;
        if number > PLACEMENT_GROUPS_MAX as u64 {
            return Err(FsError::new(
                ErrorKind::NoSpace,
                "the cluster has too many placement groups",
            ));
        }
        let group = PlacementGroup {
            id: PgId(number as u32),
            version: 1,
            members,
        };
        stored::put_group(txn, &group);
        made.push(group);
    }
    Ok(made)
}
