//! rename(2) and renameat2(2).
//!
//! An entry that stays in its directory keeps its cursor, so that a listing that goes on meanwhile does not meet it again
//! under its new name; a name that existed before keeps its own cursor, so that the listing meets it exactly once.

use crate::namespace::dentry::{self, Dentry};
use crate::namespace::inode::Inode;
use crate::namespace::permission::{self, WRITE};
use crate::namespace::txn::Txn;
use crate::namespace::usage::Admission;
use crate::namespace::{ApplyContext, counters, directory, names, orphans, quota};
use dfs_common::op::{OpReply, RenameMode};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult, Ino, Name};

/// Moves a name, or exchanges two.
///
/// # Errors
/// `NotDirectory`, `PermissionDenied`, `NotFound`, `NotPermitted` (sticky), `Exists` (no-replace), `Invalid` (a directory
/// below itself), `NotEmpty`, `IsDirectory`; `QuotaExceeded`; `CrossDevice` (hard links across a quota's edge).
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    (parent, name): (Ino, &Name),
    (new_parent, new_name): (Ino, &Name),
    mode: RenameMode,
) -> FsResult<OpReply> {
    let mut old_directory = directory::searched(txn, caller, parent)?;
    let mut new_directory = match new_parent == parent {
        true => None,
        false => Some(directory::searched(txn, caller, new_parent)?),
    };
    let source_entry = directory::existing(txn, parent, name)?;
    let target_entry = dentry::find(txn, new_parent, new_name)?;
    match mode {
        RenameMode::NoReplace if target_entry.is_some() => {
            return Err(FsError::new(
                ErrorKind::Exists,
                format!("{new_name} exists already"),
            ));
        }
        RenameMode::Exchange if target_entry.is_none() => return Err(directory::not_found(new_name)),
        _ => {}
    }
    if new_directory.is_some() {
        check_loops(
            txn,
            (parent, &source_entry),
            (new_parent, target_entry.as_ref()),
            mode,
        )?;
    }
    if target_entry.is_some_and(|target| target.ino == source_entry.ino) {
        // Two names of one file: nothing to do, by POSIX.
        return Ok(OpReply::Renamed {
            ino: source_entry.ino,
            other: Some(source_entry.ino),
        });
    }
    let mut source = Inode::get(txn, source_entry.ino)?;
    let target = match &target_entry {
        Some(entry) => Some(Inode::get(txn, entry.ino)?),
        None => None,
    };
    check_permissions(
        caller,
        &old_directory,
        new_directory.as_ref(),
        &source,
        target.as_ref(),
        mode,
    )?;

    source.attr.ctime = ctx.now;
    let other = target.as_ref().map(Inode::ino);
    match (target_entry, target) {
        (Some(target_entry), Some(mut target)) if mode == RenameMode::Exchange => {
            let to = new_directory.as_mut().unwrap_or(&mut old_directory);
            dentry::put(txn, new_parent, new_name, &entry_of(&source, target_entry.cursor));
            to.touch(ctx.now);
            dentry::put(txn, parent, name, &entry_of(&target, source_entry.cursor));
            old_directory.touch(ctx.now);
            names::exchanged(
                txn,
                (&mut source, (parent, source_entry.cursor)),
                (&mut target, (new_parent, target_entry.cursor)),
            )?;
            move_parent(&mut source, &mut old_directory, new_directory.as_mut())?;
            if let Some(new_directory) = &mut new_directory {
                move_parent(&mut target, new_directory, Some(&mut old_directory))?;
            }
            target.attr.ctime = ctx.now;
            target.put(txn);
        }
        (target_entry, target) => {
            let cursor = match &target_entry {
                Some(target_entry) => target_entry.cursor,
                None if new_directory.is_none() => source_entry.cursor,
                None => take_cursor(txn)?,
            };
            let replaces_directory = target.as_ref().is_some_and(Inode::is_directory);
            let from = (parent, source_entry.cursor);
            if let (Some(target_entry), Some(mut target)) = (&target_entry, target) {
                let measured = quota::Measured::before(txn, new_parent)?;
                names::removed(txn, &mut target, (new_parent, target_entry.cursor))?;
                orphans::drop_replaced_link(txn, ctx, target)?;
                names::moved(txn, &mut source, from, (new_parent, cursor), Admission::Given)?;
                measured.admit(txn)?;
            } else {
                names::moved(txn, &mut source, from, (new_parent, cursor), Admission::Asked)?;
            }
            directory::remove_entry(txn, &mut old_directory, name, &source_entry, ctx.now);
            move_parent(&mut source, &mut old_directory, new_directory.as_mut())?;
            let to = new_directory.as_mut().unwrap_or(&mut old_directory);
            if let Some(target_entry) = &target_entry {
                directory::remove_entry(txn, to, new_name, target_entry, ctx.now);
            }
            directory::add_entry(txn, to, new_name, &entry_of(&source, cursor), ctx.now);
            if replaces_directory {
                directory::remove_subdirectory(to);
            }
        }
    }
    source.put(txn);
    old_directory.put(txn);
    if let Some(new_directory) = new_directory {
        new_directory.put(txn);
    }
    Ok(OpReply::Renamed {
        ino: source_entry.ino,
        other,
    })
}

