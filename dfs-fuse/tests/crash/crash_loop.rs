//! kill -9 of one victim again and again, at a random moment under load from two mounts; the face of this is `scripts/crash-loop`.
//!
//! The ledger is kept here, outside of the cluster: what a call acknowledged is in it once the call returned. Each cycle is checked when the victim is
//! back, against what is there; at the end everything is checked once more, from the other mount, and the metadata pass the full check. Programs on a mount
//! that was not killed may not be told of an error.
//!
//! `DFS_CRASH_CYCLES` says how many cycles.

use super::ledger::Ledger;
use super::writers::{self, Work};
use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster, check_store};
use std::fs;
use std::time::Instant;

/// Acknowledged steps of each mount before the kill; a random number below is added.
const STEPS_BEFORE: usize = 20;
/// And after it.
const STEPS_AFTER: usize = 10;
/// Problems that are named.
const PROBLEMS_SHOWN: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Victim {
    Coordinator,
    Datanode,
    Mount,
}

struct Rig {
    // The mounts end before the cluster.
    mounts: [Mount; 2],
    cluster: ProcessCluster,
    /// Directory below the root, and what is owed there.
    ledgers: Vec<(String, Ledger)>,
}

fn cycles(otherwise: usize) -> usize {
    match std::env::var("DFS_CRASH_CYCLES") {
        Ok(text) => text
            .parse()
            .unwrap_or_else(|_| panic!("DFS_CRASH_CYCLES={text} is not a number")),
        Err(_) => otherwise,
    }
}

fn problems(mount: &Mount, ledgers: &[(String, Ledger)]) -> Vec<String> {
    let each = ledgers.iter();
    each.flat_map(|(name, ledger)| ledger.problems(&mount.path().join(name)))
        .collect()
}

/// Nothing of what was promised is missing, or an account of what is.
fn judge(cycle: usize, victim: Victim, mut problems: Vec<String>) {
    let count = problems.len();
    problems.truncate(PROBLEMS_SHOWN);
    assert!(
        problems.is_empty(),
        "after cycle {cycle} of {victim:?}: {count} promises were broken:\n{}",
        problems.join("\n")
    );
}

fn crash_again_and_again(victim: Victim, cycles: usize) {
    let cluster = ProcessCluster::start(ClusterOptions {
        coordinator_args: ["--keep-freed", "1"].map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    });
    let mounts = [0, 1].map(|_| cluster.mount(MountOptions::default()));
    for (number, mount) in mounts.iter().enumerate() {
        fs::create_dir(mount.path().join(format!("mount-{number}"))).unwrap();
    }
    let mut rig = Rig {
        mounts,
        cluster,
        ledgers: Vec::new(),
    };
    let began = Instant::now();
    for cycle in 0..cycles {
        let (new, mut broken) = one_cycle(&mut rig, victim, cycle);
        broken.extend(problems(&rig.mounts[1], &new));
        judge(cycle, victim, broken);
        rig.ledgers.extend(new);
    }
    // A later crash must not undo what an earlier one left; nothing comes from a cache.
    rig.mounts[0].remount();
    let mut problems = problems(&rig.mounts[0], &rig.ledgers);
    rig.cluster.node("coordinator").kill();
    problems.extend(check_store(rig.cluster.node("coordinator").data()));
    judge(cycles, victim, problems);
    rig.cluster.node("coordinator").start();
    println!(
        "{cycles} cycles of {victim:?} in {:.1?}: nothing acknowledged is lost",
        began.elapsed()
    );
}

/// What is owed, and the errors that programs were told of and should not have been.
fn one_cycle(rig: &mut Rig, victim: Victim, cycle: usize) -> (Vec<(String, Ledger)>, Vec<String>) {
    let dirs = [0, 1].map(|number| format!("mount-{number}"));
    let work = [0, 1].map(|number| {
        let dir = rig.mounts[number].path().join(&dirs[number]);
        writers::start_small(&dir, cycle as u64)
    });
    let steps = STEPS_BEFORE + rand::random::<u32>() as usize % (3 * STEPS_BEFORE);
    work.iter().for_each(|work| work.wait_for_steps(steps));
    match victim {
        Victim::Coordinator => {
            rig.cluster.node("coordinator").kill();
            rig.cluster.node("coordinator").start();
        }
        Victim::Datanode => {
            let name = format!("datanode-{}", 1 + cycle % 3);
            rig.cluster.node(&name).kill();
            rig.cluster.node(&name).start();
        }
        Victim::Mount => rig.mounts[0].kill(),
    }
    let killed = |number: usize| victim == Victim::Mount && number == 0;
    let reached = work.each_ref().map(Work::steps);
    for (number, work) in work.iter().enumerate() {
        if !killed(number) {
            work.wait_for_steps(reached[number] + STEPS_AFTER);
        }
    }
    let (mut new, mut told) = (Vec::new(), Vec::new());
    for (number, work) in work.into_iter().enumerate() {
        let (ledgers, errors) = work.end_unharmed();
        if !killed(number) {
            told.extend(errors);
        }
        let ledgers = ledgers.into_iter();
        new.extend(ledgers.map(|(name, ledger)| (format!("{}/{name}", dirs[number]), ledger)));
    }
    if victim == Victim::Mount {
        rig.mounts[0].remount();
    }
    println!("cycle {cycle}: killed after {steps} steps of each mount");
    (new, told)
}

#[test]
fn nothing_is_lost_when_the_coordinator_is_killed_again_and_again() {
    crash_again_and_again(Victim::Coordinator, cycles(50));
}

#[test]
fn nothing_is_lost_when_a_datanode_is_killed_again_and_again() {
    crash_again_and_again(Victim::Datanode, cycles(9));
}

#[test]
fn nothing_is_lost_when_a_mount_is_killed_again_and_again() {
    crash_again_and_again(Victim::Mount, cycles(2));
}
