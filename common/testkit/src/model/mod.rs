//! Reference model of a POSIX file system as Linux has it: simple, in memory, single-threaded, obviously right.
//!
//! Written from POSIX.1-2017 and the Linux manual pages (path_resolution(7), inode(7), xattr(7) and those of the
//! calls), and proved against ext4 by `tests/model_agrees_with_local.rs`. It shares no code with the coordinator: where both agree,
//! two independent readings of the standard agree.

mod attributes;
mod content;
mod file;
mod namespace;
mod permission;
mod quota;
mod usage;
mod xattr;

use crate::call::{Call, FsPath, Outcome, Slot, Stat, Target, Time};
use content::Content;
use dfs_common::Quota;
use dfs_common::attr::FileKind;
use dfs_common::session::Caller;
use nix::libc;
use std::collections::BTreeMap;

/// Success or an errno.
type Answer = Result<Outcome, i32>;

/// Settings of a Linux kernel that change what a call may do (proc_sys_fs(5)).
#[derive(Clone, Copy, Debug, Default)]
pub struct Rules {
    /// `fs.protected_hardlinks`: only the owner, or who may read and write a plain file, may link it.
    pub protected_hardlinks: bool,
    /// `fs.protected_regular`: opening others' files with `O_CREAT` in sticky directories is refused.
    pub protected_regular: u32,
    /// Opening others' links and special files with `O_CREAT` in sticky directories that all may write is refused, whatever
    /// the settings.
    pub protected_special: bool,
    /// A write by an unprivileged process takes the set-group-ID bit only where the group may execute, as POSIX has it; Linux
    /// takes it also from files of a group that the writer is not in.
    pub writes_keep_plain_set_group_id: bool,
    /// Reading may move the access time (the local file system does so, depending on its mount options).
    pub access_time_on_read: bool,
}

impl Rules {
    /// What the running kernel does for every file system it mounts.
    pub fn of_this_kernel() -> Self {
        let read = |name: &str| {
            std::fs::read_to_string(format!("/proc/sys/fs/{name}"))
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0)
        };
        Rules {
            protected_hardlinks: read("protected_hardlinks") != 0,
            protected_regular: read("protected_regular"),
            protected_special: true,
            writes_keep_plain_set_group_id: false,
            access_time_on_read: true,
        }
    }
}

#[derive(Clone, Debug)]
enum Body {
    File(Content),
    Directory {
        entries: BTreeMap<Vec<u8>, u64>,
        parent: u64,
    },
    Symlink(Vec<u8>),
    Special {
        kind: FileKind,
        rdev: u32,
    },
}

#[derive(Clone, Debug)]
struct Inode {
    body: Body,
    mode: u32,
    uid: u32,
    gid: u32,
    nlink: u32,
    atime: Time,
    mtime: Time,
    ctime: Time,
    xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The directory in which its last name was, once it has none.
    last_place: Option<u64>,
}

impl Inode {
    fn kind(&self) -> FileKind {
        match &self.body {
            Body::File(_) => FileKind::File,
            Body::Directory { .. } => FileKind::Directory,
            Body::Symlink(_) => FileKind::Symlink,
            Body::Special { kind, .. } => *kind,
        }
    }
}

#[derive(Clone, Debug)]
struct OpenFile {
    ino: u64,
    read: bool,
    write: bool,
    append: bool,
}

const ROOT: u64 = 1;

/// The model. Its root starts as an empty directory of root with mode 0777.
#[derive(Clone, Debug)]
pub struct Model {
    inodes: BTreeMap<u64, Inode>,
    opened: BTreeMap<Slot, OpenFile>,
    quotas: BTreeMap<u64, Quota>,
    /// Removed directories, and what they were in.
    graves: BTreeMap<u64, u64>,
    next_ino: u64,
    tick: u64,
    rules: Rules,
}

impl Model {
    /// An empty file system under these rules.
    pub fn new(rules: Rules) -> Self {
        let mut model = Model {
            inodes: BTreeMap::new(),
            opened: BTreeMap::new(),
            quotas: BTreeMap::new(),
            graves: BTreeMap::new(),
            next_ino: ROOT,
            tick: 0,
            rules,
        };
        let entries = BTreeMap::new();
        model.insert(
            Body::Directory {
                entries,
                parent: ROOT,
            },
            0o777,
            0,
            0,
        );
        model
    }

    fn now(&self) -> Time {
        Time::Tick(self.tick)
    }

