//! Extended attributes, with the rules of xattr(7) for the namespaces `user` and `trusted`.

use super::permission::{self, READ, WRITE};
use super::{Answer, Inode, Model};
use crate::call::{FsPath, Outcome};
use dfs_common::attr::FileKind;
use dfs_common::op::XattrMode;
use dfs_common::session::Caller;
use nix::libc;

/// May `who` read (or write, if `writing`) attribute `name`?
fn permitted(inode: &Inode, who: &Caller, name: &[u8], writing: bool) -> Result<(), i32> {
    if name.starts_with(b"trusted.") {
        return match (who.uid, writing) {
            (0, _) => Ok(()),
            (_, true) => Err(libc::EPERM),
            (_, false) => Err(libc::ENODATA),
        };
    }
    let wanted = if writing { WRITE } else { READ };
    if !name.starts_with(b"user.") {
        // The kernel asks for the permission before it looks for who might know the attribute.
        permission::check(inode, who, wanted)?;
        return Err(libc::EOPNOTSUPP);
    }
    if !matches!(inode.kind(), FileKind::File | FileKind::Directory) {
        return Err(if writing { libc::EPERM } else { libc::ENODATA });
    }
    let sticky = inode.kind() == FileKind::Directory && inode.mode & libc::S_ISVTX != 0;
    if sticky && writing && !permission::owns(inode, who) {
        return Err(libc::EPERM);
    }
    permission::check(inode, who, wanted)
}

impl Model {
    /// Paths and names of all extended attributes.
    pub fn attributes(&self) -> Vec<(FsPath, Vec<u8>)> {
        let mut found = Vec::new();
        for (path, _) in self.paths() {
            let ino = self.resolve(&Caller::root(), &path).expect("it was just listed");
            found.extend(
                self.inode(ino)
                    .xattrs
                    .keys()
                    .map(|name| (path.clone(), name.clone())),
            );
        }
        found
    }

    pub(super) fn setxattr(
        &mut self,
        who: &Caller,
        path: &FsPath,
        name: &[u8],
        value: &[u8],
        mode: XattrMode,
    ) -> Answer {
        let ino = self.resolve(who, path)?;
        permitted(self.inode(ino), who, name, true)?;
        match (mode, self.inode(ino).xattrs.contains_key(name)) {
            (XattrMode::Create, true) => return Err(libc::EEXIST),
            (XattrMode::Replace, false) => return Err(libc::ENODATA),
            _ => {}
        }
        self.inode_mut(ino).xattrs.insert(name.to_vec(), value.to_vec());
        self.attributes_changed(ino);
        Ok(Outcome::Done)
    }

    pub(super) fn getxattr(&mut self, who: &Caller, path: &FsPath, name: &[u8]) -> Answer {
        let inode = self.inode(self.resolve(who, path)?);
        permitted(inode, who, name, false)?;
        inode
            .xattrs
            .get(name)
            .cloned()
            .map(Outcome::Bytes)
            .ok_or(libc::ENODATA)
    }

    pub(super) fn listxattr(&mut self, who: &Caller, path: &FsPath) -> Answer {
        let inode = self.inode(self.resolve(who, path)?);
        let visible = inode
            .xattrs
            .keys()
            .filter(|name| who.uid == 0 || !name.starts_with(b"trusted."));
        Ok(Outcome::Names(visible.cloned().collect()))
    }

    pub(super) fn removexattr(&mut self, who: &Caller, path: &FsPath, name: &[u8]) -> Answer {
        let ino = self.resolve(who, path)?;
        permitted(self.inode(ino), who, name, true)?;
        self.inode_mut(ino).xattrs.remove(name).ok_or(libc::ENODATA)?;
        self.attributes_changed(ino);
        Ok(Outcome::Done)
    }
}
