//! The twins, alone and behind wrappers that do nothing, keep what the seams promise.

#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_common::FsResult;
use dfs_common::clock::{Clock, SystemClock};
use dfs_common::service::{ChunkConnector, ChunkService, MetadataService};
use dfs_testkit::conformance::{self, ChunkSubject};
use dfs_testkit::faults::{FaultPlan, FaultyConnector, FaultyMetadata};
use dfs_testkit::twin::{TWIN_KEY, TwinCluster};
use futures::future::BoxFuture;
use std::sync::Arc;

fn subject(connector: &dyn ChunkConnector, addresses: &[String]) -> ChunkSubject {
    let service = |address: &String| connector.chunk_service(address).unwrap();
    let peer = |address: &String| (address.clone(), service(address) as Arc<dyn ChunkService>);
    ChunkSubject {
        service: service(&addresses[0]),
        key: TWIN_KEY,
        now_unix_ms: SystemClock::default().now_unix_ms(),
        peers: addresses[1..].iter().map(peer).collect(),
        nowhere: "nowhere:1".into(),
    }
}

#[tokio::test]
async fn quotas_of_the_twin() {
    let twin = TwinCluster::default().metadata;
    let quotas = twin.clone();
    let setter = move |ino, quota| -> BoxFuture<'static, FsResult<()>> {
        let set = quotas.set_quota(ino, quota);
        Box::pin(async move { set })
    };
    conformance::quotas(twin, Arc::new(setter)).await;
}

#[tokio::test]
async fn metadata_twin() {
    conformance::metadata(TwinCluster::default().metadata).await;
}

#[tokio::test]
async fn metadata_twin_behind_a_wrapper_without_faults() {
    let inner: Arc<dyn MetadataService> = TwinCluster::default().metadata;
    conformance::metadata(Arc::new(FaultyMetadata::new(inner, FaultPlan::none()))).await;
}

#[tokio::test]
async fn chunk_twin() {
    let twin = TwinCluster::default();
    conformance::chunks(subject(&*twin.chunks, &twin.chunks.addresses())).await;
}

#[tokio::test]
async fn chunk_twin_behind_a_wrapper_without_faults() {
    let twin = TwinCluster::default();
    let faulty = FaultyConnector::new(twin.chunks.clone(), FaultPlan::none());
    conformance::chunks(subject(&faulty, &twin.chunks.addresses())).await;
}
