//! Names at their limits, paths at theirs, and a directory of a hundred thousand entries that is listed while it changes.
//!
//! With `DFS_TEST_CONTROL_DIR` set to a local directory the same runs there.

#![allow(clippy::unwrap_used)] // helpers of tests

use dfs_testkit::process::{ClusterOptions, Place, run, start};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, fstatat, mkdirat, mknod};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(400);
/// Linux's limits, the NUL of a path included.
const NAME_MAX: usize = 255;
const PATH_MAX: usize = 4096;

#[test]
fn names_are_bytes_up_to_255() {
    let mut place = Place::new(ClusterOptions::default());
    let dir = place.dir().join("names");
    fs::create_dir(&dir).unwrap();
    let names = odd_names();
    for name in &names {
        fs::write(dir.join(name), name.as_bytes()).unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert!(File::create_new(dir.join(name)).is_err(), "{name:?} exists");
    }
    for _ in 0..2 {
        let listed: Vec<OsString> = fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(listed.len(), names.len(), "every name once");
        assert_eq!(BTreeSet::from_iter(listed), names);
        for name in &names {
            assert_eq!(fs::read(dir.join(name)).unwrap(), name.as_bytes(), "{name:?}");
        }
        place.cool();
    }
    for too_long in [NAME_MAX + 1, 1000] {
        let path = dir.join("x".repeat(too_long));
        for error in [
            fs::write(&path, "").unwrap_err(),
            fs::create_dir(&path).unwrap_err(),
            fs::metadata(&path).unwrap_err(),
            fs::rename(dir.join("a"), &path).unwrap_err(),
            std::os::unix::fs::symlink("target", &path).unwrap_err(),
        ] {
            assert_eq!(
                error.raw_os_error(),
                Some(Errno::ENAMETOOLONG as i32),
                "{too_long} bytes: {error}"
            );
        }
    }
    // From each name to the next, backwards, so that none is in the way; the last one is removed first.
    let names: Vec<&OsString> = names.iter().collect();
    fs::remove_file(dir.join(names[names.len() - 1])).unwrap();
    for pair in names.windows(2).rev() {
        fs::rename(dir.join(pair[0]), dir.join(pair[1])).unwrap_or_else(|error| panic!("{pair:?}: {error}"));
        assert_eq!(fs::read(dir.join(pair[1])).unwrap(), pair[0].as_bytes());
    }
    for name in &names[1..] {
        fs::remove_file(dir.join(name)).unwrap();
    }
    fs::remove_dir(&dir).unwrap();
}

fn odd_names() -> BTreeSet<OsString> {
    let mut names = BTreeSet::new();
    // Every byte that a name may have, alone and inside.
    for byte in (1..=255u8).filter(|byte| *byte != b'/') {
        if byte != b'.' {
            names.insert(vec![byte]);
        }
        names.insert(vec![b'a', byte, b'z']);
    }
    names.extend(
        [
            &b"..."[..],
            b".hidden",
            b"..x",
            b" ",
            b"-",
            b"*",
            b"a\nb",
            b"\xc3\x28",
            b"\xff\xfe\xfd",
        ]
        .map(Vec::from),
    );
    // Equal to some eyes, different names.
    names.extend(["é", "e\u{301}", "FILE", "file", "File", "ﬁle"].map(|name| name.as_bytes().to_vec()));
    // The longest: plain, of characters of several bytes, not UTF-8.
    names.insert(vec![b'x'; NAME_MAX]);
    names.insert(vec![b'x'; NAME_MAX - 1]);
    names.insert("語".repeat(NAME_MAX / 3).into_bytes());
    names.insert(vec![0xfe; NAME_MAX]);
    names.into_iter().map(OsString::from_vec).collect()
}

