//! The daemon from its start on: usable when the command returns, as mounted as it was asked for, and small.

use super::{Daemon, LIMIT, cluster, silence};
use dfs_testkit::process::{until, within};
use nix::errno::Errno;
use nix::sys::signal::Signal;
use std::fs;
use std::process::Stdio;

/// Resident memory that an idle mount may use, in KiB.
const IDLE_KIB_MAX: u64 = 100 << 10;

#[test]
fn command_returns_when_the_mount_is_usable() {
    let cluster = cluster();
    let daemon = Daemon::start(&cluster, "mnt", &[]);
    // At once, without waiting for anything.
    fs::write(daemon.path().join("file"), "content").unwrap();
    assert_eq!(fs::read(daemon.path().join("file")).unwrap(), b"content");
    let line = daemon.mounted().unwrap();
    for part in [
        cluster.coordinator(),
        " fuse.dfs rw,nosuid,nodev",
        "default_permissions",
        "allow_other",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let resident: u64 = resident.unwrap().trim().trim_end_matches(" kB").parse().unwrap();
    assert!(resident < IDLE_KIB_MAX, "an idle mount uses {resident} KiB");
}

#[test]
fn daemon_is_detached_from_whoever_started_it() {
    let cluster = cluster();
    let daemon = Daemon::start(&cluster, "mnt", &[]);
    let proc = format!("/proc/{}", daemon.pid());
    assert_eq!(fs::read_link(format!("{proc}/cwd")).unwrap().to_str(), Some("/"));
    for stream in 0..2 {
        let target = fs::read_link(format!("{proc}/fd/{stream}")).unwrap();
        assert_eq!(target.to_str(), Some("/dev/null"));
    }
    let stat = fs::read_to_string(format!("{proc}/stat")).unwrap();
    let session = stat.rsplit(") ").next().unwrap().split(' ').nth(3).unwrap();
    assert_eq!(session, daemon.pid().to_string(), "it leads a session of its own");
    assert!(daemon.log().contains("mounted"), "{}", daemon.log());
}

#[test]
fn options_reach_the_kernel() {
    let cluster = cluster();
    let daemon = Daemon::start(
        &cluster,
        "mnt",
        &["-o", "ro,noexec", "-o", "fsname=a name,suid,noallow_other"],
    );
    let line = daemon.mounted().unwrap();
    assert!(line.starts_with("a\\040name "), "{line}");
    for part in ["ro,", "noexec", "nodev"] {
        assert!(line.contains(part), "{part}: {line}");
    }
    for part in ["nosuid", "allow_other"] {
        assert!(!line.contains(part), "{part}: {line}");
    }
    let refused = fs::write(daemon.path().join("file"), "").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::EROFS as i32));
}

#[test]
fn source_names_the_cluster_and_shows_in_the_mount_table() {
    let cluster = cluster();
    let daemon = Daemon::none(&cluster, "mnt");
    let mut command = cluster.binaries().command(dfs_testkit::process::Program::Mount);
    command
        .arg(cluster.coordinator())
        .arg(daemon.path())
        .args(["-o", "rw,_netdev,log=/dev/null"]);
    let finished = dfs_testkit::process::attempt(&mut command, LIMIT);
    assert!(finished.status.success(), "{}", finished.describe());
    assert!(daemon.mounted().unwrap().starts_with(cluster.coordinator()));
    assert!(fs::read_dir(daemon.path()).unwrap().next().is_none());
}

#[test]
fn kernel_reads_ahead_as_far_as_this_mount_needs() {
    let cluster = cluster();
    let daemon = Daemon::start(&cluster, "mnt", &[]);
    use std::os::unix::fs::MetadataExt;
    let device = fs::metadata(daemon.path()).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let setting = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb")).unwrap();
    assert_eq!(setting.trim(), "1024");
}

#[test]
fn daemon_whose_command_was_killed_does_not_stay() {
    let mut cluster = cluster();
    let daemon = Daemon::none(&cluster, "mnt");
    silence(&mut cluster);
    let mut command = daemon.command(&cluster);
    let mut command = command
        .args(["--wait", "60"])
        .arg(daemon.path())
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    until("daemon beside its command", LIMIT, || {
        (daemon.processes().len() == 2).then_some(())
    });
    command.kill().unwrap();
    command.wait().unwrap();
    cluster.node("coordinator").resume();
    daemon.wait_end();
    assert!(daemon.mounted().is_none(), "{}", daemon.log());
    assert!(
        daemon
            .log()
            .contains("the command that started this mount is gone"),
        "{}",
        daemon.log()
    );
}

#[test]
fn signal_while_connecting_ends_the_start() {
    let mut cluster = cluster();
    let daemon = Daemon::none(&cluster, "mnt");
    silence(&mut cluster);
    let mut command = daemon.command(&cluster);
    command.args(["--wait", "600", "--foreground"]).arg(daemon.path());
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    until("handler of signals", LIMIT, || {
        catches_sigterm(child.id()).then_some(())
    });
    daemon.signal(Signal::SIGTERM);
    let status = within("end of the start", LIMIT, move || child.wait().unwrap());
    assert_eq!(status.code(), Some(1));
    assert!(daemon.mounted().is_none());
}

/// Bit 14 of the caught signals.
fn catches_sigterm(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask & (1 << (Signal::SIGTERM as u32 - 1)) != 0)
}
