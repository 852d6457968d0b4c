//! The metadata seam over a loopback connection: what is asked arrives, what is answered comes back, failures keep their
//! meaning.

#![allow(clippy::unwrap_used)] // a test may fail

mod loopback;

use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::cluster::{ClusterUpdate, NodeHealth, NodeInfo, PlacementGroup, StatFs};
use dfs_common::durability::{CommitId, CommitPoint};
use dfs_common::extent::ExtentPage;
use dfs_common::lease::{Access, Obeyed, Recall, RecallPage};
use dfs_common::lock::{
    HeldLock, LockDeclaration, LockDeclarations, LockKind, LockOutcome, LockOwner, LockRange, LockSpec,
    LockStyle, LockTicket,
};
use dfs_common::op::{MutationBatch, NumberedOp, OpReply, Operation};
use dfs_common::service::{DirEntry, DirPage, Extents, Found, MetadataService, Mutated, Opened};
use dfs_common::session::{Caller, Identity, OpenDeclaration, OpenSession, SessionGrant, SessionSecret};
use dfs_common::{Allowance, TreeUsage};
use dfs_common::{
    Attr, ClusterId, DiskIncarnation, ErrorKind, FileKind, FsError, FsResult, Ino, Name, NodeId, OpNumber,
    PgId, SessionEpoch, SessionId, Timestamp,
};
use dfs_proto::grpc::{ChunkGrpcClient, MetadataGrpcClient, MetadataGrpcServer, channel_lazy};
use dfs_proto::v1::metadata_client::MetadataClient;
use dfs_proto::{status, v1};
use loopback::{PATIENCE, Server, until};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;

/// Writes down what it is asked, answers fixed values or the failure that is set.
#[derive(Default)]
struct Recorder {
    calls: Mutex<Vec<String>>,
    failure: Mutex<Option<FsError>>,
    hang: AtomicBool,
    dropped: Arc<AtomicBool>,
}

struct SetOnDrop(Arc<AtomicBool>);
impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl Recorder {
    async fn answer<T>(&self, call: String, value: T) -> FsResult<T> {
        self.calls.lock().unwrap().push(call);
        let failure = self.failure.lock().unwrap().clone();
        if self.hang.load(Ordering::SeqCst) {
            let _guard = SetOnDrop(self.dropped.clone());
            std::future::pending::<()>().await;
        }
        failure.map_or(Ok(value), Err)
    }
    fn last(&self) -> String {
        self.calls.lock().unwrap().last().cloned().unwrap_or_default()
    }
    fn count(&self) -> usize {
        self.calls.lock().unwrap().len()
    }
}

fn attr() -> Attr {
    let time = Timestamp {
        secs: -3,
        nanos: 999_999_999,
    };
    Attr {
        ino: Ino(77),
        generation: 1,
        kind: FileKind::File,
        mode: 0o4755,
        nlink: 2,
        uid: 1000,
        gid: 100,
        rdev: 0,
        size: 5,
        allocated_bytes: 5,
        atime: time,
        mtime: time,
        ctime: time,
        btime: time,
        map_version: 9,
    }
}

fn found() -> Found {
    Found {
        attr: attr(),
        leased: true,
        parent_leased: false,
    }
}

fn lock_owner() -> LockOwner {
    LockOwner {
        style: LockStyle::Process,
        number: u64::MAX,
    }
}

fn lock_spec() -> LockSpec {
    LockSpec {
        owner: lock_owner(),
        kind: LockKind::Exclusive,
        range: LockRange::new(4, 9).unwrap(),
        pid: 4711,
    }
}

fn lock_ticket() -> LockTicket {
    LockTicket {
        number: 12,
        settled: 9,
        answered: vec![3, 4],
    }
}

fn held_lock() -> HeldLock {
    HeldLock {
        session: SessionId(8),
        lock: LockSpec {
            owner: LockOwner {
                style: LockStyle::OpenFile,
                number: 1,
            },
            kind: LockKind::Shared,
            range: LockRange::WHOLE,
            pid: 1,
        },
    }
}

