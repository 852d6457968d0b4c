//! symlink(2).

use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, inode};
use bytes::Bytes;
use dfs_common::limits::SYMLINK_BYTES_MAX;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult, Ino, Name};

/// Makes a symbolic link, with mode 0777.
///
/// # Errors
/// As mkdir; `NotFound` for an empty target, `NameTooLong` above [`SYMLINK_BYTES_MAX`], `Invalid` for a NUL in it.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: Ino,
    name: &Name,
    target: &Bytes,
) -> FsResult<OpReply> {
    if target.is_empty() {
        return Err(FsError::new(ErrorKind::NotFound, "a symbolic link has a target"));
    }
    if target.len() > SYMLINK_BYTES_MAX {
        return Err(FsError::new(
            ErrorKind::NameTooLong,
            format!("the target of a symbolic link has at most {SYMLINK_BYTES_MAX} bytes"),
        ));
    }
    if target.contains(&0) {
        return Err(FsError::new(
            ErrorKind::Invalid,
            "the target of a symbolic link has no NUL",
        ));
    }
    let mut parent = directory::vacant(txn, caller, parent, name)?;
    let new = inode::NewInode {
        kind: FileKind::Symlink,
        mode: 0o777,
        rdev: 0,
        target: target.clone(),
    };
    let made = inode::make(txn, ctx, caller, &mut parent, name, new)?;
    Ok(OpReply::Entry(Entry { attr: made.attr }))
}
