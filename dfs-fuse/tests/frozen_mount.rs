//! A mount that was frozen for longer than its lease: the others go on, and it neither answers from what it remembers nor writes what it
//! had, says so, and works again by itself.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_common::limits::SESSION_LEASE;
use dfs_testkit::process::{ClusterOptions, MountOptions, ProcessCluster, start, until};
use nix::libc;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

/// Beside the lease: what the calls themselves may take on a busy machine.
const SLACK: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn frozen_mount_is_fenced_says_what_it_lost_and_goes_on_without_remounting() {
    let cluster = ProcessCluster::start(ClusterOptions::with_datanodes(3));
    let frozen = cluster.mount(MountOptions::default());
    let other = cluster.mount(MountOptions::default());
    let (here, there) = (frozen.path().join("d"), other.path().join("d"));
    fs::create_dir(&here).unwrap();
    for name in ["written", "read", "removed"] {
        let mut file = File::create_new(here.join(name)).unwrap();
        file.write_all(b"as saved").unwrap();
        file.sync_all().unwrap();
    }
    let reading = File::open(here.join("read")).unwrap();
    let content = |file: &File| {
        let mut content = vec![0; 100];
        let length = file.read_at(&mut content, 0)?;
        content.truncate(length);
        std::io::Result::Ok(content)
    };
    assert_eq!(content(&reading).unwrap(), b"as saved");
    assert!(!here.join("new").exists(), "remembered as absent");
    let writing = File::options()
        .read(true)
        .write(true)
        .open(here.join("written"))
        .unwrap();
    // In its memory only, and then it cannot act any more.
    writing.write_all_at(b"unsaved!", 0).unwrap();
    frozen.suspend();

    let since = Instant::now();
    let changes = {
        let there = there.clone();
        start("changes through the other mount", move || {
            fs::write(there.join("written"), "by the other").unwrap();
            File::options()
                .write(true)
                .open(there.join("read"))
                .unwrap()
                .write_all_at(b"CHANGED!", 0)
                .unwrap();
            fs::remove_file(there.join("removed")).unwrap();
            fs::write(there.join("new"), "made").unwrap();
            File::open(there.join("written")).unwrap().sync_all().unwrap();
        })
    };
    changes.wait(LIMIT);
    let waited = since.elapsed();
    assert!(waited < SESSION_LEASE + SLACK, "the others waited for {waited:?}");
    frozen.resume();

    let pending = start("calls through the mount that was frozen", move || {
        assert_eq!(fs::read_to_string(here.join("written")).unwrap(), "by the other");
        // Pages that the kernel has of an open file it gives without asking: the mount has them dropped when it finds out.
        until("the pages of an open file are dropped", SLACK, || {
            (content(&reading).unwrap() == b"CHANGED!").then_some(())
        });
        assert_eq!(fs::read_to_string(here.join("read")).unwrap(), "CHANGED!");
        assert!(!here.join("removed").exists());
        assert_eq!(fs::read_to_string(here.join("new")).unwrap(), "made");
        let told = writing.sync_all().unwrap_err();
        assert_eq!(
            told.raw_os_error(),
            Some(libc::EIO),
            "unsaved writes were lost: {told}"
        );
        writing.sync_all().expect("it is told once");
        // The same open file, and a new one, in the new session.
        writing.write_all_at(b"BY", 0).unwrap();
        writing.sync_all().unwrap();
        fs::write(here.join("after"), "goes on").unwrap();
    });
    pending.wait(LIMIT);
    assert_eq!(fs::read_to_string(there.join("written")).unwrap(), "BY the other");
    assert_eq!(fs::read_to_string(there.join("after")).unwrap(), "goes on");
    let log = frozen.log();
    assert!(log.contains("unsaved writes are lost"), "{log}");
}
