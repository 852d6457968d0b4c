//! SQLite databases on the mount: a thousand transactions in rollback and in WAL mode.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a local directory the same runs there.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Place, attempt, run, start};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

const TRANSACTIONS: usize = 1_000;
const LIMIT: Duration = Duration::from_secs(300);

#[test]
fn rollback_journal_keeps_a_thousand_transactions() {
    thousand_transactions("delete");
}

#[test]
fn write_ahead_log_keeps_a_thousand_transactions() {
    thousand_transactions("wal");
}

fn thousand_transactions(journal: &str) {
    let mut place = Place::new(ClusterOptions::default());
    let database = place.dir().join("database");
    let mode = sqlite(&database, &format!("pragma journal_mode={journal};"));
    assert_eq!(mode.trim(), journal, "the file system carries this mode");
    sqlite(
        &database,
        "create table entry(number integer primary key, text text); create index by_text on entry(text);",
    );

    // Two writers who take turns and a reader, as processes: their locks and what they see of each other count.
    let writers: Vec<_> = (0..2)
        .map(|writer| {
            let database = database.clone();
            start("writer", move || {
                sqlite(&database, &transactions(writer, TRANSACTIONS / 2));
            })
        })
        .collect();
    let reader = {
        let database = database.clone();
        start("reader", move || {
            (0..10).map(|_| count(&database)).collect::<Vec<_>>()
        })
    };
    writers.into_iter().for_each(|writer| writer.wait(LIMIT));
    let counts = reader.wait(LIMIT);
    assert!(counts.is_sorted(), "a reader never sees rows go: {counts:?}");
    assert_whole(&database);
    place.cool();
    assert_whole(&database);

    // Work goes on after the remount; an abandoned transaction leaves nothing.
    sqlite(&database, "begin; delete from entry; rollback; vacuum;");
    assert_whole(&database);
    damage_is_seen(&database, place.scratch("damaged"));
}

/// Each in a transaction of its own.
fn transactions(writer: usize, count: usize) -> String {
    let mut script = String::new();
    for number in 0..count {
        let number = number * 2 + writer;
        let text = format!("row {number} {}", "x".repeat(number % 300));
        let _ = writeln!(
            script,
            "begin immediate; insert into entry values({number}, '{text}'); commit;"
        );
    }
    script
}

#[track_caller]
fn assert_whole(database: &Path) {
    assert_eq!(sqlite(database, "pragma integrity_check;").trim(), "ok");
    assert_eq!(count(database), TRANSACTIONS);
    let right = sqlite(
        database,
        "select count(*) from entry where text = 'row ' || number || ' ' || \
         substr(replace(hex(zeroblob(150)), '0', 'x'), 1, number % 300);",
    );
    assert_eq!(right.trim(), TRANSACTIONS.to_string(), "every row has its text");
}

fn count(database: &Path) -> usize {
    sqlite(database, "select count(*) from entry;")
        .trim()
        .parse()
        .unwrap()
}

/// The check itself: a page that is lost is noticed.
fn damage_is_seen(database: &Path, scratch: PathBuf) {
    let damaged = scratch.join("database");
    let mut bytes = std::fs::read(database).unwrap();
    let at = bytes.len() / 2 / 4096 * 4096;
    bytes[at..at + 4096].fill(0);
    std::fs::write(&damaged, bytes).unwrap();
    let finished = attempt(
        Command::new("sqlite3")
            .arg(&damaged)
            .arg("pragma integrity_check;"),
        LIMIT,
    );
    assert_ne!(finished.stdout.trim(), "ok", "{}", finished.describe());
}

/// Runs a script that must succeed as a whole; waits for the locks of others.
#[track_caller]
fn sqlite(database: &Path, script: &str) -> String {
    let mut command = Command::new("sqlite3");
    command
        .args(["-batch", "-bail", "-cmd", ".timeout 60000"])
        .arg(database);
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), script).unwrap();
    run(command.arg(format!(".read {}", file.path().display())), LIMIT)
}
