//! The two seams: everything that keeps names is a [`MetadataService`], everything that keeps chunks a [`ChunkService`].
//!
//! Each has a gRPC stub (in `dfs-proto`), the real server, a fault-injecting wrapper (in `dfs-testkit`) and, for tests,
//! an in-memory twin. All pass one conformance suite.

use crate::attr::{Attr, FileKind};
use crate::capability::{ChunkCapability, Voucher};
use crate::chunk::{ChunkDescription, ChunkLabel};
use crate::cluster::{ClusterUpdate, StatFs};
use crate::durability::CommitPoint;
use crate::error::{ErrorKind, FsError, FsResult};
use crate::extent::{ExtentPage, Receipt};
use crate::ids::Ino;
use crate::lease::{Access, Obeyed, RecallPage};
use crate::lock::{HeldLock, LockOutcome, LockOwner, LockRange, LockSpec, LockTicket};
use crate::name::Name;
use crate::op::{MutationBatch, OpResult};
use crate::piece::Piece;
use crate::session::{Caller, Identity, OpenSession, SessionGrant};
use crate::usage::TreeUsage;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// One entry of a directory page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// Name.
    pub name: Name,
    /// Inode.
    pub ino: Ino,
    /// Kind.
    pub kind: FileKind,
    /// Continue after this entry: a number that never changes while the entry exists; at least 3.
    pub cursor: u64,
    /// Attributes, if asked for.
    pub attr: Option<Attr>,
}

/// One page of a directory, in cursor order, without `.` and `..`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirPage {
    /// Entries.
    pub entries: Vec<DirEntry>,
    /// Nothing follows.
    pub end: bool,
    /// Inode of the parent directory (the root is its own), for `..`.
    pub parent: Ino,
    /// The session has leases on the directory and on every entry whose attributes are here.
    pub leased: bool,
}

/// Attributes of an inode, and which leases came with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Attributes, inode number among them.
    pub attr: Attr,
    /// The session has a lease on the inode.
    pub leased: bool,
    /// Of a lookup: the session has a lease on the directory.
    pub parent_leased: bool,
}

/// Answer to a batch.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Mutated {
    /// One result per operation, in order.
    pub results: Vec<OpResult>,
    /// Inodes among those that the batch concerned on which the session now has a lease, as they are after it; the
    /// directories of created and removed names are among them.
    pub leased: Vec<Attr>,
    /// What the session may do with the files that the batch opened or wrote.
    pub access: Vec<Access>,
    /// Whether the results are durable.
    pub point: CommitPoint,
}

/// Reply to an open: fresh attributes, the first page of the map, and the leases that came with them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Attributes.
    pub attr: Attr,
    /// Extents from offset 0.
    pub extents: ExtentPage,
    /// What the session may do with the file.
    pub access: Access,
}

/// A page of a file's map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extents {
    /// The page.
    pub page: ExtentPage,
    /// The session has a lease on the content.
    pub leased: bool,
}

/// What ties a session to the process that uses it: when that process is gone, whatever ended it, its session ends at once
/// and not with its lease (docs/adr/0021-lifelines.md).
///
/// Dropping one that is held may end the session, as the end of the process would. Dropping one that is not held, or is
/// [`Lifeline::broken`], ends nothing.
#[async_trait]
pub trait Lifeline: Send + Sync {
    /// From now on the end of the process is the end of the session, and any earlier lifeline of the session counts no more.
    /// Not cancel-safe: a caller that gives up does not know whether it is held.
    ///
    /// # Errors
    /// `SessionFenced`: the session is over. `Stale`: there is a later one. `Unavailable`: it broke.
    async fn hold(&mut self) -> FsResult<()>;
    /// Resolves when it is of no further use, with the reason: it broke, there is a later one, or the session is over.
    /// Cancel-safe.
    async fn broken(&mut self) -> FsError;
    /// Of a lifeline at the service itself, for transports: the process of the client is gone. Ends the session, unless
    /// there is a later lifeline.
    async fn part(&mut self) {}
}

