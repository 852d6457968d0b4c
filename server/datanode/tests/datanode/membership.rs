//! Registration, heartbeats, restarts, and what ends a datanode.

use crate::coordinator::FakeCoordinator;
use crate::support::*;
use dfs_common::ErrorKind;
use dfs_common::capability::ChunkAccess;
use dfs_datanode::Datanode;
use dfs_datanode::server::Parts;
use dfs_datanode::store::{DiskSync, KernelSync};
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const OTHER_CLUSTER: &str = "11111111-9dad-11d1-80b4-00c04fd430c8";

#[tokio::test]
async fn node_registers_reports_its_load_and_keeps_its_number() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let first = node(dir.path(), &coordinator).await;
    let number = first.node().unwrap();
    let bytes = content(5000, 1);
    first
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &[]))
        .await
        .unwrap();
    let heartbeat = coordinator.next_heartbeat().await;
    assert_eq!((heartbeat.node, heartbeat.chunks), (number.0, 1));
    assert_eq!(heartbeat.used_bytes, 5000);
    assert!(heartbeat.writable && heartbeat.available_bytes > 0);
    assert!(heartbeat.capacity_bytes > heartbeat.available_bytes);
    first.shutdown().await;

    let again = node(dir.path(), &coordinator).await;
    assert_eq!(again.node(), Some(number));
    {
        let state = coordinator.state.lock();
        let (first, last) = (&state.registrations[0], state.registrations.last().unwrap());
        assert_eq!(first.cluster, "", "the first registration takes any cluster");
        assert_eq!(last.cluster, state.cluster);
        assert_eq!(
            (&first.node_uuid, &first.node_secret, first.disk),
            (&last.node_uuid, &last.node_secret, last.disk)
        );
        assert_eq!(last.chunks, 1);
    }
    again.shutdown().await;
}

#[tokio::test]
async fn whole_inventory_is_reported_at_the_start_and_changes_after_it() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let first = node(dir.path(), &coordinator).await;
    let bytes = content(100, 1);
    for sequence in 0..10 {
        let write = upload(chunk(sequence), &bytes, &[]);
        first.chunk_service().write_chunk(write).await.unwrap();
    }
    until("reports of the additions", || {
        coordinator.state.lock().chunks.len() == 10
    })
    .await;
    let delete = capability(chunk(3), ChunkAccess::Delete);
    first.chunk_service().delete_chunk(delete).await.unwrap();
    until("a report of the removal", || {
        !coordinator.state.lock().chunks.contains(&chunk(3))
    })
    .await;
    coordinator.next_heartbeat().await;
    let quiet = coordinator.next_heartbeat().await;
    assert!(
        quiet.added.is_empty() && quiet.removed.is_empty(),
        "nothing new, nothing said"
    );

    // A change whose heartbeat failed is reported by a later one.
    coordinator.state.lock().refuse_heartbeats = Some(ErrorKind::Unavailable);
    let write = upload(chunk(20), &bytes, &[]);
    first.chunk_service().write_chunk(write).await.unwrap();
    coordinator.next_heartbeat().await;
    coordinator.state.lock().refuse_heartbeats = None;
    until("a report after the failure", || {
        coordinator.state.lock().chunks.contains(&chunk(20))
    })
    .await;
    first.shutdown().await;

    coordinator.state.lock().chunks.clear();
    let again = node(dir.path(), &coordinator).await;
    until("the whole inventory", || {
        coordinator.state.lock().chunks.len() == 10
    })
    .await;
    again.shutdown().await;
}

#[tokio::test]
async fn node_waits_for_its_coordinator_and_registers_again_when_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let address = {
        let gone = FakeCoordinator::start().await;
        let address = gone.address();
        gone.stop().await;
        address
    };
    let node = Datanode::start_with(config(dir.path(), &address), parts())
        .await
        .unwrap();
    let error = node
        .wait_registered(Duration::from_millis(300))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    let bytes = content(100, 1);
    let error = node
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &[]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "no key, no service");

    let coordinator = FakeCoordinator::start_at(&address, OTHER_CLUSTER).await;
    node.wait_registered(DEADLINE).await.unwrap();
    node.chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &[]))
        .await
        .unwrap();
    for forgotten in [ErrorKind::NotFound, ErrorKind::Unauthenticated] {
        let before = coordinator.state.lock().registrations.len();
        coordinator.state.lock().refuse_heartbeats = Some(forgotten);
        until("another registration", || {
            coordinator.state.lock().registrations.len() > before
        })
        .await;
        coordinator.state.lock().refuse_heartbeats = None;
    }
    coordinator.next_heartbeat().await;
    node.shutdown().await;
}

#[tokio::test]
async fn restarted_node_serves_while_its_coordinator_is_away() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let first = node(dir.path(), &coordinator).await;
    let bytes = content(100_000, 1);
    first
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &[]))
        .await
        .unwrap();
    let number = first.node();
    first.shutdown().await;
    let address = coordinator.address();
    coordinator.stop().await;

    let again = Datanode::start_with(config(dir.path(), &address), parts())
        .await
        .unwrap();
    assert_eq!(again.node(), number);
    assert!(
        read_all(&*again.chunk_service(), chunk(1), 100_000)
            .await
            .unwrap()
            == bytes
    );
    let written = again
        .chunk_service()
        .write_chunk(upload(chunk(2), &bytes, &[]))
        .await
        .unwrap();
    assert_eq!(Some(written.receipts[0].node), number);
    again.shutdown().await;
}

