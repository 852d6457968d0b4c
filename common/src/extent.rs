//! Extents: the map from a file's bytes to chunks. Holes have no extent.

use crate::capability::ChunkCapability;
use crate::ids::{ChunkId, DiskIncarnation, NodeId};
use bytes::Bytes;

/// Where an extent's bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExtentData {
    /// In a chunk, from `chunk_offset`.
    Chunk {
        /// The chunk.
        chunk: ChunkId,
        /// Offset of the extent's first byte within the chunk's content.
        chunk_offset: u64,
    },
    /// In the metadata store itself.
    Inline(Bytes),
}

/// `length` bytes of a file from `offset`. Extents of one inode are disjoint and sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extent {
    /// File offset in bytes.
    pub offset: u64,
    /// Length in bytes, at least 1; `offset + length` is at most [`crate::limits::FILE_BYTES_MAX`].
    pub length: u64,
    /// Where the bytes are.
    pub data: ExtentData,
}

impl Extent {
    /// First file offset behind the extent.
    pub fn end(&self) -> u64 {
        self.offset + self.length
    }
}

/// Proof that one replica of a chunk is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Datanode that holds it.
    pub node: NodeId,
    /// Its disk's incarnation.
    pub disk: DiskIncarnation,
    /// SHA-256 of the content that was stored.
    pub sha256: [u8; 32],
    /// Content length in bytes.
    pub length: u64,
}

/// A chunk that a commit refers to for the first time, with the receipts of its replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommittedChunk {
    /// The chunk, granted to the committing session.
    pub chunk: ChunkId,
    /// One receipt per replica; at least the configured floor.
    pub receipts: Vec<Receipt>,
}

/// An extent with the capability to read its chunk (absent for inline bytes).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedExtent {
    /// The extent.
    pub extent: Extent,
    /// Permission to read the chunk.
    pub capability: Option<ChunkCapability>,
}

/// One page of an extent map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtentPage {
    /// Version of the map that the page was read from.
    pub map_version: u64,
    /// File size at that version.
    pub size: u64,
    /// Extents that overlap the asked range, sorted; gaps are holes.
    pub extents: Vec<ResolvedExtent>,
    /// Everything below this file offset, from the asked one on, is described; `u64::MAX` when the map ended.
    pub covered_to: u64,
}
