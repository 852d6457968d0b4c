//! Random sequences of calls through the client library, over twins and over a real cluster, agree with the model.

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_client::{Client, ClientConfig};
use dfs_common::attr::{SetTime, Timestamp};
use dfs_common::limits::CALL_DEADLINE;
use dfs_common::service::{ChunkConnector, MetadataService};
use dfs_common::session::Caller;
use dfs_proto::socket::LocalSockets;
use dfs_proto::{ChunkChannels, Transport};
use dfs_testkit::alternating::Alternating;
use dfs_testkit::call::{Call, FsPath, OpenHow};
use dfs_testkit::client_target::ClientTarget;
use dfs_testkit::cluster::InProcessCluster;
use dfs_testkit::compare::{Tolerance, Trial, compare};
use dfs_testkit::faults::{Fault, FaultPlan, FaultyConnector, FaultyMetadata};
use dfs_testkit::generate::{Profile, Step};
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

fn runtime() -> Arc<Runtime> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    Arc::new(runtime.unwrap())
}

fn config() -> ClientConfig {
    ClientConfig {
        call_patience: Some(Duration::from_secs(60)),
        ..ClientConfig::new("twin:1")
    }
}

/// A client on twins of its own; renewed, another client on the same twins.
fn on_twins(runtime: &Arc<Runtime>, plan: FaultPlan) -> ClientTarget {
    let twin = TwinCluster::default();
    let metadata: Arc<dyn MetadataService> =
        Arc::new(FaultyMetadata::new(twin.metadata.clone(), plan.clone()));
    let chunks: Arc<dyn ChunkConnector> = Arc::new(FaultyConnector::new(twin.chunks.clone(), plan));
    let inside = runtime.clone();
    let connect = move || {
        let client = Client::with_services(config(), metadata.clone(), chunks.clone());
        inside.block_on(client).unwrap()
    };
    ClientTarget::fresh(connect(), runtime.handle().clone())
        .renewed_by(connect)
        .with_quotas(move |directory, quota| twin.metadata.set_quota(directory, quota))
}

/// Fresh directories of a real cluster, all seen by one client; renewed, by another.
fn on_a_real_cluster(trial: Trial, seeds: &[u64]) {
    let runtime = runtime();
    let cluster = Arc::new(runtime.block_on(InProcessCluster::start(3)));
    let client = runtime.block_on(cluster.client());
    trial.run(seeds, || {
        let connect = {
            let (inside, cluster) = (runtime.clone(), cluster.clone());
            move || inside.block_on(cluster.client())
        };
        let set_quota = {
            let (inside, cluster) = (runtime.clone(), cluster.clone());
            move |directory, quota| inside.block_on(cluster.set_quota(directory, quota))
        };
        ClientTarget::fresh(client.clone(), runtime.handle().clone())
            .renewed_by(connect)
            .with_quotas(set_quota)
    });
}

const SEEDS: [u64; 12] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];

#[test]
fn all_kinds_of_calls_on_twins() {
    let runtime = runtime();
    trial(Profile::full(), 400).run(&SEEDS, || on_twins(&runtime, FaultPlan::none()));
}

#[test]
fn reads_writes_and_truncations_on_twins() {
    let runtime = runtime();
    trial(Profile::files(), 300).run(&SEEDS, || on_twins(&runtime, FaultPlan::none()));
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
    trial(Profile::full(), 200).run(&SEEDS[..4], || on_twins(&runtime, plan()));
}

#[test]
fn all_kinds_of_calls_on_a_real_cluster() {
    // The last one found the too long name of a rename into a directory that may not be searched.
    let seeds = [&SEEDS[..6], &[4_631_272_397_014_091_055]].concat();
    on_a_real_cluster(trial(Profile::full(), 400), &seeds);
}

#[test]
fn what_quotas_admit_and_refuse_on_twins() {
    let runtime = runtime();
    trial(Profile::quotas(), 300).run(&SEEDS, || on_twins(&runtime, FaultPlan::none()));
}

#[test]
fn what_quotas_admit_and_refuse_on_a_real_cluster() {
    on_a_real_cluster(trial(Profile::quotas(), 300), &SEEDS[..6]);
}

#[test]
fn reads_writes_and_truncations_on_a_real_cluster() {
    on_a_real_cluster(trial(Profile::files(), 300), &SEEDS[..6]);
}

/// A write shows its own time at once, also after the file was given one that is still to come: the later of both was shown
/// until the write was saved.
#[test]
fn write_moves_a_time_in_the_future_back_to_the_present() {
    let runtime = runtime();
    let path = || FsPath(vec![b"f".to_vec()]);
    let how = OpenHow {
        write: true,
        create: true,
        ..OpenHow::default()
    };
    let mtime = Some(SetTime::At(Timestamp {
        secs: 4_000_000_000,
        nanos: 0,
    }));
    let write = || Call::Write {
        slot: 0,
        offset: 0,
        length: 10,
        pattern: 1,
    };
    let calls = [
        Call::Open {
            slot: 0,
            path: path(),
            how,
            mode: 0o644,
        },
        Call::Utimens {
            path: path(),
            atime: None,
            mtime,
        },
        write(),
        Call::Mkdir {
            path: FsPath(vec![b"d".to_vec()]),
            mode: 0o755,
        },
        Call::Fsync { slot: 0 },
        write(),
        Call::Close { slot: 0 },
    ];
    let steps = calls.map(|call| Step {
        who: Caller::root(),
        call,
    });
    let Trial { rules, tolerance, .. } = trial(Profile::full(), 0);
    compare(
        rules,
        &mut on_twins(&runtime, FaultPlan::none()),
        &steps,
        tolerance,
    )
    .unwrap();
}

/// Two clients of one cluster by turns.
fn two_clients(length: usize, seeds: &[u64], client: impl Fn(&Runtime, &InProcessCluster) -> Client) {
    let runtime = runtime();
    let cluster = runtime.block_on(InProcessCluster::start(3));
    let clients = [client(&runtime, &cluster), client(&runtime, &cluster)];
    let fresh = || {
        let first = ClientTarget::fresh(clients[0].clone(), runtime.handle().clone());
        let second = ClientTarget::below(clients[1].clone(), runtime.handle().clone(), first.root());
        Alternating::new(vec![first, second])
    };
    let names = Profile {
        file_percent: 0,
        ..Profile::names()
    };
    trial(names, length).run(seeds, fresh);
}

#[test]
fn two_clients_of_a_real_cluster_see_each_others_names_and_attributes_at_once() {
    two_clients(500, &SEEDS[..6], |runtime, cluster| {
        runtime.block_on(cluster.client())
    });
}

/// A client that hears late of what it must forget would go on answering from it, if the change did not wait.
#[test]
fn changes_wait_for_a_client_that_hears_of_recalls_late() {
    two_clients(120, &SEEDS[..2], |runtime, cluster| {
        let late = FaultPlan::new(|attempt| match attempt.method {
            "recalls" => Fault::DelayReply(Duration::from_millis(10)),
            _ => Fault::None,
        });
        let _inside = runtime.enter();
        let metadata = Arc::new(FaultyMetadata::new(cluster.metadata_over_frames(), late));
        let chunks = Arc::new(ChunkChannels::new(
            Transport::default(),
            CALL_DEADLINE,
            LocalSockets::default(),
        ));
        runtime
            .block_on(Client::with_services(cluster.client_config(), metadata, chunks))
            .unwrap()
    });
}
