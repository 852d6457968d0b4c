//! Content: open, read_extents, commit_write, truncation. A map is a list of disjoint extents; gaps are holes.

use super::state::{Body, Committed, State};
use bytes::Bytes;
use dfs_common::capability::ChunkAccess;
use dfs_common::extent::{CommittedChunk, Extent, ExtentData, ExtentPage, ResolvedExtent};
use dfs_common::lease::Access;
use dfs_common::limits::{
    CHUNK_BYTES_MAX, COMMIT_EXTENTS_MAX, FILE_BYTES_MAX, INLINE_EXTENT_BYTES_MAX, INLINE_INODE_BYTES_MAX,
};
use dfs_common::op::{CommitWrite, OpReply, OpResult};
use dfs_common::service::Opened;
use dfs_common::session::Caller;
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, Ino, SessionId};
use nix::libc;
use std::collections::{BTreeMap, BTreeSet};

fn invalid<T>(why: &'static str) -> FsResult<T> {
    Err(FsError::new(ErrorKind::Invalid, why))
}

/// The part of `extent` within `from..to`, if there is one.
fn part(extent: &Extent, from: u64, to: u64) -> Option<Extent> {
    let (start, end) = (extent.offset.max(from), extent.end().min(to));
    if start >= end {
        return None;
    }
    let skip = start - extent.offset;
    let data = match &extent.data {
        ExtentData::Chunk { chunk, chunk_offset } => ExtentData::Chunk {
            chunk: *chunk,
            chunk_offset: chunk_offset + skip,
        },
        ExtentData::Inline(bytes) => {
            let bytes = bytes.slice(skip as usize..(end - extent.offset) as usize);
            ExtentData::Inline(Bytes::copy_from_slice(&bytes))
        }
    };
    Some(Extent {
        offset: start,
        length: end - start,
        data,
    })
}

/// Makes `from..to` a hole.
fn cut(extents: &mut BTreeMap<u64, Extent>, from: u64, to: u64) {
    // They are disjoint: going down from `to`, the first one that ends before `from` ends the search.
    let overlapping = extents
        .range(..to)
        .rev()
        .take_while(|(_, extent)| extent.end() > from);
    let offsets: Vec<u64> = overlapping.map(|(offset, _)| *offset).collect();
    for extent in offsets
        .iter()
        .filter_map(|offset| extents.remove(offset))
        .collect::<Vec<_>>()
    {
        for rest in [part(&extent, 0, from), part(&extent, to, u64::MAX)]
            .into_iter()
            .flatten()
        {
            extents.insert(rest.offset, rest);
        }
    }
}

/// A twin takes no leases away: its clients see what others did when they open a file.
pub(super) fn access(ino: Ino) -> Access {
    Access {
        ino,
        content: true,
        buffer: true,
        pages: true,
    }
}

/// Of the file that an operation opened or wrote.
pub(super) fn opened_or_written(reply: &OpReply) -> Option<Access> {
    match reply {
        OpReply::Created { entry, .. } => Some(access(entry.attr.ino)),
        OpReply::Committed { attr, .. } => Some(access(attr.ino)),
        _ => None,
    }
}

impl State {
    /// Sets the size; what is cut off is gone for good.
    pub(super) fn resize(&mut self, ino: Ino, size: u64) -> FsResult<()> {
        cut(self.extents_mut(ino)?, size, u64::MAX);
        let attr = &mut self.inode_mut(ino)?.attr;
        attr.size = size;
        attr.map_version += 1;
        self.free_unreferenced(ino);
        Ok(())
    }

    pub(super) fn open(
        &mut self,
        session: SessionId,
        who: &Caller,
        ino: Ino,
        read: bool,
        write: bool,
    ) -> FsResult<Opened> {
        self.check_open(who, ino, read, write)?;
        let kept = self.replaced.contains_key(&ino) || self.has_open(session, ino).is_some();
        if self.inode(ino)?.attr.nlink == 0 && !kept {
            return Err(FsError::new(ErrorKind::Stale, "the file was removed"));
        }
        self.count_open(session, ino, read, write);
        let extents = self.read_extents(session, ino, 0, u64::MAX)?;
        Ok(Opened {
            attr: self.attr(ino)?,
            extents,
            access: access(ino),
        })
    }

