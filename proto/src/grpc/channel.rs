//! How connections are made, for every program alike: windows, frames, keep-alives, deadlines.
//!
//! The windows are from a measurement on loopback: HTTP/2's defaults cost up to two thirds of the throughput
//! (docs/adr/0004-wire-protocol.md).

use crate::convert::check_address;
use crate::socket::{Peer, Socket, dial};
use crate::status::from_status;
use dfs_common::limits::{CONNECTION_STREAMS_MAX, MESSAGE_BYTES_MAX};
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use prost::Message;
use std::future::Future;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Response, Status};

/// Content in flight on one stream.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// Content in flight on one connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// Largest HTTP/2 frame: a whole piece of a chunk fits, so that it is not cut.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// A peer is asked whether it is there after this much silence, and given as long again to answer.
const PEER_SILENCE: Duration = Duration::from_secs(5);
/// Streams that clients gave up before the server saw them; above it a connection counts as hostile.
const ABANDONED_STREAMS_MAX: usize = 1024;
/// Streams that this side ended before the other did, over the life of a connection: uploads refused early (a full disk) and
/// reads dropped early are many and no attack. Above it the connection is closed and made again.
const ENDED_EARLY_STREAMS_MAX: usize = 1 << 20;

/// A server builder with the windows, frames and keep-alives of DFS.
pub fn tuned_server() -> Server {
    Server::builder()
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_concurrent_streams(CONNECTION_STREAMS_MAX)
        .http2_max_pending_accept_reset_streams(Some(ABANDONED_STREAMS_MAX))
        .http2_max_local_error_reset_streams(Some(ENDED_EARLY_STREAMS_MAX))
        .http2_keepalive_interval(Some(PEER_SILENCE))
        .http2_keepalive_timeout(Some(PEER_SILENCE))
}

/// An endpoint for `address` (`host:port`) with the windows, frames and keep-alives of DFS.
///
/// # Errors
/// `Invalid` if `address` is not `host:port`.
fn tuned_endpoint(address: &str) -> FsResult<Endpoint> {
    check_address(address)?;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|error| {
        FsError::new(
            ErrorKind::Invalid,
            format!("\"{address}\" is not an address ({error}): write host:port"),
        )
    })?;
    Ok(endpoint
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES_MAX)
        .http2_max_local_error_reset_streams(ENDED_EARLY_STREAMS_MAX)
        .http2_keep_alive_interval(PEER_SILENCE)
        .keep_alive_timeout(PEER_SILENCE)
        .keep_alive_while_idle(true))
}

/// A channel to `peer` (by default, a `host:port`) that connects at the first call, again after a failure, and gives up
/// each call after `deadline` (of a streaming call: its reply's head).
///
/// For the generated clients: `ClusterClient::new(channel_lazy(address, deadline)?)`.
///
/// # Errors
/// `Invalid` if its address is not `host:port`, or outside a tokio runtime.
pub fn channel_lazy(peer: impl Into<Peer>, deadline: Duration) -> FsResult<Channel> {
    let peer = peer.into();
    connect(&tuned_endpoint(&peer.address)?.timeout(deadline), peer)
}

/// A channel without a deadline of its own, for the stubs, which have theirs.
pub(super) fn stub_channel(peer: Peer) -> FsResult<Channel> {
    connect(&tuned_endpoint(&peer.address)?, peer)
}

fn connect(endpoint: &Endpoint, peer: Peer) -> FsResult<Channel> {
    if tokio::runtime::Handle::try_current().is_err() {
        return Err(FsError::new(
            ErrorKind::Invalid,
            "a channel is made outside a tokio runtime: call this from async code",
        ));
    }
    Ok(endpoint.connect_with_connector_lazy(Connector(peer)))
}

/// Makes the connections of a channel, whatever the URI says: it is the same peer's.
struct Connector(Peer);

impl Service<Uri> for Connector {
    type Response = TokioIo<Socket>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let peer = self.0.clone();
        Box::pin(async move { dial(&peer).await.map(TokioIo::new) })
    }
}

/// The reply of a unary call of a generated client, within `deadline`.
///
/// # Errors
/// The server's error, `Unavailable` if it cannot be reached, `TimedOut` after `deadline`.
pub async fn within<T>(
    deadline: Duration,
    call: impl Future<Output = Result<Response<T>, Status>>,
) -> FsResult<T> {
    match tokio::time::timeout(deadline, call).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => Err(from_status(&status)),
        Err(_) => Err(timed_out(deadline)),
    }
}

/// Refuses a request that the server would refuse. tonic reports one only as a broken connection, which would be retried.
pub(super) fn check_message_size(message: &impl Message) -> FsResult<()> {
    let bytes = message.encoded_len();
    if bytes > MESSAGE_BYTES_MAX {
        return Err(FsError::new(
            ErrorKind::TooBig,
            format!(
                "a message of {bytes} bytes is above the limit of {MESSAGE_BYTES_MAX}: send less at once"
            ),
        ));
    }
    Ok(())
}

/// The error of a call without an answer.
pub(super) fn timed_out(deadline: Duration) -> FsError {
    FsError::new(
        ErrorKind::TimedOut,
        format!("the server did not answer within {} ms", deadline.as_millis()),
    )
}