/// Metadata: names, inodes, extent maps, sessions. What a mutation returns survives the end of the process that serves it;
/// whether it is durable too, [`Mutated::point`] says. Everything else is durable when it returns.
///
/// Every call but `open_session` carries an [`Identity`]. Common errors: `SessionFenced` (unknown session, wrong secret
/// or old epoch: resume or open a new one), `Unavailable` and `TimedOut` (try again, with the same operation numbers),
/// `Stale` (the inode number is gone).
#[async_trait]
pub trait MetadataService: Send + Sync + 'static {
    /// Opens or resumes a session.
    async fn open_session(&self, request: OpenSession) -> FsResult<SessionGrant>;
    /// Renews the lease; answers its length, counted from the time of sending.
    async fn keep_alive(&self, identity: Identity) -> FsResult<Duration>;
    /// Ends the session: its open files are released, late commits refused.
    async fn close_session(&self, identity: Identity) -> FsResult<()>;

    /// Opens a lifeline, which is not held yet. `number`: the client's, greater than those of earlier ones of the session. A session
    /// that is still to be resumed may have one.
    ///
    /// # Errors
    /// `NotSupported`: nobody can tell here whether the process lives, the session ends with its lease. `Stale`: there is a later one.
    async fn lifeline(&self, identity: Identity, number: u64) -> FsResult<Box<dyn Lifeline>> {
        let _ = (identity, number);
        Err(FsError::new(
            ErrorKind::NotSupported,
            "this service has no lifelines",
        ))
    }

    /// Applies a batch; one result per operation, in order. The outer error means that nothing is known of any. Returns
    /// after every other session has given up its leases on what was changed.
    async fn mutate(&self, identity: Identity, batch: MutationBatch) -> FsResult<Mutated>;

    /// Waits up to [`crate::limits::RECALL_POLL`] for leases that the session must give up. `obeyed` says which recalls of `stream` it has
    /// obeyed: operations that waited for them go on. A later call for a stream ends the wait of an earlier one. `stream` 0 opens a new
    /// stream, at once: the session says that it has forgotten everything that it was granted, but for what it buffers. Without a stream
    /// nothing is granted.
    ///
    /// # Errors
    /// `Stale`: the stream is over, forget everything and open a new one. `NotSupported`: this service grants no leases.
    async fn recalls(&self, identity: Identity, stream: u64, obeyed: Obeyed) -> FsResult<RecallPage> {
        let _ = (identity, stream, obeyed);
        Err(FsError::new(
            ErrorKind::NotSupported,
            "this service grants no leases",
        ))
    }

    /// fsync and fsyncdir: returns when every change that anybody was acknowledged before is durable, and says which coordinator it
    /// was: one that the client has not resumed its session at may have lost some of them.
    ///
    /// # Errors
    /// `Stale`: there is no inode `ino` (any more).
    async fn fsync(&self, identity: Identity, ino: Ino) -> FsResult<CommitPoint>;

    /// Finds a name. `caller` needs search permission on `parent`.
    async fn lookup(&self, identity: Identity, caller: Caller, parent: Ino, name: Name) -> FsResult<Found>;
    /// Attributes.
    async fn getattr(&self, identity: Identity, ino: Ino) -> FsResult<Found>;
    /// Target of a symbolic link.
    async fn readlink(&self, identity: Identity, ino: Ino) -> FsResult<Bytes>;
    /// Page of a directory after `cursor` (0: from the start); at most `limit` entries. `caller` needs read permission
    /// when `cursor` is 0 (a directory opened once stays readable).
    async fn readdir(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage>;
    /// Value of an extended attribute.
    async fn getxattr(&self, identity: Identity, caller: Caller, ino: Ino, name: Bytes) -> FsResult<Bytes>;
    /// Names of the extended attributes that `caller` may see.
    async fn listxattr(&self, identity: Identity, caller: Caller, ino: Ino) -> FsResult<Vec<Bytes>>;
    /// Extents that overlap `offset..offset+length` of a file that the session has open. With `settle` after the changes of its content that
    /// are under way, and with a lease on it if at all possible. Without, of what is committed, at once: for a reader whose own lease is
    /// being recalled, so that a change waits for it.
    async fn read_extents(
        &self,
        identity: Identity,
        ino: Ino,
        offset: u64,
        length: u64,
        settle: bool,
    ) -> FsResult<Extents>;
    /// Opens a file: checks `caller`'s permission, counts one open of the session. Durable only while the session lives:
    /// a client declares its open files again when it resumes. A file without a name can be opened by sessions that have it
    /// open, and by all for [`crate::limits::REPLACED_INODE_KEPT`] after a rename gave its last name to another one.
    async fn open(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        read: bool,
        write: bool,
    ) -> FsResult<Opened>;
    /// Takes opens back: one per listed inode, which may be listed more than once; 1 to
    /// [`crate::limits::RELEASES_MAX`]. Inodes that the session does not have open are passed over.
    ///
    /// Not repeatable: after a failure whose outcome is unknown the opens are left to the end of the session.
    async fn release(&self, identity: Identity, inos: Vec<Ino>) -> FsResult<()>;
    /// Asks for an advisory lock on an inode that the session has open, and waits for it at most `patience`, which is cut to
    /// [`crate::limits::LOCK_POLL`]. Zero: the request is not to wait at all. `Waiting`: it keeps its place in the queue, whether it is
    /// polled or not; ask again with the same ticket number. A wait ends with its outcome, with
    /// [`MetadataService::cancel_lock`], or with the session. Dropping the call ends nothing.
    ///
    /// A flock of another kind gives up the owner's flock first, whatever the outcome: also if it then waits, is refused or cancelled, or is
    /// `Unavailable` after a restart. So a client forgets its own before it asks, and notes what is `Granted`. After another error, or
    /// the cancellation of a request that may not have arrived, the old one may still be held: unlock it.
    ///
    /// `TooMany`: above [`crate::limits::SESSION_LOCKS_MAX`], [`crate::limits::SESSION_LOCK_REQUESTS_MAX`] (for one that would wait), or half
    /// of [`crate::limits::SESSION_LOCK_OUTCOMES_MAX`].
    ///
    /// Safe to repeat: a number has one outcome, which every repetition is told until the client settles it.
    ///
    /// # Errors
    /// `StaleOperation`: the number was settled, and nothing came or will come of this request. If it had waited, the coordinator
    /// was restarted meanwhile: ask with a new number. `Unavailable`: after a restart, until all clients have declared their locks,
    /// requests that are not to wait are answered so if they would need a new lock: try again, with the same number. `BadHandle`: the session
    /// does not have the inode open. `Invalid`: a flock of a part. `Busy`: the session has settled none of its last
    /// [`crate::limits::SESSION_LOCK_OUTCOMES_MAX`] requests; nothing came of this one.
    async fn lock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        lock: LockSpec,
        patience: Duration,
    ) -> FsResult<LockOutcome>;
    /// Gives up what `owner` holds of `range`, whatever its kind; holding nothing of it is no error, nor is an inode that is not
    /// open any more: releasing an inode frees no locks by itself. `Granted`, or `TooMany` if a lock would be split and the
    /// session may not have one more. Safe to repeat, as [`MetadataService::lock`].
    ///
    /// # Errors
    /// `StaleOperation`, `Busy` as of [`MetadataService::lock`].
    async fn unlock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        owner: LockOwner,
        range: LockRange,
    ) -> FsResult<LockOutcome>;
    /// Ends the wait of the lock request `ticket.number` and answers how that request ended: if it was granted before, the lock is
    /// held. One that has not arrived yet is cancelled for when it does. Safe to repeat.
    ///
    /// # Errors
    /// `StaleOperation`, `Busy` as of [`MetadataService::lock`].
    async fn cancel_lock(&self, identity: Identity, ticket: LockTicket) -> FsResult<LockOutcome>;
    /// The first lock that stands in the way of `lock`, if any (`F_GETLK`). Changes nothing, and needs no number.
    ///
    /// # Errors
    /// `Unavailable` after a restart, if none is known yet: try again.
    async fn test_lock(&self, identity: Identity, ino: Ino, lock: LockSpec) -> FsResult<Option<HeldLock>>;
    /// Totals.
    async fn statfs(&self, identity: Identity) -> FsResult<StatFs>;
    /// What lies below a directory, or of anything else the inode itself, and what quotas leave; as of one moment. A service that grants
    /// leases grants one on the quotas with it.
    async fn usage(&self, identity: Identity, ino: Ino) -> FsResult<TreeUsage>;
    /// What changed in the cluster since `known_version` (0: everything).
    async fn cluster_state(&self, identity: Identity, known_version: u64) -> FsResult<ClusterUpdate>;
}

