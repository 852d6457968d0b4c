//! Leases as clients and the coordinator speak of them.
//!
//! A lease on an inode lets its holder answer from memory: attributes, extended attributes and, for a directory, names and
//! non-names. A lease on [`Ino::QUOTAS`], which comes with an answer about usage, lets its holder rely on what that says of limits.
//! Files have two more ([`Part`]): one on their content, and one that lets the holder acknowledge writes before it has committed them.
//! A lease ends with the holder's session, with its recall stream (but for [`Part::Buffer`]), or when it is recalled.

use crate::ids::Ino;

/// What a lease covers of its inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Attributes, extended attributes, and the names of a directory.
    Attributes,
    /// The content of a file: its extent map, and the pages that a kernel has of it.
    Content,
    /// The right to acknowledge writes to a file before they are committed. Nobody else has any lease on the inode, nor the file open.
    /// It outlives the recall stream: unsaved writes do, too.
    Buffer,
}

/// A lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lease {
    /// The inode.
    pub ino: Ino,
    /// What of it.
    pub part: Part,
}

impl Lease {
    /// On attributes and names.
    pub const fn attributes(ino: Ino) -> Self {
        let part = Part::Attributes;
        Lease { ino, part }
    }
    /// On content.
    pub const fn content(ino: Ino) -> Self {
        let part = Part::Content;
        Lease { ino, part }
    }
    /// To buffer writes.
    pub const fn buffer(ino: Ino) -> Self {
        let part = Part::Buffer;
        Lease { ino, part }
    }
}

/// Leases that the coordinator takes back. The client forgets what it knows of these inodes, makes the kernel forget it, saves what it has
/// buffered, and says that it obeyed. Until then the operation that needs this waits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recall {
    /// Number in the recall stream, from 1.
    pub sequence: u64,
    /// Inodes whose attributes and names are taken back, [`Ino::QUOTAS`] among them.
    pub inos: Vec<Ino>,
    /// Files whose content is.
    pub contents: Vec<Ino>,
    /// Files of which writes are no longer buffered.
    pub buffers: Vec<Ino>,
}

impl Recall {
    /// Recall number `sequence`, of `leases`.
    pub fn of(sequence: u64, leases: impl IntoIterator<Item = Lease>) -> Self {
        let mut recall = Recall {
            sequence,
            ..Recall::default()
        };
        for lease in leases {
            let list = match lease.part {
                Part::Attributes => &mut recall.inos,
                Part::Content => &mut recall.contents,
                Part::Buffer => &mut recall.buffers,
            };
            list.push(lease.ino);
        }
        recall
    }
}

/// What a client has done about the recalls of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obeyed {
    /// It has received all up to this one: they are not to be sent again.
    pub received: u64,
    /// It has obeyed all up to this one.
    pub below: u64,
    /// And these above it; at most [`crate::limits::RECALLS_PENDING_MAX`].
    pub beside: Vec<u64>,
}

/// Answer to a call for recalls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecallPage {
    /// The stream; to be named in the next call.
    pub stream: u64,
    /// Recalls that were not received, in order; none if nothing came within [`crate::limits::RECALL_POLL`].
    pub recalls: Vec<Recall>,
}

/// What a session may do with a file that it has open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// The file.
    pub ino: Ino,
    /// It has a lease on the content.
    pub content: bool,
    /// It may buffer writes: a lease on [`Part::Buffer`].
    pub buffer: bool,
    /// A kernel may keep pages of the file for handles that write, too. One session at a time may: what its programs map for
    /// writing, no other session's map.
    pub pages: bool,
}
