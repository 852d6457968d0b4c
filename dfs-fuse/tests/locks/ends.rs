//! Locks and waits of who is interrupted, killed, or stopped.

use super::exclusion::asleep;
use super::holder::Holder;
use super::*;
use dfs_common::limits::SESSION_LEASE;
use dfs_testkit::process::{start, until};
use nix::libc::{F_UNLCK, F_WRLCK, LOCK_EX, LOCK_UN};
use nix::sys::signal::Signal;
use std::os::unix::fs::FileExt;
use std::os::unix::process::ExitStatusExt;

#[test]
fn programs_that_are_interrupted_or_killed_leave_no_lock_and_no_wait() {
    let (_cluster, mounts) = set_up(2);
    let (here, there) = (mounts[0].path().join("file"), mounts[1].path().join("file"));
    for call in ["flock", "lockf"] {
        let file = open_at(&here);
        let exclusive = || match call {
            "flock" => flock(&file, LOCK_EX),
            _ => lock(&file, F_WRLCK, 0, 0),
        };
        let give_up = || match call {
            "flock" => flock(&file, LOCK_UN),
            _ => lock(&file, F_UNLCK, 0, 0),
        };
        exclusive().unwrap();
        let mut interrupted = Holder::start(&there, call, "ex", "rw");
        let mut killed = Holder::start(&there, call, "ex", "rw");
        asleep(&mut interrupted);
        asleep(&mut killed);
        interrupted.signal(Signal::SIGUSR1);
        assert_eq!(interrupted.outcome(), "InterruptedError", "{call}");
        killed.signal(Signal::SIGKILL);
        assert_eq!(killed.ended().signal(), Some(libc::SIGKILL));
        give_up().unwrap();
        exclusive().expect("nobody got it who does not want it any more");
        give_up().unwrap();

        let mut holding = Holder::start(&there, call, "ex", "rw");
        assert_eq!(holding.outcome(), "held");
        assert_eq!(exclusive(), Err(Errno::EAGAIN));
        holding.signal(Signal::SIGKILL);
        holding.ended();
        until("the locks of a killed program are gone", LIMIT, || {
            exclusive().ok()
        });
        give_up().unwrap();
    }
}

#[test]
fn locks_of_a_mount_that_died_or_stands_still_go_with_its_session() {
    let (_cluster, mut mounts) = set_up(3);
    let mut died = mounts.pop().unwrap();
    let (frozen, other) = (&mounts[0], &mounts[1]);
    let (of_died, of_frozen, of_other) = (open(&died), open(frozen), open(other));
    of_other.write_all_at(b"as saved", 0).unwrap();
    of_other.sync_all().unwrap();
    lock(&of_died, F_WRLCK, 0, 1).unwrap();
    lock_open_file(&of_frozen, F_WRLCK, 1, 1).unwrap();
    of_frozen.write_all_at(b"X", 1).unwrap();
    assert_eq!(lock(&of_other, F_WRLCK, 0, 1), Err(Errno::EAGAIN));
    assert_eq!(lock(&of_other, F_WRLCK, 1, 1), Err(Errno::EAGAIN));
    died.kill();
    frozen.suspend();
    let waiting = start("locks of the others", move || {
        lock_waiting(&of_other, F_WRLCK, 0, 0).unwrap();
        of_other.write_all_at(b"y", 1).unwrap();
        of_other.sync_all().unwrap();
        of_other
    });
    let of_other = waiting.wait(SESSION_LEASE + LIMIT);
    frozen.resume();
    let calls = start("calls through the mount that stood still", move || {
        until("it finds out that it lost its lock", LIMIT, || {
            let errno = of_frozen
                .write_all_at(b"Z", 1)
                .err()
                .and_then(|error| error.raw_os_error());
            (errno == Some(libc::EIO)).then_some(())
        });
        let mut byte = [0];
        let errno = of_frozen.read_exact_at(&mut byte, 7).unwrap_err().raw_os_error();
        assert_eq!(errno, Some(libc::EIO), "the lock's owner must not read on");
        // Given up, the file is as good as any, and the lock is somebody else's.
        lock_open_file(&of_frozen, F_UNLCK, 0, 0).unwrap();
        assert_eq!(lock_open_file(&of_frozen, F_WRLCK, 1, 1), Err(Errno::EAGAIN));
        of_frozen.read_exact_at(&mut byte, 1).unwrap();
        assert_eq!(&byte, b"y", "what was written without the lock did not land");
    });
    calls.wait(LIMIT);
    drop(of_other);
    drop(of_died);
}
