//! Sessions: who may call, what each client holds open, and when a silent one is ended.
//!
//! Durable (in the store, written by the applier): id, secret, epoch, granted chunk numbers, acknowledged operations.
//! In memory: leases ([`table::SessionTable`]) and open files ([`opens::OpenTable`]). After a restart every stored session is
//! in *grace*: its calls are refused with "resume the session" until the client resumes it with the same identity and
//! declares its open files; a session that does not resume within a lease is ended. Until then it counts as a holder of
//! every inode, so that nothing that it may have open is destroyed.

pub mod expiry;
pub mod lifeline;
pub mod opens;
pub mod table;
