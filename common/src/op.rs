//! Operations that change metadata, as they travel in a batch, are applied by the coordinator and are replayed.

#![allow(missing_docs)] // fields of the variants are documented by the operation they belong to

use crate::attr::{Attr, FileKind, SetAttr, Timestamp};
use crate::capability::ChunkCapability;
use crate::error::FsResult;
use crate::extent::{CommittedChunk, Extent};
use crate::ids::{Ino, OpNumber};
use crate::name::Name;
use crate::session::Caller;
use bytes::Bytes;

/// How setxattr treats an existing attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XattrMode {
    /// Create or replace.
    Set,
    /// Fail with `Exists` if present (`XATTR_CREATE`).
    Create,
    /// Fail with `NoAttribute` if absent (`XATTR_REPLACE`).
    Replace,
}

/// What rename does with an existing target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RenameMode {
    /// Replace it, as rename(2).
    Replace,
    /// Fail with `Exists` (`RENAME_NOREPLACE`).
    NoReplace,
    /// Exchange both (`RENAME_EXCHANGE`); both must exist.
    Exchange,
}

/// An operation that changes metadata. Each has a file of its name in the coordinator's `ops/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Makes a directory. Reply: [`OpReply::Entry`].
    Mkdir { parent: Ino, name: Name, mode: u32 },
    /// Makes a fifo, socket, device or empty file. Reply: [`OpReply::Entry`].
    Mknod {
        parent: Ino,
        name: Name,
        kind: FileKind,
        mode: u32,
        rdev: u32,
    },
    /// Opens a file for reading and/or writing, making it if absent; `exclusive` fails with `Exists` instead.
    /// The inode counts as open by the session, once, until [`crate::service::MetadataService::release`].
    /// Reply: [`OpReply::Created`].
    Create {
        parent: Ino,
        name: Name,
        mode: u32,
        exclusive: bool,
        read: bool,
        write: bool,
    },
    /// Makes a symbolic link. Reply: [`OpReply::Entry`].
    Symlink { parent: Ino, name: Name, target: Bytes },
    /// Adds a name to an inode that is not a directory. Reply: [`OpReply::Entry`].
    Link { ino: Ino, parent: Ino, name: Name },
    /// Removes a name of anything but a directory. Reply: [`OpReply::Removed`].
    Unlink { parent: Ino, name: Name },
    /// Removes an empty directory. Reply: [`OpReply::Removed`].
    Rmdir { parent: Ino, name: Name },
    /// Moves a name. Reply: [`OpReply::Renamed`].
    Rename {
        parent: Ino,
        name: Name,
        new_parent: Ino,
        new_name: Name,
        mode: RenameMode,
    },
    /// Changes attributes. `by_handle`: the size changes through a descriptor open for writing (ftruncate), so the
    /// session's open file, not the mode bits, permits it. Reply: [`OpReply::Attr`].
    Setattr { ino: Ino, set: SetAttr, by_handle: bool },
    /// Sets an extended attribute. Reply: [`OpReply::Attr`].
    Setxattr {
        ino: Ino,
        name: Bytes,
        value: Bytes,
        mode: XattrMode,
    },
    /// Removes an extended attribute. Reply: [`OpReply::Attr`].
    Removexattr { ino: Ino, name: Bytes },
    /// Grants chunk ids of the session, spread over placement groups. Reply: [`OpReply::Chunks`].
    GrantChunks { count: u32 },
    /// Splices extents into a file that the session has open for writing. Reply: [`OpReply::Committed`].
    CommitWrite(CommitWrite),
}

/// A write commit: data first made durable, now made visible.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitWrite {
    /// File.
    pub ino: Ino,
    /// New extents, sorted and disjoint; with `append` their offsets are relative to the end of file found at apply.
    pub extents: Vec<Extent>,
    /// Chunks that appear for the first time, with their receipts.
    pub chunks: Vec<CommittedChunk>,
    /// Append: the coordinator picks the end of file.
    pub append: bool,
    /// Time of the last write(2) that this commit contains.
    pub mtime: Timestamp,
    /// Clear set-user-id and set-group-id bits, as a write by an unprivileged process does.
    pub clear_setid: bool,
}

/// One operation of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NumberedOp {
    /// Its number in the session.
    pub number: OpNumber,
    /// On whose behalf.
    pub caller: Caller,
    /// What.
    pub op: Operation,
}

/// Operations applied in order and committed together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutationBatch {
    /// 1 to [`crate::limits::BATCH_OPS_MAX`] operations with increasing numbers.
    pub ops: Vec<NumberedOp>,
    /// The client has the replies of all operations below this number: they may be forgotten.
    pub acknowledged_below: OpNumber,
    /// After the first failure the rest answer `BatchAborted`.
    pub stop_on_error: bool,
    /// Answer when it is durable, whatever [`crate::Durability`] is set.
    pub durable: bool,
}

/// A name's inode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Attributes, inode number among them.
    pub attr: Attr,
}

/// Result of one operation.
pub type OpResult = FsResult<OpReply>;

/// What an operation answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpReply {
    /// The entry made or linked.
    Entry(Entry),
    /// The file of a create; `existed` if it was there before.
    Created { entry: Entry, existed: bool },
    /// The inode whose name was removed, and its links left.
    Removed { ino: Ino, nlink: u32 },
    /// The inode that moved, and the one that it replaced or was exchanged with. `other` is the inode itself if both names
    /// were its own: nothing changed then, and both are there.
    Renamed { ino: Ino, other: Option<Ino> },
    /// Attributes after the change.
    Attr(Attr),
    /// Granted chunk ids, each with a capability to write it.
    Chunks(Vec<ChunkCapability>),
    /// Attributes after a commit, and the file offset where an append landed.
    Committed { attr: Attr, append_offset: u64 },
}
