//! Disks that run full: ENOSPC, nothing damaged, and space that comes back after `rm`.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a directory of a small file system (tmpfs, say) the first test runs there.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{
    ClusterOptions, Content, MountOptions, Place, ProcessCluster, attempt, start, until,
};
use nix::libc::ENOSPC;
use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
/// Disk of each datanode in bytes.
const DISK: u64 = 160 << 20;
/// Each file written.
const FILE: usize = 10 << 20;

#[test]
fn full_datanodes_refuse_with_enospc_and_take_writes_again_after_rm() {
    let mut place = Place::new(ClusterOptions {
        datanode_disk_bytes: Some(DISK),
        // Room comes back after it; the default is a minute.
        coordinator_args: ["--keep-freed", "1"].map(str::to_owned).to_vec(),
        ..ClusterOptions::default()
    });
    let dir = place.dir().to_owned();
    let kept = Content::new(1, FILE);
    write(&dir.join("kept"), kept).unwrap();

    let (count, error) = fill(&dir);
    assert_eq!(error.raw_os_error(), Some(ENOSPC), "after {count} files: {error}");
    let expected = (DISK / FILE as u64) as usize;
    assert!(
        (expected / 2..=expected).contains(&count),
        "{count} files of {FILE} bytes fit into {DISK} bytes"
    );
    // `cp` tells its user.
    let source = place.scratch("local").join("large");
    fs::write(&source, Content::new(2, FILE).bytes()).unwrap();
    let finished = attempt(Command::new("cp").arg(&source).arg(dir.join("copied")), LIMIT);
    assert!(
        !finished.status.success() && finished.stderr.contains("No space left"),
        "{}",
        finished.describe()
    );
    let _ = fs::remove_file(dir.join("copied"));

    // Names still work; what was there is whole, also from the servers.
    fs::create_dir(dir.join("directory")).unwrap();
    fs::rename(dir.join("directory"), dir.join("renamed")).unwrap();
    place.cool();
    assert!(kept.is(&fs::read(dir.join("kept")).unwrap()));
    for number in 0..count {
        assert!(
            filler(number).is(&fs::read(dir.join(format!("file-{number}"))).unwrap()),
            "file-{number}"
        );
    }

    for number in 0..count {
        fs::remove_file(dir.join(format!("file-{number}"))).unwrap();
    }
    // Freed chunks are collected some time after their files.
    let again = Content::new(3, 3 * FILE);
    until("space after rm", LIMIT, || {
        match write(&dir.join("again"), again) {
            Ok(()) => Some(()),
            Err(error) if error.raw_os_error() == Some(ENOSPC) => {
                let _ = fs::remove_file(dir.join("again"));
                None
            }
            Err(error) => panic!("{error}"),
        }
    });
    place.cool();
    assert!(again.is(&fs::read(dir.join("again")).unwrap()));
    assert!(kept.is(&fs::read(dir.join("kept")).unwrap()));
}

/// Writes files until one fails; that one is removed. How many there are, and the error.
fn fill(dir: &Path) -> (usize, io::Error) {
    let dir = dir.to_owned();
    let fill = start("writer", move || {
        for number in 0.. {
            let path = dir.join(format!("file-{number}"));
            if let Err(error) = write(&path, filler(number)) {
                fs::remove_file(&path).unwrap();
                return (number, error);
            }
        }
        unreachable!("a disk has an end")
    });
    fill.wait(LIMIT)
}

fn filler(number: usize) -> Content {
    Content::new(100 + number as u64, FILE)
}

fn write(path: &Path, content: Content) -> io::Result<()> {
    let mut file = File::create(path)?;
    content.write_to(&mut file, 1 << 20)?;
    file.sync_all()
}

