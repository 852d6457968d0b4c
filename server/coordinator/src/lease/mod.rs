//! Leases: which session may answer from its own memory of an inode, and how that is taken away.
//!
//! A lease on an inode covers its attributes and extended attributes and, for a directory, all of its names and non-names.
//! It is granted with the reply of a read and lives in memory only. The rule that everything here serves: **what one client
//! was acknowledged, every other client sees on its next call.** So a mutation first marks the inodes that it will change,
//! takes the leases of other sessions on them away, waits until those are given up, and only then is applied; while an
//! inode is marked nobody gets a lease on it. A lease is given up when the client acknowledges the recall, when it opens a
//! new recall stream (it forgets everything before it does), or when its session ends.
//!
//! After a restart nobody knows who held what: mutations wait until every session from before has resumed (its client has
//! noticed the broken stream, and forgotten everything) or ended.

mod affected;
mod calls;
mod change;
mod quotas;
mod table;

pub use table::LeaseTable;
