use super::*;
use crate::cluster::placement::{Placement, Replication};
use crate::lock::LockTable;
use crate::namespace::{self, OpenFiles, read, txn::Txn};
use crate::session::table::RESUME;
use crate::store::memory::MemoryStore;
use crate::store::{MetaRead, WriteBatch, fjall::FjallStore};
use crate::stored;
use dfs_common::clock::ManualClock;
use dfs_common::limits::{SESSION_LEASE, SESSION_REPLIES_MAX};
use dfs_common::op::{NumberedOp, OpReply, Operation};
use dfs_common::session::{Caller, OpenDeclaration};
use dfs_common::{DiskIncarnation, Name, OpNumber, SessionEpoch};
use parking_lot::Condvar;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::ThreadId;
use std::time::Duration;

/// A store whose commits can be held up, counted and failed.
struct Probe {
    inner: Arc<dyn MetaStore>,
    commits: AtomicUsize,
    unsynced: AtomicUsize,
    unsynced_by: Mutex<Vec<ThreadId>>,
    persists: AtomicUsize,
    fail: AtomicBool,
    held: Mutex<bool>,
    released: Condvar,
}

impl Probe {
    fn new(inner: Arc<dyn MetaStore>) -> Arc<Self> {
        Arc::new(Probe {
            inner,
            commits: AtomicUsize::new(0),
            unsynced: AtomicUsize::new(0),
            unsynced_by: Mutex::default(),
            persists: AtomicUsize::new(0),
            fail: AtomicBool::new(false),
            held: Mutex::new(false),
            released: Condvar::new(),
        })
    }
    fn hold(&self, held: bool) {
        *self.held.lock() = held;
        self.released.notify_all();
    }
}

impl MetaRead for Probe {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        self.inner.get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        self.inner.scan(start, end, limit)
    }
}

impl MetaStore for Probe {
    fn commit(&self, batch: WriteBatch) -> FsResult<()> {
        self.commits.fetch_add(1, Ordering::SeqCst);
        let mut held = self.held.lock();
        self.released.wait_while(&mut held, |held| *held);
        if self.fail.load(Ordering::SeqCst) {
            return Err(FsError::new(ErrorKind::NoSpace, "the disk is full"));
        }
        self.inner.commit(batch)
    }
    fn commit_unsynced(&self, batch: WriteBatch) -> FsResult<()> {
        self.unsynced.fetch_add(1, Ordering::SeqCst);
        self.unsynced_by.lock().push(std::thread::current().id());
        self.inner.commit_unsynced(batch)
    }
    fn persist(&self) -> FsResult<()> {
        self.persists.fetch_add(1, Ordering::SeqCst);
        if self.fail.load(Ordering::SeqCst) {
            return Err(FsError::new(ErrorKind::Io, "the disk is gone"));
        }
        self.inner.persist()
    }
    fn snapshot(&self) -> FsResult<Box<dyn MetaRead>> {
        self.inner.snapshot()
    }
    fn kind(&self) -> &'static str {
        "probe"
    }
}

struct Rig {
    clock: Arc<ManualClock>,
    store: Arc<Probe>,
    sessions: Arc<SessionTable>,
    opens: Arc<OpenTable>,
    cluster: Arc<ClusterState>,
    placement: Arc<Placement>,
    progress: Arc<persistence::Progress>,
    applier: Applier,
}

impl Rig {
    fn memory() -> Rig {
        Rig::over(Arc::new(MemoryStore::default()))
    }

    fn fjall(dir: &Path) -> Rig {
        Rig::over(Arc::new(FjallStore::open(dir, 1 << 20).unwrap()))
    }

    fn over(inner: Arc<dyn MetaStore>) -> Rig {
        Rig::with_reserve(inner, 0)
    }

