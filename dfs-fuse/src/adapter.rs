//! The file operations of the kernel: callback → client call → reply.
//!
//! No logic of the file system is here: what an operation means is decided by the client and the coordinator. What is not
//! answered at all (access, ioctl and the like) the kernel does by itself, or it is refused as POSIX has it.
//! Invariant: a callback returns without waiting for the network.
//!
//! It is longer than other files because the trait is one block.

use crate::answer::{Answers, CreatedFile, Looked, XattrValue, refused, send};
use crate::caller::Requester;
use crate::capability::{CAPABILITY, Capabilities};
use crate::convert::{self, OpenFile, ino, name, open_flags};
use crate::directory::{Directories, Plus, Sink};
use crate::kernel::view::KernelView;
use crate::locking::{self, LockRequest};
use bytes::Bytes;
use dfs_client::{Client, OpenFlags};
use dfs_common::attr::{FileKind, SetAttr};
use dfs_common::op::RenameMode;
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use fuser::{
    BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, FopenFlags, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, PollEvents, PollFlags, PollNotifier, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLock, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};
use nix::libc;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Largest read and write in one request, in bytes: 1 MiB at any offset of a page.
const REQUEST_BYTES_MAX: u32 = (1 << 20) + 4096;
/// Read-ahead and asynchronous requests that the kernel keeps in flight.
const BACKGROUND_REQUESTS_MAX: u16 = 128;
/// What this program asks of the kernel. Left out on purpose: a write-back cache (it would make one kernel the authority
/// on sizes), invalidation by time stamp (it costs a call for each read; pages are dropped at open instead), and what
/// fuser 0.18 takes and mishandles.
const CAPABILITIES: [InitFlags; 10] = [
    InitFlags::FUSE_ASYNC_READ,
    InitFlags::FUSE_ASYNC_DIO,
    InitFlags::FUSE_BIG_WRITES,
    // One call for open with O_TRUNC.
    InitFlags::FUSE_ATOMIC_O_TRUNC,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    // The coordinator takes set-id bits away with a write, chown or truncation.
    InitFlags::FUSE_HANDLE_KILLPRIV,
    // Locks of several mounts exclude each other.
    InitFlags::FUSE_POSIX_LOCKS,
    InitFlags::FUSE_FLOCK_LOCKS,
];

/// The kernel's side of a mount.
pub struct Adapter {
    client: Client,
    answers: Answers,
    kernel: Arc<KernelView>,
    directories: Arc<Directories>,
    capabilities: Arc<Capabilities>,
}

impl Adapter {
    /// Over `client`; requests that wait are tasks of `answers`; `kernel` is the view of the one that asks.
    pub fn new(client: Client, answers: Answers, kernel: Arc<KernelView>) -> Self {
        Adapter {
            client,
            answers,
            kernel,
            directories: Arc::default(),
            capabilities: Arc::default(),
        }
    }

    /// Fills a buffer with directory entries; gives it back with the outcome.
    fn list<S: Sink + Send + 'static>(
        &self,
        directory: FileHandle,
        cursor: u64,
        mut sink: S,
        reply: impl FnOnce(S, Result<(), Errno>) + Send + 'static,
    ) {
        if let Err(errno) = self.answers.admit() {
            return reply(sink, Err(errno));
        }
        let (client, directories) = (self.client.clone(), self.directories.clone());
        self.answers.run("readdir", async move {
            let outcome = match directories.get(directory.0) {
                Ok(directory) => directory.read(&client, cursor, &mut sink).await,
                Err(error) => Err(error),
            };
            reply(sink, outcome.map_err(|error| refused("readdir", &error)));
        });
    }
}

/// Opens a file. One that is opened to be run needs no read permission: the kernel has checked the other.
async fn open(
    client: &Client,
    requester: Requester,
    file: Ino,
    flags: i32,
) -> FsResult<(OpenFile, FopenFlags)> {
    let asked = open_flags(flags);
    let opened = match client.open(&requester.with_groups(), file, asked).await {
        Err(error) if error.kind() == ErrorKind::PermissionDenied && convert::is_execution(flags) => {
            client.open(&Caller::root(), file, asked).await?
        }
        opened => opened?,
    };
    let open = OpenFile {
        handle: opened.handle,
        appends: asked.append,
    };
    Ok((open, convert::kernel_flags(opened.keep_cache, opened.direct)))
}

