//! Crash-safe file helpers: a file is there whole, under its name, after a power cut, or not at all.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Makes the entries of a directory durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Replaces `path` by a file with `bytes`: temporary name, sync, rename, directory sync.
///
/// Durable on return; a reader sees the old or the new content. The temporary name is `.<name>.tmp` beside it.
pub fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, 0o666)
}

/// [`replace_file`] for secrets: only the owner may read the file, at no moment anybody else.
pub fn replace_private_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    replace(path, bytes, 0o600)
}

fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let dir = path
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(
        path.file_name()
            .ok_or_else(|| io::Error::other("path has no file name"))?,
    );
    temporary.push(".tmp");
    let temporary = dir.join(temporary);
    // An old one may have other permissions.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    sync_dir(dir)
}

/// Makes a directory and its missing parents, each durable in its own parent.
pub fn create_dir_all(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir
        .parent()
        .filter(|p| !p.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    create_dir_all(parent)?;
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    sync_dir(parent)
}

/// Exclusive use of a data directory: an flock(2) on `LOCK` in it, freed when dropped or when the process ends.
#[derive(Debug)]
pub struct DirLock {
    _file: nix::fcntl::Flock<File>,
    path: PathBuf,
}

impl DirLock {
    /// Takes the lock.
    ///
    /// # Errors
    /// `AddrInUse`-like [`io::ErrorKind::WouldBlock`] with a clear sentence if another process has it.
    pub fn acquire(dir: &Path) -> io::Result<Self> {
        let path = dir.join("LOCK");
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)?;
        match nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock) {
            Ok(file) => Ok(DirLock { _file: file, path }),
            Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(io::Error::new(
                io::ErrorKind::WouldBlock,
                format!(
                    "{} is in use by another process: stop that one first",
                    dir.display()
                ),
            )),
            Err((_, errno)) => Err(errno.into()),
        }
    }
    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_is_locked_once() {
        let dir = std::env::temp_dir().join(format!("dfs-lock-{}", std::process::id()));
        create_dir_all(&dir).unwrap();
        let first = DirLock::acquire(&dir).unwrap();
        assert_eq!(
            DirLock::acquire(&dir).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        drop(first);
        DirLock::acquire(&dir).unwrap();
        replace_file(&dir.join("a"), b"1").unwrap();
        replace_file(&dir.join("a"), b"2").unwrap();
        assert_eq!(std::fs::read(dir.join("a")).unwrap(), b"2");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
