//! What is written under a lock.

use super::*;
use dfs_testkit::process::{attempt, run, start};
use std::process::Command;

/// Counts in a file, under a lock, without ever asking for anything to be synced.
const COUNTER: &str = "
import fcntl, os, sys
path, call, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
file = os.open(path, os.O_RDWR)
lock = getattr(fcntl, call)
for _ in range(rounds):
    lock(file, fcntl.LOCK_EX)
    number = int(os.pread(file, 20, 0) or b'0')
    os.pwrite(file, b'%020d' % (number + 1), 0)
    lock(file, fcntl.LOCK_UN)
";

#[test]
fn what_is_written_under_a_lock_is_read_under_the_next() {
    let (_cluster, mounts) = set_up(2);
    for call in ["flock", "lockf"] {
        let (writers, rounds) = (2, 60);
        let path = mounts[0].path().join(call);
        File::create_new(&path).unwrap();
        let counting: Vec<_> = mounts
            .iter()
            .flat_map(|mount| std::iter::repeat_n(mount.path().join(call), writers))
            .map(|path| {
                start("a counter", move || {
                    let mut command = Command::new("python3");
                    command
                        .args(["-c", COUNTER])
                        .arg(path)
                        .args([call, &rounds.to_string()]);
                    run(&mut command, LIMIT)
                })
            })
            .collect();
        let processes = counting.len();
        for counting in counting {
            counting.wait(LIMIT);
        }
        let counted: usize = std::fs::read_to_string(&path).unwrap().parse().unwrap();
        assert_eq!(counted, processes * rounds, "{call}");
    }
}

#[test]
fn sqlite_with_a_rollback_journal_is_written_from_two_mounts() {
    let (_cluster, mounts) = set_up(2);
    let database = |mount: &Mount| mount.path().join("database");
    sqlite(
        &database(&mounts[0]),
        "create table entry(writer integer, number integer, text text);",
    );
    let rows = 40;
    let writing: Vec<_> = mounts
        .iter()
        .enumerate()
        .map(|(writer, mount)| {
            let database = database(mount);
            start("a writer", move || {
                for number in 0..rows {
                    let text = format!("insert into entry values({writer}, {number}, hex(randomblob(500)));");
                    sqlite(&database, &text);
                }
            })
        })
        .collect();
    for writer in writing {
        writer.wait(LIMIT * 2);
    }
    for mount in &mounts {
        assert_eq!(sqlite(&database(mount), "pragma integrity_check;").trim(), "ok");
        let count = sqlite(
            &database(mount),
            "select count(distinct writer * 1000 + number), count(*) from entry;",
        );
        assert_eq!(count.trim(), format!("{0}|{0}", 2 * rows));
    }
}

fn sqlite(database: &Path, statements: &str) -> String {
    let mut command = Command::new("sqlite3");
    command
        .arg("-cmd")
        .arg(".timeout 100000")
        .arg(database)
        .arg(statements);
    let finished = attempt(&mut command, LIMIT);
    assert!(finished.status.success(), "{}", finished.describe());
    finished.stdout
}
