//! `mount -t fuse.dfs`: mount.fuse runs the program that is named like the type, so `dfs SOURCE MOUNTPOINT -o OPTIONS`.
//!
//! Owns the recognition of that one command line, which is no command of `dfs`, and the hand-over to `dfs-mount`.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program that mounts; it is installed beside this one.
const PROGRAM: &str = "dfs-mount";

/// Becomes `dfs-mount` if `args` (without the program's name) are those of a mount. Returns if they are not, or with why it
/// cannot be run.
pub fn become_mount(args: &[OsString]) -> Option<std::io::Error> {
    if !is_mount(args) {
        return None;
    }
    let error = Command::new(program()).args(args).exec();
    Some(error)
}

fn is_mount(args: &[OsString]) -> bool {
    matches!(args, [_, mountpoint, flag, _] if flag == "-o" && Path::new(mountpoint).is_absolute())
}

fn program() -> PathBuf {
    let beside = std::env::current_exe()
        .ok()
        .map(|this| this.with_file_name(PROGRAM));
    beside
        .filter(|program| program.is_file())
        .unwrap_or_else(|| PROGRAM.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_of_mount_is_told_from_commands() {
        let is = |args: &[&str]| is_mount(&args.iter().map(OsString::from).collect::<Vec<_>>());
        assert!(is(&["dfs", "/mnt", "-o", "rw,_netdev"]));
        assert!(is(&["127.0.0.1:7400", "/mnt", "-o", "rw"]));
        for other in [
            &["ls", "/"][..],
            &["upload", "a", "/b"],
            &["dfs", "mnt", "-o", "rw"],
            &["dfs", "/mnt"],
            &["ls", "/mnt", "-o", "x", "y"],
        ] {
            assert!(!is(other), "{other:?}");
        }
    }
}
