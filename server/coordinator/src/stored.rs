//! Records of sessions, nodes and placement groups, and the numbers given to new ones: what the applier writes beside the
//! namespace. Values are the messages of `stored.proto`; keys are in [`crate::namespace::keys`].

use crate::cluster::state::NodeSecret;
use crate::namespace::keys;
use crate::namespace::txn::Txn;
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::cluster::{NodeHealth, NodeInfo, PlacementGroup};
use dfs_common::limits::NODES_MAX;
use dfs_common::session::SessionSecret;
use dfs_common::{DiskIncarnation, ErrorKind, FsError, FsResult, NodeId, PgId, SessionId};
use dfs_proto::v1;
use prost::Message;

/// Records read at once at start.
const PAGE: usize = 1024;

fn damaged(what: &str) -> FsError {
    FsError::new(
        ErrorKind::Corrupt,
        format!("a {what} record in the metadata store is damaged: restore the store from a backup"),
    )
}

fn encode(message: &impl Message) -> Bytes {
    Bytes::from(message.encode_to_vec())
}

/// Reads a session's record.
pub fn get_session(read: &dyn MetaRead, session: SessionId) -> FsResult<Option<v1::StoredSession>> {
    let Some(value) = read.get(&keys::session(session))? else {
        return Ok(None);
    };
    v1::StoredSession::decode(value)
        .map(Some)
        .map_err(|_| damaged("session"))
}

/// Writes a session's record.
pub fn put_session(txn: &mut Txn<'_>, session: SessionId, record: &v1::StoredSession) {
    txn.put(keys::session(session), encode(record));
}

/// The secret in a session's record.
///
/// # Errors
/// `Corrupt` unless it has 16 bytes.
pub fn session_secret(record: &v1::StoredSession) -> FsResult<SessionSecret> {
    let secret: [u8; 16] = record.secret[..].try_into().map_err(|_| damaged("session"))?;
    Ok(SessionSecret(secret))
}

/// A node's record.
pub struct NodeRecord {
    /// Made with its data directory.
    pub uuid: String,
    /// Proves its heartbeats.
    pub secret: NodeSecret,
    /// Number, address, disk; load and health of its registration.
    pub info: NodeInfo,
}

/// Writes a node's record.
pub fn put_node(txn: &mut Txn<'_>, record: &NodeRecord) {
    let info = &record.info;
    let message = v1::StoredNode {
        uuid: record.uuid.clone(),
        secret: Bytes::copy_from_slice(&record.secret),
        info: Some(v1::NodeInfo {
            id: info.id.0,
            address: info.address.clone(),
            health: 1,
            disk: info.disk.0,
            capacity_bytes: info.capacity_bytes,
            used_bytes: info.used_bytes,
            available_bytes: info.available_bytes,
            chunks: info.chunks,
            writable: info.writable,
        }),
    };
    txn.put(keys::node(info.id), encode(&message));
}

fn decode_node(value: Bytes) -> FsResult<NodeRecord> {
    let message = v1::StoredNode::decode(value).map_err(|_| damaged("node"))?;
    let info = message.info.ok_or_else(|| damaged("node"))?;
    Ok(NodeRecord {
        uuid: message.uuid,
        secret: message.secret[..].try_into().map_err(|_| damaged("node"))?,
        info: NodeInfo {
            id: NodeId(info.id),
            address: info.address,
            health: NodeHealth::Suspect,
            disk: DiskIncarnation(info.disk),
            capacity_bytes: info.capacity_bytes,
            used_bytes: info.used_bytes,
            available_bytes: info.available_bytes,
            chunks: info.chunks,
            writable: info.writable,
        },
    })
}

/// Writes a placement group's record.
pub fn put_group(txn: &mut Txn<'_>, group: &PlacementGroup) {
    let message = v1::PlacementGroup {
        id: group.id.0,
        version: group.version,
        members: group.members.iter().map(|id| id.0).collect(),
    };
    txn.put(keys::placement_group(group.id), encode(&message));
}

/// Calls `each` with every pair of a range, read in pages.
pub fn for_each(
    read: &dyn MetaRead,
    (mut start, end): (Bytes, Bytes),
    mut each: impl FnMut(Bytes, Bytes) -> FsResult<()>,
) -> FsResult<()> {
    loop {
        let page = read.scan(&start, &end, PAGE)?;
        let whole = page.len() == PAGE;
        if let Some((last, _)) = page.last() {
            start = Bytes::from([&last[..], b"\0"].concat());
        }
        for (key, value) in page {
            each(key, value)?;
        }
        if !whole {
            return Ok(());
        }
    }
}

/// How the store is synced; at once unless it was ever set.
pub fn durability(read: &dyn MetaRead) -> FsResult<v1::StoredDurability> {
    match read.get(&keys::durability())? {
        Some(value) => v1::StoredDurability::decode(value).map_err(|_| damaged("durability")),
        None => Ok(v1::StoredDurability::default()),
    }
}

/// Writes how the store is synced.
pub fn put_durability(txn: &mut Txn<'_>, record: &v1::StoredDurability) {
    txn.put(keys::durability(), encode(record));
}

/// What a restore from a backup left behind, if there was one.
pub fn restore(read: &dyn MetaRead) -> FsResult<Option<v1::StoredRestore>> {
    let value = read.get(&keys::restore())?;
    value
        .map(|value| v1::StoredRestore::decode(value).map_err(|_| damaged("restore")))
        .transpose()
}

/// Writes what a restore from a backup left behind.
pub fn put_restore(txn: &mut Txn<'_>, record: &v1::StoredRestore) {
    txn.put(keys::restore(), encode(record));
}

/// All session records.
pub fn sessions(read: &dyn MetaRead) -> FsResult<Vec<(SessionId, v1::StoredSession)>> {
    let mut found = Vec::new();
    for_each(read, keys::sessions(), |key, value| {
        let session = keys::parse_session(&key).ok_or_else(|| damaged("session"))?;
        let record = v1::StoredSession::decode(value).map_err(|_| damaged("session"))?;
        found.push((session, record));
        Ok(())
    })?;
    Ok(found)
}

/// All node records.
pub fn nodes(read: &dyn MetaRead) -> FsResult<Vec<NodeRecord>> {
    let mut found = Vec::new();
    for_each(read, keys::nodes(), |_, value| {
        found.push(decode_node(value)?);
        Ok(())
    })?;
    Ok(found)
}

/// [`nodes`], with the changes of a transaction.
pub fn nodes_in(txn: &Txn<'_>) -> FsResult<Vec<NodeRecord>> {
    let (start, end) = keys::nodes();
    let page = txn.scan(&start, &end, NODES_MAX)?;
    page.into_iter().map(|(_, value)| decode_node(value)).collect()
}

/// All placement groups.
pub fn groups(read: &dyn MetaRead) -> FsResult<Vec<PlacementGroup>> {
    let mut found = Vec::new();
    for_each(read, keys::placement_groups(), |_, value| {
        let group = v1::PlacementGroup::decode(value).map_err(|_| damaged("placement group"))?;
        found.push(PlacementGroup {
            id: PgId(group.id),
            version: group.version,
            members: group.members.into_iter().map(NodeId).collect(),
        });
        Ok(())
    })?;
    Ok(found)
}
