//! Advisory locks: who asks, for which bytes of a file, how requests are numbered, and how they end
//! (docs/adr/0016-locks.md).

use crate::error::{ErrorKind, FsError, FsResult};
use crate::ids::{Ino, SessionId};
use bytes::Bytes;
use std::time::Duration;

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

/// Who holds a lock, as its session names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LockOwner {
    /// Owners of different styles are different owners, whatever their numbers.
    pub style: LockStyle,
    /// Unique within session and style; the client's choice.
    pub number: u64,
}

/// How a lock is shared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LockKind {
    /// With other shared ones.
    Shared,
    /// With nobody.
    Exclusive,
}

/// Bytes `first..=last` of a file; `u64::MAX` is "to the end, wherever that will be".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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

    /// What is left of it in front of and behind `other`.
    pub fn without(self, other: LockRange) -> [Option<LockRange>; 2] {
        if !self.overlaps(other) {
            return [Some(self), None];
        }
        let front = (self.first < other.first).then(|| LockRange {
            last: other.first - 1,
            ..self
        });
        let behind = (self.last > other.last).then(|| LockRange {
            first: other.last + 1,
            ..self
        });
        [front, behind]
    }

    /// True if a byte is in both.
    pub fn overlaps(self, other: LockRange) -> bool {
        self.first <= other.last && other.first <= self.last
    }
}

/// A lock: asked for, held, or declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LockSpec {
    /// For whom.
    pub owner: LockOwner,
    /// Shared or exclusive.
    pub kind: LockKind,
    /// Of which bytes; always all of them for [`LockStyle::Flock`].
    pub range: LockRange,
    /// The process that asked, for administrators and `F_GETLK`.
    pub pid: u32,
}

/// A lock that somebody holds, as `F_GETLK` asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldLock {
    /// Whose. A process id means something only to the machine of that session.
    pub session: SessionId,
    /// The lock; its range may be longer or shorter than any one request's.
    pub lock: LockSpec,
}

/// The number of a lock request or an unlock, and which earlier answers the client has.
///
/// Numbers are the client's choice, unique within the session and growing; one is used again only to repeat the same
/// request, or to cancel it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct LockTicket {
    /// This request's number.
    pub number: u64,
    /// Of every request with a lower number the client has an answer: its outcome, or that it waits. Requests below it that
    /// still arrive are refused (`StaleOperation`), except those that wait or have waited.
    pub settled: u64,
    /// Requests below `settled` that were asked with patience (so they may have waited, told or not), and whose outcome the client
    /// has: it may be forgotten. Each is named again until a call that named it was answered. At most
    /// [`crate::limits::SESSION_LOCK_REQUESTS_MAX`].
    pub answered: Vec<u64>,
}

/// How a request ended, or that it did not yet. An end stays the answer of that request's number, however often it is sent.
///
/// A flock of another kind gives up the owner's flock first, whatever the outcome: only what is `Granted` is held then. (A request
/// that never arrived gives up nothing: who cancels one, or does not know whether it arrived, unlocks too.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LockOutcome {
    /// The lock is held (or, of an unlock, no longer held).
    Granted,
    /// It waits, and keeps its place: ask again with the same number.
    Waiting,
    /// Somebody holds a conflicting one, and the request was not to wait.
    Conflict,
    /// Waiting would never end.
    Deadlock,
    /// Its client gave the wait up, and holds nothing by it.
    Cancelled,
    /// The session has as many locks, waits or unsettled requests as it may. Of an unlock: it would split a lock, and the session may
    /// not have one more.
    TooMany,
}

impl LockOutcome {
    /// What a program sees that gets no lock; `None` if it got it, or if that is not known yet.
    pub fn refusal(self) -> Option<ErrorKind> {
        match self {
            LockOutcome::Granted | LockOutcome::Waiting => None,
            LockOutcome::Conflict => Some(ErrorKind::WouldBlock),
            LockOutcome::Deadlock => Some(ErrorKind::Deadlock),
            LockOutcome::Cancelled => Some(ErrorKind::Interrupted),
            LockOutcome::TooMany => Some(ErrorKind::TooManyLocks),
        }
    }
}

/// A lock that a client holds, as it declares it when it resumes a session, and as it is told which of them are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LockDeclaration {
    /// The inode.
    pub ino: Ino,
    /// The lock.
    pub lock: LockSpec,
}

/// What a client that resumes its session says of its locks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LockDeclarations {
    /// As [`LockTicket::settled`].
    pub settled: u64,
    /// Locks that it holds; at most [`crate::limits::LOCK_DECLARATIONS_MAX`] at once.
    pub held: Vec<LockDeclaration>,
    /// More follow in a further request to resume the session. Open files are declared with the last one; only that makes
    /// the session live.
    pub more: bool,
}

/// A lock or a wait, as an administrator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedLock {
    /// Whose.
    pub session: SessionId,
    /// That session's host name and program; empty if it is ending.
    pub client: String,
    /// What is held, or asked for.
    pub lock: LockSpec,
    /// For how long, by the coordinator's clock.
    pub age: Duration,
}

/// The locks of an inode, as an administrator sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedInode {
    /// The inode.
    pub ino: Ino,
    /// A path of it, if one is known without a search.
    pub path: Option<Bytes>,
    /// What is held.
    pub held: Vec<ListedLock>,
    /// What waits, in the order of the queue.
    pub waiting: Vec<ListedLock>,
    /// Locks and waits that are not listed, since there are too many.
    pub more: u64,
}
