//! The chunk seam over a loopback connection: content arrives whole or not at all, in bounded memory, and nobody waits for
//! a peer that went away.

#![allow(clippy::unwrap_used)] // a test may fail

mod loopback;

use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::capability::{CapabilityKey, ChunkAccess, ChunkCapability, Voucher};
use dfs_common::checksum::{content_sha256, frame_crc};
use dfs_common::chunk::ChunkDescription;
use dfs_common::extent::Receipt;
use dfs_common::limits::{CHUNK_BYTES_MAX, CHUNK_CHANNELS_MAX, FRAME_BYTES, WIRE_FRAME_BYTES};
use dfs_common::piece::{Piece, pieces};
use dfs_common::service::{ChunkConnector, ChunkService, ChunkWritten, ContentHash, VouchedHash, WriteChunk};
use dfs_common::{
    ChunkId, DiskIncarnation, ErrorKind, FsError, FsResult, Ino, NodeId, PgId, SessionEpoch, SessionId,
};
use dfs_proto::convert::{
    HeadHash, WriteChunkHead, chunk_capability_to_wire, piece_to_wire, vouched_hash_to_wire,
    write_chunk_head_to_wire,
};
use dfs_proto::grpc::{ChunkGrpcClient, ChunkGrpcServer, GrpcChunkConnector, channel_lazy};
use dfs_proto::socket::LocalSockets;
use dfs_proto::v1::chunk_client::ChunkClient;
use dfs_proto::v1::chunk_server::{Chunk, ChunkServer};
use dfs_proto::v1::write_chunk_request::Part;
use dfs_proto::{status, v1};
use futures::stream::{self, BoxStream};
use futures::{FutureExt, StreamExt};
use loopback::{PATIENCE, Server, until};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tonic::{Request, Response, Status, Streaming};

/// Windows, socket buffers and pieces under way: what may be sent ahead of a peer that does not read.
const AHEAD_BYTES_MAX: u64 = 24 << 20;

/// Keeps chunks in memory; a test may make it misbehave.
#[derive(Default)]
struct Store {
    chunks: Mutex<HashMap<ChunkId, (ChunkDescription, Bytes)>>,
    forwards: Mutex<Vec<String>>,
    /// Size of the pieces of a read.
    step: AtomicUsize,
    /// How the last upload ended, from the service's side.
    upload: Mutex<Option<FsResult<u64>>>,
    /// Of the last forwarded upload.
    voucher: Mutex<Option<Voucher>>,
    refuse: Mutex<Option<FsError>>,
    /// Reads fail after this many pieces.
    fail_read_after: AtomicUsize,
    deaf: AtomicBool,
    served_bytes: Arc<AtomicU64>,
    reader_left: Arc<AtomicBool>,
}

struct SetOnDrop(Arc<AtomicBool>);
impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Store {
    fn shared() -> Arc<Store> {
        let store = Store::default();
        store.step.store(WIRE_FRAME_BYTES, Ordering::SeqCst);
        store.fail_read_after.store(usize::MAX, Ordering::SeqCst);
        Arc::new(store)
    }
    fn put(&self, id: u64, content: Bytes) {
        let description = describe(id, &content);
        let mut chunks = self.chunks.lock().unwrap();
        chunks.insert(description.chunk, (description, content));
    }
    fn content(&self, id: u64) -> Option<Bytes> {
        let chunks = self.chunks.lock().unwrap();
        chunks.get(&chunk(id)).map(|(_, content)| content.clone())
    }
    fn upload(&self) -> Option<FsResult<u64>> {
        self.upload.lock().unwrap().clone()
    }
}

