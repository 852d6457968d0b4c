//! The datanode: keeps immutable, replicated chunks, and proves of each what it holds.
//!
//! Code map: [`chunk_file`] is the format of a chunk file; [`store`] keeps such files (the [`store::ChunkStore`] trait, and the local
//! one behind it); [`service`] is the chunk service, [`replication`] its copying to other datanodes; [`membership`] registers and
//! reports to the coordinator; [`identity`] is the data directory; [`server`] puts the parts together. Nothing here knows files,
//! names or the metadata store: a datanode knows chunks, and obeys whoever shows a capability of its cluster's coordinator.

pub mod chunk_file;
pub mod config;
pub mod identity;
pub mod inventory;
pub mod membership;
pub mod peers;
pub mod replication;
pub mod server;
pub mod service;
pub mod store;

pub use config::{DatanodeConfig, Tuning};
pub use server::Datanode;
