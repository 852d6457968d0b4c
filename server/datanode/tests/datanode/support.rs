//! What the tests share: chunks, capabilities, nodes, waiting with a deadline.

use crate::coordinator::{FakeCoordinator, KEY};
use bytes::Bytes;
use dfs_common::capability::{CapabilityKey, ChunkAccess, ChunkCapability};
use dfs_common::checksum::content_sha256;
use dfs_common::chunk::ChunkDescription;
use dfs_common::piece::{Piece, pieces};
use dfs_common::service::{ChunkService, ContentHash, VouchedHash, WriteChunk};
use dfs_common::{ChunkId, DiskIncarnation, FsResult, Ino, PgId, SessionEpoch, SessionId};
use dfs_datanode::inventory::Inventory;
use dfs_datanode::server::Parts;
use dfs_datanode::store::{DiskHealth, DiskSync, KernelSync, LocalStore, StoreSettings};
use dfs_datanode::{Datanode, DatanodeConfig, Tuning};
use dfs_proto::socket::LocalSockets;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// No wait in these tests takes so long unless something is broken.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// End of validity of the tests' capabilities, far away.
pub const LATER: u64 = u64::MAX / 2;

pub fn chunk(sequence: u64) -> ChunkId {
    ChunkId::new(SessionId(5), sequence, PgId(1))
}

/// Bytes that differ everywhere and by `seed`.
pub fn content(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

pub fn describe(chunk: ChunkId, content: &[u8]) -> ChunkDescription {
    ChunkDescription {
        chunk,
        ino: Ino(9),
        file_offset: 4096,
        length: content.len() as u64,
        epoch: SessionEpoch(1),
        sha256: content_sha256([content]),
    }
}

/// Content that comes in parts of `part` bytes, as pieces.
pub fn stream(content: &[u8], part: usize) -> BoxStream<'static, FsResult<Piece>> {
    let content = Bytes::copy_from_slice(content);
    let parts: Vec<FsResult<Bytes>> = (0..content.len())
        .step_by(part)
        .map(|at| Ok(content.slice(at..content.len().min(at + part))))
        .collect();
    pieces(futures::stream::iter(parts).boxed())
}

pub async fn collect(stream: BoxStream<'static, FsResult<Piece>>) -> FsResult<Vec<u8>> {
    let pieces: Vec<Piece> = stream.try_collect().await?;
    let content = pieces.into_iter().map(Piece::into_content);
    Ok(content.collect::<Vec<_>>().concat())
}

pub fn capability(chunk: ChunkId, access: ChunkAccess) -> ChunkCapability {
    let session = if access == ChunkAccess::Delete { 0 } else { 5 };
    CapabilityKey(KEY).sign(SessionId(session), chunk, access, LATER)
}

pub fn upload(chunk: ChunkId, content: &[u8], forward: &[String]) -> WriteChunk {
    WriteChunk {
        label: describe(chunk, content).label(),
        hash: ContentHash::Computed,
        capability: capability(chunk, ChunkAccess::Write),
        forward: forward.to_vec(),
        content: stream(content, 256 << 10),
    }
}

/// `request` as a datanode forwards it, that vouches with `key` for `sha256`.
pub fn forwarded(request: WriteChunk, sha256: [u8; 32], key: [u8; 32]) -> WriteChunk {
    let description = request.label.described(sha256);
    let voucher = CapabilityKey(key).vouch(&request.capability, &description);
    let (end, hash) = tokio::sync::oneshot::channel();
    end.send(VouchedHash { sha256, voucher }).unwrap();
    WriteChunk {
        hash: ContentHash::Follows(hash),
        ..request
    }
}

pub async fn read_all(service: &dyn ChunkService, chunk: ChunkId, length: u64) -> FsResult<Vec<u8>> {
    let pieces = service
        .read_chunk(capability(chunk, ChunkAccess::Read), 0, length)
        .await?;
    collect(pieces).await
}

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen in time");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Every file below `directory`, in order.
pub fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(directory) else {
        return found;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The one file of `chunk` in a data directory.
pub fn file_of(root: &Path, chunk: ChunkId) -> PathBuf {
    let name = chunk.to_string();
    let mut found = files(&root.join("chunks"));
    found.retain(|path| path.file_name().is_some_and(|file| file == name.as_str()));
    assert_eq!(found.len(), 1, "one file of {chunk}");
    found.remove(0)
}

/// Flips a bit of a file.
pub fn flip(path: &Path, at: u64) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 0x10;
    file.write_all_at(&byte, at).unwrap();
}

pub const SETTINGS: StoreSettings = StoreSettings {
    writes_max: 8,
    reserve_bytes_max: 1 << 20,
};

pub fn store_with(root: &Path, sync: Arc<dyn DiskSync>) -> LocalStore {
    let health = DiskHealth::new(DiskIncarnation(11), None, Box::new(|_, _| {}));
    LocalStore::open(
        root,
        SETTINGS,
        Arc::new(health),
        sync,
        Arc::new(Inventory::default()),
    )
    .unwrap()
}

pub fn open_store(root: &Path) -> LocalStore {
    store_with(root, Arc::new(KernelSync))
}

/// Fast times, so that failures are quick.
pub fn tuning() -> Tuning {
    Tuning {
        heartbeat: Duration::from_millis(50),
        call_deadline: Duration::from_secs(2),
        register_pause: (Duration::from_millis(10), Duration::from_millis(50)),
        forward_stall: Duration::from_millis(300),
        forward_reply: Duration::from_millis(500),
        peer_wait: Duration::from_millis(500),
        ..Tuning::default()
    }
}

pub fn config(root: &Path, coordinator: &str) -> DatanodeConfig {
    DatanodeConfig {
        data_dir: root.to_path_buf(),
        listen: "127.0.0.1:0".parse().unwrap(),
        local_sockets: LocalSockets::default(),
        advertise: None,
        coordinator: coordinator.to_owned(),
    }
}

pub fn parts() -> Parts {
    Parts {
        tuning: tuning(),
        ..Parts::default()
    }
}

/// A registered node.
pub async fn node(root: &Path, coordinator: &FakeCoordinator) -> Datanode {
    let node = Datanode::start_with(config(root, &coordinator.address()), parts())
        .await
        .unwrap();
    node.wait_registered(DEADLINE).await.unwrap();
    node
}
