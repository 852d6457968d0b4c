//! What counting usage costs a create: creates, and commits of 4 KiB, in a directory at several depths, in transactions of 1 and of 128
//! operations, over the store in memory (the work of the processor) and over fjall (with its syncs).
//!
//! `cargo run -p dfs-coordinator --example deep_creates [DIRECTORY]`; the store is made in a new directory below DIRECTORY.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod applying;

use applying::apply;
use bytes::Bytes;
use dfs_common::extent::{Extent, ExtentData};
use dfs_common::op::{CommitWrite, Operation};
use dfs_common::{Ino, Name, Timestamp};
use dfs_coordinator::namespace;
use dfs_coordinator::namespace::txn::Txn;
use dfs_coordinator::store::{self, MetaStore, StoreKind};
use std::time::Instant;

const OPERATIONS: u64 = 4096;

fn name(number: u64) -> Name {
    Name::new(Bytes::from(format!("f{number}"))).unwrap()
}

/// Microseconds per operation, in transactions of `group`.
fn time(store: &dyn MetaStore, group: u64, mut operation: impl FnMut(u64) -> Operation) -> f64 {
    let begin = Instant::now();
    for first in (0..OPERATIONS).step_by(group as usize) {
        let mut txn = Txn::new(store);
        for number in first..(first + group).min(OPERATIONS) {
            apply(&mut txn, &operation(number));
        }
        store.commit(txn.into_batch()).unwrap();
    }
    begin.elapsed().as_secs_f64() * 1e6 / OPERATIONS as f64
}

fn run(kind: StoreKind, directory: &std::path::Path) {
    let store = store::open(kind, directory, 64 << 20).unwrap();
    let mut txn = Txn::new(&*store);
    namespace::initialize(&mut txn, Timestamp::default()).unwrap();
    store.commit(txn.into_batch()).unwrap();
    let mut at = Ino::ROOT;
    for depth in 0..=32 {
        if [0, 4, 8, 16, 32].contains(&depth) {
            for group in [1, 128] {
                let creates = time(&*store, group, |number| Operation::Create {
                    parent: at,
                    name: name(group * 1_000_000 + number),
                    mode: 0o644,
                    exclusive: true,
                    read: false,
                    write: true,
                });
                let mut txn = Txn::new(&*store);
                let file = apply(
                    &mut txn,
                    &Operation::Create {
                        parent: at,
                        name: name(group),
                        mode: 0o644,
                        exclusive: true,
                        read: false,
                        write: true,
                    },
                );
                store.commit(txn.into_batch()).unwrap();
                let commits = time(&*store, group, |number| {
                    Operation::CommitWrite(CommitWrite {
                        ino: file,
                        extents: vec![Extent {
                            offset: (number % 16) * 4096,
                            length: 4096 - number % 2,
                            data: ExtentData::Inline(Bytes::from(vec![1; 4096 - number as usize % 2])),
                        }],
                        chunks: Vec::new(),
                        append: false,
                        mtime: Timestamp::default(),
                        clear_setid: false,
                    })
                });
                println!(
                    "{kind} depth {depth:2} group {group:3}: create {creates:7.1} us, commit {commits:7.1} us"
                );
            }
        }
        let mut txn = Txn::new(&*store);
        at = apply(
            &mut txn,
            &Operation::Mkdir {
                parent: at,
                name: name(0),
                mode: 0o755,
            },
        );
        store.commit(txn.into_batch()).unwrap();
    }
}

fn main() {
    let above = std::env::args().nth(1).unwrap_or_else(|| "/tmp".to_string());
    let dir = tempfile::tempdir_in(above).unwrap();
    run(StoreKind::Memory, &dir.path().join("memory"));
    run(StoreKind::Fjall, &dir.path().join("fjall"));
}
