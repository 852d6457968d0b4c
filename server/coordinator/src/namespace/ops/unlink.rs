//! unlink(2).

use crate::namespace::inode::Inode;
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, names, orphans};
use dfs_common::op::OpReply;
use dfs_common::session::Caller;
use dfs_common::{FsResult, Ino, Name};

/// Removes a name of anything but a directory; the inode goes with its last name, or with the last close after it.
///
/// # Errors
/// `NotDirectory` (the parent), `PermissionDenied`, `NotFound`, `NotPermitted` (sticky), `IsDirectory`.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: Ino,
    name: &Name,
) -> FsResult<OpReply> {
    let mut parent = directory::searched(txn, caller, parent)?;
    let entry = directory::existing(txn, parent.ino(), name)?;
    let mut inode = Inode::get(txn, entry.ino)?;
    directory::check_removes(&parent, &inode, caller, false)?;
    directory::remove_entry(txn, &mut parent, name, &entry, ctx.now);
    parent.put(txn);
    names::removed(txn, &mut inode, (parent.ino(), entry.cursor))?;
    let nlink = orphans::drop_link(txn, ctx, inode)?;
    Ok(OpReply::Removed {
        ino: entry.ino,
        nlink,
    })
}

#[cfg(test)]
mod tests {
    use crate::namespace::fixture::{Fixture, commit, in_chunk, inline, kind, received, user};
    use crate::namespace::read;
    use dfs_common::op::{OpReply, XattrMode};
    use dfs_common::session::Caller;
    use dfs_common::{ErrorKind, Ino, SessionId};

    #[test]
    fn last_name_takes_content_and_attributes_with_it() {
        let mut fixture = Fixture::default();
        let root = Caller::root();
        let before = read::statfs_counters(&fixture.store).unwrap();
        let file = fixture.open_file("f");
        let chunk = fixture.chunk();
        let extents = vec![inline(0, b"abc"), in_chunk(10, 100, chunk, 0)];
        fixture
            .commit(commit(file, extents, vec![received(chunk, 100, &[1, 2])]))
            .unwrap();
        fixture
            .setxattr_as(&root, file, "user.a", b"value", XattrMode::Set)
            .unwrap();
        fixture.release(file);
        let removed = fixture.unlink_as(&root, Ino::ROOT, "f");
        assert_eq!(removed, Ok(OpReply::Removed { ino: file, nlink: 0 }));
        assert_eq!(kind(&read::getattr(&fixture.store, file)), ErrorKind::Stale);
        let after = read::statfs_counters(&fixture.store).unwrap();
        assert_eq!((after.freed_chunks, after.freed_bytes), (1, 100));
        assert_eq!(
            (
                after.inodes,
                after.content_bytes,
                after.chunks,
                after.inline_bytes
            ),
            (before.inodes, 0, 0, 0)
        );
        assert!(read::replica_sets(&fixture.store).unwrap().is_empty());
        fixture.assert_clean();
    }

    #[test]
    fn open_file_stays_until_its_last_holder_lets_go() {
        let mut fixture = Fixture::default();
        let file = fixture.open_file("f");
        fixture
            .commit(commit(file, vec![inline(0, b"abc")], vec![]))
            .unwrap();
        fixture.session = SessionId(8);
        fixture.open(file, false);
        let removed = fixture.unlink_as(&Caller::root(), Ino::ROOT, "f");
        assert_eq!(removed, Ok(OpReply::Removed { ino: file, nlink: 0 }));
        assert_eq!(fixture.attr(file).ctime, fixture.now());
        fixture.assert_clean();
        fixture.release(file);
        assert_eq!(fixture.runs(file), [(0, 3)], "the other session reads on");
        fixture.session = crate::namespace::fixture::ME;
        fixture
            .commit(commit(file, vec![inline(3, b"def")], vec![]))
            .unwrap();
        fixture.release(file);
        assert_eq!(kind(&read::getattr(&fixture.store, file)), ErrorKind::Stale);
        fixture.assert_clean();
    }

    #[test]
    fn sticky_directory_protects_the_names_of_others() {
        let mut fixture = Fixture::default();
        let scratch = fixture.mkdir(Ino::ROOT, "tmp");
        fixture.chmod(scratch, 0o1777).unwrap();
        fixture.create_as(&user(5), scratch, "f", 0o666).unwrap();
        assert_eq!(
            kind(&fixture.unlink_as(&user(6), scratch, "f")),
            ErrorKind::NotPermitted
        );
        fixture.chown(scratch, 6, 6).unwrap();
        assert!(
            fixture.unlink_as(&user(6), scratch, "f").is_ok(),
            "the directory's owner may"
        );
    }

    #[test]
    fn directories_missing_names_and_foreign_directories_are_refused() {
        let mut fixture = Fixture::default();
        let above = fixture.mkdir(Ino::ROOT, "above");
        fixture.file(above, "f");
        let root = Caller::root();
        assert_eq!(
            kind(&fixture.unlink_as(&root, Ino::ROOT, "above")),
            ErrorKind::IsDirectory
        );
        assert_eq!(
            kind(&fixture.unlink_as(&root, Ino::ROOT, "none")),
            ErrorKind::NotFound
        );
        assert_eq!(
            kind(&fixture.unlink_as(&user(5), above, "f")),
            ErrorKind::PermissionDenied
        );
        let file = fixture.ino(above, "f");
        assert_eq!(
            kind(&fixture.unlink_as(&root, file, "x")),
            ErrorKind::NotDirectory
        );
    }

    #[test]
    fn file_with_very_many_extents_goes_in_steps() {
        let mut fixture = Fixture::default();
        let file = fixture.open_file("f");
        let chunk = fixture.chunk();
        for round in 0..2 {
            let extents = (0..600).map(|n| in_chunk((round * 600 + n) * 20, 10, chunk, n * 10));
            let chunks = vec![received(chunk, 6000, &[1, 2, 3])];
            fixture.commit(commit(file, extents.collect(), chunks)).unwrap();
        }
        fixture.release(file);
        fixture.unlink_as(&Caller::root(), Ino::ROOT, "f").unwrap();
        assert_eq!(kind(&read::getattr(&fixture.store, file)), ErrorKind::Stale);
        let content = |fixture: &Fixture| {
            let counters = read::statfs_counters(&fixture.store).unwrap();
            (counters.content_bytes, counters.chunks, counters.freed_chunks)
        };
        assert_eq!(content(&fixture), (12_000, 1, 0));
        fixture.assert_clean();
        let mut steps = 0;
        while fixture.reap_step(500) {
            fixture.assert_clean();
            steps += 1;
        }
        assert_eq!((steps, content(&fixture)), (3, (0, 0, 1)));
    }
}
