//! Which leases an operation takes away: as far as can be told before it is applied, and as its reply says.

use crate::namespace::read;
use crate::store::MetaRead;
use dfs_common::lease::Lease;
use dfs_common::op::{MutationBatch, OpReply, OpResult, Operation};
use dfs_common::{FsResult, Ino, Name};
use std::collections::BTreeSet;

/// What a change of an inode takes away: whoever buffers writes of it saves them first, so that what is changed, and answered, is what was
/// acknowledged.
fn inode(leases: &mut BTreeSet<Lease>, ino: Ino) {
    leases.extend([Lease::attributes(ino), Lease::buffer(ino)]);
}

/// Leases that a batch takes away if names still mean then what they mean now.
pub(super) fn predicted(store: &dyn MetaRead, batch: &MutationBatch) -> FsResult<BTreeSet<Lease>> {
    let mut leases = BTreeSet::new();
    let child = |leases: &mut BTreeSet<Lease>, parent: Ino, name: &Name| -> FsResult<()> {
        inode(leases, parent);
        if let Some(ino) = read::resolve(store, parent, name)? {
            inode(leases, ino);
        }
        Ok(())
    };
    for numbered in &batch.ops {
        match &numbered.op {
            Operation::Mkdir { parent, .. }
            | Operation::Mknod { parent, .. }
            | Operation::Create { parent, .. }
            | Operation::Symlink { parent, .. } => inode(&mut leases, *parent),
            Operation::Link { ino, parent, .. } => {
                inode(&mut leases, *ino);
                inode(&mut leases, *parent);
            }
            Operation::Unlink { parent, name } | Operation::Rmdir { parent, name } => {
                child(&mut leases, *parent, name)?;
            }
            Operation::Rename {
                parent,
                name,
                new_parent,
                new_name,
                ..
            } => {
                child(&mut leases, *parent, name)?;
                child(&mut leases, *new_parent, new_name)?;
            }
            Operation::Setattr { ino, set, .. } => {
                inode(&mut leases, *ino);
                if set.size.is_some() {
                    leases.insert(Lease::content(*ino));
                }
            }
            Operation::Setxattr { ino, .. } | Operation::Removexattr { ino, .. } => {
                inode(&mut leases, *ino);
            }
            Operation::CommitWrite(commit) => {
                inode(&mut leases, commit.ino);
                leases.insert(Lease::content(commit.ino));
            }
            Operation::GrantChunks { .. } => {}
        }
    }
    Ok(leases)
}

/// What replies name as changed: what [`predicted`] may have missed.
pub(super) fn really(results: &[OpResult]) -> BTreeSet<Lease> {
    let mut leases = BTreeSet::new();
    for reply in results.iter().flatten() {
        match reply {
            OpReply::Entry(entry)
            | OpReply::Created {
                entry,
                existed: false,
            } => inode(&mut leases, entry.attr.ino),
            // It was opened: nobody buffers its writes any more.
            OpReply::Created { entry, existed: true } => {
                leases.insert(Lease::buffer(entry.attr.ino));
            }
            OpReply::Chunks(_) => {}
            OpReply::Removed { ino, .. } => inode(&mut leases, *ino),
            OpReply::Renamed { ino, other } => {
                inode(&mut leases, *ino);
                if let Some(other) = other {
                    inode(&mut leases, *other);
                }
            }
            OpReply::Attr(attr) | OpReply::Committed { attr, .. } => inode(&mut leases, attr.ino),
        }
    }
    leases
}
