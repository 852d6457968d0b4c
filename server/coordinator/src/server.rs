//! A running coordinator: its port, its services, its background work, and an orderly end.

use crate::admin::AdminService;
use crate::cluster::service::ClusterService;
use crate::config::CoordinatorConfig;
use crate::core::Core;
use crate::service::CoordinatorService;
use dfs_common::capability::CapabilityKey;
use dfs_common::clock::{Clock, SystemClock};
use dfs_common::service::MetadataService;
use dfs_common::{ClusterId, ErrorKind, FsError, FsResult};
use dfs_proto::framed;
use dfs_proto::grpc::{MetadataGrpcServer, tuned_server};
use dfs_proto::metadata::MetadataHandler;
use dfs_proto::socket::Listener;
use dfs_proto::v1::admin_server::AdminServer;
use dfs_proto::v1::cluster_server::ClusterServer;
use dfs_proto::{ChunkChannels, Transport};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long running calls may take to finish at shutdown.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);
/// How long a datanode may take to delete a chunk: shutdown waits for it.
const DELETE_DEADLINE: Duration = Duration::from_secs(3);
/// Between two looks whether running calls have finished.
const DRAIN_POLL: Duration = Duration::from_millis(2);

/// A running coordinator. Drop it only after [`Coordinator::shutdown`], or its tasks end with the runtime.
pub struct Coordinator {
    address: SocketAddr,
    cluster: ClusterId,
    service: Arc<CoordinatorService>,
    stop: CancellationToken,
    /// Framed connections and the calls on them.
    connections: TaskTracker,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Coordinator {
    /// Opens the data directory, binds the port and serves metadata, cluster and admin on it.
    ///
    /// # Errors
    /// `Invalid` (settings), `Busy` (port or data directory in use), and those of [`crate::identity::DataDir::open`].
    pub async fn start(config: CoordinatorConfig) -> FsResult<Coordinator> {
        Self::start_with_clock(config, Arc::new(SystemClock::default())).await
    }

    /// [`Coordinator::start`] with another source of time, for tests.
    pub async fn start_with_clock(config: CoordinatorConfig, clock: Arc<dyn Clock>) -> FsResult<Coordinator> {
        config.validate()?;
        // The port first: a coordinator that cannot serve must not raise the epoch of a data directory.
        let local_sockets = config.local_sockets;
        let listener = Listener::bind(config.listen, local_sockets).await?;
        let address = listener.address();
        let core = tokio::task::spawn_blocking(move || Core::open(&config, clock))
            .await
            .map_err(|error| {
                FsError::new(ErrorKind::Io, format!("opening the coordinator failed: {error}"))
            })??;
        let chunks = Arc::new(ChunkChannels::new(
            Transport::Framed,
            DELETE_DEADLINE,
            local_sockets,
        ));
        core.start_workers(chunks.clone());
        let cluster = core.cluster_id;
        let service = Arc::new(CoordinatorService::new(Arc::new(core)));
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let admin = AdminService::new(service.clone(), chunks, stop.clone());
        let router = tuned_server()
            .add_service(MetadataGrpcServer::new(service.clone()).into_service())
            .add_service(ClusterServer::new(ClusterService::new(service.clone())))
            .add_service(AdminServer::new(admin));
        let connections = TaskTracker::new();
        let handler = Arc::new(MetadataHandler::new(service.clone()));
        let serve = framed::serve_calls(handler, connections.clone());
        let incoming = framed::split(listener, serve, connections.clone(), stop.clone());
        let server = tokio::spawn(router.serve_with_incoming_shutdown(incoming, stopped.cancelled_owned()));
        tracing::info!(%address, %cluster, "coordinator serves");
        Ok(Coordinator {
            address,
            cluster,
            service,
            stop,
            connections,
            server,
        })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The cluster that it serves.
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }

    /// The metadata service without the network.
    pub fn metadata(&self) -> Arc<dyn MetadataService> {
        self.service.clone()
    }

    /// What it signs chunk capabilities with, for tests in the same process.
    ///
    /// # Errors
    /// `Unavailable` if it was stopped.
    pub fn capability_key(&self) -> FsResult<CapabilityKey> {
        self.service.core().map(|core| core.capability_key)
    }

    /// Name and status of each background worker.
    pub fn workers(&self) -> Vec<(&'static str, String)> {
        self.service
            .core()
            .map(|core| core.workers.list())
            .unwrap_or_default()
    }

    /// Resolves when the coordinator can write no more (a commit failed): restart it then.
    pub async fn failed(&self) -> FsError {
        match self.service.core() {
            Ok(core) => core.applier.failed().await,
            Err(error) => error,
        }
    }

    /// Stops serving, finishes what was accepted, closes the store and frees the data directory.
    pub async fn shutdown(self) {
        self.stop.cancel();
        let mut server = self.server;
        let core = self.service.close();
        if let Some(core) = &core {
            core.workers.stop().await;
            core.applier.stop().await;
        }
        self.connections.close();
        let ended = async { tokio::join!(&mut server, self.connections.wait()) };
        if tokio::time::timeout(DRAIN_DEADLINE, ended).await.is_err() {
            server.abort();
        }
        let Some(core) = core else { return };
        let deadline = tokio::time::Instant::now() + DRAIN_DEADLINE;
        while Arc::strong_count(&core) > 1 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(DRAIN_POLL).await;
        }
        // Closing a store syncs and joins threads.
        let _ = tokio::task::spawn_blocking(move || drop(core)).await;
        tracing::info!(address = %self.address, "coordinator stopped");
    }
}
