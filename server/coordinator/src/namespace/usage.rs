//! What lies in each directory's tree: bytes, files, directories. Changed in the batch of what it counts.
//!
//! Every directory with a name has a usage record of what lies below it, the directory itself not among it, and so each change is added to
//! the records of all directories above it. A record names the directory's parent: the way up reads nothing else. Invariants, which
//! [`super::check`] proves: a record is the sum of what stands directly in its directory and of its subdirectories' records; an
//! inode with several names is counted by one of them ([`super::names`]); one without a name is counted in no tree, only in
//! the totals; so the totals are the root's record, the root, and the inodes without a name.
//!
//! Bytes are allocated bytes, as `du` shows them: holes, names, symbolic links' targets and extended attributes are not counted.

pub mod rebuild;

use super::inode::Inode;
use super::txn::Txn;
use super::{damaged, keys, quota};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::{FsResult, Ino};
use dfs_proto::v1;
use prost::Message;
use std::ops::{Add, Neg, Sub};

/// What lies below a directory, and its quota.
pub type Usage = v1::StoredUsage;

/// A chain of parents longer than this is a damaged store.
const DEPTH_MAX: usize = 1 << 20;

/// A change of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Allocated bytes.
    pub bytes: i64,
    /// Inodes that are not directories.
    pub files: i64,
    /// Directories.
    pub directories: i64,
    /// Names of inodes that have several.
    pub links: i64,
}

impl Delta {
    /// A file without content, or with `bytes` of it.
    pub fn file(bytes: u64) -> Self {
        Delta {
            bytes: signed(bytes),
            files: 1,
            ..Delta::default()
        }
    }

    /// A directory and what lies below it.
    pub fn tree(usage: &Usage) -> Self {
        let directory = Delta {
            directories: 1,
            ..Delta::default()
        };
        Delta::of(usage) + directory
    }

    /// What a record counts.
    pub fn of(usage: &Usage) -> Self {
        Delta {
            bytes: signed(usage.bytes),
            files: signed(usage.files),
            directories: signed(usage.directories),
            links: signed(usage.links),
        }
    }

    /// The part of it that is growth.
    pub fn rising(&self) -> Self {
        Delta {
            bytes: self.bytes.max(0),
            files: self.files.max(0),
            directories: self.directories.max(0),
            links: self.links.max(0),
        }
    }

    /// Bytes only.
    pub fn bytes(bytes: i64) -> Self {
        Delta {
            bytes,
            ..Delta::default()
        }
    }

    /// Names of inodes that have several.
    pub fn links(links: i64) -> Self {
        Delta {
            links,
            ..Delta::default()
        }
    }
}

/// What clusters hold is far below the largest signed number; a count that is not is caught as a damaged one.
fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Neg for Delta {
    type Output = Delta;
    fn neg(self) -> Delta {
        Delta::default() - self
    }
}
impl Add for Delta {
    type Output = Delta;
    fn add(self, other: Delta) -> Delta {
        Delta {
            bytes: self.bytes + other.bytes,
            files: self.files + other.files,
            directories: self.directories + other.directories,
            links: self.links + other.links,
        }
    }
}
impl Sub for Delta {
    type Output = Delta;
    fn sub(self, other: Delta) -> Delta {
        Delta {
            bytes: self.bytes - other.bytes,
            files: self.files - other.files,
            directories: self.directories - other.directories,
            links: self.links - other.links,
        }
    }
}

/// The usage record of a directory, if it has one: it has a name.
pub fn find(read: &dyn MetaRead, directory: Ino) -> FsResult<Option<Usage>> {
    read.get(&keys::usage(directory))?.map(decode).transpose()
}

/// The usage record of a directory that has a name.
///
/// # Errors
/// `Corrupt` if there is none.
pub fn get(read: &dyn MetaRead, directory: Ino) -> FsResult<Usage> {
    find(read, directory)?.ok_or_else(|| damaged("usage"))
}

/// Reads a record's value.
pub fn decode(value: Bytes) -> FsResult<Usage> {
    Usage::decode(value).map_err(|_| damaged("usage"))
}

/// A record's value.
pub fn encode(usage: &Usage) -> Bytes {
    Bytes::from(usage.encode_to_vec())
}

/// Records of a directory and of all above it, up to the root.
pub fn chain(read: &dyn MetaRead, directory: Ino) -> FsResult<Vec<(Ino, Usage)>> {
    let mut chain = Vec::new();
    let mut at = directory;
    while chain.len() < DEPTH_MAX {
        let usage = get(read, at)?;
        let parent = Ino(usage.parent);
        chain.push((at, usage));
        if at == Ino::ROOT {
            return Ok(chain);
        }
        at = parent;
    }
    Err(damaged("usage"))
}

/// The parts of the ways up from two directories that they do not share.
pub fn apart(read: &dyn MetaRead, a: Ino, b: Ino) -> FsResult<[Vec<(Ino, Usage)>; 2]> {
    if a == b {
        return Ok([Vec::new(), Vec::new()]);
    }
    let (mut a, mut b) = (chain(read, a)?, chain(read, b)?);
    while let (Some((last, _)), Some((other, _))) = (a.last(), b.last()) {
        if last != other {
            break;
        }
        a.pop();
        b.pop();
    }
    Ok([a, b])
}

