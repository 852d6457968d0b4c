//! A running datanode: its data directory, its port, its dealings with the coordinator, and an orderly end.

use crate::config::{DatanodeConfig, Tuning};
use crate::identity::Identity;
use crate::inventory::Inventory;
use crate::membership::{Progress, Registrar};
use crate::peers::Peers;
use crate::replication::Replication;
use crate::service::{DatanodeService, Standing};
use crate::store::{ChunkStore, DiskHealth, DiskSync, KernelSync, LocalStore, StoreSettings};
use dfs_common::clock::{Clock, SystemClock};
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::service::{ChunkConnector, ChunkService};
use dfs_common::{ErrorKind, FsError, FsResult, NodeId};
use dfs_proto::convert::check_address;
use dfs_proto::framed;
use dfs_proto::grpc::{ChunkGrpcServer, tuned_server};
use dfs_proto::socket::{Listener, LocalSockets, Peer};
use dfs_proto::{ChunkChannels, Transport};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// How long running calls may take to finish at shutdown.
const DRAIN_DEADLINE: Duration = Duration::from_secs(5);

/// Runs `work` where it may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> FsResult<T> + Send + 'static,
) -> FsResult<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(FsError::new(
            ErrorKind::Io,
            format!("work on the disk did not end: {error}"),
        )),
    }
}

/// What a datanode is made of, apart from its settings; tests replace parts.
pub struct Parts {
    /// Source of time for the validity of capabilities.
    pub clock: Arc<dyn Clock>,
    /// Finds other datanodes.
    pub connector: Arc<dyn ChunkConnector>,
    /// Makes files durable.
    pub sync: Arc<dyn DiskSync>,
    /// Times and sizes.
    pub tuning: Tuning,
}

impl Default for Parts {
    fn default() -> Self {
        Parts {
            clock: Arc::new(SystemClock::default()),
            connector: Arc::new(channels(LocalSockets::default())),
            sync: Arc::new(KernelSync),
            tuning: Tuning::default(),
        }
    }
}

/// A running datanode. When it is dropped without [`Datanode::shutdown`] its tasks end by themselves.
pub struct Datanode {
    address: SocketAddr,
    service: Arc<DatanodeService>,
    store: Arc<dyn ChunkStore>,
    standing: Standing,
    progress: watch::Receiver<Progress>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
    /// The framed ones.
    connections: TaskTracker,
    /// Ends them in the middle of what they do.
    end: CancellationToken,
    server: JoinHandle<Result<(), tonic::transport::Error>>,
    registrar: JoinHandle<()>,
}

impl Datanode {
    /// Opens the data directory, binds the port, serves chunks and begins to register. Does not wait for the coordinator: a node
    /// that was registered once serves without it.
    ///
    /// # Errors
    /// `Invalid` (settings), `Busy` (port or data directory in use), and those of [`Identity::open`] and [`LocalStore::open`].
    pub async fn start(config: DatanodeConfig) -> FsResult<Datanode> {
        let parts = Parts {
            connector: Arc::new(channels(config.local_sockets)),
            ..Parts::default()
        };
        Self::start_with(config, parts).await
    }

    /// [`Datanode::start`] with other parts, for tests.
    pub async fn start_with(config: DatanodeConfig, parts: Parts) -> FsResult<Datanode> {
        check_address(&config.coordinator).map_err(|error| error.context("the coordinator's address"))?;
        let listener = Listener::bind(config.listen, config.local_sockets).await?;
        let address = listener.address();
        let advertised = advertised(&config, address)?;
        let Parts {
            clock,
            connector,
            sync,
            tuning,
        } = parts;
        let inventory = Arc::new(Inventory::default());
        let settings = StoreSettings {
            writes_max: tuning.writes_max,
            reserve_bytes_max: tuning.reserve_bytes_max,
        };
        let (identity, store) = {
            let (data_dir, inventory) = (config.data_dir.clone(), inventory.clone());
            blocking(move || open(data_dir, settings, sync, inventory)).await?
        };
        let store: Arc<dyn ChunkStore> = Arc::new(store);
        let standing = Standing::new(parking_lot::RwLock::new(identity.membership()));
        let peers = Arc::new(Peers::default());
        let service = Arc::new(DatanodeService::new(
            store.clone(),
            Replication::new(connector, peers.clone(), tuning.clone()),
            standing.clone(),
            clock,
            advertised.clone(),
        ));
        let stop = CancellationToken::new();
        let router = tuned_server().add_service(ChunkGrpcServer::new(service.clone()).into_service());
        let connections = TaskTracker::new();
        let end = CancellationToken::new();
        let serve = framed::unless(end.clone(), framed::serve_chunks(service.clone(), None));
        let incoming = framed::split(listener, serve, connections.clone(), stop.clone());
        let server =
            tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
        let (sender, progress) = watch::channel(Progress::Waiting(None));
        let registrar = Registrar {
            coordinator: Peer::new(config.coordinator, config.local_sockets),
            address: advertised.clone(),
            identity,
            store: store.clone(),
            inventory,
            peers,
            standing: standing.clone(),
            progress: sender,
            tuning,
        };
        let registrar = tokio::spawn(registrar.run(stop.clone()));
        tracing::info!(%address, advertised, data = %config.data_dir.display(), "datanode serves");
        Ok(Datanode {
            address,
            service,
            store,
            standing,
            progress,
            _stop_when_dropped: stop.clone().drop_guard(),
            stop,
            connections,
            end,
            server,
            registrar,
        })
    }

