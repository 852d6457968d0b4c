//! Changes of usage, by which records are counted up and down.

use super::Usage;
use std::ops::{Add, Neg, Sub};

/// A change of usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Allocated bytes.
    pub bytes: i64,
    /// Inodes that are not directories.
    pub files: i64,
    /// Directories.
    pub directories: i64,
    /// Names of inodes that have several.
    pub links: i64,
    /// Allocated bytes of inodes without a name.
    pub held_bytes: i64,
    /// Inodes without a name.
    pub held_inodes: i64,
}

impl Delta {
    /// A file without content, or with `bytes` of it.
    pub fn file(bytes: u64) -> Self {
        Delta {
            bytes: signed(bytes),
            files: 1,
            ..Delta::default()
        }
    }

    /// A directory and what lies below it.
    pub fn tree(usage: &Usage) -> Self {
        let directory = Delta {
            directories: 1,
            ..Delta::default()
        };
        Delta::of(usage) + directory
    }

    /// What a record counts.
    pub fn of(usage: &Usage) -> Self {
        Delta {
            bytes: signed(usage.bytes),
            files: signed(usage.files),
            directories: signed(usage.directories),
            links: signed(usage.links),
            held_bytes: signed(usage.held_bytes),
            held_inodes: signed(usage.held_inodes),
        }
    }

    /// An inode that is held without a name, with `bytes` of content.
    pub fn held(bytes: u64) -> Self {
        Delta {
            held_bytes: signed(bytes),
            held_inodes: 1,
            ..Delta::default()
        }
    }

    /// Bytes of such an inode.
    pub(super) fn held_bytes(held_bytes: i64) -> Self {
        Delta {
            held_bytes,
            ..Delta::default()
        }
    }

    /// The part of it that is growth.
    pub fn rising(&self) -> Self {
        Delta {
            bytes: self.bytes.max(0),
            files: self.files.max(0),
            directories: self.directories.max(0),
            links: self.links.max(0),
            held_bytes: self.held_bytes.max(0),
            held_inodes: self.held_inodes.max(0),
        }
    }

    /// Bytes only.
    pub fn bytes(bytes: i64) -> Self {
        Delta {
            bytes,
            ..Delta::default()
        }
    }

    /// Names of inodes that have several.
    pub fn links(links: i64) -> Self {
        Delta {
            links,
            ..Delta::default()
        }
    }
}

/// What clusters hold is far below the largest signed number; a count that is not is caught as a damaged one.
pub(super) fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Neg for Delta {
    type Output = Delta;
    fn neg(self) -> Delta {
        Delta::default() - self
    }
}
impl Add for Delta {
    type Output = Delta;
    fn add(self, other: Delta) -> Delta {
        Delta {
            bytes: self.bytes + other.bytes,
            files: self.files + other.files,
            directories: self.directories + other.directories,
            links: self.links + other.links,
            held_bytes: self.held_bytes + other.held_bytes,
            held_inodes: self.held_inodes + other.held_inodes,
        }
    }
}
impl Sub for Delta {
    type Output = Delta;
    fn sub(self, other: Delta) -> Delta {
        Delta {
            bytes: self.bytes - other.bytes,
            files: self.files - other.files,
            directories: self.directories - other.directories,
            links: self.links - other.links,
            held_bytes: self.held_bytes - other.held_bytes,
            held_inodes: self.held_inodes - other.held_inodes,
        }
    }
}
