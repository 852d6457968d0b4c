//! The single writer: applies commands in order and makes them durable in groups.
//!
//! One thread takes everything that waits (bounded), applies each command on one overlay transaction, commits it once and
//! then answers all callers: while one group is being synced the next gathers. A failing operation is rolled back to its own
//! savepoint. A short command whose commit need not be synced is applied by its caller's thread if nobody else is writing: to wake
//! the writer and to be woken by it costs more than the work. Invariants: one at a time writes; nothing is answered before its
//! commit, which is durable unless the administrator chose otherwise ([`persistence`]); session, secret and epoch are checked here,
//! where the operation is applied (I5); after a failed commit nothing is written or acknowledged any more ([`failstop`]).

pub mod failstop;
mod group;
mod nodes;
pub mod persistence;
mod replies;
pub mod reserve;
mod sessions;
mod writer;

use crate::cluster::state::{ClusterState, NodeLoad, NodeSecret};
use crate::lock::LockTable;
use crate::namespace::repair::Repair;
use crate::session::opens::OpenTable;
use crate::session::table::SessionTable;
use crate::store::MetaStore;
use bytes::Bytes;
use dfs_common::capability::CapabilityKey;
use dfs_common::clock::Clock;
use dfs_common::cluster::PlacementGroup;
use dfs_common::limits::APPLIER_QUEUE_MAX;
use dfs_common::op::{MutationBatch, OpResult};
use dfs_common::session::{Identity, OpenSession, SessionGrant, SessionSecret};
use dfs_common::{
    ChunkId, ClusterId, CommitPoint, Durability, ErrorKind, FsError, FsResult, Ino, NodeId, Quota, SessionId,
};
use parking_lot::Mutex;
use persistence::Persistence;
use reserve::DiskReserve;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot};
use writer::Writer;

/// What the applier works with.
pub struct ApplierParts {
    /// The fenced store.
    pub store: Arc<dyn MetaStore>,
    /// When commits become durable.
    pub persistence: Persistence,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Room that is kept on the store's disk.
    pub reserve: DiskReserve,
    /// Live sessions.
    pub sessions: Arc<SessionTable>,
    /// Open files.
    pub opens: Arc<OpenTable>,
    /// Advisory locks.
    pub locks: Arc<LockTable>,
    /// Nodes and groups.
    pub cluster: Arc<ClusterState>,
    /// Picks groups for new chunks.
    pub placement: Arc<dyn crate::namespace::ChunkPlacement>,
    /// Signs chunk capabilities.
    pub capability_key: CapabilityKey,
    /// Told to new sessions.
    pub cluster_id: ClusterId,
    /// Told to new sessions.
    pub chunk_bytes: u64,
    /// Replicas of a new chunk.
    pub replication: u32,
    /// Receipts without which a commit is refused.
    pub replication_floor: u32,
}

/// A datanode that registers.
#[derive(Clone, Debug)]
pub struct NodeRegistration {
    /// Made with its data directory.
    pub uuid: String,
    /// Proves its heartbeats.
    pub secret: NodeSecret,
    /// `host:port` of its chunk service.
    pub address: String,
    /// Its disks.
    pub load: NodeLoad,
}

/// Where the taking apart of a session goes on. Each step is bounded and durable by itself.
#[derive(Clone, Debug)]
pub enum EndStep {
    /// Release the orphans that it holds, from this key of the orphan table.
    Orphans(Bytes),
    /// Delete its replies.
    Replies,
    /// Delete the marks of chunks that it could have committed once more.
    Spent,
    /// Delete its record.
    Record,
}

/// A step of setting a quota.
#[derive(Clone, Copy, Debug)]
pub enum QuotaStep {
    /// [`crate::namespace::quota::close_edge`].
    CloseEdge,
    /// [`crate::namespace::quota::open_edge`].
    OpenEdge,
    /// [`crate::namespace::quota::set`].
    Set(Quota),
}

/// What one step of reaping did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reaped {
    /// Replaced inodes that are kept no longer.
    pub inodes: u64,
    /// There may be more of them.
    pub more_inodes: bool,
    /// A portion of abandoned extents was taken away: there may be more.
    pub extents: bool,
}

