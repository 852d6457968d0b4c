//! Fetching ranges of chunks: from the cache, from another reader's fetch, or from a replica, the next one at once on failure.

use super::block_cache::{BLOCK, Running, Slot};
use super::plan::ChunkRange;
use crate::client::Inner;
use crate::placement::Member;
use crate::waiting::within;
use bytes::{Bytes, BytesMut};
use dfs_common::capability::ChunkCapability;
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::StreamExt;
use std::collections::VecDeque;
use std::sync::Arc;

/// Fetches of others that end without the block before the error is told.
const OTHERS_MAX: u32 = 8;

impl Inner {
    /// The wanted range, in pieces. Cancel-safe.
    ///
    /// # Errors
    /// `Unauthenticated`: the capability is missing or expired. `NotFound`: no replica has the chunk. `Unavailable`,
    /// `TimedOut`: a replica that may have it cannot be reached. `Corrupt`, `Io`: no replica has it whole.
    pub(crate) async fn fetch(self: &Arc<Self>, range: &ChunkRange) -> FsResult<Vec<Bytes>> {
        let mut tries = 0;
        'again: loop {
            let (slots, own) = self.cache.claim(range);
            for running in own {
                self.run(running, range.capability.as_ref()).await?;
            }
            let mut pieces = Vec::with_capacity(slots.len());
            for slot in slots {
                match slot {
                    Slot::Ready(bytes) => pieces.push(bytes),
                    Slot::Wait(fetch, from, to) => match fetch.wait(from, to).await {
                        Some(bytes) => pieces.push(bytes),
                        None if tries < OTHERS_MAX => {
                            tries += 1;
                            continue 'again;
                        }
                        None => {
                            return Err(FsError::new(
                                ErrorKind::Unavailable,
                                "the block could not be fetched",
                            ));
                        }
                    },
                }
            }
            return Ok(pieces);
        }
    }

    /// Runs a claimed fetch to its end.
    pub(crate) async fn run(&self, running: Running, capability: Option<&ChunkCapability>) -> FsResult<()> {
        let Some(capability) = capability else {
            return Err(FsError::new(
                ErrorKind::Unauthenticated,
                "the capability to read the chunk is not known yet",
            ));
        };
        let chunk = running.fetch.chunk;
        let (mut at, to) = running.fetch.range();
        let mut members = self.members_of(chunk).await?;
        // Readers of different chunks begin at different replicas.
        let turn = chunk.sequence() as usize % members.len().max(1);
        members.rotate_left(turn);
        members.sort_by_key(|member| !member.good);
        let mut outcome: Option<FsError> = None;
        for member in &members {
            let error = match self.stream(member, &running, capability, &mut at, to).await {
                Ok(()) => {
                    self.cluster.trust(member.node);
                    return Ok(());
                }
                Err(error) => error,
            };
            match error.kind() {
                ErrorKind::Unauthenticated => return Err(error),
                ErrorKind::NotFound => tracing::debug!(%chunk, node = %member.node, "replica is missing"),
                _ => {
                    tracing::warn!(%chunk, node = %member.node, %error, "replica could not be read: trying the next")
                }
            }
            if error.kind().is_retryable() {
                self.cluster.avoid(member.node);
            }
            if outcome
                .as_ref()
                .is_none_or(|worst| weight(&error) > weight(worst))
            {
                outcome = Some(error);
            }
        }
        let error = match outcome {
            Some(error) => error.context(format_args!("reading chunk {chunk}")),
            None => FsError::new(
                ErrorKind::Unavailable,
                format!("no datanode is known to hold chunk {chunk}"),
            ),
        };
        if error.kind().is_retryable() {
            self.refresh_cluster().await?;
        }
        Err(error)
    }

    /// Reads from one replica; `at` moves with every whole block.
    async fn stream(
        &self,
        member: &Member,
        running: &Running,
        capability: &ChunkCapability,
        at: &mut u64,
        to: u64,
    ) -> FsResult<()> {
        let service = self.chunk_service(member)?;
        let call = service.read_chunk(capability.clone(), *at, to - *at);
        let mut pieces = within(CALL_DEADLINE, call).await?;
        let mut queue = Queue::default();
        while *at < to {
            let end = ((*at / BLOCK + 1) * BLOCK).min(to);
            let length = (end - *at) as usize;
            while queue.length < length {
                let next = async { pieces.next().await.transpose() };
                match within(CALL_DEADLINE, next).await? {
                    Some(piece) => queue.push(piece.into_content()),
                    None => {
                        return Err(FsError::new(
                            ErrorKind::Corrupt,
                            "the replica is shorter than its extent",
                        ));
                    }
                }
            }
            running.arrived(*at, queue.take(length));
            *at = end;
        }
        Ok(())
    }
}

/// Which failure decides what the reader does: one that passes makes it wait, damage is told, absence comes last.
fn weight(error: &FsError) -> u32 {
    match error.kind() {
        kind if kind.is_retryable() => 3,
        ErrorKind::NotFound => 1,
        _ => 2,
    }
}

/// Pieces of any size in, blocks out.
#[derive(Default)]
struct Queue {
    pieces: VecDeque<Bytes>,
    length: usize,
}

impl Queue {
    fn push(&mut self, piece: Bytes) {
        self.length += piece.len();
        if !piece.is_empty() {
            self.pieces.push_back(piece);
        }
    }

    /// `length` bytes, which are there; without a copy if they are in one piece.
    fn take(&mut self, length: usize) -> Bytes {
        self.length -= length;
        if let Some(front) = self.pieces.front_mut()
            && front.len() >= length
        {
            let taken = front.split_to(length);
            if front.is_empty() {
                self.pieces.pop_front();
            }
            return taken;
        }
        let mut taken = BytesMut::with_capacity(length);
        while taken.len() < length
            && let Some(front) = self.pieces.front_mut()
        {
            let part = front.split_to(front.len().min(length - taken.len()));
            if front.is_empty() {
                self.pieces.pop_front();
            }
            taken.extend_from_slice(&part);
        }
        taken.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_become_blocks() {
        let data: Vec<u8> = (0..1000u32).map(|i| i as u8).collect();
        for piece in [1, 7, 99, 100, 101, 350, 1000] {
            let mut queue = Queue::default();
            data.chunks(piece)
                .for_each(|piece| queue.push(Bytes::copy_from_slice(piece)));
            for block in data.chunks(100) {
                assert_eq!(queue.take(block.len()), block);
            }
            assert_eq!((queue.length, queue.pieces.len()), (0, 0));
        }
    }
}
