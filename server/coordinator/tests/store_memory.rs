//! What the metadata store keeps in memory follows its settings, not what is in it. Alone in its program, since it looks at the
//! memory of the whole process.

#![allow(clippy::unwrap_used)] // helpers of tests

use bytes::Bytes;
use dfs_coordinator::store::fjall::FjallStore;
use dfs_coordinator::store::{MetaRead, MetaStore, WriteBatch};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const MIB: u64 = 1 << 20;
const CACHE_BYTES: u64 = 8 * MIB;
const RECORDS: u64 = 600_000;
/// Cache, memtables and what skip lists and journals take beside: 41 MiB when it was measured, of 233 MiB of records.
const GROWTH_MAX: u64 = 60 * MIB;

/// A line of this process's status, in bytes.
fn memory(line: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|found| found.strip_prefix(line)).unwrap();
    let kib: u64 = value.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap();
    kib * 1024
}

fn key(number: u64) -> Bytes {
    // Scattered, as inodes of many directories.
    Bytes::from(number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes().to_vec())
}

#[test]
fn memory_follows_the_settings_not_the_number_of_records() {
    let dir = tempfile::tempdir().unwrap();
    let before = memory("VmRSS:");
    let store = FjallStore::open(dir.path(), CACHE_BYTES).unwrap();
    let mut random = StdRng::seed_from_u64(1);
    for first in (0..RECORDS).step_by(1000) {
        let changes = (first..first + 1000).map(|number| {
            let mut value = vec![0; 400];
            random.fill(&mut value[..]);
            (key(number), Some(Bytes::from(value)))
        });
        store
            .commit(WriteBatch {
                changes: changes.collect(),
            })
            .unwrap();
    }
    for _ in 0..20_000 {
        let number = random.random_range(0..RECORDS);
        assert!(store.get(&key(number)).unwrap().is_some());
        assert!(store.get(&key(number + RECORDS)).unwrap().is_none());
    }
    let grown = memory("VmHWM:").saturating_sub(before);
    println!("{} MiB for {} MiB of records", grown / MIB, RECORDS * 408 / MIB);
    assert!(grown < GROWTH_MAX, "{} MiB", grown / MIB);
}
