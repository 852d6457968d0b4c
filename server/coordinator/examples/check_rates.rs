//! What a check of many inodes takes: time, and the most memory that the process had.
//!
//! `cargo run --release -p dfs-coordinator --example check_rates [FILES [DIRECTORY]]`: makes a store with FILES files (1,000,000 unless
//! given) of 64 inline bytes each, 1000 to a directory, in a new directory below DIRECTORY; opens it again and checks a snapshot of it.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod applying;

use applying::apply;
use bytes::Bytes;
use dfs_common::extent::{Extent, ExtentData};
use dfs_common::op::{CommitWrite, Operation};
use dfs_common::{Ino, Name, Timestamp};
use dfs_coordinator::namespace::txn::Txn;
use dfs_coordinator::namespace::{self, check};
use dfs_coordinator::store::{self, MetaStore, StoreKind};
use std::time::Instant;

const FILES_PER_DIRECTORY: u64 = 1000;
const CACHE_BYTES: u64 = 64 << 20;

fn name(number: u64) -> Name {
    Name::new(Bytes::from(format!("file-number-{number}"))).unwrap()
}

fn fill(store: &dyn MetaStore, files: u64) {
    let mut txn = Txn::new(store);
    namespace::initialize(&mut txn, Timestamp::default()).unwrap();
    store.commit(txn.into_batch()).unwrap();
    for first in (0..files).step_by(FILES_PER_DIRECTORY as usize) {
        let mut txn = Txn::new(store);
        let directory = Operation::Mkdir {
            parent: Ino::ROOT,
            name: name(first),
            mode: 0o755,
        };
        let parent = apply(&mut txn, &directory);
        for number in first..(first + FILES_PER_DIRECTORY).min(files) {
            let create = Operation::Create {
                parent,
                name: name(number),
                mode: 0o644,
                exclusive: true,
                read: false,
                write: true,
            };
            let ino = apply(&mut txn, &create);
            let write = CommitWrite {
                ino,
                extents: vec![Extent {
                    offset: 0,
                    length: 64,
                    data: ExtentData::Inline(Bytes::from(vec![1; 64])),
                }],
                chunks: Vec::new(),
                append: false,
                mtime: Timestamp::default(),
                clear_setid: false,
            };
            apply(&mut txn, &Operation::CommitWrite(write));
        }
        store.commit_unsynced(txn.into_batch()).unwrap();
    }
    store.persist().unwrap();
}

/// A line of `/proc/self/status`, in MiB.
fn memory_mib(what: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(what)).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib >> 10
}

fn main() {
    let mut args = std::env::args().skip(1);
    let files = args.next().map_or(1_000_000, |files| files.parse().unwrap());
    let above = args.next().unwrap_or_else(|| "/tmp".to_string());
    // The check runs in a process of its own, which has not made the store.
    if let Some(made) = args.next() {
        let store = store::open(StoreKind::Fjall, made.as_ref(), CACHE_BYTES).unwrap();
        let snapshot = store.snapshot().unwrap();
        let before = memory_mib("VmRSS");
        let begin = Instant::now();
        let report = check::check(&*snapshot).unwrap();
        println!(
            "{} inodes, {} problems: {:.1} s; resident before {before} MiB, at most {} MiB",
            report.inodes,
            report.problem_count,
            begin.elapsed().as_secs_f64(),
            memory_mib("VmHWM"),
        );
        return;
    }
    let dir = tempfile::tempdir_in(&above).unwrap();
    let store = store::open(StoreKind::Fjall, dir.path(), CACHE_BYTES).unwrap();
    fill(&*store, files);
    drop(store);
    for _ in 0..2 {
        let program = std::env::current_exe().unwrap();
        let mut check = std::process::Command::new(program);
        check.args([&files.to_string(), &above]).arg(dir.path());
        assert!(check.status().unwrap().success());
    }
}
