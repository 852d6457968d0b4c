//! Proves that the records of a store belong together: names and inodes, link counts, maps, chunks, totals.
//!
//! Reads everything once and keeps a few dozen bytes per inode, chunk and map in memory. Finds and names what is wrong,
//! changes nothing. The store must not change meanwhile: give it a snapshot.

mod usage;

use super::chunks::{self, Chunk, FreedChunk};
use super::counters::{self, Counters};
use super::inode::Inode;
use super::{dentry, extents, keys, orphans, reap};
use crate::store::MetaRead;
use crate::stored;
use dfs_common::extent::ExtentData;
use dfs_common::{ChunkId, FileKind, FsResult, Ino, NodeId, SessionId};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Problems that are named; more are only counted.
const PROBLEMS_MAX: usize = 1000;

/// What a check found.
#[derive(Debug, Default)]
pub struct Report {
    /// One sentence per problem, at most 1000.
    pub problems: Vec<String>,
    /// All problems.
    pub problem_count: u64,
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
}

/// What the names say of an inode.
#[derive(Default)]
struct Named {
    links: u64,
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
    usage::check(read, &mut check.report)?;
    Ok(check.report)
}

impl Check<'_> {
    fn load_inodes(&mut self) -> FsResult<()> {
        stored::for_each(self.read, keys::inodes(), |key, value| {
            let inode = Inode::decode(value)?;
            let ino = inode.ino();
            self.report.expect(keys::parse_inode(&key) == Some(ino), || {
                format!("the record of inode {ino} stands under another number")
            });
            let numbers = self.counters.numbers_below;
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
        self.report
            .expect(root_is_directory, || "there is no root directory".to_string());
        Ok(())
    }

    fn names(&mut self) -> FsResult<()> {
        stored::for_each(self.read, keys::dentries(), |key, value| {
            let Some((parent, name)) = keys::parse_dentry(&key) else {
                self.report
                    .problem("a directory entry has a malformed key".to_string());
                return Ok(());
            };
            let entry = dentry::decode(value)?;
            let cursor = self.read.get(&keys::cursor(parent, entry.cursor))?;
            let same = match cursor {
                Some(value) => dentry::decode_cursor(value)? == (name.clone(), entry.ino, entry.kind),
                None => false,
            };
            self.report.expect(same, || {
                format!("entry {name} of inode {parent} is not listed as it stands there")
            });
            let in_range = (3..self.counters.numbers_below).contains(&entry.cursor);
            self.report.expect(in_range, || {
                format!("entry {name} of inode {parent} has a cursor that was not given")
            });
            match self.inodes.get_mut(&parent) {
                Some(directory) if directory.inode.is_directory() => {
                    directory.named.entries += 1;
                    directory.named.subdirectories += u64::from(entry.kind == FileKind::Directory);
                }
                _ => self.report.problem(format!(
                    "entry {name} stands in inode {parent}, which is no directory"
                )),
            }
            match self.inodes.get_mut(&entry.ino) {
                Some(named) => {
                    named.named.links += 1;
                    named.named.parent = Some(parent);
                    let kind = named.inode.attr.kind;
                    self.report.expect(kind == entry.kind, || {
                        format!(
                            "entry {name} of inode {parent} says {:?}, its inode {kind:?}",
                            entry.kind
                        )
                    });
                }
                None => self.report.problem(format!(
                    "entry {name} of inode {parent} names inode {}, which does not exist",
                    entry.ino
                )),
            }
            Ok(())
        })
    }

    fn cursors(&mut self) -> FsResult<()> {
        stored::for_each(self.read, keys::cursors(), |key, value| {
            let Some((parent, cursor)) = keys::parse_cursor(&key) else {
                self.report
                    .problem("a listed directory entry has a malformed key".to_string());
                return Ok(());
            };
            let (name, ino, _) = dentry::decode_cursor(value)?;
            let entry = dentry::find(self.read, parent, &name)?;
            self.report.expect(
                entry.is_some_and(|entry| entry.ino == ino && entry.cursor == cursor),
                || format!("listed entry {name} of inode {parent} does not stand there"),
            );
            Ok(())
        })
    }

    /// Inodes without a name. Those that the namespace keeps have one mark each, under the time from which it does.
    fn orphans(&mut self) -> FsResult<BTreeSet<Ino>> {
        let mut marked = BTreeSet::new();
        stored::for_each(self.read, keys::replaced_inodes(), |key, _| {
            let ino = keys::parse_replaced(&key).map(|(_, ino)| ino);
            let first = ino.is_some_and(|ino| marked.insert(ino));
            self.report.expect(first, || {
                format!("the mark of replaced inode {ino:?} is malformed or not the only one")
            });
            Ok(())
        })?;
        let mut orphans = BTreeSet::new();
        stored::for_each(self.read, keys::orphans(), |key, value| {
            let (ino, holders) = orphans::parse_orphan(&key, value)?;
            orphans.insert(ino);
            let exists = self.inodes.contains_key(&ino);
            self.report.expect(exists && !holders.is_empty(), || {
                format!("orphan {ino} has no inode or no holder")
            });
            let kept = holders.contains(&orphans::NAMESPACE);
            self.report.expect(kept == marked.remove(&ino), || {
                format!("orphan {ino} is kept and has no mark, or is not kept and has one")
            });
            Ok(())
        })?;
        for ino in marked {
            self.report
                .problem(format!("inode {ino} is marked as replaced and is no orphan"));
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
            report.expect(is_orphan == (attr.nlink == 0), || {
                format!("inode {ino} has {} links and orphan is {is_orphan}", attr.nlink)
            });
            if !inode.is_directory() {
                report.expect(u64::from(attr.nlink) == named.links, || {
                    format!("inode {ino} has {} names and says {}", named.links, attr.nlink)
                });
            }
            if attr.kind == FileKind::Symlink {
                report.expect(attr.size == inode.target.len() as u64, || {
                    format!("symbolic link {ino} has a wrong size")
                });
            }
            if !inode.is_directory() {
                continue;
            }
            report.expect(attr.size == named.entries, || {
                format!(
                    "directory {ino} has {} entries and says {}",
                    named.entries, attr.size
                )
            });
            if is_orphan {
                report.expect(named.links == 0 && named.entries == 0, || {
                    format!("removed directory {ino} has names or entries")
                });
                continue;
            }
            report.expect(u64::from(attr.nlink) == 2 + named.subdirectories, || {
                format!(
                    "directory {ino} has {} subdirectories and {} links",
                    named.subdirectories, attr.nlink
                )
            });
            let (links, parent) = match *ino {
                Ino::ROOT => (0, Ino::ROOT),
                _ => (1, named.parent.unwrap_or_default()),
            };
            report.expect(named.links == links && inode.parent == parent, || {
                format!("directory {ino} has {} names or a wrong parent", named.links)
            });
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
            let same = (inode.xattr_list_bytes, inode.xattr_value_bytes)
                == (facts.xattr_list_bytes, facts.xattr_value_bytes);
            self.report.expect(same, || {
                format!("the extended attributes of inode {ino} have another size than it says")
            });
        }
        Ok(())
    }

    fn maps(&mut self) -> FsResult<()> {
        stored::for_each(self.read, keys::reaps(), |key, value| {
            let ino = reap::decode(value)?;
            let map = keys::parse_reap(&key);
            let taken = map.is_none_or(|map| self.maps.insert(map, None).is_some());
            self.report.expect(!taken, || {
                format!("a map of inode {ino} that is to go belongs to an inode")
            });
            Ok(())
        })?;
        let mut last = (0, 0);
        stored::for_each(self.read, keys::extents(), |key, value| {
            let extent = extents::decode(&key, value)?;
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
            let same = (inode.attr.allocated_bytes, inode.inline_bytes)
                == (facts.allocated_bytes, facts.inline_bytes);
            self.report.expect(same, || {
                format!(
                    "inode {ino} says {} allocated and {} inline bytes, its map has {} and {}",
                    inode.attr.allocated_bytes, inode.inline_bytes, facts.allocated_bytes, facts.inline_bytes
                )
            });
        }
        Ok(())
    }

    fn chunks(&mut self) -> FsResult<()> {
        let granted: HashMap<SessionId, u64> = stored::sessions(self.read)?
            .into_iter()
            .map(|(session, record)| (session, record.granted_below))
            .collect();
        stored::for_each(self.read, keys::chunks(), |key, _| {
            let id = keys::parse_chunk(&key).unwrap_or_default();
            let Some(chunk) = Chunk::find(self.read, id)? else {
                self.report.problem("a chunk has a malformed key".to_string());
                return Ok(());
            };
            self.seen.chunks += 1;
            *self.replica_sets.entry(chunk.replicas.clone()).or_default() += 1;
            let (references, needed) = self.references.remove(&id).unwrap_or_default();
            let report = &mut self.report;
            report.expect(references > 0 && references == chunk.references, || {
                format!(
                    "chunk {id} has {references} references and says {}",
                    chunk.references
                )
            });
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
            let freed = chunks::was_freed(self.read, id)?;
            report.expect(!freed, || format!("chunk {id} is freed and referred to"));
            Ok(())
        })?;
        self.report.chunks = self.seen.chunks;
        for id in self.references.keys() {
            self.report
                .problem(format!("chunk {id} is referred to and has no record"));
        }
        stored::for_each(self.read, keys::freed_chunks(), |_, value| {
            self.seen.freed_chunks += 1;
            self.seen.freed_bytes += FreedChunk::decode(value)?.chunk.length;
            Ok(())
        })?;
        let mut sets = BTreeMap::new();
        stored::for_each(self.read, keys::replica_sets(), |key, value| {
            let replicas = keys::parse_replica_set(&key).unwrap_or_default();
            sets.insert(replicas, chunks::decode_replica_count(&value)?);
            Ok(())
        })?;
        let same = sets == self.replica_sets;
        self.report.expect(same, || {
            "the counts of chunks per replica set are wrong".to_string()
        });
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
        self.report.expect(said == seen, || {
            format!("the totals say {said:?}, there are {seen:?}")
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests;
