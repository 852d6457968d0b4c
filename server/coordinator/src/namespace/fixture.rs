//! A namespace in memory for the tests of the operations: a clock that ticks per operation, open files and nodes as told.

use super::repair::Repair;
use super::txn::Txn;
use super::{
    ApplyContext, ChunkPlacement, OpenFiles, apply, check, initialize, orphans, quota, read, reap, repair,
};
use crate::store::memory::MemoryStore;
use crate::store::{MetaStore, WriteBatch};
use crate::stored;
use bytes::Bytes;
use dfs_common::attr::SetTime;
use dfs_common::capability::CapabilityKey;
use dfs_common::extent::{CommittedChunk, Extent, ExtentData, ExtentPage, Receipt};
use dfs_common::op::{CommitWrite, OpReply, OpResult, Operation, RenameMode, XattrMode};
use dfs_common::session::Caller;
use dfs_common::{
    Attr, ChunkId, DiskIncarnation, ErrorKind, FileKind, FsResult, Ino, Name, NodeId, PgId, Quota, SessionId,
    SetAttr, Timestamp,
};
use dfs_proto::v1;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;

/// The session of the operations, unless told otherwise.
pub const ME: SessionId = SessionId(7);

#[derive(Default)]
pub struct Opens {
    open: Mutex<BTreeSet<(Ino, SessionId, bool)>>,
}

impl OpenFiles for Opens {
    fn holders(&self, ino: Ino) -> Vec<SessionId> {
        let open = self.open.lock();
        let holders: BTreeSet<SessionId> = open
            .iter()
            .filter(|(held, ..)| *held == ino)
            .map(|(_, session, _)| *session)
            .collect();
        holders.into_iter().collect()
    }
    fn is_open(&self, session: SessionId, ino: Ino, write: bool) -> bool {
        let open = self.open.lock();
        open.contains(&(ino, session, true)) || (!write && open.contains(&(ino, session, false)))
    }
}

/// Group 1 is nodes 1, 2, 3; group 2 is nodes 2, 3, 4.
pub struct Groups;

impl ChunkPlacement for Groups {
    fn choose(&self, count: u32) -> FsResult<Vec<PgId>> {
        Ok((0..count).map(|number| PgId(1 + number % 2)).collect())
    }
    fn members(&self, group: PgId) -> Option<Vec<NodeId>> {
        match group.0 {
            1 => Some(vec![NodeId(1), NodeId(2), NodeId(3)]),
            2 => Some(vec![NodeId(2), NodeId(3), NodeId(4)]),
            _ => None,
        }
    }
}

pub struct Fixture {
    pub store: MemoryStore,
    pub opens: Opens,
    pub session: SessionId,
    pub seconds: i64,
    pub key: CapabilityKey,
}

