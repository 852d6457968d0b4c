//! Quotas, in the plainest way: an operation is applied, everything is counted anew, and what grew beyond a limit is taken back whole.
//!
//! Counted against a directory is what lies below it, and the inodes without a name that somebody has open and whose last name stood there,
//! wherever the directories above have gone since. Not counted is what a rename replaced and nobody had open then, until it grows or its
//! time is over.

use super::sessions::Session;
use super::state::{Body, Committed, Inode, State};
use dfs_common::attr::FileKind;
use dfs_common::op::OpResult;
use dfs_common::{Allowance, ChunkId, ErrorKind, FsError, FsResult, Ino, Quota, SessionId, TreeUsage};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What an operation may change.
struct Saved {
    inodes: BTreeMap<Ino, Inode>,
    replaced: BTreeMap<Ino, Duration>,
    passed_over: BTreeSet<Ino>,
    graves: BTreeMap<Ino, Ino>,
    quotas: BTreeMap<Ino, Quota>,
    chunks: BTreeMap<ChunkId, Committed>,
    freed: BTreeSet<ChunkId>,
    sessions: BTreeMap<SessionId, Session>,
}

/// Bytes and inodes that count against a quota.
type Used = (u64, u64);

impl State {
    /// Sets a directory's quota; an empty one is none.
    pub(super) fn set_quota(&mut self, directory: Ino, quota: Quota) -> FsResult<()> {
        self.entries(directory)?;
        if self.inode(directory)?.attr.nlink == 0 {
            return Err(FsError::new(ErrorKind::Stale, "the directory was removed"));
        }
        if quota == Quota::default() {
            self.quotas.remove(&directory);
            return Ok(());
        }
        let crosses = |ino: &Ino| {
            let mut sides = self
                .places(*ino)
                .into_iter()
                .map(|at| self.lies_in(at, directory));
            let first = sides.next();
            sides.any(|side| Some(side) != first)
        };
        if self.inodes.keys().any(crosses) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                "a file has names below the directory and elsewhere",
            ));
        }
        self.quotas.insert(directory, quota);
        Ok(())
    }

    /// Applies `operation`; undone and refused if what counts against a quota grew beyond it. One that makes no inode is not refused for
    /// their number: a write may be what makes a replaced one count.
    pub(super) fn within_quotas(
        &mut self,
        makes_inodes: bool,
        operation: impl FnOnce(&mut State) -> OpResult,
    ) -> OpResult {
        if self.quotas.is_empty() {
            return operation(self);
        }
        let before: BTreeMap<Ino, Used> = self.quotas.keys().map(|at| (*at, self.used(*at))).collect();
        let saved = self.save();
        let reply = match operation(self) {
            Ok(reply) => reply,
            Err(error) => {
                // It may have been refused in the middle.
                self.restore(saved);
                return Err(error);
            }
        };
        let outgrown = |(at, quota): (&Ino, &Quota)| {
            let (now, then) = (self.used(*at), before[at]);
            let beyond = |limit: Option<u64>, now, then| limit.is_some_and(|limit| now > limit && now > then);
            beyond(quota.bytes, now.0, then.0) || (makes_inodes && beyond(quota.inodes, now.1, then.1))
        };
        if self.quotas.iter().any(outgrown) {
            self.restore(saved);
            return Err(FsError::new(ErrorKind::QuotaExceeded, "it grew beyond a quota"));
        }
        Ok(reply)
    }

    fn save(&self) -> Saved {
        Saved {
            inodes: self.inodes.clone(),
            replaced: self.replaced.clone(),
            passed_over: self.passed_over.clone(),
            graves: self.graves.clone(),
            quotas: self.quotas.clone(),
            chunks: self.chunks.clone(),
            freed: self.freed.clone(),
            sessions: self.sessions.clone(),
        }
    }

    fn restore(&mut self, saved: Saved) {
        self.inodes = saved.inodes;
        self.replaced = saved.replaced;
        self.passed_over = saved.passed_over;
        self.graves = saved.graves;
        self.quotas = saved.quotas;
        self.chunks = saved.chunks;
        self.freed = saved.freed;
        self.sessions = saved.sessions;
    }

    fn used(&self, directory: Ino) -> Used {
        let (mut bytes, mut inodes) = (0, 0);
        for (ino, inode) in &self.inodes {
            let place = match &inode.body {
                Body::Directory { parent, .. } => *parent,
                _ => inode.home,
            };
            let counted = inode.attr.nlink > 0 || (self.is_open(*ino) && !self.passed_over.contains(ino));
            if counted && *ino != Ino::ROOT && self.lies_in(place, directory) {
                inodes += 1;
                bytes += self.attr(*ino).map_or(0, |attr| attr.allocated_bytes);
            }
        }
        (bytes, inodes)
    }

    /// `at` is `directory` or below it, or was when it was removed.
    fn lies_in(&self, mut at: Ino, directory: Ino) -> bool {
        while at != directory {
            let above = match self.inodes.get(&at).map(|inode| &inode.body) {
                Some(Body::Directory { parent, .. }) => Some(*parent),
                _ => self.graves.get(&at).copied(),
            };
            match above {
                Some(above) if at != Ino::ROOT => at = above,
                _ => return false,
            }
        }
        true
    }

    fn is_open(&self, ino: Ino) -> bool {
        self.sessions
            .values()
            .any(|session| session.opens.contains_key(&ino))
    }

    /// A rename took the last name of `ino`: open to nobody it makes room.
    pub(super) fn pass_over_unless_open(&mut self, ino: Ino) {
        if !self.is_open(ino) {
            self.passed_over.insert(ino);
        }
    }

    /// Directories that hold a name of `ino`, which is none itself; one for each name.
    fn places(&self, ino: Ino) -> Vec<Ino> {
        if self.inodes[&ino].attr.kind == FileKind::Directory {
            return Vec::new();
        }
        let names_in = |(at, inode): (&Ino, &Inode)| match &inode.body {
            Body::Directory { entries, .. } => {
                let count = entries.values().filter(|(child, _)| *child == ino).count();
                vec![*at; count]
            }
            _ => Vec::new(),
        };
        self.inodes.iter().flat_map(names_in).collect()
    }

    fn check_edge(&self, a: Ino, b: Ino) -> FsResult<()> {
        let between = |at: &Ino| self.lies_in(a, *at) != self.lies_in(b, *at);
        match self.quotas.keys().any(between) {
            true => Err(FsError::new(
                ErrorKind::CrossDevice,
                "hard links do not cross the edge of a quota",
            )),
            false => Ok(()),
        }
    }

    /// `ino` may get one more name in `parent`.
    pub(super) fn check_link_edge(&self, ino: Ino, parent: Ino) -> FsResult<()> {
        self.places(ino)
            .into_iter()
            .try_for_each(|at| self.check_edge(at, parent))
    }

    /// `ino` may move from one directory to another: it, or what lies below it, has no other names, or no edge is between.
    pub(super) fn check_move_edge(&self, ino: Ino, from: Ino, to: Ino) -> FsResult<()> {
        let is_directory = self.inode(ino)?.attr.kind == FileKind::Directory;
        let several = |(at, inode): (&Ino, &Inode)| {
            let is_file = inode.attr.kind != FileKind::Directory && inode.attr.nlink > 1;
            is_file
                && match is_directory {
                    true => self.places(*at).into_iter().any(|place| self.lies_in(place, ino)),
                    false => *at == ino,
                }
        };
        match self.inodes.iter().any(several) {
            true => self.check_edge(from, to),
            false => Ok(()),
        }
    }

    /// What quotas leave to `ino`.
    pub(super) fn add_allowances(&self, ino: Ino, usage: &mut TreeUsage) -> FsResult<()> {
        usage.quotas = !self.quotas.is_empty();
        let inode = self.inode(ino)?;
        let place = match inode.attr.kind {
            FileKind::Directory => ino,
            _ => inode.home,
        };
        for (at, quota) in self.quotas.iter().filter(|(at, _)| self.lies_in(place, **at)) {
            let (bytes, inodes) = self.used(*at);
            let tighter = |best: &mut Option<Allowance>, limit: Option<u64>, used| {
                let found = limit.map(|limit| Allowance { limit, used });
                if let Some(found) = found
                    && best.is_none_or(|best| found.left() < best.left())
                {
                    *best = Some(found);
                }
            };
            tighter(&mut usage.bytes_allowed, quota.bytes, bytes);
            tighter(&mut usage.inodes_allowed, quota.inodes, inodes);
        }
        Ok(())
    }
}
