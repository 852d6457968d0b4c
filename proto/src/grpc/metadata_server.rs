//! Serves a [`MetadataService`] over gRPC: every request is checked by [`crate::convert`] before the service sees it.

use crate::convert::*;
use crate::status::to_status;
use crate::v1;
use crate::v1::metadata_server::{Metadata, MetadataServer};
use dfs_common::limits::{FILE_BYTES_MAX, MESSAGE_BYTES_MAX, READDIR_ENTRIES_MAX, RELEASES_MAX};
use dfs_common::service::MetadataService;
use dfs_common::{FsResult, Ino, Name};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The adapter between the generated server and a [`MetadataService`].
pub struct MetadataGrpcServer<S: ?Sized> {
    service: Arc<S>,
}

impl<S: MetadataService + ?Sized> MetadataGrpcServer<S> {
    /// Serves `service`.
    pub fn new(service: Arc<S>) -> Self {
        MetadataGrpcServer { service }
    }

    /// The tower service for [`tonic::transport::Server::add_service`], with messages bounded both ways.
    pub fn into_service(self) -> MetadataServer<Self> {
        MetadataServer::new(self)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX)
    }
}

/// The reply, or the error as status.
fn respond<T>(result: FsResult<T>) -> Result<Response<T>, Status> {
    result.map(Response::new).map_err(|error| to_status(&error))
}

impl<S: MetadataService + ?Sized> MetadataGrpcServer<S> {
    async fn open_session(&self, request: v1::OpenSessionRequest) -> FsResult<v1::OpenSessionReply> {
        let grant = self
            .service
            .open_session(open_session_from_wire(request)?)
            .await?;
        Ok(session_grant_to_wire(&grant))
    }

    async fn keep_alive(&self, request: v1::KeepAliveRequest) -> FsResult<v1::KeepAliveReply> {
        let lease = self
            .service
            .keep_alive(required_identity(request.identity)?)
            .await?;
        Ok(v1::KeepAliveReply {
            lease_ms: duration_to_ms(lease),
        })
    }

    async fn close_session(&self, request: v1::CloseSessionRequest) -> FsResult<v1::Empty> {
        self.service
            .close_session(required_identity(request.identity)?)
            .await?;
        Ok(v1::Empty {})
    }

    async fn mutate(&self, mut request: v1::MutateRequest) -> FsResult<v1::MutateReply> {
        let identity = required_identity(request.identity.take())?;
        let batch = mutation_batch_from_wire(request)?;
        let results = self.service.mutate(identity, batch).await?;
        Ok(op_results_to_wire(&results))
    }

    async fn lookup(&self, request: v1::LookupRequest) -> FsResult<v1::Entry> {
        let identity = required_identity(request.identity)?;
        let caller = required_caller(request.caller)?;
        let name = Name::new(request.name)?;
        let entry = self
            .service
            .lookup(identity, caller, Ino(request.parent), name)
            .await?;
        Ok(entry_to_wire(&entry))
    }

    async fn getattr(&self, request: v1::InoRequest) -> FsResult<v1::Attr> {
        let identity = required_identity(request.identity)?;
        let attr = self.service.getattr(identity, Ino(request.ino)).await?;
        Ok(attr_to_wire(&attr))
    }

    async fn readlink(&self, request: v1::InoRequest) -> FsResult<v1::ReadlinkReply> {
        let identity = required_identity(request.identity)?;
        let target = self.service.readlink(identity, Ino(request.ino)).await?;
        Ok(v1::ReadlinkReply { target })
    }

    async fn readdir(&self, request: v1::ReaddirRequest) -> FsResult<v1::ReaddirReply> {
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

    async fn getxattr(&self, request: v1::GetxattrRequest) -> FsResult<v1::GetxattrReply> {
        let identity = required_identity(request.identity)?;
        let caller = required_caller(request.caller)?;
        let name = xattr_name(request.name)?;
        let value = self
            .service
            .getxattr(identity, caller, Ino(request.ino), name)
            .await?;
        Ok(v1::GetxattrReply { value })
    }

    async fn listxattr(&self, request: v1::ListxattrRequest) -> FsResult<v1::ListxattrReply> {
        let identity = required_identity(request.identity)?;
        let caller = required_caller(request.caller)?;
        let names = self.service.listxattr(identity, caller, Ino(request.ino)).await?;
        Ok(v1::ListxattrReply { names })
    }

    async fn read_extents(&self, request: v1::ReadExtentsRequest) -> FsResult<v1::ExtentPage> {
        let identity = required_identity(request.identity)?;
        if request.offset > FILE_BYTES_MAX {
            return Err(invalid("an offset is behind the largest file"));
        }
        let page = self
            .service
            .read_extents(identity, Ino(request.ino), request.offset, request.length)
            .await?;
        Ok(extent_page_to_wire(&page))
    }

    async fn open(&self, request: v1::OpenRequest) -> FsResult<v1::OpenReply> {
        let identity = required_identity(request.identity)?;
        let caller = required_caller(request.caller)?;
        let opened = self
            .service
            .open(identity, caller, Ino(request.ino), request.read, request.write)
            .await?;
        Ok(opened_to_wire(&opened))
    }

    async fn release(&self, request: v1::ReleaseRequest) -> FsResult<v1::Empty> {
        let identity = required_identity(request.identity)?;
        if request.inos.is_empty() {
            return Err(invalid("a release names at least one inode"));
        }
        at_most(request.inos.len(), RELEASES_MAX, "releases")?;
        let inos = request.inos.into_iter().map(Ino).collect();
        self.service.release(identity, inos).await?;
        Ok(v1::Empty {})
    }

    async fn statfs(&self, request: v1::StatfsRequest) -> FsResult<v1::StatfsReply> {
        let totals = self.service.statfs(required_identity(request.identity)?).await?;
        Ok(statfs_to_wire(&totals))
    }

    async fn cluster_state(&self, request: v1::ClusterStateRequest) -> FsResult<v1::ClusterUpdate> {
        let identity = required_identity(request.identity)?;
        let update = self
            .service
            .cluster_state(identity, request.known_version)
            .await?;
        Ok(cluster_update_to_wire(&update))
    }
}

/// The generated trait's methods: unpack, call the method of the same name above, answer.
macro_rules! unary {
    ($($method:ident: $request:ident => $reply:ident),+ $(,)?) => {
        #[tonic::async_trait]
        impl<S: MetadataService + ?Sized> Metadata for MetadataGrpcServer<S> {
            $(async fn $method(
                &self,
                request: Request<v1::$request>,
            ) -> Result<Response<v1::$reply>, Status> {
                respond(MetadataGrpcServer::$method(self, request.into_inner()).await)
            })+
        }
    };
}

unary! {
    open_session: OpenSessionRequest => OpenSessionReply,
    keep_alive: KeepAliveRequest => KeepAliveReply,
    close_session: CloseSessionRequest => Empty,
    mutate: MutateRequest => MutateReply,
    lookup: LookupRequest => Entry,
    getattr: InoRequest => Attr,
    readlink: InoRequest => ReadlinkReply,
    readdir: ReaddirRequest => ReaddirReply,
    getxattr: GetxattrRequest => GetxattrReply,
    listxattr: ListxattrRequest => ListxattrReply,
    read_extents: ReadExtentsRequest => ExtentPage,
    open: OpenRequest => OpenReply,
    release: ReleaseRequest => Empty,
    statfs: StatfsRequest => StatfsReply,
    cluster_state: ClusterStateRequest => ClusterUpdate,
}
