//! Time stamps: to the nanosecond, who may set them, and which call moves which.

use crate::sys::nix_errno;
use dfs_testkit::process::{User, as_user};
use nix::fcntl::AT_FDCWD;
use nix::libc::{EACCES, EPERM};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

crate::checks![
    times_are_kept_to_the_nanosecond,
    one_time_can_be_left_or_set_to_now,
    link_has_times_of_its_own,
    setting_times_needs_ownership_now_needs_write_permission,
    each_change_moves_its_times,
    changes_of_names_move_the_directory,
    reading_moves_no_change_time,
    clock_is_that_of_this_machine,
];

fn set(path: &Path, atime: TimeSpec, mtime: TimeSpec) -> nix::Result<()> {
    utimensat(AT_FDCWD, path, &atime, &mtime, UtimensatFlags::NoFollowSymlink)
}

fn times(path: &Path) -> ((i64, i64), (i64, i64), (i64, i64)) {
    let meta = fs::symlink_metadata(path).unwrap();
    (
        (meta.atime(), meta.atime_nsec()),
        (meta.mtime(), meta.mtime_nsec()),
        (meta.ctime(), meta.ctime_nsec()),
    )
}

fn times_are_kept_to_the_nanosecond(dir: &Path) {
    fs::write(dir.join("file"), "").unwrap();
    fs::create_dir(dir.join("directory")).unwrap();
    for name in ["file", "directory"] {
        // Before 1970, at its beginning, near the end of 32 bits and after it.
        for (seconds, nanoseconds) in [
            (-1, 1),
            (0, 0),
            (1, 999_999_999),
            (2_147_483_647, 5),
            (4_000_000_000, 123_456_789),
        ] {
            let time = TimeSpec::new(seconds, nanoseconds);
            set(&dir.join(name), TimeSpec::new(seconds + 1, 7), time).unwrap();
            let (atime, mtime, _) = times(&dir.join(name));
            assert_eq!(
                (atime, mtime),
                ((seconds + 1, 7), (seconds, nanoseconds)),
                "{name}"
            );
        }
    }
}

fn one_time_can_be_left_or_set_to_now(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, "").unwrap();
    let (one, two) = (TimeSpec::new(1_000, 1), TimeSpec::new(2_000, 2));
    set(&path, one, two).unwrap();
    set(&path, TimeSpec::UTIME_OMIT, one).unwrap();
    assert_eq!(times(&path).0, (1_000, 1));
    assert_eq!(times(&path).1, (1_000, 1));
    set(&path, two, TimeSpec::UTIME_NOW).unwrap();
    assert_eq!(times(&path).0, (2_000, 2));
    assert!(times(&path).1.0 > 1_000_000_000);
    let before = times(&path);
    set(&path, TimeSpec::UTIME_OMIT, TimeSpec::UTIME_OMIT).unwrap();
    assert_eq!(times(&path), before, "nothing to set changes nothing");
}

fn link_has_times_of_its_own(dir: &Path) {
    fs::write(dir.join("file"), "").unwrap();
    symlink("file", dir.join("link")).unwrap();
    let before = times(&dir.join("file"));
    set(&dir.join("link"), TimeSpec::new(5, 5), TimeSpec::new(6, 6)).unwrap();
    assert_eq!(
        (times(&dir.join("link")).1, times(&dir.join("file"))),
        ((6, 6), before)
    );
}

fn setting_times_needs_ownership_now_needs_write_permission(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, "").unwrap();
    chown(&path, Some(1001), None).unwrap();
    let (now, then) = (TimeSpec::UTIME_NOW, TimeSpec::new(1, 1));
    let as_other = |time| as_user(User::plain(1003), || set(&path, time, time));
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(nix_errno(as_other(then)), EPERM);
    assert_eq!(nix_errno(as_other(now)), EACCES);
    fs::set_permissions(&path, Permissions::from_mode(0o666)).unwrap();
    assert_eq!(nix_errno(as_other(then)), EPERM);
    as_other(now).unwrap();
    as_user(User::plain(1001), || set(&path, then, then)).unwrap();
    assert_eq!(times(&path).1, (1, 1));
}

