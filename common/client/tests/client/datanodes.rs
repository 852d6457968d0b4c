//! Datanodes that are down, full, damaged or slow.

use crate::rig::*;
use async_trait::async_trait;
use dfs_client::{Client, ClientConfig};
use dfs_common::attr::SetAttr;
use dfs_common::capability::ChunkCapability;
use dfs_common::checksum::content_sha256;
use dfs_common::chunk::ChunkDescription;
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkConnector, ChunkService, ChunkWritten, ContentHash, WriteChunk};
use dfs_common::{ErrorKind, FsResult, Ino, NodeId};
use dfs_testkit::faults::Fault;
use dfs_testkit::twin::{TwinCluster, TwinOptions};
use futures::stream::BoxStream;
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[tokio::test]
async fn one_node_down_reads_and_writes_go_on() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let data = pattern(500_000, 1);
    put(&client, handle, 0, &data).await;
    client.fsync(handle).await.unwrap();
    // Unreachable, and the cluster state does not say so yet.
    rig.cluster.chunks.node(1).set_down(true);
    assert!(saved(&rig, ino).await == data);
    let more = pattern(300_000, 2);
    put(&client, handle, 500_000, &more).await;
    client.fsync(handle).await.unwrap();
    let whole = [data, more].concat();
    assert!(saved(&rig, ino).await == whole);
    for chunk in rig.cluster.metadata.chunks_in_use() {
        assert!(rig.cluster.chunks.replicas(chunk) >= 2);
    }
    // The degraded chunks are read from who has them, also by a client that asks the returned node first.
    rig.cluster.chunks.node(1).set_down(false);
    assert!(saved(&rig, ino).await == whole);
}

#[tokio::test]
async fn below_the_floor_writers_wait_and_resume_by_themselves() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    rig.cluster.metadata.set_node_down(0, true);
    rig.cluster.metadata.set_node_down(1, true);
    put(&client, handle, 0, &pattern(300_000, 1)).await;
    let sync = tokio::spawn({
        let client = client.clone();
        async move { client.fsync(handle).await }
    });
    until("it waits", || !client.waiting().is_empty()).await;
    assert!(!sync.is_finished());
    assert_eq!(client.read(handle, 0, 10).await.unwrap(), pattern(10, 1));
    rig.cluster.metadata.set_node_down(1, false);
    sync.await.unwrap().unwrap();
    assert!(saved(&rig, ino).await == pattern(300_000, 1));
}

#[tokio::test]
async fn below_the_floor_without_the_coordinator_knowing_writers_wait_too() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    rig.cluster.chunks.node(0).set_down(true);
    rig.cluster.chunks.node(2).set_down(true);
    put(&client, handle, 0, &pattern(100_000, 1)).await;
    let sync = tokio::spawn({
        let client = client.clone();
        async move { client.fsync(handle).await }
    });
    until("it waits", || {
        client
            .waiting()
            .iter()
            .any(|line| line.contains("replicas of at least 2"))
    })
    .await;
    assert!(!sync.is_finished());
    rig.cluster.chunks.node(0).set_down(false);
    sync.await.unwrap().unwrap();
    assert!(saved(&rig, ino).await == pattern(100_000, 1));
}

/// Notes what is said of the hash of each chunk write; the receipts of one node may be spoilt.
struct Noting {
    inner: Arc<dyn ChunkConnector>,
    notes: Arc<Mutex<Vec<Option<[u8; 32]>>>>,
    liar: Option<NodeId>,
}

struct Noted {
    inner: Arc<dyn ChunkService>,
    notes: Arc<Mutex<Vec<Option<[u8; 32]>>>>,
    liar: Option<NodeId>,
}

impl ChunkConnector for Noting {
    fn chunk_service(&self, address: &str) -> FsResult<Arc<dyn ChunkService>> {
        Ok(Arc::new(Noted {
            inner: self.inner.chunk_service(address)?,
            notes: self.notes.clone(),
            liar: self.liar,
        }))
    }
}

