//! Operations and batches of them.

use super::inode::{file_kind, required_time};
use super::{
    at_most, caller_to_wire, committed_chunk_from_wire, committed_chunk_to_wire, extent_from_wire,
    extent_to_wire, invalid, required, required_caller, symlink_target, timestamp_from_wire,
    timestamp_to_wire, xattr_name, xattr_value,
};
use crate::v1;
use crate::v1::numbered_op::Op;
use dfs_common::limits::{BATCH_OPS_MAX, COMMIT_EXTENTS_MAX, FILE_BYTES_MAX, GRANT_CHUNKS_MAX};
use dfs_common::op::{CommitWrite, MutationBatch, NumberedOp, Operation, RenameMode, XattrMode};
use dfs_common::{FsResult, Ino, Name, OpNumber, SetAttr, SetTime};

fn rename_code(mode: RenameMode) -> u32 {
    match mode {
        RenameMode::Replace => 1,
        RenameMode::NoReplace => 2,
        RenameMode::Exchange => 3,
    }
}

fn rename_mode(code: u32) -> FsResult<RenameMode> {
    Ok(match code {
        1 => RenameMode::Replace,
        2 => RenameMode::NoReplace,
        3 => RenameMode::Exchange,
        _ => return Err(invalid(format!("unknown mode of rename {code}"))),
    })
}

fn xattr_code(mode: XattrMode) -> u32 {
    match mode {
        XattrMode::Set => 1,
        XattrMode::Create => 2,
        XattrMode::Replace => 3,
    }
}

fn xattr_mode(code: u32) -> FsResult<XattrMode> {
    Ok(match code {
        1 => XattrMode::Set,
        2 => XattrMode::Create,
        3 => XattrMode::Replace,
        _ => return Err(invalid(format!("unknown mode of setxattr {code}"))),
    })
}

fn set_time_to_wire(time: &SetTime) -> v1::SetTime {
    v1::SetTime {
        time: Some(match time {
            SetTime::Now => v1::set_time::Time::Now(v1::Empty {}),
            SetTime::At(at) => v1::set_time::Time::At(timestamp_to_wire(at)),
        }),
    }
}

fn set_time_from_wire(time: v1::SetTime) -> FsResult<SetTime> {
    Ok(match required(time.time, "time to set")? {
        v1::set_time::Time::Now(_) => SetTime::Now,
        v1::set_time::Time::At(at) => SetTime::At(timestamp_from_wire(at)?),
    })
}

fn setattr_to_wire(ino: Ino, set: &SetAttr, by_handle: bool) -> v1::Setattr {
    v1::Setattr {
        ino: ino.0,
        mode: set.mode,
        uid: set.uid,
        gid: set.gid,
        size: set.size,
        atime: set.atime.as_ref().map(set_time_to_wire),
        mtime: set.mtime.as_ref().map(set_time_to_wire),
        by_handle,
    }
}

fn setattr_from_wire(op: v1::Setattr) -> FsResult<Operation> {
    if op.size.is_some_and(|size| size > FILE_BYTES_MAX) {
        return Err(invalid("a size is above the largest file"));
    }
    Ok(Operation::Setattr {
        ino: Ino(op.ino),
        set: SetAttr {
            mode: op.mode,
            uid: op.uid,
            gid: op.gid,
            size: op.size,
            atime: op.atime.map(set_time_from_wire).transpose()?,
            mtime: op.mtime.map(set_time_from_wire).transpose()?,
        },
        by_handle: op.by_handle,
    })
}

fn commit_write_to_wire(commit: &CommitWrite) -> v1::CommitWrite {
    v1::CommitWrite {
        ino: commit.ino.0,
        extents: commit.extents.iter().map(extent_to_wire).collect(),
        chunks: commit.chunks.iter().map(committed_chunk_to_wire).collect(),
        append: commit.append,
        mtime: Some(timestamp_to_wire(&commit.mtime)),
        clear_setid: commit.clear_setid,
    }
}

