//! Names: mkdir, mknod, symlink, link, unlink, rmdir, rename, readdir, readlink.

use super::permission::{self, READ, SEARCH, WRITE};
use super::{Answer, Body, Model, Time};
use crate::call::{FsPath, Outcome};
use dfs_common::attr::FileKind;
use dfs_common::op::RenameMode;
use dfs_common::session::Caller;
use nix::libc;
use std::collections::BTreeMap;

impl Model {
    /// Directory and name of a new entry: EEXIST comes before EACCES, as every caller of open(2) with O_EXCL relies on.
    fn vacant<'p>(&self, who: &Caller, path: &'p FsPath) -> Result<(u64, &'p [u8]), i32> {
        let (parent, name) = self.parent_of(who, path)?;
        if self.search(who, parent, name)?.is_some() {
            return Err(libc::EEXIST);
        }
        Ok((parent, name))
    }

    fn may_add(&self, who: &Caller, directory: u64) -> Result<(), i32> {
        permission::check(self.inode(directory), who, WRITE | SEARCH)
    }

    pub(super) fn touch_directory(&mut self, directory: u64) {
        let now = self.now();
        let inode = self.inode_mut(directory);
        inode.mtime = now;
        inode.ctime = now;
    }

    /// Makes an inode and its name. A set-group-ID directory gives its group to what is made in it, and its own
    /// set-group-ID bit to directories (inode(7)).
    pub(super) fn make(&mut self, who: &Caller, parent: u64, name: &[u8], body: Body, mode: u32) -> u64 {
        let directory = self.inode(parent);
        let is_directory = matches!(body, Body::Directory { .. });
        let (mut mode, mut gid) = (mode, who.gid);
        if directory.mode & libc::S_ISGID != 0 {
            gid = directory.gid;
            let executable = libc::S_ISGID | libc::S_IXGRP;
            if is_directory {
                mode |= libc::S_ISGID;
            } else if mode & executable == executable && !permission::in_group_or_root(directory, who) {
                mode &= !libc::S_ISGID;
            }
        }
        let ino = self.insert(body, mode, who.uid, gid);
        if is_directory {
            self.inode_mut(parent).nlink += 1;
        }
        self.entries_mut(parent).insert(name.to_vec(), ino);
        self.touch_directory(parent);
        ino
    }

    pub(super) fn mkdir(&mut self, who: &Caller, path: &FsPath, mode: u32) -> Answer {
        let (parent, name) = self.vacant(who, path)?;
        self.may_add(who, parent)?;
        let body = Body::Directory {
            entries: BTreeMap::new(),
            parent,
        };
        self.make(who, parent, name, body, mode & 0o1777);
        Ok(Outcome::Done)
    }

    pub(super) fn mknod(
        &mut self,
        who: &Caller,
        path: &FsPath,
        kind: FileKind,
        mode: u32,
        rdev: u32,
    ) -> Answer {
        let (parent, name) = self.vacant(who, path)?;
        self.may_add(who, parent)?;
        let device = matches!(kind, FileKind::CharDevice | FileKind::BlockDevice);
        if device && who.uid != 0 {
            return Err(libc::EPERM);
        }
        let body = match kind {
            FileKind::File => Body::File(Default::default()),
            kind => Body::Special {
                kind,
                rdev: if device { rdev } else { 0 },
            },
        };
        self.make(who, parent, name, body, mode & 0o7777);
        Ok(Outcome::Done)
    }

    pub(super) fn symlink(&mut self, who: &Caller, path: &FsPath, target: &[u8]) -> Answer {
        let (parent, name) = self.vacant(who, path)?;
        self.may_add(who, parent)?;
        self.make(who, parent, name, Body::Symlink(target.to_vec()), 0o777);
        Ok(Outcome::Done)
    }

    pub(super) fn link(&mut self, who: &Caller, from: &FsPath, to: &FsPath) -> Answer {
        let ino = self.resolve(who, from)?;
        let (parent, name) = self.vacant(who, to)?;
        let inode = self.inode(ino);
        if self.rules.protected_hardlinks && !permission::owns(inode, who) {
            let executable = libc::S_ISGID | libc::S_IXGRP;
            let safe = inode.kind() == FileKind::File
                && inode.mode & libc::S_ISUID == 0
                && inode.mode & executable != executable
                && permission::check(inode, who, READ | WRITE).is_ok();
            if !safe {
                return Err(libc::EPERM);
            }
        }
        self.may_add(who, parent)?;
        if inode.kind() == FileKind::Directory {
            return Err(libc::EPERM);
        }
        self.may_link(ino, parent)?;
        self.entries_mut(parent).insert(name.to_vec(), ino);
        self.touch_directory(parent);
        let now = self.now();
        let inode = self.inode_mut(ino);
        inode.nlink += 1;
        inode.ctime = now;
        Ok(Outcome::Done)
    }

    /// May `who` take the name of `victim` out of `directory`, as a directory or as anything else?
    fn may_remove(&self, who: &Caller, directory: u64, victim: u64, as_directory: bool) -> Result<(), i32> {
        self.may_add(who, directory)?;
        let inode = self.inode(victim);
        if permission::sticky_refuses(self.inode(directory), inode, who) {
            return Err(libc::EPERM);
        }
        match (inode.kind() == FileKind::Directory, as_directory) {
            (false, true) => Err(libc::ENOTDIR),
            (true, false) => Err(libc::EISDIR),
            _ => Ok(()),
        }
    }

    pub(super) fn unlink(&mut self, who: &Caller, path: &FsPath) -> Answer {
        let (parent, name) = self.parent_of(who, path)?;
        let ino = self.search(who, parent, name)?.ok_or(libc::ENOENT)?;
        self.may_remove(who, parent, ino, false)?;
        self.entries_mut(parent).remove(name);
        self.touch_directory(parent);
        self.drop_link(parent, ino);
        Ok(Outcome::Done)
    }

    pub(super) fn rmdir(&mut self, who: &Caller, path: &FsPath) -> Answer {
        let (parent, name) = self.parent_of(who, path)?;
        let ino = self.search(who, parent, name)?.ok_or(libc::ENOENT)?;
        self.may_remove(who, parent, ino, true)?;
        if self.entries(ino).is_some_and(|entries| !entries.is_empty()) {
            return Err(libc::ENOTEMPTY);
        }
        self.entries_mut(parent).remove(name);
        self.touch_directory(parent);
        self.drop_directory(parent, ino);
        Ok(Outcome::Done)
    }

    fn drop_link(&mut self, parent: u64, ino: u64) {
        let now = self.now();
        let inode = self.inode_mut(ino);
        inode.nlink -= 1;
        inode.last_place = Some(parent).filter(|_| inode.nlink == 0);
        inode.ctime = now;
        self.forget_if_unused(ino);
    }

    fn drop_directory(&mut self, parent: u64, ino: u64) {
        self.inode_mut(parent).nlink -= 1;
        self.inodes.remove(&ino);
        self.graves.insert(ino, parent);
        self.quotas.remove(&ino);
    }

    /// True if `ino` is `below` or one of the directories above it.
    fn contains(&self, ino: u64, below: u64) -> bool {
        let mut at = below;
        loop {
            if at == ino {
                return true;
            }
            match &self.inode(at).body {
                Body::Directory { parent, .. } if *parent != at => at = *parent,
                _ => return false,
            }
        }
    }

    pub(super) fn rename(&mut self, who: &Caller, from: &FsPath, to: &FsPath, mode: RenameMode) -> Answer {
        let (old_parent, old_name) = self.parent_of(who, from)?;
        let (new_parent, new_name) = self.parent_of(who, to)?;
        let source = self.search(who, old_parent, old_name)?.ok_or(libc::ENOENT)?;
        let target = self.search(who, new_parent, new_name)?;
        match mode {
            RenameMode::NoReplace if target.is_some() => return Err(libc::EEXIST),
            RenameMode::Exchange if target.is_none() => return Err(libc::ENOENT),
            _ => {}
        }
        if self.contains(source, new_parent) {
            return Err(libc::EINVAL);
        }
        if target.is_some_and(|target| self.contains(target, old_parent)) {
            return Err(if mode == RenameMode::Exchange {
                libc::EINVAL
            } else {
                libc::ENOTEMPTY
            });
        }
        if target == Some(source) {
            return Ok(Outcome::Done); // two names of one file: nothing to do, by POSIX
        }
        let is_directory = |ino: u64| self.inode(ino).kind() == FileKind::Directory;
        let source_is_directory = is_directory(source);
        self.may_remove(who, old_parent, source, source_is_directory)?;
        match target {
            None => self.may_add(who, new_parent)?,
            Some(target) if mode == RenameMode::Exchange => {
                self.may_remove(who, new_parent, target, is_directory(target))?
            }
            Some(target) => self.may_remove(who, new_parent, target, source_is_directory)?,
        }
        // A directory that changes its parent changes its own `..`.
        if old_parent != new_parent {
            if source_is_directory {
                permission::check(self.inode(source), who, WRITE)?;
            }
            if let Some(target) = target.filter(|t| mode == RenameMode::Exchange && is_directory(*t)) {
                permission::check(self.inode(target), who, WRITE)?;
            }
        }
        if mode != RenameMode::Exchange
            && target
                .and_then(|target| self.entries(target))
                .is_some_and(|entries| !entries.is_empty())
        {
            return Err(libc::ENOTEMPTY);
        }
        self.may_move(source, old_parent, new_parent)?;
        if let Some(target) = target.filter(|_| mode == RenameMode::Exchange) {
            self.may_move(target, old_parent, new_parent)?;
        }

        self.entries_mut(old_parent).remove(old_name);
        self.entries_mut(new_parent).insert(new_name.to_vec(), source);
        self.move_parent(source, old_parent, new_parent);
        if let Some(target) = target {
            if mode == RenameMode::Exchange {
                self.entries_mut(old_parent).insert(old_name.to_vec(), target);
                self.move_parent(target, new_parent, old_parent);
                self.attributes_changed(target);
            } else if source_is_directory {
                self.drop_directory(new_parent, target);
            } else {
                self.drop_link(new_parent, target);
            }
        }
        self.attributes_changed(source);
        self.touch_directory(old_parent);
        self.touch_directory(new_parent);
        Ok(Outcome::Done)
    }

    fn move_parent(&mut self, ino: u64, old_parent: u64, new_parent: u64) {
        if let Body::Directory { parent, .. } = &mut self.inode_mut(ino).body {
            *parent = new_parent;
            self.inode_mut(old_parent).nlink -= 1;
            self.inode_mut(new_parent).nlink += 1;
        }
    }

    pub(super) fn readdir(&mut self, who: &Caller, path: &FsPath) -> Answer {
        let ino = self.resolve(who, path)?;
        let entries = self.entries(ino).ok_or(libc::ENOTDIR)?;
        permission::check(self.inode(ino), who, READ)?;
        let listing = entries
            .iter()
            .map(|(name, ino)| (name.clone(), self.inode(*ino).kind()))
            .collect();
        self.accessed(ino);
        Ok(Outcome::Entries(listing))
    }

    pub(super) fn readlink(&mut self, who: &Caller, path: &FsPath) -> Answer {
        let ino = self.resolve(who, path)?;
        let Body::Symlink(target) = &self.inode(ino).body else {
            return Err(libc::EINVAL);
        };
        let target = target.clone();
        self.accessed(ino);
        Ok(Outcome::Bytes(target))
    }

    /// Whether reading moves the access time depends on mount options.
    pub(super) fn accessed(&mut self, ino: u64) {
        if self.rules.access_time_on_read {
            self.inode_mut(ino).atime = Time::Any;
        }
    }
}
