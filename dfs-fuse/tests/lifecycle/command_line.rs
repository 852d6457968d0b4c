//! Errors that are seen before anything is mounted: each has its exit code, a sentence, and no consequences.

use super::{Daemon, LIMIT, cluster};
use dfs_testkit::process::{Binaries, Program, attempt};
use std::fs;
use std::net::TcpListener;

#[test]
fn wrong_usage_is_exit_code_2() {
    let binaries = Binaries::find();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_str().unwrap();
    for (args, says) in [
        (&[][..], "MOUNTPOINT"),
        (&["--bogus", path], "--bogus"),
        (&["a:1", path, "more"], "more"),
        (&["--coordinator", "nowhere", path], "nowhere"),
        (&["a:1", path, "-o", "ro,bogus"], "bogus"),
        (&["a:1", path, "-o", "cache=much"], "cache"),
        (&["--cache-size", "0", "a:1", path], "cache"),
        (&["--wait", "never", "a:1", path], "never"),
        // Nobody says which cluster.
        (&[path], "dfs connect"),
    ] {
        let finished = attempt(
            binaries
                .command(Program::Mount)
                .env("HOME", dir.path())
                .env_remove("XDG_CONFIG_HOME")
                .args(args),
            LIMIT,
        );
        assert_eq!(finished.status.code(), Some(2), "{}", finished.describe());
        assert!(finished.stderr.contains(says), "{}", finished.describe());
    }
}

#[test]
fn help_documents_options_and_exit_codes() {
    let finished = attempt(Binaries::find().command(Program::Mount).arg("--help"), LIMIT);
    assert!(finished.status.success());
    for says in [
        "--coordinator",
        "--foreground",
        "--cache-size",
        "allow_other",
        "Exit codes",
        "fstab",
    ] {
        assert!(finished.stdout.contains(says), "{says}: {}", finished.stdout);
    }
}

#[test]
fn mount_point_must_be_a_directory() {
    let binaries = Binaries::find();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "kept").unwrap();
    for (path, says) in [
        (dir.path().join("missing"), "does not exist"),
        (file.clone(), "not a directory"),
        (file.join("below"), "not a directory"),
    ] {
        let finished = attempt(
            binaries
                .command(Program::Mount)
                .args(["--coordinator", "127.0.0.1:1"])
                .arg(&path),
            LIMIT,
        );
        assert_eq!(finished.status.code(), Some(1), "{}", finished.describe());
        assert!(finished.stderr.contains(says), "{}", finished.describe());
    }
    assert_eq!(fs::read(&file).unwrap(), b"kept");
}

#[test]
fn unreachable_coordinator_is_an_error_after_the_wait() {
    let binaries = Binaries::find();
    let dir = tempfile::tempdir().unwrap();
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [silent.local_addr().unwrap(), closed.local_addr().unwrap()];
    drop(closed);
    for address in addresses.map(|address| address.to_string()) {
        for place in [&["--foreground"][..], &["--log", "/dev/null"]] {
            let mut command = binaries.command(Program::Mount);
            command
                .args(["--coordinator", &address, "--wait", "1"])
                .args(place)
                .arg(dir.path());
            let finished = attempt(&mut command, LIMIT);
            assert_eq!(finished.status.code(), Some(1), "{}", finished.describe());
            assert!(finished.stderr.contains(&address), "{}", finished.describe());
            let advised = finished.stderr.contains("start the coordinator there");
            assert!(advised, "{}", finished.describe());
        }
    }
    let table = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(
        !table.contains(dir.path().to_str().unwrap()),
        "nothing is mounted"
    );
}

#[test]
fn log_file_that_cannot_be_written_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let finished = attempt(
        Binaries::find()
            .command(Program::Mount)
            .args(["--coordinator", "127.0.0.1:1", "--log", "/proc/no/such/log"])
            .arg(dir.path()),
        LIMIT,
    );
    assert_eq!(finished.status.code(), Some(1), "{}", finished.describe());
    assert!(
        finished.stderr.contains("/proc/no/such/log"),
        "{}",
        finished.describe()
    );
}

#[test]
fn directory_that_is_mounted_already_is_refused() {
    let cluster = cluster();
    let daemon = Daemon::start(&cluster, "mnt", &[]);
    fs::write(daemon.path().join("file"), "kept").unwrap();
    let finished = daemon.attempt(&cluster, &[]);
    assert_eq!(finished.status.code(), Some(1), "{}", finished.describe());
    assert!(finished.stderr.contains("umount"), "{}", finished.describe());
    assert_eq!(fs::read(daemon.path().join("file")).unwrap(), b"kept");
    assert_eq!(daemon.processes().len(), 1);
}

#[test]
fn fake_mount_checks_and_mounts_nothing() {
    let cluster = cluster();
    let daemon = Daemon::none(&cluster, "mnt");
    let finished = daemon.attempt(&cluster, &["-f"]);
    assert!(finished.status.success(), "{}", finished.describe());
    assert!(daemon.mounted().is_none());
    assert!(daemon.processes().is_empty());
}
