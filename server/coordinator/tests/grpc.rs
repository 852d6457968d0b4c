//! A whole coordinator over gRPC: sessions, names, restarts, datanodes, status.

#![allow(clippy::unwrap_used)] // the whole file is test code

use bytes::Bytes;
use dfs_common::cluster::NodeHealth;
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, OpResult, Operation};
use dfs_common::service::MetadataService;
use dfs_common::session::{Caller, Identity, OpenDeclaration, OpenSession, SessionGrant};
use dfs_common::{ErrorKind, FsResult, Ino, Name, OpNumber};
use dfs_coordinator::{Coordinator, CoordinatorConfig, StoreKind};
use dfs_proto::grpc::MetadataGrpcClient;
use dfs_proto::{PROTOCOL_VERSION, status, v1};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use tonic::transport::Channel;

const DEADLINE: Duration = Duration::from_secs(20);

fn config(dir: &Path) -> CoordinatorConfig {
    CoordinatorConfig::new(dir, SocketAddr::from(([127, 0, 0, 1], 0)))
}

async fn start(dir: &Path) -> (Coordinator, MetadataGrpcClient) {
    let coordinator = Coordinator::start(config(dir)).await.unwrap();
    let client = connect(coordinator.address());
    (coordinator, client)
}

fn connect(address: SocketAddr) -> MetadataGrpcClient {
    MetadataGrpcClient::connect_lazy(&address.to_string(), Duration::from_secs(5)).unwrap()
}

async fn open_session(
    client: &MetadataGrpcClient,
    resume: Option<Identity>,
    opened: Vec<OpenDeclaration>,
) -> FsResult<SessionGrant> {
    client
        .open_session(OpenSession {
            client_name: "test".to_string(),
            resume,
            opened,
            unsynced: None,
            locks: Default::default(),
            leases: false,
        })
        .await
}

fn name(text: &str) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

async fn one(client: &MetadataGrpcClient, identity: Identity, number: u64, op: Operation) -> OpResult {
    let batch = MutationBatch {
        ops: vec![NumberedOp {
            number: OpNumber(number),
            caller: Caller::root(),
            op,
        }],
        acknowledged_below: OpNumber(0),
        stop_on_error: false,
        durable: false,
    };
    client.mutate(identity, batch).await.unwrap().results.remove(0)
}

fn create(text: &str) -> Operation {
    Operation::Create {
        parent: Ino::ROOT,
        name: name(text),
        mode: 0o644,
        exclusive: true,
        read: true,
        write: true,
    }
}