    fn insert(&mut self, body: Body, mode: u32, uid: u32, gid: u32) -> u64 {
        let ino = self.next_ino;
        self.next_ino += 1;
        let nlink = if matches!(body, Body::Directory { .. }) {
            2
        } else {
            1
        };
        let now = self.now();
        let xattrs = BTreeMap::new();
        let inode = Inode {
            body,
            mode,
            uid,
            gid,
            nlink,
            atime: now,
            mtime: now,
            ctime: now,
            xattrs,
            last_place: None,
        };
        self.inodes.insert(ino, inode);
        ino
    }

    fn inode(&self, ino: u64) -> &Inode {
        self.inodes
            .get(&ino)
            .expect("names and open files refer to existing inodes")
    }

    fn inode_mut(&mut self, ino: u64) -> &mut Inode {
        self.inodes
            .get_mut(&ino)
            .expect("names and open files refer to existing inodes")
    }

    fn entries(&self, ino: u64) -> Option<&BTreeMap<Vec<u8>, u64>> {
        match &self.inode(ino).body {
            Body::Directory { entries, .. } => Some(entries),
            _ => None,
        }
    }

    fn entries_mut(&mut self, ino: u64) -> &mut BTreeMap<Vec<u8>, u64> {
        match &mut self.inode_mut(ino).body {
            Body::Directory { entries, .. } => entries,
            _ => unreachable!("callers checked that it is a directory"),
        }
    }

    /// Frees an inode that has neither name nor open file.
    fn forget_if_unused(&mut self, ino: u64) {
        if self.inode(ino).nlink == 0 && !self.opened.values().any(|open| open.ino == ino) {
            self.inodes.remove(&ino);
        }
    }

