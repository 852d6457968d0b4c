//! From the command line to the end of the daemon: what `dfs-mount` says, when it returns, and what it leaves.

#![allow(clippy::unwrap_used)] // helpers of tests

mod command_line;
mod daemon;
mod ending;
mod foreign;
mod mounted;

use mounted::Daemon;

use dfs_testkit::process::{ClusterOptions, ProcessCluster, until};
use std::fs;
use std::time::Duration;

/// One command, or the end of one daemon.
const LIMIT: Duration = Duration::from_secs(60);

fn cluster() -> ProcessCluster {
    ProcessCluster::start(ClusterOptions::with_datanodes(1))
}

/// Makes the coordinator silent. The signal alone returns before the last of its threads has stopped.
fn silence(cluster: &mut ProcessCluster) {
    let coordinator = cluster.node("coordinator");
    coordinator.suspend();
    let threads = format!("/proc/{}/task", coordinator.pid().unwrap());
    let is_stopped = |thread: fs::DirEntry| {
        let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
    };
    until("coordinator to stop", LIMIT, || {
        fs::read_dir(&threads)
            .unwrap()
            .flatten()
            .all(is_stopped)
            .then_some(())
    });
}
