//! Settings of a mount that the kernel takes only from its own files.

use super::place::MountPoint;
use std::path::PathBuf;

/// Bytes that the kernel reads ahead of a sequential reader, in KiB; it takes 128 from a FUSE file system by itself, which
/// keeps too few requests in flight.
const READ_AHEAD_KIB: u32 = 1024;

/// Raises the kernel's read-ahead where that is permitted; a mount works without.
pub fn raise_read_ahead(mount: &MountPoint) {
    let file = PathBuf::from("/sys/class/bdi")
        .join(mount.device())
        .join("read_ahead_kb");
    if let Err(error) = std::fs::write(&file, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(file = %file.display(), %error, "kernel read-ahead stays as it is");
    }
}
