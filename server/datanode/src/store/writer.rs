//! Writes one chunk file, step by step, on threads that may block.
//!
//! Invariant (I1, I2): the order is content, checksum table, sync, name, sync of the directory; only then is the write answered. The
//! content is hashed as it goes by and never read back.

use super::local::{Present, Shared};
use super::space::Promise;
use crate::chunk_file::{FrameChecksums, content_offset, encode_prologue};
use bytes::Bytes;
use dfs_common::service::ChunkDescription;
use dfs_common::{DiskIncarnation, ErrorKind, FsError, FsResult};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

/// A write under way; dropping it leaves nothing.
pub(super) struct ChunkWriter {
    shared: Arc<Shared>,
    description: ChunkDescription,
    /// The disk under whose incarnation the write began.
    disk: DiskIncarnation,
    received: u64,
    hasher: Sha256,
    frames: FrameChecksums,
    /// `None` if the chunk is here already: its content is only compared.
    file: Option<Temporary>,
}

/// A file without a name under `chunks/`; removed when dropped.
struct Temporary {
    file: File,
    path: PathBuf,
    content_offset: u64,
    _room: Promise,
}

impl Drop for Temporary {
    fn drop(&mut self) {
        // Gone already after the rename.
        let _ = std::fs::remove_file(&self.path);
    }
}

fn mismatch(what: &str) -> FsError {
    FsError::new(
        ErrorKind::Corrupt,
        format!("the content has {what} its description says: send it again"),
    )
}

impl ChunkWriter {
    /// Begins a write.
    ///
    /// # Errors
    /// `ReadOnly`, `ChunkConflict`, `NoSpace`.
    pub(super) fn begin(shared: Arc<Shared>, description: ChunkDescription) -> FsResult<Self> {
        let disk = shared.health.writable()?;
        let file = match shared.present(&description)? {
            Present::Same => None,
            Present::Nothing | Present::Damaged => Some(Temporary::create(&shared, &description)?),
        };
        Ok(ChunkWriter {
            shared,
            description,
            disk,
            received: 0,
            hasher: Sha256::new(),
            frames: FrameChecksums::default(),
            file,
        })
    }

    /// Takes the next pieces of content.
    ///
    /// # Errors
    /// `Corrupt` (more than was described), `NoSpace`, `ReadOnly`.
    pub(super) fn append(&mut self, pieces: &[Bytes]) -> FsResult<()> {
        for piece in pieces {
            let at = self.received;
            self.received += piece.len() as u64;
            if self.received > self.description.length {
                return Err(mismatch("more bytes than"));
            }
            self.hasher.update(piece);
            if let Some(temporary) = &self.file {
                self.frames.update(piece);
                temporary
                    .file
                    .write_all_at(piece, temporary.content_offset + at)
                    .map_err(|error| self.shared.write_failed("writing a chunk", &error))?;
            }
        }
        Ok(())
    }

    /// Ends the write: durable on return.
    ///
    /// # Errors
    /// `Corrupt` (less than, or other than described), `ChunkConflict`, `NoSpace`, `ReadOnly`.
    pub(super) fn finish(self) -> FsResult<DiskIncarnation> {
        if self.received < self.description.length {
            return Err(mismatch("fewer bytes than"));
        }
        if self.hasher.finalize()[..] != self.description.sha256[..] {
            return Err(mismatch("another SHA-256 than"));
        }
        let shared = &self.shared;
        shared.ensure_leaf(self.description.chunk)?;
        match &self.file {
            // Who wrote it may not have come to this.
            None => shared.sync_leaf(self.description.chunk)?,
            Some(temporary) => {
                let prologue = encode_prologue(&self.description, &self.frames.finish());
                temporary
                    .file
                    .write_all_at(&prologue, 0)
                    .map_err(|error| shared.write_failed("writing a chunk", &error))?;
                shared.sync_file(&temporary.file)?;
                shared.publish(&self.description, &temporary.path)?;
            }
        }
        // A disk that failed meanwhile, under another write, vouches for nothing.
        let disk = shared.health.writable()?;
        if disk != self.disk {
            return Err(FsError::new(
                ErrorKind::ReadOnly,
                "the datanode's disk failed: write elsewhere",
            ));
        }
        Ok(disk)
    }
}

impl Temporary {
    fn create(shared: &Shared, description: &ChunkDescription) -> FsResult<Self> {
        let content_offset = content_offset(description);
        let room = shared.space.promise(content_offset + description.length)?;
        let path = shared.temporary(description.chunk);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| shared.write_failed("making a chunk", &error))?;
        Ok(Temporary {
            file,
            path,
            content_offset,
            _room: room,
        })
    }
}
