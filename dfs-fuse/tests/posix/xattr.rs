//! Extended attributes.

use crate::sys::{errno, get_xattr, get_xattr_into, list_xattr, remove_xattr, set_xattr};
use dfs_testkit::process::{User, as_user};
use nix::libc::{
    E2BIG, EACCES, EEXIST, ENODATA, ENOSPC, EOPNOTSUPP, EPERM, ERANGE, XATTR_CREATE, XATTR_REPLACE,
};
use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

crate::checks![
    values_are_kept_listed_and_removed,
    flags_say_whether_it_must_exist,
    sizes_are_asked_for_and_checked,
    any_bytes_make_a_value,
    large_values,
    attributes_belong_to_the_inode,
    user_attributes_need_permission,
    trusted_attributes_are_roots,
    user_attributes_are_for_files_and_directories,
    capability_goes_with_a_write_by_anybody,
];

fn file(dir: &Path) -> std::path::PathBuf {
    let path = dir.join("file");
    fs::write(&path, "content").unwrap();
    path
}

fn values_are_kept_listed_and_removed(dir: &Path) {
    for path in [file(dir), dir.to_owned()] {
        assert_eq!(list_xattr(&path).unwrap(), Vec::<Vec<u8>>::new());
        assert_eq!(errno(get_xattr(&path, b"user.one")), ENODATA);
        set_xattr(&path, b"user.one", b"1", 0).unwrap();
        set_xattr(&path, b"user.two", b"second", 0).unwrap();
        set_xattr(&path, b"user.one", b"first", 0).unwrap();
        assert_eq!(get_xattr(&path, b"user.one").unwrap(), b"first");
        assert_eq!(get_xattr(&path, b"user.two").unwrap(), b"second");
        assert_eq!(list_xattr(&path).unwrap(), [b"user.one", b"user.two"]);
        remove_xattr(&path, b"user.one").unwrap();
        assert_eq!(errno(remove_xattr(&path, b"user.one")), ENODATA);
        assert_eq!(list_xattr(&path).unwrap(), [b"user.two"]);
    }
}

fn flags_say_whether_it_must_exist(dir: &Path) {
    let path = file(dir);
    assert_eq!(
        errno(set_xattr(&path, b"user.name", b"value", XATTR_REPLACE)),
        ENODATA
    );
    set_xattr(&path, b"user.name", b"value", XATTR_CREATE).unwrap();
    assert_eq!(
        errno(set_xattr(&path, b"user.name", b"other", XATTR_CREATE)),
        EEXIST
    );
    assert_eq!(get_xattr(&path, b"user.name").unwrap(), b"value");
    set_xattr(&path, b"user.name", b"other", XATTR_REPLACE).unwrap();
    assert_eq!(get_xattr(&path, b"user.name").unwrap(), b"other");
}

fn sizes_are_asked_for_and_checked(dir: &Path) {
    let path = file(dir);
    set_xattr(&path, b"user.name", b"0123456789", 0).unwrap();
    assert_eq!(get_xattr_into(&path, b"user.name", 0).unwrap().0, 10);
    assert_eq!(get_xattr_into(&path, b"user.name", 10).unwrap().1, b"0123456789");
    assert_eq!(errno(get_xattr_into(&path, b"user.name", 9)), ERANGE);
    assert_eq!(
        errno(set_xattr(
            &path,
            &[b"user.".as_slice(), &[b'n'; 251]].concat(),
            b"",
            0
        )),
        ERANGE
    );
}

fn any_bytes_make_a_value(dir: &Path) {
    let path = file(dir);
    let every: Vec<u8> = (0..=255).collect();
    for (name, value) in [
        (&b"user.\xff\xfe"[..], &every[..]),
        (b"user.empty", b""),
        (b"user. \n*", b"\0\0"),
    ] {
        set_xattr(&path, name, value, 0).unwrap();
        assert_eq!(get_xattr(&path, name).unwrap(), value);
    }
    set_xattr(
        &path,
        &[b"user.".as_slice(), &[b'n'; 250]].concat(),
        b"the longest name",
        0,
    )
    .unwrap();
    assert_eq!(list_xattr(&path).unwrap().len(), 4);
}

