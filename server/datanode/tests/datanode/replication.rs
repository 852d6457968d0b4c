//! Forwarding: every replica is written at once; one that fails is reported and fails nothing else.

use crate::coordinator::FakeCoordinator;
use crate::support::*;
use async_trait::async_trait;
use dfs_common::capability::ChunkCapability;
use dfs_common::chunk::ChunkDescription;
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkConnector, ChunkService, ChunkWritten, ContentHash, WriteChunk};
use dfs_common::{ErrorKind, FsError, FsResult};
use dfs_datanode::Datanode;
use dfs_datanode::server::Parts;
use dfs_proto::socket::LocalSockets;
use dfs_proto::{ChunkChannels, Transport};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A replica that does not do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lazy {
    /// Takes nothing.
    TakesNothing,
    /// Takes everything and says nothing.
    SaysNothing,
    /// Takes everything, slowly, and then says nothing useful.
    WrongReceipt,
    /// Takes everything by itself, as a transport does, whether or not the call still goes on.
    TakesAlone,
}

struct LazyReplica {
    manner: Lazy,
    running: Arc<AtomicUsize>,
    whole: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[async_trait]
impl ChunkService for LazyReplica {
    async fn write_chunk(&self, mut request: WriteChunk) -> FsResult<ChunkWritten> {
        self.running.fetch_add(1, Ordering::SeqCst);
        let _running = Running(self.running.clone());
        if self.manner == Lazy::TakesNothing {
            std::future::pending::<()>().await;
        }
        let mut content = std::mem::replace(&mut request.content, futures::stream::empty().boxed());
        let ContentHash::Follows(hash) = request.hash else {
            panic!("a forward's hash follows its content");
        };
        let whole = self.whole.clone();
        let taking = async move {
            while let Some(piece) = content.next().await {
                piece?;
            }
            hash.await.map_err(|_| FsError::from(ErrorKind::Interrupted))?;
            whole.fetch_add(1, Ordering::SeqCst);
            Ok::<_, FsError>(())
        };
        match self.manner {
            Lazy::TakesAlone => tokio::spawn(taking).await.unwrap()?,
            _ => taking.await?,
        }
        if self.manner == Lazy::SaysNothing {
            std::future::pending::<()>().await;
        }
        Ok(ChunkWritten {
            receipts: vec![dfs_common::extent::Receipt {
                node: dfs_common::NodeId(2),
                disk: dfs_common::DiskIncarnation(1),
                sha256: [0; 32],
                length: request.label.length,
            }],
            failures: Vec::new(),
        })
    }
    async fn read_chunk(
        &self,
        _: ChunkCapability,
        _: u64,
        _: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        Err(FsError::from(ErrorKind::NotSupported))
    }
    async fn stat_chunk(&self, _: ChunkCapability) -> FsResult<ChunkDescription> {
        Err(FsError::from(ErrorKind::NotSupported))
    }
    async fn delete_chunk(&self, _: ChunkCapability) -> FsResult<()> {
        Err(FsError::from(ErrorKind::NotSupported))
    }
}

struct LazyConnector {
    manner: Lazy,
    running: Arc<AtomicUsize>,
    connections: AtomicUsize,
    /// Writes whose content ended well.
    whole: Arc<AtomicUsize>,
}

impl ChunkConnector for LazyConnector {
    fn chunk_service(&self, _: &str) -> FsResult<Arc<dyn ChunkService>> {
        self.connections.fetch_add(1, Ordering::SeqCst);
        Ok(Arc::new(LazyReplica {
            manner: self.manner,
            running: self.running.clone(),
            whole: self.whole.clone(),
        }))
    }
}

/// Three nodes of one cluster, each in its own directory.
async fn cluster(coordinator: &FakeCoordinator, root: &std::path::Path) -> Vec<Datanode> {
    let mut nodes = Vec::new();
    for number in 1..=3 {
        nodes.push(node(&root.join(number.to_string()), coordinator).await);
    }
    nodes
}

fn addresses(nodes: &[Datanode]) -> Vec<String> {
    nodes.iter().map(|node| node.address().to_string()).collect()
}

/// Forwards that begin only when all of them are about to.
struct Together {
    channels: Arc<ChunkChannels>,
    all: Arc<tokio::sync::Barrier>,
}

struct Later {
    peer: Arc<dyn ChunkService>,
    all: Arc<tokio::sync::Barrier>,
}

impl ChunkConnector for Together {
    fn chunk_service(&self, address: &str) -> FsResult<Arc<dyn ChunkService>> {
        Ok(Arc::new(Later {
            peer: self.channels.chunk_service(address)?,
            all: self.all.clone(),
        }))
    }
}

#[async_trait]
impl ChunkService for Later {
    async fn write_chunk(&self, request: WriteChunk) -> FsResult<ChunkWritten> {
        self.all.wait().await;
        self.peer.write_chunk(request).await
    }
    async fn read_chunk(
        &self,
        _: ChunkCapability,
        _: u64,
        _: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        Err(FsError::from(ErrorKind::NotSupported))
    }
    async fn stat_chunk(&self, _: ChunkCapability) -> FsResult<ChunkDescription> {
        Err(FsError::from(ErrorKind::NotSupported))
    }
    async fn delete_chunk(&self, _: ChunkCapability) -> FsResult<()> {
        Err(FsError::from(ErrorKind::NotSupported))
    }
}

/// Each node has room for one write of its own, and has begun one; only then do they forward to each other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn datanodes_that_forward_to_each_other_do_not_wait_in_a_circle() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let all = Arc::new(tokio::sync::Barrier::new(6));
    let mut nodes = Vec::new();
    for number in 1..=3 {
        let root = dir.path().join(number.to_string());
        let mut parts = parts();
        parts.tuning.writes_max = 1;
        parts.connector = Arc::new(Together {
            channels: Arc::new(ChunkChannels::new(
                Transport::Framed,
                Duration::from_secs(20),
                LocalSockets::default(),
            )),
            all: all.clone(),
        });
        let node = Datanode::start_with(config(&root, &coordinator.address()), parts)
            .await
            .unwrap();
        node.wait_registered(Duration::from_secs(20)).await.unwrap();
        nodes.push(node);
    }
    let addresses = addresses(&nodes);
    // Larger than what queues and sockets take on the way.
    let bytes = content(16 << 20, 1);
    let writes = (0..3_usize).map(|first| {
        let others: Vec<String> = (0..3)
            .filter(|other| *other != first)
            .map(|other| addresses[other].clone())
            .collect();
        let service = nodes[first].chunk_service();
        let request = upload(chunk(first as u64 + 1), &bytes, &others);
        tokio::spawn(async move { service.write_chunk(request).await })
    });
    for write in writes.collect::<Vec<_>>() {
        let written = write.await.unwrap().unwrap();
        assert_eq!(written.receipts.len(), 3, "{:?}", written.failures);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunk_is_durable_on_all_members_when_the_write_returns() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(&coordinator, dir.path()).await;
    let addresses = addresses(&nodes);
    for (sequence, length) in [(1, 1), (2, 300_000), (3, (8 << 20) + 5)] {
        let bytes = content(length, sequence);
        // Its own address, and one twice: neither makes a second receipt.
        let mut forward = addresses.clone();
        forward.push(addresses[1].clone());
        let started = Instant::now();
        let written = nodes[0]
            .chunk_service()
            .write_chunk(upload(chunk(sequence), &bytes, &forward))
            .await
            .unwrap();
        assert_eq!(written.failures, []);
        assert!(started.elapsed() < DEADLINE);
        assert_eq!(
            Some(written.receipts[0].node),
            nodes[0].node(),
            "its own receipt is first"
        );
        let receipts: BTreeSet<_> = written.receipts.iter().map(|receipt| receipt.node).collect();
        let members: BTreeSet<_> = nodes.iter().filter_map(Datanode::node).collect();
        assert_eq!((written.receipts.len(), receipts), (3, members));
        let described = describe(chunk(sequence), &bytes);
        assert!(
            written
                .receipts
                .iter()
                .all(|receipt| receipt.sha256 == described.sha256)
        );
        for node in &nodes {
            // The one who computed the hash and those who were told it have the same header, and the right one.
            assert_eq!(node.store().stat(chunk(sequence)).await.unwrap(), described);
            let read = read_all(&*node.chunk_service(), chunk(sequence), length as u64).await;
            assert!(read.unwrap() == bytes);
        }
    }
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_replica_is_reported_and_the_others_have_the_chunk() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let mut nodes = cluster(&coordinator, dir.path()).await;
    let addresses = addresses(&nodes);
    nodes.remove(1).shutdown().await;
    let bytes = content(4 << 20, 1);
    let written = nodes[0]
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &addresses[1..]))
        .await
        .unwrap();
    assert_eq!(written.receipts.len(), 2);
    assert_eq!(written.failures.len(), 1);
    assert_eq!(written.failures[0].0, addresses[1]);
    assert_eq!(written.failures[0].1.kind(), ErrorKind::Unavailable);
    // The same write again, now that only the second one is asked for.
    let written = nodes[0]
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &addresses[2..]))
        .await
        .unwrap();
    assert_eq!((written.receipts.len(), written.failures.len()), (2, 0));
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_with_other_bytes_or_a_failure_of_its_own_is_reported() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(&coordinator, dir.path()).await;
    let addresses = addresses(&nodes);
    let (bytes, other) = (content(3 << 20, 1), content(1000, 2));
    nodes[2]
        .chunk_service()
        .write_chunk(upload(chunk(1), &other, &[]))
        .await
        .unwrap();
    let written = nodes[0]
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &addresses[1..]))
        .await
        .unwrap();
    assert_eq!(written.receipts.len(), 2);
    assert_eq!(written.failures.len(), 1);
    assert_eq!(written.failures[0].0, addresses[2]);
    assert_eq!(written.failures[0].1.kind(), ErrorKind::ChunkConflict);
    // This node's own failure is the write's.
    let error = nodes[2]
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &addresses[..2]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ChunkConflict);
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_that_breaks_off_is_stored_nowhere() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(&coordinator, dir.path()).await;
    let addresses = addresses(&nodes);
    let bytes = content(3 << 20, 1);
    let mut request = upload(chunk(1), &bytes, &addresses[1..]);
    request.content = stream(&bytes[..2 << 20], 256 << 10)
        .chain(futures::stream::iter([Err(FsError::from(
            ErrorKind::Interrupted,
        ))]))
        .boxed();
    let error = nodes[0].chunk_service().write_chunk(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Interrupted);
    for (number, node) in nodes.iter().enumerate() {
        assert_eq!(node.store().load().await.unwrap().chunks, 0);
        let tmp = dir.path().join((number + 1).to_string()).join("tmp");
        until("cleaning up", || files(&tmp).is_empty()).await;
    }
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn content_with_another_hash_is_stored_nowhere() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let nodes = cluster(&coordinator, dir.path()).await;
    let addresses = addresses(&nodes);
    let bytes = content(3 << 20, 1);
    let mut request = upload(chunk(1), &bytes, &addresses[1..]);
    request.hash = ContentHash::Known(describe(chunk(1), &content(3 << 20, 2)).sha256);
    let error = nodes[0].chunk_service().write_chunk(request).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    for (number, node) in nodes.iter().enumerate() {
        let tmp = dir.path().join((number + 1).to_string()).join("tmp");
        until("cleaning up", || files(&tmp).is_empty()).await;
        assert_eq!(node.store().load().await.unwrap().chunks, 0);
    }
    // The id is free for the right content.
    let written = nodes[0]
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &addresses[1..]))
        .await
        .unwrap();
    assert_eq!(written.receipts.len(), 3);
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forward_ends_well_only_after_the_hash_matched() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (node, connector) =
        node_with_lazy_peer(Lazy::WrongReceipt, Parts::default(), &coordinator, dir.path()).await;
    let bytes = content(8 << 20, 1);
    let peer = ["127.0.0.1:9".to_owned()];
    let mut wrong = upload(chunk(1), &bytes, &peer);
    wrong.hash = ContentHash::Known([1; 32]);
    let error = node.chunk_service().write_chunk(wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert_eq!(connector.connections.load(Ordering::SeqCst), 1);
    assert_eq!(
        connector.whole.load(Ordering::SeqCst),
        0,
        "it looked whole to the receiver"
    );
    node.chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &peer))
        .await
        .unwrap();
    assert_eq!(connector.whole.load(Ordering::SeqCst), 1);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forward_of_a_write_that_ends_early_never_looks_whole() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (node, connector) =
        node_with_lazy_peer(Lazy::TakesAlone, Parts::default(), &coordinator, dir.path()).await;
    let bytes = content(300_000, 1);
    let peer = ["127.0.0.1:9".to_owned()];
    for sequence in 1..=20 {
        let mut wrong = upload(chunk(sequence), &bytes, &peer);
        wrong.hash = ContentHash::Known([1; 32]);
        let error = node.chunk_service().write_chunk(wrong).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    // Everything was sent but the end when its caller leaves.
    let (sent, all_sent) = tokio::sync::oneshot::channel::<()>();
    let mut left = upload(chunk(100), &bytes, &peer);
    left.content = stream(&bytes, 256 << 10)
        .chain(futures::stream::once(async move {
            let _ = sent.send(());
            std::future::pending().await
        }))
        .boxed();
    let service = node.chunk_service();
    let writing = tokio::spawn(async move { service.write_chunk(left).await });
    all_sent.await.unwrap();
    writing.abort();
    let _ = writing.await;
    // Nobody holds the forwards' ends any more: whoever takes content alone came to its end.
    until("the end of the forwards", || {
        Arc::strong_count(&connector.whole) == 1
    })
    .await;
    assert_eq!(
        connector.whole.load(Ordering::SeqCst),
        0,
        "a forward looked whole"
    );
    node.shutdown().await;
}

