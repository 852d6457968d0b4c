//! The coordinator is killed while several writers change trees with quotas: what its store says afterwards belongs together.

#![cfg(feature = "cluster")]
#![allow(clippy::unwrap_used)] // helpers of tests are tests

use dfs_coordinator::namespace::check;
use dfs_coordinator::store::{StoreKind, open};
use dfs_testkit::process::{ClusterOptions, MountOptions, ProcessCluster, start, until};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
/// Operations between two kills.
const BETWEEN: u64 = 150;

/// One round of changes; refusals (by quotas, or of names that are gone) are part of it.
fn change(root: &Path, writer: u64, round: u64) {
    let place = |name: &str| root.join(name);
    let (q, out) = (place(&format!("q/{writer}")), place(&format!("out/{writer}")));
    let _ = fs::create_dir(&q);
    let _ = fs::create_dir(&out);
    let file = q.join(format!("f{}", round % 7));
    let _ = fs::write(&file, vec![1; (round * 7919 % 60_000) as usize]);
    let _ = fs::hard_link(&file, q.join("link"));
    let _ = fs::rename(&file, out.join(format!("g{}", round % 5)));
    let _ = fs::rename(out.join("g1"), q.join("g1"));
    if round.is_multiple_of(4) {
        let _ = fs::rename(&q, out.join("moved"));
        let _ = fs::rename(out.join("moved"), place(&format!("q/{}", writer + 10)));
    }
    let _ = fs::remove_file(q.join("link"));
    let _ = fs::remove_dir_all(place(&format!("q/{}", writer + 10)));
}

#[test]
fn usage_agrees_with_a_recount_after_every_kill() {
    let mut cluster = ProcessCluster::start(ClusterOptions::with_datanodes(3));
    let mount = cluster.mount(MountOptions::default());
    for name in ["q", "out"] {
        fs::create_dir(mount.path().join(name)).unwrap();
    }
    cluster.run_dfs(&["admin", "quota", "set", "/q", "--bytes", "150K", "--inodes", "9"]);
    let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writers: Vec<_> = (0..3)
        .map(|writer| {
            let (root, stop, rounds) = (mount.path().to_owned(), stop.clone(), rounds.clone());
            start("writer", move || {
                for round in 0.. {
                    change(&root, writer, round);
                    rounds.fetch_add(1, Ordering::SeqCst);
                    if stop.load(Ordering::SeqCst) {
                        return;
                    }
                }
            })
        })
        .collect();
    for kill in 1..=3 {
        until("changes before a kill", LIMIT, || {
            (rounds.load(Ordering::SeqCst) >= kill * BETWEEN).then_some(())
        });
        let coordinator = cluster.node("coordinator");
        coordinator.kill();
        {
            let store = open(StoreKind::Fjall, &coordinator.data().join("meta"), 1 << 20).unwrap();
            let report = check::check(&*store).unwrap();
            assert!(report.is_clean() && report.inodes > 2, "{report:#?}");
        }
        coordinator.start();
    }
    stop.store(true, Ordering::SeqCst);
    for writer in writers {
        writer.wait(LIMIT);
    }
}
