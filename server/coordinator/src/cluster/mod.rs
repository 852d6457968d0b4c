//! Cluster membership: registration and heartbeats of datanodes, their health, placement groups, versioned cluster state.
//!
//! Durable (written by the applier): who a node is, and the members of a placement group. In memory: heartbeats, health,
//! load. Invariant: a reader that follows the deltas, or takes the full state when told to, always knows every node and
//! group; versions never go back, not even over a restart.

pub mod health;
pub mod placement;
pub mod service;
pub mod state;
