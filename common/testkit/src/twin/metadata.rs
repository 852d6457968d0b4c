//! The metadata twin's face: every call takes the lock, checks the session and asks the state.

use super::TwinOptions;
use super::chunks::TwinChunks;
use super::content::opened_or_written;
use super::locks::Locks;
use super::state::{Body, State};
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::TreeUsage;
use dfs_common::attr::{Attr, FileKind};
use dfs_common::clock::Clock;
use dfs_common::cluster::{ClusterUpdate, NodeHealth, NodeInfo, PlacementGroup, StatFs};
use dfs_common::durability::{CommitId, CommitPoint};
use dfs_common::limits::{LOCK_POLL, RELEASES_MAX};
use dfs_common::lock::{HeldLock, LockOutcome, LockOwner, LockRange, LockSpec, LockTicket};
use dfs_common::op::MutationBatch;
use dfs_common::service::{DirPage, Extents, Found, MetadataService, Mutated, Opened};
use dfs_common::session::{Caller, Identity, OpenSession, SessionGrant};
use dfs_common::{
    ChunkId, ClusterId, DiskIncarnation, ErrorKind, FsError, FsResult, Ino, Name, NodeId, PgId, Quota,
};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// In-memory metadata.
pub struct TwinMetadata {
    state: Mutex<State>,
    power: Mutex<Power>,
    /// Notified when a lock request may have ended.
    locks_changed: Notify,
    chunks: Arc<TwinChunks>,
}

/// What the twin says of its durability; whatever that is, it keeps everything.
#[derive(Default)]
struct Power {
    /// Answers changes before they are durable.
    relaxed: bool,
    point: CommitPoint,
    rollback_epoch: u64,
    kept: u64,
}

impl TwinMetadata {
    /// From now on it says that changes are answered before they are durable.
    pub fn relax(&self) {
        self.power.lock().relaxed = true;
    }

    /// Sets a directory's quota; an empty one is none.
    ///
    /// # Errors
    /// `NotDirectory`, `Stale`; `Invalid` if a file has names below the directory and elsewhere.
    pub fn set_quota(&self, directory: Ino, quota: Quota) -> FsResult<()> {
        self.state.lock().set_quota(directory, quota)
    }

    /// From now on it says that it lost power, and kept the commits up to `kept`. Sessions go on without being resumed: that a client must
    /// notice by the answers.
    pub fn lose_power(&self, kept: u64) {
        let mut power = self.power.lock();
        let epoch = power.point.last.epoch + 1;
        power.point = CommitPoint {
            last: CommitId { epoch, number: 0 },
            durable: 0,
        };
        (power.rollback_epoch, power.kept) = (epoch, kept);
    }

    /// It starts again: sessions must be resumed, and have open what they declare. Nothing else is lost.
    pub fn restart(&self) {
        self.state.lock().restart();
        self.lose_power(u64::MAX);
        self.power.lock().rollback_epoch = 0;
    }

    /// An empty file system (the root is root's, with mode 0755) whose grants lead to `chunks`.
    pub fn new(options: TwinOptions, chunks: Arc<TwinChunks>, clock: Arc<dyn Clock>) -> Self {
        let node = |(address, id): (String, u32)| NodeInfo {
            id: NodeId(id),
            address,
            health: NodeHealth::Up,
            disk: DiskIncarnation(u64::from(id)),
            capacity_bytes: options.node_bytes,
            used_bytes: 0,
            available_bytes: options.node_bytes,
            chunks: 0,
            writable: true,
        };
        let nodes: Vec<NodeInfo> = chunks.addresses().into_iter().zip(1..).map(node).collect();
        let count = nodes.len();
        let size = (options.replication as usize).min(count);
        let members = |first: usize| {
            (0..size)
                .map(move |i| NodeId(((first + i) % count) as u32 + 1))
                .collect()
        };
        let groups = (0..count).map(|first| PlacementGroup {
            id: PgId(first as u32 + 1),
            version: 1,
            members: members(first),
        });
        let mut state = State {
            groups: groups.collect(),
            options,
            now: clock.now(),
            clock,
            cluster: ClusterId(uuid::Uuid::from_u128(rand::random())),
            sessions: BTreeMap::new(),
            next_session: 1,
            inodes: BTreeMap::new(),
            replaced: BTreeMap::new(),
            passed_over: BTreeSet::new(),
            graves: BTreeMap::new(),
            quotas: BTreeMap::new(),
            next_ino: Ino::ROOT.0,
            next_cursor: 3,
            chunks: BTreeMap::new(),
            freed: BTreeSet::new(),
            nodes,
            cluster_version: 1,
            next_group: 0,
            locks: Locks::default(),
        };
        let root = Body::Directory {
            entries: BTreeMap::new(),
            parent: Ino::ROOT,
        };
        state.new_inode(root, FileKind::Directory, 0o755, (0, 0));
        TwinMetadata {
            state: Mutex::new(state),
            power: Mutex::new(Power {
                point: CommitPoint {
                    last: CommitId { epoch: 1, number: 0 },
                    durable: 0,
                },
                kept: u64::MAX,
                ..Power::default()
            }),
            locks_changed: Notify::new(),
            chunks,
        }
    }

