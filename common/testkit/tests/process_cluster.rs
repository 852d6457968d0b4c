//! The process cluster itself: it becomes healthy, survives what tests do to it, and leaves nothing behind.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, ProcessCluster, until};
use std::path::{Path, PathBuf};
use std::time::Duration;

#[test]
fn cluster_is_healthy_survives_kills_and_leaves_nothing() {
    let mut cluster = ProcessCluster::start(ClusterOptions::default());
    let base: PathBuf = cluster.base().path().to_owned();
    let (address, pid) = (
        cluster.coordinator().to_owned(),
        cluster.node("coordinator").pid(),
    );
    assert_eq!(cluster.status()["nodes"].as_array().map(Vec::len), Some(3));

    let file = base.join("file");
    std::fs::write(&file, vec![7; 100_000]).unwrap();
    cluster.run_dfs(&["upload", file.to_str().unwrap(), "/file"]);
    cluster.kill_all();
    assert!(cluster.node("datanode-1").pid().is_none());
    cluster.start_all();
    assert_eq!(cluster.coordinator(), address, "the same address");
    assert_ne!(cluster.node("coordinator").pid(), pid, "another process");
    let back = base.join("back");
    cluster.run_dfs(&["download", "/file", back.to_str().unwrap()]);
    assert_eq!(std::fs::read(back).unwrap(), vec![7; 100_000]);

    cluster.node("datanode-2").suspend();
    cluster.wait_status("a suspended datanode is missed", |status| {
        let nodes = status["nodes"].as_array().expect("status has nodes");
        nodes.iter().any(|node| node["health"] != "up")
    });
    cluster.node("datanode-2").resume();
    cluster.wait_healthy();
    assert!(cluster.node("datanode-3").stop().success());
    let pids: Vec<u32> = ["coordinator", "datanode-1", "datanode-2"]
        .iter()
        .filter_map(|name| cluster.node(name).pid())
        .collect();
    assert_eq!(pids.len(), 3);
    drop(cluster);
    assert!(!base.exists());
    for pid in pids {
        until("end of a server", Duration::from_secs(10), || {
            (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
        });
    }
}

#[test]
fn disks_of_their_own_go_with_the_cluster() {
    let options = ClusterOptions {
        datanode_disk_bytes: Some(64 << 20),
        ..ClusterOptions::with_datanodes(1)
    };
    let cluster = ProcessCluster::start(options);
    let capacity = cluster.status()["capacity_bytes"]
        .as_u64()
        .expect("status has capacity_bytes");
    assert!(capacity <= 64 << 20, "{capacity}");
    let base = cluster.base().path().to_owned();
    drop(cluster);
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains(base.to_str().unwrap()) && !base.exists());
}
