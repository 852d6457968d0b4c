//! A service that keeps chunks in memory, served over both transports on one port, and what to send to it.

use crate::loopback::Server;
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::capability::{CapabilityKey, ChunkAccess, ChunkCapability, Voucher};
use dfs_common::checksum::content_sha256;
use dfs_common::chunk::ChunkDescription;
use dfs_common::extent::Receipt;
use dfs_common::limits::{FRAME_BYTES, UPLOAD_STALL, WIRE_FRAME_BYTES};
use dfs_common::piece::{Piece, pieces};
use dfs_common::service::{ChunkService, ChunkWritten, ContentHash, VouchedHash, WriteChunk};
use dfs_common::{
    ChunkId, DiskIncarnation, ErrorKind, FsError, FsResult, Ino, NodeId, PgId, SessionEpoch, SessionId,
};
use dfs_proto::Transport;
use dfs_proto::framed::{self, ChunkFramedClient};
use dfs_proto::grpc::{ChunkGrpcClient, ChunkGrpcServer};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Windows, socket buffers and pieces under way: what may be sent ahead of a peer that does not read.
pub const AHEAD_BYTES_MAX: u64 = 24 << 20;

/// Keeps chunks in memory; a test may make it misbehave.
#[derive(Default)]
pub struct Store {
    pub chunks: Mutex<HashMap<ChunkId, (ChunkDescription, Bytes)>>,
    pub forwards: Mutex<Vec<String>>,
    /// Size of the pieces of a read.
    pub step: AtomicUsize,
    /// How the last upload ended, from the service's side.
    pub upload: Mutex<Option<FsResult<u64>>>,
    /// Of the last forwarded upload.
    pub voucher: Mutex<Option<Voucher>>,
    pub refuse: Mutex<Option<FsError>>,
    /// Reads fail after this many pieces.
    pub fail_read_after: AtomicUsize,
    pub deaf: AtomicBool,
    pub served_bytes: Arc<AtomicU64>,
    pub reader_left: Arc<AtomicBool>,
}

pub struct SetOnDrop(Arc<AtomicBool>);
impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Store {
    pub fn shared() -> Arc<Store> {
        let store = Store::default();
        store.step.store(WIRE_FRAME_BYTES, Ordering::SeqCst);
        store.fail_read_after.store(usize::MAX, Ordering::SeqCst);
        Arc::new(store)
    }
    pub fn put(&self, id: u64, content: Bytes) {
        let description = describe(id, &content);
        let mut chunks = self.chunks.lock().unwrap();
        chunks.insert(description.chunk, (description, content));
    }
    pub fn content(&self, id: u64) -> Option<Bytes> {
        let chunks = self.chunks.lock().unwrap();
        chunks.get(&chunk(id)).map(|(_, content)| content.clone())
    }
    pub fn upload(&self) -> Option<FsResult<u64>> {
        self.upload.lock().unwrap().clone()
    }
}

pub fn not_found() -> FsError {
    FsError::new(ErrorKind::NotFound, "no such chunk here")
}

#[async_trait]
impl ChunkService for Store {
    async fn write_chunk(&self, mut request: WriteChunk) -> FsResult<ChunkWritten> {
        if let Some(error) = self.refuse.lock().unwrap().clone() {
            return Err(error);
        }
        if self.deaf.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        *self.forwards.lock().unwrap() = request.forward.clone();
        let mut content = Vec::new();
        while let Some(piece) = request.content.next().await {
            match piece {
                Ok(piece) => {
                    assert!(content.len().is_multiple_of(FRAME_BYTES), "pieces are aligned");
                    content.extend_from_slice(piece.content());
                }
                Err(error) => {
                    *self.upload.lock().unwrap() = Some(Err(error.clone()));
                    return Err(error);
                }
            }
        }
        let sha256 = match request.hash {
            ContentHash::Computed => content_sha256([&content[..]]),
            ContentHash::Known(sha256) => sha256,
            ContentHash::Follows(hash) => match hash.await {
                Ok(vouched) => {
                    *self.voucher.lock().unwrap() = Some(vouched.voucher);
                    vouched.sha256
                }
                Err(_) => {
                    let error = FsError::new(ErrorKind::Interrupted, "no hash follows");
                    *self.upload.lock().unwrap() = Some(Err(error.clone()));
                    return Err(error);
                }
            },
        };
        *self.upload.lock().unwrap() = Some(Ok(content.len() as u64));
        let receipt = Receipt {
            node: NodeId(3),
            disk: DiskIncarnation(4),
            sha256,
            length: content.len() as u64,
        };
        let failures = request
            .forward
            .iter()
            .map(|address| (address.clone(), FsError::new(ErrorKind::Unavailable, "not there")));
        let written = ChunkWritten {
            receipts: vec![receipt],
            failures: failures.collect(),
        };
        let mut chunks = self.chunks.lock().unwrap();
        let description = request.label.described(sha256);
        chunks.insert(description.chunk, (description, content.into()));
        Ok(written)
    }

