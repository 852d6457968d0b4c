//! Mount points before and after: whether one can be mounted at, what is mounted there, and taking it away.
//!
//! Invariant: an unmount never hits another mount than ours, which somebody may have stacked on the same directory.

use super::FILE_SYSTEM_TYPE;
use dfs_common::{ErrorKind, FsError, FsResult};
use nix::errno::Errno;
use nix::mount::{MntFlags, umount2};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Checks that `path` can be mounted at; gives its absolute name without symbolic links.
///
/// # Errors
/// With what to do: there is no such directory, it is something else, or DFS is mounted there, alive or dead.
pub fn check(path: &Path) -> FsResult<PathBuf> {
    let shown = path.display();
    let refuse = |kind, text: String| Err(FsError::new(kind, text));
    let metadata = match std::fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            return match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOENT) => refuse(
                    ErrorKind::NotFound,
                    format!("{shown} does not exist: make the directory first"),
                ),
                Some(Errno::ENOTDIR) => {
                    refuse(ErrorKind::NotDirectory, format!("{shown} is not a directory"))
                }
                Some(Errno::ENOTCONN | Errno::ECONNABORTED) => refuse(
                    ErrorKind::Busy,
                    format!("{shown} is a mount whose daemon is gone: run `umount {shown}` first"),
                ),
                _ => Err(FsError::from(error).context(shown)),
            };
        }
    };
    if !metadata.is_dir() {
        return refuse(ErrorKind::NotDirectory, format!("{shown} is not a directory"));
    }
    let path = path
        .canonicalize()
        .map_err(|error| FsError::from(error).context(shown))?;
    match topmost(&path) {
        Some(mounted) if mounted.kind == FILE_SYSTEM_TYPE => refuse(
            ErrorKind::Busy,
            format!(
                "DFS is mounted at {} already: run `umount {}` first",
                path.display(),
                path.display()
            ),
        ),
        _ => Ok(path),
    }
}

/// A line of the mount table.
struct Mounted {
    /// `major:minor`.
    device: String,
    /// Type.
    kind: String,
}

/// What is mounted at exactly `path`; the last line of several is on top.
fn topmost(path: &Path) -> Option<Mounted> {
    let table = std::fs::read("/proc/self/mountinfo").ok()?;
    find(&table, path)
}

fn find(table: &[u8], path: &Path) -> Option<Mounted> {
    let text = |field: &[u8]| String::from_utf8_lossy(field).into_owned();
    table.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        if unescaped(fields.get(4)?) != path.as_os_str().as_bytes() {
            return None;
        }
        let dash = fields.iter().position(|field| *field == b"-")?;
        Some(Mounted {
            device: text(fields.get(2)?),
            kind: text(fields.get(dash + 1)?),
        })
    })
}

/// The mount table writes blanks and the like as `\040`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let octal = tail
            .get(..3)
            .filter(|_| *first == b'\\')
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    bytes
}

/// Our mount: the directory and the device number that the kernel gave it.
#[derive(Clone, Debug)]
pub struct MountPoint {
    path: PathBuf,
    /// `major:minor`.
    device: String,
}

/// How an unmount went.
#[derive(Debug)]
pub enum Unmounted {
    /// It is gone, or was gone before.
    Done,
    /// Somebody uses it.
    Busy,
    /// Anything else.
    Failed(String),
}

impl MountPoint {
    /// What was just mounted at `path`.
    ///
    /// # Errors
    /// `NotFound` if that is not ours.
    pub fn new(path: &Path) -> FsResult<MountPoint> {
        match topmost(path) {
            Some(mounted) if mounted.kind == FILE_SYSTEM_TYPE => Ok(MountPoint {
                path: path.to_owned(),
                device: mounted.device,
            }),
            _ => Err(FsError::new(
                ErrorKind::NotFound,
                format!("{} is not mounted: somebody unmounted it at once", path.display()),
            )),
        }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `major:minor`.
    pub fn device(&self) -> &str {
        &self.device
    }

    /// Unmounts. Waits for pages of shared maps to be written, so the mount must be served meanwhile.
    pub fn unmount(&self) -> Unmounted {
        self.end(MntFlags::empty(), "-u")
    }

    /// Takes the mount away from its directory at once, whoever uses it.
    pub fn detach(&self) -> Unmounted {
        self.end(MntFlags::MNT_DETACH, "-uz")
    }

    fn end(&self, flags: MntFlags, helper_flag: &str) -> Unmounted {
        if topmost(&self.path).is_none_or(|mounted| mounted.device != self.device) {
            return Unmounted::Done;
        }
        match umount2(&self.path, flags | MntFlags::UMOUNT_NOFOLLOW) {
            Ok(()) => Unmounted::Done,
            Err(Errno::EBUSY) => Unmounted::Busy,
            // Not root: the helper may end what this user mounted.
            Err(Errno::EPERM) => self.end_by_helper(helper_flag),
            Err(errno) => Unmounted::Failed(errno.desc().to_owned()),
        }
    }

    fn end_by_helper(&self, flag: &str) -> Unmounted {
        let helper = Command::new(super::HELPER)
            .args([flag, "--"])
            .arg(&self.path)
            .stdin(Stdio::null())
            .output();
        match helper {
            Ok(output) if output.status.success() => Unmounted::Done,
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                match said.contains("busy") {
                    true => Unmounted::Busy,
                    false => Unmounted::Failed(said),
                }
            }
            Err(error) => Unmounted::Failed(format!("{}: {error}", super::HELPER)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &[u8] = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
        30 22 0:40 / /mnt/a\\040b rw,nosuid shared:1 - fuse.dfs h:1 rw\n\
        31 30 0:41 / /mnt/a\\040b rw - tmpfs none rw\n\
        garbage\n";

    #[test]
    fn topmost_mount_of_a_directory_is_found() {
        let found = find(TABLE, Path::new("/mnt/a b")).unwrap();
        assert_eq!((found.device.as_str(), found.kind.as_str()), ("0:41", "tmpfs"));
        assert_eq!(
            find(&TABLE[..110], Path::new("/mnt/a b")).unwrap().kind,
            "fuse.dfs"
        );
        assert!(find(TABLE, Path::new("/mnt")).is_none());
    }

    #[test]
    fn escapes_are_read() {
        assert_eq!(unescaped(br"/a\040b\134c"), br"/a b\c");
        assert_eq!(unescaped(br"/a\"), br"/a\");
        assert_eq!(unescaped(br"/a\04"), br"/a\04");
    }

    #[test]
    fn only_directories_are_mounted_at() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let kind = |path: &Path| check(path).unwrap_err().kind();
        assert_eq!(kind(&file), ErrorKind::NotDirectory);
        assert_eq!(kind(&file.join("x")), ErrorKind::NotDirectory);
        assert_eq!(kind(&dir.path().join("missing")), ErrorKind::NotFound);
        assert_eq!(check(dir.path()).unwrap(), dir.path().canonicalize().unwrap());
    }

    #[test]
    fn mount_of_somebody_else_is_left_alone() {
        let root = MountPoint {
            path: "/".into(),
            device: "0:0".to_owned(),
        };
        assert!(matches!(root.detach(), Unmounted::Done));
    }
}
