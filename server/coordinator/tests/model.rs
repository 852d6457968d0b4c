//! The namespace against the reference model of POSIX: random sequences of calls, every outcome, attribute and listing
//! compared, and after every call the records of the store belong together.
//!
//! Nothing but the state machine is under test: no sessions, no network. What a client and its kernel do (walking paths,
//! cutting writes into extents, dropping set-id bits before a write, keeping bytes of chunks) the target does in the plainest way.

#![allow(clippy::unwrap_used)] // the whole file is test code

use bytes::Bytes;
use dfs_common::capability::{CapabilityKey, ChunkAccess};
use dfs_common::extent::{CommittedChunk, Extent, ExtentData, Receipt};
use dfs_common::limits::INLINE_EXTENT_BYTES_MAX;
use dfs_common::op::{CommitWrite, OpReply, Operation};
use dfs_common::session::Caller;
use dfs_common::{
    Attr, ChunkId, DiskIncarnation, ErrorKind, FileKind, FsError, FsResult, Ino, Name, NodeId, PgId, Quota,
    SessionId, SetAttr, SetTime, Timestamp,
};
use dfs_coordinator::namespace::txn::Txn;
use dfs_coordinator::namespace::{
    self, ApplyContext, ChunkPlacement, OpenFiles, check, orphans, permission, quota, read, reap,
    release_orphan,
};
use dfs_coordinator::store::memory::MemoryStore;
use dfs_coordinator::store::{MetaStore, WriteBatch};
use dfs_coordinator::stored;
use dfs_proto::v1;
use dfs_testkit::call::{Call, FsPath, OpenHow, Outcome, Slot, Stat, Target, Time, pattern_bytes};
use dfs_testkit::compare::{Tolerance, Trial};
use dfs_testkit::generate::Profile;
use dfs_testkit::model::Rules;
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::AtomicBool;

const SESSION: SessionId = SessionId(1);
/// What the target writes as one chunk at most.
const CHUNK_BYTES: usize = 100_000;

#[derive(Clone, Copy)]
struct Open {
    ino: Ino,
    how: OpenHow,
}

#[derive(Default)]
struct Slots(BTreeMap<Slot, Open>);

impl OpenFiles for Slots {
    fn holders(&self, ino: Ino) -> Vec<SessionId> {
        match self.0.values().any(|open| open.ino == ino) {
            true => vec![SESSION],
            false => vec![],
        }
    }
    fn is_open(&self, session: SessionId, ino: Ino, write: bool) -> bool {
        session == SESSION
            && self
                .0
                .values()
                .any(|open| open.ino == ino && (open.how.write || !write))
    }
}

struct OneGroup;

impl ChunkPlacement for OneGroup {
    fn choose(&self, count: u32) -> FsResult<Vec<PgId>> {
        Ok(vec![PgId(1); count as usize])
    }
    fn members(&self, group: PgId) -> Option<Vec<NodeId>> {
        (group == PgId(1)).then(|| vec![NodeId(1), NodeId(2), NodeId(3)])
    }
}

struct NamespaceTarget {
    store: MemoryStore,
    slots: Slots,
    chunks: HashMap<ChunkId, Vec<u8>>,
    key: CapabilityKey,
    seconds: i64,
}

impl NamespaceTarget {
    fn fresh() -> Self {
        let target = NamespaceTarget {
            store: MemoryStore::default(),
            slots: Slots::default(),
            chunks: HashMap::new(),
            key: CapabilityKey([3; 32]),
            seconds: 1_000_000_000,
        };
        target
            .write(|txn, now| {
                namespace::initialize(txn, now)?;
                stored::put_session(txn, SESSION, &v1::StoredSession::default());
                Ok(())
            })
            .unwrap();
        let set = SetAttr {
            mode: Some(0o777),
            ..SetAttr::default()
        };
        target.setattr(&Caller::root(), Ino::ROOT, set, false).unwrap();
        target
    }

    fn now(&self) -> Timestamp {
        Timestamp {
            secs: self.seconds,
            nanos: 0,
        }
    }

