//! Directory entries, by name and as listed; and sorts them by what they name, for [`super::inodes`].

use super::rows::{Numbered, Rows, number_of, numbers, record};
use super::{Check, readable_inode};
use crate::namespace::dentry::{self, Dentry};
use crate::namespace::inode::Inode;
use crate::namespace::repair::{EntryFault, Repair};
use crate::namespace::{damaged, keys};
use crate::sort::{Sorted, Sorter};
use crate::store::MetaRead;
use crate::stored;
use dfs_common::{FileKind, FsResult, Ino, Name};

/// What the names say.
pub(super) struct Names {
    /// [`ChildName`]s, by what they name; of each inode those that stand by name first.
    pub(super) children: Sorted,
    /// Directory, entries, subdirectories.
    pub(super) counts: Sorted,
    /// Directory, and whether a subdirectory: names that are listed only, and will stand there again.
    pub(super) missed: Sorted,
}

/// A name of an inode.
pub(super) struct ChildName {
    pub(super) entry: Dentry,
    pub(super) parent: Ino,
    pub(super) name: Name,
    /// It is listed, and does not stand there by name.
    pub(super) listed_only: bool,
}

impl ChildName {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = record([self.entry.ino.0]);
        bytes.push(u8::from(self.listed_only));
        bytes.extend(record([self.parent.0, self.entry.cursor]));
        bytes.push(self.entry.kind.code() as u8);
        bytes.extend_from_slice(self.name.as_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> FsResult<Self> {
        let (Some((ino, rest)), malformed) = (bytes.split_at_checked(8), || damaged("sorted name")) else {
            return Err(damaged("sorted name"));
        };
        let (listed_only, rest) = rest.split_first().ok_or_else(malformed)?;
        let (place, rest) = rest.split_at_checked(16).ok_or_else(malformed)?;
        let (kind, name) = rest.split_first().ok_or_else(malformed)?;
        let [parent, cursor] = numbers(place);
        Ok(ChildName {
            entry: Dentry {
                ino: Ino(number_of(ino)),
                kind: FileKind::from_code(u32::from(*kind)).ok_or_else(malformed)?,
                cursor,
            },
            parent: Ino(parent),
            name: Name::new(name.to_vec()).map_err(|_| malformed())?,
            listed_only: *listed_only != 0,
        })
    }
}

/// What an entry stands in.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Directory,
    OtherKind,
    Nothing,
}

/// Checks the entries and sorts them.
pub(super) fn check(check: &mut Check<'_>) -> FsResult<Names> {
    let mut children = Sorter::new(check.scratch);
    let counts = entries(check, &mut children)?;
    let any_listed_only = listings(check, &mut children)?;
    let children = children.finish()?;
    let mut missed = Sorter::new(check.scratch);
    if any_listed_only {
        find_missed(check.read, &children, &mut missed)?;
    }
    Ok(Names {
        children,
        counts,
        missed: missed.finish()?,
    })
}

fn entries(check: &mut Check<'_>, children: &mut Sorter) -> FsResult<Sorted> {
    let read = check.read;
    let mut counts = Sorter::new(check.scratch);
    let mut inodes = Rows::new(read, keys::inodes());
    let (mut at, mut place, mut count) = (None, Place::Nothing, [0, 0]);
    stored::for_each(read, keys::dentries(), |key, value| {
        let parsed = keys::parse_dentry(&key).ok_or_else(|| damaged("directory entry"));
        let entry = parsed.and_then(|(parent, name)| Ok((parent, name, dentry::decode(value)?)));
        let Some((parent, name, entry)) = check.report.readable(&key, entry)? else {
            return Ok(());
        };
        if at != Some(parent) {
            flush(&mut counts, at, place, count)?;
            (at, count) = (Some(parent), [0, 0]);
            let inode = inodes.value_of(parent.0)?.map(Inode::decode);
            place = match inode {
                Some(Ok(inode)) if inode.ino() != parent => Place::Nothing,
                Some(Ok(inode)) if inode.is_directory() => Place::Directory,
                Some(Ok(_)) => Place::OtherKind,
                _ => Place::Nothing,
            };
            if place == Place::Nothing && parent != Ino::ROOT {
                check.report.repair(Repair::Directory { ino: parent });
            }
        }
        count[0] += 1;
        count[1] += u64::from(entry.kind == FileKind::Directory);
        check_entry(check, parent, &name, entry, place)?;
        if place == Place::OtherKind {
            return Ok(());
        }
        let child = ChildName {
            entry,
            parent,
            name,
            listed_only: false,
        };
        children.push(&child.encode())
    })?;
    flush(&mut counts, at, place, count)?;
    counts.finish()
}