/// Waits until the clock of the time stamps has moved on.
fn tick(dir: &Path) {
    let path = dir.join(".tick");
    fs::write(&path, "").unwrap();
    let before = times(&path).2;
    dfs_testkit::process::until("a later time stamp", Duration::from_secs(10), || {
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        (times(&path).2 > before).then_some(())
    });
    fs::remove_file(path).unwrap();
}

fn each_change_moves_its_times(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, "content").unwrap();
    type Change<'a> = (&'a str, bool, &'a dyn Fn());
    let changes: [Change; 8] = [
        ("write", true, &|| {
            File::options()
                .append(true)
                .open(&path)
                .unwrap()
                .write_all(b"x")
                .unwrap()
        }),
        ("truncate", true, &|| nix::unistd::truncate(&path, 3).unwrap()),
        ("open with truncation", true, &|| {
            drop(File::create(&path).unwrap())
        }),
        ("chmod", false, &|| {
            fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap()
        }),
        ("chown", false, &|| chown(&path, Some(1001), None).unwrap()),
        ("link", false, &|| fs::hard_link(&path, dir.join("link")).unwrap()),
        ("unlink of a link", false, &|| {
            fs::remove_file(dir.join("link")).unwrap()
        }),
        ("setxattr", false, &|| {
            crate::sys::set_xattr(&path, b"user.name", b"value", 0).unwrap()
        }),
    ];
    for (name, content, change) in changes {
        let before = times(&path);
        tick(dir);
        change();
        let after = times(&path);
        assert!(after.2 > before.2, "{name} moves the change time");
        assert_eq!(after.1 > before.1, content, "{name} and the modification time");
    }
}

fn changes_of_names_move_the_directory(dir: &Path) {
    let at = |name: &str| dir.join(name);
    fs::create_dir(at("sub")).unwrap();
    let sub = at("sub");
    let changes: [(&str, &dyn Fn()); 7] = [
        ("create", &|| fs::write(at("sub/file"), "").unwrap()),
        ("mkdir", &|| fs::create_dir(at("sub/directory")).unwrap()),
        ("link", &|| fs::hard_link(at("sub/file"), at("sub/link")).unwrap()),
        ("rename within", &|| {
            fs::rename(at("sub/link"), at("sub/renamed")).unwrap()
        }),
        ("rename away", &|| {
            fs::rename(at("sub/renamed"), at("gone")).unwrap()
        }),
        ("unlink", &|| fs::remove_file(at("sub/file")).unwrap()),
        ("rmdir", &|| fs::remove_dir(at("sub/directory")).unwrap()),
    ];
    for (name, change) in changes {
        let before = times(&sub);
        tick(dir);
        change();
        let after = times(&sub);
        assert!(
            after.1 > before.1 && after.2 > before.2,
            "{name} moves the directory's times"
        );
    }
    let before = times(&sub);
    tick(dir);
    fs::set_permissions(&sub, Permissions::from_mode(0o700)).unwrap();
    assert_eq!(times(&sub).1, before.1, "chmod does not");
}

fn reading_moves_no_change_time(dir: &Path) {
    let path = dir.join("file");
    fs::write(&path, vec![1; 100_000]).unwrap();
    let before = times(&path);
    tick(dir);
    File::open(&path).unwrap().read_to_end(&mut Vec::new()).unwrap();
    fs::metadata(&path).unwrap();
    fs::read_dir(dir).unwrap().for_each(drop);
    let after = times(&path);
    assert_eq!((before.1, before.2), (after.1, after.2));
}

fn clock_is_that_of_this_machine(dir: &Path) {
    // The kernel's own time stamps lag by one tick of its clock.
    let slack = Duration::from_millis(50);
    let before = SystemTime::now() - slack;
    fs::write(dir.join("file"), "content").unwrap();
    let after = SystemTime::now() + slack;
    let meta = fs::metadata(dir.join("file")).unwrap();
    let mtime = meta.modified().unwrap();
    assert!(
        (before..=after).contains(&mtime),
        "{before:?} {mtime:?} {after:?}"
    );
    assert!(meta.ctime() >= meta.mtime() - 1);
}
