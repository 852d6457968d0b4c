//! Makes the usage records of a store that has none that can be relied on.
//!
//! A store says which opening of it was the last that kept them ([`mark`]). If that was not the one before, a release without usage
//! records has written meanwhile (or made the store), and they are made anew, from the names and inodes, before anything else is
//! written. A mark is written when they are whole: after an end in the middle the next start begins again. Quotas stay as they are.
//! What is held below directories that were removed is held below the root then, for nothing else says where it was.

use super::super::inode::Inode;
use super::super::txn::Txn;
use super::super::{damaged, dentry, keys, orphans, quota};
use super::{Delta, Usage};
use crate::store::{MetaRead, MetaStore};
use crate::stored;
use bytes::Bytes;
use dfs_common::{FileKind, FsResult, Ino, Quota};
use std::collections::{HashMap, HashSet};

/// Changes that one commit of a rebuild takes.
const CHANGES_MAX: usize = 4096;

/// The usage records are right as of opening `epoch`, and of all later ones that write a mark.
pub fn mark(txn: &mut Txn<'_>, epoch: u64) {
    txn.put(keys::usage_epoch(), Bytes::copy_from_slice(&epoch.to_be_bytes()));
}

/// The last opening that kept the usage records; `None` before they were made.
pub fn marked(read: &dyn MetaRead) -> FsResult<Option<u64>> {
    let value = read.get(&keys::usage_epoch())?;
    let number = |value: Bytes| value[..].try_into().map(u64::from_be_bytes);
    value
        .map(|value| number(value).map_err(|_| damaged("usage")))
        .transpose()
}

/// Takes over a store that was opened as `epoch`: the usage records are right on return, and durable. Nobody else may write.
///
/// # Errors
/// `Corrupt`, and those of the store.
pub fn open(store: &dyn MetaStore, epoch: u64) -> FsResult<()> {
    if marked(store)? != epoch.checked_sub(1) {
        tracing::info!(
            "counting what lies in each directory: this store was restored, or last written by a release that does not count"
        );
        rebuild(store)?;
        tracing::info!("counted what lies in each directory");
    }
    let mut txn = Txn::new(store);
    mark(&mut txn, epoch);
    store.commit(txn.into_batch())
}

/// Commits changes in portions.
struct Portions<'a> {
    store: &'a dyn MetaStore,
    txn: Txn<'a>,
    changes: usize,
}

impl<'a> Portions<'a> {
    fn new(store: &'a dyn MetaStore) -> Self {
        Portions {
            store,
            txn: Txn::new(store),
            changes: 0,
        }
    }

