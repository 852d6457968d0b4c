//! What the operations of the library take and answer.

use dfs_common::Ino;
use dfs_common::attr::Attr;
use dfs_common::name::Name;
use std::time::Duration;

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

/// Attributes, and for how long a cache above (the kernel) may answer from them and from the name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Attributes, with this client's unsaved writes.
    pub attr: Attr,
    /// Zero: ask every time.
    pub valid_for: Duration,
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
}

/// A change that a cache above (the kernel) must hear of. Handled in order.
#[derive(Debug)]
pub enum Invalidation {
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
    /// To be dropped or sent once everything before it was handled: another client waits for that.
    Barrier(tokio::sync::oneshot::Sender<()>),
    /// A name.
    Entry {
        /// Its directory.
        parent: Ino,
        /// The name.
        name: Name,
    },
}
