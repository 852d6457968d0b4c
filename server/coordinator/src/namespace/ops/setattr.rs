//! chmod(2), chown(2), truncate(2), ftruncate(2), utimensat(2): checked together, then changed together.

use crate::namespace::extents::MapEdit;
use crate::namespace::inode::Inode;
use crate::namespace::permission::{self, SET_GID, SET_UID, WRITE};
use crate::namespace::txn::Txn;
use crate::namespace::{ApplyContext, counters, reap};
use dfs_common::limits::FILE_BYTES_MAX;
use dfs_common::op::OpReply;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult, Ino, SetAttr, SetTime, Timestamp};

/// Changes attributes, all or none. `by_handle`: the session's open file permits the change of size.
///
/// # Errors
/// `NotPermitted` (not the owner, not the group), `PermissionDenied`, `NotSupported` (mode of a symbolic link),
/// `IsDirectory` and `Invalid` (size of what is no file), `FileTooBig`, `BadHandle` (`by_handle`, but not open for writing).
pub fn apply(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    ino: Ino,
    set: &SetAttr,
    by_handle: bool,
) -> FsResult<OpReply> {
    let mut inode = Inode::get(txn, ino)?;
    if *set == SetAttr::default() {
        return Ok(OpReply::Attr(inode.attr));
    }
    let may_write = || {
        if by_handle {
            return match ctx.opened.is_open(ctx.session, ino, true) {
                true => Ok(()),
                false => Err(FsError::new(
                    ErrorKind::BadHandle,
                    format!("inode {ino} is not open for writing"),
                )),
            };
        }
        permission::check(&inode.attr, caller, WRITE)
    };
    if let Some(size) = set.size {
        check_size(&inode, size)?;
        may_write()?;
    }
    check_owner(&inode, caller, set)?;
    if let Some(mode) = set.mode {
        check_mode(&inode, caller, mode, || {
            may_write().is_ok() || ctx.opened.is_open(ctx.session, ino, true)
        })?;
    }
    check_times(&inode, caller, set)?;

    if set.uid.is_some() || set.gid.is_some() {
        if !inode.is_directory() {
            inode.attr.mode = permission::without_set_id(&inode.attr, caller);
        }
        inode.attr.uid = set.uid.unwrap_or(inode.attr.uid);
        inode.attr.gid = set.gid.unwrap_or(inode.attr.gid);
    }
    if let Some(size) = set.size {
        if caller.uid != 0 {
            inode.attr.mode = permission::without_set_id(&inode.attr, caller);
        }
        resize(txn, ctx.now, &mut inode, size)?;
        inode.attr.mtime = ctx.now;
    }
    if let Some(mode) = set.mode {
        inode.attr.mode = mode & permission::MODE_BITS;
        if !permission::in_group_or_root(inode.attr.gid, caller) {
            inode.attr.mode &= !SET_GID;
        }
    }
    let at = |time| match time {
        SetTime::Now => ctx.now,
        SetTime::At(at) => at,
    };
    inode.attr.atime = set.atime.map_or(inode.attr.atime, at);
    inode.attr.mtime = set.mtime.map_or(inode.attr.mtime, at);
    inode.attr.ctime = ctx.now;
    inode.put(txn);
    Ok(OpReply::Attr(inode.attr))
}

fn check_size(inode: &Inode, size: u64) -> FsResult<()> {
    match inode.attr.kind {
        FileKind::File => {}
        FileKind::Directory => {
            return Err(FsError::new(
                ErrorKind::IsDirectory,
                "a directory has no size to set",
            ));
        }
        _ => return Err(FsError::new(ErrorKind::Invalid, "only files have a size to set")),
    }
    if size > FILE_BYTES_MAX {
        return Err(FsError::new(
            ErrorKind::FileTooBig,
            format!("a file has at most {FILE_BYTES_MAX} bytes"),
        ));
    }
    Ok(())
}

/// chown(2): root changes anything, the owner the group to one of his own.
fn check_owner(inode: &Inode, caller: &Caller, set: &SetAttr) -> FsResult<()> {
    if caller.uid == 0 || (set.uid.is_none() && set.gid.is_none()) {
        return Ok(());
    }
    let owner = caller.uid == inode.attr.uid;
    let keeps_owner = set.uid.is_none_or(|uid| owner && uid == inode.attr.uid);
    let own_group = set
        .gid
        .is_none_or(|gid| owner && (caller.in_group(gid) || gid == inode.attr.gid));
    match keeps_owner && own_group {
        true => Ok(()),
        false => Err(permission::not_permitted(
            "only root changes the owner, and the group to a foreign one",
        )),
    }
}

