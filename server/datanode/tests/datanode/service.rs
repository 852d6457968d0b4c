//! The chunk service over gRPC, and who may use it.

use crate::coordinator::{FakeCoordinator, KEY};
use crate::support::*;
use dfs_common::capability::{CapabilityKey, ChunkAccess};
use dfs_common::clock::{Clock, ManualClock};
use dfs_common::service::{ChunkService, WriteChunk};
use dfs_common::{ErrorKind, SessionId};
use dfs_datanode::Datanode;
use dfs_datanode::server::Parts;
use dfs_proto::grpc::ChunkGrpcClient;
use std::sync::Arc;
use std::time::Duration;

fn client(node: &Datanode) -> ChunkGrpcClient {
    ChunkGrpcClient::connect_lazy(&node.address().to_string(), Duration::from_secs(10)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunk_travels_there_and_back_over_the_network() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), &coordinator).await;
    let client = client(&node);
    let bytes = content((8 << 20) - 3, 1);
    for _ in 0..2 {
        let written = client.write_chunk(upload(chunk(1), &bytes, &[])).await.unwrap();
        assert_eq!((written.receipts.len(), written.failures.len()), (1, 0));
        let receipt = &written.receipts[0];
        assert_eq!(Some(receipt.node), node.node());
        assert_eq!(receipt.length, bytes.len() as u64);
        assert_eq!(receipt.sha256, describe(chunk(1), &bytes).sha256);
        assert_eq!(receipt.disk, node.store().load().await.unwrap().disk);
    }
    let read = read_all(&client, chunk(1), bytes.len() as u64).await.unwrap();
    assert!(read == bytes);
    let part = client
        .read_chunk(capability(chunk(1), ChunkAccess::Read), 1_000_001, 99_999)
        .await
        .unwrap();
    assert!(collect(part).await.unwrap() == bytes[1_000_001..1_100_000]);
    let described = client
        .stat_chunk(capability(chunk(1), ChunkAccess::Read))
        .await
        .unwrap();
    assert_eq!(described, describe(chunk(1), &bytes));
    let other = content(1000, 2);
    let error = client
        .write_chunk(upload(chunk(1), &other, &[]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ChunkConflict);
    let delete = || client.delete_chunk(capability(chunk(1), ChunkAccess::Delete));
    delete().await.unwrap();
    delete().await.unwrap();
    let error = read_all(&client, chunk(1), 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn damaged_frame_is_an_error_for_the_reader_and_never_bytes() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), &coordinator).await;
    let client = client(&node);
    let bytes = content(4 << 20, 1);
    client.write_chunk(upload(chunk(1), &bytes, &[])).await.unwrap();
    // In the last frame: the pieces before it are good and are sent.
    let path = file_of(dir.path(), chunk(1));
    flip(&path, std::fs::metadata(&path).unwrap().len() - 1);
    let error = read_all(&client, chunk(1), bytes.len() as u64).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let good = client
        .read_chunk(capability(chunk(1), ChunkAccess::Read), 0, 3 << 20)
        .await
        .unwrap();
    assert!(collect(good).await.unwrap() == bytes[..3 << 20]);
    node.shutdown().await;
}