fn flush(counts: &mut Sorter, at: Option<Ino>, place: Place, count: [u64; 2]) -> FsResult<()> {
    match (at, place) {
        (Some(directory), Place::Directory) => counts.push(&record([directory.0, count[0], count[1]])),
        _ => Ok(()),
    }
}

/// It is listed as it stands there, and stands in a directory.
fn check_entry(check: &mut Check<'_>, parent: Ino, name: &Name, entry: Dentry, place: Place) -> FsResult<()> {
    let fault = |fault| Repair::Entry {
        parent,
        name: name.clone(),
        entry,
        fault,
    };
    let cursor = check.read.get(&keys::cursor(parent, entry.cursor))?;
    // One that cannot be read is named where the listings are looked at.
    let listed = cursor.and_then(|value| dentry::decode_cursor(value).ok());
    let same = listed.is_some_and(|listed| listed == (name.clone(), entry.ino, entry.kind));
    let report = &mut check.report;
    report.expect_or_repair(
        same,
        || format!("entry {name} of inode {parent} is not listed as it stands there"),
        || fault(EntryFault::Unlisted),
    );
    if same && entry.cursor >= 3 {
        check.numbers_below = check.numbers_below.max(entry.cursor.saturating_add(1));
    }
    report.expect((3..check.numbers_given).contains(&entry.cursor), || {
        format!("entry {name} of inode {parent} has a cursor that was not given")
    });
    match place {
        Place::Directory => {}
        Place::OtherKind => report.expect_or_repair(
            false,
            || format!("entry {name} stands in inode {parent}, which is no directory"),
            || fault(EntryFault::Dangling),
        ),
        Place::Nothing => report.problem(format!(
            "entry {name} stands in inode {parent}, which does not exist"
        )),
    }
    Ok(())
}

/// Every listed entry stands there by name; those of which nothing stands there are added to `children`, and true is the answer if
/// there are some.
fn listings(check: &mut Check<'_>, children: &mut Sorter) -> FsResult<bool> {
    let read = check.read;
    let mut any_listed_only = false;
    stored::for_each(read, keys::cursors(), |key, value| {
        let parsed = keys::parse_cursor(&key).ok_or_else(|| damaged("directory entry"));
        let listed = parsed.and_then(|place| Ok((place, dentry::decode_cursor(value)?)));
        let Some(((parent, cursor), (name, ino, kind))) = check.report.readable(&key, listed)? else {
            return Ok(());
        };
        let Some(value) = read.get(&keys::dentry(parent, &name))? else {
            any_listed_only = true;
            let child = ChildName {
                entry: Dentry { ino, kind, cursor },
                parent,
                name,
                listed_only: true,
            };
            return children.push(&child.encode());
        };
        // One that cannot be read was named before.
        let same = dentry::decode(value).is_ok_and(|entry| entry.ino == ino && entry.cursor == cursor);
        if !same {
            report_listed(check, parent, &name, Dentry { ino, kind, cursor }, false);
        }
        Ok(())
    })?;
    Ok(any_listed_only)
}

/// A listed entry that does not stand there by name; `missed`: that is all that is wrong.
pub(super) fn report_listed(check: &mut Check<'_>, parent: Ino, name: &Name, listed: Dentry, missed: bool) {
    check.report.expect_or_repair(
        false,
        || format!("listed entry {name} of inode {parent} does not stand there"),
        || Repair::Listed {
            parent,
            cursor: listed.cursor,
            name: name.clone(),
            ino: listed.ino,
            kind: listed.kind,
            missed,
        },
    );
}

/// A listed name is all that is missing if its inode, which has `links` names, says that it has one more, or, a directory, that it is there.
pub(super) fn is_missed(read: &dyn MetaRead, inode: &Inode, links: u64, parent: Ino) -> FsResult<bool> {
    let lacks = match inode.is_directory() {
        true => inode.parent == parent && links == 0,
        false => u64::from(inode.attr.nlink) > links,
    };
    Ok(lacks && readable_inode(read, parent)?.is_some_and(|parent| parent.is_directory()))
}

fn find_missed(read: &dyn MetaRead, children: &Sorted, missed: &mut Sorter) -> FsResult<()> {
    let mut names = children.read()?;
    while let Some(number) = names.first_number() {
        let (mut links, mut inode) = (0, None);
        while let Some(bytes) = names.next_of(number)? {
            let child = ChildName::decode(&bytes)?;
            if !child.listed_only {
                links += 1;
                continue;
            }
            if inode.is_none() {
                inode = Some(readable_inode(read, Ino(number))?);
            }
            if let Some(Some(inode)) = &inode
                && is_missed(read, inode, links, child.parent)?
            {
                let subdirectory = u64::from(child.entry.kind == FileKind::Directory);
                missed.push(&record([child.parent.0, subdirectory]))?;
            }
        }
    }
    Ok(())
}
