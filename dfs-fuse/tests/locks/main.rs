//! Advisory locks between mounts: `flock` and `fcntl` exclude as on one machine, whoever dies, is stopped or interrupted, and
//! what is written under a lock is found by the next one to have it.

#![allow(clippy::unwrap_used)] // helpers of tests

mod data;
mod ends;
mod exclusion;
mod holder;
mod restart;

use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);

/// A cluster and mounts of it, with an empty file `file`.
fn set_up(mounts: usize) -> (ProcessCluster, Vec<Mount>) {
    let cluster = ProcessCluster::start(ClusterOptions::with_datanodes(1));
    let mounts: Vec<Mount> = (0..mounts)
        .map(|_| cluster.mount(MountOptions::default()))
        .collect();
    File::create_new(mounts[0].path().join("file")).unwrap();
    (cluster, mounts)
}

fn open(mount: &Mount) -> File {
    open_at(&mount.path().join("file"))
}

fn open_at(path: &Path) -> File {
    let mut options = File::options();
    options
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(path)
        .unwrap()
}

fn flock(file: &File, operation: i32) -> Result<(), Errno> {
    use std::os::fd::AsRawFd;
    // The descriptor stays the file's; nix has flock only as the owner of a file.
    #[allow(deprecated)]
    let operation = match operation {
        libc::LOCK_UN => nix::fcntl::FlockArg::Unlock,
        libc::LOCK_SH => nix::fcntl::FlockArg::LockSharedNonblock,
        _ => nix::fcntl::FlockArg::LockExclusiveNonblock,
    };
    #[allow(deprecated)]
    nix::fcntl::flock(file.as_raw_fd(), operation)
}

/// `length` 0: to the end.
fn range(kind: i32, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// A lock of this process (by mount: each has its own idea of it).
fn lock(file: &File, kind: i32, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_SETLK(&range(kind, start, length))).map(drop)
}

fn lock_waiting(file: &File, kind: i32, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_SETLKW(&range(kind, start, length))).map(drop)
}

/// A lock of this open file.
fn lock_open_file(file: &File, kind: i32, start: i64, length: i64) -> Result<(), Errno> {
    fcntl(file, FcntlArg::F_OFD_SETLK(&range(kind, start, length))).map(drop)
}

fn test_lock(file: &File, kind: i32, start: i64, length: i64) -> libc::flock {
    let mut found = range(kind, start, length);
    fcntl(file, FcntlArg::F_GETLK(&mut found)).unwrap();
    found
}