    /// The bound address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The chunk service without the network.
    pub fn chunk_service(&self) -> Arc<dyn ChunkService> {
        self.service.clone()
    }

    /// The store below it.
    pub fn store(&self) -> Arc<dyn ChunkStore> {
        self.store.clone()
    }

    /// This node's number, once it was registered, in this run or an earlier one.
    pub fn node(&self) -> Option<NodeId> {
        self.standing.read().map(|membership| membership.node)
    }

    /// Waits until it is registered in this run.
    ///
    /// # Errors
    /// `TimedOut` after `patience`, with what kept it; why it cannot go on, if it cannot.
    pub async fn wait_registered(&self, patience: Duration) -> FsResult<()> {
        let mut progress = self.progress.clone();
        let decided = progress.wait_for(|progress| !matches!(progress, Progress::Waiting(_)));
        let outcome = tokio::time::timeout(patience, decided).await;
        match outcome {
            Ok(Ok(progress)) => match &*progress {
                Progress::Failed(error) => Err(error.clone()),
                _ => Ok(()),
            },
            Ok(Err(_)) => Err(FsError::new(ErrorKind::Unavailable, "the datanode is stopping")),
            Err(_) => {
                let why = match &*self.progress.borrow() {
                    Progress::Waiting(Some(error)) => error.to_string(),
                    _ => "the coordinator has not answered".to_owned(),
                };
                Err(FsError::new(
                    ErrorKind::TimedOut,
                    format!("not registered within {} ms: {why}", patience.as_millis()),
                ))
            }
        }
    }

    /// Resolves when the node cannot go on: refused by the coordinator, or its data directory is gone.
    pub async fn failed(&self) -> FsError {
        let mut progress = self.progress.clone();
        loop {
            if let Progress::Failed(error) = &*progress.borrow_and_update() {
                return error.clone();
            }
            if progress.changed().await.is_err() {
                break;
            }
        }
        // It stops in good order.
        std::future::pending().await
    }

    /// Stops serving, finishes the calls under way, closes the store and frees the data directory.
    pub async fn shutdown(self) {
        self.stop.cancel();
        let Datanode {
            address,
            service,
            store,
            connections,
            end,
            mut server,
            registrar,
            ..
        } = self;
        if let Err(error) = registrar.await {
            tracing::error!(%error, "the registrar failed");
        }
        connections.close();
        let ended = async { tokio::join!(&mut server, connections.wait()) };
        if tokio::time::timeout(DRAIN_DEADLINE, ended).await.is_err() {
            end.cancel();
            server.abort();
            let _ = server.await;
            connections.wait().await;
        }
        if tokio::time::timeout(DRAIN_DEADLINE, store.close()).await.is_err() {
            tracing::warn!("a write did not end; the next start will check the chunk files");
        }
        drop(service);
        // Closing the index joins threads.
        let _ = tokio::task::spawn_blocking(move || drop(store)).await;
        tracing::info!(%address, "datanode stopped");
    }
}

fn open(
    data_dir: PathBuf,
    settings: StoreSettings,
    sync: Arc<dyn DiskSync>,
    inventory: Arc<Inventory>,
) -> FsResult<(Arc<Identity>, LocalStore)> {
    let identity = Arc::new(Identity::open(&data_dir)?);
    let (disk, failure) = identity.disk();
    let recorder = identity.clone();
    let health = DiskHealth::new(
        disk,
        failure,
        Box::new(move |why, disk| recorder.fail_disk(why, disk)),
    );
    let store = LocalStore::open(&data_dir, settings, Arc::new(health), sync, inventory)?;
    Ok((identity, store))
}

/// Where this node forwards to.
fn channels(local_sockets: LocalSockets) -> ChunkChannels {
    ChunkChannels::new(Transport::Framed, CALL_DEADLINE, local_sockets)
}

/// `host:port` that others are told.
fn advertised(config: &DatanodeConfig, bound: SocketAddr) -> FsResult<String> {
    let address = match &config.advertise {
        Some(address) => address.clone(),
        None if bound.ip().is_unspecified() => {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!(
                    "{bound} is every address of this machine: name the one that clients use with --advertise HOST:PORT"
                ),
            ));
        }
        None => bound.to_string(),
    };
    check_address(&address).map_err(|error| error.context("the address to advertise"))?;
    Ok(address)
}
