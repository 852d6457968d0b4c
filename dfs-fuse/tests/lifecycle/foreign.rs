//! Mounted by others: by mount(8), and by a user who is not root.

use super::{Daemon, LIMIT, cluster};
use dfs_testkit::process::{ProcessCluster, Program, attempt, until};
use std::fs;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::Path;
use std::process::Command;

/// `nobody`: the mount helper wants a user who has a name.
const USER: u32 = 65_534;

/// What mount(8) looks for when it shall mount the type `fuse.dfs`.
#[test]
fn mount_command_mounts_by_type() {
    mounts_by_type(|cluster, helpers| {
        symlink(
            cluster.binaries().path(Program::Mount),
            helpers.join("mount.fuse.dfs"),
        )
        .unwrap();
        "/sbin"
    });
}

/// Where there is no such helper, mount(8) runs mount.fuse, and that a program named like the type.
#[test]
fn mount_command_mounts_through_the_helper_of_fuse() {
    if !Path::new("/sbin/mount.fuse").exists() {
        eprintln!("skipped: mount.fuse is not there");
        return;
    }
    mounts_by_type(|cluster, helpers| {
        for program in [Program::Cli, Program::Mount] {
            fs::copy(
                cluster.binaries().path(program),
                helpers.join(program.file_name()),
            )
            .unwrap();
        }
        "/usr/local/bin"
    });
}

/// What `install` puts into a directory and where that belongs is there for one command only, in a mount namespace of its
/// own, so that the machine stays as it is; mount and use happen in that namespace too.
fn mounts_by_type(install: impl FnOnce(&ProcessCluster, &Path) -> &'static str) {
    let cluster = cluster();
    let daemon = Daemon::none(&cluster, "mnt");
    let helpers = cluster.base().subdir("helpers");
    let place = install(&cluster, &helpers);
    let script = r#"
        set -e
        mount --make-rprivate /
        mount --bind "$HELPERS" "$(readlink -f "$PLACE")"
        mount -t fuse.dfs -o rw,noatime,_netdev,log="$LOG" "$SOURCE" "$MOUNTPOINT"
        findmnt -n -o FSTYPE,SOURCE,OPTIONS "$MOUNTPOINT"
        echo content > "$MOUNTPOINT/file"
        cat "$MOUNTPOINT/file"
        umount "$MOUNTPOINT"
        ls -A "$MOUNTPOINT"
    "#;
    let finished = attempt(
        Command::new("unshare")
            .args(["--mount", "sh", "-c", script])
            .env("HELPERS", &helpers)
            .env("PLACE", place)
            .env("LOG", cluster.base().path().join("mnt.log"))
            .env("SOURCE", cluster.coordinator())
            .env("MOUNTPOINT", daemon.path()),
        LIMIT,
    );
    assert!(
        finished.status.success(),
        "{} {}",
        finished.describe(),
        daemon.log()
    );
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", finished.describe());
    assert!(lines[0].starts_with("fuse.dfs") && lines[0].contains(cluster.coordinator()));
    assert!(lines[0].contains("noatime"), "{}", lines[0]);
    assert_eq!(lines[1], "content");
    until("end of the daemon", LIMIT, || {
        daemon.log().contains("unmounted").then_some(())
    });
}

/// Who is not root mounts through the setuid program of the package fuse3. Where the device is root's alone, the namespace
/// of the test has one for everybody.
#[test]
fn user_mounts_for_himself() {
    if !has_setuid_helper() {
        eprintln!("skipped: fusermount3 is not there, or not set-user-id");
        return;
    }
    let cluster = cluster();
    let daemon = Daemon::none(&cluster, "mnt");
    chown(daemon.path(), Some(USER), Some(USER)).unwrap();
    // The cluster's root directory is root's.
    let shared = Daemon::start(&cluster, "shared", &[]);
    fs::create_dir(shared.path().join("home")).unwrap();
    chown(shared.path().join("home"), Some(USER), Some(USER)).unwrap();
    let script = r#"
        set -e
        user() { setpriv --reuid "$1" --regid "$1" --clear-groups "${@:2}"; }
        mount --make-rprivate /
        mount -t tmpfs devices "$DEVICES"
        mknod -m 666 "$DEVICES/fuse" c 10 229
        mount --bind "$DEVICES/fuse" /dev/fuse
        user "$OWNER" "$DFS_MOUNT" --coordinator "$SOURCE" --log "$DEVICES/../user.log" -o rw "$MOUNTPOINT"
        grep " $MOUNTPOINT " /proc/self/mounts
        user "$OWNER" sh -c 'echo mine > "$MOUNTPOINT/home/file"'
        if user 4322 ls "$MOUNTPOINT" || ls "$MOUNTPOINT"; then exit 7; fi
        user "$OWNER" fusermount3 -u "$MOUNTPOINT"
        if grep " $MOUNTPOINT " /proc/self/mounts; then exit 8; fi
        # The same with an end by a signal.
        user "$OWNER" "$DFS_MOUNT" --coordinator "$SOURCE" --log "$DEVICES/../user.log" -o ro "$MOUNTPOINT"
        grep " $MOUNTPOINT " /proc/self/mounts
        kill "$(pgrep -u "$OWNER" -f "$MOUNTPOINT")"
        for _ in $(seq 600); do
            grep -q " $MOUNTPOINT " /proc/self/mounts || exit 0
            sleep 0.1
        done
        exit 9
    "#;
    let log = cluster.base().path().join("user.log");
    fs::write(&log, "").unwrap();
    chown(&log, Some(USER), Some(USER)).unwrap();
    let finished = attempt(
        Command::new("unshare")
            .args(["--mount", "bash", "-c", script])
            .env("DEVICES", cluster.base().subdir("devices"))
            .env("DFS_MOUNT", cluster.binaries().path(Program::Mount))
            .env("SOURCE", cluster.coordinator())
            .env("MOUNTPOINT", daemon.path())
            .env("OWNER", USER.to_string()),
        LIMIT,
    );
    let log = fs::read_to_string(&log).unwrap();
    assert!(finished.status.success(), "{} {log}", finished.describe());
    let lines: Vec<&str> = finished.stdout.lines().collect();
    assert_eq!(lines.len(), 2, "{}", finished.describe());
    for part in [
        " fuse.dfs rw,nosuid,nodev",
        &format!("user_id={USER}"),
        "default_permissions",
    ] {
        assert!(lines[0].contains(part), "{part}: {}", lines[0]);
    }
    assert!(!lines[0].contains("allow_other"), "{}", lines[0]);
    assert!(lines[1].contains(" fuse.dfs ro,"), "{}", lines[1]);
    assert_eq!(fs::read(shared.path().join("home/file")).unwrap(), b"mine\n");
    assert_eq!(fs::metadata(shared.path().join("home/file")).unwrap().uid(), USER);
    daemon.wait_end();
}

fn has_setuid_helper() -> bool {
    let helper = fs::metadata("/usr/bin/fusermount3");
    helper.is_ok_and(|helper| helper.mode() & 0o4000 != 0)
}
