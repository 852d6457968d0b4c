//! Bytes: holes, truncation, large offsets, maps, direct access, copies.

use crate::sys::Map;
use dfs_testkit::process::Content;
use nix::libc;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

crate::checks![
    holes_read_as_zeros,
    truncation_cuts_and_extends_with_zeros,
    offsets_reach_terabytes,
    overlapping_writes_keep_the_last,
    shared_map_is_the_file,
    direct_access_agrees_with_buffered,
    copies_within_the_file_system_are_equal,
    preallocation_gives_the_size,
    reads_beyond_the_end_are_short,
    vectors_and_small_pieces_make_one_file,
];

fn holes_read_as_zeros(dir: &Path) {
    let path = dir.join("file");
    let file = File::create_new(&path).unwrap();
    for at in [3_000_000u64, 10, 20_000_000] {
        file.write_all_at(b"island", at).unwrap();
    }
    let check = || {
        let found = fs::read(&path).unwrap();
        assert_eq!(found.len(), 20_000_006);
        let islands = [10, 3_000_000, 20_000_000];
        assert!(islands.iter().all(|at| &found[*at..at + 6] == b"island"));
        assert_eq!(found.iter().filter(|byte| **byte != 0).count(), 18);
    };
    check();
    file.sync_all().unwrap();
    check();
    assert!(
        fs::metadata(&path).unwrap().blocks() < 20_000,
        "holes take no blocks"
    );
}

fn truncation_cuts_and_extends_with_zeros(dir: &Path) {
    let path = dir.join("file");
    let content = Content::new(5, 100_000).bytes();
    for synced in [false, true] {
        fs::write(&path, &content).unwrap();
        let file = File::options().read(true).write(true).open(&path).unwrap();
        let sync = || {
            if synced {
                file.sync_all().unwrap()
            }
        };
        sync();
        file.set_len(50_001).unwrap();
        sync();
        file.set_len(90_000).unwrap();
        sync();
        let found = fs::read(&path).unwrap();
        assert_eq!(found.len(), 90_000);
        assert!(found[..50_001] == content[..50_001]);
        assert!(
            found[50_001..].iter().all(|byte| *byte == 0),
            "what was cut off does not come back"
        );
        file.write_all_at(b"x", 89_999).unwrap();
        nix::unistd::truncate(&path, 0).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert_eq!(file.read_at(&mut [0; 10], 0).unwrap(), 0);
    }
}

fn offsets_reach_terabytes(dir: &Path) {
    let path = dir.join("file");
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let far = 10u64 << 40;
    file.write_all_at(b"far", far).unwrap();
    file.sync_all().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), far + 3);
    let mut found = [1; 6];
    assert_eq!(file.read_at(&mut found, far - 3).unwrap(), 6);
    assert_eq!(&found, b"\0\0\0far");
    file.set_len(4).unwrap();
    assert_eq!(fs::read(&path).unwrap(), [0; 4]);
}

fn overlapping_writes_keep_the_last(dir: &Path) {
    let path = dir.join("file");
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    let mut expected = vec![0u8; 400_000];
    let mut state = 12_345u64;
    for step in 0..400 {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let at = (state >> 33) as usize % 350_000;
        let length = 1 + (state >> 20) as usize % 50_000 / (1 + step % 50);
        let bytes = Content::new(step as u64, length).bytes();
        file.write_all_at(&bytes, at as u64).unwrap();
        expected[at..at + length].copy_from_slice(&bytes);
        if step % 40 == 7 {
            file.sync_data().unwrap();
        }
        if step % 30 == 3 {
            let mut found = vec![0; length + 2];
            let count = file.read_at(&mut found, at.saturating_sub(1) as u64).unwrap();
            assert!(
                found[..count] == expected[at.saturating_sub(1)..][..count],
                "step {step}"
            );
        }
    }
    let found = fs::read(&path).unwrap();
    assert!(found == expected[..found.len()] && expected[found.len()..].iter().all(|byte| *byte == 0));
}

