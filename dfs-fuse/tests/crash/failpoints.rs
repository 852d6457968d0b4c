//! A server dies at each failpoint in turn, under load from two mounts, from programs that open and end sessions, and from an
//! administrator ([`Scene`]); and so does a restore from a backup.
//!
//! The mounts live on: none of their programs may be told of an error, what was acknowledged is there, what was under way is there whole or
//! not at all (the ledger), and the metadata pass the full check after each crash.

use super::ledger::Ledger;
use super::writers::{self, Work};
use dfs_common::failpoint::{Failpoint, Victim};
use dfs_testkit::process::{
    ClusterOptions, Content, Mount, MountOptions, Pending, ProcessCluster, Program, StoppedStore, attempt,
    check_store, damaged_chunks, run, start, until,
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
        Failpoint::EndSessionAfterOrphans
        | Failpoint::EndSessionAfterReplies
        | Failpoint::EndSessionAfterSpent
        | Failpoint::EndSessionAfterRecord
        | Failpoint::ReleaseAfterApply
        | Failpoint::PersistAfterSync => 3,
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
        Failpoint::OpenSessionAfterApply
            | Failpoint::OpenSessionAfterCommit
            | Failpoint::EndSessionAfterOrphans
            | Failpoint::EndSessionAfterReplies
            | Failpoint::EndSessionAfterSpent
            | Failpoint::EndSessionAfterRecord
    )
}

/// What an administrator does, or somebody else once in a while, so that a failpoint is passed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Scene {
    /// A client dies and does not come back.
    Expiry,
    /// One more datanode comes.
    Growth,
    /// A quota is set.
    Quota,
    /// Something is wrong in the store, and repaired.
    Repair,
    /// The hold after a restore is released.
    Hold,
}

impl Scene {
    /// The one in which a failpoint is passed, and whether what it is about is durable there.
    fn of(point: Failpoint) -> Option<(Scene, bool)> {
        Some(match point {
            Failpoint::ExpireSessionAfterFence => (Scene::Expiry, false),
            Failpoint::CreateGroupsAfterApply => (Scene::Growth, false),
            Failpoint::CreateGroupsAfterCommit => (Scene::Growth, true),
            Failpoint::SetQuotaAfterApply => (Scene::Quota, false),
            Failpoint::SetQuotaAfterCommit => (Scene::Quota, true),
            Failpoint::RepairAfterApply => (Scene::Repair, false),
            Failpoint::RepairAfterCommit => (Scene::Repair, true),
            Failpoint::ReleaseHoldAfterApply => (Scene::Hold, false),
            Failpoint::ReleaseHoldAfterCommit => (Scene::Hold, true),
            _ => return None,
        })
    }

    /// Before the server is stopped. A mount is to be killed when it is: it would end its session itself while the server runs, or hold others up.
    fn prepare(self, rig: &Rig, round: usize) -> Option<Mount> {
        match self {
            Scene::Expiry => return Some(rig.cluster.mount(MountOptions::default())),
            Scene::Quota => std::fs::create_dir(rig.mounts[0].path().join(quota_of(round))).unwrap(),
            Scene::Growth | Scene::Repair | Scene::Hold => {}
        }
        None
    }

    /// While it is stopped, before it dies.
    fn damage(self, store: &StoppedStore) {
        match self {
            Scene::Repair => store.damage_usage(),
            Scene::Hold => store.hold(),
            Scene::Expiry | Scene::Growth | Scene::Quota => {}
        }
    }

    /// While it runs: dies of it. The command may go on until the server is back.
    fn act(self, rig: &mut Rig, round: usize) -> Option<Pending<()>> {
        let directory = format!("/{}", quota_of(round));
        let args: &[&str] = match self {
            Scene::Expiry => return None,
            Scene::Growth => {
                rig.cluster.add_datanode(&[], None);
                return None;
            }
            Scene::Quota => &["admin", "quota", "set", &directory, "--inodes", "1000"],
            Scene::Repair => &["admin", "fsck", "--repair", "--no-chunks"],
            Scene::Hold => &["admin", "metadata", "release-hold"],
        };
        let mut command = rig.cluster.dfs();
        command.args(args);
        Some(start("administrator", move || drop(attempt(&mut command, LIMIT))))
    }

