//! Answers wire requests with a [`MetadataService`]: convert, call, convert. Every request is checked by
//! [`crate::convert`] before the service sees it. Both transports use it.

use super::method::Method;
use crate::convert::*;
use crate::framed::FramedHandler;
use crate::v1;
use bytes::Bytes;
use dfs_common::limits::{FILE_BYTES_MAX, READDIR_ENTRIES_MAX, RELEASES_MAX};
use dfs_common::service::{Lifeline, MetadataService};
use dfs_common::session::Identity;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name};
use futures::future::BoxFuture;
use prost::Message;
use std::sync::Arc;
use std::time::Duration;

/// A [`MetadataService`] behind the messages of the wire.
pub struct MetadataHandler<S: ?Sized> {
    service: Arc<S>,
}

impl<S: ?Sized> Clone for MetadataHandler<S> {
    fn clone(&self) -> Self {
        MetadataHandler {
            service: self.service.clone(),
        }
    }
}

impl<S: MetadataService + ?Sized> MetadataHandler<S> {
    /// Answers with `service`.
    pub fn new(service: Arc<S>) -> Self {
        MetadataHandler { service }
    }
}

impl<S: MetadataService + ?Sized> MetadataHandler<S> {
    pub(crate) async fn open_session(
        &self,
        request: v1::OpenSessionRequest,
    ) -> FsResult<v1::OpenSessionReply> {
        let grant = self
            .service
            .open_session(open_session_from_wire(request)?)
            .await?;
        Ok(session_grant_to_wire(&grant))
    }

    pub(crate) async fn keep_alive(&self, request: v1::KeepAliveRequest) -> FsResult<v1::KeepAliveReply> {
        let lease = self
            .service
            .keep_alive(required_identity(request.identity)?)
            .await?;
        Ok(v1::KeepAliveReply {
            lease_ms: duration_to_ms(lease),
        })
    }

    pub(crate) async fn close_session(&self, request: v1::CloseSessionRequest) -> FsResult<v1::Empty> {
        self.service
            .close_session(required_identity(request.identity)?)
            .await?;
        Ok(v1::Empty {})
    }

    pub(crate) async fn mutate(&self, mut request: v1::MutateRequest) -> FsResult<v1::MutateReply> {
        let identity = required_identity(request.identity.take())?;
        let batch = mutation_batch_from_wire(request)?;
        let mutated = self.service.mutate(identity, batch).await?;
        Ok(mutated_to_wire(&mutated))
    }

    pub(crate) async fn fsync(&self, request: v1::InoRequest) -> FsResult<v1::CommitPoint> {
        let identity = required_identity(request.identity)?;
        let point = self.service.fsync(identity, Ino(request.ino)).await?;
        Ok(commit_point_to_wire(point))
    }

    pub(crate) async fn lookup(&self, request: v1::LookupRequest) -> FsResult<v1::Found> {
        let identity = required_identity(request.identity)?;
        let caller = required_caller(request.caller)?;
        let name = Name::new(request.name)?;
        let found = self
            .service
            .lookup(identity, caller, Ino(request.parent), name)
            .await?;
        Ok(found_to_wire(&found))
    }

    pub(crate) async fn getattr(&self, request: v1::InoRequest) -> FsResult<v1::Found> {
        let identity = required_identity(request.identity)?;
        let found = self.service.getattr(identity, Ino(request.ino)).await?;
        Ok(found_to_wire(&found))
    }

    pub(crate) async fn readlink(&self, request: v1::InoRequest) -> FsResult<v1::ReadlinkReply> {
        let identity = required_identity(request.identity)?;
        let target = self.service.readlink(identity, Ino(request.ino)).await?;
        Ok(v1::ReadlinkReply { target })
    }

    pub(crate) async fn readdir(&self, request: v1::ReaddirRequest) -> FsResult<v1::ReaddirReply> {
        let identity = required_identity(request.identity)?;
        let caller = required_caller(request.caller)?;
        let v1::ReaddirRequest {
            ino,
            cursor,
            limit,
            attrs,
            ..
        } = request;
        if limit == 0 || limit > READDIR_ENTRIES_MAX {
            return Err(invalid(format!(
                "ask for 1 to {READDIR_ENTRIES_MAX} entries, not {limit}"
            )));
        }
        let page = self
            .service
            .readdir(identity, caller, Ino(ino), cursor, limit, attrs)
            .await?;
        Ok(dir_page_to_wire(&page))
    }

    pub(crate) async fn getxattr(&self, request: v1::GetxattrRequest) -> FsResult<v1::GetxattrReply> {
        let identity = required_identity(request.identity)?;
        let caller = required_caller(request.caller)?;
        let name = xattr_name(request.name)?;
        let value = self
            .service
            .getxattr(identity, caller, Ino(request.ino), name)
            .await?;
        Ok(v1::GetxattrReply { value })
    }

    pub(crate) async fn listxattr(&self, request: v1::ListxattrRequest) -> FsResult<v1::ListxattrReply> {
        let identity = required_identity(request.identity)?;
        let caller = required_caller(request.caller)?;
        let names = self.service.listxattr(identity, caller, Ino(request.ino)).await?;
        Ok(v1::ListxattrReply { names })
    }

    pub(crate) async fn read_extents(&self, request: v1::ReadExtentsRequest) -> FsResult<v1::ExtentPage> {
        let identity = required_identity(request.identity)?;
        if request.offset > FILE_BYTES_MAX {
            return Err(invalid("an offset is behind the largest file"));
        }
        let page = self
            .service
            .read_extents(
                identity,
                Ino(request.ino),
                request.offset,
                request.length,
                request.settle,
            )
            .await?;
        Ok(extents_to_wire(&page))
    }

