//! Chunk twins: a map per node, and a connector that finds them by address. Nodes can be taken down, filled, made
//! read-only, and their copies damaged.

use super::TWIN_KEY;
use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use dfs_common::capability::{ChunkAccess, ChunkCapability};
use dfs_common::checksum::content_sha256;
use dfs_common::chunk::{ChunkDescription, ChunkLabel};
use dfs_common::clock::Clock;
use dfs_common::extent::Receipt;
use dfs_common::limits::{CHUNK_BYTES_MAX, FRAME_BYTES, WIRE_FRAME_BYTES};
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkConnector, ChunkService, ChunkWritten, ContentHash, WriteChunk};
use dfs_common::{ChunkId, DiskIncarnation, ErrorKind, FsError, FsResult, NodeId, SessionId};
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

#[derive(Default)]
struct Stored {
    chunks: BTreeMap<ChunkId, (ChunkDescription, Bytes)>,
    damaged: BTreeSet<ChunkId>,
    down: bool,
    read_only: bool,
}

/// One datanode.
pub struct TwinNode {
    id: NodeId,
    address: String,
    bytes_max: u64,
    clock: Arc<dyn Clock>,
    stored: Mutex<Stored>,
    reads: AtomicU64,
    writes: AtomicU64,
    peers: Weak<Vec<Arc<TwinNode>>>,
}

/// All datanodes of a twin cluster.
pub struct TwinChunks {
    nodes: Arc<Vec<Arc<TwinNode>>>,
}

impl TwinChunks {
    /// `count` nodes of `bytes_max` bytes, numbered from 1, at addresses that only this connector knows.
    pub fn new(count: usize, bytes_max: u64, clock: Arc<dyn Clock>) -> Self {
        let node = |peers: &Weak<Vec<Arc<TwinNode>>>, index: usize| TwinNode {
            id: NodeId(index as u32 + 1),
            address: format!("twin-{}:1", index + 1),
            bytes_max,
            clock: clock.clone(),
            stored: Mutex::default(),
            reads: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            peers: peers.clone(),
        };
        let nodes = Arc::new_cyclic(|peers| (0..count).map(|index| Arc::new(node(peers, index))).collect());
        TwinChunks { nodes }
    }

    /// The node of `index`, from 0.
    pub fn node(&self, index: usize) -> Arc<TwinNode> {
        self.nodes[index].clone()
    }

    /// Every node's address, in order.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.address.clone()).collect()
    }

    /// Free bytes of all nodes.
    pub fn available_bytes(&self) -> u64 {
        self.nodes
            .iter()
            .map(|node| node.bytes_max.saturating_sub(node.used_bytes()))
            .sum()
    }

    /// On how many nodes a chunk is.
    pub fn replicas(&self, chunk: ChunkId) -> usize {
        self.nodes
            .iter()
            .filter(|node| node.stored.lock().chunks.contains_key(&chunk))
            .count()
    }
}

impl ChunkConnector for TwinChunks {
    fn chunk_service(&self, address: &str) -> FsResult<Arc<dyn ChunkService>> {
        find(&self.nodes, address).map(|node| node as Arc<dyn ChunkService>)
    }
}

fn find(nodes: &[Arc<TwinNode>], address: &str) -> FsResult<Arc<TwinNode>> {
    let found = nodes.iter().find(|node| node.address == address).cloned();
    found.ok_or_else(|| FsError::new(ErrorKind::Invalid, format!("there is no datanode at {address}")))
}

