//! Saving a file: sealed generations become durable and visible, in order.
//!
//! `order` is held while a commit is in flight, so commits of the file are applied in write order (invariant I7); a commit
//! that was sent keeps its number until it is answered, also when the one who waited for it goes away (invariant I6).

use crate::client::Inner;
use crate::dirty::Body;
use crate::dirty::generation::{Span, Upload};
use crate::file::File;
use crate::reader::block_cache::{BLOCK, Block};
use crate::session::{Granted, Outcome, Unanswered, unexpected};
use crate::types::Change;
use crate::waiting::What;
use dfs_common::attr::Attr;
use dfs_common::extent::{Extent, ExtentData};
use dfs_common::limits::{COMMIT_EXTENTS_MAX, INLINE_EXTENT_BYTES_MAX, INLINE_INODE_BYTES_MAX};
use dfs_common::op::{CommitWrite, OpReply, Operation};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult};
use std::sync::Arc;

/// Generations from this size on begin to be uploaded when they are sealed, not when their turn to commit comes.
pub(crate) const UPLOAD_AHEAD_MIN: u64 = 256 << 10;
/// What was just written is kept in the block cache if it is small: it is likely to be read again.
const KEEP_WRITTEN_MAX: u64 = 1 << 20;
/// Times that a refused commit is tried with a new chunk.
const CHUNK_AGAIN_MAX: u32 = 2;

/// A commit to be sent.
struct Commit {
    sequence: u64,
    extents: Vec<Extent>,
    write: CommitWrite,
    caller: Caller,
}

/// What a commit was answered.
struct Committed {
    attr: Attr,
    append_offset: u64,
    durable: bool,
    granted: Option<Granted>,
}

impl Inner {
    /// Saves everything that is unsaved now; answers whether it knows the saved data to be durable at the coordinator. Cancel-safe.
    ///
    /// # Errors
    /// `NoSpace`, `QuotaExceeded`: the data stays unsaved. `Stale`, `Io`, ...: the data is given up. All are remembered for
    /// the other open files.
    pub(crate) async fn save(self: &Arc<Self>, file: &Arc<File>) -> FsResult<bool> {
        let Some(last) = self.seal(file) else {
            return Ok(false);
        };
        let _order = file.order.lock().await;
        self.save_up_to(file, last).await
    }

    /// Ends the active generation and begins to upload it, if that is worth a task.
    pub(crate) fn seal(self: &Arc<Self>, file: &Arc<File>) -> Option<u64> {
        let (last, ahead) = {
            let mut state = file.state.lock();
            let sealed_now = state.active.is_some();
            let last = state.seal();
            let ahead = state.sealed.back().filter(|sealed| {
                sealed_now && sealed.body.length >= UPLOAD_AHEAD_MIN && state.sealed.len() > 1
            });
            (
                last,
                ahead.map(|sealed| {
                    (
                        sealed.spans.first().map_or(0, |span| span.offset),
                        sealed.body.clone(),
                    )
                }),
            )
        };
        if let Some((offset, body)) = ahead {
            self.upload_ahead(file, offset, body);
        }
        last
    }

    /// Uploads in the background. Failures are met again, and told, by the one who commits.
    pub(crate) fn upload_ahead(self: &Arc<Self>, file: &Arc<File>, offset: u64, body: Arc<Body>) {
        let (inner, ino) = (self.clone(), file.ino);
        self.spawn(async move {
            let Ok(_turn) = inner.upload_turns.acquire().await else {
                return;
            };
            let mut upload = body.upload.lock().await;
            if let Err(error) = inner.upload(ino, offset, &body, &mut upload).await {
                tracing::debug!(%ino, %error, "background upload failed");
            }
        });
    }

    /// Saves what is sealed until `last`, and answers as [`Inner::save`]; the caller holds `order`.
    pub(crate) async fn save_up_to(self: &Arc<Self>, file: &Arc<File>, last: u64) -> FsResult<bool> {
        let saved = self.try_save_up_to(file, last).await;
        if let Err(error) = &saved {
            self.failed(file, error);
        }
        saved
    }

