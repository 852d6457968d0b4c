//! Takes away what nobody refers to any more: extents of maps that were abandoned, replicas of chunks that were freed.
//!
//! The namespace gives the verdicts; the workers here carry them out, through the applier and the datanodes. Invariant (I9):
//! a replica is deleted only of a chunk with a freed record, which no commit can refer to again; any error keeps the record. After a restore nothing is deleted
//! while the [`hold`] lasts.

pub mod collector;
pub mod hold;
pub mod reaper;

#[cfg(test)]
mod tests;
