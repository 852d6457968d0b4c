//! rmdir(2).

use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, orphans};
use dfs_common::op::OpReply;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name};

/// Removes an empty directory.
///
/// # Errors
/// `NotDirectory`, `PermissionDenied`, `NotFound`, `NotPermitted` (sticky), `NotEmpty`.
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
    directory::check_removes(&parent, &inode, caller, true)?;
    if inode.attr.size > 0 {
        return Err(FsError::new(
            ErrorKind::NotEmpty,
            format!("{name} has entries: remove them first"),
        ));
    }
    directory::remove_entry(txn, &mut parent, name, &entry, ctx.now);
    directory::remove_subdirectory(&mut parent);
    parent.put(txn);
    let nlink = orphans::drop_link(txn, ctx, inode)?;
    Ok(OpReply::Removed {
        ino: entry.ino,
        nlink,
    })
}
