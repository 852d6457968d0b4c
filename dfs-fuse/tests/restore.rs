//! The coordinator's disk is lost and its metadata restored from a backup, with a mount that lives through it.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{
    ClusterOptions, Content, MountOptions, ProcessCluster, Program, attempt, run, until,
};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// Ids of the chunk files below a datanode's data directory.
fn chunks(data: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut directories = vec![data.join("chunks")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => found.extend(path.file_name().map(PathBuf::from)),
            }
        }
    }
    found
}

fn state(cluster: &ProcessCluster) -> Value {
    serde_json::from_str(&cluster.run_dfs(&["admin", "metadata", "status", "--json"])).unwrap()
}

#[test]
fn every_file_of_the_backup_reads_back_after_the_coordinator_s_disk_was_lost() {
    let mut cluster = ProcessCluster::start(ClusterOptions {
        coordinator_args: vec!["--keep-freed".to_owned(), "3600".to_owned()],
        ..ClusterOptions::default()
    });
    let mount = cluster.mount(MountOptions::default());
    let root = mount.path().to_owned();
    let kept: Vec<(PathBuf, Content)> = [0usize, 5, 100_000, (1 << 20) + 1, 20_000_003]
        .into_iter()
        .enumerate()
        .flat_map(|(number, length)| {
            let content = |seed| Content::new(seed, length);
            let (one, two) = (number as u64 * 2, number as u64 * 2 + 1);
            [
                (root.join(format!("kept/{number}")), content(one)),
                (root.join(format!("kept/deep/er/{number}")), content(two)),
            ]
        })
        .collect();
    fs::create_dir_all(root.join("kept/deep/er")).unwrap();
    for (path, content) in &kept {
        fs::write(path, content.bytes()).unwrap();
    }
    symlink("deep/er", root.join("kept/link")).unwrap();
    fs::hard_link(root.join("kept/3"), root.join("kept/second name")).unwrap();
    let removed = fs::File::open(root.join("kept/4")).unwrap();

    // A backup while writes go on.
    let file = cluster.base().path().join("backup");
    let name = file.to_str().unwrap().to_owned();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut number = 0;
            while !done.load(Ordering::Relaxed) {
                let noise = root.join(format!("noise {}", number % 7));
                fs::write(
                    noise,
                    Content::new(number, 50_000 * (number as usize % 5)).bytes(),
                )
                .unwrap();
                number += 1;
            }
        });
        for _ in 0..5 {
            cluster.run_dfs(&["admin", "metadata", "backup", &name]);
        }
        done.store(true, Ordering::Relaxed);
    });
    let server = cluster.binaries().clone();
    let metadata = |args: &[&str]| {
        let mut command = server.command(Program::Server);
        command.arg("metadata").args(args);
        command
    };
    let said = run(&mut metadata(&["verify", &name]), LIMIT);
    assert!(said.contains("is whole"), "{said}");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);

    // What happened afterwards is not in it.
    fs::remove_file(root.join("kept/4")).unwrap();
    fs::remove_dir_all(root.join("kept/deep")).unwrap();
    fs::write(root.join("kept/2"), "overwritten").unwrap();
    fs::rename(root.join("kept/1"), root.join("kept/elsewhere")).unwrap();
    for number in 0..20 {
        fs::write(
            root.join(format!("later {number}")),
            Content::new(number, 200_000).bytes(),
        )
        .unwrap();
    }
    drop(removed);
    let nodes = ["datanode-1", "datanode-2", "datanode-3"];
    let before = nodes.map(|node| chunks(cluster.node(node).data()));

    // The running coordinator's directory is nobody's to back up or to restore into.
    let data = cluster.node("coordinator").data().to_owned();
    let place = data.to_str().unwrap().to_owned();
    let refused = attempt(
        &mut metadata(&["backup", "--data", &place, &format!("{name}.2")]),
        LIMIT,
    );
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("in use by another process"),
        "{}",
        refused.describe()
    );
    assert!(!Path::new(&format!("{name}.2")).exists());
    cluster.node("coordinator").kill();
    let refused = attempt(&mut metadata(&["restore", "--data", &place, &name]), LIMIT);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        refused.stderr.contains("use an empty or new directory"),
        "{}",
        refused.describe()
    );
    fs::remove_dir_all(&data).unwrap();
    let said = run(&mut metadata(&["restore", "--data", &place, &name]), LIMIT);
    assert!(
        said.contains("incarnation 1; problems that a check found: 0"),
        "{said}"
    );
    cluster.node("coordinator").start();
    cluster.wait_healthy();

    // The mount that was there sees the moment of the backup.
    until("the mount sees what was restored", LIMIT, || {
        let whole =
            |(path, content): &(PathBuf, Content)| fs::read(path).is_ok_and(|read| read == content.bytes());
        kept.iter().all(whole).then_some(())
    });
    assert_eq!(
        fs::read_link(root.join("kept/link")).unwrap(),
        Path::new("deep/er")
    );
    assert_eq!(fs::metadata(root.join("kept/second name")).unwrap().nlink(), 2);
    assert!(!root.join("later 0").exists() && !root.join("kept/elsewhere").exists());
    // And may go on, with numbers that nobody was given.
    let new = root.join("new");
    until("the mount writes again", LIMIT, || {
        fs::write(&new, "new").is_ok().then_some(())
    });
    assert!(fs::metadata(&new).unwrap().ino() > 1 << 40);
    let fresh = cluster.mount(MountOptions::default());
    for (path, content) in &kept {
        let same = fresh.path().join(path.strip_prefix(&root).unwrap());
        assert!(fs::read(&same).unwrap() == content.bytes(), "{}", same.display());
    }
    assert_eq!(fs::read(fresh.path().join("new")).unwrap(), b"new");

    // Nothing was deleted, not even what the metadata does not know.
    let told = until("every datanode tells what it has", LIMIT, || {
        let state = state(&cluster);
        state["nodes_waited_for"]
            .as_array()
            .unwrap()
            .is_empty()
            .then_some(state)
    });
    assert_eq!(
        (&told["holding"], &told["incarnation"]),
        (&true.into(), &1.into())
    );
    assert!(told["unknown_chunks"].as_u64().unwrap() > 0, "{told}");
    for (node, before) in nodes.iter().zip(before) {
        let after = chunks(cluster.node(node).data());
        assert!(
            before.is_subset(&after),
            "{node} lost {:?}",
            before.difference(&after)
        );
    }
    let said = cluster.run_dfs(&["admin", "fsck"]);
    assert!(
        said.contains(": no problems\n") && said.contains(" 0 too few, 0 none, 0 unknown"),
        "{said}"
    );
    cluster.run_dfs(&["admin", "metadata", "release-hold"]);
    assert_eq!(state(&cluster)["holding"], false);
}