fn entry_of(inode: &Inode, cursor: u64) -> Dentry {
    Dentry {
        ino: inode.ino(),
        kind: inode.attr.kind,
        cursor,
    }
}

fn take_cursor(txn: &mut Txn<'_>) -> FsResult<u64> {
    let mut counters = counters::get(txn)?;
    let cursor = counters::take_number(&mut counters)?;
    counters::put(txn, &counters);
    Ok(cursor)
}

/// A directory must not come to be below itself.
fn check_loops(
    txn: &Txn<'_>,
    (parent, source): (Ino, &Dentry),
    (new_parent, target): (Ino, Option<&Dentry>),
    mode: RenameMode,
) -> FsResult<()> {
    let below_itself = || FsError::new(ErrorKind::Invalid, "a directory cannot be moved below itself");
    if source.kind == FileKind::Directory && directory::is_within(txn, source.ino, new_parent)? {
        return Err(below_itself());
    }
    if let Some(target) = target
        && target.kind == FileKind::Directory
        && directory::is_within(txn, target.ino, parent)?
    {
        return Err(match mode {
            RenameMode::Exchange => below_itself(),
            _ => not_empty(),
        });
    }
    Ok(())
}

fn not_empty() -> FsError {
    FsError::new(ErrorKind::NotEmpty, "the directory to replace has entries")
}

fn check_permissions(
    caller: &Caller,
    old_directory: &Inode,
    new_directory: Option<&Inode>,
    source: &Inode,
    target: Option<&Inode>,
    mode: RenameMode,
) -> FsResult<()> {
    let exchange = mode == RenameMode::Exchange;
    directory::check_removes(old_directory, source, caller, source.is_directory())?;
    let to = new_directory.unwrap_or(old_directory);
    match target {
        None => directory::check_adds(to, caller)?,
        Some(target) => {
            let as_directory = if exchange {
                target.is_directory()
            } else {
                source.is_directory()
            };
            directory::check_removes(to, target, caller, as_directory)?;
        }
    }
    // A directory that changes its parent changes its own `..`.
    if new_directory.is_some() {
        let moved_back = target.filter(|_| exchange);
        for inode in [Some(source), moved_back].into_iter().flatten() {
            if inode.is_directory() {
                permission::check(&inode.attr, caller, WRITE)?;
            }
        }
    }
    if !exchange && target.is_some_and(|target| target.is_directory() && target.attr.size > 0) {
        return Err(not_empty());
    }
    Ok(())
}

/// `..` of a directory that moves to another one.
fn move_parent(inode: &mut Inode, from: &mut Inode, to: Option<&mut Inode>) -> FsResult<()> {
    if let Some(to) = to
        && inode.is_directory()
    {
        inode.parent = to.ino();
        directory::remove_subdirectory(from);
        directory::add_subdirectory(to)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
