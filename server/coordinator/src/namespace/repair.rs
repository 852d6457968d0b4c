//! Repairs of what [`check`](super::check) found and what can be put right without guessing.
//!
//! A repair says what was seen and what is right. It is applied in the writer's order like any operation, and only if what it is
//! about is still as it was seen; otherwise it changes nothing, and another check finds what is left. Invariants: nothing that
//! holds or reaches file content is deleted, except an inode that has neither name nor holder, which goes the way of every removed
//! file; where the records leave more than one answer there is no repair.

mod encoded;

use super::chunks::{self, Chunk};
use super::counters::Counters;
use super::dentry::{self, Dentry};
use super::inode::{self, Inode, NewInode};
use super::txn::Txn;
use super::usage::{self, Delta};
use super::{ApplyContext, counters, directory, keys, orphans};
use bytes::Bytes;
use dfs_common::session::Caller;
use dfs_common::{Attr, ChunkId, ErrorKind, FileKind, FsResult, Ino, Name, NodeId, Timestamp};
use std::collections::BTreeSet;
use std::fmt;

/// Name, in the root directory, of the directory that gets inodes that have no name any more.
pub const LOST_AND_FOUND: &str = "lost+found";

/// What tells that an inode was changed since it was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    ctime: Timestamp,
    mtime: Timestamp,
    map_version: u64,
    map: u64,
}

impl Stamp {
    /// Of an inode as it stands.
    pub fn of(inode: &Inode) -> Self {
        Stamp {
            ctime: inode.attr.ctime,
            mtime: inode.attr.mtime,
            map_version: inode.attr.map_version,
            map: inode.map,
        }
    }
}

/// A number of an inode's record that can be counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// Links.
    Links,
    /// Size: of a directory its entries, of a symbolic link its target.
    Size,
    /// The directory that holds it; of directories.
    Parent,
    /// Bytes of its extents.
    AllocatedBytes,
    /// Bytes of its inline extents.
    InlineBytes,
    /// Names of its extended attributes.
    XattrListBytes,
    /// Values of its extended attributes.
    XattrValueBytes,
}

/// What is wrong with a directory entry by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryFault {
    /// It names nothing, or stands in what is no directory: it goes.
    Dangling,
    /// It says another kind than its inode.
    Kind(FileKind),
    /// It is not listed, or not as it stands.
    Unlisted,
}