/// chmod(2). Who may write a file may take its set-id bits away, for that is what writing does, and kernels ask for it
/// in this way.
fn check_mode(inode: &Inode, caller: &Caller, mode: u32, may_write: impl Fn() -> bool) -> FsResult<()> {
    if inode.attr.kind == FileKind::Symlink {
        return Err(FsError::new(
            ErrorKind::NotSupported,
            "a symbolic link has no mode to set",
        ));
    }
    if permission::owns(&inode.attr, caller) {
        return Ok(());
    }
    let taken = inode.attr.mode & !mode;
    let added = mode & permission::MODE_BITS & !inode.attr.mode;
    let takes_set_id_only = added == 0 && taken != 0 && taken & !(SET_UID | SET_GID) == 0;
    if takes_set_id_only && inode.attr.kind == FileKind::File && may_write() {
        return Ok(());
    }
    Err(permission::not_permitted("only its owner changes the mode"))
}

/// utimensat(2): a given time needs ownership, the current time ownership or write permission. With a new size the current
/// time is part of the truncation.
fn check_times(inode: &Inode, caller: &Caller, set: &SetAttr) -> FsResult<()> {
    if set.atime.is_none() && set.mtime.is_none() {
        return Ok(());
    }
    for time in [set.atime, set.mtime].into_iter().flatten() {
        if matches!(time, SetTime::At(Timestamp { nanos, .. }) if nanos >= 1_000_000_000) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "nanoseconds are below 1,000,000,000",
            ));
        }
    }
    if permission::owns(&inode.attr, caller) {
        return Ok(());
    }
    let now = |time: Option<SetTime>| matches!(time, None | Some(SetTime::Now));
    if set.size.is_some() && now(set.atime) && now(set.mtime) {
        return Ok(());
    }
    if (set.atime, set.mtime) != (Some(SetTime::Now), Some(SetTime::Now)) {
        return Err(permission::not_permitted("only its owner sets times"));
    }
    permission::check(&inode.attr, caller, WRITE)
}

