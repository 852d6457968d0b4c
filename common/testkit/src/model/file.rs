//! Files: open, close, read, write, ftruncate, truncate.

use super::permission::{self, READ, WRITE};
use super::{Answer, Body, Model, OpenFile, Time};
use crate::call::{FsPath, OpenHow, Outcome, Slot, pattern_bytes};
use dfs_common::attr::FileKind;
use dfs_common::session::Caller;
use nix::libc;

impl Model {
    pub(super) fn open_file(&self, slot: Slot) -> Result<&OpenFile, i32> {
        self.opened.get(&slot).ok_or(libc::EBADF)
    }

    pub(super) fn open(
        &mut self,
        who: &Caller,
        slot: Slot,
        path: &FsPath,
        how: OpenHow,
        mode: u32,
    ) -> Answer {
        let existing = match path.0.is_empty() {
            true => Some(super::ROOT),
            false => {
                let (parent, name) = self.parent_of(who, path)?;
                self.search(who, parent, name)?
            }
        };
        let ino = match existing {
            Some(_) if how.create && how.exclusive => return Err(libc::EEXIST),
            Some(ino) => {
                self.may_open(who, ino, path, how)?;
                if how.truncate {
                    self.set_size(who, ino, 0);
                    self.content_changed(ino);
                }
                ino
            }
            None if how.create => {
                let (parent, name) = self.parent_of(who, path)?;
                permission::check(self.inode(parent), who, WRITE | permission::SEARCH)?;
                self.make(who, parent, name, Body::File(Default::default()), mode & 0o7777)
            }
            None => return Err(libc::ENOENT),
        };
        let OpenHow {
            read, write, append, ..
        } = how;
        self.opened.insert(
            slot,
            OpenFile {
                ino,
                read,
                write,
                append,
            },
        );
        Ok(Outcome::Done)
    }

    fn may_open(&self, who: &Caller, ino: u64, path: &FsPath, how: OpenHow) -> Result<(), i32> {
        let inode = self.inode(ino);
        match inode.kind() {
            FileKind::Directory if how.create || how.write => return Err(libc::EISDIR),
            _ if how.create && self.protected_in_sticky(who, ino, path) => return Err(libc::EACCES),
            FileKind::Symlink => return Err(libc::ELOOP),
            _ => {}
        }
        let mut wanted = 0;
        if how.read {
            wanted |= READ;
        }
        if how.write || how.truncate {
            wanted |= WRITE;
        }
        permission::check(inode, who, wanted)
    }

    /// `fs.protected_regular` of proc_sys_fs(5), and what Linux does likewise for links.
    fn protected_in_sticky(&self, who: &Caller, ino: u64, path: &FsPath) -> bool {
        let root = Caller::root();
        let Ok((parent, _)) = self.parent_of(&root, path) else {
            return false;
        };
        let (directory, file) = (self.inode(parent), self.inode(ino));
        let level = match file.kind() {
            FileKind::File => self.rules.protected_regular,
            _ => u32::from(self.rules.protected_special),
        };
        level > 0
            && directory.mode & libc::S_ISVTX != 0
            && file.uid != directory.uid
            && file.uid != who.uid
            && (directory.mode & 0o002 != 0 || (directory.mode & 0o020 != 0 && level >= 2))
    }

    pub(super) fn close(&mut self, slot: Slot) -> Answer {
        let open = self.opened.remove(&slot).ok_or(libc::EBADF)?;
        self.forget_if_unused(open.ino);
        Ok(Outcome::Done)
    }

    pub(super) fn read(&mut self, slot: Slot, offset: u64, length: u32) -> Answer {
        let open = self.open_file(slot)?;
        if !open.read {
            return Err(libc::EBADF);
        }
        let ino = open.ino;
        let Body::File(content) = &self.inode(ino).body else {
            return Err(libc::EISDIR);
        };
        let bytes = content.read(offset, length as usize);
        self.accessed(ino);
        Ok(Outcome::Bytes(bytes))
    }

    pub(super) fn write(
        &mut self,
        who: &Caller,
        slot: Slot,
        offset: u64,
        length: u32,
        pattern: u8,
    ) -> Answer {
        let OpenFile {
            ino, write, append, ..
        } = self.open_file(slot)?.clone();
        if !write {
            return Err(libc::EBADF);
        }
        let bytes = pattern_bytes(pattern, offset, length);
        let Body::File(content) = &mut self.inode_mut(ino).body else {
            return Err(libc::EBADF);
        };
        // open(2), O_APPEND: every write goes to the end of the file; pwrite(2), BUGS: on Linux that one too.
        let at = if append { content.size() } else { offset };
        content.write(at, &bytes);
        if length > 0 {
            let mode = self.inode(ino).mode;
            self.drop_set_id(who, ino);
            if self.rules.writes_keep_plain_set_group_id && mode & libc::S_IXGRP == 0 {
                self.inode_mut(ino).mode |= mode & libc::S_ISGID;
            }
            self.content_changed(ino);
        }
        Ok(Outcome::Count(bytes.len()))
    }

    pub(super) fn ftruncate(&mut self, who: &Caller, slot: Slot, size: u64) -> Answer {
        let OpenFile { ino, write, .. } = *self.open_file(slot)?;
        if !write {
            return Err(libc::EINVAL);
        }
        self.set_size(who, ino, size);
        Ok(Outcome::Done)
    }

    pub(super) fn truncate(&mut self, who: &Caller, path: &FsPath, size: u64) -> Answer {
        let ino = self.resolve(who, path)?;
        match self.inode(ino).kind() {
            FileKind::Directory => return Err(libc::EISDIR),
            FileKind::File => {}
            _ => return Err(libc::EINVAL),
        }
        permission::check(self.inode(ino), who, WRITE)?;
        self.set_size(who, ino, size);
        Ok(Outcome::Done)
    }

    /// truncate(2): times move when the size changes; whether they do when it does not is left open.
    fn set_size(&mut self, who: &Caller, ino: u64, size: u64) {
        let Body::File(content) = &mut self.inode_mut(ino).body else {
            return;
        };
        let same = content.size() == size;
        content.truncate(size);
        self.drop_set_id(who, ino);
        self.content_changed(ino);
        if same {
            self.inode_mut(ino).mtime = Time::Any;
        }
    }

    fn drop_set_id(&mut self, who: &Caller, ino: u64) {
        if who.uid != 0 {
            self.inode_mut(ino).mode = permission::without_set_id(self.inode(ino), who);
        }
    }

    pub(super) fn content_changed(&mut self, ino: u64) {
        let now = self.now();
        let inode = self.inode_mut(ino);
        inode.mtime = now;
        inode.ctime = now;
    }
}