#[tokio::test]
async fn coordinator_of_another_cluster_ends_the_node_and_changes_nothing() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    node(dir.path(), &coordinator).await.shutdown().await;
    let identity = std::fs::read(dir.path().join("datanode.json")).unwrap();

    let other = FakeCoordinator::start_at("127.0.0.1:0", OTHER_CLUSTER).await;
    let lost = Datanode::start_with(config(dir.path(), &other.address()), parts())
        .await
        .unwrap();
    let error = lost.wait_registered(DEADLINE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    let error = tokio::time::timeout(DEADLINE, lost.failed()).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated);
    lost.shutdown().await;

    // One that lets every cluster in, but is another: the node itself says no.
    let lax = FakeCoordinator::start_at("127.0.0.1:0", OTHER_CLUSTER).await;
    let kept = lax.state.lock().cluster.clone();
    lax.state.lock().cluster = coordinator.state.lock().cluster.clone();
    let node = Datanode::start_with(config(dir.path(), &lax.address()), parts())
        .await
        .unwrap();
    node.wait_registered(DEADLINE).await.unwrap();
    node.shutdown().await;
    lax.state.lock().cluster = kept;
    assert_eq!(std::fs::read(dir.path().join("datanode.json")).unwrap(), identity);

    for kind in [ErrorKind::UnknownVersion, ErrorKind::Invalid] {
        coordinator.state.lock().refuse_registration = Some(kind);
        let config = config(dir.path(), &coordinator.address());
        let refused = Datanode::start_with(config, parts()).await.unwrap();
        let error = tokio::time::timeout(DEADLINE, refused.failed()).await.unwrap();
        assert_eq!(error.kind(), kind);
        assert!(error.message().contains("refused by the test"), "{error}");
        refused.shutdown().await;
    }
}

#[tokio::test]
async fn lost_data_directory_ends_the_node() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    let node = node(&root, &coordinator).await;
    std::fs::rename(&root, dir.path().join("elsewhere")).unwrap();
    let error = tokio::time::timeout(DEADLINE, node.failed()).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.message().contains("data"), "{error}");
    node.shutdown().await;
}

#[tokio::test]
async fn bad_starts_say_what_is_wrong() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let node = node(&dir.path().join("a"), &coordinator).await;
    let try_start = async |root: &Path, change: fn(&mut dfs_datanode::DatanodeConfig)| {
        let mut config = config(root, &coordinator.address());
        change(&mut config);
        match Datanode::start_with(config, parts()).await {
            Ok(_) => panic!("started"),
            Err(error) => error,
        }
    };
    let busy = try_start(&dir.path().join("a"), |_| {}).await;
    assert_eq!(busy.kind(), ErrorKind::Busy);
    let address = try_start(&dir.path().join("b"), |config| {
        config.listen = "0.0.0.0:0".parse().unwrap();
    })
    .await;
    assert!(address.message().contains("--advertise"), "{address}");
    let nowhere = try_start(&dir.path().join("b"), |config| {
        config.coordinator = "nowhere".to_owned()
    })
    .await;
    assert_eq!(nowhere.kind(), ErrorKind::Invalid);
    std::fs::create_dir(dir.path().join("c")).unwrap();
    std::fs::write(dir.path().join("c/coordinator.json"), b"{}").unwrap();
    let foreign = try_start(&dir.path().join("c"), |_| {}).await;
    assert_eq!(foreign.kind(), ErrorKind::Invalid);
    assert!(foreign.message().contains("coordinator.json"), "{foreign}");
    let mut taken = config(&dir.path().join("d"), &coordinator.address());
    taken.listen = node.address();
    let error = Datanode::start_with(taken, parts()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(
        !dir.path().join("d").exists(),
        "the port is tried before anything is made"
    );
    node.shutdown().await;
}

/// A disk whose syncs fail when told.
struct Failing(Arc<AtomicBool>);

impl DiskSync for Failing {
    fn sync_file(&self, file: &File) -> io::Result<()> {
        if self.0.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        KernelSync.sync_file(file)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        KernelSync.sync_dir(dir)
    }
}

#[tokio::test]
async fn failed_disk_is_reported_and_stays_failed_after_a_restart() {
    let coordinator = FakeCoordinator::start().await;
    let dir = tempfile::tempdir().unwrap();
    let failing = Arc::new(AtomicBool::new(false));
    let parts_of_it = Parts {
        sync: Arc::new(Failing(failing.clone())),
        ..parts()
    };
    let first = Datanode::start_with(config(dir.path(), &coordinator.address()), parts_of_it)
        .await
        .unwrap();
    first.wait_registered(DEADLINE).await.unwrap();
    let bytes = content(1000, 1);
    first
        .chunk_service()
        .write_chunk(upload(chunk(1), &bytes, &[]))
        .await
        .unwrap();
    let healthy = coordinator.next_heartbeat().await;
    failing.store(true, Ordering::SeqCst);
    let error = first
        .chunk_service()
        .write_chunk(upload(chunk(2), &bytes, &[]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    let failed = coordinator.next_heartbeat().await;
    assert!(healthy.writable && !failed.writable);
    assert_ne!(healthy.disk, failed.disk);
    first.shutdown().await;

    let again = node(dir.path(), &coordinator).await;
    let error = again
        .chunk_service()
        .write_chunk(upload(chunk(2), &bytes, &[]))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert!(read_all(&*again.chunk_service(), chunk(1), 1000).await.unwrap() == bytes);
    let still = coordinator.next_heartbeat().await;
    assert!(!still.writable);
    assert_eq!(still.disk, failed.disk);
    again.shutdown().await;
}
