//! What is written under a lock.

use super::*;
use dfs_testkit::process::{attempt, run, start, until};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_SH};
use std::os::unix::fs::FileExt;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};

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
fn all_who_lock_at_once_find_what_was_written_before() {
    const LENGTH: usize = 1 << 20;
    const READERS: u64 = 4;
    let (_cluster, mounts) = set_up(2);
    let writing = open(&mounts[1]);
    let readers: Vec<_> = (0..READERS).map(|_| Arc::new(open(&mounts[0]))).collect();
    for round in 1..=60u8 {
        lock_open_file(&writing, F_WRLCK, 0, 0).unwrap();
        writing.write_all_at(&vec![round; LENGTH], 0).unwrap();
        lock_open_file(&writing, F_UNLCK, 0, 0).unwrap();
        let together = Arc::new(Barrier::new(readers.len()));
        let reading: Vec<_> = readers
            .iter()
            .enumerate()
            .map(|(number, file)| {
                let (file, together) = (file.clone(), together.clone());
                start("a reader", move || {
                    together.wait();
                    lock_open_file(&file, F_RDLCK, number as i64, 1).unwrap();
                    let mut ends = [[0], [0]];
                    file.read_exact_at(&mut ends[0], number as u64).unwrap();
                    file.read_exact_at(&mut ends[1], LENGTH as u64 - 1).unwrap();
                    lock_open_file(&file, F_UNLCK, 0, 0).unwrap();
                    ends
                })
            })
            .collect();
        for reading in reading {
            assert_eq!(reading.wait(LIMIT), [[round], [round]]);
        }
    }
}

#[test]
fn lock_of_a_file_that_was_opened_anew_outlives_the_close_of_the_one_before() {
    let (_cluster, mounts) = set_up(2);
    let done = Arc::new(AtomicBool::new(false));
    // Saving takes time while others write.
    let writing = {
        let (file, done) = (open(&mounts[0]), done.clone());
        start("a writer", move || {
            for number in 0u64.. {
                if done.load(Ordering::SeqCst) {
                    return;
                }
                file.write_all_at(&[1; 100_000], (number % 100) * 100_000)
                    .unwrap();
            }
        })
    };
    let other = open(&mounts[1]);
    for _ in 0..25 {
        let before = open(&mounts[0]);
        until("a flock", LIMIT, || flock(&before, LOCK_EX).ok());
        drop(before);
        let file = open(&mounts[0]);
        until("a flock of the file that was opened anew", LIMIT, || {
            flock(&file, LOCK_EX).ok()
        });
        for _ in 0..20 {
            assert_eq!(flock(&other, LOCK_SH), Err(Errno::EAGAIN));
        }
    }
    done.store(true, Ordering::SeqCst);
    writing.wait(LIMIT);
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
