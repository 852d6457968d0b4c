//! Mounting: with mount(2) as root, through `fusermount3` as anybody else.
//!
//! Owns the way from an empty directory to an open descriptor of the kernel's FUSE device; permissions are always checked
//! by the kernel (`default_permissions`), and once more by the coordinator.

use super::{FILE_SYSTEM_TYPE, HELPER};
use crate::options::MountOptions;
use dfs_common::{ErrorKind, FsError, FsResult};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::{getgid, getuid};
use std::fs::File;
use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the helper finds the socket to send the device through: its standard input.
const HELPER_SOCKET: (&str, &str) = ("_FUSE_COMMFD", "0");
const DEVICE: &str = "/dev/fuse";

/// Mounts at `path` (an existing directory) and gives the device through which the kernel asks.
///
/// # Errors
/// With what to do: no FUSE in this kernel, not permitted, refused by the helper.
pub fn mount(path: &Path, fsname: &str, options: &MountOptions) -> FsResult<OwnedFd> {
    let others = options.others_may_enter(getuid().is_root());
    match nix::unistd::geteuid().is_root() {
        true => mount_directly(path, fsname, options, others),
        false => mount_by_helper(path, fsname, options, others),
    }
}

fn mount_directly(path: &Path, fsname: &str, options: &MountOptions, others: bool) -> FsResult<OwnedFd> {
    let device = File::options()
        .read(true)
        .write(true)
        .open(DEVICE)
        .map_err(no_device)?;
    let data = format!(
        "fd={},rootmode=40000,user_id={},group_id={},default_permissions{}",
        device.as_raw_fd(),
        getuid(),
        getgid(),
        if others { ",allow_other" } else { "" }
    );
    let mounted = nix::mount::mount(
        Some(fsname),
        path,
        Some(FILE_SYSTEM_TYPE),
        options.flags,
        Some(data.as_str()),
    );
    match mounted {
        Ok(()) => Ok(device.into()),
        Err(Errno::EPERM) => Err(FsError::new(
            ErrorKind::NotPermitted,
            format!(
                "not permitted to mount at {}: a container needs the SYS_ADMIN capability",
                path.display()
            ),
        )),
        Err(Errno::ENODEV) => Err(no_device(Errno::ENODEV.into())),
        Err(errno) => Err(FsError::from(std::io::Error::from(errno))
            .context(format_args!("mounting at {}", path.display()))),
    }
}

fn no_device(error: std::io::Error) -> FsError {
    let text = match error.raw_os_error().map(Errno::from_raw) {
        Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO) => {
            format!(
                "this kernel has no FUSE ({DEVICE}: {error}): run `modprobe fuse`, or give the container the device"
            )
        }
        Some(Errno::EACCES | Errno::EPERM) => format!("not permitted to use {DEVICE}: {error}"),
        _ => format!("{DEVICE}: {error}"),
    };
    FsError::new(FsError::from(error).kind(), text)
}

fn mount_by_helper(path: &Path, fsname: &str, options: &MountOptions, others: bool) -> FsResult<OwnedFd> {
    let mut words = options.flag_words().join(",");
    words.push_str(",default_permissions,subtype=dfs,fsname=");
    words.push_str(fsname);
    if others {
        words.push_str(",allow_other");
    }
    let (ours, theirs) = UnixStream::pair()?;
    let helper = Command::new(HELPER)
        .args(["-o", &words, "--"])
        .arg(path)
        .env(HELPER_SOCKET.0, HELPER_SOCKET.1)
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| {
            FsError::new(
                ErrorKind::NotFound,
                format!("{HELPER} cannot be run ({error}): install the package fuse3, or mount as root"),
            )
        })?;
    let device = receive_device(&ours);
    let output = helper.wait_with_output()?;
    match device? {
        Some(device) => Ok(device),
        None => {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(FsError::new(
                ErrorKind::NotPermitted,
                match said.is_empty() {
                    true => format!("{HELPER} gave no device and no reason"),
                    false => said,
                },
            ))
        }
    }
}

/// The device that the helper sends; `None` if it sends none.
fn receive_device(socket: &UnixStream) -> FsResult<Option<OwnedFd>> {
    let mut byte = [0; 1];
    let mut buffers = [IoSliceMut::new(&mut byte)];
    let mut space = nix::cmsg_space!(RawFd);
    let message = loop {
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        match recvmsg::<()>(socket.as_raw_fd(), &mut buffers, Some(&mut space), flags) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(std::io::Error::from(errno).into()),
            Ok(message) => break message,
        }
    };
    let messages = message.cmsgs().map_err(std::io::Error::from)?;
    for control in messages {
        if let ControlMessageOwned::ScmRights(descriptors) = control
            && let Some(descriptor) = descriptors.first()
        {
            // SAFETY: the kernel has just made this descriptor for us, and nobody else knows of it.
            return Ok(Some(unsafe { OwnedFd::from_raw_fd(*descriptor) }));
        }
    }
    Ok(None)
}
