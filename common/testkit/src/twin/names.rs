//! Names: lookup, mkdir, mknod, create, symlink, link, unlink, rmdir, rename, readdir, readlink.

use super::access::{self, READ, SEARCH, WRITE};
use super::state::{Body, State};
use bytes::Bytes;
use dfs_common::attr::{Attr, FileKind};
use dfs_common::limits::{LINKS_MAX, READDIR_ENTRIES_MAX, SYMLINK_BYTES_MAX};
use dfs_common::op::{Entry, OpReply, OpResult, RenameMode};
use dfs_common::service::{DirEntry, DirPage};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, Name};
use nix::libc;
use std::collections::BTreeMap;

fn fail<T>(kind: ErrorKind, why: &'static str) -> FsResult<T> {
    Err(FsError::new(kind, why))
}

/// A directory and a name in it.
type Place<'n> = (Ino, &'n Name);

impl State {
    fn find(&self, who: &Caller, (parent, name): Place<'_>) -> FsResult<Option<Ino>> {
        let entries = self.entries(parent)?;
        access::check(self.inode(parent)?, who, SEARCH)?;
        Ok(entries.get(name).map(|(ino, _)| *ino))
    }

    fn must_find(&self, who: &Caller, place: Place<'_>) -> FsResult<Ino> {
        self.find(who, place)?
            .ok_or_else(|| FsError::new(ErrorKind::NotFound, "there is no such name"))
    }

    pub(super) fn lookup(&self, who: &Caller, parent: Ino, name: &Name) -> FsResult<Attr> {
        self.attr(self.must_find(who, (parent, name))?)
    }

    /// The place is free and `who` may put a name there. A removed directory takes no names.
    fn check_vacant(&self, who: &Caller, (parent, name): Place<'_>) -> FsResult<()> {
        if self.find(who, (parent, name))?.is_some() {
            return fail(ErrorKind::Exists, "the name exists");
        }
        if self.inode(parent)?.attr.nlink == 0 {
            return fail(ErrorKind::NotFound, "the directory was removed");
        }
        access::check(self.inode(parent)?, who, WRITE | SEARCH)
    }

    fn kind(&self, ino: Ino) -> FsResult<FileKind> {
        Ok(self.inode(ino)?.attr.kind)
    }

    fn put_name(&mut self, (parent, name): Place<'_>, ino: Ino) -> FsResult<()> {
        let cursor = self.next_cursor;
        self.next_cursor += 1;
        self.entries_mut(parent)?.insert(name.clone(), (ino, cursor));
        self.directory_changed(parent)
    }

    fn take_name(&mut self, (parent, name): Place<'_>) -> FsResult<()> {
        self.entries_mut(parent)?.remove(name);
        self.directory_changed(parent)
    }

    fn directory_changed(&mut self, ino: Ino) -> FsResult<()> {
        let now = self.now;
        let attr = &mut self.inode_mut(ino)?.attr;
        attr.mtime = now;
        attr.ctime = now;
        Ok(())
    }

    pub(super) fn changed(&mut self, ino: Ino) -> FsResult<Attr> {
        let now = self.now;
        self.inode_mut(ino)?.attr.ctime = now;
        self.attr(ino)
    }

    /// An inode with a name; a set-group-ID directory gives its group, and to directories its bit.
    fn make(
        &mut self,
        who: &Caller,
        place: Place<'_>,
        body: Body,
        kind: FileKind,
        mode: u32,
    ) -> FsResult<Ino> {
        let parent = &self.inode(place.0)?.attr;
        let (mut mode, mut group) = (mode, who.gid);
        if parent.mode & libc::S_ISGID != 0 {
            group = parent.gid;
            let executable = mode & (libc::S_ISGID | libc::S_IXGRP) == libc::S_ISGID | libc::S_IXGRP;
            if kind == FileKind::Directory {
                mode |= libc::S_ISGID;
            } else if executable && !access::is_root(who) && !who.in_group(group) {
                mode &= !libc::S_ISGID;
            }
        }
        let ino = self.new_inode(body, kind, mode, (who.uid, group));
        self.inode_mut(ino)?.home = place.0;
        if kind == FileKind::Directory {
            self.inode_mut(place.0)?.attr.nlink += 1;
        }
        self.put_name(place, ino)?;
        Ok(ino)
    }

