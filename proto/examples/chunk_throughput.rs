//! How fast chunks move over each transport on one machine, by TCP and by a Unix socket, and what that costs in CPU time: client
//! and server in one process, a service that keeps nothing.
//!
//! `cargo run --release -p dfs-proto --example chunk_throughput`

use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::capability::{CapabilityKey, ChunkAccess, ChunkCapability};
use dfs_common::chunk::{ChunkDescription, ChunkLabel};
use dfs_common::limits::WIRE_FRAME_BYTES;
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkConnector, ChunkService, ChunkWritten, ContentHash, WriteChunk};
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, Ino, SessionEpoch, SessionId};
use dfs_proto::framed::{serve_chunks, split};
use dfs_proto::grpc::{ChunkGrpcServer, tuned_server};
use dfs_proto::socket::{Listener, LocalSockets};
use dfs_proto::{ChunkChannels, Transport};
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

const CHUNK_BYTES: usize = 8 << 20;
const TOTAL_BYTES: usize = 4 << 30;

/// Takes everything, gives pieces of one buffer.
struct Sink {
    piece: Bytes,
}

#[async_trait]
impl ChunkService for Sink {
    async fn write_chunk(&self, mut request: WriteChunk) -> FsResult<ChunkWritten> {
        while let Some(piece) = request.content.next().await {
            piece?;
        }
        Ok(ChunkWritten {
            receipts: vec![],
            failures: vec![],
        })
    }
    async fn read_chunk(
        &self,
        _capability: ChunkCapability,
        _offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        Ok(pieces(&self.piece, length as usize))
    }
    async fn stat_chunk(&self, _capability: ChunkCapability) -> FsResult<ChunkDescription> {
        Err(FsError::new(ErrorKind::NotSupported, "not measured"))
    }
    async fn delete_chunk(&self, _capability: ChunkCapability) -> FsResult<()> {
        Ok(())
    }
}

fn pieces(piece: &Bytes, length: usize) -> BoxStream<'static, FsResult<Piece>> {
    let piece = piece.clone();
    let starts = (0..length).step_by(WIRE_FRAME_BYTES);
    stream::iter(starts)
        .map(move |start| Ok(Piece::new(piece.slice(..WIRE_FRAME_BYTES.min(length - start)))))
        .boxed()
}

/// CPU time of this process so far, of all its threads.
fn cpu() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse().ok()).unwrap_or(0_u64);
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

async fn transfer(
    client: Arc<dyn ChunkService>,
    piece: Bytes,
    write: bool,
    size: usize,
    count: usize,
) -> FsResult<()> {
    let access = if write {
        ChunkAccess::Write
    } else {
        ChunkAccess::Read
    };
    let capability = CapabilityKey([0; 32]).sign(SessionId(1), ChunkId(1), access, u64::MAX);
    for _ in 0..count {
        if write {
            let label = ChunkLabel {
                chunk: ChunkId(1),
                ino: Ino(1),
                file_offset: 0,
                length: size as u64,
                epoch: SessionEpoch(1),
            };
            let request = WriteChunk {
                label,
                hash: ContentHash::Computed,
                capability: capability.clone(),
                forward: vec![],
                content: pieces(&piece, size),
            };
            client.write_chunk(request).await?;
        } else {
            let mut content = client.read_chunk(capability.clone(), 0, size as u64).await?;
            while let Some(piece) = content.next().await {
                piece?;
            }
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let piece = Bytes::from(vec![0x5a; WIRE_FRAME_BYTES]);
    let sink = Arc::new(Sink { piece: piece.clone() });
    let listener = Listener::bind(([127, 0, 0, 1], 0).into(), LocalSockets::On).await?;
    let address = listener.address().to_string();
    let service = ChunkGrpcServer::new(sink.clone()).into_service();
    let frames = serve_chunks(sink, None);
    let incoming = split(listener, frames, TaskTracker::new(), CancellationToken::new());
    let server = tokio::spawn(tuned_server().add_service(service).serve_with_incoming(incoming));
    let mut clients = Vec::new();
    for (kind, transport, local_sockets) in [
        ("gRPC, tcp", Transport::Grpc, LocalSockets::Off),
        ("gRPC, unix", Transport::Grpc, LocalSockets::Only),
        ("frames, tcp", Transport::Framed, LocalSockets::Off),
        ("frames, unix", Transport::Framed, LocalSockets::Only),
    ] {
        let channels = ChunkChannels::new(transport, Duration::from_secs(10), local_sockets);
        let client = channels.chunk_service(&address)?;
        transfer(client.clone(), piece.clone(), true, CHUNK_BYTES, 10).await?;
        clients.push((kind, client));
    }

    println!("{:<34} {:>8} {:>10} {:>12}", "", "GB/s", "CPU s/GB", "each");
    for (name, size, total) in [("8 MiB", CHUNK_BYTES, TOTAL_BYTES), ("4 KiB", 4096, 64 << 20)] {
        for write in [true, false] {
            for at_once in [1, 4] {
                for (kind, client) in &clients {
                    let (begin, cpu_begin) = (Instant::now(), cpu());
                    let count = total / size / at_once;
                    let tasks: Vec<_> = (0..at_once)
                        .map(|_| tokio::spawn(transfer(client.clone(), piece.clone(), write, size, count)))
                        .collect();
                    for task in tasks {
                        task.await??;
                    }
                    let (took, gigabytes) = (begin.elapsed(), (count * at_once * size) as f64 / 1e9);
                    println!(
                        "{:<34} {:>8.2} {:>10.2} {:>9.0} us",
                        format!(
                            "{} {name}, {at_once} at once, {kind}",
                            if write { "write" } else { "read" }
                        ),
                        gigabytes / took.as_secs_f64(),
                        (cpu() - cpu_begin).as_secs_f64() / gigabytes,
                        took.as_secs_f64() * 1e6 / (count as f64),
                    );
                }
            }
        }
    }
    server.abort();
    Ok(())
}