fn large_values(dir: &Path) {
    let path = file(dir);
    let largest = vec![0x5a; 65_536];
    match set_xattr(&path, b"user.large", &largest, 0) {
        Ok(()) => {
            assert_eq!(get_xattr(&path, b"user.large").unwrap(), largest);
            set_xattr(&path, b"user.large", b"small", XATTR_REPLACE).unwrap();
            assert_eq!(get_xattr(&path, b"user.large").unwrap(), b"small");
        }
        // Local file systems keep them within one block.
        Err(error) => assert_eq!(
            (error.raw_os_error(), crate::xattr::is_fuse(dir)),
            (Some(ENOSPC), false)
        ),
    }
    assert_eq!(
        errno(set_xattr(&path, b"user.larger", &vec![1; 65_537], 0)),
        E2BIG
    );
}

fn is_fuse(dir: &Path) -> bool {
    nix::sys::statfs::statfs(dir).unwrap().filesystem_type() == nix::sys::statfs::FUSE_SUPER_MAGIC
}

fn attributes_belong_to_the_inode(dir: &Path) {
    let path = file(dir);
    set_xattr(&path, b"user.name", b"value", 0).unwrap();
    fs::hard_link(&path, dir.join("link")).unwrap();
    fs::rename(&path, dir.join("renamed")).unwrap();
    set_xattr(&dir.join("link"), b"user.more", b"value", 0).unwrap();
    assert_eq!(
        list_xattr(&dir.join("renamed")).unwrap(),
        [b"user.more", b"user.name"]
    );
    fs::write(&path, "another file").unwrap();
    assert_eq!(list_xattr(&path).unwrap().len(), 0);
}

fn user_attributes_need_permission(dir: &Path) {
    let path = file(dir);
    set_xattr(&path, b"user.name", b"value", 0).unwrap();
    let other = User::plain(1003);
    fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        as_user(other, || get_xattr(&path, b"user.name")).unwrap(),
        b"value"
    );
    assert_eq!(
        errno(as_user(other, || set_xattr(&path, b"user.name", b"changed", 0))),
        EACCES
    );
    assert_eq!(
        errno(as_user(other, || remove_xattr(&path, b"user.name"))),
        EACCES
    );
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    assert_eq!(errno(as_user(other, || get_xattr(&path, b"user.name"))), EACCES);
}

fn trusted_attributes_are_roots(dir: &Path) {
    let path = file(dir);
    set_xattr(&path, b"trusted.name", b"value", 0).unwrap();
    assert_eq!(get_xattr(&path, b"trusted.name").unwrap(), b"value");
    as_user(User::plain(1003), || {
        assert_eq!(errno(get_xattr(&path, b"trusted.name")), ENODATA);
        assert_eq!(errno(set_xattr(&path, b"trusted.name", b"changed", 0)), EPERM);
        assert_eq!(list_xattr(&path).unwrap().len(), 0, "nor are they listed");
    });
}

fn user_attributes_are_for_files_and_directories(dir: &Path) {
    symlink("target", dir.join("link")).unwrap();
    assert_eq!(
        errno(set_xattr(&dir.join("link"), b"user.name", b"value", 0)),
        EPERM
    );
    let path = file(dir);
    assert_eq!(errno(set_xattr(&path, b"nonsense.name", b"value", 0)), EOPNOTSUPP);
}

fn capability_goes_with_a_write_by_anybody(dir: &Path) {
    const CAPABILITY: &[u8] = b"security.capability";
    // Revision 2, effective; CAP_NET_RAW permitted.
    let mut value = [0; 20];
    (value[0], value[3], value[5]) = (1, 2, 0x20);
    let path = file(dir);
    fs::set_permissions(&path, Permissions::from_mode(0o777)).unwrap();
    let append = || {
        use std::io::Write;
        fs::File::options().append(true).open(&path)?.write_all(b"more")
    };
    for user in [User::plain(0), User::plain(1234)] {
        as_user(user, append).unwrap();
        assert_eq!(
            errno(get_xattr(&path, CAPABILITY)),
            ENODATA,
            "a file without one stays so"
        );
        set_xattr(&path, CAPABILITY, &value, 0).unwrap();
        assert_eq!(get_xattr(&path, CAPABILITY).unwrap(), value);
        as_user(user, append).unwrap();
        assert_eq!(
            errno(get_xattr(&path, CAPABILITY)),
            ENODATA,
            "written by {user:?}"
        );
    }
    set_xattr(&path, CAPABILITY, &value, 0).unwrap();
    assert_eq!(
        errno(as_user(User::plain(1234), || remove_xattr(&path, CAPABILITY))),
        EPERM
    );
    assert_eq!(get_xattr(&path, CAPABILITY).unwrap(), value);
}
