//! The coordinator is unreachable: operations wait, the log says for what, they continue when it is back and are applied
//! once; who does not want to wait can end it with `umount -f`.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{
    ClusterOptions, Content, Mount, MountOptions, Pending, Place, ProcessCluster, start, until,
};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

type Operation = Box<dyn FnOnce() -> io::Result<()> + Send>;

fn set_up() -> (ProcessCluster, Mount, PathBuf) {
    let cluster = ProcessCluster::start(ClusterOptions::default());
    let mount = cluster.mount(MountOptions::default());
    let dir = mount.path().to_owned();
    fs::write(dir.join("old"), "content").unwrap();
    fs::write(dir.join("unlinked"), "content").unwrap();
    (cluster, mount, dir)
}

/// Longer than any deadline of a call and than a session's lease.
const LONG_SECS: u64 = 22;

/// Waits until the log says that the mount has waited for some seconds, and for which server.
fn wait_for_words(mount: &Mount, coordinator: &str, waited_secs: u64) {
    until("the mount says what it waits for", LIMIT, || {
        let waited = |line: &str| {
            let (_, rest) = line.split_once("waited_secs=")?;
            rest.split(' ').next()?.parse::<u64>().ok()
        };
        let log = mount.log();
        let mut lines = log
            .lines()
            .filter(|line| line.contains("waiting") && line.contains(coordinator));
        lines.any(|line| waited(line) >= Some(waited_secs)).then_some(())
    });
}

