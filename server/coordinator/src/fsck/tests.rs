use super::*;
use crate::applier::NodeRegistration;
use crate::cluster::state::NodeLoad;
use crate::config::{CoordinatorConfig, StoreKind};
use crate::namespace::dentry;
use crate::namespace::keys;
use crate::store::WriteBatch;
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::capability::ChunkCapability;
use dfs_common::chunk::ChunkDescription;
use dfs_common::clock::ManualClock;
use dfs_common::extent::{CommittedChunk, Extent, ExtentData, Receipt};
use dfs_common::limits::{CHUNK_STATS_MAX, NODE_DOWN};
use dfs_common::op::{CommitWrite, MutationBatch, NumberedOp, OpReply, OpResult, Operation};
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkService, ChunkWritten, WriteChunk};
use dfs_common::session::{Caller, Identity, OpenSession, SessionSecret};
use dfs_common::{ChunkId, DiskIncarnation, Name, NodeId, OpNumber, SessionEpoch, SetAttr, Timestamp};
use futures::stream::BoxStream;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Datanodes that have what they are told to have, by address.
#[derive(Default)]
struct Nodes {
    chunks: Mutex<BTreeMap<String, BTreeMap<ChunkId, [u8; 32]>>>,
    failing: Mutex<BTreeSet<String>>,
    asked: AtomicU64,
    questions: AtomicU64,
    /// They know no questions for many chunks.
    is_old: AtomicBool,
    /// Done when a datanode is asked for the first time.
    first: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

struct Connector(Arc<Nodes>);

struct Node {
    nodes: Arc<Nodes>,
    address: String,
}

impl ChunkConnector for Connector {
    fn chunk_service(&self, address: &str) -> FsResult<Arc<dyn ChunkService>> {
        Ok(Arc::new(Node {
            nodes: self.0.clone(),
            address: address.to_string(),
        }))
    }
}

#[async_trait]
impl ChunkService for Node {
    async fn write_chunk(&self, _: WriteChunk) -> FsResult<ChunkWritten> {
        Err(ErrorKind::NotSupported.into())
    }
    async fn read_chunk(
        &self,
        _: ChunkCapability,
        _: u64,
        _: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        Err(ErrorKind::NotSupported.into())
    }
    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription> {
        self.nodes.asked.fetch_add(1, Ordering::Relaxed);
        if let Some(first) = self.nodes.first.lock().take() {
            first();
        }
        if self.nodes.failing.lock().contains(&self.address) {
            return Err(ErrorKind::TimedOut.into());
        }
        let chunks = self.nodes.chunks.lock();
        let sha256 = chunks
            .get(&self.address)
            .and_then(|chunks| chunks.get(&capability.chunk));
        Ok(ChunkDescription {
            chunk: capability.chunk,
            ino: Ino(1),
            file_offset: 0,
            length: 100,
            epoch: SessionEpoch(1),
            sha256: *sha256.ok_or(ErrorKind::NotFound)?,
        })
    }
    async fn stat_chunks(
        &self,
        capabilities: Vec<ChunkCapability>,
    ) -> FsResult<Vec<FsResult<ChunkDescription>>> {
        self.nodes.questions.fetch_add(1, Ordering::Relaxed);
        if self.nodes.is_old.load(Ordering::Relaxed) {
            return Err(ErrorKind::UnknownVersion.into());
        }
        let mut described = Vec::new();
        for capability in capabilities {
            described.push(self.stat_chunk(capability).await);
        }
        match self.nodes.failing.lock().contains(&self.address) {
            true => Err(ErrorKind::TimedOut.into()),
            false => Ok(described),
        }
    }
    async fn delete_chunk(&self, _: ChunkCapability) -> FsResult<()> {
        Err(ErrorKind::NotSupported.into())
    }
}

fn address(node: u32) -> String {
    format!("127.0.0.1:{}", 9000 + node)
}

struct Rig {
    core: Arc<Core>,
    clock: Arc<ManualClock>,
    nodes: Arc<Nodes>,
    me: Identity,
    number: AtomicU64,
    _dir: tempfile::TempDir,
}

impl Rig {
    /// Three nodes, one session.
    async fn start() -> Rig {
        let dir = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        clock.advance(Duration::from_secs(1000));
        let mut config = CoordinatorConfig::new(dir.path(), SocketAddr::from(([127, 0, 0, 1], 0)));
        config.store = StoreKind::Memory;
        let core = Core::open(&config, clock.clone()).unwrap();
        for node in 1..=3u32 {
            let load = NodeLoad {
                disk: DiskIncarnation(1),
                capacity_bytes: 100 << 30,
                used_bytes: 0,
                available_bytes: 90 << 30,
                chunks: 0,
                writable: true,
            };
            let registration = NodeRegistration {
                uuid: format!("uuid-{node}"),
                secret: [node as u8; 16],
                address: address(node),
                load,
            };
            core.applier.register_node(registration).await.unwrap();
        }
        core.groups.make_missing().await.unwrap();
        let request = OpenSession {
            client_name: "test".to_string(),
            resume: None,
            opened: vec![],
            unsynced: None,
            locks: Default::default(),
            leases: false,
        };
        let grant = core.applier.open_session(request, SessionSecret([1; 16])).await;
        Rig {
            core: Arc::new(core),
            clock,
            nodes: Arc::default(),
            me: grant.unwrap().identity,
            number: AtomicU64::new(1),
            _dir: dir,
        }
    }

