//! Open directories: what was fetched and has not been sent yet.
//!
//! A directory is read by cursors that stay valid while their entries exist, so that nothing but the rest of a page is
//! kept, and seekdir(3) to any place works: the rest is then dropped and fetched anew. `.` and `..` have the cursors 1 and
//! 2. Invariant: entries are sent in cursor order, each with the cursor behind it.

use crate::convert::no_attributes;
use dfs_client::Client;
use dfs_common::attr::{Attr, FileKind};
use dfs_common::service::DirEntry;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use fuser::{Generation, INodeNo, ReplyDirectory, ReplyDirectoryPlus};
use parking_lot::Mutex;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Entries fetched at once: about what two calls of getdents(2) take.
const PAGE_ENTRIES: u32 = 512;
/// Cursor behind `.`.
const DOT: u64 = 1;
/// Cursor behind `..`; those of other entries are above.
const DOT_DOT: u64 = 2;

/// The open directories of a mount.
#[derive(Debug, Default)]
pub struct Directories {
    open: Mutex<HashMap<u64, Arc<Directory>>>,
    last: AtomicU64,
}

impl Directories {
    /// Opens one, to be read with the rights of `caller` whoever holds it later; gives its number. `attr` is what it is
    /// taken for should it be removed while it is open.
    pub fn open(&self, ino: Ino, caller: Caller, attr: Option<Attr>) -> u64 {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let directory = Directory {
            ino,
            caller,
            attr,
            rest: Mutex::default(),
        };
        self.open.lock().insert(number, Arc::new(directory));
        number
    }

    /// An open one.
    ///
    /// # Errors
    /// `BadHandle`.
    pub fn get(&self, number: u64) -> FsResult<Arc<Directory>> {
        let found = self.open.lock().get(&number).cloned();
        found.ok_or_else(|| FsError::new(ErrorKind::BadHandle, "the directory is not open"))
    }

    /// Attributes of a directory that was removed while it was open here: it has no links and no entries.
    pub fn removed(&self, ino: Ino) -> Option<Attr> {
        let open = self.open.lock();
        let mut attr = open
            .values()
            .find(|directory| directory.ino == ino)?
            .attr
            .clone()?;
        (attr.nlink, attr.size) = (0, 0);
        Some(attr)
    }

    /// Closes one.
    pub fn close(&self, number: u64) {
        self.open.lock().remove(&number);
    }
}

/// An open directory.
#[derive(Debug)]
pub struct Directory {
    ino: Ino,
    caller: Caller,
    attr: Option<Attr>,
    rest: Mutex<Rest>,
}

/// Entries fetched and not sent.
#[derive(Debug, Default)]
struct Rest {
    /// The cursor that the entries follow.
    after: u64,
    entries: VecDeque<DirEntry>,
    /// They have attributes.
    attrs: bool,
    /// Nothing follows them.
    end: bool,
    /// Known once a page was fetched.
    parent: Option<Ino>,
}

/// One entry for the kernel.
pub struct Item<'a> {
    /// Inode.
    pub ino: Ino,
    /// The cursor behind it.
    pub cursor: u64,
    /// Kind.
    pub kind: FileKind,
    /// Name.
    pub name: &'a [u8],
    /// Attributes; `.` and `..` have none.
    pub attr: Option<&'a Attr>,
}

/// The kernel's buffer.
pub trait Sink {
    /// Whether entries need attributes.
    const ATTRS: bool;
    /// Takes an entry; false if there is no room for it.
    fn take(&mut self, item: &Item<'_>) -> bool;
}

impl Sink for ReplyDirectory {
    const ATTRS: bool = false;

    fn take(&mut self, item: &Item<'_>) -> bool {
        let kind = crate::convert::kind(item.kind);
        !self.add(
            INodeNo(item.ino.0),
            item.cursor,
            kind,
            OsStr::from_bytes(item.name),
        )
    }
}

/// A buffer of entries with attributes, and the inodes that it tells of: the kernel takes a reference to each.
pub struct Plus {
    /// The buffer.
    pub reply: ReplyDirectoryPlus,
    /// Inodes, without those of `.` and `..`.
    pub entries: Vec<Ino>,
}

impl Plus {
    /// An empty one.
    pub fn new(reply: ReplyDirectoryPlus) -> Self {
        let entries = Vec::new();
        Plus { reply, entries }
    }
}

impl Sink for Plus {
    const ATTRS: bool = true;

