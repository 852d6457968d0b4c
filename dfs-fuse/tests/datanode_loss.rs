//! Three datanodes of which some are lost: everything reads, byte for byte; writes go on while the floor is up, flagged
//! degraded, and wait below it.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{
    ClusterOptions, Content, MountOptions, Place, ProcessCluster, SourceTree, run, start, until,
};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(240);
const PIECE: usize = 1 << 20;

#[test]
fn one_datanode_lost_everything_reads_and_writes_go_on_degraded() {
    let mut place = Place::new(ClusterOptions::default());
    let source = SourceTree::collect(place.scratch("source"), 300);
    let dir = place.dir().to_owned();
    copy(source.dir(), &dir.join("before"));
    if let Some(cluster) = place.cluster() {
        assert_eq!(cluster.status()["under_replicated"], 0);
        cluster.node("datanode-2").kill();
    }
    place.cool();
    assert_same(source.dir(), &dir.join("before"));

    copy(source.dir(), &dir.join("during"));
    assert_same(source.dir(), &dir.join("during"));
    if let Some(cluster) = place.cluster() {
        cluster.wait_status("degraded", |status| {
            status["healthy"] == false && status["under_replicated"].as_u64() > Some(0)
        });
    }
    place.cool();
    assert_same(source.dir(), &dir.join("during"));

    // The lost one comes back without what was written meanwhile, and another one goes: each file still has a replica.
    if let Some(cluster) = place.cluster() {
        cluster.node("datanode-2").start();
        cluster.wait_status("all nodes up", |status| nodes_up(status) == 3);
        cluster.node("datanode-1").kill();
    }
    place.cool();
    for name in ["before", "during"] {
        assert_same(source.dir(), &dir.join(name));
    }
    copy(source.dir(), &dir.join("after"));
    if let Some(cluster) = place.cluster() {
        cluster.node("datanode-1").start();
    }
    place.cool();
    for name in ["before", "during", "after"] {
        assert_same(source.dir(), &dir.join(name));
    }
}

#[test]
fn datanode_lost_in_the_middle_of_a_write_and_of_a_read() {
    let mut place = Place::new(ClusterOptions::default());
    let content = Content::new(11, 96 << 20);
    let path = place.dir().join("large");
    let done = Arc::new(AtomicUsize::new(0));

    let writing = {
        let (path, done) = (path.clone(), done.clone());
        start("writer", move || {
            let mut file = File::create(path).unwrap();
            for piece in content.bytes().chunks(PIECE) {
                file.write_all(piece).unwrap();
                done.fetch_add(1, Ordering::Relaxed);
            }
            file.sync_all().unwrap();
        })
    };
    wait_for(&done, 30);
    if let Some(cluster) = place.cluster() {
        cluster.node("datanode-3").kill();
    }
    writing.wait(LIMIT);
    place.cool();
    assert!(
        content.is(&std::fs::read(&path).unwrap()),
        "what was written through the loss"
    );

    if let Some(cluster) = place.cluster() {
        cluster.node("datanode-3").start();
        cluster.wait_status("all nodes up", |status| nodes_up(status) == 3);
    }
    place.cool();
    done.store(0, Ordering::Relaxed);
    let reading = {
        let (path, done) = (path.clone(), done.clone());
        start("reader", move || {
            let (mut file, mut found) = (File::open(path).unwrap(), Vec::new());
            let mut piece = vec![0; PIECE];
            loop {
                let count = file.read(&mut piece).unwrap();
                if count == 0 {
                    return found;
                }
                found.extend_from_slice(&piece[..count]);
                done.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    wait_for(&done, 10);
    if let Some(cluster) = place.cluster() {
        cluster.node("datanode-1").kill();
    }
    assert!(content.is(&reading.wait(LIMIT)), "what was read through the loss");
}

/// Worse than a dead one: it takes connections and never answers.
#[test]
fn datanode_that_hangs_holds_up_neither_reads_nor_writes_for_ever() {
    let mut place = Place::new(ClusterOptions::default());
    let (before, during) = (Content::new(21, 20 << 20), Content::new(22, 20 << 20));
    let dir = place.dir().to_owned();
    std::fs::write(dir.join("before"), before.bytes()).unwrap();
    place.cool();
    if let Some(cluster) = place.cluster() {
        cluster.node("datanode-1").suspend();
    }
    let work = {
        let dir = dir.clone();
        start("read and write", move || {
            assert!(before.is(&std::fs::read(dir.join("before")).unwrap()));
            let mut file = File::create(dir.join("during")).unwrap();
            during.write_to(&mut file, PIECE).unwrap();
            file.sync_all().unwrap();
        })
    };
    work.wait(LIMIT);
    if let Some(cluster) = place.cluster() {
        cluster.node("datanode-1").resume();
        cluster.wait_status("all nodes up", |status| nodes_up(status) == 3);
    }
    place.cool();
    assert!(before.is(&std::fs::read(dir.join("before")).unwrap()));
    assert!(during.is(&std::fs::read(dir.join("during")).unwrap()));
}

#[test]
fn writes_below_the_floor_wait_and_resume_by_themselves() {
    let mut cluster = ProcessCluster::start(ClusterOptions::default());
    let mut mount = cluster.mount(MountOptions::default());
    let content = Content::new(31, 9 << 20);
    let (source, path) = (cluster.base().path().join("source"), mount.path().join("file"));
    std::fs::write(&source, content.bytes()).unwrap();
    cluster.node("datanode-1").kill();
    cluster.node("datanode-2").kill();
    let mut writer = Command::new("dd")
        .args(["bs=1M", "conv=fsync", "status=none"])
        .arg(format!("if={}", source.display()))
        .arg(format!("of={}", path.display()))
        .spawn()
        .unwrap();
    let mut ended = || writer.try_wait().unwrap();
    until("the mount says that it waits", LIMIT, || {
        assert_eq!(
            ended(),
            None,
            "a write was acknowledged with one replica of three, or failed"
        );
        mount.log().contains("waiting").then_some(())
    });
    assert_eq!(
        ended(),
        None,
        "a write was acknowledged with one replica of three, or failed"
    );
    cluster.node("datanode-2").start();
    let status = until("end of the write once the floor is up again", LIMIT, ended);
    assert!(status.success(), "{status}");
    mount.remount();
    assert!(content.is(&std::fs::read(&path).unwrap()));
}

#[track_caller]
fn wait_for(done: &AtomicUsize, pieces: usize) {
    until("pieces of the file", LIMIT, || {
        (done.load(Ordering::Relaxed) >= pieces).then_some(())
    });
}

fn nodes_up(status: &serde_json::Value) -> usize {
    let nodes = status["nodes"].as_array().expect("status has nodes");
    nodes.iter().filter(|node| node["health"] == "up").count()
}

#[track_caller]
fn copy(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-a").arg(from).arg(to), LIMIT);
    run(Command::new("sync").arg("-f").arg(to), LIMIT);
}

#[track_caller]
fn assert_same(one: &Path, two: &Path) {
    run(
        Command::new("diff")
            .args(["-r", "--no-dereference"])
            .arg(one)
            .arg(two),
        LIMIT,
    );
}
