//! setxattr(2).

use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, keys, xattrs};
use bytes::Bytes;
use dfs_common::op::{OpReply, XattrMode};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};

/// Sets an extended attribute.
///
/// # Errors
/// Those of [`xattrs::check_access`] and [`xattrs::put`]; `Exists` and `NoAttribute` by `mode`.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    ino: Ino,
    name: &Bytes,
    value: &Bytes,
    mode: XattrMode,
) -> FsResult<OpReply> {
    let mut inode = Inode::get(txn, ino)?;
    xattrs::check_access(&inode, caller, name, true)?;
    let before = match inode.xattr_list_bytes {
        0 => None,
        _ => txn.get(&keys::xattr(ino, name))?,
    };
    match (mode, &before) {
        (XattrMode::Create, Some(_)) => {
            return Err(FsError::new(
                ErrorKind::Exists,
                "the extended attribute exists already",
            ));
        }
        (XattrMode::Replace, None) => {
            return Err(FsError::new(
                ErrorKind::NoAttribute,
                "the extended attribute does not exist",
            ));
        }
        _ => {}
    }
    xattrs::put(txn, &mut inode, name, before.as_ref(), value)?;
    inode.attr.ctime = ctx.now;
    inode.put(txn);
    Ok(OpReply::Attr(inode.attr))
}

#[cfg(test)]
mod tests {
    use crate::namespace::fixture::{Fixture, kind, user};
    use crate::namespace::read;
    use dfs_common::op::XattrMode::{Create, Replace, Set};
    use dfs_common::session::Caller;
    use dfs_common::{ErrorKind, FileKind, FsResult, Ino};

    fn value(fixture: &Fixture, caller: &Caller, ino: Ino, name: &str) -> FsResult<String> {
        let value = read::getxattr(&fixture.store, caller, ino, name.as_bytes())?;
        Ok(value.escape_ascii().to_string())
    }

    #[test]
    fn modes_decide_on_what_exists() {
        let mut fixture = Fixture::default();
        let file = fixture.file(Ino::ROOT, "f");
        let root = Caller::root();
        assert_eq!(
            kind(&fixture.setxattr_as(&root, file, "user.a", b"1", Replace)),
            ErrorKind::NoAttribute
        );
        fixture.setxattr_as(&root, file, "user.a", b"1", Create).unwrap();
        assert_eq!(fixture.attr(file).ctime, fixture.now());
        assert_eq!(
            kind(&fixture.setxattr_as(&root, file, "user.a", b"2", Create)),
            ErrorKind::Exists
        );
        fixture
            .setxattr_as(&root, file, "user.a", b"longer", Replace)
            .unwrap();
        assert_eq!(value(&fixture, &root, file, "user.a").unwrap(), "longer");
        fixture.setxattr_as(&root, file, "user.a", b"", Set).unwrap();
        assert_eq!(value(&fixture, &root, file, "user.a").unwrap(), "");
        fixture.assert_clean();
    }

    #[test]
    fn namespaces_have_their_own_rules() {
        let mut fixture = Fixture::default();
        let (root, other) = (Caller::root(), user(5));
        let file = fixture.file(Ino::ROOT, "f");
        for name in ["trusted.a", "security.a", "user.a"] {
            fixture.setxattr_as(&root, file, name, b"v", Set).unwrap();
        }
        for (name, error) in [
            ("trusted.a", ErrorKind::NotPermitted),
            ("security.a", ErrorKind::NotPermitted),
            ("user.a", ErrorKind::PermissionDenied),
            ("system.posix_acl_access", ErrorKind::NotSupported),
            ("none", ErrorKind::PermissionDenied),
            ("user.", ErrorKind::Invalid),
            ("", ErrorKind::Range),
            (&format!("user.{}", "x".repeat(251)), ErrorKind::Range),
        ] {
            assert_eq!(
                kind(&fixture.setxattr_as(&other, file, name, b"w", Set)),
                error,
                "{name}"
            );
        }
        assert_eq!(
            kind(&value(&fixture, &other, file, "trusted.a")),
            ErrorKind::NoAttribute
        );
        assert_eq!(value(&fixture, &other, file, "security.a").unwrap(), "v");
        let names = |caller| read::listxattr(&fixture.store, caller, file).unwrap();
        assert_eq!(names(&other), ["security.a", "user.a"]);
        assert_eq!(names(&root), ["security.a", "trusted.a", "user.a"]);
        fixture.chmod(file, 0o600).unwrap();
        assert_eq!(
            kind(&value(&fixture, &other, file, "user.a")),
            ErrorKind::PermissionDenied
        );
    }

    #[test]
    fn only_files_and_directories_have_user_attributes() {
        let mut fixture = Fixture::default();
        let link = fixture.symlink(Ino::ROOT, "l", b"x").unwrap();
        let root = Caller::root();
        let fifo = fixture
            .mknod_as(&root, Ino::ROOT, "p", FileKind::Fifo, 0o666)
            .unwrap();
        for ino in [link, fifo] {
            assert_eq!(
                kind(&fixture.setxattr_as(&root, ino, "user.a", b"v", Set)),
                ErrorKind::NotPermitted
            );
            assert_eq!(
                kind(&value(&fixture, &root, ino, "user.a")),
                ErrorKind::NoAttribute
            );
            fixture.setxattr_as(&root, ino, "trusted.a", b"v", Set).unwrap();
        }
        let scratch = fixture.mkdir(Ino::ROOT, "tmp");
        fixture.chmod(scratch, 0o1777).unwrap();
        assert_eq!(
            kind(&fixture.setxattr_as(&user(5), scratch, "user.a", b"v", Set)),
            ErrorKind::NotPermitted
        );
    }

    #[test]
    fn values_and_lists_are_bounded() {
        let mut fixture = Fixture::default();
        let root = Caller::root();
        let file = fixture.file(Ino::ROOT, "f");
        assert_eq!(
            kind(&fixture.setxattr_as(&root, file, "user.a", &[0; 65_537], Set)),
            ErrorKind::TooBig
        );
        let mut count = 0;
        loop {
            match fixture.setxattr_as(&root, file, &format!("user.{count}"), &[1; 65_536], Set) {
                Ok(_) => count += 1,
                result => {
                    assert_eq!(kind(&result), ErrorKind::NoSpace);
                    break;
                }
            }
        }
        assert_eq!(count, 15, "a MiB in all");
        fixture.setxattr_as(&root, file, "user.0", b"small", Set).unwrap();
        fixture
            .setxattr_as(&root, file, "user.more", &[1; 60_000], Set)
            .unwrap();
        let other = fixture.file(Ino::ROOT, "g");
        let long = "x".repeat(240);
        let mut names = 0;
        while fixture
            .setxattr_as(&root, other, &format!("user.{names:05}{long}"), b"", Set)
            .is_ok()
        {
            names += 1;
        }
        assert_eq!(names, 65_536 / 251);
        fixture.assert_clean();
        fixture.unlink_as(&root, Ino::ROOT, "g").unwrap();
        fixture.assert_clean();
    }
}
