//! Copies a chunk to this node's store and to other datanodes at once, as it arrives.
//!
//! Every copy has a short queue; the slowest sets the pace. Invariants: a copy that fails or stands still never fails the others, it is
//! reported; this node's own failure ends the whole write, for its receipt is what the writer came for; a forward ends well only after
//! this node found the content to have the described SHA-256, which its voucher says to the receiver. Nothing outlives the call.

use crate::config::Tuning;
use crate::peers::Peers;
use crate::store::{ChunkStore, HashCheck};
use bytes::Bytes;
use dfs_common::capability::Voucher;
use dfs_common::extent::Receipt;
use dfs_common::service::{ChunkConnector, ChunkWritten, WriteChunk};
use dfs_common::{DiskIncarnation, ErrorKind, FsError, FsResult};
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

/// What a queue brings: a piece, an error, or the end. A queue that is closed before an end was one of a write that was given up, and
/// never looks like an end to its receiver, which may be polled longer than the write: by a connection.
type Part = FsResult<Option<Bytes>>;

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

    /// Stores the chunk in `store` and forwards it, vouched for, to the addresses of the request. The reply lacks this node's own
    /// receipt, which the caller makes from the incarnation.
    ///
    /// # Errors
    /// Those of the store, and of the content.
    pub async fn write(
        &self,
        store: &dyn ChunkStore,
        request: WriteChunk,
        voucher: Voucher,
    ) -> FsResult<(DiskIncarnation, ChunkWritten)> {
        let (own_copy, own_content) = new_copy(None);
        let mut copies = Vec::with_capacity(request.forward.len());
        let (matched, hash_matches) = oneshot::channel();
        let durable_here = CancellationToken::new();
        let forwards: Vec<_> = request
            .forward
            .iter()
            .map(|address| {
                let stalled = CancellationToken::new();
                let (copy, content) = new_copy(Some(stalled.clone()));
                copies.push(copy);
                let upload = WriteChunk {
                    description: request.description.clone(),
                    capability: request.capability.clone(),
                    forward: Vec::new(),
                    voucher: Some(voucher),
                    content,
                };
                self.forward(address.clone(), upload, stalled, durable_here.clone())
            })
            .collect();
        let own = async {
            let hash = HashCheck::Here {
                matched: Some(matched),
            };
            let disk = store
                .store(request.description.clone(), own_content, hash)
                .await?;
            durable_here.cancel();
            Ok(disk)
        };
        let (disk, (), outcomes) = tokio::try_join!(
            own,
            async {
                self.distribute(request.content, own_copy, copies, hash_matches)
                    .await;
                Ok(())
            },
            async { Ok::<_, FsError>(join_all(forwards).await) },
        )?;
        let mut written = ChunkWritten {
            receipts: Vec::with_capacity(outcomes.len() + 1),
            failures: Vec::new(),
        };
        for (address, outcome) in outcomes {
            match outcome {
                Ok(receipt) => written.receipts.push(receipt),
                Err(error) => written.failures.push((address, error)),
            }
        }
        Ok((disk, written))
    }

    /// Gives every piece to every copy that still takes some; an error of the content ends them all. The end of the content reaches the
    /// forwards only when `hash_matches`.
    async fn distribute(
        &self,
        mut content: BoxStream<'static, FsResult<Bytes>>,
        mut own: Copy,
        mut forwards: Vec<Copy>,
        hash_matches: oneshot::Receiver<()>,
    ) {
        while let Some(piece) = content.next().await {
            let failed = piece.is_err();
            self.give(piece.map(Some), std::iter::once(&mut own).chain(&mut forwards))
                .await;
            if failed {
                return;
            }
        }
        self.give(Ok(None), std::iter::once(&mut own)).await;
        let end = match hash_matches.await {
            Ok(()) => Ok(None),
            Err(_) => Err(FsError::new(
                ErrorKind::Corrupt,
                "the content is not the described one",
            )),
        };
        self.give(end, forwards.iter_mut()).await;
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
        let (length, sha256) = (upload.description.length, upload.description.sha256);
        let peer = self.connector.chunk_service(address)?;
        let written = peer.write_chunk(upload).await?;
        match written.receipts.into_iter().next() {
            Some(receipt) if receipt.length == length && receipt.sha256 == sha256 => Ok(receipt),
            _ => Err(FsError::new(
                ErrorKind::Corrupt,
                "the datanode gave a receipt for other content",
            )),
        }
    }
}

fn new_copy(stalled: Option<CancellationToken>) -> (Copy, BoxStream<'static, FsResult<Bytes>>) {
    let (sender, receiver) = mpsc::channel(QUEUE_PIECES);
    let copy = Copy {
        queue: Some(sender),
        stalled,
    };
    (copy, content_of(receiver))
}

/// The content that a queue brings, until its end or its first error.
fn content_of(queue: mpsc::Receiver<Part>) -> BoxStream<'static, FsResult<Bytes>> {
    stream::unfold(Some(queue), |state| async move {
        let mut queue = state?;
        match queue.recv().await {
            Some(Ok(Some(piece))) => Some((Ok(piece), Some(queue))),
            Some(Ok(None)) => None,
            Some(Err(error)) => Some((Err(error), None)),
            None => {
                let given_up = FsError::new(ErrorKind::Interrupted, "the write was given up");
                Some((Err(given_up), None))
            }
        }
    })
    .boxed()
}
