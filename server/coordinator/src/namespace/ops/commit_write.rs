//! Commits a write: bytes that are durable become visible as extents of a file, with size, times and counts, in one batch.
//!
//! Protects I2 (enough receipts before any reference), I3 (only chunks of the session, or of the file itself), I7 (a size
//! never precedes its data) and the rule that a freed chunk is never referred to again.

use crate::namespace::ApplyContext;
use crate::namespace::chunks::{self, Chunk};
use crate::namespace::counters::{self, Counters};
use crate::namespace::extents::MapEdit;
use crate::namespace::inode::Inode;
use crate::namespace::permission::{GROUP_EXECUTE, SET_GID, SET_UID};
use crate::namespace::txn::Txn;
use crate::namespace::usage;
use crate::stored;
use dfs_common::extent::{CommittedChunk, Extent, ExtentData, Receipt};
use dfs_common::limits::{
    CHUNK_BYTES_MAX, COMMIT_EXTENTS_MAX, FILE_BYTES_MAX, INLINE_EXTENT_BYTES_MAX, INLINE_INODE_BYTES_MAX,
    INLINE_TOTAL_BYTES_MAX, REPLICATION_MAX,
};
use dfs_common::op::{CommitWrite, OpReply};
use dfs_common::{ChunkId, ErrorKind, FileKind, FsError, FsResult, Ino, NodeId};
use std::collections::BTreeMap;

fn invalid(text: impl Into<std::borrow::Cow<'static, str>>) -> FsError {
    FsError::new(ErrorKind::Invalid, text)
}

/// Splices extents into a file that the session has open for writing.
///
/// # Errors
/// `BadHandle` (not open for writing), `Invalid` (extents, receipts, foreign chunks), `FileTooBig`, `TooBig` (inline
/// limits: send the bytes as a chunk), `NotFound` (a chunk was freed meanwhile: send its bytes as a new one),
/// `ChunkConflict` (other content than was committed under the id before), `QuotaExceeded`.
pub fn apply(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>, commit: &CommitWrite) -> FsResult<OpReply> {
    let ino = commit.ino;
    let mut inode = Inode::get(txn, ino)?;
    if !ctx.opened.is_open(ctx.session, ino, true) {
        return Err(FsError::new(
            ErrorKind::BadHandle,
            format!("inode {ino} is not open for writing"),
        ));
    }
    if inode.attr.kind != FileKind::File {
        return Err(invalid("only files have content"));
    }
    if commit.mtime.nanos >= 1_000_000_000 {
        return Err(invalid("nanoseconds are below 1,000,000,000"));
    }
    let size_before = inode.attr.size;
    let base = if commit.append { size_before } else { 0 };
    check_extents(&commit.extents, base)?;
    let mut counters = counters::get(txn)?;
    let lengths = admit_chunks(txn, ctx, commit, &mut counters)?;
    check_ranges(&commit.extents, &lengths)?;

    let mut edit = MapEdit::new(inode.map());
    for extent in &commit.extents {
        let extent = Extent {
            offset: base + extent.offset,
            ..extent.clone()
        };
        // Nothing of the map lies behind the size that the file had.
        if extent.offset < size_before && inode.attr.allocated_bytes > 0 {
            edit.cut(txn, extent.offset, extent.end())?;
        }
        edit.insert(txn, &extent);
        inode.attr.size = inode.attr.size.max(extent.end());
    }
    let grows = edit.inline_bytes() > 0;
    let allocated_before = inode.attr.allocated_bytes;
    edit.finish_of(txn, &mut inode, ctx.now, &mut counters)?;
    if grows
        && (inode.inline_bytes > INLINE_INODE_BYTES_MAX || counters.inline_bytes > INLINE_TOTAL_BYTES_MAX)
    {
        return Err(FsError::new(
            ErrorKind::TooBig,
            "no room for more inline bytes: send them as a chunk",
        ));
    }
    counters::put(txn, &counters);
    usage::grown(txn, ctx.opened, &inode, allocated_before)?;

    if !commit.extents.is_empty() {
        inode.attr.map_version += 1;
    }
    if commit.clear_setid {
        inode.attr.mode &= !SET_UID;
        if inode.attr.mode & GROUP_EXECUTE != 0 {
            inode.attr.mode &= !SET_GID;
        }
    }
    inode.attr.mtime = commit.mtime;
    inode.attr.ctime = ctx.now;
    inode.put(txn);
    Ok(OpReply::Committed {
        attr: inode.attr,
        append_offset: base,
    })
}

