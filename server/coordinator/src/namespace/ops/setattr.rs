//! chmod(2), chown(2), truncate(2), ftruncate(2), utimensat(2): checked together, then changed together.

use crate::namespace::extents::MapEdit;
use crate::namespace::inode::Inode;
use crate::namespace::permission::{self, SET_GID, SET_UID, WRITE};
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, counters, reap, usage};
use dfs_common::limits::FILE_BYTES_MAX;
use dfs_common::op::OpReply;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult, Ino, SetAttr, SetTime, Timestamp};

/// Changes attributes, all or none. `by_handle`: the session's open file permits the change of size.
///
/// # Errors
/// `NotPermitted` (not the owner, not the group), `PermissionDenied`, `NotSupported` (mode of a symbolic link),
/// `IsDirectory` and `Invalid` (size of what is no file), `FileTooBig`, `BadHandle` (`by_handle`, but not open for writing).
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    ino: Ino,
    set: &SetAttr,
    by_handle: bool,
) -> FsResult<OpReply> {
    let mut inode = Inode::get(txn, ino)?;
    if *set == SetAttr::default() {
        return Ok(OpReply::Attr(inode.attr));
    }
    let may_write = || {
        if by_handle {
            return match ctx.opened.is_open(ctx.session, ino, true) {
                true => Ok(()),
                false => Err(FsError::new(
                    ErrorKind::BadHandle,
                    format!("inode {ino} is not open for writing"),
                )),
            };
        }
        permission::check(&inode.attr, caller, WRITE)
    };
    if let Some(size) = set.size {
        check_size(&inode, size)?;
        may_write()?;
    }
    check_owner(&inode, caller, set)?;
    if let Some(mode) = set.mode {
        check_mode(&inode, caller, mode, || {
            may_write().is_ok() || ctx.opened.is_open(ctx.session, ino, true)
        })?;
    }
    check_times(&inode, caller, set)?;

    if set.uid.is_some() || set.gid.is_some() {
        if !inode.is_directory() {
            inode.attr.mode = permission::without_set_id(&inode.attr, caller);
        }
        inode.attr.uid = set.uid.unwrap_or(inode.attr.uid);
        inode.attr.gid = set.gid.unwrap_or(inode.attr.gid);
    }
    if let Some(size) = set.size {
        if caller.uid != 0 {
            inode.attr.mode = permission::without_set_id(&inode.attr, caller);
        }
        resize(txn, ctx, &mut inode, size)?;
        inode.attr.mtime = ctx.now;
    }
    if let Some(mode) = set.mode {
        inode.attr.mode = mode & permission::MODE_BITS;
        if !permission::in_group_or_root(inode.attr.gid, caller) {
            inode.attr.mode &= !SET_GID;
        }
    }
    let at = |time| match time {
        SetTime::Now => ctx.now,
        SetTime::At(at) => at,
    };
    inode.attr.atime = set.atime.map_or(inode.attr.atime, at);
    inode.attr.mtime = set.mtime.map_or(inode.attr.mtime, at);
    inode.attr.ctime = ctx.now;
    inode.put(txn);
    Ok(OpReply::Attr(inode.attr))
}

fn check_size(inode: &Inode, size: u64) -> FsResult<()> {
    match inode.attr.kind {
        FileKind::File => {}
        FileKind::Directory => {
            return Err(FsError::new(
                ErrorKind::IsDirectory,
                "a directory has no size to set",
            ));
        }
        _ => return Err(FsError::new(ErrorKind::Invalid, "only files have a size to set")),
    }
    if size > FILE_BYTES_MAX {
        return Err(FsError::new(
            ErrorKind::FileTooBig,
            format!("a file has at most {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

/// chown(2): root changes anything, the owner the group to one of his own.
fn check_owner(inode: &Inode, caller: &Caller, set: &SetAttr) -> FsResult<()> {
    if caller.uid == 0 || (set.uid.is_none() && set.gid.is_none()) {
        return Ok(());
    }
    let owner = caller.uid == inode.attr.uid;
    let keeps_owner = set.uid.is_none_or(|uid| owner && uid == inode.attr.uid);
    let own_group = set
        .gid
        .is_none_or(|gid| owner && (caller.in_group(gid) || gid == inode.attr.gid));
    match keeps_owner && own_group {
        true => Ok(()),
        false => Err(permission::not_permitted(
            "only root changes the owner, and the group to a foreign one",
        )),
    }
}

/// chmod(2). Who may write a file may take its set-id bits away, for that is what writing does, and kernels ask for it
/// in this way.
fn check_mode(inode: &Inode, caller: &Caller, mode: u32, may_write: impl Fn() -> bool) -> FsResult<()> {
    if inode.attr.kind == FileKind::Symlink {
        return Err(FsError::new(
            ErrorKind::NotSupported,
            "a symbolic link has no mode to set",
        ));
    }
    if permission::owns(&inode.attr, caller) {
        return Ok(());
    }
    let taken = inode.attr.mode & !mode;
    let added = mode & permission::MODE_BITS & !inode.attr.mode;
    let takes_set_id_only = added == 0 && taken != 0 && taken & !(SET_UID | SET_GID) == 0;
    if takes_set_id_only && inode.attr.kind == FileKind::File && may_write() {
        return Ok(());
    }
    Err(permission::not_permitted("only its owner changes the mode"))
}

/// utimensat(2): a given time needs ownership, the current time ownership or write permission. With a new size the current
/// time is part of the truncation.
fn check_times(inode: &Inode, caller: &Caller, set: &SetAttr) -> FsResult<()> {
    if set.atime.is_none() && set.mtime.is_none() {
        return Ok(());
    }
    for time in [set.atime, set.mtime].into_iter().flatten() {
        if matches!(time, SetTime::At(Timestamp { nanos, .. }) if nanos >= 1_000_000_000) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "nanoseconds are below 1,000,000,000",
            ));
        }
    }
    if permission::owns(&inode.attr, caller) {
        return Ok(());
    }
    let now = |time: Option<SetTime>| matches!(time, None | Some(SetTime::Now));
    if set.size.is_some() && now(set.atime) && now(set.mtime) {
        return Ok(());
    }
    if (set.atime, set.mtime) != (Some(SetTime::Now), Some(SetTime::Now)) {
        return Err(permission::not_permitted("only its owner sets times"));
    }
    permission::check(&inode.attr, caller, WRITE)
}

/// Truncates or extends with a hole. What was cut off does not come back when the file grows again.
fn resize(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>, inode: &mut Inode, size: u64) -> FsResult<()> {
    if size == inode.attr.size {
        return Ok(());
    }
    let allocated_before = inode.attr.allocated_bytes;
    if size == 0 {
        reap::drop_content(txn, ctx.now, inode)?;
    } else if size < inode.attr.size && inode.attr.allocated_bytes > 0 {
        let mut edit = MapEdit::new(inode.map());
        edit.cut(txn, size, u64::MAX)?;
        let mut counters = counters::get(txn)?;
        edit.finish_of(txn, inode, ctx.now, &mut counters)?;
        counters::put(txn, &counters);
    }
    usage::grown(txn, ctx.opened, inode, allocated_before)?;
    inode.attr.size = size;
    inode.attr.map_version += 1;
    Ok(())
}

#[cfg(test)]
mod tests;
