//! Proves that the records of a store belong together: names and inodes, link counts, maps, chunks, totals.
//!
//! Reads everything once and keeps a few hundred bytes per inode and a few dozen per chunk and map in memory. Finds and names
//! what is wrong, and says which [`Repair`] would put it right where there is one answer; changes nothing. The store must not
//! change meanwhile: give it a snapshot. A record that cannot be read is a problem like any other, but with one there are no
//! repairs: what it said is not known, so what is missing beside it proves nothing.
//!
//! One file although it is long: every rule looks at the same facts, and they are gathered in one order.

mod usage;

use super::chunks::{self, Chunk, FreedChunk};
use super::counters::{self, Counters};
use super::inode::Inode;
use super::repair::{EntryFault, Field, Repair, Stamp};
use super::{damaged, dentry, extents, keys, orphans, reap};
use crate::store::MetaRead;
use crate::stored;
use bytes::Bytes;
use dfs_common::extent::ExtentData;
use dfs_common::{ChunkId, ErrorKind, FileKind, FsResult, Ino, NodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Problems that are named; more are only counted.
const PROBLEMS_MAX: usize = 1000;
/// Repairs that are remembered; more are found by the next check.
const REPAIRS_MAX: usize = 8192;

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// One sentence per problem, at most 1000.
    pub problems: Vec<String>,
    /// All problems.
    pub problem_count: u64,
    /// Repairs of them, as many as are remembered. None if a record could not be read.
    pub repairs: Vec<Repair>,
    /// Records that could not be read.
    pub unreadable: u64,
    /// Inodes that were looked at.
    pub inodes: u64,
    /// Chunks that were looked at.
    pub chunks: u64,
}

impl Report {
    /// True if nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.problem_count == 0
    }

    fn problem(&mut self, text: String) {
        self.problem_count += 1;
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(text);
        }
    }

    fn expect(&mut self, holds: bool, text: impl FnOnce() -> String) {
        if !holds {
            self.problem(text());
        }
    }

    /// As [`Report::expect`], of what can be repaired.
    fn expect_or_repair(
        &mut self,
        holds: bool,
        text: impl FnOnce() -> String,
        repair: impl FnOnce() -> Repair,
    ) {
        self.expect(holds, text);
        if !holds {
            self.repair(repair());
        }
    }

    fn repair(&mut self, repair: Repair) {
        if self.repairs.len() < REPAIRS_MAX {
            self.repairs.push(repair);
        }
    }

    /// A number of an inode's record must be what was counted.
    fn expect_field(
        &mut self,
        inode: &Inode,
        field: Field,
        (said, counted): (u64, u64),
        text: impl FnOnce() -> String,
    ) {
        self.expect_or_repair(said == counted, text, || Repair::Inode {
            ino: inode.ino(),
            stamp: Stamp::of(inode),
            field,
            said,
            counted,
        });
    }

    /// What was read of a record; a damaged one is named.
    ///
    /// # Errors
    /// Those of the store.
    fn readable<T>(&mut self, key: &Bytes, read: FsResult<T>) -> FsResult<Option<T>> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.unreadable += 1;
                self.problem(format!(
                    "the record of key {} cannot be read: restore the metadata from a backup",
                    key.escape_ascii()
                ));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// What the names say of an inode.
#[derive(Default)]
struct Named {
    links: u64,
    /// Names that are listed only, and will stand there again.
    missed: u64,
    entries: u64,
    subdirectories: u64,
    parent: Option<Ino>,
}

struct Facts {
    inode: Inode,
    named: Named,
    xattr_list_bytes: u64,
    xattr_value_bytes: u64,
    allocated_bytes: u64,
    inline_bytes: u64,
}

struct Check<'a> {
    read: &'a dyn MetaRead,
    report: Report,
    counters: Counters,
    seen: Counters,
    inodes: BTreeMap<Ino, Facts>,
    /// Directories that do not exist and have entries.
    lost_directories: BTreeSet<Ino>,
    /// One above the largest number in use.
    numbers_below: u64,
    /// Owner of each map; `None`: left to the reaper.
    maps: HashMap<u64, Option<Ino>>,
    references: HashMap<ChunkId, (u64, u64)>,
    replica_sets: BTreeMap<Vec<NodeId>, u64>,
}

