//! The inode record, and how a new inode gets its owner, group and mode.

use super::txn::Txn;
use super::{ApplyContext, counters, damaged, dentry, directory, keys, names, permission};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::session::Caller;
use dfs_common::{Attr, ErrorKind, FileKind, FsError, FsResult, Ino, Name, Timestamp};
use dfs_proto::{convert, v1};
use prost::Message;

/// An inode as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inode {
    /// What stat shows.
    pub attr: Attr,
    /// Of a directory: the one that holds it; the root is its own. Of anything else: the one in which it is counted
    /// ([`super::names`]), or was when it lost its last name.
    pub parent: Ino,
    /// Of a symbolic link.
    pub target: Bytes,
    /// Sum of its inline extents.
    pub inline_bytes: u64,
    /// Names of its extended attributes, each with a NUL, as listxattr(2) counts.
    pub xattr_list_bytes: u64,
    /// Values of its extended attributes.
    pub xattr_value_bytes: u64,
    /// Number under which its extents are kept; 0: its own.
    pub map: u64,
}

impl Inode {
    /// A new inode without content.
    pub fn new(attr: Attr, parent: Ino) -> Self {
        Inode {
            attr,
            parent,
            target: Bytes::new(),
            inline_bytes: 0,
            xattr_list_bytes: 0,
            xattr_value_bytes: 0,
            map: 0,
        }
    }

    /// The record of `ino`, if there is one.
    pub fn find(read: &dyn MetaRead, ino: Ino) -> FsResult<Option<Inode>> {
        read.get(&keys::inode(ino))?.map(Inode::decode).transpose()
    }

    /// The record of `ino`.
    ///
    /// # Errors
    /// `Stale` if the inode is gone.
    pub fn get(read: &dyn MetaRead, ino: Ino) -> FsResult<Inode> {
        Inode::find(read, ino)?.ok_or_else(|| {
            FsError::new(
                ErrorKind::Stale,
                format!("inode {ino} is gone: look its name up again"),
            )
        })
    }

    /// The record of a directory.
    ///
    /// # Errors
    /// `Stale`, `NotDirectory`.
    pub fn directory(read: &dyn MetaRead, ino: Ino) -> FsResult<Inode> {
        let inode = Inode::get(read, ino)?;
        if !inode.is_directory() {
            return Err(FsError::new(
                ErrorKind::NotDirectory,
                format!("inode {ino} is not a directory"),
            ));
        }
        Ok(inode)
    }

    /// Reads a record's value.
    pub fn decode(value: Bytes) -> FsResult<Inode> {
        let record = v1::StoredInode::decode(value).map_err(|_| damaged("inode"))?;
        let attr = record.attr.ok_or_else(|| damaged("inode"))?;
        Ok(Inode {
            attr: convert::attr_from_wire(attr).map_err(|_| damaged("inode"))?,
            parent: Ino(record.parent),
            target: record.symlink_target,
            inline_bytes: record.inline_bytes,
            xattr_list_bytes: record.xattr_list_bytes,
            xattr_value_bytes: record.xattr_value_bytes,
            map: record.map,
        })
    }

    /// Writes the record.
    pub fn put(&self, txn: &mut Txn<'_>) {
        let record = v1::StoredInode {
            attr: Some(convert::attr_to_wire(&self.attr)),
            parent: self.parent.0,
            symlink_target: self.target.clone(),
            inline_bytes: self.inline_bytes,
            xattr_list_bytes: self.xattr_list_bytes,
            xattr_value_bytes: self.xattr_value_bytes,
            map: self.map,
        };
        txn.put(keys::inode(self.attr.ino), Bytes::from(record.encode_to_vec()));
    }

    /// Its number.
    pub fn ino(&self) -> Ino {
        self.attr.ino
    }

    /// True of directories.
    pub fn is_directory(&self) -> bool {
        self.attr.kind == FileKind::Directory
    }

    /// Number under which its extents are kept.
    pub fn map(&self) -> u64 {
        if self.map == 0 { self.attr.ino.0 } else { self.map }
    }

    /// Its content changed.
    pub fn touch(&mut self, now: Timestamp) {
        self.attr.mtime = now;
        self.attr.ctime = now;
    }
}

/// What a new inode shall be.
pub struct NewInode {
    /// Kind.
    pub kind: FileKind,
    /// Permission, set-id and sticky bits.
    pub mode: u32,
    /// Device number, of device nodes.
    pub rdev: u32,
    /// Target, of symbolic links.
    pub target: Bytes,
}

/// Makes an inode and its name in `parent`, which is written too. A set-group-ID directory gives its group to what is made
/// in it, and its own set-group-ID bit to directories (inode(7)).
pub fn make(
    txn: &mut Txn<'_>,
    ctx: &ApplyContext<'_>,
    caller: &Caller,
    parent: &mut Inode,
    name: &Name,
    new: NewInode,
) -> FsResult<Inode> {
    let is_directory = new.kind == FileKind::Directory;
    let (mut mode, mut gid) = (new.mode, caller.gid);
    if parent.attr.mode & permission::SET_GID != 0 {
        gid = parent.attr.gid;
        let executable = permission::SET_GID | permission::GROUP_EXECUTE;
        if is_directory {
            mode |= permission::SET_GID;
        } else if mode & executable == executable && !permission::in_group_or_root(gid, caller) {
            mode &= !permission::SET_GID;
        }
    }
    let mut counters = counters::get(txn)?;
    let number = counters::take_number(&mut counters)?;
    counters.inodes += 1;
    counters::put(txn, &counters);
    let attr = Attr {
        ino: Ino(number),
        generation: 1,
        kind: new.kind,
        mode,
        nlink: if is_directory { 2 } else { 1 },
        uid: caller.uid,
        gid,
        rdev: new.rdev,
        size: new.target.len() as u64,
        allocated_bytes: 0,
        atime: ctx.now,
        mtime: ctx.now,
        ctime: ctx.now,
        btime: ctx.now,
        map_version: 0,
    };
    let inode = Inode {
        target: new.target,
        ..Inode::new(attr, parent.ino())
    };
    inode.put(txn);
    names::made(txn, &inode, parent.ino())?;
    // The number is new, so it serves as the entry's cursor as well.
    let entry = dentry::Dentry {
        ino: inode.ino(),
        kind: new.kind,
        cursor: number,
    };
    if is_directory {
        directory::add_subdirectory(parent)?;
    }
    directory::add_entry(txn, parent, name, &entry, ctx.now);
    parent.put(txn);
    Ok(inode)
}
