//! What the operations of the library take and answer.

use dfs_common::Ino;
use dfs_common::attr::Attr;

/// An open file of this client.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct FileHandle(pub u64);

/// How a file is opened.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct OpenFlags {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// Every write goes to the end of file, which the coordinator picks.
    pub append: bool,
    /// Cut to nothing at open.
    pub truncate: bool,
}

/// An inode. For how long a cache above (the kernel) may answer from it is asked for separately: [`crate::Client::attributes_hold`],
/// [`crate::Client::name_holds`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Attributes, with this client's unsaved writes.
    pub attr: Attr,
}

/// A file made or found by [`crate::Client::create`], and opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// The file.
    pub entry: Entry,
    /// The open file.
    pub handle: FileHandle,
    /// It was there before.
    pub existed: bool,
    /// As [`OpenedFile::keep_cache`].
    pub keep_cache: bool,
    /// As [`OpenedFile::direct`].
    pub direct: bool,
}

/// A file opened by [`crate::Client::open`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenedFile {
    /// Fresh attributes.
    pub attr: Attr,
    /// The open file.
    pub handle: FileHandle,
    /// Pages that a cache above (the kernel) holds of the file are still its content.
    pub keep_cache: bool,
    /// A cache above must keep no pages for this handle: what it writes may land elsewhere than that thinks (appends), or another client's programs
    /// may have the file mapped.
    pub direct: bool,
}

/// What a cache above (the kernel) must forget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Attributes and content of an inode.
    Inode {
        /// The inode.
        ino: Ino,
    },
    /// Attributes of an inode, not its content.
    Attributes {
        /// The inode.
        ino: Ino,
    },
    /// Attributes of an inode, and its content from `offset` on.
    Pages {
        /// The inode.
        ino: Ino,
        /// First byte.
        offset: u64,
        /// Bytes; 0: to the end.
        length: u64,
    },
    /// What a lease on the inode covered: attributes and, of a directory, its names.
    Lease {
        /// The inode.
        ino: Ino,
    },
    /// What all leases covered.
    Leases,
}

impl Change {
    /// The inode; `None` for all.
    pub fn ino(&self) -> Option<Ino> {
        match self {
            Change::Inode { ino }
            | Change::Attributes { ino }
            | Change::Pages { ino, .. }
            | Change::Lease { ino } => Some(*ino),
            Change::Leases => None,
        }
    }
}

/// What a cache above must forget right after it forgot something; nothing: that is all.
pub type Again = Box<dyn FnMut() -> Vec<Change> + Send>;

/// A change that a cache above (the kernel) must hear of. Those of one inode are handled in order; none waits for another inode's.
pub struct Invalidation {
    /// What it must forget.
    pub change: Change,
    /// To be asked at once when it has, on the same thread, until the answer is nothing.
    pub again: Option<Again>,
    /// To be dropped or sent after that: somebody may wait for it.
    pub done: Option<tokio::sync::oneshot::Sender<()>>,
}