/// Who finds out the SHA-256 of a chunk that is written (docs/adr/0009-hash-where-content-arrives.md).
#[derive(Debug)]
pub enum ContentHash {
    /// The writer leaves it to the receiver, which computes it, keeps it and says it in its receipt.
    Computed,
    /// The writer knows it; the receiver refuses content of another one.
    Known([u8; 32]),
    /// A datanode that forwards says it once it has the whole content, and vouches for it, so that the receiver need not compute it.
    /// If the sender goes away, the content was not whole, and nothing is stored.
    Follows(oneshot::Receiver<VouchedHash>),
}

/// The SHA-256 of a chunk's whole content, with the word of the datanode that computed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VouchedHash {
    /// SHA-256 of the content.
    pub sha256: [u8; 32],
    /// For this write and this hash; clients cannot make one.
    pub voucher: Voucher,
}

/// A write of one whole chunk.
pub struct WriteChunk {
    /// What is known beforehand; the datanode refuses content of another length.
    pub label: ChunkLabel,
    /// Who finds out its hash.
    pub hash: ContentHash,
    /// Permission to write.
    pub capability: ChunkCapability,
    /// Addresses of the further replicas that this datanode forwards to; none if the hash follows.
    pub forward: Vec<String>,
    /// Content in aligned pieces.
    pub content: BoxStream<'static, FsResult<Piece>>,
}

