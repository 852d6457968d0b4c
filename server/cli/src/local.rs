//! Files of this machine: walking, reading in pieces, and writing so that no half copy ever has the final name.
//!
//! Everything here blocks: it runs on threads for blocking work. Invariant: a [`Temporary`] that was not persisted is gone
//! when its owner is.

use dfs_common::attr::{FileKind, Timestamp};
use dfs_common::{ErrorKind, FsError, FsResult};
use nix::errno::Errno;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::mpsc;

/// Piece in which content travels between the disk and the client library.
pub const PIECE_BYTES: usize = 1 << 20;

/// An error of a local file, with the kind of its errno.
pub fn local_error(error: io::Error) -> FsError {
    let kind = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT) => ErrorKind::NotFound,
        Some(Errno::EEXIST) => ErrorKind::Exists,
        Some(Errno::ENOTDIR) => ErrorKind::NotDirectory,
        Some(Errno::EISDIR) => ErrorKind::IsDirectory,
        Some(Errno::ENOTEMPTY) => ErrorKind::NotEmpty,
        Some(Errno::EACCES) => ErrorKind::PermissionDenied,
        Some(Errno::EPERM) => ErrorKind::NotPermitted,
        Some(Errno::ENAMETOOLONG) => ErrorKind::NameTooLong,
        Some(Errno::ELOOP) => ErrorKind::Loop,
        _ => return error.into(),
    };
    FsError::from(kind)
}

/// What kind of file `metadata` describes.
pub fn kind_of(metadata: &Metadata) -> FileKind {
    let kind = metadata.file_type();
    if kind.is_dir() {
        FileKind::Directory
    } else if kind.is_symlink() {
        FileKind::Symlink
    } else if kind.is_fifo() {
        FileKind::Fifo
    } else if kind.is_socket() {
        FileKind::Socket
    } else if kind.is_char_device() {
        FileKind::CharDevice
    } else if kind.is_block_device() {
        FileKind::BlockDevice
    } else {
        FileKind::File
    }
}

/// Modification time.
pub fn mtime_of(metadata: &Metadata) -> Timestamp {
    Timestamp {
        secs: metadata.mtime(),
        nanos: u32::try_from(metadata.mtime_nsec()).unwrap_or(0),
    }
}

/// Access time.
pub fn atime_of(metadata: &Metadata) -> Timestamp {
    Timestamp {
        secs: metadata.atime(),
        nanos: u32::try_from(metadata.atime_nsec()).unwrap_or(0),
    }
}

/// Mode, times and owner that a copy gets. `None`: as the system makes it.
#[derive(Clone, Debug, Default)]
pub struct Attributes {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Access and modification time.
    pub times: Option<(Timestamp, Timestamp)>,
    /// Owner and group.
    pub owner: Option<(u32, u32)>,
}

impl Attributes {
    /// Gives them to `path` itself, not to what a link points to.
    ///
    /// # Errors
    /// Those of the system calls. A change of owner that is not permitted is passed over, and so are set-id bits then.
    pub fn apply(&self, path: &Path, kind: FileKind) -> FsResult<()> {
        let mut mode = self.mode;
        if let Some((uid, gid)) = self.owner {
            match std::os::unix::fs::lchown(path, Some(uid), Some(gid)) {
                Err(error) if error.raw_os_error() == Some(nix::libc::EPERM) => {
                    mode = mode.map(|mode| mode & 0o1777);
                }
                other => other.map_err(local_error)?,
            }
        }
        if let (Some(mode), true) = (mode, kind != FileKind::Symlink) {
            std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).map_err(local_error)?;
        }
        if let Some((atime, mtime)) = self.times {
            let spec = |time: Timestamp| TimeSpec::new(time.secs, i64::from(time.nanos));
            utimensat(
                nix::fcntl::AT_FDCWD,
                path,
                &spec(atime),
                &spec(mtime),
                UtimensatFlags::NoFollowSymlink,
            )
            .map_err(|errno| local_error(errno.into()))?;
        }
        Ok(())
    }
}

/// Reads a file to its end in pieces; ends early when nobody receives any more.
pub fn read_pieces(mut file: File, pieces: &mpsc::Sender<FsResult<Vec<u8>>>) {
    loop {
        let mut piece = Vec::new();
        let read = (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece);
        let piece = match read {
            Ok(0) => return,
            Ok(_) => Ok(piece),
            Err(error) => Err(local_error(error)),
        };
        let failed = piece.is_err();
        if pieces.blocking_send(piece).is_err() || failed {
            return;
        }
    }
}

/// A new file or link under a temporary name beside its final one. Dropped, it is removed.
#[derive(Debug)]
pub struct Temporary {
    path: PathBuf,
    persisted: bool,
}

