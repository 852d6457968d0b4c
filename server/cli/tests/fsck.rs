//! `dfs admin fsck` on a real cluster that is used meanwhile.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use common::{TestCluster, make_tree};
use dfs_testkit::process::{Program, run};
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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

#[test]
fn damaged_metadata_is_found_repaired_and_found_clean() {
    let mut cluster = TestCluster::start();
    let file = cluster.file("f", b"content");
    cluster.ok(&["mkdir", "-p", "/d/e"]);
    for name in ["/d/f", "/d/g"] {
        cluster.ok(&["upload", &file, name]);
    }
    let ino = cluster.json(&["stat", "/d/g"])[0]["ino"].as_u64().unwrap();
    // Damaged with the coordinator's own tools: one name is gone, a count is wrong, the totals are.
    assert!(cluster.cluster.node("coordinator").stop().success());
    let data = cluster.cluster.node("coordinator").data().to_owned();
    let (dump, other) = (cluster.path("dump"), cluster.path("other"));
    let server = cluster.cluster.binaries().clone();
    let metadata = |args: &[&str]| {
        let mut command = server.command(Program::Server);
        run(command.arg("metadata").args(args), Duration::from_secs(60))
    };
    metadata(&["dump", "--data", data.to_str().unwrap(), &dump]);
    let text = fs::read_to_string(&dump).unwrap();
    let nameless = [
        format!(r#""ino":{ino},"kind":1,"name":"g""#),
        r#""key":{"name":"g","#.to_owned(),
    ];
    let (mut lines, mut gone) = (Vec::new(), 0);
    for line in text.lines() {
        if nameless.iter().any(|words| line.contains(words.as_str())) {
            gone += 1;
            continue;
        }
        let line = match line.contains(r#""name":"counters""#) {
            true => line.replace(r#""inodes":"#, r#""inodes":4"#),
            false => line.to_owned(),
        };
        lines.push(line);
    }
    assert_eq!(gone, 2);
    let count = |lines: usize| format!(r#""records":{lines}"#);
    let last = lines.len() - 1;
    lines[last] = lines[last].replace(&count(last + 1), &count(last - 1));
    fs::write(&dump, lines.join("\n") + "\n").unwrap();
    let said = metadata(&["load", "--data", &other, &dump]);
    assert!(!said.contains("found: 0"), "{said}");
    fs::remove_dir_all(&data).unwrap();
    run(Command::new("mv").arg(&other).arg(&data), Duration::from_secs(60));
    cluster.cluster.node("coordinator").start();
    cluster.cluster.wait_healthy();

    let found = cluster.fails(&["admin", "fsck"], 5);
    assert!(
        found.stdout.contains("problem: the totals say"),
        "{}",
        found.describe()
    );
    let repaired = cluster.ok(&["admin", "fsck", "--repair"]);
    assert!(repaired.contains(" 0 problems left"), "{repaired}");
    let clean = cluster.ok(&["admin", "fsck"]);
    assert!(clean.contains(": no problems"), "{clean}");
    let copy = cluster.path("copy");
    cluster.ok(&["download", &format!("/lost+found/#{ino}"), &copy]);
    assert_eq!(fs::read(&copy).unwrap(), b"content");
    assert_eq!(cluster.names("/d"), ["e", "f"]);
}
