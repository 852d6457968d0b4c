//! The namespace: one deterministic state machine over an ordered key space.
//!
//! [`apply`] turns an operation into changes of a [`txn::Txn`] and a reply; [`read`] answers questions; [`check`](check::check)
//! proves that what stands in the store belongs together. Clock, randomness, open files and placement are arguments
//! ([`ApplyContext`]), so replay gives the same state (I10). Knows neither network nor store; writes nothing itself.
//!
//! Every operation has a file of its name in `ops`; what they share are the records: [`inode`], [`dentry`], [`extents`],
//! [`chunks`], [`xattrs`], [`counters`], [`usage`], [`names`], [`quota`], [`orphans`], [`reap`], [`repair`], and the rules of
//! [`permission`] and [`directory`].

pub mod check;
pub mod chunks;
pub mod counters;
pub mod dentry;
pub mod directory;
pub mod extents;
pub mod inode;
pub mod keys;
pub mod migrate;
pub mod names;
pub mod ops;
pub mod orphans;
pub mod permission;
pub mod quota;
pub mod read;
pub mod reap;
pub mod repair;
pub mod txn;
pub mod usage;
pub mod xattrs;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod random_tests;

pub use orphans::{parse_orphan, release_orphan};

use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::capability::CapabilityKey;
use dfs_common::op::{OpReply, Operation};
use dfs_common::session::Caller;
use dfs_common::{Attr, ErrorKind, FileKind, FsError, FsResult, Ino, NodeId, PgId, SessionId, Timestamp};
use txn::Txn;

/// Layout of keys and values that this program reads and writes.
pub const SCHEMA_VERSION: u32 = 1;
/// Numbers 1 and 2 are the root's inode and what listings use for `..`; the first that is given is 3.
const FIRST_NUMBER: u64 = 3;

/// Who holds an inode open. Asked while an operation is applied.
pub trait OpenFiles: Send + Sync {
    /// Sessions that hold `ino` open, sorted. The answer decides the inode's fate: it must stay true until the operation
    /// is committed.
    fn holders(&self, ino: Ino) -> Vec<SessionId>;
    /// True if `session` has `ino` open, for writing if `write`.
    fn is_open(&self, session: SessionId, ino: Ino, write: bool) -> bool;
}

/// Where chunks go.
pub trait ChunkPlacement: Send + Sync {
    /// Placement groups for `count` new chunks.
    ///
    /// # Errors
    /// `NoSpace`; `Unavailable` if too few datanodes are up.
    fn choose(&self, count: u32) -> FsResult<Vec<PgId>>;
    /// The members of a group; `None` if there is no such group.
    fn members(&self, group: PgId) -> Option<Vec<NodeId>>;
}

/// Everything that an operation depends on besides the state and its arguments.
pub struct ApplyContext<'a> {
    /// Wall clock.
    pub now: Timestamp,
    /// Session that sent the operation.
    pub session: SessionId,
    /// Open files.
    pub opened: &'a dyn OpenFiles,
    /// Placement of chunks.
    pub placement: &'a dyn ChunkPlacement,
    /// Signs capabilities.
    pub capability_key: &'a CapabilityKey,
    /// End of validity of the capabilities that are signed.
    pub capability_expires_unix_ms: u64,
    /// Replicas that a new chunk shall have.
    pub replication: u32,
    /// Receipts without which a commit is refused.
    pub replication_floor: u32,
}

/// Applies one operation on behalf of `caller`. On an error the changes made so far must be rolled back.
///
/// # Errors
/// The errno of the system call in the form of its [`ErrorKind`]; `Corrupt` if a record cannot be read.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    operation: &Operation,
) -> FsResult<OpReply> {
    match operation {
        Operation::Mkdir { parent, name, mode } => ops::mkdir::apply(txn, ctx, caller, *parent, name, *mode),
        Operation::Mknod {
            parent,
            name,
            kind,
            mode,
            rdev,
        } => ops::mknod::apply(txn, ctx, caller, (*parent, name), *kind, *mode, *rdev),
        Operation::Create {
            parent,
            name,
            mode,
            exclusive,
            read,
            write,
        } => {
            let how = ops::create::How {
                mode: *mode,
                exclusive: *exclusive,
                read: *read,
                write: *write,
            };
            ops::create::apply(txn, ctx, caller, *parent, name, how)
        }
        Operation::Symlink { parent, name, target } => {
            ops::symlink::apply(txn, ctx, caller, *parent, name, target)
        }
        Operation::Link { ino, parent, name } => ops::link::apply(txn, ctx, caller, *ino, *parent, name),
        Operation::Unlink { parent, name } => ops::unlink::apply(txn, ctx, caller, *parent, name),
        Operation::Rmdir { parent, name } => ops::rmdir::apply(txn, ctx, caller, *parent, name),
        Operation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            mode,
        } => ops::rename::apply(txn, ctx, caller, (*parent, name), (*new_parent, new_name), *mode),
        Operation::Setattr { ino, set, by_handle } => {
            ops::setattr::apply(txn, ctx, caller, *ino, set, *by_handle)
        }
        Operation::Setxattr {
            ino,
            name,
            value,
            mode,
        } => ops::setxattr::apply(txn, ctx, caller, *ino, name, value, *mode),
        Operation::Removexattr { ino, name } => ops::removexattr::apply(txn, ctx, caller, *ino, name),
        Operation::GrantChunks { count } => ops::grant_chunks::apply(txn, ctx, *count),
        Operation::CommitWrite(commit) => ops::commit_write::apply(txn, ctx, commit),
    }
}

