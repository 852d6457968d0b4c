//! Servers that are killed and started again while random calls go on: nothing acknowledged is lost, nothing is done twice.

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_common::session::Caller;
use dfs_proto::socket::LocalSockets;
use dfs_testkit::call::{Call, Outcome, Target};
use dfs_testkit::client_target::ClientTarget;
use dfs_testkit::cluster::{ClusterOptions, InProcessCluster};
use dfs_testkit::compare::{Tolerance, Trial};
use dfs_testkit::generate::Profile;
use dfs_testkit::model::Rules;
use std::sync::Arc;
use tokio::runtime::Runtime;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

/// Calls between two kills.
const CALLS_BETWEEN: u64 = 40;

#[derive(Clone, Copy)]
enum Victim {
    Coordinator,
    Datanodes,
}

/// A client target below which a server is killed and restarted now and then, while calls go on.
struct Unstable {
    target: ClientTarget,
    cluster: Arc<Mutex<InProcessCluster>>,
    runtime: Arc<Runtime>,
    victim: Victim,
    calls: u64,
    restart: Option<JoinHandle<()>>,
}

impl Unstable {
    fn kill_one(&mut self) {
        let (cluster, victim) = (self.cluster.clone(), self.victim);
        let round = (self.calls / CALLS_BETWEEN) as usize;
        self.settle();
        self.restart = Some(self.runtime.spawn(async move {
            let mut cluster = cluster.lock().await;
            match victim {
                Victim::Coordinator => cluster.restart_coordinator().await,
                Victim::Datanodes => cluster.restart_datanode(round % 3).await,
            }
        }));
    }

    fn settle(&mut self) {
        if let Some(restart) = self.restart.take() {
            self.runtime.block_on(restart).unwrap();
        }
    }
}

impl Target for Unstable {
    fn name(&self) -> String {
        self.target.name()
    }
    fn call(&mut self, who: &Caller, call: &Call) -> Outcome {
        self.calls += 1;
        if self.calls.is_multiple_of(CALLS_BETWEEN) {
            self.kill_one();
        }
        self.target.call(who, call)
    }

    /// Everything dies at once: every server, and the client.
    fn renew(&mut self) {
        self.settle();
        self.target.kill_client();
        self.runtime.block_on(async {
            let mut cluster = self.cluster.lock().await;
            cluster.kill_coordinator().await;
            for index in 0..3 {
                cluster.kill_datanode(index).await;
            }
            cluster.start_coordinator().await;
            for index in 0..3 {
                cluster.start_datanode(index).await;
            }
        });
        self.target.renew();
    }
}

impl Drop for Unstable {
    fn drop(&mut self) {
        self.settle();
    }
}

fn run(victim: Victim, local_sockets: LocalSockets, profile: Profile) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let runtime = Arc::new(runtime);
    // Each sequence has a cluster and a client of its own, so that both can die for good.
    let fresh = || {
        let options = ClusterOptions {
            local_sockets,
            ..ClusterOptions::default()
        };
        let cluster = runtime.block_on(InProcessCluster::start_with(options));
        let client = runtime.block_on(cluster.client());
        let cluster = Arc::new(Mutex::new(cluster));
        let connect = {
            let (runtime, cluster) = (runtime.clone(), cluster.clone());
            move || runtime.block_on(async { cluster.lock().await.client().await })
        };
        let set_quota = {
            let (runtime, cluster) = (runtime.clone(), cluster.clone());
            // Between two of its lives the coordinator is waited for.
            move |directory, quota| {
                runtime.block_on(async { cluster.lock().await.set_quota(directory, quota).await })
            }
        };
        Unstable {
            target: ClientTarget::fresh(client, runtime.handle().clone())
                .renewed_by(connect)
                .with_quotas(set_quota),
            cluster,
            runtime: runtime.clone(),
            victim,
            calls: 0,
            restart: None,
        }
    };
    let rules = Rules {
        writes_keep_plain_set_group_id: true,
        ..Rules::default()
    };
    let tolerance = Tolerance { saves_later: true };
    Trial {
        length: 150,
        profile,
        rules,
        tolerance,
    }
    .run(&[1, 2], fresh);
}

#[test]
fn killed_coordinator_loses_nothing_and_repeats_nothing() {
    run(Victim::Coordinator, LocalSockets::Off, Profile::full());
}

/// No writes: while a coordinator is away they go on in memory, and what quotas say of them is told when they are saved.
#[test]
fn killed_coordinator_keeps_quotas_and_what_counts_against_them() {
    let profile = Profile {
        file_percent: 0,
        quota_percent: 10,
        ..Profile::quotas()
    };
    run(Victim::Coordinator, LocalSockets::Off, profile);
}

#[test]
fn killed_coordinator_behind_a_unix_socket_loses_nothing_and_repeats_nothing() {
    run(Victim::Coordinator, LocalSockets::Only, Profile::full());
}

#[test]
fn killed_datanodes_lose_nothing() {
    run(Victim::Datanodes, LocalSockets::Off, Profile::files());
}

#[test]
fn killed_datanodes_behind_unix_sockets_lose_nothing() {
    run(Victim::Datanodes, LocalSockets::Only, Profile::files());
}
