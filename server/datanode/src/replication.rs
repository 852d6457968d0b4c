//! Copies a chunk to this node's store and to other datanodes at once, as it arrives.
//!
//! Every copy has a short queue; the slowest sets the pace. Invariants: a copy that fails or stands still never fails the others, it is
//! reported; this node's own failure ends the whole write, for its receipt is what the writer came for; a forward ends well only after
//! this node knows the SHA-256 of the whole content, which it computes for all, and says so with its voucher. Nothing outlives the call.

use crate::config::Tuning;
use crate::peers::Peers;
use crate::store::{ChunkStore, Durable, HashSource};
use dfs_common::capability::{CapabilityKey, ChunkCapability};
use dfs_common::chunk::ChunkLabel;
use dfs_common::extent::Receipt;
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkConnector, ChunkWritten, ContentHash, VouchedHash, WriteChunk};
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::{self, BoxStream};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Pieces that wait for one copy: 1 MiB.
const QUEUE_PIECES: usize = 4;

/// Copies chunks to other datanodes.
pub struct Replication {
    connector: Arc<dyn ChunkConnector>,
    peers: Arc<Peers>,
    tuning: Tuning,
}

/// A write that this node does for a client.
pub struct OwnWrite {
    /// What is known of the chunk.
    pub label: ChunkLabel,
    /// SHA-256 that the content must have, if the client knows it.
    pub expected: Option<[u8; 32]>,
    /// Permission to write.
    pub capability: ChunkCapability,
    /// Addresses of the further replicas, each once, and not this node's own.
    pub forward: Vec<String>,
    /// Content.
    pub content: BoxStream<'static, FsResult<Piece>>,
}

/// What a queue brings: a piece, an error, or the end. A queue that is closed before an end was one of a write that was given up, and
/// never looks like an end to its receiver, which may be polled longer than the write: by a connection.
type Part = FsResult<Option<Piece>>;

/// The sending end of one copy.
struct Copy {
    /// `None` once the copy ended, well or not.
    queue: Option<mpsc::Sender<Part>>,
    /// Of a forward: cancelled when it stands still. This node's own copy has none; its disk is waited for.
    stalled: Option<CancellationToken>,
}

impl Replication {
    /// Copies over `connector` to the datanodes of `peers`.
    pub fn new(connector: Arc<dyn ChunkConnector>, peers: Arc<Peers>, tuning: Tuning) -> Self {
        Replication {
            connector,
            peers,
            tuning,
        }
    }

    /// Stores the chunk in `store` and forwards it to the addresses of the request, with a hash that `key` vouches for. The reply lacks
    /// this node's own receipt, which the caller makes from what it is answered of the store.
    ///
    /// # Errors
    /// Those of the store, and of the content.
    pub async fn write(
        &self,
        store: &dyn ChunkStore,
        request: OwnWrite,
        key: CapabilityKey,
    ) -> FsResult<(Durable, ChunkWritten)> {
        if request.forward.is_empty() {
            let hash = HashSource::Here {
                expected: request.expected,
                found: None,
            };
            let durable = store.store(request.label, request.content, hash).await?;
            return Ok((durable, ChunkWritten::default()));
        }
        let (own_copy, own_content) = new_copy(None);
        let (found, sha256) = oneshot::channel();
        let hash = HashSource::Here {
            expected: request.expected,
            found: Some(found),
        };
        let durable_here = CancellationToken::new();
        let (mut copies, mut ends, mut forwards) = (Vec::new(), Vec::new(), Vec::new());
        for address in &request.forward {
            let stalled = CancellationToken::new();
            let (copy, content) = new_copy(Some(stalled.clone()));
            let (end, hash) = oneshot::channel();
            copies.push(copy);
            ends.push(end);
            let upload = WriteChunk {
                label: request.label.clone(),
                hash: ContentHash::Follows(hash),
                capability: request.capability.clone(),
                forward: Vec::new(),
                content,
            };
            forwards.push(self.forward(address.clone(), upload, stalled, durable_here.clone()));
        }
        let own = async {
            let durable = store.store(request.label.clone(), own_content, hash).await?;
            durable_here.cancel();
            Ok(durable)
        };
        // Without the hash the ends are dropped, and no forward ends well.
        let vouching = async {
            if let Ok(sha256) = sha256.await {
                let voucher = key.vouch(&request.capability, &request.label.described(sha256));
                for end in ends {
                    // A forward that failed takes nothing.
                    let _ = end.send(VouchedHash { sha256, voucher });
                }
            }
            Ok(())
        };
        let (durable, (), (), outcomes) = tokio::try_join!(
            own,
            async {
                self.distribute(request.content, own_copy, copies).await;
                Ok(())
            },
            vouching,
            async { Ok::<_, FsError>(join_all(forwards).await) },
        )?;
        let mut written = ChunkWritten::default();
        for (address, outcome) in outcomes {
            let same = |receipt: &Receipt| {
                (receipt.length, receipt.sha256) == (request.label.length, durable.sha256)
            };
            match outcome {
                Ok(receipt) if same(&receipt) => written.receipts.push(receipt),
                Ok(_) => {
                    tracing::warn!(%address, "a datanode gave a receipt for other content");
                    let error = FsError::new(
                        ErrorKind::Corrupt,
                        "the datanode gave a receipt for other content",
                    );
                    written.failures.push((address, error));
                }
                Err(error) => written.failures.push((address, error)),
            }
        }
        Ok((durable, written))
    }

