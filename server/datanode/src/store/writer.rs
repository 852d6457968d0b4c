//! Writes one chunk file, step by step, on threads that may block.
//!
//! Invariant (I1, I2): the order is content, checksum table, sync, name, sync of the directory; only then is the write answered. The
//! content is hashed as it goes by, unless its source did that, and never read back.

use super::HashCheck;
use super::local::{Present, Shared};
use super::output::Output;
use super::space::Promise;
use crate::chunk_file::{FrameChecksums, content_offset, encode_prologue};
use bytes::Bytes;
use dfs_common::chunk::ChunkDescription;
use dfs_common::{DiskIncarnation, ErrorKind, FsError, FsResult};
use sha2::{Digest, Sha256};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A write under way; dropping it leaves nothing.
pub(super) struct ChunkWriter {
    shared: Arc<Shared>,
    description: ChunkDescription,
    /// The disk under whose incarnation the write began.
    disk: DiskIncarnation,
    received: u64,
    /// `None` if the source answers for the SHA-256.
    hasher: Option<Sha256>,
    /// Told that the SHA-256 is the described one.
    matched: Option<oneshot::Sender<()>>,
    frames: FrameChecksums,
    /// `None` if the chunk is here already: its content is only compared.
    file: Option<Temporary>,
}

/// A file without a name under `chunks/`; removed when dropped.
struct Temporary {
    file: File,
    path: PathBuf,
    content: Output,
    /// Given back once the file system has set the room apart.
    room: Option<Promise>,
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
    pub(super) fn begin(
        shared: Arc<Shared>,
        description: ChunkDescription,
        hash: HashCheck,
    ) -> FsResult<Self> {
        let disk = shared.health.writable()?;
        let file = match shared.present(&description)? {
            Present::Same => None,
            Present::Nothing | Present::Damaged => Some(Temporary::create(&shared, &description)?),
        };
        let (hasher, matched) = match hash {
            HashCheck::Here { matched } => (Some(Sha256::new()), matched),
            HashCheck::AtSource => (None, None),
        };
        Ok(ChunkWriter {
            shared,
            description,
            disk,
            received: 0,
            hasher,
            matched,
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
            self.received += piece.len() as u64;
            if self.received > self.description.length {
                return Err(mismatch("more bytes than"));
            }
            if let Some(hasher) = &mut self.hasher {
                hasher.update(piece);
            }
            if let Some(temporary) = &mut self.file {
                self.frames.update(piece);
                temporary
                    .content
                    .append(&temporary.file, piece)
                    .map_err(|error| self.shared.write_failed("writing a chunk", &error))?;
            }
        }
        Ok(())
    }

    /// Ends the write: durable on return.
    ///
    /// # Errors
    /// `Corrupt` (less than, or other than described), `ChunkConflict`, `NoSpace`, `ReadOnly`.
    pub(super) fn finish(mut self) -> FsResult<DiskIncarnation> {
        if self.received < self.description.length {
            return Err(mismatch("fewer bytes than"));
        }
        if let Some(hasher) = self.hasher
            && hasher.finalize()[..] != self.description.sha256[..]
        {
            return Err(mismatch("another SHA-256 than"));
        }
        if let Some(matched) = self.matched {
            // Nobody may be waiting.
            let _ = matched.send(());
        }
        let shared = &self.shared;
        shared.ensure_leaf(self.description.chunk)?;
        match &mut self.file {
            // Who wrote it may not have come to this.
            None => shared.sync_leaf(self.description.chunk)?,
            Some(temporary) => {
                let prologue = encode_prologue(&self.description, &self.frames.finish());
                temporary
                    .content
                    .flush(&temporary.file)
                    .and_then(|()| temporary.file.write_all_at(&prologue, 0))
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
        let content = Output::begin(&file, &path, content_offset, description.length, &shared.blocks);
        // From here on the file goes when this does.
        let mut temporary = Temporary {
            file,
            path,
            content: Output::buffered(content_offset),
            room: Some(room),
        };
        temporary.content = content.map_err(|error| shared.write_failed("making a chunk", &error))?;
        if temporary.content.has_room() {
            temporary.room = None;
        }
        Ok(temporary)
    }
}
