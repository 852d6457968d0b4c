//! Attributes: setattr, with the rules of chmod(2), chown(2), truncate(2) and utimensat(2) for the parts that are set.

use super::access::{self, WRITE};
use super::state::State;
use dfs_common::attr::{FileKind, SetAttr, SetTime};
use dfs_common::limits::FILE_BYTES_MAX;
use dfs_common::op::{OpReply, OpResult};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino, SessionId};
use nix::libc;

impl State {
    pub(super) fn setattr(
        &mut self,
        session: SessionId,
        who: &Caller,
        ino: Ino,
        set: &SetAttr,
        by_handle: bool,
    ) -> OpResult {
        // Everything is checked before anything changes.
        self.check_owner_change(who, ino, set)?;
        self.check_mode_change(who, ino, set)?;
        self.check_times_change(who, ino, set)?;
        if let Some(size) = set.size {
            self.check_size_change(session, who, ino, size, by_handle)?;
        }
        if *set == SetAttr::default() {
            return Ok(OpReply::Attr(self.attr(ino)?));
        }
        let now = self.now;
        if let Some(size) = set.size {
            self.resize(ino, size)?;
            let cleared = access::mode_without_set_id(self.inode(ino)?, who);
            let attr = &mut self.inode_mut(ino)?.attr;
            attr.mtime = now;
            if !access::is_root(who) {
                attr.mode = cleared;
            }
        }
        if set.uid.is_some() || set.gid.is_some() {
            let cleared = access::mode_without_set_id(self.inode(ino)?, who);
            let attr = &mut self.inode_mut(ino)?.attr;
            attr.mode = cleared;
            attr.uid = set.uid.unwrap_or(attr.uid);
            attr.gid = set.gid.unwrap_or(attr.gid);
        }
        let attr = &mut self.inode_mut(ino)?.attr;
        if let Some(mode) = set.mode {
            attr.mode = mode & 0o7777;
            if !access::is_root(who) && !who.in_group(attr.gid) {
                attr.mode &= !libc::S_ISGID;
            }
        }
        let value = |time| match time {
            SetTime::Now => now,
            SetTime::At(at) => at,
        };
        attr.atime = set.atime.map_or(attr.atime, value);
        attr.mtime = set.mtime.map_or(attr.mtime, value);
        Ok(OpReply::Attr(self.changed(ino)?))
    }

    fn check_owner_change(&self, who: &Caller, ino: Ino, set: &SetAttr) -> FsResult<()> {
        let inode = self.inode(ino)?;
        if access::is_root(who) || (set.uid.is_none() && set.gid.is_none()) {
            return Ok(());
        }
        access::check_owner(inode, who)?;
        let same_owner = set.uid.is_none_or(|uid| uid == inode.attr.uid);
        let own_group = set
            .gid
            .is_none_or(|gid| gid == inode.attr.gid || who.in_group(gid));
        match same_owner && own_group {
            true => Ok(()),
            false => Err(FsError::new(
                ErrorKind::NotPermitted,
                "only root gives files away",
            )),
        }
    }

    fn check_mode_change(&self, who: &Caller, ino: Ino, set: &SetAttr) -> FsResult<()> {
        let inode = self.inode(ino)?;
        if set.mode.is_none() {
            return Ok(());
        }
        if inode.attr.kind == FileKind::Symlink {
            return Err(FsError::new(
                ErrorKind::NotSupported,
                "a symbolic link has no mode of its own",
            ));
        }
        access::check_owner(inode, who)
    }

    fn check_times_change(&self, who: &Caller, ino: Ino, set: &SetAttr) -> FsResult<()> {
        let inode = self.inode(ino)?;
        match (set.atime, set.mtime) {
            (None, None) => Ok(()),
            (Some(SetTime::Now), Some(SetTime::Now)) if !access::owns(inode, who) => {
                access::check(inode, who, WRITE)
            }
            _ => access::check_owner(inode, who),
        }
    }

    fn check_size_change(
        &self,
        session: SessionId,
        who: &Caller,
        ino: Ino,
        size: u64,
        by_handle: bool,
    ) -> FsResult<()> {
        let inode = self.inode(ino)?;
        match inode.attr.kind {
            FileKind::File => {}
            FileKind::Directory => {
                return Err(FsError::new(
                    ErrorKind::IsDirectory,
                    "a directory has no size to set",
                ));
            }
            _ => return Err(FsError::new(ErrorKind::Invalid, "only files have a size to set")),
        }
        if size > FILE_BYTES_MAX {
            return Err(FsError::new(
                ErrorKind::FileTooBig,
                "the size is above the largest file",
            ));
        }
        let open = self.has_open(session, ino).is_some_and(|open| open.write);
        match (by_handle, open) {
            (true, true) => Ok(()),
            (true, false) => Err(FsError::new(
                ErrorKind::BadHandle,
                "the session does not have it open for writing",
            )),
            (false, _) => access::check(inode, who, WRITE),
        }
    }
}
