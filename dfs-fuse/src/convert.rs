//! The kernel's vocabulary and DFS's: attributes, times, kinds, open flags, handles.
//!
//! Everything here is total: no value that the kernel or a server sends makes it panic.

use dfs_client::{FileHandle, OpenFlags};
use dfs_common::attr::{Attr, FileKind, SetTime, Timestamp};
use dfs_common::cluster::StatFs;
use dfs_common::op::{RenameMode, XattrMode};
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name};
use fuser::{Errno, FileAttr, FileType, FopenFlags, INodeNo, RenameFlags, TimeOrNow};
use nix::libc;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Unit in which `stat` and `df` count, in bytes.
pub const BLOCK_BYTES: u32 = 4096;
/// Unit of `st_blocks`, in bytes.
const SECTOR_BYTES: u64 = 512;
/// The kernel opens a program to run it: open(2) knows no such flag, the kernel passes its own.
const OPEN_TO_EXECUTE: i32 = 0x20;

/// An error as the kernel takes it.
pub fn errno(error: &FsError) -> Errno {
    Errno::from_i32(error.errno())
}

/// An inode number.
pub fn ino(number: INodeNo) -> Ino {
    Ino(number.0)
}

/// A name of a request.
///
/// # Errors
/// `NameTooLong`, `Invalid`.
pub fn name(name: &OsStr) -> FsResult<Name> {
    Name::new(name.as_bytes().to_vec())
}

/// Kind of an inode.
pub fn kind(kind: FileKind) -> FileType {
    match kind {
        FileKind::File => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}

/// Attributes.
pub fn attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.allocated_bytes.div_ceil(SECTOR_BYTES),
        atime: time(attr.atime),
        mtime: time(attr.mtime),
        ctime: time(attr.ctime),
        crtime: time(attr.btime),
        kind: kind(attr.kind),
        perm: (attr.mode & 0o7777) as u16,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// For answers of which the kernel looks at number and kind only.
pub fn no_attributes(ino: Ino, of: FileKind) -> FileAttr {
    FileAttr {
        ino: INodeNo(ino.0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: kind(of),
        perm: 0,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: BLOCK_BYTES,
        flags: 0,
    }
}

/// A point in time; one that the system cannot express is the epoch.
fn time(time: Timestamp) -> SystemTime {
    let whole = Duration::from_secs(time.secs.unsigned_abs());
    let second = match time.secs < 0 {
        true => UNIX_EPOCH.checked_sub(whole),
        false => UNIX_EPOCH.checked_add(whole),
    };
    second
        .and_then(|second| second.checked_add(Duration::from_nanos(time.nanos.into())))
        .unwrap_or(UNIX_EPOCH)
}

/// A time stamp that a program sets.
///
/// fuser subtracts the nanoseconds of a time before 1970 instead of adding them; its distance from the epoch still has
/// both parts as the kernel sent them.
pub fn set_time(time: TimeOrNow) -> SetTime {
    let stamp = |secs: i64, nanos| SetTime::At(Timestamp { secs, nanos });
    match time {
        TimeOrNow::Now => SetTime::Now,
        TimeOrNow::SpecificTime(time) => match time.duration_since(UNIX_EPOCH) {
            Ok(after) => stamp(
                i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
                after.subsec_nanos(),
            ),
            Err(before) => {
                let before = before.duration();
                stamp(
                    0i64.saturating_sub_unsigned(before.as_secs()),
                    before.subsec_nanos(),
                )
            }
        },
    }
}

/// How a program opens a file. Access mode 3, which is for reading and writing devices, is both.
pub fn open_flags(flags: i32) -> OpenFlags {
    let access = flags & libc::O_ACCMODE;
    OpenFlags {
        read: access != libc::O_WRONLY,
        write: access != libc::O_RDONLY,
        append: flags & libc::O_APPEND != 0 && access != libc::O_RDONLY,
        truncate: flags & libc::O_TRUNC != 0,
    }
}

/// True if the kernel opens a program to run it, which needs no read permission.
pub fn is_execution(flags: i32) -> bool {
    flags & OPEN_TO_EXECUTE != 0
}

/// What the kernel is told of an open file.
pub fn kernel_flags(keep_cache: bool, direct: bool) -> FopenFlags {
    let mut kernel = FopenFlags::empty();
    kernel.set(FopenFlags::FOPEN_DIRECT_IO, direct);
    kernel.set(FopenFlags::FOPEN_KEEP_CACHE, keep_cache);
    kernel
}

/// An open file in the kernel's hands: the client's handle, and whether it was opened to append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpenFile {
    /// The client's handle.
    pub handle: FileHandle,
    /// Every write through the handle goes to the end of the file.
    pub appends: bool,
}

impl From<OpenFile> for fuser::FileHandle {
    fn from(file: OpenFile) -> Self {
        fuser::FileHandle(file.handle.0 << 1 | u64::from(file.appends))
    }
}

impl From<fuser::FileHandle> for OpenFile {
    fn from(number: fuser::FileHandle) -> Self {
        OpenFile {
            handle: FileHandle(number.0 >> 1),
            appends: number.0 & 1 == 1,
        }
    }
}

/// What rename does with an existing target.
///
/// # Errors
/// `Invalid` for flags that do not exist here (`RENAME_WHITEOUT`).
pub fn rename_mode(flags: RenameFlags) -> FsResult<RenameMode> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        Err(FsError::new(
            ErrorKind::Invalid,
            "rename knows NOREPLACE and EXCHANGE only",
        ))
    }
}

