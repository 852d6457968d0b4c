//! Extents, pages of the map, receipts and commits of chunks.

use super::{
    access_from_wire, access_to_wire, at_most, attr_to_wire, chunk_capability_from_wire,
    chunk_capability_to_wire, chunk_id, fixed,
};
use super::{inode::required_attr, invalid, required};
use crate::v1;
use bytes::Bytes;
use dfs_common::extent::{CommittedChunk, Extent, ExtentData, ExtentPage, Receipt, ResolvedExtent};
use dfs_common::limits::{CHUNK_BYTES_MAX, EXTENTS_PAGE_MAX, FILE_BYTES_MAX, REPLICATION_MAX};
use dfs_common::service::{Extents, Opened};
use dfs_common::{ChunkId, DiskIncarnation, FsResult, NodeId};

/// A chunk id's wire form.
pub(super) fn chunk_id_to_wire(chunk: ChunkId) -> Bytes {
    Bytes::copy_from_slice(&chunk.to_bytes())
}

/// Checks a chunk's content length: 1 to [`CHUNK_BYTES_MAX`].
pub(super) fn chunk_length(length: u64) -> FsResult<u64> {
    if length == 0 || length > CHUNK_BYTES_MAX {
        return Err(invalid(format!(
            "a chunk has 1 to {CHUNK_BYTES_MAX} bytes, not {length}"
        )));
    }
    Ok(length)
}

/// An extent's wire form.
pub fn extent_to_wire(extent: &Extent) -> v1::Extent {
    v1::Extent {
        offset: extent.offset,
        length: extent.length,
        data: Some(match &extent.data {
            ExtentData::Chunk { chunk, chunk_offset } => v1::extent::Data::Chunk(v1::ChunkRange {
                chunk: chunk_id_to_wire(*chunk),
                chunk_offset: *chunk_offset,
            }),
            ExtentData::Inline(bytes) => v1::extent::Data::Inline(bytes.clone()),
        }),
    }
}

/// An extent from the wire.
///
/// # Errors
/// `Invalid`: empty, behind the largest file, behind the largest chunk, or inline bytes of another length.
pub fn extent_from_wire(extent: v1::Extent) -> FsResult<Extent> {
    let v1::Extent { offset, length, data } = extent;
    let fits = offset
        .checked_add(length)
        .is_some_and(|end| end <= FILE_BYTES_MAX);
    if length == 0 || !fits {
        return Err(invalid("an extent is empty or reaches behind the largest file"));
    }
    let data = match required(data, "extent data")? {
        v1::extent::Data::Chunk(range) => {
            let end = range.chunk_offset.checked_add(length);
            if end.is_none_or(|end| end > CHUNK_BYTES_MAX) {
                return Err(invalid("an extent reaches behind the largest chunk"));
            }
            ExtentData::Chunk {
                chunk: chunk_id(&range.chunk)?,
                chunk_offset: range.chunk_offset,
            }
        }
        v1::extent::Data::Inline(bytes) if bytes.len() as u64 == length => ExtentData::Inline(bytes),
        v1::extent::Data::Inline(_) => {
            return Err(invalid("an extent's inline bytes are not as long as the extent"));
        }
    };
    Ok(Extent { offset, length, data })
}

/// A resolved extent's wire form.
pub fn resolved_extent_to_wire(resolved: &ResolvedExtent) -> v1::ResolvedExtent {
    v1::ResolvedExtent {
        extent: Some(extent_to_wire(&resolved.extent)),
        capability: resolved.capability.as_ref().map(chunk_capability_to_wire),
    }
}

/// A resolved extent from the wire.
///
/// # Errors
/// As [`extent_from_wire`] and [`chunk_capability_from_wire`]; `Invalid` for a capability of another chunk, or for inline
/// bytes.
pub fn resolved_extent_from_wire(resolved: v1::ResolvedExtent) -> FsResult<ResolvedExtent> {
    let extent = extent_from_wire(required(resolved.extent, "extent")?)?;
    let capability = resolved.capability.map(chunk_capability_from_wire).transpose()?;
    let other = match (&extent.data, &capability) {
        (_, None) => false,
        (ExtentData::Chunk { chunk, .. }, Some(capability)) => capability.chunk != *chunk,
        (ExtentData::Inline(_), Some(_)) => true,
    };
    if other {
        return Err(invalid("an extent has the capability of another chunk"));
    }
    Ok(ResolvedExtent { extent, capability })
}