#[async_trait]
impl ChunkService for Noted {
    async fn write_chunk(&self, request: WriteChunk) -> FsResult<ChunkWritten> {
        let said = match &request.hash {
            ContentHash::Computed => None,
            ContentHash::Known(sha256) => Some(*sha256),
            ContentHash::Follows(_) => panic!("a client vouches for nothing"),
        };
        self.notes.lock().unwrap().push(said);
        let mut written = self.inner.write_chunk(request).await?;
        for receipt in &mut written.receipts {
            if Some(receipt.node) == self.liar {
                receipt.sha256[0] ^= 1;
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
        self.inner.read_chunk(capability, offset, length).await
    }
    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription> {
        self.inner.stat_chunk(capability).await
    }
    async fn delete_chunk(&self, capability: ChunkCapability) -> FsResult<()> {
        self.inner.delete_chunk(capability).await
    }
}

fn large_chunks() -> TwinOptions {
    TwinOptions {
        chunk_bytes: 8 << 20,
        ..TwinOptions::default()
    }
}

/// A client over twins whose chunk writes are noted.
async fn noting(liar: Option<NodeId>) -> (TwinCluster, Client, Arc<Mutex<Vec<Option<[u8; 32]>>>>) {
    let cluster = TwinCluster::new(large_chunks());
    let notes = Arc::new(Mutex::new(Vec::new()));
    let connector = Noting {
        inner: cluster.chunks.clone(),
        notes: notes.clone(),
        liar,
    };
    let config = ClientConfig::new("twin:1");
    let client = Client::with_services(config, cluster.metadata.clone(), Arc::new(connector))
        .await
        .unwrap();
    (cluster, client, notes)
}

#[tokio::test]
async fn hash_is_left_to_the_datanode_and_sent_only_to_a_member_tried_alone() {
    let (cluster, client, notes) = noting(None).await;
    let (_, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, &pattern(500_000, 1)).await;
    client.fsync(handle).await.unwrap();
    assert_eq!(
        *notes.lock().unwrap(),
        [None],
        "one write, of which nothing was hashed"
    );
    for index in 0..3 {
        cluster.chunks.node(index).set_read_only(true);
        notes.lock().unwrap().clear();
        let data = pattern(500_000, 2 + index as u64);
        put(&client, handle, 0, &data).await;
        client.fsync(handle).await.unwrap();
        let said = notes.lock().unwrap().clone();
        let known: Vec<_> = said.iter().flatten().collect();
        assert!(
            !known.is_empty(),
            "the member that failed was tried alone: {said:?}"
        );
        assert!(said[0].is_none());
        assert!(known.iter().all(|sha256| **sha256 == content_sha256([&data[..]])));
        cluster.chunks.node(index).set_read_only(false);
    }
}

#[tokio::test]
async fn receipt_for_other_content_than_the_others_does_not_count() {
    // The last member of a group: the hash is that of the first receipt.
    let (_cluster, client, _) = noting(Some(NodeId(3))).await;
    let (_, handle) = make(&client, "file", WRITE).await;
    for salt in 0..4 {
        put(&client, handle, 0, &pattern(300_000, salt)).await;
        client.fsync(handle).await.unwrap();
    }
    assert!(get(&client, handle).await.unwrap() == pattern(300_000, 3));
}

#[tokio::test]
async fn upload_whose_reply_was_lost_is_sent_again_as_the_same_chunk() {
    for fault in [Fault::LoseReply, Fault::TimeOut] {
        let rig = Rig::with(large_chunks());
        let client = rig.client().await;
        let (ino, handle) = make(&client, "file", WRITE).await;
        rig.chunk_faults
            .replace(move |attempt| match (attempt.method, attempt.before) {
                ("write_chunk", 0) => fault,
                _ => Fault::None,
            });
        put(&client, handle, 0, &pattern(500_000, 1)).await;
        client.fsync(handle).await.unwrap();
        assert_eq!(rig.chunk_faults.faults(), 1);
        assert!(saved(&rig, ino).await == pattern(500_000, 1));
        let in_use: Vec<_> = rig.cluster.metadata.chunks_in_use().into_iter().collect();
        assert_eq!(in_use.len(), 1);
        for index in 0..3 {
            assert_eq!(rig.cluster.chunks.node(index).chunks(), in_use);
        }
    }
}

#[tokio::test]
async fn reader_waits_while_every_replica_is_away() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, &pattern(500_000, 1)).await;
    client.fsync(handle).await.unwrap();
    (0..3).for_each(|index| rig.cluster.chunks.node(index).set_down(true));
    let other = rig.client().await;
    let reader = open(&other, ino, READ).await;
    let read = tokio::spawn({
        let other = other.clone();
        async move { get(&other, reader).await }
    });
    until("it waits", || {
        other
            .waiting()
            .iter()
            .any(|line| line.contains("reading of inode"))
    })
    .await;
    assert!(!read.is_finished());
    rig.cluster.chunks.node(2).set_down(false);
    assert!(read.await.unwrap().unwrap() == pattern(500_000, 1));
}

