//! A directory of this machine as a target: plain system calls, made by one thread that takes on the caller's identity.
//!
//! The thread has its own working directory and file creation mask (`unshare(CLONE_FS)`), so paths are relative to the
//! target's root and modes arrive as given. Identities change per thread, by raw system calls: the C library's functions
//! of the same names change the whole process.

use crate::call::{Call, FsPath, OpenHow, Outcome, Slot, Stat, Target, Time, pattern_bytes};
use dfs_common::attr::{FileKind, SetTime, Timestamp};
use dfs_common::op::{RenameMode, XattrMode};
use dfs_common::session::Caller;
use nix::errno::Errno;
use nix::libc;
use std::collections::BTreeMap;
use std::ffi::{CString, OsStr};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

type Answer = Result<Outcome, Errno>;
type Request = (Caller, Call, mpsc::SyncSender<Outcome>);

/// A directory as the root of a target. Callers other than root need this process to be root.
pub struct LocalTarget {
    name: String,
    requests: Option<mpsc::SyncSender<Request>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl LocalTarget {
    /// Calls below `root`, which is an existing directory. A root of random sequences is empty and has mode 0777.
    ///
    /// # Errors
    /// Those of entering the directory.
    pub fn new(root: impl Into<PathBuf>) -> std::io::Result<Self> {
        let root = root.into();
        let name = format!("directory {}", root.display());
        let (requests, receiver) = mpsc::sync_channel::<Request>(1);
        let (started, start) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("local-target".into())
            .spawn(move || {
                let entered = enter(&root);
                let failed = entered.is_err();
                started.send(entered).ok();
                let mut local = Local {
                    slots: BTreeMap::new(),
                };
                while !failed && let Ok((who, call, reply)) = receiver.recv() {
                    let outcome = as_caller(&who, || local.answer(&call));
                    reply
                        .send(outcome.unwrap_or_else(|errno| Outcome::Failed(errno as i32)))
                        .ok();
                }
            })?;
        start.recv().map_err(std::io::Error::other)??;
        Ok(LocalTarget {
            name,
            requests: Some(requests),
            thread: Some(thread),
        })
    }

    /// Whether callers other than root can be taken on.
    pub fn can_change_callers() -> bool {
        nix::unistd::geteuid().is_root()
    }
}

impl Drop for LocalTarget {
    fn drop(&mut self) {
        self.requests.take();
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

impl Target for LocalTarget {
    fn name(&self) -> String {
        self.name.clone()
    }
    fn call(&mut self, who: &Caller, call: &Call) -> Outcome {
        let (reply, answer) = mpsc::sync_channel(1);
        let requests = self.requests.as_ref().expect("taken only by drop");
        requests
            .send((who.clone(), call.clone(), reply))
            .expect("the thread ends only by drop");
        answer.recv().expect("the thread answers each call")
    }
}

/// Gives the calling thread its own working directory, `root`, and no file creation mask.
fn enter(root: &Path) -> std::io::Result<()> {
    // SAFETY: affects only which file-system context this thread uses.
    Errno::result(unsafe { libc::unshare(libc::CLONE_FS) })?;
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    std::env::set_current_dir(root)?;
    ROOT.set(std::env::current_dir()?.into_os_string().into_vec());
    Ok(())
}

const KEEP: libc::c_long = -1;

fn raw(number: libc::c_long, a: libc::c_long, b: libc::c_long, c: libc::c_long) {
    // SAFETY: only called for setgroups with a pointer and length of a live slice, setresuid and setresgid, which take
    // numbers. They change the credentials of this thread alone.
    let result = unsafe { libc::syscall(number, a, b, c) };
    Errno::result(result).expect("calls on behalf of other users need root");
}

/// Runs `call` with the caller's user, group and supplementary groups as the thread's effective ones.
fn as_caller(who: &Caller, call: impl FnOnce() -> Answer) -> Answer {
    if *who == Caller::root() && !LocalTarget::can_change_callers() {
        return call();
    }
    let set_groups = |groups: &[u32]| {
        raw(
            libc::SYS_setgroups,
            groups.len() as libc::c_long,
            groups.as_ptr() as libc::c_long,
            0,
        );
    };
    set_groups(&who.groups);
    raw(libc::SYS_setresgid, KEEP, libc::c_long::from(who.gid), KEEP);
    raw(libc::SYS_setresuid, KEEP, libc::c_long::from(who.uid), KEEP);
    let outcome = call();
    // The saved user is still root, which allows the way back.
    raw(libc::SYS_setresuid, KEEP, 0, KEEP);
    raw(libc::SYS_setresgid, KEEP, 0, KEEP);
    set_groups(&[]);
    outcome
}

thread_local! {
    /// The target's root: the path of the root itself, which must not depend on the permission to search it.
    static ROOT: std::cell::RefCell<Vec<u8>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn path_bytes(path: &FsPath) -> Vec<u8> {
    if path.0.is_empty() {
        ROOT.with_borrow(Vec::clone)
    } else {
        path.relative()
    }
}

fn c_path(path: &FsPath) -> CString {
    CString::new(path_bytes(path)).expect("names have no NUL")
}

fn c_bytes(bytes: &[u8]) -> CString {
    CString::new(bytes).expect("attribute names and link targets have no NUL")
}

fn os_path(path: &FsPath) -> PathBuf {
    PathBuf::from(std::ffi::OsString::from_vec(path_bytes(path)))
}

fn done(result: libc::c_int) -> Answer {
    Errno::result(result).map(|_| Outcome::Done)
}

fn std_error(error: std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

fn timespec(time: Option<SetTime>) -> libc::timespec {
    let (tv_sec, tv_nsec) = match time {
        None => (0, libc::UTIME_OMIT),
        Some(SetTime::Now) => (0, libc::UTIME_NOW),
        Some(SetTime::At(at)) => (at.secs, libc::c_long::from(at.nanos)),
    };
    libc::timespec { tv_sec, tv_nsec }
}

fn stat_of(raw: &libc::stat) -> Stat {
    let kind = FileKind::from_mode(raw.st_mode).expect("the kernel knows only these kinds");
    let time = |secs, nanos: i64| {
        Time::At(Timestamp {
            secs,
            nanos: nanos as u32,
        })
    };
    Stat {
        ino: raw.st_ino,
        kind,
        mode: raw.st_mode & 0o7777,
        nlink: raw.st_nlink as u32,
        uid: raw.st_uid,
        gid: raw.st_gid,
        rdev: raw.st_rdev as u32,
        size: if kind == FileKind::Directory {
            0
        } else {
            raw.st_size as u64
        },
        atime: time(raw.st_atime, raw.st_atime_nsec),
        mtime: time(raw.st_mtime, raw.st_mtime_nsec),
        ctime: time(raw.st_ctime, raw.st_ctime_nsec),
    }
}

struct Local {
    slots: BTreeMap<Slot, OwnedFd>,
}

impl Local {
    fn fd(&self, slot: Slot) -> Result<RawFd, Errno> {
        self.slots.get(&slot).map(AsRawFd::as_raw_fd).ok_or(Errno::EBADF)
    }

    fn answer(&mut self, call: &Call) -> Answer {
        match call {
            Call::Open {
                slot,
                path,
                how,
                mode,
            } => self.open(*slot, path, *how, *mode),
            Call::Close { slot } => self.slots.remove(slot).map(|_| Outcome::Done).ok_or(Errno::EBADF),
            Call::Read { slot, offset, length } => read(self.fd(*slot)?, *offset, *length as usize),
            Call::Write {
                slot,
                offset,
                length,
                pattern,
            } => write(
                self.fd(*slot)?,
                *offset,
                &pattern_bytes(*pattern, *offset, *length),
            ),
            // SAFETY: an open descriptor of this target and numbers.
            Call::Fsync { slot } => done(unsafe { libc::fsync(self.fd(*slot)?) }),
            Call::Ftruncate { slot, size } => {
                // SAFETY: as above.
                done(unsafe { libc::ftruncate(self.fd(*slot)?, *size as i64) })
            }
            Call::Fstat { slot } => {
                let fd = self.fd(*slot)?;
                stat(|out| {
                    // SAFETY: `out` is valid for a write of one `stat`.
                    unsafe { libc::fstat(fd, out) }
                })
            }
            Call::Stat { path } => lstat(path),
            Call::Readdir { path } => readdir(path),
            Call::Readlink { path } => match std::fs::read_link(os_path(path)) {
                Ok(target) => Ok(Outcome::Bytes(target.into_os_string().into_vec())),
                Err(error) => Err(std_error(error)),
            },
            Call::Truncate { path, size } => truncate(path, *size),
            Call::Setxattr { .. }
            | Call::Getxattr { .. }
            | Call::Listxattr { .. }
            | Call::Removexattr { .. } => xattr(call),
            Call::Quota { .. } => unreachable!("no profile for a local directory sets quotas"),
            _ => change_name_or_attribute(call),
        }
    }

    fn open(&mut self, slot: Slot, path: &FsPath, how: OpenHow, mode: u32) -> Answer {
        let mut flags = match (how.read, how.write) {
            (true, true) => libc::O_RDWR,
            (false, true) => libc::O_WRONLY,
            _ => libc::O_RDONLY,
        };
        for (wanted, flag) in [
            (how.create, libc::O_CREAT),
            (how.exclusive, libc::O_EXCL),
            (how.truncate, libc::O_TRUNC),
            (how.append, libc::O_APPEND),
        ] {
            if wanted {
                flags |= flag;
            }
        }
        flags |= libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK;
        // SAFETY: a NUL-terminated path; the descriptor is owned from here on.
        let fd = unsafe {
            Errno::result(libc::open(c_path(path).as_ptr(), flags, mode))
                .map(|fd| OwnedFd::from_raw_fd(fd))?
        };
        self.slots.insert(slot, fd);
        Ok(Outcome::Done)
    }
}

fn read(fd: RawFd, offset: u64, length: usize) -> Answer {
    let mut bytes = vec![0; length];
    let mut filled = 0;
    loop {
        let rest = &mut bytes[filled..];
        // SAFETY: the buffer is valid for `rest.len()` bytes.
        let count = unsafe {
            libc::pread(
                fd,
                rest.as_mut_ptr().cast(),
                rest.len(),
                (offset + filled as u64) as i64,
            )
        };
        filled += Errno::result(count)? as usize;
        if count == 0 || filled == length {
            bytes.truncate(filled);
            return Ok(Outcome::Bytes(bytes));
        }
    }
}

fn write(fd: RawFd, offset: u64, bytes: &[u8]) -> Answer {
    let mut written = 0;
    loop {
        let rest = &bytes[written..];
        // SAFETY: the buffer is valid for `rest.len()` bytes.
        let count = unsafe {
            libc::pwrite(
                fd,
                rest.as_ptr().cast(),
                rest.len(),
                (offset + written as u64) as i64,
            )
        };
        written += Errno::result(count)? as usize;
        if count == 0 || written == bytes.len() {
            return Ok(Outcome::Count(written));
        }
    }
}

fn stat(call: impl FnOnce(*mut libc::stat) -> libc::c_int) -> Answer {
    let mut out = std::mem::MaybeUninit::<libc::stat>::uninit();
    Errno::result(call(out.as_mut_ptr()))?;
    // SAFETY: the system call succeeded and filled it.
    Ok(Outcome::Stat(stat_of(unsafe { out.assume_init_ref() })))
}

fn lstat(path: &FsPath) -> Answer {
    let path = c_path(path);
    stat(|out| {
        // SAFETY: a NUL-terminated path and room for one `stat`.
        unsafe { libc::lstat(path.as_ptr(), out) }
    })
}

fn kind(path: &FsPath) -> Result<FileKind, Errno> {
    match lstat(path)? {
        Outcome::Stat(stat) => Ok(stat.kind),
        _ => unreachable!("lstat answers attributes"),
    }
}

fn readdir(path: &FsPath) -> Answer {
    if kind(path)? != FileKind::Directory {
        return Err(Errno::ENOTDIR);
    }
    let mut entries = BTreeMap::new();
    for entry in std::fs::read_dir(os_path(path)).map_err(std_error)? {
        let entry = entry.map_err(std_error)?;
        let kind = entry.file_type().map_err(std_error)?;
        let kind = match kind {
            _ if kind.is_file() => FileKind::File,
            _ if kind.is_dir() => FileKind::Directory,
            _ if kind.is_symlink() => FileKind::Symlink,
            _ if kind.is_fifo() => FileKind::Fifo,
            _ if kind.is_socket() => FileKind::Socket,
            _ if kind.is_char_device() => FileKind::CharDevice,
            _ => FileKind::BlockDevice,
        };
        if entries.insert(entry.file_name().into_vec(), kind).is_some() {
            panic!("{:?} was listed twice", entry.file_name());
        }
    }
    Ok(Outcome::Entries(entries))
}

fn truncate(path: &FsPath, size: u64) -> Answer {
    // truncate(2) would follow a link.
    if kind(path)? == FileKind::Symlink {
        return Err(Errno::EINVAL);
    }
    // SAFETY: a NUL-terminated path and a number.
    done(unsafe { libc::truncate(c_path(path).as_ptr(), size as i64) })
}

fn change_name_or_attribute(call: &Call) -> Answer {
    let here = libc::AT_FDCWD;
    let no_follow = libc::AT_SYMLINK_NOFOLLOW;
    // SAFETY: every pointer is to a NUL-terminated string or an array that lives until the call returned.
    done(unsafe {
        match call {
            Call::Mkdir { path, mode } => libc::mkdir(c_path(path).as_ptr(), *mode),
            Call::Mknod {
                path,
                kind,
                mode,
                rdev,
            } => libc::mknod(c_path(path).as_ptr(), kind.type_bits() | mode, u64::from(*rdev)),
            Call::Symlink { path, target } => libc::symlink(c_bytes(target).as_ptr(), c_path(path).as_ptr()),
            Call::Link { from, to } => {
                libc::linkat(here, c_path(from).as_ptr(), here, c_path(to).as_ptr(), 0)
            }
            Call::Unlink { path } => libc::unlink(c_path(path).as_ptr()),
            Call::Rmdir { path } => libc::rmdir(c_path(path).as_ptr()),
            Call::Rename { from, to, mode } => {
                let flags = match mode {
                    RenameMode::Replace => 0,
                    RenameMode::NoReplace => libc::RENAME_NOREPLACE,
                    RenameMode::Exchange => libc::RENAME_EXCHANGE,
                };
                libc::renameat2(here, c_path(from).as_ptr(), here, c_path(to).as_ptr(), flags)
            }
            Call::Chmod { path, mode } => libc::fchmodat(here, c_path(path).as_ptr(), *mode, no_follow),
            Call::Chown { path, uid, gid } => libc::lchown(
                c_path(path).as_ptr(),
                uid.unwrap_or(u32::MAX),
                gid.unwrap_or(u32::MAX),
            ),
            Call::Utimens { path, atime, mtime } => {
                let times = [timespec(*atime), timespec(*mtime)];
                libc::utimensat(here, c_path(path).as_ptr(), times.as_ptr(), no_follow)
            }
            _ => unreachable!("answered by its own function"),
        }
    })
}

/// Room for a value or a list; above what the sequences use.
const XATTR_BYTES: usize = 65_536;

fn xattr(call: &Call) -> Answer {
    let mut buffer = vec![0u8; XATTR_BYTES];
    // SAFETY: names and paths are NUL-terminated, values and buffers are passed with their lengths.
    unsafe {
        match call {
            Call::Setxattr {
                path,
                name,
                value,
                mode,
            } => {
                let flags = match mode {
                    XattrMode::Set => 0,
                    XattrMode::Create => libc::XATTR_CREATE,
                    XattrMode::Replace => libc::XATTR_REPLACE,
                };
                let (path, name) = (c_path(path), c_bytes(name));
                done(libc::lsetxattr(
                    path.as_ptr(),
                    name.as_ptr(),
                    value.as_ptr().cast(),
                    value.len(),
                    flags,
                ))
            }
            Call::Removexattr { path, name } => {
                done(libc::lremovexattr(c_path(path).as_ptr(), c_bytes(name).as_ptr()))
            }
            Call::Getxattr { path, name } => {
                let (path, name) = (c_path(path), c_bytes(name));
                let length = libc::lgetxattr(
                    path.as_ptr(),
                    name.as_ptr(),
                    buffer.as_mut_ptr().cast(),
                    buffer.len(),
                );
                buffer.truncate(Errno::result(length)? as usize);
                Ok(Outcome::Bytes(buffer))
            }
            Call::Listxattr { path } => {
                let length =
                    libc::llistxattr(c_path(path).as_ptr(), buffer.as_mut_ptr().cast(), buffer.len());
                buffer.truncate(Errno::result(length)? as usize);
                let names = buffer
                    .split(|byte| *byte == 0)
                    .map(OsStr::from_bytes)
                    .map(|name| name.as_bytes());
                let ours = |name: &&[u8]| name.starts_with(b"user.") || name.starts_with(b"trusted.");
                Ok(Outcome::Names(names.filter(ours).map(<[u8]>::to_vec).collect()))
            }
            _ => unreachable!("only calls on extended attributes"),
        }
    }
}