/// One repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// Totals that do not match what they count: the difference is added to them, so changes meanwhile do not matter.
    Totals {
        /// As they stood; `None`: there were none that could be read, and these take their place.
        said: Option<Counters>,
        /// As they were counted.
        counted: Counters,
    },
    /// Chunks of a replica set; the difference is added.
    ReplicaSet {
        /// The nodes.
        replicas: Vec<NodeId>,
        /// Count that stood there.
        said: u64,
        /// Chunks that there were.
        counted: u64,
    },
    /// Numbers below this one are in use.
    Numbers {
        /// One above the largest.
        below: u64,
    },
    /// A directory that does not exist and has entries: made again, accessible to root only, so that the names below it stay.
    Directory {
        /// Its number.
        ino: Ino,
    },
    /// A number of an inode's record.
    Inode {
        /// The inode.
        ino: Ino,
        /// When it was seen.
        stamp: Stamp,
        /// Which number.
        field: Field,
        /// As it stood.
        said: u64,
        /// As it was counted.
        counted: u64,
    },
    /// A directory entry by name.
    Entry {
        /// Directory.
        parent: Ino,
        /// Name.
        name: Name,
        /// As it stood.
        entry: Dentry,
        /// What is wrong with it.
        fault: EntryFault,
    },
    /// A directory entry by cursor without one by name.
    Listed {
        /// Directory.
        parent: Ino,
        /// Cursor.
        cursor: u64,
        /// Name that it lists.
        name: Name,
        /// Inode that it lists.
        ino: Ino,
        /// Its kind.
        kind: FileKind,
        /// The inode misses a name: this is it. Otherwise the record goes.
        missed: bool,
    },
    /// An inode without name, links and holder: left to the reaper.
    Unheld {
        /// The inode.
        ino: Ino,
    },
    /// An inode with links and without a name: gets one in [`LOST_AND_FOUND`].
    Nameless {
        /// The inode.
        ino: Ino,
        /// When it was seen.
        stamp: Stamp,
    },
    /// An orphan record of an inode that is none: it does not exist, or has a name.
    NotOrphan {
        /// The inode.
        ino: Ino,
        /// It exists, and has this stamp.
        stamp: Option<Stamp>,
    },
    /// An orphan without a holder, or that the namespace keeps without knowing since when: kept from now on.
    Unmarked {
        /// The inode.
        ino: Ino,
    },
    /// A mark of a replaced inode that is none, or is marked twice.
    Mark {
        /// Key of the mark.
        key: Bytes,
        /// Its inode is no orphan that the namespace keeps. Otherwise it has another mark.
        stray: bool,
    },
    /// Extents are to be taken away that belong to an inode: they stay.
    Reap {
        /// Their map.
        map: u64,
    },
    /// References to a chunk.
    References {
        /// The chunk.
        chunk: ChunkId,
        /// As it stood.
        said: u64,
        /// Extents that refer to it.
        counted: u64,
    },
    /// A freed chunk that extents refer to: it is not free.
    Freed {
        /// The chunk.
        chunk: ChunkId,
        /// Extents that refer to it.
        counted: u64,
    },
    /// The directory in which an inode is counted that is none itself.
    Home {
        /// The inode.
        ino: Ino,
        /// When it was seen.
        stamp: Stamp,
        /// The directory of the one name that has no record.
        parent: Ino,
    },
    /// The record of a name beside the one by which an inode is counted.
    FurtherName {
        /// The inode.
        ino: Ino,
        /// It exists, and has this stamp.
        stamp: Option<Stamp>,
        /// Directory of the name.
        parent: Ino,
        /// Its cursor.
        cursor: u64,
        /// It is missing. Otherwise it is too many.
        there: bool,
    },
    /// A usage record that is missing, or does not say where its directory lies or which quota it has, as that is by then; or is no directory's.
    /// What it counts follows with [`Repair::Usage`].
    UsageRecord {
        /// The directory.
        directory: Ino,
    },
    /// An inode that sessions hold without a name, and that is counted nowhere: below the root from now on.
    Held {
        /// The inode.
        ino: Ino,
    },
    /// What lies in a directory: the difference is added to its usage and that of all above it, so changes meanwhile do not matter.
    Usage {
        /// The directory.
        directory: Ino,
        /// What was there beyond what its usage said.
        difference: Delta,
    },
    /// Usage was not counted to the end, or by a release that did not say so: the next start counts.
    UsageMark,
}

impl Repair {
    /// Repairs of sums come first: others change them by steps, which wrong ones may not allow.
    pub fn rank(&self) -> u8 {
        match self {
            Repair::Totals { .. } | Repair::ReplicaSet { .. } | Repair::Numbers { .. } => 0,
            // Before the entry that names it is taken for one of nothing.
            Repair::Directory { .. } => 1,
            _ => 2,
        }
    }

    /// Inodes whose attributes or names it changes: clients may have them in memory.
    pub fn inodes(&self) -> BTreeSet<Ino> {
        match self {
            Repair::Directory { ino }
            | Repair::Inode { ino, .. }
            | Repair::Unheld { ino }
            | Repair::NotOrphan { ino, .. } => [*ino].into(),
            Repair::Entry { parent, entry, .. } => [*parent, entry.ino].into(),
            Repair::Listed { parent, ino, .. } => [*parent, *ino].into(),
            Repair::Nameless { ino, .. } => [*ino, Ino::ROOT].into(),
            // A quota may come into force, or another one.
            Repair::UsageRecord { .. } => [Ino::QUOTAS].into(),
            Repair::Totals { .. }
            | Repair::ReplicaSet { .. }
            | Repair::Numbers { .. }
            | Repair::Unmarked { .. }
            | Repair::Mark { .. }
            | Repair::Reap { .. }
            | Repair::References { .. }
            | Repair::Freed { .. }
            | Repair::Home { .. }
            | Repair::FurtherName { .. }
            | Repair::Held { .. }
            | Repair::Usage { .. }
            | Repair::UsageMark => BTreeSet::new(),
        }
    }
}

