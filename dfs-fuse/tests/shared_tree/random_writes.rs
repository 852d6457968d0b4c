//! Random writes, truncations, appends and stores into a map through one mount, in the manner of fsx; after each the whole file is read, and its size
//! asked for, through the other one.

use super::*;
use nix::libc;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

const OPERATIONS: usize = 300;
const SIZE_MAX: usize = 300_000;

fn seed() -> u64 {
    match std::env::var("DFS_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => rand::random(),
    }
}

/// Stores `bytes` through a shared map of `file`, and syncs it.
fn store(file: &File, at: usize, bytes: &[u8]) {
    let page = 4096;
    let start = at / page * page;
    let length = at + bytes.len() - start;
    // SAFETY: a fresh shared mapping of a range within the file, unmapped below; nobody else refers to it.
    unsafe {
        let map = libc::mmap(
            std::ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_SHARED,
            file.as_raw_fd(),
            start as i64,
        );
        assert_ne!(map, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
        let target = map.cast::<u8>().add(at - start);
        std::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len());
        assert_eq!(libc::msync(map, length, libc::MS_SYNC), 0);
        assert_eq!(libc::munmap(map, length), 0);
    }
}

#[test]
fn every_change_through_one_mount_is_read_whole_through_the_other() {
    let seed = seed();
    eprintln!("DFS_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let (_cluster, mounts) = set_up();
    let path = |mount: &Mount| mount.path().join("f");
    let writer = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path(&mounts[0]))
        .unwrap();
    let appender = File::options().append(true).open(path(&mounts[0])).unwrap();
    let mut reader = File::open(path(&mounts[1])).unwrap();
    let mut expected: Vec<u8> = Vec::new();
    for number in 0..OPERATIONS {
        let at = random.random_range(0..SIZE_MAX);
        let most = random.random_range(1..30_000);
        let length = random.random_range(1..=most);
        let bytes = vec![number as u8 | 1; length];
        let what = random.random_range(0..10);
        match what {
            0..5 => {
                writer.write_all_at(&bytes, at as u64).unwrap();
                expected.resize(expected.len().max(at + length), 0);
                expected[at..at + length].copy_from_slice(&bytes);
            }
            5..7 => {
                std::io::Write::write_all(&mut &appender, &bytes).unwrap();
                expected.extend_from_slice(&bytes);
            }
            7 => {
                let size = random.random_range(0..SIZE_MAX);
                writer.set_len(size as u64).unwrap();
                expected.resize(size, 0);
            }
            8 if at + length <= expected.len() => {
                store(&writer, at, &bytes);
                expected[at..at + length].copy_from_slice(&bytes);
            }
            // The reader looks with a fresh open file from now on; what is unsaved may be buffered until it does.
            _ => reader = File::open(path(&mounts[1])).unwrap(),
        }
        expected.truncate(2 * SIZE_MAX);
        if expected.len() == 2 * SIZE_MAX {
            writer.set_len(expected.len() as u64).unwrap();
        }
        assert_eq!(
            reader.metadata().unwrap().len(),
            expected.len() as u64,
            "operation {number} ({what})"
        );
        let mut found = vec![0; expected.len()];
        reader.read_exact_at(&mut found, 0).unwrap();
        if let Some(wrong) = (0..expected.len()).find(|at| found[*at] != expected[*at]) {
            let (found, expected) = (found[wrong], expected[wrong]);
            panic!("operation {number} ({what}): {found} at {wrong} instead of {expected}; DFS_SEED={seed}");
        }
    }
}