    pub(super) fn read_extents(
        &self,
        session: SessionId,
        ino: Ino,
        offset: u64,
        length: u64,
    ) -> FsResult<ExtentPage> {
        if self.has_open(session, ino).is_none() {
            return Err(FsError::new(
                ErrorKind::BadHandle,
                "the session does not have the file open",
            ));
        }
        let inode = self.inode(ino)?;
        let Body::File(extents) = &inode.body else {
            return invalid("only files have extents");
        };
        let end = offset.saturating_add(length);
        let overlapping = extents
            .values()
            .filter(|extent| extent.offset < end && extent.end() > offset);
        let mut page: Vec<&Extent> = overlapping.take(self.options.extents_page + 1).collect();
        let covered_to = match page.len() > self.options.extents_page {
            true => page.pop().map_or(u64::MAX, |next| next.offset),
            false if extents.values().all(|extent| extent.offset < end) => u64::MAX,
            false => end,
        };
        let resolve = |extent: &Extent| {
            let capability = match extent.data {
                ExtentData::Chunk { chunk, .. } => Some(self.capability(session, chunk, ChunkAccess::Read)),
                ExtentData::Inline(_) => None,
            };
            ResolvedExtent {
                extent: extent.clone(),
                capability,
            }
        };
        Ok(ExtentPage {
            map_version: inode.attr.map_version,
            size: inode.attr.size,
            extents: page.into_iter().map(resolve).collect(),
            covered_to,
        })
    }

    pub(super) fn commit_write(&mut self, session: SessionId, commit: &CommitWrite) -> OpResult {
        let ino = commit.ino;
        self.extents_mut(ino)?;
        if !self.has_open(session, ino).is_some_and(|open| open.write) {
            return Err(FsError::new(
                ErrorKind::BadHandle,
                "the session does not have the file open for writing",
            ));
        }
        let size = self.inode(ino)?.attr.size;
        let base = if commit.append { size } else { 0 };
        let extents = placed(&commit.extents, base)?;
        let fresh = self.check_receipts(session, &commit.chunks)?;
        let used = self.check_references(session, ino, &extents, &fresh)?;
        let mut map = self.extents_mut(ino)?.clone();
        for extent in &extents {
            cut(&mut map, extent.offset, extent.end());
            map.insert(extent.offset, extent.clone());
        }
        check_inline(&map)?;

        let allocated = |map: &BTreeMap<u64, Extent>| map.values().map(|extent| extent.length).sum::<u64>();
        if allocated(&map) > self.attr(ino)?.allocated_bytes {
            self.passed_over.remove(&ino);
        }
        *self.extents_mut(ino)? = map;
        for (chunk, (length, sha256)) in fresh {
            self.chunks.entry(chunk).or_insert(Committed {
                files: BTreeSet::new(),
                length,
                sha256,
            });
        }
        for chunk in used {
            self.chunks
                .get_mut(&chunk)
                .expect("known or fresh")
                .files
                .insert(ino);
        }
        self.free_unreferenced(ino);
        let attr = &mut self.inode_mut(ino)?.attr;
        attr.size = extents.iter().map(Extent::end).fold(size, u64::max);
        attr.mtime = commit.mtime;
        attr.map_version += 1;
        if commit.clear_setid {
            let group = if attr.mode & libc::S_IXGRP != 0 {
                libc::S_ISGID
            } else {
                0
            };
            attr.mode &= !(libc::S_ISUID | group);
        }
        Ok(OpReply::Committed {
            attr: self.changed(ino)?,
            append_offset: base,
        })
    }

    fn is_granted(&self, session: SessionId, chunk: ChunkId) -> bool {
        chunk.session() == session && chunk.sequence() < self.sessions[&session].granted_below
    }

