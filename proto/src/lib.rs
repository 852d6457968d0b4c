//! The wire: generated messages and services, conversion to and from the vocabulary of `dfs-common`, and both sides of
//! the two transports for the service seams, with the sockets below them.
//!
//! Whatever arrives is checked here, once: behind [`convert`] every value keeps the bounds of `dfs_common::limits`.

mod chunk_channels;
pub mod convert;
pub mod framed;
pub mod grpc;
pub mod json;
pub mod metadata;
pub mod socket;
pub mod status;
mod transport;

pub use chunk_channels::ChunkChannels;
pub use transport::{Transport, connect_metadata};

/// Generated from `proto/dfs/v1/*.proto`; the comments there are the wire contract.
#[allow(missing_docs, clippy::all)]
pub mod v1 {
    tonic::include_proto!("dfs.v1");
}

/// The version of the protocol that this release speaks. It travels in the first message of a session and of a
/// datanode's registration; a peer with another one is refused with `UnknownVersion`.
pub const PROTOCOL_VERSION: u32 = 2;
