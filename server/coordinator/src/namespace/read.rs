//! Questions to the namespace. Each takes what it reads from: the store, or a snapshot when several records must be of one
//! moment.

use super::counters::{self, Counters};
use super::inode::Inode;
use super::permission::{self, READ, WRITE};
use super::{chunks, damaged, dentry, directory, extents, keys, xattrs};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::capability::ChunkCapability;
use dfs_common::extent::{ExtentData, ExtentPage, ResolvedExtent};
use dfs_common::limits::PATH_BYTES_MAX;
use dfs_common::op::Entry;
use dfs_common::service::{DirEntry, DirPage};
use dfs_common::session::Caller;
use dfs_common::{Attr, ChunkId, ErrorKind, FileKind, FsError, FsResult, Ino, Name, NodeId};

/// Replica sets read at once.
const PAGE: usize = 1024;

/// Finds a name.
///
/// # Errors
/// `Stale`, `NotDirectory`, `PermissionDenied` (search), `NotFound`.
pub fn lookup(read: &dyn MetaRead, caller: &Caller, parent: Ino, name: &Name) -> FsResult<Entry> {
    directory::searched(read, caller, parent)?;
    let mut missing = None;
    loop {
        let entry = directory::existing(read, parent, name)?;
        match Inode::find(read, entry.ino)? {
            Some(inode) => return Ok(Entry { attr: inode.attr }),
            None if missing == Some(entry.ino) => return Err(damaged("directory entry")),
            // The two records were read one after the other: the name may have gone in between, or be another inode's.
            None => missing = Some(entry.ino),
        }
    }
}

/// The inode that a name stands for, whoever asks.
pub fn resolve(read: &dyn MetaRead, parent: Ino, name: &Name) -> FsResult<Option<Ino>> {
    Ok(dentry::find(read, parent, name)?.map(|entry| entry.ino))
}

/// Attributes.
///
/// # Errors
/// `Stale`.
pub fn getattr(read: &dyn MetaRead, ino: Ino) -> FsResult<Attr> {
    Inode::get(read, ino).map(|inode| inode.attr)
}

/// A path of an inode if every part of the way up is found with one look: names that were not renamed or linked since their
/// inode was made. `None` otherwise, and if it has more than [`PATH_BYTES_MAX`] bytes.
///
/// # Errors
/// Those of the store.
pub fn known_path(read: &dyn MetaRead, ino: Ino) -> FsResult<Option<Bytes>> {
    let mut names = Vec::new();
    let mut length = 0;
    let mut at = ino;
    while at != Ino::ROOT {
        let Some(inode) = Inode::find(read, at)? else {
            return Ok(None);
        };
        // A new inode's number is its entry's cursor.
        let Some(entry) = read.get(&keys::cursor(inode.parent, at.0))? else {
            return Ok(None);
        };
        let (name, child, _) = dentry::decode_cursor(entry)?;
        length += name.as_bytes().len() + 1;
        if child != at || length > PATH_BYTES_MAX {
            return Ok(None);
        }
        names.push(name);
        at = inode.parent;
    }
    let mut path = Vec::with_capacity(length + 1);
    for name in names.iter().rev() {
        path.push(b'/');
        path.extend_from_slice(name.as_bytes());
    }
    if path.is_empty() {
        path.push(b'/');
    }
    Ok(Some(Bytes::from(path)))
}

/// Target of a symbolic link.
///
/// # Errors
/// `Stale`; `Invalid` for anything else.
pub fn readlink(read: &dyn MetaRead, ino: Ino) -> FsResult<Bytes> {
    let inode = Inode::get(read, ino)?;
    match inode.attr.kind {
        FileKind::Symlink => Ok(inode.target),
        _ => Err(FsError::new(
            ErrorKind::Invalid,
            "only symbolic links have a target",
        )),
    }
}

/// At most `limit` entries behind `cursor`; with `attrs`, `read` must be of one moment.
///
/// # Errors
/// `Stale`, `NotDirectory`; `PermissionDenied` at the start of the listing.
pub fn readdir(
    read: &dyn MetaRead,
    caller: &Caller,
    ino: Ino,
    cursor: u64,
    limit: u32,
    attrs: bool,
) -> FsResult<DirPage> {
    let directory = Inode::directory(read, ino)?;
    if cursor == 0 {
        permission::check(&directory.attr, caller, READ)?;
    }
    let (start, end) = keys::cursors_after(ino, cursor);
    let limit = limit as usize;
    let mut page = read.scan(&start, &end, limit + 1)?;
    let is_end = page.len() <= limit;
    page.truncate(limit);
    let mut entries = Vec::with_capacity(page.len());
    for (key, value) in page {
        let (_, cursor) = keys::parse_cursor(&key).ok_or_else(|| damaged("directory entry"))?;
        let (name, ino, kind) = dentry::decode_cursor(value)?;
        let attr = match attrs {
            true => Some(
                Inode::find(read, ino)?
                    .ok_or_else(|| damaged("directory entry"))?
                    .attr,
            ),
            false => None,
        };
        entries.push(DirEntry {
            name,
            ino,
            kind,
            cursor,
            attr,
        });
    }
    Ok(DirPage {
        entries,
        end: is_end,
        parent: directory.parent,
        leased: false,
    })
}

