//! unlink(2).

use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, orphans};
use dfs_common::op::OpReply;
use dfs_common::session::Caller;
use dfs_common::{FsResult, Ino, Name};

/// Removes a name of anything but a directory; the inode goes with its last name, or with the last close after it.
///
/// # Errors
/// `NotDirectory` (the parent), `PermissionDenied`, `NotFound`, `NotPermitted` (sticky), `IsDirectory`.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: Ino,
    name: &Name,
) -> FsResult<OpReply> {
    let mut parent = directory::searched(txn, caller, parent)?;
    let entry = directory::existing(txn, parent.ino(), name)?;
    let inode = Inode::get(txn, entry.ino)?;
    directory::check_removes(&parent, &inode, caller, false)?;
    directory::remove_entry(txn, &mut parent, name, &entry, ctx.now);
    parent.put(txn);
    let nlink = orphans::drop_link(txn, ctx, inode)?;
    Ok(OpReply::Removed {
        ino: entry.ino,
        nlink,
    })
}
