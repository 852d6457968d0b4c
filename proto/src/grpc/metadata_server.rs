//! Serves a [`MetadataService`] over gRPC.

use crate::metadata::MetadataHandler;
use crate::status::to_status;
use crate::v1;
use crate::v1::metadata_server::{Metadata, MetadataServer};
use dfs_common::FsResult;
use dfs_common::limits::MESSAGE_BYTES_MAX;
use dfs_common::service::MetadataService;
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// The adapter between the generated server and a [`MetadataService`].
pub struct MetadataGrpcServer<S: ?Sized> {
    handler: MetadataHandler<S>,
}

impl<S: MetadataService + ?Sized> MetadataGrpcServer<S> {
    /// Serves `service`.
    pub fn new(service: Arc<S>) -> Self {
        MetadataGrpcServer {
            handler: MetadataHandler::new(service),
        }
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

/// The generated trait's methods: unpack, call the handler's method of the same name, answer.
macro_rules! unary {
    ($($method:ident: $request:ident => $reply:ident),+ $(,)?) => {
        #[tonic::async_trait]
        impl<S: MetadataService + ?Sized> Metadata for MetadataGrpcServer<S> {
            $(async fn $method(
                &self,
                request: Request<v1::$request>,
            ) -> Result<Response<v1::$reply>, Status> {
                respond(self.handler.$method(request.into_inner()).await)
            })+
        }
    };
}

unary! {
    open_session: OpenSessionRequest => OpenSessionReply,
    keep_alive: KeepAliveRequest => KeepAliveReply,
    close_session: CloseSessionRequest => Empty,
    mutate: MutateRequest => MutateReply,
    lookup: LookupRequest => Found,
    getattr: InoRequest => Found,
    readlink: InoRequest => ReadlinkReply,
    readdir: ReaddirRequest => ReaddirReply,
    getxattr: GetxattrRequest => GetxattrReply,
    listxattr: ListxattrRequest => ListxattrReply,
    read_extents: ReadExtentsRequest => ExtentPage,
    open: OpenRequest => OpenReply,
    release: ReleaseRequest => Empty,
    statfs: StatfsRequest => StatfsReply,
    cluster_state: ClusterStateRequest => ClusterUpdate,
    recalls: RecallsRequest => RecallsReply,
    fsync: InoRequest => CommitPoint,
    usage: InoRequest => TreeUsage,
    lock: LockRequest => LockReply,
    unlock: UnlockRequest => LockReply,
    cancel_lock: CancelLockRequest => LockReply,
    test_lock: TestLockRequest => TestLockReply,
}
