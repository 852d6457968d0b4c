//! The sending half of a chunk write, and how it is seen whether the peer still takes part.
//!
//! Back-pressure is HTTP/2's: a piece is asked of the content when the connection can take it; nothing is buffered here.
//! Content that fails never looks like content that ended: the stream then stays open until the call is dropped. Nor does content
//! whose hash was to follow and does not.

use super::message::Encoded;
use crate::convert::{
    HeadHash, WriteChunkHead, vouched_hash_to_wire, write_chunk_head_to_wire, wrong_content,
};
use crate::v1::WriteChunkRequest;
use crate::v1::write_chunk_request::Part;
use dfs_common::piece::Piece;
use dfs_common::service::{ContentHash, VouchedHash, WriteChunk};
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::stream::BoxStream;
use futures::{FutureExt, Stream, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use tokio::sync::oneshot;

/// Number of the field `piece` in `WriteChunkRequest`.
const PIECE_FIELD: u32 = 2;

const WITH_PEER: u8 = 0;
const WITH_SOURCE: u8 = 1;
const ENDED: u8 = 2;

/// What is known of an upload from outside of its stream.
#[derive(Default)]
pub(super) struct Progress {
    pieces: AtomicU64,
    state: AtomicU8,
}

impl Progress {
    /// Grows whenever the connection took another piece.
    pub(super) fn pieces(&self) -> u64 {
        self.pieces.load(Ordering::Relaxed)
    }
    /// The content's source is waited for, so the peer is not to blame.
    pub(super) fn waits_for_source(&self) -> bool {
        self.state.load(Ordering::Relaxed) == WITH_SOURCE
    }
    /// Everything was handed to the connection.
    pub(super) fn ended(&self) -> bool {
        self.state.load(Ordering::Relaxed) == ENDED
    }
}

/// The messages of one write: the head, then the content in pieces with their checksums, then its hash if that was to follow.
pub(super) struct Upload {
    head: Option<WriteChunkHead>,
    content: BoxStream<'static, FsResult<Piece>>,
    /// Content that the description still promises.
    missing: u64,
    /// The hash that is to follow.
    hash: Option<oneshot::Receiver<VouchedHash>>,
    progress: Arc<Progress>,
    failed: Option<oneshot::Sender<FsError>>,
}

impl Upload {
    /// The upload, its progress, and where an error of the content arrives.
    pub(super) fn new(request: WriteChunk) -> (Self, Arc<Progress>, oneshot::Receiver<FsError>) {
        let (failed, failure) = oneshot::channel();
        let progress = Arc::new(Progress::default());
        let (said, hash) = match request.hash {
            ContentHash::Computed => (HeadHash::Computed, None),
            ContentHash::Known(sha256) => (HeadHash::Known(sha256), None),
            ContentHash::Follows(hash) => (HeadHash::Follows, Some(hash)),
        };
        let head = WriteChunkHead {
            label: request.label,
            hash: said,
            capability: request.capability,
            forward: request.forward,
        };
        let upload = Upload {
            missing: head.label.length,
            head: Some(head),
            content: request.content.fuse().boxed(),
            hash,
            progress: progress.clone(),
            failed: Some(failed),
        };
        (upload, progress, failure)
    }

    fn fail(&mut self, error: FsError) -> Poll<Option<FsResult<Encoded>>> {
        if let Some(failed) = self.failed.take() {
            // Without a receiver the call was dropped, and this stream is about to be.
            let _ = failed.send(error);
        }
        Poll::Pending
    }

    /// Behind the content: its hash, if that was to follow, and the end.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<FsResult<Encoded>>> {
        let Some(hash) = &mut self.hash else {
            self.progress.state.store(ENDED, Ordering::Relaxed);
            return Poll::Ready(None);
        };
        match std::task::ready!(hash.poll_unpin(cx)) {
            Ok(vouched) => {
                self.hash = None;
                Poll::Ready(Some(Ok(message(Part::End(vouched_hash_to_wire(&vouched))))))
            }
            Err(_) => self.fail(FsError::new(ErrorKind::Interrupted, "the write was given up")),
        }
    }
}

fn message(part: Part) -> Encoded {
    Encoded::message(&WriteChunkRequest { part: Some(part) })
}

impl Stream for Upload {
    type Item = FsResult<Encoded>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<FsResult<Encoded>>> {
        let this = &mut *self;
        if let Some(head) = this.head.take() {
            return Poll::Ready(Some(Ok(message(Part::Header(write_chunk_head_to_wire(&head))))));
        }
        if this.failed.is_none() {
            return Poll::Pending;
        }
        this.progress.state.store(WITH_SOURCE, Ordering::Relaxed);
        match std::task::ready!(this.content.poll_next_unpin(cx)) {
            Some(Ok(piece)) if piece.len() as u64 > this.missing => this.fail(wrong_content("more")),
            Some(Ok(piece)) => {
                this.missing -= piece.len() as u64;
                this.progress.state.store(WITH_PEER, Ordering::Relaxed);
                this.progress.pieces.fetch_add(1, Ordering::Relaxed);
                Poll::Ready(Some(Ok(Encoded::piece(PIECE_FIELD, piece))))
            }
            Some(Err(error)) => this.fail(error),
            None if this.missing > 0 => this.fail(wrong_content("less")),
            None => this.poll_end(cx),
        }
    }
}
