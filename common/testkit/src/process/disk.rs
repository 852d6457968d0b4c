//! Disks of their own for servers: one in memory that is small, and one whose power can be cut.
//!
//! The second is a file system in a file, on a loop device that goes with its mount. Cutting its power is the file system's own
//! shutdown without writing its log, then an unmount: what was not synced is not there afterwards. Needs root and xfsprogs.

use super::command::run;
use nix::mount::{MsFlags, mount};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Size of a disk whose power can be cut; its file has holes.
const DISK_BYTES: u64 = 1 << 30;
/// One command.
const LIMIT: Duration = Duration::from_secs(60);

/// Mounts an empty disk of this size in memory; the base directory's end takes it away.
///
/// # Panics
/// When this process is not root.
pub(super) fn mount_memory(path: &Path, bytes: u64) {
    let size = format!("size={bytes},mode=755");
    mount(
        Some("dfs-test"),
        path,
        Some("tmpfs"),
        MsFlags::empty(),
        Some(size.as_str()),
    )
    .unwrap_or_else(|error| panic!("a small disk at {} needs root: {error}", path.display()));
}

/// A disk whose power can be cut. The base directory's end takes its mount away.
#[derive(Clone, Debug)]
pub(super) struct PowerDisk {
    image: PathBuf,
    mounted_at: PathBuf,
}

impl PowerDisk {
    /// An empty one, kept in the file `image`, mounted at `mounted_at`.
    ///
    /// # Panics
    /// When that cannot be done.
    pub(super) fn new(image: PathBuf, mounted_at: &Path) -> Self {
        let file = File::create_new(&image).unwrap_or_else(|error| panic!("{}: {error}", image.display()));
        file.set_len(DISK_BYTES).expect("holes cost nothing");
        run(Command::new("mkfs.xfs").arg("-q").arg(&image), LIMIT);
        let disk = PowerDisk {
            image,
            mounted_at: mounted_at.to_owned(),
        };
        disk.mount();
        disk
    }

    fn mount(&self) {
        let mut command = Command::new("mount");
        command.args(["-t", "xfs", "-o", "loop"]);
        run(command.arg(&self.image).arg(&self.mounted_at), LIMIT);
    }

    /// From now on nothing reaches the disk any more.
    pub(super) fn cut(&self) {
        let mut command = Command::new("xfs_io");
        run(
            command.args(["-x", "-c", "shutdown"]).arg(&self.mounted_at),
            LIMIT,
        );
    }

    /// Power is back: what was synced is there. Nobody may use the disk meanwhile.
    pub(super) fn restore(&self) {
        run(Command::new("umount").arg(&self.mounted_at), LIMIT);
        self.mount();
    }
}