#[tokio::test]
async fn nothing_is_done_without_the_right_capability() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let parts = Parts {
        clock: clock.clone(),
        ..parts()
    };
    let node = Datanode::start_with(config(dir.path(), &coordinator.address()), parts)
        .await
        .unwrap();
    node.wait_registered(DEADLINE).await.unwrap();
    let service = node.chunk_service();
    let bytes = content(1000, 1);
    service.write_chunk(upload(chunk(1), &bytes, &[])).await.unwrap();
    let key = CapabilityKey(KEY);
    let session = SessionId(5);
    let refused = |kind: ErrorKind, what: &str| {
        assert_eq!(kind, ErrorKind::Unauthenticated, "{what}");
    };
    use ChunkAccess::{Delete, Read, Write};
    clock.advance(Duration::from_secs(1000));
    let now = clock.now_unix_ms();
    let mut forged = key.sign(session, chunk(1), Read, now - 1);
    forged.expires_unix_ms = LATER;
    for (what, capability) in [
        ("for writing", key.sign(session, chunk(1), Write, LATER)),
        ("for deleting", key.sign(SessionId(0), chunk(1), Delete, LATER)),
        ("expired", key.sign(session, chunk(1), Read, now - 1)),
        ("forged", forged),
        (
            "of another cluster",
            CapabilityKey([6; 32]).sign(session, chunk(1), Read, LATER),
        ),
    ] {
        let read = service.read_chunk(capability.clone(), 0, 10).await;
        refused(read.err().unwrap().kind(), what);
        refused(service.stat_chunk(capability).await.unwrap_err().kind(), what);
    }
    for (what, capability) in [
        ("for reading", key.sign(session, chunk(2), Read, LATER)),
        ("for another chunk", key.sign(session, chunk(3), Write, LATER)),
        ("expired", key.sign(session, chunk(2), Write, now - 1)),
    ] {
        let request = WriteChunk {
            capability,
            ..upload(chunk(2), &bytes, &[])
        };
        refused(service.write_chunk(request).await.unwrap_err().kind(), what);
    }
    for (what, capability) in [
        ("for reading", key.sign(SessionId(0), chunk(1), Read, LATER)),
        ("for writing", key.sign(SessionId(0), chunk(1), Write, LATER)),
        ("of a client", key.sign(session, chunk(1), Delete, LATER)),
    ] {
        refused(service.delete_chunk(capability).await.unwrap_err().kind(), what);
    }
    assert!(read_all(&*service, chunk(1), 1000).await.unwrap() == bytes);
    assert_eq!(node.store().load().await.unwrap().chunks, 1);
    node.shutdown().await;
}

#[tokio::test]
async fn only_a_datanode_of_the_cluster_can_vouch_for_content() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), &coordinator).await;
    let service = node.chunk_service();
    let bytes = content(1000, 1);
    let mut of_other_content = forwarded(upload(chunk(1), &bytes, &[]), [1; 32], KEY);
    of_other_content.capability =
        CapabilityKey(KEY).sign(SessionId(5), chunk(1), ChunkAccess::Write, LATER - 1);
    let mut forwarding = forwarded(upload(chunk(1), &bytes, &[]), [1; 32], KEY);
    forwarding.forward = vec!["127.0.0.1:9".to_owned()];
    for (what, request, kind) in [
        (
            "another cluster's",
            forwarded(upload(chunk(1), &bytes, &[]), [1; 32], [6; 32]),
            ErrorKind::Unauthenticated,
        ),
        ("for another write", of_other_content, ErrorKind::Unauthenticated),
        ("for a write that forwards itself", forwarding, ErrorKind::Invalid),
    ] {
        let error = service.write_chunk(request).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{what}");
    }
    assert_eq!(node.store().load().await.unwrap().chunks, 0);
    // A voucher is believed: the content is not hashed again. Its length is checked all the same.
    let mut short = forwarded(upload(chunk(2), &bytes, &[]), [1; 32], KEY);
    short.content = stream(&bytes[..999], 256 << 10);
    let error = service.write_chunk(short).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    let written = service
        .write_chunk(forwarded(upload(chunk(2), &bytes, &[]), [1; 32], KEY))
        .await
        .unwrap();
    assert_eq!(written.receipts[0].sha256, [1; 32]);
    assert!(read_all(&*service, chunk(2), 1000).await.unwrap() == bytes);
    node.shutdown().await;
}

#[tokio::test]
async fn impossible_writes_are_refused() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(dir.path(), &coordinator).await;
    let service = node.chunk_service();
    let bytes = content(1000, 1);
    for length in [0, (64 << 20) + 1] {
        let mut request = upload(chunk(1), &bytes, &[]);
        request.label.length = length;
        let error = service.write_chunk(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{length}");
    }
    let many: Vec<String> = (1..=9).map(|port| format!("127.0.0.1:{port}")).collect();
    let error = service
        .write_chunk(upload(chunk(1), &bytes, &many))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert_eq!(node.store().load().await.unwrap().chunks, 0);
    node.shutdown().await;
}