/// Makes the records of an empty file system: schema version, root directory (root's, mode 0755), counters.
pub fn initialize(txn: &mut Txn<'_>, now: Timestamp) -> FsResult<()> {
    txn.put(
        keys::schema(),
        Bytes::copy_from_slice(&SCHEMA_VERSION.to_be_bytes()),
    );
    let attr = Attr {
        ino: Ino::ROOT,
        generation: 1,
        kind: FileKind::Directory,
        mode: 0o755,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated_bytes: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        map_version: 0,
    };
    inode::Inode::new(attr, Ino::ROOT).put(txn);
    let counters = counters::Counters {
        inodes: 1,
        numbers_below: FIRST_NUMBER,
        ..Default::default()
    };
    counters::put(txn, &counters);
    let root = usage::Usage {
        parent: Ino::ROOT.0,
        ..Default::default()
    };
    txn.put_usage(Ino::ROOT, Some(root));
    usage::rebuild::mark(txn, 0);
    Ok(())
}

/// Checks that the store holds a file system that this program understands.
///
/// # Errors
/// `UnknownVersion` for a newer schema; `Corrupt` if there is none.
pub fn check_schema(read: &dyn MetaRead) -> FsResult<()> {
    match schema_version(read)? {
        SCHEMA_VERSION => Ok(()),
        older if older < SCHEMA_VERSION => Err(FsError::new(
            ErrorKind::UnknownVersion,
            format!(
                "the metadata store has schema version {older}, this program needs {SCHEMA_VERSION}: back the directory up and run dfs-server metadata migrate"
            ),
        )),
        other => Err(FsError::new(
            ErrorKind::UnknownVersion,
            format!(
                "the metadata store has schema version {other}, this program knows {SCHEMA_VERSION}: run the release that wrote it"
            ),
        )),
    }
}

/// The schema version that the store says it has.
///
/// # Errors
/// `Corrupt` if it says none.
pub fn schema_version(read: &dyn MetaRead) -> FsResult<u32> {
    let value = read.get(&keys::schema())?.ok_or_else(|| {
        FsError::new(
            ErrorKind::Corrupt,
            "the metadata store has no schema version: it is empty or not one of this program",
        )
    })?;
    let version = value[..].try_into().map(u32::from_be_bytes);
    version.map_err(|_| damaged("schema version"))
}

/// A record that cannot be read, or records that contradict each other.
pub(crate) fn damaged(what: &str) -> FsError {
    FsError::new(
        ErrorKind::Corrupt,
        format!(
            "a {what} record in the metadata store is damaged: run a check, restore the store from a backup"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{MetaStore, WriteBatch};

    #[test]
    fn newer_schema_and_a_foreign_store_are_refused() {
        let store = MemoryStore::default();
        assert_eq!(check_schema(&store).unwrap_err().kind(), ErrorKind::Corrupt);
        let mut txn = Txn::new(&store);
        initialize(&mut txn, Timestamp::default()).unwrap();
        store.commit(txn.into_batch()).unwrap();
        assert!(check_schema(&store).is_ok());
        assert!(check::check(&store).unwrap().is_clean());
        let newer = Bytes::copy_from_slice(&2u32.to_be_bytes());
        let changes = vec![(keys::schema(), Some(newer))];
        store.commit(WriteBatch { changes }).unwrap();
        assert_eq!(
            check_schema(&store).unwrap_err().kind(),
            ErrorKind::UnknownVersion
        );
    }
}