#[test]
fn statfs_shows_the_disks_and_what_is_used() {
    let cluster = ProcessCluster::start(ClusterOptions {
        datanode_disk_bytes: Some(DISK),
        ..ClusterOptions::default()
    });
    let mount = cluster.mount(MountOptions::default());
    let figures = || {
        let found = nix::sys::statvfs::statvfs(mount.path()).unwrap();
        assert_eq!(found.name_max(), 255);
        let unit = found.fragment_size();
        (
            found.blocks() * unit,
            found.blocks_available() * unit,
            found.files() - found.files_free(),
        )
    };
    let (total, free, files) = figures();
    // Three replicas of everything on three disks: as much as one disk.
    assert!((DISK / 2..=DISK).contains(&total), "{total} of {DISK}");
    assert!(free <= total && free > total / 2, "{free} of {total}");
    write(&mount.path().join("file"), Content::new(1, 5 * FILE)).unwrap();
    until("statfs follows", LIMIT, || {
        let (total_after, free_after, files_after) = figures();
        let used = free.saturating_sub(free_after);
        let close = (4 * FILE as u64..7 * FILE as u64).contains(&used);
        (close && total_after == total && files_after == files + 1).then_some(())
    });
}

/// The disk of the names runs full: calls fail or wait, nothing acknowledged is lost.
#[test]
fn full_coordinator_loses_nothing_it_acknowledged() {
    let disk = ClusterOptions {
        coordinator_disk_bytes: Some(256 << 20),
        ..ClusterOptions::default()
    };
    let mut cluster = ProcessCluster::start(disk);
    let mut mount = cluster.mount(MountOptions::default());
    let dir = mount.path().to_owned();
    for number in 0..100 {
        fs::create_dir(dir.join(format!("before-{number}"))).unwrap();
    }
    let ballast = cluster.node("coordinator").data().join("ballast");
    let others = File::create(&ballast).unwrap();
    let fill = || io::copy(&mut io::repeat(1), &mut (&others)).expect_err("a disk has an end");
    assert_eq!(fill().raw_os_error(), Some(ENOSPC));
    let leave = |bytes: u64| {
        let length = others.metadata().unwrap().len();
        others.set_len(length - bytes).unwrap();
        (&others).seek(SeekFrom::End(0)).unwrap();
    };
    leave(80 << 20);

    let scratch = cluster.base().subdir("scratch");
    let (small, acknowledged) = (scratch.join("small"), scratch.join("acknowledged"));
    let content = Content::new(1, 12_000);
    fs::write(&small, content.bytes()).unwrap();
    let script = "for i in $(seq 3000); do mkdir during-$i && cp \"$0\" during-$i/small && echo $i >>\"$1\" || exit 9; done";
    let mut writer = Command::new("sh")
        .args(["-c", script])
        .args([&small, &acknowledged])
        .current_dir(&dir)
        .spawn()
        .unwrap();
    // It is refused, and the coordinator says why.
    let status = until("the end of the writer", LIMIT, || writer.try_wait().unwrap());
    assert_eq!(status.code(), Some(9), "the disk never ran full");
    let error = fs::create_dir(dir.join("refused")).expect_err("the disk is full");
    assert_eq!(error.raw_os_error(), Some(ENOSPC));
    assert!(cluster.node("coordinator").log().contains("nearly full"));
    // What makes room goes on.
    fs::rename(dir.join("before-0"), dir.join("renamed")).unwrap();
    fs::rename(dir.join("renamed"), dir.join("before-0")).unwrap();
    fs::remove_dir(dir.join("before-99")).unwrap();
    // Until others take that room too.
    assert_eq!(fill().raw_os_error(), Some(ENOSPC));
    let error = fs::rename(dir.join("before-0"), dir.join("renamed")).expect_err("the disk is full");
    assert_eq!(error.raw_os_error(), Some(ENOSPC));
    leave(40 << 20);
    fs::rename(dir.join("before-0"), dir.join("renamed")).unwrap();
    fs::rename(dir.join("renamed"), dir.join("before-0")).unwrap();
    drop(others);
    fs::remove_file(&ballast).unwrap();
    // With room again it goes on by itself.
    fs::create_dir(dir.join("refused")).unwrap();
    // And a restart finds everything.
    cluster.node("coordinator").kill();
    cluster.node("coordinator").start();
    mount.remount();
    for number in 0..99 {
        assert!(dir.join(format!("before-{number}")).is_dir(), "before-{number}");
    }
    let acknowledged = fs::read_to_string(acknowledged).unwrap();
    assert_ne!(acknowledged.lines().count(), 0, "there was room at first");
    for number in acknowledged.lines() {
        let found = fs::read(dir.join(format!("during-{number}/small"))).unwrap();
        assert!(content.is(&found), "during-{number}: {} bytes", found.len());
    }
    fs::create_dir(dir.join("afterwards")).unwrap();
}
