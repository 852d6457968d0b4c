//! The directory of one test: data and logs of its processes, mount points, scratch files.
//!
//! Invariant: a directory is removed only when nothing is mounted below it. A test that was killed leaves one behind;
//! the next start takes it away together with its mounts, once the process that made it is gone.

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

const PREFIX: &str = "dfs-test-";

/// A directory that other users may pass through; removed when dropped.
#[derive(Debug)]
pub struct Base(PathBuf);

impl Base {
    /// A new one in the directory for temporary files.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let temporary = std::env::temp_dir();
        sweep(&temporary);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let dir = temporary.join(format!("{PREFIX}{}-{number}", std::process::id()));
        fs::create_dir(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        // Tests act as other users too.
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).expect("the directory is ours");
        Base(dir)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A new directory in it.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn subdir(&self, name: &str) -> PathBuf {
        let dir = self.0.join(name);
        fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("cannot make {}: {error}", dir.display()));
        dir
    }
}

impl Default for Base {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// Mount points at or below `dir`, innermost first, as the kernel lists them.
pub(super) fn mounts_below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mounts").unwrap_or_default();
    let mut below: Vec<PathBuf> = table
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(1))
        .map(|field| PathBuf::from(std::ffi::OsStr::from_bytes(&unescaped(field))))
        .filter(|path| path.starts_with(dir))
        .collect();
    below.reverse();
    below
}

/// The mount table writes blanks and the like as `\040`.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut at = 0;
    while at < field.len() {
        let octal = (field[at] == b'\\')
            .then(|| field.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal {
            Some(byte) => {
                bytes.push(byte);
                at += 4;
            }
            None => {
                bytes.push(field[at]);
                at += 1;
            }
        }
    }
    bytes
}

/// Ends a mount whoever still uses it.
pub(super) fn detach(path: &Path) {
    use nix::mount::{MntFlags, umount2};
    if umount2(path, MntFlags::MNT_DETACH).is_err() {
        // Not root: the helper may end what this user mounted.
        let _ = std::process::Command::new("fusermount3")
            .arg("-uzq")
            .arg(path)
            .output();
    }
}

fn remove(dir: &Path) {
    for mount in mounts_below(dir) {
        detach(&mount);
    }
    let left = mounts_below(dir);
    if left.is_empty() {
        let _ = fs::remove_dir_all(dir);
    } else {
        eprintln!("{} stays: still mounted there: {left:?}", dir.display());
    }
}

/// Removes what test processes that are gone left behind.
fn sweep(temporary: &Path) {
    let Ok(entries) = fs::read_dir(temporary) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let pid = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_table_escapes_are_read() {
        assert_eq!(unescaped(br"/a\040b\134c"), br"/a b\c");
        assert_eq!(unescaped(br"/a\"), br"/a\");
        assert_eq!(unescaped(br"/a\04"), br"/a\04");
    }

    #[test]
    fn directory_of_a_process_that_is_gone_is_swept() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = std::env::temp_dir().join(format!("{PREFIX}{}-0", child.id()));
        child.wait().unwrap();
        fs::create_dir_all(gone.join("data")).unwrap();
        let base = Base::new();
        assert!(!gone.exists());
        let kept = base.subdir("x");
        drop(Base::new());
        assert!(kept.is_dir(), "the directory of a living process stays");
    }
}
