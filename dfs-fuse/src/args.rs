//! The command line of `dfs-mount`, as a person, `/etc/fstab` or mount(8) gives it, and its translation into settings.
//!
//! Invariant: what [`Args::settings`] lets through is well formed, so that a later error is never one of usage.

use crate::options::{MountOptions, parse_cache};
use clap::Parser;
use dfs_client::profile;
use dfs_common::{ErrorKind, FsError, FsResult};
use std::path::PathBuf;
use std::time::Duration;

/// Memory for file content when nothing is said.
const CACHE_BYTES_DEFAULT: u64 = 256 << 20;

/// Mounts a DFS cluster at a directory.
#[derive(Debug, Parser)]
#[command(
    name = "dfs-mount",
    version,
    override_usage = "dfs-mount [OPTIONS] [SOURCE] MOUNTPOINT",
    after_help = AFTER_HELP
)]
pub struct Args {
    /// The directory to mount at. A SOURCE before it is what mount(8) and fstab have in their first column: HOST:PORT of
    /// the coordinator, or any word, which is shown as the name of the file system
    #[arg(value_name = "[SOURCE] MOUNTPOINT", required = true, num_args = 1..=2)]
    places: Vec<PathBuf>,
    /// The cluster's coordinator. Without it: `-o coordinator=`, SOURCE, DFS_COORDINATOR, the profile of `dfs connect`
    #[arg(long, value_name = "HOST:PORT")]
    coordinator: Option<String>,
    /// Mount options, with commas between them; see below
    #[arg(short = 'o', value_name = "OPTIONS", allow_hyphen_values = true)]
    options: Vec<String>,
    /// Stay in the foreground, with logs on standard error
    #[arg(long)]
    foreground: bool,
    /// How long to wait for the coordinator before giving up
    #[arg(long, value_name = "SECONDS", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    wait: u64,
    /// How long the end of the mount may take to save what is unsaved
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(0..=86_400))]
    drain: u64,
    /// Memory for cached file content: bytes, or with K, M or G [default: 256M]
    #[arg(long, value_name = "SIZE", value_parser = parse_cache)]
    cache_size: Option<u64>,
    /// Log file, appended to [default: see below]
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Check everything, mount nothing, as mount(8) has it
    #[arg(short = 'f', long = "fake")]
    fake: bool,
    /// Pass over unknown mount options, as mount(8) has it
    #[arg(short = 's', hide = true)]
    sloppy: bool,
    #[arg(short = 'n', hide = true)]
    no_mtab: bool,
    #[arg(short = 'v', hide = true)]
    verbose: bool,
    #[arg(short = 'w', hide = true)]
    writable: bool,
    #[arg(short = 'r', hide = true)]
    read_only: bool,
    #[arg(short = 't', value_name = "TYPE", hide = true)]
    kind: Option<String>,
}

const AFTER_HELP: &str = "\
The command returns when the mount is usable; a daemon serves it until `umount MOUNTPOINT` or SIGTERM.

Mount options:
  coordinator=HOST:PORT  as --coordinator
  cache=SIZE             as --cache-size
  wait=SECONDS           as --wait
  drain=SECONDS          as --drain
  log=FILE               as --log
  local_sockets=on|off   Unix sockets to servers on this machine (default), or TCP always
  transport=framed|grpc  what carries calls and content: frames (default), or gRPC, the reference
  fsname=NAME            name of the file system in df and mount [default: SOURCE or HOST:PORT]
  ro, rw                 read-only; read and write (default)
  exec, noexec           may programs be run from it; they may by default
  suid, nosuid           do set-id bits count; they do not by default
  dev, nodev             do device files work; they do not by default
  sync, dirsync          write through at once
  atime, noatime, relatime, strictatime, diratime, nodiratime
                         accepted; reading never changes the access time
  allow_other            every user may enter, as file modes permit: the default for root; others need
                         user_allow_other in /etc/fuse.conf
  noallow_other          only the user who mounts
  default_permissions    always on
  user, users, owner, group, auto, noauto, nofail, defaults, _netdev, x-*, comment=
                         for mount(8); accepted
An unknown option is an error.

In /etc/fstab, with this program and `dfs` in /usr/local/bin, or a link /sbin/mount.fuse.dfs to this program:
  HOST:PORT  /mnt/dfs  fuse.dfs  _netdev,nofail  0  0

Logs go to standard error in the foreground. A daemon of root logs to /var/log/dfs-mount.log, of another user to
$XDG_STATE_HOME/dfs/mount.log or ~/.local/state/dfs/mount.log, and nowhere if that cannot be written. DFS_LOG sets the
level (info by default, dfs_client=debug, ...).

SIGTERM or SIGINT saves everything, unmounts and ends; a mount that is in use disappears at once from its directory, and
programs that still have files open there get errors. A second signal ends at once: unsaved writes are lost. `umount -f`
ends calls that wait for servers which are away.

