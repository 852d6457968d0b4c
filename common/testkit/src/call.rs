//! The file system calls that every target of the random tests answers: the model, a local directory, the client.
//!
//! A [`Call`] names everything by path below the target's root or by the slot of an open file, never by inode
//! number, so that one sequence means the same on every target. No call follows a symbolic link.

use dfs_common::Quota;
use dfs_common::attr::{FileKind, SetTime, Timestamp};
use dfs_common::op::{RenameMode, XattrMode};
use dfs_common::session::Caller;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Names from the root down; empty is the root itself.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct FsPath(pub Vec<Vec<u8>>);

impl FsPath {
    /// This path with one more name.
    pub fn child(&self, name: &[u8]) -> FsPath {
        let mut names = self.0.clone();
        names.push(name.to_vec());
        FsPath(names)
    }
    /// The path without its last name; the root is its own parent.
    pub fn parent(&self) -> FsPath {
        let mut names = self.0.clone();
        names.pop();
        FsPath(names)
    }
    /// The bytes a system call takes, relative to the root; `.` for the root.
    pub fn relative(&self) -> Vec<u8> {
        if self.0.is_empty() {
            b".".to_vec()
        } else {
            self.0.join(&b'/')
        }
    }
}

impl fmt::Debug for FsPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|name| match name.len() {
            0..=40 => name.escape_ascii().to_string(),
            length => format!("<{length} bytes of {}>", name[..1].escape_ascii()),
        });
        write!(f, "/{}", names.collect::<Vec<_>>().join("/"))
    }
}

/// Number of an open file within one sequence.
pub type Slot = u32;

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct OpenHow {
    /// For reading.
    pub read: bool,
    /// For writing.
    pub write: bool,
    /// `O_CREAT`.
    pub create: bool,
    /// `O_EXCL`.
    pub exclusive: bool,
    /// `O_TRUNC`.
    pub truncate: bool,
    /// `O_APPEND`.
    pub append: bool,
}

/// One call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the fields are the arguments of the system call of the variant's name
pub enum Call {
    Mkdir {
        path: FsPath,
        mode: u32,
    },
    Mknod {
        path: FsPath,
        kind: FileKind,
        mode: u32,
        rdev: u32,
    },
    Symlink {
        path: FsPath,
        target: Vec<u8>,
    },
    Link {
        from: FsPath,
        to: FsPath,
    },
    Unlink {
        path: FsPath,
    },
    Rmdir {
        path: FsPath,
    },
    Rename {
        from: FsPath,
        to: FsPath,
        mode: RenameMode,
    },
    Open {
        slot: Slot,
        path: FsPath,
        how: OpenHow,
        mode: u32,
    },
    Close {
        slot: Slot,
    },
    Read {
        slot: Slot,
        offset: u64,
        length: u32,
    },
    /// `pattern` determines the bytes: see [`pattern_bytes`].
    Write {
        slot: Slot,
        offset: u64,
        length: u32,
        pattern: u8,
    },
    Fsync {
        slot: Slot,
    },
    Ftruncate {
        slot: Slot,
        size: u64,
    },
    Fstat {
        slot: Slot,
    },
    Stat {
        path: FsPath,
    },
    Readlink {
        path: FsPath,
    },
    Readdir {
        path: FsPath,
    },
    Chmod {
        path: FsPath,
        mode: u32,
    },
    Chown {
        path: FsPath,
        uid: Option<u32>,
        gid: Option<u32>,
    },
    Truncate {
        path: FsPath,
        size: u64,
    },
    Utimens {
        path: FsPath,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
    },
    Setxattr {
        path: FsPath,
        name: Vec<u8>,
        value: Vec<u8>,
        mode: XattrMode,
    },
    Getxattr {
        path: FsPath,
        name: Vec<u8>,
    },
    Listxattr {
        path: FsPath,
    },
    Removexattr {
        path: FsPath,
        name: Vec<u8>,
    },
    /// Not a system call: an administrator sets, changes or clears the quota of a directory.
    Quota {
        path: FsPath,
        quota: Quota,
    },
}