impl Temporary {
    /// A new empty file beside `target`, readable by its owner only.
    ///
    /// # Errors
    /// Those of making it: `NotFound`, `PermissionDenied`, `NoSpace`, ...
    pub fn file(target: &Path) -> FsResult<(Self, File)> {
        Self::make(target, |path| {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)
        })
    }

    /// A new symbolic link to `points_to` beside `target`.
    ///
    /// # Errors
    /// As [`Temporary::file`].
    pub fn symlink(target: &Path, points_to: &[u8]) -> FsResult<Self> {
        let points_to = OsStr::from_bytes(points_to);
        Ok(Self::make(target, |path| std::os::unix::fs::symlink(points_to, path))?.0)
    }

    fn make<T>(target: &Path, make: impl Fn(&Path) -> io::Result<T>) -> FsResult<(Self, T)> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let dir = target.parent().filter(|dir| !dir.as_os_str().is_empty());
        let dir = dir.unwrap_or(Path::new("."));
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            // Not made of the final name, which may have all the bytes that a name can have.
            let path = dir.join(format!(".dfs-download-{}-{number}", std::process::id()));
            match make(&path) {
                Ok(made) => {
                    let persisted = false;
                    return Ok((Temporary { path, persisted }, made));
                }
                // Left by a process of the same number that was killed.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(local_error(error)),
            }
        }
    }

    /// Its present path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its final name, at once and whole; replaces what has the name unless `overwrite` is false.
    ///
    /// # Errors
    /// `Exists` if it may not overwrite, `IsDirectory` if a directory has the name, and those of rename(2).
    pub fn persist(mut self, target: &Path, overwrite: bool) -> FsResult<()> {
        if overwrite {
            self.rename(target)?;
        } else {
            match std::fs::hard_link(&self.path, target) {
                // The temporary name goes when this is dropped.
                Ok(()) => return Ok(()),
                Err(error)
                    if matches!(
                        error.raw_os_error(),
                        Some(nix::libc::EPERM | nix::libc::EOPNOTSUPP)
                    ) =>
                {
                    // A file system without links: nearly as good.
                    if target.symlink_metadata().is_ok() {
                        return Err(ErrorKind::Exists.into());
                    }
                    self.rename(target)?;
                }
                Err(error) => return Err(local_error(error)),
            }
        }
        self.persisted = true;
        Ok(())
    }

    fn rename(&self, target: &Path) -> FsResult<()> {
        std::fs::rename(&self.path, target).map_err(local_error)
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.persisted {
            // A read-only or vanished directory: nothing more can be done.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Writes content in order; stretches of zeros become holes.
pub struct SparseFile {
    file: File,
    length: u64,
}

impl SparseFile {
    /// Into an empty file.
    pub fn new(file: File) -> Self {
        SparseFile { file, length: 0 }
    }

    /// Appends a piece.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn write(&mut self, piece: &[u8]) -> FsResult<()> {
        if piece.len() >= 4096 && piece.iter().all(|byte| *byte == 0) {
            self.file
                .seek(SeekFrom::Current(piece.len() as i64))
                .map_err(local_error)?;
        } else {
            self.file.write_all(piece).map_err(local_error)?;
        }
        self.length += piece.len() as u64;
        Ok(())
    }

    /// Makes the length right if the content ends in zeros.
    ///
    /// # Errors
    /// As [`SparseFile::write`].
    pub fn finish(self) -> FsResult<()> {
        self.file.set_len(self.length).map_err(local_error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_is_gone_unless_persisted() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        let names = || std::fs::read_dir(dir.path()).unwrap().count();
        let (dropped, _) = Temporary::file(&target).unwrap();
        assert_eq!(names(), 1);
        drop(dropped);
        assert_eq!(names(), 0);
        Temporary::file(&target)
            .unwrap()
            .0
            .persist(&target, true)
            .unwrap();
        assert_eq!(names(), 1);
        assert!(target.is_file());
    }

    #[test]
    fn existing_name_is_replaced_only_if_wanted() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("a");
        std::fs::write(&target, b"old").unwrap();
        let link = || Temporary::symlink(&target, b"to\xff").unwrap();
        assert_eq!(
            link().persist(&target, false).unwrap_err().kind(),
            ErrorKind::Exists
        );
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        link().persist(&target, true).unwrap();
        assert_eq!(
            std::fs::read_link(&target).unwrap().as_os_str().as_bytes(),
            b"to\xff"
        );
        let directory = dir.path().join("d");
        std::fs::create_dir(&directory).unwrap();
        assert!(link().persist(&directory, true).is_err());
        link().persist(&dir.path().join("new"), false).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 3);
    }

    #[test]
    fn zeros_keep_their_place_and_the_length() {
        let mut content = vec![7; 5000];
        content.extend(vec![0; 3 * PIECE_BYTES]);
        content.extend(vec![9; 10]);
        for tail in [0, 2 * PIECE_BYTES] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("a");
            let mut wanted = content.clone();
            wanted.extend(vec![0; tail]);
            let mut file = SparseFile::new(File::create(&path).unwrap());
            wanted
                .chunks(PIECE_BYTES)
                .for_each(|piece| file.write(piece).unwrap());
            file.finish().unwrap();
            assert!(std::fs::read(&path).unwrap() == wanted);
        }
    }

    #[test]
    fn attributes_of_a_link_are_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("f"), dir.path().join("l"));
        std::fs::write(&file, b"x").unwrap();
        std::os::unix::fs::symlink("f", &link).unwrap();
        let before = file.metadata().unwrap().mtime();
        let attributes = Attributes {
            mode: Some(0o123),
            times: Some((Timestamp { secs: 1, nanos: 2 }, Timestamp { secs: 3, nanos: 4 })),
            owner: None,
        };
        attributes.apply(&link, FileKind::Symlink).unwrap();
        assert_eq!(file.metadata().unwrap().mtime(), before);
        assert_eq!(
            mtime_of(&link.symlink_metadata().unwrap()),
            Timestamp { secs: 3, nanos: 4 }
        );
        attributes.apply(&file, FileKind::File).unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o7777, 0o123);
    }
}