Exit codes: 0 mounted (in the foreground: ended in good order), 1 failed, 2 wrong usage.";

/// What to mount, where, and how.
#[derive(Debug)]
pub struct Settings {
    /// `host:port`.
    pub coordinator: String,
    /// As given.
    pub mountpoint: PathBuf,
    /// For the kernel.
    pub options: MountOptions,
    /// Name of the file system in mount tables.
    pub fsname: String,
    /// Do not fork.
    pub foreground: bool,
    /// Patience with the coordinator at the start.
    pub wait: Duration,
    /// Patience with saving at the end.
    pub drain: Duration,
    /// Block cache in bytes.
    pub cache_bytes: u64,
    /// Log file.
    pub log: Option<PathBuf>,
    /// Check only.
    pub fake: bool,
}

impl Args {
    /// The settings that this command line means.
    ///
    /// # Errors
    /// `Invalid` for an unknown or malformed option or address; `NotFound` if no coordinator is known.
    pub fn settings(mut self) -> FsResult<Settings> {
        let mut options = MountOptions::default();
        for list in &self.options {
            options.add(list, self.sloppy)?;
        }
        if self.read_only {
            options.add("ro", false)?;
        }
        let mountpoint = self.places.pop().expect("clap requires one or two");
        let source = self
            .places
            .pop()
            .map(|source| source.to_string_lossy().into_owned());
        let named = source
            .as_deref()
            .filter(|source| profile::check_address(source).is_ok());
        let given = self
            .coordinator
            .as_deref()
            .or(options.coordinator.as_deref())
            .or(named);
        let coordinator = profile::coordinator(given)?;
        let fsname = options
            .fsname
            .clone()
            .or(source)
            .unwrap_or_else(|| coordinator.clone());
        check_name(&fsname)?;
        Ok(Settings {
            mountpoint,
            fsname,
            foreground: self.foreground,
            wait: Duration::from_secs(options.wait_secs.unwrap_or(self.wait)),
            drain: Duration::from_secs(options.drain_secs.unwrap_or(self.drain)),
            cache_bytes: self
                .cache_size
                .or(options.cache_bytes)
                .unwrap_or(CACHE_BYTES_DEFAULT),
            log: self.log.or_else(|| options.log.clone()),
            fake: self.fake,
            coordinator,
            options,
        })
    }
}

/// It stands in the mount table and in the options of the mount helper.
fn check_name(name: &str) -> FsResult<()> {
    if name.is_empty() || name.len() > 255 || name.contains([',', '\\', '\0', '\n']) {
        return Err(FsError::new(
            ErrorKind::Invalid,
            format!(
                "{name:?} cannot be the name of the file system: 1 to 255 bytes without commas are needed"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(args: &[&str]) -> FsResult<Settings> {
        Args::try_parse_from([&["dfs-mount"], args].concat())
            .unwrap_or_else(|error| panic!("{error}"))
            .settings()
    }

    #[test]
    fn command_line_is_well_formed() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn coordinator_comes_from_the_strongest_place() {
        let all = ["--coordinator", "a:1", "-o", "coordinator=b:2", "c:3", "/mnt"];
        assert_eq!(settings(&all).unwrap().coordinator, "a:1");
        assert_eq!(settings(&all[2..]).unwrap().coordinator, "b:2");
        let by_source = settings(&all[4..]).unwrap();
        assert_eq!(by_source.coordinator, "c:3");
        assert_eq!(by_source.fsname, "c:3");
        assert_eq!(by_source.mountpoint, PathBuf::from("/mnt"));
    }

    #[test]
    fn word_as_source_is_a_name_only() {
        let settings = settings(&["--coordinator", "a:1", "dfs", "/mnt"]).unwrap();
        assert_eq!(
            (settings.coordinator.as_str(), settings.fsname.as_str()),
            ("a:1", "dfs")
        );
    }

    #[test]
    fn mount_command_of_util_linux_is_understood() {
        let line = [
            "h:1",
            "/mnt",
            "-o",
            "rw,noexec,user,_netdev,x-systemd.automount",
            "-t",
            "fuse.dfs",
        ];
        settings(&line).unwrap();
        assert!(settings(&["h:1", "/mnt", "-sfnv", "-o", "bogus"]).unwrap().fake);
    }

    #[test]
    fn malformed_settings_are_refused() {
        for args in [
            &["--coordinator", "nowhere", "/mnt"][..],
            &["h:1", "/mnt", "-o", "bogus"],
            &["h:1", "/mnt", "-o", "fsname="],
            &["h:1", "/mnt", "-o", "cache=much"],
            &["h:1", "/mnt", "-o", "wait=-1"],
            &["h:1", "/mnt", "-o", "local_sockets=perhaps"],
            &["h:1", "/mnt", "-o", "transport=pigeon"],
        ] {
            assert_eq!(settings(args).unwrap_err().kind(), ErrorKind::Invalid, "{args:?}");
        }
    }
}
