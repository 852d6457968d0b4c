//! Kinds of inodes, hard and symbolic links, counts of links.

use crate::sys::{errno, nix_errno};
use dfs_testkit::process::{User, as_user};
use nix::libc::{EEXIST, ELOOP, EPERM, EXDEV, S_IFMT};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

crate::checks![
    every_kind_can_be_made_and_is_listed_as_such,
    devices_are_made_by_root_only,
    fifo_carries_bytes,
    socket_can_be_bound_and_reached,
    device_leads_to_its_driver,
    hard_links_are_one_file,
    hard_link_limits,
    symbolic_links_keep_their_target,
    symbolic_link_loops_end,
    directories_count_their_subdirectories,
    inode_number_stays_through_rename_and_change,
];

const MODE: Mode = Mode::S_IRWXU;

fn every_kind_can_be_made_and_is_listed_as_such(dir: &Path) {
    let device = makedev(7, 300);
    let kinds = [
        ("file", SFlag::S_IFREG, 0),
        ("fifo", SFlag::S_IFIFO, 0),
        ("socket", SFlag::S_IFSOCK, 0),
        ("character", SFlag::S_IFCHR, device),
        ("block", SFlag::S_IFBLK, device),
    ];
    for (name, kind, device) in kinds {
        mknod(&dir.join(name), kind, MODE, device).unwrap_or_else(|error| panic!("{name}: {error}"));
        let meta = fs::symlink_metadata(dir.join(name)).unwrap();
        assert_eq!(meta.mode() & S_IFMT, kind.bits(), "{name}");
        assert_eq!(meta.rdev(), device, "{name}");
        assert_eq!(
            (meta.mode() & 0o7777, meta.nlink(), meta.size()),
            (0o700, 1, 0),
            "{name}"
        );
        assert_eq!(nix_errno(mknod(&dir.join(name), kind, MODE, device)), EEXIST);
    }
    fs::create_dir(dir.join("directory")).unwrap();
    symlink("target", dir.join("link")).unwrap();
    for entry in fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let (listed, seen) = (entry.file_type().unwrap(), entry.metadata().unwrap());
        assert_eq!(listed, seen.file_type(), "{:?}", entry.file_name());
        assert_eq!(std::os::unix::fs::DirEntryExt::ino(&entry), seen.ino());
    }
    assert!(
        fs::symlink_metadata(dir.join("block"))
            .unwrap()
            .file_type()
            .is_block_device()
    );
}

fn devices_are_made_by_root_only(dir: &Path) {
    as_user(User::plain(1001), || {
        for kind in [SFlag::S_IFCHR, SFlag::S_IFBLK] {
            assert_eq!(
                nix_errno(mknod(&dir.join("device"), kind, MODE, makedev(1, 3))),
                EPERM
            );
        }
        mknod(&dir.join("fifo"), SFlag::S_IFIFO, MODE, 0).unwrap();
    });
}

fn fifo_carries_bytes(dir: &Path) {
    let path = dir.join("fifo");
    mknod(&path, SFlag::S_IFIFO, MODE, 0).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .write_all(b"through")
                .unwrap()
        });
        let mut found = String::new();
        File::open(&path).unwrap().read_to_string(&mut found).unwrap();
        assert_eq!(found, "through");
    });
}

fn socket_can_be_bound_and_reached(dir: &Path) {
    // A socket's address is short; a directory's name need not be.
    let (short, _open) = {
        use std::os::fd::AsRawFd;
        let open = File::open(dir).unwrap();
        (format!("/proc/self/fd/{}/socket", open.as_raw_fd()), open)
    };
    let listener = UnixListener::bind(&short).unwrap();
    assert!(
        fs::symlink_metadata(dir.join("socket"))
            .unwrap()
            .file_type()
            .is_socket()
    );
    UnixStream::connect(&short).unwrap().write_all(b"hello").unwrap();
    let mut found = String::new();
    listener.accept().unwrap().0.read_to_string(&mut found).unwrap();
    assert_eq!(found, "hello");
}