    fn write(&self, change: impl FnOnce(&mut Txn<'_>, Timestamp) -> FsResult<()>) -> FsResult<()> {
        let mut txn = Txn::new(&self.store);
        change(&mut txn, self.now())?;
        let batch = txn.into_batch();
        self.store.commit(batch)
    }

    fn apply(&self, who: &Caller, operation: Operation) -> FsResult<OpReply> {
        let ctx = ApplyContext {
            now: self.now(),
            session: SESSION,
            opened: &self.slots,
            placement: &OneGroup,
            capability_key: &self.key,
            capability_expires_unix_ms: u64::MAX,
            replication: 3,
            replication_floor: 2,
        };
        let mut txn = Txn::new(&self.store);
        let savepoint = txn.savepoint();
        let result = namespace::apply(&mut txn, &ctx, who, &operation);
        if result.is_err() {
            txn.rollback_to(savepoint);
        }
        let batch: WriteBatch = txn.into_batch();
        assert!(
            result.is_ok() || batch.changes.is_empty(),
            "a failed operation left changes"
        );
        self.store.commit(batch)?;
        result
    }

    /// What the kernel checks of a directory before it looks at a name.
    fn check_search(&self, who: &Caller, directory: Ino) -> FsResult<()> {
        let probe = Name::new(&b"no such name"[..])?;
        match read::lookup(&self.store, who, directory, &probe) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The directory of the last name, which `who` may search, and that name.
    fn directory_of<'p>(&self, who: &Caller, path: &'p FsPath) -> FsResult<(Ino, &'p [u8])> {
        let (last, above) = path.0.split_last().ok_or(FsError::from(ErrorKind::Busy))?;
        let mut at = Ino::ROOT;
        for name in above {
            self.check_search(who, at)?;
            at = read::lookup(&self.store, who, at, &name_of(name)?)?.attr.ino;
        }
        self.check_search(who, at)?;
        Ok((at, last))
    }

    fn parent_of(&self, who: &Caller, path: &FsPath) -> FsResult<(Ino, Name)> {
        let (parent, name) = self.directory_of(who, path)?;
        Ok((parent, name_of(name)?))
    }

    fn resolve(&self, who: &Caller, path: &FsPath) -> FsResult<Attr> {
        if path.0.is_empty() {
            return read::getattr(&self.store, Ino::ROOT);
        }
        let (parent, name) = self.parent_of(who, path)?;
        Ok(read::lookup(&self.store, who, parent, &name)?.attr)
    }

    fn setattr(&self, who: &Caller, ino: Ino, set: SetAttr, by_handle: bool) -> FsResult<Outcome> {
        self.apply(who, Operation::Setattr { ino, set, by_handle })
            .map(|_| Outcome::Done)
    }

    /// The steps of the coordinator, one after the other.
    fn set_quota(&self, ino: Ino, quota: Quota) -> FsResult<()> {
        let mut closed = false;
        if quota != Quota::default() {
            self.write(|txn, _| {
                closed = quota::close_edge(txn, ino)?;
                Ok(())
            })?;
        }
        let looked = match closed {
            true => quota::check_links(&self.store, ino, &AtomicBool::new(false)),
            false => Ok(()),
        };
        self.write(|txn, _| match looked.is_ok() {
            true => quota::set(txn, ino, quota),
            false => quota::open_edge(txn, ino),
        })?;
        looked
    }

    fn slot(&self, slot: Slot) -> FsResult<Open> {
        self.slots
            .0
            .get(&slot)
            .copied()
            .ok_or(FsError::from(ErrorKind::BadHandle))
    }

    fn open(
        &mut self,
        who: &Caller,
        slot: Slot,
        path: &FsPath,
        how: OpenHow,
        mode: u32,
    ) -> FsResult<Outcome> {
        let existing = match self.resolve(who, path) {
            Ok(attr) => Some(attr),
            Err(error) if error.kind() == ErrorKind::NotFound && how.create => None,
            Err(error) => return Err(error),
        };
        // A kernel opens special files by itself, and the root has no parent to create in.
        let by_create = how.create
            && !path.0.is_empty()
            && existing.as_ref().is_none_or(|attr| {
                matches!(
                    attr.kind,
                    FileKind::File | FileKind::Directory | FileKind::Symlink
                )
            });
        let ino = if by_create {
            let (parent, name) = self.parent_of(who, path)?;
            let create = Operation::Create {
                parent,
                name,
                mode,
                exclusive: how.exclusive,
                read: how.read,
                write: how.write || how.truncate,
            };
            match self.apply(who, create)? {
                OpReply::Created { entry, existed } => {
                    assert_eq!(existed, existing.is_some());
                    entry.attr.ino
                }
                other => panic!("{other:?}"),
            }
        } else {
            let attr = existing.as_ref().expect("it exists or it is created");
            if how.create && how.exclusive {
                return Err(ErrorKind::Exists.into());
            }
            let write = how.write || how.truncate || (how.create && attr.kind == FileKind::Directory);
            read::open_check(&self.store, who, attr.ino, how.read, write)?.ino
        };
        self.slots.0.insert(slot, Open { ino, how });
        let kind = read::getattr(&self.store, ino)?.kind;
        if how.truncate && existing.is_some() && kind == FileKind::File {
            let set = SetAttr {
                size: Some(0),
                mtime: Some(SetTime::Now),
                ..SetAttr::default()
            };
            // The kernel checked the permission when it opened.
            self.setattr(who, ino, set, how.write)?;
        }
        Ok(Outcome::Done)
    }

    fn close(&mut self, slot: Slot) -> FsResult<Outcome> {
        let open = self.slot(slot)?;
        self.slots.0.remove(&slot);
        if !self.slots.0.values().any(|other| other.ino == open.ino) {
            self.write(|txn, now| release_orphan(txn, now, open.ino, SESSION))?;
        }
        Ok(Outcome::Done)
    }

    fn content(&self, ino: Ino, offset: u64, length: u64) -> FsResult<Vec<u8>> {
        let sign = |chunk| self.key.sign(SESSION, chunk, ChunkAccess::Read, u64::MAX);
        let size = read::getattr(&self.store, ino)?.size;
        let end = size.min(offset + length).max(offset);
        let mut bytes = vec![0; (end - offset) as usize];
        let mut at = offset;
        while at < end {
            // Small pages, so that several are needed.
            let page = read::read_extents(&self.store, ino, at, end - at, 3, sign)?;
            for resolved in page.extents {
                let extent = resolved.extent;
                let data: &[u8] = match &extent.data {
                    ExtentData::Inline(data) => data,
                    ExtentData::Chunk { chunk, chunk_offset } => {
                        &self.chunks[chunk][*chunk_offset as usize..][..extent.length as usize]
                    }
                };
                let (from, to) = (extent.offset.max(offset), extent.end().min(end));
                bytes[(from - offset) as usize..(to - offset) as usize]
                    .copy_from_slice(&data[(from - extent.offset) as usize..(to - extent.offset) as usize]);
            }
            at = page.covered_to;
        }
        Ok(bytes)
    }

    fn read(&self, slot: Slot, offset: u64, length: u32) -> FsResult<Outcome> {
        let open = self.slot(slot)?;
        match read::getattr(&self.store, open.ino)?.kind {
            _ if !open.how.read => Err(ErrorKind::BadHandle.into()),
            FileKind::Directory => Err(ErrorKind::IsDirectory.into()),
            _ => self
                .content(open.ino, offset, u64::from(length))
                .map(Outcome::Bytes),
        }
    }

    fn chunk_extent(&mut self, offset: u64, bytes: &[u8]) -> FsResult<(Extent, CommittedChunk)> {
        let granted = self.apply(&Caller::root(), Operation::GrantChunks { count: 1 })?;
        let OpReply::Chunks(granted) = granted else {
            panic!("{granted:?}")
        };
        let chunk = granted[0].chunk;
        // The content stands in the middle of its chunk.
        let content = [&[0xee; 100], bytes, &[0xee; 50]].concat();
        let length = content.len() as u64;
        self.chunks.insert(chunk, content);
        let receipt = |node| Receipt {
            node: NodeId(node),
            disk: DiskIncarnation(1),
            sha256: [0; 32],
            length,
        };
        let extent = Extent {
            offset,
            length: bytes.len() as u64,
            data: ExtentData::Chunk {
                chunk,
                chunk_offset: 100,
            },
        };
        let receipts = (1..=2 + (offset % 2) as u32).map(receipt).collect();
        Ok((extent, CommittedChunk { chunk, receipts }))
    }

    fn write_bytes(&mut self, who: &Caller, slot: Slot, offset: u64, bytes: &[u8]) -> FsResult<Outcome> {
        let open = self.slot(slot)?;
        let attr = read::getattr(&self.store, open.ino)?;
        if !open.how.write || attr.kind != FileKind::File {
            return Err(ErrorKind::BadHandle.into());
        }
        if bytes.is_empty() {
            return Ok(Outcome::Count(0));
        }
        let stripped = permission::without_set_id(&attr, who);
        if who.uid != 0 && stripped != attr.mode {
            let set = SetAttr {
                mode: Some(stripped),
                ..SetAttr::default()
            };
            self.setattr(who, open.ino, set, false)?;
        }
        let append = open.how.append;
        let mut commit = CommitWrite {
            ino: open.ino,
            extents: vec![],
            chunks: vec![],
            append,
            mtime: self.now(),
            clear_setid: false,
        };
        let at = if append { 0 } else { offset };
        if bytes.len() <= INLINE_EXTENT_BYTES_MAX {
            commit.extents = vec![Extent {
                offset: at,
                length: bytes.len() as u64,
                data: ExtentData::Inline(Bytes::copy_from_slice(bytes)),
            }];
            match self.apply(who, Operation::CommitWrite(commit.clone())) {
                Err(error) if error.kind() == ErrorKind::TooBig => {}
                Err(error) => return Err(error),
                Ok(_) => return Ok(Outcome::Count(bytes.len())),
            }
            commit.extents.clear();
        }
        for (number, piece) in bytes.chunks(CHUNK_BYTES).enumerate() {
            let (extent, chunk) = self.chunk_extent(at + (number * CHUNK_BYTES) as u64, piece)?;
            commit.extents.push(extent);
            commit.chunks.push(chunk);
        }
        let reply = self.apply(who, Operation::CommitWrite(commit))?;
        let OpReply::Committed { append_offset, .. } = reply else {
            panic!("{reply:?}")
        };
        assert!(!append || append_offset == attr.size);
        Ok(Outcome::Count(bytes.len()))
    }

    fn readdir(&self, who: &Caller, path: &FsPath) -> FsResult<Outcome> {
        let ino = self.resolve(who, path)?.ino;
        let mut entries = BTreeMap::new();
        let mut cursor = 0;
        loop {
            let page = read::readdir(&self.store, who, ino, cursor, 3, true)?;
            for entry in page.entries {
                assert!(entry.cursor > cursor && entry.cursor >= 3);
                cursor = entry.cursor;
                assert_eq!(
                    entry.attr.map(|attr| (attr.ino, attr.kind)),
                    Some((entry.ino, entry.kind))
                );
                let twice = entries.insert(entry.name.as_bytes().to_vec(), entry.kind);
                assert!(twice.is_none(), "{} was listed twice", entry.name);
            }
            if page.end {
                return Ok(Outcome::Entries(entries));
            }
        }
    }

    fn answer(&mut self, who: &Caller, call: &Call) -> FsResult<Outcome> {
        let done = |result: FsResult<OpReply>| result.map(|_| Outcome::Done);
        let set = |change: &dyn Fn(&mut SetAttr)| {
            let mut set = SetAttr::default();
            change(&mut set);
            set
        };
        match call.clone() {
            Call::Mkdir { path, mode } => {
                let (parent, name) = self.parent_of(who, &path)?;
                done(self.apply(who, Operation::Mkdir { parent, name, mode }))
            }
            Call::Mknod {
                path,
                kind,
                mode,
                rdev,
            } => {
                let (parent, name) = self.parent_of(who, &path)?;
                let mknod = Operation::Mknod {
                    parent,
                    name,
                    kind,
                    mode,
                    rdev,
                };
                done(self.apply(who, mknod))
            }
            Call::Symlink { path, target } => {
                let (parent, name) = self.parent_of(who, &path)?;
                let target = Bytes::from(target);
                done(self.apply(who, Operation::Symlink { parent, name, target }))
            }
            Call::Link { from, to } => {
                let ino = self.resolve(who, &from)?.ino;
                let (parent, name) = self.parent_of(who, &to)?;
                done(self.apply(who, Operation::Link { ino, parent, name }))
            }
            Call::Unlink { path } => {
                let (parent, name) = self.parent_of(who, &path)?;
                done(self.apply(who, Operation::Unlink { parent, name }))
            }
            Call::Rmdir { path } => {
                let (parent, name) = self.parent_of(who, &path)?;
                done(self.apply(who, Operation::Rmdir { parent, name }))
            }
            Call::Rename { from, to, mode } => {
                let (parent, old) = self.directory_of(who, &from)?;
                let (new_parent, new) = self.directory_of(who, &to)?;
                // The kernel looks the old name up before it looks at the new one.
                let name = name_of(old)?;
                read::lookup(&self.store, who, parent, &name)?;
                let new_name = name_of(new)?;
                let rename = Operation::Rename {
                    parent,
                    name,
                    new_parent,
                    new_name,
                    mode,
                };
                done(self.apply(who, rename))
            }
            Call::Open {
                slot,
                path,
                how,
                mode,
            } => self.open(who, slot, &path, how, mode),
            Call::Close { slot } => self.close(slot),
            Call::Read { slot, offset, length } => self.read(slot, offset, length),
            Call::Write {
                slot,
                offset,
                length,
                pattern,
            } => self.write_bytes(who, slot, offset, &pattern_bytes(pattern, offset, length)),
            Call::Fsync { slot } => self.slot(slot).map(|_| Outcome::Done),
            Call::Ftruncate { slot, size } => {
                let open = self.slot(slot)?;
                if !open.how.write || read::getattr(&self.store, open.ino)?.kind != FileKind::File {
                    return Err(ErrorKind::Invalid.into());
                }
                self.setattr(who, open.ino, set(&|set| set.size = Some(size)), true)
            }
            Call::Fstat { slot } => Ok(Outcome::Stat(stat(read::getattr(
                &self.store,
                self.slot(slot)?.ino,
            )?))),
            Call::Stat { path } => Ok(Outcome::Stat(stat(self.resolve(who, &path)?))),
            Call::Readlink { path } => {
                let target = read::readlink(&self.store, self.resolve(who, &path)?.ino)?;
                Ok(Outcome::Bytes(target.to_vec()))
            }
            Call::Readdir { path } => self.readdir(who, &path),
            Call::Chmod { path, mode } => {
                let ino = self.resolve(who, &path)?.ino;
                self.setattr(who, ino, set(&|set| set.mode = Some(mode)), false)
            }
            Call::Chown { path, uid, gid } => {
                let attr = self.resolve(who, &path)?;
                let change = set(&|set| {
                    set.uid = uid;
                    set.gid = gid;
                    // A kernel that is asked to change nothing takes the set-id bits away all the same.
                    if uid.is_none() && gid.is_none() && attr.kind != FileKind::Directory {
                        set.mode = Some(permission::without_set_id(&attr, who));
                    }
                });
                match (uid, gid, attr.kind) {
                    (None, None, FileKind::Directory | FileKind::Symlink) => {
                        self.setattr(who, attr.ino, set(&|set| set.uid = Some(attr.uid)), false)
                    }
                    _ => self.setattr(who, attr.ino, change, false),
                }
            }
            Call::Truncate { path, size } => {
                let ino = self.resolve(who, &path)?.ino;
                self.setattr(who, ino, set(&|set| set.size = Some(size)), false)
            }
            Call::Utimens { path, atime, mtime } => {
                let ino = self.resolve(who, &path)?.ino;
                let change = set(&|set| {
                    set.atime = atime;
                    set.mtime = mtime;
                });
                self.setattr(who, ino, change, false)
            }
            Call::Setxattr {
                path,
                name,
                value,
                mode,
            } => {
                let setxattr = Operation::Setxattr {
                    ino: self.resolve(who, &path)?.ino,
                    name: name.into(),
                    value: value.into(),
                    mode,
                };
                done(self.apply(who, setxattr))
            }
            Call::Getxattr { path, name } => {
                let ino = self.resolve(who, &path)?.ino;
                let value = read::getxattr(&self.store, who, ino, &name)?;
                Ok(Outcome::Bytes(value.to_vec()))
            }
            Call::Listxattr { path } => {
                let ino = self.resolve(who, &path)?.ino;
                let names = read::listxattr(&self.store, who, ino)?;
                Ok(Outcome::Names(names.iter().map(|name| name.to_vec()).collect()))
            }
            Call::Quota { path, quota } => {
                let ino = self.resolve(&Caller::root(), &path)?.ino;
                self.set_quota(ino, quota).map(|()| Outcome::Done)
            }
            Call::Removexattr { path, name } => {
                let ino = self.resolve(who, &path)?.ino;
                let name = name.into();
                done(self.apply(who, Operation::Removexattr { ino, name }))
            }
        }
    }
}

fn name_of(bytes: &[u8]) -> FsResult<Name> {
    Name::new(Bytes::copy_from_slice(bytes))
}

fn stat(attr: Attr) -> Stat {
    Stat {
        ino: attr.ino.0,
        kind: attr.kind,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: if attr.kind == FileKind::Directory {
            0
        } else {
            attr.size
        },
        atime: Time::At(attr.atime),
        mtime: Time::At(attr.mtime),
        ctime: Time::At(attr.ctime),
    }
}

impl Target for NamespaceTarget {
    fn usage(&mut self, path: &FsPath) -> Option<(u64, u64, u64)> {
        let ino = self.resolve(&Caller::root(), path).unwrap().ino;
        let usage = quota::tree_usage(&self.store, ino).unwrap();
        Some((usage.bytes, usage.files, usage.directories))
    }
    fn name(&self) -> String {
        "namespace".into()
    }
    fn call(&mut self, who: &Caller, call: &Call) -> Outcome {
        self.seconds += 1;
        let outcome = self.answer(who, call);
        self.write(|txn, now| {
            orphans::reap_replaced(txn, now, &self.slots, 2)?;
            reap::step(txn, now, 2).map(drop)
        })
        .unwrap();
        let report = check::check(&self.store).unwrap();
        assert!(report.is_clean(), "{call:?} left {report:#?}");
        outcome.unwrap_or_else(|error| Outcome::Failed(error.errno()))
    }
}

fn run(profile: Profile, length: usize, seeds: u64) {
    let seeds: Vec<u64> = (1..=seeds).collect();
    Trial {
        length,
        profile,
        rules: Rules::default(),
        tolerance: Tolerance::default(),
    }
    .run(&seeds, NamespaceTarget::fresh);
}

#[test]
fn names_attributes_and_permissions_agree_with_the_model() {
    run(Profile::names(), 300, 20);
}

#[test]
fn content_agrees_with_the_model() {
    run(Profile::files(), 250, 15);
}

#[test]
fn what_quotas_admit_and_refuse_agrees_with_the_model() {
    run(Profile::quotas(), 300, 40);
}

#[test]
fn everything_together_agrees_with_the_model() {
    run(Profile::full(), 300, 20);
}
