//! rename: what may replace what, its flags, and what observers see meanwhile.

use crate::sys::{errno, nix_errno};
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::libc::{EEXIST, EINVAL, EISDIR, ENOENT, ENOTDIR, ENOTEMPTY};
use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

crate::checks![
    plain_rename_replaces_files,
    noreplace_refuses_what_exists,
    exchange_swaps_any_two,
    directories_replace_empty_directories_only,
    directory_does_not_go_below_itself,
    two_links_of_one_file_stay,
    moved_directory_has_another_parent,
    readers_see_the_old_or_the_new_file,
    open_directory_follows_its_move,
];

fn with_flags(from: &Path, to: &Path, flags: RenameFlags) -> nix::Result<()> {
    renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)
}

fn plain_rename_replaces_files(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::write(at("one"), "one").unwrap();
    fs::write(at("two"), "two").unwrap();
    symlink("one", at("link")).unwrap();
    let ino = fs::metadata(at("one")).unwrap().ino();
    fs::rename(at("one"), at("two")).unwrap();
    assert!(!at("one").exists());
    assert_eq!(fs::read(at("two")).unwrap(), b"one");
    assert_eq!(fs::metadata(at("two")).unwrap().ino(), ino);
    fs::rename(at("link"), at("two")).unwrap();
    assert_eq!(
        fs::read_link(at("two")).unwrap(),
        Path::new("one"),
        "the link itself moves"
    );
    assert_eq!(errno(fs::rename(at("missing"), at("two"))), ENOENT);
    fs::rename(at("two"), at("two")).unwrap();
    assert_eq!(fs::read_dir(dir).unwrap().count(), 1);
}

fn noreplace_refuses_what_exists(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::write(at("file"), "file").unwrap();
    fs::write(at("other"), "other").unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    for name in ["other", "dangling", "directory", "file"] {
        let result = with_flags(&at("file"), &at(name), RenameFlags::RENAME_NOREPLACE);
        assert_eq!(nix_errno(result), EEXIST, "{name}");
    }
    assert_eq!(fs::read(at("other")).unwrap(), b"other");
    with_flags(&at("file"), &at("free"), RenameFlags::RENAME_NOREPLACE).unwrap();
    assert_eq!(fs::read(at("free")).unwrap(), b"file");
}

fn exchange_swaps_any_two(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::write(at("file"), "file").unwrap();
    fs::create_dir_all(at("directory/sub")).unwrap();
    fs::create_dir(at("elsewhere")).unwrap();
    fs::write(at("elsewhere/other"), "other").unwrap();
    let swap = |one: &str, two: &str| with_flags(&at(one), &at(two), RenameFlags::RENAME_EXCHANGE);
    swap("file", "elsewhere/other").unwrap();
    assert_eq!(fs::read(at("file")).unwrap(), b"other");
    assert_eq!(fs::read(at("elsewhere/other")).unwrap(), b"file");
    swap("directory", "elsewhere/other").unwrap();
    assert_eq!(fs::read(at("directory")).unwrap(), b"file");
    assert!(at("elsewhere/other/sub").is_dir());
    // Counts of links follow the directories.
    assert_eq!(fs::metadata(dir).unwrap().nlink(), 3);
    assert_eq!(fs::metadata(at("elsewhere")).unwrap().nlink(), 3);
    assert_eq!(nix_errno(swap("file", "missing")), ENOENT);
    assert_eq!(nix_errno(swap("elsewhere", "elsewhere/other/sub")), EINVAL);
}

fn directories_replace_empty_directories_only(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir_all(at("from/sub")).unwrap();
    fs::create_dir_all(at("full/sub")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("file"), "").unwrap();
    let full = errno(fs::rename(at("from"), at("full")));
    assert!(full == ENOTEMPTY || full == EEXIST, "{full}");
    assert_eq!(errno(fs::rename(at("from"), at("file"))), ENOTDIR);
    assert_eq!(errno(fs::rename(at("file"), at("empty"))), EISDIR);
    let before = fs::metadata(dir).unwrap().nlink();
    fs::rename(at("from"), at("empty")).unwrap();
    assert!(at("empty/sub").is_dir() && !at("from").exists());
    assert_eq!(fs::metadata(dir).unwrap().nlink(), before - 1);
}