/// Checks everything.
///
/// # Errors
/// `Corrupt` if a record cannot be decoded at all; those of the store.
pub fn check(read: &dyn MetaRead) -> FsResult<Report> {
    let mut check = Check {
        read,
        report: Report::default(),
        counters: counters::get(read)?,
        seen: Counters::default(),
        inodes: BTreeMap::new(),
        lost_directories: BTreeSet::new(),
        numbers_below: 0,
        maps: HashMap::new(),
        references: HashMap::new(),
        replica_sets: BTreeMap::new(),
    };
    check.load_inodes()?;
    check.names()?;
    check.cursors()?;
    check.links()?;
    check.xattrs()?;
    check.maps()?;
    check.chunks()?;
    check.totals()?;
    let mut report = check.report;
    usage::check(read, &mut report)?;
    if report.unreadable > 0 {
        report.repairs.clear();
    }
    report.repairs.sort_by_key(Repair::rank);
    Ok(report)
}

impl Check<'_> {
    fn load_inodes(&mut self) -> FsResult<()> {
        stored::for_each(self.read, keys::inodes(), |key, value| {
            let Some(inode) = self.report.readable(&key, Inode::decode(value))? else {
                return Ok(());
            };
            let ino = inode.ino();
            self.report.expect(keys::parse_inode(&key) == Some(ino), || {
                format!("the record of inode {ino} stands under another number")
            });
            let numbers = self.counters.numbers_below;
            self.numbers_below = self.numbers_below.max(ino.0.max(inode.map) + 1);
            self.report.expect(ino.0 < numbers && inode.map < numbers, || {
                format!("inode {ino} has a number that was not given yet")
            });
            self.seen.inodes += 1;
            if inode.attr.kind == FileKind::File {
                let double = self.maps.insert(inode.map(), Some(ino)).is_some();
                self.report
                    .expect(!double, || format!("inode {ino} has the map of another one"));
            }
            self.inodes.insert(
                ino,
                Facts {
                    inode,
                    named: Named::default(),
                    xattr_list_bytes: 0,
                    xattr_value_bytes: 0,
                    allocated_bytes: 0,
                    inline_bytes: 0,
                },
            );
            Ok(())
        })?;
        self.report.inodes = self.seen.inodes;
        let root = self.inodes.get(&Ino::ROOT);
        let root_is_directory = root.is_some_and(|root| root.inode.is_directory());
        let root_exists = root.is_some();
        self.report
            .expect(root_is_directory, || "there is no root directory".to_string());
        if !root_exists && self.lost_directories.insert(Ino::ROOT) {
            self.report.repair(Repair::Directory { ino: Ino::ROOT });
        }
        Ok(())
    }

    fn names(&mut self) -> FsResult<()> {
        stored::for_each(self.read, keys::dentries(), |key, value| {
            let parsed = keys::parse_dentry(&key).ok_or_else(|| damaged("directory entry"));
            let read = parsed.and_then(|(parent, name)| Ok((parent, name, dentry::decode(value)?)));
            let Some((parent, name, entry)) = self.report.readable(&key, read)? else {
                return Ok(());
            };
            let fault = |fault| Repair::Entry {
                parent,
                name: name.clone(),
                entry,
                fault,
            };
            let cursor = self.read.get(&keys::cursor(parent, entry.cursor))?;
            // One that cannot be read is named where the listings are looked at.
            let listed = cursor.and_then(|value| dentry::decode_cursor(value).ok());
            let same = listed.is_some_and(|listed| listed == (name.clone(), entry.ino, entry.kind));
            self.report.expect_or_repair(
                same,
                || format!("entry {name} of inode {parent} is not listed as it stands there"),
                || fault(EntryFault::Unlisted),
            );
            let in_range = (3..self.counters.numbers_below).contains(&entry.cursor);
            if same && entry.cursor >= 3 {
                self.numbers_below = self.numbers_below.max(entry.cursor + 1);
            }
            self.report.expect(in_range, || {
                format!("entry {name} of inode {parent} has a cursor that was not given")
            });
            match self.inodes.get_mut(&parent) {
                Some(directory) if directory.inode.is_directory() => {
                    directory.named.entries += 1;
                    directory.named.subdirectories += u64::from(entry.kind == FileKind::Directory);
                }
                Some(_) => {
                    self.report.expect_or_repair(
                        false,
                        || format!("entry {name} stands in inode {parent}, which is no directory"),
                        || fault(EntryFault::Dangling),
                    );
                    return Ok(());
                }
                None => {
                    let first = self.lost_directories.insert(parent);
                    self.report.problem(format!(
                        "entry {name} stands in inode {parent}, which does not exist"
                    ));
                    if first {
                        self.report.repair(Repair::Directory { ino: parent });
                    }
                }
            }
            match self.inodes.get_mut(&entry.ino) {
                Some(named) => {
                    named.named.links += 1;
                    named.named.parent = Some(parent);
                    let kind = named.inode.attr.kind;
                    self.report.expect_or_repair(
                        kind == entry.kind,
                        || {
                            format!(
                                "entry {name} of inode {parent} says {:?}, its inode {kind:?}",
                                entry.kind
                            )
                        },
                        || fault(EntryFault::Kind(kind)),
                    );
                }
                None => self.report.expect_or_repair(
                    false,
                    || {
                        format!(
                            "entry {name} of inode {parent} names inode {}, which does not exist",
                            entry.ino
                        )
                    },
                    || fault(EntryFault::Dangling),
                ),
            }
            Ok(())
        })
    }

    fn cursors(&mut self) -> FsResult<()> {
        stored::for_each(self.read, keys::cursors(), |key, value| {
            let parsed = keys::parse_cursor(&key).ok_or_else(|| damaged("directory entry"));
            let read = parsed.and_then(|place| Ok((place, dentry::decode_cursor(value)?)));
            let Some(((parent, cursor), (name, ino, kind))) = self.report.readable(&key, read)? else {
                return Ok(());
            };
            let entry = self.read.get(&keys::dentry(parent, &name))?;
            // One that cannot be read was named above.
            let read = entry.clone().and_then(|value| dentry::decode(value).ok());
            // The name is all that is missing if its inode says that it has one more, or, a directory, that it is there.
            let missed = entry.is_none()
                && self.inodes.get(&ino).is_some_and(|facts| {
                    let inode = &facts.inode;
                    match inode.is_directory() {
                        true => inode.parent == parent && facts.named.links == 0,
                        false => u64::from(inode.attr.nlink) > facts.named.links,
                    }
                })
                && self
                    .inodes
                    .get(&parent)
                    .is_some_and(|facts| facts.inode.is_directory());
            self.report.expect_or_repair(
                read.is_some_and(|entry| entry.ino == ino && entry.cursor == cursor),
                || format!("listed entry {name} of inode {parent} does not stand there"),
                || Repair::Listed {
                    parent,
                    cursor,
                    name: name.clone(),
                    ino,
                    kind,
                    missed,
                },
            );
            if missed && let Some(facts) = self.inodes.get_mut(&ino) {
                facts.named.missed += 1;
            }
            if missed && let Some(facts) = self.inodes.get_mut(&parent) {
                facts.named.entries += 1;
                facts.named.subdirectories += u64::from(kind == FileKind::Directory);
            }
            Ok(())
        })
    }

    /// Inodes without a name. Those that the namespace keeps have one mark each, under the time from which it does.
    fn orphans(&mut self) -> FsResult<BTreeSet<Ino>> {
        let mut marked: BTreeMap<Ino, Bytes> = BTreeMap::new();
        stored::for_each(self.read, keys::replaced_inodes(), |key, _| {
            let ino = keys::parse_replaced(&key).map(|(_, ino)| ino);
            let first = ino.is_some_and(|ino| marked.insert(ino, key.clone()).is_none());
            self.report.expect_or_repair(
                first,
                || format!("the mark of replaced inode {ino:?} is malformed or not the only one"),
                || Repair::Mark { key, stray: false },
            );
            Ok(())
        })?;
        let mut orphans = BTreeSet::new();
        stored::for_each(self.read, keys::orphans(), |key, value| {
            let read = orphans::parse_orphan(&key, value);
            let Some((ino, holders)) = self.report.readable(&key, read)? else {
                return Ok(());
            };
            orphans.insert(ino);
            let kept = holders.contains(&orphans::NAMESPACE);
            let mark = marked.remove(&ino);
            if !self.inodes.contains_key(&ino) {
                self.report.expect_or_repair(
                    false,
                    || format!("orphan {ino} has no inode"),
                    || Repair::NotOrphan { ino, stamp: None },
                );
                return Ok(());
            }
            let unmarked = kept && mark.is_none();
            self.report.expect_or_repair(
                !holders.is_empty() && !unmarked,
                || format!("orphan {ino} has no holder, or is kept and has no mark"),
                || Repair::Unmarked { ino },
            );
            if let Some(key) = mark.filter(|_| !kept && !holders.is_empty()) {
                self.report.expect_or_repair(
                    false,
                    || format!("orphan {ino} is not kept and has a mark"),
                    || Repair::Mark { key, stray: true },
                );
            }
            Ok(())
        })?;
        for (ino, key) in marked {
            self.report.expect_or_repair(
                false,
                || format!("inode {ino} is marked as replaced and is no orphan"),
                || Repair::Mark { key, stray: true },
            );
        }
        Ok(orphans)
    }

    fn links(&mut self) -> FsResult<()> {
        let orphans = self.orphans()?;
        let parents: HashMap<Ino, Ino> = self
            .inodes
            .values()
            .filter(|facts| facts.inode.is_directory())
            .map(|facts| (facts.inode.ino(), facts.inode.parent))
            .collect();
        for (ino, facts) in &self.inodes {
            let Facts { inode, named, .. } = facts;
            let attr = &inode.attr;
            let report = &mut self.report;
            let is_orphan = orphans.contains(ino);
            if attr.kind == FileKind::Symlink {
                report.expect_field(inode, Field::Size, (attr.size, inode.target.len() as u64), || {
                    format!("symbolic link {ino} has a wrong size")
                });
            }
            if inode.is_directory() {
                report.expect_field(inode, Field::Size, (attr.size, named.entries), || {
                    format!(
                        "directory {ino} has {} entries and says {}",
                        named.entries, attr.size
                    )
                });
            }
            let stamp = Stamp::of(inode);
            let is_named = *ino == Ino::ROOT || named.links > 0;
            if !is_named && named.missed > 0 {
                // Its name comes back from the listing, with the links that it says.
                continue;
            }
            if !is_named && (attr.nlink > 0 || named.entries > 0) {
                report.expect_or_repair(
                    false,
                    || {
                        format!(
                            "inode {ino} has no name, {} links and orphan is {is_orphan}",
                            attr.nlink
                        )
                    },
                    || Repair::Nameless { ino: *ino, stamp },
                );
                continue;
            }
            if !is_named {
                report.expect_or_repair(
                    is_orphan,
                    || format!("inode {ino} has neither name nor holder"),
                    || Repair::Unheld { ino: *ino },
                );
                continue;
            }
            report.expect_or_repair(
                !is_orphan,
                || format!("inode {ino} has {} names and is an orphan", named.links),
                || Repair::NotOrphan {
                    ino: *ino,
                    stamp: Some(stamp),
                },
            );
            if !inode.is_directory() {
                let names = named.links + named.missed;
                report.expect_field(inode, Field::Links, (u64::from(attr.nlink), names), || {
                    format!("inode {ino} has {names} names and says {}", attr.nlink)
                });
                continue;
            }
            let links = (u64::from(attr.nlink), 2 + named.subdirectories);
            report.expect_field(inode, Field::Links, links, || {
                format!(
                    "directory {ino} has {} subdirectories and {} links",
                    named.subdirectories, attr.nlink
                )
            });
            match (*ino, named.links) {
                (Ino::ROOT, 0) => report.expect_field(inode, Field::Parent, (inode.parent.0, 1), || {
                    "the root directory has a wrong parent".to_string()
                }),
                (ino, 1) if ino != Ino::ROOT => {
                    let parent = named.parent.unwrap_or_default();
                    report.expect_field(inode, Field::Parent, (inode.parent.0, parent.0), || {
                        format!("directory {ino} has a wrong parent")
                    });
                }
                (ino, names) => report.problem(format!("directory {ino} has {names} names")),
            }
            // From every directory the way up leads to the root.
            let mut at = *ino;
            let mut steps = 0;
            while at != Ino::ROOT && steps <= parents.len() {
                at = parents.get(&at).copied().unwrap_or(Ino::ROOT);
                steps += 1;
            }
            report.expect(steps <= parents.len(), || {
                format!("directory {ino} lies in a loop of directories")
            });
        }
        Ok(())
    }

    fn xattrs(&mut self) -> FsResult<()> {
        stored::for_each(self.read, keys::xattrs(), |key, value| {
            let owner =
                keys::parse_xattr(&key).and_then(|(ino, name)| Some((self.inodes.get_mut(&ino)?, name)));
            match owner {
                Some((facts, name)) => {
                    facts.xattr_list_bytes += name.len() as u64 + 1;
                    facts.xattr_value_bytes += value.len() as u64;
                }
                None => self
                    .report
                    .problem("an extended attribute has no inode".to_string()),
            }
            Ok(())
        })?;
        for (ino, facts) in &self.inodes {
            let inode = &facts.inode;
            for (field, said, counted) in [
                (
                    Field::XattrListBytes,
                    inode.xattr_list_bytes,
                    facts.xattr_list_bytes,
                ),
                (
                    Field::XattrValueBytes,
                    inode.xattr_value_bytes,
                    facts.xattr_value_bytes,
                ),
            ] {
                self.report.expect_field(inode, field, (said, counted), || {
                    format!("the extended attributes of inode {ino} have another size than it says")
                });
            }
        }
        Ok(())
    }

    fn maps(&mut self) -> FsResult<()> {
        stored::for_each(self.read, keys::reaps(), |key, value| {
            let parsed = keys::parse_reap(&key).ok_or_else(|| damaged("reap"));
            let read = parsed.and_then(|map| Ok((map, reap::decode(value)?)));
            let Some((map, ino)) = self.report.readable(&key, read)? else {
                return Ok(());
            };
            let owned = self.maps.contains_key(&map);
            self.maps.entry(map).or_insert(None);
            self.report.expect_or_repair(
                !owned,
                || format!("a map of inode {ino} that is to go belongs to an inode"),
                || Repair::Reap { map },
            );
            Ok(())
        })?;
        let mut last = (0, 0);
        stored::for_each(self.read, keys::extents(), |key, value| {
            let Some(extent) = self.report.readable(&key, extents::decode(&key, value))? else {
                return Ok(());
            };
            let map = keys::parse_extent(&key).map_or(0, |(map, _)| map);
            let free_from = if last.0 == map { last.1 } else { 0 };
            last = (map, extent.end());
            self.report.expect(extent.offset >= free_from, || {
                format!("extents of map {map} overlap at {}", extent.offset)
            });
            self.seen.content_bytes += extent.length;
            let inline_bytes = match &extent.data {
                ExtentData::Inline(_) => extent.length,
                ExtentData::Chunk { chunk, chunk_offset } => {
                    let (references, needed) = self.references.entry(*chunk).or_default();
                    *references += 1;
                    *needed = (*needed).max(chunk_offset.saturating_add(extent.length));
                    0
                }
            };
            self.seen.inline_bytes += inline_bytes;
            match self.maps.get(&map) {
                Some(Some(ino)) => {
                    let Some(facts) = self.inodes.get_mut(ino) else {
                        return Ok(());
                    };
                    facts.allocated_bytes += extent.length;
                    facts.inline_bytes += inline_bytes;
                    let size = facts.inode.attr.size;
                    self.report.expect(extent.end() <= size, || {
                        format!("inode {ino} has data at {} behind its size {size}", extent.end())
                    });
                }
                Some(None) => {}
                None => self
                    .report
                    .problem(format!("an extent of map {map} belongs to no inode")),
            }
            Ok(())
        })?;
        for (ino, facts) in &self.inodes {
            let inode = &facts.inode;
            for (field, said, counted, what) in [
                (
                    Field::AllocatedBytes,
                    inode.attr.allocated_bytes,
                    facts.allocated_bytes,
                    "allocated",
                ),
                (
                    Field::InlineBytes,
                    inode.inline_bytes,
                    facts.inline_bytes,
                    "inline",
                ),
            ] {
                self.report.expect_field(inode, field, (said, counted), || {
                    format!("inode {ino} says {said} {what} bytes, its map has {counted}")
                });
            }
        }
        Ok(())
    }

    fn chunks(&mut self) -> FsResult<()> {
        let granted: HashMap<SessionId, u64> = stored::sessions(self.read)?
            .into_iter()
            .map(|(session, record)| (session, record.granted_below))
            .collect();
        stored::for_each(self.read, keys::chunks(), |key, value| {
            let id = keys::parse_chunk(&key).ok_or_else(|| damaged("chunk"));
            let Some((id, chunk)) = self
                .report
                .readable(&key, id.and_then(|id| Ok((id, Chunk::decode(value)?))))?
            else {
                return Ok(());
            };
            self.seen.chunks += 1;
            *self.replica_sets.entry(chunk.replicas.clone()).or_default() += 1;
            let (references, needed) = self.references.remove(&id).unwrap_or_default();
            let report = &mut self.report;
            let text = || {
                format!(
                    "chunk {id} has {references} references and says {}",
                    chunk.references
                )
            };
            // One that nobody refers to is kept: it takes room, and may be all that is left of something.
            match references {
                0 => report.problem(text()),
                _ => report.expect_or_repair(references == chunk.references, text, || Repair::References {
                    chunk: id,
                    said: chunk.references,
                    counted: references,
                }),
            }
            report.expect(needed <= chunk.length, || {
                format!("an extent reaches behind the end of chunk {id}")
            });
            report.expect(chunk.replicas.is_sorted() && !chunk.replicas.is_empty(), || {
                format!("chunk {id} has no replicas or an unsorted list")
            });
            let was_granted = granted
                .get(&id.session())
                .is_none_or(|below| id.sequence() < *below);
            report.expect(was_granted, || format!("chunk {id} was never granted"));
            let freed = self.read.get(&keys::freed_chunk(id))?.is_some();
            report.expect_or_repair(
                !freed || references == 0,
                || format!("chunk {id} is freed and referred to"),
                || Repair::Freed {
                    chunk: id,
                    counted: references,
                },
            );
            report.expect(freed || !chunks::was_freed(self.read, id)?, || {
                format!("chunk {id} was deleted and is referred to")
            });
            Ok(())
        })?;
        self.report.chunks = self.seen.chunks;
        let mut recordless: Vec<_> = self
            .references
            .iter()
            .map(|(id, (count, _))| (*id, *count))
            .collect();
        recordless.sort_unstable();
        for (id, counted) in recordless {
            let text = || format!("chunk {id} is referred to and has no record");
            // Its record is at hand if it was freed; otherwise nothing tells where its replicas are.
            match self.read.get(&keys::freed_chunk(id))? {
                Some(_) => self
                    .report
                    .expect_or_repair(false, text, || Repair::Freed { chunk: id, counted }),
                None => self.report.problem(text()),
            }
        }
        stored::for_each(self.read, keys::freed_chunks(), |key, value| {
            if let Some(freed) = self.report.readable(&key, FreedChunk::decode(value))? {
                self.seen.freed_chunks += 1;
                self.seen.freed_bytes += freed.chunk.length;
            }
            Ok(())
        })?;
        let mut sets = BTreeMap::new();
        stored::for_each(self.read, keys::replica_sets(), |key, value| {
            let replicas = keys::parse_replica_set(&key).ok_or_else(|| damaged("replica set"));
            let read = replicas.and_then(|replicas| Ok((replicas, chunks::decode_replica_count(&value)?)));
            if let Some((replicas, said)) = self.report.readable(&key, read)? {
                sets.insert(replicas, said);
            }
            Ok(())
        })?;
        let known: BTreeSet<&Vec<NodeId>> = sets.keys().chain(self.replica_sets.keys()).collect();
        for replicas in known {
            let count = |of: &BTreeMap<Vec<NodeId>, u64>| of.get(replicas).copied().unwrap_or(0);
            let (said, counted) = (count(&sets), count(&self.replica_sets));
            // A count of none is no record.
            self.report.expect_or_repair(
                said == counted && sets.get(replicas) != Some(&0),
                || format!("{counted} chunks have replicas on {replicas:?}, their count says {said}"),
                || Repair::ReplicaSet {
                    replicas: replicas.clone(),
                    said,
                    counted,
                },
            );
        }
        Ok(())
    }

    fn totals(&mut self) -> FsResult<()> {
        let seen = Counters {
            numbers_below: self.counters.numbers_below,
            ..self.seen
        };
        let said = self.counters;
        let reserved = stored::durability(self.read)?.numbers_reserved;
        self.report
            .expect(reserved == 0 || said.numbers_below <= reserved, || {
                format!(
                    "numbers below {} were given, those below {reserved} are reserved",
                    said.numbers_below
                )
            });
        self.report.expect_or_repair(
            said == seen,
            || format!("the totals say {said:?}, there are {seen:?}"),
            || Repair::Totals { said, counted: seen },
        );
        let below = self.numbers_below;
        self.report.expect_or_repair(
            below <= said.numbers_below,
            || {
                format!(
                    "numbers below {below} are in use, only those below {} were given",
                    said.numbers_below
                )
            },
            || Repair::Numbers { below },
        );
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests;
