//! Mode bits for owner, group and others; directories; the sticky bit; what root may.

use crate::sys::errno;
use dfs_testkit::process::{User, as_user};
use nix::libc::{EACCES, EPERM};
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

crate::checks![
    owner_group_and_others_have_their_own_bits,
    owner_without_bits_is_refused_although_others_have_them,
    directory_bits_mean_list_change_and_pass,
    every_directory_on_the_way_must_be_passable,
    sticky_directory_protects_names_of_others,
    root_may_do_everything,
    open_file_stays_usable_after_chmod,
    program_needs_an_execute_bit,
    truncate_by_path_needs_write_permission,
];

const OWNER: User = User::plain(1001);
const OTHER: User = User::plain(1003);
const MEMBER: User = User {
    uid: 1002,
    gid: 1002,
    groups: &[9, 2001, 3001],
};

fn file(dir: &Path, name: &str, mode: u32) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, "content").unwrap();
    chown(&path, Some(OWNER.uid), Some(2001)).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
    path
}

fn may(user: User<'_>, path: &Path) -> (bool, bool) {
    as_user(user, || {
        let denied = |result: std::io::Result<File>| match result {
            Ok(_) => true,
            Err(error) if error.raw_os_error() == Some(EACCES) => false,
            Err(error) => panic!("{error}"),
        };
        (
            denied(File::open(path)),
            denied(File::options().write(true).open(path)),
        )
    })
}

fn owner_group_and_others_have_their_own_bits(dir: &Path) {
    let path = file(dir, "file", 0o640);
    assert_eq!(may(OWNER, &path), (true, true));
    assert_eq!(may(MEMBER, &path), (true, false), "a supplementary group counts");
    assert_eq!(
        may(
            User {
                uid: 1004,
                gid: 2001,
                groups: &[]
            },
            &path
        ),
        (true, false)
    );
    assert_eq!(may(OTHER, &path), (false, false));
    fs::set_permissions(&path, Permissions::from_mode(0o602)).unwrap();
    assert_eq!(may(OTHER, &path), (false, true));
    assert_eq!(may(MEMBER, &path), (false, false), "members are not others");
}

fn owner_without_bits_is_refused_although_others_have_them(dir: &Path) {
    assert_eq!(may(OWNER, &file(dir, "file", 0o066)), (false, false));
}

fn directory_bits_mean_list_change_and_pass(dir: &Path) {
    let sub = dir.join("sub");
    fs::create_dir(&sub).unwrap();
    fs::write(sub.join("file"), "content").unwrap();
    let mode = |mode| fs::set_permissions(&sub, Permissions::from_mode(mode)).unwrap();
    let list = || as_user(OTHER, || fs::read_dir(&sub).map(|entries| entries.count()));
    let stat = || as_user(OTHER, || fs::metadata(sub.join("file")).map(|meta| meta.len()));
    let create = || as_user(OTHER, || fs::write(sub.join("new"), ""));
    mode(0o704);
    assert_eq!(list().unwrap(), 1);
    assert_eq!(errno(stat()), EACCES);
    assert_eq!(errno(create()), EACCES);
    mode(0o701);
    assert_eq!(errno(list()), EACCES);
    assert_eq!(stat().unwrap(), 7);
    assert_eq!(errno(create()), EACCES);
    assert_eq!(
        errno(as_user(OTHER, || fs::remove_file(sub.join("file")))),
        EACCES
    );
    assert_eq!(
        errno(as_user(OTHER, || fs::rename(sub.join("file"), dir.join("file")))),
        EACCES
    );
    mode(0o703);
    create().unwrap();
    as_user(OTHER, || fs::remove_file(sub.join("file"))).unwrap();
}