    /// What it counts in a store.
    fn count(self, store: &StoppedStore) -> u64 {
        match self {
            Scene::Expiry => store.sessions() as u64,
            Scene::Growth => store.groups() as u64,
            Scene::Quota => store.quotas() as u64,
            Scene::Repair => store.problems(),
            Scene::Hold => u64::from(store.is_held()),
        }
    }

    /// When everything runs again: what was asked for is as it was asked for, at the latest after it was asked for once more.
    fn settle(self, rig: &mut Rig, round: usize) {
        let directory = format!("/{}", quota_of(round));
        match self {
            Scene::Expiry | Scene::Growth => {}
            Scene::Quota => {
                let set = ["admin", "quota", "set", &directory, "--inodes", "1000"];
                rig.cluster.run_dfs(&set);
                let quotas = rig.cluster.run_dfs(&["admin", "quota", "ls"]);
                assert!(quotas.contains(&directory), "{quotas}");
            }
            Scene::Repair => {
                let said = rig.cluster.run_dfs(&["admin", "fsck", "--repair", "--no-chunks"]);
                let clean = ["no problems\n", " 0 problems left\n"];
                assert!(clean.iter().any(|text| said.contains(text)), "{said}");
            }
            Scene::Hold => {
                rig.cluster.run_dfs(&["admin", "metadata", "release-hold"]);
            }
        }
    }
}

fn quota_of(round: usize) -> String {
    format!("quota-{round}")
}

