//! Names of inodes that are not directories, and by which of them an inode is counted.
//!
//! An inode is counted once, in the directory of its *home* name: the first one, as long as it is there. `Inode::parent` says
//! which directory that is; every further name has a link record under (inode, directory, cursor), so a name without one is the home.
//! When the home goes, the name with the first record takes its place. A directory's usage says how many names of such inodes
//! lie in its tree: names of one inode never lie on both sides of a quota's edge, or a tree's content could grow without being
//! counted there ([`super::quota`]).

use super::inode::Inode;
use super::txn::Txn;
use super::usage::{self, Admission, Delta, Usage};
use super::{damaged, keys, quota};
use bytes::Bytes;
use dfs_common::{FsResult, Ino};

/// A place of a name: its directory and cursor.
pub type Place = (Ino, u64);

/// An inode got its first name, in `parent`.
///
/// # Errors
/// `QuotaExceeded`.
pub fn made(txn: &mut Txn<'_>, inode: &Inode, parent: Ino) -> FsResult<()> {
    match inode.is_directory() {
        true => usage::directory_made(txn, parent, inode.ino()),
        false => usage::charge(txn, parent, Delta::file(0)),
    }
}

/// `inode`, which does not count the new name yet, gets one more.
///
/// # Errors
/// `CrossDevice` if its names would lie on both sides of a quota's edge.
pub fn added(txn: &mut Txn<'_>, inode: &Inode, (parent, cursor): Place) -> FsResult<()> {
    quota::check_edge(txn, inode.parent, parent)?;
    txn.put(keys::link(inode.ino(), parent, cursor), Bytes::new());
    if inode.attr.nlink == 1 {
        usage::charge(txn, inode.parent, Delta::links(1))?;
    }
    usage::charge(txn, parent, Delta::links(1))
}

/// `inode`, which still counts the name, loses it.
pub fn removed(txn: &mut Txn<'_>, inode: &mut Inode, (parent, cursor): Place) -> FsResult<()> {
    if inode.is_directory() {
        return usage::directory_removed(txn, parent, inode.ino());
    }
    let counted = Delta::file(inode.attr.allocated_bytes);
    if inode.attr.nlink <= 1 {
        return usage::charge(txn, inode.parent, -counted);
    }
    usage::charge(txn, parent, Delta::links(-1))?;
    let further = keys::link(inode.ino(), parent, cursor);
    if txn.get(&further)?.is_some() {
        txn.delete(further);
    } else {
        let (start, end) = keys::links_of(inode.ino());
        let first = txn.scan(&start, &end, 1)?.pop();
        let (key, _) = first.ok_or_else(|| damaged("link"))?;
        let (_, home, _) = keys::parse_link(&key).ok_or_else(|| damaged("link"))?;
        txn.delete(key);
        usage::shift(txn, inode.parent, home, counted, Admission::Asked)?;
        inode.parent = home;
    }
    match inode.attr.nlink {
        2 => usage::charge(txn, inode.parent, Delta::links(-1)),
        _ => Ok(()),
    }
}

/// A name of `inode` moved from one place to another.
///
/// # Errors
/// `QuotaExceeded`; `CrossDevice` as [`added`], also for a directory with names of such inodes in it.
pub fn moved(
    txn: &mut Txn<'_>,
    inode: &mut Inode,
    from: Place,
    to: Place,
    admission: Admission,
) -> FsResult<()> {
    let moving = carry(txn, inode, from, to)?;
    usage::shift(txn, from.0, to.0, moving, admission)
}

/// Two names changed places.
///
/// # Errors
/// As [`moved`], for what a tree gains on the whole.
pub fn exchanged(
    txn: &mut Txn<'_>,
    (a, from): (&mut Inode, Place),
    (b, to): (&mut Inode, Place),
) -> FsResult<()> {
    let there = carry(txn, a, from, to)?;
    let back = carry(txn, b, to, from)?;
    usage::shift(txn, from.0, to.0, there - back, Admission::Asked)
}

/// Moves the records of a name, and answers what is counted elsewhere from now on.
fn carry(txn: &mut Txn<'_>, inode: &mut Inode, from: Place, to: Place) -> FsResult<Delta> {
    if inode.is_directory() {
        let usage = usage::get(txn, inode.ino())?;
        if usage.links > 0 {
            quota::check_edge(txn, from.0, to.0)?;
        }
        let moving = Delta::tree(&usage);
        if from.0 != to.0 {
            let parent = to.0.0;
            txn.put_usage(inode.ino(), Some(Usage { parent, ..usage }));
        }
        return Ok(moving);
    }
    let counted = Delta::file(inode.attr.allocated_bytes);
    if inode.attr.nlink <= 1 {
        inode.parent = to.0;
        return Ok(counted);
    }
    quota::check_edge(txn, from.0, to.0)?;
    let further = keys::link(inode.ino(), from.0, from.1);
    if txn.get(&further)?.is_none() {
        inode.parent = to.0;
        return Ok(counted + Delta::links(1));
    }
    txn.delete(further);
    txn.put(keys::link(inode.ino(), to.0, to.1), Bytes::new());
    Ok(Delta::links(1))
}
