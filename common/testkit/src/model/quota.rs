//! Limits on what lies below a directory, in the plainest way: a call is made, everything is counted anew, and what grew beyond a
//! limit is taken back whole.
//!
//! Counted are allocated bytes, and inodes, the directory itself not among them; an inode with several names once. A file without a name
//! that is open counts where its last name was, also when that directory is gone. No inode has names on both sides of a limit.

use super::{Answer, Body, Model, ROOT};
use crate::call::{FsPath, Outcome};
use dfs_common::Quota;
use dfs_common::attr::FileKind;
use dfs_common::session::Caller;
use nix::libc;
use std::collections::BTreeMap;

/// Bytes and inodes that count against a limit.
pub type Used = (u64, u64);

impl Model {
    /// Sets, changes or clears the quota of a directory; what lies there may be more.
    pub(super) fn quota(&mut self, path: &FsPath, quota: Quota) -> Answer {
        let directory = self.resolve(&Caller::root(), path)?;
        if self.inode(directory).kind() != FileKind::Directory {
            return Err(libc::ENOTDIR);
        }
        if quota == Quota::default() {
            self.quotas.remove(&directory);
            return Ok(Outcome::Done);
        }
        let crosses = |places: &Vec<u64>| {
            let below = places.iter().filter(|at| self.lies_in(**at, directory)).count();
            below > 0 && below < places.len()
        };
        if self.places().values().any(crosses) {
            return Err(libc::EINVAL);
        }
        self.quotas.insert(directory, quota);
        Ok(Outcome::Done)
    }

    /// Bytes and inodes that count against the quota that the directory at `path` has or may get; nothing for anything else.
    pub fn used(&self, path: &FsPath) -> Used {
        match self.resolve(&Caller::root(), path) {
            Ok(ino) if self.inode(ino).kind() == FileKind::Directory => {
                self.used_below(&[ino].map(|ino| (ino, Quota::default())).into())[&ino]
            }
            _ => (0, 0),
        }
    }

    /// Makes a call; undone and refused if what counts against a quota grew beyond it.
    pub(super) fn within_quotas(&mut self, call: impl FnOnce(&mut Model) -> Answer) -> Answer {
        if self.quotas.is_empty() {
            return call(self);
        }
        let (saved, before) = (self.clone(), self.used_below(&self.quotas));
        let outcome = call(self)?;
        let after = self.used_below(&self.quotas);
        let outgrown = |(at, quota): (&u64, &Quota)| {
            let Some((then, now)) = before.get(at).zip(after.get(at)) else {
                return false; // it was set just now
            };
            let beyond = |limit: Option<u64>, then, now| limit.is_some_and(|limit| now > limit && now > then);
            beyond(quota.bytes, then.0, now.0) || beyond(quota.inodes, then.1, now.1)
        };
        if self.quotas.iter().any(outgrown) {
            *self = saved;
            return Err(libc::EDQUOT);
        }
        Ok(outcome)
    }

    /// What counts below each of some directories.
    fn used_below(&self, directories: &BTreeMap<u64, Quota>) -> BTreeMap<u64, Used> {
        let mut used: BTreeMap<u64, Used> = directories.keys().map(|at| (*at, (0, 0))).collect();
        let places = self.places();
        for (ino, inode) in self.inodes.iter().filter(|(ino, _)| **ino != ROOT) {
            let (place, bytes) = match &inode.body {
                Body::Directory { parent, .. } => (*parent, 0),
                Body::File(content) => (self.place(&places, *ino), content.allocated()),
                _ => (self.place(&places, *ino), 0),
            };
            for (at, (all_bytes, inodes)) in &mut used {
                if self.lies_in(place, *at) {
                    (*all_bytes, *inodes) = (*all_bytes + bytes, *inodes + 1);
                }
            }
        }
        used
    }

    /// A directory in which `ino` has a name, or had the last one.
    fn place(&self, places: &BTreeMap<u64, Vec<u64>>, ino: u64) -> u64 {
        match places.get(&ino) {
            Some(places) => places[0],
            None => self.inode(ino).last_place.expect("it lost its last name"),
        }
    }

    /// For each inode that is no directory and has names: the directories that they are in, one for each name.
    fn places(&self) -> BTreeMap<u64, Vec<u64>> {
        let mut places: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (at, inode) in &self.inodes {
            if let Body::Directory { entries, .. } = &inode.body {
                for ino in entries.values() {
                    if self.inode(*ino).kind() != FileKind::Directory {
                        places.entry(*ino).or_default().push(*at);
                    }
                }
            }
        }
        places
    }

    /// `at` is `directory` or below it, or was when it was removed.
    fn lies_in(&self, mut at: u64, directory: u64) -> bool {
        while at != directory {
            let above = match self.inodes.get(&at).map(|inode| &inode.body) {
                Some(Body::Directory { parent, .. }) => *parent,
                _ => self.graves[&at],
            };
            if above == at {
                return false; // the root
            }
            at = above;
        }
        true
    }

    /// EXDEV if a directory with a quota has one of the two in it and not the other.
    fn check_edge(&self, a: u64, b: u64) -> Result<(), i32> {
        let between = |at: &u64| self.lies_in(a, *at) != self.lies_in(b, *at);
        match self.quotas.keys().any(between) {
            true => Err(libc::EXDEV),
            false => Ok(()),
        }
    }

    /// May `ino` get one more name in `parent`?
    pub(super) fn may_link(&self, ino: u64, parent: u64) -> Result<(), i32> {
        let places = self.places().remove(&ino).unwrap_or_default();
        places.into_iter().try_for_each(|at| self.check_edge(at, parent))
    }

    /// May `ino`, with what lies below it, go from one directory to another?
    pub(super) fn may_move(&self, ino: u64, from: u64, to: u64) -> Result<(), i32> {
        let goes = |(file, places): (&u64, &Vec<u64>)| {
            places.len() > 1 && (*file == ino || places.iter().any(|at| self.lies_in(*at, ino)))
        };
        match self.places().iter().any(goes) {
            true => self.check_edge(from, to),
            false => Ok(()),
        }
    }
}
