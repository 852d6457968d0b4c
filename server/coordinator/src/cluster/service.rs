//! The cluster service: datanodes register and report.

use super::state::{NodeLoad, NodeSecret};
use crate::applier::NodeRegistration;
use crate::core::Core;
use crate::service::CoordinatorService;
use dfs_common::cluster::ClusterUpdate;
use dfs_common::limits::HEARTBEAT_INVENTORY_MAX;
use dfs_common::{DiskIncarnation, ErrorKind, FsError, FsResult, NodeId};
use dfs_proto::{convert, status, v1};
use std::sync::Arc;
use tonic::{Request, Response, Status};

/// Serves the cluster service on the coordinator's core.
pub struct ClusterService {
    coordinator: Arc<CoordinatorService>,
}

impl ClusterService {
    /// On the core of `coordinator`.
    pub fn new(coordinator: Arc<CoordinatorService>) -> Self {
        ClusterService { coordinator }
    }
}

fn invalid(text: impl Into<String>) -> FsError {
    FsError::new(ErrorKind::Invalid, text.into())
}

fn node_secret(bytes: &[u8]) -> FsResult<NodeSecret> {
    bytes
        .try_into()
        .map_err(|_| invalid("a node secret has 16 bytes"))
}

/// Checks a registration and translates it.
fn registration(core: &Core, request: v1::RegisterNodeRequest) -> FsResult<NodeRegistration> {
    convert::check_protocol_version(request.protocol_version)?;
    let cluster = core.cluster_id.to_string();
    if !request.cluster.is_empty() && request.cluster != cluster {
        return Err(FsError::new(
            ErrorKind::Unauthenticated,
            format!(
                "datanode belongs to cluster {}, this coordinator serves {cluster}: point it at its own coordinator, or give \
                 it an empty data directory",
                request.cluster.escape_default()
            ),
        ));
    }
    let uuid = uuid::Uuid::parse_str(&request.node_uuid).map_err(|_| invalid("a node uuid is a UUID"))?;
    convert::check_address(&request.address)?;
    Ok(NodeRegistration {
        uuid: uuid.to_string(),
        secret: node_secret(&request.node_secret)?,
        address: request.address,
        load: NodeLoad {
            disk: DiskIncarnation(request.disk),
            capacity_bytes: request.capacity_bytes,
            used_bytes: request.used_bytes,
            available_bytes: request.available_bytes,
            chunks: request.chunks,
            writable: true,
        },
    })
}

impl ClusterService {
    async fn register(&self, request: v1::RegisterNodeRequest) -> FsResult<v1::RegisterNodeReply> {
        let core = self.coordinator.core()?;
        let registration = registration(&core, request)?;
        let address = registration.address.clone();
        let node = core.applier.register_node(registration).await?;
        tracing::info!(%node, address, "datanode registered");
        if let Err(error) = core.groups.make_missing().await {
            tracing::warn!(%error, "placement groups could not be made yet");
        }
        Ok(v1::RegisterNodeReply {
            cluster: core.cluster_id.to_string(),
            node: node.0,
            capability_key: core.capability_key.0.to_vec().into(),
            state_version: core.cluster.version(),
        })
    }

    async fn heartbeat(&self, request: v1::HeartbeatRequest) -> FsResult<ClusterUpdate> {
        let core = self.coordinator.core()?;
        if request.added.len() > HEARTBEAT_INVENTORY_MAX || request.removed.len() > HEARTBEAT_INVENTORY_MAX {
            return Err(invalid(format!(
                "a heartbeat has at most {HEARTBEAT_INVENTORY_MAX} inventory changes"
            )));
        }
        // The inventory is not kept, for replicas are known from receipts; after a restore it is compared with the metadata.
        let load = NodeLoad {
            disk: DiskIncarnation(request.disk),
            capacity_bytes: request.capacity_bytes,
            used_bytes: request.used_bytes,
            available_bytes: request.available_bytes,
            chunks: request.chunks,
            writable: request.writable,
        };
        let secret = node_secret(&request.node_secret)?;
        let node = NodeId(request.node);
        core.cluster.heartbeat(node, &secret, load)?;
        if core.hold.is_holding() {
            let (hold, store) = (core.hold.clone(), core.store.clone());
            let told = move || {
                hold.told(&*store, node, &request.added)?;
                if request.inventory_complete {
                    hold.passed(node, request.known_state_version);
                }
                Ok(())
            };
            let outcome = tokio::task::spawn_blocking(told).await;
            outcome.unwrap_or_else(|error| Err(FsError::new(ErrorKind::Io, error.to_string())))?;
        }
        Ok(core.cluster.update_since(request.known_state_version))
    }
}

#[tonic::async_trait]
impl v1::cluster_server::Cluster for ClusterService {
    async fn register_node(
        &self,
        request: Request<v1::RegisterNodeRequest>,
    ) -> Result<Response<v1::RegisterNodeReply>, Status> {
        let reply = self.register(request.into_inner()).await;
        reply.map(Response::new).map_err(|error| {
            tracing::warn!(%error, "datanode was refused");
            status::to_status(&error)
        })
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatReply>, Status> {
        let update = ClusterService::heartbeat(self, request.into_inner()).await;
        let update = update.map_err(|error| status::to_status(&error))?;
        Ok(Response::new(v1::HeartbeatReply {
            state: Some(convert::cluster_update_to_wire(&update)),
        }))
    }
}
