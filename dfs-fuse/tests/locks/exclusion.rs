//! Who excludes whom.

use super::holder::Holder;
use super::*;
use dfs_testkit::process::{start, until};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_SH, LOCK_UN};
use std::sync::Arc;

#[test]
fn locks_of_two_mounts_exclude_each_other() {
    let (_cluster, mounts) = set_up(2);
    let (here, there) = (&mounts[0], &mounts[1]);
    flocks(here, there);
    ranges(here, there);
    open_file_locks(here, there);
    styles(here, there);
    waits(here, there);
    circle(here, there);
}

fn flocks(here: &Mount, there: &Mount) {
    let (one, two) = (open(here), open(there));
    flock(&one, LOCK_EX).unwrap();
    assert_eq!(flock(&two, LOCK_EX), Err(Errno::EAGAIN));
    assert_eq!(flock(&two, LOCK_SH), Err(Errno::EAGAIN));
    assert_eq!(
        flock(&open(here), LOCK_SH),
        Err(Errno::EAGAIN),
        "another open file of the same mount"
    );
    flock(&one, LOCK_SH).expect("weaker");
    flock(&two, LOCK_SH).unwrap();
    assert_eq!(flock(&one, LOCK_EX), Err(Errno::EAGAIN));
    flock(&two, LOCK_UN).unwrap();
    flock(&one, LOCK_EX).unwrap();
    let copy = one.try_clone().unwrap();
    drop(one);
    assert_eq!(
        flock(&two, LOCK_SH),
        Err(Errno::EAGAIN),
        "a copy of the descriptor is open"
    );
    drop(copy);
    // A close is told to the mount after it has returned.
    until("the last close unlocks", LIMIT, || flock(&two, LOCK_EX).ok());
}

fn ranges(here: &Mount, there: &Mount) {
    let (one, two) = (open(here), open(there));
    lock(&one, F_WRLCK, 100, 100).unwrap();
    assert_eq!(lock(&two, F_WRLCK, 150, 10), Err(Errno::EAGAIN));
    assert_eq!(lock(&two, F_RDLCK, 199, 1), Err(Errno::EAGAIN));
    lock(&two, F_WRLCK, 200, 10).expect("beside it");
    let found = test_lock(&two, F_RDLCK, 0, 0);
    assert_eq!(
        (i32::from(found.l_type), found.l_start, found.l_len),
        (F_WRLCK, 100, 100)
    );
    assert_eq!(i32::from(test_lock(&two, F_RDLCK, 0, 100).l_type), F_UNLCK);
    let found = test_lock(&one, F_RDLCK, 0, 0);
    assert_eq!(
        (i32::from(found.l_type), found.l_start, found.l_len),
        (F_WRLCK, 200, 10)
    );
    lock(&one, F_UNLCK, 150, 10).unwrap();
    lock(&two, F_RDLCK, 150, 10).expect("given up in part");
    assert_eq!(lock(&two, F_RDLCK, 149, 1), Err(Errno::EAGAIN));
    // Any close of the file by the process unlocks all that it has, whichever descriptor it was.
    drop(open(here));
    lock(&two, F_WRLCK, 0, 0).expect("a close unlocks at once");
    drop((one, two));
}

fn open_file_locks(here: &Mount, there: &Mount) {
    let (one, two) = (open(here), open(there));
    lock_open_file(&one, F_WRLCK, 0, 10).unwrap();
    assert_eq!(lock_open_file(&open(here), F_WRLCK, 0, 10), Err(Errno::EAGAIN));
    assert_eq!(lock_open_file(&two, F_WRLCK, 0, 10), Err(Errno::EAGAIN));
    assert_eq!(
        lock(&two, F_RDLCK, 9, 1),
        Err(Errno::EAGAIN),
        "a process' lock beside it"
    );
    drop(open(here));
    assert_eq!(
        lock_open_file(&two, F_WRLCK, 0, 10),
        Err(Errno::EAGAIN),
        "another open file was closed"
    );
    drop(one);
    until("the last close unlocks", LIMIT, || {
        lock_open_file(&two, F_WRLCK, 0, 10).ok()
    });
}

fn styles(here: &Mount, there: &Mount) {
    let (one, two) = (open(here), open(there));
    flock(&one, LOCK_EX).unwrap();
    lock(&one, F_WRLCK, 0, 0).expect("flock and fcntl do not see each other");
    flock(&one, LOCK_UN).unwrap();
    flock(&two, LOCK_EX).expect("the flock was given up");
    assert_eq!(
        lock(&two, F_WRLCK, 0, 0),
        Err(Errno::EAGAIN),
        "and the other was not"
    );
    lock(&one, F_UNLCK, 0, 0).unwrap();
    lock(&two, F_WRLCK, 0, 0).unwrap();
    drop((one, two));
}

fn waits(here: &Mount, there: &Mount) {
    for call in ["flock", "lockf"] {
        let path = here.path().join("file");
        let mut first = Holder::start(&path, call, "ex", "rw");
        assert_eq!(first.outcome(), "held");
        let mut second = Holder::start(&there.path().join("file"), call, "sh", "r");
        asleep(&mut second);
        drop(first);
        assert_eq!(second.outcome(), "held", "{call}");
    }
}

/// Until the program waits in its lock call.
pub fn asleep(holder: &mut Holder) {
    let calls = [libc::SYS_flock, libc::SYS_fcntl].map(|number| format!("{number} "));
    until("a program that waits for a lock", LIMIT, || {
        let call = std::fs::read_to_string(format!("/proc/{}/syscall", holder.pid())).ok()?;
        calls.iter().any(|number| call.starts_with(number)).then_some(())
    });
    assert!(holder.waits());
}

/// This process is one owner on each mount; each waits for the other. Whichever asks second closes the circle.
fn circle(here: &Mount, there: &Mount) {
    // Not copies of descriptors: closing one would unlock.
    let (one, two) = (Arc::new(open(here)), Arc::new(open(there)));
    lock(&one, F_WRLCK, 0, 1).unwrap();
    lock(&two, F_WRLCK, 1, 1).unwrap();
    let ask = |file: &Arc<File>, start_of_other| {
        let file = file.clone();
        start("a wait in a circle", move || {
            let outcome = lock_waiting(&file, F_WRLCK, start_of_other, 1);
            lock(&file, F_UNLCK, 0, 0).unwrap();
            outcome
        })
    };
    let (first, second) = (ask(&one, 1), ask(&two, 0));
    let (first, second) = (first.wait(LIMIT), second.wait(LIMIT));
    let deadlocks = [first, second]
        .iter()
        .filter(|outcome| **outcome == Err(Errno::EDEADLK))
        .count();
    assert_eq!(deadlocks, 1, "{first:?} {second:?}");
}
