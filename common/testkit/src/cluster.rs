//! A real cluster in this process: a coordinator and datanodes on loopback, with data directories that go with it.
//!
//! Every server has a runtime of its own, so that it can be killed: its tasks end where they stand, nothing is flushed or
//! closed in order, and what it had written is what a restart finds. Restarts take the same address and data.

use dfs_client::{AdminClient, Client, ClientConfig, ClusterStatus};
use dfs_common::capability::CapabilityKey;
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::service::{ChunkService, MetadataService};
use dfs_common::{ErrorKind, FsResult, Ino, Quota};
use dfs_coordinator::{Coordinator, CoordinatorConfig};
use dfs_datanode::{Datanode, DatanodeConfig};
use dfs_proto::framed::{ChunkFramedClient, MetadataFramedClient};
use dfs_proto::grpc::{ChunkGrpcClient, MetadataGrpcClient};
use dfs_proto::socket::{LocalSockets, Peer};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// For how long the cluster waits for anything before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at what is waited for.
const POLL: Duration = Duration::from_millis(10);

/// What a cluster looks like.
#[derive(Clone, Debug)]
pub struct ClusterOptions {
    /// Datanodes.
    pub datanodes: usize,
    /// Replicas that a new chunk shall have; not more than there are datanodes.
    pub replication: u32,
    /// Receipts without which a commit is refused.
    pub replication_floor: u32,
    /// Size at which writers cut chunks, in bytes.
    pub chunk_bytes: u64,
    /// How long freed chunks are kept.
    pub freed_chunk_delay: Duration,
    /// Whether servers and clients talk over Unix sockets.
    pub local_sockets: LocalSockets,
}

impl Default for ClusterOptions {
    /// Three datanodes, three replicas with a floor of two, chunks of 256 KiB.
    fn default() -> Self {
        ClusterOptions {
            datanodes: 3,
            replication: 3,
            replication_floor: 2,
            chunk_bytes: 256 << 10,
            freed_chunk_delay: Duration::from_secs(60),
            local_sockets: LocalSockets::default(),
        }
    }
}

/// A server and the runtime it lives in.
struct Running<S> {
    server: S,
    runtime: Runtime,
}

impl<S: Send + 'static> Running<S> {
    async fn start<F>(start: impl FnOnce() -> F) -> FsResult<Running<S>>
    where
        F: Future<Output = FsResult<S>> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime can be made");
        let started = runtime
            .spawn(start())
            .await
            .expect("starting a server does not panic");
        match started {
            Ok(server) => Ok(Running { server, runtime }),
            Err(error) => {
                runtime.shutdown_background();
                Err(error)
            }
        }
    }

    /// In order.
    async fn stop<F>(self, shutdown: impl FnOnce(S) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let Running { server, runtime } = self;
        runtime
            .spawn(shutdown(server))
            .await
            .expect("stopping a server does not panic");
        runtime.shutdown_background();
    }

    /// Where it stands.
    async fn kill(self) {
        let Running { server, runtime } = self;
        let ended = tokio::task::spawn_blocking(move || {
            runtime.shutdown_timeout(PATIENCE);
            drop(server);
        });
        ended.await.expect("ending a runtime does not panic");
    }

    fn kill_now(self) {
        let Running { server, runtime } = self;
        runtime.shutdown_background();
        drop(server);
    }
}

/// Starts a server; a predecessor that was killed may take a moment to let go of its directory and port.
async fn start_when_free<S, F>(start: impl Fn() -> F) -> Running<S>
where
    S: Send + 'static,
    F: Future<Output = FsResult<S>> + Send + 'static,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Running::start(&start).await {
            Ok(running) => return running,
            Err(error) if error.kind() == ErrorKind::Busy && Instant::now() < deadline => {
                tokio::time::sleep(POLL).await;
            }
            Err(error) => panic!("a server did not start: {error}"),
        }
    }
}

/// A datanode's place: its directory, its address, and the server while it runs.
struct Place {
    data_dir: PathBuf,
    address: SocketAddr,
    running: Option<Running<Datanode>>,
}

/// A coordinator and datanodes in this process. Dropping it ends them and removes their data.
pub struct InProcessCluster {
    options: ClusterOptions,
    coordinator_address: SocketAddr,
    coordinator: Option<Running<Coordinator>>,
    datanodes: Vec<Place>,
    directory: tempfile::TempDir,
}

