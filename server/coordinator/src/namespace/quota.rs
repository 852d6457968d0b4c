//! Limits on what may lie below a directory: allocated bytes, and inodes.
//!
//! A quota stands in a record of its own and, copied, in the usage record of its directory: whoever adds to a tree passes every limit
//! that there is above on the way up, and the tightest decides. Only growth is refused. Removed inodes that sessions have open count until the
//! last release, as in local file systems. Invariant: names of one inode lie all below a
//! quota's directory or none does ([`check_edge`], and what would break it gets no quota: [`check_links`]): a tree holds nothing that is counted elsewhere.

use super::inode::Inode;
use super::txn::Txn;
use super::usage::{self, Delta, Usage};
use super::{damaged, dentry, keys};
use crate::store::{MetaRead, MetaStore};
use bytes::Bytes;
use dfs_common::limits::{PATH_BYTES_MAX, QUOTAS_MAX};
use dfs_common::{Allowance, ErrorKind, FsError, FsResult, Ino, Quota, QuotaEntry, TreeUsage};
use dfs_proto::v1;
use prost::Message;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

/// Directories of which [`check_links`] remembers on which side of the edge they are.
const KNOWN_MAX: usize = 1 << 16;
/// Link records, and directory entries, read at once.
const PAGE: usize = 1024;

/// Refuses a change that made `usage` of `directory` grow beyond its limits.
///
/// # Errors
/// `QuotaExceeded`.
pub fn admit(directory: Ino, usage: &Usage, delta: Delta) -> FsResult<()> {
    if let Some(limit) = usage.limit_bytes
        && delta.bytes + delta.held_bytes > 0
        && used_bytes(usage) > limit
    {
        return Err(exceeded(directory, limit, "bytes"));
    }
    if let Some(limit) = usage.limit_inodes
        && delta.files + delta.directories + delta.held_inodes > 0
        && used_inodes(usage) > limit
    {
        return Err(exceeded(directory, limit, "files and directories"));
    }
    Ok(())
}

/// What counted against the quotas above a directory before several changes, which are admitted as one.
pub struct Measured(Vec<(Ino, Usage)>);

impl Measured {
    /// The changes are about to be made.
    ///
    /// # Errors
    /// `Corrupt`.
    pub fn before(read: &dyn MetaRead, directory: Ino) -> FsResult<Self> {
        let mut chain = usage::chain(read, directory)?;
        chain.retain(|(_, usage)| is_limited(usage));
        Ok(Measured(chain))
    }

    /// They have been made.
    ///
    /// # Errors
    /// `QuotaExceeded` if a tree grew beyond its quota on the whole.
    pub fn admit(self, read: &dyn MetaRead) -> FsResult<()> {
        self.0.into_iter().try_for_each(|(directory, before)| {
            let now = usage::get(read, directory)?;
            admit(directory, &now, Delta::tree(&now) - Delta::tree(&before))
        })
    }
}

fn exceeded(directory: Ino, limit: u64, what: &str) -> FsError {
    FsError::new(
        ErrorKind::QuotaExceeded,
        format!(
            "the quota of directory inode {directory} is {limit} {what}: remove something, or ask for more"
        ),
    )
}

/// Bytes that count against a limit: what lies in the tree, and what is held without a name.
fn used_bytes(usage: &Usage) -> u64 {
    usage.bytes.saturating_add(usage.held_bytes)
}

/// Inodes that do.
fn used_inodes(usage: &Usage) -> u64 {
    let named = usage.files.saturating_add(usage.directories);
    named.saturating_add(usage.held_inodes)
}

/// No inode has names on both sides of this directory, or none gets to have them.
pub(super) fn is_edge(usage: &Usage) -> bool {
    is_limited(usage) || usage.closing
}

fn is_limited(usage: &Usage) -> bool {
    usage.limit_bytes.is_some() || usage.limit_inodes.is_some()
}

/// Refuses names of one inode in both directories if a quota lies between them.
///
/// # Errors
/// `CrossDevice`.
pub fn check_edge(read: &dyn MetaRead, a: Ino, b: Ino) -> FsResult<()> {
    let between = usage::apart(read, a, b)?;
    match between.iter().flatten().any(|(_, usage)| is_edge(usage)) {
        true => Err(FsError::new(
            ErrorKind::CrossDevice,
            "hard links do not cross the edge of a directory with a quota",
        )),
        false => Ok(()),
    }
}

fn limitable(txn: &Txn<'_>, directory: Ino) -> FsResult<Usage> {
    Inode::directory(txn, directory)?;
    usage::find(txn, directory)?
        .filter(|usage| !usage.removed)
        .ok_or_else(|| FsError::new(ErrorKind::Stale, "the directory was removed"))
}

