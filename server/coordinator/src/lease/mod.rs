//! Leases: which session may answer from its own memory of an inode, and how that is taken away.
//!
//! A lease on an inode covers its attributes and extended attributes and, for a directory, all of its names and non-names. One on a file's
//! content covers its map, and the pages of kernels; one to buffer writes lets a session acknowledge them before it commits them
//! (docs/adr/0006-leases.md, docs/adr/0022-content-leases.md). Leases are granted with replies and live in memory only. The rule that everything here
//! serves: **what one client was acknowledged, every other client sees on its next call.** So a mutation first marks what it will change,
//! takes the leases of other sessions on that away, waits until those are given up, and only then is applied; while an inode is marked nobody
//! gets a lease on it. A read of what another session may buffer does the same with the right to buffer. A lease is given up when the client
//! says that it obeyed the recall, when it opens a new recall stream (it forgets everything before it does, but for what it buffers), or when
//! its session ends.
//!
//! After a restart nobody knows who held what: mutations, and reads of files, wait until every session from before has resumed, said what it
//! buffers and opened a new recall stream, or ended.

mod affected;
mod calls;
mod change;
mod content;
mod holder;
mod quotas;
mod table;

pub use table::LeaseTable;