    /// As [`Inner::save_up_to`]; a failure is left to the caller to remember.
    pub(super) async fn try_save_up_to(self: &Arc<Self>, file: &Arc<File>, last: u64) -> FsResult<bool> {
        let _changing = file.changing();
        let mut durable = false;
        loop {
            let next = {
                let state = file.state.lock();
                state
                    .sealed
                    .front()
                    .map(|sealed| (sealed.sequence, sealed.body.clone()))
            };
            let Some((sequence, body)) = next.filter(|(sequence, _)| *sequence <= last) else {
                return Ok(durable);
            };
            durable = self.save_one(file, sequence, &body).await?;
        }
    }

    /// Remembers why saving failed; gives the data up if it can never be saved.
    pub(super) fn failed(&self, file: &Arc<File>, error: &FsError) {
        match error.kind() {
            // The patience ended: nobody knows, and it may still work.
            kind if kind.is_retryable() => {}
            ErrorKind::NoSpace | ErrorKind::QuotaExceeded => file.state.lock().fail(error),
            _ => {
                if file.give_up(&self.dirty, Some(error.clone())) {
                    tracing::error!(ino = %file.ino, %error, "unsaved writes are lost");
                }
                self.unsaved.forget(file.ino);
            }
        }
    }

    async fn save_one(self: &Arc<Self>, file: &Arc<File>, sequence: u64, body: &Arc<Body>) -> FsResult<bool> {
        let mut upload = body.upload.lock().await;
        let mut inline = upload.done.is_none() && upload.capability.is_none();
        let mut again = 0;
        loop {
            let commit = match self.commit_of(file, sequence, body, &mut upload, inline).await? {
                Some(commit) => commit,
                // Given up meanwhile.
                None => {
                    let error = file.state.lock().error.clone();
                    return Err(error.unwrap_or_else(|| FsError::new(ErrorKind::Io, "the data was given up")));
                }
            };
            let was_inline = commit.write.chunks.is_empty();
            match self.commit(file, &commit, &mut upload).await {
                Ok(committed) => {
                    let durable = committed.durable;
                    self.committed(file, commit, body, committed);
                    return Ok(durable);
                }
                Err(error) if error.kind() == ErrorKind::TooBig && was_inline => inline = false,
                // The group changed under the upload, or the grant is not the session's any more.
                Err(error)
                    if !was_inline
                        && again < CHUNK_AGAIN_MAX
                        && matches!(error.kind(), ErrorKind::Invalid | ErrorKind::Unauthenticated) =>
                {
                    tracing::warn!(ino = %file.ino, %error, "commit refused: sending the data again");
                    again += 1;
                    upload.done = None;
                    upload.capability = None;
                    self.grants.clear();
                    self.refresh_cluster().await?;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Builds the commit of the first sealed generation, uploading it first unless it fits in the commit itself.
    async fn commit_of(
        self: &Arc<Self>,
        file: &Arc<File>,
        sequence: u64,
        body: &Arc<Body>,
        upload: &mut Upload,
        inline: bool,
    ) -> FsResult<Option<Commit>> {
        let first = {
            let state = file.state.lock();
            let Some((_, spans)) = state.spans_of(sequence) else {
                return Ok(None);
            };
            let small =
                inline && body.length <= INLINE_INODE_BYTES_MAX && state.size() <= INLINE_INODE_BYTES_MAX;
            if spans.is_empty() || (small && spans.len() <= COMMIT_EXTENTS_MAX / 2) {
                None
            } else {
                Some(spans[0].offset)
            }
        };
        let chunk = match first {
            Some(offset) => Some(self.upload(file.ino, offset, body, upload).await?),
            None => None,
        };
        let state = file.state.lock();
        // The spans may have been cut or shifted meanwhile, never grown.
        let Some((sealed, spans)) = state.spans_of(sequence) else {
            return Ok(None);
        };
        let extents = match &chunk {
            Some(chunk) => spans.iter().map(|span| chunk_extent(span, chunk.chunk)).collect(),
            None => spans.iter().flat_map(|span| inline_extents(span, body)).collect(),
        };
        let base = sealed.append_base.unwrap_or(0);
        let relative = |extent: &Extent| Extent {
            offset: extent.offset - base,
            ..extent.clone()
        };
        let extents: Vec<Extent> = extents;
        let write = CommitWrite {
            ino: file.ino,
            extents: extents.iter().map(relative).collect(),
            chunks: chunk.into_iter().collect(),
            append: sealed.append_base.is_some() && !extents.is_empty(),
            mtime: sealed.mtime,
            clear_setid: sealed.clear_setid,
        };
        let caller = sealed.caller.clone();
        Ok(Some(Commit {
            sequence,
            extents,
            write,
            caller,
        }))
    }

    /// Sends a commit, under the number that it was sent under before if its outcome was left open.
    async fn commit(&self, file: &Arc<File>, commit: &Commit, upload: &mut Upload) -> FsResult<Committed> {
        let op = Operation::CommitWrite(commit.write.clone());
        let mut attempts = self.attempts(What::of("saving", file.ino));
        loop {
            let ticket = match upload.commit.take() {
                Some(ticket) => ticket,
                None => self.session.numbers.take().await,
            };
            let ticket = upload.commit.insert(ticket);
            let outcome = self
                .mutate_numbered(&mut attempts, ticket, &commit.caller, &op)
                .await;
            match outcome {
                Ok(Outcome {
                    result: Err(error), ..
                }) if error.kind().is_retryable() || error.kind() == ErrorKind::Busy => {
                    upload.commit = None;
                    attempts
                        .pause(FsError::new(ErrorKind::Unavailable, error.message().to_string()))
                        .await?;
                }
                Ok(outcome) => {
                    upload.commit = None;
                    return match outcome.result? {
                        OpReply::Committed { attr, append_offset } => Ok(Committed {
                            attr,
                            append_offset,
                            durable: outcome.durable,
                            granted: outcome.granted,
                        }),
                        other => Err(unexpected(&other)),
                    };
                }
                Err(Unanswered::SessionLost { .. }) => {
                    upload.commit = None;
                    return Err(FsError::new(
                        ErrorKind::Io,
                        "the session ended before the data was saved: unsaved writes are lost",
                    ));
                }
                // The patience ended: the number stays, the outcome is asked for next time.
                Err(Unanswered::Failed(error)) => return Err(error),
            }
        }
    }

    /// A commit was answered: the data is no longer unsaved.
    fn committed(&self, file: &Arc<File>, commit: Commit, body: &Arc<Body>, committed: Committed) {
        let Committed {
            attr,
            append_offset,
            granted,
            ..
        } = committed;
        if body.length <= KEEP_WRITTEN_MAX
            && let Some(chunk) = commit.write.chunks.first()
        {
            let mut at = 0;
            while at < body.length {
                let end = (at + BLOCK).min(body.length);
                let bytes = body.whole(at, end - at);
                self.cache
                    .insert(chunk.chunk, at / BLOCK, Block { from: at, bytes });
                at = end;
            }
        }
        let mut state = file.state.lock();
        if state
            .sealed
            .front()
            .is_none_or(|sealed| sealed.sequence != commit.sequence)
        {
            return;
        }
        let Some(sealed) = state.sealed.pop_front() else {
            return;
        };
        self.dirty.give_back(body.length);
        state.failing = None;
        let landed = match sealed.append_base {
            Some(base) => append_offset as i64 - base as i64,
            None => 0,
        };
        if landed != 0 {
            // Somebody else appended first.
            state.map.clear();
            state.foreign = true;
            for later in &mut state.sealed {
                later.shift(landed);
            }
            if let Some(active) = &mut state.active {
                active.shift(landed);
            }
        } else if !commit.extents.is_empty() {
            state.map.splice(attr.map_version, &commit.extents);
        }
        let foreign = state.foreign;
        state.changed(attr);
        if let Some(Granted { stamp, access }) = granted {
            self.granted(&mut state, stamp, &access);
        }
        let changed_under_us = landed != 0 || (state.foreign && !foreign);
        let clean = !state.is_dirty();
        drop(state);
        if clean {
            self.unsaved.forget_clean(file);
        }
        if changed_under_us {
            self.invalidate(Change::Inode { ino: file.ino });
        }
    }
}

fn chunk_extent(span: &Span, chunk: dfs_common::ChunkId) -> Extent {
    Extent {
        offset: span.offset,
        length: span.length,
        data: ExtentData::Chunk {
            chunk,
            chunk_offset: span.at,
        },
    }
}

fn inline_extents(span: &Span, body: &Body) -> Vec<Extent> {
    let step = INLINE_EXTENT_BYTES_MAX as u64;
    let pieces = (0..span.length.div_ceil(step)).map(|i| {
        let skip = i * step;
        let length = (span.length - skip).min(step);
        Extent {
            offset: span.offset + skip,
            length,
            data: ExtentData::Inline(body.whole(span.at + skip, length)),
        }
    });
    pieces.collect()
}
