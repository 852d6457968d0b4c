//! Flags of open, and files that are open while their names change.

use crate::sys::{Map, errno};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::libc::{EBADF, EEXIST, EISDIR, ELOOP, ENOENT, ENOTDIR, O_DIRECTORY, O_DSYNC, O_NOFOLLOW, O_SYNC};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::Path;

crate::checks![
    exclusive_create_refuses_what_exists,
    truncating_open_empties,
    append_writes_at_the_end_whatever_the_offset,
    concurrent_appends_are_all_there,
    append_flag_is_put_on_and_taken_off,
    map_of_a_file_opened_to_append_changes_in_place,
    unlinked_file_stays_usable_until_closed,
    replaced_file_stays_readable,
    wrong_kind_is_refused,
    access_mode_is_kept,
    synchronous_writes_work,
    many_openings_share_content_not_offsets,
];

fn exclusive_create_refuses_what_exists(dir: &Path) {
    fs::write(dir.join("file"), "content").unwrap();
    symlink("nowhere", dir.join("dangling")).unwrap();
    for name in ["file", "dangling", "."] {
        assert_eq!(errno(File::create_new(dir.join(name))), EEXIST, "{name}");
    }
    assert_eq!(fs::read(dir.join("file")).unwrap(), b"content");
    // Without O_EXCL the link's target is made.
    File::create(dir.join("dangling")).unwrap();
    assert!(dir.join("nowhere").is_file());
    // Of many who try, one wins.
    let winners: usize = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| usize::from(File::create_new(dir.join("once")).is_ok())))
            .collect();
        tries.into_iter().map(|one| one.join().unwrap()).sum()
    });
    assert_eq!(winners, 1);
}

fn truncating_open_empties(dir: &Path) {
    let path = dir.join("file");
    for length in [1, 5_000, 3_000_000] {
        fs::write(&path, vec![7; length]).unwrap();
        let before = fs::metadata(&path).unwrap();
        let file = File::create(&path).unwrap();
        assert_eq!(file.metadata().unwrap().len(), 0);
        assert_eq!(fs::metadata(&path).unwrap().len(), 0);
        assert_eq!(fs::metadata(&path).unwrap().ino(), before.ino());
        file.write_all_at(b"new", 1).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"\0new");
    }
}

fn append_writes_at_the_end_whatever_the_offset(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, "start").unwrap();
    let mut one = File::options().append(true).open(&path).unwrap();
    let mut two = File::options().append(true).read(true).open(&path).unwrap();
    one.write_all(b"-one").unwrap();
    two.seek(SeekFrom::Start(0)).unwrap();
    two.write_all(b"-two").unwrap();
    one.write_all(b"-three").unwrap();
    // Linux: a positioned write on such a file appends too.
    two.write_at(b"-four", 0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"start-one-two-three-four");
    File::options()
        .write(true)
        .open(&path)
        .unwrap()
        .set_len(5)
        .unwrap();
    one.write_all(b"-five").unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"start-five");
}

fn concurrent_appends_are_all_there(dir: &Path) {
    let path = dir.join("log");
    File::create(&path).unwrap();
    std::thread::scope(|scope| {
        for writer in 0..4 {
            let path = &path;
            scope.spawn(move || {
                let mut file = File::options().append(true).open(path).unwrap();
                for number in 0..200 {
                    file.write_all(format!("{writer:02}-{number:05}\n").as_bytes())
                        .unwrap();
                }
            });
        }
    });
    let text = fs::read_to_string(&path).unwrap();
    let expected: BTreeSet<String> = (0..4)
        .flat_map(|writer| (0..200).map(move |number| format!("{writer:02}-{number:05}")))
        .collect();
    assert_eq!(text.lines().count(), expected.len());
    assert_eq!(text.lines().map(str::to_owned).collect::<BTreeSet<_>>(), expected);
}

fn append_flag_is_put_on_and_taken_off(dir: &Path) {
    let path = dir.join("file");
    let set = |file: &File, flags| fcntl(file, FcntlArg::F_SETFL(flags)).unwrap();
    fs::write(&path, "0123").unwrap();
    let file = File::options().append(true).open(&path).unwrap();
    file.write_all_at(b"45", 0).unwrap();
    set(&file, OFlag::empty());
    file.write_all_at(b"A", 0).unwrap();
    set(&file, OFlag::O_APPEND);
    file.write_all_at(b"67", 0).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"A1234567");
    let file = File::options().write(true).open(&path).unwrap();
    set(&file, OFlag::O_APPEND);
    file.write_all_at(b"89", 0).unwrap();
    set(&file, OFlag::empty());
    file.write_all_at(b"B", 1).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"AB23456789");
}