impl InProcessCluster {
    /// Starts a cluster and waits until it is healthy.
    pub async fn start(datanodes: usize) -> Self {
        let replication = u32::try_from(datanodes.min(3)).expect("at most 3");
        let floor = replication.min(2);
        Self::start_with(ClusterOptions {
            datanodes,
            replication,
            replication_floor: floor,
            ..ClusterOptions::default()
        })
        .await
    }

    /// As [`InProcessCluster::start`], with other options.
    pub async fn start_with(options: ClusterOptions) -> Self {
        let directory = tempfile::Builder::new()
            .prefix("dfs-cluster-")
            .tempdir()
            .expect("a directory for the test");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let mut cluster = InProcessCluster {
            coordinator_address: any,
            coordinator: None,
            datanodes: Vec::new(),
            directory,
            options,
        };
        cluster.start_coordinator().await;
        for index in 0..cluster.options.datanodes {
            let data_dir = cluster.directory.path().join(format!("datanode-{}", index + 1));
            cluster.datanodes.push(Place {
                data_dir,
                address: any,
                running: None,
            });
            cluster.start_datanode(index).await;
        }
        cluster.wait_healthy().await;
        cluster
    }

    // Servers.

    /// Starts the coordinator, on the address and data it had.
    pub async fn start_coordinator(&mut self) {
        assert!(self.coordinator.is_none(), "the coordinator runs");
        let options = &self.options;
        let config = CoordinatorConfig {
            replication: options.replication,
            replication_floor: options.replication_floor,
            chunk_bytes: options.chunk_bytes,
            freed_chunk_delay: options.freed_chunk_delay,
            local_sockets: options.local_sockets,
            ..CoordinatorConfig::new(
                self.directory.path().join("coordinator"),
                self.coordinator_address,
            )
        };
        let running = start_when_free(|| Coordinator::start(config.clone())).await;
        self.coordinator_address = running.server.address();
        self.coordinator = Some(running);
    }

    /// Stops the coordinator in order.
    pub async fn stop_coordinator(&mut self) {
        let running = self.coordinator.take().expect("the coordinator runs");
        running.stop(Coordinator::shutdown).await;
    }

    /// Ends the coordinator where it stands.
    pub async fn kill_coordinator(&mut self) {
        self.coordinator
            .take()
            .expect("the coordinator runs")
            .kill()
            .await;
    }

    /// Kills the coordinator and starts it again.
    pub async fn restart_coordinator(&mut self) {
        self.kill_coordinator().await;
        self.start_coordinator().await;
    }

    /// Starts the datanode of `index` (from 0), on the address and data it had, and waits until it is registered, if there
    /// is a coordinator.
    pub async fn start_datanode(&mut self, index: usize) {
        let coordinator = self.coordinator_address.to_string();
        let local_sockets = self.options.local_sockets;
        let place = &mut self.datanodes[index];
        assert!(place.running.is_none(), "datanode {index} runs");
        let config = DatanodeConfig {
            data_dir: place.data_dir.clone(),
            listen: place.address,
            local_sockets,
            advertise: None,
            coordinator,
        };
        let running = start_when_free(|| Datanode::start(config.clone())).await;
        place.address = running.server.address();
        if self.coordinator.is_some() {
            running
                .server
                .wait_registered(PATIENCE)
                .await
                .expect("the datanode registers");
        }
        place.running = Some(running);
    }

    /// Stops a datanode in order.
    pub async fn stop_datanode(&mut self, index: usize) {
        let running = self.datanodes[index].running.take().expect("the datanode runs");
        running.stop(Datanode::shutdown).await;
    }

    /// Ends a datanode where it stands.
    pub async fn kill_datanode(&mut self, index: usize) {
        self.datanodes[index]
            .running
            .take()
            .expect("the datanode runs")
            .kill()
            .await;
    }

    /// Kills a datanode and starts it again.
    pub async fn restart_datanode(&mut self, index: usize) {
        self.kill_datanode(index).await;
        self.start_datanode(index).await;
    }

    // What tests reach.

    /// The server at `address`, talked to as this cluster does.
    fn peer(&self, address: String) -> Peer {
        Peer::new(address, self.options.local_sockets)
    }

    /// `host:port` of the coordinator.
    pub fn coordinator_address(&self) -> String {
        self.coordinator_address.to_string()
    }