/// A write at a place through a file that was opened to append: a page of a shared map, or O_APPEND was taken off since.
async fn write_in_place(
    client: &Client,
    caller: &Caller,
    file: Ino,
    offset: u64,
    data: &[u8],
) -> FsResult<u32> {
    let flags = OpenFlags {
        write: true,
        ..OpenFlags::default()
    };
    // The file is open for writing already: nothing is permitted that was not.
    let handle = client.open(&Caller::root(), file, flags).await?.handle;
    let written = client.write(caller, handle, offset, data).await;
    let saved = client.flush(handle).await;
    client.release(handle).await;
    saved.and(written)
}

fn lock_request(
    request: &Request,
    fh: FileHandle,
    owner: LockOwner,
    (start, end): (u64, u64),
    kind: i32,
    pid: u32,
) -> LockRequest {
    LockRequest {
        handle: OpenFile::from(fh).handle,
        owner: owner.0,
        start,
        end,
        kind,
        pid,
        thread: request.pid(),
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        for capability in CAPABILITIES {
            if config.add_capabilities(capability).is_err() {
                tracing::debug!(?capability, "the kernel does not have it");
            }
        }
        // Values out of the kernel's range: it says the nearest one, its own default stays.
        let _ = config.set_max_write(REQUEST_BYTES_MAX);
        let _ = config.set_max_background(BACKGROUND_REQUESTS_MAX);
        Ok(())
    }

    // Names.

    fn lookup(&self, request: &Request, parent: INodeNo, called: &OsStr, reply: ReplyEntry) {
        let (client, requester, called) = (self.client.clone(), Requester::from(request), name(called));
        let (kernel, parent) = (self.kernel.clone(), ino(parent));
        self.answers.answer("lookup", reply, async move {
            let called = called?;
            if let Some(validity) = kernel.trial().answers(parent, &called) {
                return Ok(Looked::Absent(validity));
            }
            match client.lookup(&requester.with_groups(), parent, &called).await {
                Ok(entry) => Ok(Looked::Found(kernel.found(parent, &called, entry.attr))),
                Err(error) if error.kind() == ErrorKind::NotFound => match kernel.absent(parent, &called) {
                    Duration::ZERO => Err(error),
                    validity => Ok(Looked::Absent(validity)),
                },
                Err(error) => Err(error),
            }
        });
    }

    fn forget(&self, _request: &Request, file: INodeNo, lookups: u64) {
        self.kernel.forgotten(ino(file), lookups);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        called: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (client, requester, called) = (self.client.clone(), Requester::from(request), name(called));
        let (kernel, parent) = (self.kernel.clone(), ino(parent));
        let naming = kernel.naming(&[parent]);
        self.answers.answer("mkdir", reply, async move {
            let mode = mode & 0o7777;
            let made = client
                .mkdir(&requester.with_groups(), parent, &called?, mode)
                .await;
            Ok(kernel.made(naming.settled(made)?.attr))
        });
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        called: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let (client, requester, called) = (self.client.clone(), Requester::from(request), name(called));
        let (kernel, parent) = (self.kernel.clone(), ino(parent));
        let naming = kernel.naming(&[parent]);
        self.answers.answer("mknod", reply, async move {
            let caller = requester.with_groups();
            let kind = FileKind::from_mode(mode)
                .ok_or_else(|| FsError::new(ErrorKind::Invalid, "there is no such kind of file"))?;
            let made = client
                .mknod(&caller, parent, &called?, kind, mode & 0o7777, rdev)
                .await;
            Ok(kernel.made(naming.settled(made)?.attr))
        });
    }

    fn symlink(&self, request: &Request, parent: INodeNo, called: &OsStr, target: &Path, reply: ReplyEntry) {
        let (client, requester, called) = (self.client.clone(), Requester::from(request), name(called));
        let target = Bytes::copy_from_slice(target.as_os_str().as_bytes());
        let (kernel, parent) = (self.kernel.clone(), ino(parent));
        let naming = kernel.naming(&[parent]);
        self.answers.answer("symlink", reply, async move {
            let made = client
                .symlink(&requester.with_groups(), parent, &called?, target)
                .await;
            Ok(kernel.made(naming.settled(made)?.attr))
        });
    }

    fn link(&self, request: &Request, file: INodeNo, parent: INodeNo, called: &OsStr, reply: ReplyEntry) {
        let (client, requester, called) = (self.client.clone(), Requester::from(request), name(called));
        let (kernel, parent) = (self.kernel.clone(), ino(parent));
        let naming = kernel.naming(&[parent]);
        self.answers.answer("link", reply, async move {
            let made = client
                .link(&requester.with_groups(), ino(file), parent, &called?)
                .await;
            Ok(kernel.made(naming.settled(made)?.attr))
        });
    }

    fn unlink(&self, request: &Request, parent: INodeNo, called: &OsStr, reply: ReplyEmpty) {
        let (client, requester, called) = (self.client.clone(), Requester::from(request), name(called));
        let parent = ino(parent);
        let naming = self.kernel.naming(&[parent]);
        self.answers.answer("unlink", reply, async move {
            let removed = client.unlink(&requester.with_groups(), parent, &called?).await;
            naming.settled(removed)
        });
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, called: &OsStr, reply: ReplyEmpty) {
        let (client, requester, called) = (self.client.clone(), Requester::from(request), name(called));
        let parent = ino(parent);
        let naming = self.kernel.naming(&[parent]);
        self.answers.answer("rmdir", reply, async move {
            let removed = client.rmdir(&requester.with_groups(), parent, &called?).await;
            naming.settled(removed)
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        called: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (client, requester) = (self.client.clone(), Requester::from(request));
        let (from, to) = ((ino(parent), name(called)), (ino(new_parent), name(new_name)));
        let kernel = self.kernel.clone();
        let naming = kernel.naming(&[from.0, to.0]);
        self.answers.answer("rename", reply, async move {
            let mode = convert::rename_mode(flags)?;
            let caller = requester.with_groups();
            let (from, to) = ((from.0, &from.1?), (to.0, &to.1?));
            let renamed = client.rename(&caller, from.0, from.1, to.0, to.1, mode).await;
            naming.settled(renamed)?;
            kernel.moved(from, to, mode == RenameMode::Exchange);
            Ok(())
        });
    }

    fn readlink(&self, _request: &Request, link: INodeNo, reply: ReplyData) {
        let client = self.client.clone();
        self.answers
            .answer("readlink", reply, async move { client.readlink(ino(link)).await });
    }

    // Directories.

    fn opendir(&self, request: &Request, directory: INodeNo, _flags: fuser::OpenFlags, reply: ReplyOpen) {
        let caller = Requester::from(request).with_groups();
        // The kernel has just asked for them: nothing is waited for.
        let attr = self.answers.try_at_once(self.client.getattr(ino(directory)));
        let attr = attr.ok().flatten().and_then(Result::ok).map(|entry| entry.attr);
        let number = self.directories.open(ino(directory), caller, attr);
        reply.opened(FileHandle(number), FopenFlags::empty());
    }

    fn readdir(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        self.list(fh, offset, reply, |reply, outcome| match outcome {
            Ok(()) => reply.ok(),
            Err(errno) => reply.error(errno),
        });
    }

    fn readdirplus(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let (kernel, plus) = (self.kernel.clone(), Plus::new(reply));
        self.list(fh, offset, plus, move |plus, outcome| match outcome {
            Ok(()) => {
                kernel.listed(&plus.entries);
                plus.reply.ok();
            }
            Err(errno) => plus.reply.error(errno),
        });
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.directories.close(fh.0);
        reply.ok();
    }

    fn fsyncdir(
        &self,
        _request: &Request,
        directory: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        let client = self.client.clone();
        self.answers.answer_always(
            "fsyncdir",
            reply,
            async move { client.fsyncdir(ino(directory)).await },
        );
    }

    // Inodes.

    fn getattr(&self, _request: &Request, file: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let (client, directories) = (self.client.clone(), self.directories.clone());
        let kernel = self.kernel.clone();
        self.answers.answer("getattr", reply, async move {
            match client.getattr(ino(file)).await {
                Err(error) if error.kind() == ErrorKind::Stale => {
                    let attr = directories.removed(ino(file)).ok_or(error)?;
                    Ok((attr, Duration::ZERO))
                }
                found => {
                    let attr = found?.attr;
                    let validity = kernel.attributes(&attr);
                    Ok((attr, validity))
                }
            }
        });
    }

    fn setattr(
        &self,
        request: &Request,
        file: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let (client, requester) = (self.client.clone(), Requester::from(request));
        let handle = fh.map(|fh| OpenFile::from(fh).handle);
        let set = SetAttr {
            mode: mode.map(|mode| mode & 0o7777),
            uid,
            gid,
            size,
            atime: atime.map(convert::set_time),
            mtime: mtime.map(convert::set_time),
        };
        self.answers.answer("setattr", reply, async move {
            let set = client
                .setattr(&requester.with_groups(), ino(file), set, handle)
                .await?;
            // The kernel takes the attributes of this answer whatever it heard meanwhile: they hold for no time.
            Ok((set.attr, Duration::ZERO))
        });
    }

    fn getxattr(&self, request: &Request, file: INodeNo, called: &OsStr, size: u32, reply: ReplyXattr) {
        let called = called.as_bytes();
        if called.starts_with(b"system.") {
            // POSIX ACLs are not there, and `ls -l` asks for them for each file.
            return reply.error(Errno::EOPNOTSUPP);
        }
        let is_capability = called == CAPABILITY;
        if is_capability && self.capabilities.are_absent(ino(file)) {
            return reply.error(Errno::ENODATA);
        }
        let (client, requester, called) = (self.client.clone(), Requester::from(request), called.to_vec());
        let capabilities = self.capabilities.clone();
        self.answers.answer("getxattr", reply, async move {
            let question = is_capability.then(|| capabilities.ask(ino(file)));
            let value = client
                .getxattr(&requester.with_groups(), ino(file), &called)
                .await;
            if let (Some(question), Err(error)) = (question, &value)
                && error.kind() == ErrorKind::NoAttribute
            {
                question.absent();
            }
            Ok(XattrValue(value?, size))
        });
    }

    fn listxattr(&self, request: &Request, file: INodeNo, size: u32, reply: ReplyXattr) {
        let (client, requester) = (self.client.clone(), Requester::from(request));
        self.answers.answer("listxattr", reply, async move {
            let names = client.listxattr(&requester.with_groups(), ino(file)).await?;
            let mut list = Vec::with_capacity(names.iter().map(|name| name.len() + 1).sum());
            for name in names {
                list.extend_from_slice(&name);
                list.push(0);
            }
            Ok(XattrValue(list.into(), size))
        });
    }

    fn setxattr(
        &self,
        request: &Request,
        file: INodeNo,
        called: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let (client, requester) = (self.client.clone(), Requester::from(request));
        let (called, value) = (called.as_bytes().to_vec(), Bytes::copy_from_slice(value));
        let capabilities = (called == CAPABILITY).then(|| self.capabilities.clone());
        let kernel = self.kernel.clone();
        self.answers.answer("setxattr", reply, async move {
            let mode = convert::xattr_mode(flags)?;
            let caller = requester.with_groups();
            let done = client.setxattr(&caller, ino(file), &called, value, mode).await;
            kernel.changed(ino(file));
            if let Some(capabilities) = capabilities {
                capabilities.forget(ino(file));
            }
            done
        });
    }

    fn removexattr(&self, request: &Request, file: INodeNo, called: &OsStr, reply: ReplyEmpty) {
        let (client, requester) = (self.client.clone(), Requester::from(request));
        let called = called.as_bytes().to_vec();
        let kernel = self.kernel.clone();
        self.answers.answer("removexattr", reply, async move {
            let caller = match called == CAPABILITY {
                // The kernel takes it away with a write, whoever writes; anybody else it asks for the right to.
                true => Caller::root(),
                false => requester.with_groups(),
            };
            let done = client.removexattr(&caller, ino(file), &called).await;
            kernel.changed(ino(file));
            done
        });
    }

    fn statfs(&self, _request: &Request, file: INodeNo, reply: ReplyStatfs) {
        let client = self.client.clone();
        self.answers
            .answer("statfs", reply, async move { client.statfs_at(ino(file)).await });
    }

    // Files.

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        called: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (client, requester, called) = (self.client.clone(), Requester::from(request), name(called));
        let capabilities = self.capabilities.clone();
        let (kernel, parent) = (self.kernel.clone(), ino(parent));
        let naming = kernel.naming(&[parent]);
        self.answers.answer("create", reply, async move {
            let (asked, exclusive) = (open_flags(flags), flags & libc::O_EXCL != 0);
            let caller = requester.with_groups();
            let created = client
                .create(&caller, parent, &called?, mode & 0o7777, exclusive, asked)
                .await;
            let created = naming.settled(created)?;
            match created.existed {
                true => capabilities.forget(created.entry.attr.ino),
                false => capabilities.created(created.entry.attr.ino),
            }
            Ok(CreatedFile {
                seen: kernel.made(created.entry.attr),
                file: OpenFile {
                    handle: created.handle,
                    appends: asked.append,
                },
                flags: convert::kernel_flags(created.keep_cache, created.direct),
            })
        });
    }

    fn open(&self, request: &Request, file: INodeNo, flags: fuser::OpenFlags, reply: ReplyOpen) {
        let (client, requester) = (self.client.clone(), Requester::from(request));
        self.capabilities.forget(ino(file));
        self.answers.answer("open", reply, async move {
            open(&client, requester, ino(file), flags.0).await
        });
    }

    fn read(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let client = self.client.clone();
        self.answers.answer("read", reply, async move {
            client.read(OpenFile::from(fh).handle, offset, size).await
        });
    }

    fn write(
        &self,
        request: &Request,
        file: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Err(errno) = self.answers.admit() {
            return reply.error(errno);
        }
        let OpenFile { handle, appends } = fh.into();
        let caller = Requester::from(request).alone();
        let client = self.client.clone();
        if appends {
            // An append must not be begun twice, so that it gets a copy of its data from the start.
            let data = Bytes::copy_from_slice(data);
            let of_map = write_flags.contains(WriteFlags::FUSE_WRITE_CACHE);
            let in_place = of_map || flags.0 & libc::O_APPEND == 0;
            return self.answers.answer("write", reply, async move {
                match in_place {
                    true => write_in_place(&client, &caller, ino(file), offset, &data).await,
                    false => client.write(&caller, handle, offset, &data).await,
                }
            });
        }
        match self
            .answers
            .try_at_once(client.write(&caller, handle, offset, data))
        {
            Ok(Some(outcome)) => send("write", reply, outcome),
            // It has to wait. A part that was written is written again, with the same bytes.
            Ok(None) => {
                let data = Bytes::copy_from_slice(data);
                self.answers.answer("write", reply, async move {
                    client.write(&caller, handle, offset, &data).await
                });
            }
            Err(_) => {
                tracing::error!(operation = "write", "a request failed by a panic");
                reply.error(Errno::EIO);
            }
        }
    }

    fn flush(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, owner: LockOwner, reply: ReplyEmpty) {
        let (client, OpenFile { handle, .. }) = (self.client.clone(), fh.into());
        let locked = client.has_locks(handle, owner.0);
        if client.is_clean(handle) && !locked {
            return reply.ok();
        }
        self.answers.answer_always("flush", reply, async move {
            let saved = client.flush(handle).await;
            let unlocked = client.unlock_closed(handle, owner.0).await;
            saved.and(unlocked)
        });
    }

    fn getlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        reply: ReplyLock,
    ) {
        let client = self.client.clone();
        let lock = lock_request(request, fh, owner, (start, end), kind, pid);
        self.answers
            .answer("getlk", reply, async move { locking::getlk(&client, lock).await });
    }

    fn setlk(
        &self,
        request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        owner: LockOwner,
        start: u64,
        end: u64,
        kind: i32,
        pid: u32,
        sleep: bool,
        reply: ReplyEmpty,
    ) {
        let client = self.client.clone();
        let lock = lock_request(request, fh, owner, (start, end), kind, pid);
        self.answers.answer("setlk", reply, async move {
            locking::setlk(&client, lock, sleep).await
        });
    }

    fn fsync(&self, _request: &Request, _ino: INodeNo, fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        let (client, OpenFile { handle, .. }) = (self.client.clone(), fh.into());
        self.answers
            .answer_always("fsync", reply, async move { client.fsync(handle).await });
    }

    fn release(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: fuser::OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        let (client, OpenFile { handle, .. }) = (self.client.clone(), fh.into());
        self.answers.answer_always("release", reply, async move {
            client.release(handle).await;
            Ok(())
        });
    }

    // Not there: ENOSYS makes the kernel use its own way, or EOPNOTSUPP, from the first time on.

    fn fallocate(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn lseek(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn copy_file_range(
        &self,
        _request: &Request,
        _ino_in: INodeNo,
        _fh_in: FileHandle,
        _offset_in: u64,
        _ino_out: INodeNo,
        _fh_out: FileHandle,
        _offset_out: u64,
        _length: u64,
        _flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}
