//! One large file of random bytes: written, read back from the servers, read in part, changed in the middle.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a local directory the same runs there. `DFS_TEST_LARGE_MIB` sets another size.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Content, Place, digest};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

/// 2 GiB.
const MIB: u64 = 2048;
const PIECE: usize = 1 << 20;

#[test]
fn two_gibibytes_read_back_the_same_after_a_remount() {
    let mib = std::env::var("DFS_TEST_LARGE_MIB").map_or(MIB, |mib| mib.parse().unwrap());
    let mut place = Place::new(ClusterOptions::default());
    let path = place.dir().join("large");
    let written = write_random(&path, mib);
    place.cool();
    let length = mib * PIECE as u64;
    assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    assert_eq!(
        read_whole(&path),
        (written, length),
        "the same bytes after a remount"
    );

    // A few bytes across the border of two chunks, from a cold cache; the rest stays.
    place.cool();
    let border = (length / 2).next_multiple_of(8 << 20);
    let patch = Content::new(9, 100_001).bytes();
    let mut around = vec![0; patch.len() + 2];
    let file = File::options().read(true).write(true).open(&path).unwrap();
    file.read_exact_at(&mut around, border - 50_001).unwrap();
    file.write_all_at(&patch, border - 50_000).unwrap();
    file.sync_all().unwrap();
    drop(file);
    around[1..=patch.len()].copy_from_slice(&patch);
    place.cool();
    let mut found = vec![0; around.len()];
    File::open(&path)
        .unwrap()
        .read_exact_at(&mut found, border - 50_001)
        .unwrap();
    assert!(found == around, "the change and its neighbours");
    assert_ne!(
        read_whole(&path),
        (written, length),
        "the digest notices the change"
    );
}

/// Writes `mib` MiB of random bytes, synced, and gives their SHA-256.
fn write_random(path: &Path, mib: u64) -> [u8; 32] {
    let mut random = File::open("/dev/urandom").unwrap();
    let mut file = File::create(path).unwrap();
    let mut hash = Sha256::new();
    let mut piece = vec![0; PIECE];
    for _ in 0..mib {
        random.read_exact(&mut piece).unwrap();
        hash.update(&piece);
        file.write_all(&piece).unwrap();
    }
    file.sync_all().unwrap();
    hash.finalize().into()
}

fn read_whole(path: &Path) -> ([u8; 32], u64) {
    digest(&mut File::open(path).unwrap()).unwrap()
}
