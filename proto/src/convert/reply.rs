//! Results of operations. The coordinator also keeps them in its reply table in this form.

use super::inode::required_attr;
use super::{
    at_most, attr_to_wire, chunk_capability_from_wire, chunk_capability_to_wire, created_from_wire,
    created_to_wire, entry_from_wire, entry_to_wire, error_from_wire, error_to_wire, required,
};
use crate::v1;
use crate::v1::op_result::Result as Wire;
use dfs_common::limits::{BATCH_OPS_MAX, GRANT_CHUNKS_MAX};
use dfs_common::op::{OpReply, OpResult};
use dfs_common::{FsResult, Ino};

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

/// The wire form of a batch's results.
pub fn op_results_to_wire(results: &[OpResult]) -> v1::MutateReply {
    v1::MutateReply {
        results: results.iter().map(op_result_to_wire).collect(),
    }
}

/// The results of a batch from the wire.
///
/// # Errors
/// `Invalid` for more than [`BATCH_OPS_MAX`], and as [`op_result_from_wire`].
pub fn op_results_from_wire(reply: v1::MutateReply) -> FsResult<Vec<OpResult>> {
    at_most(reply.results.len(), BATCH_OPS_MAX, "results")?;
    reply.results.into_iter().map(op_result_from_wire).collect()
}
