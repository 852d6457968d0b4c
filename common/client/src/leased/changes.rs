//! What a mutation of our own changes of what is cached: before it is sent, and as its reply says.

use super::cache::{LeasedCache, Outcome, OwnChange};
use dfs_common::op::{OpReply, OpResult, Operation};
use dfs_common::{Attr, Ino, Name};
use std::sync::Arc;

/// What an operation may change: inodes, names, and whether permission bits or owners may be among it.
fn scope(op: &Operation) -> (Vec<Ino>, Vec<(Ino, &Name)>, bool) {
    match op {
        Operation::Mkdir { parent, name, .. }
        | Operation::Mknod { parent, name, .. }
        | Operation::Create { parent, name, .. }
        | Operation::Symlink { parent, name, .. }
        | Operation::Unlink { parent, name }
        | Operation::Rmdir { parent, name } => (vec![*parent], vec![(*parent, name)], false),
        Operation::Link { ino, parent, name } => (vec![*ino, *parent], vec![(*parent, name)], false),
        Operation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            ..
        } => {
            let mut inos = vec![*parent];
            if new_parent != parent {
                inos.push(*new_parent);
            }
            (inos, vec![(*parent, name), (*new_parent, new_name)], false)
        }
        Operation::Setattr { ino, .. }
        | Operation::Setxattr { ino, .. }
        | Operation::Removexattr { ino, .. } => (vec![*ino], Vec::new(), true),
        Operation::CommitWrite(commit) => (vec![commit.ino], Vec::new(), true),
        Operation::GrantChunks { .. } => (Vec::new(), Vec::new(), false),
    }
}

/// The inodes that `op` changed, as its reply tells: directories, and what the names were or are of.
pub(crate) fn changed_inos(op: &Operation, reply: &OpReply) -> Vec<Ino> {
    let (mut inos, _, _) = scope(op);
    match reply {
        OpReply::Entry(entry) | OpReply::Created { entry, .. } => inos.push(entry.attr.ino),
        OpReply::Removed { ino, .. } => inos.push(*ino),
        OpReply::Renamed { ino, other } => inos.extend(other.iter().chain([ino])),
        OpReply::Attr(_) | OpReply::Committed { .. } | OpReply::Chunks(_) => {}
    }
    inos
}

impl LeasedCache {
    /// `op` is about to be sent.
    pub(crate) fn begin(self: &Arc<Self>, op: &Operation) -> OwnChange {
        let (inos, names, access) = scope(op);
        self.begin_change(&inos, &names, access)
    }
}

impl OwnChange {
    /// `op` was answered; the answer came with `leased`.
    pub(crate) fn answered(self, op: &Operation, result: &OpResult, leased: &[Attr]) {
        let Ok(reply) = result else {
            return self.finish(Outcome::default());
        };
        let mut outcome = Outcome {
            leased,
            ..Outcome::default()
        };
        match reply {
            OpReply::Entry(entry) => {
                outcome.names = vec![Some(entry.attr.ino)];
                if let Operation::Mkdir { .. } = op {
                    outcome.new_directory = Some(entry.attr.ino);
                }
            }
            OpReply::Created { entry, .. } => {
                outcome.names = vec![Some(entry.attr.ino)];
            }
            OpReply::Removed { ino, .. } => {
                outcome.names = vec![None];
                outcome.changed = vec![*ino];
            }
            OpReply::Renamed { ino, other } => {
                let exchange = matches!(
                    op,
                    Operation::Rename {
                        mode: dfs_common::op::RenameMode::Exchange,
                        ..
                    }
                );
                // Two names of one file both stay.
                let unchanged = *other == Some(*ino);
                outcome.names = vec![other.filter(|_| exchange || unchanged), Some(*ino)];
                outcome.changed = other.iter().chain([ino]).copied().collect();
            }
            OpReply::Attr(_) | OpReply::Committed { .. } | OpReply::Chunks(_) => {}
        }
        self.finish(outcome);
    }
}
