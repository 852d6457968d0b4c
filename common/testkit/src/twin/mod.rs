//! In-memory twins of the two service seams: what a coordinator and its datanodes promise, with none of their machinery.
//!
//! Written from the contract in `dfs_common::service` and the manual pages, not from the coordinator: where both agree under
//! one conformance suite, two readings of the contract agree. Nothing is durable, every call takes one lock, everything is
//! kept in ordered maps. Chunk capabilities are signed and checked with a fixed key.

mod access;
mod attributes;
mod chunks;
mod content;
mod locks;
mod metadata;
mod names;
mod quotas;
mod sessions;
mod state;
mod usage;
mod xattrs;

pub use chunks::{TwinChunks, TwinNode};
pub use metadata::TwinMetadata;

use dfs_common::capability::CapabilityKey;
use dfs_common::clock::{Clock, SystemClock};
use std::sync::Arc;

/// The key that twins sign and check with.
pub const TWIN_KEY: CapabilityKey = CapabilityKey([0x5a; 32]);

/// What a twin cluster looks like.
#[derive(Clone, Debug)]
pub struct TwinOptions {
    /// Datanodes.
    pub nodes: usize,
    /// Replicas that a new chunk shall have.
    pub replication: u32,
    /// Receipts without which a commit is refused.
    pub replication_floor: u32,
    /// Size at which writers cut chunks, in bytes.
    pub chunk_bytes: u64,
    /// Extents in one page of a map.
    pub extents_page: usize,
    /// Size of each datanode in bytes.
    pub node_bytes: u64,
}

impl Default for TwinOptions {
    /// Three nodes, three replicas with a floor of two, and small chunks and pages, so that little data has many.
    fn default() -> Self {
        TwinOptions {
            nodes: 3,
            replication: 3,
            replication_floor: 2,
            chunk_bytes: 64 << 10,
            extents_page: 7,
            node_bytes: 1 << 30,
        }
    }
}

/// A metadata twin and the chunk twins that its grants lead to.
#[derive(Clone)]
pub struct TwinCluster {
    /// Metadata.
    pub metadata: Arc<TwinMetadata>,
    /// Datanodes.
    pub chunks: Arc<TwinChunks>,
}

impl TwinCluster {
    /// A cluster on the machine's clock.
    pub fn new(options: TwinOptions) -> Self {
        Self::with_clock(options, Arc::new(SystemClock::default()))
    }

    /// A cluster on another clock.
    pub fn with_clock(options: TwinOptions, clock: Arc<dyn Clock>) -> Self {
        let chunks = Arc::new(TwinChunks::new(options.nodes, options.node_bytes, clock.clone()));
        let metadata = Arc::new(TwinMetadata::new(options, chunks.clone(), clock));
        TwinCluster { metadata, chunks }
    }
}

impl Default for TwinCluster {
    fn default() -> Self {
        TwinCluster::new(TwinOptions::default())
    }
}
