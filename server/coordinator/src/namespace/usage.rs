//! What lies in each directory's tree: bytes, files, directories. Changed in the batch of what it counts.
//!
//! Every directory with a name has a usage record of what lies below it, the directory itself not among it, and so each change is added to
//! the records of all directories above it. A record names the directory's parent: the way up reads nothing else. Invariants, which
//! [`super::check`] proves: a record is the sum of what stands directly in its directory and of its subdirectories' records; an
//! inode with several names is counted by one of them ([`super::names`]); one without a name is counted in no tree, only in
//! the totals; so the totals are the root's record, the root, and the inodes without a name.
//!
//! Beside that, and only for quotas, stands what is *held*: inodes without a name that sessions have open, below the directory in which the last
//! name was. A directory that is removed before them keeps its record (a *grave*), in which they are found on the way up, until
//! the last of them goes; its parent's record counts them too, so that a grave's way up is whole.
//!
//! Bytes are allocated bytes, as `du` shows them: holes, names, symbolic links' targets and extended attributes are not counted.

pub mod delta;
pub mod rebuild;
pub mod record;
pub mod repair;

use super::inode::Inode;
use super::txn::Txn;
use super::{OpenFiles, damaged, keys, orphans, quota};
use crate::store::MetaRead;
pub use delta::Delta;
use delta::signed;
use dfs_common::{FsResult, Ino};
pub use record::{Usage, decode, encode};

/// A chain of parents longer than this is a damaged store.
const DEPTH_MAX: usize = 1 << 20;

/// The usage record of a directory, if it has one: it has a name, or is a grave.
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

/// Whether quotas are asked.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Growth beyond one is refused.
    Asked,
    /// What is there already is counted elsewhere from now on, or the whole of several changes is measured ([`quota::Measured`]).
    Given,
}

/// Adds `delta` to a directory and all above it.
///
/// # Errors
/// `QuotaExceeded` if something of it grows beyond a quota; `Corrupt` if a count would become negative.
pub fn charge(txn: &mut Txn<'_>, directory: Ino, delta: Delta) -> FsResult<()> {
    charge_up(txn, directory, delta, Admission::Asked)
}

fn charge_up(txn: &mut Txn<'_>, directory: Ino, delta: Delta, admission: Admission) -> FsResult<()> {
    if delta == Delta::default() {
        return Ok(());
    }
    let mut at = directory;
    for _ in 0..DEPTH_MAX {
        let usage = txn.usage(at)?.ok_or_else(|| damaged("usage"))?;
        let parent = Ino(usage.parent);
        change(txn, at, usage, delta, admission)?;
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
pub fn shift(txn: &mut Txn<'_>, from: Ino, to: Ino, delta: Delta, admission: Admission) -> FsResult<()> {
    let [from, to] = apart(txn, from, to)?;
    for (ino, usage) in from {
        change(txn, ino, usage, -delta, admission)?;
    }
    for (ino, usage) in to {
        change(txn, ino, usage, delta, admission)?;
    }
    Ok(())
}

fn change(
    txn: &mut Txn<'_>,
    directory: Ino,
    mut usage: Usage,
    delta: Delta,
    admission: Admission,
) -> FsResult<()> {
    add(&mut usage, delta)?;
    if admission == Admission::Asked {
        quota::admit(directory, &usage, delta)?;
    }
    let emptied = usage.removed && usage.held_inodes == 0;
    txn.put_usage(directory, Some(usage).filter(|_| !emptied));
    Ok(())
}

fn add(usage: &mut Usage, delta: Delta) -> FsResult<()> {
    for (count, change) in [
        (&mut usage.bytes, delta.bytes),
        (&mut usage.files, delta.files),
        (&mut usage.directories, delta.directories),
        (&mut usage.links, delta.links),
        (&mut usage.held_bytes, delta.held_bytes),
        (&mut usage.held_inodes, delta.held_inodes),
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

/// An empty directory lost its name in `parent`; its quota goes with it. Its record stays as long as it counts what is held.
pub fn directory_removed(txn: &mut Txn<'_>, parent: Ino, directory: Ino) -> FsResult<()> {
    let usage = get(txn, directory)?;
    if quota::is_edge(&usage) {
        txn.delete(keys::quota(directory));
    }
    let grave = Usage {
        parent: parent.0,
        held_bytes: usage.held_bytes,
        held_inodes: usage.held_inodes,
        removed: true,
        ..Usage::default()
    };
    txn.put_usage(directory, Some(grave).filter(|grave| grave.held_inodes > 0));
    // What is held stays with those above.
    let held = Delta {
        held_bytes: signed(usage.held_bytes),
        held_inodes: signed(usage.held_inodes),
        ..Delta::default()
    };
    charge(txn, parent, held - Delta::tree(&usage))
}

/// `inode`, which has no name, came to be held by a session (or, `!held`, no session holds it any more).
///
/// # Errors
/// `Corrupt`.
pub fn held(txn: &mut Txn<'_>, inode: &Inode, held: bool) -> FsResult<()> {
    let delta = Delta::held(inode.attr.allocated_bytes);
    let delta = if held { delta } else { -delta };
    charge_up(txn, inode.parent, delta, Admission::Given)
}

/// The content of `inode` had `before` allocated bytes and has what the inode says now. One without a name that nobody was known to hold
/// is held from its growth on by whoever has it open.
///
/// # Errors
/// As [`charge`].
pub fn grown(txn: &mut Txn<'_>, opened: &dyn OpenFiles, inode: &Inode, before: u64) -> FsResult<()> {
    let bytes = signed(inode.attr.allocated_bytes) - signed(before);
    if inode.attr.nlink > 0 {
        return charge(txn, inode.parent, Delta::bytes(bytes));
    }
    if !orphans::is_held(txn, inode.ino())? {
        if bytes <= 0 {
            return Ok(());
        }
        let mut then = inode.clone();
        then.attr.allocated_bytes = before;
        orphans::hold(txn, opened, &then)?;
    }
    charge(txn, inode.parent, Delta::held_bytes(bytes))
}

#[cfg(test)]
mod tests;
