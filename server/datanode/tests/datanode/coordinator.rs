//! A coordinator that knows nothing but nodes, and does what a test tells it.

use crate::support::until;
use dfs_common::{ChunkId, ErrorKind, FsError};
use dfs_proto::grpc::tuned_server;
use dfs_proto::status::to_status;
use dfs_proto::v1;
use dfs_proto::v1::cluster_server::{Cluster, ClusterServer};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// The capability key of its cluster.
pub const KEY: [u8; 32] = [5; 32];

#[derive(Default)]
pub struct State {
    pub cluster: String,
    pub nodes: Vec<v1::NodeInfo>,
    uuids: Vec<String>,
    pub registrations: Vec<v1::RegisterNodeRequest>,
    pub heartbeats: Vec<v1::HeartbeatRequest>,
    /// What the heartbeats said is where.
    pub chunks: BTreeSet<ChunkId>,
    /// Answers to come instead of the usual one.
    pub refuse_registration: Option<ErrorKind>,
    pub refuse_heartbeats: Option<ErrorKind>,
    pub version: u64,
}

struct Service(Arc<Mutex<State>>);

/// A running fake; stops when dropped.
pub struct FakeCoordinator {
    address: String,
    pub state: Arc<Mutex<State>>,
    _stop: DropGuard,
    server: JoinHandle<()>,
}

impl FakeCoordinator {
    pub async fn start() -> Self {
        Self::start_at("127.0.0.1:0", "6ba7b810-9dad-11d1-80b4-00c04fd430c8").await
    }

    pub async fn start_at(address: &str, cluster: &str) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State {
            cluster: cluster.to_owned(),
            version: 1 << 32,
            ..State::default()
        }));
        let stop = CancellationToken::new();
        let router = tuned_server().add_service(ClusterServer::new(Service(state.clone())));
        let stopped = stop.clone();
        let server = tokio::spawn(async move {
            let serving = router.serve_with_incoming(TcpIncoming::from(listener));
            tokio::select! {
                served = serving => served.unwrap(),
                () = stopped.cancelled() => {}
            }
        });
        FakeCoordinator {
            address,
            state,
            _stop: stop.drop_guard(),
            server,
        }
    }

    pub fn address(&self) -> String {
        self.address.clone()
    }

    /// Stops at once; the port is free on return.
    pub async fn stop(self) {
        drop(self._stop);
        self.server.await.unwrap();
    }

    /// Waits for a heartbeat that was sent after now.
    pub async fn next_heartbeat(&self) -> v1::HeartbeatRequest {
        let before = self.state.lock().heartbeats.len();
        // The next one may have been on its way already.
        until("a heartbeat", || self.state.lock().heartbeats.len() > before + 1).await;
        self.state.lock().heartbeats.last().unwrap().clone()
    }

    /// A node that does not exist, at `address`, known to all.
    pub fn add_node(&self, address: &str) {
        let mut state = self.state.lock();
        let id = state.nodes.len() as u32 + 1;
        state.uuids.push(format!("made up {id}"));
        state.nodes.push(v1::NodeInfo {
            id,
            address: address.to_owned(),
            health: 1,
            ..v1::NodeInfo::default()
        });
        state.version += 1;
    }
}

fn refusal(kind: ErrorKind) -> Status {
    to_status(&FsError::new(kind, "refused by the test"))
}

#[tonic::async_trait]
impl Cluster for Service {
    async fn register_node(
        &self,
        request: Request<v1::RegisterNodeRequest>,
    ) -> Result<Response<v1::RegisterNodeReply>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock();
        state.registrations.push(request.clone());
        if let Some(kind) = state.refuse_registration {
            return Err(refusal(kind));
        }
        if !request.cluster.is_empty() && request.cluster != state.cluster {
            return Err(refusal(ErrorKind::Unauthenticated));
        }
        let at = match state.uuids.iter().position(|uuid| *uuid == request.node_uuid) {
            Some(at) => at,
            None => {
                state.uuids.push(request.node_uuid.clone());
                state.nodes.push(v1::NodeInfo::default());
                state.uuids.len() - 1
            }
        };
        state.nodes[at] = v1::NodeInfo {
            id: at as u32 + 1,
            address: request.address,
            health: 1,
            disk: request.disk,
            capacity_bytes: request.capacity_bytes,
            used_bytes: request.used_bytes,
            available_bytes: request.available_bytes,
            chunks: request.chunks,
            writable: true,
        };
        state.version += 1;
        Ok(Response::new(v1::RegisterNodeReply {
            cluster: state.cluster.clone(),
            node: at as u32 + 1,
            capability_key: KEY.to_vec().into(),
            state_version: state.version,
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock();
        state.heartbeats.push(request.clone());
        if let Some(kind) = state.refuse_heartbeats {
            return Err(refusal(kind));
        }
        let ids = |ids: &[bytes::Bytes]| -> Vec<ChunkId> {
            ids.iter().map(|id| ChunkId::from_slice(id).unwrap()).collect()
        };
        assert!(request.added.len() <= dfs_common::limits::HEARTBEAT_INVENTORY_MAX);
        state.chunks.extend(ids(&request.added));
        for chunk in ids(&request.removed) {
            state.chunks.remove(&chunk);
        }
        let changed = request.known_state_version != state.version;
        Ok(Response::new(v1::HeartbeatReply {
            state: Some(v1::ClusterUpdate {
                version: state.version,
                full: changed,
                nodes: if changed { state.nodes.clone() } else { Vec::new() },
                ..v1::ClusterUpdate::default()
            }),
        }))
    }
}
