//! Leases as clients and the coordinator speak of them.
//!
//! A lease on an inode lets its holder answer from memory: attributes, extended attributes and, for a directory, names and
//! non-names. A lease on [`Ino::QUOTAS`], which comes with an answer about usage, lets its holder rely on what that says of limits.
//! A lease ends with the holder's session, with its recall stream, or when it is recalled.

use crate::ids::Ino;

/// Leases that the coordinator takes back: the client forgets what it knows of these inodes, makes the kernel forget it,
/// and acknowledges. Until then the operation that needs this waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recall {
    /// Number in the recall stream, from 1.
    pub sequence: u64,
    /// Inodes, and [`Ino::QUOTAS`].
    pub inos: Vec<Ino>,
}

/// Answer to a call for recalls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecallPage {
    /// The stream; to be named in the next call.
    pub stream: u64,
    /// Recalls that are not acknowledged, in order; none if nothing came within [`crate::limits::RECALL_POLL`].
    pub recalls: Vec<Recall>,
}
