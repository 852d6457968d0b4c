use super::collector::{ChunkCollector, CollectorParts};
use super::reaper::Reaper;
use crate::config::{CoordinatorConfig, StoreKind};
use crate::core::Core;
use crate::namespace::{OpenFiles, check, keys, read};
use crate::worker::Worker;
use crate::{applier::NodeRegistration, applier::persistence::Progress, cluster::state::NodeLoad};
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::capability::{ChunkAccess, ChunkCapability};
use dfs_common::chunk::ChunkDescription;
use dfs_common::clock::{Clock, ManualClock};
use dfs_common::extent::{CommittedChunk, Extent, ExtentData, Receipt};
use dfs_common::limits::FREED_CHUNK_DELAY;
use dfs_common::op::{CommitWrite, MutationBatch, NumberedOp, OpReply, OpResult, Operation};
use dfs_common::piece::Piece;
use dfs_common::service::{ChunkConnector, ChunkService, ChunkWritten, WriteChunk};
use dfs_common::session::{Caller, Identity, OpenSession, SessionSecret};
use dfs_common::{
    ChunkId, DiskIncarnation, Durability, ErrorKind, FsResult, Ino, Name, NodeId, OpNumber, SessionId,
    SetAttr, Timestamp,
};
use futures::stream::BoxStream;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Datanodes that note what they are told to delete, unless they fail.
#[derive(Default)]
struct Recorder {
    deleted: Mutex<Vec<(String, ChunkCapability)>>,
    failing: Mutex<BTreeSet<String>>,
    /// What must be durable when a replica is deleted.
    progress: Mutex<Option<Arc<Progress>>>,
}

struct Recorded {
    recorder: Arc<Recorder>,
    address: String,
}

struct RecordingConnector(Arc<Recorder>);

impl ChunkConnector for RecordingConnector {
    fn chunk_service(&self, address: &str) -> FsResult<Arc<dyn ChunkService>> {
        Ok(Arc::new(Recorded {
            recorder: self.0.clone(),
            address: address.to_string(),
        }))
    }
}

#[async_trait]
impl ChunkService for Recorded {
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
    async fn stat_chunk(&self, _: ChunkCapability) -> FsResult<ChunkDescription> {
        Err(ErrorKind::NotSupported.into())
    }
    async fn delete_chunk(&self, capability: ChunkCapability) -> FsResult<()> {
        if self.recorder.failing.lock().contains(&self.address) {
            return Err(ErrorKind::Unavailable.into());
        }
        if let Some(progress) = &*self.recorder.progress.lock() {
            assert!(
                progress.point().is_durable(),
                "a replica goes before its commit is durable"
            );
        }
        self.recorder
            .deleted
            .lock()
            .push((self.address.clone(), capability));
        Ok(())
    }
}

struct Rig {
    core: Core,
    clock: Arc<ManualClock>,
    recorder: Arc<Recorder>,
    collector: ChunkCollector,
    me: Identity,
    number: AtomicU64,
    _dir: tempfile::TempDir,
}

fn address(node: u32) -> String {
    format!("127.0.0.1:{}", 9000 + node)
}

