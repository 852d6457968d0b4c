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
