//! Limits on what may lie below a directory: allocated bytes, and inodes.
//!
//! A quota stands in a record of its own and, copied, in the usage record of its directory: whoever adds to a tree passes every limit
//! that there is above on the way up, and the tightest decides. Only growth is refused. Invariant: names of one inode lie all below a
//! quota's directory or none does ([`check_edge`], and [`set`] refuses what would break it): a tree holds nothing that is counted elsewhere.

use super::inode::Inode;
use super::txn::Txn;
use super::usage::{self, Delta, Usage};
use super::{damaged, dentry, keys};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::limits::{PATH_BYTES_MAX, QUOTAS_MAX};
use dfs_common::{Allowance, ErrorKind, FsError, FsResult, Ino, Quota, QuotaEntry, TreeUsage};
use dfs_proto::v1;
use prost::Message;

/// Names of inodes with several that [`set`] looks at; with more in the cluster it refuses a tree that holds some.
const LINKS_MAX: usize = 1 << 20;
/// Link records, and directory entries, read at once.
const PAGE: usize = 1024;

/// Refuses a change that made `usage` of `directory` grow beyond its limits.
///
/// # Errors
/// `QuotaExceeded`.
pub fn admit(directory: Ino, usage: &Usage, delta: Delta) -> FsResult<()> {
    let inodes = usage.files.saturating_add(usage.directories);
    if let Some(limit) = usage.limit_bytes
        && delta.bytes > 0
        && usage.bytes > limit
    {
        return Err(exceeded(directory, limit, "bytes"));
    }
    if let Some(limit) = usage.limit_inodes
        && delta.files + delta.directories > 0
        && inodes > limit
    {
        return Err(exceeded(directory, limit, "files and directories"));
    }
    Ok(())
}

fn exceeded(directory: Ino, limit: u64, what: &str) -> FsError {
    FsError::new(
        ErrorKind::QuotaExceeded,
        format!(
            "the quota of directory inode {directory} is {limit} {what}: remove something, or ask for more"
        ),
    )
}

/// Refuses growth by `bytes` of an inode without a name, which is counted nowhere, beyond what the tree that it was in has left.
///
/// # Errors
/// `QuotaExceeded`.
pub fn admit_removed(read: &dyn MetaRead, inode: &Inode, bytes: i64) -> FsResult<()> {
    if bytes <= 0 || usage::find(read, inode.parent)?.is_none() {
        return Ok(());
    }
    for (directory, mut usage) in usage::chain(read, inode.parent)? {
        usage.bytes = usage.bytes.saturating_add(inode.attr.allocated_bytes);
        admit(directory, &usage, Delta::bytes(bytes))?;
    }
    Ok(())
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
    match between.iter().flatten().any(|(_, usage)| is_limited(usage)) {
        true => Err(FsError::new(
            ErrorKind::CrossDevice,
            "hard links do not cross the edge of a directory with a quota",
        )),
        false => Ok(()),
    }
}

/// Sets the quota of a directory, in the place of the one that it may have; an empty one is none. What lies there already may be more.
///
/// # Errors
/// `NotDirectory`, `Stale`; `Invalid` if there are too many quotas, or names of one inode below the directory and elsewhere.
pub fn set(txn: &mut Txn<'_>, directory: Ino, quota: Quota) -> FsResult<()> {
    Inode::directory(txn, directory)?;
    let mut usage = usage::find(txn, directory)?
        .ok_or_else(|| FsError::new(ErrorKind::Stale, "the directory was removed"))?;
    let is_new = !is_limited(&usage);
    (usage.limit_bytes, usage.limit_inodes) = (quota.bytes, quota.inodes);
    if quota == Quota::default() {
        txn.delete(keys::quota(directory));
    } else {
        if is_new {
            check_room(txn)?;
            if usage.links > 0 {
                check_links(txn, directory)?;
            }
        }
        let record = v1::StoredQuota {
            bytes: quota.bytes,
            inodes: quota.inodes,
        };
        txn.put(keys::quota(directory), Bytes::from(record.encode_to_vec()));
    }
    txn.put_usage(directory, Some(usage));
    Ok(())
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

/// Names of one inode lie all below `directory`, or none does.
fn check_links(txn: &Txn<'_>, directory: Ino) -> FsResult<()> {
    let invalid = |text: String| Err(FsError::new(ErrorKind::Invalid, text));
    let (mut start, end) = keys::links();
    let mut seen = 0;
    loop {
        let page = txn.scan(&start, &end, PAGE)?;
        for (key, _) in &page {
            let (ino, parent, _) = keys::parse_link(key).ok_or_else(|| damaged("link"))?;
            let home = Inode::get(txn, ino)?.parent;
            if is_below(txn, directory, home)? != is_below(txn, directory, parent)? {
                return invalid(format!(
                    "the file with inode {ino} has names below the directory and elsewhere: remove the ones or the others first"
                ));
            }
        }
        seen += page.len();
        match page.last() {
            Some((last, _)) if page.len() == PAGE && seen < LINKS_MAX => {
                start = Bytes::from([&last[..], b"\0"].concat());
            }
            Some(_) if page.len() == PAGE => {
                return invalid(format!(
                    "there are more than {LINKS_MAX} hard links, and some below the directory: set the quota before they are made"
                ));
            }
            _ => return Ok(()),
        }
    }
}

fn is_below(read: &dyn MetaRead, above: Ino, below: Ino) -> FsResult<bool> {
    let chain = usage::chain(read, below)?;
    Ok(chain.iter().any(|(at, _)| *at == above))
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
            bytes: usage.bytes,
            inodes: usage.files.saturating_add(usage.directories),
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
        tighter(&mut tree.bytes_allowed, usage.limit_bytes, usage.bytes);
        let inodes = usage.files.saturating_add(usage.directories);
        tighter(&mut tree.inodes_allowed, usage.limit_inodes, inodes);
    }
    Ok(tree)
}

#[cfg(test)]
mod tests;