    fn take(&mut self, item: &Item<'_>) -> bool {
        // The kernel looks at number and kind only of `.` and `..`.
        let attr = match item.attr {
            Some(attr) => crate::convert::attr(attr),
            None => no_attributes(item.ino, item.kind),
        };
        let generation = item.attr.map_or(0, |attr| attr.generation);
        let name = OsStr::from_bytes(item.name);
        // The kernel may look at a listing after it forgot all names: it is believed for no time (docs/adr/0019-names-in-the-kernel.md).
        let taken = !self.reply.add(
            INodeNo(item.ino.0),
            item.cursor,
            name,
            &Duration::ZERO,
            &attr,
            Generation(generation),
        );
        if taken && item.attr.is_some() {
            self.entries.push(item.ino);
        }
        taken
    }
}

impl Directory {
    /// Fills the kernel's buffer with what follows `cursor` (0: from the start), fetching at most one page. Nothing taken
    /// means the end.
    ///
    /// # Errors
    /// Those of [`Client::readdir`].
    pub async fn read<S: Sink>(&self, client: &Client, cursor: u64, sink: &mut S) -> FsResult<()> {
        let mut rest = self.rest_after(cursor, S::ATTRS);
        if rest.parent.is_none() || (rest.entries.is_empty() && !rest.end) {
            let from = if cursor <= DOT_DOT { 0 } else { cursor };
            let page = client
                .readdir(&self.caller, self.ino, from, PAGE_ENTRIES, S::ATTRS)
                .await?;
            rest = Rest {
                after: cursor,
                entries: page.entries.into(),
                attrs: S::ATTRS,
                end: page.end,
                parent: Some(page.parent),
            };
        }
        let dots = [
            (DOT, &b"."[..], self.ino),
            (DOT_DOT, b"..", rest.parent.unwrap_or(self.ino)),
        ];
        for (behind, name, ino) in dots.into_iter().filter(|(behind, ..)| *behind > cursor) {
            let taken = sink.take(&Item {
                ino,
                cursor: behind,
                kind: FileKind::Directory,
                name,
                attr: None,
            });
            if !taken {
                break;
            }
            rest.after = behind;
        }
        while rest.after >= DOT_DOT
            && let Some(entry) = rest.entries.front()
        {
            if S::ATTRS && entry.attr.is_none() {
                return Err(FsError::new(
                    ErrorKind::Io,
                    "an entry was listed without its attributes",
                ));
            }
            let taken = sink.take(&Item {
                ino: entry.ino,
                cursor: entry.cursor,
                kind: entry.kind,
                name: entry.name.as_bytes(),
                attr: entry.attr.as_ref(),
            });
            if !taken {
                break;
            }
            rest.after = entry.cursor;
            rest.entries.pop_front();
        }
        *self.rest.lock() = rest;
        Ok(())
    }

    /// What is left of the last page if it continues at `cursor` with what is asked for.
    fn rest_after(&self, cursor: u64, attrs: bool) -> Rest {
        let mut rest = self.rest.lock();
        // A listing from the start is a new one: it shall see what changed since.
        if cursor != 0 && rest.after == cursor && (rest.attrs || !attrs) {
            return std::mem::take(&mut rest);
        }
        Rest::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_open_directories_are_not_reused() {
        let directories = Directories::default();
        let first = directories.open(Ino::ROOT, Caller::root(), None);
        directories.close(first);
        let second = directories.open(Ino(2), Caller::root(), None);
        assert_ne!(first, second);
        assert_eq!(directories.get(first).unwrap_err().kind(), ErrorKind::BadHandle);
        assert_eq!(directories.get(second).unwrap().ino, Ino(2));
    }

    #[test]
    fn rest_of_a_page_is_used_only_where_it_continues() {
        let directory = Directory {
            ino: Ino::ROOT,
            caller: Caller::root(),
            attr: None,
            rest: Mutex::default(),
        };
        let set = |after, attrs| {
            *directory.rest.lock() = Rest {
                after,
                attrs,
                end: true,
                parent: Some(Ino::ROOT),
                ..Rest::default()
            }
        };
        set(17, false);
        assert!(directory.rest_after(17, false).end);
        for (after, attrs, cursor, wanted) in
            [(17, false, 18, false), (17, false, 17, true), (0, true, 0, false)]
        {
            set(after, attrs);
            assert!(directory.rest_after(cursor, wanted).parent.is_none());
        }
        set(17, true);
        assert!(directory.rest_after(17, false).end);
    }
}
