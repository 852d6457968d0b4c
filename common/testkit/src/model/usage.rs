//! What lies below a directory, counted anew. Which of several names a file is counted by is the file system's choice, so that
//! only bounds are known for a tree that has some of a file's names.

use super::{Body, Model};
use crate::call::FsPath;
use dfs_common::session::Caller;
use std::collections::HashMap;

/// Usage of a tree, each between what must and what may be counted in it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of content, holes not counted.
    pub bytes: (u64, u64),
    /// Everything but directories.
    pub files: (u64, u64),
    /// Directories.
    pub directories: u64,
}

impl Usage {
    /// True if a file system may say this.
    pub fn allows(&self, (bytes, files, directories): (u64, u64, u64)) -> bool {
        (self.bytes.0..=self.bytes.1).contains(&bytes)
            && (self.files.0..=self.files.1).contains(&files)
            && self.directories == directories
    }
}

impl Model {
    /// What lies below a directory, the directory itself not among it.
    pub fn usage(&self, path: &FsPath) -> Usage {
        let mut usage = Usage::default();
        let Ok(directory) = self.resolve(&Caller::root(), path) else {
            return usage;
        };
        let mut names: HashMap<u64, u32> = HashMap::new();
        let mut below = vec![directory];
        while let Some(at) = below.pop() {
            for ino in self.entries(at).into_iter().flatten().map(|(_, ino)| *ino) {
                match &self.inode(ino).body {
                    Body::Directory { .. } => {
                        usage.directories += 1;
                        below.push(ino);
                    }
                    _ => *names.entry(ino).or_default() += 1,
                }
            }
        }
        for (ino, count) in names {
            let inode = self.inode(ino);
            let bytes = match &inode.body {
                Body::File(content) => content.allocated(),
                _ => 0,
            };
            let all = u64::from(count == inode.nlink);
            usage.bytes = (usage.bytes.0 + all * bytes, usage.bytes.1 + bytes);
            usage.files = (usage.files.0 + all, usage.files.1 + 1);
        }
        usage
    }
}
