//! Usage of directory trees: counted anew whenever somebody asks.

use super::state::{Body, State};
use dfs_common::attr::FileKind;
use dfs_common::{FsResult, Ino, TreeUsage};

impl State {
    /// What lies below `ino`; of anything but a directory, itself.
    pub(super) fn usage(&self, ino: Ino) -> FsResult<TreeUsage> {
        let mut usage = TreeUsage::default();
        self.add_allowances(ino, &mut usage)?;
        if self.inode(ino)?.attr.kind != FileKind::Directory {
            usage.bytes = self.attr(ino)?.allocated_bytes;
            usage.files = 1;
            return Ok(usage);
        }
        let mut below = vec![ino];
        while let Some(directory) = below.pop() {
            for (child, _) in self.entries(directory)?.values() {
                if self.inode(*child)?.attr.kind == FileKind::Directory {
                    usage.directories += 1;
                    below.push(*child);
                }
            }
            for (counted, inode) in &self.inodes {
                let is_file = !matches!(inode.body, Body::Directory { .. });
                if is_file && inode.attr.nlink > 0 && inode.home == directory {
                    usage.bytes += self.attr(*counted)?.allocated_bytes;
                    usage.files += 1;
                }
            }
        }
        Ok(usage)
    }

    /// `ino` lost its name in `parent`: if that was where it is counted and no other name is there, it is counted by another.
    pub(super) fn leave_home(&mut self, ino: Ino, parent: Ino) -> FsResult<()> {
        let holds = |inode: &super::state::Inode| match &inode.body {
            Body::Directory { entries, .. } => entries.values().any(|(child, _)| *child == ino),
            _ => false,
        };
        if self.inode(ino)?.home != parent || holds(self.inode(parent)?) {
            return Ok(());
        }
        let other = self
            .inodes
            .iter()
            .find(|(_, inode)| holds(inode))
            .map(|(at, _)| *at);
        if let Some(other) = other {
            self.inode_mut(ino)?.home = other;
        }
        Ok(())
    }
}
