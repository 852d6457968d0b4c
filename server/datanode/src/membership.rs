//! Registers with the coordinator and reports to it: heartbeats with the load and the inventory, answered with the cluster state.
//!
//! A coordinator that cannot be reached is waited for, for ever; one that refuses this node (another cluster, a wrong secret, another
//! protocol), or a data directory that is gone, ends the node. Invariant: what the coordinator told is durable in the identity before
//! anything is served under it.

use crate::config::Tuning;
use crate::identity::{Identity, Membership};
use crate::inventory::Inventory;
use crate::peers::Peers;
use crate::service::Standing;
use crate::store::ChunkStore;
use dfs_common::capability::CapabilityKey;
use dfs_common::{ClusterId, ErrorKind, FsError, FsResult, NodeId};
use dfs_proto::PROTOCOL_VERSION;
use dfs_proto::convert::cluster_update_from_wire;
use dfs_proto::grpc::{channel_lazy, within};
use dfs_proto::socket::Peer;
use dfs_proto::v1::cluster_client::ClusterClient;
use dfs_proto::v1::{HeartbeatRequest, RegisterNodeReply, RegisterNodeRequest};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// While a coordinator is waited for, the log says so this often.
const REMINDER: Duration = Duration::from_secs(30);
/// Between two heartbeats when there is more to say than one holds.
const BUSY_PAUSE: Duration = Duration::from_millis(20);

/// How far this run's registration is.
#[derive(Clone, Debug)]
pub enum Progress {
    /// Not registered yet; with the last error, if any.
    Waiting(Option<FsError>),
    /// Registered in this run.
    Registered,
    /// The node cannot go on.
    Failed(FsError),
}

/// This node's dealings with its coordinator.
pub struct Registrar {
    /// The coordinator.
    pub coordinator: Peer,
    /// `host:port` where others reach this node.
    pub address: String,
    /// Who this node is.
    pub identity: Arc<Identity>,
    /// What it keeps.
    pub store: Arc<dyn ChunkStore>,
    /// What the coordinator does not know of that yet.
    pub inventory: Arc<Inventory>,
    /// Who else there is.
    pub peers: Arc<Peers>,
    /// Set at registration.
    pub standing: Standing,
    /// How far it is.
    pub progress: watch::Sender<Progress>,
    /// Times.
    pub tuning: Tuning,
}

/// Why a heartbeat did not succeed.
enum Missed {
    /// The coordinator does not know this node: register again.
    Unknown,
    /// Try again.
    Failed(FsError),
}

/// True if trying again cannot help.
fn is_refusal(error: &FsError) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Unauthenticated | ErrorKind::UnknownVersion | ErrorKind::Invalid
    )
}

impl Registrar {
    /// Registers and reports until `stop`, or until the node cannot go on.
    pub async fn run(self, stop: CancellationToken) {
        let outcome = tokio::select! {
            outcome = self.serve() => outcome,
            () = stop.cancelled() => return,
        };
        if let Err(error) = outcome {
            tracing::error!(%error, "the datanode cannot go on");
            self.progress.send_replace(Progress::Failed(error));
        }
    }

    async fn serve(&self) -> FsResult<()> {
        let channel = channel_lazy(self.coordinator.clone(), self.tuning.call_deadline)?;
        let mut client = ClusterClient::new(channel);
        loop {
            self.register(&mut client).await?;
            self.report(&mut client).await?;
        }
    }

