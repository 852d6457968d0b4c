//! removexattr(2).

use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, xattrs};
use bytes::Bytes;
use dfs_common::op::OpReply;
use dfs_common::session::Caller;
use dfs_common::{FsResult, Ino};

/// Removes an extended attribute.
///
/// # Errors
/// Those of [`xattrs::check_access`]; `NoAttribute`.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    ino: Ino,
    name: &Bytes,
) -> FsResult<OpReply> {
    let mut inode = Inode::get(txn, ino)?;
    xattrs::check_access(&inode, caller, name, true)?;
    let before = xattrs::value(txn, &inode, name)?;
    xattrs::remove(txn, &mut inode, name, &before);
    inode.attr.ctime = ctx.now;
    inode.put(txn);
    Ok(OpReply::Attr(inode.attr))
}