/// Closes the edge of a directory that gets a quota: names of one inode do not come to lie on both sides any more. Answers whether some
/// may lie there already ([`check_links`]); if not, nothing is done.
///
/// # Errors
/// `NotDirectory`, `Stale`; `Invalid` if there are too many quotas.
pub fn close_edge(txn: &mut Txn<'_>, directory: Ino) -> FsResult<bool> {
    let mut usage = limitable(txn, directory)?;
    if is_limited(&usage) || usage.links == 0 {
        return Ok(false);
    }
    if !usage.closing {
        check_room(txn)?;
        usage.closing = true;
        put(txn, directory, Quota::default());
        txn.put_usage(directory, Some(usage));
    }
    Ok(true)
}

/// Opens an edge that was closed and did not get a quota. No effect on any other directory.
///
/// # Errors
/// `Corrupt`.
pub fn open_edge(txn: &mut Txn<'_>, directory: Ino) -> FsResult<()> {
    let Some(mut usage) = usage::find(txn, directory)?.filter(|usage| usage.closing) else {
        return Ok(());
    };
    usage.closing = false;
    txn.delete(keys::quota(directory));
    txn.put_usage(directory, Some(usage));
    Ok(())
}

/// Opens all such edges; nobody else writes.
///
/// # Errors
/// `Corrupt`, and those of the store.
pub fn open_edges(store: &dyn MetaStore) -> FsResult<()> {
    let mut txn = Txn::new(store);
    for (directory, quota) in usage::rebuild::quotas(store)? {
        if quota == Quota::default() {
            open_edge(&mut txn, directory)?;
        }
    }
    match txn.is_empty() {
        true => Ok(()),
        false => store.commit(txn.into_batch()),
    }
}

/// Sets the quota of a directory, in the place of the one that it may have; an empty one is none. What lies there already may be more.
/// Where inodes with several names lie, and no quota was, the edge is closed and they have been looked at.
///
/// # Errors
/// `NotDirectory`, `Stale`; `Invalid` if there are too many quotas; `Busy` if the edge is to be closed first.
pub fn set(txn: &mut Txn<'_>, directory: Ino, quota: Quota) -> FsResult<()> {
    let mut usage = limitable(txn, directory)?;
    if quota == Quota::default() {
        txn.delete(keys::quota(directory));
    } else {
        if !is_edge(&usage) {
            check_room(txn)?;
            if usage.links > 0 {
                return Err(FsError::new(
                    ErrorKind::Busy,
                    "hard links were made below the directory meanwhile",
                ));
            }
        }
        put(txn, directory, quota);
    }
    (usage.limit_bytes, usage.limit_inodes) = (quota.bytes, quota.inodes);
    usage.closing = false;
    txn.put_usage(directory, Some(usage));
    Ok(())
}

fn put(txn: &mut Txn<'_>, directory: Ino, quota: Quota) {
    let record = v1::StoredQuota {
        bytes: quota.bytes,
        inodes: quota.inodes,
    };
    txn.put(keys::quota(directory), Bytes::from(record.encode_to_vec()));
}

fn check_room(txn: &Txn<'_>) -> FsResult<()> {
    let (start, end) = keys::quotas();
    match txn.scan(&start, &end, QUOTAS_MAX)?.len() {
        QUOTAS_MAX => Err(FsError::new(
            ErrorKind::Invalid,
            format!("a cluster has at most {QUOTAS_MAX} quotas: clear one first"),
        )),
        _ => Ok(()),
    }
}

/// Proves that the names of each inode lie all below `directory`, or none of them does; `read` is of one moment after the edge was closed. Takes
/// as long as reading all link records does, or until it is `abandoned`.
///
/// # Errors
/// `Invalid` with an inode of which this is not so.
pub fn check_links(read: &dyn MetaRead, directory: Ino, abandoned: &AtomicBool) -> FsResult<()> {
    let mut known: HashMap<Ino, bool> = HashMap::new();
    let mut is_below = |at: Ino| -> FsResult<bool> {
        if let Some(below) = known.get(&at) {
            return Ok(*below);
        }
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        let chain = usage::chain(read, at)?;
        let below = chain.iter().any(|(above, _)| *above == directory);
        known.insert(at, below);
        Ok(below)
    };
    let (mut start, end) = keys::links();
    while !abandoned.load(Ordering::Relaxed) {
        let page = read.scan(&start, &end, PAGE)?;
        for (key, _) in &page {
            let (ino, parent, _) = keys::parse_link(key).ok_or_else(|| damaged("link"))?;
            let home = Inode::get(read, ino)?.parent;
            if is_below(home)? != is_below(parent)? {
                return Err(FsError::new(
                    ErrorKind::Invalid,
                    format!(
                        "the file with inode {ino} has names below the directory and elsewhere: remove the ones or the others first"
                    ),
                ));
            }
        }
        match page.last() {
            Some((last, _)) if page.len() == PAGE => start = Bytes::from([&last[..], b"\0"].concat()),
            _ => return Ok(()),
        }
    }
    Err(FsError::new(
        ErrorKind::Unavailable,
        "nobody waits for it any more",
    ))
}