/// Truncates or extends with a hole. What was cut off does not come back when the file grows again.
fn resize(txn: &mut Txn<'_>, now: Timestamp, inode: &mut Inode, size: u64) -> FsResult<()> {
    if size == inode.attr.size {
        return Ok(());
    }
    if size == 0 {
        reap::drop_content(txn, now, inode)?;
    } else if size < inode.attr.size && inode.attr.allocated_bytes > 0 {
        let mut edit = MapEdit::new(inode.map());
        edit.cut(txn, size, u64::MAX)?;
        let mut counters = counters::get(txn)?;
        edit.finish_of(txn, inode, now, &mut counters)?;
        counters::put(txn, &counters);
    }
    inode.attr.size = size;
    inode.attr.map_version += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::namespace::fixture::{Fixture, commit, in_chunk, inline, kind, received, user};
    use crate::namespace::read;
    use dfs_common::op::Operation;

    fn set(change: impl FnOnce(&mut SetAttr)) -> SetAttr {
        let mut set = SetAttr::default();
        change(&mut set);
        set
    }

    fn file_of(fixture: &mut Fixture, uid: u32, mode: u32) -> Ino {
        let ino = fixture.file(Ino::ROOT, &format!("file-{uid}-{mode:o}"));
        fixture.chown(ino, uid, uid).unwrap();
        fixture.chmod(ino, mode).unwrap();
        ino
    }

    #[test]
    fn mode_is_the_owner_s_and_a_foreign_group_s_bit_is_dropped() {
        let mut fixture = Fixture::default();
        let file = file_of(&mut fixture, 5, 0o644);
        let chmod = |mode| set(|set| set.mode = Some(mode));
        assert_eq!(
            kind(&fixture.setattr_as(&user(6), file, chmod(0o777))),
            ErrorKind::NotPermitted
        );
        fixture.setattr_as(&user(5), file, chmod(0o106_755)).unwrap();
        assert_eq!(fixture.attr(file).mode, 0o6755);
        assert_eq!(fixture.attr(file).ctime, fixture.now());
        fixture.chown(file, 5, 99).unwrap();
        fixture.setattr_as(&user(5), file, chmod(0o2755)).unwrap();
        assert_eq!(fixture.attr(file).mode, 0o755);
        let link = fixture.symlink(Ino::ROOT, "l", b"x").unwrap();
        assert_eq!(kind(&fixture.chmod(link, 0o700)), ErrorKind::NotSupported);
    }

    #[test]
    fn writer_may_drop_set_id_bits_and_nothing_else() {
        let mut fixture = Fixture::default();
        let file = file_of(&mut fixture, 5, 0o6766);
        let chmod = |mode| set(|set| set.mode = Some(mode));
        for refused in [0o6766, 0o6767, 0o2666, 0o766 | 0o1000] {
            assert_eq!(
                kind(&fixture.setattr_as(&user(6), file, chmod(refused))),
                ErrorKind::NotPermitted
            );
        }
        fixture.setattr_as(&user(6), file, chmod(0o2766)).unwrap();
        assert_eq!(fixture.attr(file).mode & SET_UID, 0);
        fixture.chmod(file, 0o4744).unwrap();
        assert_eq!(
            kind(&fixture.setattr_as(&user(6), file, chmod(0o744))),
            ErrorKind::NotPermitted,
            "no writer"
        );
        fixture.open(file, true);
        assert!(
            fixture.setattr_as(&user(6), file, chmod(0o744)).is_ok(),
            "it has the file open for writing"
        );
    }

    #[test]
    fn owner_gives_to_his_groups_only_and_set_id_bits_go() {
        let mut fixture = Fixture::default();
        let file = file_of(&mut fixture, 5, 0o6755);
        let caller = Caller {
            groups: vec![50],
            ..user(5)
        };
        let chown = |uid, gid| {
            set(|set| {
                set.uid = uid;
                set.gid = gid;
            })
        };
        for (uid, gid) in [(Some(6), None), (None, Some(6)), (Some(5), Some(6))] {
            assert_eq!(
                kind(&fixture.setattr_as(&caller, file, chown(uid, gid))),
                ErrorKind::NotPermitted
            );
        }
        assert_eq!(
            kind(&fixture.setattr_as(&user(6), file, chown(None, Some(5)))),
            ErrorKind::NotPermitted
        );
        fixture
            .setattr_as(&caller, file, chown(Some(5), Some(50)))
            .unwrap();
        let attr = fixture.attr(file);
        assert_eq!((attr.uid, attr.gid, attr.mode), (5, 50, 0o755));
        let directory = fixture.mkdir(Ino::ROOT, "d");
        fixture.chmod(directory, 0o2755).unwrap();
        fixture.chown(directory, 5, 5).unwrap();
        assert_eq!(fixture.attr(directory).mode, 0o2755, "directories keep theirs");
    }

    #[test]
    fn size_needs_write_permission_or_the_session_s_open_file() {
        let mut fixture = Fixture::default();
        let file = file_of(&mut fixture, 5, 0o6750);
        let size = set(|set| set.size = Some(10));
        assert_eq!(
            kind(&fixture.setattr_as(&user(6), file, size.clone())),
            ErrorKind::PermissionDenied
        );
        let by_handle = Operation::Setattr {
            ino: file,
            set: size.clone(),
            by_handle: true,
        };
        assert_eq!(kind(&fixture.apply(&user(6), &by_handle)), ErrorKind::BadHandle);
        fixture.open(file, false);
        assert_eq!(kind(&fixture.apply(&user(6), &by_handle)), ErrorKind::BadHandle);
        fixture.open(file, true);
        let version = fixture.attr(file).map_version;
        fixture.apply(&user(6), &by_handle).unwrap();
        let attr = fixture.attr(file);
        assert_eq!((attr.size, attr.mode, attr.mtime), (10, 0o750, fixture.now()));
        assert!(attr.map_version > version);
        let directory = fixture.mkdir(Ino::ROOT, "d");
        assert_eq!(kind(&fixture.truncate(directory, 0)), ErrorKind::IsDirectory);
        let link = fixture.symlink(Ino::ROOT, "l", b"x").unwrap();
        assert_eq!(kind(&fixture.truncate(link, 0)), ErrorKind::Invalid);
        assert_eq!(kind(&fixture.truncate(file, u64::MAX)), ErrorKind::FileTooBig);
    }

    #[test]
    fn what_was_cut_off_does_not_come_back() {
        let mut fixture = Fixture::default();
        let file = fixture.open_file("f");
        let chunk = fixture.chunk();
        let extents = vec![
            inline(0, b"abc"),
            in_chunk(10, 100, chunk, 7),
            in_chunk(200, 50, chunk, 0),
        ];
        fixture
            .commit(commit(file, extents, vec![received(chunk, 107, &[1, 2])]))
            .unwrap();
        fixture.truncate(file, 60).unwrap();
        fixture.assert_clean();
        fixture.truncate(file, 1000).unwrap();
        assert_eq!(fixture.runs(file), [(0, 3), (10, 50)]);
        assert_eq!(fixture.attr(file).allocated_bytes, 53);
        fixture.truncate(file, 10).unwrap();
        let counters = read::statfs_counters(&fixture.store).unwrap();
        assert_eq!((counters.chunks, counters.freed_chunks), (0, 1));
        fixture.truncate(file, 2).unwrap();
        assert_eq!(fixture.runs(file), [(0, 2)]);
        fixture.truncate(file, 0).unwrap();
        assert!(fixture.runs(file).is_empty());
        fixture.assert_clean();
    }

    #[test]
    fn file_with_very_many_extents_is_emptied_at_once_and_reaped_in_steps() {
        let mut fixture = Fixture::default();
        let file = fixture.open_file("f");
        let chunk = fixture.chunk();
        let extents: Vec<_> = (0..1000).map(|n| in_chunk(n * 20, 10, chunk, n)).collect();
        let chunks = vec![received(chunk, 2000, &[1, 2])];
        fixture.commit(commit(file, extents.clone(), chunks)).unwrap();
        fixture.truncate(file, 0).unwrap();
        assert!(fixture.runs(file).is_empty());
        fixture.assert_clean();
        fixture
            .commit(commit(file, vec![in_chunk(5, 10, chunk, 0)], vec![]))
            .unwrap();
        while fixture.reap_step(300) {
            fixture.assert_clean();
        }
        assert_eq!(
            fixture.runs(file),
            [(5, 10)],
            "the new content stands in a new map"
        );
        assert_eq!(read::statfs_counters(&fixture.store).unwrap().content_bytes, 10);
        fixture.release(file);
        fixture.unlink_as(&Caller::root(), Ino::ROOT, "f").unwrap();
        fixture.assert_clean();
    }

    #[test]
    fn times_are_the_owner_s_and_now_is_the_writer_s_too() {
        let mut fixture = Fixture::default();
        let file = file_of(&mut fixture, 5, 0o666);
        let at = Timestamp {
            secs: -5,
            nanos: 999_999_999,
        };
        let times = |atime, mtime| {
            set(|set| {
                set.atime = atime;
                set.mtime = mtime;
            })
        };
        let (now, given) = (Some(SetTime::Now), Some(SetTime::At(at)));
        for refused in [times(given, given), times(now, None), times(now, given)] {
            assert_eq!(
                kind(&fixture.setattr_as(&user(6), file, refused)),
                ErrorKind::NotPermitted
            );
        }
        fixture.setattr_as(&user(6), file, times(now, now)).unwrap();
        assert_eq!(fixture.attr(file).atime, fixture.now());
        fixture.setattr_as(&user(5), file, times(given, None)).unwrap();
        let attr = fixture.attr(file);
        assert_eq!((attr.atime, attr.ctime), (at, fixture.now()));
        assert_ne!(attr.mtime, at);
        fixture.chmod(file, 0o644).unwrap();
        assert_eq!(
            kind(&fixture.setattr_as(&user(6), file, times(now, now))),
            ErrorKind::PermissionDenied
        );
        let malformed = Some(SetTime::At(Timestamp {
            secs: 0,
            nanos: 1_000_000_000,
        }));
        assert_eq!(
            kind(&fixture.setattr_as(&user(5), file, times(malformed, None))),
            ErrorKind::Invalid
        );
    }

    #[test]
    fn refused_part_leaves_the_rest_undone_and_nothing_asked_changes_nothing() {
        let mut fixture = Fixture::default();
        let file = file_of(&mut fixture, 5, 0o666);
        let before = fixture.attr(file);
        let both = set(|set| {
            set.size = Some(3);
            set.uid = Some(6);
        });
        assert_eq!(
            kind(&fixture.setattr_as(&user(6), file, both)),
            ErrorKind::NotPermitted
        );
        fixture.setattr_as(&user(6), file, SetAttr::default()).unwrap();
        assert_eq!(fixture.attr(file), before);
    }
}