impl Call {
    /// The paths that the call names.
    pub fn paths(&self) -> Vec<&FsPath> {
        match self {
            Call::Link { from, to } | Call::Rename { from, to, .. } => vec![from, to],
            Call::Mkdir { path, .. }
            | Call::Mknod { path, .. }
            | Call::Symlink { path, .. }
            | Call::Unlink { path }
            | Call::Rmdir { path }
            | Call::Open { path, .. }
            | Call::Stat { path }
            | Call::Readlink { path }
            | Call::Readdir { path }
            | Call::Chmod { path, .. }
            | Call::Chown { path, .. }
            | Call::Truncate { path, .. }
            | Call::Utimens { path, .. }
            | Call::Setxattr { path, .. }
            | Call::Getxattr { path, .. }
            | Call::Listxattr { path }
            | Call::Removexattr { path, .. }
            | Call::Quota { path, .. } => vec![path],
            Call::Close { .. }
            | Call::Read { .. }
            | Call::Write { .. }
            | Call::Fsync { .. }
            | Call::Ftruncate { .. }
            | Call::Fstat { .. } => Vec::new(),
        }
    }

    /// The paths whose attributes the call may have changed, parents included.
    pub fn touched(&self) -> Vec<FsPath> {
        if matches!(
            self,
            Call::Stat { .. }
                | Call::Readlink { .. }
                | Call::Readdir { .. }
                | Call::Getxattr { .. }
                | Call::Listxattr { .. }
        ) {
            return Vec::new();
        }
        let mut paths: Vec<FsPath> = self
            .paths()
            .into_iter()
            .flat_map(|path| [path.clone(), path.parent()])
            .collect();
        paths.sort();
        paths.dedup();
        paths
    }
}

/// The bytes of a write: never zero, so that they differ from a hole, and different at every offset nearby.
pub fn pattern_bytes(pattern: u8, offset: u64, length: u32) -> Vec<u8> {
    (0..u64::from(length))
        .map(|i| {
            let at = offset + i;
            ((at ^ (at >> 8) ^ (at >> 16)) as u8)
                .wrapping_mul(31)
                .wrapping_add(pattern)
                | 1
        })
        .collect()
}

/// A time stamp: exact where the caller set it, an order where a clock did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    /// Exactly this moment.
    At(Timestamp),
    /// Taken from the clock by the model's n-th call.
    Tick(u64),
    /// Unspecified by the standard.
    Any,
}

/// What stat shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Inode number; only equality within one target means anything.
    pub ino: u64,
    /// Kind.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number.
    pub rdev: u32,
    /// Size in bytes; 0 for directories, whose size means nothing.
    pub size: u64,
    /// Last access.
    pub atime: Time,
    /// Last content change.
    pub mtime: Time,
    /// Last attribute change.
    pub ctime: Time,
}

/// Result of a call.
#[derive(Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Success without a value.
    Done,
    /// An errno.
    Failed(i32),
    /// Attributes.
    Stat(Stat),
    /// Content, link target or attribute value.
    Bytes(Vec<u8>),
    /// Bytes written.
    Count(usize),
    /// Directory entries without `.` and `..`.
    Entries(BTreeMap<Vec<u8>, FileKind>),
    /// Names of extended attributes in the namespaces `user` and `trusted`.
    Names(BTreeSet<Vec<u8>>),
}

impl fmt::Debug for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outcome::Done => f.write_str("ok"),
            Outcome::Failed(errno) => write!(f, "{:?}", nix::errno::Errno::from_raw(*errno)),
            Outcome::Stat(stat) => stat.fmt(f),
            Outcome::Bytes(bytes) if bytes.len() > 64 => {
                write!(f, "{} bytes: {}...", bytes.len(), bytes[..48].escape_ascii())
            }
            Outcome::Bytes(bytes) => write!(f, "{} bytes: {}", bytes.len(), bytes.escape_ascii()),
            Outcome::Count(count) => write!(f, "{count} bytes written"),
            Outcome::Entries(entries) => {
                let names = entries
                    .iter()
                    .map(|(name, kind)| (FsPath(vec![name.clone()]), kind));
                f.debug_map().entries(names).finish()
            }
            Outcome::Names(names) => f
                .debug_set()
                .entries(names.iter().map(|name| name.escape_ascii().to_string()))
                .finish(),
        }
    }
}

/// Something that answers calls; synchronous, one call at a time.
pub trait Target {
    /// What it is, for messages.
    fn name(&self) -> String;
    /// Applies one call on behalf of `who`.
    fn call(&mut self, who: &Caller, call: &Call) -> Outcome;
    /// Bytes, files and directories below a directory, from a target that counts them.
    fn usage(&mut self, _path: &FsPath) -> Option<(u64, u64, u64)> {
        None
    }
    /// Every file is closed: forgets everything that only memory holds, so that what is seen from now on was saved.
    fn renew(&mut self) {}
}