    /// Takes a datanode down or up: unreachable, and shown so in the cluster state.
    pub fn set_node_down(&self, index: usize, down: bool) {
        self.chunks.node(index).set_down(down);
        let mut state = self.state.lock();
        state.nodes[index].health = if down { NodeHealth::Down } else { NodeHealth::Up };
        state.cluster_version += 1;
    }

    /// Chunks that files refer to.
    pub fn chunks_in_use(&self) -> BTreeSet<ChunkId> {
        self.state.lock().chunks.keys().copied().collect()
    }

    /// Chunks that were in use and are not any more.
    pub fn chunks_freed(&self) -> BTreeSet<ChunkId> {
        self.state.lock().freed.clone()
    }

    /// Ends every session, as if their leases had run out.
    pub fn fence_all(&self) {
        let mut state = self.state.lock();
        let sessions: Vec<_> = state.sessions.keys().copied().collect();
        for session in sessions {
            state.end_session(session);
        }
        self.locks_changed.notify_waiters();
    }

    /// Opens of all sessions together.
    pub fn open_files(&self) -> u64 {
        let state = self.state.lock();
        let opens = state.sessions.values().flat_map(|session| session.opens.values());
        opens.map(|open| open.count).sum()
    }

    /// Inodes, those without a name among them.
    pub fn inodes(&self) -> usize {
        let mut state = self.state.lock();
        state.forget_replaced();
        state.inodes.len()
    }

    /// Wakes those who wait for locks, if that call may have changed what they wait for.
    fn after_locks(&self, outcome: FsResult<LockOutcome>) -> FsResult<LockOutcome> {
        if outcome != Ok(LockOutcome::Waiting) {
            self.locks_changed.notify_waiters();
        }
        outcome
    }

    /// The state on behalf of a live session.
    fn with<T>(&self, identity: &Identity, call: impl FnOnce(&mut State) -> FsResult<T>) -> FsResult<T> {
        let mut state = self.state.lock();
        state.session(identity)?;
        call(&mut state)
    }
}

/// The twin grants no leases: its clients ask every time.
fn found(attr: Attr) -> Found {
    Found {
        attr,
        leased: false,
        parent_leased: false,
    }
}

#[async_trait]
impl MetadataService for TwinMetadata {
    async fn open_session(&self, request: OpenSession) -> FsResult<SessionGrant> {
        let unsynced = request.unsynced;
        let grant = self.state.lock().open_session(request)?;
        let power = self.power.lock();
        let epoch = power.point.last.epoch;
        let same = unsynced.is_none_or(|commit| commit.epoch == epoch);
        Ok(SessionGrant {
            coordinator_epoch: epoch,
            rollback_epoch: power.rollback_epoch,
            kept_commits: if same { u64::MAX } else { power.kept },
            ..grant
        })
    }

    async fn keep_alive(&self, identity: Identity) -> FsResult<Duration> {
        self.state.lock().keep_alive(&identity)
    }

    async fn close_session(&self, identity: Identity) -> FsResult<()> {
        self.with(&identity, |state| {
            state.end_session(identity.session);
            Ok(())
        })
        .inspect(|()| self.locks_changed.notify_waiters())
    }

    async fn mutate(&self, identity: Identity, batch: MutationBatch) -> FsResult<Mutated> {
        let durable = batch.durable;
        let results = self.state.lock().mutate(&identity, batch)?;
        Ok(Mutated {
            access: results.iter().flatten().filter_map(opened_or_written).collect(),
            results,
            leased: Vec::new(),
            point: {
                let mut power = self.power.lock();
                power.point.last.number += u64::from(power.relaxed && !durable);
                if durable {
                    power.point.durable = power.point.last.number;
                }
                power.point
            },
        })
    }

    async fn fsync(&self, identity: Identity, ino: Ino) -> FsResult<CommitPoint> {
        // Nothing of a twin outlives its process, all of it does so at once.
        self.with(&identity, |state| state.attr(ino))?;
        let mut power = self.power.lock();
        power.point.durable = power.point.last.number;
        Ok(power.point)
    }

    async fn lookup(&self, identity: Identity, caller: Caller, parent: Ino, name: Name) -> FsResult<Found> {
        self.with(&identity, |state| state.lookup(&caller, parent, &name))
            .map(found)
    }

