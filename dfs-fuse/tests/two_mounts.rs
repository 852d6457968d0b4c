//! Two mounts of one cluster: what one was acknowledged the other sees on its next call, though both answer from memory; and
//! neither waits for the other for long.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster, start};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

fn set_up() -> (ProcessCluster, Mount, Mount) {
    let cluster = ProcessCluster::start(ClusterOptions::with_datanodes(3));
    let first = cluster.mount(MountOptions::default());
    let second = cluster.mount(MountOptions::default());
    (cluster, first, second)
}

/// Looks at everything below `dir`, so that the mount holds leases on it: listed, each name looked up, a missing one too.
fn learn(dir: &Path) {
    for _ in 0..2 {
        for entry in fs::read_dir(dir).unwrap() {
            fs::symlink_metadata(entry.unwrap().path()).unwrap();
        }
        assert!(fs::symlink_metadata(dir.join("missing")).is_err());
        fs::metadata(dir).unwrap();
    }
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A change through one mount, and what the other one must see of it.
type Step = (&'static str, fn(&Path), fn(&Path));

const STEPS: &[Step] = &[
    (
        "create",
        |dir| drop(File::create_new(dir.join("missing")).unwrap()),
        |dir| assert!(dir.join("missing").exists()),
    ),
    (
        "unlink",
        |dir| fs::remove_file(dir.join("a")).unwrap(),
        |dir| assert!(!dir.join("a").exists()),
    ),
    (
        "rename",
        |dir| fs::rename(dir.join("a"), dir.join("missing")).unwrap(),
        |dir| assert_eq!(names(dir), ["b", "missing", "sub"]),
    ),
    (
        "rename over",
        |dir| fs::rename(dir.join("a"), dir.join("b")).unwrap(),
        |dir| assert_eq!(fs::read_to_string(dir.join("b")).unwrap(), "content of a"),
    ),
    (
        "chmod",
        |dir| fs::set_permissions(dir.join("a"), Permissions::from_mode(0o600)).unwrap(),
        |dir| assert_eq!(fs::metadata(dir.join("a")).unwrap().mode() & 0o7777, 0o600),
    ),
    (
        "truncate",
        |dir| {
            File::options()
                .write(true)
                .open(dir.join("a"))
                .unwrap()
                .set_len(3)
                .unwrap()
        },
        |dir| assert_eq!(fs::metadata(dir.join("a")).unwrap().len(), 3),
    ),
    (
        "write and close",
        |dir| fs::write(dir.join("a"), "longer than it was").unwrap(),
        |dir| {
            assert_eq!(fs::metadata(dir.join("a")).unwrap().len(), 18);
            assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "longer than it was");
        },
    ),
    (
        "link",
        |dir| fs::hard_link(dir.join("a"), dir.join("missing")).unwrap(),
        |dir| assert_eq!(fs::metadata(dir.join("a")).unwrap().nlink(), 2),
    ),
    (
        "mkdir",
        |dir| fs::create_dir(dir.join("sub/deeper")).unwrap(),
        |dir| assert_eq!(fs::metadata(dir.join("sub")).unwrap().nlink(), 3),
    ),
    (
        "rmdir",
        |dir| fs::remove_dir(dir.join("sub")).unwrap(),
        |dir| {
            assert_eq!(names(dir), ["a", "b"]);
            assert_eq!(fs::metadata(dir).unwrap().nlink(), 2);
        },
    ),
];

#[test]
fn every_change_is_seen_by_the_other_mount_at_once() {
    let (_cluster, first, second) = set_up();
    for (from, to, round) in [(&first, &second, 0), (&second, &first, 1), (&first, &second, 2)] {
        for (number, (what, change, check)) in STEPS.iter().enumerate() {
            // A directory of its own for each step: what was recalled is not leased again for a moment.
            let name = format!("step-{round}-{number}");
            let (here, there): (PathBuf, PathBuf) = (from.path().join(&name), to.path().join(&name));
            fs::create_dir(&here).unwrap();
            fs::write(here.join("a"), "content of a").unwrap();
            fs::write(here.join("b"), "content of b").unwrap();
            fs::create_dir(here.join("sub")).unwrap();
            learn(&there);
            learn(&here);
            eprintln!("{what}, round {round}");
            change(&here);
            check(&there);
            check(&here);
        }
    }
}

#[test]
fn two_mounts_that_work_in_one_directory_do_not_stop_each_other() {
    const FILES: usize = 150;
    let (_cluster, first, second) = set_up();
    fs::create_dir(first.path().join("shared")).unwrap();
    let work = |mount: &Mount, who: &'static str| {
        let dir = mount.path().join("shared");
        start("working in the shared directory", move || {
            for number in 0..FILES {
                let path = dir.join(format!("{who}-{number}"));
                fs::write(&path, who).unwrap();
                fs::rename(&path, dir.join(format!("{who}-{number}-done"))).unwrap();
                fs::read_dir(&dir).unwrap().for_each(drop);
            }
        })
    };
    let (a, b) = (work(&first, "a"), work(&second, "b"));
    a.wait(LIMIT);
    b.wait(LIMIT);
    let seen = names(&first.path().join("shared"));
    assert_eq!(seen.len(), 2 * FILES);
    assert_eq!(seen, names(&second.path().join("shared")));
    assert!(seen.iter().all(|name| name.ends_with("-done")));
}

#[test]
fn mount_that_is_killed_delays_the_other_no_longer_than_its_lease() {
    let (_cluster, first, mut second) = set_up();
    let dir = first.path().join("d");
    fs::create_dir(&dir).unwrap();
    learn(&second.path().join("d"));
    second.kill();
    start("a change after the other mount died", move || {
        fs::write(dir.join("f"), "x").unwrap()
    })
    .wait(Duration::from_secs(40));
    assert_eq!(fs::read_to_string(first.path().join("d/f")).unwrap(), "x");
}
