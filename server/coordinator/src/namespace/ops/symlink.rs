//! symlink(2).

use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, directory, inode};
use bytes::Bytes;
use dfs_common::limits::SYMLINK_BYTES_MAX;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult, Ino, Name};

/// Makes a symbolic link, with mode 0777.
///
/// # Errors
/// As mkdir; `NotFound` for an empty target, `NameTooLong` above [`SYMLINK_BYTES_MAX`], `Invalid` for a NUL in it.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: Ino,
    name: &Name,
    target: &Bytes,
) -> FsResult<OpReply> {
    if target.is_empty() {
        return Err(FsError::new(ErrorKind::NotFound, "a symbolic link has a target"));
    }
    if target.len() > SYMLINK_BYTES_MAX {
        return Err(FsError::new(
            ErrorKind::NameTooLong,
            format!("the target of a symbolic link has at most {SYMLINK_BYTES_MAX} bytes"),
        ));
    }
    if target.contains(&0) {
        return Err(FsError::new(
            ErrorKind::Invalid,
            "the target of a symbolic link has no NUL",
        ));
    }
    let mut parent = directory::vacant(txn, caller, parent, name)?;
    let new = inode::NewInode {
        kind: FileKind::Symlink,
        mode: 0o777,
        rdev: 0,
        target: target.clone(),
    };
    let made = inode::make(txn, ctx, caller, &mut parent, name, new)?;
    Ok(OpReply::Entry(Entry { attr: made.attr }))
}

#[cfg(test)]
mod tests {
    use crate::namespace::fixture::{Fixture, kind};
    use crate::namespace::read;
    use dfs_common::{ErrorKind, FileKind, Ino};

    #[test]
    fn link_keeps_its_target_and_length() {
        let mut fixture = Fixture::default();
        let target = vec![b'\xff'; 4095];
        let ino = fixture.symlink(Ino::ROOT, "l", &target).unwrap();
        let attr = fixture.attr(ino);
        assert_eq!(
            (attr.kind, attr.mode, attr.size, attr.nlink),
            (FileKind::Symlink, 0o777, 4095, 1)
        );
        assert_eq!(read::readlink(&fixture.store, ino).unwrap(), target);
        assert_eq!(
            kind(&read::readlink(&fixture.store, Ino::ROOT)),
            ErrorKind::Invalid
        );
        fixture.assert_clean();
    }

    #[test]
    fn target_is_bounded_and_not_empty() {
        let mut fixture = Fixture::default();
        for (target, error) in [
            (&[][..], ErrorKind::NotFound),
            (&[b'x'; 4096][..], ErrorKind::NameTooLong),
            (b"a\0b", ErrorKind::Invalid),
        ] {
            assert_eq!(kind(&fixture.symlink(Ino::ROOT, "l", target)), error);
        }
    }
}