fn shared_map_is_the_file(dir: &Path) {
    let path = dir.join("file");
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    file.set_len(300_000).unwrap();
    let mut map = Map::new(&file, 300_000);
    assert!(map.bytes().iter().all(|byte| *byte == 0));
    map.bytes()[100_000..100_006].copy_from_slice(b"mapped");
    map.sync();
    let mut found = [0; 6];
    file.read_exact_at(&mut found, 100_000).unwrap();
    assert_eq!(&found, b"mapped");
    file.write_all_at(b"written", 200_000).unwrap();
    assert_eq!(&map.bytes()[200_000..200_007], b"written");
    map.bytes()[299_999] = 7;
    drop(map);
    file.sync_all().unwrap();
    let whole = fs::read(&path).unwrap();
    assert_eq!(
        (whole.len(), whole[299_999], &whole[100_000..100_006]),
        (300_000, 7, &b"mapped"[..])
    );
}

fn direct_access_agrees_with_buffered(dir: &Path) {
    const BLOCK: usize = 4096;
    let path = dir.join("file");
    let content = Content::new(6, 64 * BLOCK).bytes();
    fs::write(&path, &content).unwrap();
    let open = File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&path);
    let file = match open {
        Ok(file) => file,
        // tmpfs and others do not have it.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => return,
        Err(error) => panic!("{error}"),
    };
    let mut memory = vec![0u8; 9 * BLOCK];
    let start = memory.as_ptr().align_offset(BLOCK);
    let buffer = &mut memory[start..start + 8 * BLOCK];
    file.read_exact_at(buffer, 8 * BLOCK as u64).unwrap();
    assert!(buffer == &content[8 * BLOCK..16 * BLOCK]);
    buffer.fill(0x55);
    file.write_all_at(buffer, 16 * BLOCK as u64).unwrap();
    let found = fs::read(&path).unwrap();
    assert!(found[16 * BLOCK..24 * BLOCK].iter().all(|byte| *byte == 0x55));
    assert!(found[..16 * BLOCK] == content[..16 * BLOCK] && found[24 * BLOCK..] == content[24 * BLOCK..]);
}

fn copies_within_the_file_system_are_equal(dir: &Path) {
    let content = Content::new(7, 10_000_001);
    fs::write(dir.join("from"), content.bytes()).unwrap();
    // copy_file_range, sendfile or read and write: whatever the kernel lets it have.
    fs::copy(dir.join("from"), dir.join("to")).unwrap();
    assert!(content.is(&fs::read(dir.join("to")).unwrap()));
}

fn preallocation_gives_the_size(dir: &Path) {
    let file = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(dir.join("file"))
        .unwrap();
    file.write_all_at(b"kept", 0).unwrap();
    // SAFETY: an open descriptor and integers.
    let error = unsafe { libc::posix_fallocate(file.as_raw_fd(), 0, 1_000_000) };
    assert_eq!(error, 0, "{}", std::io::Error::from_raw_os_error(error));
    assert_eq!(file.metadata().unwrap().len(), 1_000_000);
    let mut found = [1; 5];
    file.read_exact_at(&mut found, 0).unwrap();
    assert_eq!(&found, b"kept\0");
}

fn reads_beyond_the_end_are_short(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, vec![1; 10_000]).unwrap();
    let mut file = File::open(&path).unwrap();
    let mut buffer = vec![0; 20_000];
    assert_eq!(file.read_at(&mut buffer, 9_000).unwrap(), 1_000);
    assert_eq!(file.read_at(&mut buffer, 10_000).unwrap(), 0);
    assert_eq!(file.read_at(&mut buffer, 1 << 40).unwrap(), 0);
    assert_eq!(file.seek(SeekFrom::End(-10)).unwrap(), 9_990);
    assert_eq!(file.read(&mut buffer).unwrap(), 10);
    assert_eq!(file.read(&mut buffer).unwrap(), 0);
}

fn vectors_and_small_pieces_make_one_file(dir: &Path) {
    let path = dir.join("file");
    let content = Content::new(8, 50_000).bytes();
    let mut file = File::create_new(&path).unwrap();
    for (number, piece) in content.chunks(97).enumerate() {
        let (one, two) = piece.split_at(piece.len() / 2);
        match number % 3 {
            0 => file.write_all(piece).unwrap(),
            1 => {
                let parts = [std::io::IoSlice::new(one), std::io::IoSlice::new(two)];
                assert_eq!(file.write_vectored(&parts).unwrap(), piece.len());
            }
            _ => [one, two].iter().for_each(|part| file.write_all(part).unwrap()),
        }
    }
    drop(file);
    let mut found = Vec::new();
    let file = File::open(&path).unwrap();
    while (&file).take(331).read_to_end(&mut found).unwrap() > 0 {}
    assert!(found == content);
}
