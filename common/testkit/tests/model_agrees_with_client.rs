//! Random sequences of calls through the client library, over twins and over a real cluster, agree with the model.

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_client::{Client, ClientConfig};
use dfs_common::service::{ChunkConnector, MetadataService};
use dfs_testkit::client_target::{Alternating, ClientTarget};
use dfs_testkit::cluster::InProcessCluster;
use dfs_testkit::compare::{Tolerance, Trial};
use dfs_testkit::faults::{Fault, FaultPlan, FaultyConnector, FaultyMetadata};
use dfs_testkit::generate::Profile;
use dfs_testkit::model::Rules;
use dfs_testkit::twin::TwinCluster;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;

fn trial(profile: Profile, length: usize) -> Trial {
    // No kernel is between: its extra rules do not hold, and set-id bits are taken as POSIX has it.
    let rules = Rules {
        writes_keep_plain_set_group_id: true,
        ..Rules::default()
    };
    let tolerance = Tolerance { saves_later: true };
    Trial {
        length,
        profile,
        rules,
        tolerance,
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap()
}

fn config() -> ClientConfig {
    ClientConfig {
        call_patience: Some(Duration::from_secs(60)),
        ..ClientConfig::new("twin:1")
    }
}

/// A client on twins of its own.
fn on_twins(runtime: &Runtime, plan: impl Fn() -> FaultPlan) -> ClientTarget {
    let twin = TwinCluster::default();
    let metadata: Arc<dyn MetadataService> = Arc::new(FaultyMetadata::new(twin.metadata.clone(), plan()));
    let chunks: Arc<dyn ChunkConnector> = Arc::new(FaultyConnector::new(twin.chunks.clone(), plan()));
    let client = runtime
        .block_on(Client::with_services(config(), metadata, chunks))
        .unwrap();
    ClientTarget::fresh(client, runtime.handle().clone())
}

const SEEDS: [u64; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

#[test]
fn all_kinds_of_calls_on_twins() {
    let runtime = runtime();
    trial(Profile::full(), 400).run(&SEEDS, || on_twins(&runtime, FaultPlan::none));
}

#[test]
fn reads_writes_and_truncations_on_twins() {
    let runtime = runtime();
    trial(Profile::files(), 300).run(&SEEDS, || on_twins(&runtime, FaultPlan::none));
}

#[test]
fn lost_requests_and_replies_change_nothing_on_twins() {
    let runtime = runtime();
    let faults = vec![
        Fault::LoseRequest,
        Fault::LoseReply,
        Fault::TimeOut,
        Fault::CutStream,
    ];
    let seed = std::sync::atomic::AtomicU64::new(0);
    let plan = || {
        FaultPlan::random(
            seed.fetch_add(1, std::sync::atomic::Ordering::Relaxed),
            15,
            faults.clone(),
        )
    };
    trial(Profile::full(), 200).run(&SEEDS[..4], || on_twins(&runtime, plan));
}

#[test]
fn all_kinds_of_calls_on_a_real_cluster() {
    let runtime = runtime();
    let cluster = runtime.block_on(InProcessCluster::start(3));
    let client = runtime.block_on(cluster.client());
    let fresh = || ClientTarget::fresh(client.clone(), runtime.handle().clone());
    trial(Profile::full(), 400).run(&SEEDS[..6], fresh);
}

#[test]
fn reads_writes_and_truncations_on_a_real_cluster() {
    let runtime = runtime();
    let cluster = runtime.block_on(InProcessCluster::start(3));
    let client = runtime.block_on(cluster.client());
    let fresh = || ClientTarget::fresh(client.clone(), runtime.handle().clone());
    trial(Profile::files(), 300).run(&SEEDS[..6], fresh);
}

#[test]
fn two_clients_of_a_real_cluster_see_each_others_names_and_attributes_at_once() {
    let runtime = runtime();
    let cluster = runtime.block_on(InProcessCluster::start(3));
    let clients = [
        runtime.block_on(cluster.client()),
        runtime.block_on(cluster.client()),
    ];
    let fresh = || {
        let first = ClientTarget::fresh(clients[0].clone(), runtime.handle().clone());
        let second = ClientTarget::below(clients[1].clone(), runtime.handle().clone(), first.root());
        Alternating::new(vec![first, second])
    };
    let names = Profile {
        file_percent: 0,
        ..Profile::names()
    };
    trial(names, 500).run(&SEEDS[..6], fresh);
}
