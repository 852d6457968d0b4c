use crate::namespace::fixture::{Fixture, commit, inline, kind, name, user};
use crate::namespace::{keys, read};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::limits::REPLACED_INODE_KEPT;
use dfs_common::op::{OpReply, RenameMode};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsResult, Ino};
use std::sync::atomic::{AtomicUsize, Ordering};

const REPLACE: RenameMode = RenameMode::Replace;
const ROOT: Ino = Ino::ROOT;

fn renamed(ino: Ino, other: Option<Ino>) -> dfs_common::op::OpResult {
    Ok(OpReply::Renamed { ino, other })
}

#[test]
fn rename_over_open_file_keeps_old_data_readable() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let old = fixture.open_file("a");
    fixture
        .commit(commit(old, vec![inline(0, b"old")], vec![]))
        .unwrap();
    let new = fixture.file(ROOT, "b");
    assert_eq!(
        fixture.rename_as(&root, (ROOT, "b"), (ROOT, "a"), REPLACE),
        renamed(new, Some(old))
    );
    assert_eq!(fixture.listing(ROOT), ["a"]);
    assert_eq!((fixture.ino(ROOT, "a"), fixture.attr(old).nlink), (new, 0));
    assert_eq!(fixture.runs(old), [(0, 3)]);
    assert_eq!(fixture.attr(new).ctime, fixture.now());
    fixture.assert_clean();
    fixture.seconds += REPLACED_INODE_KEPT.as_secs() as i64;
    fixture.reap_replaced(1);
    assert_eq!(fixture.runs(old), [(0, 3)]);
    fixture.assert_clean();
    fixture.release(old);
    assert_eq!(kind(&read::getattr(&fixture.store, old)), ErrorKind::Stale);
    fixture.assert_clean();
}

#[test]
fn directory_that_moves_takes_its_dots_along() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let (a, b) = (fixture.mkdir(ROOT, "a"), fixture.mkdir(ROOT, "b"));
    let moved = fixture.mkdir(a, "d");
    fixture.file(moved, "f");
    fixture.rename_as(&root, (a, "d"), (b, "e"), REPLACE).unwrap();
    assert_eq!((fixture.attr(a).nlink, fixture.attr(b).nlink), (2, 3));
    assert_eq!((fixture.attr(a).size, fixture.attr(b).size), (0, 1));
    let page = read::readdir(&fixture.store, &root, moved, 0, 10, false).unwrap();
    assert_eq!((page.parent, page.entries.len()), (b, 1));
    fixture.assert_clean();
    // Over an empty directory it may go, over another one not.
    let empty = fixture.mkdir(a, "empty");
    assert_eq!(
        fixture.rename_as(&root, (b, "e"), (a, "empty"), REPLACE),
        renamed(moved, Some(empty))
    );
    assert_eq!((fixture.attr(a).nlink, fixture.attr(b).nlink), (3, 2));
    fixture.mkdir(b, "other");
    assert_eq!(
        kind(&fixture.rename_as(&root, (b, "other"), (a, "empty"), REPLACE)),
        ErrorKind::NotEmpty
    );
    fixture.assert_clean();
}

#[test]
fn directory_cannot_come_below_itself() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let a = fixture.mkdir(ROOT, "a");
    let b = fixture.mkdir(a, "b");
    let c = fixture.mkdir(b, "c");
    let file = fixture.file(c, "f");
    for (parent, text) in [(a, "x"), (b, "x"), (c, "x")] {
        assert_eq!(
            kind(&fixture.rename_as(&root, (ROOT, "a"), (parent, text), REPLACE)),
            ErrorKind::Invalid
        );
    }
    assert_eq!(
        kind(&fixture.rename_as(&root, (c, "f"), (ROOT, "a"), REPLACE)),
        ErrorKind::NotEmpty
    );
    assert_eq!(
        kind(&fixture.rename_as(&root, (c, "f"), (ROOT, "a"), RenameMode::Exchange)),
        ErrorKind::Invalid
    );
    assert_eq!(fixture.ino(c, "f"), file);
}

#[test]
fn exchange_swaps_names_and_links() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let above = fixture.mkdir(ROOT, "above");
    let directory = fixture.mkdir(above, "d");
    let file = fixture.file(ROOT, "f");
    let exchange = RenameMode::Exchange;
    assert_eq!(
        fixture.rename_as(&root, (ROOT, "f"), (above, "d"), exchange),
        renamed(file, Some(directory))
    );
    assert_eq!(
        (fixture.ino(ROOT, "f"), fixture.ino(above, "d")),
        (directory, file)
    );
    assert_eq!((fixture.attr(above).nlink, fixture.attr(ROOT).nlink), (2, 4));
    for ino in [file, directory] {
        assert_eq!(fixture.attr(ino).ctime, fixture.now());
    }
    for ino in [above, ROOT] {
        assert_eq!(fixture.attr(ino).mtime, fixture.now());
    }
    fixture.assert_clean();
    fixture.file(ROOT, "g");
    fixture
        .rename_as(&root, (ROOT, "g"), (ROOT, "f"), exchange)
        .unwrap();
    assert_eq!(fixture.ino(ROOT, "g"), directory);
    assert_eq!(
        kind(&fixture.rename_as(&root, (ROOT, "g"), (ROOT, "none"), exchange)),
        ErrorKind::NotFound
    );
    fixture.assert_clean();
}

