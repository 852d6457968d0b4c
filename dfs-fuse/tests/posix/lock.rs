//! Locks between the processes of one mount.

use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use nix::libc;
use std::fs::File;
use std::path::Path;

crate::checks![
    whole_file_locks_exclude_each_other,
    record_locks_exclude_overlapping_ranges
];

fn open(dir: &Path) -> File {
    File::options()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(dir.join("file"))
        .unwrap()
}

fn whole_file_locks_exclude_each_other(dir: &Path) {
    let held = Flock::lock(open(dir), FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .unwrap();
    for how in [FlockArg::LockExclusiveNonblock, FlockArg::LockSharedNonblock] {
        assert!(
            Flock::lock(open(dir), how).is_err(),
            "{how:?} beside an exclusive lock"
        );
    }
    drop(held);
    let shared = |dir| Flock::lock(open(dir), FlockArg::LockSharedNonblock).map_err(|(_, error)| error);
    let both = (shared(dir).unwrap(), shared(dir).unwrap());
    assert!(Flock::lock(open(dir), FlockArg::LockExclusiveNonblock).is_err());
    drop(both);
    Flock::lock(open(dir), FlockArg::LockExclusiveNonblock)
        .map_err(|(_, error)| error)
        .unwrap();
}

/// Locks of the open file description, so that one process can be two owners.
fn record_locks_exclude_overlapping_ranges(dir: &Path) {
    let (one, two) = (open(dir), open(dir));
    let range = |kind: i32, start: i64, length: i64| libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    };
    let lock = |file: &File, lock: &libc::flock| fcntl(file, FcntlArg::F_OFD_SETLK(lock));
    lock(&one, &range(libc::F_WRLCK, 100, 100)).unwrap();
    assert!(lock(&two, &range(libc::F_WRLCK, 150, 10)).is_err(), "overlapping");
    assert!(lock(&two, &range(libc::F_RDLCK, 199, 1)).is_err());
    lock(&two, &range(libc::F_WRLCK, 200, 10)).expect("beside it");
    lock(&one, &range(libc::F_UNLCK, 150, 50)).unwrap();
    lock(&two, &range(libc::F_WRLCK, 150, 10)).expect("unlocked in part");
    assert!(lock(&two, &range(libc::F_WRLCK, 100, 1)).is_err());
    drop(one);
    lock(&two, &range(libc::F_WRLCK, 0, 0)).expect("closing unlocks");
}
