//! Results of operations. The coordinator also keeps them in its reply table in this form.

use super::inode::required_attr;
use super::{
    access_from_wire, access_to_wire, at_most, attr_from_wire, attr_to_wire, chunk_capability_from_wire,
    chunk_capability_to_wire, commit_id_from_wire, commit_id_to_wire, created_from_wire, created_to_wire,
    entry_from_wire, entry_to_wire, error_from_wire, error_to_wire, required,
};
use crate::v1;
use crate::v1::op_result::Result as Wire;
use dfs_common::limits::{BATCH_OPS_MAX, GRANT_CHUNKS_MAX};
use dfs_common::op::{OpReply, OpResult};
use dfs_common::service::Mutated;
use dfs_common::{CommitPoint, FsResult, Ino};

/// Inodes that one operation can concern: two directories and two children.
const OP_INODES_MAX: usize = 4;

/// The wire form of what an operation answers.
pub fn op_reply_to_wire(reply: &OpReply) -> Wire {
    match reply {
        OpReply::Entry(entry) => Wire::Entry(entry_to_wire(entry)),
        OpReply::Created { entry, existed } => Wire::Created(created_to_wire(entry, *existed)),
        OpReply::Removed { ino, nlink } => Wire::Removed(v1::Removed {
            ino: ino.0,
            nlink: *nlink,
        }),
        OpReply::Renamed { ino, other } => Wire::Renamed(v1::Renamed {
            ino: ino.0,
            other: other.map(|other| other.0),
        }),
        OpReply::Attr(attr) => Wire::Attr(attr_to_wire(attr)),
        OpReply::Chunks(chunks) => Wire::Chunks(v1::Chunks {
            capabilities: chunks.iter().map(chunk_capability_to_wire).collect(),
        }),
        OpReply::Committed { attr, append_offset } => Wire::Committed(v1::Committed {
            attr: Some(attr_to_wire(attr)),
            append_offset: *append_offset,
        }),
    }
}

/// What an operation answered; the inner result is the operation's own.
///
/// # Errors
/// The outer one: `Invalid` for anything malformed or above its limit.
pub fn op_reply_from_wire(wire: Wire) -> FsResult<OpResult> {
    Ok(Ok(match wire {
        Wire::Error(error) => return Ok(Err(error_from_wire(error))),
        Wire::Entry(entry) => OpReply::Entry(entry_from_wire(entry)?),
        Wire::Created(created) => {
            let (entry, existed) = created_from_wire(created)?;
            OpReply::Created { entry, existed }
        }
        Wire::Removed(removed) => OpReply::Removed {
            ino: Ino(removed.ino),
            nlink: removed.nlink,
        },
        Wire::Renamed(renamed) => OpReply::Renamed {
            ino: Ino(renamed.ino),
            other: renamed.other.map(Ino),
        },
        Wire::Attr(attr) => OpReply::Attr(super::attr_from_wire(attr)?),
        Wire::Chunks(chunks) => {
            at_most(
                chunks.capabilities.len(),
                GRANT_CHUNKS_MAX as usize,
                "granted chunks",
            )?;
            let chunks = chunks.capabilities.into_iter();
            OpReply::Chunks(chunks.map(chunk_capability_from_wire).collect::<FsResult<_>>()?)
        }
        Wire::Committed(committed) => OpReply::Committed {
            attr: required_attr(committed.attr)?,
            append_offset: committed.append_offset,
        },
    }))
}

/// The wire form of an operation's result.
pub fn op_result_to_wire(result: &OpResult) -> v1::OpResult {
    v1::OpResult {
        result: Some(match result {
            Ok(reply) => op_reply_to_wire(reply),
            Err(error) => Wire::Error(error_to_wire(error)),
        }),
    }
}

/// An operation's result from the wire.
///
/// # Errors
/// The outer one: `Invalid` for anything malformed or above its limit, or for a result of a newer release.
pub fn op_result_from_wire(result: v1::OpResult) -> FsResult<OpResult> {
    op_reply_from_wire(required(result.result, "result, or it is unknown here")?)
}

/// The answer to a batch, on the wire.
pub fn mutated_to_wire(mutated: &Mutated) -> v1::MutateReply {
    v1::MutateReply {
        results: mutated.results.iter().map(op_result_to_wire).collect(),
        leased: mutated.leased.iter().map(attr_to_wire).collect(),
        access: mutated.access.iter().map(access_to_wire).collect(),
        point: Some(mutated.point)
            .filter(|point| *point != CommitPoint::default())
            .map(commit_point_to_wire),
    }
}

/// The answer to a batch, from the wire.
///
/// # Errors
/// `Invalid` for more than [`BATCH_OPS_MAX`] results or more leases than they can concern, and as
/// [`op_result_from_wire`].
pub fn mutated_from_wire(reply: v1::MutateReply) -> FsResult<Mutated> {
    at_most(reply.results.len(), BATCH_OPS_MAX, "results")?;
    at_most(reply.leased.len(), BATCH_OPS_MAX * OP_INODES_MAX, "leases")?;
    at_most(reply.access.len(), BATCH_OPS_MAX, "files")?;
    let results = reply
        .results
        .into_iter()
        .map(op_result_from_wire)
        .collect::<FsResult<_>>()?;
    Ok(Mutated {
        results,
        leased: reply
            .leased
            .into_iter()
            .map(attr_from_wire)
            .collect::<FsResult<_>>()?,
        access: reply.access.into_iter().map(access_from_wire).collect(),
        point: reply.point.map(commit_point_from_wire).unwrap_or_default(),
    })
}

/// A commit point's wire form.
pub(crate) fn commit_point_to_wire(point: CommitPoint) -> v1::CommitPoint {
    v1::CommitPoint {
        last: Some(commit_id_to_wire(point.last)),
        durable: point.durable,
    }
}

/// A commit point from the wire.
pub(crate) fn commit_point_from_wire(point: v1::CommitPoint) -> CommitPoint {
    CommitPoint {
        last: point.last.map(commit_id_from_wire).unwrap_or_default(),
        durable: point.durable,
    }
}