fn declaration(ino: u64) -> LockDeclaration {
    LockDeclaration {
        ino: Ino(ino),
        lock: lock_spec(),
    }
}

fn access() -> Access {
    Access {
        ino: Ino(77),
        content: true,
        buffer: false,
        pages: true,
    }
}

fn recalls() -> RecallPage {
    let recall = |sequence, inos: &[u64]| Recall {
        sequence,
        inos: inos.iter().copied().map(Ino).collect(),
        contents: inos.iter().map(|ino| Ino(ino + 1)).collect(),
        buffers: vec![Ino(5)],
    };
    RecallPage {
        stream: 12,
        recalls: vec![recall(4, &[7, 8]), recall(5, &[])],
    }
}

fn page() -> ExtentPage {
    ExtentPage {
        map_version: 9,
        size: 5,
        extents: vec![],
        covered_to: u64::MAX,
    }
}

fn dir_page() -> DirPage {
    let entry = |text: &str, cursor, attr| DirEntry {
        name: name(text),
        ino: Ino(77),
        kind: FileKind::File,
        cursor,
        attr,
    };
    DirPage {
        entries: vec![entry("a", 3, Some(attr())), entry("b", 9, None)],
        end: false,
        parent: Ino::ROOT,
        leased: true,
    }
}

fn update() -> ClusterUpdate {
    ClusterUpdate {
        version: 3,
        full: true,
        nodes: vec![NodeInfo {
            id: NodeId(1),
            address: "localhost:7402".to_string(),
            health: NodeHealth::Suspect,
            disk: DiskIncarnation(8),
            capacity_bytes: 3,
            used_bytes: 2,
            available_bytes: 1,
            chunks: 4,
            writable: false,
        }],
        groups: vec![PlacementGroup {
            id: PgId(5),
            version: 6,
            members: vec![NodeId(1)],
        }],
        removed_nodes: vec![NodeId(2)],
    }
}

fn totals() -> StatFs {
    StatFs {
        capacity_bytes: 4,
        available_bytes: 3,
        used_bytes: 2,
        inodes: 1,
    }
}

fn tree_usage() -> TreeUsage {
    TreeUsage {
        bytes: 5,
        files: 4,
        directories: 3,
        bytes_allowed: Some(Allowance { limit: 9, used: 5 }),
        inodes_allowed: None,
        quotas: true,
        leased: true,
    }
}

fn grant() -> SessionGrant {
    SessionGrant {
        identity: identity(),
        cluster: ClusterId(uuid::Uuid::from_u128(7)),
        lease: Duration::from_millis(1234),
        chunk_bytes: 8 << 20,
        replication: 3,
        replication_floor: 2,
        coordinator_epoch: 5,
        rollback_epoch: 4,
        kept_commits: 17,
        lost_locks: vec![declaration(5)],
    }
}

fn point() -> CommitPoint {
    CommitPoint {
        last: CommitId { epoch: 5, number: 9 },
        durable: 7,
    }
}

fn results(batch: &MutationBatch) -> Mutated {
    let removed = OpReply::Removed {
        ino: Ino(4),
        nlink: 0,
    };
    let results = (0..batch.ops.len()).map(|at| match at % 2 {
        0 => Ok(removed.clone()),
        _ => Err(FsError::new(ErrorKind::NotFound, "no such name")),
    });
    Mutated {
        results: results.collect(),
        leased: vec![
            attr(),
            Attr {
                ino: Ino(1),
                ..attr()
            },
        ],
        access: vec![access()],
        point: point(),
    }
}

