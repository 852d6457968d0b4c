//! Reads that are answered from memory where leases allow it, and that fill it.

use super::cache::{Answer, Stamp};
use crate::client::Inner;
use crate::waiting::What;
use dfs_common::attr::{Attr, FileKind};
use dfs_common::service::DirPage;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name};
use parking_lot::Mutex;
use std::collections::HashMap;

/// Listings followed at the same time, to learn whether they were whole.
const LISTINGS_MAX: usize = 64;

/// Listings that may turn out to be whole: where each goes on, and when it began.
#[derive(Default)]
pub(crate) struct Listings {
    running: Mutex<HashMap<Ino, (u64, Stamp)>>,
}

impl Listings {
    /// A page of `directory` after `cursor` was leased. Answers since when every page from the start was, at the last one.
    fn page(&self, directory: Ino, cursor: u64, asked: Stamp, page: &DirPage) -> Option<Stamp> {
        let mut running = self.running.lock();
        let began = match (cursor, running.remove(&directory)) {
            (0, _) => asked,
            (_, Some((expected, began))) if expected == cursor => began,
            _ => return None,
        };
        if page.end {
            return Some(began);
        }
        let next = page.entries.last()?.cursor;
        if running.len() < LISTINGS_MAX {
            running.insert(directory, (next, began));
        }
        None
    }

    fn forget(&self, directory: Ino) {
        self.running.lock().remove(&directory);
    }
}

/// True if `caller` may search the directory: path_resolution(7).
fn may_search(directory: &Attr, caller: &Caller) -> bool {
    let bits = if caller.uid == 0 {
        1
    } else if caller.uid == directory.uid {
        directory.mode >> 6
    } else if caller.in_group(directory.gid) {
        directory.mode >> 3
    } else {
        directory.mode
    };
    directory.kind == FileKind::Directory && bits & 1 != 0
}

impl Inner {
    /// Finds a name.
    pub(crate) async fn find(&self, caller: &Caller, parent: Ino, name: &Name) -> FsResult<Attr> {
        match self
            .leased
            .lookup(parent, name, |directory| may_search(directory, caller))
        {
            Answer::Found(attr) => return Ok(attr),
            Answer::Absent => return Err(FsError::new(ErrorKind::NotFound, "no such name")),
            Answer::Unknown => {}
        }
        let (stamp, parent_leased) = self.leased.stamp_leased(parent);
        let ask = |identity| {
            self.metadata
                .lookup(identity, caller.clone(), parent, name.clone())
        };
        let found = self
            .call(What::of("lookup in the directory", parent), ask)
            .await
            .inspect_err(|error| {
                // An error cannot say whether a lease came with it.
                if error.kind() == ErrorKind::NotFound && parent_leased {
                    self.leased.put_absent(stamp, parent, name);
                }
            })?;
        if found.leased {
            self.leased.put_attr(stamp, &found.attr);
        }
        if found.parent_leased {
            self.leased.put_name(stamp, parent, name, Some(found.attr.ino));
        }
        Ok(found.attr)
    }

    /// Attributes.
    pub(crate) async fn attributes(&self, ino: Ino) -> FsResult<Attr> {
        if let Some(attr) = self.leased.attr(ino) {
            return Ok(attr);
        }
        let stamp = self.leased.stamp();
        let ask = |identity| self.metadata.getattr(identity, ino);
        let found = self.call(What::of("getattr", ino), ask).await?;
        if found.leased {
            self.leased.put_attr(stamp, &found.attr);
        }
        Ok(found.attr)
    }

    /// A page of a directory.
    pub(crate) async fn list(
        &self,
        caller: &Caller,
        directory: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage> {
        let stamp = self.leased.stamp();
        let ask = |identity| {
            self.metadata
                .readdir(identity, caller.clone(), directory, cursor, limit, attrs)
        };
        let page = self.call(What::of("readdir", directory), ask).await?;
        if !page.leased {
            self.listings.forget(directory);
            return Ok(page);
        }
        for entry in &page.entries {
            if let Some(attr) = &entry.attr {
                self.leased.put_attr(stamp, attr);
            }
            self.leased
                .put_name(stamp, directory, &entry.name, Some(entry.ino));
        }
        if let Some(began) = self.listings.page(directory, cursor, stamp, &page) {
            self.leased.put_complete(began, directory);
        }
        Ok(page)
    }
}
