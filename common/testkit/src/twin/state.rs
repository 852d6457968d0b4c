//! What a twin remembers: inodes, sessions, chunks, nodes. No rules live here but those of counting.

use super::TwinOptions;
use super::locks::Locks;
use super::sessions::Session;
use bytes::Bytes;
use dfs_common::attr::{Attr, FileKind, Timestamp};
use dfs_common::clock::Clock;
use dfs_common::cluster::{NodeInfo, PlacementGroup};
use dfs_common::extent::Extent;
use dfs_common::limits::REPLACED_INODE_KEPT;
use dfs_common::{ChunkId, ClusterId, ErrorKind, FsError, FsResult, Ino, Name, Quota, SessionId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

#[derive(Clone)]
pub(super) enum Body {
    /// Extents by offset: disjoint.
    File(BTreeMap<u64, Extent>),
    Directory {
        entries: BTreeMap<Name, (Ino, u64)>,
        parent: Ino,
    },
    Symlink(Bytes),
    Special,
}

#[derive(Clone)]
pub(super) struct Inode {
    pub(super) attr: Attr,
    pub(super) body: Body,
    pub(super) xattrs: BTreeMap<Bytes, Bytes>,
    /// Directory in which it is counted, unless it is one itself.
    pub(super) home: Ino,
}

/// A chunk that files refer to.
#[derive(Clone)]
pub(super) struct Committed {
    pub(super) files: BTreeSet<Ino>,
    pub(super) length: u64,
    pub(super) sha256: [u8; 32],
}

pub(super) struct State {
    pub(super) options: TwinOptions,
    pub(super) clock: Arc<dyn Clock>,
    /// When the running operation is applied: one time for all that it changes.
    pub(super) now: Timestamp,
    pub(super) cluster: ClusterId,
    pub(super) sessions: BTreeMap<SessionId, Session>,
    pub(super) next_session: u64,
    pub(super) inodes: BTreeMap<Ino, Inode>,
    /// Inodes that a rename replaced, and since when (monotonic): kept for whoever has just found them.
    pub(super) replaced: BTreeMap<Ino, Duration>,
    /// Those of them that do not count against quotas: nobody had them open, and they have not grown.
    pub(super) passed_over: BTreeSet<Ino>,
    /// Removed directories, and what they lay in.
    pub(super) graves: BTreeMap<Ino, Ino>,
    pub(super) quotas: BTreeMap<Ino, Quota>,
    pub(super) next_ino: u64,
    pub(super) next_cursor: u64,
    /// Chunks in use.
    pub(super) chunks: BTreeMap<ChunkId, Committed>,
    /// Chunks that were in use and never may be again.
    pub(super) freed: BTreeSet<ChunkId>,
    pub(super) nodes: Vec<NodeInfo>,
    pub(super) groups: Vec<PlacementGroup>,
    pub(super) cluster_version: u64,
    pub(super) next_group: usize,
    pub(super) locks: Locks,
}

impl State {
    pub(super) fn inode(&self, ino: Ino) -> FsResult<&Inode> {
        self.inodes
            .get(&ino)
            .ok_or_else(|| FsError::new(ErrorKind::Stale, format!("inode {ino} is gone")))
    }

    pub(super) fn inode_mut(&mut self, ino: Ino) -> FsResult<&mut Inode> {
        self.inodes
            .get_mut(&ino)
            .ok_or_else(|| FsError::new(ErrorKind::Stale, format!("inode {ino} is gone")))
    }

    /// Attributes as they are shown: sizes of directories are their entries.
    pub(super) fn attr(&self, ino: Ino) -> FsResult<Attr> {
        let inode = self.inode(ino)?;
        let mut attr = inode.attr.clone();
        match &inode.body {
            Body::File(extents) => attr.allocated_bytes = extents.values().map(|extent| extent.length).sum(),
            Body::Directory { entries, .. } => attr.size = entries.len() as u64,
            Body::Symlink(target) => attr.size = target.len() as u64,
            Body::Special => {}
        }
        Ok(attr)
    }

    pub(super) fn entries(&self, ino: Ino) -> FsResult<&BTreeMap<Name, (Ino, u64)>> {
        match &self.inode(ino)?.body {
            Body::Directory { entries, .. } => Ok(entries),
            _ => Err(FsError::new(
                ErrorKind::NotDirectory,
                format!("inode {ino} is no directory"),
            )),
        }
    }

    pub(super) fn entries_mut(&mut self, ino: Ino) -> FsResult<&mut BTreeMap<Name, (Ino, u64)>> {
        match &mut self.inode_mut(ino)?.body {
            Body::Directory { entries, .. } => Ok(entries),
            _ => Err(FsError::new(
                ErrorKind::NotDirectory,
                format!("inode {ino} is no directory"),
            )),
        }
    }

    pub(super) fn extents_mut(&mut self, ino: Ino) -> FsResult<&mut BTreeMap<u64, Extent>> {
        let inode = self.inode_mut(ino)?;
        let kind = inode.attr.kind;
        match (&mut inode.body, kind) {
            (Body::File(extents), _) => Ok(extents),
            (_, FileKind::Directory) => {
                Err(FsError::new(ErrorKind::IsDirectory, "a directory has no content"))
            }
            _ => Err(FsError::new(ErrorKind::Invalid, "only files have content")),
        }
    }

    /// A new inode without a name.
    pub(super) fn new_inode(&mut self, body: Body, kind: FileKind, mode: u32, owner: (u32, u32)) -> Ino {
        let ino = Ino(self.next_ino);
        self.next_ino += 1;
        let now = self.now;
        let attr = Attr {
            ino,
            generation: 1,
            kind,
            mode,
            nlink: if kind == FileKind::Directory { 2 } else { 1 },
            uid: owner.0,
            gid: owner.1,
            rdev: 0,
            size: 0,
            allocated_bytes: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            map_version: 1,
        };
        self.inodes.insert(
            ino,
            Inode {
                attr,
                body,
                xattrs: BTreeMap::new(),
                home: Ino::ROOT,
            },
        );
        ino
    }

    /// A rename took the last name of `ino`.
    pub(super) fn keep_replaced(&mut self, ino: Ino) {
        self.replaced.insert(ino, self.clock.monotonic());
        self.pass_over_unless_open(ino);
    }

    /// Lets replaced inodes go whose time is over.
    pub(super) fn forget_replaced(&mut self) {
        let now = self.clock.monotonic();
        let over = |since: &Duration| now.saturating_sub(*since) >= REPLACED_INODE_KEPT;
        let inos: Vec<Ino> = self
            .replaced
            .iter()
            .filter(|(_, since)| over(since))
            .map(|(ino, _)| *ino)
            .collect();
        for ino in inos {
            self.replaced.remove(&ino);
            self.passed_over.remove(&ino);
            self.forget_if_unused(ino);
        }
    }

    /// Lets an inode go that has neither a name nor an open file and is not kept; its chunks are free then.
    pub(super) fn forget_if_unused(&mut self, ino: Ino) {
        let open = self.replaced.contains_key(&ino)
            || self
                .sessions
                .values()
                .any(|session| !session.resumed || session.opens.contains_key(&ino));
        if self.replaced.contains_key(&ino) {
            self.pass_over_unless_open(ino);
        }
        if !open && self.inodes.get(&ino).is_some_and(|inode| inode.attr.nlink == 0) {
            self.inodes.remove(&ino);
            self.free_unreferenced(ino);
        }
    }

    /// Frees the chunks that only `ino` referred to and none of its extents refers to any more.
    pub(super) fn free_unreferenced(&mut self, ino: Ino) {
        let mut used = BTreeSet::new();
        if let Some(Inode {
            body: Body::File(extents),
            ..
        }) = self.inodes.get(&ino)
        {
            for extent in extents.values() {
                if let dfs_common::extent::ExtentData::Chunk { chunk, .. } = extent.data {
                    used.insert(chunk);
                }
            }
        }
        let mut freed = Vec::new();
        for (chunk, committed) in &mut self.chunks {
            if !used.contains(chunk) && committed.files.remove(&ino) && committed.files.is_empty() {
                freed.push(*chunk);
            }
        }
        for chunk in freed {
            self.chunks.remove(&chunk);
            self.freed.insert(chunk);
        }
    }
}