/// Outcome of a chunk write: a receipt per durable replica, the reason per failed one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChunkWritten {
    /// Durable replicas.
    pub receipts: Vec<Receipt>,
    /// Address and error of the replicas that failed.
    pub failures: Vec<(String, crate::error::FsError)>,
}

/// Chunks: immutable, replicated, verified.
#[async_trait]
pub trait ChunkService: Send + Sync + 'static {
    /// Stores a chunk here and on `forward`; returns when every replica is durable or failed. Idempotent for the same
    /// bytes.
    ///
    /// # Errors
    /// `ChunkConflict` (other bytes exist under the id), `NoSpace`, `Unauthenticated` (a wrong voucher too), `Corrupt` (content of
    /// another length or hash), `Invalid` (a piece but the last is not whole frames), `ReadOnly` (the disk failed). The error is this node's own; failures of others are in the reply.
    async fn write_chunk(&self, request: WriteChunk) -> FsResult<ChunkWritten>;
    /// Streams `offset..offset+length` of a chunk's content, verified. A range behind the content's end is `Invalid`.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt` (a frame does not verify: ask another replica), `Unauthenticated`.
    async fn read_chunk(
        &self,
        capability: ChunkCapability,
        offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>>;
    /// Description of a stored chunk; the capability permits reading.
    async fn stat_chunk(&self, capability: ChunkCapability) -> FsResult<ChunkDescription>;
    /// Descriptions of 1 to [`crate::limits::CHUNK_STATS_MAX`] chunks, in the order asked for; each capability permits reading. What is
    /// behind a network is asked once for all.
    ///
    /// # Errors
    /// Those of the call; `UnknownVersion` if the peer's release knows [`ChunkService::stat_chunk`] only. Those of a chunk are in its place.
    async fn stat_chunks(
        &self,
        capabilities: Vec<ChunkCapability>,
    ) -> FsResult<Vec<FsResult<ChunkDescription>>> {
        let mut described = Vec::with_capacity(capabilities.len());
        for capability in capabilities {
            described.push(self.stat_chunk(capability).await);
        }
        Ok(described)
    }
    /// Deletes a chunk; a missing one is no error. The capability permits deleting.
    async fn delete_chunk(&self, capability: ChunkCapability) -> FsResult<()>;
}

/// Finds the chunk service of a datanode by its address. Connections are made lazily, shared and bounded.
pub trait ChunkConnector: Send + Sync + 'static {
    /// The chunk service at `address` (`host:port`). Does not wait for the network.
    ///
    /// # Errors
    /// `Invalid` if `address` is not `host:port`.
    fn chunk_service(&self, address: &str) -> FsResult<Arc<dyn ChunkService>>;
}
