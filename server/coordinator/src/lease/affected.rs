//! Which inodes an operation changes: as far as can be told before it is applied, and as its reply says.

use crate::namespace::read;
use crate::store::MetaRead;
use dfs_common::op::{MutationBatch, OpReply, OpResult, Operation};
use dfs_common::{FsResult, Ino, Name};
use std::collections::BTreeSet;

/// Inodes that a batch will change if names still mean then what they mean now.
pub(super) fn predicted(store: &dyn MetaRead, batch: &MutationBatch) -> FsResult<BTreeSet<Ino>> {
    let mut inos = BTreeSet::new();
    let child = |inos: &mut BTreeSet<Ino>, parent: Ino, name: &Name| -> FsResult<()> {
        inos.insert(parent);
        inos.extend(read::resolve(store, parent, name)?);
        Ok(())
    };
    for numbered in &batch.ops {
        match &numbered.op {
            Operation::Mkdir { parent, .. }
            | Operation::Mknod { parent, .. }
            | Operation::Create { parent, .. }
            | Operation::Symlink { parent, .. } => {
                inos.insert(*parent);
            }
            Operation::Link { ino, parent, .. } => inos.extend([*ino, *parent]),
            Operation::Unlink { parent, name } | Operation::Rmdir { parent, name } => {
                child(&mut inos, *parent, name)?;
            }
            Operation::Rename {
                parent,
                name,
                new_parent,
                new_name,
                ..
            } => {
                child(&mut inos, *parent, name)?;
                child(&mut inos, *new_parent, new_name)?;
            }
            Operation::Setattr { ino, .. }
            | Operation::Setxattr { ino, .. }
            | Operation::Removexattr { ino, .. } => {
                inos.insert(*ino);
            }
            Operation::CommitWrite(commit) => {
                inos.insert(commit.ino);
            }
            Operation::GrantChunks { .. } => {}
        }
    }
    Ok(inos)
}

/// Inodes that replies name as changed: what [`predicted`] may have missed.
pub(super) fn really(results: &[OpResult]) -> BTreeSet<Ino> {
    let mut inos = BTreeSet::new();
    for reply in results.iter().flatten() {
        match reply {
            OpReply::Entry(entry)
            | OpReply::Created {
                entry,
                existed: false,
            } => {
                inos.insert(entry.attr.ino);
            }
            OpReply::Created { existed: true, .. } | OpReply::Chunks(_) => {}
            OpReply::Removed { ino, .. } => {
                inos.insert(*ino);
            }
            OpReply::Renamed { ino, other } => {
                inos.insert(*ino);
                inos.extend(*other);
            }
            OpReply::Attr(attr) | OpReply::Committed { attr, .. } => {
                inos.insert(attr.ino);
            }
        }
    }
    inos
}
