//! Mount options (`-o`): which exist, and what each means to the kernel, to the mount helper and to this program.
//!
//! Invariant: an option is either obeyed, or known to be without effect here, or an error; never silently dropped.

use dfs_client::{LocalSockets, Transport};
use dfs_common::{ErrorKind, FsError, FsResult};
use nix::mount::MsFlags;
use std::path::PathBuf;

/// The smallest cache that still lets a stream be read ahead.
const CACHE_BYTES_MIN: u64 = 1 << 20;
const CACHE_BYTES_MAX: u64 = 1 << 40;

/// Options after parsing.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// Flags of mount(2).
    pub flags: MsFlags,
    /// Whether others than the mounting user may enter; by default they may if that is root.
    pub allow_other: Option<bool>,
    /// `fsname=`.
    pub fsname: Option<String>,
    /// `coordinator=`.
    pub coordinator: Option<String>,
    /// `cache=` in bytes.
    pub cache_bytes: Option<u64>,
    /// `wait=` in seconds.
    pub wait_secs: Option<u64>,
    /// `drain=` in seconds.
    pub drain_secs: Option<u64>,
    /// `log=`.
    pub log: Option<PathBuf>,
    /// `local_sockets=`.
    pub local_sockets: LocalSockets,
    /// `transport=`.
    pub transport: Transport,
}

impl Default for MountOptions {
    fn default() -> Self {
        MountOptions {
            flags: MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
            allow_other: None,
            fsname: None,
            coordinator: None,
            cache_bytes: None,
            wait_secs: None,
            drain_secs: None,
            log: None,
            local_sockets: LocalSockets::default(),
            transport: Transport::default(),
        }
    }
}

/// Names of the flags for the mount helper: (flag, name when set, name when not).
const FLAG_NAMES: [(MsFlags, &str, Option<&str>); 7] = [
    (MsFlags::MS_RDONLY, "ro", Some("rw")),
    (MsFlags::MS_NOSUID, "nosuid", Some("suid")),
    (MsFlags::MS_NODEV, "nodev", Some("dev")),
    (MsFlags::MS_NOEXEC, "noexec", None),
    (MsFlags::MS_NOATIME, "noatime", None),
    (MsFlags::MS_SYNCHRONOUS, "sync", None),
    (MsFlags::MS_DIRSYNC, "dirsync", None),
];

impl MountOptions {
    /// Adds a list with commas between options; later ones win. `sloppy` passes over unknown ones.
    ///
    /// # Errors
    /// `Invalid` for an unknown option or a malformed value.
    pub fn add(&mut self, list: &str, sloppy: bool) -> FsResult<()> {
        for option in list.split(',').filter(|option| !option.is_empty()) {
            let known = match option.split_once('=') {
                Some((key, value)) => self.add_value(key, value)?,
                None => self.add_word(option),
            };
            if !known && !sloppy {
                return Err(invalid(format!(
                    "unknown mount option {option:?}: `dfs-mount --help` lists those there are"
                )));
            }
        }
        Ok(())
    }

