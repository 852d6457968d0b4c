//! The metadata seam over a gRPC channel.

use super::channel::{check_message_size, stub_channel, within};
use crate::metadata::{MetadataStub, MetadataTransport, Method};
use crate::socket::Peer;
use dfs_common::FsResult;
use dfs_common::limits::MESSAGE_BYTES_MAX;
use prost::Message;
use std::time::Duration;
use tonic::Request;
use tonic::client::Grpc;
use tonic::transport::Channel;
use tonic_prost::ProstCodec;

/// A [`dfs_common::service::MetadataService`] at the other end of a gRPC channel. Clones share the channel.
pub type MetadataGrpcClient = MetadataStub<GrpcTransport>;

/// Carries calls over a gRPC channel.
#[derive(Clone, Debug)]
pub struct GrpcTransport {
    client: Grpc<Channel>,
    deadline: Duration,
}

impl MetadataGrpcClient {
    /// A stub for the coordinator at `peer` (by default, a `host:port`), which connects at the first call and again after
    /// a failure. A call is given up after `deadline`.
    ///
    /// # Errors
    /// `Invalid` if its address is not `host:port`, or outside a tokio runtime.
    pub fn connect_lazy(peer: impl Into<Peer>, deadline: Duration) -> FsResult<Self> {
        Ok(Self::new(stub_channel(peer.into())?, deadline))
    }

    /// A stub on a channel that exists already. A call is given up after `deadline`.
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        let client = Grpc::new(channel)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        MetadataStub::over(GrpcTransport { client, deadline })
    }
}

impl MetadataTransport for GrpcTransport {
    async fn call<Q, R>(&self, method: Method, request: Q) -> FsResult<R>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        check_message_size(&request)?;
        let mut client = self.client.clone();
        within(self.deadline, async move {
            let unreachable = |error: tonic::transport::Error| tonic::Status::from_error(error.into());
            client.ready().await.map_err(unreachable)?;
            let codec: ProstCodec<Q, R> = ProstCodec::default();
            client.unary(Request::new(request), method.path(), codec).await
        })
        .await
    }
}
