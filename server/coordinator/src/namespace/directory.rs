//! Rules of directories: who may find, add and remove names, and what that does to the directory itself.

use super::dentry::{self, Dentry};
use super::inode::Inode;
use super::permission::{self, SEARCH, WRITE};
use super::txn::Txn;
use crate::store::MetaRead;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name, Timestamp};

/// A chain of parents longer than this is a damaged store.
const DEPTH_MAX: usize = 1 << 20;

/// The directory `ino`, which `caller` may search.
///
/// # Errors
/// `Stale`, `NotDirectory`, `PermissionDenied`.
pub fn searched(read: &dyn MetaRead, caller: &Caller, ino: Ino) -> FsResult<Inode> {
    let directory = Inode::directory(read, ino)?;
    permission::check(&directory.attr, caller, SEARCH)?;
    Ok(directory)
}

/// The directory `parent` in which `caller` may make `name`, which does not exist.
///
/// # Errors
/// `Exists` comes before a refusal to write, as every caller of open(2) with `O_EXCL` relies on.
pub fn vacant(read: &dyn MetaRead, caller: &Caller, parent: Ino, name: &Name) -> FsResult<Inode> {
    let directory = searched(read, caller, parent)?;
    if dentry::find(read, parent, name)?.is_some() {
        return Err(FsError::new(ErrorKind::Exists, format!("{name} exists already")));
    }
    check_adds(&directory, caller)?;
    Ok(directory)
}

/// Checks that `caller` may add names.
///
/// # Errors
/// `NotFound` if the directory was removed; `PermissionDenied`.
pub fn check_adds(directory: &Inode, caller: &Caller) -> FsResult<()> {
    if directory.attr.nlink == 0 {
        return Err(FsError::new(ErrorKind::NotFound, "the directory was removed"));
    }
    permission::check(&directory.attr, caller, WRITE | SEARCH)
}

/// The entry `name` of `parent`.
///
/// # Errors
/// `NotFound`.
pub fn existing(read: &dyn MetaRead, parent: Ino, name: &Name) -> FsResult<Dentry> {
    dentry::find(read, parent, name)?.ok_or_else(|| not_found(name))
}

/// No such name.
pub fn not_found(name: &Name) -> FsError {
    FsError::new(ErrorKind::NotFound, format!("{name} does not exist"))
}

/// Checks that `caller` may take the name of `victim` out of `directory`, as a directory or as anything else.
///
/// # Errors
/// `PermissionDenied`, `NotPermitted` (sticky), `NotDirectory`, `IsDirectory`.
pub fn check_removes(directory: &Inode, victim: &Inode, caller: &Caller, as_directory: bool) -> FsResult<()> {
    check_adds(directory, caller)?;
    if permission::sticky_refuses(&directory.attr, &victim.attr, caller) {
        return Err(permission::not_permitted(
            "only its owner or the directory's removes a name from a sticky directory",
        ));
    }
    match (victim.is_directory(), as_directory) {
        (false, true) => Err(FsError::new(
            ErrorKind::NotDirectory,
            "the name is not a directory's",
        )),
        (true, false) => Err(FsError::new(ErrorKind::IsDirectory, "the name is a directory's")),
        _ => Ok(()),
    }
}

/// Writes a new entry; the directory itself is changed, not written.
pub fn add_entry(txn: &mut Txn<'_>, directory: &mut Inode, name: &Name, entry: &Dentry, now: Timestamp) {
    dentry::put(txn, directory.ino(), name, entry);
    directory.attr.size += 1;
    directory.touch(now);
}

/// Takes an entry away; the directory itself is changed, not written.
pub fn remove_entry(txn: &mut Txn<'_>, directory: &mut Inode, name: &Name, entry: &Dentry, now: Timestamp) {
    dentry::remove(txn, directory.ino(), name, entry.cursor);
    directory.attr.size = directory.attr.size.saturating_sub(1);
    directory.touch(now);
}

/// A subdirectory's `..` is a link to its parent. Not bounded by [`dfs_common::limits::LINKS_MAX`], as on ext4.
///
/// # Errors
/// `TooManyLinks` if the count is used up.
pub fn add_subdirectory(directory: &mut Inode) -> FsResult<()> {
    directory.attr.nlink = directory.attr.nlink.checked_add(1).ok_or_else(|| {
        FsError::new(
            ErrorKind::TooManyLinks,
            "the directory has too many subdirectories",
        )
    })?;
    Ok(())
}

/// A subdirectory went.
pub fn remove_subdirectory(directory: &mut Inode) {
    directory.attr.nlink = directory.attr.nlink.saturating_sub(1);
}

/// True if the directory `above` is `below` or one of the directories above it.
pub fn is_within(read: &dyn MetaRead, above: Ino, below: Ino) -> FsResult<bool> {
    let mut at = below;
    for _ in 0..DEPTH_MAX {
        if at == above {
            return Ok(true);
        }
        let parent = Inode::directory(read, at)?.parent;
        if at == Ino::ROOT || parent == at {
            return Ok(false);
        }
        at = parent;
    }
    Err(super::damaged("directory"))
}
