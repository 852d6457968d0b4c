//! The vocabulary of DFS: ids, errors, attributes, names, limits, operations, the two service seams
//! ([`service::MetadataService`], [`service::ChunkService`]), clock, crash-safe file helpers, telemetry.
//!
//! This crate knows neither gRPC nor FUSE nor any store: everything else may import it, it imports nothing of DFS.

pub mod attr;
pub mod buffer;
pub mod capability;
pub mod checksum;
pub mod chunk;
pub mod clock;
pub mod cluster;
pub mod data_dir;
pub mod durability;
pub mod durable;
pub mod error;
pub mod extent;
pub mod failpoint;
pub mod ids;
pub mod lease;
pub mod limits;
pub mod lock;
pub mod name;
pub mod op;
pub mod piece;
pub mod service;
pub mod session;
pub mod telemetry;
pub mod usage;

pub use attr::{Attr, FileKind, SetAttr, SetTime, Timestamp};
pub use durability::{CommitId, CommitPoint, Durability};
pub use error::{ErrorKind, FsError, FsResult};
pub use ids::{ChunkId, ClusterId, DiskIncarnation, Ino, NodeId, OpNumber, PgId, SessionEpoch, SessionId};
pub use name::Name;
pub use usage::{Allowance, Quota, QuotaEntry, TreeUsage};
