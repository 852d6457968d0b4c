//! mknod(2).

use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, inode, permission};
use bytes::Bytes;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult, Ino, Name};

/// Makes a fifo, socket, device or empty file.
///
/// # Errors
/// As mkdir; `NotPermitted` for a device by anybody but root, and for a directory; `Invalid` for a symbolic link.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    (parent, name): (Ino, &Name),
    kind: FileKind,
    mode: u32,
    rdev: u32,
) -> FsResult<OpReply> {
    let mut parent = directory::vacant(txn, caller, parent, name)?;
    let rdev = match kind {
        FileKind::CharDevice | FileKind::BlockDevice if caller.uid != 0 => {
            return Err(permission::not_permitted("only root makes device nodes"));
        }
        FileKind::CharDevice | FileKind::BlockDevice => rdev,
        FileKind::Directory => return Err(permission::not_permitted("directories are made by mkdir")),
        FileKind::Symlink => {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "symbolic links are made by symlink",
            ));
        }
        FileKind::File | FileKind::Fifo | FileKind::Socket => 0,
    };
    let new = inode::NewInode {
        kind,
        mode: mode & permission::MODE_BITS,
        rdev,
        target: Bytes::new(),
    };
    let made = inode::make(txn, ctx, caller, &mut parent, name, new)?;
    Ok(OpReply::Entry(Entry { attr: made.attr }))
}

#[cfg(test)]
mod tests {
    use crate::namespace::fixture::{Fixture, kind, user};
    use dfs_common::session::Caller;
    use dfs_common::{ErrorKind, FileKind, Ino};

    #[test]
    fn every_kind_is_made_as_asked() {
        let mut fixture = Fixture::default();
        for (text, wanted, rdev) in [
            ("file", FileKind::File, 0),
            ("fifo", FileKind::Fifo, 0),
            ("socket", FileKind::Socket, 0),
            ("char", FileKind::CharDevice, 0x0103),
            ("block", FileKind::BlockDevice, 0x0103),
        ] {
            let ino = fixture
                .mknod_as(&Caller::root(), Ino::ROOT, text, wanted, 0o6640)
                .unwrap();
            let attr = fixture.attr(ino);
            assert_eq!(
                (attr.kind, attr.mode, attr.rdev, attr.nlink),
                (wanted, 0o6640, rdev, 1)
            );
        }
        fixture.assert_clean();
    }

    #[test]
    fn devices_are_root_s_and_directories_nobody_s() {
        let mut fixture = Fixture::default();
        let mut try_as =
            |caller: &Caller, wanted| kind(&fixture.mknod_as(caller, Ino::ROOT, "x", wanted, 0o644));
        assert_eq!(try_as(&user(5), FileKind::CharDevice), ErrorKind::NotPermitted);
        assert_eq!(try_as(&user(5), FileKind::BlockDevice), ErrorKind::NotPermitted);
        assert_eq!(
            try_as(&Caller::root(), FileKind::Directory),
            ErrorKind::NotPermitted
        );
        assert_eq!(try_as(&Caller::root(), FileKind::Symlink), ErrorKind::Invalid);
        assert!(
            fixture
                .mknod_as(&user(5), Ino::ROOT, "x", FileKind::Fifo, 0o644)
                .is_ok()
        );
    }

    #[test]
    fn set_group_id_of_a_foreign_group_is_not_given_away() {
        let mut fixture = Fixture::default();
        let above = fixture.mkdir(Ino::ROOT, "above");
        fixture.chown(above, 3, 33).unwrap();
        fixture.chmod(above, 0o2777).unwrap();
        let member = Caller {
            groups: vec![33],
            ..user(6)
        };
        for (caller, text, asked, mode) in [
            (&user(5), "a", 0o2775, 0o775),
            (&user(5), "b", 0o2764, 0o2764),
            (&member, "c", 0o2775, 0o2775),
        ] {
            let ino = fixture
                .mknod_as(caller, above, text, FileKind::File, asked)
                .unwrap();
            assert_eq!((fixture.attr(ino).mode, fixture.attr(ino).gid), (mode, 33));
        }
    }
}