#[test]
fn operations_wait_and_continue_when_the_coordinator_returns() {
    let (mut cluster, mut mount, dir) = set_up();
    let content = Content::new(1, 300_000);
    let mut open = File::create(dir.join("open")).unwrap();
    let address = cluster.coordinator().to_owned();
    cluster.node("coordinator").kill();

    let at = |name: &str| dir.join(name);
    let mut pending: Vec<(&str, Pending<io::Result<()>>)> = Vec::new();
    let mut add = |name: &'static str, operation: Operation| pending.push((name, start(name, operation)));
    let (made, new, link, unlinked) = (at("made"), at("new"), at("link"), at("unlinked"));
    let (old, renamed, unseen) = (at("old"), at("renamed"), at("unseen"));
    add("mkdir", Box::new(|| fs::create_dir(made)));
    add("create", Box::new(|| File::create_new(new)?.write_all(b"new")));
    add("rename", Box::new(|| fs::rename(old, renamed)));
    add("unlink", Box::new(|| fs::remove_file(unlinked)));
    add("symlink", Box::new(|| std::os::unix::fs::symlink("target", link)));
    add(
        "stat",
        Box::new(|| {
            let error = fs::metadata(unseen).expect_err("there is no such name");
            if error.kind() == io::ErrorKind::NotFound {
                Ok(())
            } else {
                Err(error)
            }
        }),
    );
    add(
        "fsync",
        Box::new(move || {
            content.write_to(&mut open, 10_000)?;
            open.sync_all()
        }),
    );
    wait_for_words(&mount, &address, LONG_SECS);
    for (name, pending) in &mut pending {
        assert!(!pending.is_done(), "{name} ended while the coordinator was away");
    }
    cluster.node("coordinator").start();
    for (name, pending) in pending {
        pending
            .wait(LIMIT)
            .unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    mount.remount();
    assert!(at("made").is_dir() && !at("old").exists() && !at("unlinked").exists());
    assert_eq!(fs::read(at("renamed")).unwrap(), b"content");
    assert_eq!(fs::read(at("new")).unwrap(), b"new");
    assert_eq!(fs::read_link(at("link")).unwrap(), Path::new("target"));
    assert!(content.is(&fs::read(at("open")).unwrap()));
}

/// A reply that is lost with the coordinator must not make the retry fail: exclusive steps never see themselves.
#[test]
fn operations_are_applied_once_however_often_the_coordinator_dies() {
    let mut place = Place::new(ClusterOptions::default());
    let dir = place.dir().to_owned();
    let (steps, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut workers: Vec<_> = (0..4)
        .map(|worker| {
            let (dir, steps, over) = (dir.join(format!("worker-{worker}")), steps.clone(), over.clone());
            start("worker", move || {
                fs::create_dir(&dir).unwrap();
                let mut number = 0;
                while !over.load(Ordering::Relaxed) {
                    exclusive_steps(&dir, number);
                    number += 1;
                    steps.fetch_add(1, Ordering::Relaxed);
                }
                (dir, number)
            })
        })
        .collect();
    for _ in 0..5 {
        let before = steps.load(Ordering::Relaxed);
        let more = 20 + u64::from(rand::random::<u8>());
        until("steps", LIMIT, || {
            assert!(!workers.iter_mut().any(Pending::is_done), "a step failed");
            (steps.load(Ordering::Relaxed) >= before + more).then_some(())
        });
        if let Some(cluster) = place.cluster() {
            cluster.node("coordinator").kill();
            cluster.node("coordinator").start();
        }
    }
    over.store(true, Ordering::Relaxed);
    let done: Vec<(PathBuf, u64)> = workers.into_iter().map(|worker| worker.wait(LIMIT)).collect();
    place.cool();
    for (dir, count) in done {
        let names = fs::read_dir(&dir).unwrap().count() as u64;
        assert_eq!(names, count, "one name is left by each step in {}", dir.display());
    }
}

#[track_caller]
fn exclusive_steps(dir: &Path, number: u64) {
    let at = |name: &str| dir.join(format!("{name}-{number}"));
    let content = number.to_string();
    File::create_new(at("file"))
        .and_then(|mut file| file.write_all(content.as_bytes()))
        .unwrap();
    fs::create_dir(at("directory")).unwrap();
    fs::hard_link(at("file"), at("link")).unwrap();
    fs::rename(at("file"), at("renamed")).unwrap();
    fs::remove_dir(at("directory")).unwrap();
    fs::remove_file(at("link")).unwrap();
    assert_eq!(fs::read(at("renamed")).unwrap(), content.as_bytes());
}

#[test]
fn process_that_waits_can_be_killed_at_the_latest_when_the_coordinator_returns() {
    let (mut cluster, mount, dir) = set_up();
    let address = cluster.coordinator().to_owned();
    cluster.node("coordinator").kill();
    let mut child = Command::new("mkdir")
        .arg(dir.join("made"))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    wait_for_words(&mount, &address, 0);
    assert!(child.try_wait().unwrap().is_none(), "mkdir waits");
    child.kill().unwrap();
    cluster.node("coordinator").start();
    let status = until("end of the killed process", LIMIT, || child.try_wait().unwrap());
    assert_eq!(status.signal(), Some(nix::sys::signal::Signal::SIGKILL as i32));
    // The directory is made or not; the mount answers either way.
    fs::create_dir(dir.join("another")).unwrap();
}

#[test]
fn forced_umount_ends_calls_that_wait_and_the_daemon() {
    let (mut cluster, mut mount, dir) = set_up();
    let address = cluster.coordinator().to_owned();
    cluster.node("coordinator").kill();
    let pending = {
        let path = dir.join("made");
        start("mkdir", move || fs::create_dir(path))
    };
    wait_for_words(&mount, &address, 0);
    mount.force();
    let error = pending.wait(LIMIT).expect_err("the call is ended, not done");
    assert!(error.raw_os_error().is_some(), "{error}");
    mount.detach();
    assert!(
        fs::read_dir(&dir).unwrap().next().is_none(),
        "the mount point is an ordinary directory again"
    );
    mount.wait_end();
    cluster.node("coordinator").start();
    mount.remount();
    assert_eq!(fs::read(dir.join("old")).unwrap(), b"content");
}

#[test]
fn lazy_umount_frees_the_mount_point_and_lets_waiting_calls_finish() {
    let (mut cluster, mut mount, dir) = set_up();
    let address = cluster.coordinator().to_owned();
    cluster.node("coordinator").kill();
    let pending = {
        let path = dir.join("made");
        start("mkdir", move || fs::create_dir(path))
    };
    wait_for_words(&mount, &address, 0);
    mount.detach();
    assert!(
        fs::read_dir(&dir).unwrap().next().is_none(),
        "the mount point is an ordinary directory again"
    );
    cluster.node("coordinator").start();
    pending.wait(LIMIT).unwrap();
    mount.wait_end();
    mount.remount();
    assert!(dir.join("made").is_dir());
}
