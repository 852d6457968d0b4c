//! A mount that is killed is gone for the others at once; one that only cannot be reached is not, until its lease has ended.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_common::limits::{SESSION_KEEPALIVE, SESSION_LEASE};
use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster, run, start, until};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(120);
/// Well below the lease; a busy machine needs some of it.
const AT_ONCE: Duration = Duration::from_secs(5);

fn over_tcp() -> MountOptions {
    MountOptions {
        args: vec!["-o".to_owned(), "local_sockets=off".to_owned()],
    }
}

/// Waits until this many sessions end with their mounts.
fn lifelines(cluster: &ProcessCluster, number: u64) {
    cluster.wait_status("all mounts to have lifelines", |status| {
        status["lifelines"].as_u64() == Some(number)
    });
}

fn open(path: &Path) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn lock(file: &File, start: i64) -> Result<(), Errno> {
    let range = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(file, FcntlArg::F_SETLK(&range)).map(drop)
}

/// Has leases on names and attributes, locks, an open file without a name.
fn hold_much(mount: &Mount) -> (File, File) {
    let dir = mount.path().join("d");
    let (locked, removed) = (open(&dir.join("locked")), open(&dir.join("removed")));
    lock(&locked, 0).unwrap();
    fs::remove_file(dir.join("removed")).unwrap();
    for _ in 0..2 {
        for entry in fs::read_dir(&dir).unwrap() {
            fs::symlink_metadata(entry.unwrap().path()).unwrap();
        }
        assert!(!dir.join("missing").exists());
    }
    (locked, removed)
}

#[test]
fn what_a_killed_mount_had_is_free_at_once() {
    let mut cluster = ProcessCluster::start(ClusterOptions::with_datanodes(1));
    let other = cluster.mount(MountOptions::default());
    let dir = other.path().join("d");
    fs::create_dir(&dir).unwrap();
    for (round, options) in [MountOptions::default(), over_tcp(), MountOptions::default()]
        .into_iter()
        .enumerate()
    {
        fs::write(dir.join("removed"), vec![1; 100_000]).unwrap();
        fs::write(dir.join("locked"), "x").unwrap();
        let inodes = cluster.status()["inodes"].as_u64().unwrap();
        let mut killed = cluster.mount(options);
        let held = hold_much(&killed);
        if round == 2 {
            // The lifelines are hung up again after a restart of the coordinator.
            cluster.node("coordinator").kill();
            cluster.node("coordinator").start();
        }
        lifelines(&cluster, 2);
        let locked = open(&dir.join("locked"));
        // A coordinator that was started again gives no locks before everybody has said what he has.
        let refused = until("an answer about the lock", LIMIT, || {
            lock(&locked, 0).err().filter(|error| *error == Errno::EAGAIN)
        });
        assert_eq!(refused, Errno::EAGAIN);
        let since = Instant::now();
        killed.kill();
        let free = {
            let dir = dir.clone();
            start("what the killed mount had", move || {
                // Its lease on the directory.
                fs::write(dir.join("missing"), "made").unwrap();
                let changed = since.elapsed();
                until("its lock to be free", LIMIT, || lock(&locked, 0).ok());
                (changed, since.elapsed())
            })
        };
        let (changed, locked) = free.wait(LIMIT);
        eprintln!("after the kill: changed after {changed:?}, locked after {locked:?}");
        assert!(changed < AT_ONCE && locked < AT_ONCE, "{changed:?} {locked:?}");
        // The file that had no name any more, too; its replacement by "missing" is made.
        cluster.wait_status("end of the session, and of what it had open", |status| {
            status["sessions"].as_u64() == Some(1) && status["inodes"].as_u64() == Some(inodes)
        });
        assert!(since.elapsed() < SESSION_LEASE, "{:?}", since.elapsed());
        fs::remove_file(dir.join("missing")).unwrap();
        drop(held);
    }
}

#[test]
fn restart_of_the_coordinator_ends_no_session() {
    let mut cluster = ProcessCluster::start(ClusterOptions::with_datanodes(1));
    let mounts = [cluster.mount(MountOptions::default()), cluster.mount(over_tcp())];
    let files: Vec<File> = mounts
        .iter()
        .enumerate()
        .map(|(number, mount)| {
            fs::write(mount.path().join(format!("file-{number}")), "x").unwrap();
            let file = open(&mount.path().join(format!("file-{number}")));
            lock(&file, 0).unwrap();
            file
        })
        .collect();
    for in_order in [true, false, true] {
        lifelines(&cluster, 2);
        let coordinator = cluster.node("coordinator");
        if in_order {
            coordinator.stop();
        } else {
            coordinator.kill();
        }
        coordinator.start();
        lifelines(&cluster, 2);
        for file in &files {
            // A session that was lost fails the files that it had locked.
            file.write_all_at(b"y", 0).unwrap();
            file.sync_all().unwrap();
        }
    }
    for mount in &mounts {
        let log = mount.log();
        assert!(!log.contains("session is gone"), "{log}");
    }
}

#[test]
fn mount_that_cannot_be_reached_keeps_its_session_until_its_lease_ends() {
    // A network of its own, for this thread and all that it starts: the test may switch it off.
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let network = |state: &str| run(Command::new("ip").args(["link", "set", "lo", state]), LIMIT);
    network("up");
    let cluster = ProcessCluster::start(ClusterOptions::with_datanodes(1));
    // By a local socket, which no network matters to.
    let other = cluster.mount(MountOptions::default());
    let cut = cluster.mount(over_tcp());
    fs::write(other.path().join("file"), "as saved").unwrap();
    let (of_cut, of_other) = (open(&cut.path().join("file")), open(&other.path().join("file")));
    lock(&of_cut, 0).unwrap();
    lifelines(&cluster, 2);
    network("down");
    let since = Instant::now();
    let waited = start("a lock of the other mount", move || {
        until("the lock to be free", LIMIT, || lock(&of_other, 0).ok());
        since.elapsed()
    });
    let waited = waited.wait(LIMIT);
    eprintln!("the lock was free {waited:?} after the network was cut");
    // Its last keep-alive was sent that long before, at most.
    let least = SESSION_LEASE - SESSION_KEEPALIVE - Duration::from_secs(1);
    assert!(
        waited > least,
        "its session ended after {waited:?}, before its lease"
    );
    assert!(waited < SESSION_LEASE + AT_ONCE, "{waited:?}");
    network("up");
    let told = start("the mount that was cut off", move || {
        until("it finds out that it lost its lock", LIMIT, || {
            let error = of_cut.write_all_at(b"Z", 0).err()?;
            (error.raw_os_error() == Some(libc::EIO)).then_some(())
        });
    });
    told.wait(LIMIT);
    assert_eq!(fs::read_to_string(other.path().join("file")).unwrap(), "as saved");
    lifelines(&cluster, 2);
}
