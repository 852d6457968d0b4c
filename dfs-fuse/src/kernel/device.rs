//! Notifications to the kernel that the FUSE library does not send, or whose answer it hides.
//!
//! They are written beside the library to the same device: each is one write(2), which the kernel takes whole or refuses. Layouts are those of
//! `include/uapi/linux/fuse.h`, in the machine's byte order.

use dfs_common::Ino;
use nix::libc;
use std::fs::File;
use std::io::{Result, Write};
use std::os::fd::{AsFd, OwnedFd};

/// `FUSE_NOTIFY_INVAL_INODE`.
const INVAL_INODE: i32 = 2;
/// `FUSE_NOTIFY_INVAL_ENTRY`.
const INVAL_ENTRY: i32 = 3;
/// `FUSE_NOTIFY_INC_EPOCH`, from protocol 7.44 on.
const INC_EPOCH: i32 = 8;
/// `FUSE_EXPIRE_ONLY`, from protocol 7.38 on.
const EXPIRE_ONLY: u32 = 1;
/// Length of the header in front of each notification, in bytes.
const HEADER_BYTES: usize = 16;

/// The kernel's FUSE device of a mount.
#[derive(Debug)]
pub struct Device(File);

impl Device {
    /// A second descriptor of `device`.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn new(device: &OwnedFd) -> Result<Device> {
        Ok(Device(device.as_fd().try_clone_to_owned()?.into()))
    }

    /// Makes the kernel ask for an inode's attributes, and ignore those that are on their way to it. False if it does not know the inode.
    ///
    /// # Errors
    /// Those of the device: the mount is gone.
    pub fn forget_attributes(&self, ino: Ino) -> Result<bool> {
        let mut body = [0; 24];
        body[..8].copy_from_slice(&ino.0.to_ne_bytes());
        // A negative offset: no pages. So no lock is taken that a request in flight may hold.
        body[8..16].copy_from_slice(&(-1i64).to_ne_bytes());
        self.notify(INVAL_INODE, &[&body])
    }

    /// Makes the kernel ask for a name. Waits for the directory's lock, so for requests in flight. `expire`: the name stays where
    /// it is until it was asked for, with what is mounted there; but a reply on its way may make it valid again. False if it does not know the name.
    ///
    /// # Errors
    /// Those of the device.
    pub fn forget_name(&self, directory: Ino, name: &[u8], expire: bool) -> Result<bool> {
        let mut body = [0; 16];
        body[..8].copy_from_slice(&directory.0.to_ne_bytes());
        // A name is at most 255 bytes long.
        body[8..12].copy_from_slice(&(name.len() as u32).to_ne_bytes());
        let flags = if expire { EXPIRE_ONLY } else { 0 };
        body[12..].copy_from_slice(&flags.to_ne_bytes());
        self.notify(INVAL_ENTRY, &[&body, name, &[0]])
    }

    /// Makes the kernel ask for every name, also for those whose answer is on its way. Waits for nothing. What somebody mounted below is
    /// taken away when a name above it is looked at.
    ///
    /// # Errors
    /// `EINVAL` if the kernel does not have it; those of the device.
    pub fn forget_all_names(&self) -> Result<()> {
        self.notify(INC_EPOCH, &[]).map(|_| ())
    }

    fn notify(&self, code: i32, parts: &[&[u8]]) -> Result<bool> {
        let mut message = vec![0; HEADER_BYTES];
        message[4..8].copy_from_slice(&code.to_ne_bytes());
        parts.iter().for_each(|part| message.extend_from_slice(part));
        let length = message.len() as u32;
        message[..4].copy_from_slice(&length.to_ne_bytes());
        match (&self.0).write_all(&message) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) => Ok(false),
                _ => Err(error),
            },
        }
    }
}
