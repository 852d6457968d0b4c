//! The real servers, in process and over each transport, by TCP and by Unix sockets, keep what the seams promise.

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_common::FsResult;
use dfs_common::clock::{Clock, SystemClock};
use dfs_common::service::ChunkService;
use dfs_proto::socket::LocalSockets;
use dfs_testkit::cluster::{ClusterOptions, InProcessCluster};
use dfs_testkit::conformance::{self, ChunkSubject};
use dfs_testkit::faults::{FaultPlan, FaultyChunks, FaultyMetadata};
use futures::future::BoxFuture;
use std::sync::Arc;

#[tokio::test]
async fn coordinator_in_process() {
    let cluster = InProcessCluster::start(3).await;
    conformance::metadata(cluster.metadata()).await;
}

#[tokio::test]
async fn quotas_of_the_coordinator() {
    let cluster = Arc::new(InProcessCluster::start(3).await);
    for service in [cluster.metadata(), cluster.metadata_over_frames()] {
        let cluster = cluster.clone();
        let setter = move |ino, quota| -> BoxFuture<'static, FsResult<()>> {
            let cluster = cluster.clone();
            Box::pin(async move { cluster.set_quota(ino, quota).await })
        };
        conformance::quotas(service, Arc::new(setter)).await;
    }
}

/// A cluster in which everybody talks over TCP, or nobody does.
async fn cluster(local_sockets: LocalSockets) -> InProcessCluster {
    InProcessCluster::start_with(ClusterOptions {
        local_sockets,
        ..ClusterOptions::default()
    })
    .await
}

#[tokio::test]
async fn coordinator_over_grpc() {
    let cluster = cluster(LocalSockets::Off).await;
    conformance::metadata(cluster.metadata_over_grpc()).await;
}

#[tokio::test]
async fn coordinator_over_grpc_and_unix_sockets() {
    let cluster = cluster(LocalSockets::Only).await;
    conformance::metadata(cluster.metadata_over_grpc()).await;
}

#[tokio::test]
async fn coordinator_over_frames() {
    let cluster = cluster(LocalSockets::Off).await;
    conformance::metadata(cluster.metadata_over_frames()).await;
}

#[tokio::test]
async fn coordinator_over_frames_and_unix_sockets() {
    let cluster = cluster(LocalSockets::Only).await;
    conformance::metadata(cluster.metadata_over_frames()).await;
}

#[tokio::test]
async fn coordinator_behind_a_wrapper_without_faults() {
    let cluster = InProcessCluster::start(3).await;
    let service = FaultyMetadata::new(cluster.metadata_over_frames(), FaultPlan::none());
    conformance::metadata(Arc::new(service)).await;
}

/// An address at which nothing listens: bound for a moment and let go.
fn nowhere() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn subject(
    cluster: &InProcessCluster,
    service: impl Fn(&InProcessCluster, usize) -> Arc<dyn ChunkService>,
) -> ChunkSubject {
    ChunkSubject {
        service: service(cluster, 0),
        key: cluster.capability_key(),
        now_unix_ms: SystemClock::default().now_unix_ms(),
        peers: (1..3)
            .map(|index| (cluster.datanode_address(index), service(cluster, index)))
            .collect(),
        nowhere: nowhere(),
    }
}

#[tokio::test]
async fn datanode_in_process() {
    let cluster = InProcessCluster::start(3).await;
    conformance::chunks(subject(&cluster, InProcessCluster::chunks)).await;
}

#[tokio::test]
async fn datanode_over_grpc() {
    let cluster = cluster(LocalSockets::Off).await;
    conformance::chunks(subject(&cluster, InProcessCluster::chunks_over_grpc)).await;
}

#[tokio::test]
async fn datanode_over_grpc_and_unix_sockets() {
    let cluster = cluster(LocalSockets::Only).await;
    conformance::chunks(subject(&cluster, InProcessCluster::chunks_over_grpc)).await;
}

#[tokio::test]
async fn datanode_over_frames() {
    let cluster = cluster(LocalSockets::Off).await;
    conformance::chunks(subject(&cluster, InProcessCluster::chunks_over_frames)).await;
}

#[tokio::test]
async fn datanode_over_frames_and_unix_sockets() {
    let cluster = cluster(LocalSockets::Only).await;
    conformance::chunks(subject(&cluster, InProcessCluster::chunks_over_frames)).await;
}

#[tokio::test]
async fn datanode_behind_a_wrapper_without_faults() {
    let cluster = InProcessCluster::start(3).await;
    let wrapped = |cluster: &InProcessCluster, index| -> Arc<dyn ChunkService> {
        Arc::new(FaultyChunks::new(
            cluster.chunks_over_frames(index),
            FaultPlan::none(),
        ))
    };
    conformance::chunks(subject(&cluster, wrapped)).await;
}