pub fn name(text: &str) -> Name {
    Name::new(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

pub fn user(uid: u32) -> Caller {
    Caller {
        uid,
        gid: uid,
        groups: vec![],
    }
}

pub fn kind<T: std::fmt::Debug>(result: &FsResult<T>) -> ErrorKind {
    result.as_ref().unwrap_err().kind()
}

pub fn inline(offset: u64, bytes: &[u8]) -> Extent {
    Extent {
        offset,
        length: bytes.len() as u64,
        data: ExtentData::Inline(Bytes::copy_from_slice(bytes)),
    }
}

pub fn in_chunk(offset: u64, length: u64, chunk: ChunkId, chunk_offset: u64) -> Extent {
    Extent {
        offset,
        length,
        data: ExtentData::Chunk { chunk, chunk_offset },
    }
}

/// Receipts for `chunk` with `length` bytes from these nodes.
pub fn received(chunk: ChunkId, length: u64, nodes: &[u32]) -> CommittedChunk {
    let receipt = |node: &u32| Receipt {
        node: NodeId(*node),
        disk: DiskIncarnation(1),
        sha256: [chunk.sequence() as u8; 32],
        length,
    };
    CommittedChunk {
        chunk,
        receipts: nodes.iter().map(receipt).collect(),
    }
}

pub fn commit(ino: Ino, extents: Vec<Extent>, chunks: Vec<CommittedChunk>) -> CommitWrite {
    CommitWrite {
        ino,
        extents,
        chunks,
        append: false,
        mtime: Timestamp { secs: 5000, nanos: 5 },
        clear_setid: false,
    }
}

impl Default for Fixture {
    /// The root is world-writable, as a scratch directory is.
    fn default() -> Self {
        let fixture = Fixture {
            store: MemoryStore::default(),
            opens: Opens::default(),
            session: ME,
            seconds: 1000,
            key: CapabilityKey([1; 32]),
        };
        let mut txn = Txn::new(&fixture.store);
        initialize(&mut txn, fixture.now()).unwrap();
        for session in [ME, SessionId(8), SessionId(9)] {
            stored::put_session(&mut txn, session, &v1::StoredSession::default());
        }
        let batch = txn.into_batch();
        fixture.store.commit(batch).unwrap();
        let mut fixture = fixture;
        fixture.chmod(Ino::ROOT, 0o777).unwrap();
        fixture
    }
}

impl Fixture {
    pub fn now(&self) -> Timestamp {
        Timestamp {
            secs: self.seconds,
            nanos: 0,
        }
    }

    /// Applies as the applier does: all or nothing. The clock ticks; afterwards everything must belong together.
    pub fn apply(&mut self, caller: &Caller, operation: &Operation) -> OpResult {
        let (result, batch) = self.try_apply(caller, operation);
        self.store.commit(batch).unwrap();
        if result.is_err() {
            let report = check::check(&self.store).unwrap();
            assert!(report.is_clean(), "{operation:?} left {report:#?}");
        }
        result
    }

    pub fn try_apply(&mut self, caller: &Caller, operation: &Operation) -> (OpResult, WriteBatch) {
        self.seconds += 1;
        let ctx = ApplyContext {
            now: self.now(),
            session: self.session,
            opened: &self.opens,
            placement: &Groups,
            capability_key: &self.key,
            capability_expires_unix_ms: 1,
            replication: 3,
            replication_floor: 2,
        };
        let mut txn = Txn::new(&self.store);
        let savepoint = txn.savepoint();
        let result = apply(&mut txn, &ctx, caller, operation);
        if result.is_err() {
            txn.rollback_to(savepoint);
        }
        (result, txn.into_batch())
    }

    pub fn root(&mut self, operation: Operation) -> OpResult {
        self.apply(&Caller::root(), &operation)
    }

    /// Checks and repairs until nothing can be repaired any more, as an administrator would; answers what is left.
    pub fn repair(&mut self) -> check::Report {
        for _ in 0..12 {
            let report = check::check(&self.store).unwrap();
            if !report.has_repairs() {
                return report;
            }
            let done = check::Stage::ALL
                .into_iter()
                .any(|stage| self.repair_stage(&report, stage));
            assert!(done, "nothing of {report:?} could be repaired");
        }
        panic!("repairs have no end");
    }

    /// True if a repair of the stage was made.
    fn repair_stage(&mut self, report: &check::Report, stage: check::Stage) -> bool {
        let mut repairs = report.repairs_of(stage).unwrap();
        let mut done = false;
        while let Some(repair) = repairs.next_portion(1).unwrap().pop() {
            done |= self.apply_repair(&repair).unwrap();
        }
        done
    }

    /// As the applier does: if it fails nothing of it stays.
    pub fn apply_repair(&mut self, repair: &Repair) -> FsResult<bool> {
        self.seconds += 1;
        let ctx = ApplyContext {
            now: self.now(),
            session: orphans::NAMESPACE,
            opened: &self.opens,
            placement: &Groups,
            capability_key: &self.key,
            capability_expires_unix_ms: 1,
            replication: 3,
            replication_floor: 2,
        };
        let mut txn = Txn::new(&self.store);
        let done = repair::apply(&mut txn, &ctx, repair)?;
        let batch = txn.into_batch();
        self.store.commit(batch).unwrap();
        Ok(done)
    }

    /// Everything belongs together.
    #[track_caller]
    pub fn assert_clean(&self) {
        let report = check::check(&self.store).unwrap();
        assert!(report.is_clean(), "{report:#?}");
    }

    pub fn attr(&self, ino: Ino) -> Attr {
        read::getattr(&self.store, ino).unwrap()
    }

    pub fn ino(&self, parent: Ino, text: &str) -> Ino {
        read::lookup(&self.store, &Caller::root(), parent, &name(text))
            .unwrap()
            .attr
            .ino
    }

    pub fn mkdir_as(&mut self, caller: &Caller, parent: Ino, text: &str, mode: u32) -> FsResult<Ino> {
        let name = name(text);
        entry_ino(self.apply(caller, &Operation::Mkdir { parent, name, mode }))
    }

    pub fn mkdir(&mut self, parent: Ino, text: &str) -> Ino {
        self.mkdir_as(&Caller::root(), parent, text, 0o755).unwrap()
    }

    pub fn mknod_as(
        &mut self,
        caller: &Caller,
        parent: Ino,
        text: &str,
        kind: FileKind,
        mode: u32,
    ) -> FsResult<Ino> {
        let name = name(text);
        let rdev = 0x0103;
        entry_ino(self.apply(
            caller,
            &Operation::Mknod {
                parent,
                name,
                kind,
                mode,
                rdev,
            },
        ))
    }

    pub fn create_as(&mut self, caller: &Caller, parent: Ino, text: &str, mode: u32) -> OpResult {
        let operation = Operation::Create {
            parent,
            name: name(text),
            mode,
            exclusive: false,
            read: true,
            write: true,
        };
        self.apply(caller, &operation)
    }

    /// A file of root that nobody has open.
    pub fn file(&mut self, parent: Ino, text: &str) -> Ino {
        match self.create_as(&Caller::root(), parent, text, 0o644) {
            Ok(OpReply::Created { entry, .. }) => entry.attr.ino,
            other => panic!("{other:?}"),
        }
    }

    /// A file that the session has open for writing.
    pub fn open_file(&mut self, text: &str) -> Ino {
        let ino = self.file(Ino::ROOT, text);
        self.open(ino, true);
        ino
    }

    pub fn open(&mut self, ino: Ino, write: bool) {
        self.opens.open.lock().insert((ino, self.session, write));
    }

    /// As the applier does: the last release of an orphan destroys it.
    pub fn release(&mut self, ino: Ino) {
        self.opens
            .open
            .lock()
            .retain(|(open, session, _)| *open != ino || *session != self.session);
        let mut txn = Txn::new(&self.store);
        orphans::release_orphan(&mut txn, self.now(), ino, self.session).unwrap();
        let batch = txn.into_batch();
        self.store.commit(batch).unwrap();
    }

    pub fn symlink(&mut self, parent: Ino, text: &str, target: &[u8]) -> FsResult<Ino> {
        entry_ino(self.root(Operation::Symlink {
            parent,
            name: name(text),
            target: Bytes::copy_from_slice(target),
        }))
    }

    pub fn link_as(&mut self, caller: &Caller, ino: Ino, parent: Ino, text: &str) -> FsResult<Ino> {
        let name = name(text);
        entry_ino(self.apply(caller, &Operation::Link { ino, parent, name }))
    }

    pub fn unlink_as(&mut self, caller: &Caller, parent: Ino, text: &str) -> OpResult {
        let name = name(text);
        self.apply(caller, &Operation::Unlink { parent, name })
    }

    pub fn rmdir_as(&mut self, caller: &Caller, parent: Ino, text: &str) -> OpResult {
        let name = name(text);
        self.apply(caller, &Operation::Rmdir { parent, name })
    }

    pub fn rename_as(
        &mut self,
        caller: &Caller,
        from: (Ino, &str),
        to: (Ino, &str),
        mode: RenameMode,
    ) -> OpResult {
        let operation = Operation::Rename {
            parent: from.0,
            name: name(from.1),
            new_parent: to.0,
            new_name: name(to.1),
            mode,
        };
        self.apply(caller, &operation)
    }

    pub fn setattr_as(&mut self, caller: &Caller, ino: Ino, set: SetAttr) -> OpResult {
        let by_handle = false;
        self.apply(caller, &Operation::Setattr { ino, set, by_handle })
    }

    pub fn chmod(&mut self, ino: Ino, mode: u32) -> OpResult {
        let set = SetAttr {
            mode: Some(mode),
            ..SetAttr::default()
        };
        self.setattr_as(&Caller::root(), ino, set)
    }

    pub fn chown(&mut self, ino: Ino, uid: u32, gid: u32) -> OpResult {
        let set = SetAttr {
            uid: Some(uid),
            gid: Some(gid),
            ..SetAttr::default()
        };
        self.setattr_as(&Caller::root(), ino, set)
    }

    pub fn truncate(&mut self, ino: Ino, size: u64) -> OpResult {
        let set = SetAttr {
            size: Some(size),
            mtime: Some(SetTime::Now),
            ..SetAttr::default()
        };
        self.setattr_as(&Caller::root(), ino, set)
    }

    pub fn setxattr_as(
        &mut self,
        caller: &Caller,
        ino: Ino,
        text: &str,
        value: &[u8],
        mode: XattrMode,
    ) -> OpResult {
        let operation = Operation::Setxattr {
            ino,
            name: Bytes::copy_from_slice(text.as_bytes()),
            value: Bytes::copy_from_slice(value),
            mode,
        };
        self.apply(caller, &operation)
    }

    pub fn removexattr_as(&mut self, caller: &Caller, ino: Ino, text: &str) -> OpResult {
        let name = Bytes::copy_from_slice(text.as_bytes());
        self.apply(caller, &Operation::Removexattr { ino, name })
    }

    pub fn grant(&mut self, count: u32) -> Vec<ChunkId> {
        match self.root(Operation::GrantChunks { count }) {
            Ok(OpReply::Chunks(chunks)) => chunks.iter().map(|capability| capability.chunk).collect(),
            other => panic!("{other:?}"),
        }
    }

    /// A granted chunk of group 1.
    pub fn chunk(&mut self) -> ChunkId {
        self.grant(1)[0]
    }

    pub fn commit(&mut self, commit: CommitWrite) -> OpResult {
        self.root(Operation::CommitWrite(commit))
    }

    pub fn extents(&self, ino: Ino) -> ExtentPage {
        let sign = |chunk| {
            let access = dfs_common::capability::ChunkAccess::Read;
            self.key.sign(ME, chunk, access, 1)
        };
        read::read_extents(&self.store, ino, 0, u64::MAX, 10_000, sign).unwrap()
    }

    /// Offset and length of each extent.
    pub fn runs(&self, ino: Ino) -> Vec<(u64, u64)> {
        let page = self.extents(ino);
        page.extents
            .iter()
            .map(|resolved| (resolved.extent.offset, resolved.extent.length))
            .collect()
    }

    pub fn reap_step(&mut self, limit: usize) -> bool {
        let mut txn = Txn::new(&self.store);
        let more = reap::step(&mut txn, self.now(), limit).unwrap();
        let batch = txn.into_batch();
        self.store.commit(batch).unwrap();
        more
    }

    /// As the reaper does, with at most `limit` inodes at once; the clock stands still.
    pub fn reap_replaced(&mut self, limit: usize) -> orphans::LetGo {
        let mut txn = Txn::new(&self.store);
        let let_go = orphans::reap_replaced(&mut txn, self.now(), &self.opens, limit).unwrap();
        let batch = txn.into_batch();
        self.store.commit(batch).unwrap();
        let_go
    }

    pub fn set_quota(&mut self, ino: Ino, bytes: Option<u64>, inodes: Option<u64>) -> FsResult<()> {
        let quota = Quota { bytes, inodes };
        let look = quota != Quota::default() && self.commit_txn(|txn| quota::close_edge(txn, ino))?;
        if look && let Err(error) = quota::check_links(&self.store, ino, &AtomicBool::new(false)) {
            self.commit_txn(|txn| quota::open_edge(txn, ino)).unwrap();
            return Err(error);
        }
        self.commit_txn(|txn| quota::set(txn, ino, quota))
    }

    pub fn commit_txn<T>(&mut self, change: impl FnOnce(&mut Txn<'_>) -> FsResult<T>) -> FsResult<T> {
        let mut txn = Txn::new(&self.store);
        let done = change(&mut txn)?;
        let batch = txn.into_batch();
        self.store.commit(batch).unwrap();
        Ok(done)
    }

    /// Bytes, files and directories below a directory.
    pub fn usage(&self, ino: Ino) -> (u64, u64, u64) {
        let tree = quota::tree_usage(&self.store, ino).unwrap();
        (tree.bytes, tree.files, tree.directories)
    }

    /// Commits `length` inline bytes at `offset`.
    pub fn write(&mut self, ino: Ino, offset: u64, length: usize) -> OpResult {
        self.commit(commit(ino, vec![inline(offset, &vec![1; length])], vec![]))
    }

    pub fn listing(&self, ino: Ino) -> Vec<String> {
        let page = read::readdir(&self.store, &Caller::root(), ino, 0, 10_000, true).unwrap();
        page.entries.iter().map(|entry| entry.name.to_string()).collect()
    }
}

fn entry_ino(result: OpResult) -> FsResult<Ino> {
    match result? {
        OpReply::Entry(entry) => Ok(entry.attr.ino),
        other => panic!("{other:?}"),
    }
}