fn every_directory_on_the_way_must_be_passable(dir: &Path) {
    let deep = dir.join("a/b/c");
    fs::create_dir_all(&deep).unwrap();
    fs::write(deep.join("file"), "content").unwrap();
    let read = || as_user(OTHER, || fs::read(deep.join("file")));
    fs::set_permissions(dir.join("a"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(read().unwrap(), b"content");
    fs::set_permissions(dir.join("a"), Permissions::from_mode(0o700)).unwrap();
    assert_eq!(errno(read()), EACCES);
    fs::set_permissions(dir.join("a"), Permissions::from_mode(0o755)).unwrap();
    assert_eq!(read().unwrap(), b"content");
}

fn sticky_directory_protects_names_of_others(dir: &Path) {
    let sub = dir.join("sub");
    fs::create_dir(&sub).unwrap();
    fs::set_permissions(&sub, Permissions::from_mode(0o1777)).unwrap();
    as_user(OWNER, || fs::write(sub.join("file"), "content").unwrap());
    as_user(OWNER, || fs::create_dir(sub.join("directory")).unwrap());
    as_user(OTHER, || {
        assert_eq!(errno(fs::remove_file(sub.join("file"))), EPERM);
        assert_eq!(errno(fs::remove_dir(sub.join("directory"))), EPERM);
        assert_eq!(errno(fs::rename(sub.join("file"), sub.join("taken"))), EPERM);
        fs::write(sub.join("mine"), "").unwrap();
        assert_eq!(
            errno(fs::rename(sub.join("mine"), sub.join("file"))),
            EPERM,
            "replacing is removing"
        );
        fs::rename(sub.join("mine"), sub.join("still mine")).unwrap();
    });
    as_user(OWNER, || {
        fs::rename(sub.join("file"), sub.join("renamed")).unwrap()
    });
    as_user(OWNER, || fs::remove_file(sub.join("renamed")).unwrap());
    chown(&sub, Some(OTHER.uid), None).unwrap();
    as_user(OTHER, || {
        fs::remove_dir(sub.join("directory")).expect("the directory's owner may")
    });
}

fn root_may_do_everything(dir: &Path) {
    let path = file(dir, "file", 0o000);
    assert_eq!(fs::read(&path).unwrap(), b"content");
    fs::write(&path, "root").unwrap();
    let sub = dir.join("sub");
    as_user(OWNER, || fs::create_dir(&sub).unwrap());
    fs::set_permissions(&sub, Permissions::from_mode(0o000)).unwrap();
    fs::write(sub.join("file"), "root").unwrap();
    assert_eq!(fs::read_dir(&sub).unwrap().count(), 1);
    assert_eq!(
        errno(std::process::Command::new(&path).spawn().map(drop)),
        EACCES,
        "but not run what nobody may"
    );
}

fn open_file_stays_usable_after_chmod(dir: &Path) {
    let path = file(dir, "file", 0o600);
    as_user(OWNER, || {
        use std::os::unix::fs::FileExt;
        let open = File::options().read(true).write(true).open(&path).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o000)).unwrap();
        open.write_all_at(b"C", 0).unwrap();
        open.set_len(3).unwrap();
        open.sync_all().unwrap();
        let mut found = [0; 3];
        open.read_exact_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"Con");
        assert_eq!(errno(File::open(&path)), EACCES);
    });
}

fn program_needs_an_execute_bit(dir: &Path) {
    let path = dir.join("program");
    fs::copy("/bin/true", &path).unwrap();
    let start = |user| as_user(user, || std::process::Command::new(&path).status());
    fs::set_permissions(&path, Permissions::from_mode(0o754)).unwrap();
    assert!(start(User::plain(0)).unwrap().success());
    assert_eq!(errno(start(OTHER)), EACCES);
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    assert!(start(OTHER).unwrap().success());
    let script = dir.join("script");
    fs::write(&script, "#!/bin/sh\nexit 7\n").unwrap();
    fs::set_permissions(&script, Permissions::from_mode(0o755)).unwrap();
    let status = as_user(OTHER, || std::process::Command::new(&script).status());
    assert_eq!(status.unwrap().code(), Some(7));
}

fn truncate_by_path_needs_write_permission(dir: &Path) {
    let path = file(dir, "file", 0o644);
    let truncate = |user| {
        as_user(user, || {
            nix::unistd::truncate(&path, 2).map_err(std::io::Error::from)
        })
    };
    assert_eq!(errno(truncate(OTHER)), EACCES);
    assert_eq!(fs::read(&path).unwrap(), b"content");
    truncate(OWNER).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"co");
}
