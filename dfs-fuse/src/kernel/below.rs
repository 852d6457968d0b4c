//! Whether something is mounted below a mount of ours.
//!
//! To take a name back from the kernel takes away what is mounted at it or below, in every mount namespace. So the kernel is given no name as
//! long as there is such a mount. Seen are those of this program's mount namespace and of all others that it may look into (root: all).

use parking_lot::Mutex;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Between two looks, while somebody wants to know.
pub const LOOKS: Duration = Duration::from_secs(1);
/// How old an answer may be that lets names be given.
const FRESH: Duration = Duration::from_secs(3);

/// What is known of mounts below ours.
#[derive(Debug)]
pub struct Below {
    /// `major:minor` of the mount.
    device: String,
    known: Mutex<(Option<Instant>, bool)>,
    /// Somebody wanted to know since the last look.
    wanted: AtomicBool,
}

impl Below {
    /// Of the mount with this device number, `major:minor`.
    pub fn new(device: &str) -> Self {
        Below {
            device: device.to_owned(),
            known: Mutex::new((None, true)),
            wanted: AtomicBool::new(true),
        }
    }

    /// True if nothing was mounted there when somebody looked, within the last seconds.
    pub fn is_clear(&self) -> bool {
        self.wanted.store(true, Ordering::Relaxed);
        let (at, mounted) = *self.known.lock();
        !mounted && at.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// Looks if somebody wanted to know since the last time.
    pub fn look_if_wanted(&self) {
        if self.wanted.swap(false, Ordering::Relaxed) {
            self.look();
        }
    }

    /// Looks; true if something is mounted there. Reads files of /proc: some milliseconds where there are many processes.
    pub fn look(&self) -> bool {
        let at = Instant::now();
        let mounted = self.mounted();
        *self.known.lock() = (Some(at), mounted);
        mounted
    }

    fn mounted(&self) -> bool {
        let tables = tables();
        // A table that cannot be read says nothing: a process has ended, or is somebody else's.
        tables
            .iter()
            .any(|table| std::fs::read(table).is_ok_and(|table| has_child(&table, self.device.as_bytes())))
    }
}

/// One mount table for each mount namespace, this program's first.
fn tables() -> Vec<PathBuf> {
    let mut seen = HashSet::new();
    let mut tables = vec![PathBuf::from("/proc/self/mountinfo")];
    seen.extend(std::fs::read_link("/proc/self/ns/mnt"));
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return tables;
    };
    for process in processes.flatten() {
        let path = process.path();
        let is_process = process
            .file_name()
            .as_encoded_bytes()
            .iter()
            .all(u8::is_ascii_digit);
        if is_process
            && let Ok(namespace) = std::fs::read_link(path.join(Path::new("ns/mnt")))
            && seen.insert(namespace)
        {
            tables.push(path.join("mountinfo"));
        }
    }
    tables
}

/// True if the mount table has a mount whose parent is a mount of `device`.
fn has_child(table: &[u8], device: &[u8]) -> bool {
    let mut ours = HashSet::new();
    let mut parents = HashSet::new();
    for line in table.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ');
        if let (Some(id), Some(parent), Some(number)) = (fields.next(), fields.next(), fields.next()) {
            parents.insert(parent);
            if number == device {
                ours.insert(id);
            }
        }
    }
    !ours.is_disjoint(&parents)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_below_is_seen_and_one_beside_is_not() {
        let beside = b"22 1 8:1 / / rw - ext4 /dev/sda1 rw\n30 22 0:40 / /mnt/a rw - fuse.dfs h:1 rw\n\
            31 22 0:41 / /mnt/b rw - tmpfs none rw\n32 22 0:40 /dir /srv rw - fuse.dfs h:1 rw\ngarbage\n";
        assert!(!has_child(beside, b"0:40"));
        let below = [&beside[..], b"33 32 0:41 / /srv/x rw - tmpfs none rw\n"].concat();
        assert!(has_child(&below, b"0:40"));
        assert!(!has_child(&below, b"0:41"));
    }

    #[test]
    fn nothing_is_clear_before_somebody_looked() {
        let below = Below::new("0:0");
        assert!(!below.is_clear());
        assert!(!below.look());
        assert!(below.is_clear());
    }
}
