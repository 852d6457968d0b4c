//! Writes one chunk file, step by step, on threads that may block.
//!
//! Invariant (I1, I2): the order is content, everything before it, sync, name, sync of the directory; only then is the write answered.
//! The content is hashed as it goes by, unless its source did that, and never read back; its hash is known when the header is written,
//! behind the content. The checksums of its frames are those that came with it: what changes between here and the disk is found by a
//! reader.

use super::Durable;
use super::local::{Present, Shared};
use super::output::Output;
use super::space::Promise;
use crate::chunk_file::{content_offset, encode_prologue, frame_count};
use dfs_common::chunk::ChunkLabel;
use dfs_common::limits::FRAME_BYTES;
use dfs_common::piece::Piece;
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
    label: ChunkLabel,
    /// The disk under whose incarnation the write began.
    disk: DiskIncarnation,
    received: u64,
    /// `None` if the source answers for the SHA-256.
    hashing: Option<Hashing>,
    /// Of the frames so far, as they came.
    checksums: Vec<u32>,
    /// `None` if the chunk is here already: its content is only compared.
    file: Option<Temporary>,
}

/// The content's SHA-256 while it is computed.
pub(super) struct Hashing {
    hasher: Sha256,
    expected: Option<[u8; 32]>,
    found: Option<oneshot::Sender<[u8; 32]>>,
}

impl Hashing {
    /// Content whose hash is not `expected` is refused; `found` is told it.
    pub(super) fn new(expected: Option<[u8; 32]>, found: Option<oneshot::Sender<[u8; 32]>>) -> Self {
        Hashing {
            hasher: Sha256::new(),
            expected,
            found,
        }
    }

    fn finish(self) -> FsResult<[u8; 32]> {
        let sha256 = self.hasher.finalize().into();
        if self.expected.is_some_and(|expected| expected != sha256) {
            return Err(mismatch("another SHA-256 than"));
        }
        if let Some(found) = self.found {
            // Nobody may be waiting.
            let _ = found.send(sha256);
        }
        Ok(sha256)
    }
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
    /// Begins a write. Without `hashing` the source says the hash when the write is finished.
    ///
    /// # Errors
    /// `ReadOnly`, `ChunkConflict`, `NoSpace`.
    pub(super) fn begin(shared: Arc<Shared>, label: ChunkLabel, hashing: Option<Hashing>) -> FsResult<Self> {
        let disk = shared.health.writable()?;
        let known = hashing.as_ref().and_then(|hashing| hashing.expected);
        let file = match shared.present_as(&label, known)? {
            Present::Same => None,
            Present::Nothing | Present::Damaged => Some(Temporary::create(&shared, &label)?),
        };
        let checksums = Vec::with_capacity(frame_count(label.length));
        Ok(ChunkWriter {
            shared,
            label,
            disk,
            received: 0,
            hashing,
            checksums,
            file,
        })
    }

    /// Takes the next pieces of content.
    ///
    /// # Errors
    /// `Corrupt` (more than was described), `Invalid` (a piece that is not aligned), `NoSpace`, `ReadOnly`.
    pub(super) fn append(&mut self, pieces: &[Piece]) -> FsResult<()> {
        for piece in pieces {
            if !self.received.is_multiple_of(FRAME_BYTES as u64) {
                return Err(FsError::new(
                    ErrorKind::Invalid,
                    "a piece but the last of a chunk is whole frames",
                ));
            }
            self.received += piece.len() as u64;
            if self.received > self.label.length {
                return Err(mismatch("more bytes than"));
            }
            if let Some(hashing) = &mut self.hashing {
                hashing.hasher.update(piece.content());
            }
            self.checksums.extend_from_slice(piece.checksums());
        }
        match &mut self.file {
            Some(temporary) => temporary
                .content
                .append(&temporary.file, pieces)
                .map_err(|error| self.shared.write_failed("writing a chunk", &error)),
            None => Ok(()),
        }
    }

    /// Ends the write: durable on return. `told` is the hash if the source says it.
    ///
    /// # Errors
    /// `Corrupt` (less than, or other than described), `ChunkConflict`, `NoSpace`, `ReadOnly`, `Unavailable` (what was here already
    /// is not any more).
    pub(super) fn finish(mut self, told: Option<[u8; 32]>) -> FsResult<Durable> {
        if self.received < self.label.length {
            return Err(mismatch("fewer bytes than"));
        }
        let sha256 = match (self.hashing.take(), told) {
            (Some(hashing), _) => hashing.finish()?,
            (None, Some(told)) => told,
            (None, None) => return Err(mismatch("no SHA-256, unlike what")),
        };
        let description = self.label.described(sha256);
        let shared = &self.shared;
        shared.ensure_leaf(description.chunk)?;
        match &mut self.file {
            None => shared.confirm(&description)?,
            Some(temporary) => {
                let prologue = encode_prologue(&description, &self.checksums);
                temporary
                    .content
                    .flush(&temporary.file)
                    .and_then(|()| temporary.file.write_all_at(&prologue, 0))
                    .map_err(|error| shared.write_failed("writing a chunk", &error))?;
                shared.sync_file(&temporary.file)?;
                shared.publish(&description, &temporary.path)?;
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
        Ok(Durable { disk, sha256 })
    }
}

impl Temporary {
    fn create(shared: &Shared, label: &ChunkLabel) -> FsResult<Self> {
        let content_offset = content_offset(label);
        let room = shared.space.promise(content_offset + label.length)?;
        let path = shared.temporary(label.chunk);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| shared.write_failed("making a chunk", &error))?;
        let content = Output::begin(&file, &path, content_offset, label.length, &shared.blocks);
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