    fn add_value(&mut self, key: &str, value: &str) -> FsResult<bool> {
        let seconds = || {
            value
                .parse()
                .map_err(|_| invalid(format!("{key}={value}: a number of seconds is needed")))
        };
        match key {
            "coordinator" => self.coordinator = Some(value.to_owned()),
            "fsname" => self.fsname = Some(value.to_owned()),
            "cache" => {
                let bytes = parse_cache(value).map_err(|why| invalid(format!("{key}={value}: {why}")))?;
                self.cache_bytes = Some(bytes);
            }
            "wait" => self.wait_secs = Some(seconds()?),
            "drain" => self.drain_secs = Some(seconds()?),
            "log" => self.log = Some(value.into()),
            "local_sockets" => self.local_sockets = value.parse()?,
            "transport" => self.transport = value.parse()?,
            // The type is fuse.dfs whatever a helper says.
            "subtype" | "comment" | "uhelper" | "helper" => {}
            _ if key.starts_with("x-") => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn add_word(&mut self, word: &str) -> bool {
        let restricted = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let (flags, on) = match word {
            "ro" => (MsFlags::MS_RDONLY, true),
            "rw" => (MsFlags::MS_RDONLY, false),
            "noexec" => (MsFlags::MS_NOEXEC, true),
            "exec" => (MsFlags::MS_NOEXEC, false),
            "nosuid" => (MsFlags::MS_NOSUID, true),
            "suid" => (MsFlags::MS_NOSUID, false),
            "nodev" => (MsFlags::MS_NODEV, true),
            "dev" => (MsFlags::MS_NODEV, false),
            "noatime" => (MsFlags::MS_NOATIME, true),
            "atime" | "relatime" | "strictatime" => (MsFlags::MS_NOATIME, false),
            "sync" => (MsFlags::MS_SYNCHRONOUS, true),
            "async" => (MsFlags::MS_SYNCHRONOUS, false),
            "dirsync" => (MsFlags::MS_DIRSYNC, true),
            // As mount(8) has it: what any user may mount can do no harm.
            "user" | "users" => (restricted | MsFlags::MS_NOEXEC, true),
            "owner" | "group" => (restricted, true),
            "allow_other" => {
                self.allow_other = Some(true);
                return true;
            }
            "noallow_other" => {
                self.allow_other = Some(false);
                return true;
            }
            "defaults"
            | "default_permissions"
            | "auto"
            | "noauto"
            | "nouser"
            | "nofail"
            | "_netdev"
            | "diratime"
            | "nodiratime"
            | "norelatime"
            | "nostrictatime"
            | "silent"
            | "loud"
            | "nonempty" => {
                return true;
            }
            _ => return word.starts_with("x-"),
        };
        self.flags.set(flags, on);
        true
    }

    /// Whether others than the mounting user may enter.
    pub fn others_may_enter(&self, root: bool) -> bool {
        self.allow_other.unwrap_or(root)
    }

    /// The flags in words, for the mount helper.
    pub fn flag_words(&self) -> Vec<&'static str> {
        FLAG_NAMES
            .iter()
            .filter_map(|(flag, set, unset)| match self.flags.contains(*flag) {
                true => Some(*set),
                false => *unset,
            })
            .collect()
    }
}

fn invalid(message: String) -> FsError {
    FsError::new(ErrorKind::Invalid, message)
}

/// A size of the cache: a number of bytes, or with K, M or G.
///
/// # Errors
/// A sentence if it is none, or out of bounds.
pub fn parse_cache(text: &str) -> Result<u64, String> {
    let (digits, shift) = match text.as_bytes().last() {
        Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
        Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
        Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    let bytes = digits
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift));
    match bytes {
        Some(bytes) if (CACHE_BYTES_MIN..=CACHE_BYTES_MAX).contains(&bytes) => Ok(bytes),
        Some(_) => Err("the cache has 1M to 1024G".to_owned()),
        None => Err(format!(
            "{text:?} is no size: a number is needed, or one with K, M or G"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(list: &str) -> MountOptions {
        let mut options = MountOptions::default();
        options.add(list, false).unwrap();
        options
    }

    #[test]
    fn set_id_bits_and_devices_count_only_when_asked_for() {
        assert_eq!(MountOptions::default().flag_words(), ["rw", "nosuid", "nodev"]);
        assert_eq!(
            options("ro,suid,dev,noexec").flag_words(),
            ["ro", "suid", "dev", "noexec"]
        );
    }

    #[test]
    fn later_option_wins() {
        assert_eq!(options("ro,rw").flag_words()[0], "rw");
        assert_eq!(options("user,exec").flag_words(), ["rw", "nosuid", "nodev"]);
        assert!(!options("allow_other,noallow_other").others_may_enter(true));
    }

    #[test]
    fn options_of_fstab_are_accepted() {
        let fstab = "defaults,auto,nofail,_netdev,x-systemd.automount,x-mount.mkdir=755,comment=x,noatime,,";
        assert_eq!(options(fstab).flag_words(), ["rw", "nosuid", "nodev", "noatime"]);
    }

    #[test]
    fn values_are_read() {
        let options = options(
            "coordinator=h:1,cache=8M,wait=3,drain=4,log=/l,fsname=n,local_sockets=off,transport=grpc",
        );
        assert_eq!(options.coordinator.as_deref(), Some("h:1"));
        assert_eq!(options.cache_bytes, Some(8 << 20));
        assert_eq!((options.wait_secs, options.drain_secs), (Some(3), Some(4)));
        assert_eq!(options.log, Some("/l".into()));
        assert_eq!(options.local_sockets, LocalSockets::Off);
        assert_eq!(options.transport, Transport::Grpc);
        assert_eq!(options.fsname.as_deref(), Some("n"));
    }

    #[test]
    fn unknown_option_is_an_error_unless_sloppy() {
        for unknown in ["bogus", "bogus=1", "allow_root"] {
            let error = MountOptions::default().add(unknown, false).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Invalid);
            assert!(error.message().contains(unknown), "{error}");
            MountOptions::default().add(unknown, true).unwrap();
        }
    }

    #[test]
    fn root_lets_everybody_in() {
        assert!(MountOptions::default().others_may_enter(true));
        assert!(!MountOptions::default().others_may_enter(false));
        assert!(options("allow_other").others_may_enter(false));
    }

    #[test]
    fn sizes_have_units_and_bounds() {
        assert_eq!(parse_cache("64M"), Ok(64 << 20));
        assert_eq!(parse_cache("2g"), Ok(2 << 30));
        assert_eq!(parse_cache("1048576"), Ok(1 << 20));
        for wrong in ["", "M", "1", "1.5G", "99999999999G", "-1M", "2048G"] {
            assert!(parse_cache(wrong).is_err(), "{wrong}");
        }
    }
}
