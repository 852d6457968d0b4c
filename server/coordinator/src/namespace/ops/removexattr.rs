//! removexattr(2).

use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, xattrs};
use bytes::Bytes;
use dfs_common::op::OpReply;
use dfs_common::session::Caller;
use dfs_common::{FsResult, Ino};

/// Removes an extended attribute.
///
/// # Errors
/// Those of [`xattrs::check_access`]; `NoAttribute`.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    ino: Ino,
    name: &Bytes,
) -> FsResult<OpReply> {
    let mut inode = Inode::get(txn, ino)?;
    xattrs::check_access(&inode, caller, name, true)?;
    let before = xattrs::value(txn, &inode, name)?;
    xattrs::remove(txn, &mut inode, name, &before);
    inode.attr.ctime = ctx.now;
    inode.put(txn);
    Ok(OpReply::Attr(inode.attr))
}

#[cfg(test)]
mod tests {
    use crate::namespace::fixture::{Fixture, kind, user};
    use crate::namespace::read;
    use dfs_common::op::XattrMode::Set;
    use dfs_common::session::Caller;
    use dfs_common::{ErrorKind, Ino};

    #[test]
    fn removed_attribute_is_gone_and_makes_room() {
        let mut fixture = Fixture::default();
        let file = fixture.file(Ino::ROOT, "f");
        let root = Caller::root();
        for name in ["user.a", "user.b"] {
            fixture.setxattr_as(&root, file, name, b"value", Set).unwrap();
        }
        fixture.removexattr_as(&root, file, "user.a").unwrap();
        assert_eq!(fixture.attr(file).ctime, fixture.now());
        assert_eq!(read::listxattr(&fixture.store, &root, file).unwrap(), ["user.b"]);
        assert_eq!(
            kind(&fixture.removexattr_as(&root, file, "user.a")),
            ErrorKind::NoAttribute
        );
        assert_eq!(
            kind(&fixture.removexattr_as(&user(5), file, "user.b")),
            ErrorKind::PermissionDenied
        );
        assert_eq!(
            kind(&fixture.removexattr_as(&root, file, "system.x")),
            ErrorKind::NotSupported
        );
        fixture.assert_clean();
    }
}