    fn entry(&self, ino: Ino) -> OpResult {
        Ok(OpReply::Entry(Entry {
            attr: self.attr(ino)?,
        }))
    }

    pub(super) fn mkdir(&mut self, who: &Caller, parent: Ino, name: &Name, mode: u32) -> OpResult {
        self.check_vacant(who, (parent, name))?;
        if self.inode(parent)?.attr.nlink >= LINKS_MAX {
            return fail(
                ErrorKind::TooManyLinks,
                "the directory has too many subdirectories",
            );
        }
        let body = Body::Directory {
            entries: BTreeMap::new(),
            parent,
        };
        // mkdir(2): other than permission bits, only the sticky bit is taken over.
        let ino = self.make(who, (parent, name), body, FileKind::Directory, mode & 0o1777)?;
        self.entry(ino)
    }

    pub(super) fn mknod(
        &mut self,
        who: &Caller,
        parent: Ino,
        name: &Name,
        kind: FileKind,
        mode: u32,
        rdev: u32,
    ) -> OpResult {
        self.check_vacant(who, (parent, name))?;
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        let body = match kind {
            FileKind::File => Body::File(BTreeMap::new()),
            FileKind::Directory | FileKind::Symlink => {
                return fail(ErrorKind::Invalid, "not a kind that mknod makes");
            }
            _ if device && !access::is_root(who) => {
                return fail(ErrorKind::NotPermitted, "only root makes devices");
            }
            _ => Body::Special,
        };
        let ino = self.make(who, (parent, name), body, kind, mode & 0o7777)?;
        if device {
            self.inode_mut(ino)?.attr.rdev = rdev;
        }
        self.entry(ino)
    }

    pub(super) fn create(
        &mut self,
        who: &Caller,
        parent: Ino,
        name: &Name,
        mode: u32,
        exclusive: bool,
        (read, write): (bool, bool),
    ) -> OpResult {
        if let Some(ino) = self.find(who, (parent, name))? {
            if exclusive {
                return fail(ErrorKind::Exists, "the name exists");
            }
            self.check_open(who, ino, read, write)?;
            let entry = Entry {
                attr: self.attr(ino)?,
            };
            return Ok(OpReply::Created { entry, existed: true });
        }
        self.check_vacant(who, (parent, name))?;
        let body = Body::File(BTreeMap::new());
        let ino = self.make(who, (parent, name), body, FileKind::File, mode & 0o7777)?;
        let entry = Entry {
            attr: self.attr(ino)?,
        };
        Ok(OpReply::Created {
            entry,
            existed: false,
        })
    }

    /// May `who` open the file like this?
    pub(super) fn check_open(&self, who: &Caller, ino: Ino, read: bool, write: bool) -> FsResult<()> {
        let inode = self.inode(ino)?;
        match inode.attr.kind {
            FileKind::File => {}
            FileKind::Directory => {
                return fail(ErrorKind::IsDirectory, "a directory is not opened as a file");
            }
            FileKind::Symlink => return fail(ErrorKind::Loop, "a symbolic link is not opened"),
            _ => return fail(ErrorKind::NotSupported, "special files are opened by the kernel"),
        }
        let wanted = if read { READ } else { 0 } | if write { WRITE } else { 0 };
        access::check(inode, who, wanted)
    }

    pub(super) fn symlink(&mut self, who: &Caller, parent: Ino, name: &Name, target: &Bytes) -> OpResult {
        self.check_vacant(who, (parent, name))?;
        if target.is_empty() || target.len() > SYMLINK_BYTES_MAX {
            return fail(ErrorKind::NameTooLong, "a link target has 1 to 4095 bytes");
        }
        let body = Body::Symlink(target.clone());
        let ino = self.make(who, (parent, name), body, FileKind::Symlink, 0o777)?;
        self.entry(ino)
    }

    pub(super) fn link(&mut self, who: &Caller, ino: Ino, parent: Ino, name: &Name) -> OpResult {
        let attr = &self.inode(ino)?.attr;
        let (kind, nlink) = (attr.kind, attr.nlink);
        self.check_vacant(who, (parent, name))?;
        if kind == FileKind::Directory {
            return fail(ErrorKind::NotPermitted, "directories have one name");
        }
        if nlink == 0 {
            return fail(ErrorKind::NotFound, "the file has no name any more");
        }
        if nlink >= LINKS_MAX {
            return fail(ErrorKind::TooManyLinks, "the file has too many names");
        }
        self.check_link_edge(ino, parent)?;
        self.put_name((parent, name), ino)?;
        self.inode_mut(ino)?.attr.nlink += 1;
        self.changed(ino)?;
        self.entry(ino)
    }

