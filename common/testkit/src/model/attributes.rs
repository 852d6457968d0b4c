//! Attributes: chmod, chown, utimensat.

use super::permission::{self, WRITE};
use super::{Answer, Model, Time};
use crate::call::{FsPath, Outcome};
use dfs_common::attr::{FileKind, SetTime};
use dfs_common::session::Caller;
use nix::libc;

impl Model {
    pub(super) fn attributes_changed(&mut self, ino: u64) {
        let now = self.now();
        self.inode_mut(ino).ctime = now;
    }

    pub(super) fn chmod(&mut self, who: &Caller, path: &FsPath, mode: u32) -> Answer {
        let ino = self.resolve(who, path)?;
        let inode = self.inode(ino);
        if inode.kind() == FileKind::Symlink {
            return Err(libc::EOPNOTSUPP);
        }
        if !permission::owns(inode, who) {
            return Err(libc::EPERM);
        }
        let mut mode = mode & 0o7777;
        if !permission::in_group_or_root(inode, who) {
            mode &= !libc::S_ISGID;
        }
        self.inode_mut(ino).mode = mode;
        self.attributes_changed(ino);
        Ok(Outcome::Done)
    }

    /// lchown(2): root changes anything, the owner the group to one of his own.
    pub(super) fn chown(
        &mut self,
        who: &Caller,
        path: &FsPath,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Answer {
        let ino = self.resolve(who, path)?;
        let inode = self.inode(ino);
        if who.uid != 0 {
            let owner = who.uid == inode.uid;
            let keeps_owner = uid.is_none_or(|uid| owner && uid == inode.uid);
            let own_group = gid.is_none_or(|gid| owner && (who.in_group(gid) || gid == inode.gid));
            if !keeps_owner || !own_group {
                return Err(libc::EPERM);
            }
        }
        let mode = match inode.kind() {
            FileKind::Directory => inode.mode,
            _ => permission::without_set_id(inode, who),
        };
        let inode = self.inode_mut(ino);
        inode.mode = mode;
        inode.uid = uid.unwrap_or(inode.uid);
        inode.gid = gid.unwrap_or(inode.gid);
        self.attributes_changed(ino);
        Ok(Outcome::Done)
    }

    /// utimensat(2): a given time needs ownership, the current time ownership or write permission.
    pub(super) fn utimens(
        &mut self,
        who: &Caller,
        path: &FsPath,
        atime: Option<SetTime>,
        mtime: Option<SetTime>,
    ) -> Answer {
        let ino = self.resolve(who, path)?;
        if atime.is_none() && mtime.is_none() {
            return Ok(Outcome::Done);
        }
        let inode = self.inode(ino);
        if !permission::owns(inode, who) {
            if (atime, mtime) != (Some(SetTime::Now), Some(SetTime::Now)) {
                return Err(libc::EPERM);
            }
            permission::check(inode, who, WRITE)?;
        }
        let now = self.now();
        let value = |set: SetTime| match set {
            SetTime::Now => now,
            SetTime::At(time) => Time::At(time),
        };
        let inode = self.inode_mut(ino);
        inode.atime = atime.map_or(inode.atime, value);
        inode.mtime = mtime.map_or(inode.mtime, value);
        self.attributes_changed(ino);
        Ok(Outcome::Done)
    }
}
