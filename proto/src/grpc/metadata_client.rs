//! The metadata seam over a gRPC channel.

use super::channel::{stub_channel, within};
use crate::convert::*;
use crate::v1;
use crate::v1::metadata_client::MetadataClient;
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::cluster::{ClusterUpdate, StatFs};
use dfs_common::extent::ExtentPage;
use dfs_common::limits::MESSAGE_BYTES_MAX;
use dfs_common::op::{Entry, MutationBatch, OpResult};
use dfs_common::service::{DirPage, MetadataService, Opened};
use dfs_common::session::{Caller, Identity, OpenSession, SessionGrant};
use dfs_common::{Attr, FsResult, Ino, Name};
use std::time::Duration;
use tonic::transport::Channel;

/// A [`MetadataService`] at the other end of a channel. Clones share the channel.
///
/// Every call is one attempt: sending it again is the caller's decision, and safe as [`MetadataService`] says. Dropping a
/// call's future cancels the call; a mutation may have been applied all the same.
#[derive(Clone, Debug)]
pub struct MetadataGrpcClient {
    client: MetadataClient<Channel>,
    deadline: Duration,
}

impl MetadataGrpcClient {
    /// A stub for the coordinator at `address` (`host:port`), which connects at the first call and again after a failure.
    /// A call is given up after `deadline`.
    ///
    /// # Errors
    /// `Invalid` if `address` is not `host:port`, or outside a tokio runtime.
    pub fn connect_lazy(address: &str, deadline: Duration) -> FsResult<Self> {
        Ok(Self::new(stub_channel(address)?, deadline))
    }

    /// A stub on a channel that exists already. A call is given up after `deadline`.
    pub fn new(channel: Channel, deadline: Duration) -> Self {
        let client = MetadataClient::new(channel)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        MetadataGrpcClient { client, deadline }
    }

    fn client(&self) -> MetadataClient<Channel> {
        self.client.clone()
    }
}

fn some_identity(identity: &Identity) -> Option<v1::Identity> {
    Some(identity_to_wire(identity))
}

fn some_caller(caller: &Caller) -> Option<v1::Caller> {
    Some(caller_to_wire(caller))
}

#[async_trait]
impl MetadataService for MetadataGrpcClient {
    async fn open_session(&self, request: OpenSession) -> FsResult<SessionGrant> {
        let request = open_session_to_wire(&request);
        session_grant_from_wire(within(self.deadline, self.client().open_session(request)).await?)
    }

    async fn keep_alive(&self, identity: Identity) -> FsResult<Duration> {
        let identity = some_identity(&identity);
        let request = v1::KeepAliveRequest { identity };
        let reply = within(self.deadline, self.client().keep_alive(request)).await?;
        Ok(Duration::from_millis(reply.lease_ms))
    }

    async fn close_session(&self, identity: Identity) -> FsResult<()> {
        let identity = some_identity(&identity);
        let request = v1::CloseSessionRequest { identity };
        within(self.deadline, self.client().close_session(request)).await?;
        Ok(())
    }

    async fn mutate(&self, identity: Identity, batch: MutationBatch) -> FsResult<Vec<OpResult>> {
        let sent = batch.ops.len();
        let request = v1::MutateRequest {
            identity: some_identity(&identity),
            ..mutation_batch_to_wire(&batch)
        };
        let reply = within(self.deadline, self.client().mutate(request)).await?;
        let results = op_results_from_wire(reply)?;
        if results.len() != sent {
            return Err(invalid(format!(
                "{} results for {sent} operations",
                results.len()
            )));
        }
        Ok(results)
    }

    async fn lookup(&self, identity: Identity, caller: Caller, parent: Ino, name: Name) -> FsResult<Entry> {
        let request = v1::LookupRequest {
            identity: some_identity(&identity),
            caller: some_caller(&caller),
            parent: parent.0,
            name: name.bytes().clone(),
        };
        entry_from_wire(within(self.deadline, self.client().lookup(request)).await?)
    }

    async fn getattr(&self, identity: Identity, ino: Ino) -> FsResult<Attr> {
        let request = v1::InoRequest {
            identity: some_identity(&identity),
            ino: ino.0,
        };
        attr_from_wire(within(self.deadline, self.client().getattr(request)).await?)
    }

    async fn readlink(&self, identity: Identity, ino: Ino) -> FsResult<Bytes> {
        let request = v1::InoRequest {
            identity: some_identity(&identity),
            ino: ino.0,
        };
        symlink_target(
            within(self.deadline, self.client().readlink(request))
                .await?
                .target,
        )
    }

    async fn readdir(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage> {
        let request = v1::ReaddirRequest {
            identity: some_identity(&identity),
            caller: some_caller(&caller),
            ino: ino.0,
            cursor,
            limit,
            attrs,
        };
        dir_page_from_wire(within(self.deadline, self.client().readdir(request)).await?)
    }

    async fn getxattr(&self, identity: Identity, caller: Caller, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        let request = v1::GetxattrRequest {
            identity: some_identity(&identity),
            caller: some_caller(&caller),
            ino: ino.0,
            name,
        };
        xattr_value(
            within(self.deadline, self.client().getxattr(request))
                .await?
                .value,
        )
    }

    async fn listxattr(&self, identity: Identity, caller: Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
        let request = v1::ListxattrRequest {
            identity: some_identity(&identity),
            caller: some_caller(&caller),
            ino: ino.0,
        };
        xattr_list(
            within(self.deadline, self.client().listxattr(request))
                .await?
                .names,
        )
    }

    async fn read_extents(
        &self,
        identity: Identity,
        ino: Ino,
        offset: u64,
        length: u64,
    ) -> FsResult<ExtentPage> {
        let request = v1::ReadExtentsRequest {
            identity: some_identity(&identity),
            ino: ino.0,
            offset,
            length,
        };
        extent_page_from_wire(within(self.deadline, self.client().read_extents(request)).await?)
    }

    async fn open(
        &self,
        identity: Identity,
        caller: Caller,
        ino: Ino,
        read: bool,
        write: bool,
    ) -> FsResult<Opened> {
        let request = v1::OpenRequest {
            identity: some_identity(&identity),
            caller: some_caller(&caller),
            ino: ino.0,
            read,
            write,
        };
        opened_from_wire(within(self.deadline, self.client().open(request)).await?)
    }

    async fn release(&self, identity: Identity, inos: Vec<Ino>) -> FsResult<()> {
        let request = v1::ReleaseRequest {
            identity: some_identity(&identity),
            inos: inos.into_iter().map(|ino| ino.0).collect(),
        };
        within(self.deadline, self.client().release(request)).await?;
        Ok(())
    }

    async fn statfs(&self, identity: Identity) -> FsResult<StatFs> {
        let identity = some_identity(&identity);
        let request = v1::StatfsRequest { identity };
        statfs_from_wire(within(self.deadline, self.client().statfs(request)).await?)
    }

    async fn cluster_state(&self, identity: Identity, known_version: u64) -> FsResult<ClusterUpdate> {
        let request = v1::ClusterStateRequest {
            identity: some_identity(&identity),
            known_version,
        };
        cluster_update_from_wire(within(self.deadline, self.client().cluster_state(request)).await?)
    }
}