    async fn read_chunk(
        &self,
        capability: ChunkCapability,
        offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        let chunks = self.chunks.lock().unwrap();
        let (_, content) = chunks.get(&capability.chunk).ok_or_else(not_found)?;
        if offset + length > content.len() as u64 {
            return Err(FsError::new(ErrorKind::Invalid, "behind the chunk's end"));
        }
        let mut rest = content.slice(offset as usize..(offset + length) as usize);
        let step = self.step.load(Ordering::SeqCst).min(WIRE_FRAME_BYTES);
        let fail_after = self.fail_read_after.load(Ordering::SeqCst);
        let served = self.served_bytes.clone();
        let guard = SetOnDrop(self.reader_left.clone());
        let mut pieces = 0;
        Ok(stream::poll_fn(move |_| {
            let _guard = &guard;
            if rest.is_empty() {
                return std::task::Poll::Ready(None);
            }
            if pieces == fail_after {
                let error = FsError::new(ErrorKind::Corrupt, "frame 7 does not verify");
                return std::task::Poll::Ready(Some(Err(error)));
            }
            pieces += 1;
            let piece = rest.split_to(step.min(rest.len()));
            served.fetch_add(piece.len() as u64, Ordering::SeqCst);
            std::task::Poll::Ready(Some(Ok(Piece::new(piece))))
        })
        .boxed())
    }

    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription> {
        let chunks = self.chunks.lock().unwrap();
        let (description, _) = chunks.get(&capability.chunk).ok_or_else(not_found)?;
        Ok(description.clone())
    }

    async fn delete_chunk(&self, capability: ChunkCapability) -> FsResult<()> {
        self.chunks.lock().unwrap().remove(&capability.chunk);
        Ok(())
    }
}

pub fn chunk(id: u64) -> ChunkId {
    ChunkId::new(SessionId(1), id, PgId(1))
}

pub fn permit(id: u64, access: ChunkAccess) -> ChunkCapability {
    CapabilityKey([1; 32]).sign(SessionId(1), chunk(id), access, u64::MAX)
}

pub fn describe(id: u64, content: &[u8]) -> ChunkDescription {
    ChunkDescription {
        chunk: chunk(id),
        ino: Ino(9),
        file_offset: 4096,
        length: content.len() as u64,
        epoch: SessionEpoch(2),
        sha256: content_sha256([content]),
    }
}

/// Bytes in which no two pieces are alike.
pub fn noise(bytes: usize) -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut content = Vec::with_capacity(bytes + 8);
    while content.len() < bytes {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        content.extend_from_slice(&state.to_le_bytes());
    }
    content.truncate(bytes);
    content.into()
}

pub fn parts_of(content: &Bytes, step: usize) -> BoxStream<'static, FsResult<Bytes>> {
    let content = content.clone();
    let starts = (0..content.len()).step_by(step);
    stream::iter(starts)
        .map(move |start| Ok(content.slice(start..(start + step).min(content.len()))))
        .boxed()
}

pub fn pieces_of(content: &Bytes, step: usize) -> BoxStream<'static, FsResult<Piece>> {
    pieces(parts_of(content, step))
}

pub fn write(id: u64, content: &Bytes, step: usize) -> WriteChunk {
    WriteChunk {
        label: describe(id, content).label(),
        hash: ContentHash::Computed,
        capability: permit(id, ChunkAccess::Write),
        forward: vec![],
        content: pieces_of(content, step),
    }
}

pub const VOUCHED: VouchedHash = VouchedHash {
    sha256: [7; 32],
    voucher: Voucher([8; 16]),
};

/// Any free port.
pub const ANY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

pub async fn serve(store: &Arc<Store>) -> Server {
    serve_at(ANY, store, UPLOAD_STALL).await
}

/// Serves over both transports; uploads that bring nothing for `stall` are given up.
pub async fn serve_at(address: SocketAddr, store: &Arc<Store>, stall: Duration) -> Server {
    let service = ChunkGrpcServer::new(store.clone())
        .with_upload_stall(stall)
        .into_service();
    let frames = framed::serve_chunks(store.clone(), Some(stall));
    Server::start_split(address, Some(frames), |routes| {
        routes.add_service(service);
    })
    .await
}

pub fn client(transport: Transport, address: SocketAddr, deadline: Duration) -> Arc<dyn ChunkService> {
    let address = address.to_string();
    match transport {
        Transport::Framed => Arc::new(ChunkFramedClient::connect_lazy(&address, deadline).unwrap()),
        Transport::Grpc => Arc::new(ChunkGrpcClient::connect_lazy(&address, deadline).unwrap()),
    }
}

pub async fn read(client: &dyn ChunkService, id: u64, offset: u64, length: u64) -> FsResult<Vec<u8>> {
    let mut pieces = client
        .read_chunk(permit(id, ChunkAccess::Read), offset, length)
        .await?;
    let mut content = Vec::new();
    while let Some(piece) = pieces.next().await {
        content.extend_from_slice(piece?.content());
    }
    Ok(content)
}
