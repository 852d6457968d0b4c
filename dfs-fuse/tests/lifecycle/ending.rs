//! The end of a mount: by umount, by signals, by a crash. Nothing that was saved or closed is lost, nothing stays behind.

use super::{Daemon, LIMIT, cluster, silence};
use dfs_testkit::process::{Content, MountOptions, attempt, until};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::fs::{self, File};
use std::io::Write;
use std::process::Command;

/// More than what travels inside a metadata commit.
const CONTENT_BYTES: usize = 3 << 20;

#[test]
fn umount_ends_the_daemon_and_loses_nothing() {
    let cluster = cluster();
    let mut mount = cluster.mount(MountOptions::default());
    let content = Content::new(1, CONTENT_BYTES);
    fs::write(mount.path().join("closed"), content.bytes()).unwrap();
    let mut synced = File::create(mount.path().join("synced")).unwrap();
    synced.write_all(&content.bytes()).unwrap();
    synced.sync_all().unwrap();
    drop(synced);
    assert!(mount.unmount().success());
    mount.remount();
    for name in ["closed", "synced"] {
        assert!(
            fs::read(mount.path().join(name)).unwrap() == content.bytes(),
            "{name}"
        );
    }
    assert!(mount.unmount().success());
}

#[test]
fn umount_command_works_on_a_daemon() {
    let cluster = cluster();
    let daemon = Daemon::start(&cluster, "mnt", &[]);
    fs::write(daemon.path().join("file"), "content").unwrap();
    let open = File::open(daemon.path().join("file")).unwrap();
    let busy = attempt(Command::new("umount").arg(daemon.path()), LIMIT);
    assert!(!busy.status.success(), "an open file keeps the mount");
    assert_eq!(fs::read(daemon.path().join("file")).unwrap(), b"content");
    drop(open);
    let done = attempt(Command::new("umount").arg(daemon.path()), LIMIT);
    assert!(done.status.success(), "{}", done.describe());
    daemon.wait_end();
    assert!(
        fs::read_dir(daemon.path()).unwrap().next().is_none(),
        "the directory below is seen"
    );
    daemon.start_again(&cluster, &[]);
    assert_eq!(fs::read(daemon.path().join("file")).unwrap(), b"content");
}

#[test]
fn signal_unmounts_an_idle_mount() {
    let cluster = cluster();
    let mut mount = cluster.mount(MountOptions::default());
    fs::write(mount.path().join("file"), "content").unwrap();
    assert!(mount.terminate().success());
    mount.remount();
    assert_eq!(fs::read(mount.path().join("file")).unwrap(), b"content");
}

#[test]
fn signal_saves_what_is_unsaved_of_a_mount_in_use() {
    let cluster = cluster();
    let mut mount = cluster.mount(MountOptions::default());
    let content = Content::new(2, CONTENT_BYTES);
    let mut open = File::create(mount.path().join("open")).unwrap();
    open.write_all(&content.bytes()).unwrap();
    // The harness also sees that the mount point is gone.
    assert!(mount.terminate().success(), "{}", mount.log());
    let refused = open.write_all(b"more").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::ENOTCONN as i32));
    mount.remount();
    assert!(fs::read(mount.path().join("open")).unwrap() == content.bytes());
}

#[test]
fn signal_saves_what_is_unsaved_once_another_coordinator_is_there() {
    let mut cluster = cluster();
    let mut mount = cluster.mount(MountOptions::default());
    let content = Content::new(3, CONTENT_BYTES);
    let mut open = File::create(mount.path().join("open")).unwrap();
    cluster.node("coordinator").kill();
    open.write_all(&content.bytes()).unwrap();
    let pid = nix::unistd::Pid::from_raw(mount.pid() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    until("mount point to be free", LIMIT, || {
        (!mount.is_mounted()).then_some(())
    });
    cluster.node("coordinator").start();
    assert!(mount.wait_end().success(), "{}", mount.log());
    mount.remount();
    assert!(fs::read(mount.path().join("open")).unwrap() == content.bytes());
}

#[test]
fn second_signal_ends_at_once_and_says_so() {
    let mut cluster = cluster();
    let mut mount = cluster.mount(MountOptions {
        args: vec!["--drain".to_owned(), "3600".to_owned()],
    });
    let mut open = File::create(mount.path().join("open")).unwrap();
    open.write_all(b"unsaved").unwrap();
    silence(&mut cluster);
    let pid = nix::unistd::Pid::from_raw(mount.pid() as i32);
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
    until("mount point to be free", LIMIT, || {
        (!mount.is_mounted()).then_some(())
    });
    let status = mount.terminate();
    cluster.node("coordinator").resume();
    assert_eq!(status.code(), Some(1), "{}", mount.log());
    assert!(mount.log().contains("second signal"), "{}", mount.log());
}

#[test]
fn patience_with_saving_has_an_end() {
    let mut cluster = cluster();
    let mut mount = cluster.mount(MountOptions {
        args: vec!["--drain".to_owned(), "1".to_owned()],
    });
    let mut open = File::create(mount.path().join("open")).unwrap();
    open.write_all(b"unsaved").unwrap();
    silence(&mut cluster);
    let status = mount.terminate();
    cluster.node("coordinator").resume();
    assert_eq!(
        status.code(),
        Some(1),
        "what is lost is not called a success: {}",
        mount.log()
    );
}

#[test]
fn forced_umount_ends_calls_that_wait() {
    let mut cluster = cluster();
    let mut mount = cluster.mount(MountOptions::default());
    fs::write(mount.path().join("file"), "content").unwrap();
    silence(&mut cluster);
    let path = mount.path().join("new");
    let waiting = dfs_testkit::process::start("waiting call", move || fs::create_dir(path));
    until("waiting to be logged", LIMIT, || {
        mount.log().contains("waiting for a server").then_some(())
    });
    mount.force();
    let error = waiting.wait(LIMIT).unwrap_err();
    assert!(
        [Some(Errno::ECONNABORTED as i32), Some(Errno::ENOTCONN as i32)].contains(&error.raw_os_error()),
        "{error}"
    );
    cluster.node("coordinator").resume();
    mount.detach();
    mount.wait_end();
}

#[test]
fn mount_of_a_killed_daemon_is_replaced_after_umount() {
    let cluster = cluster();
    let daemon = Daemon::start(&cluster, "mnt", &[]);
    fs::write(daemon.path().join("file"), "closed").unwrap();
    daemon.signal(Signal::SIGKILL);
    daemon.wait_end();
    until("connection to be gone", LIMIT, || {
        let error = fs::read_dir(daemon.path()).err()?;
        (error.raw_os_error() == Some(Errno::ENOTCONN as i32)).then_some(())
    });
    let refused = daemon.attempt(&cluster, &[]);
    assert_eq!(refused.status.code(), Some(1), "{}", refused.describe());
    assert!(refused.stderr.contains("umount"), "{}", refused.describe());
    let done = attempt(Command::new("umount").arg(daemon.path()), LIMIT);
    assert!(done.status.success(), "{}", done.describe());
    daemon.start_again(&cluster, &[]);
    assert_eq!(fs::read(daemon.path().join("file")).unwrap(), b"closed");
}
