//! Operations, one file each, each with its tests.
//!
//! Every one of them is a function of the transaction, the context, the caller and its own arguments; the errors it names are
//! those that its system call has. Common to all: `Stale` for an inode number that is gone, `Corrupt` for a damaged record.

pub mod commit_write;
pub mod create;
pub mod grant_chunks;
pub mod link;
pub mod mkdir;
pub mod mknod;
pub mod removexattr;
pub mod rename;
pub mod rmdir;
pub mod setattr;
pub mod setxattr;
pub mod symlink;
pub mod unlink;
