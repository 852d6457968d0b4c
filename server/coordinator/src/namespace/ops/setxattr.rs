//! setxattr(2).

use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, keys, xattrs};
use bytes::Bytes;
use dfs_common::op::{OpReply, XattrMode};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};

/// Sets an extended attribute.
///
/// # Errors
/// Those of [`xattrs::check_access`] and [`xattrs::put`]; `Exists` and `NoAttribute` by `mode`.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    ino: Ino,
    name: &Bytes,
    value: &Bytes,
    mode: XattrMode,
) -> FsResult<OpReply> {
    let mut inode = Inode::get(txn, ino)?;
    xattrs::check_access(&inode, caller, name, true)?;
    let before = match inode.xattr_list_bytes {
        0 => None,
        _ => txn.get(&keys::xattr(ino, name))?,
    };
    match (mode, &before) {
        (XattrMode::Create, Some(_)) => {
            return Err(FsError::new(
                ErrorKind::Exists,
                "the extended attribute exists already",
            ));
        }
        (XattrMode::Replace, None) => {
            return Err(FsError::new(
                ErrorKind::NoAttribute,
                "the extended attribute does not exist",
            ));
        }
        _ => {}
    }
    xattrs::put(txn, &mut inode, name, before.as_ref(), value)?;
    inode.attr.ctime = ctx.now;
    inode.put(txn);
    Ok(OpReply::Attr(inode.attr))
}
