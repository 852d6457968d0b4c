//! Attributes, entries, directory pages and totals.

use super::{at_most, invalid, required};
use crate::v1;
use bytes::Bytes;
use dfs_common::cluster::StatFs;
use dfs_common::limits::{
    FILE_BYTES_MAX, READDIR_ENTRIES_MAX, SYMLINK_BYTES_MAX, XATTR_LIST_BYTES_MAX, XATTR_NAME_BYTES_MAX,
    XATTR_VALUE_BYTES_MAX,
};
use dfs_common::op::Entry;
use dfs_common::service::{DirEntry, DirPage, Found};
use dfs_common::{Attr, FileKind, FsResult, Ino, Name, Timestamp};

/// First cursor of a directory entry: smaller ones stand for the start, `.` and `..`.
const CURSOR_MIN: u64 = 3;

/// A time stamp's wire form.
pub fn timestamp_to_wire(time: &Timestamp) -> v1::Timestamp {
    v1::Timestamp {
        secs: time.secs,
        nanos: time.nanos,
    }
}

/// A time stamp from the wire.
///
/// # Errors
/// `Invalid` for a second or more of nanoseconds.
pub fn timestamp_from_wire(time: v1::Timestamp) -> FsResult<Timestamp> {
    if time.nanos > 999_999_999 {
        return Err(invalid("a time stamp has at most 999,999,999 nanoseconds"));
    }
    Ok(Timestamp {
        secs: time.secs,
        nanos: time.nanos,
    })
}

/// A time stamp that a message must have.
pub(super) fn required_time(time: Option<v1::Timestamp>) -> FsResult<Timestamp> {
    timestamp_from_wire(required(time, "time stamp")?)
}

/// The kind of a wire code.
pub(super) fn file_kind(code: u32) -> FsResult<FileKind> {
    FileKind::from_code(code).ok_or_else(|| invalid(format!("unknown inode kind {code}")))
}

/// Attributes' wire form.
pub fn attr_to_wire(attr: &Attr) -> v1::Attr {
    v1::Attr {
        ino: attr.ino.0,
        generation: attr.generation,
        kind: attr.kind.code(),
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: attr.size,
        allocated_bytes: attr.allocated_bytes,
        atime: Some(timestamp_to_wire(&attr.atime)),
        mtime: Some(timestamp_to_wire(&attr.mtime)),
        ctime: Some(timestamp_to_wire(&attr.ctime)),
        btime: Some(timestamp_to_wire(&attr.btime)),
        map_version: attr.map_version,
    }
}

/// Attributes from the wire.
///
/// # Errors
/// `Invalid`: inode 0, unknown kind, mode bits above 07777, a size above the largest file, a missing time stamp.
pub fn attr_from_wire(attr: v1::Attr) -> FsResult<Attr> {
    if attr.ino == 0 {
        return Err(invalid("inode number 0 does not exist"));
    }
    if attr.mode > 0o7777 {
        return Err(invalid(format!(
            "mode {:o} has more than permission bits",
            attr.mode
        )));
    }
    if attr.size > FILE_BYTES_MAX {
        return Err(invalid(format!("size {} is above the largest file", attr.size)));
    }
    Ok(Attr {
        ino: Ino(attr.ino),
        generation: attr.generation,
        kind: file_kind(attr.kind)?,
        mode: attr.mode,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        size: attr.size,
        allocated_bytes: attr.allocated_bytes,
        atime: required_time(attr.atime)?,
        mtime: required_time(attr.mtime)?,
        ctime: required_time(attr.ctime)?,
        btime: required_time(attr.btime)?,
        map_version: attr.map_version,
    })
}

/// Attributes that a message must have.
pub(super) fn required_attr(attr: Option<v1::Attr>) -> FsResult<Attr> {
    attr_from_wire(required(attr, "attributes")?)
}

/// Attributes with their leases, on the wire.
pub fn found_to_wire(found: &Found) -> v1::Found {
    v1::Found {
        attr: Some(attr_to_wire(&found.attr)),
        leased: found.leased,
        parent_leased: found.parent_leased,
    }
}

/// Attributes with their leases, from the wire.
///
/// # Errors
/// As [`attr_from_wire`].
pub fn found_from_wire(found: v1::Found) -> FsResult<Found> {
    Ok(Found {
        attr: required_attr(found.attr)?,
        leased: found.leased,
        parent_leased: found.parent_leased,
    })
}

/// An entry's wire form.
pub fn entry_to_wire(entry: &Entry) -> v1::Entry {
    v1::Entry {
        attr: Some(attr_to_wire(&entry.attr)),
    }
}

/// An entry from the wire.
///
/// # Errors
/// As [`attr_from_wire`].
pub fn entry_from_wire(entry: v1::Entry) -> FsResult<Entry> {
    Ok(Entry {
        attr: required_attr(entry.attr)?,
    })
}

/// The wire form of what a create answers: the entry, and whether it was there before.
pub fn created_to_wire(entry: &Entry, existed: bool) -> v1::Created {
    v1::Created {
        attr: Some(attr_to_wire(&entry.attr)),
        existed,
    }
}