    pub(crate) async fn open(&self, request: v1::OpenRequest) -> FsResult<v1::OpenReply> {
        let identity = required_identity(request.identity)?;
        let caller = required_caller(request.caller)?;
        let opened = self
            .service
            .open(identity, caller, Ino(request.ino), request.read, request.write)
            .await?;
        Ok(opened_to_wire(&opened))
    }

    pub(crate) async fn release(&self, request: v1::ReleaseRequest) -> FsResult<v1::Empty> {
        let identity = required_identity(request.identity)?;
        if request.inos.is_empty() {
            return Err(invalid("a release names at least one inode"));
        }
        at_most(request.inos.len(), RELEASES_MAX, "releases")?;
        let inos = request.inos.into_iter().map(Ino).collect();
        self.service.release(identity, inos).await?;
        Ok(v1::Empty {})
    }

    pub(crate) async fn lock(&self, request: v1::LockRequest) -> FsResult<v1::LockReply> {
        let identity = required_identity(request.identity)?;
        let ticket = required_ticket(request.ticket)?;
        let lock = required_lock(request.lock)?;
        let patience = Duration::from_millis(u64::from(request.patience_ms));
        let outcome = self
            .service
            .lock(identity, ticket, Ino(request.ino), lock, patience)
            .await?;
        Ok(lock_outcome_to_wire(outcome))
    }

    pub(crate) async fn unlock(&self, request: v1::UnlockRequest) -> FsResult<v1::LockReply> {
        let identity = required_identity(request.identity)?;
        let ticket = required_ticket(request.ticket)?;
        let (owner, range) = unlock_from_wire(request.lock)?;
        let outcome = self
            .service
            .unlock(identity, ticket, Ino(request.ino), owner, range)
            .await?;
        Ok(lock_outcome_to_wire(outcome))
    }

    pub(crate) async fn cancel_lock(&self, request: v1::CancelLockRequest) -> FsResult<v1::LockReply> {
        let identity = required_identity(request.identity)?;
        let ticket = required_ticket(request.ticket)?;
        let outcome = self.service.cancel_lock(identity, ticket).await?;
        Ok(lock_outcome_to_wire(outcome))
    }

    pub(crate) async fn test_lock(&self, request: v1::TestLockRequest) -> FsResult<v1::TestLockReply> {
        let identity = required_identity(request.identity)?;
        let lock = required_lock(request.lock)?;
        let held = self.service.test_lock(identity, Ino(request.ino), lock).await?;
        Ok(v1::TestLockReply {
            held: held.as_ref().map(held_lock_to_wire),
        })
    }

    pub(crate) async fn statfs(&self, request: v1::StatfsRequest) -> FsResult<v1::StatfsReply> {
        let totals = self.service.statfs(required_identity(request.identity)?).await?;
        Ok(statfs_to_wire(&totals))
    }

    pub(crate) async fn usage(&self, request: v1::InoRequest) -> FsResult<v1::TreeUsage> {
        let identity = required_identity(request.identity)?;
        let usage = self.service.usage(identity, Ino(request.ino)).await?;
        Ok(tree_usage_to_wire(&usage))
    }

    pub(crate) async fn cluster_state(
        &self,
        request: v1::ClusterStateRequest,
    ) -> FsResult<v1::ClusterUpdate> {
        let identity = required_identity(request.identity)?;
        let update = self
            .service
            .cluster_state(identity, request.known_version)
            .await?;
        Ok(cluster_update_to_wire(&update))
    }

    pub(crate) async fn recalls(&self, request: v1::RecallsRequest) -> FsResult<v1::RecallsReply> {
        let obeyed = obeyed_from_wire(&request)?;
        let identity = required_identity(request.identity)?;
        let page = self.service.recalls(identity, request.stream, obeyed).await?;
        Ok(recall_page_to_wire(&page))
    }
}

/// Decodes a request, calls the method of its name above, encodes the reply.
macro_rules! dispatch {
    ($($variant:ident: $method:ident),+ $(,)?) => {
        impl<S: MetadataService + ?Sized> FramedHandler for MetadataHandler<S> {
            fn call(self: Arc<Self>, method: u16, payload: Bytes) -> BoxFuture<'static, FsResult<Bytes>> {
                Box::pin(async move {
                    match Method::from_number(method) {
                        $(Some(Method::$variant) => {
                            let reply = self.$method(decode(payload)?).await?;
                            Ok(reply.encode_to_vec().into())
                        })+
                        None => Err(FsError::new(
                            ErrorKind::UnknownVersion,
                            format!("method {method} is unknown here: run the same release on both sides"),
                        )),
                    }
                })
            }

            fn lifeline(
                self: Arc<Self>,
                identity: Identity,
                number: u64,
            ) -> BoxFuture<'static, FsResult<Box<dyn Lifeline>>> {
                Box::pin(async move { self.service.lifeline(identity, number).await })
            }
        }
    };
}

fn decode<T: Message + Default>(payload: Bytes) -> FsResult<T> {
    T::decode(payload).map_err(|error| invalid(format!("a request is unreadable ({error})")))
}

dispatch! {
    OpenSession: open_session,
    KeepAlive: keep_alive,
    CloseSession: close_session,
    Mutate: mutate,
    Lookup: lookup,
    Getattr: getattr,
    Readlink: readlink,
    Readdir: readdir,
    Getxattr: getxattr,
    Listxattr: listxattr,
    ReadExtents: read_extents,
    Open: open,
    Release: release,
    Statfs: statfs,
    ClusterState: cluster_state,
    Fsync: fsync,
    Usage: usage,
    Lock: lock,
    Unlock: unlock,
    CancelLock: cancel_lock,
    TestLock: test_lock,
    Recalls: recalls,
}
