//! Operations applied to a store as the coordinator's writer does, where every file is open and no group has a datanode.

#![allow(clippy::unwrap_used)] // of examples, as in their own files

use dfs_common::capability::CapabilityKey;
use dfs_common::op::{OpReply, Operation};
use dfs_common::session::Caller;
use dfs_common::{FsResult, Ino, NodeId, PgId, SessionId, Timestamp};
use dfs_coordinator::namespace::txn::Txn;
use dfs_coordinator::namespace::{self, ApplyContext, ChunkPlacement, OpenFiles};

struct Everything;

impl OpenFiles for Everything {
    fn holders(&self, _ino: Ino) -> Vec<SessionId> {
        Vec::new()
    }
    fn is_open(&self, _session: SessionId, _ino: Ino, _write: bool) -> bool {
        true
    }
}

impl ChunkPlacement for Everything {
    fn choose(&self, _count: u32) -> FsResult<Vec<PgId>> {
        Ok(Vec::new())
    }
    fn members(&self, _group: PgId) -> Option<Vec<NodeId>> {
        None
    }
}

/// Applies an operation of root; answers the inode that it is about.
pub fn apply(txn: &mut Txn<'_>, operation: &Operation) -> Ino {
    let ctx = ApplyContext {
        now: Timestamp { secs: 1, nanos: 0 },
        session: SessionId(1),
        opened: &Everything,
        placement: &Everything,
        capability_key: &CapabilityKey([1; 32]),
        capability_expires_unix_ms: 1,
        replication: 3,
        replication_floor: 2,
    };
    match namespace::apply(txn, &ctx, &Caller::root(), operation).unwrap() {
        OpReply::Entry(entry) | OpReply::Created { entry, .. } => entry.attr.ino,
        OpReply::Committed { attr, .. } => attr.ino,
        other => panic!("{other:?}"),
    }
}