impl Reaped {
    pub(crate) fn did_something(&self) -> bool {
        self.inodes > 0 || self.extents
    }
}

type Reply<T> = oneshot::Sender<FsResult<T>>;

enum Command {
    Mutate {
        identity: Identity,
        batch: MutationBatch,
        reply: Reply<(Vec<OpResult>, CommitPoint)>,
    },
    OpenSession {
        request: OpenSession,
        secret: SessionSecret,
        reply: Reply<SessionGrant>,
    },
    EndSession {
        session: SessionId,
        step: EndStep,
        reply: Reply<Option<EndStep>>,
    },
    ReleaseOrphan {
        session: SessionId,
        ino: Ino,
        reply: Reply<()>,
    },
    RegisterNode {
        registration: NodeRegistration,
        reply: Reply<NodeId>,
    },
    CreateGroups {
        groups: Vec<Vec<NodeId>>,
        reply: Reply<Vec<PlacementGroup>>,
    },
    /// Lets a portion of replaced inodes go and takes a portion of abandoned extents away.
    Reap {
        reply: Reply<Reaped>,
    },
    /// Removes the records of freed chunks whose replicas are all deleted.
    ForgetFreed {
        chunks: Vec<ChunkId>,
        reply: Reply<()>,
    },
    /// Applies repairs; answers for each whether what it repairs was still as it was seen.
    Repair {
        repairs: Vec<Repair>,
        reply: Reply<Vec<bool>>,
    },
    /// The hold after a restore is over.
    EndHold {
        reply: Reply<()>,
    },
    SetQuota {
        ino: Ino,
        step: QuotaStep,
        reply: Reply<bool>,
    },
    SetDurability {
        durability: Durability,
        reply: Reply<()>,
    },
    /// Answered when everything sent before is durable.
    Barrier {
        reply: Reply<()>,
    },
    Stop,
}

/// Sends commands to the writer thread.
pub struct Applier {
    sender: mpsc::Sender<Command>,
    writer: Arc<Writer>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Applier {
    /// Starts the writer thread.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn start(parts: ApplierParts) -> FsResult<Self> {
        let (sender, receiver) = mpsc::channel(APPLIER_QUEUE_MAX);
        let writer = Arc::new(Writer::new(parts));
        let of_thread = writer.clone();
        let thread = std::thread::Builder::new()
            .name("applier".to_string())
            .spawn(move || of_thread.run(receiver))?;
        Ok(Applier {
            sender,
            writer,
            thread: Mutex::new(Some(thread)),
        })
    }

    async fn call<T>(&self, command: impl FnOnce(Reply<T>) -> Command) -> FsResult<T> {
        self.check()?;
        let (reply, answer) = oneshot::channel();
        if let Some(command) = self.writer.try_now(command(reply))
            && self.sender.send(command).await.is_err()
        {
            return Err(self.stopped());
        }
        answer.await.unwrap_or_else(|_| Err(self.stopped()))
    }

    /// What callers are told when the writer thread is gone.
    fn stopped(&self) -> FsError {
        match self.check() {
            Err(error) => error,
            Ok(()) => FsError::new(ErrorKind::Unavailable, "the coordinator is shutting down"),
        }
    }

    /// Applies a batch; answers the results, and whether they are durable. Cancel-safe: the batch is applied or not, and a retry
    /// finds out.
    ///
    /// # Errors
    /// `SessionFenced`, `Invalid` (numbers do not increase, too many operations): nothing was applied. `Io`: the commit
    /// failed. `Unavailable`: shutting down.
    pub async fn mutate(
        &self,
        identity: Identity,
        batch: MutationBatch,
    ) -> FsResult<(Vec<OpResult>, CommitPoint)> {
        self.call(|reply| Command::Mutate {
            identity,
            batch,
            reply,
        })
        .await
    }

    /// Opens a session with `secret`, or resumes one.
    ///
    /// # Errors
    /// `SessionFenced` (the session to resume is unknown, ended, or another's), `Busy` (too many), `Invalid` (name).
    pub async fn open_session(&self, request: OpenSession, secret: SessionSecret) -> FsResult<SessionGrant> {
        self.call(|reply| Command::OpenSession {
            request,
            secret,
            reply,
        })
        .await
    }

