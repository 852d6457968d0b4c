//! mkdir(2).

use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, inode, permission};
use bytes::Bytes;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{FileKind, FsResult, Ino, Name};

/// Makes a directory.
///
/// # Errors
/// `NotDirectory`, `PermissionDenied`, `Exists`; `NotFound` if the parent was removed.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: Ino,
    name: &Name,
    mode: u32,
) -> FsResult<OpReply> {
    let mut parent = directory::vacant(txn, caller, parent, name)?;
    let new = inode::NewInode {
        kind: FileKind::Directory,
        mode: mode & (permission::STICKY | 0o777),
        rdev: 0,
        target: Bytes::new(),
    };
    let made = inode::make(txn, ctx, caller, &mut parent, name, new)?;
    Ok(OpReply::Entry(Entry { attr: made.attr }))
}
