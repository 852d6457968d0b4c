//! Directories: making, removing, listing by position, and the figures of the file system.

use crate::sys::{DirStream, errno, nix_errno};
use nix::libc::{EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY};
use nix::sys::stat::{Mode, mkdirat};
use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::{DirEntryExt, MetadataExt};
use std::path::Path;

crate::checks![
    removal_needs_an_empty_directory,
    names_that_exist_are_refused,
    dot_and_dot_dot_are_listed,
    positions_lead_back_to_their_entries,
    listing_goes_on_after_removal_of_what_was_listed,
    removed_directory_is_empty_and_takes_nothing,
    working_directory_survives_a_move,
    figures_of_the_file_system_make_sense,
];

fn removal_needs_an_empty_directory(dir: &Path) {
    fs::create_dir_all(dir.join("sub/deeper")).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    assert_eq!(errno(fs::remove_dir(dir.join("sub"))), ENOTEMPTY);
    assert_eq!(errno(fs::remove_dir(dir.join("file"))), ENOTDIR);
    assert_eq!(errno(fs::remove_dir(dir.join("sub/."))), EINVAL);
    let above = errno(fs::remove_dir(dir.join("sub/deeper/..")));
    assert!(above == ENOTEMPTY || above == EINVAL, "{above}");
    assert_eq!(errno(fs::remove_file(dir.join("sub"))), EISDIR);
    assert_eq!(errno(fs::remove_dir(dir.join("missing"))), ENOENT);
    fs::remove_dir(dir.join("sub/deeper")).unwrap();
    fs::remove_dir(dir.join("sub")).unwrap();
}

fn names_that_exist_are_refused(dir: &Path) {
    fs::create_dir(dir.join("sub")).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    std::os::unix::fs::symlink("nowhere", dir.join("dangling")).unwrap();
    for name in ["sub", "file", "dangling", ".", "sub/.."] {
        assert_eq!(errno(fs::create_dir(dir.join(name))), EEXIST, "{name}");
    }
    assert_eq!(errno(fs::create_dir(dir.join("missing/sub"))), ENOENT);
    assert_eq!(errno(fs::create_dir(dir.join("file/sub"))), ENOTDIR);
}

fn make(dir: &Path, count: usize) -> BTreeSet<Vec<u8>> {
    let names: BTreeSet<_> = (0..count)
        .map(|number| format!("name-{number:04}").into_bytes())
        .collect();
    for name in &names {
        File::create_new(dir.join(String::from_utf8(name.clone()).unwrap())).unwrap();
    }
    names
}

fn dot_and_dot_dot_are_listed(dir: &Path) {
    fs::create_dir(dir.join("sub")).unwrap();
    let mut names = DirStream::open(&dir.join("sub")).rest();
    names.sort();
    assert_eq!(names, [b".".to_vec(), b"..".to_vec()]);
    let entries: Vec<_> = fs::read_dir(dir).unwrap().map(Result::unwrap).collect();
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].ino(), fs::metadata(dir.join("sub")).unwrap().ino());
    assert_eq!(
        fs::metadata(dir.join("sub/..")).unwrap().ino(),
        fs::metadata(dir).unwrap().ino()
    );
}

fn positions_lead_back_to_their_entries(dir: &Path) {
    const COUNT: usize = 1_500;
    let expected = make(dir, COUNT);
    let mut stream = DirStream::open(dir);
    let mut seen = Vec::new();
    loop {
        let position = stream.position();
        match stream.next_name() {
            Some(name) => seen.push((position, name)),
            None => break,
        }
    }
    assert_eq!(seen.len(), COUNT + 2);
    let names: BTreeSet<_> = seen
        .iter()
        .map(|(_, name)| name.clone())
        .filter(|name| name[0] != b'.')
        .collect();
    assert_eq!(names, expected);
    for (position, name) in seen.iter().step_by(211).chain(seen.last()) {
        stream.seek(*position);
        assert_eq!(
            stream.next_name().as_ref(),
            Some(name),
            "after seekdir to {position}"
        );
    }
    stream.seek(seen[1_000].0);
    assert_eq!(stream.rest().len(), COUNT + 2 - 1_000);
    stream.rewind();
    assert_eq!(stream.rest().len(), COUNT + 2);
    // rewinddir shows what is new, as opendir would.
    File::create_new(dir.join("one more")).unwrap();
    stream.rewind();
    assert_eq!(stream.rest().len(), COUNT + 3);
}

fn listing_goes_on_after_removal_of_what_was_listed(dir: &Path) {
    let expected = make(dir, 3_000);
    let mut stream = DirStream::open(dir);
    let mut seen = BTreeSet::new();
    while let Some(name) = stream.next_name() {
        if name[0] != b'.' {
            fs::remove_file(dir.join(std::str::from_utf8(&name).unwrap())).unwrap();
            assert!(seen.insert(name));
        }
    }
    assert_eq!(seen, expected, "rm -r sees every entry once");
    assert_eq!(fs::read_dir(dir).unwrap().count(), 0);
}

fn removed_directory_is_empty_and_takes_nothing(dir: &Path) {
    fs::create_dir(dir.join("sub")).unwrap();
    let open = File::open(dir.join("sub")).unwrap();
    fs::remove_dir(dir.join("sub")).unwrap();
    assert_eq!(nix_errno(mkdirat(&open, "below", Mode::S_IRWXU)), ENOENT);
    let links = open.metadata().unwrap().nlink();
    assert_eq!(links, 0);
}

fn working_directory_survives_a_move(dir: &Path) {
    fs::create_dir_all(dir.join("a/b")).unwrap();
    let script = "cd a/b && mv ../../a ../../z && echo text > file && cat ../../z/b/file && test \"$(pwd -P)\" = \"$0\"";
    let output = std::process::Command::new("sh")
        .args(["-c", script])
        .arg(fs::canonicalize(dir).unwrap().join("z/b"))
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"text\n");
}

fn figures_of_the_file_system_make_sense(dir: &Path) {
    let found = nix::sys::statvfs::statvfs(dir).unwrap();
    assert_eq!(found.name_max(), 255);
    assert!(found.block_size().is_power_of_two() && found.fragment_size().is_power_of_two());
    assert!(found.blocks() > 0 && found.blocks_free() <= found.blocks());
    assert!(found.blocks_available() <= found.blocks_free());
    assert!(found.files() > 0 && found.files_free() <= found.files() && found.files_free() > 0);
}