impl fmt::Display for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Repair::Totals { counted, .. } => write!(f, "the totals are as they were counted: {counted:?}"),
            Repair::ReplicaSet {
                replicas, counted, ..
            } => {
                write!(f, "{counted} chunks are counted for the replicas {replicas:?}")
            }
            Repair::Numbers { below } => write!(f, "numbers below {below} are not given again"),
            Repair::Directory { ino } => write!(f, "directory {ino} was made again, for root only"),
            Repair::Inode {
                ino,
                field,
                said,
                counted,
                ..
            } => write!(f, "inode {ino}: {field:?} is {counted}, was {said}"),
            Repair::Entry {
                parent, name, fault, ..
            } => match fault {
                EntryFault::Dangling => write!(f, "entry {name} of inode {parent} was removed"),
                EntryFault::Kind(kind) => write!(f, "entry {name} of inode {parent} says {kind:?}"),
                EntryFault::Unlisted => write!(f, "entry {name} of inode {parent} is listed"),
            },
            Repair::Listed {
                parent,
                name,
                ino,
                missed: true,
                ..
            } => {
                write!(f, "entry {name} of inode {parent} names inode {ino} again")
            }
            Repair::Listed { parent, name, .. } => {
                write!(f, "listed entry {name} of inode {parent} was removed")
            }
            Repair::Unheld { ino } => write!(f, "inode {ino} is left to the reaper"),
            Repair::Nameless { ino, .. } => write!(f, "inode {ino} is /{LOST_AND_FOUND}/#{ino}"),
            Repair::NotOrphan { ino, .. } => write!(f, "inode {ino} is no orphan"),
            Repair::Unmarked { ino } => write!(f, "orphan {ino} is kept from now on"),
            Repair::Mark { .. } => write!(f, "a mark of a replaced inode was removed"),
            Repair::Reap { map } => write!(f, "the extents of map {map} stay"),
            Repair::References { chunk, counted, .. } => write!(f, "chunk {chunk} has {counted} references"),
            Repair::Freed { chunk, .. } => write!(f, "chunk {chunk} is not free"),
            Repair::Home { ino, parent, .. } => write!(f, "inode {ino} is counted in {parent}"),
            Repair::FurtherName {
                ino, parent, there, ..
            } => {
                let what = if *there { "has" } else { "has not" };
                write!(f, "a further name of inode {ino} in {parent} {what} a record")
            }
            Repair::UsageRecord { directory } => {
                write!(f, "the usage record of {directory} lies where its directory does")
            }
            Repair::Held { ino } => write!(f, "inode {ino}, which has no name, is counted below the root"),
            Repair::Usage {
                directory,
                difference,
            } => write!(
                f,
                "the usage of directory {directory} was changed by {difference:?}"
            ),
            Repair::UsageMark => write!(f, "what lies in each directory is counted at the next start"),
        }
    }
}

fn difference(said: u64, counted: u64) -> i64 {
    (counted as i64).wrapping_sub(said as i64)
}

