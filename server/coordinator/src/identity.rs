//! The data directory and what it says of itself.
//!
//! `coordinator.json` is written once, when the directory is made: cluster, store kind, capability key. `LOCK` keeps other
//! processes out, `EPOCH` counts the openings (see [`crate::store::fence`]), `meta/` is the store. Invariant: a directory that
//! is not a coordinator's, or is one of another kind or a newer format, is refused without a change to it.

use crate::sort::Scratch;
use crate::store::fence::Fence;
use crate::store::{self, MetaStore, StoreKind};
use dfs_common::capability::CapabilityKey;
use dfs_common::data_dir::{DataDirectory, Kind, hex_bytes};
use dfs_common::failpoint::{self, Failpoint};
use dfs_common::{ClusterId, ErrorKind, FsError, FsResult, durable};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;

/// Format of the data directory that this program writes and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
const KIND: Kind = Kind {
    owner: "a coordinator",
    identity_file: "coordinator.json",
    format_version: FORMAT_VERSION,
};
const STORE_DIR: &str = "meta";
/// Cache of a store that is filled, or read once, in bytes.
const NEW_CACHE_BYTES: u64 = 32 << 20;

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format_version: u32,
    cluster: ClusterId,
    store: StoreKind,
    #[serde(with = "hex_bytes")]
    capability_key: [u8; 32],
}

/// An open data directory.
pub struct DataDir {
    /// The cluster that it belongs to.
    pub cluster: ClusterId,
    /// Key that signs chunk capabilities.
    pub capability_key: CapabilityKey,
    /// Its store; not fenced yet.
    pub store: Arc<dyn MetaStore>,
    /// The store was never used: the namespace must be made in it before [`DataDir::take`].
    pub fresh: bool,
    kind: StoreKind,
    directory: DataDirectory,
}

impl DataDir {
    /// Opens the data directory at `path`, or makes it with a store of `kind`. Takes its lock.
    ///
    /// # Errors
    /// `Busy` (another process has it), `Invalid` (another store kind, or not a coordinator's), `UnknownVersion` (written
    /// by a newer program), `Corrupt` (damaged), `Io`. Nothing in the directory is changed then.
    pub fn open(path: &Path, kind: StoreKind, cache_bytes: u64) -> FsResult<Self> {
        let directory = DataDirectory::open(path, KIND)?;
        let identity = match directory.read_identity()? {
            Some(identity) => identity,
            None => {
                let identity = new_identity(kind);
                directory.write_identity(&identity)?;
                identity
            }
        };
        if identity.store != kind {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!(
                    "{} holds a {} store, but {kind} was asked for: start with --store {}, or use another data directory",
                    path.display(),
                    identity.store,
                    identity.store
                ),
            ));
        }
        let used = Fence::last(path)?.is_some() && kind != StoreKind::Memory;
        let store_dir = path.join(STORE_DIR);
        if used && !store_dir.is_dir() {
            return Err(FsError::new(
                ErrorKind::Corrupt,
                format!("{} is missing: restore it from a backup", store_dir.display()),
            ));
        }
        let store = store::open(kind, &store_dir, cache_bytes)?;
        durable::sync_dir(path).map_err(|error| {
            FsError::from(error).context(format_args!("syncing the data directory {}", path.display()))
        })?;
        Ok(DataDir {
            cluster: identity.cluster,
            capability_key: CapabilityKey(identity.capability_key),
            store,
            fresh: !used,
            kind,
            directory,
        })
    }

    /// Opens the data directory of a stopped coordinator, whatever its store is.
    ///
    /// # Errors
    /// `Invalid` (not a coordinator's), and those of [`DataDir::open`].
    pub fn open_existing(path: &Path) -> FsResult<Self> {
        if !path.join(KIND.identity_file).exists() {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!("{} is not the data directory of a coordinator", path.display()),
            ));
        }
        let directory = DataDirectory::open(path, KIND)?;
        let identity: IdentityFile = directory
            .read_identity()?
            .ok_or_else(|| directory.damaged("it is gone"))?;
        drop(directory);
        DataDir::open(path, identity.store, NEW_CACHE_BYTES)
    }

    /// Starts of its coordinator so far.
    pub fn epoch(&self) -> FsResult<u64> {
        Ok(Fence::last(self.directory.path())?.unwrap_or(0))
    }

    /// Its store's kind.
    pub fn store_kind(&self) -> StoreKind {
        self.kind
    }

    /// Fences every earlier opener. Call once the store holds a namespace: from then on an empty store is an error.
    pub fn take(&self) -> FsResult<Fence> {
        Fence::take(self.directory.path())
    }
}

/// Whose a data directory is.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// The cluster.
    pub cluster: ClusterId,
    /// Shared with its datanodes.
    pub capability_key: CapabilityKey,
    /// Starts of its coordinator.
    pub epoch: u64,
}

/// A data directory that is being filled: no coordinator's before [`NewDataDir::finish`].
pub struct NewDataDir {
    directory: DataDirectory,
    kind: StoreKind,
    /// The directory itself was made.
    made: bool,
}

