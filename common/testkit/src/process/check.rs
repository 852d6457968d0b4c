//! What stopped servers left: a coordinator's metadata (the full check, and what tests of crashes look at or damage), a datanode's chunks.

use dfs_common::checksum::content_sha256;
use dfs_common::{ChunkId, Ino};
use dfs_coordinator::namespace::txn::Txn;
use dfs_coordinator::namespace::{check, quota, usage};
use dfs_coordinator::store::{MetaStore, StoreKind, open};
use dfs_coordinator::stored;
use dfs_datanode::chunk_file::read_prologue;
use dfs_proto::v1::StoredRestore;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

/// Cache of the store while it is checked, in bytes.
const CACHE: u64 = 32 << 20;

/// Everything that is wrong with the metadata in the data directory of a coordinator that does not run, one sentence each.
pub fn check_store(data: &Path) -> Vec<String> {
    let checked = open(StoreKind::Fjall, &data.join("meta"), CACHE)
        .and_then(|store| store.snapshot())
        .and_then(|snapshot| check::check(&*snapshot));
    match checked {
        Ok(report) => {
            let more = report.problem_count - report.problems.len() as u64;
            let more = (more > 0).then(|| format!("and {more} more problems"));
            report.problems.into_iter().chain(more).collect()
        }
        Err(error) => vec![format!("the metadata could not be checked: {error}")],
    }
}

/// Chunk files of a datanode that does not run that are not whole, with the reason.
pub fn damaged_chunks(data: &Path) -> Vec<String> {
    let mut damaged = Vec::new();
    let mut directories = vec![data.join("chunks")];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).expect("the directory can be read") {
            let path = entry.expect("the directory can be read").path();
            if path.is_dir() {
                directories.push(path);
            } else if let Err(why) = check_chunk(&path) {
                damaged.push(format!("{}: {why}", path.display()));
            }
        }
    }
    damaged
}

fn check_chunk(path: &Path) -> Result<(), String> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let id = u128::from_str_radix(&name, 16).map_err(|error| error.to_string())?;
    let read = File::open(path).and_then(|file| Ok((file, std::fs::read(path)?)));
    let (file, bytes) = read.map_err(|error| error.to_string())?;
    let prologue = read_prologue(&file, ChunkId(id)).map_err(|error| error.message().to_owned())?;
    let content = bytes.get(prologue.content_offset as usize..).unwrap_or_default();
    match content_sha256([content]) == prologue.description.sha256 {
        true => Ok(()),
        false => Err("its content is another".to_owned()),
    }
}

/// The metadata in the data directory of a coordinator that does not run. It panics where they cannot be read or written.
pub struct StoppedStore {
    store: Arc<dyn MetaStore>,
}

impl StoppedStore {
    /// Opens it, until it is dropped.
    pub fn open(data: &Path) -> Self {
        let store = open(StoreKind::Fjall, &data.join("meta"), CACHE).expect("the store can be opened");
        StoppedStore { store }
    }

    fn change(&self, change: impl FnOnce(&mut Txn<'_>)) {
        let mut txn = Txn::new(&*self.store);
        change(&mut txn);
        let written = self.store.commit(txn.into_batch());
        written.expect("the store can be written");
    }

    /// The root's usage says more files than there are: wrong, and in nobody's way.
    pub fn damage_usage(&self) {
        let mut usage = usage::get(&*self.store, Ino::ROOT).expect("the root has usage");
        usage.files += 1000;
        self.change(|txn| txn.put_usage(Ino::ROOT, Some(usage)));
    }

    /// Problems that a check finds.
    pub fn problems(&self) -> u64 {
        let report = check::check(&*self.store);
        report.expect("the store can be checked").problem_count
    }

    /// As after a restore, until the hold is released.
    pub fn hold(&self) {
        let restore = StoredRestore {
            holding: true,
            ..StoredRestore::default()
        };
        self.change(|txn| stored::put_restore(txn, &restore));
    }

    /// Whether chunks may not be deleted.
    pub fn is_held(&self) -> bool {
        let restore = stored::restore(&*self.store).expect("the store can be read");
        restore.is_some_and(|restore| restore.holding)
    }

    /// Quotas.
    pub fn quotas(&self) -> usize {
        let found = quota::list(&*self.store, Ino(0), usize::MAX);
        found.expect("the store can be read").len()
    }

    /// Placement groups.
    pub fn groups(&self) -> usize {
        stored::groups(&*self.store).expect("the store can be read").len()
    }

    /// Sessions.
    pub fn sessions(&self) -> usize {
        stored::sessions(&*self.store)
            .expect("the store can be read")
            .len()
    }
}
