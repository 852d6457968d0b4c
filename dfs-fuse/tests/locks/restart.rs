//! Locks over restarts of the coordinator.

use super::exclusion::asleep;
use super::holder::Holder;
use super::*;
use dfs_testkit::process::{start, until};
use nix::libc::{F_RDLCK, F_UNLCK, F_WRLCK, LOCK_EX, LOCK_SH, LOCK_UN};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

#[test]
fn locks_and_waits_outlive_the_coordinator() {
    let (mut cluster, mounts) = set_up(2);
    // Not copies of descriptors below: closing one would unlock.
    let (one, two) = (Arc::new(open(&mounts[0])), Arc::new(open(&mounts[1])));
    flock(&one, LOCK_EX).unwrap();
    lock(&one, F_WRLCK, 0, 10).unwrap();
    lock(&two, F_RDLCK, 10, 10).unwrap();
    lock(&one, F_WRLCK, 20, 10).unwrap();
    lock(&one, F_UNLCK, 22, 2).unwrap();
    let mut waiting = Holder::start(&mounts[1].path().join("file"), "flock", "ex", "rw");
    asleep(&mut waiting);
    for _ in 0..2 {
        cluster.node("coordinator").kill();
        cluster.node("coordinator").start();
        // At once: what nobody has may only be given out when everybody has said what he has.
        let others = [(F_RDLCK, 0, 1), (F_RDLCK, 21, 1), (F_WRLCK, 24, 1)];
        let calls = {
            let (one, two) = (one.clone(), two.clone());
            start("calls after the restart", move || {
                for (kind, start, length) in others {
                    assert_eq!(lock(&two, kind, start, length), Err(Errno::EAGAIN), "{start}");
                }
                assert_eq!(flock(&two, LOCK_SH), Err(Errno::EAGAIN));
                assert_eq!(lock(&one, F_WRLCK, 10, 1), Err(Errno::EAGAIN));
                lock(&one, F_RDLCK, 10, 1).expect("shared");
                lock(&two, F_WRLCK, 22, 2).expect("nobody has it");
                lock(&two, F_UNLCK, 22, 2).unwrap();
            })
        };
        calls.wait(LIMIT);
        assert!(waiting.waits());
    }
    flock(&one, LOCK_UN).unwrap();
    assert_eq!(waiting.outcome(), "held", "the wait went on");
    lock(&one, F_UNLCK, 0, 0).unwrap();
    lock(&two, F_WRLCK, 0, 10).unwrap();
    drop(waiting);
    until("its lock is gone", LIMIT, || flock(&one, LOCK_EX).ok());
}

#[test]
fn flock_that_was_given_up_for_a_stronger_one_is_not_held_after_a_restart() {
    let (mut cluster, mounts) = set_up(2);
    let (one, two) = (open(&mounts[0]), open(&mounts[1]));
    flock(&one, LOCK_SH).unwrap();
    flock(&two, LOCK_SH).unwrap();
    assert_eq!(
        flock(&one, LOCK_EX),
        Err(Errno::EAGAIN),
        "and its shared one is given up, as on Linux"
    );
    flock(&two, LOCK_EX).unwrap();
    for _ in 0..3 {
        cluster.node("coordinator").kill();
        cluster.node("coordinator").start();
        let calls = {
            let two = two.try_clone().unwrap();
            start("calls after the restart", move || {
                two.write_all_at(b"its own", 0).unwrap();
                two.sync_all().unwrap();
            })
        };
        calls.wait(LIMIT);
        assert_eq!(flock(&one, LOCK_SH), Err(Errno::EAGAIN));
        // Nor was one lost: that would fail the open file.
        one.read_at(&mut [0], 0).unwrap();
    }
}

#[test]
fn who_died_with_the_coordinator_holds_nothing_after_its_lease() {
    let (mut cluster, mut mounts) = set_up(2);
    let mut died = mounts.pop().unwrap();
    let (one, of_died) = (open(&mounts[0]), open(&died));
    flock(&of_died, LOCK_EX).unwrap();
    assert_eq!(flock(&one, LOCK_EX), Err(Errno::EAGAIN));
    cluster.node("coordinator").kill();
    died.kill();
    cluster.node("coordinator").start();
    let granted = start("a lock after the restart", move || {
        until("the dead one's lock is gone", LIMIT, || flock(&one, LOCK_EX).ok());
    });
    granted.wait(LIMIT);
}