#[test]
fn paths_reach_4096_bytes_and_trees_go_deeper() {
    let mut place = Place::new(ClusterOptions::default());
    let top = place.dir().join("deep");
    fs::create_dir(&top).unwrap();
    // The longest path that a system call takes, ending in a file.
    let step = "s".repeat(200);
    let mut dir = top.clone();
    while length(&dir) + 1 + step.len() + 1 + NAME_MAX < PATH_MAX - 1 {
        dir.push(&step);
        fs::create_dir(&dir).unwrap();
    }
    // Room for one more name of up to 255 bytes after a filler directory.
    while PATH_MAX - 1 - length(&dir) - 1 > NAME_MAX {
        dir.push("f".repeat(PATH_MAX - 1 - length(&dir) - 2 - NAME_MAX));
        fs::create_dir(&dir).unwrap();
    }
    let longest = dir.join("l".repeat(PATH_MAX - 1 - length(&dir) - 1));
    assert_eq!(length(&longest), PATH_MAX - 1);
    fs::write(&longest, "at the end").unwrap();
    place.cool();
    assert_eq!(fs::read(&longest).unwrap(), b"at the end");
    let mut longer = longest.clone().into_os_string();
    longer.push("x");
    let error = fs::write(&longer, "").unwrap_err();
    assert_eq!(error.raw_os_error(), Some(Errno::ENAMETOOLONG as i32));

    // A link whose target is as long, and one that leads to the end of the tree.
    let link = place.dir().join("link");
    std::os::unix::fs::symlink(&longest, &link).unwrap();
    assert_eq!(fs::read_link(&link).unwrap(), longest);
    assert_eq!(fs::read(&link).unwrap(), b"at the end");

    // Deeper than any path, step by step.
    let mut at = File::open(&top).unwrap();
    for depth in 0..60 {
        let name = format!("{depth}-{}", "d".repeat(NAME_MAX - 10));
        mkdirat(&at, name.as_str(), Mode::S_IRWXU).unwrap();
        at = openat(
            &at,
            name.as_str(),
            OFlag::O_RDONLY | OFlag::O_DIRECTORY,
            Mode::empty(),
        )
        .unwrap()
        .into();
    }
    let create = OFlag::O_CREAT | OFlag::O_RDWR;
    let file: File = openat(&at, "bottom", create, Mode::S_IRUSR).unwrap().into();
    drop(file);
    assert_eq!(fstatat(&at, "bottom", AtFlags::empty()).unwrap().st_size, 0);
    assert_eq!(fstatat(&at, "..", AtFlags::empty()).unwrap().st_nlink, 3);
    drop(at);
    run(Command::new("rm").arg("-rf").arg(&top), LIMIT);
    assert!(!top.exists());
}

fn length(path: &Path) -> usize {
    path.as_os_str().len()
}

#[test]
fn hundred_thousand_entries_are_listed_once_each_while_the_directory_changes() {
    const ENTRIES: usize = 100_000;
    const THREADS: usize = 8;
    let mut place = Place::new(ClusterOptions::default());
    let dir = place.dir().join("many");
    fs::create_dir(&dir).unwrap();
    let began = Instant::now();
    let makers: Vec<_> = (0..THREADS)
        .map(|thread| {
            let dir = dir.clone();
            start("maker", move || {
                for number in (thread..ENTRIES).step_by(THREADS) {
                    mknod(&dir.join(stable_name(number)), SFlag::S_IFREG, Mode::S_IRUSR, 0).unwrap();
                }
            })
        })
        .collect();
    makers.into_iter().for_each(|maker| maker.wait(LIMIT));
    println!("made {ENTRIES} entries in {:?}", began.elapsed());
    place.cool();

    let over = Arc::new(AtomicBool::new(false));
    let changers: Vec<_> = (0..2)
        .map(|changer| {
            let (dir, over) = (dir.clone(), over.clone());
            start("changer", move || change(&dir, changer, &over))
        })
        .collect();
    for _ in 0..3 {
        let (dir, began) = (dir.clone(), Instant::now());
        let counts = start("list", move || list(&dir)).wait(LIMIT);
        println!("listed {} entries in {:?}", counts.len(), began.elapsed());
        let wrong: Vec<_> = (0..ENTRIES)
            .map(|number| {
                (
                    stable_name(number),
                    counts.get(OsStr::new(&stable_name(number))).copied().unwrap_or(0),
                )
            })
            .filter(|(_, count)| *count != 1)
            .collect();
        assert!(
            wrong.is_empty(),
            "{} entries not listed once: {:?}",
            wrong.len(),
            &wrong[..wrong.len().min(5)]
        );
    }
    over.store(true, Ordering::Relaxed);
    let changes: usize = changers.into_iter().map(|changer| changer.wait(LIMIT)).sum();
    assert!(changes > 100, "only {changes} changes during the listings");
    let counts = list(&dir);
    assert_eq!(counts.len(), ENTRIES, "what was made meanwhile is removed");
    assert!(counts.values().all(|count| *count == 1));
}

fn stable_name(number: usize) -> String {
    format!("entry-{number:06}")
}

/// Makes, renames and removes entries among the others until told to end; leaves none. How many steps it did.
fn change(dir: &Path, changer: usize, over: &AtomicBool) -> usize {
    let mut steps = 0;
    while !over.load(Ordering::Relaxed) {
        let at = |name: &str| dir.join(format!("{name}-{changer}-{steps}"));
        File::create_new(at("aaa")).unwrap();
        fs::rename(at("aaa"), at("zzz")).unwrap();
        fs::create_dir(at("entry")).unwrap();
        fs::remove_file(at("zzz")).unwrap();
        fs::remove_dir(at("entry")).unwrap();
        steps += 1;
    }
    steps
}

fn list(dir: &Path) -> BTreeMap<OsString, usize> {
    let mut counts = BTreeMap::new();
    for entry in fs::read_dir(dir).unwrap() {
        *counts.entry(entry.unwrap().file_name()).or_default() += 1;
    }
    counts
}