    /// Takes apart a session that [`SessionTable::begin_end`] fenced: releases its orphans, deletes its replies, its
    /// marks and its record, in bounded steps. May be stopped between them and begun again.
    pub async fn end_session(&self, session: SessionId) -> FsResult<()> {
        let mut step = Some(EndStep::Orphans(Bytes::new()));
        while let Some(next) = step {
            step = self
                .call(|reply| Command::EndSession {
                    session,
                    step: next,
                    reply,
                })
                .await?;
        }
        Ok(())
    }

    /// `session` no longer holds the orphan `ino`: it is destroyed if nobody does. No effect if it is open again.
    pub async fn release_orphan(&self, session: SessionId, ino: Ino) -> FsResult<()> {
        self.call(|reply| Command::ReleaseOrphan { session, ino, reply })
            .await
    }

    /// Registers a datanode, or again; answers its number.
    ///
    /// # Errors
    /// `Unauthenticated` (the uuid is registered with another secret), `Busy` (too many nodes).
    pub async fn register_node(&self, registration: NodeRegistration) -> FsResult<NodeId> {
        self.call(|reply| Command::RegisterNode { registration, reply })
            .await
    }

    /// Makes placement groups with these members.
    pub async fn create_groups(&self, groups: Vec<Vec<NodeId>>) -> FsResult<Vec<PlacementGroup>> {
        self.call(|reply| Command::CreateGroups { groups, reply }).await
    }

    /// Lets a bounded portion of the replaced inodes go whose time is over, and takes a bounded portion of abandoned extents
    /// away.
    pub async fn reap(&self) -> FsResult<Reaped> {
        self.call(|reply| Command::Reap { reply }).await
    }

    /// Forgets freed chunks: every replica of them was deleted. At most [`dfs_common::limits::CHUNK_LIST_MAX`] at once.
    pub async fn forget_freed(&self, chunks: Vec<ChunkId>) -> FsResult<()> {
        self.call(|reply| Command::ForgetFreed { chunks, reply }).await
    }

    /// Repairs what a check found, each repair whole or not at all; durable on return. Answers for each whether it was made. At most
    /// [`dfs_common::limits::BATCH_OPS_MAX`] at once.
    pub async fn repair(&self, repairs: Vec<Repair>) -> FsResult<Vec<bool>> {
        self.call(|reply| Command::Repair { repairs, reply }).await
    }

    /// Writes down that chunks may be deleted again after a restore; durable on return. No effect without a restore.
    pub async fn end_hold(&self) -> FsResult<()> {
        self.call(|reply| Command::EndHold { reply }).await
    }

    /// Chooses when commits become durable; durable itself, and so is everything before it.
    pub async fn set_durability(&self, durability: Durability) -> FsResult<()> {
        self.call(|reply| Command::SetDurability { durability, reply })
            .await
    }

    /// Takes a step of setting the quota of a directory; durable on return. True after closing an edge if hard links are to be
    /// looked at.
    ///
    /// # Errors
    /// Those of the step.
    pub async fn set_quota(&self, ino: Ino, step: QuotaStep) -> FsResult<bool> {
        self.call(|reply| Command::SetQuota { ino, step, reply }).await
    }

    /// Waits until everything sent before is durable.
    pub async fn barrier(&self) -> FsResult<()> {
        self.call(|reply| Command::Barrier { reply }).await
    }

    /// # Errors
    /// `Io` once a commit failed.
    pub fn check(&self) -> FsResult<()> {
        self.writer.fail_stop.check()
    }

    /// Waits until a commit fails and answers why.
    pub async fn failed(&self) -> FsError {
        self.writer.fail_stop.stopped().await
    }

    /// Finishes what was sent before, refuses the rest and ends the thread.
    pub async fn stop(&self) {
        // An error means that the thread is gone already.
        let _ = self.sender.send(Command::Stop).await;
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            && tokio::task::spawn_blocking(move || thread.join()).await.is_err()
        {
            tracing::error!("the applier thread could not be joined");
        }
    }
}

#[cfg(test)]
mod tests;
