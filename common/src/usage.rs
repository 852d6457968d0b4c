//! What lies below a directory, and how much may.

use serde::Serialize;

/// Limits on what lies below a directory; the default is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quota {
    /// Allocated bytes.
    pub bytes: Option<u64>,
    /// Files and directories, the limited directory not among them.
    pub inodes: Option<u64>,
}

/// A limit and what counts against it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Allowance {
    /// At most this.
    pub limit: u64,
    /// So much is there; more than the limit if that was lowered.
    pub used: u64,
}

impl Allowance {
    /// What may still be added.
    pub fn left(&self) -> u64 {
        self.limit.saturating_sub(self.used)
    }
}

/// What lies below a directory, the directory itself not among it; of anything else, the inode itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct TreeUsage {
    /// Allocated bytes (holes and names not counted); of a file with several names only where it is counted.
    pub bytes: u64,
    /// Everything that is not a directory.
    pub files: u64,
    /// Directories.
    pub directories: u64,
    /// Of the quotas on the way up, the one with the fewest bytes left.
    pub bytes_allowed: Option<Allowance>,
    /// Of the quotas on the way up, the one with the fewest inodes left.
    pub inodes_allowed: Option<Allowance>,
    /// Some directory of the cluster has a quota, this one or another.
    #[serde(skip)]
    pub quotas: bool,
    /// The session has a lease on [`crate::Ino::QUOTAS`]: `quotas` and the limits hold until it is recalled.
    #[serde(skip)]
    pub leased: bool,
}

/// A directory's quota and what is used of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaEntry {
    /// Inode of the directory.
    pub ino: crate::Ino,
    /// Its path; `None` if that is longer than a path may be, or changed meanwhile.
    pub path: Option<bytes::Bytes>,
    /// Limits.
    pub quota: Quota,
    /// Allocated bytes below it.
    pub bytes: u64,
    /// Files and directories below it.
    pub inodes: u64,
}