    fn with_reserve(inner: Arc<dyn MetaStore>, reserve_bytes: u64) -> Rig {
        if namespace::check_schema(&*inner).is_err() {
            let mut txn = Txn::new(&*inner);
            namespace::initialize(&mut txn, Default::default()).unwrap();
            inner.commit(txn.into_batch()).unwrap();
        }
        let clock = Arc::new(ManualClock::default());
        let store = Probe::new(inner);
        let sessions = Arc::new(SessionTable::new(clock.clone()));
        let opens = Arc::new(OpenTable::default());
        let locks = Arc::new(LockTable::default());
        for (session, record) in stored::sessions(&*store).unwrap() {
            let secret = stored::session_secret(&record).unwrap();
            sessions.insert_grace(session, SessionEpoch(record.epoch), secret);
            opens.begin_grace(session);
            locks.begin_grace(session);
        }
        let cluster = Arc::new(ClusterState::new(clock.clone(), 1));
        for node in stored::nodes(&*store).unwrap() {
            cluster.load_node(node.uuid, node.secret, node.info);
        }
        for group in stored::groups(&*store).unwrap() {
            cluster.put_group(group);
        }
        let replication = Replication {
            factor: 3,
            floor: 2,
            chunk_bytes: 8 << 20,
        };
        let placement = Arc::new(Placement::new(cluster.clone(), replication));
        let persistence = Persistence::open(&*store, 1, clock.clone()).unwrap();
        let progress = persistence.progress();
        let applier = Applier::start(ApplierParts {
            store: store.clone(),
            persistence,
            clock: clock.clone(),
            reserve: DiskReserve::new(std::env::temp_dir(), reserve_bytes),
            sessions: sessions.clone(),
            opens: opens.clone(),
            locks,
            cluster: cluster.clone(),
            placement: placement.clone(),
            capability_key: CapabilityKey([7; 32]),
            cluster_id: ClusterId(uuid::Uuid::nil()),
            chunk_bytes: 8 << 20,
            replication: 3,
            replication_floor: 2,
        })
        .unwrap();
        Rig {
            clock,
            store,
            sessions,
            opens,
            cluster,
            placement,
            progress,
            applier,
        }
    }

    async fn session(&self) -> Identity {
        let request = OpenSession {
            client_name: "test".to_string(),
            resume: None,
            opened: Vec::new(),
            unsynced: None,
            locks: Default::default(),
            leases: false,
        };
        let secret = SessionSecret(rand::random());
        self.applier.open_session(request, secret).await.unwrap().identity
    }

    async fn resume(&self, identity: Identity, opened: Vec<OpenDeclaration>) -> FsResult<SessionGrant> {
        let request = OpenSession {
            client_name: "test".to_string(),
            resume: Some(identity),
            opened,
            unsynced: None,
            locks: Default::default(),
            leases: false,
        };
        self.applier.open_session(request, SessionSecret([0; 16])).await
    }

    async fn one(&self, identity: Identity, number: u64, op: Operation) -> OpResult {
        let batch = batch(&[(number, op)], 0);
        self.applier.mutate(identity, batch).await.unwrap().0.remove(0)
    }

    fn names(&self) -> Vec<String> {
        let page = read::readdir(&*self.store, &Caller::root(), Ino::ROOT, 0, 1000, false).unwrap();
        page.entries.iter().map(|entry| entry.name.to_string()).collect()
    }

    async fn add_nodes(&self, count: u8) {
        for id in 1..=count {
            self.applier.register_node(registration(id)).await.unwrap();
        }
        let missing = self.placement.missing_groups();
        self.applier.create_groups(missing).await.unwrap();
    }

    /// Passes time as the expiry worker sees it, ends what is due.
    async fn pass(&self, secs: u64) {
        for _ in 0..secs {
            self.clock.advance(Duration::from_secs(1));
            for session in self.sessions.expire_due() {
                self.applier.end_session(session).await.unwrap();
            }
        }
    }

    async fn stop(self) {
        self.applier.stop().await;
    }
}