/// Adds `delta` to a directory and all above it.
///
/// # Errors
/// `QuotaExceeded` if something of it grows beyond a quota; `Corrupt` if a count would become negative.
pub fn charge(txn: &mut Txn<'_>, directory: Ino, delta: Delta) -> FsResult<()> {
    if delta == Delta::default() {
        return Ok(());
    }
    for_all_above(txn, directory, |txn, at, usage| change(txn, at, usage, delta))
}

/// Adds to a directory and all above it what a check found missing there, whatever its quotas; false if it has no usage record (any more).
///
/// # Errors
/// `Corrupt` if a count would become negative.
pub fn correct(txn: &mut Txn<'_>, directory: Ino, difference: Delta) -> FsResult<bool> {
    if txn.usage(directory)?.is_none() {
        return Ok(false);
    }
    for_all_above(txn, directory, |txn, at, mut usage| {
        add(&mut usage, difference)?;
        txn.put_usage(at, Some(usage));
        Ok(())
    })?;
    Ok(true)
}

/// Makes the usage record of a directory, without counts, or puts right where it lies and which quota it has; takes it and the quota away
/// from what is no directory with a name. True if something was wrong.
pub fn repair_record(txn: &mut Txn<'_>, directory: Ino) -> FsResult<bool> {
    let before = txn.get(&keys::usage(directory))?;
    let quota = txn.get(&keys::quota(directory))?;
    let inode = Inode::find(txn, directory)?;
    let Some(inode) = inode.filter(|inode| inode.is_directory() && inode.attr.nlink > 0) else {
        if before.is_some() {
            txn.put_usage(directory, None);
        }
        if quota.is_some() {
            txn.delete(keys::quota(directory));
        }
        return Ok(before.is_some() || quota.is_some());
    };
    let said = before.clone().map(decode).transpose().unwrap_or_default();
    let quota = quota.map(quota::decode).transpose()?.unwrap_or_default();
    let right = Usage {
        parent: inode.parent.0,
        limit_bytes: quota.bytes,
        limit_inodes: quota.inodes,
        ..said.unwrap_or_default()
    };
    if before == Some(encode(&right)) {
        return Ok(false);
    }
    txn.put_usage(directory, Some(right));
    Ok(true)
}

fn for_all_above(
    txn: &mut Txn<'_>,
    directory: Ino,
    mut each: impl FnMut(&mut Txn<'_>, Ino, Usage) -> FsResult<()>,
) -> FsResult<()> {
    let mut at = directory;
    for _ in 0..DEPTH_MAX {
        let usage = txn.usage(at)?.ok_or_else(|| damaged("usage"))?;
        let parent = Ino(usage.parent);
        each(txn, at, usage)?;
        if at == Ino::ROOT {
            return Ok(());
        }
        at = parent;
    }
    Err(damaged("usage"))
}

/// Takes `delta` from a directory and all above it, and adds it to another one and all above that. Who is above both does not change.
///
/// # Errors
/// As [`charge`].
pub fn shift(txn: &mut Txn<'_>, from: Ino, to: Ino, delta: Delta) -> FsResult<()> {
    let [from, to] = apart(txn, from, to)?;
    for (ino, usage) in from {
        change(txn, ino, usage, -delta)?;
    }
    for (ino, usage) in to {
        change(txn, ino, usage, delta)?;
    }
    Ok(())
}

fn change(txn: &mut Txn<'_>, directory: Ino, mut usage: Usage, delta: Delta) -> FsResult<()> {
    add(&mut usage, delta)?;
    quota::admit(directory, &usage, delta)?;
    txn.put_usage(directory, Some(usage));
    Ok(())
}

fn add(usage: &mut Usage, delta: Delta) -> FsResult<()> {
    for (count, change) in [
        (&mut usage.bytes, delta.bytes),
        (&mut usage.files, delta.files),
        (&mut usage.directories, delta.directories),
        (&mut usage.links, delta.links),
    ] {
        *count = count.checked_add_signed(change).ok_or_else(|| damaged("usage"))?;
    }
    Ok(())
}

/// A directory was made in `parent`.
///
/// # Errors
/// As [`charge`].
pub fn directory_made(txn: &mut Txn<'_>, parent: Ino, directory: Ino) -> FsResult<()> {
    let usage = Usage {
        parent: parent.0,
        ..Usage::default()
    };
    txn.put_usage(directory, Some(usage));
    charge(txn, parent, Delta::tree(&Usage::default()))
}

/// An empty directory lost its name in `parent`; its quota goes with it.
pub fn directory_removed(txn: &mut Txn<'_>, parent: Ino, directory: Ino) -> FsResult<()> {
    let usage = get(txn, directory)?;
    if usage.limit_bytes.is_some() || usage.limit_inodes.is_some() {
        txn.delete(keys::quota(directory));
    }
    txn.put_usage(directory, None);
    charge(txn, parent, -Delta::tree(&usage))
}

/// The content of `inode` had `before` allocated bytes and has what the inode says now.
///
/// # Errors
/// As [`charge`]; one without a name is counted nowhere, but grows no further than its last tree's quota.
pub fn grown(txn: &mut Txn<'_>, inode: &Inode, before: u64) -> FsResult<()> {
    let bytes = signed(inode.attr.allocated_bytes) - signed(before);
    match inode.attr.nlink {
        0 => quota::admit_removed(txn, inode, bytes),
        _ => charge(txn, inode.parent, Delta::bytes(bytes)),
    }
}

#[cfg(test)]
mod tests;