    fn change(&mut self, change: impl FnOnce(&mut Txn<'_>)) -> FsResult<()> {
        change(&mut self.txn);
        self.changes += 1;
        match self.changes {
            CHANGES_MAX => self.commit(),
            _ => Ok(()),
        }
    }

    fn commit(&mut self) -> FsResult<()> {
        self.changes = 0;
        let txn = std::mem::replace(&mut self.txn, Txn::new(self.store));
        self.store.commit_unsynced(txn.into_batch())
    }
}

fn rebuild(store: &dyn MetaStore) -> FsResult<()> {
    let mut portions = Portions::new(store);
    portions.change(|txn| {
        txn.delete(keys::usage_epoch());
        txn.delete(keys::usage_epoch_before_held());
    })?;
    portions.commit()?;
    // While the records are changed, the scans are of what was there before.
    let before = store.snapshot()?;
    stored::for_each(&*before, keys::usages(), |key, _| {
        let directory = keys::parse_usage(&key).ok_or_else(|| damaged("usage"))?;
        portions.change(|txn| txn.put_usage(directory, None))
    })?;
    stored::for_each(&*before, keys::links(), |key, _| {
        portions.change(|txn| txn.delete(key))
    })?;
    choose_homes(&*before, |home| portions.change(|txn| home.put(txn)))?;
    portions.commit()?;
    for homeless in tally(store)?.homeless {
        portions.change(|txn| homeless.put(txn))?;
    }
    portions.commit()?;
    for (directory, usage) in with_limits(store)? {
        portions.change(|txn| txn.put_usage(directory, Some(usage)))?;
    }
    for directory in stray_quotas(&portions.txn)? {
        portions.change(|txn| txn.delete(keys::quota(directory)))?;
    }
    portions.commit()
}

/// [`tally`], with the limits of quotas.
fn with_limits(read: &dyn MetaRead) -> FsResult<HashMap<Ino, Usage>> {
    let mut usages = tally(read)?.usages;
    for (directory, quota) in quotas(read)? {
        if let Some(usage) = usages.get_mut(&directory).filter(|usage| !usage.removed) {
            (usage.limit_bytes, usage.limit_inodes) = (quota.bytes, quota.inodes);
            usage.closing = quota == Quota::default();
        }
    }
    Ok(usages)
}

/// Quotas of what has no usage record.
fn stray_quotas(read: &dyn MetaRead) -> FsResult<Vec<Ino>> {
    let mut stray = Vec::new();
    for directory in quotas(read)?.into_keys() {
        if super::find(read, directory)?.is_none_or(|usage| usage.removed) {
            stray.push(directory);
        }
    }
    Ok(stray)
}

/// All quotas.
pub(in crate::namespace) fn quotas(read: &dyn MetaRead) -> FsResult<HashMap<Ino, Quota>> {
    let mut quotas = HashMap::new();
    stored::for_each(read, keys::quotas(), |key, value| {
        let directory = keys::parse_quota(&key).ok_or_else(|| damaged("quota"))?;
        quotas.insert(directory, quota::decode(value)?);
        Ok(())
    })?;
    Ok(quotas)
}

/// By which name an inode is counted.
enum Home {
    /// The inode, with the directory of that name.
    Inode(Inode),
    /// Key of the record of another name.
    Further(Bytes),
}

impl Home {
    fn put(self, txn: &mut Txn<'_>) {
        match self {
            Home::Inode(inode) => inode.put(txn),
            Home::Further(key) => txn.put(key, Bytes::new()),
        }
    }
}

/// Of each inode's names the first in the order of the store becomes its home.
fn choose_homes(read: &dyn MetaRead, mut each: impl FnMut(Home) -> FsResult<()>) -> FsResult<()> {
    // Of inodes with several names: those with one have nothing to remember.
    let mut placed = HashSet::new();
    stored::for_each(read, keys::dentries(), |key, value| {
        let entry = dentry::decode(value)?;
        if entry.kind == FileKind::Directory {
            return Ok(());
        }
        let (parent, _) = keys::parse_dentry(&key).ok_or_else(|| damaged("directory entry"))?;
        // Names of nothing are somebody else's finding, and so are names that an inode does not count.
        let Some(mut inode) = Inode::find(read, entry.ino)?.filter(|inode| !inode.is_directory()) else {
            return Ok(());
        };
        if inode.attr.nlink > 1 && !placed.insert(entry.ino) {
            return each(Home::Further(keys::link(entry.ino, parent, entry.cursor)));
        }
        if inode.parent != parent {
            inode.parent = parent;
            each(Home::Inode(inode))?;
        }
        Ok(())
    })
}

/// What is counted anew.
#[derive(Default)]
struct Tally {
    /// Of each directory that has a name, and of each grave; limits are not filled in.
    usages: HashMap<Ino, Usage>,
    /// Held inodes of which it is not known any more below what they were, with the root as their place from now on: they are
    /// not counted yet.
    homeless: Vec<Inode>,
}

/// Counts everything.
fn tally(read: &dyn MetaRead) -> FsResult<Tally> {
    let mut own: HashMap<Ino, Delta> = HashMap::new();
    let mut parents: HashMap<Ino, Ino> = HashMap::new();
    let mut count = |directory: Ino, delta: Delta| {
        let sum = own.entry(directory).or_default();
        *sum = *sum + delta;
    };
    stored::for_each(read, keys::inodes(), |_, value| {
        let inode = Inode::decode(value)?;
        if inode.attr.nlink == 0 {
            return Ok(());
        }
        if inode.is_directory() {
            parents.insert(inode.ino(), inode.parent);
            if inode.ino() != Ino::ROOT {
                count(inode.parent, Delta::tree(&Usage::default()));
            }
            return Ok(());
        }
        let home_of_several = i64::from(inode.attr.nlink > 1);
        count(
            inode.parent,
            Delta::file(inode.attr.allocated_bytes) + Delta::links(home_of_several),
        );
        Ok(())
    })?;
    stored::for_each(read, keys::links(), |key, _| {
        let (_, parent, _) = keys::parse_link(&key).ok_or_else(|| damaged("link"))?;
        count(parent, Delta::links(1));
        Ok(())
    })?;
    let graves = graves(read, &parents)?;
    let mut homeless = Vec::new();
    stored::for_each(read, keys::orphans(), |key, value| {
        let (ino, holders) = orphans::parse_orphan(&key, value)?;
        let inode = Inode::find(read, ino)?.filter(|inode| inode.attr.nlink == 0);
        let Some(mut inode) = inode.filter(|_| orphans::is_counted(&holders)) else {
            return Ok(());
        };
        if parents.contains_key(&inode.parent) || graves.contains_key(&inode.parent) {
            count(inode.parent, Delta::held(inode.attr.allocated_bytes));
        } else {
            inode.parent = Ino::ROOT;
            homeless.push(inode);
        }
        Ok(())
    })?;
    let above = |at: &Ino| parents.get(at).or_else(|| graves.get(at)).copied();
    let mut sums: HashMap<Ino, Delta> = HashMap::new();
    for (directory, delta) in own {
        let mut at = directory;
        // A loop of directories is somebody else's finding.
        for _ in 0..=parents.len() + graves.len() {
            let sum = sums.entry(at).or_default();
            *sum = *sum + delta;
            match above(&at) {
                Some(parent) if at != Ino::ROOT => at = parent,
                _ => break,
            }
        }
    }
    let usage = |(directory, parent): (&Ino, &Ino)| {
        let sum = sums.get(directory).copied().unwrap_or_default();
        let usage = Usage {
            parent: parent.0,
            bytes: sum.bytes.unsigned_abs(),
            files: sum.files.unsigned_abs(),
            directories: sum.directories.unsigned_abs(),
            links: sum.links.unsigned_abs(),
            held_bytes: sum.held_bytes.unsigned_abs(),
            held_inodes: sum.held_inodes.unsigned_abs(),
            removed: graves.contains_key(directory),
            ..Usage::default()
        };
        (*directory, usage)
    };
    let of_all = parents.iter().chain(&graves).map(usage);
    Ok(Tally {
        usages: of_all
            .filter(|(_, usage)| !usage.removed || usage.held_inodes > 0)
            .collect(),
        homeless,
    })
}

/// Graves by their records, the only ones to know what they lay in: those from which the way up ends at the root.
fn graves(read: &dyn MetaRead, living: &HashMap<Ino, Ino>) -> FsResult<HashMap<Ino, Ino>> {
    let mut said = HashMap::new();
    stored::for_each(read, keys::usages(), |key, value| {
        let directory = keys::parse_usage(&key).ok_or_else(|| damaged("usage"))?;
        // One that cannot be read is reported by who compares it.
        if let Ok(usage) = super::decode(value)
            && usage.removed
            && !living.contains_key(&directory)
        {
            said.insert(directory, Ino(usage.parent));
        }
        Ok(())
    })?;
    let ends = |grave: &Ino| {
        let mut at = *grave;
        for _ in 0..=said.len() {
            match said.get(&at) {
                Some(parent) => at = *parent,
                None => return living.contains_key(&at),
            }
        }
        false
    };
    Ok(said
        .iter()
        .filter(|(grave, _)| ends(grave))
        .map(|(grave, parent)| (*grave, *parent))
        .collect())
}
