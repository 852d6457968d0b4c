//! `dfs admin metadata` and `dfs-server metadata` on a real cluster.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{TestCluster, assert_same, make_tree};
use dfs_testkit::process::{Finished, Program, attempt, run};
use serde_json::Value;
use std::fs;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn server(cluster: &TestCluster, args: &[&str]) -> Finished {
    let mut command = cluster.cluster.binaries().command(Program::Server);
    attempt(command.arg("metadata").args(args), LIMIT)
}

#[track_caller]
fn done(cluster: &TestCluster, args: &[&str]) -> String {
    let finished = server(cluster, args);
    assert!(finished.status.success(), "{}", finished.describe());
    finished.stdout
}

#[track_caller]
fn refused(cluster: &TestCluster, args: &[&str], words: &str) {
    let finished = server(cluster, args);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.describe());
    assert!(finished.stderr.contains(words), "{}", finished.describe());
    assert_eq!(finished.stdout, "");
}

#[test]
fn dump_of_a_stopped_coordinator_is_loaded_into_another_store_and_serves() {
    let mut cluster = TestCluster::start();
    let tree = cluster.dir("tree");
    make_tree(&tree);
    cluster.ok(&["upload", "-rp", &tree, "/tree"]);
    let compacted = &cluster.json(&["admin", "metadata", "compact"])[0];
    assert!(compacted["bytes_after"].as_u64().unwrap() > 0, "{compacted}");

    // Of the running one: every line is an object, the last says how many there are.
    let text = cluster.ok(&["admin", "metadata", "dump"]);
    let lines: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines.last().unwrap()["records"], lines.len() - 2);
    assert!(text.contains(r#""name":{"hex":"6f646420ff0a206e616d65"}"#));
    let file = cluster.path("running.json");
    cluster.ok(&["admin", "metadata", "dump", &file]);
    assert_eq!(fs::read_to_string(&file).unwrap().lines().count(), lines.len());
    let nowhere = cluster.path("missing/dump");
    cluster.fails(&["admin", "metadata", "dump", &nowhere], 1);
    cluster.fails(&["admin", "metadata", "backup"], 2);

    let data = cluster.cluster.node("coordinator").data().to_owned();
    let data = data.to_str().unwrap();
    refused(&cluster, &["dump", "--data", data], "in use by another process");
    assert!(cluster.cluster.node("coordinator").stop().success());
    let (dump, again) = (cluster.path("dump"), cluster.path("again"));
    done(&cluster, &["dump", "--data", data, &dump]);
    assert_eq!(
        done(&cluster, &["dump", "--data", data]),
        fs::read_to_string(&dump).unwrap()
    );
    let said = done(&cluster, &["migrate", "--data", data]);
    assert!(said.contains("nothing to migrate"), "{said}");
    done(&cluster, &["compact", "--data", data]);
    let other = cluster.path("other");
    let said = done(&cluster, &["load", "--data", &other, &dump]);
    assert!(said.contains("problems that a check found: 0"), "{said}");
    done(&cluster, &["dump", "--data", &other, &again]);
    assert!(fs::read(&again).unwrap() == fs::read(&dump).unwrap());

    // Wrong files and places.
    refused(&cluster, &["load", "--data", &other, &dump], "already");
    let empty = cluster.path("empty");
    refused(
        &cluster,
        &["load", "--data", &empty, &cluster.path("tree/small")],
        "not a dump",
    );
    refused(&cluster, &["restore", "--data", &empty, &dump], "not a backup");
    refused(&cluster, &["verify", &dump], "not a backup");
    refused(
        &cluster,
        &["dump", "--data", &empty],
        "not the data directory of a coordinator",
    );
    refused(
        &cluster,
        &["backup", "--data", &tree, &again],
        "not the data directory of a coordinator",
    );
    assert!(!fs::exists(&empty).unwrap());

    fs::remove_dir_all(data).unwrap();
    run(std::process::Command::new("mv").args([&other, data]), LIMIT);
    cluster.cluster.node("coordinator").start();
    cluster.cluster.wait_healthy();
    let copy = cluster.path("copy");
    cluster.ok(&["download", "-rp", "/tree", &copy]);
    assert_same(&tree, &copy, true);
    cluster.ok(&["admin", "fsck"]);
    let state = &cluster.json(&["admin", "metadata", "status"])[0];
    assert_eq!(
        (&state["incarnation"], &state["holding"]),
        (&0.into(), &false.into())
    );
}