impl TwinNode {
    /// Its address.
    pub fn address(&self) -> &str {
        &self.address
    }
    /// Unreachable, or back with what it had.
    pub fn set_down(&self, down: bool) {
        self.stored.lock().down = down;
    }
    /// As after a failed sync: writes are refused.
    pub fn set_read_only(&self, read_only: bool) {
        self.stored.lock().read_only = read_only;
    }
    /// Damages the copy of a chunk: reading it fails.
    pub fn damage(&self, chunk: ChunkId) {
        self.stored.lock().damaged.insert(chunk);
    }
    /// Loses everything that is stored.
    pub fn wipe(&self) {
        self.stored.lock().chunks.clear();
    }
    /// Bytes stored.
    pub fn used_bytes(&self) -> u64 {
        self.stored
            .lock()
            .chunks
            .values()
            .map(|(description, _)| description.length)
            .sum()
    }
    /// Chunks stored.
    pub fn chunks(&self) -> Vec<ChunkId> {
        self.stored.lock().chunks.keys().copied().collect()
    }
    /// Reads and writes answered so far, refused ones included.
    pub fn calls(&self) -> (u64, u64) {
        (
            self.reads.load(Ordering::Relaxed),
            self.writes.load(Ordering::Relaxed),
        )
    }

    fn check(&self, capability: &ChunkCapability, access: ChunkAccess) -> FsResult<()> {
        self.reachable()?;
        TWIN_KEY.verify(capability, capability.chunk, access, self.clock.now_unix_ms())
    }

    fn reachable(&self) -> FsResult<()> {
        match self.stored.lock().down {
            true => Err(FsError::new(
                ErrorKind::Unavailable,
                format!("{} is down", self.address),
            )),
            false => Ok(()),
        }
    }

    /// Stores here alone.
    fn store(&self, description: &ChunkDescription, content: &Bytes) -> FsResult<Receipt> {
        self.reachable()?;
        let mut stored = self.stored.lock();
        if stored.read_only {
            return Err(FsError::new(ErrorKind::ReadOnly, "the disk failed"));
        }
        let receipt = Receipt {
            node: self.id,
            disk: DiskIncarnation(u64::from(self.id.0)),
            sha256: description.sha256,
            length: description.length,
        };
        if let Some((there, _)) = stored.chunks.get(&description.chunk) {
            return match there.sha256 == description.sha256 && there.length == description.length {
                true => Ok(receipt),
                false => Err(FsError::new(
                    ErrorKind::ChunkConflict,
                    "the chunk exists with other bytes",
                )),
            };
        }
        let used: u64 = stored
            .chunks
            .values()
            .map(|(description, _)| description.length)
            .sum();
        if used + description.length > self.bytes_max {
            return Err(FsError::new(
                ErrorKind::NoSpace,
                format!("{} is full", self.address),
            ));
        }
        stored
            .chunks
            .insert(description.chunk, (description.clone(), content.clone()));
        Ok(receipt)
    }

    fn find(&self, chunk: ChunkId) -> FsResult<(ChunkDescription, Bytes)> {
        let stored = self.stored.lock();
        if stored.damaged.contains(&chunk) {
            return Err(FsError::new(ErrorKind::Corrupt, "a frame does not verify"));
        }
        let found = stored.chunks.get(&chunk).cloned();
        found.ok_or_else(|| FsError::new(ErrorKind::NotFound, format!("chunk {chunk} is not here")))
    }
}

async fn gather(label: &ChunkLabel, content: BoxStream<'static, FsResult<Piece>>) -> FsResult<Bytes> {
    let corrupt = |why| Err(FsError::new(ErrorKind::Corrupt, why));
    let mut content = content;
    let mut bytes = BytesMut::new();
    while let Some(piece) = content.next().await {
        let piece = piece?;
        if !bytes.len().is_multiple_of(FRAME_BYTES) {
            return Err(FsError::new(ErrorKind::Invalid, "a piece is not aligned"));
        }
        bytes.extend_from_slice(piece.content());
        if bytes.len() as u64 > label.length {
            return corrupt("the content is longer than described");
        }
    }
    match bytes.len() as u64 == label.length {
        true => Ok(bytes.freeze()),
        false => corrupt("the content is shorter than described"),
    }
}