    /// Chunks with their receipts: granted to the session, and durable on enough members of their group. One that was
    /// committed before has the content it had.
    fn check_receipts(&self, session: SessionId, chunks: &[CommittedChunk]) -> FsResult<Fresh> {
        let mut fresh = Fresh::new();
        for CommittedChunk { chunk, receipts } in chunks {
            if !self.is_granted(session, *chunk) {
                return invalid("the chunk was not granted to this session");
            }
            if self.freed.contains(chunk) {
                return Err(FsError::new(
                    ErrorKind::NotFound,
                    "the chunk was freed: send its bytes as a new one",
                ));
            }
            let group = self.groups.iter().find(|group| group.id == chunk.group());
            let Some(group) = group else {
                return invalid("the chunk's placement group is unknown");
            };
            let Some(first) = receipts.first() else {
                return invalid("the chunk has no receipts");
            };
            let alike = receipts.iter().all(|receipt| {
                receipt.sha256 == first.sha256
                    && receipt.length == first.length
                    && group.members.contains(&receipt.node)
            });
            let nodes: BTreeSet<_> = receipts.iter().map(|receipt| receipt.node).collect();
            if !alike
                || nodes.len() < self.options.replication_floor as usize
                || !(1..=CHUNK_BYTES_MAX).contains(&first.length)
            {
                return invalid(
                    "the receipts are too few, differ, or are not of the chunk's placement group",
                );
            }
            let content = (first.length, first.sha256);
            if self
                .chunks
                .get(chunk)
                .is_some_and(|known| (known.length, known.sha256) != content)
            {
                return Err(FsError::new(
                    ErrorKind::ChunkConflict,
                    "the chunk was committed with other content",
                ));
            }
            fresh.insert(*chunk, content);
        }
        Ok(fresh)
    }

    /// The chunks that `extents` refer to: fresh ones, or known ones of the session or the same file; each range is within
    /// its chunk's content.
    fn check_references(
        &self,
        session: SessionId,
        ino: Ino,
        extents: &[Extent],
        fresh: &Fresh,
    ) -> FsResult<BTreeSet<ChunkId>> {
        let mut used = BTreeSet::new();
        for extent in extents {
            let ExtentData::Chunk { chunk, chunk_offset } = extent.data else {
                continue;
            };
            let length = match (self.chunks.get(&chunk), fresh.get(&chunk)) {
                (_, Some((length, _))) => *length,
                (Some(known), None) if known.files.contains(&ino) || self.is_granted(session, chunk) => {
                    known.length
                }
                (None, None) if self.freed.contains(&chunk) => {
                    return Err(FsError::new(
                        ErrorKind::NotFound,
                        "the chunk was freed: send its bytes as a new one",
                    ));
                }
                _ => {
                    return invalid(
                        "an extent refers to a chunk that is not of this commit, session or file",
                    );
                }
            };
            if chunk_offset
                .checked_add(extent.length)
                .is_none_or(|end| end > length)
            {
                return invalid("an extent reaches behind its chunk's end");
            }
            used.insert(chunk);
        }
        Ok(used)
    }
}

/// Length and SHA-256 of chunks that came with receipts.
type Fresh = BTreeMap<ChunkId, (u64, [u8; 32])>;

/// The extents of a commit at their place in the file: sorted, disjoint, in bounds.
fn placed(extents: &[Extent], base: u64) -> FsResult<Vec<Extent>> {
    if extents.len() > COMMIT_EXTENTS_MAX {
        return invalid("a commit has at most 1024 extents");
    }
    let mut from = base;
    let mut placed = Vec::new();
    for extent in extents {
        let offset = base.checked_add(extent.offset);
        let end = offset.and_then(|offset| offset.checked_add(extent.length));
        let (Some(offset), Some(end)) = (offset, end) else {
            return Err(FsError::new(
                ErrorKind::FileTooBig,
                "an extent ends above the largest file",
            ));
        };
        if end > FILE_BYTES_MAX {
            return Err(FsError::new(
                ErrorKind::FileTooBig,
                "an extent ends above the largest file",
            ));
        }
        if extent.length == 0 || offset < from {
            return invalid("extents are not empty, sorted and disjoint");
        }
        if let ExtentData::Inline(bytes) = &extent.data {
            if bytes.len() as u64 != extent.length {
                return invalid("an inline extent has as many bytes as its length says");
            }
            if bytes.len() > INLINE_EXTENT_BYTES_MAX {
                return Err(FsError::new(
                    ErrorKind::TooBig,
                    "too many inline bytes in an extent",
                ));
            }
        }
        placed.push(Extent {
            offset,
            ..extent.clone()
        });
        from = end;
    }
    Ok(placed)
}

fn check_inline(map: &BTreeMap<u64, Extent>) -> FsResult<()> {
    let inline = map
        .values()
        .filter(|extent| matches!(extent.data, ExtentData::Inline(_)));
    match inline.map(|extent| extent.length).sum::<u64>() > INLINE_INODE_BYTES_MAX {
        true => Err(FsError::new(
            ErrorKind::TooBig,
            "the inode has too many inline bytes: send them as a chunk",
        )),
        false => Ok(()),
    }
}
