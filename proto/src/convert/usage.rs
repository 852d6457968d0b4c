//! Usage of directory trees and quotas. Every number is possible; paths are bounded.

use super::{at_most, invalid};
use crate::v1;
use dfs_common::limits::{PATH_BYTES_MAX, QUOTAS_PAGE_MAX};
use dfs_common::{Allowance, FsResult, Ino, Quota, QuotaEntry, TreeUsage};

/// Usage of a tree in its wire form.
pub fn tree_usage_to_wire(usage: &TreeUsage) -> v1::TreeUsage {
    let allowance = |allowance: Allowance| v1::Allowance {
        limit: allowance.limit,
        used: allowance.used,
    };
    v1::TreeUsage {
        bytes: usage.bytes,
        files: usage.files,
        directories: usage.directories,
        bytes_allowed: usage.bytes_allowed.map(allowance),
        inodes_allowed: usage.inodes_allowed.map(allowance),
        quotas: usage.quotas,
        leased: usage.leased,
    }
}

/// Usage of a tree from the wire. Never fails.
pub fn tree_usage_from_wire(usage: v1::TreeUsage) -> FsResult<TreeUsage> {
    let allowance = |allowance: v1::Allowance| Allowance {
        limit: allowance.limit,
        used: allowance.used,
    };
    Ok(TreeUsage {
        bytes: usage.bytes,
        files: usage.files,
        directories: usage.directories,
        bytes_allowed: usage.bytes_allowed.map(allowance),
        inodes_allowed: usage.inodes_allowed.map(allowance),
        quotas: usage.quotas,
        leased: usage.leased,
    })
}

/// A quota's wire form.
pub fn quota_to_wire(quota: &Quota) -> v1::Quota {
    v1::Quota {
        bytes: quota.bytes,
        inodes: quota.inodes,
    }
}

/// A quota from the wire; absent is none. Never fails.
pub fn quota_from_wire(quota: Option<v1::Quota>) -> Quota {
    let quota = quota.unwrap_or_default();
    Quota {
        bytes: quota.bytes,
        inodes: quota.inodes,
    }
}

/// A directory's quota in its wire form.
pub fn quota_entry_to_wire(entry: &QuotaEntry) -> v1::QuotaEntry {
    v1::QuotaEntry {
        ino: entry.ino.0,
        path: entry.path.clone(),
        quota: Some(quota_to_wire(&entry.quota)),
        used_bytes: entry.bytes,
        used_inodes: entry.inodes,
    }
}

/// A directory's quota from the wire.
///
/// # Errors
/// `Invalid` if its path is too long.
pub fn quota_entry_from_wire(entry: v1::QuotaEntry) -> FsResult<QuotaEntry> {
    if entry
        .path
        .as_ref()
        .is_some_and(|path| path.len() > PATH_BYTES_MAX)
    {
        return Err(invalid(format!("a path has at most {PATH_BYTES_MAX} bytes")));
    }
    Ok(QuotaEntry {
        ino: Ino(entry.ino),
        path: entry.path,
        quota: quota_from_wire(entry.quota),
        bytes: entry.used_bytes,
        inodes: entry.used_inodes,
    })
}

/// A page of quotas from the wire.
///
/// # Errors
/// `Invalid` if there are too many, or one is.
pub fn quotas_from_wire(reply: v1::ListQuotasReply) -> FsResult<Vec<QuotaEntry>> {
    at_most(reply.entries.len(), QUOTAS_PAGE_MAX, "quotas")?;
    reply.entries.into_iter().map(quota_entry_from_wire).collect()
}