fn commit_write_from_wire(commit: v1::CommitWrite) -> FsResult<CommitWrite> {
    at_most(commit.extents.len(), COMMIT_EXTENTS_MAX, "extents of a commit")?;
    at_most(commit.chunks.len(), COMMIT_EXTENTS_MAX, "chunks of a commit")?;
    Ok(CommitWrite {
        ino: Ino(commit.ino),
        extents: commit
            .extents
            .into_iter()
            .map(extent_from_wire)
            .collect::<FsResult<_>>()?,
        chunks: commit
            .chunks
            .into_iter()
            .map(committed_chunk_from_wire)
            .collect::<FsResult<_>>()?,
        append: commit.append,
        mtime: required_time(commit.mtime)?,
        clear_setid: commit.clear_setid,
    })
}

/// An operation's wire form.
pub fn operation_to_wire(operation: &Operation) -> Op {
    match operation {
        Operation::Mkdir { parent, name, mode } => Op::Mkdir(v1::Mkdir {
            parent: parent.0,
            name: name.bytes().clone(),
            mode: *mode,
        }),
        Operation::Mknod {
            parent,
            name,
            kind,
            mode,
            rdev,
        } => Op::Mknod(v1::Mknod {
            parent: parent.0,
            name: name.bytes().clone(),
            kind: kind.code(),
            mode: *mode,
            rdev: *rdev,
        }),
        Operation::Create {
            parent,
            name,
            mode,
            exclusive,
            read,
            write,
        } => Op::Create(v1::Create {
            parent: parent.0,
            name: name.bytes().clone(),
            mode: *mode,
            exclusive: *exclusive,
            read: *read,
            write: *write,
        }),
        Operation::Symlink { parent, name, target } => Op::Symlink(v1::Symlink {
            parent: parent.0,
            name: name.bytes().clone(),
            target: target.clone(),
        }),
        Operation::Link { ino, parent, name } => Op::Link(v1::Link {
            ino: ino.0,
            parent: parent.0,
            name: name.bytes().clone(),
        }),
        Operation::Unlink { parent, name } => Op::Unlink(v1::Unlink {
            parent: parent.0,
            name: name.bytes().clone(),
        }),
        Operation::Rmdir { parent, name } => Op::Rmdir(v1::Rmdir {
            parent: parent.0,
            name: name.bytes().clone(),
        }),
        Operation::Rename {
            parent,
            name,
            new_parent,
            new_name,
            mode,
        } => Op::Rename(v1::Rename {
            parent: parent.0,
            name: name.bytes().clone(),
            new_parent: new_parent.0,
            new_name: new_name.bytes().clone(),
            mode: rename_code(*mode),
        }),
        Operation::Setattr { ino, set, by_handle } => Op::Setattr(setattr_to_wire(*ino, set, *by_handle)),
        Operation::Setxattr {
            ino,
            name,
            value,
            mode,
        } => Op::Setxattr(v1::Setxattr {
            ino: ino.0,
            name: name.clone(),
            value: value.clone(),
            mode: xattr_code(*mode),
        }),
        Operation::Removexattr { ino, name } => Op::Removexattr(v1::Removexattr {
            ino: ino.0,
            name: name.clone(),
        }),
        Operation::GrantChunks { count } => Op::GrantChunks(v1::GrantChunks { count: *count }),
        Operation::CommitWrite(commit) => Op::CommitWrite(commit_write_to_wire(commit)),
    }
}