/// How setxattr treats an existing attribute.
///
/// # Errors
/// `Invalid` for unknown flags.
pub fn xattr_mode(flags: i32) -> FsResult<XattrMode> {
    match flags {
        0 => Ok(XattrMode::Set),
        libc::XATTR_CREATE => Ok(XattrMode::Create),
        libc::XATTR_REPLACE => Ok(XattrMode::Replace),
        _ => Err(FsError::new(
            ErrorKind::Invalid,
            "setxattr knows CREATE and REPLACE only",
        )),
    }
}

/// Totals in blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Totals {
    /// All blocks.
    pub blocks: u64,
    /// Those that can still be written.
    pub free: u64,
    /// Inodes in use and possible.
    pub files: u64,
    /// Inodes that may still be made: nothing bounds them but space, so that each free block is taken for one.
    pub files_free: u64,
}

impl From<StatFs> for Totals {
    fn from(totals: StatFs) -> Self {
        let free = totals.available_bytes / u64::from(BLOCK_BYTES);
        Totals {
            blocks: totals.capacity_bytes / u64::from(BLOCK_BYTES),
            free,
            files: totals.inodes.saturating_add(free),
            files_free: free,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As fuser makes it of what the kernel sends.
    fn from_kernel(secs: i64, nanos: u32) -> TimeOrNow {
        TimeOrNow::SpecificTime(match secs >= 0 {
            true => UNIX_EPOCH + Duration::new(secs as u64, nanos),
            false => UNIX_EPOCH - Duration::new(secs.unsigned_abs(), nanos),
        })
    }

    #[test]
    fn times_before_and_after_the_epoch_are_kept_to_the_nanosecond() {
        for (secs, nanos) in [
            (0, 0),
            (0, 1),
            (5, 999_999_999),
            (-1, 0),
            (-1, 1),
            (-2, 800_000_000),
            (i64::MAX, 0),
        ] {
            let stamp = Timestamp { secs, nanos };
            assert_eq!(set_time(from_kernel(secs, nanos)), SetTime::At(stamp));
            let shown = time(stamp);
            let back = match shown.duration_since(UNIX_EPOCH) {
                Ok(after) => i128::try_from(after.as_nanos()).unwrap(),
                Err(before) => -i128::try_from(before.duration().as_nanos()).unwrap(),
            };
            assert_eq!(back, i128::from(secs) * 1_000_000_000 + i128::from(nanos));
        }
    }

    #[test]
    fn impossible_times_do_not_panic() {
        let nanos = u32::MAX;
        time(Timestamp {
            secs: i64::MAX,
            nanos,
        });
        time(Timestamp {
            secs: i64::MIN,
            nanos,
        });
        set_time(from_kernel(i64::MIN, 0));
    }

    #[test]
    fn open_flags_follow_the_access_mode() {
        let read = OpenFlags {
            read: true,
            ..OpenFlags::default()
        };
        let write = OpenFlags {
            write: true,
            ..OpenFlags::default()
        };
        assert_eq!(open_flags(libc::O_RDONLY), read);
        assert_eq!(open_flags(libc::O_RDONLY | libc::O_APPEND), read);
        assert_eq!(open_flags(libc::O_WRONLY), write);
        assert_eq!(
            open_flags(libc::O_WRONLY | libc::O_APPEND),
            OpenFlags {
                append: true,
                ..write
            }
        );
        let all = OpenFlags {
            read: true,
            write: true,
            truncate: true,
            append: false,
        };
        assert_eq!(open_flags(libc::O_RDWR | libc::O_TRUNC), all);
    }

    #[test]
    fn handles_survive_the_kernel() {
        for appends in [false, true] {
            let file = OpenFile {
                handle: FileHandle(12345),
                appends,
            };
            assert_eq!(OpenFile::from(fuser::FileHandle::from(file)), file);
        }
    }

    #[test]
    fn totals_count_blocks() {
        let totals = Totals::from(StatFs {
            capacity_bytes: 100 * 4096 + 1,
            available_bytes: 40 * 4096,
            used_bytes: 0,
            inodes: 7,
        });
        assert_eq!(
            (totals.blocks, totals.free, totals.files, totals.files_free),
            (100, 40, 47, 40)
        );
    }
}
