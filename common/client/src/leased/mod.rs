//! Metadata that this client may answer from memory, because it holds leases on it.
//!
//! Owns the cache of attributes and names, the rules of what may be put into it, and the recall stream. Invariant: what is
//! answered from here was true at the coordinator at a moment after the call began, or no other client's later change has
//! been acknowledged to it. See the coordinator's `lease` module for the other half.

mod cache;
mod changes;
mod names;
mod reads;
mod recalls;

pub(crate) use cache::{LeasedCache, Stamp};
pub(crate) use changes::changed_inos;
pub(crate) use reads::Listings;
