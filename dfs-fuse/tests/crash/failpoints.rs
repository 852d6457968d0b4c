//! A server dies at each failpoint in turn, under load from two mounts and from programs that open and end sessions.
//!
//! The mounts live on: none of their programs may be told of an error, what was acknowledged is there, what was under way is there whole or
//! not at all (the ledger), and the metadata pass the full check after each crash.

use super::ledger::Ledger;
use super::writers::{self, Work};
use dfs_common::failpoint::{Failpoint, Victim};
use dfs_testkit::process::{
    ClusterOptions, Mount, MountOptions, ProcessCluster, attempt, check_store, start,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// One wait.
const LIMIT: Duration = Duration::from_secs(45);
/// Steps of the writers after the server is back.
const STEPS_AFTER: usize = 40;

/// How often a failpoint is passed before the server dies there: often where it is passed all the time.
fn count(point: Failpoint) -> u32 {
    match point {
        Failpoint::CommitAfterGather
        | Failpoint::CommitAfterApply
        | Failpoint::CommitAfterStore
        | Failpoint::ReplyAfterCommit
        | Failpoint::CommitAfterAppend => 60,
        Failpoint::ChunkAfterTemp
        | Failpoint::ChunkAfterContent
        | Failpoint::ChunkAfterSync
        | Failpoint::ChunkAfterRename
        | Failpoint::ChunkAfterPublish => 5,
        Failpoint::EndSessionAfterStep | Failpoint::ReleaseAfterApply | Failpoint::PersistAfterSync => 3,
        _ => 1,
    }
}

/// Failpoints that are passed with relaxed durability only.
fn is_relaxed(point: Failpoint) -> bool {
    matches!(
        point,
        Failpoint::CommitAfterAppend | Failpoint::PersistAfterSync | Failpoint::ReserveAfterStore
    )
}

/// Failpoints that are passed when programs come and go.
fn has_sessions(point: Failpoint) -> bool {
    matches!(
        point,
        Failpoint::OpenSessionAfterApply | Failpoint::OpenSessionAfterCommit | Failpoint::EndSessionAfterStep
    )
}

struct Rig {
    // The mounts end before the cluster.
    mounts: [Mount; 2],
    cluster: ProcessCluster,
    ledgers: Vec<(String, Ledger)>,
}

impl Rig {
    fn start_work(&self, victim: Victim, round: usize) -> [Work; 2] {
        let start = match victim {
            Victim::Coordinator => writers::start_small,
            Victim::Datanode => writers::start_all,
        };
        [0, 1].map(|mount| start(self.mounts[mount].path(), (2 * round + mount) as u64))
    }

    /// Everything that is not as it must be, seen from the mount that did not write it.
    fn problems(&self) -> Vec<String> {
        let owed = self.ledgers.iter().enumerate();
        owed.flat_map(|(number, (name, ledger))| ledger.problems(&self.mounts[number % 2].path().join(name)))
            .collect()
    }
}

/// Each failpoint of `victim`; with `DFS_TEST_FAILPOINT` set only those whose names begin so.
fn crash_everywhere(victim: Victim) {
    let cluster = ProcessCluster::start(ClusterOptions {
        coordinator_args: ["--keep-freed", "0"].map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    });
    let mounts = [0, 1].map(|_| cluster.mount(MountOptions::default()));
    let mut rig = Rig {
        mounts,
        cluster,
        ledgers: Vec::new(),
    };
    let only = std::env::var("DFS_TEST_FAILPOINT").unwrap_or_default();
    let points = Failpoint::ALL.iter().filter(|point| point.victim() == victim);
    for (round, point) in points.filter(|point| point.name().starts_with(&only)).enumerate() {
        crash_at(&mut rig, round, *point);
    }
}

#[test]
fn what_was_acknowledged_survives_a_crash_of_the_coordinator_at_every_failpoint() {
    crash_everywhere(Victim::Coordinator);
}

#[test]
fn what_was_acknowledged_survives_a_crash_of_a_datanode_at_every_failpoint() {
    crash_everywhere(Victim::Datanode);
}

fn crash_at(rig: &mut Rig, round: usize, point: Failpoint) {
    let began = std::time::Instant::now();
    let victim = match point.victim() {
        Victim::Coordinator => "coordinator",
        Victim::Datanode => "datanode-1",
    };
    let durability: &[&str] = match is_relaxed(point) {
        true => &["admin", "durability", "relaxed", "--delay", "20"],
        false => &["admin", "durability", "sync"],
    };
    rig.cluster.run_dfs(durability);
    let work = rig.start_work(point.victim(), round);
    let over = Arc::new(AtomicBool::new(false));
    // A session that is open at the crash keeps changes waiting until its lease is over, so only where it matters.
    let sessions = has_sessions(point).then(|| {
        let (over, mut command) = (over.clone(), rig.cluster.dfs());
        command.args(["ls", "/"]);
        start("sessions", move || {
            while !over.load(Ordering::Relaxed) {
                // Without a coordinator it fails.
                attempt(&mut command, LIMIT);
            }
        })
    });
    let before = rig.cluster.node(victim).log().len();
    rig.cluster.node(victim).stop();
    rig.cluster.node(victim).start_armed(point.name(), count(point));
    if point == Failpoint::CloseAfterStore {
        work.iter().for_each(|work| work.wait_for_steps(20));
        let pid = rig.cluster.node(victim).pid().expect("it runs");
        kill(Pid::from_raw(pid as i32), Signal::SIGTERM).unwrap();
    }
    if point == Failpoint::RegisterNodeAfterCommit {
        rig.cluster.node("datanode-3").kill();
        rig.cluster.node("datanode-3").start();
    }
    let status = rig.cluster.node(victim).wait_ended(LIMIT);
    over.store(true, Ordering::Relaxed);
    assert_eq!(
        status.signal(),
        Some(Signal::SIGKILL as i32),
        "{}: {status}",
        point.name()
    );
    let log = rig.cluster.node(victim).log();
    let reached = format!("failpoint {} reached", point.name());
    assert!(
        log[before..].contains(&reached),
        "{} was not reached",
        point.name()
    );
    let steps = work.each_ref().map(Work::steps);
    rig.cluster.node(victim).start();
    if let Some(sessions) = sessions {
        sessions.wait(LIMIT);
    }
    for (work, steps) in work.iter().zip(steps) {
        work.wait_for_steps(steps + STEPS_AFTER);
    }
    let mut problems = Vec::new();
    for work in work {
        let (ledgers, errors) = work.end_unharmed();
        rig.ledgers.extend(ledgers);
        problems.extend(errors);
    }
    problems.extend(rig.problems());
    // Not healthy: a chunk that was written while a datanode was away has a replica less.
    rig.cluster.wait_status("all datanodes up", |status| {
        let nodes = status["nodes"].as_array().expect("as it always is");
        nodes.iter().all(|node| node["health"] == "up")
    });
    // As it is now, with everything under way.
    rig.cluster.node("coordinator").kill();
    problems.extend(check_store(rig.cluster.node("coordinator").data()));
    rig.cluster.node("coordinator").start();
    println!("{}: {:.1?}", point.name(), began.elapsed());
    assert!(problems.is_empty(), "{}:\n{}", point.name(), problems.join("\n"));
    // What is checked once more later costs more each time: a round is checked in the next one, and then no more.
    let keep = rig.ledgers.len().saturating_sub(2 * 14);
    rig.ledgers.drain(..keep);
}