    /// Registers, however long it takes.
    async fn register(&self, client: &mut ClusterClient<Channel>) -> FsResult<()> {
        let (mut pause, pause_max) = self.tuning.register_pause;
        let mut reminded: Option<Instant> = None;
        loop {
            let error = match self.try_register(client).await {
                Ok(()) => return Ok(()),
                Err(error) if is_refusal(&error) => {
                    return Err(error.context(format_args!("registering with {}", self.coordinator.address)));
                }
                Err(error) => error,
            };
            self.identity.check_present()?;
            if reminded.is_none_or(|at| at.elapsed() >= REMINDER) {
                reminded = Some(Instant::now());
                tracing::warn!(coordinator = %self.coordinator.address, %error, "waiting for the coordinator");
            }
            self.progress.send_if_modified(|progress| match progress {
                Progress::Waiting(last) => {
                    *last = Some(error);
                    true
                }
                _ => false,
            });
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.75..1.25))).await;
            pause = (pause * 2).min(pause_max);
        }
    }

    async fn try_register(&self, client: &mut ClusterClient<Channel>) -> FsResult<()> {
        let load = self.store.load().await?;
        let known = self.identity.membership();
        let request = RegisterNodeRequest {
            protocol_version: PROTOCOL_VERSION,
            node_uuid: self.identity.node_uuid().to_string(),
            cluster: known.map_or(String::new(), |known| known.cluster.to_string()),
            address: self.address.clone(),
            disk: load.disk.0,
            capacity_bytes: load.capacity_bytes,
            available_bytes: load.available_bytes,
            used_bytes: load.used_bytes,
            chunks: load.chunks,
            node_secret: self.identity.secret().to_vec().into(),
        };
        let reply = within(self.tuning.call_deadline, client.register_node(request)).await?;
        let membership = membership_from(&reply)?;
        let identity = self.identity.clone();
        crate::server::blocking(move || identity.join(&membership)).await?;
        *self.standing.write() = Some(membership);
        self.inventory.restart();
        // Before others are told that it is registered: the state of the disk, and who else there is.
        if let Err(Missed::Failed(error)) = self.heartbeat(client, membership.node).await {
            tracing::warn!(%error, "the first heartbeat failed");
        }
        tracing::info!(
            coordinator = %self.coordinator.address,
            cluster = %membership.cluster,
            node = %membership.node,
            address = %self.address,
            "registered"
        );
        self.progress.send_replace(Progress::Registered);
        Ok(())
    }

    /// Sends heartbeats until the coordinator wants another registration.
    async fn report(&self, client: &mut ClusterClient<Channel>) -> FsResult<()> {
        let mut unreachable_since: Option<Instant> = None;
        loop {
            let settled = self.inventory.is_settled() || unreachable_since.is_some();
            tokio::select! {
                () = tokio::time::sleep(if settled { self.tuning.heartbeat } else { BUSY_PAUSE }) => {}
                () = self.peers.asked() => {}
            }
            let identity = self.identity.clone();
            crate::server::blocking(move || identity.check_present()).await?;
            let Some(node) = self.standing.read().map(|membership| membership.node) else {
                return Ok(());
            };
            match self.heartbeat(client, node).await {
                Ok(()) => {
                    if let Some(since) = unreachable_since.take() {
                        tracing::info!(after = ?since.elapsed(), "the coordinator is back");
                    }
                }
                Err(Missed::Unknown) => return Ok(()),
                Err(Missed::Failed(error)) => {
                    if unreachable_since.is_none() {
                        unreachable_since = Some(Instant::now());
                        tracing::warn!(coordinator = %self.coordinator.address, %error, "waiting for the coordinator");
                    }
                    // Somebody who asks again and again must not become a storm.
                    tokio::time::sleep(BUSY_PAUSE).await;
                }
            }
        }
    }

    async fn heartbeat(&self, client: &mut ClusterClient<Channel>, node: NodeId) -> Result<(), Missed> {
        let load = self.store.load().await.map_err(Missed::Failed)?;
        let inventory_complete = self.inventory.is_complete();
        // A node without a list of its chunks is still a node.
        let report = self
            .inventory
            .report(&*self.store)
            .await
            .inspect_err(|error| tracing::debug!(%error, "the inventory cannot be listed"))
            .unwrap_or_default();
        let ids = |chunks: &[dfs_common::ChunkId]| {
            chunks
                .iter()
                .map(|chunk| chunk.to_bytes().to_vec().into())
                .collect()
        };
        let request = HeartbeatRequest {
            node: node.0,
            node_secret: self.identity.secret().to_vec().into(),
            disk: load.disk.0,
            capacity_bytes: load.capacity_bytes,
            available_bytes: load.available_bytes,
            used_bytes: load.used_bytes,
            chunks: load.chunks,
            writable: load.writable,
            added: ids(&report.added),
            removed: ids(&report.removed),
            known_state_version: self.peers.version(),
            inventory_complete,
        };
        let reply = within(self.tuning.call_deadline, client.heartbeat(request)).await;
        let reply = reply.map_err(|error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::Unauthenticated => {
                tracing::warn!(%error, "registering again");
                Missed::Unknown
            }
            _ => Missed::Failed(error),
        })?;
        self.inventory.acknowledge(&report);
        if let Some(state) = reply.state {
            let update = cluster_update_from_wire(state).map_err(Missed::Failed)?;
            if self.peers.apply(update) {
                self.inventory.restart();
            }
        }
        Ok(())
    }
}

fn membership_from(reply: &RegisterNodeReply) -> FsResult<Membership> {
    // Not `Invalid`, which would be this node's fault.
    let malformed = |what: &str| {
        FsError::new(
            ErrorKind::Io,
            format!("the coordinator's answer has no usable {what}: run the same release on both"),
        )
    };
    if reply.node == 0 {
        return Err(malformed("node number"));
    }
    Ok(Membership {
        cluster: ClusterId(uuid::Uuid::parse_str(&reply.cluster).map_err(|_| malformed("cluster"))?),
        node: NodeId(reply.node),
        capability_key: CapabilityKey(
            reply.capability_key[..]
                .try_into()
                .map_err(|_| malformed("capability key"))?,
        ),
    })
}
