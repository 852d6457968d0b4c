//! The calling side of the metadata seam over any transport: convert, call, convert.

use super::method::Method;
use crate::convert::*;
use crate::v1;
use async_trait::async_trait;
use bytes::Bytes;
use dfs_common::cluster::{ClusterUpdate, StatFs};
use dfs_common::lease::{Obeyed, RecallPage};
use dfs_common::lock::{HeldLock, LockOutcome, LockOwner, LockRange, LockSpec, LockTicket};
use dfs_common::op::MutationBatch;
use dfs_common::service::{DirPage, Extents, Found, Lifeline, MetadataService, Mutated, Opened};
use dfs_common::session::{Caller, Identity, OpenSession, SessionGrant};
use dfs_common::{CommitPoint, ErrorKind, FsError, FsResult, Ino, Name, TreeUsage};
use prost::Message;
use std::future::Future;
use std::time::Duration;

/// Carries one request to the coordinator and its reply back.
pub trait MetadataTransport: Send + Sync + 'static {
    /// One attempt of `method`, within the transport's deadline.
    ///
    /// # Errors
    /// The coordinator's error, `Unavailable` if it cannot be reached, `TimedOut` after the deadline.
    fn call<Q, R>(&self, method: Method, request: Q) -> impl Future<Output = FsResult<R>> + Send
    where
        Q: Message + 'static,
        R: Message + Default + 'static;

    /// A lifeline of a session, which is not held yet. Not every transport has them.
    ///
    /// # Errors
    /// Those of [`MetadataService::lifeline`].
    fn lifeline(
        &self,
        identity: &Identity,
        number: u64,
    ) -> impl Future<Output = FsResult<Box<dyn Lifeline>>> + Send {
        let _ = (identity, number);
        async {
            Err(FsError::new(
                ErrorKind::NotSupported,
                "this transport has no lifelines",
            ))
        }
    }
}

/// A [`MetadataService`] at the other end of a transport.
///
/// Every call is one attempt: sending it again is the caller's decision, and safe as [`MetadataService`] says. Dropping a
/// call's future cancels the call; a mutation may have been applied all the same.
#[derive(Clone, Debug)]
pub struct MetadataStub<T> {
    transport: T,
}

impl<T: MetadataTransport> MetadataStub<T> {
    /// Calls over `transport`.
    pub fn over(transport: T) -> Self {
        MetadataStub { transport }
    }
}

fn some_identity(identity: &Identity) -> Option<v1::Identity> {
    Some(identity_to_wire(identity))
}

fn some_caller(caller: &Caller) -> Option<v1::Caller> {
    Some(caller_to_wire(caller))
}

#[async_trait]
impl<T: MetadataTransport> MetadataService for MetadataStub<T> {
    async fn open_session(&self, request: OpenSession) -> FsResult<SessionGrant> {
        let request = open_session_to_wire(&request);
        session_grant_from_wire(
            self.transport
                .call::<_, v1::OpenSessionReply>(Method::OpenSession, request)
                .await?,
        )
    }

    async fn keep_alive(&self, identity: Identity) -> FsResult<Duration> {
        let identity = some_identity(&identity);
        let request = v1::KeepAliveRequest { identity };
        let reply = self
            .transport
            .call::<_, v1::KeepAliveReply>(Method::KeepAlive, request)
            .await?;
        Ok(Duration::from_millis(reply.lease_ms))
    }

    async fn close_session(&self, identity: Identity) -> FsResult<()> {
        let identity = some_identity(&identity);
        let request = v1::CloseSessionRequest { identity };
        self.transport
            .call::<_, v1::Empty>(Method::CloseSession, request)
            .await?;
        Ok(())
    }

    async fn mutate(&self, identity: Identity, batch: MutationBatch) -> FsResult<Mutated> {
        let sent = batch.ops.len();
        let request = v1::MutateRequest {
            identity: some_identity(&identity),
            ..mutation_batch_to_wire(&batch)
        };
        let reply = self
            .transport
            .call::<_, v1::MutateReply>(Method::Mutate, request)
            .await?;
        let mutated = mutated_from_wire(reply)?;
        if mutated.results.len() != sent {
            return Err(invalid(format!(
                "{} results for {sent} operations",
                mutated.results.len()
            )));
        }
        Ok(mutated)
    }

    async fn fsync(&self, identity: Identity, ino: Ino) -> FsResult<CommitPoint> {
        let request = v1::InoRequest {
            identity: some_identity(&identity),
            ino: ino.0,
        };
        let reply = self.transport.call::<_, v1::CommitPoint>(Method::Fsync, request);
        reply.await.map(commit_point_from_wire)
    }

    async fn lookup(&self, identity: Identity, caller: Caller, parent: Ino, name: Name) -> FsResult<Found> {
        let request = v1::LookupRequest {
            identity: some_identity(&identity),
            caller: some_caller(&caller),
            parent: parent.0,
            name: name.bytes().clone(),
        };
        found_from_wire(
            self.transport
                .call::<_, v1::Found>(Method::Lookup, request)
                .await?,
        )
    }

    async fn getattr(&self, identity: Identity, ino: Ino) -> FsResult<Found> {
        let request = v1::InoRequest {
            identity: some_identity(&identity),
            ino: ino.0,
        };
        found_from_wire(
            self.transport
                .call::<_, v1::Found>(Method::Getattr, request)
                .await?,
        )
    }

