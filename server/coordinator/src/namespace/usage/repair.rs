//! Repairs of usage: see [`crate::namespace::repair::Repair`].

use super::{Admission, Delta, Usage, charge_up, decode, encode};
use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{keys, orphans, quota};
use crate::store::MetaRead;
use dfs_common::{FsResult, Ino, Quota};

/// Adds to a directory and all above it what a check found missing there, whatever its quotas; false if it has no usage record (any more).
///
/// # Errors
/// `Corrupt` if a count would become negative.
pub fn correct(txn: &mut Txn<'_>, directory: Ino, difference: Delta) -> FsResult<bool> {
    if txn.usage(directory)?.is_none() {
        return Ok(false);
    }
    charge_up(txn, directory, difference, Admission::Given)?;
    Ok(true)
}

/// Makes the usage record of a directory, without counts, or puts right where it lies and which quota it has; takes it and the quota away
/// from what is no directory with a name, but for graves. True if something was wrong.
pub fn repair_record(txn: &mut Txn<'_>, directory: Ino) -> FsResult<bool> {
    let before = txn.get(&keys::usage(directory))?;
    let quota = txn.get(&keys::quota(directory))?;
    let inode = Inode::find(txn, directory)?;
    let Some(inode) = inode.filter(|inode| inode.is_directory() && inode.attr.nlink > 0) else {
        let is_stray = match before.map(decode) {
            Some(Ok(said)) => !is_grave(txn, &said)?,
            Some(Err(_)) => true,
            None => false,
        };
        if is_stray {
            txn.put_usage(directory, None);
        }
        if quota.is_some() {
            txn.delete(keys::quota(directory));
        }
        return Ok(is_stray || quota.is_some());
    };
    let said = before.clone().map(decode).transpose().unwrap_or_default();
    let quota = quota.map(quota::decode).transpose()?;
    let closing = quota == Some(Quota::default());
    let quota = quota.unwrap_or_default();
    let right = Usage {
        parent: inode.parent.0,
        limit_bytes: quota.bytes,
        limit_inodes: quota.inodes,
        closing,
        removed: false,
        ..said.unwrap_or_default()
    };
    if before == Some(encode(&right)) {
        return Ok(false);
    }
    txn.put_usage(directory, Some(right));
    Ok(true)
}

/// True of the record of a directory that was removed, with something held below it and a way up.
///
/// # Errors
/// Those of the store.
pub fn is_grave(read: &dyn MetaRead, usage: &Usage) -> FsResult<bool> {
    Ok(usage.removed && usage.held_inodes > 0 && read.get(&keys::usage(Ino(usage.parent)))?.is_some())
}

/// Whether an inode that sessions hold without a name is counted somewhere: where its last name was, or below the grave of that.
///
/// # Errors
/// Those of the store.
pub fn has_place(read: &dyn MetaRead, inode: &Inode) -> FsResult<bool> {
    Ok(read.get(&keys::usage(inode.parent))?.is_some())
}

/// Counts an inode that sessions hold below the root, if it is counted nowhere; false if it is, or nobody holds it.
///
/// # Errors
/// `Corrupt`.
pub fn place(txn: &mut Txn<'_>, ino: Ino) -> FsResult<bool> {
    let Some(mut inode) = Inode::find(txn, ino)?.filter(|inode| inode.attr.nlink == 0) else {
        return Ok(false);
    };
    if !orphans::is_held(txn, ino)? || has_place(txn, &inode)? {
        return Ok(false);
    }
    inode.parent = Ino::ROOT;
    inode.put(txn);
    super::held(txn, &inode, true)?;
    Ok(true)
}