async fn node_with_lazy_peer(
    manner: Lazy,
    parts: Parts,
    coordinator: &FakeCoordinator,
    root: &std::path::Path,
) -> (Datanode, Arc<LazyConnector>) {
    coordinator.add_node("127.0.0.1:9");
    let connector = Arc::new(LazyConnector {
        manner,
        running: Arc::default(),
        connections: AtomicUsize::new(0),
        whole: Arc::default(),
    });
    let parts = Parts {
        connector: connector.clone(),
        ..parts
    };
    let node = Datanode::start_with(config(root, &coordinator.address()), parts)
        .await
        .unwrap();
    node.wait_registered(DEADLINE).await.unwrap();
    (node, connector)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replica_that_stands_still_is_given_up_and_left_behind() {
    for manner in [Lazy::TakesNothing, Lazy::SaysNothing, Lazy::WrongReceipt] {
        let coordinator = FakeCoordinator::start().await;
        let dir = tempfile::tempdir().unwrap();
        let (node, connector) = node_with_lazy_peer(manner, parts(), &coordinator, dir.path()).await;
        let bytes = content(8 << 20, 1);
        let write = upload(chunk(1), &bytes, &["127.0.0.1:9".to_owned()]);
        let written = tokio::time::timeout(DEADLINE, node.chunk_service().write_chunk(write))
            .await
            .expect("the write goes on without it")
            .unwrap();
        assert_eq!(written.receipts.len(), 1, "{manner:?}");
        let expected = match manner {
            Lazy::WrongReceipt => ErrorKind::Corrupt,
            _ => ErrorKind::TimedOut,
        };
        assert_eq!(written.failures[0].1.kind(), expected, "{manner:?}");
        assert_eq!(
            connector.running.load(Ordering::SeqCst),
            0,
            "nothing outlives the call"
        );
        assert!(read_all(&*node.chunk_service(), chunk(1), 8 << 20).await.unwrap() == bytes);
        node.shutdown().await;
    }
}

#[tokio::test]
async fn write_that_its_caller_gave_up_ends_its_forwards() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let (node, connector) = node_with_lazy_peer(Lazy::SaysNothing, parts(), &coordinator, dir.path()).await;
    let bytes = content(1 << 20, 1);
    let service = node.chunk_service();
    let write = upload(chunk(1), &bytes, &["127.0.0.1:9".to_owned()]);
    let writing = tokio::spawn(async move { service.write_chunk(write).await });
    until("the forward's beginning", || {
        connector.running.load(Ordering::SeqCst) == 1
    })
    .await;
    writing.abort();
    let _ = writing.await;
    assert_eq!(connector.running.load(Ordering::SeqCst), 0);
    node.shutdown().await;
}