/// An operation from the wire.
///
/// # Errors
/// `Invalid` (and `NameTooLong` for a name): anything malformed, unknown or above its limit.
pub fn operation_from_wire(op: Op) -> FsResult<Operation> {
    Ok(match op {
        Op::Mkdir(op) => Operation::Mkdir {
            parent: Ino(op.parent),
            name: Name::new(op.name)?,
            mode: op.mode,
        },
        Op::Mknod(op) => Operation::Mknod {
            parent: Ino(op.parent),
            name: Name::new(op.name)?,
            kind: file_kind(op.kind)?,
            mode: op.mode,
            rdev: op.rdev,
        },
        Op::Create(op) => Operation::Create {
            parent: Ino(op.parent),
            name: Name::new(op.name)?,
            mode: op.mode,
            exclusive: op.exclusive,
            read: op.read,
            write: op.write,
        },
        Op::Symlink(op) => Operation::Symlink {
            parent: Ino(op.parent),
            name: Name::new(op.name)?,
            target: symlink_target(op.target)?,
        },
        Op::Link(op) => Operation::Link {
            ino: Ino(op.ino),
            parent: Ino(op.parent),
            name: Name::new(op.name)?,
        },
        Op::Unlink(op) => Operation::Unlink {
            parent: Ino(op.parent),
            name: Name::new(op.name)?,
        },
        Op::Rmdir(op) => Operation::Rmdir {
            parent: Ino(op.parent),
            name: Name::new(op.name)?,
        },
        Op::Rename(op) => Operation::Rename {
            parent: Ino(op.parent),
            name: Name::new(op.name)?,
            new_parent: Ino(op.new_parent),
            new_name: Name::new(op.new_name)?,
            mode: rename_mode(op.mode)?,
        },
        Op::Setattr(op) => setattr_from_wire(op)?,
        Op::Setxattr(op) => Operation::Setxattr {
            ino: Ino(op.ino),
            name: xattr_name(op.name)?,
            value: xattr_value(op.value)?,
            mode: xattr_mode(op.mode)?,
        },
        Op::Removexattr(op) => Operation::Removexattr {
            ino: Ino(op.ino),
            name: xattr_name(op.name)?,
        },
        Op::GrantChunks(op) if op.count == 0 || op.count > GRANT_CHUNKS_MAX => {
            return Err(invalid(format!(
                "ask for 1 to {GRANT_CHUNKS_MAX} chunks at once, not {}",
                op.count
            )));
        }
        Op::GrantChunks(op) => Operation::GrantChunks { count: op.count },
        Op::CommitWrite(op) => Operation::CommitWrite(commit_write_from_wire(op)?),
    })
}

/// A numbered operation's wire form.
pub fn numbered_op_to_wire(op: &NumberedOp) -> v1::NumberedOp {
    v1::NumberedOp {
        number: op.number.0,
        caller: Some(caller_to_wire(&op.caller)),
        op: Some(operation_to_wire(&op.op)),
    }
}

/// A numbered operation from the wire.
///
/// # Errors
/// `Invalid` without a caller or an operation (one of a newer release, for example), and as [`operation_from_wire`].
pub fn numbered_op_from_wire(op: v1::NumberedOp) -> FsResult<NumberedOp> {
    Ok(NumberedOp {
        number: OpNumber(op.number),
        caller: required_caller(op.caller)?,
        op: operation_from_wire(required(op.op, "operation, or it is unknown here")?)?,
    })
}

/// A batch's wire form; the identity is the call's to add.
pub fn mutation_batch_to_wire(batch: &MutationBatch) -> v1::MutateRequest {
    v1::MutateRequest {
        identity: None,
        ops: batch.ops.iter().map(numbered_op_to_wire).collect(),
        acknowledged_below: batch.acknowledged_below.0,
        stop_on_error: batch.stop_on_error,
        durable: batch.durable,
    }
}

/// A batch from the wire, without its identity.
///
/// # Errors
/// `Invalid`: no operation or more than [`BATCH_OPS_MAX`], numbers that do not grow, and as [`numbered_op_from_wire`]
/// with the operation's number.
pub fn mutation_batch_from_wire(request: v1::MutateRequest) -> FsResult<MutationBatch> {
    if request.ops.is_empty() {
        return Err(invalid("a batch has at least one operation"));
    }
    at_most(request.ops.len(), BATCH_OPS_MAX, "operations")?;
    if request
        .ops
        .windows(2)
        .any(|pair| pair[0].number >= pair[1].number)
    {
        return Err(invalid("the operation numbers of a batch do not increase"));
    }
    let ops = request
        .ops
        .into_iter()
        .map(|op| {
            let number = op.number;
            numbered_op_from_wire(op).map_err(|error| error.context(format_args!("operation {number}")))
        })
        .collect::<FsResult<_>>()?;
    Ok(MutationBatch {
        ops,
        acknowledged_below: OpNumber(request.acknowledged_below),
        stop_on_error: request.stop_on_error,
        durable: request.durable,
    })
}
