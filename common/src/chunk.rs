//! What is known of a chunk beside its content.

use crate::ids::{ChunkId, Ino, SessionEpoch};

/// What a chunk's writer says of it before its content: everything but the hash, which is known only behind the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkLabel {
    /// The chunk.
    pub chunk: ChunkId,
    /// Inode that it is written for.
    pub ino: Ino,
    /// File offset that it is written for.
    pub file_offset: u64,
    /// Content length in bytes: 1 to [`crate::limits::CHUNK_BYTES_MAX`].
    pub length: u64,
    /// Epoch of the writing session.
    pub epoch: SessionEpoch,
}

impl ChunkLabel {
    /// The description of the chunk, once its content is known to have this SHA-256.
    pub fn described(&self, sha256: [u8; 32]) -> ChunkDescription {
        ChunkDescription {
            chunk: self.chunk,
            ino: self.ino,
            file_offset: self.file_offset,
            length: self.length,
            epoch: self.epoch,
            sha256,
        }
    }
}

/// What a stored chunk's header says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChunkDescription {
    /// The chunk.
    pub chunk: ChunkId,
    /// Inode that it was written for.
    pub ino: Ino,
    /// File offset that it was written for.
    pub file_offset: u64,
    /// Content length in bytes: 1 to [`crate::limits::CHUNK_BYTES_MAX`].
    pub length: u64,
    /// Epoch of the writing session.
    pub epoch: SessionEpoch,
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
}

impl ChunkDescription {
    /// All but the hash.
    pub fn label(&self) -> ChunkLabel {
        ChunkLabel {
            chunk: self.chunk,
            ino: self.ino,
            file_offset: self.file_offset,
            length: self.length,
            epoch: self.epoch,
        }
    }
}
