//! open(2) with `O_CREAT`. That the file counts as open is the applier's part.

use crate::namespace::inode::Inode;
use crate::namespace::permission::{self, READ, WRITE};
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, dentry, directory, inode};
use bytes::Bytes;
use dfs_common::op::{Entry, OpReply};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult, Ino, Name};

/// How the file is made and opened.
pub struct How {
    /// Permission bits of a new file.
    pub mode: u32,
    /// `O_EXCL`.
    pub exclusive: bool,
    /// Open for reading.
    pub read: bool,
    /// Open for writing.
    pub write: bool,
}

/// Opens a file, making it if absent. A new file is open whatever its mode says.
///
/// # Errors
/// `NotDirectory`, `PermissionDenied`; `Exists` (exclusive), `IsDirectory`, `Loop` (a symbolic link), `NotSupported` (a fifo,
/// socket or device: those are opened locally); `NotFound` if the parent was removed.
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: Ino,
    name: &Name,
    how: How,
) -> FsResult<OpReply> {
    let mut parent = directory::searched(txn, caller, parent)?;
    if let Some(entry) = dentry::find(txn, parent.ino(), name)? {
        if how.exclusive {
            return Err(FsError::new(ErrorKind::Exists, format!("{name} exists already")));
        }
        let file = Inode::get(txn, entry.ino)?;
        check_open(&file, caller, how.read, how.write)?;
        return Ok(OpReply::Created {
            entry: Entry { attr: file.attr },
            existed: true,
        });
    }
    directory::check_adds(&parent, caller)?;
    let new = inode::NewInode {
        kind: FileKind::File,
        mode: how.mode & permission::MODE_BITS,
        rdev: 0,
        target: Bytes::new(),
    };
    let made = inode::make(txn, ctx, caller, &mut parent, name, new)?;
    Ok(OpReply::Created {
        entry: Entry { attr: made.attr },
        existed: false,
    })
}

fn check_open(file: &Inode, caller: &Caller, read: bool, write: bool) -> FsResult<()> {
    match file.attr.kind {
        FileKind::File => {}
        FileKind::Directory => {
            return Err(FsError::new(ErrorKind::IsDirectory, "the name is a directory's"));
        }
        FileKind::Symlink => {
            return Err(FsError::new(ErrorKind::Loop, "the name is a symbolic link's"));
        }
        _ => {
            return Err(FsError::new(
                ErrorKind::NotSupported,
                "the name is a special file's, which is opened without the coordinator: look it up",
            ));
        }
    }
    let wanted = if read { READ } else { 0 } | if write { WRITE } else { 0 };
    permission::check(&file.attr, caller, wanted)
}

#[cfg(test)]
mod tests {
    use crate::namespace::fixture::{Fixture, kind, name, user};
    use dfs_common::op::{OpReply, Operation};
    use dfs_common::session::Caller;
    use dfs_common::{ErrorKind, FileKind, Ino};

    fn existed(result: &dfs_common::op::OpResult) -> bool {
        match result {
            Ok(OpReply::Created { existed, .. }) => *existed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn new_file_is_open_whatever_its_mode_and_an_old_one_by_its_bits() {
        let mut fixture = Fixture::default();
        assert!(!existed(&fixture.create_as(&user(5), Ino::ROOT, "f", 0o400)));
        let before = fixture.attr(Ino::ROOT);
        assert_eq!(
            kind(&fixture.create_as(&user(5), Ino::ROOT, "f", 0o777)),
            ErrorKind::PermissionDenied
        );
        assert!(existed(&fixture.create_as(
            &Caller::root(),
            Ino::ROOT,
            "f",
            0o777
        )));
        let ino = fixture.ino(Ino::ROOT, "f");
        assert_eq!((fixture.attr(ino).mode, fixture.attr(ino).uid), (0o400, 5));
        assert_eq!(fixture.attr(Ino::ROOT), before, "an open changes no directory");
        fixture.assert_clean();
    }

    #[test]
    fn exclusive_refuses_any_existing_name() {
        let mut fixture = Fixture::default();
        fixture.symlink(Ino::ROOT, "dangling", b"nowhere").unwrap();
        fixture.file(Ino::ROOT, "f");
        for text in ["dangling", "f"] {
            let operation = Operation::Create {
                parent: Ino::ROOT,
                name: name(text),
                mode: 0o644,
                exclusive: true,
                read: true,
                write: false,
            };
            assert_eq!(kind(&fixture.root(operation)), ErrorKind::Exists);
        }
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let mut fixture = Fixture::default();
        fixture.mkdir(Ino::ROOT, "d");
        fixture.symlink(Ino::ROOT, "l", b"f").unwrap();
        let fifo = FileKind::Fifo;
        fixture
            .mknod_as(&Caller::root(), Ino::ROOT, "p", fifo, 0o666)
            .unwrap();
        for (text, error) in [
            ("d", ErrorKind::IsDirectory),
            ("l", ErrorKind::Loop),
            ("p", ErrorKind::NotSupported),
        ] {
            assert_eq!(
                kind(&fixture.create_as(&Caller::root(), Ino::ROOT, text, 0o644)),
                error
            );
        }
    }

    #[test]
    fn directory_that_may_not_be_written_refuses_new_files_only() {
        let mut fixture = Fixture::default();
        let above = fixture.mkdir(Ino::ROOT, "above");
        let file = fixture.file(above, "f");
        fixture.chmod(file, 0o666).unwrap();
        assert!(existed(&fixture.create_as(&user(5), above, "f", 0o644)));
        assert_eq!(
            kind(&fixture.create_as(&user(5), above, "g", 0o644)),
            ErrorKind::PermissionDenied
        );
    }
}
