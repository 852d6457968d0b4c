//! Extended attributes, with the namespaces of xattr(7): `user`, `trusted` and `security`.

use super::access::{self, READ, WRITE};
use super::state::{Inode, State};
use bytes::Bytes;
use dfs_common::attr::FileKind;
use dfs_common::limits::{NAME_BYTES_MAX, XATTR_LIST_BYTES_MAX, XATTR_VALUE_BYTES_MAX};
use dfs_common::op::{OpReply, OpResult, XattrMode};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use nix::libc;

fn fail<T>(kind: ErrorKind, why: &'static str) -> FsResult<T> {
    Err(FsError::new(kind, why))
}

fn check(inode: &Inode, who: &Caller, name: &[u8], writing: bool) -> FsResult<()> {
    let root = access::is_root(who);
    let hidden = || match writing {
        true => fail(
            ErrorKind::NotPermitted,
            "the attribute is not for this caller or inode",
        ),
        false => fail(ErrorKind::NoAttribute, "there is no such attribute"),
    };
    let wanted = if writing { WRITE } else { READ };
    if name.len() > NAME_BYTES_MAX {
        return fail(ErrorKind::Range, "an attribute's name has at most 255 bytes");
    }
    if name.starts_with(b"trusted.") {
        return if root { Ok(()) } else { hidden() };
    }
    if name.starts_with(b"security.") {
        return if root || !writing { Ok(()) } else { hidden() };
    }
    if !name.starts_with(b"user.") {
        access::check(inode, who, wanted)?;
        return fail(ErrorKind::NotSupported, "the attribute's namespace is unknown");
    }
    let kind = inode.attr.kind;
    if !matches!(kind, FileKind::File | FileKind::Directory) {
        return hidden();
    }
    let sticky = kind == FileKind::Directory && inode.attr.mode & libc::S_ISVTX != 0;
    if sticky && writing {
        access::check_owner(inode, who)?;
    }
    access::check(inode, who, wanted)
}

impl State {
    pub(super) fn setxattr(
        &mut self,
        who: &Caller,
        ino: Ino,
        name: &Bytes,
        value: &Bytes,
        mode: XattrMode,
    ) -> OpResult {
        let inode = self.inode(ino)?;
        check(inode, who, name, true)?;
        if value.len() > XATTR_VALUE_BYTES_MAX {
            return fail(ErrorKind::TooBig, "the attribute's value is too big");
        }
        let there = inode.xattrs.contains_key(name);
        match mode {
            XattrMode::Create if there => return fail(ErrorKind::Exists, "the attribute exists"),
            XattrMode::Replace if !there => {
                return fail(ErrorKind::NoAttribute, "there is no such attribute");
            }
            _ => {}
        }
        let listed: usize = inode.xattrs.keys().map(|name| name.len() + 1).sum();
        if !there && listed + name.len() + 1 > XATTR_LIST_BYTES_MAX {
            return fail(ErrorKind::NoSpace, "the inode has too many attributes");
        }
        self.inode_mut(ino)?.xattrs.insert(name.clone(), value.clone());
        Ok(OpReply::Attr(self.changed(ino)?))
    }

    pub(super) fn removexattr(&mut self, who: &Caller, ino: Ino, name: &Bytes) -> OpResult {
        check(self.inode(ino)?, who, name, true)?;
        if self.inode_mut(ino)?.xattrs.remove(name).is_none() {
            return fail(ErrorKind::NoAttribute, "there is no such attribute");
        }
        Ok(OpReply::Attr(self.changed(ino)?))
    }

    pub(super) fn getxattr(&self, who: &Caller, ino: Ino, name: &Bytes) -> FsResult<Bytes> {
        let inode = self.inode(ino)?;
        check(inode, who, name, false)?;
        let value = inode.xattrs.get(name).cloned();
        value.ok_or_else(|| FsError::new(ErrorKind::NoAttribute, "there is no such attribute"))
    }

    pub(super) fn listxattr(&self, who: &Caller, ino: Ino) -> FsResult<Vec<Bytes>> {
        let names = self.inode(ino)?.xattrs.keys();
        Ok(names
            .filter(|name| access::is_root(who) || !name.starts_with(b"trusted."))
            .cloned()
            .collect())
    }
}
