//! The metadata seam over a framed connection.

use super::{FramedClient, lifeline};
use crate::metadata::{MetadataStub, MetadataTransport, Method};
use crate::socket::Peer;
use dfs_common::service::Lifeline;
use dfs_common::session::Identity;
use dfs_common::{ErrorKind, FsError, FsResult};
use prost::Message;
use std::time::Duration;

/// A [`dfs_common::service::MetadataService`] at the other end of a framed connection.
pub type MetadataFramedClient = MetadataStub<FramedClient>;

impl MetadataFramedClient {
    /// A stub for the coordinator at `peer` (by default, a `host:port`), which connects at the first call and again after
    /// a failure. A call is given up after `deadline`.
    ///
    /// # Errors
    /// `Invalid` if its address is not `host:port`.
    pub fn connect_lazy(peer: impl Into<Peer>, deadline: Duration) -> FsResult<Self> {
        Ok(MetadataStub::over(FramedClient::connect_lazy(peer, deadline)?))
    }
}

impl MetadataTransport for FramedClient {
    async fn call<Q, R>(&self, method: Method, request: Q) -> FsResult<R>
    where
        Q: Message + 'static,
        R: Message + Default + 'static,
    {
        let reply = FramedClient::call(self, method as u16, request.encode_to_vec().into()).await?;
        R::decode(reply).map_err(|error| {
            FsError::new(
                ErrorKind::Invalid,
                format!("a reply of the server is unreadable ({error})"),
            )
        })
    }

    async fn lifeline(&self, identity: &Identity, number: u64) -> FsResult<Box<dyn Lifeline>> {
        Ok(Box::new(lifeline::open(self.peer(), identity, number).await?))
    }
}
