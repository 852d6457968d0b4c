//! Reads chunk files: every frame is verified before any byte of it leaves, with the checksum that it has on the disk.
//!
//! A range reads the frames that it touches and no others; a long one is read in steps, the next while the last is sent.

use super::local::{Shared, blocking, joined};
use crate::chunk_file::Prologue;
use dfs_common::chunk::ChunkDescription;
use dfs_common::limits::{FRAME_BYTES, WIRE_FRAME_BYTES};
use dfs_common::piece::Piece;
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::libc;
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

/// Pieces that one step reads: half a MiB.
const STEP_PIECES: usize = 2;

/// An open chunk file and everything before its content.
pub(super) struct OpenChunk {
    file: File,
    prologue: Prologue,
}

impl OpenChunk {
    pub(super) fn new(file: File, prologue: Prologue) -> Self {
        OpenChunk { file, prologue }
    }

    /// What the header says.
    pub(super) fn description(&self) -> &ChunkDescription {
        &self.prologue.description
    }

    /// Checks a range and answers its end.
    fn end_of(&self, offset: u64, length: u64) -> FsResult<u64> {
        let known = self.description().length;
        offset
            .checked_add(length)
            .filter(|end| *end <= known)
            .ok_or_else(|| {
                FsError::new(
                    ErrorKind::Invalid,
                    format!("{length} bytes from {offset} reach behind the chunk's {known} bytes"),
                )
            })
    }

    /// Lets the kernel begin to read what will be asked for.
    fn read_ahead(&self, offset: u64, end: u64) {
        let from = self.prologue.content_offset + offset;
        // Advice only; both are below 2^27.
        let _ = posix_fadvise(
            &self.file,
            from as i64,
            (end - offset) as i64,
            PosixFadviseAdvice::POSIX_FADV_WILLNEED,
        );
    }

    /// The first piece of `offset..end`, which is not empty: up to [`WIRE_FRAME_BYTES`] of whole frames, cut to the range.
    fn piece(&self, shared: &Shared, offset: u64, end: u64) -> FsResult<Piece> {
        let frame = FRAME_BYTES as u64;
        let first = offset / frame;
        let start = first * frame;
        let piece_end = end.min(start + WIRE_FRAME_BYTES as u64);
        let read_end = piece_end.next_multiple_of(frame).min(self.description().length);
        let mut buffer = shared.buffers.take((read_end - start) as usize);
        self.file
            .read_exact_at(buffer.bytes_mut(), self.prologue.content_offset + start)
            .map_err(|error| unreadable(&error))?;
        let content = buffer.freeze();
        let checksums = &self.prologue.frames[first as usize..][..content.len().div_ceil(FRAME_BYTES)];
        let piece = Piece::verified(content, checksums).map_err(|error| {
            FsError::new(
                ErrorKind::Corrupt,
                format!(
                    "chunk {} is damaged behind its frame {first}: {}: ask another replica",
                    self.description().chunk,
                    error.message()
                ),
            )
        })?;
        Ok(piece.slice((offset - start) as usize, (piece_end - start) as usize))
    }

    /// The pieces of the next step of `offset..end`.
    fn step(&self, shared: &Shared, mut offset: u64, end: u64) -> FsResult<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(STEP_PIECES);
        while offset < end && pieces.len() < STEP_PIECES {
            let piece = self
                .piece(shared, offset, end)
                .inspect_err(|error| shared.judge(self.description().chunk, error))?;
            offset += piece.len() as u64;
            pieces.push(piece);
        }
        Ok(pieces)
    }
}

fn unreadable(error: &io::Error) -> FsError {
    // A bad sector, or a file that became shorter, is damage: another replica has the bytes.
    let damaged = error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error() == Some(libc::EIO);
    FsError::new(
        if damaged {
            ErrorKind::Corrupt
        } else {
            ErrorKind::Io
        },
        format!("reading a chunk: {error}; ask another replica"),
    )
}

/// A range that is being read.
pub(super) struct Reading {
    shared: Arc<Shared>,
    open: Arc<OpenChunk>,
    /// Next byte that no step was started for.
    next: u64,
    end: u64,
    ready: VecDeque<Piece>,
    ahead: Option<JoinHandle<FsResult<Vec<Piece>>>>,
}

impl Reading {
    /// Opens the chunk, checks the range and reads its first step.
    pub(super) async fn start(
        shared: Arc<Shared>,
        chunk: ChunkId,
        offset: u64,
        length: u64,
    ) -> FsResult<Self> {
        blocking(move || {
            let open = shared.open(chunk)?;
            let end = open.end_of(offset, length)?;
            if length > (STEP_PIECES * WIRE_FRAME_BYTES) as u64 {
                open.read_ahead(offset, end);
            }
            let first = open.step(&shared, offset, end)?;
            let next = offset + first.iter().map(|piece| piece.len() as u64).sum::<u64>();
            Ok(Reading {
                shared,
                open,
                next,
                end,
                ready: first.into(),
                ahead: None,
            })
        })
        .await
    }

    /// Starts the next step, if there is one.
    fn start_ahead(&mut self) {
        if self.next == self.end {
            return;
        }
        let (shared, open, offset, end) = (self.shared.clone(), self.open.clone(), self.next, self.end);
        // A step ends where a frame ends, so its length is known before.
        let step_end = offset - offset % FRAME_BYTES as u64 + (STEP_PIECES * WIRE_FRAME_BYTES) as u64;
        self.next = end.min(step_end);
        self.ahead = Some(tokio::task::spawn_blocking(move || {
            open.step(&shared, offset, end)
        }));
    }

    async fn next(&mut self) -> FsResult<Option<Piece>> {
        if self.ready.is_empty() {
            match self.ahead.take() {
                Some(step) => self.ready.extend(joined(step).await?),
                None => return Ok(None),
            }
        }
        if self.ahead.is_none() {
            self.start_ahead();
        }
        Ok(self.ready.pop_front())
    }

    /// Pieces until the end or the first error; `permit` is given back then.
    pub(super) fn into_stream(self, permit: OwnedSemaphorePermit) -> BoxStream<'static, FsResult<Piece>> {
        stream::unfold(Some((self, permit)), |state| async move {
            let (mut reading, permit) = state?;
            match reading.next().await {
                Ok(Some(piece)) => Some((Ok(piece), Some((reading, permit)))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}
