//! Unsaved data of one file.
//!
//! Writes go into the one *active* generation: a log of bytes (the content of a chunk to be) and a map from file ranges
//! into it. When it holds a chunk's worth, or is asked to be saved, it is *sealed*: immutable, uploaded and committed as one
//! write commit, in the order of sealing. One generation is one commit, so commits are in write order (invariant I7), and
//! overlapping writes never meet in one chunk.

pub(crate) mod budget;
pub(crate) mod generation;
pub(crate) mod pool;

pub(crate) use budget::DirtyBudget;
pub(crate) use generation::{Active, Body, Sealed};
pub(crate) use pool::Pool;