/// The description of the whole content. The twin hashes everything, and believes nobody who says something else.
async fn describe(
    label: &ChunkLabel,
    capability: &ChunkCapability,
    content: &Bytes,
    hash: ContentHash,
) -> FsResult<ChunkDescription> {
    let found = label.described(content_sha256([&content[..]]));
    let said = match hash {
        ContentHash::Computed => found.sha256,
        ContentHash::Known(sha256) => sha256,
        ContentHash::Follows(hash) => {
            let vouched = hash
                .await
                .map_err(|_| FsError::new(ErrorKind::Interrupted, "the content ended without its hash"))?;
            if !TWIN_KEY.is_vouched(&vouched.voucher, capability, &label.described(vouched.sha256)) {
                return Err(FsError::new(
                    ErrorKind::Unauthenticated,
                    "nobody vouched for the content",
                ));
            }
            vouched.sha256
        }
    };
    match said == found.sha256 {
        true => Ok(found),
        false => Err(FsError::new(
            ErrorKind::Corrupt,
            "the content is not the one described",
        )),
    }
}

#[async_trait]
impl ChunkService for TwinNode {
    async fn write_chunk(&self, request: WriteChunk) -> FsResult<ChunkWritten> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        let WriteChunk {
            label,
            hash,
            capability,
            forward,
            content,
        } = request;
        self.check(&capability, ChunkAccess::Write)?;
        if capability.chunk != label.chunk {
            return Err(FsError::new(
                ErrorKind::Unauthenticated,
                "the capability is for another chunk",
            ));
        }
        if !(1..=CHUNK_BYTES_MAX).contains(&label.length) {
            return Err(FsError::new(ErrorKind::Invalid, "a chunk has 1 byte to 64 MiB"));
        }
        if matches!(hash, ContentHash::Follows(_)) && !forward.is_empty() {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "a forwarded chunk is not forwarded again",
            ));
        }
        let content = gather(&label, content).await?;
        let description = describe(&label, &capability, &content, hash).await?;
        let mut written = ChunkWritten {
            receipts: vec![self.store(&description, &content)?],
            failures: Vec::new(),
        };
        let peers = self.peers.upgrade();
        for address in forward {
            let peer = find(peers.as_deref().map_or(&[], |peers| &peers[..]), &address);
            match peer.and_then(|peer| peer.store(&description, &content)) {
                Ok(receipt) => written.receipts.push(receipt),
                Err(error) => written.failures.push((address, error)),
            }
        }
        Ok(written)
    }

    async fn read_chunk(
        &self,
        capability: ChunkCapability,
        offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.check(&capability, ChunkAccess::Read)?;
        let (description, content) = self.find(capability.chunk)?;
        let end = offset
            .checked_add(length)
            .filter(|end| *end <= description.length);
        let Some(end) = end else {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "the range ends behind the chunk's content",
            ));
        };
        let range = content.slice(offset as usize..end as usize);
        let pieces: Vec<FsResult<Piece>> = (0..range.len())
            .step_by(WIRE_FRAME_BYTES)
            .map(|at| {
                Ok(Piece::new(
                    range.slice(at..range.len().min(at + WIRE_FRAME_BYTES)),
                ))
            })
            .collect();
        Ok(stream::iter(pieces).boxed())
    }

    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription> {
        self.check(&capability, ChunkAccess::Read)?;
        self.find(capability.chunk).map(|(description, _)| description)
    }

    async fn delete_chunk(&self, capability: ChunkCapability) -> FsResult<()> {
        self.check(&capability, ChunkAccess::Delete)?;
        if capability.session != SessionId(0) {
            return Err(FsError::new(
                ErrorKind::Unauthenticated,
                "only the coordinator itself deletes chunks",
            ));
        }
        let mut stored = self.stored.lock();
        stored.chunks.remove(&capability.chunk);
        stored.damaged.remove(&capability.chunk);
        Ok(())
    }
}