impl NewDataDir {
    /// Begins to fill `path`, which must be missing or empty, for a store of `kind`. Takes its lock.
    ///
    /// # Errors
    /// `Invalid` (not empty), `Busy`, `Io`. Nothing in the directory is changed then.
    pub fn make(path: &Path, kind: StoreKind) -> FsResult<Self> {
        let made = !path.exists();
        let identity = path.join(KIND.identity_file);
        if identity.exists() {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!(
                    "{} is the data directory of a coordinator already: use an empty or new directory",
                    path.display()
                ),
            ));
        }
        let directory = DataDirectory::open(path, KIND)?;
        Ok(NewDataDir {
            directory,
            kind,
            made,
        })
    }

    /// Its store, empty at first. Dropped before [`NewDataDir::finish`].
    pub fn open_store(&self) -> FsResult<Arc<dyn MetaStore>> {
        store::open(self.kind, &self.directory.path().join(STORE_DIR), NEW_CACHE_BYTES)
    }

    /// For the temporary files of a check of it.
    pub fn scratch(&self) -> Scratch {
        Scratch::in_dir(self.directory.path())
    }

    /// The store is whole: the directory is a coordinator's. Durable on return.
    pub fn finish(&self, owner: Owner) -> FsResult<()> {
        let path = self.directory.path();
        Fence::begin_at(path, owner.epoch)?;
        durable::sync_dir(path).map_err(|error| {
            FsError::from(error).context(format_args!("syncing the data directory {}", path.display()))
        })?;
        failpoint::reach(Failpoint::RestoreAfterFence);
        self.directory.write_identity(&IdentityFile {
            format_version: FORMAT_VERSION,
            cluster: owner.cluster,
            store: self.kind,
            capability_key: owner.capability_key.0,
        })
    }

    /// Takes away what was made.
    pub fn discard(self) {
        let path = self.directory.path();
        // What cannot be removed is not taken for a coordinator's either.
        let _ = std::fs::remove_dir_all(path.join(STORE_DIR));
        for name in [crate::store::fence::FILE, "LOCK"] {
            let _ = std::fs::remove_file(path.join(name));
        }
        if self.made {
            let _ = std::fs::remove_dir(path);
        }
    }
}

fn new_identity(kind: StoreKind) -> IdentityFile {
    IdentityFile {
        format_version: FORMAT_VERSION,
        cluster: ClusterId(uuid::Uuid::new_v4()),
        store: kind,
        capability_key: rand::random(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn refused(path: &Path, kind: StoreKind) -> FsError {
        match DataDir::open(path, kind, 1 << 20) {
            Ok(_) => panic!("opened"),
            Err(error) => error,
        }
    }

    #[test]
    fn identity_is_written_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let first = DataDir::open(&path, StoreKind::Fjall, 1 << 20).unwrap();
        let (cluster, key) = (first.cluster, first.capability_key);
        assert!(first.fresh);
        first.take().unwrap();
        assert_eq!(refused(&path, StoreKind::Fjall).kind(), ErrorKind::Busy);
        drop(first);
        let again = DataDir::open(&path, StoreKind::Fjall, 1 << 20).unwrap();
        assert_eq!((again.cluster, again.capability_key), (cluster, key));
        assert!(!again.fresh);
        assert_eq!(again.take().unwrap().epoch(), 2);
    }

    #[test]
    fn another_store_kind_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path(), StoreKind::Fjall, 1 << 20).unwrap());
        let error = refused(dir.path(), StoreKind::Sled);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("--store fjall"), "{error}");
        drop(DataDir::open(dir.path(), StoreKind::Fjall, 1 << 20).unwrap());
    }

    #[test]
    fn newer_version_foreign_and_damaged_directories_are_refused_and_unchanged() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(KIND.identity_file);
        std::fs::write(&file, br#"{"format_version": 2, "something": "new"}"#).unwrap();
        assert_eq!(
            refused(dir.path(), StoreKind::Fjall).kind(),
            ErrorKind::UnknownVersion
        );
        std::fs::write(&file, b"{").unwrap();
        assert_eq!(refused(dir.path(), StoreKind::Fjall).kind(), ErrorKind::Corrupt);
        assert_eq!(std::fs::read(&file).unwrap(), b"{");

        let foreign = tempfile::tempdir().unwrap();
        std::fs::write(foreign.path().join("thesis.txt"), b"text").unwrap();
        let error = refused(foreign.path(), StoreKind::Fjall);
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(error.message().contains("thesis.txt"), "{error}");
        assert_eq!(
            std::fs::read_dir(foreign.path()).unwrap().count(),
            1,
            "no lock file was left"
        );
    }

    #[test]
    fn lost_store_is_not_replaced_by_an_empty_one() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path(), StoreKind::Fjall, 1 << 20).unwrap();
        data.take().unwrap();
        drop(data);
        std::fs::remove_dir_all(dir.path().join(STORE_DIR)).unwrap();
        assert_eq!(refused(dir.path(), StoreKind::Fjall).kind(), ErrorKind::Corrupt);
    }
}
