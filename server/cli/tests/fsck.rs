//! `dfs admin fsck` on a real cluster that is used meanwhile.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{TestCluster, make_tree};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The chunk files below a datanode's data directory.
fn chunk_files(data: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![data.join("chunks")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => found.push(path),
            }
        }
    }
    found
}

#[test]
fn used_cluster_is_clean_and_lost_content_is_named_by_path() {
    let mut cluster = TestCluster::start();
    let tree = cluster.dir("tree");
    make_tree(&tree);
    cluster.ok(&["upload", "-r", &tree, "/tree"]);
    let uploaded = chunk_files(cluster.cluster.node("datanode-1").data());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let (cluster, tree, done) = (&cluster, &tree, &done);
        let load = scope.spawn(move || {
            let mut rounds = 0;
            while !done.load(Ordering::Relaxed) {
                cluster.ok(&["upload", "-r", tree, "/copy"]);
                cluster.ok(&["rm", "-r", "/copy"]);
                rounds += 1;
            }
            rounds
        });
        for _ in 0..12 {
            let text = cluster.ok(&["admin", "fsck", "--repair"]);
            assert!(
                text.contains(": no problems\n") && text.contains(" 0 too few, 0 none, 0 unknown"),
                "{text}"
            );
        }
        done.store(true, Ordering::Relaxed);
        assert!(load.join().unwrap() > 0);
    });
    let events = cluster.json(&["admin", "fsck", "--no-chunks"]);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(
        (
            &events[0]["summary"]["found"],
            &events[0]["summary"]["asked_datanodes"]
        ),
        (&0.into(), &false.into())
    );

    // A node that is away makes nothing lost.
    cluster.cluster.node("datanode-3").kill();
    let finished = cluster.fails(&["admin", "fsck"], 4);
    assert!(
        finished.stdout.contains("did not answer: node "),
        "{}",
        finished.describe()
    );
    assert!(finished.stdout.contains(" 0 none"), "{}", finished.describe());
    cluster.cluster.node("datanode-3").start();
    cluster.cluster.wait_healthy();

    let victim = uploaded
        .iter()
        .max_by_key(|file| fs::metadata(file).unwrap().len());
    let victim = victim.unwrap().file_name().unwrap();
    for number in 1..=3 {
        // They keep files open that were read.
        let node = cluster.cluster.node(&format!("datanode-{number}"));
        node.kill();
        let mut copies = chunk_files(node.data());
        copies.retain(|file| file.file_name() == Some(victim));
        assert_eq!(copies.len(), 1);
        fs::remove_file(&copies[0]).unwrap();
        node.start();
    }
    cluster.cluster.wait_healthy();
    let finished = cluster.fails(&["admin", "fsck", "--repair", "--json"], 5);
    let events: Vec<Value> = finished
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let lost = events.iter().filter_map(|event| event["lost"]["path"].as_str());
    let lost: Vec<&str> = lost.collect();
    assert_eq!(lost.len(), 1, "{}", finished.describe());
    assert!(lost[0].starts_with("/tree/"), "{lost:?}");
    let summary = &events.last().unwrap()["summary"];
    assert_eq!(
        (&summary["lost"], &summary["lost_files"], &summary["left"]),
        (&1.into(), &1.into(), &0.into())
    );
    // A check deletes nothing, least of all the rest of that file.
    assert!(cluster.names("/tree").len() > 10);
}
