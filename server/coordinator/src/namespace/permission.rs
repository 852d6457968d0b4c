//! Who may do what: the permission bits of path_resolution(7), the sticky bit of unlink(2), the group rules of chmod(2).

use dfs_common::session::Caller;
use dfs_common::{Attr, ErrorKind, FileKind, FsError, FsResult};

/// Bits as in one octal digit.
pub const READ: u32 = 4;
/// Bits as in one octal digit.
pub const WRITE: u32 = 2;
/// Search a directory.
pub const SEARCH: u32 = 1;

/// Set-user-ID.
pub const SET_UID: u32 = 0o4000;
/// Set-group-ID.
pub const SET_GID: u32 = 0o2000;
/// Sticky.
pub const STICKY: u32 = 0o1000;
/// The group may execute.
pub const GROUP_EXECUTE: u32 = 0o010;
/// All bits that chmod(2) sets.
pub const MODE_BITS: u32 = 0o7777;

/// Checks that `caller` has all of `wanted`. Root may read and write anything and search any directory.
///
/// # Errors
/// `PermissionDenied`.
pub fn check(attr: &Attr, caller: &Caller, wanted: u32) -> FsResult<()> {
    let granted = if caller.uid == 0 {
        if attr.kind == FileKind::Directory || attr.mode & 0o111 != 0 {
            7
        } else {
            6
        }
    } else if caller.uid == attr.uid {
        attr.mode >> 6
    } else if caller.in_group(attr.gid) {
        attr.mode >> 3
    } else {
        attr.mode
    };
    if granted & wanted == wanted {
        Ok(())
    } else {
        Err(FsError::new(
            ErrorKind::PermissionDenied,
            format!("the mode of inode {} refuses this", attr.ino),
        ))
    }
}

/// Owner of the inode, or root.
pub fn owns(attr: &Attr, caller: &Caller) -> bool {
    caller.uid == 0 || caller.uid == attr.uid
}

/// Member of the group, or root.
pub fn in_group_or_root(gid: u32, caller: &Caller) -> bool {
    caller.uid == 0 || caller.in_group(gid)
}

/// In a sticky directory only the owner of the file, of the directory, or root removes a name (unlink(2)).
pub fn sticky_refuses(directory: &Attr, victim: &Attr, caller: &Caller) -> bool {
    directory.mode & STICKY != 0 && !owns(victim, caller) && caller.uid != directory.uid
}

/// Mode of a file after a write, truncation or change of owner by someone whom set-id bits must not serve: set-user-ID goes,
/// set-group-ID goes where the group may execute or `caller` is not of the group (write(2), chown(2)).
pub fn without_set_id(attr: &Attr, caller: &Caller) -> u32 {
    let mut mode = attr.mode & !SET_UID;
    if mode & GROUP_EXECUTE != 0 || !in_group_or_root(attr.gid, caller) {
        mode &= !SET_GID;
    }
    mode
}

/// The refusal of what only the owner or root may do.
pub fn not_permitted(what: &'static str) -> FsError {
    FsError::new(ErrorKind::NotPermitted, what)
}