    fn check_kind(&self, victim: Ino, as_directory: bool) -> FsResult<()> {
        match (self.kind(victim)? == FileKind::Directory, as_directory) {
            (true, false) => fail(ErrorKind::IsDirectory, "it is a directory"),
            (false, true) => fail(ErrorKind::NotDirectory, "it is no directory"),
            _ => Ok(()),
        }
    }

    fn check_empty(&self, directory: Ino) -> FsResult<()> {
        match self.entries(directory) {
            Ok(entries) if !entries.is_empty() => fail(ErrorKind::NotEmpty, "the directory has entries"),
            _ => Ok(()),
        }
    }

    pub(super) fn unlink(&mut self, who: &Caller, parent: Ino, name: &Name) -> OpResult {
        let ino = self.must_find(who, (parent, name))?;
        access::check_removal(self.inode(parent)?, self.inode(ino)?, who)?;
        self.check_kind(ino, false)?;
        self.take_name((parent, name))?;
        self.leave_home(ino, parent)?;
        let nlink = self.drop_link(ino)?;
        Ok(OpReply::Removed { ino, nlink })
    }

    fn drop_link(&mut self, ino: Ino) -> FsResult<u32> {
        self.inode_mut(ino)?.attr.nlink -= 1;
        let nlink = self.changed(ino)?.nlink;
        self.forget_if_unused(ino);
        Ok(nlink)
    }

    pub(super) fn rmdir(&mut self, who: &Caller, parent: Ino, name: &Name) -> OpResult {
        let ino = self.must_find(who, (parent, name))?;
        access::check_removal(self.inode(parent)?, self.inode(ino)?, who)?;
        self.check_kind(ino, true)?;
        self.check_empty(ino)?;
        self.take_name((parent, name))?;
        self.inode_mut(parent)?.attr.nlink -= 1;
        self.inodes.remove(&ino);
        self.buried(ino, parent);
        Ok(OpReply::Removed { ino, nlink: 0 })
    }

    /// A directory lost its name in `parent`, and its quota.
    fn buried(&mut self, directory: Ino, parent: Ino) {
        self.graves.insert(directory, parent);
        self.quotas.remove(&directory);
    }

    /// `target` lost its name in `parent` to another inode.
    fn replaced(&mut self, parent: Ino, target: Ino) -> FsResult<()> {
        self.leave_home(target, parent)?;
        if self.kind(target)? == FileKind::Directory {
            self.inode_mut(parent)?.attr.nlink -= 1;
            self.inode_mut(target)?.attr.nlink = 0;
            self.buried(target, parent);
        } else {
            self.inode_mut(target)?.attr.nlink -= 1;
        }
        if self.changed(target)?.nlink == 0 {
            self.keep_replaced(target);
        }
        Ok(())
    }

    /// `ino` is `below` or above it.
    fn is_at_or_above(&self, ino: Ino, below: Ino) -> FsResult<bool> {
        let mut at = below;
        loop {
            if at == ino {
                return Ok(true);
            }
            match &self.inode(at)?.body {
                Body::Directory { parent, .. } if at != Ino::ROOT => at = *parent,
                _ => return Ok(false),
            }
        }
    }