    async fn apply(&self, op: Operation) -> OpResult {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let batch = MutationBatch {
            ops: vec![NumberedOp {
                number: OpNumber(number),
                caller: Caller::root(),
                op,
            }],
            acknowledged_below: OpNumber(number),
            stop_on_error: false,
            durable: false,
        };
        let applied = self.core.applier.mutate(self.me, batch).await;
        applied.unwrap().0.remove(0)
    }

    async fn create(&self, parent: Ino, text: &str) -> Ino {
        let create = Operation::Create {
            parent,
            name: name(text),
            mode: 0o644,
            exclusive: true,
            read: true,
            write: true,
        };
        match self.apply(create).await {
            Ok(OpReply::Created { entry, .. }) => entry.attr.ino,
            other => panic!("{other:?}"),
        }
    }

    async fn mkdir(&self, parent: Ino, text: &str) -> Ino {
        let mkdir = Operation::Mkdir {
            parent,
            name: name(text),
            mode: 0o755,
        };
        match self.apply(mkdir).await {
            Ok(OpReply::Entry(entry)) => entry.attr.ino,
            other => panic!("{other:?}"),
        }
    }

    /// A file with one chunk, on these of the nodes; all of them give receipts.
    async fn file_on(&self, parent: Ino, text: &str, on: &[u32]) -> ChunkId {
        let ino = self.create(parent, text).await;
        let Ok(OpReply::Chunks(granted)) = self.apply(Operation::GrantChunks { count: 1 }).await else {
            panic!("not granted");
        };
        let chunk = granted[0].chunk;
        let receipt = |node| Receipt {
            node: NodeId(node),
            disk: DiskIncarnation(1),
            sha256: [9; 32],
            length: 100,
        };
        let commit = CommitWrite {
            ino,
            extents: vec![Extent {
                offset: 0,
                length: 100,
                data: ExtentData::Chunk {
                    chunk,
                    chunk_offset: 0,
                },
            }],
            chunks: vec![CommittedChunk {
                chunk,
                receipts: vec![receipt(1), receipt(2), receipt(3)],
            }],
            append: false,
            mtime: Timestamp::default(),
            clear_setid: false,
        };
        // As an upload does: durable before it is committed.
        for node in on {
            let mut chunks = self.nodes.chunks.lock();
            chunks.entry(address(*node)).or_default().insert(chunk, [9; 32]);
        }
        self.apply(Operation::CommitWrite(commit)).await.unwrap();
        chunk
    }

    /// Runs a check; answers what was told and what it came to.
    async fn fsck(&self, options: Options) -> (Vec<Event>, FsResult<Summary>) {
        let (sender, mut receiver) = mpsc::channel(4);
        let connector = Arc::new(Connector(self.nodes.clone()));
        let checking = run(
            self.core.clone(),
            connector,
            options,
            CancellationToken::new(),
            sender,
        );
        let listening = async {
            let mut events = Vec::new();
            while let Some(event) = receiver.recv().await {
                events.push(event);
            }
            events
        };
        let (summary, events) = tokio::join!(checking, listening);
        (events, summary)
    }

