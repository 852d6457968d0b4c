//! The fencing epoch of a data directory: a commit is refused after somebody else opened the directory.
//!
//! Two things keep a second coordinator out. [`dfs_common::durable::DirLock`] refuses it on the same machine. Should the
//! lock be lost all the same (the lock file deleted, a network file system without locks), the file `EPOCH` decides: each
//! opener raises the number in it, durably, before its first commit, and every commit first sees that the file is still its own. The
//! check and the commit are two steps, so the epoch alone leaves a window of one commit; the lock has none.

use super::{MetaRead, MetaStore, WriteBatch};
use bytes::Bytes;
use dfs_common::{ErrorKind, FsError, FsResult, durable};
use std::fs::File;
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Name of the file in the data directory.
pub const FILE: &str = "EPOCH";

/// One opener's claim to a data directory.
#[derive(Clone, Debug)]
pub struct Fence {
    path: PathBuf,
    epoch: u64,
    /// The file as it was written: as long as it is this one, it need not be read.
    written: FileState,
}

/// What tells a file from one that replaced it, and from itself after a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileState {
    device: u64,
    inode: u64,
    changed: (i64, i64),
}

impl FileState {
    fn of(path: &Path) -> std::io::Result<Self> {
        // Opened, since a network file system may answer by what it knew a while ago otherwise.
        let found = File::open(path)?.metadata()?;
        Ok(FileState {
            device: found.dev(),
            inode: found.ino(),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

impl Fence {
    /// The epoch of the last opener of `dir`; `None` if nobody opened it yet.
    ///
    /// # Errors
    /// `Corrupt` if the file does not hold a number.
    pub fn last(dir: &Path) -> FsResult<Option<u64>> {
        match std::fs::read(dir.join("EPOCH")) {
            Ok(bytes) => std::str::from_utf8(&bytes)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .map(Some)
                .ok_or_else(|| {
                    FsError::new(
                        ErrorKind::Corrupt,
                        format!(
                            "{} does not hold a number: restore it from a backup",
                            dir.join("EPOCH").display()
                        ),
                    )
                }),
            Err(error) if error.kind() == IoErrorKind::NotFound => Ok(None),
            Err(error) => {
                Err(FsError::from(error).context(format_args!("reading {}", dir.join("EPOCH").display())))
            }
        }
    }

    /// Writes the epoch of a directory that nobody has opened yet. Durable on return.
    pub fn begin_at(dir: &Path, epoch: u64) -> FsResult<()> {
        let path = dir.join(FILE);
        durable::replace_file(&path, format!("{epoch}\n").as_bytes())
            .map_err(|error| FsError::from(error).context(format_args!("writing {}", path.display())))
    }

    /// Raises the epoch of `dir`; every earlier fence of it is refused from now on. Durable on return.
    pub fn take(dir: &Path) -> FsResult<Self> {
        let epoch = Self::last(dir)?.unwrap_or(0) + 1;
        let path = dir.join("EPOCH");
        let written = durable::replace_file(&path, format!("{epoch}\n").as_bytes())
            .and_then(|()| FileState::of(&path))
            .map_err(|error| FsError::from(error).context(format_args!("writing {}", path.display())))?;
        let fence = Fence { path, epoch, written };
        // Another opener may have replaced it before it was looked at.
        fence.read_back()?;
        Ok(fence)
    }

    /// This opener's epoch, at least 1; grows with every opening of the directory.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// # Errors
    /// `Io` if another opener raised the epoch, or the file is gone.
    pub fn check(&self) -> FsResult<()> {
        match FileState::of(&self.path) {
            Ok(now) if now == self.written => Ok(()),
            _ => self.read_back(),
        }
    }

    fn read_back(&self) -> FsResult<()> {
        let dir = self
            .path
            .parent()
            .expect("the epoch file was joined to a directory");
        match Self::last(dir)? {
            Some(epoch) if epoch == self.epoch => Ok(()),
            now => Err(FsError::new(
                ErrorKind::Io,
                format!(
                    "another coordinator took {} (epoch {now:?}, ours is {}): this one writes no more",
                    dir.display(),
                    self.epoch
                ),
            )),
        }
    }
}

/// A store whose commits are refused once its fence is broken.
pub struct FencedStore {
    inner: Arc<dyn MetaStore>,
    fence: Fence,
}

impl FencedStore {
    /// Puts `fence` before every commit of `inner`.
    pub fn new(inner: Arc<dyn MetaStore>, fence: Fence) -> Self {
        FencedStore { inner, fence }
    }
}

impl MetaRead for FencedStore {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        self.inner.get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        self.inner.scan(start, end, limit)
    }
}

impl MetaStore for FencedStore {
    fn commit(&self, batch: WriteBatch) -> FsResult<()> {
        self.fence.check()?;
        self.inner.commit(batch)
    }
    fn commit_unsynced(&self, batch: WriteBatch) -> FsResult<()> {
        self.fence.check()?;
        self.inner.commit_unsynced(batch)
    }
    fn persist(&self) -> FsResult<()> {
        self.fence.check()?;
        self.inner.persist()
    }
    fn compact(&self) -> FsResult<(u64, u64)> {
        self.fence.check()?;
        self.inner.compact()
    }
    fn snapshot(&self) -> FsResult<Box<dyn MetaRead>> {
        self.inner.snapshot()
    }
    fn kind(&self) -> &'static str {
        self.inner.kind()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::conformance::put;
    use crate::store::memory::MemoryStore;

    #[test]
    fn commit_is_refused_after_another_opener_took_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Fence::last(dir.path()).unwrap(), None);
        let store = Arc::new(MemoryStore::default());
        let first = FencedStore::new(store.clone(), Fence::take(dir.path()).unwrap());
        first.commit(put(&[("a", "1")])).unwrap();
        let second = FencedStore::new(store.clone(), Fence::take(dir.path()).unwrap());
        assert_eq!(
            first.commit(put(&[("a", "late")])).unwrap_err().kind(),
            ErrorKind::Io
        );
        second.commit(put(&[("b", "2")])).unwrap();
        assert_eq!(store.get(b"a").unwrap().unwrap(), "1");
    }

    #[test]
    fn file_that_was_touched_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        let fence = Fence::take(dir.path()).unwrap();
        let own = std::fs::read(&path).unwrap();
        std::fs::write(dir.path().join("copy"), &own).unwrap();
        std::fs::rename(dir.path().join("copy"), &path).unwrap();
        fence.check().unwrap();
        std::fs::write(dir.path().join("raised"), b"2\n").unwrap();
        std::fs::rename(dir.path().join("raised"), &path).unwrap();
        assert_eq!(fence.check().unwrap_err().kind(), ErrorKind::Io);
        std::fs::write(&path, &own).unwrap();
        fence.check().unwrap();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(fence.check().unwrap_err().kind(), ErrorKind::Io);
    }

    #[test]
    fn damaged_epoch_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("EPOCH"), b"many").unwrap();
        assert_eq!(Fence::take(dir.path()).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