#[test]
fn kinds_and_modes_are_respected() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    fixture.mkdir(ROOT, "d");
    let file = fixture.file(ROOT, "f");
    fixture.link_as(&root, file, ROOT, "g").unwrap();
    let mut rename = |from: &str, to: &str, mode| {
        let result = fixture.rename_as(&root, (ROOT, from), (ROOT, to), mode);
        (
            result.clone().map_err(|error| error.kind()),
            fixture.listing(ROOT),
        )
    };
    let all = || ["d", "f", "g"].map(String::from).to_vec();
    for (from, to, mode, error) in [
        ("f", "d", REPLACE, ErrorKind::IsDirectory),
        ("d", "f", REPLACE, ErrorKind::NotDirectory),
        ("f", "g", RenameMode::NoReplace, ErrorKind::Exists),
        ("none", "g", REPLACE, ErrorKind::NotFound),
    ] {
        assert_eq!(rename(from, to, mode), (Err(error), all()));
    }
    // Two names of one file: both stay.
    let both = OpReply::Renamed {
        ino: file,
        other: Some(file),
    };
    assert_eq!(rename("f", "g", REPLACE), (Ok(both), all()));
    assert!(rename("f", "h", RenameMode::NoReplace).0.is_ok());
    fixture.assert_clean();
}

#[test]
fn listing_meets_every_name_that_stays_once() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    for text in ["a", "b", "c", "d"] {
        fixture.file(ROOT, text);
    }
    let first = read::readdir(&fixture.store, &root, ROOT, 0, 2, false).unwrap();
    assert!(!first.end);
    // Seen already: renamed within the directory it does not come again.
    fixture
        .rename_as(&root, (ROOT, "a"), (ROOT, "a2"), REPLACE)
        .unwrap();
    // "b" was seen and "d" was not: each comes once, though their files changed.
    fixture
        .rename_as(&root, (ROOT, "d"), (ROOT, "b"), REPLACE)
        .unwrap();
    fixture.file(ROOT, "e");
    fixture
        .rename_as(&root, (ROOT, "e"), (ROOT, "c"), REPLACE)
        .unwrap();
    let cursor = first.entries[1].cursor;
    let rest = read::readdir(&fixture.store, &root, ROOT, cursor, 10, true).unwrap();
    let names: Vec<String> = rest.entries.iter().map(|entry| entry.name.to_string()).collect();
    assert_eq!(names, ["c"]);
    assert!(rest.end);
}

#[test]
fn sticky_and_unwritable_directories_refuse() {
    let mut fixture = Fixture::default();
    let scratch = fixture.mkdir(ROOT, "tmp");
    fixture.chmod(scratch, 0o1777).unwrap();
    let fixed = fixture.mkdir(ROOT, "fixed");
    fixture.create_as(&user(5), scratch, "f", 0o644).unwrap();
    fixture.create_as(&user(6), scratch, "g", 0o644).unwrap();
    let moved = fixture.mkdir_as(&user(6), scratch, "d", 0o555).unwrap();
    let mut rename = |uid, from, to| kind(&fixture.rename_as(&user(uid), from, to, REPLACE));
    assert_eq!(rename(6, (scratch, "f"), (ROOT, "x")), ErrorKind::NotPermitted);
    assert_eq!(rename(6, (scratch, "g"), (scratch, "f")), ErrorKind::NotPermitted);
    assert_eq!(
        rename(6, (scratch, "g"), (fixed, "g")),
        ErrorKind::PermissionDenied
    );
    assert_eq!(
        rename(6, (scratch, "d"), (ROOT, "d")),
        ErrorKind::PermissionDenied,
        "its own `..` would change"
    );
    assert!(
        fixture
            .rename_as(&user(6), (scratch, "d"), (scratch, "d2"), REPLACE)
            .is_ok()
    );
    assert_eq!(fixture.ino(scratch, "d2"), moved);
}

/// A store whose first answers to `key` are these; then it answers itself.
struct Before<'a> {
    store: &'a dyn MetaRead,
    key: Bytes,
    answers: Vec<Bytes>,
    asked: AtomicUsize,
}

impl MetaRead for Before<'_> {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        if key == self.key
            && let Some(answer) = self.answers.get(self.asked.fetch_add(1, Ordering::Relaxed))
        {
            return Ok(Some(answer.clone()));
        }
        self.store.get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        self.store.scan(start, end, limit)
    }
}

#[test]
fn lookup_between_two_renames_finds_the_last_one() {
    let mut fixture = Fixture::default();
    let root = Caller::root();
    let key = keys::dentry(ROOT, &name("f"));
    let entry_of_new_file = |fixture: &mut Fixture| {
        fixture.file(ROOT, "new");
        fixture
            .rename_as(&root, (ROOT, "new"), (ROOT, "f"), REPLACE)
            .unwrap();
        fixture.store.get(&key).unwrap().unwrap()
    };
    let old = [(); 2].map(|()| entry_of_new_file(&mut fixture));
    entry_of_new_file(&mut fixture);
    fixture.seconds += REPLACED_INODE_KEPT.as_secs() as i64;
    assert_eq!(fixture.reap_replaced(10).inodes, 2);
    let look = |fixture: &Fixture, answers: &[Bytes]| {
        let before = Before {
            store: &fixture.store,
            key: keys::dentry(ROOT, &name("f")),
            answers: answers.to_vec(),
            asked: AtomicUsize::new(0),
        };
        read::lookup(&before, &Caller::root(), ROOT, &name("f")).map(|entry| entry.attr.ino)
    };
    assert_eq!(look(&fixture, &old), Ok(fixture.ino(ROOT, "f")));
    // The same entry twice and no inode: that is no race.
    let twice = [old[0].clone(), old[0].clone()];
    assert_eq!(kind(&look(&fixture, &twice)), ErrorKind::Corrupt);
    fixture.unlink_as(&root, ROOT, "f").unwrap();
    assert_eq!(kind(&look(&fixture, &old)), ErrorKind::NotFound);
}