fn registration(id: u8) -> NodeRegistration {
    NodeRegistration {
        uuid: format!("uuid-{id}"),
        secret: [id; 16],
        address: format!("127.0.0.1:{id}"),
        load: NodeLoad {
            disk: DiskIncarnation(1),
            capacity_bytes: 100 << 30,
            used_bytes: 0,
            available_bytes: 90 << 30,
            chunks: 0,
            writable: true,
        },
    }
}

fn name(text: &str) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

fn mkdir(text: &str) -> Operation {
    Operation::Mkdir {
        parent: Ino::ROOT,
        name: name(text),
        mode: 0o755,
    }
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

fn unlink(text: &str) -> Operation {
    Operation::Unlink {
        parent: Ino::ROOT,
        name: name(text),
    }
}

fn batch(ops: &[(u64, Operation)], acknowledged_below: u64) -> MutationBatch {
    MutationBatch {
        ops: ops
            .iter()
            .map(|(number, op)| NumberedOp {
                number: OpNumber(*number),
                caller: Caller::root(),
                op: op.clone(),
            })
            .collect(),
        acknowledged_below: OpNumber(acknowledged_below),
        stop_on_error: false,
        durable: false,
    }
}

fn kind<T: std::fmt::Debug>(result: &FsResult<T>) -> ErrorKind {
    result.as_ref().unwrap_err().kind()
}

fn created_ino(result: &OpResult) -> Ino {
    match result {
        Ok(OpReply::Created { entry, .. }) => entry.attr.ino,
        other => panic!("not created: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_gets_the_first_reply_and_is_not_applied_again() {
    let rig = Rig::memory();
    let me = rig.session().await;
    let first = rig.one(me, 1, mkdir("d")).await;
    assert!(first.is_ok());
    assert_eq!(rig.one(me, 1, mkdir("d")).await, first);
    let second = rig.one(me, 2, mkdir("d")).await;
    assert_eq!(kind(&second), ErrorKind::Exists);
    // A failure is a reply too: it stays although the name is free by now.
    rig.one(
        me,
        3,
        Operation::Rmdir {
            parent: Ino::ROOT,
            name: name("d"),
        },
    )
    .await
    .unwrap();
    assert_eq!(rig.one(me, 2, mkdir("d")).await, second);
    assert_eq!(rig.one(me, 1, mkdir("d")).await, first);
    assert!(rig.names().is_empty());
    // Another session's numbers are its own.
    let other = rig.session().await;
    assert!(rig.one(other, 1, mkdir("e")).await.is_ok());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_operation_is_stale_and_never_executed_again() {
    let rig = Rig::memory();
    let me = rig.session().await;
    for number in 1..=200 {
        rig.one(me, number, mkdir(&format!("{number}"))).await.unwrap();
    }
    let late = batch(&[(300, mkdir("late"))], 150);
    rig.applier.mutate(me, late).await.unwrap();
    let replies = || {
        let (start, end) = namespace::keys::replies(me.session);
        rig.store.scan(&start, &end, 1000).unwrap().len()
    };
    assert_eq!(replies(), 52, "replies below 150 were deleted, the others stay");
    rig.one(
        me,
        301,
        Operation::Rmdir {
            parent: Ino::ROOT,
            name: name("7"),
        },
    )
    .await
    .unwrap();
    assert_eq!(kind(&rig.one(me, 7, mkdir("7")).await), ErrorKind::StaleOperation);
    assert!(
        rig.one(me, 150, mkdir("150")).await.is_ok(),
        "not acknowledged: the first reply"
    );
    assert!(!rig.names().contains(&"7".to_string()));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_reply_table_refuses_and_forgets_nothing() {
    let rig = Rig::memory();
    let me = rig.session().await;
    let all: Vec<(u64, Operation)> = (1..=SESSION_REPLIES_MAX as u64)
        .map(|n| (n, unlink("none")))
        .collect();
    for part in all.chunks(1024) {
        rig.applier.mutate(me, batch(part, 0)).await.unwrap();
    }
    let next = SESSION_REPLIES_MAX as u64 + 1;
    assert_eq!(kind(&rig.one(me, next, mkdir("d")).await), ErrorKind::Busy);
    assert_eq!(
        kind(&rig.one(me, 1, mkdir("d")).await),
        ErrorKind::NotFound,
        "the first reply is still there"
    );
    assert!(rig.names().is_empty());
    let after = batch(&[(next, mkdir("d"))], 10);
    assert!(rig.applier.mutate(me, after).await.unwrap().0[0].is_ok());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiting_batches_share_one_commit() {
    let rig = Rig::memory();
    let me = rig.session().await;
    let before = rig.store.commits.load(Ordering::SeqCst);
    rig.store.hold(true);
    let calls: Vec<_> = (1..=100)
        .map(|number| {
            rig.applier
                .mutate(me, batch(&[(number, mkdir(&format!("{number}")))], 0))
        })
        .collect();
    let all = futures::future::join_all(calls);
    let release = async {
        // The first group is in its commit: whatever was sent meanwhile waits for the next.
        while rig.store.commits.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        rig.store.hold(false);
    };
    let (results, ()) = tokio::join!(all, release);
    assert!(results.iter().all(|result| result.as_ref().unwrap().0[0].is_ok()));
    let commits = rig.store.commits.load(Ordering::SeqCst) - before;
    assert!(commits <= 10, "{commits} commits for 100 batches");
    assert_eq!(rig.names().len(), 100);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_operation_leaves_nothing_and_the_rest_of_its_group_applies() {
    let rig = Rig::memory();
    let me = rig.session().await;
    let ops = [
        (1, mkdir("a")),
        (2, mkdir("a")),
        (3, unlink("none")),
        (4, mkdir("b")),
    ];
    let (results, _) = rig.applier.mutate(me, batch(&ops, 0)).await.unwrap();
    assert!(results[0].is_ok() && results[3].is_ok());
    assert_eq!(
        (kind(&results[1]), kind(&results[2])),
        (ErrorKind::Exists, ErrorKind::NotFound)
    );
    assert_eq!(rig.names(), ["a", "b"]);

    let mut stopping = batch(&[(5, mkdir("c")), (6, mkdir("a")), (7, mkdir("d"))], 0);
    stopping.stop_on_error = true;
    let (results, _) = rig.applier.mutate(me, stopping.clone()).await.unwrap();
    assert_eq!(
        (kind(&results[1]), kind(&results[2])),
        (ErrorKind::Exists, ErrorKind::BatchAborted)
    );
    assert_eq!(rig.applier.mutate(me, stopping).await.unwrap().0, results);
    assert_eq!(rig.names(), ["a", "b", "c"]);

    for bad in [batch(&[], 0), batch(&[(9, mkdir("x")), (9, mkdir("y"))], 0)] {
        assert_eq!(kind(&rig.applier.mutate(me, bad).await), ErrorKind::Invalid);
    }
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_commit_acknowledges_nobody_and_stops_all_writing() {
    let rig = Rig::memory();
    let me = rig.session().await;
    let before = rig.store.commits.load(Ordering::SeqCst);
    rig.store.hold(true);
    rig.store.fail.store(true, Ordering::SeqCst);
    let calls = (1..=20).map(|number| {
        rig.applier
            .mutate(me, batch(&[(number, mkdir(&format!("{number}")))], 0))
    });
    let all = futures::future::join_all(calls);
    let release = async {
        while rig.store.commits.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        rig.store.hold(false);
    };
    let (results, ()) = tokio::join!(all, release);
    for result in results {
        assert_eq!(kind(&result), ErrorKind::Io);
    }
    rig.store.fail.store(false, Ordering::SeqCst);
    assert_eq!(
        kind(&rig.applier.mutate(me, batch(&[(21, mkdir("x"))], 0)).await),
        ErrorKind::Io
    );
    assert_eq!(rig.store.commits.load(Ordering::SeqCst), before + 1);
    assert_eq!(rig.applier.failed().await.kind(), ErrorKind::Io);
    assert!(rig.names().is_empty());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn passing_failure_leaves_the_number_free() {
    let rig = Rig::memory();
    let me = rig.session().await;
    let grant = Operation::GrantChunks { count: 3 };
    assert_eq!(kind(&rig.one(me, 1, grant.clone()).await), ErrorKind::Unavailable);
    rig.add_nodes(3).await;
    let Ok(OpReply::Chunks(chunks)) = rig.one(me, 1, grant.clone()).await else {
        panic!("not granted");
    };
    assert_eq!(chunks.len(), 3);
    assert_eq!(rig.one(me, 1, grant).await, Ok(OpReply::Chunks(chunks)));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_session_s_owner_mutates() {
    let rig = Rig::memory();
    let me = rig.session().await;
    let wrong_secret = Identity {
        secret: SessionSecret([9; 16]),
        ..me
    };
    let wrong_epoch = Identity {
        epoch: SessionEpoch(me.epoch.0 + 1),
        ..me
    };
    let unknown = Identity {
        session: SessionId(77),
        ..me
    };
    for identity in [wrong_secret, wrong_epoch, unknown] {
        let result = rig.applier.mutate(identity, batch(&[(1, mkdir("d"))], 0)).await;
        assert_eq!(kind(&result), ErrorKind::SessionFenced);
        assert_eq!(
            kind(&rig.resume(identity, vec![]).await),
            ErrorKind::SessionFenced
        );
    }
    assert!(rig.names().is_empty());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_keeps_sessions_replies_nodes_and_groups() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::fjall(dir.path());
    let me = rig.session().await;
    rig.add_nodes(3).await;
    let first = rig.one(me, 1, mkdir("d")).await;
    let granted = rig.one(me, 2, Operation::GrantChunks { count: 2 }).await;
    let groups = rig.cluster.groups();
    assert_eq!(groups.len(), 3);
    rig.stop().await;

    let rig = Rig::fjall(dir.path());
    assert_eq!(rig.names(), ["d"]);
    assert_eq!(rig.cluster.groups(), groups);
    assert_eq!(rig.cluster.nodes().len(), 3);
    let refused = rig
        .applier
        .mutate(me, batch(&[(1, mkdir("d"))], 0))
        .await
        .unwrap_err();
    assert_eq!(
        (refused.kind(), refused.message()),
        (ErrorKind::SessionFenced, RESUME)
    );
    let grant = rig.resume(me, vec![]).await.unwrap();
    assert_eq!(grant.identity, me, "same session, secret and epoch");
    assert_eq!(rig.one(me, 1, mkdir("d")).await, first);
    assert_eq!(rig.one(me, 2, Operation::GrantChunks { count: 2 }).await, granted);
    let more = rig.one(me, 3, Operation::GrantChunks { count: 2 }).await;
    assert_eq!(
        kind(&more),
        ErrorKind::Unavailable,
        "no datanode was heard of yet"
    );
    let other = rig.session().await;
    assert_ne!(other.session, me.session);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_numbers_are_never_reused() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::fjall(dir.path());
    let first = rig.session().await;
    rig.sessions.begin_end(first.session);
    rig.applier.end_session(first.session).await.unwrap();
    rig.stop().await;
    let rig = Rig::fjall(dir.path());
    assert!(rig.session().await.session > first.session);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_file_outlives_its_name_until_the_last_holder_ends() {
    let rig = Rig::memory();
    let (owner, other) = (rig.session().await, rig.session().await);
    let ino = created_ino(&rig.one(owner, 1, create("f")).await);
    assert!(rig.opens.is_open(owner.session, ino, true));
    rig.one(owner, 1, create("f")).await.unwrap();
    assert_eq!(
        rig.opens.count(owner.session, ino).count,
        1,
        "a retry does not open again"
    );
    rig.one(other, 1, unlink("f")).await.unwrap();
    assert_eq!(read::getattr(&*rig.store, ino).unwrap().nlink, 0);
    rig.applier.release_orphan(owner.session, ino).await.unwrap();
    assert!(read::getattr(&*rig.store, ino).is_ok(), "it is still open");
    rig.pass(SESSION_LEASE.as_secs() + 2).await;
    assert_eq!(kind(&read::getattr(&*rig.store, ino)), ErrorKind::Stale);
    assert_eq!(rig.sessions.count(), 0);
    let (start, end) = namespace::keys::sessions();
    assert!(rig.store.scan(&start, &end, 10).unwrap().is_empty());
    let late = rig.applier.mutate(owner, batch(&[(2, mkdir("late"))], 0)).await;
    assert_eq!(kind(&late), ErrorKind::SessionFenced);
    assert_eq!(kind(&rig.resume(owner, vec![]).await), ErrorKind::SessionFenced);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_unresumed_sessions_hold_everything() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::fjall(dir.path());
    let (holder, gone, other) = (rig.session().await, rig.session().await, rig.session().await);
    let held = created_ino(&rig.one(holder, 1, create("held")).await);
    let lost = created_ino(&rig.one(holder, 2, create("lost")).await);
    created_ino(&rig.one(gone, 1, create("gone")).await);
    rig.stop().await;

    let rig = Rig::fjall(dir.path());
    rig.resume(other, vec![]).await.unwrap();
    for (number, text) in [(1, "held"), (2, "lost")] {
        rig.one(other, number, unlink(text)).await.unwrap();
    }
    let declared = OpenDeclaration {
        ino: held,
        read: true,
        write: true,
        pages: false,
        buffer: false,
    };
    rig.resume(holder, vec![declared]).await.unwrap();
    assert!(rig.opens.is_open(holder.session, held, true));
    assert!(
        read::getattr(&*rig.store, lost).is_ok(),
        "another session may still hold it"
    );
    for _ in 0..5 {
        rig.pass(5).await;
        for identity in [holder, other] {
            rig.sessions.renew(&identity).unwrap();
        }
    }
    assert_eq!(rig.sessions.count(), 2, "the one that did not resume expired");
    assert_eq!(kind(&read::getattr(&*rig.store, lost)), ErrorKind::Stale);
    assert!(read::getattr(&*rig.store, held).is_ok());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn create_that_is_retried_after_a_restart_is_open() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::fjall(dir.path());
    let me = rig.session().await;
    let ino = created_ino(&rig.one(me, 1, create("f")).await);
    rig.stop().await;
    let rig = Rig::fjall(dir.path());
    rig.resume(me, vec![]).await.unwrap();
    assert!(!rig.opens.is_open(me.session, ino, false));
    assert_eq!(created_ino(&rig.one(me, 1, create("f")).await), ino);
    assert_eq!(rig.opens.count(me.session, ino).count, 1);
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_keeps_its_number_and_needs_its_secret() {
    let dir = tempfile::tempdir().unwrap();
    let rig = Rig::fjall(dir.path());
    rig.add_nodes(2).await;
    let again = NodeRegistration {
        address: "elsewhere:1".to_string(),
        ..registration(2)
    };
    assert_eq!(rig.applier.register_node(again).await.unwrap(), NodeId(2));
    let thief = NodeRegistration {
        secret: [9; 16],
        ..registration(2)
    };
    assert_eq!(
        kind(&rig.applier.register_node(thief).await),
        ErrorKind::Unauthenticated
    );
    rig.stop().await;
    let rig = Rig::fjall(dir.path());
    assert_eq!(rig.cluster.nodes()[1].address, "elsewhere:1");
    assert_eq!(
        rig.applier.register_node(registration(3)).await.unwrap(),
        NodeId(3)
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nearly_full_disk_refuses_what_adds_and_lets_the_rest_go_on() {
    let inner: Arc<dyn MetaStore> = Arc::new(MemoryStore::default());
    let rig = Rig::over(inner.clone());
    let me = rig.session().await;
    rig.one(me, 1, create("file")).await.unwrap();
    rig.one(me, 2, create("other")).await.unwrap();
    rig.stop().await;

    let rig = Rig::with_reserve(inner.clone(), u64::MAX);
    rig.resume(me, Vec::new()).await.unwrap();
    assert_eq!(kind(&rig.one(me, 3, mkdir("d")).await), ErrorKind::NoSpace);
    assert_eq!(kind(&rig.one(me, 4, create("new")).await), ErrorKind::NoSpace);
    // What was answered before is answered again, and room can be made.
    assert!(rig.one(me, 1, create("file")).await.is_ok());
    rig.one(me, 5, unlink("file")).await.unwrap();
    assert_eq!(rig.names(), ["other"]);
    rig.applier.check().unwrap();
    rig.stop().await;

    // The refused number was not used up.
    let rig = Rig::over(inner);
    rig.resume(me, Vec::new()).await.unwrap();
    rig.one(me, 3, mkdir("d")).await.unwrap();
    assert_eq!(rig.names().len(), 2);
    rig.stop().await;
}

fn relaxed() -> Durability {
    Durability::relaxed(Durability::DELAY_DEFAULT).unwrap()
}

fn count(counter: &AtomicUsize) -> usize {
    counter.load(Ordering::SeqCst)
}

#[tokio::test]
async fn relaxed_changes_are_answered_unsynced_and_what_others_act_upon_is_not() {
    let rig = Rig::memory();
    let me = rig.session().await;
    rig.applier.set_durability(relaxed()).await.unwrap();
    let send = |number, op| rig.applier.mutate(me, batch(&[(number, op)], 0));
    let commits = count(&rig.store.commits);
    let (_, point) = send(2, mkdir("b")).await.unwrap();
    assert!(!point.is_durable() && !rig.progress.point().is_durable());
    assert_eq!(
        (count(&rig.store.commits), count(&rig.store.unsynced)),
        (commits, 1)
    );
    // A retry finds the stored reply, which is not durable yet either.
    let (results, point) = send(2, mkdir("b")).await.unwrap();
    assert!(results[0].is_ok() && !point.is_durable());

    rig.applier.barrier().await.unwrap();
    assert!(rig.progress.point().is_durable());
    assert_eq!(count(&rig.store.persists), 1);
    rig.applier.barrier().await.unwrap();
    assert_eq!(count(&rig.store.persists), 1, "nothing was left to sync");

    send(3, mkdir("c")).await.unwrap();
    let durable = MutationBatch {
        durable: true,
        ..batch(&[(4, mkdir("d"))], 0)
    };
    assert!(rig.applier.mutate(me, durable).await.unwrap().1.is_durable());
    send(5, mkdir("e")).await.unwrap();
    rig.add_nodes(3).await;
    assert!(rig.progress.point().is_durable(), "registrations are durable");
    send(6, mkdir("f")).await.unwrap();
    let (granted, point) = send(7, Operation::GrantChunks { count: 1 }).await.unwrap();
    assert!(granted[0].is_ok() && point.is_durable(), "{granted:?}");
    send(8, mkdir("g")).await.unwrap();
    rig.session().await;
    assert!(rig.progress.point().is_durable(), "sessions are durable");

    send(9, mkdir("h")).await.unwrap();
    rig.applier.set_durability(Durability::Sync).await.unwrap();
    assert!(send(10, mkdir("i")).await.unwrap().1.is_durable());
    rig.stop().await;
}

#[tokio::test]
async fn persister_syncs_what_is_as_old_as_the_delay() {
    use crate::worker::Worker;
    let rig = Rig::memory();
    let me = rig.session().await;
    rig.applier.set_durability(relaxed()).await.unwrap();
    rig.applier
        .mutate(me, batch(&[(1, mkdir("a"))], 0))
        .await
        .unwrap();
    let (progress, clock) = (rig.progress.clone(), rig.clock.clone());
    let applier = Arc::new(rig.applier);
    let persister = persistence::Persister::new(progress.clone(), applier.clone());
    let create = |number| applier.mutate(me, batch(&[(number, mkdir(&format!("{number}")))], 0));
    create(2).await.unwrap();
    assert_eq!(persister.step().await, Duration::from_millis(100));
    clock.advance(Duration::from_millis(60));
    create(3).await.unwrap();
    assert_eq!(
        persister.step().await,
        Duration::from_millis(40),
        "the oldest counts"
    );
    assert!(!progress.point().is_durable());
    clock.advance(Duration::from_millis(40));
    persister.step().await;
    assert!(progress.point().is_durable());
    assert_eq!(
        persister.status(),
        "relaxed (100 ms): 0 commits are not durable yet, 1 syncs"
    );
    applier.stop().await;
}

#[tokio::test]
async fn failed_sync_stops_everything() {
    let rig = Rig::memory();
    let me = rig.session().await;
    rig.applier.set_durability(relaxed()).await.unwrap();
    let unsynced = rig
        .applier
        .mutate(me, batch(&[(1, mkdir("1"))], 0))
        .await
        .unwrap();
    assert!(!unsynced.1.is_durable());
    rig.store.fail.store(true, Ordering::SeqCst);
    assert_eq!(kind(&rig.applier.barrier().await), ErrorKind::Io);
    rig.store.fail.store(false, Ordering::SeqCst);
    let later = rig.applier.mutate(me, batch(&[(3, mkdir("3"))], 0)).await;
    assert_eq!(kind(&later), ErrorKind::Io);
    assert_eq!(kind(&rig.applier.barrier().await), ErrorKind::Io);
    assert!(!rig.progress.point().is_durable());
    rig.stop().await;
}

#[tokio::test]
async fn caller_writes_by_itself_unless_somebody_writes_or_it_must_be_synced() {
    let rig = Rig::memory();
    let me = rig.session().await;
    rig.applier.set_durability(relaxed()).await.unwrap();
    let here = std::thread::current().id();
    let send = |number, ops: u64| {
        let ops: Vec<_> = (0..ops)
            .map(|n| (number + n, mkdir(&format!("{}", number + n))))
            .collect();
        let batch = batch(&ops, 0);
        async {
            // The thread answers before it rests.
            while rig.applier.writer.is_busy() && !*rig.store.held.lock() {
                tokio::task::yield_now().await;
            }
            rig.applier.mutate(me, batch).await.unwrap()
        }
    };
    send(1, 1).await;
    assert_eq!(*rig.store.unsynced_by.lock(), [here]);
    // Much work is for the thread.
    send(100, 17).await;
    assert_ne!(rig.store.unsynced_by.lock()[1], here);

    // While the thread is in a commit, others queue for the next.
    rig.store.hold(true);
    let commits = count(&rig.store.commits);
    let held = async { rig.session().await };
    let queued = async {
        while count(&rig.store.commits) == commits {
            tokio::task::yield_now().await;
        }
        let release = async {
            tokio::task::yield_now().await;
            rig.store.hold(false);
        };
        tokio::join!(send(200, 1), release);
    };
    tokio::join!(held, queued);
    assert_ne!(rig.store.unsynced_by.lock()[2], here);
    send(300, 1).await;
    assert_eq!(rig.store.unsynced_by.lock()[3], here);
    rig.stop().await;
}
