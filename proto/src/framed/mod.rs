//! The framed transport: the messages of gRPC behind the same traits, in length-prefixed frames on a connection.
//!
//! It exists for latency: a small call costs a third of what it costs over HTTP/2 (docs/adr/0005-framed-transport.md). gRPC
//! stays the reference and serves everything; a port that serves frames serves gRPC too ([`split`]).

mod chunk;
mod client;
mod frame;
mod lifeline;
mod listener;
mod metadata;
mod reader;
mod server;
mod writer;

pub(crate) use chunk::receive_buffers;
pub use chunk::{ChunkFramedClient, serve_chunks};
pub use client::FramedClient;
pub use listener::{ServeFramed, serve_calls, split, unless};
pub use metadata::MetadataFramedClient;

use bytes::Bytes;
use dfs_common::service::Lifeline;
use dfs_common::session::Identity;
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::future::BoxFuture;
use std::sync::Arc;
use std::time::Duration;

/// How long a new connection may take to say what it speaks.
const PREFACE_DEADLINE: Duration = Duration::from_secs(5);
/// A server is asked whether it is there after this much silence, and given as long again to answer.
const PEER_SILENCE: Duration = Duration::from_secs(5);

/// Answers the requests of framed connections.
pub trait FramedHandler: Send + Sync + 'static {
    /// Handles one request: a method's number and an encoded message; answers the encoded reply.
    fn call(self: Arc<Self>, method: u16, payload: Bytes) -> BoxFuture<'static, FsResult<Bytes>>;

    /// Opens a lifeline. Unless there is more to it, there is none.
    fn lifeline(
        self: Arc<Self>,
        identity: Identity,
        number: u64,
    ) -> BoxFuture<'static, FsResult<Box<dyn Lifeline>>> {
        let _ = (identity, number);
        Box::pin(async { Err(FsError::from(ErrorKind::NotSupported)) })
    }
}