/// What the stopped coordinator's store says.
fn look<T>(rig: &mut Rig, look: impl FnOnce(&StoppedStore) -> T) -> T {
    look(&StoppedStore::open(rig.cluster.node("coordinator").data()))
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
            Victim::Datanode | Victim::Restore => writers::start_all,
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

/// Each failpoint of `victim`, with a scene or without; with `DFS_TEST_FAILPOINT` set only those whose names begin so.
fn crash_everywhere(victim: Victim, with_scene: bool) {
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
    let points = Failpoint::ALL
        .iter()
        .filter(|point| point.victim() == victim && Scene::of(**point).is_some() == with_scene);
    for (round, point) in points.filter(|point| point.name().starts_with(&only)).enumerate() {
        crash_at(&mut rig, round, *point);
    }
}

#[test]
fn what_was_acknowledged_survives_a_crash_of_the_coordinator_at_every_failpoint() {
    crash_everywhere(Victim::Coordinator, false);
}

#[test]
fn what_was_acknowledged_survives_a_crash_of_the_coordinator_in_what_it_seldom_does() {
    crash_everywhere(Victim::Coordinator, true);
}

#[test]
fn what_was_acknowledged_survives_a_crash_of_a_datanode_at_every_failpoint() {
    crash_everywhere(Victim::Datanode, false);
}

fn crash_at(rig: &mut Rig, round: usize, point: Failpoint) {
    let began = std::time::Instant::now();
    let victim = match point.victim() {
        Victim::Coordinator => "coordinator",
        Victim::Datanode | Victim::Restore => "datanode-1",
    };
    let durability: &[&str] = match is_relaxed(point) {
        true => &["admin", "durability", "relaxed", "--delay", "20"],
        false => &["admin", "durability", "sync"],
    };
    rig.cluster.run_dfs(durability);
    let scene = Scene::of(point);
    let doomed = scene.and_then(|(scene, _)| scene.prepare(rig, round));
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
    if let Some(mut mount) = doomed {
        mount.kill();
    }
    let counted = scene.map(|(scene, _)| {
        look(rig, |store| {
            scene.damage(store);
            scene.count(store)
        })
    });
    rig.cluster.node(victim).start_armed(point.name(), count(point));
    let command = scene.and_then(|(scene, _)| scene.act(rig, round));
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
    if let (Some((scene, is_done)), Some(before)) = (scene, counted) {
        let after = look(rig, |store| scene.count(store));
        assert_eq!(
            after != before,
            is_done,
            "{}: {before}, then {after}",
            point.name()
        );
    }
    let mut problems = Vec::new();
    if point.victim() == Victim::Datanode {
        // What it has under a chunk's name is that chunk: nobody reads it now, for the others have it too.
        problems.extend(damaged_chunks(rig.cluster.node(victim).data()));
    }
    let steps = work.each_ref().map(Work::steps);
    rig.cluster.node(victim).start();
    if let Some(command) = command {
        command.wait(LIMIT);
    }
    if let Some(sessions) = sessions {
        sessions.wait(LIMIT);
    }
    for (work, steps) in work.iter().zip(steps) {
        work.wait_for_steps(steps + STEPS_AFTER);
    }
    for work in work {
        let (ledgers, errors) = work.end_unharmed();
        rig.ledgers.extend(ledgers);
        problems.extend(errors);
    }
    problems.extend(rig.problems());
    if let Some((scene, _)) = scene {
        scene.settle(rig, round);
    }
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

#[test]
fn restore_that_was_killed_anywhere_makes_a_coordinator_or_none_and_can_be_made_again() {
    let mut cluster = ProcessCluster::start(ClusterOptions::default());
    let mount = cluster.mount(MountOptions::default());
    let content = Content::new(1, 1_000_000);
    std::fs::write(mount.path().join("kept"), content.bytes()).unwrap();
    let backup = cluster.base().path().join("backup");
    let backup = backup.to_str().unwrap().to_owned();
    cluster.run_dfs(&["admin", "metadata", "backup", &backup]);
    drop(mount);
    cluster.node("coordinator").kill();
    let data = cluster.node("coordinator").data().to_owned();
    let place = data.to_str().unwrap().to_owned();
    let binaries = cluster.binaries().clone();
    let restore = |armed: Option<Failpoint>| {
        let mut command = binaries.command(Program::Server);
        command.args(["metadata", "restore", "--data", &place, &backup]);
        if let Some(point) = armed {
            command.env("DFS_FAILPOINT", point.name());
        }
        command
    };
    let points = Failpoint::ALL
        .iter()
        .filter(|point| point.victim() == Victim::Restore);
    let mut killed = 0;
    for point in points {
        std::fs::remove_dir_all(&data).unwrap();
        let died = attempt(&mut restore(Some(*point)), LIMIT);
        let reached = format!("failpoint {} reached", point.name());
        assert!(died.stderr.contains(&reached), "{}", died.describe());
        killed += 1;
        let is_whole = *point == Failpoint::RestoreAfterIdentity;
        // Nobody takes half of one for a coordinator's, and nobody overwrites it.
        let again = attempt(&mut restore(None), LIMIT);
        assert_eq!(
            again.status.code(),
            Some(1),
            "{}: {}",
            point.name(),
            again.describe()
        );
        if !is_whole {
            let mut coordinator = binaries.command(Program::Server);
            coordinator.args(["coordinator", "--listen", "127.0.0.1:0", "--data", &place]);
            let refused = attempt(&mut coordinator, LIMIT);
            assert_eq!(
                refused.status.code(),
                Some(1),
                "{}: {}",
                point.name(),
                refused.describe()
            );
            std::fs::remove_dir_all(&data).unwrap();
            run(&mut restore(None), LIMIT);
        }
        assert_eq!(check_store(&data), Vec::<String>::new(), "{}", point.name());
    }
    assert!(killed >= 4);
    // The last one as it was left.
    cluster.node("coordinator").start();
    cluster.wait_healthy();
    let mount = cluster.mount(MountOptions::default());
    let kept = mount.path().join("kept");
    until("the file of the backup", LIMIT, || {
        let same = std::fs::read(&kept).is_ok_and(|read| read == content.bytes());
        same.then_some(())
    });
}
