//! Programs that work in one tree from two mounts at the same time, unchanged.

#![allow(clippy::unwrap_used)] // helpers of tests

mod git;
mod programs;
mod random_writes;

use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(300);

fn set_up() -> (ProcessCluster, [Mount; 2]) {
    let cluster = ProcessCluster::start(ClusterOptions::with_datanodes(3));
    let mounts = [(); 2].map(|()| cluster.mount(MountOptions::default()));
    (cluster, mounts)
}