    /// Gives every piece to every copy that still takes some, then the end; an error of the content ends them all.
    async fn distribute(
        &self,
        mut content: BoxStream<'static, FsResult<Piece>>,
        mut own: Copy,
        mut forwards: Vec<Copy>,
    ) {
        loop {
            let part = content.next().await.transpose();
            let ended = !matches!(part, Ok(Some(_)));
            // What the writer did wrong is not told to the others, nor are they blamed for it.
            let forwarded = part.clone().map_err(|_| given_up());
            tokio::join!(
                self.give(part, std::iter::once(&mut own)),
                self.give(forwarded, forwards.iter_mut()),
            );
            if ended {
                return;
            }
        }
    }

    async fn give(&self, part: Part, copies: impl Iterator<Item = &mut Copy>) {
        let mut full = Vec::new();
        for copy in copies {
            let Some(queue) = &copy.queue else { continue };
            match queue.try_send(part.clone()) {
                Ok(()) => {}
                Err(TrySendError::Full(part)) => full.push(self.wait(copy, part)),
                Err(TrySendError::Closed(_)) => copy.queue = None,
            }
        }
        join_all(full).await;
    }

    /// Waits until a copy takes a part; a forward that does not is given up.
    async fn wait(&self, copy: &mut Copy, part: Part) {
        let Some(queue) = &copy.queue else { return };
        let taken = match &copy.stalled {
            None => queue.send(part).await.is_ok(),
            Some(stalled) => {
                let sent = tokio::time::timeout(self.tuning.forward_stall, queue.send(part)).await;
                if sent.is_err() {
                    stalled.cancel();
                }
                matches!(sent, Ok(Ok(())))
            }
        };
        if !taken {
            copy.queue = None;
        }
    }

    /// One forward, to its receipt or its failure.
    async fn forward(
        &self,
        address: String,
        upload: WriteChunk,
        stalled: CancellationToken,
        durable_here: CancellationToken,
    ) -> (String, FsResult<Receipt>) {
        let since = Instant::now();
        let late = async {
            durable_here.cancelled().await;
            tokio::time::sleep(self.tuning.forward_reply).await;
        };
        let outcome = tokio::select! {
            outcome = self.upload(&address, upload) => outcome,
            () = stalled.cancelled() => Err(FsError::new(
                ErrorKind::TimedOut,
                format!("the datanode took nothing for {} ms", self.tuning.forward_stall.as_millis()),
            )),
            () = late => Err(FsError::new(
                ErrorKind::TimedOut,
                format!("the datanode gave no receipt within {} ms", self.tuning.forward_reply.as_millis()),
            )),
        };
        if let Err(error) = &outcome {
            tracing::warn!(%address, %error, "a chunk was not replicated");
            if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::TimedOut) {
                self.peers.failed(&address, since);
            }
        }
        (address, outcome)
    }

    async fn upload(&self, address: &str, upload: WriteChunk) -> FsResult<Receipt> {
        if !self.peers.has(address, self.tuning.peer_wait).await {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "this is not the address of a datanode of the cluster: ask for the cluster state again",
            ));
        }
        if self.peers.is_resting(address) {
            return Err(FsError::new(
                ErrorKind::Unavailable,
                "the datanode did not answer a moment ago",
            ));
        }
        let peer = self.connector.chunk_service(address)?;
        let written = peer.write_chunk(upload).await?;
        written
            .receipts
            .into_iter()
            .next()
            .ok_or_else(|| FsError::new(ErrorKind::Io, "the datanode gave no receipt"))
    }
}

fn given_up() -> FsError {
    FsError::new(ErrorKind::Interrupted, "the write was given up")
}

fn new_copy(stalled: Option<CancellationToken>) -> (Copy, BoxStream<'static, FsResult<Piece>>) {
    let (sender, receiver) = mpsc::channel(QUEUE_PIECES);
    let copy = Copy {
        queue: Some(sender),
        stalled,
    };
    (copy, content_of(receiver))
}

/// The content that a queue brings, until its end or its first error.
fn content_of(queue: mpsc::Receiver<Part>) -> BoxStream<'static, FsResult<Piece>> {
    stream::unfold(Some(queue), |state| async move {
        let mut queue = state?;
        match queue.recv().await {
            Some(Ok(Some(piece))) => Some((Ok(piece), Some(queue))),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            None => Some((Err(given_up()), None)),
        }
    })
    .boxed()
}
