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

/// A file that is there under its name only when it is whole: written under a temporary name beside it, synced, renamed. Only its owner
/// may read it. Dropped before [`NewFile::finish`], it leaves nothing.
#[derive(Debug)]
pub struct NewFile {
    file: Option<File>,
    temporary: PathBuf,
    path: PathBuf,
}

impl NewFile {
    /// Begins to write `path`. The temporary name is `.<name>.<process>.tmp` beside it.
    pub fn create(path: &Path) -> io::Result<Self> {
        let name = path
            .file_name()
            .ok_or_else(|| io::Error::other("path has no file name"))?;
        if path.is_dir() {
            return Err(io::Error::other("it is a directory"));
        }
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = OpenOptions::new()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&temporary)?;
        Ok(NewFile {
            file: Some(file),
            temporary,
            path: path.to_path_buf(),
        })
    }

    /// The file is whole: durable under its name on return, in the place of one that had it.
    pub fn finish(mut self) -> io::Result<()> {
        if let Some(file) = self.file.take() {
            let renamed = file
                .sync_all()
                .and_then(|()| std::fs::rename(&self.temporary, &self.path));
            if let Err(error) = renamed {
                self.file = Some(file);
                return Err(error);
            }
        }
        let dir = self.path.parent().filter(|p| !p.as_os_str().is_empty());
        sync_dir(dir.unwrap_or(Path::new(".")))
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.file {
            Some(file) => file.write(bytes),
            None => Err(io::Error::other("the file was finished")),
        }
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.file.is_some() {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
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
    fn new_file_is_there_whole_or_not_at_all() {
        let dir = std::env::temp_dir().join(format!("dfs-new-file-{}", std::process::id()));
        create_dir_all(&dir).unwrap();
        let path = dir.join("f");
        let names = || std::fs::read_dir(&dir).unwrap().count();
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(names(), 0);
        for text in ["one", "two"] {
            let mut file = NewFile::create(&path).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file.finish().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), text.as_bytes());
        }
        assert_eq!(names(), 1);
        use std::os::unix::fs::MetadataExt;
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        assert!(NewFile::create(&dir).is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }

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
