//! Acting as another user within the test process.
//!
//! Invariant: only a thread of its own changes its identity, by raw system calls that concern this thread alone; the
//! thread ends with the work, so that no other test runs under a wrong identity.

use nix::libc;

/// Who makes a system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User<'a> {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: &'a [u32],
}

impl User<'_> {
    /// A user without supplementary groups, whose group has the same number.
    pub const fn plain(id: u32) -> User<'static> {
        User {
            uid: id,
            gid: id,
            groups: &[],
        }
    }
}

/// Runs `work` as `user`, on a thread of its own, and gives its result.
///
/// # Panics
/// When this process is not root, or with the panic of `work`.
#[track_caller]
pub fn as_user<T: Send>(user: User<'_>, work: impl FnOnce() -> T + Send) -> T {
    let result = std::thread::scope(|scope| {
        scope
            .spawn(|| {
                become_user(user);
                work()
            })
            .join()
    });
    result.unwrap_or_else(|payload| std::panic::resume_unwind(payload))
}

fn become_user(user: User<'_>) {
    let keep = u32::MAX;
    // SAFETY: plain system calls with integers and a slice that lives through the call; unlike glibc's functions of the
    // same names they change the calling thread only, which is what is wanted here.
    let failed = unsafe {
        libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()) != 0
            || libc::syscall(libc::SYS_setresgid, keep, user.gid, keep) != 0
            || libc::syscall(libc::SYS_setresuid, keep, user.uid, keep) != 0
    };
    assert!(
        !failed,
        "acting as other users needs root: {}",
        std::io::Error::last_os_error()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn only_the_work_has_the_identity() {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let made = dir.path().join("made");
        let open = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(dir.path(), open).unwrap();
        as_user(
            User {
                uid: 4321,
                gid: 4322,
                groups: &[4323],
            },
            || std::fs::write(&made, b"x").unwrap(),
        );
        let meta = std::fs::metadata(&made).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (4321, 4322));
        assert!(nix::unistd::Uid::effective().is_root());
    }
}
