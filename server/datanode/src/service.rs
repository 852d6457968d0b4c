//! The chunk service: checks the capability, then leaves the work to the store and to replication.
//!
//! Invariant: nothing is read, written or deleted without a capability that the coordinator of this node's cluster signed for that
//! chunk and that access.

use crate::identity::Membership;
use crate::replication::Replication;
use crate::store::{ChunkStore, HashCheck};
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::capability::{ChunkAccess, ChunkCapability};
use dfs_common::chunk::ChunkDescription;
use dfs_common::clock::Clock;
use dfs_common::extent::Receipt;
use dfs_common::limits::{CHUNK_BYTES_MAX, FILE_BYTES_MAX, REPLICATION_MAX};
use dfs_common::service::{ChunkService, ChunkWritten, WriteChunk};
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, SessionId};
use futures::stream::BoxStream;
use parking_lot::RwLock;
use std::sync::Arc;

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

fn check(description: &ChunkDescription) -> FsResult<()> {
    if !(1..=CHUNK_BYTES_MAX).contains(&description.length) {
        return Err(invalid(format!(
            "a chunk has 1 to {CHUNK_BYTES_MAX} bytes, not {}",
            description.length
        )));
    }
    if description.file_offset > FILE_BYTES_MAX {
        return Err(invalid("a chunk's file offset is behind the largest file"));
    }
    Ok(())
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
        let membership = self.admit(&request.capability, request.description.chunk, ChunkAccess::Write)?;
        check(&request.description)?;
        request.forward = self.targets(request.forward)?;
        let (length, sha256) = (request.description.length, request.description.sha256);
        let key = &membership.capability_key;
        let (disk, mut written) = if request.forward.is_empty() {
            let vouched = request
                .voucher
                .is_some_and(|voucher| key.is_vouched(&voucher, &request.capability, &request.description));
            let hash = match vouched {
                true => HashCheck::AtSource,
                false => HashCheck::Here { matched: None },
            };
            let disk = self
                .store
                .store(request.description, request.content, hash)
                .await?;
            let written = ChunkWritten {
                receipts: Vec::new(),
                failures: Vec::new(),
            };
            (disk, written)
        } else {
            let voucher = key.vouch(&request.capability, &request.description);
            self.replication.write(&*self.store, request, voucher).await?
        };
        written.receipts.insert(
            0,
            Receipt {
                node: membership.node,
                disk,
                sha256,
                length,
            },
        );
        Ok(written)
    }

    async fn read_chunk(
        &self,
        capability: ChunkCapability,
        offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Bytes>>> {
        self.admit(&capability, capability.chunk, ChunkAccess::Read)?;
        self.store.read(capability.chunk, offset, length).await
    }

    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription> {
        self.admit(&capability, capability.chunk, ChunkAccess::Read)?;
        self.store.stat(capability.chunk).await
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