#[tokio::test]
async fn address_that_is_no_datanode_of_the_cluster_is_not_contacted() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    // No heartbeat comes by itself: a new node is only learnt of by asking.
    let mut patient = parts();
    patient.tuning.heartbeat = Duration::from_secs(3600);
    patient.tuning.peer_wait = Duration::from_secs(4);
    patient.tuning.forward_reply = DEADLINE;
    let (node, connector) = node_with_lazy_peer(Lazy::WrongReceipt, patient, &coordinator, dir.path()).await;
    let bytes = content(1000, 1);
    let stranger = "127.0.0.1:7".to_owned();
    let written = node
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, std::slice::from_ref(&stranger)))
        .await
        .unwrap();
    assert_eq!(written.receipts.len(), 1);
    assert_eq!(written.failures[0].1.kind(), ErrorKind::Invalid);
    assert_eq!(connector.connections.load(Ordering::SeqCst), 0);
    coordinator.add_node(&stranger);
    let write = upload(chunk(2), &bytes, std::slice::from_ref(&stranger));
    let written = node.chunk_service().write_chunk(write).await.unwrap();
    assert_eq!(written.failures[0].1.kind(), ErrorKind::Corrupt);
    assert_eq!(connector.connections.load(Ordering::SeqCst), 1);
    node.shutdown().await;
}
