//! A bit that flips between two programs, beneath what any of them can see: it is found where the content arrives, on each hop.

use crate::coordinator::FakeCoordinator;
use crate::support::*;
use dfs_common::ErrorKind;
use dfs_common::service::{ChunkService, ContentHash, WriteChunk};
use dfs_proto::grpc::ChunkGrpcClient;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// What all content here consists of, so that a flipped bit of it is content and not framing.
const MARKER: &[u8; 8] = b"flip me!";

/// Which way the damaged bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Towards {
    Server,
    Client,
}

/// A connection with a fault: one bit of content flips on each, behind so many bytes.
struct Flipper {
    address: SocketAddr,
    flips: Arc<AtomicUsize>,
    serving: JoinHandle<()>,
}

impl Drop for Flipper {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Flipper {
    async fn before(server: SocketAddr, towards: Towards, behind: usize) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let flips = Arc::new(AtomicUsize::new(0));
        let counted = flips.clone();
        let serving = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(server).await.unwrap();
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let never = usize::MAX;
                let (up, down) = match towards {
                    Towards::Server => (behind, never),
                    Towards::Client => (never, behind),
                };
                connections.spawn(pass(from_client, to_server, up, counted.clone()));
                connections.spawn(pass(from_server, to_client, down, counted.clone()));
            }
        });
        Flipper {
            address,
            flips,
            serving,
        }
    }

    fn flips(&self) -> usize {
        self.flips.load(Ordering::SeqCst)
    }
}

/// Passes bytes on; in the first marker behind `behind` bytes one bit flips.
async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    behind: usize,
    flips: Arc<AtomicUsize>,
) {
    let mut buffer = vec![0; 64 << 10];
    let (mut passed, mut flipped) = (0, false);
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let bytes = &mut buffer[..count];
        if !flipped && passed >= behind {
            let marker = bytes.windows(MARKER.len()).position(|window| window == MARKER);
            if let Some(at) = marker {
                bytes[at + 3] ^= 0x04;
                flipped = true;
                flips.fetch_add(1, Ordering::SeqCst);
            }
        }
        passed += count;
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

fn markers(bytes: usize) -> Vec<u8> {
    MARKER.iter().copied().cycle().take(bytes).collect()
}

/// Places in the stream of a chunk of 2 MiB: its first piece, one in its middle, its last.
const PLACES: [usize; 3] = [1000, 1 << 20, (2 << 20) - 100_000];
const CHUNK_BYTES: usize = (2 << 20) + 77;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bit_flipped_between_client_and_datanode_is_found_and_nothing_stored() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), &coordinator).await;
    let bytes = markers(CHUNK_BYTES);
    let known = describe(chunk(1), &bytes).sha256;
    for place in PLACES {
        // The checksums find it, with or without a hash to compare.
        for hash in [ContentHash::Computed, ContentHash::Known(known)] {
            let flipper = Flipper::before(node.address(), Towards::Server, place).await;
            let client = ChunkGrpcClient::connect_lazy(&flipper.address.to_string(), DEADLINE).unwrap();
            let request = WriteChunk {
                hash,
                ..upload(chunk(1), &bytes, &[])
            };
            let error = client.write_chunk(request).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "behind {place}: {error}");
            assert_eq!(flipper.flips(), 1);
            assert_eq!(node.store().load().await.unwrap().chunks, 0);
        }
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bit_flipped_between_datanodes_is_found_and_the_replica_reported() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let first = node(&dir.path().join("1"), &coordinator).await;
    let second = node(&dir.path().join("2"), &coordinator).await;
    let bytes = markers(CHUNK_BYTES);
    for (sequence, place) in (1..).zip(PLACES) {
        let flipper = Flipper::before(second.address(), Towards::Server, place).await;
        let address = flipper.address.to_string();
        coordinator.add_node(&address);
        let written = first
            .chunk_service()
            .write_chunk(upload(chunk(sequence), &bytes, std::slice::from_ref(&address)))
            .await
            .unwrap();
        assert_eq!(written.receipts.len(), 1);
        let (failed, error) = &written.failures[0];
        assert_eq!((failed, error.kind()), (&address, ErrorKind::Corrupt), "{error}");
        assert_eq!(flipper.flips(), 1);
        let described = first.store().stat(chunk(sequence)).await.unwrap();
        assert_eq!(described, describe(chunk(sequence), &bytes));
        assert_eq!(second.store().load().await.unwrap().chunks, 0);
    }
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bit_flipped_on_the_way_to_a_reader_is_found() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), &coordinator).await;
    let bytes = markers(CHUNK_BYTES);
    node.chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &[]))
        .await
        .unwrap();
    for place in PLACES {
        let flipper = Flipper::before(node.address(), Towards::Client, place).await;
        let client = ChunkGrpcClient::connect_lazy(&flipper.address.to_string(), DEADLINE).unwrap();
        let error = read_all(&client, chunk(1), CHUNK_BYTES as u64).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "behind {place}: {error}");
        assert_eq!(flipper.flips(), 1);
    }
    node.shutdown().await;
}