    async fn getattr(&self, identity: Identity, ino: Ino) -> FsResult<Found> {
        self.with(&identity, |state| state.attr(ino)).map(found)
    }

    async fn readlink(&self, identity: Identity, ino: Ino) -> FsResult<Bytes> {
        self.with(&identity, |state| state.readlink(ino))
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
        self.with(&identity, |state| {
            state.readdir(&caller, ino, cursor, limit, attrs)
        })
    }

    async fn getxattr(&self, identity: Identity, caller: Caller, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        self.with(&identity, |state| state.getxattr(&caller, ino, &name))
    }

    async fn listxattr(&self, identity: Identity, caller: Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
        self.with(&identity, |state| state.listxattr(&caller, ino))
    }

    async fn read_extents(
        &self,
        identity: Identity,
        ino: Ino,
        offset: u64,
        length: u64,
        _settle: bool,
    ) -> FsResult<Extents> {
        self.with(&identity, |state| {
            let page = state.read_extents(identity.session, ino, offset, length)?;
            let leased = true;
            Ok(Extents { page, leased })
        })
    }

    async fn open(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        read: bool,
        write: bool,
    ) -> FsResult<Opened> {
        self.with(&identity, |state| {
            state.open(identity.session, &caller, ino, read, write)
        })
    }

    async fn release(&self, identity: Identity, inos: Vec<Ino>) -> FsResult<()> {
        self.with(&identity, |state| {
            if !(1..=RELEASES_MAX).contains(&inos.len()) {
                return Err(FsError::new(ErrorKind::Invalid, "a release has 1 to 4096 inodes"));
            }
            for ino in inos {
                state.release(identity.session, ino);
            }
            Ok(())
        })
    }

    async fn lock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        lock: LockSpec,
        patience: Duration,
    ) -> FsResult<LockOutcome> {
        let session = identity.session;
        let ask = || {
            self.with(&identity, |state| {
                if state.has_open(session, ino).is_none() {
                    return Err(FsError::new(
                        ErrorKind::BadHandle,
                        format!("inode {ino} is not open"),
                    ));
                }
                state.locks.lock(session, &ticket, ino, lock, !patience.is_zero())
            })
        };
        let deadline = tokio::time::Instant::now() + patience.min(LOCK_POLL);
        loop {
            let mut changed = std::pin::pin!(self.locks_changed.notified());
            changed.as_mut().enable();
            let outcome = self.after_locks(ask());
            if outcome != Ok(LockOutcome::Waiting)
                || tokio::time::timeout_at(deadline, changed).await.is_err()
            {
                return outcome;
            }
        }
    }

    async fn unlock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        owner: LockOwner,
        range: LockRange,
    ) -> FsResult<LockOutcome> {
        let session = identity.session;
        self.after_locks(self.with(&identity, |state| {
            state.locks.unlock(session, &ticket, ino, owner, range)
        }))
    }

    async fn cancel_lock(&self, identity: Identity, ticket: LockTicket) -> FsResult<LockOutcome> {
        let session = identity.session;
        self.after_locks(self.with(&identity, |state| state.locks.cancel(session, &ticket)))
    }

    async fn test_lock(&self, identity: Identity, ino: Ino, lock: LockSpec) -> FsResult<Option<HeldLock>> {
        self.with(&identity, |state| {
            Ok(state.locks.test(identity.session, ino, lock))
        })
    }

    async fn statfs(&self, identity: Identity) -> FsResult<StatFs> {
        let available = self.chunks.available_bytes();
        self.with(&identity, |state| {
            let copies = u64::from(state.options.replication);
            let capacity: u64 = state.nodes.iter().map(|node| node.capacity_bytes).sum();
            let inos: Vec<Ino> = state.inodes.keys().copied().collect();
            let content = inos
                .iter()
                .map(|ino| state.attr(*ino).map(|attr| attr.allocated_bytes));
            Ok(StatFs {
                capacity_bytes: capacity / copies,
                available_bytes: available / copies,
                used_bytes: content.sum::<FsResult<u64>>()?,
                inodes: inos.len() as u64,
            })
        })
    }

    async fn usage(&self, identity: Identity, ino: Ino) -> FsResult<TreeUsage> {
        self.with(&identity, |state| state.usage(ino))
    }

    async fn cluster_state(&self, identity: Identity, known_version: u64) -> FsResult<ClusterUpdate> {
        self.with(&identity, |state| {
            let version = state.cluster_version;
            Ok(match known_version == version {
                true => ClusterUpdate {
                    version,
                    ..ClusterUpdate::default()
                },
                false => ClusterUpdate {
                    version,
                    full: true,
                    nodes: state.nodes.clone(),
                    groups: state.groups.clone(),
                    removed_nodes: Vec::new(),
                },
            })
        })
    }
}
