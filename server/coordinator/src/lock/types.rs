//! The words of the lock table: owners, ranges, what is asked and what is answered.

use dfs_common::{ErrorKind, FsError, FsResult, SessionId};
use std::time::Instant;

/// Which of the three interfaces of Linux a lock came through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockStyle {
    /// `flock`: the whole file, owned by an open file description. Knows nothing of the other two.
    Flock,
    /// `fcntl`: a range, owned by a process. The only one whose deadlocks are detected, as on Linux.
    Process,
    /// `fcntl` with `F_OFD_*`: a range, owned by an open file description.
    OpenFile,
}

/// Who holds a lock: unique in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockOwner {
    /// The session that everything of this owner ends with.
    pub session: SessionId,
    /// Owners of different styles are different owners, whatever their numbers.
    pub style: LockStyle,
    /// Unique within session and style; the client's choice.
    pub number: u64,
}

/// How a lock is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum LockKind {
    /// With other shared ones.
    Shared,
    /// With nobody.
    Exclusive,
}

/// Bytes `first..=last` of a file; `u64::MAX` is "to the end, wherever that will be".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LockRange {
    first: u64,
    last: u64,
}

impl LockRange {
    /// The whole file.
    pub const WHOLE: LockRange = LockRange {
        first: 0,
        last: u64::MAX,
    };

    /// The bytes from `first` to `last`, both included.
    ///
    /// # Errors
    /// `Invalid` if `last` is before `first`.
    pub fn new(first: u64, last: u64) -> FsResult<Self> {
        if last < first {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!("a lock cannot end at {last}, before its first byte {first}"),
            ));
        }
        Ok(LockRange { first, last })
    }

    /// The first byte.
    pub fn first(self) -> u64 {
        self.first
    }

    /// The last byte, included.
    pub fn last(self) -> u64 {
        self.last
    }

    /// True if a byte is in both.
    pub fn overlaps(self, other: LockRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// What an owner asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ask {
    /// For whom.
    pub owner: LockOwner,
    /// Shared or exclusive.
    pub kind: LockKind,
    /// Of which bytes; always all of them for [`LockStyle::Flock`].
    pub range: LockRange,
    /// The process that asked, for administrators and `F_GETLK`.
    pub pid: u32,
}

impl Ask {
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

/// How a request ended. It stays the answer of that request's number, however often it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The lock is held (or, of an unlock, no longer held).
    Granted,
    /// Somebody holds a conflicting one, and the request was not to wait. `EAGAIN`.
    Conflict,
    /// Waiting would never end. `EDEADLK`.
    Deadlock,
    /// Its client gave the wait up, and holds nothing by it. `EINTR`.
    Cancelled,
    /// The session has as many locks as it may. `ENOLCK`.
    TooMany,
}