#[async_trait]
impl MetadataService for Recorder {
    async fn open_session(&self, request: OpenSession) -> FsResult<SessionGrant> {
        self.answer(format!("open_session {request:?}"), grant()).await
    }
    async fn keep_alive(&self, identity: Identity) -> FsResult<Duration> {
        self.answer(format!("keep_alive {identity:?}"), Duration::from_millis(321))
            .await
    }
    async fn close_session(&self, identity: Identity) -> FsResult<()> {
        self.answer(format!("close_session {identity:?}"), ()).await
    }
    async fn mutate(&self, identity: Identity, batch: MutationBatch) -> FsResult<Mutated> {
        let results = results(&batch);
        self.answer(format!("mutate {identity:?} {batch:?}"), results)
            .await
    }
    async fn recalls(&self, identity: Identity, stream: u64, obeyed: Obeyed) -> FsResult<RecallPage> {
        let call = format!("recalls {identity:?} {stream} {obeyed:?}");
        self.answer(call, recalls()).await
    }
    async fn lookup(&self, identity: Identity, caller: Caller, parent: Ino, name: Name) -> FsResult<Found> {
        let call = format!("lookup {identity:?} {caller:?} {parent} {name:?}");
        self.answer(call, found()).await
    }
    async fn getattr(&self, identity: Identity, ino: Ino) -> FsResult<Found> {
        self.answer(format!("getattr {identity:?} {ino}"), found()).await
    }
    async fn readlink(&self, identity: Identity, ino: Ino) -> FsResult<Bytes> {
        self.answer(format!("readlink {identity:?} {ino}"), "../target".into())
            .await
    }
    async fn readdir(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage> {
        let call = format!("readdir {identity:?} {caller:?} {ino} {cursor} {limit} {attrs}");
        self.answer(call, dir_page()).await
    }
    async fn getxattr(&self, identity: Identity, caller: Caller, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        let call = format!("getxattr {identity:?} {caller:?} {ino} {name:?}");
        self.answer(call, "value".into()).await
    }
    async fn listxattr(&self, identity: Identity, caller: Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
        let call = format!("listxattr {identity:?} {caller:?} {ino}");
        self.answer(call, vec!["user.a".into(), "user.b".into()]).await
    }
    async fn read_extents(
        &self,
        identity: Identity,
        ino: Ino,
        offset: u64,
        length: u64,
        settle: bool,
    ) -> FsResult<Extents> {
        let call = format!("read_extents {identity:?} {ino} {offset} {length} {settle}");
        let page = page();
        self.answer(call, Extents { page, leased: true }).await
    }
    async fn open(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        read: bool,
        write: bool,
    ) -> FsResult<Opened> {
        let call = format!("open {identity:?} {caller:?} {ino} {read} {write}");
        let opened = Opened {
            attr: attr(),
            extents: page(),
            access: access(),
        };
        self.answer(call, opened).await
    }
    async fn release(&self, identity: Identity, inos: Vec<Ino>) -> FsResult<()> {
        self.answer(format!("release {identity:?} {inos:?}"), ()).await
    }
    async fn lock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        lock: LockSpec,
        patience: Duration,
    ) -> FsResult<LockOutcome> {
        let call = format!("lock {identity:?} {ticket:?} {ino} {lock:?} {patience:?}");
        self.answer(call, LockOutcome::Waiting).await
    }
    async fn unlock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        owner: LockOwner,
        range: LockRange,
    ) -> FsResult<LockOutcome> {
        let call = format!("unlock {identity:?} {ticket:?} {ino} {owner:?} {range:?}");
        self.answer(call, LockOutcome::TooMany).await
    }
    async fn cancel_lock(&self, identity: Identity, ticket: LockTicket) -> FsResult<LockOutcome> {
        let call = format!("cancel_lock {identity:?} {ticket:?}");
        self.answer(call, LockOutcome::Cancelled).await
    }
    async fn test_lock(&self, identity: Identity, ino: Ino, lock: LockSpec) -> FsResult<Option<HeldLock>> {
        let call = format!("test_lock {identity:?} {ino} {lock:?}");
        self.answer(call, Some(held_lock())).await
    }
    async fn fsync(&self, identity: Identity, ino: Ino) -> FsResult<CommitPoint> {
        self.answer(format!("fsync {identity:?} {ino}"), point()).await
    }
    async fn statfs(&self, identity: Identity) -> FsResult<StatFs> {
        self.answer(format!("statfs {identity:?}"), totals()).await
    }
    async fn usage(&self, identity: Identity, ino: Ino) -> FsResult<TreeUsage> {
        self.answer(format!("usage {identity:?} {ino}"), tree_usage())
            .await
    }
    async fn cluster_state(&self, identity: Identity, known_version: u64) -> FsResult<ClusterUpdate> {
        self.answer(format!("cluster_state {identity:?} {known_version}"), update())
            .await
    }
}