#[tokio::test]
async fn damaged_or_missing_replica_is_passed_over() {
    let rig = Rig::new();
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, &pattern(500_000, 1)).await;
    client.fsync(handle).await.unwrap();
    for chunk in rig.cluster.metadata.chunks_in_use() {
        rig.cluster.chunks.node(0).damage(chunk);
    }
    rig.cluster.chunks.node(1).wipe();
    assert!(saved(&rig, ino).await == pattern(500_000, 1));
    for chunk in rig.cluster.metadata.chunks_in_use() {
        rig.cluster.chunks.node(2).damage(chunk);
    }
    let other = rig.client().await;
    let reader = open(&other, ino, READ).await;
    let error = get(&other, reader).await.unwrap_err();
    assert_eq!(error.errno(), ErrorKind::Io.errno(), "{error}");
    rig.cluster.chunks.node(0).wipe();
    rig.cluster.chunks.node(2).wipe();
    let error = get(&other, reader).await.unwrap_err();
    assert_eq!(
        error.errno(),
        ErrorKind::Io.errno(),
        "a file that exists is never reported as missing: {error}"
    );
}

#[tokio::test]
async fn streams_that_break_are_continued_from_another_replica() {
    let rig = Rig::with(TwinOptions {
        chunk_bytes: 4 << 20,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    put(&client, handle, 0, &pattern(9_000_000, 1)).await;
    client.fsync(handle).await.unwrap();
    rig.chunk_faults.replace(|attempt| match attempt.before % 2 {
        0 => Fault::CutStream,
        _ => Fault::None,
    });
    assert!(saved(&rig, ino).await == pattern(9_000_000, 1));
    assert!(rig.chunk_faults.faults() > 0);
}

#[tokio::test]
async fn full_cluster_is_told_and_room_made_by_truncating_is_used() {
    let rig = Rig::with(TwinOptions {
        node_bytes: 1 << 20,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let other = open(&client, ino, WRITE).await;
    let mut offset = 0;
    let error = loop {
        match client
            .write(&root(), handle, offset, &pattern(200_000, offset))
            .await
        {
            Ok(written) => offset += u64::from(written),
            Err(error) => break error,
        }
        if let Err(error) = client.fsync(handle).await {
            break error;
        }
        assert!(offset < 10_000_000, "the cluster is never full");
    };
    assert_eq!(error.kind(), ErrorKind::NoSpace);
    assert_eq!(client.fsync(other).await.unwrap_err().kind(), ErrorKind::NoSpace);
    assert_eq!(
        client.write(&root(), handle, 0, b"x").await.unwrap_err().kind(),
        ErrorKind::NoSpace
    );
    // What was saved before is still there.
    assert!(client.read(handle, 0, 200_000).await.unwrap() == pattern(200_000, 0));
    let set = SetAttr {
        size: Some(100_000),
        ..SetAttr::default()
    };
    client.setattr(&root(), ino, set, Some(handle)).await.unwrap();
    assert!(get(&client, handle).await.unwrap() == pattern(200_000, 0)[..100_000]);
    client.release(handle).await;
    client.release(other).await;
    until("it is forgotten", || rig.cluster.metadata.open_files() == 0).await;
    assert!(saved(&rig, ino).await == pattern(200_000, 0)[..100_000]);
}

#[tokio::test]
async fn shutdown_misses_nothing_of_a_removed_file_that_could_not_be_saved() {
    let rig = Rig::with(TwinOptions {
        node_bytes: 100_000,
        ..TwinOptions::default()
    });
    for removed in [true, false] {
        let client = rig.client().await;
        let (_, handle) = make(&client, "file", WRITE).await;
        put(&client, handle, 0, &pattern(300_000, 1)).await;
        assert_eq!(client.fsync(handle).await.unwrap_err().kind(), ErrorKind::NoSpace);
        if removed {
            client.unlink(&root(), Ino::ROOT, &name("file")).await.unwrap();
        }
        client.release(handle).await;
        let ended = client.shutdown(Duration::from_secs(10)).await;
        assert_eq!(
            ended.err().map(|error| error.kind()),
            (!removed).then_some(ErrorKind::NoSpace)
        );
    }
}

#[tokio::test]
async fn unsaved_memory_is_bounded_and_writers_wait_for_it() {
    let rig = Rig::new();
    let client = rig.client_with(|config| config.dirty_bytes_max = 1 << 20).await;
    (0..3).for_each(|index| rig.cluster.metadata.set_node_down(index, true));
    let (ino, handle) = make(&client, "file", WRITE).await;
    let writer = tokio::spawn({
        let client = client.clone();
        async move {
            for i in 0..40u64 {
                put(&client, handle, i * 100_000, &pattern(100_000, i * 100_000)).await;
            }
        }
    });
    let mut size = 0;
    // It comes to rest within the budget.
    let rest = async {
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = client.getattr(ino).await.unwrap().attr.size;
            if now == size && now > 0 {
                break;
            }
            size = now;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), rest)
        .await
        .expect("the writer comes to rest");
    assert!(size <= 1 << 20 && !writer.is_finished(), "{size} unsaved bytes");
    (0..3).for_each(|index| rig.cluster.metadata.set_node_down(index, false));
    writer.await.unwrap();
    client.fsync(handle).await.unwrap();
    assert!(saved(&rig, ino).await == pattern(4_000_000, 0));
}

#[tokio::test]
async fn random_reads_fetch_little_and_repeated_ones_nothing() {
    let rig = Rig::with(TwinOptions {
        chunk_bytes: 8 << 20,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let data = pattern(16 << 20, 1);
    put(&client, handle, 0, &data).await;
    client.fsync(handle).await.unwrap();
    let other = rig.client().await;
    let reader = open(&other, ino, READ).await;
    let before = rig.chunk_faults.calls("read_chunk");
    for _ in 0..2 {
        for i in 0..20u64 {
            let offset = (i * 7_654_321 + 1_000_000) % (16 << 20);
            let read = other.read(reader, offset, 4096).await.unwrap();
            assert!(read == data[offset as usize..][..read.len()]);
        }
        let calls = rig.chunk_faults.calls("read_chunk") - before;
        assert!(calls <= 25, "{calls} calls for 20 reads");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequential_read_is_fetched_ahead_in_few_calls() {
    let rig = Rig::with(TwinOptions {
        chunk_bytes: 8 << 20,
        ..TwinOptions::default()
    });
    let client = rig.client().await;
    let (ino, handle) = make(&client, "file", WRITE).await;
    let data = pattern(64 << 20, 1);
    for (i, piece) in data.chunks(1 << 20).enumerate() {
        put(&client, handle, (i as u64) << 20, piece).await;
    }
    client.fsync(handle).await.unwrap();
    let other = rig.client().await;
    let reader = open(&other, ino, READ).await;
    let before = rig.chunk_faults.calls("read_chunk");
    let mut offset = 0;
    while offset < data.len() {
        let read = other.read(reader, offset as u64, 128 << 10).await.unwrap();
        assert!(read == data[offset..offset + read.len()]);
        offset += read.len();
    }
    let calls = rig.chunk_faults.calls("read_chunk") - before;
    assert!(calls < 80, "{calls} calls for 512 reads");
}
