//! The words of the lock table that go beyond [`dfs_common::lock`]: owners across sessions, what is held and what waits.

use dfs_common::lock::{LockKind, LockOwner, LockRange, LockSpec, LockStyle};
use dfs_common::{ErrorKind, FsError, FsResult, SessionId};
use std::time::Instant;

/// Who holds a lock: unique in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Owner {
    /// The session that everything of this owner ends with.
    pub session: SessionId,
    /// Owners of different styles are different owners, whatever their numbers.
    pub style: LockStyle,
    /// Unique within session and style; the client's choice.
    pub number: u64,
}

impl Owner {
    /// The owner that `session` calls `owner`.
    pub fn of(session: SessionId, owner: LockOwner) -> Self {
        Owner {
            session,
            style: owner.style,
            number: owner.number,
        }
    }
}

/// What an owner asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// For whom.
    pub owner: Owner,
    /// Shared or exclusive.
    pub kind: LockKind,
    /// Of which bytes; always all of them for [`LockStyle::Flock`].
    pub range: LockRange,
    /// The process that asked, for administrators and `F_GETLK`.
    pub pid: u32,
}

impl Ask {
    /// What `session` asks for with `lock`.
    pub fn of(session: SessionId, lock: &LockSpec) -> Self {
        Ask {
            owner: Owner::of(session, lock.owner),
            kind: lock.kind,
            range: lock.range,
            pid: lock.pid,
        }
    }

    /// # Errors
    /// `Invalid` for a flock of a part.
    pub(super) fn check(&self) -> FsResult<()> {
        if self.owner.style == LockStyle::Flock && self.range != LockRange::WHOLE {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "a flock is always of the whole file",
            ));
        }
        Ok(())
    }

    /// The lock, as the session of its owner names it.
    pub fn lock(&self) -> LockSpec {
        LockSpec {
            owner: LockOwner {
                style: self.owner.style,
                number: self.owner.number,
            },
            kind: self.kind,
            range: self.range,
            pid: self.pid,
        }
    }

    /// True if the two cannot be held at once.
    pub fn conflicts(&self, other: &Ask) -> bool {
        let flock = |ask: &Ask| ask.owner.style == LockStyle::Flock;
        self.owner != other.owner
            && flock(self) == flock(other)
            && (self.kind == LockKind::Exclusive || other.kind == LockKind::Exclusive)
            && self.range.overlaps(other.range)
    }
}

/// A lock that is held.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// What was asked for; the range is what is left of it.
    pub ask: Ask,
    /// When it was granted.
    pub since: Instant,
}

/// A request that waits.
#[derive(Debug, Clone, Copy)]
pub struct Waiting {
    /// What it asks for.
    pub ask: Ask,
    /// Its number within its session.
    pub number: u64,
    /// When it came.
    pub since: Instant,
}

impl Waiting {
    /// True if it is the request `number` of `session`.
    pub fn is(&self, session: SessionId, number: u64) -> bool {
        self.ask.owner.session == session && self.number == number
    }
}
