//! How much room the disk has for chunks.
//!
//! Invariant: writes under way count as written, so that many at once do not fill the disk beyond its reserve, which is there for
//! the identity file, the index and the file system itself. A disk that others fill all the same is `NoSpace` when it says so.

use dfs_common::{ErrorKind, FsError, FsResult};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The reserve is this part of the disk.
const RESERVE_PART: u64 = 100;
/// And at least so much.
const RESERVE_BYTES_MIN: u64 = 1 << 20;

/// The disk below a directory.
#[derive(Clone)]
pub struct Space {
    inner: Arc<Inner>,
}

struct Inner {
    directory: PathBuf,
    reserve_bytes_max: u64,
    promised: AtomicU64,
}

/// Size and room of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Size in bytes.
    pub capacity_bytes: u64,
    /// Bytes that chunks can still take.
    pub available_bytes: u64,
}

/// Room that was promised to a write; given back when dropped.
pub struct Promise {
    space: Space,
    bytes: u64,
}

impl Space {
    /// The disk below `directory`, of which a hundredth, at most `reserve_bytes_max`, is kept.
    pub fn new(directory: &Path, reserve_bytes_max: u64) -> Self {
        Space {
            inner: Arc::new(Inner {
                directory: directory.to_path_buf(),
                reserve_bytes_max,
                promised: AtomicU64::new(0),
            }),
        }
    }

    /// Size and room now.
    pub fn room(&self) -> FsResult<Room> {
        self.room_beside(self.inner.promised.load(Ordering::Relaxed))
    }

    fn room_beside(&self, promised: u64) -> FsResult<Room> {
        let stat = nix::sys::statvfs::statvfs(&self.inner.directory).map_err(std::io::Error::from)?;
        let capacity_bytes = stat.blocks() * stat.fragment_size();
        let free = stat.blocks_available() * stat.fragment_size();
        let reserve = (capacity_bytes / RESERVE_PART)
            .max(RESERVE_BYTES_MIN)
            .min(self.inner.reserve_bytes_max);
        Ok(Room {
            capacity_bytes,
            available_bytes: free.saturating_sub(reserve).saturating_sub(promised),
        })
    }

    /// Promises room for `bytes`.
    ///
    /// # Errors
    /// `NoSpace` if there is not so much.
    pub fn promise(&self, bytes: u64) -> FsResult<Promise> {
        let others = self.inner.promised.fetch_add(bytes, Ordering::Relaxed);
        let promise = Promise {
            space: self.clone(),
            bytes,
        };
        let room = self.room_beside(others)?;
        if room.available_bytes < bytes {
            return Err(FsError::new(
                ErrorKind::NoSpace,
                format!(
                    "the datanode's disk is full: {} bytes are left for chunks, {bytes} are needed",
                    room.available_bytes
                ),
            ));
        }
        Ok(promise)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        self.space.inner.promised.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
