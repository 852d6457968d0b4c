//! link(2).

use crate::namespace::dentry::Dentry;
use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, counters, directory, names, permission};
use dfs_common::limits::LINKS_MAX;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name};

/// Adds a name to an inode that is not a directory.
///
/// # Errors
/// As mkdir, but for quotas: they are not asked; `CrossDevice` across the edge of one; `NotPermitted` for a directory, `TooManyLinks` at [`LINKS_MAX`], `NotFound` for an inode without a name.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    ino: Ino,
    parent: Ino,
    name: &Name,
) -> FsResult<OpReply> {
    let mut inode = Inode::get(txn, ino)?;
    let mut parent = directory::vacant(txn, caller, parent, name)?;
    if inode.is_directory() {
        return Err(permission::not_permitted("a directory has one name"));
    }
    if inode.attr.nlink == 0 {
        return Err(FsError::new(ErrorKind::NotFound, "the file was removed"));
    }
    if inode.attr.nlink >= LINKS_MAX {
        return Err(FsError::new(
            ErrorKind::TooManyLinks,
            format!("a file has at most {LINKS_MAX} names"),
        ));
    }
    let mut counters = counters::get(txn)?;
    let entry = Dentry {
        ino,
        kind: inode.attr.kind,
        cursor: counters::take_number(&mut counters)?,
    };
    counters::put(txn, &counters);
    names::added(txn, &inode, (parent.ino(), entry.cursor))?;
    inode.attr.nlink += 1;
    inode.attr.ctime = ctx.now;
    inode.put(txn);
    directory::add_entry(txn, &mut parent, name, &entry, ctx.now);
    parent.put(txn);
    Ok(OpReply::Entry(Entry { attr: inode.attr }))
}

#[cfg(test)]
mod tests {
    use crate::namespace::fixture::{Fixture, kind, user};
    use crate::namespace::inode::Inode;
    use crate::namespace::txn::Txn;
    use crate::store::MetaStore;
    use dfs_common::limits::LINKS_MAX;
    use dfs_common::session::Caller;
    use dfs_common::{ErrorKind, Ino};

    #[test]
    fn both_names_are_of_one_inode() {
        let mut fixture = Fixture::default();
        let above = fixture.mkdir(Ino::ROOT, "above");
        let file = fixture.file(Ino::ROOT, "f");
        let mtime = fixture.attr(file).mtime;
        fixture.link_as(&Caller::root(), file, above, "g").unwrap();
        let attr = fixture.attr(file);
        assert_eq!((attr.nlink, attr.ctime, attr.mtime), (2, fixture.now(), mtime));
        assert_eq!(fixture.attr(above).mtime, fixture.now());
        assert_eq!(fixture.ino(above, "g"), file);
        fixture.unlink_as(&Caller::root(), Ino::ROOT, "f").unwrap();
        assert_eq!(fixture.attr(file).nlink, 1);
        fixture.assert_clean();
    }

    #[test]
    fn directories_existing_names_and_foreign_directories_are_refused() {
        let mut fixture = Fixture::default();
        let above = fixture.mkdir(Ino::ROOT, "above");
        let file = fixture.file(Ino::ROOT, "f");
        let root = Caller::root();
        assert_eq!(
            kind(&fixture.link_as(&root, above, Ino::ROOT, "x")),
            ErrorKind::NotPermitted
        );
        assert_eq!(
            kind(&fixture.link_as(&root, file, Ino::ROOT, "above")),
            ErrorKind::Exists
        );
        assert_eq!(
            kind(&fixture.link_as(&user(5), file, above, "x")),
            ErrorKind::PermissionDenied
        );
        assert_eq!(
            kind(&fixture.link_as(&root, Ino(999), Ino::ROOT, "x")),
            ErrorKind::Stale
        );
    }

    #[test]
    fn removed_file_gets_no_new_name() {
        let mut fixture = Fixture::default();
        let file = fixture.open_file("f");
        fixture.unlink_as(&Caller::root(), Ino::ROOT, "f").unwrap();
        assert_eq!(
            kind(&fixture.link_as(&Caller::root(), file, Ino::ROOT, "g")),
            ErrorKind::NotFound
        );
        fixture.assert_clean();
    }

    #[test]
    fn names_of_one_file_are_bounded() {
        let mut fixture = Fixture::default();
        let file = fixture.file(Ino::ROOT, "f");
        let mut txn = Txn::new(&fixture.store);
        let mut inode = Inode::get(&txn, file).unwrap();
        inode.attr.nlink = LINKS_MAX - 1;
        inode.put(&mut txn);
        let batch = txn.into_batch();
        fixture.store.commit(batch).unwrap();
        fixture.link_as(&Caller::root(), file, Ino::ROOT, "g").unwrap();
        let operation = dfs_common::op::Operation::Link {
            ino: file,
            parent: Ino::ROOT,
            name: crate::namespace::fixture::name("h"),
        };
        let (result, _) = fixture.try_apply(&Caller::root(), &operation);
        assert_eq!(kind(&result), ErrorKind::TooManyLinks);
    }
}
