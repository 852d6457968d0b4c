//! What `scripts/` offers for a cluster on this machine works: it is what the README tells people to run.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{Base, Binaries, attempt, run};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn script(name: &str) -> Command {
    let scripts = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts"));
    Command::new(scripts.join(name))
}

fn dev_cluster(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = script("dev-cluster");
    command.args(arguments).arg("--dir").arg(dir);
    command.arg("--bin-dir").arg(Binaries::find().dir());
    command
}

/// Ends the cluster whatever the test does.
struct Down<'a>(&'a Path);

impl Drop for Down<'_> {
    fn drop(&mut self) {
        attempt(&mut dev_cluster(self.0, &["down"]), LIMIT);
    }
}

#[test]
fn dev_cluster_comes_up_loses_a_node_and_ends() {
    let base = Base::new();
    let dir = base.path().join("cluster");
    let _down = Down(&dir);
    run(&mut dev_cluster(&dir, &["up"]), LIMIT);
    // Its file of settings is for a shell.
    let asks = format!(
        ". {}/cluster.env && \"$DFS_BIN_DIR/dfs\" status --json",
        dir.display()
    );
    let status = run(Command::new("sh").arg("-c").arg(&asks), LIMIT);
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(
        (&status["healthy"], status["nodes"].as_array().unwrap().len()),
        (&true.into(), 3)
    );
    run(&mut dev_cluster(&dir, &["kill", "datanode-2"]), LIMIT);
    let shown = attempt(&mut dev_cluster(&dir, &["status"]), LIMIT);
    assert!(shown.stdout.contains("datanode-2"), "{}", shown.describe());
    run(&mut dev_cluster(&dir, &["restart", "datanode-2"]), LIMIT);
    run(&mut dev_cluster(&dir, &["status"]), LIMIT);
    run(&mut dev_cluster(&dir, &["down"]), LIMIT);
    assert!(
        !attempt(Command::new("sh").arg("-c").arg(&asks), LIMIT)
            .status
            .success()
    );
}

#[test]
fn bench_measures_a_cluster_of_its_own_and_leaves_nothing() {
    let base = Base::new();
    let tree = [
        "tree_create",
        "tree_walk_cold",
        "tree_stat_random_cold",
        "tree_remove",
    ];
    let workloads = [&["create", "rename", "unlink"], &tree[..]].concat();
    for durability in ["sync", "relaxed"] {
        let report = base.path().join(durability);
        let mut bench = script("bench");
        bench.args(["--quick", "--tree", "60", "--only", &workloads.join(",")]);
        bench.args(["--durability", durability, "--json"]);
        bench.arg(&report).arg("--bin-dir").arg(Binaries::find().dir());
        run(bench.env("TMPDIR", base.path()), LIMIT);
        let report: serde_json::Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
        assert_eq!(report["durability"], durability);
        for workload in &workloads {
            let rate = &report["workloads"][workload]["dfs"]["value"];
            assert!(
                rate.as_f64().is_some_and(|rate| rate > 0.0),
                "{workload}: {report}"
            );
        }
    }
    let left: Vec<_> = std::fs::read_dir(base.path())
        .unwrap()
        .flatten()
        .map(|entry| entry.file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}
