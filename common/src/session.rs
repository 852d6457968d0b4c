//! Sessions: who is calling, and under which epoch.

use crate::durability::CommitId;
use crate::ids::{ClusterId, Ino, SessionEpoch, SessionId};
use crate::lock::{LockDeclaration, LockDeclarations};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::time::Duration;

/// Secret that proves that a caller is the owner of a session: 16 random bytes.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionSecret(pub [u8; 16]);

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(..)")
    }
}

/// Identity that every RPC carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The session.
    pub session: SessionId,
    /// Its epoch.
    pub epoch: SessionEpoch,
    /// Its secret.
    pub secret: SessionSecret,
    /// Trace id of the system call or command that caused the call; 0 is none.
    pub trace: u64,
}

/// The process on whose behalf an operation is done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups; at most [`crate::limits::GROUPS_MAX`].
    pub groups: Vec<u32>,
}

impl Caller {
    /// The superuser.
    pub fn root() -> Self {
        Caller::default()
    }
    /// True if `gid` is the caller's group or one of the supplementary ones.
    pub fn in_group(&self, gid: u32) -> bool {
        self.gid == gid || self.groups.contains(&gid)
    }
}

/// An inode that a client holds open, as it declares it when it resumes a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenDeclaration {
    /// The inode.
    pub ino: Ino,
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
    /// For writing, with pages in a kernel: [`crate::lease::Access::pages`].
    pub pages: bool,
    /// The client has writes of the file that it acknowledged and did not commit: [`crate::lease::Part::Buffer`].
    pub buffer: bool,
}

/// Request for a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Host name and program, for administrators; at most 255 bytes.
    pub client_name: String,
    /// Session to resume after a lost connection or a coordinator restart.
    pub resume: Option<Identity>,
    /// Everything that the client holds open (resume only).
    pub opened: Vec<OpenDeclaration>,
    /// The epoch of the coordinator that the client knew, and the last commit of it that the client does not know to be durable;
    /// number 0 if it knows that of all.
    pub unsynced: Option<CommitId>,
    /// The locks that the client holds (resume only).
    pub locks: LockDeclarations,
    /// The client, or a kernel above it, may still answer from what it was leased, until it opens a recall stream (resume only). Nothing is
    /// changed before it does.
    pub leases: bool,
}

/// What the coordinator tells a new or resumed session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionGrant {
    /// Identity for all further calls.
    pub identity: Identity,
    /// Cluster.
    pub cluster: ClusterId,
    /// Lease, from the time of sending the request.
    pub lease: Duration,
    /// Size at which writers cut chunks, in bytes.
    pub chunk_bytes: u64,
    /// Replicas that a new chunk shall have.
    pub replication: u32,
    /// Receipts without which a commit is refused.
    pub replication_floor: u32,
    /// Counts the coordinator's starts.
    pub coordinator_epoch: u64,
    /// The last start before which acknowledged changes may have been lost; 0 is none. What a client remembers from before
    /// that start may never have been.
    pub rollback_epoch: u64,
    /// Of the epoch of [`OpenSession::unsynced`]: commits up to this number are kept, later ones are lost.
    /// `u64::MAX` if it is this coordinator's epoch, or none was named.
    pub kept_commits: u64,
    /// Of the locks that were declared: those that the session does not hold (any more). The processes that think so must not
    /// be told that all is well.
    pub lost_locks: Vec<LockDeclaration>,
}