/// A map page's wire form.
pub fn extent_page_to_wire(page: &ExtentPage) -> v1::ExtentPage {
    v1::ExtentPage {
        map_version: page.map_version,
        size: page.size,
        extents: page.extents.iter().map(resolved_extent_to_wire).collect(),
        covered_to: page.covered_to,
        leased: false,
    }
}

/// A map page from the wire.
///
/// # Errors
/// `Invalid` for more extents than [`EXTENTS_PAGE_MAX`], extents that overlap or are out of order, a size above the largest
/// file, and as [`resolved_extent_from_wire`].
pub fn extent_page_from_wire(page: v1::ExtentPage) -> FsResult<ExtentPage> {
    at_most(page.extents.len(), EXTENTS_PAGE_MAX as usize, "extents")?;
    if page.size > FILE_BYTES_MAX {
        return Err(invalid(format!("size {} is above the largest file", page.size)));
    }
    let extents = page
        .extents
        .into_iter()
        .map(resolved_extent_from_wire)
        .collect::<FsResult<Vec<_>>>()?;
    if extents
        .windows(2)
        .any(|pair| pair[0].extent.end() > pair[1].extent.offset)
    {
        return Err(invalid("the extents of a page overlap or are out of order"));
    }
    Ok(ExtentPage {
        map_version: page.map_version,
        size: page.size,
        extents,
        covered_to: page.covered_to,
    })
}

/// The wire form of a map page that was asked for.
pub fn extents_to_wire(extents: &Extents) -> v1::ExtentPage {
    v1::ExtentPage {
        leased: extents.leased,
        ..extent_page_to_wire(&extents.page)
    }
}

/// A map page that was asked for, from the wire.
///
/// # Errors
/// As [`extent_page_from_wire`].
pub fn extents_from_wire(page: v1::ExtentPage) -> FsResult<Extents> {
    Ok(Extents {
        leased: page.leased,
        page: extent_page_from_wire(page)?,
    })
}

/// The wire form of what an open answers.
pub fn opened_to_wire(opened: &Opened) -> v1::OpenReply {
    v1::OpenReply {
        attr: Some(attr_to_wire(&opened.attr)),
        extents: Some(extent_page_to_wire(&opened.extents)),
        access: Some(access_to_wire(&opened.access)),
    }
}

/// What an open answered.
///
/// # Errors
/// As [`super::attr_from_wire`] and [`extent_page_from_wire`].
pub fn opened_from_wire(reply: v1::OpenReply) -> FsResult<Opened> {
    Ok(Opened {
        attr: required_attr(reply.attr)?,
        extents: extent_page_from_wire(required(reply.extents, "page of extents")?)?,
        access: access_from_wire(required(reply.access, "access")?),
    })
}

/// A receipt's wire form.
pub fn receipt_to_wire(receipt: &Receipt) -> v1::Receipt {
    v1::Receipt {
        node: receipt.node.0,
        disk: receipt.disk.0,
        sha256: Bytes::copy_from_slice(&receipt.sha256),
        length: receipt.length,
    }
}

/// A receipt from the wire.
///
/// # Errors
/// `Invalid`: a hash that has not 32 bytes, an impossible length.
pub fn receipt_from_wire(receipt: v1::Receipt) -> FsResult<Receipt> {
    Ok(Receipt {
        node: NodeId(receipt.node),
        disk: DiskIncarnation(receipt.disk),
        sha256: fixed(&receipt.sha256, "SHA-256")?,
        length: chunk_length(receipt.length)?,
    })
}

/// A list of receipts: at most one per possible replica.
pub(super) fn receipts(receipts: Vec<v1::Receipt>) -> FsResult<Vec<Receipt>> {
    at_most(receipts.len(), REPLICATION_MAX as usize, "receipts")?;
    receipts.into_iter().map(receipt_from_wire).collect()
}

/// A committed chunk's wire form.
pub fn committed_chunk_to_wire(committed: &CommittedChunk) -> v1::CommittedChunk {
    v1::CommittedChunk {
        chunk: chunk_id_to_wire(committed.chunk),
        receipts: committed.receipts.iter().map(receipt_to_wire).collect(),
    }
}

/// A committed chunk from the wire.
///
/// # Errors
/// `Invalid`: a chunk id that has not 16 bytes, more receipts than replicas can be, and as [`receipt_from_wire`].
pub fn committed_chunk_from_wire(committed: v1::CommittedChunk) -> FsResult<CommittedChunk> {
    Ok(CommittedChunk {
        chunk: chunk_id(&committed.chunk)?,
        receipts: receipts(committed.receipts)?,
    })
}