fn check_extents(extents: &[Extent], base: u64) -> FsResult<()> {
    if extents.len() > COMMIT_EXTENTS_MAX {
        return Err(invalid(format!(
            "a commit has at most {COMMIT_EXTENTS_MAX} extents, not {}",
            extents.len()
        )));
    }
    let mut free_from = 0;
    for extent in extents {
        if extent.length == 0 || extent.offset < free_from {
            return Err(invalid(
                "the extents of a commit are sorted, disjoint and not empty",
            ));
        }
        let end = extent
            .offset
            .checked_add(extent.length)
            .and_then(|end| end.checked_add(base));
        if end.is_none_or(|end| end > FILE_BYTES_MAX) {
            return Err(FsError::new(
                ErrorKind::FileTooBig,
                format!("a file has at most {FILE_BYTES_MAX} bytes"),
            ));
        }
        free_from = extent.end();
        match &extent.data {
            ExtentData::Inline(bytes) if bytes.len() as u64 != extent.length => {
                return Err(invalid("an inline extent has as many bytes as its length says"));
            }
            ExtentData::Inline(bytes) if bytes.len() > INLINE_EXTENT_BYTES_MAX => {
                return Err(FsError::new(
                    ErrorKind::TooBig,
                    format!(
                        "an inline extent has at most {INLINE_EXTENT_BYTES_MAX} bytes: send them as a chunk"
                    ),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The chunks that the extents refer to, with their lengths: new ones with enough receipts are recorded, known ones must
/// be the session's or the file's own.
fn admit_chunks(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    commit: &CommitWrite,
    counters: &mut Counters,
) -> FsResult<BTreeMap<ChunkId, u64>> {
    let mut lengths = BTreeMap::new();
    for extent in &commit.extents {
        if let ExtentData::Chunk { chunk, .. } = &extent.data {
            lengths.insert(*chunk, 0);
        }
    }
    if lengths.is_empty() && commit.chunks.is_empty() {
        return Ok(lengths);
    }
    let granted_below = stored::get_session(txn, ctx.session)?.map_or(0, |record| record.granted_below);
    let is_own = |id: ChunkId| chunks::may_commit(id, ctx.session, granted_below);
    let mut received: BTreeMap<ChunkId, &CommittedChunk> = BTreeMap::new();
    for committed in &commit.chunks {
        if !lengths.contains_key(&committed.chunk) {
            return Err(invalid(
                "no extent of the commit refers to a chunk that it brings",
            ));
        }
        if received.insert(committed.chunk, committed).is_some() {
            return Err(invalid("a commit brings a chunk once"));
        }
    }
    for (id, length) in &mut lengths {
        let known = Chunk::find(txn, *id)?;
        let new = match received.get(id) {
            Some(committed) if is_own(*id) => Some(check_receipts(ctx, commit.ino, committed)?),
            Some(_) => {
                return Err(invalid(format!(
                    "chunk {id} was not granted to this session, or too long ago"
                )));
            }
            None => None,
        };
        *length = match (known, new) {
            (Some(mut known), Some(new)) => {
                if (known.length, known.sha256) != (new.length, new.sha256) {
                    return Err(FsError::new(
                        ErrorKind::ChunkConflict,
                        format!("chunk {id} was committed with other content before"),
                    ));
                }
                known.add_replicas(txn, *id, &new.replicas)?;
                known.length
            }
            (Some(known), None) if is_own(*id) || known.ino == commit.ino => known.length,
            (Some(_), None) => return Err(invalid(format!("chunk {id} belongs to another file"))),
            (None, _) if chunks::was_freed(txn, *id)? => {
                return Err(FsError::new(
                    ErrorKind::NotFound,
                    format!("chunk {id} was freed meanwhile: send its bytes as a new chunk"),
                ));
            }
            (None, Some(new)) => {
                new.add(txn, *id, counters)?;
                new.length
            }
            (None, None) => return Err(invalid(format!("chunk {id} is unknown and has no receipts"))),
        };
    }
    Ok(lengths)
}

/// A new chunk's record, if its receipts prove enough replicas (I2).
fn check_receipts(ctx: &ApplyContext<'_>, ino: Ino, committed: &CommittedChunk) -> FsResult<Chunk> {
    let id = committed.chunk;
    let first = committed
        .receipts
        .first()
        .ok_or_else(|| invalid(format!("chunk {id} has no receipt")))?;
    if committed.receipts.len() > REPLICATION_MAX as usize {
        return Err(invalid(format!(
            "chunk {id} has more than {REPLICATION_MAX} receipts"
        )));
    }
    if !(1..=CHUNK_BYTES_MAX).contains(&first.length) {
        return Err(invalid(format!("a chunk has 1 to {CHUNK_BYTES_MAX} bytes")));
    }
    let members = ctx
        .placement
        .members(id.group())
        .ok_or_else(|| invalid(format!("chunk {id} is of an unknown placement group")))?;
    let mut replicas: Vec<NodeId> = committed.receipts.iter().map(|receipt| receipt.node).collect();
    replicas.sort_unstable();
    replicas.dedup();
    if replicas.len() != committed.receipts.len() {
        return Err(invalid(format!("chunk {id} has two receipts of one node")));
    }
    if let Some(stranger) = replicas.iter().find(|node| !members.contains(node)) {
        return Err(invalid(format!(
            "node {stranger} is not a member of the placement group of chunk {id}"
        )));
    }
    let agrees = |receipt: &Receipt| (receipt.length, receipt.sha256) == (first.length, first.sha256);
    if !committed.receipts.iter().all(agrees) {
        return Err(invalid(format!(
            "the receipts of chunk {id} name different content"
        )));
    }
    if replicas.len() < ctx.replication_floor as usize {
        return Err(invalid(format!(
            "chunk {id} has {} receipts, {} are needed",
            replicas.len(),
            ctx.replication_floor
        )));
    }
    Ok(Chunk {
        length: first.length,
        references: 0,
        replicas,
        sha256: first.sha256,
        ino,
    })
}

fn check_ranges(extents: &[Extent], lengths: &BTreeMap<ChunkId, u64>) -> FsResult<()> {
    for extent in extents {
        if let ExtentData::Chunk { chunk, chunk_offset } = &extent.data {
            let end = chunk_offset.checked_add(extent.length);
            let length = lengths.get(chunk).copied().unwrap_or(0);
            if end.is_none_or(|end| end > length) {
                return Err(invalid(format!(
                    "an extent reaches behind the end of chunk {chunk}"
                )));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