/// What a create answered: the entry, and whether it was there before.
///
/// # Errors
/// As [`attr_from_wire`].
pub fn created_from_wire(created: v1::Created) -> FsResult<(Entry, bool)> {
    let attr = required_attr(created.attr)?;
    Ok((Entry { attr }, created.existed))
}

/// A directory entry's wire form.
pub fn dir_entry_to_wire(entry: &DirEntry) -> v1::DirEntry {
    v1::DirEntry {
        name: entry.name.bytes().clone(),
        ino: entry.ino.0,
        kind: entry.kind.code(),
        cursor: entry.cursor,
        attr: entry.attr.as_ref().map(attr_to_wire),
    }
}

/// A directory entry from the wire.
///
/// # Errors
/// `Invalid` or `NameTooLong` (the name), `Invalid` (kind, cursor, attributes, or attributes of another inode).
pub fn dir_entry_from_wire(entry: v1::DirEntry) -> FsResult<DirEntry> {
    if entry.cursor < CURSOR_MIN || entry.ino == 0 {
        return Err(invalid("a directory entry has an impossible cursor or inode"));
    }
    let attr = entry.attr.map(attr_from_wire).transpose()?;
    if attr.as_ref().is_some_and(|attr| attr.ino.0 != entry.ino) {
        return Err(invalid("a directory entry has another inode's attributes"));
    }
    Ok(DirEntry {
        name: Name::new(entry.name)?,
        ino: Ino(entry.ino),
        kind: file_kind(entry.kind)?,
        cursor: entry.cursor,
        attr,
    })
}

/// A directory page's wire form.
pub fn dir_page_to_wire(page: &DirPage) -> v1::ReaddirReply {
    v1::ReaddirReply {
        entries: page.entries.iter().map(dir_entry_to_wire).collect(),
        end: page.end,
        parent: page.parent.0,
        leased: page.leased,
    }
}

/// A directory page from the wire.
///
/// # Errors
/// `Invalid` for more entries than [`READDIR_ENTRIES_MAX`], cursors that do not grow, a page that neither ends nor has an
/// entry (its reader would ask for ever), and as [`dir_entry_from_wire`].
pub fn dir_page_from_wire(page: v1::ReaddirReply) -> FsResult<DirPage> {
    at_most(
        page.entries.len(),
        READDIR_ENTRIES_MAX as usize,
        "directory entries",
    )?;
    if page.entries.is_empty() && !page.end {
        return Err(invalid("a directory page has neither entries nor an end"));
    }
    if page
        .entries
        .windows(2)
        .any(|pair| pair[0].cursor >= pair[1].cursor)
    {
        return Err(invalid("a directory page is out of order"));
    }
    Ok(DirPage {
        entries: page
            .entries
            .into_iter()
            .map(dir_entry_from_wire)
            .collect::<FsResult<_>>()?,
        end: page.end,
        leased: page.leased,
        parent: Ino(page.parent),
    })
}

/// Totals' wire form.
pub fn statfs_to_wire(totals: &StatFs) -> v1::StatfsReply {
    v1::StatfsReply {
        capacity_bytes: totals.capacity_bytes,
        available_bytes: totals.available_bytes,
        used_bytes: totals.used_bytes,
        inodes: totals.inodes,
    }
}

/// Totals from the wire. Never fails: every number is possible.
pub fn statfs_from_wire(totals: v1::StatfsReply) -> FsResult<StatFs> {
    Ok(StatFs {
        capacity_bytes: totals.capacity_bytes,
        available_bytes: totals.available_bytes,
        used_bytes: totals.used_bytes,
        inodes: totals.inodes,
    })
}

/// Checks the length of a symbolic link's target.
pub(crate) fn symlink_target(target: Bytes) -> FsResult<Bytes> {
    if target.len() > SYMLINK_BYTES_MAX {
        return Err(invalid(format!(
            "a symlink's target has at most {SYMLINK_BYTES_MAX} bytes"
        )));
    }
    Ok(target)
}

/// Checks the name of an extended attribute: 1 to 255 bytes without NUL.
pub(crate) fn xattr_name(name: Bytes) -> FsResult<Bytes> {
    if name.is_empty() || name.len() > XATTR_NAME_BYTES_MAX || name.contains(&0) {
        return Err(invalid(format!(
            "an extended attribute's name has 1 to {XATTR_NAME_BYTES_MAX} bytes without NUL"
        )));
    }
    Ok(name)
}

/// Checks the length of an extended attribute's value.
pub(crate) fn xattr_value(value: Bytes) -> FsResult<Bytes> {
    if value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(invalid(format!(
            "an extended attribute's value has at most {XATTR_VALUE_BYTES_MAX} bytes"
        )));
    }
    Ok(value)
}

/// Checks a list of names of extended attributes: each name, and the sum with a NUL each.
pub(crate) fn xattr_list(names: Vec<Bytes>) -> FsResult<Vec<Bytes>> {
    let bytes: usize = names.iter().map(|name| name.len() + 1).sum();
    if bytes > XATTR_LIST_BYTES_MAX {
        return Err(invalid(format!(
            "the names of one inode's extended attributes have at most {XATTR_LIST_BYTES_MAX} bytes"
        )));
    }
    names.into_iter().map(xattr_name).collect()
}
