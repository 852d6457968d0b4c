//! The data directory and what it says of itself.
//!
//! `coordinator.json` is written once, when the directory is made: cluster, store kind, capability key. `LOCK` keeps other
//! processes out, `EPOCH` counts the openings (see [`crate::store::fence`]), `meta/` is the store. Invariant: a directory that
//! is not a coordinator's, or is one of another kind or a newer format, is refused without a change to it.

use crate::store::fence::Fence;
use crate::store::{self, MetaStore, StoreKind};
use dfs_common::capability::CapabilityKey;
use dfs_common::{ClusterId, ErrorKind, FsError, FsResult, durable};
use serde::{Deserialize, Serialize};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Format of the data directory that this program writes and the newest that it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Largest `coordinator.json` that is read, in bytes.
const IDENTITY_BYTES_MAX: u64 = 64 << 10;
const IDENTITY_FILE: &str = "coordinator.json";
const STORE_DIR: &str = "meta";
/// What a directory may hold and still count as empty.
const IGNORED: [&str; 3] = ["LOCK", "lost+found", ".coordinator.json.tmp"];

#[derive(Serialize, Deserialize)]
struct IdentityFile {
    format_version: u32,
    cluster: ClusterId,
    store: StoreKind,
    capability_key: String,
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
    path: PathBuf,
    lock: durable::DirLock,
}

impl DataDir {
    /// Opens the data directory at `path`, or makes it with a store of `kind`. Takes its lock.
    ///
    /// # Errors
    /// `Busy` (another process has it), `Invalid` (another store kind, or not a coordinator's), `UnknownVersion` (written
    /// by a newer program), `Corrupt` (damaged), `Io`. Nothing in the directory is changed then.
    pub fn open(path: &Path, kind: StoreKind, cache_bytes: u64) -> FsResult<Self> {
        make_private(path).map_err(|error| describe(path, "making", error))?;
        // Before the lock file is made: a foreign directory stays as it was.
        check_entries(path)?;
        let lock = durable::DirLock::acquire(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::WouldBlock => FsError::new(ErrorKind::Busy, error.to_string()),
            _ => describe(path, "locking", error),
        })?;
        check_entries(path)?;
        let identity = match read_identity(path)? {
            Some(identity) => identity,
            None => write_identity(path, kind)?,
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
        let capability_key = parse_key(&identity.capability_key)
            .ok_or_else(|| damaged(path, "its capability key is not 64 hexadecimal digits"))?;
        let store = store::open(kind, &store_dir, cache_bytes)?;
        durable::sync_dir(path).map_err(|error| describe(path, "syncing", error))?;
        Ok(DataDir {
            cluster: identity.cluster,
            capability_key,
            store,
            fresh: !used,
            path: path.to_path_buf(),
            lock,
        })
    }

    /// Fences every earlier opener. Call once the store holds a namespace: from then on an empty store is an error.
    pub fn take(&self) -> FsResult<Fence> {
        debug_assert!(self.lock.path().starts_with(&self.path));
        Fence::take(&self.path)
    }
}

fn describe(path: &Path, doing: &str, error: std::io::Error) -> FsError {
    FsError::from(error).context(format_args!("{doing} the data directory {}", path.display()))
}

fn damaged(path: &Path, why: impl std::fmt::Display) -> FsError {
    FsError::new(
        ErrorKind::Corrupt,
        format!(
            "{} is damaged ({why}): restore it from a backup",
            path.join(IDENTITY_FILE).display()
        ),
    )
}

/// Makes a directory that only its owner may enter; one that exists keeps its permissions.
fn make_private(path: &Path) -> std::io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        durable::create_dir_all(parent)?;
    }
    match std::fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    durable::sync_dir(parent.unwrap_or(Path::new(".")))
}

fn check_entries(path: &Path) -> FsResult<()> {
    if path.join(IDENTITY_FILE).exists() {
        return Ok(());
    }
    for entry in std::fs::read_dir(path).map_err(|error| describe(path, "reading", error))? {
        let name = entry
            .map_err(|error| describe(path, "reading", error))?
            .file_name();
        if !IGNORED.iter().any(|ignored| name == *ignored) {
            return Err(FsError::new(
                ErrorKind::Invalid,
                format!(
                    "{} is not empty and not a coordinator's data directory (it has {:?} but no {IDENTITY_FILE}): use an \
                     empty or new directory",
                    path.display(),
                    name.to_string_lossy()
                ),
            ));
        }
    }
    Ok(())
}

fn read_identity(path: &Path) -> FsResult<Option<IdentityFile>> {
    let file = path.join(IDENTITY_FILE);
    match std::fs::metadata(&file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(describe(path, "reading", error)),
        Ok(metadata) if metadata.len() > IDENTITY_BYTES_MAX => return Err(damaged(path, "it is too large")),
        Ok(_) => {}
    }
    let bytes = std::fs::read(&file).map_err(|error| describe(path, "reading", error))?;
    // The version first: a newer format may have other fields.
    #[derive(Deserialize)]
    struct Version {
        format_version: u32,
    }
    let version: Version = serde_json::from_slice(&bytes).map_err(|error| damaged(path, error))?;
    if version.format_version != FORMAT_VERSION {
        return Err(FsError::new(
            ErrorKind::UnknownVersion,
            format!(
                "{} has format version {}, this program knows {FORMAT_VERSION}: use the program that wrote it, or a newer one",
                file.display(),
                version.format_version
            ),
        ));
    }
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| damaged(path, error))
}

fn write_identity(path: &Path, kind: StoreKind) -> FsResult<IdentityFile> {
    let key: [u8; 32] = rand::random();
    let identity = IdentityFile {
        format_version: FORMAT_VERSION,
        cluster: ClusterId(uuid::Uuid::new_v4()),
        store: kind,
        capability_key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    let file = path.join(IDENTITY_FILE);
    let mut bytes = serde_json::to_vec_pretty(&identity).expect("plain data serialises");
    bytes.push(b'\n');
    durable::replace_file(&file, &bytes)
        .and_then(|()| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)))
        .map_err(|error| describe(path, "writing", error))?;
    Ok(identity)
}

fn parse_key(text: &str) -> Option<CapabilityKey> {
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (byte, digits) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(CapabilityKey(key))
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
        let file = dir.path().join(IDENTITY_FILE);
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