fn not_found() -> FsError {
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

fn chunk(id: u64) -> ChunkId {
    ChunkId::new(SessionId(1), id, PgId(1))
}

fn permit(id: u64, access: ChunkAccess) -> ChunkCapability {
    CapabilityKey([1; 32]).sign(SessionId(1), chunk(id), access, u64::MAX)
}

fn describe(id: u64, content: &[u8]) -> ChunkDescription {
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
fn noise(bytes: usize) -> Bytes {
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

fn parts_of(content: &Bytes, step: usize) -> BoxStream<'static, FsResult<Bytes>> {
    let content = content.clone();
    let starts = (0..content.len()).step_by(step);
    stream::iter(starts)
        .map(move |start| Ok(content.slice(start..(start + step).min(content.len()))))
        .boxed()
}

fn pieces_of(content: &Bytes, step: usize) -> BoxStream<'static, FsResult<Piece>> {
    pieces(parts_of(content, step))
}

fn write(id: u64, content: &Bytes, step: usize) -> WriteChunk {
    WriteChunk {
        label: describe(id, content).label(),
        hash: ContentHash::Computed,
        capability: permit(id, ChunkAccess::Write),
        forward: vec![],
        content: pieces_of(content, step),
    }
}

async fn serve(store: &Arc<Store>) -> Server {
    let service = ChunkGrpcServer::new(store.clone()).into_service();
    Server::start(|routes| {
        routes.add_service(service);
    })
    .await
}

fn client(address: SocketAddr) -> ChunkGrpcClient {
    ChunkGrpcClient::connect_lazy(&address.to_string(), PATIENCE).unwrap()
}

async fn read(client: &ChunkGrpcClient, id: u64, offset: u64, length: u64) -> FsResult<Vec<u8>> {
    let mut pieces = client
        .read_chunk(permit(id, ChunkAccess::Read), offset, length)
        .await?;
    let mut content = Vec::new();
    while let Some(piece) = pieces.next().await {
        content.extend_from_slice(piece?.content());
    }
    Ok(content)
}

#[tokio::test(flavor = "multi_thread")]
async fn largest_chunk_is_written_and_read_whole() {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(server.address);
    let content = noise(CHUNK_BYTES_MAX as usize);
    let mut request = write(1, &content, WIRE_FRAME_BYTES);
    request.forward = vec!["peer-1:7402".to_string(), "[::1]:7403".to_string()];
    let written = client.write_chunk(request).await.unwrap();
    assert_eq!(written.receipts[0].sha256, describe(1, &content).sha256);
    assert_eq!(written.receipts[0].length, CHUNK_BYTES_MAX);
    let failed: Vec<_> = written
        .failures
        .iter()
        .map(|(address, _)| address.clone())
        .collect();
    assert_eq!(failed, *store.forwards.lock().unwrap());
    assert_eq!(failed, ["peer-1:7402", "[::1]:7403"]);
    assert_eq!(written.failures[0].1.kind(), ErrorKind::Unavailable);
    assert!(store.content(1).unwrap() == content);
    assert!(read(&client, 1, 0, CHUNK_BYTES_MAX).await.unwrap() == content);
    let described = client.stat_chunk(permit(1, ChunkAccess::Read)).await.unwrap();
    assert_eq!(described, describe(1, &content));
    client.delete_chunk(permit(1, ChunkAccess::Delete)).await.unwrap();
    let gone = client.stat_chunk(permit(1, ChunkAccess::Read)).await.unwrap_err();
    assert_eq!(gone, not_found());
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_sizes_and_ranges_are_exact() {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(server.address);
    for (id, size) in [
        1,
        2,
        1000,
        WIRE_FRAME_BYTES - 1,
        WIRE_FRAME_BYTES,
        WIRE_FRAME_BYTES + 1,
        1 << 20,
    ]
    .into_iter()
    .enumerate()
    {
        let content = noise(size);
        for step in [size, 1 << 19, 65_536, 999_983] {
            client
                .write_chunk(write(id as u64, &content, step))
                .await
                .unwrap();
            assert!(
                store.content(id as u64).unwrap() == content,
                "{size} in steps of {step}"
            );
            store.step.store(step, Ordering::SeqCst);
            assert!(read(&client, id as u64, 0, size as u64).await.unwrap() == content);
        }
        let (from, to) = (size / 3, size - size / 4);
        let range = read(&client, id as u64, from as u64, (to - from) as u64)
            .await
            .unwrap();
        assert!(range == content[from..to]);
    }
    assert_eq!(read(&client, 3, 5, 0).await.unwrap(), b"");
    let behind = read(&client, 2, 500, 501).await.unwrap_err();
    assert_eq!(
        (behind.kind(), behind.message()),
        (ErrorKind::Invalid, "behind the chunk's end")
    );
    let far = read(&client, 2, u64::MAX, 2).await.unwrap_err();
    assert_eq!(far.kind(), ErrorKind::Invalid);
    let missing = read(&client, 99, 0, 1).await.unwrap_err();
    assert_eq!(missing, not_found());
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_at_once_do_not_mix() {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(server.address);
    let transfers = (0..16_u64).map(|id| {
        let client = client.clone();
        async move {
            let content = noise(1_000_000 + id as usize * 77_777).slice(id as usize..);
            client.write_chunk(write(id, &content, 100_000)).await.unwrap();
            assert!(read(&client, id, 0, content.len() as u64).await.unwrap() == content);
        }
    });
    let tasks: Vec<_> = transfers.map(tokio::spawn).collect();
    for task in tasks {
        task.await.unwrap();
    }
    drop(client);
    server.stop().await;
}

/// Sends these messages with the generated client: a peer that is not ours, or broken.
async fn send(address: SocketAddr, parts: Vec<Part>) -> FsError {
    let mut raw = ChunkClient::new(channel_lazy(&address.to_string(), PATIENCE).unwrap());
    let messages = parts
        .into_iter()
        .map(|part| v1::WriteChunkRequest { part: Some(part) });
    let refused = raw.write_chunk(stream::iter(messages)).await.unwrap_err();
    status::from_status(&refused)
}

fn head_with(id: u64, content: &[u8], hash: HeadHash) -> Part {
    Part::Header(write_chunk_head_to_wire(&WriteChunkHead {
        label: describe(id, content).label(),
        hash,
        capability: permit(id, ChunkAccess::Write),
        forward: vec![],
    }))
}

fn head(id: u64, content: &[u8]) -> Part {
    head_with(id, content, HeadHash::Computed)
}

const VOUCHED: VouchedHash = VouchedHash {
    sha256: [7; 32],
    voucher: Voucher([8; 16]),
};

fn end() -> Part {
    Part::End(vouched_hash_to_wire(&VOUCHED))
}

fn piece(content: &[u8]) -> Part {
    Part::Piece(v1::Piece {
        content: Bytes::copy_from_slice(content),
        crc32c: frame_crc(content),
        frame_crc32c: content.chunks(FRAME_BYTES).map(frame_crc).collect(),
    })
}

#[tokio::test]
async fn malformed_uploads_are_refused_and_never_look_whole() {
    let store = Store::shared();
    let server = serve(&store).await;
    let content = noise(WIRE_FRAME_BYTES + 1000);
    let (first, second) = content.split_at(WIRE_FRAME_BYTES);
    let damaged = Part::Piece(v1::Piece {
        content: Bytes::copy_from_slice(second),
        crc32c: frame_crc(second),
        frame_crc32c: vec![frame_crc(second) ^ 1],
    });
    let follows = || head_with(1, &content, HeadHash::Follows);
    let cases = [
        ("no messages", vec![], ErrorKind::Invalid, false),
        ("no header", vec![piece(first)], ErrorKind::Invalid, false),
        (
            "a damaged piece",
            vec![head(1, &content), piece(first), damaged],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "a large piece",
            vec![head(1, &content), piece(&content)],
            ErrorKind::Invalid,
            true,
        ),
        (
            "an empty piece",
            vec![head(1, &content), piece(b"")],
            ErrorKind::Invalid,
            true,
        ),
        (
            "two headers",
            vec![head(1, &content), head(1, &content)],
            ErrorKind::Invalid,
            true,
        ),
        (
            "too little",
            vec![head(1, &content), piece(first)],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "too much",
            vec![head(1, &content), piece(first), piece(second), piece(b"x")],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "no end where one was promised",
            vec![follows(), piece(first), piece(second)],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "an end before the content is whole",
            vec![follows(), piece(first), end()],
            ErrorKind::Corrupt,
            true,
        ),
        (
            "two ends",
            vec![follows(), piece(first), piece(second), end(), end()],
            ErrorKind::Invalid,
            true,
        ),
        (
            "content behind the end",
            vec![follows(), piece(first), piece(second), end(), piece(b"x")],
            ErrorKind::Invalid,
            true,
        ),
        (
            "an end that was not promised",
            vec![head(1, &content), piece(first), piece(second), end()],
            ErrorKind::Invalid,
            true,
        ),
    ];
    for (case, parts, kind, seen) in cases {
        *store.upload.lock().unwrap() = None;
        let refused = send(server.address, parts).await;
        assert_eq!(refused.kind(), kind, "{case}: {refused}");
        match store.upload() {
            Some(outcome) => assert_eq!(outcome.unwrap_err().kind(), kind, "{case}"),
            None => assert!(!seen, "{case} did not reach the service"),
        }
    }
    assert!(store.content(1).is_none());
    server.stop().await;
}

#[tokio::test]
async fn upload_of_an_earlier_release_is_taken() {
    let store = Store::shared();
    let server = serve(&store).await;
    let content = noise(700_003);
    // Its pieces have one checksum each and end anywhere; its hash is known.
    for (id, step) in [(1, 1000), (2, 100_000), (3, WIRE_FRAME_BYTES)] {
        let known = HeadHash::Known(describe(id, &content).sha256);
        let pieces = content.chunks(step).map(|part| {
            Part::Piece(v1::Piece {
                content: Bytes::copy_from_slice(part),
                crc32c: frame_crc(part),
                frame_crc32c: vec![],
            })
        });
        let parts: Vec<Part> = [head_with(id, &content, known)]
            .into_iter()
            .chain(pieces)
            .collect();
        let messages = parts
            .into_iter()
            .map(|part| v1::WriteChunkRequest { part: Some(part) });
        let mut raw = ChunkClient::new(channel_lazy(&server.address.to_string(), PATIENCE).unwrap());
        raw.write_chunk(stream::iter(messages)).await.unwrap();
        assert!(store.content(id).unwrap() == content, "in steps of {step}");
    }
    server.stop().await;
}

#[tokio::test]
async fn content_that_does_not_fit_its_description_is_not_sent_as_whole() {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(server.address);
    let content = noise(300_000);
    let failing = FsError::new(ErrorKind::Io, "the source broke");
    let broken = pieces(stream::iter([Ok(content.slice(..200_000)), Err(failing.clone())]).boxed());
    let cases = [
        ("an error", broken, failing.kind()),
        (
            "too little",
            pieces_of(&content.slice(1..), 100_000),
            ErrorKind::Corrupt,
        ),
        (
            "too much",
            pieces_of(&noise(300_001), 150_001),
            ErrorKind::Corrupt,
        ),
    ];
    for (case, source, kind) in cases {
        *store.upload.lock().unwrap() = None;
        let request = WriteChunk {
            content: source,
            ..write(1, &content, 1)
        };
        let error = client.write_chunk(request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{case}: {error}");
        until("the service sees the upload fail", || store.upload().is_some()).await;
        assert!(store.upload().unwrap().is_err(), "{case} looked whole");
        assert!(store.content(1).is_none());
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn hash_follows_its_content_or_the_upload_is_not_whole() {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(server.address);
    let content = noise(300_000);
    let (end, hash) = tokio::sync::oneshot::channel();
    end.send(VOUCHED).unwrap();
    let request = WriteChunk {
        hash: ContentHash::Follows(hash),
        ..write(1, &content, WIRE_FRAME_BYTES)
    };
    let written = client.write_chunk(request).await.unwrap();
    assert_eq!(written.receipts[0].sha256, VOUCHED.sha256);
    assert_eq!(*store.voucher.lock().unwrap(), Some(VOUCHED.voucher));
    assert!(store.content(1).unwrap() == content);
    // Everything is sent but the hash.
    *store.upload.lock().unwrap() = None;
    let (end, hash) = tokio::sync::oneshot::channel();
    drop(end);
    let request = WriteChunk {
        hash: ContentHash::Follows(hash),
        ..write(2, &content, WIRE_FRAME_BYTES)
    };
    let error = client.write_chunk(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted, "{error}");
    until("the service sees the upload fail", || store.upload().is_some()).await;
    assert!(store.upload().unwrap().is_err(), "it looked whole");
    assert!(store.content(2).is_none());
    // A hash that is known travels in the header.
    let request = WriteChunk {
        hash: ContentHash::Known([3; 32]),
        ..write(3, &content, WIRE_FRAME_BYTES)
    };
    let written = client.write_chunk(request).await.unwrap();
    assert_eq!(written.receipts[0].sha256, [3; 32]);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn writer_that_goes_away_fails_the_upload() {
    let store = Store::shared();
    let server = serve(&store).await;
    let client = client(server.address);
    let content = noise(2 << 20);
    let sent = Arc::new(AtomicU64::new(0));
    let counting = sent.clone();
    let source = pieces_of(&content, WIRE_FRAME_BYTES)
        .take(4)
        .inspect(move |_| {
            counting.fetch_add(1, Ordering::SeqCst);
        })
        .chain(stream::pending());
    let request = WriteChunk {
        content: source.boxed(),
        ..write(1, &content, 1)
    };
    let upload = client.write_chunk(request);
    tokio::select! {
        _ = upload => panic!("it cannot be complete"),
        () = until("some was sent", || sent.load(Ordering::SeqCst) == 4) => {}
    }
    until("the service sees the upload fail", || store.upload().is_some()).await;
    assert!(store.upload().unwrap().is_err());
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn upload_that_brings_nothing_is_given_up_by_the_server() {
    let store = Store::shared();
    let service = ChunkGrpcServer::new(store.clone())
        .with_upload_stall(Duration::from_millis(100))
        .into_service();
    let server = Server::start(|routes| {
        routes.add_service(service);
    })
    .await;
    let content = noise(1 << 20);
    let client = client(server.address);
    let request = WriteChunk {
        content: pieces_of(&content, WIRE_FRAME_BYTES)
            .take(2)
            .chain(stream::pending())
            .boxed(),
        ..write(1, &content, 1)
    };
    let error = client.write_chunk(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert_eq!(store.upload().unwrap().unwrap_err().kind(), ErrorKind::TimedOut);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn server_that_does_not_take_the_content_is_given_up_in_bounded_memory() {
    let store = Store::shared();
    store.deaf.store(true, Ordering::SeqCst);
    let server = serve(&store).await;
    let address = server.address.to_string();
    let client = ChunkGrpcClient::connect_lazy(&address, Duration::from_millis(300)).unwrap();
    let content = noise(CHUNK_BYTES_MAX as usize);
    let taken = Arc::new(AtomicU64::new(0));
    let counting = taken.clone();
    let source = pieces_of(&content, WIRE_FRAME_BYTES).inspect(move |piece| {
        let bytes = piece.as_ref().map_or(0, Piece::len) as u64;
        counting.fetch_add(bytes, Ordering::SeqCst);
    });
    let request = WriteChunk {
        content: source.boxed(),
        ..write(1, &content, 1)
    };
    let error = client.write_chunk(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let taken = taken.load(Ordering::SeqCst);
    assert!(taken > 0 && taken <= AHEAD_BYTES_MAX, "{taken} bytes were taken");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn slow_source_is_not_taken_for_a_dead_server() {
    let store = Store::shared();
    let server = serve(&store).await;
    let deadline = Duration::from_millis(60);
    let client = ChunkGrpcClient::connect_lazy(&server.address.to_string(), deadline).unwrap();
    let content = noise(500_000);
    let source = pieces_of(&content, 250_000).then(move |piece| async move {
        // Longer than any deadline of the call: the time itself is what is tried here.
        tokio::time::sleep(5 * deadline).await;
        piece
    });
    let request = WriteChunk {
        content: source.boxed(),
        ..write(1, &content, 1)
    };
    client.write_chunk(request).await.unwrap();
    assert!(store.content(1).unwrap() == content);
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_that_does_not_read_stops_the_server_in_bounded_memory() {
    let store = Store::shared();
    store.put(1, noise(CHUNK_BYTES_MAX as usize));
    let server = serve(&store).await;
    let client = client(server.address);
    let mut pieces = client
        .read_chunk(permit(1, ChunkAccess::Read), 0, CHUNK_BYTES_MAX)
        .await
        .unwrap();
    let served = || store.served_bytes.load(Ordering::SeqCst);
    let mut seen = u64::MAX;
    // Until nothing moved for a whole interval.
    while served() != seen || seen == 0 {
        seen = served();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(seen <= AHEAD_BYTES_MAX, "{seen} bytes were sent ahead");
    let mut received = 0;
    while let Some(piece) = pieces.next().await {
        received += piece.unwrap().len() as u64;
    }
    assert_eq!(received, CHUNK_BYTES_MAX);
    drop((pieces, client));
    server.stop().await;
}

#[tokio::test]
async fn reader_that_goes_away_ends_the_servers_stream() {
    let store = Store::shared();
    store.put(1, noise(CHUNK_BYTES_MAX as usize));
    let server = serve(&store).await;
    let client = client(server.address);
    let mut pieces = client
        .read_chunk(permit(1, ChunkAccess::Read), 0, CHUNK_BYTES_MAX)
        .await
        .unwrap();
    pieces.next().await.unwrap().unwrap();
    assert!(!store.reader_left.load(Ordering::SeqCst));
    drop(pieces);
    until("the service's stream is dropped", || {
        store.reader_left.load(Ordering::SeqCst)
    })
    .await;
    assert!(store.served_bytes.load(Ordering::SeqCst) < CHUNK_BYTES_MAX);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn error_in_the_middle_of_a_read_keeps_its_kind_and_ends_it() {
    let store = Store::shared();
    store.put(1, noise(1 << 20));
    store.fail_read_after.store(2, Ordering::SeqCst);
    let server = serve(&store).await;
    let client = client(server.address);
    let pieces = client
        .read_chunk(permit(1, ChunkAccess::Read), 0, 1 << 20)
        .await
        .unwrap();
    let mut pieces: Vec<_> = pieces.collect().await;
    let error = pieces.pop().unwrap().unwrap_err();
    assert_eq!(
        (error.kind(), error.message()),
        (ErrorKind::Corrupt, "frame 7 does not verify")
    );
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(Result::is_ok));
    drop(client);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_refused_writes_and_dropped_reads_do_not_cost_the_connection() {
    let store = Store::shared();
    let content = noise(1 << 20);
    store.put(1, content.clone());
    *store.refuse.lock().unwrap() = Some(FsError::new(ErrorKind::NoSpace, "the disk is full"));
    let server = serve(&store).await;
    let client = client(server.address);
    let refused = (0..8).map(|_| {
        let (client, content) = (client.clone(), content.clone());
        tokio::spawn(async move {
            for _ in 0..150 {
                let error = client
                    .write_chunk(write(2, &content, WIRE_FRAME_BYTES))
                    .await
                    .unwrap_err();
                assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
            }
        })
    });
    for task in refused.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    for early in 0..2500 {
        let mut pieces = client
            .read_chunk(permit(1, ChunkAccess::Read), 0, 1 << 20)
            .await
            .unwrap();
        if early % 2 == 0 {
            let _ = pieces.next().now_or_never();
        } else {
            pieces.next().await.unwrap().unwrap();
        }
    }
    assert!(read(&client, 1, 0, 1 << 20).await.unwrap() == content);
    drop(client);
    server.stop().await;
}

/// A datanode that sends what it is told to.
struct Liar {
    pieces: Vec<Result<v1::Piece, FsError>>,
    ends: bool,
}

#[tonic::async_trait]
impl Chunk for Liar {
    type ReadChunkStream = BoxStream<'static, Result<v1::ReadChunkReply, Status>>;
    async fn write_chunk(
        &self,
        _request: Request<Streaming<v1::WriteChunkRequest>>,
    ) -> Result<Response<v1::WriteChunkReply>, Status> {
        Ok(Response::new(v1::WriteChunkReply {
            receipts: vec![v1::Receipt::default()],
            failures: vec![],
        }))
    }
    async fn read_chunk(
        &self,
        _request: Request<v1::ReadChunkRequest>,
    ) -> Result<Response<Self::ReadChunkStream>, Status> {
        let replies: Vec<_> = self
            .pieces
            .iter()
            .map(|piece| match piece {
                Ok(piece) => Ok(v1::ReadChunkReply {
                    piece: Some(piece.clone()),
                }),
                Err(error) => Err(status::to_status(error)),
            })
            .collect();
        let replies = stream::iter(replies);
        Ok(Response::new(if self.ends {
            replies.boxed()
        } else {
            replies.chain(stream::pending()).boxed()
        }))
    }
    async fn stat_chunk(
        &self,
        _: Request<v1::ChunkRequest>,
    ) -> Result<Response<v1::ChunkDescription>, Status> {
        Ok(Response::new(v1::ChunkDescription::default()))
    }
    async fn delete_chunk(&self, _: Request<v1::ChunkRequest>) -> Result<Response<v1::Empty>, Status> {
        Err(Status::unknown("some proxy's text"))
    }
}

#[tokio::test]
async fn what_a_broken_datanode_sends_is_never_taken_for_content() {
    let whole = piece_to_wire(&Piece::new("0123456789".into()));
    let damaged = v1::Piece {
        crc32c: whole.crc32c ^ 1,
        ..whole.clone()
    };
    let large = v1::Piece {
        content: vec![0; WIRE_FRAME_BYTES + 1].into(),
        ..v1::Piece::default()
    };
    let empty = v1::Piece::default();
    let fails = FsError::new(ErrorKind::Io, "the disk broke");
    let (w, cases) = (Ok(whole.clone()), 7);
    let case = |number: i32| match number {
        0 => (vec![Ok(damaged.clone())], true, ErrorKind::Corrupt),
        1 => (vec![Ok(large.clone())], true, ErrorKind::Invalid),
        2 => (vec![w.clone(), Ok(empty.clone())], true, ErrorKind::Invalid),
        3 => (vec![w.clone()], true, ErrorKind::Corrupt),
        4 => (vec![w.clone(), w.clone(), w.clone()], true, ErrorKind::Corrupt),
        5 => (vec![w.clone()], false, ErrorKind::TimedOut),
        _ => (vec![w.clone(), Err(fails.clone())], true, ErrorKind::Io),
    };
    for number in 0..cases {
        let (pieces, ends, kind) = case(number);
        let service = ChunkServer::new(Liar { pieces, ends });
        let server = Server::start(|routes| {
            routes.add_service(service);
        })
        .await;
        let deadline = Duration::from_millis(200);
        let client = ChunkGrpcClient::connect_lazy(&server.address.to_string(), deadline).unwrap();
        let stream = client
            .read_chunk(permit(1, ChunkAccess::Read), 0, 20)
            .await
            .unwrap();
        let received: Vec<_> = stream.collect().await;
        let error = received.last().unwrap().as_ref().unwrap_err();
        assert_eq!(error.kind(), kind, "case {number}: {error}");
        let content: usize = received.iter().flatten().map(Piece::len).sum();
        assert!(content <= 20, "case {number}");

        let written = client.write_chunk(write(1, &noise(10), 10)).await.unwrap_err();
        assert_eq!(written.kind(), ErrorKind::Invalid, "{written}");
        let described = client.stat_chunk(permit(1, ChunkAccess::Read)).await.unwrap_err();
        assert_eq!(described.kind(), ErrorKind::Invalid, "{described}");
        let deleted = client
            .delete_chunk(permit(1, ChunkAccess::Delete))
            .await
            .unwrap_err();
        assert_eq!(deleted.kind(), ErrorKind::Io, "{deleted}");
        drop(client);
        server.stop().await;
    }
}

#[tokio::test]
async fn reads_without_capability_are_refused() {
    let store = Store::shared();
    let server = serve(&store).await;
    let mut raw = ChunkClient::new(channel_lazy(&server.address.to_string(), PATIENCE).unwrap());
    let nothing = v1::ReadChunkRequest::default();
    let refused = status::from_status(&raw.read_chunk(nothing).await.unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let far = v1::ReadChunkRequest {
        capability: Some(chunk_capability_to_wire(&permit(1, ChunkAccess::Read))),
        offset: 1,
        length: CHUNK_BYTES_MAX,
    };
    let refused = status::from_status(&raw.read_chunk(far).await.unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::Invalid);
    let refused = raw.delete_chunk(v1::ChunkRequest { capability: None }).await;
    assert_eq!(
        status::from_status(&refused.unwrap_err()).kind(),
        ErrorKind::Invalid
    );
    drop(raw);
    server.stop().await;
}

#[tokio::test]
async fn connector_shares_bounds_and_revives_its_channels() {
    let store = Store::shared();
    store.put(1, noise(10));
    let server = serve(&store).await;
    let address = server.address;
    let connector = GrpcChunkConnector::new(PATIENCE, LocalSockets::On);
    let connect = |address: &str| connector.chunk_service(address);
    let service = connect(&address.to_string()).unwrap();
    assert!(Arc::ptr_eq(&service, &connect(&address.to_string()).unwrap()));
    let permit = permit(1, ChunkAccess::Read);
    service.stat_chunk(permit.clone()).await.unwrap();

    server.stop().await;
    let away = service.stat_chunk(permit.clone()).await.unwrap_err();
    assert_eq!(away.kind(), ErrorKind::Unavailable);
    let again = ChunkGrpcServer::new(store.clone()).into_service();
    let server = Server::start_at(address, |routes| {
        routes.add_service(again);
    })
    .await;
    service.stat_chunk(permit.clone()).await.unwrap();

    assert_eq!(connect("nowhere").err().unwrap().kind(), ErrorKind::Invalid);
    assert_eq!(connector.channels(), 1, "what is refused is not kept");
    for port in 1..=CHUNK_CHANNELS_MAX {
        connect(&format!("127.0.0.1:{port}")).unwrap();
    }
    assert_eq!(connector.channels(), CHUNK_CHANNELS_MAX);
    let newer = connect(&address.to_string()).unwrap();
    assert!(!Arc::ptr_eq(&service, &newer), "the oldest was forgotten");
    service
        .stat_chunk(permit.clone())
        .await
        .expect("whoever holds it may go on");
    newer.stat_chunk(permit).await.unwrap();
    connector.forget(&address.to_string());
    assert_eq!(connector.channels(), CHUNK_CHANNELS_MAX - 1);
    drop((service, newer, connector));
    server.stop().await;
}
