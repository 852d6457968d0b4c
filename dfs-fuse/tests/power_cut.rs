//! The coordinator's machine loses power: what fsync confirmed is there, whatever durability is set; what was lost is told.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster, start, until};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
/// EIO.
const IO_ERROR: i32 = 5;

fn set_up() -> (ProcessCluster, Mount) {
    let cluster = ProcessCluster::start(ClusterOptions {
        coordinator_power: true,
        ..ClusterOptions::default()
    });
    let mount = cluster.mount(MountOptions::default());
    (cluster, mount)
}

fn write_synced(path: &Path, content: &str) {
    try_write_synced(path, content).unwrap();
}

fn try_write_synced(path: &Path, content: &str) -> std::io::Result<()> {
    let mut file = File::create(path)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()
}

/// The mount has resumed its session: it answers of what it did not know.
fn wait_resumed(mount: &Mount) {
    let log = "session resumed";
    until("the mount has resumed its session", LIMIT, || {
        mount.log().contains(log).then_some(())
    });
}

#[test]
fn relaxed_changes_survive_a_kill_and_fsynced_ones_a_power_cut() {
    let (mut cluster, mount) = set_up();
    let dir = mount.path().to_owned();
    // Longer than the test: nothing is synced by the way.
    cluster.run_dfs(&["admin", "durability", "relaxed", "--delay", "10000"]);
    fs::create_dir(dir.join("names")).unwrap();
    fs::write(dir.join("closed"), "closed").unwrap();
    cluster.node("coordinator").kill();
    cluster.node("coordinator").start();
    assert_eq!(fs::read_to_string(dir.join("closed")).unwrap(), "closed");
    wait_resumed(&mount);

    write_synced(&dir.join("synced"), "synced");
    write_synced(&dir.join("grown"), "old");
    fs::write(dir.join("names/before"), "moved").unwrap();
    fs::rename(dir.join("names/before"), dir.join("names/after")).unwrap();
    File::open(dir.join("names")).unwrap().sync_all().unwrap();

    // From here on nothing is synced.
    let mut grown = File::options().append(true).open(dir.join("grown")).unwrap();
    grown.write_all(b" and new").unwrap();
    let grown_elsewhere = File::open(dir.join("grown")).unwrap();
    fs::write(dir.join("lost"), "lost").unwrap();
    let lost = File::create(dir.join("lost-open")).unwrap();
    lost.write_all_at(b"lost", 0).unwrap();
    let lost_ino = lost.metadata().unwrap().ino();
    // Closing saves.
    drop(File::options().append(true).open(dir.join("grown")).unwrap());
    assert_eq!(fs::read_to_string(dir.join("grown")).unwrap(), "old and new");
    drop(fs::File::open(dir.join("lost-open")).unwrap());
    fs::rename(dir.join("names/after"), dir.join("names/later")).unwrap();

    cluster.cut_power();
    until("the mount answers again", LIMIT, || {
        fs::metadata(dir.join("lost")).err()
    });

    assert_eq!(fs::read_to_string(dir.join("closed")).unwrap(), "closed");
    assert_eq!(fs::read_to_string(dir.join("synced")).unwrap(), "synced");
    assert_eq!(fs::read_to_string(dir.join("names/after")).unwrap(), "moved");
    assert!(!dir.join("names/later").exists() && !dir.join("lost-open").exists());
    // No fsync confirms what is not there.
    let names = File::open(dir.join("names")).unwrap();
    assert_eq!(names.sync_all().unwrap_err().raw_os_error(), Some(IO_ERROR));
    assert!(lost.sync_all().is_err());
    File::open(&dir).unwrap().sync_all().unwrap_err();
    File::open(dir.join("synced")).unwrap().sync_all().unwrap();
    drop((grown, grown_elsewhere));
    // Numbers of lost files are not given again.
    let fresh = File::create(dir.join("fresh")).unwrap();
    assert!(fresh.metadata().unwrap().ino() > lost_ino);
    fresh.write_all_at(b"fresh", 0).unwrap();
    fresh.sync_all().unwrap();
    assert_eq!(fs::read_to_string(dir.join("fresh")).unwrap(), "fresh");
}