    fn damage(&self, changes: Vec<(Bytes, Option<Bytes>)>) {
        self.core.store.commit(WriteBatch { changes }).unwrap();
    }
}

fn name(text: &str) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

const REPAIR: Options = Options {
    repair: true,
    skip_chunks: true,
};

#[tokio::test(flavor = "multi_thread")]
async fn lost_degraded_and_unknown_chunks_are_told_apart_and_lost_files_named() {
    let rig = Rig::start().await;
    let above = rig.mkdir(Ino::ROOT, "above").await;
    let below = rig.mkdir(above, "below").await;
    rig.file_on(Ino::ROOT, "whole", &[1, 2, 3]).await;
    rig.file_on(Ino::ROOT, "degraded", &[2]).await;
    rig.file_on(below, "lost", &[]).await;
    // Other bytes under its id are not its content.
    let damaged = rig.file_on(above, "damaged", &[]).await;
    rig.nodes
        .chunks
        .lock()
        .entry(address(1))
        .or_default()
        .insert(damaged, [1; 32]);
    let (events, summary) = rig.fsck(Options::default()).await;
    let summary = summary.unwrap();
    let presence = summary.presence.unwrap();
    assert_eq!(
        (presence.whole, presence.degraded, presence.lost, presence.unknown),
        (1, 1, 2, 0)
    );
    assert_eq!((summary.found, summary.left, summary.lost_files), (0, 0, 2));
    let lost: BTreeSet<Vec<u8>> = events
        .into_iter()
        .filter_map(|event| match event {
            Event::Lost(file) => Some(file.path.unwrap()),
            _ => None,
        })
        .collect();
    assert_eq!(
        lost,
        [b"/above/below/lost".to_vec(), b"/above/damaged".to_vec()].into()
    );

    // Whoever does not answer may have it.
    rig.nodes.failing.lock().insert(address(3));
    let presence = rig.fsck(Options::default()).await.1.unwrap().presence.unwrap();
    assert_eq!(
        (presence.whole, presence.degraded, presence.lost, presence.unknown),
        (0, 0, 0, 4)
    );
    assert_eq!(presence.silent, [NodeId(3)].into());
    rig.nodes.failing.lock().clear();

    // Nodes that are down are not even asked.
    rig.clock.advance(NODE_DOWN * 2);
    rig.core.cluster.refresh_health();
    let before = rig.nodes.asked.load(Ordering::Relaxed);
    let presence = rig.fsck(Options::default()).await.1.unwrap().presence.unwrap();
    assert_eq!(
        (presence.lost, presence.unknown, presence.silent.len()),
        (0, 4, 3)
    );
    assert_eq!(rig.nodes.asked.load(Ordering::Relaxed), before);
    rig.core.applier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_that_was_freed_since_the_snapshot_is_not_lost() {
    let rig = Rig::start().await;
    let chunk = rig.file_on(Ino::ROOT, "f", &[]).await;
    let store = rig.core.store.clone();
    *rig.nodes.first.lock() = Some(Box::new(move || {
        let changes = vec![(keys::chunk(chunk), None)];
        store.commit(WriteBatch { changes }).unwrap();
    }));
    let summary = rig.fsck(Options::default()).await.1.unwrap();
    let presence = summary.presence.unwrap();
    assert_eq!((presence.lost, presence.unknown, summary.lost_files), (0, 0, 0));
    rig.core.applier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_does_not_answer_is_asked_a_few_times_only() {
    let rig = Rig::start().await;
    files(&rig, 300).await;
    rig.nodes.failing.lock().insert(address(3));
    let presence = rig.fsck(Options::default()).await.1.unwrap().presence.unwrap();
    assert_eq!(presence.unknown, 300);
    let questions = rig.nodes.questions.load(Ordering::Relaxed);
    // Two answer, one does not: 300 chunks are two questions each.
    assert_eq!(questions, 6);
    rig.core.applier.stop().await;
}

async fn files(rig: &Rig, count: usize) {
    for number in 0..count {
        rig.file_on(Ino::ROOT, &format!("f{number}"), &[1, 2]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn datanodes_are_left_alone_after_some_questions_without_an_answer() {
    let rig = Rig::start().await;
    files(&rig, 5 * CHUNK_STATS_MAX).await;
    for node in 1..=3 {
        rig.nodes.failing.lock().insert(address(node));
    }
    let presence = rig.fsck(Options::default()).await.1.unwrap().presence.unwrap();
    assert_eq!(presence.unknown, 5 * CHUNK_STATS_MAX as u64);
    assert_eq!(rig.nodes.questions.load(Ordering::Relaxed), 3 * 3);
    rig.core.applier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn datanode_of_an_earlier_release_is_asked_one_by_one() {
    let rig = Rig::start().await;
    files(&rig, 40).await;
    rig.file_on(Ino::ROOT, "lost", &[]).await;
    rig.nodes.is_old.store(true, Ordering::Relaxed);
    let presence = rig.fsck(Options::default()).await.1.unwrap().presence.unwrap();
    assert_eq!((presence.degraded, presence.lost, presence.unknown), (40, 1, 0));
    assert_eq!(rig.nodes.asked.load(Ordering::Relaxed), 3 * 41);
    rig.core.applier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_repaired_and_found_clean() {
    let rig = Rig::start().await;
    let above = rig.mkdir(Ino::ROOT, "above").await;
    let file = rig.create(above, "f").await;
    let gone = rig.create(above, "gone").await;
    let entry = dentry::find(&*rig.core.store, above, &name("f"))
        .unwrap()
        .unwrap();
    rig.damage(vec![
        (keys::dentry(above, &name("f")), None),
        (keys::cursor(above, entry.cursor), None),
        (keys::inode(gone), None),
        (keys::counters(), {
            let mut txn = crate::namespace::txn::Txn::new(&*rig.core.store);
            let mut totals = crate::namespace::counters::get(&txn).unwrap();
            totals.inodes = 77;
            crate::namespace::counters::put(&mut txn, &totals);
            txn.get(&keys::counters()).unwrap()
        }),
    ]);
    let look_only = Options {
        skip_chunks: true,
        ..Options::default()
    };
    let (events, summary) = rig.fsck(look_only).await;
    let summary = summary.unwrap();
    assert!(
        summary.found >= 4 && summary.left == summary.found && summary.repaired == 0,
        "{summary:?}"
    );
    assert!(
        events
            .iter()
            .any(|event| matches!(event, Event::Found(text) if text.contains("gone")))
    );
    let (events, repaired) = rig.fsck(REPAIR).await;
    let repaired = repaired.unwrap();
    assert_eq!((repaired.found, repaired.left), (summary.found, 0), "{events:#?}");
    assert!(repaired.repaired >= 4);
    let again = rig.fsck(look_only).await.1.unwrap();
    assert_eq!((again.found, again.left), (0, 0));
    let lost = dentry::find(&*rig.core.store, Ino::ROOT, &name("lost+found"))
        .unwrap()
        .unwrap();
    let found = dentry::find(&*rig.core.store, lost.ino, &name(&format!("#{file}"))).unwrap();
    assert_eq!(found.unwrap().ino, file);
    rig.core.applier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_repaired_without_guessing_is_left_and_named() {
    let rig = Rig::start().await;
    let chunk = rig.file_on(Ino::ROOT, "f", &[1, 2, 3]).await;
    rig.damage(vec![(keys::chunk(chunk), None)]);
    let (events, summary) = rig.fsck(REPAIR).await;
    assert_eq!(summary.unwrap().left, 1);
    let left = events
        .iter()
        .any(|event| matches!(event, Event::Left(text) if text.contains("has no record")));
    assert!(left, "{events:#?}");
    rig.core.applier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_during_changes_raises_no_false_alarm_and_one_runs_at_a_time() {
    let rig = Arc::new(Rig::start().await);
    let done = Arc::new(AtomicBool::new(false));
    let written = Arc::new(AtomicU64::new(0));
    let writing = {
        let (rig, done, written) = (rig.clone(), done.clone(), written.clone());
        tokio::spawn(async move {
            while !done.load(Ordering::Relaxed) {
                let number = written.fetch_add(1, Ordering::Relaxed);
                let directory = rig.mkdir(Ino::ROOT, &format!("d{number}")).await;
                let chunk = rig.file_on(directory, "chunk", &[1, 2, 3]).await;
                rig.create(directory, "other").await;
                for name in [name("chunk"), name("other")] {
                    if number % 2 == 0 {
                        // The session has it open: its content would stay.
                        let ino = dentry::find(&*rig.core.store, directory, &name)
                            .unwrap()
                            .unwrap()
                            .ino;
                        let set = SetAttr {
                            size: Some(0),
                            ..SetAttr::default()
                        };
                        let by_handle = false;
                        rig.apply(Operation::Setattr { ino, set, by_handle })
                            .await
                            .unwrap();
                        let parent = directory;
                        rig.apply(Operation::Unlink { parent, name }).await.unwrap();
                    }
                }
                // As the collector does, some time later.
                if number % 2 == 0 {
                    for chunks in rig.nodes.chunks.lock().values_mut() {
                        chunks.remove(&chunk);
                    }
                }
            }
        })
    };
    let mut round = 0;
    while round < 30 || written.load(Ordering::Relaxed) < 30 {
        round += 1;
        let options = Options {
            repair: round % 2 == 0,
            skip_chunks: false,
        };
        let (events, summary) = rig.fsck(options).await;
        let summary = summary.unwrap();
        assert_eq!((summary.found, summary.repaired), (0, 0), "{events:#?}");
        let presence = summary.presence.unwrap();
        assert_eq!((presence.lost, presence.unknown), (0, 0));
    }
    done.store(true, Ordering::Relaxed);
    writing.await.unwrap();
    let _one = rig.core.checking.lock().await;
    let second = rig.fsck(Options::default()).await.1;
    assert_eq!(second.unwrap_err().kind(), ErrorKind::Busy);
    rig.core.applier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn check_ends_when_nobody_listens_or_it_is_told_to() {
    let rig = Rig::start().await;
    let connector = Arc::new(Connector(rig.nodes.clone()));
    let (sender, receiver) = mpsc::channel(4);
    drop(receiver);
    let stop = CancellationToken::new();
    let ended = run(
        rig.core.clone(),
        connector.clone(),
        Options::default(),
        stop.clone(),
        sender,
    )
    .await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Interrupted);
    assert!(stop.is_cancelled());
    let (sender, _receiver) = mpsc::channel(4);
    let ended = run(rig.core.clone(), connector, Options::default(), stop, sender).await;
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Interrupted);
    rig.core.applier.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn others_write_between_the_portions_of_a_repair_and_the_sums_are_right_in_the_end() {
    const DIRECTORIES: usize = 3 * FSCK_REPAIRS_AT_ONCE + 7;
    let rig = Arc::new(Rig::start().await);
    let mut changes = Vec::new();
    let mut directories = Vec::new();
    for number in 0..DIRECTORIES {
        let directory = rig.mkdir(Ino::ROOT, &format!("d{number}")).await;
        let mut usage = crate::namespace::usage::get(&*rig.core.store, directory).unwrap();
        usage.files += 1 + number as u64;
        changes.push((
            keys::usage(directory),
            Some(crate::namespace::usage::encode(&usage)),
        ));
        directories.push(directory);
    }
    rig.damage(changes);
    let (sender, mut told) = mpsc::channel(1);
    let connector = Arc::new(Connector(rig.nodes.clone()));
    let stop = CancellationToken::new();
    let check = tokio::spawn(run(rig.core.clone(), connector, REPAIR, stop, sender));
    let (mut repaired, mut created) = (0, 0);
    while let Some(event) = told.recv().await {
        if let Event::Repaired(_) = event {
            repaired += 1;
            // The check waits until this is told, with one portion made: whoever writes now must not wait for the others.
            if repaired % FSCK_REPAIRS_AT_ONCE == 1 {
                let wrong = check_usage(&rig, &directories);
                rig.create(directories[repaired], &format!("f{repaired}")).await;
                created += usize::from(wrong > 0);
            }
        }
    }
    let summary = check.await.unwrap().unwrap();
    assert_eq!((summary.left, summary.found), (0, DIRECTORIES as u64 + 1));
    assert!(repaired >= DIRECTORIES, "{repaired}");
    assert!(created >= 3, "creates while sums were wrong: {created}");
    let root = crate::namespace::usage::get(&*rig.core.store, Ino::ROOT).unwrap();
    assert!(root.files as usize >= created, "{root:?}");
    rig.core.applier.stop().await;
}

/// Directories whose usage does not say what lies in them; nothing lies below their subdirectories.
fn check_usage(rig: &Rig, directories: &[Ino]) -> usize {
    let is_wrong = |directory: &&Ino| {
        let usage = crate::namespace::usage::get(&*rig.core.store, **directory).unwrap();
        usage.files > 1
    };
    directories.iter().filter(is_wrong).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_totals_are_told_and_counted() {
    let rig = Rig::start().await;
    rig.create(Ino::ROOT, "f").await;
    rig.damage(vec![(keys::counters(), None)]);
    let look_only = Options {
        skip_chunks: true,
        ..Options::default()
    };
    let (events, summary) = rig.fsck(look_only).await;
    assert_eq!(summary.unwrap().found, 1, "{events:#?}");
    let (events, summary) = rig.fsck(REPAIR).await;
    let summary = summary.unwrap();
    assert_eq!((summary.repaired, summary.left), (1, 0), "{events:#?}");
    rig.create(Ino::ROOT, "g").await;
    assert_eq!(rig.fsck(look_only).await.1.unwrap().found, 0);
    rig.core.applier.stop().await;
}
