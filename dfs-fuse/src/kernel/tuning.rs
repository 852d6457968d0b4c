//! Settings of a mount that the kernel takes only from its own files.

use super::place::MountPoint;
use std::path::PathBuf;

/// Bytes that the kernel reads ahead of a sequential reader, in KiB; it takes 128 from a FUSE file system by itself, which
/// keeps too few requests in flight.
const READ_AHEAD_KIB: u32 = 1024;

/// Most pages of one request, of all FUSE mounts of the machine. 1 MiB at any offset of a page, and from any address, is one page more than the 256
/// that kernels allow by themselves; with the rest goes what others ask for.
const REQUEST_PAGES: u32 = 512;
const REQUEST_PAGES_FILE: &str = "/proc/sys/fs/fuse/max_pages_limit";

/// Has the kernel keep requests whole that it would divide (since Linux 6.13), where that is permitted: an append of up to 1 MiB is one then. To be
/// called before mounting.
pub fn raise_request_pages() {
    let now = std::fs::read_to_string(REQUEST_PAGES_FILE).ok();
    if now
        .and_then(|now| now.trim().parse().ok())
        .is_some_and(|pages: u32| pages >= REQUEST_PAGES)
    {
        return;
    }
    if let Err(error) = std::fs::write(REQUEST_PAGES_FILE, REQUEST_PAGES.to_string()) {
        tracing::debug!(file = REQUEST_PAGES_FILE, %error, "requests of 1 MiB may be divided by the kernel");
    }
}

/// Raises the kernel's read-ahead where that is permitted; a mount works without.
pub fn raise_read_ahead(mount: &MountPoint) {
    let file = PathBuf::from("/sys/class/bdi")
        .join(mount.device())
        .join("read_ahead_kb");
    if let Err(error) = std::fs::write(&file, READ_AHEAD_KIB.to_string()) {
        tracing::debug!(file = %file.display(), %error, "kernel read-ahead stays as it is");
    }
}
