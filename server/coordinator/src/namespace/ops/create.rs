//! open(2) with `O_CREAT`. That the file counts as open is the applier's part.

use crate::namespace::inode::Inode;
use crate::namespace::permission::{self, READ, WRITE};
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, dentry, directory, inode};
use bytes::Bytes;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult, Ino, Name};

/// How the file is made and opened.
pub struct How {
    /// Permission bits of a new file.
    pub mode: u32,
    /// `O_EXCL`.
    pub exclusive: bool,
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
}

/// Opens a file, making it if absent. A new file is open whatever its mode says.
///
/// # Errors
/// `NotDirectory`, `PermissionDenied`; `Exists` (exclusive), `IsDirectory`, `Loop` (a symbolic link), `NotSupported` (a fifo,
/// socket or device: those are opened locally); `NotFound` if the parent was removed.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: Ino,
    name: &Name,
    how: How,
) -> FsResult<OpReply> {
    let mut parent = directory::searched(txn, caller, parent)?;
    if let Some(entry) = dentry::find(txn, parent.ino(), name)? {
        if how.exclusive {
            return Err(FsError::new(ErrorKind::Exists, format!("{name} exists already")));
        }
        let file = Inode::get(txn, entry.ino)?;
        check_open(&file, caller, how.read, how.write)?;
        return Ok(OpReply::Created {
            entry: Entry { attr: file.attr },
            existed: true,
        });
    }
    directory::check_adds(&parent, caller)?;
    let new = inode::NewInode {
        kind: FileKind::File,
        mode: how.mode & permission::MODE_BITS,
        rdev: 0,
        target: Bytes::new(),
    };
    let made = inode::make(txn, ctx, caller, &mut parent, name, new)?;
    Ok(OpReply::Created {
        entry: Entry { attr: made.attr },
        existed: false,
    })
}

fn check_open(file: &Inode, caller: &Caller, read: bool, write: bool) -> FsResult<()> {
    match file.attr.kind {
        FileKind::File => {}
        FileKind::Directory => {
            return Err(FsError::new(ErrorKind::IsDirectory, "the name is a directory's"));
        }
        FileKind::Symlink => {
            return Err(FsError::new(ErrorKind::Loop, "the name is a symbolic link's"));
        }
        _ => {
            return Err(FsError::new(
                ErrorKind::NotSupported,
                "the name is a special file's, which is opened without the coordinator: look it up",
            ));
        }
    }
    let wanted = if read { READ } else { 0 } | if write { WRITE } else { 0 };
    permission::check(&file.attr, caller, wanted)
}