    pub(super) fn rename(
        &mut self,
        who: &Caller,
        from: Place<'_>,
        to: Place<'_>,
        mode: RenameMode,
    ) -> OpResult {
        self.entries(from.0)?;
        self.entries(to.0)?;
        access::check(self.inode(to.0)?, who, SEARCH)?;
        let source = self.must_find(who, from)?;
        let target = self.find(who, to)?;
        let exchange = mode == RenameMode::Exchange;
        match (mode, target) {
            (RenameMode::NoReplace, Some(_)) => return fail(ErrorKind::Exists, "the new name exists"),
            (RenameMode::Exchange, None) => return fail(ErrorKind::NotFound, "an exchange needs both names"),
            _ => {}
        }
        if self.is_at_or_above(source, to.0)? {
            return fail(ErrorKind::Invalid, "a directory cannot move below itself");
        }
        if let Some(target) = target
            && self.is_at_or_above(target, from.0)?
        {
            return match exchange {
                true => fail(ErrorKind::Invalid, "a directory cannot move below itself"),
                false => fail(ErrorKind::NotEmpty, "the directory at the new name has entries"),
            };
        }
        if target == Some(source) {
            return Ok(OpReply::Renamed {
                ino: source,
                other: target,
            });
        }
        self.check_rename(who, (from.0, source), (to.0, target), exchange)?;
        self.take_name(from)?;
        if let Some(target) = target {
            self.take_name(to)?;
            if exchange {
                self.check_move_edge(source, from.0, to.0)?;
                self.check_move_edge(target, to.0, from.0)?;
                self.put_name(from, target)?;
                self.moved(target, to.0, from.0)?;
            } else {
                self.replaced(to.0, target)?;
            }
        }
        if !exchange {
            self.check_move_edge(source, from.0, to.0)?;
        }
        self.put_name(to, source)?;
        self.moved(source, from.0, to.0)?;
        Ok(OpReply::Renamed {
            ino: source,
            other: target,
        })
    }

    fn check_rename(
        &self,
        who: &Caller,
        (old_parent, source): (Ino, Ino),
        (new_parent, target): (Ino, Option<Ino>),
        exchange: bool,
    ) -> FsResult<()> {
        let directory = |ino| Ok::<_, FsError>(self.kind(ino)? == FileKind::Directory);
        let old = self.inode(old_parent)?;
        let new = self.inode(new_parent)?;
        access::check_removal(old, self.inode(source)?, who)?;
        match target {
            None if new.attr.nlink == 0 => return fail(ErrorKind::NotFound, "the directory was removed"),
            None => access::check(new, who, WRITE | SEARCH)?,
            Some(target) => {
                access::check_removal(new, self.inode(target)?, who)?;
                if !exchange {
                    self.check_kind(target, directory(source)?)?;
                }
            }
        }
        if old_parent != new_parent {
            // A directory that moves gets another `..`.
            for moving in std::iter::once(source).chain(target.filter(|_| exchange)) {
                if directory(moving)? {
                    access::check(self.inode(moving)?, who, WRITE)?;
                }
            }
        }
        match target {
            Some(target) if !exchange => self.check_empty(target),
            _ => Ok(()),
        }
    }

    /// `ino` moved from one directory to another.
    fn moved(&mut self, ino: Ino, old_parent: Ino, new_parent: Ino) -> FsResult<()> {
        if let Body::Directory { parent, .. } = &mut self.inode_mut(ino)?.body {
            *parent = new_parent;
            self.inode_mut(old_parent)?.attr.nlink -= 1;
            self.inode_mut(new_parent)?.attr.nlink += 1;
        }
        let inode = self.inode_mut(ino)?;
        if inode.home == old_parent {
            inode.home = new_parent;
        }
        self.changed(ino).map(drop)
    }

    pub(super) fn readlink(&self, ino: Ino) -> FsResult<Bytes> {
        match &self.inode(ino)?.body {
            Body::Symlink(target) => Ok(target.clone()),
            _ => fail(ErrorKind::Invalid, "it is no symbolic link"),
        }
    }

    pub(super) fn readdir(
        &self,
        who: &Caller,
        ino: Ino,
        cursor: u64,
        limit: u32,
        attrs: bool,
    ) -> FsResult<DirPage> {
        let Body::Directory { entries, parent } = &self.inode(ino)?.body else {
            return fail(ErrorKind::NotDirectory, "it is no directory");
        };
        if cursor == 0 {
            access::check(self.inode(ino)?, who, READ)?;
        }
        let mut after: Vec<_> = entries.iter().filter(|(_, (_, at))| *at > cursor).collect();
        after.sort_by_key(|(_, (_, at))| *at);
        let limit = limit.clamp(1, READDIR_ENTRIES_MAX) as usize;
        let end = after.len() <= limit;
        after.truncate(limit);
        let entry = |(name, (ino, cursor)): (&Name, &(Ino, u64))| {
            let attr = self.attr(*ino)?;
            Ok(DirEntry {
                name: name.clone(),
                ino: *ino,
                kind: attr.kind,
                cursor: *cursor,
                attr: attrs.then_some(attr),
            })
        };
        let entries = after.into_iter().map(entry).collect::<FsResult<_>>()?;
        Ok(DirPage {
            entries,
            end,
            parent: *parent,
            leased: false,
        })
    }
}