fn device_leads_to_its_driver(dir: &Path) {
    let path = dir.join("zero");
    mknod(&path, SFlag::S_IFCHR, MODE, makedev(1, 5)).unwrap();
    let mut found = [1; 100];
    match File::open(&path) {
        Ok(mut file) => {
            file.read_exact(&mut found).unwrap();
            assert_eq!(found, [0; 100]);
        }
        // Mounted with nodev, which is the default of some machines.
        Err(error) => assert_eq!(error.raw_os_error(), Some(nix::libc::EACCES)),
    }
}

fn hard_links_are_one_file(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir(at("sub")).unwrap();
    fs::write(at("one"), "content").unwrap();
    fs::hard_link(at("one"), at("sub/two")).unwrap();
    fs::hard_link(at("sub/two"), at("three")).unwrap();
    let meta = |name: &str| fs::metadata(at(name)).unwrap();
    for name in ["one", "sub/two", "three"] {
        assert_eq!(
            (meta(name).nlink(), meta(name).ino()),
            (3, meta("one").ino()),
            "{name}"
        );
    }
    File::options()
        .append(true)
        .open(at("three"))
        .unwrap()
        .write_all(b" changed")
        .unwrap();
    assert_eq!(fs::read(at("one")).unwrap(), b"content changed");
    fs::remove_file(at("one")).unwrap();
    assert_eq!(meta("three").nlink(), 2);
    fs::write(at("new"), "new").unwrap();
    fs::rename(at("new"), at("three")).unwrap();
    assert_eq!(meta("sub/two").nlink(), 1);
    assert_eq!(fs::read(at("sub/two")).unwrap(), b"content changed");
}

fn hard_link_limits(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir(at("directory")).unwrap();
    fs::write(at("file"), "").unwrap();
    symlink("file", at("link")).unwrap();
    assert_eq!(errno(fs::hard_link(at("directory"), at("another"))), EPERM);
    assert_eq!(errno(fs::hard_link(at("file"), at("link"))), EEXIST);
    assert_eq!(errno(fs::hard_link("/proc/self/status", at("foreign"))), EXDEV);
    fs::hard_link(at("link"), at("link too")).unwrap();
    assert!(
        fs::symlink_metadata(at("link too")).unwrap().is_symlink(),
        "a link to the link, not to its target"
    );
}

fn symbolic_links_keep_their_target(dir: &Path) {
    for target in [
        "a",
        "/absolute/path",
        "../up/./and//down",
        "ünï",
        &"x".repeat(4095),
    ] {
        let path = dir.join(format!("link-{}", target.len()));
        symlink(target, &path).unwrap();
        assert_eq!(fs::read_link(&path).unwrap(), Path::new(target));
        let meta = fs::symlink_metadata(&path).unwrap();
        assert_eq!((meta.size(), meta.mode() & 0o777), (target.len() as u64, 0o777));
    }
    fs::create_dir(dir.join("real")).unwrap();
    fs::write(dir.join("real/file"), "content").unwrap();
    symlink("real", dir.join("way")).unwrap();
    assert_eq!(fs::read(dir.join("way/file")).unwrap(), b"content");
    fs::remove_file(dir.join("way")).unwrap();
    assert!(dir.join("real/file").exists());
}

fn symbolic_link_loops_end(dir: &Path) {
    symlink("two", dir.join("one")).unwrap();
    symlink("one", dir.join("two")).unwrap();
    assert_eq!(errno(File::open(dir.join("one"))), ELOOP);
}

fn directories_count_their_subdirectories(dir: &Path) {
    let links = || fs::metadata(dir).unwrap().nlink();
    assert_eq!(links(), 2);
    fs::create_dir(dir.join("one")).unwrap();
    fs::create_dir(dir.join("two")).unwrap();
    fs::write(dir.join("file"), "").unwrap();
    assert_eq!(links(), 4);
    fs::remove_dir(dir.join("one")).unwrap();
    assert_eq!(links(), 3);
}

fn inode_number_stays_through_rename_and_change(dir: &Path) {
    let ino = |name: &str| fs::metadata(dir.join(name)).unwrap().ino();
    fs::write(dir.join("file"), "").unwrap();
    let number = ino("file");
    fs::write(dir.join("file"), "more").unwrap();
    fs::rename(dir.join("file"), dir.join("renamed")).unwrap();
    assert_eq!(ino("renamed"), number);
    fs::write(dir.join("file"), "").unwrap();
    assert_ne!(ino("file"), number);
}