    async fn readlink(&self, identity: Identity, ino: Ino) -> FsResult<Bytes> {
        let request = v1::InoRequest {
            identity: some_identity(&identity),
            ino: ino.0,
        };
        symlink_target(
            self.transport
                .call::<_, v1::ReadlinkReply>(Method::Readlink, request)
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
        dir_page_from_wire(
            self.transport
                .call::<_, v1::ReaddirReply>(Method::Readdir, request)
                .await?,
        )
    }

    async fn getxattr(&self, identity: Identity, caller: Caller, ino: Ino, name: Bytes) -> FsResult<Bytes> {
        let request = v1::GetxattrRequest {
            identity: some_identity(&identity),
            caller: some_caller(&caller),
            ino: ino.0,
            name,
        };
        xattr_value(
            self.transport
                .call::<_, v1::GetxattrReply>(Method::Getxattr, request)
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
            self.transport
                .call::<_, v1::ListxattrReply>(Method::Listxattr, request)
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
        settle: bool,
    ) -> FsResult<Extents> {
        let request = v1::ReadExtentsRequest {
            identity: some_identity(&identity),
            ino: ino.0,
            offset,
            length,
            settle,
        };
        extents_from_wire(
            self.transport
                .call::<_, v1::ExtentPage>(Method::ReadExtents, request)
                .await?,
        )
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
        opened_from_wire(
            self.transport
                .call::<_, v1::OpenReply>(Method::Open, request)
                .await?,
        )
    }

    async fn release(&self, identity: Identity, inos: Vec<Ino>) -> FsResult<()> {
        let request = v1::ReleaseRequest {
            identity: some_identity(&identity),
            inos: inos.into_iter().map(|ino| ino.0).collect(),
        };
        self.transport
            .call::<_, v1::Empty>(Method::Release, request)
            .await?;
        Ok(())
    }

    async fn lock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        lock: LockSpec,
        patience: Duration,
    ) -> FsResult<LockOutcome> {
        // Any patience at all is asked for as such.
        let at_least_ms = u32::from(!patience.is_zero());
        let patience_ms = u32::try_from(patience.as_millis()).unwrap_or(u32::MAX);
        let request = v1::LockRequest {
            identity: some_identity(&identity),
            ticket: Some(lock_ticket_to_wire(&ticket)),
            ino: ino.0,
            lock: Some(lock_to_wire(&lock)),
            patience_ms: patience_ms.max(at_least_ms),
        };
        let reply = self.transport.call::<_, v1::LockReply>(Method::Lock, request);
        lock_outcome_from_wire(reply.await?)
    }

    async fn unlock(
        &self,
        identity: Identity,
        ticket: LockTicket,
        ino: Ino,
        owner: LockOwner,
        range: LockRange,
    ) -> FsResult<LockOutcome> {
        let request = v1::UnlockRequest {
            identity: some_identity(&identity),
            ticket: Some(lock_ticket_to_wire(&ticket)),
            ino: ino.0,
            lock: Some(unlock_to_wire(owner, range)),
        };
        let reply = self.transport.call::<_, v1::LockReply>(Method::Unlock, request);
        lock_outcome_from_wire(reply.await?)
    }

    async fn cancel_lock(&self, identity: Identity, ticket: LockTicket) -> FsResult<LockOutcome> {
        let request = v1::CancelLockRequest {
            identity: some_identity(&identity),
            ticket: Some(lock_ticket_to_wire(&ticket)),
        };
        let reply = self
            .transport
            .call::<_, v1::LockReply>(Method::CancelLock, request);
        lock_outcome_from_wire(reply.await?)
    }

    async fn test_lock(&self, identity: Identity, ino: Ino, lock: LockSpec) -> FsResult<Option<HeldLock>> {
        let request = v1::TestLockRequest {
            identity: some_identity(&identity),
            ino: ino.0,
            lock: Some(lock_to_wire(&lock)),
        };
        let reply = self
            .transport
            .call::<_, v1::TestLockReply>(Method::TestLock, request);
        reply.await?.held.map(held_lock_from_wire).transpose()
    }

    async fn statfs(&self, identity: Identity) -> FsResult<StatFs> {
        let identity = some_identity(&identity);
        let request = v1::StatfsRequest { identity };
        statfs_from_wire(
            self.transport
                .call::<_, v1::StatfsReply>(Method::Statfs, request)
                .await?,
        )
    }

    async fn usage(&self, identity: Identity, ino: Ino) -> FsResult<TreeUsage> {
        let request = v1::InoRequest {
            identity: some_identity(&identity),
            ino: ino.0,
        };
        tree_usage_from_wire(
            self.transport
                .call::<_, v1::TreeUsage>(Method::Usage, request)
                .await?,
        )
    }

    async fn cluster_state(&self, identity: Identity, known_version: u64) -> FsResult<ClusterUpdate> {
        let request = v1::ClusterStateRequest {
            identity: some_identity(&identity),
            known_version,
        };
        cluster_update_from_wire(
            self.transport
                .call::<_, v1::ClusterUpdate>(Method::ClusterState, request)
                .await?,
        )
    }

    async fn lifeline(&self, identity: Identity, number: u64) -> FsResult<Box<dyn Lifeline>> {
        self.transport.lifeline(&identity, number).await
    }

    async fn recalls(&self, identity: Identity, stream: u64, obeyed: Obeyed) -> FsResult<RecallPage> {
        let request = recalls_request(identity_to_wire(&identity), stream, &obeyed);
        let reply = self
            .transport
            .call::<_, v1::RecallsReply>(Method::Recalls, request)
            .await?;
        recall_page_from_wire(reply)
    }
}
