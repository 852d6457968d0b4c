//! Room kept on the coordinator's disk, so that running full is an answer (`ENOSPC`) and not a failed commit.
//!
//! A store that cannot write its journal stops the coordinator for good ([`super::failstop`]). So operations that add
//! metadata are refused while a reserve is still free; what removes or renames goes on, and makes room again. That
//! appends to the journal as well, which can outgrow the reserve before a table takes its place: of the last part of
//! the reserve no operation takes anything.

use dfs_common::op::Operation;
use dfs_common::{ErrorKind, FsError, FsResult};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes kept free: twice what the store gathers in memory before it writes a table.
pub const DISK_RESERVE_BYTES: u64 = 64 << 20;
/// The last part of the reserve: for the work of the coordinator itself (sessions, chunks, datanodes).
const LAST_RESERVE_BYTES: u64 = 16 << 20;

/// Watches the file system of the data directory.
pub struct DiskReserve {
    directory: PathBuf,
    reserve_bytes: u64,
    used: AtomicBool,
}

/// What the disk has room for.
pub struct Room {
    additions: FsResult<()>,
    changes: FsResult<()>,
}

impl Room {
    /// Room for everything.
    pub fn unlimited() -> Self {
        Room {
            additions: Ok(()),
            changes: Ok(()),
        }
    }

    /// Whether `op` may be applied.
    ///
    /// # Errors
    /// `NoSpace`; `Io` if the file system does not say.
    pub fn check(&self, op: &Operation) -> FsResult<()> {
        match adds_metadata(op) {
            true => self.additions.clone(),
            false => self.changes.clone(),
        }
    }
}

impl DiskReserve {
    /// Keeps `reserve_bytes` of the file system of `directory` free.
    pub fn new(directory: PathBuf, reserve_bytes: u64) -> Self {
        DiskReserve {
            directory,
            reserve_bytes,
            used: AtomicBool::new(false),
        }
    }

    /// Asks the file system (about a microsecond); the log says when the answer changes.
    pub fn room(&self) -> Room {
        match nix::sys::statvfs::statvfs(&self.directory) {
            Ok(stat) => self.room_with(stat.blocks_available().saturating_mul(stat.fragment_size())),
            Err(errno) => Room {
                additions: Err(FsError::from(std::io::Error::from(errno)).context("asking for free space")),
                changes: Ok(()),
            },
        }
    }

    fn room_with(&self, free: u64) -> Room {
        let used = free < self.reserve_bytes;
        let directory = self.directory.display();
        if used && !self.used.swap(used, Ordering::Relaxed) {
            tracing::error!(
                %directory,
                free_bytes = free,
                reserve_bytes = self.reserve_bytes,
                "the metadata disk is nearly full: nothing new is taken until there is room"
            );
        } else if !used && self.used.swap(used, Ordering::Relaxed) {
            tracing::info!(%directory, free_bytes = free, "the metadata disk has room again");
        }
        let unless = |full: bool| match full {
            true => Err(FsError::new(
                ErrorKind::NoSpace,
                format!(
                    "the coordinator's disk is nearly full ({free} bytes left): make room in {directory}"
                ),
            )),
            false => Ok(()),
        };
        Room {
            additions: unless(used),
            changes: unless(free < self.reserve_bytes.min(LAST_RESERVE_BYTES)),
        }
    }
}

/// Whether `op` adds to the store beyond its reply. What removes, renames or changes in place does not.
fn adds_metadata(op: &Operation) -> bool {
    match op {
        Operation::Mkdir { .. }
        | Operation::Mknod { .. }
        | Operation::Create { .. }
        | Operation::Symlink { .. }
        | Operation::Link { .. }
        | Operation::Setxattr { .. }
        | Operation::GrantChunks { .. } => true,
        // One whose data a truncation has taken away brings times only. Refused, it would keep fsync and close failing.
        Operation::CommitWrite(write) => !write.extents.is_empty() || !write.chunks.is_empty(),
        Operation::Unlink { .. }
        | Operation::Rmdir { .. }
        | Operation::Rename { .. }
        | Operation::Setattr { .. }
        | Operation::Removexattr { .. } => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dfs_common::extent::{Extent, ExtentData};
    use dfs_common::op::CommitWrite;
    use dfs_common::{Ino, Timestamp};

    #[test]
    fn commit_adds_metadata_only_with_data() {
        let mut write = CommitWrite {
            ino: Ino(2),
            extents: Vec::new(),
            chunks: Vec::new(),
            append: false,
            mtime: Timestamp { secs: 1, nanos: 0 },
            clear_setid: true,
        };
        assert!(!adds_metadata(&Operation::CommitWrite(write.clone())));
        write.extents.push(Extent {
            offset: 0,
            length: 1,
            data: ExtentData::Inline(bytes::Bytes::from_static(b"x")),
        });
        assert!(adds_metadata(&Operation::CommitWrite(write)));
    }

    #[test]
    fn reserve_is_asked_of_the_file_system() {
        let dir = tempfile::tempdir().unwrap();
        let room = |directory: PathBuf, reserve_bytes| DiskReserve::new(directory, reserve_bytes).room();
        room(dir.path().to_owned(), 0).additions.unwrap();
        let full = room(dir.path().to_owned(), u64::MAX);
        let error = full.additions.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace);
        assert!(error.message().contains("make room in"), "{error}");
        full.changes.unwrap();
        let gone = room(dir.path().join("gone"), 0).additions.unwrap_err();
        assert_ne!(gone.kind(), ErrorKind::NoSpace);
    }

    #[test]
    fn of_the_last_part_nothing_is_taken() {
        let reserve = DiskReserve::new(PathBuf::from("/"), DISK_RESERVE_BYTES);
        for (free, adds, changes) in [
            (DISK_RESERVE_BYTES, true, true),
            (DISK_RESERVE_BYTES - 1, false, true),
            (LAST_RESERVE_BYTES, false, true),
            (LAST_RESERVE_BYTES - 1, false, false),
            (0, false, false),
        ] {
            let room = reserve.room_with(free);
            assert_eq!(
                (room.additions.is_ok(), room.changes.is_ok()),
                (adds, changes),
                "{free}"
            );
        }
    }
}