/// Repairs, if what is to be repaired still is as it was seen. True if it was.
///
/// # Errors
/// `Corrupt` if records around it contradict each other: nothing may be kept of it then.
pub fn apply(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>, repair: &Repair) -> FsResult<bool> {
    match repair {
        Repair::Totals {
            said: Some(said),
            counted,
        } => totals(txn, said, counted),
        Repair::Totals { said: None, counted } => make_totals(txn, counted),
        Repair::ReplicaSet {
            replicas,
            said,
            counted,
        } => chunks::count_replica_set(txn, replicas, difference(*said, *counted)).map(|()| true),
        Repair::Numbers { below } => {
            let mut totals = counters::get(txn)?;
            let raised = totals.numbers_below < *below;
            totals.numbers_below = totals.numbers_below.max(*below);
            counters::put(txn, &totals);
            Ok(raised)
        }
        Repair::Directory { ino } => make_again(txn, ctx, *ino),
        Repair::Inode {
            ino,
            stamp,
            field,
            said,
            counted,
        } => set_field(txn, *ino, stamp, *field, (*said, *counted)),
        Repair::Entry {
            parent,
            name,
            entry,
            fault,
        } => repair_entry(txn, *parent, name, entry, fault),
        Repair::Listed {
            parent,
            cursor,
            name,
            ino,
            kind,
            missed,
        } => {
            let entry = Dentry {
                ino: *ino,
                kind: *kind,
                cursor: *cursor,
            };
            repair_listed(txn, *parent, name, &entry, *missed)
        }
        Repair::Unheld { ino } => {
            let Some(inode) = Inode::find(txn, *ino)? else {
                return Ok(false);
            };
            if inode.attr.nlink != 0 || txn.get(&keys::orphan(*ino))?.is_some() {
                return Ok(false);
            }
            orphans::keep(txn, ctx.now, *ino, &[]);
            Ok(true)
        }
        Repair::Home { ino, stamp, parent } => {
            let inode = Inode::find(txn, *ino)?.filter(|inode| !inode.is_directory());
            let Some(mut inode) = inode.filter(|inode| Stamp::of(inode) == *stamp) else {
                return Ok(false);
            };
            inode.parent = *parent;
            inode.put(txn);
            Ok(true)
        }
        Repair::FurtherName {
            ino,
            stamp,
            parent,
            cursor,
            there,
        } => {
            let key = keys::link(*ino, *parent, *cursor);
            let now = Inode::find(txn, *ino)?.map(|inode| Stamp::of(&inode));
            if now != *stamp || txn.get(&key)?.is_some() == *there {
                return Ok(false);
            }
            match there {
                true => txn.put(key, Bytes::new()),
                false => txn.delete(key),
            }
            Ok(true)
        }
        Repair::UsageRecord { directory } => usage::repair::repair_record(txn, *directory),
        Repair::Held { ino } => usage::repair::place(txn, *ino),
        Repair::Usage {
            directory,
            difference,
        } => usage::repair::correct(txn, *directory, *difference),
        Repair::UsageMark => {
            usage::rebuild::mark(txn, 0);
            Ok(true)
        }
        Repair::Nameless { ino, stamp } => attach(txn, ctx, *ino, stamp),
        Repair::NotOrphan { ino, stamp } => {
            let now = Inode::find(txn, *ino)?.map(|inode| Stamp::of(&inode));
            let is_orphan = txn.get(&keys::orphan(*ino))?.is_some();
            if now != *stamp || !is_orphan {
                return Ok(false);
            }
            txn.delete(keys::orphan(*ino));
            Ok(true)
        }
        Repair::Unmarked { ino } => {
            let holders = orphans::holders(txn, *ino)?;
            let known = txn.get(&keys::orphan(*ino))?.is_some();
            if !known || !(holders.is_empty() || holders.contains(&orphans::NAMESPACE)) {
                return Ok(false);
            }
            orphans::keep(txn, ctx.now, *ino, &holders);
            Ok(true)
        }
        Repair::Mark { key, stray } => {
            let kept = match keys::parse_replaced(key) {
                Some((_, ino)) => orphans::holders(txn, ino)?.contains(&orphans::NAMESPACE),
                None => false,
            };
            if txn.get(key)?.is_none() || (*stray && kept) {
                return Ok(false);
            }
            txn.delete(key.clone());
            Ok(true)
        }
        Repair::Reap { map } => {
            let there = txn.get(&keys::reap(*map))?.is_some();
            txn.delete(keys::reap(*map));
            Ok(there)
        }
        Repair::References { chunk, said, counted } => match Chunk::find(txn, *chunk)? {
            Some(mut record) if record.references == *said && *counted > 0 => {
                record.references = *counted;
                record.put(txn, *chunk);
                Ok(true)
            }
            _ => Ok(false),
        },
        Repair::Freed { chunk, counted } => chunks::take_back(txn, *chunk, *counted),
    }
}

fn totals(txn: &mut Txn<'_>, said: &Counters, counted: &Counters) -> FsResult<bool> {
    let mut now = counters::get(txn)?;
    for (total, said, counted) in [
        (&mut now.inodes, said.inodes, counted.inodes),
        (&mut now.content_bytes, said.content_bytes, counted.content_bytes),
        (&mut now.chunks, said.chunks, counted.chunks),
        (&mut now.freed_chunks, said.freed_chunks, counted.freed_chunks),
        (&mut now.freed_bytes, said.freed_bytes, counted.freed_bytes),
        (&mut now.inline_bytes, said.inline_bytes, counted.inline_bytes),
    ] {
        counters::add(total, difference(said, counted))?;
    }
    counters::put(txn, &now);
    Ok(true)
}

