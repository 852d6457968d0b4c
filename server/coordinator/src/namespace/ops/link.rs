//! link(2).

use crate::namespace::dentry::Dentry;
use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, counters, directory, permission};
use dfs_common::limits::LINKS_MAX;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name};

/// Adds a name to an inode that is not a directory.
///
/// # Errors
/// As mkdir; `NotPermitted` for a directory, `TooManyLinks` at [`LINKS_MAX`], `NotFound` for an inode without a name.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    ino: Ino,
    parent: Ino,
    name: &Name,
) -> FsResult<OpReply> {
    let mut inode = Inode::get(txn, ino)?;
    let mut parent = directory::vacant(txn, caller, parent, name)?;
    if inode.is_directory() {
        return Err(permission::not_permitted("a directory has one name"));
    }
    if inode.attr.nlink == 0 {
        return Err(FsError::new(ErrorKind::NotFound, "the file was removed"));
    }
    if inode.attr.nlink >= LINKS_MAX {
        return Err(FsError::new(
            ErrorKind::TooManyLinks,
            format!("a file has at most {LINKS_MAX} names"),
        ));
    }
    inode.attr.nlink += 1;
    inode.attr.ctime = ctx.now;
    inode.put(txn);
    let mut counters = counters::get(txn)?;
    let entry = Dentry {
        ino,
        kind: inode.attr.kind,
        cursor: counters::take_number(&mut counters)?,
    };
    counters::put(txn, &counters);
    directory::add_entry(txn, &mut parent, name, &entry, ctx.now);
    parent.put(txn);
    Ok(OpReply::Entry(Entry { attr: inode.attr }))
}
