//! rmdir(2).

use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, orphans, usage};
use dfs_common::op::OpReply;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name};

/// Removes an empty directory.
///
/// # Errors
/// `NotDirectory`, `PermissionDenied`, `NotFound`, `NotPermitted` (sticky), `NotEmpty`.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: Ino,
    name: &Name,
) -> FsResult<OpReply> {
    let mut parent = directory::searched(txn, caller, parent)?;
    let entry = directory::existing(txn, parent.ino(), name)?;
    let inode = Inode::get(txn, entry.ino)?;
    directory::check_removes(&parent, &inode, caller, true)?;
    if inode.attr.size > 0 {
        return Err(FsError::new(
            ErrorKind::NotEmpty,
            format!("{name} has entries: remove them first"),
        ));
    }
    directory::remove_entry(txn, &mut parent, name, &entry, ctx.now);
    directory::remove_subdirectory(&mut parent);
    parent.put(txn);
    usage::directory_removed(txn, parent.ino(), entry.ino)?;
    let nlink = orphans::drop_link(txn, ctx, inode)?;
    Ok(OpReply::Removed {
        ino: entry.ino,
        nlink,
    })
}

#[cfg(test)]
mod tests {
    use crate::namespace::fixture::{Fixture, kind, user};
    use crate::namespace::read;
    use dfs_common::op::OpReply;
    use dfs_common::session::Caller;
    use dfs_common::{ErrorKind, Ino};

    #[test]
    fn empty_directory_goes_with_its_link_to_the_parent() {
        let mut fixture = Fixture::default();
        let root = Caller::root();
        let above = fixture.mkdir(Ino::ROOT, "above");
        let inner = fixture.mkdir(above, "inner");
        assert_eq!(
            kind(&fixture.rmdir_as(&root, Ino::ROOT, "above")),
            ErrorKind::NotEmpty
        );
        let removed = fixture.rmdir_as(&root, above, "inner");
        assert_eq!(removed, Ok(OpReply::Removed { ino: inner, nlink: 0 }));
        assert_eq!((fixture.attr(above).nlink, fixture.attr(above).size), (2, 0));
        assert_eq!(fixture.attr(above).mtime, fixture.now());
        assert_eq!(kind(&read::getattr(&fixture.store, inner)), ErrorKind::Stale);
        fixture.rmdir_as(&root, Ino::ROOT, "above").unwrap();
        fixture.assert_clean();
    }

    #[test]
    fn files_missing_names_and_sticky_directories_are_refused() {
        let mut fixture = Fixture::default();
        let scratch = fixture.mkdir(Ino::ROOT, "tmp");
        fixture.chmod(scratch, 0o1777).unwrap();
        fixture.mkdir_as(&user(5), scratch, "d", 0o777).unwrap();
        fixture.file(Ino::ROOT, "f");
        assert_eq!(
            kind(&fixture.rmdir_as(&user(6), scratch, "d")),
            ErrorKind::NotPermitted
        );
        assert_eq!(
            kind(&fixture.rmdir_as(&user(6), Ino::ROOT, "f")),
            ErrorKind::NotDirectory
        );
        assert_eq!(
            kind(&fixture.rmdir_as(&user(6), Ino::ROOT, "none")),
            ErrorKind::NotFound
        );
        assert!(fixture.rmdir_as(&user(5), scratch, "d").is_ok());
    }
}