/// Value of an extended attribute.
///
/// # Errors
/// `Stale`, those of [`xattrs::check_access`], `NoAttribute`.
pub fn getxattr(read: &dyn MetaRead, caller: &Caller, ino: Ino, name: &[u8]) -> FsResult<Bytes> {
    let inode = Inode::get(read, ino)?;
    xattrs::check_access(&inode, caller, name, false)?;
    xattrs::value(read, &inode, name)
}

/// Names of the extended attributes that `caller` may see, in order.
///
/// # Errors
/// `Stale`.
pub fn listxattr(read: &dyn MetaRead, caller: &Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
    let inode = Inode::get(read, ino)?;
    let mut names = xattrs::names(read, &inode)?;
    names.retain(|name| xattrs::is_listed(name, caller));
    Ok(names)
}

/// At most `limit` extents that overlap `offset..offset+length`; `sign` gives the capability to read a chunk. `read` must be
/// of one moment. What is no file has no extents.
///
/// # Errors
/// `Stale`.
pub fn read_extents(
    read: &dyn MetaRead,
    ino: Ino,
    offset: u64,
    length: u64,
    limit: usize,
    sign: impl Fn(ChunkId) -> ChunkCapability,
) -> FsResult<ExtentPage> {
    let inode = Inode::get(read, ino)?;
    let mut page = ExtentPage {
        map_version: inode.attr.map_version,
        size: inode.attr.size,
        extents: Vec::new(),
        covered_to: u64::MAX,
    };
    if inode.attr.allocated_bytes == 0 {
        return Ok(page);
    }
    let end = offset.saturating_add(length);
    for extent in extents::scan_behind(read, inode.map(), offset, limit + 1)? {
        if extent.offset >= end || page.extents.len() == limit {
            page.covered_to = extent.offset;
            break;
        }
        let capability = match &extent.data {
            ExtentData::Chunk { chunk, .. } => Some(sign(*chunk)),
            ExtentData::Inline(_) => None,
        };
        page.extents.push(ResolvedExtent { extent, capability });
    }
    Ok(page)
}

/// Checks that `caller` may open `ino`, and answers its attributes.
///
/// # Errors
/// `Stale`; `IsDirectory` (for writing), `Loop` (a symbolic link), `PermissionDenied`.
pub fn open_check(
    read: &dyn MetaRead,
    caller: &Caller,
    ino: Ino,
    for_reading: bool,
    for_writing: bool,
) -> FsResult<Attr> {
    let attr = getattr(read, ino)?;
    match attr.kind {
        FileKind::Directory if for_writing => {
            return Err(FsError::new(
                ErrorKind::IsDirectory,
                "a directory is not opened for writing",
            ));
        }
        FileKind::Symlink => return Err(FsError::new(ErrorKind::Loop, "a symbolic link is not opened")),
        _ => {}
    }
    let wanted = if for_reading { READ } else { 0 } | if for_writing { WRITE } else { 0 };
    permission::check(&attr, caller, wanted)?;
    Ok(attr)
}

/// Totals.
pub fn statfs_counters(read: &dyn MetaRead) -> FsResult<Counters> {
    counters::get(read)
}

/// How many chunks have exactly which replicas.
pub fn replica_sets(read: &dyn MetaRead) -> FsResult<Vec<(Vec<NodeId>, u64)>> {
    let (mut start, end) = keys::replica_sets();
    let mut sets = Vec::new();
    loop {
        let page = read.scan(&start, &end, PAGE)?;
        let whole = page.len() == PAGE;
        for (key, value) in &page {
            let replicas = keys::parse_replica_set(key).ok_or_else(|| damaged("replica set"))?;
            sets.push((replicas, chunks::decode_replica_count(value)?));
        }
        match page.last() {
            Some((last, _)) if whole => start = Bytes::from([&last[..], b"\0"].concat()),
            _ => return Ok(sets),
        }
    }
}