fn name(text: &str) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn identity() -> Identity {
    Identity {
        session: SessionId(5),
        epoch: SessionEpoch(6),
        secret: SessionSecret([7; 16]),
        trace: 8,
    }
}

fn caller() -> Caller {
    Caller {
        uid: 1000,
        gid: 100,
        groups: vec![4, 24],
    }
}

fn batch(numbers: impl IntoIterator<Item = u64>, bytes: usize) -> MutationBatch {
    let op = |number| NumberedOp {
        number: OpNumber(number),
        caller: caller(),
        op: Operation::Setxattr {
            ino: Ino(4),
            name: "user.a".into(),
            value: vec![b'v'; bytes].into(),
            mode: dfs_common::op::XattrMode::Set,
        },
    };
    MutationBatch {
        ops: numbers.into_iter().map(op).collect(),
        acknowledged_below: OpNumber(2),
        stop_on_error: true,
        durable: false,
    }
}

async fn serve(recorder: &Arc<Recorder>) -> Server {
    let service = MetadataGrpcServer::new(recorder.clone() as Arc<dyn MetadataService>).into_service();
    Server::start(|routes| {
        routes.add_service(service);
    })
    .await
}

fn client(address: SocketAddr) -> MetadataGrpcClient {
    MetadataGrpcClient::connect_lazy(&address.to_string(), PATIENCE).unwrap()
}