fn map_of_a_file_opened_to_append_changes_in_place(dir: &Path) {
    let path = dir.join("file");
    let mut file = File::options()
        .append(true)
        .read(true)
        .create_new(true)
        .open(&path)
        .unwrap();
    let length = 10_000;
    file.write_all(&vec![b'.'; length]).unwrap();
    let mut map = match Map::try_new(&file, length) {
        // The mount permits it not (docs/SEMANTICS.md).
        Err(error) if error.raw_os_error() == Some(nix::libc::ENODEV) => return,
        map => map.unwrap(),
    };
    map.bytes()[5_000] = b'A';
    map.sync();
    file.write_all(b"end").unwrap();
    let mut expected = vec![b'.'; length];
    expected[5_000] = b'A';
    expected.extend_from_slice(b"end");
    assert!(fs::read(&path).unwrap() == expected);
    // Also when it has no name any more.
    fs::remove_file(&path).unwrap();
    map.bytes()[0] = b'B';
    map.sync();
    expected[0] = b'B';
    let mut found = vec![0; expected.len()];
    file.read_exact_at(&mut found, 0).unwrap();
    assert!(found == expected);
    assert_eq!(file.metadata().unwrap().len(), expected.len() as u64);
}

fn unlinked_file_stays_usable_until_closed(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, "first").unwrap();
    let reader = File::open(&path).unwrap();
    let file = File::options().read(true).write(true).open(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(errno(File::open(&path)), ENOENT);
    assert_eq!(file.metadata().unwrap().nlink(), 0);
    // The name is free for another file.
    fs::write(&path, "second").unwrap();
    file.write_all_at(&[9; 100_000], 5).unwrap();
    file.sync_all().unwrap();
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .unwrap();
    let mut found = Vec::new();
    (&reader).read_to_end(&mut found).unwrap();
    assert!(found.starts_with(b"first\x09") && found.len() == 100_005);
    file.set_len(2).unwrap();
    assert_eq!(reader.metadata().unwrap().len(), 2);
    drop((file, reader));
    assert_eq!(fs::read(&path).unwrap(), b"second");
}

fn replaced_file_stays_readable(dir: &Path) {
    let (old, new) = (dir.join("old"), dir.join("new"));
    fs::write(&old, vec![1; 50_000]).unwrap();
    fs::write(&new, "new").unwrap();
    let mut open = File::open(&old).unwrap();
    fs::rename(&new, &old).unwrap();
    let mut found = Vec::new();
    open.read_to_end(&mut found).unwrap();
    assert_eq!(found, vec![1; 50_000]);
    assert_eq!(open.metadata().unwrap().nlink(), 0);
    assert_eq!(fs::read(&old).unwrap(), b"new");
}

fn wrong_kind_is_refused(dir: &Path) {
    fs::write(dir.join("file"), "").unwrap();
    symlink("file", dir.join("link")).unwrap();
    let with = |flags: i32, name: &str| {
        File::options()
            .read(true)
            .custom_flags(flags)
            .open(dir.join(name))
    };
    assert_eq!(errno(File::options().write(true).open(dir)), EISDIR);
    assert_eq!(errno(with(O_DIRECTORY, "file")), ENOTDIR);
    assert_eq!(errno(with(O_NOFOLLOW, "link")), ELOOP);
    assert_eq!(errno(File::open(dir.join("file/below"))), ENOTDIR);
    assert_eq!(errno(File::open(dir.join("missing/below"))), ENOENT);
    with(O_NOFOLLOW, "file").unwrap();
}

fn access_mode_is_kept(dir: &Path) {
    fs::write(dir.join("file"), "content").unwrap();
    let reader = File::open(dir.join("file")).unwrap();
    assert_eq!(errno(reader.write_at(b"x", 0)), EBADF);
    let writer = File::options().write(true).open(dir.join("file")).unwrap();
    assert_eq!(errno(writer.read_at(&mut [0], 0)), EBADF);
}

fn synchronous_writes_work(dir: &Path) {
    for flags in [O_SYNC, O_DSYNC] {
        let path = dir.join(format!("file-{flags}"));
        let mut file = File::options()
            .create_new(true)
            .write(true)
            .custom_flags(flags)
            .open(&path)
            .unwrap();
        file.write_all(&[3; 70_000]).unwrap();
        file.write_all(b"end").unwrap();
        file.sync_data().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 70_003);
    }
    File::open(dir)
        .unwrap()
        .sync_all()
        .expect("a directory can be synced");
}

fn many_openings_share_content_not_offsets(dir: &Path) {
    let path = dir.join("file");
    let mut writer = File::create_new(&path).unwrap();
    let mut readers: Vec<File> = (0..20).map(|_| File::open(&path).unwrap()).collect();
    for number in 0..20u8 {
        writer.write_all(&[number; 1000]).unwrap();
        for (reader, file) in readers.iter_mut().enumerate() {
            if reader % 4 == usize::from(number % 4) {
                let mut found = Vec::new();
                file.read_to_end(&mut found).unwrap();
                assert!(
                    !found.is_empty() && found.ends_with(&[number; 1000]),
                    "reader {reader}, piece {number}"
                );
            }
        }
    }
}
