//! Advisory locks on byte ranges: who holds what, who waits in which order, and who waits for whom.
//!
//! The table lives in memory only ([ADR 0016](../../../../docs/adr/0016-locks.md)). What it protects: **no two owners hold
//! conflicting locks, and every lock that it holds is known to a session that is alive.** A request carries a number of
//! its session, so that one that is sent again, or arrives late, is never applied twice. Those who conflict are served in the
//! order in which they came, readers as well as writers.
//!
//! After a restart nothing new is granted until every session from before has declared its locks or ended.

mod declared;
mod graph;
pub mod listing;
mod ranges;
mod state;
mod table;
mod types;

pub use table::LockTable;
pub use types::{Ask, Held, Owner, Waiting};
