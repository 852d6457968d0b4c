//! Inode attributes as every layer sees them.

use crate::ids::Ino;
use serde::{Deserialize, Serialize};

/// Kind of an inode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FileKind {
    /// Regular file.
    File,
    /// Directory.
    Directory,
    /// Symbolic link.
    Symlink,
    /// Named pipe.
    Fifo,
    /// Unix socket.
    Socket,
    /// Character device.
    CharDevice,
    /// Block device.
    BlockDevice,
}

impl FileKind {
    /// Wire and disk code, 1 to 7; never reused.
    pub fn code(self) -> u32 {
        match self {
            FileKind::File => 1,
            FileKind::Directory => 2,
            FileKind::Symlink => 3,
            FileKind::Fifo => 4,
            FileKind::Socket => 5,
            FileKind::CharDevice => 6,
            FileKind::BlockDevice => 7,
        }
    }
    /// The inverse of [`FileKind::code`].
    pub fn from_code(code: u32) -> Option<Self> {
        Some(match code {
            1 => FileKind::File,
            2 => FileKind::Directory,
            3 => FileKind::Symlink,
            4 => FileKind::Fifo,
            5 => FileKind::Socket,
            6 => FileKind::CharDevice,
            7 => FileKind::BlockDevice,
            _ => return None,
        })
    }
    /// The `S_IFMT` bits.
    pub fn type_bits(self) -> u32 {
        match self {
            FileKind::File => nix::libc::S_IFREG,
            FileKind::Directory => nix::libc::S_IFDIR,
            FileKind::Symlink => nix::libc::S_IFLNK,
            FileKind::Fifo => nix::libc::S_IFIFO,
            FileKind::Socket => nix::libc::S_IFSOCK,
            FileKind::CharDevice => nix::libc::S_IFCHR,
            FileKind::BlockDevice => nix::libc::S_IFBLK,
        }
    }
    /// The kind of `st_mode`'s type bits; 0 means a regular file, as mknod(2) has it.
    pub fn from_mode(mode: u32) -> Option<Self> {
        Some(match mode & nix::libc::S_IFMT {
            0 | nix::libc::S_IFREG => FileKind::File,
            nix::libc::S_IFDIR => FileKind::Directory,
            nix::libc::S_IFLNK => FileKind::Symlink,
            nix::libc::S_IFIFO => FileKind::Fifo,
            nix::libc::S_IFSOCK => FileKind::Socket,
            nix::libc::S_IFCHR => FileKind::CharDevice,
            nix::libc::S_IFBLK => FileKind::BlockDevice,
            _ => return None,
        })
    }
}

/// Point in time: seconds since 1970 (negative before) and nanoseconds 0 to 999,999,999.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp {
    /// Seconds since the epoch.
    pub secs: i64,
    /// Nanoseconds, 0 to 999,999,999.
    pub nanos: u32,
}

impl Timestamp {
    /// Year (0 to 9999: the nearest of these), month, day, hour, minute, second in UTC. After Howard Hinnant's `civil_from_days`.
    pub fn civil(self) -> (i64, i64, i64, i64, i64, i64) {
        let secs = self.secs.clamp(-62_167_219_200, 253_402_300_799);
        let (days, second) = (secs.div_euclid(86_400), secs.rem_euclid(86_400));
        let z = days + 719_468;
        let era = z.div_euclid(146_097);
        let day_of_era = z.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        (year, month, day, second / 3_600, second / 60 % 60, second % 60)
    }

    /// `2026-01-31 23:59:58 UTC`.
    pub fn utc(self) -> String {
        let (year, month, day, hour, minute, second) = self.civil();
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} UTC")
    }
}

/// Attributes of an inode.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attr {
    /// Inode number.
    pub ino: Ino,
    /// Generation of the inode number (constant, since numbers are not reused).
    pub generation: u64,
    /// Kind.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits (07777).
    pub mode: u32,
    /// Hard links; a directory has 2 plus its subdirectories.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of device nodes, as Linux encodes it.
    pub rdev: u32,
    /// Size in bytes; of a symlink its target's length; of a directory its entry count.
    pub size: u64,
    /// Bytes covered by data extents (holes excluded).
    pub allocated_bytes: u64,
    /// Last access.
    pub atime: Timestamp,
    /// Last content change.
    pub mtime: Timestamp,
    /// Last attribute change.
    pub ctime: Timestamp,
    /// Creation.
    pub btime: Timestamp,
    /// Version of content and extent map: changes whenever the bytes that a reader would see may have changed.
    pub map_version: u64,
}

/// New value of a time stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetTime {
    /// The coordinator's clock when the operation is applied.
    Now,
    /// This moment.
    At(Timestamp),
}

/// Attributes to change; `None` leaves one as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits (07777).
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size: truncates or extends with a hole.
    pub size: Option<u64>,
    /// Last access.
    pub atime: Option<SetTime>,
    /// Last content change.
    pub mtime: Option<SetTime>,
}