    /// Walks `path` with search permission on every directory (path_resolution(7)): inode of the parent and last name.
    fn parent_of<'p>(&self, who: &Caller, path: &'p FsPath) -> Result<(u64, &'p [u8]), i32> {
        let (last, above) = path.0.split_last().ok_or(libc::EBUSY)?;
        let mut at = ROOT;
        for name in above {
            at = self.search(who, at, name)?.ok_or(libc::ENOENT)?;
        }
        self.may_search(who, at)?;
        Ok((at, last))
    }

    /// The inode of `name` in `directory`, if there is one.
    fn search(&self, who: &Caller, directory: u64, name: &[u8]) -> Result<Option<u64>, i32> {
        self.may_search(who, directory)?;
        if name.len() > 255 {
            return Err(libc::ENAMETOOLONG);
        }
        Ok(self
            .entries(directory)
            .and_then(|entries| entries.get(name))
            .copied())
    }

    fn may_search(&self, who: &Caller, directory: u64) -> Result<(), i32> {
        let inode = self.inode(directory);
        if inode.kind() != FileKind::Directory {
            return Err(libc::ENOTDIR);
        }
        permission::check(inode, who, permission::SEARCH)
    }

    fn resolve(&self, who: &Caller, path: &FsPath) -> Result<u64, i32> {
        if path.0.is_empty() {
            return Ok(ROOT);
        }
        let (parent, name) = self.parent_of(who, path)?;
        self.search(who, parent, name)?.ok_or(libc::ENOENT)
    }

    fn stat(&self, ino: u64) -> Stat {
        let inode = self.inode(ino);
        let (size, rdev) = match &inode.body {
            Body::File(content) => (content.size(), 0),
            Body::Directory { .. } => (0, 0),
            Body::Symlink(target) => (target.len() as u64, 0),
            Body::Special { rdev, .. } => (0, *rdev),
        };
        Stat {
            ino,
            kind: inode.kind(),
            mode: inode.mode,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev,
            size,
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
        }
    }

    /// Every directory's path, the root first, in a stable order.
    pub fn directories(&self) -> Vec<FsPath> {
        self.paths()
            .into_iter()
            .filter(|(_, kind)| *kind == FileKind::Directory)
            .map(|(path, _)| path)
            .collect()
    }

    /// Every path with its kind, the root first, in a stable order.
    pub fn paths(&self) -> Vec<(FsPath, FileKind)> {
        let mut found = vec![(FsPath::default(), FileKind::Directory)];
        let mut inos = vec![ROOT];
        let mut next = 0;
        while next < found.len() {
            if let Some(entries) = self.entries(inos[next]) {
                for (name, ino) in entries {
                    let path = found[next].0.child(name);
                    found.push((path, self.inode(*ino).kind()));
                    inos.push(*ino);
                }
            }
            next += 1;
        }
        found
    }

    /// What is at `path`, whoever may see it.
    pub fn kind_at(&self, path: &FsPath) -> Option<FileKind> {
        self.resolve(&Caller::root(), path)
            .ok()
            .map(|ino| self.inode(ino).kind())
    }

    /// False for calls that the model says nothing of: paths through a symbolic link, changes of the root's
    /// own name, changes of times or owners that name none, and opening anything but a regular file, unless that must fail.
    pub fn defines(&self, call: &Call) -> bool {
        let through_link = |path: &FsPath| {
            let above = (1..path.0.len()).map(|length| FsPath(path.0[..length].to_vec()));
            above
                .into_iter()
                .any(|path| self.kind_at(&path) == Some(FileKind::Symlink))
        };
        if call.paths().into_iter().any(through_link) {
            return false;
        }
        match call {
            Call::Mkdir { path, .. }
            | Call::Mknod { path, .. }
            | Call::Symlink { path, .. }
            | Call::Unlink { path }
            | Call::Rmdir { path } => !path.0.is_empty(),
            Call::Link { from, to } | Call::Rename { from, to, .. } => !from.0.is_empty() && !to.0.is_empty(),
            Call::Utimens {
                atime: None,
                mtime: None,
                ..
            }
            | Call::Chown {
                uid: None, gid: None, ..
            } => false,
            Call::Open { path, how, .. } => match self.kind_at(path) {
                Some(FileKind::Directory) => how.create || how.write,
                Some(FileKind::File | FileKind::Symlink) | None => true,
                Some(_) => how.create && how.exclusive,
            },
            _ => true,
        }
    }

    /// The open slots.
    pub fn slots(&self) -> Vec<Slot> {
        self.opened.keys().copied().collect()
    }

    fn answer(&mut self, who: &Caller, call: &Call) -> Answer {
        match call {
            Call::Mkdir { path, mode } => self.mkdir(who, path, *mode),
            Call::Mknod {
                path,
                kind,
                mode,
                rdev,
            } => self.mknod(who, path, *kind, *mode, *rdev),
            Call::Symlink { path, target } => self.symlink(who, path, target),
            Call::Link { from, to } => self.link(who, from, to),
            Call::Unlink { path } => self.unlink(who, path),
            Call::Rmdir { path } => self.rmdir(who, path),
            Call::Rename { from, to, mode } => self.rename(who, from, to, *mode),
            Call::Readlink { path } => self.readlink(who, path),
            Call::Readdir { path } => self.readdir(who, path),
            Call::Open {
                slot,
                path,
                how,
                mode,
            } => self.open(who, *slot, path, *how, *mode),
            Call::Close { slot } => self.close(*slot),
            Call::Read { slot, offset, length } => self.read(*slot, *offset, *length),
            Call::Write {
                slot,
                offset,
                length,
                pattern,
            } => self.write(who, *slot, *offset, *length, *pattern),
            Call::Fsync { slot } => self.open_file(*slot).map(|_| Outcome::Done),
            Call::Ftruncate { slot, size } => self.ftruncate(who, *slot, *size),
            Call::Fstat { slot } => Ok(Outcome::Stat(self.stat(self.open_file(*slot)?.ino))),
            Call::Stat { path } => Ok(Outcome::Stat(self.stat(self.resolve(who, path)?))),
            Call::Chmod { path, mode } => self.chmod(who, path, *mode),
            Call::Chown { path, uid, gid } => self.chown(who, path, *uid, *gid),
            Call::Truncate { path, size } => self.truncate(who, path, *size),
            Call::Utimens { path, atime, mtime } => self.utimens(who, path, *atime, *mtime),
            Call::Setxattr {
                path,
                name,
                value,
                mode,
            } => self.setxattr(who, path, name, value, *mode),
            Call::Getxattr { path, name } => self.getxattr(who, path, name),
            Call::Listxattr { path } => self.listxattr(who, path),
            Call::Removexattr { path, name } => self.removexattr(who, path, name),
            Call::Quota { path, quota } => self.quota(path, *quota),
        }
    }
}

impl Target for Model {
    fn name(&self) -> String {
        "model".into()
    }

    fn call(&mut self, who: &Caller, call: &Call) -> Outcome {
        self.tick += 1;
        self.within_quotas(|model| model.answer(who, call))
            .unwrap_or_else(Outcome::Failed)
    }
}