fn directory_does_not_go_below_itself(dir: &Path) {
    fs::create_dir_all(dir.join("a/b/c")).unwrap();
    assert_eq!(errno(fs::rename(dir.join("a"), dir.join("a/b/c/d"))), EINVAL);
    assert_eq!(errno(fs::rename(dir.join("a"), dir.join("a/d"))), EINVAL);
    let above = errno(fs::rename(dir.join("a/b/c"), dir.join("a")));
    assert!(above == ENOTEMPTY || above == EEXIST, "{above}");
    // Two moves at one time that would make a ring: at most one is done.
    fs::create_dir_all(dir.join("x")).unwrap();
    fs::create_dir_all(dir.join("y")).unwrap();
    for _ in 0..20 {
        let (one, two) = std::thread::scope(|scope| {
            let one = scope.spawn(|| fs::rename(dir.join("x"), dir.join("y/x")).is_ok());
            let two = scope.spawn(|| fs::rename(dir.join("y"), dir.join("x/y")).is_ok());
            (one.join().unwrap(), two.join().unwrap())
        });
        assert!(one != two, "exactly one of two opposite moves");
        if one {
            fs::rename(dir.join("y/x"), dir.join("x")).unwrap();
        } else {
            fs::rename(dir.join("x/y"), dir.join("y")).unwrap();
        }
    }
}

fn two_links_of_one_file_stay(dir: &Path) {
    fs::write(dir.join("one"), "content").unwrap();
    fs::hard_link(dir.join("one"), dir.join("two")).unwrap();
    fs::rename(dir.join("one"), dir.join("two")).expect("it does nothing, with success");
    assert!(dir.join("one").exists() && dir.join("two").exists());
    assert_eq!(fs::metadata(dir.join("one")).unwrap().nlink(), 2);
}

fn moved_directory_has_another_parent(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir_all(at("from/moved")).unwrap();
    fs::create_dir(at("to")).unwrap();
    fs::rename(at("from/moved"), at("to/moved")).unwrap();
    let ino = |name: &str| fs::metadata(at(name)).unwrap().ino();
    assert_eq!(ino("to/moved/.."), ino("to"));
    assert_eq!(fs::metadata(at("from")).unwrap().nlink(), 2);
    assert_eq!(fs::metadata(at("to")).unwrap().nlink(), 3);
}

fn readers_see_the_old_or_the_new_file(dir: &Path) {
    let path = dir.join("file");
    let version = |number: u8| vec![number; 3_000 + usize::from(number) * 100];
    fs::write(&path, version(0)).unwrap();
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let (mut last, mut reads) = (0, 0);
            while !over.load(Ordering::Relaxed) {
                let found = fs::read(&path).expect("the name is always there");
                assert_eq!(found, version(found[0]), "one version, whole");
                assert!(found[0] >= last, "never back to an older one");
                last = found[0];
                reads += 1;
            }
            reads
        });
        for number in 1..=200 {
            let new = dir.join(format!("new-{number}"));
            fs::write(&new, version(number)).unwrap();
            fs::rename(new, &path).unwrap();
        }
        over.store(true, Ordering::Relaxed);
        assert!(reader.join().unwrap() > 0);
    });
}

fn open_directory_follows_its_move(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir_all(at("a/b")).unwrap();
    let open = File::open(at("a/b")).unwrap();
    fs::rename(at("a"), at("z")).unwrap();
    let mode = nix::sys::stat::Mode::S_IRWXU;
    nix::sys::stat::mkdirat(&open, "made", mode).unwrap();
    assert!(at("z/b/made").is_dir());
}
