//! Who may do what: the permission bits of path_resolution(7), the sticky bit of unlink(2), the group rules of chmod(2).

use super::Inode;
use dfs_common::attr::FileKind;
use dfs_common::session::Caller;
use nix::libc;

pub(super) const READ: u32 = 4;
pub(super) const WRITE: u32 = 2;
pub(super) const SEARCH: u32 = 1;

/// EACCES unless `who` has all of `wanted` (bits as in one octal digit). Root may read and write anything and search any
/// directory.
pub(super) fn check(inode: &Inode, who: &Caller, wanted: u32) -> Result<(), i32> {
    let granted = if who.uid == 0 {
        if inode.kind() == FileKind::Directory || inode.mode & 0o111 != 0 {
            7
        } else {
            6
        }
    } else if who.uid == inode.uid {
        inode.mode >> 6
    } else if who.in_group(inode.gid) {
        inode.mode >> 3
    } else {
        inode.mode
    };
    if granted & wanted == wanted {
        Ok(())
    } else {
        Err(libc::EACCES)
    }
}

/// Owner of the inode, or root.
pub(super) fn owns(inode: &Inode, who: &Caller) -> bool {
    who.uid == 0 || who.uid == inode.uid
}

/// Member of the inode's group, or root.
pub(super) fn in_group_or_root(inode: &Inode, who: &Caller) -> bool {
    who.uid == 0 || who.in_group(inode.gid)
}

/// unlink(2), EPERM: in a sticky directory only the owner of the file, of the directory, or root removes a name.
pub(super) fn sticky_refuses(directory: &Inode, victim: &Inode, who: &Caller) -> bool {
    directory.mode & libc::S_ISVTX != 0 && !owns(victim, who) && who.uid != directory.uid
}

/// Mode of a regular file after a write, truncation or change of owner by someone whom set-id bits must not serve
/// (write(2), chown(2)): set-user-ID goes, set-group-ID goes where the group may execute or `who` is not of the group.
pub(super) fn without_set_id(inode: &Inode, who: &Caller) -> u32 {
    let mut mode = inode.mode & !libc::S_ISUID;
    if mode & libc::S_IXGRP != 0 || !in_group_or_root(inode, who) {
        mode &= !libc::S_ISGID;
    }
    mode
}
