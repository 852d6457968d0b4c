//! What is known of a chunk beside its content.

use crate::ids::{ChunkId, Ino, SessionEpoch};

/// What a chunk's header says of it.
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
