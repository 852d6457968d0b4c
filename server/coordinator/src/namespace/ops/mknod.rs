//! mknod(2).

use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, inode, permission};
use bytes::Bytes;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult, Ino, Name};

/// Makes a fifo, socket, device or empty file.
///
/// # Errors
/// As mkdir; `NotPermitted` for a device by anybody but root, and for a directory; `Invalid` for a symbolic link.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    (parent, name): (Ino, &Name),
    kind: FileKind,
    mode: u32,
    rdev: u32,
) -> FsResult<OpReply> {
    let mut parent = directory::vacant(txn, caller, parent, name)?;
    let rdev = match kind {
        FileKind::CharDevice | FileKind::BlockDevice if caller.uid != 0 => {
            return Err(permission::not_permitted("only root makes device nodes"));
        }
        FileKind::CharDevice | FileKind::BlockDevice => rdev,
        FileKind::Directory => return Err(permission::not_permitted("directories are made by mkdir")),
        FileKind::Symlink => {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "symbolic links are made by symlink",
            ));
        }
        FileKind::File | FileKind::Fifo | FileKind::Socket => 0,
    };
    let new = inode::NewInode {
        kind,
        mode: mode & permission::MODE_BITS,
        rdev,
        target: Bytes::new(),
    };
    let made = inode::make(txn, ctx, caller, &mut parent, name, new)?;
    Ok(OpReply::Entry(Entry { attr: made.attr }))
}