#[test]
fn file_that_lost_its_last_writes_says_so_and_shows_what_is_there() {
    let (mut cluster, mount) = set_up();
    let path = mount.path().join("file");
    cluster.run_dfs(&["admin", "durability", "relaxed", "--delay", "10000"]);
    write_synced(&path, "old");
    let writer = File::options().read(true).write(true).open(&path).unwrap();
    let reader = File::open(&path).unwrap();
    writer.write_all_at(b"NEW AND LONGER", 0).unwrap();
    // Another descriptor's close saves it: acknowledged, and not synced.
    drop(writer.try_clone().unwrap());
    let content = |file: &File| {
        let mut bytes = [0; 64];
        let length = file.read_at(&mut bytes, 0).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    assert_eq!(content(&reader), "NEW AND LONGER");

    cluster.cut_power();
    until("the mount has looked back", LIMIT, || {
        mount.log().contains("lost acknowledged changes").then_some(())
    });
    until("the file shows what is there", LIMIT, || {
        (content(&reader) == "old" && reader.metadata().unwrap().len() == 3).then_some(())
    });
    for file in [&writer, &reader] {
        let error = file.sync_all().expect_err("what was written is not there");
        assert_eq!(error.raw_os_error(), Some(IO_ERROR), "{error}");
        file.sync_all().unwrap();
    }
    writer.write_all_at(b"again", 0).unwrap();
    writer.sync_all().unwrap();
    assert_eq!(content(&reader), "again");
    assert_eq!(fs::read_to_string(&path).unwrap(), "again");
}

#[test]
fn everything_acknowledged_survives_a_power_cut_with_sync() {
    let (mut cluster, mount) = set_up();
    let dir = mount.path().to_owned();
    assert_eq!(cluster.run_dfs(&["admin", "durability"]).trim(), "sync");
    for number in 0..50 {
        fs::write(dir.join(format!("{number}")), format!("{number}")).unwrap();
    }
    fs::rename(dir.join("0"), dir.join("renamed")).unwrap();
    cluster.cut_power();
    assert_eq!(fs::read_to_string(dir.join("renamed")).unwrap(), "0");
    for number in 1..50 {
        let content = fs::read_to_string(dir.join(format!("{number}"))).unwrap();
        assert_eq!(content, format!("{number}"));
    }
    File::open(&dir).unwrap().sync_all().unwrap();
}

/// The cut comes in the middle of work: what was acknowledged before it began is there, as it is of a plain file on the same disk. What was acknowledged
/// while the power went is counted on both sides: a sync that is under way then may be lost by the disk of the test itself.
#[test]
fn what_was_acknowledged_before_a_cut_in_the_middle_of_work_is_there() {
    let (mut cluster, mount) = set_up();
    for round in 0..3 {
        let dir = mount.path().join(format!("round-{round}"));
        fs::create_dir(&dir).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let write = |writer: usize| {
            let (dir, over) = (dir.clone(), over.clone());
            start("writer", move || {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let name = format!("{writer}-{number}");
                    if over.load(Ordering::Relaxed) {
                        break;
                    }
                    // Longer than a page of the coordinator's journal. A coordinator whose disk fails says so.
                    if try_write_synced(&dir.join(&name), &name.repeat(1200)).is_ok() {
                        acknowledged.push((name, Instant::now()));
                    }
                }
                acknowledged
            })
        };
        let writers: Vec<_> = (0..3).map(write).collect();
        until("files", LIMIT, || {
            (fs::read_dir(&dir).unwrap().count() >= 60).then_some(())
        });
        let cut = cluster.cut_power();
        let back = Instant::now();
        over.store(true, Ordering::Relaxed);
        let acknowledged = writers.into_iter().flat_map(|writer| writer.wait(LIMIT));
        let (mut owed, mut racing, mut lost) = (0, 0, 0);
        for (name, at) in acknowledged {
            let kept = fs::read_to_string(dir.join(&name)).is_ok_and(|content| content == name.repeat(1200));
            match at < cut.began || at > back {
                true => assert!(kept, "{name} was acknowledged and is not there"),
                false => racing += 1,
            }
            owed += 1;
            lost += usize::from(!kept);
        }
        println!("{owed} files were acknowledged, {racing} while the power went, {lost} of these are lost");
    }
}
