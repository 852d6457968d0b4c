//! SIGKILL of every process, mount included, in the middle of work; then everything starts again.
//!
//! What was promised before the kill is checked against a ledger that the writers keep: what `fsync`, `close`, `rename`,
//! `unlink` and `mkdir` had acknowledged is there, whole; what was under way is there whole or not at all, or, for a file
//! without `fsync` under its final name, the beginning of what was written.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a local directory the writers and the check run there, without any kill.

#![allow(clippy::unwrap_used)] // helpers of tests

mod crash_loop;
mod failpoints;
mod ledger;
mod writers;

use dfs_testkit::process::{ClusterOptions, Place, attempt, run, start};
use ledger::Ledger;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Kills per test.
const ROUNDS: usize = 3;
/// Acknowledged steps before a kill; a random number below is added.
const STEPS: usize = 60;
const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn what_was_acknowledged_is_whole_after_all_processes_were_killed() {
    let mut place = Place::new(ClusterOptions::default());
    let mut ledgers: Vec<(String, Ledger)> = Vec::new();
    for round in 0..ROUNDS {
        let steps = STEPS + rand::random::<u32>() as usize % (3 * STEPS);
        println!("round {round}: kill after {steps} steps");
        let work = writers::start_all(place.dir(), round as u64);
        work.wait_for_steps(steps);
        crash(&mut place, round);
        ledgers.extend(work.end());
        // Of every round: a later crash must not undo what an earlier one left.
        let problems: Vec<String> = ledgers
            .iter()
            .flat_map(|(name, ledger)| ledger.problems(&place.dir().join(name)))
            .collect();
        assert!(
            problems.is_empty(),
            "round {round}, after {steps} steps:\n{}",
            problems.join("\n")
        );
    }
    // The cluster works as before.
    let path = place.dir().join("afterwards");
    std::fs::write(&path, "written after the last crash").unwrap();
    place.cool();
    assert_eq!(std::fs::read(&path).unwrap(), b"written after the last crash");
}

/// Kills everything at one moment, in an order that differs by round, and starts it again.
fn crash(place: &mut Place, round: usize) {
    let Place::Mounted { mount, cluster } = place else {
        return;
    };
    if round.is_multiple_of(2) {
        mount.start_killing();
        cluster.kill_all();
    } else {
        cluster.kill_all();
        mount.start_killing();
    }
    mount.wait_killed();
    let began = Instant::now();
    cluster.start_all();
    let healthy = began.elapsed();
    mount.remount();
    println!(
        "healthy after {healthy:.1?}, mounted after {:.1?}",
        began.elapsed()
    );
}

#[test]
fn database_keeps_acknowledged_commits_when_all_processes_are_killed() {
    let mut place = Place::new(ClusterOptions::default());
    for (round, journal) in ["delete", "wal"].into_iter().enumerate() {
        let database = place.dir().join(format!("database-{round}"));
        let create =
            format!("pragma journal_mode={journal}; create table entry(number integer primary key, text);");
        run(&mut sqlite(&database, &create), LIMIT);
        let (acknowledged, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let writer = {
            let (acknowledged, over, database) = (acknowledged.clone(), over.clone(), database.clone());
            start("transactions", move || {
                while !over.load(Ordering::Relaxed) {
                    let number = acknowledged.load(Ordering::Relaxed);
                    let insert = format!("insert into entry values({number}, hex(randomblob(2000)));");
                    // The first failure is the crash.
                    if !attempt(&mut sqlite(&database, &insert), LIMIT).status.success() {
                        break;
                    }
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        dfs_testkit::process::until("commits", LIMIT, || {
            (acknowledged.load(Ordering::Relaxed) >= 30).then_some(())
        });
        crash(&mut place, round);
        over.store(true, Ordering::Relaxed);
        writer.wait(LIMIT);
        let acknowledged = acknowledged.load(Ordering::Relaxed);
        assert_eq!(
            run(&mut sqlite(&database, "pragma integrity_check;"), LIMIT).trim(),
            "ok",
            "{journal}"
        );
        let found = run(
            &mut sqlite(&database, "select count(*), max(number) from entry;"),
            LIMIT,
        );
        // The commit under way may have reached the disk without its acknowledgement.
        let possible = [acknowledged, acknowledged + 1].map(|count| format!("{count}|{}", count - 1));
        assert!(
            possible.contains(&found.trim().to_owned()),
            "{journal}: {found} of {acknowledged} commits"
        );
    }
}

fn sqlite(database: &Path, sql: &str) -> Command {
    let mut command = Command::new("sqlite3");
    command.args([
        "-batch",
        "-bail",
        "-cmd",
        ".timeout 10000",
        "-cmd",
        "pragma synchronous=full;",
    ]);
    command.arg(database).arg(sql);
    command
}
