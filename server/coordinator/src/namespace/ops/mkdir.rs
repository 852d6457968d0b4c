//! mkdir(2).

use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, inode, permission};
use bytes::Bytes;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{FileKind, FsResult, Ino, Name};

/// Makes a directory.
///
/// # Errors
/// `NotDirectory`, `PermissionDenied`, `Exists`; `NotFound` if the parent was removed.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: Ino,
    name: &Name,
    mode: u32,
) -> FsResult<OpReply> {
    let mut parent = directory::vacant(txn, caller, parent, name)?;
    let new = inode::NewInode {
        kind: FileKind::Directory,
        mode: mode & (permission::STICKY | 0o777),
        rdev: 0,
        target: Bytes::new(),
    };
    let made = inode::make(txn, ctx, caller, &mut parent, name, new)?;
    Ok(OpReply::Entry(Entry { attr: made.attr }))
}

#[cfg(test)]
mod tests {
    use crate::namespace::fixture::{Fixture, kind, name, user};
    use crate::namespace::read;
    use dfs_common::session::Caller;
    use dfs_common::{ErrorKind, FileKind, Ino};

    #[test]
    fn directory_links_to_itself_and_its_parent() {
        let mut fixture = Fixture::default();
        let before = fixture.attr(Ino::ROOT);
        let made = fixture.mkdir_as(&user(5), Ino::ROOT, "d", 0o3750).unwrap();
        let (attr, root) = (fixture.attr(made), fixture.attr(Ino::ROOT));
        assert_eq!((attr.kind, attr.nlink, attr.size), (FileKind::Directory, 2, 0));
        assert_eq!(
            (attr.mode, attr.uid, attr.gid),
            (0o1750, 5, 5),
            "mkdir(2) sets no set-id bits"
        );
        assert_eq!(attr.mtime, fixture.now());
        assert_eq!((root.nlink, root.size), (before.nlink + 1, before.size + 1));
        assert_eq!((root.mtime, root.ctime), (fixture.now(), fixture.now()));
        let page = read::readdir(&fixture.store, &user(5), made, 0, 10, false).unwrap();
        assert_eq!((page.parent, page.entries.len(), page.end), (Ino::ROOT, 0, true));
        fixture.assert_clean();
    }

    #[test]
    fn set_group_id_directory_gives_its_group_and_bit() {
        let mut fixture = Fixture::default();
        let above = fixture.mkdir(Ino::ROOT, "above");
        fixture.chown(above, 3, 33).unwrap();
        fixture.chmod(above, 0o2777).unwrap();
        let made = fixture.mkdir_as(&user(5), above, "d", 0o755).unwrap();
        let attr = fixture.attr(made);
        assert_eq!((attr.mode, attr.uid, attr.gid), (0o2755, 5, 33));
    }

    #[test]
    fn existing_name_comes_before_a_refusal_and_search_before_both() {
        let mut fixture = Fixture::default();
        let above = fixture.mkdir(Ino::ROOT, "above");
        fixture.mkdir(above, "d");
        assert_eq!(
            kind(&fixture.mkdir_as(&user(5), above, "d", 0o755)),
            ErrorKind::Exists
        );
        assert_eq!(
            kind(&fixture.mkdir_as(&user(5), above, "e", 0o755)),
            ErrorKind::PermissionDenied
        );
        fixture.chmod(above, 0o600).unwrap();
        assert_eq!(
            kind(&fixture.mkdir_as(&user(5), above, "d", 0o755)),
            ErrorKind::PermissionDenied
        );
        let file = fixture.file(Ino::ROOT, "f");
        assert_eq!(
            kind(&fixture.mkdir_as(&Caller::root(), file, "d", 0o755)),
            ErrorKind::NotDirectory
        );
        assert_eq!(
            kind(&fixture.mkdir_as(&Caller::root(), Ino(999), "d", 0o755)),
            ErrorKind::Stale
        );
    }

    #[test]
    fn removed_directory_that_is_open_takes_no_names() {
        let mut fixture = Fixture::default();
        let gone = fixture.mkdir(Ino::ROOT, "d");
        fixture.open(gone, false);
        fixture.rmdir_as(&Caller::root(), Ino::ROOT, "d").unwrap();
        assert_eq!(fixture.attr(gone).nlink, 0);
        assert_eq!(
            kind(&fixture.mkdir_as(&Caller::root(), gone, "e", 0o755)),
            ErrorKind::NotFound
        );
        assert_eq!(
            kind(&read::lookup(&fixture.store, &Caller::root(), gone, &name("e"))),
            ErrorKind::NotFound
        );
        fixture.assert_clean();
        fixture.release(gone);
        fixture.assert_clean();
        assert_eq!(kind(&read::getattr(&fixture.store, gone)), ErrorKind::Stale);
    }
}