fn load() -> NodeLoad {
    NodeLoad {
        disk: DiskIncarnation(1),
        capacity_bytes: 100 << 30,
        used_bytes: 0,
        available_bytes: 90 << 30,
        chunks: 0,
        writable: true,
    }
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
        let recorder = Arc::new(Recorder::default());
        let collector = ChunkCollector::new(CollectorParts {
            store: core.store.clone(),
            clock: core.clock.clone(),
            cluster: core.cluster.clone(),
            applier: core.applier.clone(),
            chunks: Arc::new(RecordingConnector(recorder.clone())),
            capability_key: core.capability_key,
            delay: FREED_CHUNK_DELAY,
            hold: core.hold.clone(),
        });
        for node in 1..=3u32 {
            let registration = NodeRegistration {
                uuid: format!("uuid-{node}"),
                secret: [node as u8; 16],
                address: address(node),
                load: load(),
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
        let grant = core
            .applier
            .open_session(request, SessionSecret([1; 16]))
            .await
            .unwrap();
        Rig {
            core,
            clock,
            recorder,
            collector,
            me: grant.identity,
            number: AtomicU64::new(1),
            _dir: dir,
        }
    }

    async fn apply(&self, op: Operation) -> OpResult {
        let batch = MutationBatch {
            ops: vec![NumberedOp {
                number: OpNumber(self.number.fetch_add(1, Ordering::Relaxed)),
                caller: Caller::root(),
                op,
            }],
            acknowledged_below: OpNumber(0),
            stop_on_error: false,
            durable: false,
        };
        self.core
            .applier
            .mutate(self.me, batch)
            .await
            .unwrap()
            .0
            .remove(0)
    }

    async fn create(&self, text: &str) -> Ino {
        let create = Operation::Create {
            parent: Ino::ROOT,
            name: Name::new(Bytes::copy_from_slice(text.as_bytes())).unwrap(),
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

    async fn truncate(&self, ino: Ino) {
        let set = SetAttr {
            size: Some(0),
            ..SetAttr::default()
        };
        let truncate = Operation::Setattr {
            ino,
            set,
            by_handle: false,
        };
        self.apply(truncate).await.unwrap();
    }

    fn commit(ino: Ino, chunk: ChunkId) -> Operation {
        let receipt = |node| Receipt {
            node: NodeId(node),
            disk: DiskIncarnation(1),
            sha256: [9; 32],
            length: 100,
        };
        Operation::CommitWrite(CommitWrite {
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
                receipts: vec![receipt(1), receipt(2)],
            }],
            append: false,
            mtime: Timestamp::default(),
            clear_setid: false,
        })
    }

    /// A chunk with receipts of nodes 1 and 2 that was freed just now, and the file that it was of.
    async fn freed_chunk(&self) -> (Ino, ChunkId) {
        let ino = self
            .create(&format!("f{}", self.number.load(Ordering::Relaxed)))
            .await;
        let Ok(OpReply::Chunks(granted)) = self.apply(Operation::GrantChunks { count: 1 }).await else {
            panic!("not granted");
        };
        let chunk = granted[0].chunk;
        self.apply(Self::commit(ino, chunk)).await.unwrap();
        self.truncate(ino).await;
        (ino, chunk)
    }

    fn freed_chunks(&self) -> u64 {
        read::statfs_counters(&*self.core.store).unwrap().freed_chunks
    }

    fn deleted_on(&self, chunk: ChunkId) -> BTreeSet<String> {
        let deleted = self.recorder.deleted.lock();
        deleted
            .iter()
            .filter(|(_, capability)| capability.chunk == chunk)
            .map(|(address, _)| address.clone())
            .collect()
    }

    fn spent_marks(&self) -> usize {
        let (start, end) = keys::spent_chunks(self.me.session);
        self.core.store.scan(&start, &end, 1000).unwrap().len()
    }

    async fn stop(self) {
        let report = check::check(&*self.core.store).unwrap();
        assert!(report.is_clean(), "{report:#?}");
        self.core.applier.stop().await;
    }
}

fn all_nodes() -> BTreeSet<String> {
    (1..=3).map(address).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn freed_chunk_is_deleted_everywhere_after_the_delay_and_never_accepted_again() {
    let rig = Rig::start().await;
    let (ino, chunk) = rig.freed_chunk().await;
    rig.clock.advance(FREED_CHUNK_DELAY - Duration::from_millis(1));
    rig.collector.step().await;
    assert_eq!((rig.deleted_on(chunk).len(), rig.freed_chunks()), (0, 1));
    rig.clock.advance(Duration::from_millis(1));
    rig.collector.step().await;
    assert_eq!(
        rig.deleted_on(chunk),
        all_nodes(),
        "the member without a receipt may have it too"
    );
    assert_eq!(rig.freed_chunks(), 0);
    let now = rig.clock.now_unix_ms();
    for (_, capability) in rig.recorder.deleted.lock().iter() {
        assert_eq!(capability.session, SessionId(0));
        let key = rig.core.capability_key;
        assert!(key.verify(capability, chunk, ChunkAccess::Delete, now).is_ok());
    }
    let again = rig.apply(Rig::commit(ino, chunk)).await;
    assert_eq!(again.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(rig.spent_marks(), 1);
    assert!(
        rig.collector.status().contains("1 deleted"),
        "{}",
        rig.collector.status()
    );
    rig.core.end_session(rig.me.session).await.unwrap();
    assert_eq!(rig.spent_marks(), 0, "the mark goes with the session");
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replica_stays_until_the_commit_that_freed_its_chunk_is_durable() {
    let rig = Rig::start().await;
    let delay = Durability::DELAY_MAX;
    let relaxed = Durability::relaxed(delay).unwrap();
    rig.core.applier.set_durability(relaxed).await.unwrap();
    rig.create("first").await;
    let (_, chunk) = rig.freed_chunk().await;
    assert!(!rig.core.progress.point().is_durable());
    *rig.recorder.progress.lock() = Some(rig.core.progress.clone());
    rig.clock.advance(FREED_CHUNK_DELAY);
    rig.collector.step().await;
    assert_eq!(rig.deleted_on(chunk), all_nodes());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_that_fails_or_is_down_keeps_the_record() {
    let rig = Rig::start().await;
    let (_, chunk) = rig.freed_chunk().await;
    rig.clock.advance(FREED_CHUNK_DELAY);
    rig.recorder.failing.lock().insert(address(2));
    rig.collector.step().await;
    assert_eq!(rig.freed_chunks(), 1);
    assert_eq!(
        rig.deleted_on(chunk),
        BTreeSet::from([address(1), address(3)]),
        "the others do not wait for it"
    );
    rig.recorder.failing.lock().clear();
    // Nodes 1 and 3 go on reporting, node 2 does not.
    for node in [1u32, 3] {
        rig.core
            .cluster
            .heartbeat(NodeId(node), &[node as u8; 16], load())
            .unwrap();
    }
    rig.core.cluster.refresh_health();
    rig.collector.step().await;
    assert_eq!(
        (rig.freed_chunks(), rig.deleted_on(chunk).contains(&address(2))),
        (1, false)
    );
    assert!(
        rig.collector.status().contains("1 of them for datanodes"),
        "{}",
        rig.collector.status()
    );
    rig.core.cluster.heartbeat(NodeId(2), &[2; 16], load()).unwrap();
    rig.collector.step().await;
    assert_eq!((rig.freed_chunks(), rig.deleted_on(chunk)), (0, all_nodes()));
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn chunk_that_is_referred_to_is_never_deleted() {
    let rig = Rig::start().await;
    let kept = rig.create("kept").await;
    let Ok(OpReply::Chunks(granted)) = rig.apply(Operation::GrantChunks { count: 1 }).await else {
        panic!("not granted");
    };
    rig.apply(Rig::commit(kept, granted[0].chunk)).await.unwrap();
    let mut freed = Vec::new();
    for _ in 0..20 {
        freed.push(rig.freed_chunk().await.1);
    }
    rig.clock.advance(FREED_CHUNK_DELAY * 10);
    // The others were silent meanwhile; all are up again.
    for node in 1..=3u32 {
        let secret = [node as u8; 16];
        rig.core.cluster.heartbeat(NodeId(node), &secret, load()).unwrap();
    }
    rig.collector.step().await;
    assert_eq!(rig.freed_chunks(), 0);
    for chunk in freed {
        assert_eq!(rig.deleted_on(chunk), all_nodes());
    }
    assert!(rig.deleted_on(granted[0].chunk).is_empty());
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reaper_takes_abandoned_extents_away_in_portions() {
    let rig = Rig::start().await;
    let ino = rig.create("f").await;
    assert!(rig.core.opens.is_open(rig.me.session, ino, true));
    for part in 0..2u64 {
        let extents = (0..1000u64).map(|n| Extent {
            offset: (part * 1000 + n) * 2,
            length: 1,
            data: ExtentData::Inline(Bytes::from_static(b"x")),
        });
        let commit = CommitWrite {
            ino,
            extents: extents.collect(),
            chunks: vec![],
            append: false,
            mtime: Timestamp::default(),
            clear_setid: false,
        };
        rig.apply(Operation::CommitWrite(commit)).await.unwrap();
    }
    rig.truncate(ino).await;
    let inline_bytes = || read::statfs_counters(&*rig.core.store).unwrap().inline_bytes;
    assert_eq!(inline_bytes(), 2000);
    let reaper = Reaper::new(rig.core.applier.clone());
    let mut last = inline_bytes();
    while last > 0 {
        reaper.step().await;
        let taken = last - inline_bytes();
        assert!((1..=512).contains(&taken), "{taken}");
        last = inline_bytes();
    }
    assert_eq!(
        reaper.status(),
        "0 replaced inodes let go, 4 portions of extents taken away"
    );
    rig.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restore_nothing_is_deleted_until_every_datanode_has_told_what_it_has() {
    use super::hold::Hold;
    use dfs_common::limits::RESTORE_HOLD_MIN;
    let mut rig = Rig::start().await;
    let restore = dfs_proto::v1::StoredRestore {
        incarnation: 1,
        holding: true,
        ..Default::default()
    };
    let mut txn = crate::namespace::txn::Txn::new(&*rig.core.store);
    crate::stored::put_restore(&mut txn, &restore);
    rig.core.store.commit(txn.into_batch()).unwrap();
    let epoch = rig.core.progress.point().last.epoch;
    let hold = Arc::new(Hold::new(Some(restore), epoch, rig.core.clock.clone()));
    rig.collector = ChunkCollector::new(CollectorParts {
        store: rig.core.store.clone(),
        clock: rig.core.clock.clone(),
        cluster: rig.core.cluster.clone(),
        applier: rig.core.applier.clone(),
        chunks: Arc::new(RecordingConnector(rig.recorder.clone())),
        capability_key: rig.core.capability_key,
        delay: FREED_CHUNK_DELAY,
        hold: hold.clone(),
    });
    let (_, chunk) = rig.freed_chunk().await;
    let this_start = epoch << 32 | 5;
    rig.clock.advance(FREED_CHUNK_DELAY * 10);
    hold.passed(NodeId(1), this_start);
    hold.passed(NodeId(2), this_start);
    // Told to the coordinator before this one.
    hold.passed(NodeId(3), (epoch - 1) << 32 | 5);
    rig.collector.step().await;
    assert_eq!((rig.deleted_on(chunk).len(), rig.freed_chunks()), (0, 1));
    assert_eq!(hold.waited_for(&rig.core.cluster), [NodeId(3)]);
    assert!(rig.collector.status().contains("held after a restore"));
    let told = [chunk.to_bytes(), ChunkId(77).to_bytes()].map(|id| Bytes::copy_from_slice(&id));
    hold.told(&*rig.core.store, NodeId(3), &told).unwrap();
    assert_eq!(hold.unknown_chunks(), 1);

    hold.passed(NodeId(3), this_start);
    rig.collector.step().await;
    assert_eq!(rig.deleted_on(chunk), all_nodes());
    let record = crate::stored::restore(&*rig.core.store).unwrap().unwrap();
    assert_eq!((record.holding, record.incarnation), (false, 1));

    // For a while at least, even if all have told.
    let fresh = Hold::new(
        Some(dfs_proto::v1::StoredRestore {
            holding: true,
            ..record
        }),
        epoch,
        rig.core.clock.clone(),
    );
    for node in 1..=3 {
        fresh.passed(NodeId(node), this_start);
    }
    assert!(!fresh.try_end(&rig.core.cluster, &rig.core.applier).await.unwrap());
    rig.clock.advance(RESTORE_HOLD_MIN);
    assert!(fresh.try_end(&rig.core.cluster, &rig.core.applier).await.unwrap());
    rig.stop().await;
}