/// While there are none nothing that they count can change, so what was counted is right as long as they are missing.
fn make_totals(txn: &mut Txn<'_>, counted: &Counters) -> FsResult<bool> {
    match counters::get(txn) {
        Ok(_) => Ok(false),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            counters::put(txn, counted);
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

fn set_field(
    txn: &mut Txn<'_>,
    ino: Ino,
    stamp: &Stamp,
    field: Field,
    (said, counted): (u64, u64),
) -> FsResult<bool> {
    let Some(mut inode) = Inode::find(txn, ino)? else {
        return Ok(false);
    };
    let now = Stamp::of(&inode);
    let place: &mut u64 = match field {
        Field::Links => {
            let same = u64::from(inode.attr.nlink) == said && now == *stamp;
            let (true, Ok(links)) = (same, u32::try_from(counted)) else {
                return Ok(false);
            };
            inode.attr.nlink = links;
            inode.put(txn);
            return Ok(true);
        }
        Field::Size => &mut inode.attr.size,
        Field::Parent => &mut inode.parent.0,
        Field::AllocatedBytes => &mut inode.attr.allocated_bytes,
        Field::InlineBytes => &mut inode.inline_bytes,
        Field::XattrListBytes => &mut inode.xattr_list_bytes,
        Field::XattrValueBytes => &mut inode.xattr_value_bytes,
    };
    if *place != said || now != *stamp {
        return Ok(false);
    }
    *place = counted;
    inode.put(txn);
    Ok(true)
}

/// What the directory holds and where it lies is counted by the next check.
fn make_again(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>, ino: Ino) -> FsResult<bool> {
    if exists(txn, ino)? {
        return Ok(false);
    }
    let attr = Attr {
        ino,
        generation: 1,
        kind: FileKind::Directory,
        mode: 0o700,
        nlink: 2,
        uid: 0,
        gid: 0,
        rdev: 0,
        size: 0,
        allocated_bytes: 0,
        atime: ctx.now,
        mtime: ctx.now,
        ctime: ctx.now,
        btime: ctx.now,
        map_version: 0,
    };
    Inode::new(attr, Ino::ROOT).put(txn);
    let mut totals = counters::get(txn)?;
    counters::add(&mut totals.inodes, 1)?;
    counters::put(txn, &totals);
    Ok(true)
}

/// Whether `ino` has a record, be it readable or not.
fn exists(txn: &Txn<'_>, ino: Ino) -> FsResult<bool> {
    Ok(txn.get(&keys::inode(ino))?.is_some())
}

fn repair_entry(
    txn: &mut Txn<'_>,
    parent: Ino,
    name: &Name,
    entry: &Dentry,
    fault: &EntryFault,
) -> FsResult<bool> {
    if dentry::find(txn, parent, name)?.as_ref() != Some(entry) {
        return Ok(false);
    }
    match fault {
        EntryFault::Dangling => {
            let directory = match exists(txn, parent)? {
                true => Some(Inode::get(txn, parent)?).filter(Inode::is_directory),
                false => None,
            };
            if directory.is_some() && exists(txn, entry.ino)? {
                return Ok(false);
            }
            txn.delete(keys::dentry(parent, name));
            if lists(txn, parent, name, entry)? {
                txn.delete(keys::cursor(parent, entry.cursor));
            }
            if let Some(mut directory) = directory {
                directory.attr.size = directory.attr.size.saturating_sub(1);
                if entry.kind == FileKind::Directory {
                    directory::remove_subdirectory(&mut directory);
                }
                directory.put(txn);
            }
        }
        EntryFault::Kind(kind) => {
            if Inode::find(txn, entry.ino)?.is_none_or(|inode| inode.attr.kind != *kind) {
                return Ok(false);
            }
            dentry::put(
                txn,
                parent,
                name,
                &Dentry {
                    kind: *kind,
                    ..*entry
                },
            );
        }
        EntryFault::Unlisted => {
            if lists(txn, parent, name, entry)? {
                return Ok(false);
            }
            let mut entry = *entry;
            let mut totals = counters::get(txn)?;
            let given = super::FIRST_NUMBER..totals.numbers_below;
            // Its place in listings, unless somebody else has it or nobody was given it.
            if txn.get(&keys::cursor(parent, entry.cursor))?.is_some() || !given.contains(&entry.cursor) {
                entry.cursor = counters::take_number(&mut totals)?;
                counters::put(txn, &totals);
            }
            dentry::put(txn, parent, name, &entry);
        }
    }
    Ok(true)
}

/// Whether the entry stands in the listing of its directory as it stands by name.
fn lists(txn: &Txn<'_>, parent: Ino, name: &Name, entry: &Dentry) -> FsResult<bool> {
    let Some(value) = txn.get(&keys::cursor(parent, entry.cursor))? else {
        return Ok(false);
    };
    Ok(dentry::decode_cursor(value)? == (name.clone(), entry.ino, entry.kind))
}

fn repair_listed(
    txn: &mut Txn<'_>,
    parent: Ino,
    name: &Name,
    listed: &Dentry,
    missed: bool,
) -> FsResult<bool> {
    let stands = dentry::find(txn, parent, name)?;
    let same = |entry: &Dentry| (entry.ino, entry.cursor) == (listed.ino, listed.cursor);
    if !lists(txn, parent, name, listed)? || stands.as_ref().is_some_and(same) {
        return Ok(false);
    }
    if !missed {
        txn.delete(keys::cursor(parent, listed.cursor));
        return Ok(true);
    }
    let inode = Inode::find(txn, listed.ino)?;
    let directory = Inode::find(txn, parent)?.filter(Inode::is_directory);
    let (Some(inode), Some(_), None) = (inode, directory, stands) else {
        return Ok(false);
    };
    if inode.attr.kind != listed.kind || inode.attr.nlink == 0 {
        return Ok(false);
    }
    dentry::put(txn, parent, name, listed);
    Ok(true)
}

/// The directory for what lost its name, made if it is missing; `None` if something else has its name.
fn lost_and_found(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>) -> FsResult<Option<Inode>> {
    let name = Name::new(Bytes::from_static(LOST_AND_FOUND.as_bytes()))?;
    if let Some(entry) = dentry::find(txn, Ino::ROOT, &name)? {
        return Ok(Inode::find(txn, entry.ino)?.filter(Inode::is_directory));
    }
    let Some(mut root) = Inode::find(txn, Ino::ROOT)?.filter(Inode::is_directory) else {
        return Ok(None);
    };
    let new = NewInode {
        kind: FileKind::Directory,
        mode: 0o700,
        rdev: 0,
        target: Bytes::new(),
    };
    inode::make(txn, ctx, &Caller::root(), &mut root, &name, new).map(Some)
}

fn attach(txn: &mut Txn<'_>, ctx: &ApplyContext<'_>, ino: Ino, stamp: &Stamp) -> FsResult<bool> {
    let Some(mut inode) = Inode::find(txn, ino)? else {
        return Ok(false);
    };
    if Stamp::of(&inode) != *stamp {
        return Ok(false);
    }
    let Some(mut directory) = lost_and_found(txn, ctx)? else {
        return Ok(false);
    };
    let name = Name::new(Bytes::from(format!("#{ino}")))?;
    if directory.ino() == ino || dentry::find(txn, directory.ino(), &name)?.is_some() {
        return Ok(false);
    }
    let mut totals = counters::get(txn)?;
    let entry = Dentry {
        ino,
        kind: inode.attr.kind,
        cursor: counters::take_number(&mut totals)?,
    };
    counters::put(txn, &totals);
    if inode.is_directory() {
        inode.parent = directory.ino();
        directory::add_subdirectory(&mut directory)?;
    } else {
        inode.attr.nlink = 1;
    }
    inode.attr.ctime = ctx.now;
    txn.delete(keys::orphan(ino));
    inode.put(txn);
    directory::add_entry(txn, &mut directory, &name, &entry, ctx.now);
    directory.put(txn);
    Ok(true)
}

#[cfg(test)]
mod tests;
