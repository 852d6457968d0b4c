//! Who may do what: permission bits, ownership, the sticky bit.

use super::state::Inode;
use dfs_common::attr::FileKind;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult};
use nix::libc;

pub(super) const READ: u32 = 0o4;
pub(super) const WRITE: u32 = 0o2;
pub(super) const SEARCH: u32 = 0o1;

fn refuse<T>(kind: ErrorKind, why: &'static str) -> FsResult<T> {
    Err(FsError::new(kind, why))
}

pub(super) fn is_root(caller: &Caller) -> bool {
    caller.uid == 0
}

/// `PermissionDenied` unless `caller` has all the bits of `wanted`.
pub(super) fn check(inode: &Inode, caller: &Caller, wanted: u32) -> FsResult<()> {
    let attr = &inode.attr;
    let class = if caller.uid == attr.uid {
        6
    } else if caller.in_group(attr.gid) {
        3
    } else {
        0
    };
    let granted = match is_root(caller) {
        true => READ | WRITE | SEARCH,
        false => attr.mode >> class & 0o7,
    };
    match granted & wanted == wanted {
        true => Ok(()),
        false => refuse(ErrorKind::PermissionDenied, "the permission bits refuse this"),
    }
}

pub(super) fn owns(inode: &Inode, caller: &Caller) -> bool {
    is_root(caller) || caller.uid == inode.attr.uid
}

/// `NotPermitted` unless `caller` owns the inode.
pub(super) fn check_owner(inode: &Inode, caller: &Caller) -> FsResult<()> {
    match owns(inode, caller) {
        true => Ok(()),
        false => refuse(ErrorKind::NotPermitted, "only the owner may do this"),
    }
}

/// May `caller` take a name of `victim` out of `directory`?
pub(super) fn check_removal(directory: &Inode, victim: &Inode, caller: &Caller) -> FsResult<()> {
    check(directory, caller, WRITE | SEARCH)?;
    let sticky = directory.attr.mode & libc::S_ISVTX != 0;
    match sticky && !owns(victim, caller) && !owns(directory, caller) {
        true => refuse(ErrorKind::NotPermitted, "the directory is sticky"),
        false => Ok(()),
    }
}

/// The mode without set-id bits that must not outlive a change by `caller`; directories keep theirs.
pub(super) fn mode_without_set_id(inode: &Inode, caller: &Caller) -> u32 {
    let attr = &inode.attr;
    if attr.kind == FileKind::Directory {
        return attr.mode;
    }
    let mut gone = libc::S_ISUID;
    if attr.mode & libc::S_IXGRP != 0 || !(is_root(caller) || caller.in_group(attr.gid)) {
        gone |= libc::S_ISGID;
    }
    attr.mode & !gone
}
