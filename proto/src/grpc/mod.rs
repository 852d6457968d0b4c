//! The gRPC transport of the two service seams: stubs that implement them over a channel, adapters that serve them.
//!
//! Adapters hold no logic: convert, call, convert. Bounds are enforced on both sides; a failure of the transport becomes
//! `Unavailable` or `TimedOut`, never a wrong answer.

mod channel;
mod chunk_client;
mod chunk_server;
mod message;
mod metadata_client;
mod metadata_server;
mod upload;

pub use channel::{channel_lazy, tuned_server, within};
pub use chunk_client::ChunkGrpcClient;
pub use chunk_server::ChunkGrpcServer;
pub use metadata_client::MetadataGrpcClient;
pub use metadata_server::MetadataGrpcServer;