#[tokio::test]
async fn every_call_arrives_and_its_reply_comes_back() {
    let recorder = Arc::new(Recorder::default());
    let server = serve(&recorder).await;
    let client = client(server.address);
    let (me, who, ino) = (identity(), caller(), Ino(77));

    let request = OpenSession {
        client_name: "host program".to_string(),
        resume: Some(me),
        opened: vec![OpenDeclaration {
            ino,
            read: true,
            write: false,
            pages: false,
            buffer: false,
        }],
        unsynced: Some(CommitId { epoch: 3, number: 9 }),
        locks: LockDeclarations {
            settled: 7,
            held: vec![declaration(5), declaration(6)],
            more: false,
        },
        leases: false,
    };
    assert_eq!(client.open_session(request.clone()).await.unwrap(), grant());
    assert_eq!(recorder.last(), format!("open_session {request:?}"));
    assert_eq!(client.keep_alive(me).await.unwrap(), Duration::from_millis(321));
    assert_eq!(recorder.last(), format!("keep_alive {me:?}"));
    let batch = batch([2, 3, 5], 10);
    assert_eq!(client.mutate(me, batch.clone()).await.unwrap(), results(&batch));
    assert_eq!(recorder.last(), format!("mutate {me:?} {batch:?}"));
    let entry = client.lookup(me, who.clone(), ino, name("f")).await.unwrap();
    assert_eq!(entry, found());
    assert_eq!(recorder.last(), format!("lookup {me:?} {who:?} 77 \"f\""));
    assert_eq!(client.getattr(me, ino).await.unwrap(), found());
    assert_eq!(recorder.last(), format!("getattr {me:?} 77"));
    assert_eq!(client.readlink(me, ino).await.unwrap(), "../target");
    assert_eq!(recorder.last(), format!("readlink {me:?} 77"));
    let listed = client.readdir(me, who.clone(), ino, 12, 34, true).await.unwrap();
    assert_eq!(listed, dir_page());
    assert_eq!(recorder.last(), format!("readdir {me:?} {who:?} 77 12 34 true"));
    let value = client
        .getxattr(me, who.clone(), ino, "user.a".into())
        .await
        .unwrap();
    assert_eq!(value, "value");
    assert_eq!(recorder.last(), format!("getxattr {me:?} {who:?} 77 b\"user.a\""));
    let names = client.listxattr(me, who.clone(), ino).await.unwrap();
    assert_eq!(names, ["user.a", "user.b"]);
    assert_eq!(recorder.last(), format!("listxattr {me:?} {who:?} 77"));
    let extents = client.read_extents(me, ino, 1, 2, true).await.unwrap();
    assert_eq!((extents.page, extents.leased), (page(), true));
    assert_eq!(recorder.last(), format!("read_extents {me:?} 77 1 2 true"));
    let opened = client.open(me, who.clone(), ino, true, false).await.unwrap();
    assert_eq!((opened.attr, opened.extents), (attr(), page()));
    assert_eq!(opened.access, access());
    assert_eq!(recorder.last(), format!("open {me:?} {who:?} 77 true false"));
    let (ticket, lock) = (lock_ticket(), lock_spec());
    let patience = Duration::from_millis(77);
    let outcome = client.lock(me, ticket.clone(), ino, lock, patience).await;
    assert_eq!(outcome.unwrap(), LockOutcome::Waiting);
    assert_eq!(
        recorder.last(),
        format!("lock {me:?} {ticket:?} 77 {lock:?} {patience:?}")
    );
    let outcome = client
        .unlock(me, ticket.clone(), ino, lock.owner, lock.range)
        .await;
    assert_eq!(outcome.unwrap(), LockOutcome::TooMany);
    assert_eq!(
        recorder.last(),
        format!("unlock {me:?} {ticket:?} 77 {:?} {:?}", lock.owner, lock.range)
    );
    let outcome = client.cancel_lock(me, ticket.clone()).await;
    assert_eq!(outcome.unwrap(), LockOutcome::Cancelled);
    assert_eq!(recorder.last(), format!("cancel_lock {me:?} {ticket:?}"));
    let held = client.test_lock(me, ino, lock).await.unwrap();
    assert_eq!(held, Some(held_lock()));
    assert_eq!(recorder.last(), format!("test_lock {me:?} 77 {lock:?}"));
    client.release(me, vec![ino, Ino(3), ino]).await.unwrap();
    assert_eq!(
        recorder.last(),
        format!("release {me:?} [Ino(77), Ino(3), Ino(77)]")
    );
    assert_eq!(client.statfs(me).await.unwrap(), totals());
    assert_eq!(recorder.last(), format!("statfs {me:?}"));
    assert_eq!(client.usage(me, ino).await.unwrap(), tree_usage());
    assert_eq!(recorder.last(), format!("usage {me:?} 77"));
    assert_eq!(client.cluster_state(me, 41).await.unwrap(), update());
    assert_eq!(recorder.last(), format!("cluster_state {me:?} 41"));
    let obeyed = Obeyed {
        received: 9,
        below: 3,
        beside: vec![5, 9],
    };
    assert_eq!(client.recalls(me, 12, obeyed.clone()).await.unwrap(), recalls());
    assert_eq!(recorder.last(), format!("recalls {me:?} 12 {obeyed:?}"));
    assert_eq!(client.fsync(me, Ino(7)).await.unwrap(), point());
    assert_eq!(recorder.last(), format!("fsync {me:?} 7"));
    client.close_session(me).await.unwrap();
    assert_eq!(recorder.last(), format!("close_session {me:?}"));
    assert_eq!(recorder.count(), 22, "each call arrived once");
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn every_error_kind_survives_the_connection() {
    let recorder = Arc::new(Recorder::default());
    let server = serve(&recorder).await;
    let client = client(server.address);
    for kind in ErrorKind::ALL {
        let error = FsError::new(*kind, "the disk of node 3 is full — add one\n\t\"quoted\" %41");
        *recorder.failure.lock().unwrap() = Some(error.clone());
        assert_eq!(client.getattr(identity(), Ino(1)).await.unwrap_err(), error);
        assert_eq!(client.mutate(identity(), batch([1], 1)).await.unwrap_err(), error);
    }
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn requests_out_of_bounds_never_reach_the_service() {
    let recorder = Arc::new(Recorder::default());
    let server = serve(&recorder).await;
    let mut raw = MetadataClient::new(channel_lazy(&server.address.to_string(), PATIENCE).unwrap());
    let me = Some(v1::Identity {
        session: 1,
        epoch: 1,
        secret: vec![0; 16].into(),
        trace: 0,
    });
    let who = Some(v1::Caller::default());
    let kind = |refused: tonic::Status| status::from_status(&refused).kind();

    let nobody = raw
        .getattr(v1::InoRequest {
            identity: None,
            ino: 1,
        })
        .await;
    assert_eq!(kind(nobody.unwrap_err()), ErrorKind::Invalid);
    let callerless = v1::LookupRequest {
        identity: me.clone(),
        caller: None,
        parent: 1,
        name: "f".into(),
    };
    assert_eq!(
        kind(raw.lookup(callerless.clone()).await.unwrap_err()),
        ErrorKind::Invalid
    );
    let long = v1::LookupRequest {
        caller: who.clone(),
        name: vec![b'n'; 256].into(),
        ..callerless
    };
    assert_eq!(kind(raw.lookup(long).await.unwrap_err()), ErrorKind::NameTooLong);
    for limit in [0, 1025] {
        let request = v1::ReaddirRequest {
            identity: me.clone(),
            caller: who.clone(),
            ino: 1,
            limit,
            ..v1::ReaddirRequest::default()
        };
        assert_eq!(kind(raw.readdir(request).await.unwrap_err()), ErrorKind::Invalid);
    }
    for count in [0, 4097] {
        let request = v1::ReleaseRequest {
            identity: me.clone(),
            inos: vec![1; count],
        };
        assert_eq!(kind(raw.release(request).await.unwrap_err()), ErrorKind::Invalid);
    }
    let nothing = v1::MutateRequest {
        identity: me.clone(),
        ..v1::MutateRequest::default()
    };
    assert_eq!(kind(raw.mutate(nothing).await.unwrap_err()), ErrorKind::Invalid);
    let newer = v1::OpenSessionRequest {
        protocol_version: 1,
        ..v1::OpenSessionRequest::default()
    };
    let refused = status::from_status(&raw.open_session(newer).await.unwrap_err());
    assert_eq!(refused.kind(), ErrorKind::UnknownVersion);
    assert!(refused.message().contains("same release"), "{refused}");
    // 8 MiB in one message: the client would not send it, another program might.
    let large = v1::GetxattrRequest {
        identity: me,
        caller: who,
        ino: 1,
        name: vec![b'n'; 8 << 20].into(),
    };
    assert_eq!(kind(raw.getxattr(large).await.unwrap_err()), ErrorKind::TooBig);
    assert_eq!(recorder.count(), 0);
    drop(raw);
    server.stop().await;
}

#[tokio::test]
async fn batch_above_the_largest_message_is_refused_before_it_is_sent() {
    let recorder = Arc::new(Recorder::default());
    let server = serve(&recorder).await;
    let client = client(server.address);
    let error = client
        .mutate(identity(), batch(1..100, 65_536))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TooBig, "{error}");
    client.mutate(identity(), batch(1..60, 65_536)).await.unwrap();
    assert_eq!(recorder.count(), 1);
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn server_that_is_not_there_is_unavailable_and_found_when_it_comes() {
    let recorder = Arc::new(Recorder::default());
    let server = serve(&recorder).await;
    let address = server.address;
    let client = client(address);
    client.statfs(identity()).await.unwrap();
    server.stop().await;
    for _ in 0..3 {
        let error = client.statfs(identity()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    let error = client.statfs(identity()).await.unwrap_err();
    assert!(error.message().contains("refused"), "the cause is told: {error}");
    let service = MetadataGrpcServer::new(recorder.clone()).into_service();
    let server = Server::start_at(address, |routes| {
        routes.add_service(service);
    })
    .await;
    client.statfs(identity()).await.unwrap();
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn connection_that_breaks_during_a_call_is_unavailable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let breaker = tokio::spawn(async move {
        for _ in 0..3 {
            let (mut socket, _) = listener.accept().await.unwrap();
            // The client's preface and settings, perhaps its request; then the end of the connection.
            let mut some = [0; 64];
            let _ = tokio::io::AsyncReadExt::read(&mut socket, &mut some).await;
        }
    });
    let client = client(address);
    for _ in 0..3 {
        let error = client.statfs(identity()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    tokio::time::timeout(PATIENCE, breaker).await.unwrap().unwrap();
}

#[tokio::test]
async fn call_without_an_answer_is_timed_out_and_cancelled() {
    let recorder = Arc::new(Recorder::default());
    recorder.hang.store(true, Ordering::SeqCst);
    let server = serve(&recorder).await;
    let deadline = Duration::from_millis(100);
    let client = MetadataGrpcClient::connect_lazy(&server.address.to_string(), deadline).unwrap();
    let begin = Instant::now();
    let error = client.statfs(identity()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    assert!(begin.elapsed() >= deadline);
    until("the server gives the call up", || {
        recorder.dropped.load(Ordering::SeqCst)
    })
    .await;
    drop(client);
    server.stop().await;
}

#[tokio::test]
async fn port_that_never_speaks_is_timed_out() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let client = MetadataGrpcClient::connect_lazy(&address, Duration::from_millis(100)).unwrap();
    let error = client.statfs(identity()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut, "{error}");
    let mut generated = MetadataClient::new(channel_lazy(&address, Duration::from_millis(100)).unwrap());
    let refused = generated.statfs(v1::StatfsRequest { identity: None }).await;
    assert_eq!(
        status::from_status(&refused.unwrap_err()).kind(),
        ErrorKind::TimedOut,
        "the channel has the deadline itself"
    );
}

#[tokio::test]
async fn service_that_the_server_does_not_offer_is_an_unknown_version() {
    let recorder = Arc::new(Recorder::default());
    let server = serve(&recorder).await;
    let chunks = ChunkGrpcClient::connect_lazy(&server.address.to_string(), PATIENCE).unwrap();
    let capability = dfs_common::capability::CapabilityKey([0; 32]).sign(
        SessionId(1),
        dfs_common::ChunkId(1),
        dfs_common::capability::ChunkAccess::Read,
        1,
    );
    let error = dfs_common::service::ChunkService::stat_chunk(&chunks, capability).await;
    let error = error.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownVersion, "{error}");
    assert!(error.message().contains("address"), "{error}");
    drop(chunks);
    server.stop().await;
}

#[test]
fn channel_outside_a_runtime_or_to_nowhere_is_refused() {
    let error = MetadataGrpcClient::connect_lazy("localhost:7400", PATIENCE).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid);
    assert!(error.message().contains("runtime"), "{error}");
    let error = MetadataGrpcClient::connect_lazy("localhost", PATIENCE).unwrap_err();
    assert!(error.message().contains("host:port"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_abandoned_calls_do_not_cost_the_connection() {
    let recorder = Arc::new(Recorder::default());
    recorder.hang.store(true, Ordering::SeqCst);
    let server = serve(&recorder).await;
    let client = client(server.address);
    for _ in 0..3000 {
        let call = client.statfs(identity());
        let _ = tokio::time::timeout(Duration::from_micros(50), call).await;
    }
    recorder.hang.store(false, Ordering::SeqCst);
    client.statfs(identity()).await.unwrap();
    drop(client);
    server.stop().await;
}
