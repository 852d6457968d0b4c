//! The chunk service: checks the capability, then leaves the work to the store and to replication.
//!
//! Invariant: nothing is read, written or deleted without a capability that the coordinator of this node's cluster signed for that
//! chunk and that access.

use crate::identity::Membership;
use crate::replication::{OwnWrite, Replication};
use crate::store::{ChunkStore, HashSource};
use async_trait::async_trait;
use dfs_common::capability::{CapabilityKey, ChunkAccess, ChunkCapability};
use dfs_common::chunk::{ChunkDescription, ChunkLabel};
use dfs_common::clock::Clock;
use dfs_common::limits::{CHUNK_BYTES_MAX, CHUNK_STATS_MAX, FILE_BYTES_MAX, REPLICATION_MAX};
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkService, ChunkWritten, ContentHash, VouchedHash, WriteChunk};
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, SessionId};
use futures::FutureExt;
use futures::stream::BoxStream;
use parking_lot::RwLock;
use std::sync::Arc;
use tokio::sync::oneshot;

/// What this node knows of its place in the cluster; set by [`crate::membership`].
pub type Standing = Arc<RwLock<Option<Membership>>>;

/// Serves chunks.
pub struct DatanodeService {
    store: Arc<dyn ChunkStore>,
    replication: Replication,
    standing: Standing,
    clock: Arc<dyn Clock>,
    /// Where others reach this node: never forwarded to.
    address: String,
}

fn invalid(text: impl Into<String>) -> FsError {
    FsError::new(ErrorKind::Invalid, text.into())
}

fn check(label: &ChunkLabel) -> FsResult<()> {
    if !(1..=CHUNK_BYTES_MAX).contains(&label.length) {
        return Err(invalid(format!(
            "a chunk has 1 to {CHUNK_BYTES_MAX} bytes, not {}",
            label.length
        )));
    }
    if label.file_offset > FILE_BYTES_MAX {
        return Err(invalid("a chunk's file offset is behind the largest file"));
    }
    Ok(())
}

/// The hash that another datanode says behind the content, once its voucher was found good.
async fn vouched(
    hash: oneshot::Receiver<VouchedHash>,
    key: CapabilityKey,
    capability: ChunkCapability,
    label: ChunkLabel,
) -> FsResult<[u8; 32]> {
    let VouchedHash { sha256, voucher } = hash
        .await
        .map_err(|_| FsError::new(ErrorKind::Interrupted, "the content ended without its hash"))?;
    match key.is_vouched(&voucher, &capability, &label.described(sha256)) {
        true => Ok(sha256),
        false => Err(FsError::new(
            ErrorKind::Unauthenticated,
            "no datanode of this cluster vouched for the content",
        )),
    }
}

impl DatanodeService {
    /// A service over `store`, for the node that others reach at `address`.
    pub fn new(
        store: Arc<dyn ChunkStore>,
        replication: Replication,
        standing: Standing,
        clock: Arc<dyn Clock>,
        address: String,
    ) -> Self {
        DatanodeService {
            store,
            replication,
            standing,
            clock,
            address,
        }
    }

    /// Checks a capability; answers this node's place in the cluster.
    fn admit(
        &self,
        capability: &ChunkCapability,
        chunk: ChunkId,
        access: ChunkAccess,
    ) -> FsResult<Membership> {
        let standing = *self.standing.read();
        let membership = standing.ok_or_else(|| {
            FsError::new(
                ErrorKind::Unavailable,
                "the datanode has not been registered with a coordinator yet: try again",
            )
        })?;
        membership
            .capability_key
            .verify(capability, chunk, access, self.clock.now_unix_ms())?;
        Ok(membership)
    }

    /// The addresses to forward to: each once, and not this node's own.
    fn targets(&self, forward: Vec<String>) -> FsResult<Vec<String>> {
        if forward.len() > REPLICATION_MAX as usize {
            return Err(invalid(format!(
                "a chunk is forwarded to at most {REPLICATION_MAX} datanodes, not {}",
                forward.len()
            )));
        }
        let mut targets: Vec<String> = Vec::with_capacity(forward.len());
        for address in forward {
            if address != self.address && !targets.contains(&address) {
                targets.push(address);
            }
        }
        Ok(targets)
    }
}

#[async_trait]
impl ChunkService for DatanodeService {
    async fn write_chunk(&self, mut request: WriteChunk) -> FsResult<ChunkWritten> {
        let membership = self.admit(&request.capability, request.label.chunk, ChunkAccess::Write)?;
        check(&request.label)?;
        request.forward = self.targets(request.forward)?;
        let (length, key) = (request.label.length, membership.capability_key);
        let expected = match request.hash {
            ContentHash::Follows(hash) => {
                if !request.forward.is_empty() {
                    return Err(invalid("a forwarded chunk is not forwarded again"));
                }
                let told = vouched(hash, key, request.capability, request.label.clone());
                let told = HashSource::Told(told.boxed());
                let durable = self.store.store(request.label, request.content, told).await?;
                return Ok(ChunkWritten {
                    receipts: vec![membership.receipt(&durable, length)],
                    failures: Vec::new(),
                });
            }
            ContentHash::Known(sha256) => Some(sha256),
            ContentHash::Computed => None,
        };
        let own = OwnWrite {
            label: request.label,
            expected,
            capability: request.capability,
            forward: request.forward,
            content: request.content,
        };
        let (durable, mut written) = self.replication.write(&*self.store, own, key).await?;
        written.receipts.insert(0, membership.receipt(&durable, length));
        Ok(written)
    }

    async fn read_chunk(
        &self,
        capability: ChunkCapability,
        offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        self.admit(&capability, capability.chunk, ChunkAccess::Read)?;
        self.store.read(capability.chunk, offset, length).await
    }

    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription> {
        self.admit(&capability, capability.chunk, ChunkAccess::Read)?;
        self.store.stat(capability.chunk).await
    }

    async fn stat_chunks(
        &self,
        capabilities: Vec<ChunkCapability>,
    ) -> FsResult<Vec<FsResult<ChunkDescription>>> {
        if capabilities.len() > CHUNK_STATS_MAX {
            return Err(invalid(format!(
                "at most {CHUNK_STATS_MAX} chunks are described at once, not {}",
                capabilities.len()
            )));
        }
        let admitted: Vec<FsResult<ChunkId>> = capabilities
            .iter()
            .map(|capability| {
                self.admit(capability, capability.chunk, ChunkAccess::Read)?;
                Ok(capability.chunk)
            })
            .collect();
        let chunks = admitted.iter().flatten().copied().collect();
        let mut described = self.store.stat_all(chunks).await.into_iter();
        let gone = || Err(FsError::new(ErrorKind::Io, "the chunk was not looked at"));
        let answer =
            |admitted: FsResult<ChunkId>| admitted.and_then(|_| described.next().unwrap_or_else(gone));
        Ok(admitted.into_iter().map(answer).collect())
    }

    async fn delete_chunk(&self, capability: ChunkCapability) -> FsResult<()> {
        self.admit(&capability, capability.chunk, ChunkAccess::Delete)?;
        if capability.session != SessionId(0) {
            return Err(FsError::new(
                ErrorKind::Unauthenticated,
                "only the coordinator itself deletes chunks",
            ));
        }
        self.store.delete(capability.chunk).await
    }
}