/// Reads a quota's value.
pub fn decode(value: Bytes) -> FsResult<Quota> {
    let record = v1::StoredQuota::decode(value).map_err(|_| damaged("quota"))?;
    Ok(Quota {
        bytes: record.bytes,
        inodes: record.inodes,
    })
}

/// At most `limit` quotas of directories with numbers above `after`; `read` must be of one moment.
pub fn list(read: &dyn MetaRead, after: Ino, limit: usize) -> FsResult<Vec<QuotaEntry>> {
    let start = keys::quota(Ino(after.0.saturating_add(1)));
    let page = read.scan(&start, &keys::quotas().1, limit)?;
    let entry = |(key, value): (Bytes, Bytes)| {
        let ino = keys::parse_quota(&key).ok_or_else(|| damaged("quota"))?;
        let usage = usage::get(read, ino)?;
        Ok(QuotaEntry {
            ino,
            path: path(read, ino)?,
            quota: decode(value)?,
            bytes: used_bytes(&usage),
            inodes: used_inodes(&usage),
        })
    };
    page.into_iter().map(entry).collect()
}

/// The path of a directory. Looks through the entries of directories above it whose subdirectory was renamed since it was made.
fn path(read: &dyn MetaRead, directory: Ino) -> FsResult<Option<Bytes>> {
    let mut names = Vec::new();
    let mut length = 0;
    for (at, usage) in usage::chain(read, directory)? {
        if at == Ino::ROOT {
            break;
        }
        let Some(name) = name_in(read, Ino(usage.parent), at)? else {
            return Ok(None);
        };
        length += name.len() + 1;
        if length > PATH_BYTES_MAX {
            return Ok(None);
        }
        names.push(name);
    }
    let mut path = Vec::with_capacity(length + 1);
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name);
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Ok(Some(Bytes::from(path)))
}

fn name_in(read: &dyn MetaRead, parent: Ino, child: Ino) -> FsResult<Option<Bytes>> {
    // A new inode's number is its entry's cursor.
    if let Some(value) = read.get(&keys::cursor(parent, child.0))? {
        let (name, ino, _) = dentry::decode_cursor(value)?;
        if ino == child {
            return Ok(Some(name.bytes().clone()));
        }
    }
    let (mut start, end) = keys::cursors_after(parent, 0);
    loop {
        let page = read.scan(&start, &end, PAGE)?;
        let more = page.len() == PAGE;
        if let Some((last, _)) = page.last() {
            start = Bytes::from([&last[..], b"\0"].concat());
        }
        for (_, value) in page {
            let (name, ino, _) = dentry::decode_cursor(value)?;
            if ino == child {
                return Ok(Some(name.bytes().clone()));
            }
        }
        if !more {
            return Ok(None);
        }
    }
}

/// What lies below a directory (of anything else: the inode itself), and the allowances with the least left that it is under.
///
/// # Errors
/// `Stale`.
pub fn tree_usage(read: &dyn MetaRead, ino: Ino) -> FsResult<TreeUsage> {
    let inode = Inode::get(read, ino)?;
    let mut tree = match usage::find(read, ino)? {
        Some(usage) => TreeUsage {
            bytes: usage.bytes,
            files: usage.files,
            directories: usage.directories,
            ..TreeUsage::default()
        },
        None => TreeUsage {
            bytes: inode.attr.allocated_bytes,
            files: u64::from(!inode.is_directory()),
            ..TreeUsage::default()
        },
    };
    let (start, end) = keys::quotas();
    tree.quotas = !read.scan(&start, &end, 1)?.is_empty();
    let lowest = if inode.is_directory() { ino } else { inode.parent };
    if !tree.quotas || usage::find(read, lowest)?.is_none() {
        return Ok(tree);
    }
    for (_, usage) in usage::chain(read, lowest)? {
        let tighter = |best: &mut Option<Allowance>, limit: Option<u64>, used: u64| {
            let found = limit.map(|limit| Allowance { limit, used });
            if let Some(found) = found
                && best.is_none_or(|best| found.left() < best.left())
            {
                *best = Some(found);
            }
        };
        tighter(&mut tree.bytes_allowed, usage.limit_bytes, used_bytes(&usage));
        tighter(&mut tree.inodes_allowed, usage.limit_inodes, used_inodes(&usage));
    }
    Ok(tree)
}

#[cfg(test)]
mod tests;
