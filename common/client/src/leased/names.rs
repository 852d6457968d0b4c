//! What is known of one directory's names.

use dfs_common::{Ino, Name};
use std::collections::HashMap;

/// Names of a directory that this client has a lease on.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: HashMap<Name, Option<Ino>>,
    /// Names that changes of our own are about to change: nothing is known of them until those end.
    open: HashMap<Name, u32>,
    /// A name that is not known does not exist.
    complete: bool,
}

impl Names {
    /// The names of a directory that was just made.
    pub(super) fn of_new_directory() -> Self {
        Names {
            complete: true,
            ..Names::default()
        }
    }

    /// The inode of `name`, `Some(None)` if there is no such name, `None` if nothing is known of it.
    pub(super) fn find(&self, name: &Name) -> Option<Option<Ino>> {
        if self.open.contains_key(name) {
            return None;
        }
        match self.known.get(name) {
            Some(found) => Some(*found),
            None => self.complete.then_some(None),
        }
    }

    /// Remembers what `name` is; a complete directory needs no notes of absence.
    pub(super) fn note(&mut self, name: &Name, ino: Option<Ino>) {
        if ino.is_none() && self.complete {
            self.known.remove(name);
        } else {
            self.known.insert(name.clone(), ino);
        }
    }

    /// Forgets what `name` is.
    pub(super) fn forget(&mut self, name: &Name) {
        self.known.remove(name);
        self.complete = false;
    }

    /// A change of `name` begins.
    pub(super) fn open(&mut self, name: &Name) {
        *self.open.entry(name.clone()).or_insert(0) += 1;
    }

    /// A change of `name` ended. A directory that was forgotten meanwhile knows nothing of its beginning.
    pub(super) fn close(&mut self, name: &Name) {
        if let Some(count) = self.open.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.open.remove(name);
            }
        }
    }

    /// Every name was noted.
    pub(super) fn completed(&mut self) {
        self.known.retain(|_, ino| ino.is_some());
        self.complete = true;
    }

    pub(super) fn count(&self) -> usize {
        self.known.len()
    }
}