async fn channel(address: SocketAddr) -> Channel {
    Channel::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn registration(id: u8) -> v1::RegisterNodeRequest {
    v1::RegisterNodeRequest {
        protocol_version: PROTOCOL_VERSION,
        node_uuid: format!("00000000-0000-4000-8000-0000000000{id:02}"),
        cluster: String::new(),
        address: format!("127.0.0.1:{}", 9000 + u32::from(id)),
        disk: 1,
        capacity_bytes: 100 << 30,
        available_bytes: 90 << 30,
        used_bytes: 10 << 30,
        chunks: 5,
        node_secret: vec![id; 16].into(),
    }
}

fn kind<T: std::fmt::Debug>(result: Result<T, tonic::Status>) -> ErrorKind {
    status::from_status(&result.unwrap_err()).kind()
}

#[tokio::test(flavor = "multi_thread")]
async fn names_survive_a_restart_and_the_session_is_resumed() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, client) = start(dir.path()).await;
    let cluster = coordinator.cluster();
    let grant = open_session(&client, None, vec![]).await.unwrap();
    assert_eq!(
        (grant.cluster, grant.replication, grant.replication_floor),
        (cluster, 3, 2)
    );
    let me = grant.identity;
    assert_eq!(client.keep_alive(me).await.unwrap(), grant.lease);
    let Ok(OpReply::Created {
        entry,
        existed: false,
    }) = one(&client, me, 1, create("f")).await
    else {
        panic!("not created");
    };
    let ino = entry.attr.ino;
    let found = client
        .lookup(me, Caller::root(), Ino::ROOT, name("f"))
        .await
        .unwrap();
    assert_eq!(found.attr, entry.attr);
    let listing = client
        .readdir(me, Caller::root(), Ino::ROOT, 0, 10, true)
        .await
        .unwrap();
    assert_eq!(listing.entries.len(), 1);
    assert!(listing.end);
    let opened = client.open(me, Caller::root(), ino, true, false).await.unwrap();
    assert_eq!(opened.attr.ino, ino);
    coordinator.shutdown().await;

    let gone = client.getattr(me, ino).await.unwrap_err();
    assert!(gone.kind().is_retryable(), "{gone}");

    let (coordinator, client) = start(dir.path()).await;
    assert_eq!(coordinator.cluster(), cluster);
    let refused = client.getattr(me, ino).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::SessionFenced);
    assert!(refused.message().contains("resume"), "{refused}");
    assert_eq!(
        client.keep_alive(me).await.unwrap_err().kind(),
        ErrorKind::SessionFenced
    );
    let declared = vec![
        OpenDeclaration {
            ino,
            read: true,
            write: true,
            pages: false,
            buffer: false,
        };
        2
    ];
    let resumed = open_session(&client, Some(me), declared).await.unwrap();
    assert_eq!(resumed.identity.session, me.session);
    assert_eq!(client.getattr(me, ino).await.unwrap().attr.ino, ino);
    client.read_extents(me, ino, 0, 100, true).await.unwrap();
    client.release(me, vec![ino]).await.unwrap();
    client.release(me, vec![ino]).await.unwrap();
    client.release(me, vec![ino]).await.unwrap();
    assert_eq!(
        client
            .read_extents(me, ino, 0, 100, true)
            .await
            .unwrap_err()
            .kind(),
        ErrorKind::BadHandle
    );
    client.close_session(me).await.unwrap();
    assert_eq!(
        client.getattr(me, ino).await.unwrap_err().kind(),
        ErrorKind::SessionFenced
    );
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_file_is_readable_until_its_last_release() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, client) = start(dir.path()).await;
    let owner = open_session(&client, None, vec![]).await.unwrap().identity;
    let reader = open_session(&client, None, vec![]).await.unwrap().identity;
    let Ok(OpReply::Created { entry, .. }) = one(&client, owner, 1, create("f")).await else {
        panic!("not created");
    };
    let ino = entry.attr.ino;
    client
        .open(reader, Caller::root(), ino, true, false)
        .await
        .unwrap();
    client.release(owner, vec![ino]).await.unwrap();
    let removed = one(
        &client,
        owner,
        2,
        Operation::Unlink {
            parent: Ino::ROOT,
            name: name("f"),
        },
    )
    .await;
    assert_eq!(removed, Ok(OpReply::Removed { ino, nlink: 0 }));
    assert_eq!(client.getattr(reader, ino).await.unwrap().attr.nlink, 0);
    let stranger = client.open(owner, Caller::root(), ino, true, false).await;
    assert_eq!(stranger.unwrap_err().kind(), ErrorKind::Stale);
    client
        .open(reader, Caller::root(), ino, true, false)
        .await
        .unwrap();
    client.release(reader, vec![ino]).await.unwrap();
    assert!(client.getattr(reader, ino).await.is_ok());
    client.release(reader, vec![ino]).await.unwrap();
    assert_eq!(
        client.getattr(reader, ino).await.unwrap_err().kind(),
        ErrorKind::Stale
    );
    assert_eq!(client.statfs(reader).await.unwrap().inodes, 1);
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datanodes_register_report_and_give_room_for_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, client) = start(dir.path()).await;
    let me = open_session(&client, None, vec![]).await.unwrap().identity;
    let grant = Operation::GrantChunks { count: 4 };
    let waiting = one(&client, me, 1, grant.clone()).await.unwrap_err();
    assert_eq!(waiting.kind(), ErrorKind::Unavailable);

    let mut nodes = v1::cluster_client::ClusterClient::new(channel(coordinator.address()).await);
    for (change, expected) in [
        (
            v1::RegisterNodeRequest {
                protocol_version: PROTOCOL_VERSION + 1,
                ..registration(1)
            },
            ErrorKind::UnknownVersion,
        ),
        (
            v1::RegisterNodeRequest {
                cluster: uuid::Uuid::nil().to_string(),
                ..registration(1)
            },
            ErrorKind::Unauthenticated,
        ),
        (
            v1::RegisterNodeRequest {
                node_secret: Bytes::new(),
                ..registration(1)
            },
            ErrorKind::Invalid,
        ),
        (
            v1::RegisterNodeRequest {
                address: "nowhere".to_string(),
                ..registration(1)
            },
            ErrorKind::Invalid,
        ),
    ] {
        assert_eq!(kind(nodes.register_node(change).await), expected);
    }
    let mut ids = Vec::new();
    for id in 1..=3 {
        let reply = nodes.register_node(registration(id)).await.unwrap().into_inner();
        assert_eq!(reply.cluster, coordinator.cluster().to_string());
        assert_eq!(reply.capability_key.len(), 32);
        ids.push(reply.node);
    }
    assert_eq!(ids, [1, 2, 3]);
    let again = nodes.register_node(registration(2)).await.unwrap().into_inner();
    assert_eq!(again.node, 2);

    let Ok(OpReply::Chunks(chunks)) = one(&client, me, 1, grant).await else {
        panic!("not granted");
    };
    assert_eq!(chunks.len(), 4);
    let state = client.cluster_state(me, 0).await.unwrap();
    assert!(state.full && state.nodes.len() == 3);
    for chunk in &chunks {
        let group = state
            .groups
            .iter()
            .find(|group| group.id == chunk.chunk.group())
            .unwrap();
        assert_eq!(group.members.len(), 3);
    }

    let beat = |id: u8, available_bytes: u64| v1::HeartbeatRequest {
        node: u32::from(id),
        node_secret: vec![id; 16].into(),
        disk: 1,
        capacity_bytes: 100 << 30,
        available_bytes,
        used_bytes: 10 << 30,
        chunks: 5,
        writable: true,
        added: vec![],
        removed: vec![],
        known_state_version: state.version,
        inventory_complete: false,
    };
    let quiet = nodes
        .heartbeat(beat(1, 90 << 30))
        .await
        .unwrap()
        .into_inner()
        .state
        .unwrap();
    assert!(!quiet.full && quiet.nodes.is_empty());
    let fuller = nodes
        .heartbeat(beat(1, 20 << 30))
        .await
        .unwrap()
        .into_inner()
        .state
        .unwrap();
    assert_eq!((fuller.full, fuller.nodes.len()), (false, 1));
    assert_eq!(
        client.cluster_state(me, state.version).await.unwrap().nodes.len(),
        1
    );
    assert_eq!(kind(nodes.heartbeat(beat(9, 0)).await), ErrorKind::NotFound);
    let thief = v1::HeartbeatRequest {
        node: 2,
        ..beat(3, 0)
    };
    assert_eq!(kind(nodes.heartbeat(thief).await), ErrorKind::Unauthenticated);

    let totals = client.statfs(me).await.unwrap();
    assert_eq!(totals.capacity_bytes, 100 << 30, "three disks, three replicas");
    let mut admin = v1::admin_client::AdminClient::new(channel(coordinator.address()).await);
    let report = admin.status(v1::StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(
        (report.nodes.len(), report.sessions, report.under_replicated),
        (3, 1, 0)
    );
    assert_eq!((report.store.as_str(), report.replication), ("fjall", 3));
    assert!(report.healthy);
    coordinator.shutdown().await;

    // After a restart the nodes are known, and suspect until they are heard of.
    let coordinator = Coordinator::start(config(dir.path())).await.unwrap();
    let client = connect(coordinator.address());
    open_session(&client, Some(me), vec![]).await.unwrap();
    let after = client.cluster_state(me, state.version).await.unwrap();
    assert!(
        after.full && after.version > fuller.version,
        "versions never go back"
    );
    assert!(after.nodes.iter().all(|node| node.health == NodeHealth::Suspect));
    let mut nodes = v1::cluster_client::ClusterClient::new(channel(coordinator.address()).await);
    for id in 1..=3 {
        nodes.heartbeat(beat(id, 90 << 30)).await.unwrap();
    }
    let state = client.cluster_state(me, 0).await.unwrap();
    assert!(state.nodes.iter().all(|node| node.health == NodeHealth::Up));
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_datanode_becomes_suspect() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, client) = start(dir.path()).await;
    let me = open_session(&client, None, vec![]).await.unwrap().identity;
    let mut nodes = v1::cluster_client::ClusterClient::new(channel(coordinator.address()).await);
    nodes.register_node(registration(1)).await.unwrap();
    let mut known = client.cluster_state(me, 0).await.unwrap();
    assert_eq!(known.nodes[0].health, NodeHealth::Up);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let update = client.cluster_state(me, known.version).await.unwrap();
        if let Some(node) = update.nodes.first() {
            assert!(!update.full);
            assert_eq!(node.health, NodeHealth::Suspect);
            break;
        }
        known.version = update.version;
        assert!(Instant::now() < deadline, "the node stayed up");
        tokio::task::yield_now().await;
    }
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn second_coordinator_on_a_port_or_a_directory_is_told_why() {
    let dir = tempfile::tempdir().unwrap();
    let (coordinator, client) = start(dir.path()).await;
    let other = tempfile::tempdir().unwrap();
    let mut same_port = config(other.path());
    same_port.listen = coordinator.address();
    let error = Coordinator::start(same_port).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    assert!(error.message().contains("in use"), "{error}");
    assert_eq!(
        std::fs::read_dir(other.path()).unwrap().count(),
        0,
        "its directory was not touched"
    );
    let error = Coordinator::start(config(dir.path())).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let mut nonsense = config(other.path());
    nonsense.replication_floor = 9;
    assert_eq!(
        Coordinator::start(nonsense).await.err().unwrap().kind(),
        ErrorKind::Invalid
    );
    // The first one is not disturbed.
    let me = open_session(&client, None, vec![]).await.unwrap().identity;
    one(&client, me, 1, create("f")).await.unwrap();
    coordinator.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_store_serves() {
    for store in [StoreKind::Fjall, StoreKind::Sled, StoreKind::Memory] {
        let dir = tempfile::tempdir().unwrap();
        for round in 0..2 {
            let mut config = config(dir.path());
            config.store = store;
            let coordinator = Coordinator::start(config).await.unwrap();
            let metadata = coordinator.metadata();
            let request = OpenSession {
                client_name: "test".to_string(),
                resume: None,
                opened: vec![],
                unsynced: None,
                locks: Default::default(),
                leases: false,
            };
            let me = metadata.open_session(request).await.unwrap().identity;
            let found = metadata.lookup(me, Caller::root(), Ino::ROOT, name("f")).await;
            let kept = round == 1 && store != StoreKind::Memory;
            assert_eq!(found.is_ok(), kept, "{store} round {round}");
            if !kept {
                one_in_process(&*metadata, me).await;
            }
            // Else the next start waits for it before anybody looks at files.
            metadata.close_session(me).await.unwrap();
            coordinator.shutdown().await;
            assert_eq!(
                metadata.getattr(me, Ino::ROOT).await.unwrap_err().kind(),
                ErrorKind::Unavailable
            );
        }
    }
}

async fn one_in_process(metadata: &dyn MetadataService, identity: Identity) {
    let batch = MutationBatch {
        ops: vec![NumberedOp {
            number: OpNumber(1),
            caller: Caller::root(),
            op: create("f"),
        }],
        acknowledged_below: OpNumber(0),
        stop_on_error: false,
        durable: false,
    };
    metadata
        .mutate(identity, batch)
        .await
        .unwrap()
        .results
        .remove(0)
        .unwrap();
}
