//! Content of one file on two mounts: what was written on one is read on the other by its next call, whether or not anybody closed or synced
//! anything, through open files, fresh ones and maps.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_common::limits::SESSION_LEASE;
use dfs_testkit::process::{ClusterOptions, Mount, MountOptions, ProcessCluster, start, until};
use nix::libc;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const LIMIT: Duration = Duration::from_secs(120);
const PAGE: usize = 4096;

fn set_up() -> (ProcessCluster, Mount, Mount) {
    let cluster = ProcessCluster::start(ClusterOptions::with_datanodes(3));
    let first = cluster.mount(MountOptions::default());
    let second = cluster.mount(MountOptions::default());
    (cluster, first, second)
}

fn both_ways<'a>(first: &'a Mount, second: &'a Mount) -> [(&'a Mount, &'a Mount, String); 2] {
    [
        (first, second, "one".to_owned()),
        (second, first, "two".to_owned()),
    ]
}

fn open(path: PathBuf) -> File {
    File::options().read(true).write(true).open(path).unwrap()
}

fn whole(file: &File) -> Vec<u8> {
    let mut content = Vec::new();
    let mut file = file;
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut content).unwrap();
    content
}

/// A shared map of a page.
struct Map(*mut u8);

impl Map {
    fn of(file: &File, write: bool) -> std::io::Result<Self> {
        let access = libc::PROT_READ | if write { libc::PROT_WRITE } else { 0 };
        let null = std::ptr::null_mut();
        // SAFETY: a fresh mapping at an address of the kernel's choice, unmapped by `Drop`.
        let map = unsafe { libc::mmap(null, PAGE, access, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        match map == libc::MAP_FAILED {
            true => Err(std::io::Error::last_os_error()),
            false => Ok(Map(map.cast())),
        }
    }

    fn byte(&self, at: usize) -> u8 {
        assert!(at < PAGE);
        // SAFETY: within the page, which is mapped as long as `self` lives.
        unsafe { self.0.add(at).read_volatile() }
    }

    fn store(&self, at: usize, byte: u8) {
        assert!(at < PAGE);
        // SAFETY: as in `byte`; the caller has mapped it for writing.
        unsafe { self.0.add(at).write_volatile(byte) }
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: it was mapped by `of`.
        unsafe { libc::munmap(self.0.cast(), PAGE) };
    }
}

#[test]
fn what_is_written_is_read_elsewhere_by_the_next_call_though_nobody_closed_it() {
    let (_cluster, first, second) = set_up();
    for (here, there, name) in both_ways(&first, &second) {
        let mut writer = File::create_new(here.path().join(&name)).unwrap();
        writer.write_all(b"before").unwrap();
        // Nobody else has it open: acknowledged from memory, and seen all the same.
        assert_eq!(fs::metadata(there.path().join(&name)).unwrap().len(), 6);
        writer.write_all(b", more").unwrap();
        assert_eq!(fs::read(there.path().join(&name)).unwrap(), b"before, more");
        let reader = File::open(there.path().join(&name)).unwrap();
        for round in 0..20 {
            let text = format!("round {round:08}");
            writer.write_all_at(text.as_bytes(), 0).unwrap();
            let mut found = vec![0; text.len()];
            reader.read_exact_at(&mut found, 0).unwrap();
            assert_eq!(found, text.as_bytes());
            // From the pages that it has now.
            reader.read_exact_at(&mut found, 0).unwrap();
            assert_eq!(found, text.as_bytes());
            assert_eq!(fs::read(there.path().join(&name)).unwrap(), text.as_bytes());
        }
        writer.write_all_at(b"far", 100_000).unwrap();
        assert_eq!(reader.metadata().unwrap().len(), 100_003);
        assert_eq!(whole(&reader).len(), 100_003);
        writer.set_len(5).unwrap();
        assert_eq!(reader.metadata().unwrap().len(), 5);
        assert_eq!(whole(&reader), b"round");
    }
}

#[test]
fn two_writers_see_each_other() {
    let (_cluster, first, second) = set_up();
    File::create_new(first.path().join("f")).unwrap();
    let files = [open(first.path().join("f")), open(second.path().join("f"))];
    for round in 0..60u8 {
        let (writer, other) = (
            &files[usize::from(round % 2)],
            &files[usize::from((round + 1) % 2)],
        );
        let at = u64::from(round / 2) * 1000;
        writer.write_all_at(&[round; 700], at).unwrap();
        for file in [other, writer] {
            let mut found = [0; 700];
            file.read_exact_at(&mut found, at).unwrap();
            assert_eq!(found, [round; 700], "round {round}");
        }
    }
    assert_eq!(whole(&files[0]), whole(&files[1]));
}

#[test]
fn map_for_reading_shows_what_is_written_elsewhere() {
    let (_cluster, first, second) = set_up();
    for (here, there, name) in both_ways(&first, &second) {
        fs::write(here.path().join(&name), vec![0; PAGE]).unwrap();
        let writer = open(here.path().join(&name));
        let reader = File::open(there.path().join(&name)).unwrap();
        let map = Map::of(&reader, false).unwrap();
        for round in 1..100u8 {
            writer.write_all_at(&[round], u64::from(round)).unwrap();
            assert_eq!(map.byte(usize::from(round)), round);
            assert_eq!(map.byte(usize::from(round) + 1), 0);
        }
    }
}

#[test]
fn reader_that_never_stops_sees_values_in_their_order_and_the_last_one() {
    const VALUES: u64 = 200;
    let (_cluster, first, second) = set_up();
    fs::write(first.path().join("counter"), 0u64.to_le_bytes()).unwrap();
    let acknowledged = Arc::new(AtomicU64::new(0));
    let readers: Vec<_> = [&first, &second, &second]
        .into_iter()
        .map(|mount| {
            let file = File::open(mount.path().join("counter")).unwrap();
            let acknowledged = acknowledged.clone();
            start("a reader", move || {
                let mut last = 0;
                while last < VALUES {
                    let before = acknowledged.load(Ordering::SeqCst);
                    let mut bytes = [0; 8];
                    file.read_exact_at(&mut bytes, 0).unwrap();
                    let value = u64::from_le_bytes(bytes);
                    assert!(
                        value >= before,
                        "{value} was read, {before} was acknowledged before"
                    );
                    assert!(value >= last, "{value} was read after {last}");
                    last = value;
                }
            })
        })
        .collect();
    let writer = open(first.path().join("counter"));
    for value in 1..=VALUES {
        writer.write_all_at(&value.to_le_bytes(), 0).unwrap();
        acknowledged.store(value, Ordering::SeqCst);
    }
    for reader in readers {
        reader.wait(LIMIT);
    }
}

#[test]
fn appends_of_two_mounts_are_whole_and_all_there() {
    const RECORDS: usize = 60;
    let (_cluster, first, second) = set_up();
    File::create_new(first.path().join("log")).unwrap();
    let length = |number: usize| [1, 30, 5000, 70_000, (1 << 20) - 9][number % 5];
    let appending: Vec<_> = [&first, &second]
        .into_iter()
        .enumerate()
        .map(|(who, mount)| {
            let path = mount.path().join("log");
            start("appending", move || {
                let mut log = File::options().append(true).open(path).unwrap();
                for number in 0..RECORDS {
                    let mut record = vec![b'a' + who as u8; length(number) + 9];
                    record[..8].copy_from_slice(&(number as u64).to_le_bytes());
                    *record.last_mut().unwrap() = b'\n';
                    assert_eq!(log.write(&record).unwrap(), record.len());
                }
            })
        })
        .collect();
    for appending in appending {
        appending.wait(LIMIT);
    }
    for mount in [&first, &second] {
        let log = fs::read(mount.path().join("log")).unwrap();
        let mut next = [0; 2];
        let mut at = 0;
        while at < log.len() {
            let number = u64::from_le_bytes(log[at..at + 8].try_into().unwrap()) as usize;
            let who = usize::from(log[at + 8] - b'a');
            assert_eq!(number, next[who], "at {at}");
            next[who] += 1;
            let end = at + length(number) + 8;
            assert!(
                log[at + 8..end].iter().all(|byte| *byte == b'a' + who as u8),
                "at {at}"
            );
            assert_eq!(log[end], b'\n');
            at = end + 1;
        }
        assert_eq!(next, [RECORDS; 2]);
    }
}

#[test]
fn reader_of_a_growing_log_misses_nothing() {
    let (_cluster, first, second) = set_up();
    let mut logs = [&first, &second].map(|mount| {
        let path = mount.path().join("log");
        File::options().append(true).create(true).open(path).unwrap()
    });
    let readers = [&first, &second].map(|mount| File::open(mount.path().join("log")).unwrap());
    let mut expected = Vec::new();
    for round in 0..80 {
        let line = format!("line {round} of a log that two mounts write\n");
        logs[(round / 3) % 2].write_all(line.as_bytes()).unwrap();
        expected.extend_from_slice(line.as_bytes());
        for (who, reader) in readers.iter().enumerate() {
            let mut found = vec![0; expected.len() + 10];
            let length = reader.read_at(&mut found, 0).unwrap();
            assert!(
                found[..length] == expected[..],
                "round {round}, reader {who}: {length} bytes"
            );
        }
    }
}

#[test]
fn file_that_is_renamed_over_or_removed_elsewhere_is_the_old_one_for_who_has_it_open() {
    let (_cluster, first, second) = set_up();
    for (here, there, name) in both_ways(&first, &second) {
        let path = |mount: &Mount| mount.path().join(&name);
        fs::write(path(here), "old").unwrap();
        let old = open(path(there));
        fs::write(here.path().join("new"), "new").unwrap();
        fs::rename(here.path().join("new"), path(here)).unwrap();
        assert_eq!(fs::read(path(there)).unwrap(), b"new");
        assert_eq!(whole(&old), b"old");
        old.write_all_at(b"OLD", 0).unwrap();
        assert_eq!(whole(&old), b"OLD");
        assert_eq!(fs::read(path(here)).unwrap(), b"new");
        fs::remove_file(path(here)).unwrap();
        let error = File::open(path(there)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOENT));
        assert_eq!(old.metadata().unwrap().nlink(), 0);
    }
}

#[test]
fn shared_map_for_writing_is_for_one_mount_at_a_time() {
    let (_cluster, first, second) = set_up();
    fs::write(first.path().join("shm"), vec![0; PAGE]).unwrap();
    let here = open(first.path().join("shm"));
    let mapped = Map::of(&here, true).unwrap();
    mapped.store(0, 7);
    let there = open(second.path().join("shm"));
    let refused = Map::of(&there, true).err().unwrap();
    assert_eq!(refused.raw_os_error(), Some(libc::ENODEV));
    // What was stored before it was opened there is read there.
    let mut byte = [0];
    there.read_exact_at(&mut byte, 0).unwrap();
    assert_eq!(byte, [7]);
    drop((mapped, here, there));
    for mount in [&second, &first, &second] {
        // The kernel tells a mount of a close after `close` has returned.
        until("nobody else has it open any more", LIMIT, || {
            Map::of(&open(mount.path().join("shm")), true).ok()
        });
    }
}

#[test]
fn direct_reads_and_writes_share_with_others() {
    let (_cluster, first, second) = set_up();
    fs::write(first.path().join("f"), vec![1; 2 * PAGE]).unwrap();
    let cached = open(second.path().join("f"));
    assert_eq!(whole(&cached)[0], 1);
    let direct = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(first.path().join("f"))
        .unwrap();
    for round in 2..20u8 {
        // SAFETY: plain memory, aligned as O_DIRECT wants it.
        let buffer = unsafe {
            let layout = std::alloc::Layout::from_size_align(PAGE, PAGE).unwrap();
            let memory = std::alloc::alloc_zeroed(layout);
            std::slice::from_raw_parts_mut(memory, PAGE)
        };
        buffer.fill(round);
        direct.write_all_at(buffer, PAGE as u64).unwrap();
        let mut found = [0];
        cached.read_exact_at(&mut found, PAGE as u64 + 5).unwrap();
        assert_eq!(found, [round]);
        cached.write_all_at(&[round], 9).unwrap();
        direct.read_exact_at(buffer, 0).unwrap();
        assert_eq!((buffer[8], buffer[9]), (1, round));
        // SAFETY: it came from the allocator with this layout.
        unsafe {
            let layout = std::alloc::Layout::from_size_align(PAGE, PAGE).unwrap();
            std::alloc::dealloc(buffer.as_mut_ptr(), layout);
        }
    }
}

#[test]
fn what_was_acknowledged_before_the_coordinator_died_is_seen_elsewhere_after_its_restart() {
    let (mut cluster, first, second) = set_up();
    fs::create_dir(first.path().join("d")).unwrap();
    let mut writers = Vec::new();
    for number in 0..20 {
        let path = first.path().join(format!("d/{number}"));
        let mut file = File::create_new(&path).unwrap();
        file.write_all(b"committed").unwrap();
        file.sync_all().unwrap();
        writers.push(file);
    }
    let reader = File::open(second.path().join("d/7")).unwrap();
    assert_eq!(whole(&reader), b"committed");
    for file in &writers {
        // From memory, but for the one that the other mount has open.
        file.write_all_at(b"COMM", 0).unwrap();
    }
    let coordinator = cluster.node("coordinator");
    coordinator.kill();
    coordinator.start();
    for number in 0..20 {
        let found = fs::read(second.path().join(format!("d/{number}"))).unwrap();
        assert_eq!(found, b"COMMitted", "{number}");
    }
    assert_eq!(whole(&reader), b"COMMitted");
    writers[7].write_all_at(b"late", 5).unwrap();
    assert_eq!(whole(&reader), b"COMMilate");
}

#[test]
fn frozen_writer_delays_others_until_its_lease_ends_and_is_told_what_it_lost() {
    let (_cluster, first, second) = set_up();
    let path = |mount: &Mount| mount.path().join("f");
    let mut writer = File::create_new(path(&first)).unwrap();
    writer.write_all(b"saved").unwrap();
    writer.sync_all().unwrap();
    writer.write_all_at(b"LOST", 0).unwrap();
    first.suspend();
    let there = path(&second);
    let seen = start("reading while the writer is frozen", move || {
        fs::read(there).unwrap()
    });
    assert_eq!(seen.wait(SESSION_LEASE + Duration::from_secs(30)), b"saved");
    fs::write(path(&second), "others go on").unwrap();
    first.resume();
    let lost = until("the writer hears of it", LIMIT, || writer.sync_all().err());
    assert_eq!(lost.raw_os_error(), Some(libc::EIO));
    assert_eq!(fs::read(path(&first)).unwrap(), b"others go on");
    assert_eq!(fs::read(path(&second)).unwrap(), b"others go on");
}