    /// `host:port` of a datanode.
    pub fn datanode_address(&self, index: usize) -> String {
        self.datanodes[index].address.to_string()
    }

    /// A datanode's data directory.
    pub fn datanode_dir(&self, index: usize) -> &std::path::Path {
        &self.datanodes[index].data_dir
    }

    /// The coordinator's metadata service, without the network.
    pub fn metadata(&self) -> Arc<dyn MetadataService> {
        self.coordinator
            .as_ref()
            .expect("the coordinator runs")
            .server
            .metadata()
    }

    /// The same over gRPC.
    pub fn metadata_over_grpc(&self) -> Arc<dyn MetadataService> {
        let client = MetadataGrpcClient::connect_lazy(self.peer(self.coordinator_address()), CALL_DEADLINE);
        Arc::new(client.expect("an address of this machine"))
    }

    /// The same over framed connections.
    pub fn metadata_over_frames(&self) -> Arc<dyn MetadataService> {
        let client = MetadataFramedClient::connect_lazy(self.peer(self.coordinator_address()), CALL_DEADLINE);
        Arc::new(client.expect("an address of this machine"))
    }

    /// A datanode's chunk service, without the network.
    pub fn chunks(&self, index: usize) -> Arc<dyn ChunkService> {
        self.datanodes[index]
            .running
            .as_ref()
            .expect("the datanode runs")
            .server
            .chunk_service()
    }

    /// The same over gRPC.
    pub fn chunks_over_grpc(&self, index: usize) -> Arc<dyn ChunkService> {
        let client = ChunkGrpcClient::connect_lazy(self.peer(self.datanode_address(index)), CALL_DEADLINE);
        Arc::new(client.expect("an address of this machine"))
    }

    /// The same over framed connections.
    pub fn chunks_over_frames(&self, index: usize) -> Arc<dyn ChunkService> {
        let client = ChunkFramedClient::connect_lazy(self.peer(self.datanode_address(index)), CALL_DEADLINE);
        Arc::new(client.expect("an address of this machine"))
    }

    /// The key that the coordinator signs chunk capabilities with.
    pub fn capability_key(&self) -> CapabilityKey {
        self.coordinator
            .as_ref()
            .expect("the coordinator runs")
            .server
            .capability_key()
            .expect("it runs")
    }

    /// Settings of a client that gives up when a test should fail.
    pub fn client_config(&self) -> ClientConfig {
        ClientConfig {
            client_name: "test".into(),
            call_patience: Some(PATIENCE),
            local_sockets: self.options.local_sockets,
            ..ClientConfig::new(self.coordinator_address())
        }
    }

    /// A client in the calling runtime.
    pub async fn client(&self) -> Client {
        Client::connect(self.client_config())
            .await
            .expect("the coordinator answers")
    }

    /// Sets the quota of a directory.
    ///
    /// # Errors
    /// Those of [`AdminClient::set_quota`].
    pub async fn set_quota(&self, directory: Ino, quota: Quota) -> FsResult<()> {
        AdminClient::connect_lazy(&self.coordinator_address(), CALL_DEADLINE)?
            .set_quota(directory, quota)
            .await
    }

    /// State of the cluster as administrators see it.
    ///
    /// # Errors
    /// `Unavailable` while the coordinator is away.
    pub async fn status(&self) -> FsResult<ClusterStatus> {
        AdminClient::connect_lazy(&self.coordinator_address(), CALL_DEADLINE)?
            .status()
            .await
    }

    /// Waits until every running datanode is up and every chunk has its replicas.
    pub async fn wait_healthy(&self) {
        let all = self.datanodes.len();
        self.wait_status("healthy", |status| status.healthy && status.nodes.len() == all)
            .await;
    }

    /// Waits until the status is as wanted.
    ///
    /// # Panics
    /// When it is not within a minute.
    pub async fn wait_status(&self, what: &str, wanted: impl Fn(&ClusterStatus) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status().await;
            if status.as_ref().is_ok_and(&wanted) {
                return;
            }
            assert!(
                Instant::now() < deadline,
                "the cluster did not become {what}: {status:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Drop for InProcessCluster {
    fn drop(&mut self) {
        for place in &mut self.datanodes {
            if let Some(running) = place.running.take() {
                running.kill_now();
            }
        }
        if let Some(running) = self.coordinator.take() {
            running.kill_now();
        }
    }
}
