//! Extended attributes, with the rules of xattr(7).
//!
//! `user.*` follows the permission bits of files and directories, `trusted.*` is root's, `security.*` is read by all and
//! written by root, and nothing else exists (POSIX ACLs in `system.*` are not supported).

use super::inode::Inode;
use super::permission::{self, READ, STICKY, WRITE};
use super::txn::Txn;
use super::{damaged, keys};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::limits::{
    NAME_BYTES_MAX, XATTR_INODE_BYTES_MAX, XATTR_LIST_BYTES_MAX, XATTR_VALUE_BYTES_MAX,
};
use dfs_common::session::Caller;
use dfs_common::{ErrorKind, FileKind, FsError, FsResult};

/// Attributes read at once.
const PAGE: usize = 256;

fn no_attribute() -> FsError {
    FsError::new(ErrorKind::NoAttribute, "no such extended attribute")
}

/// Checks that `caller` may read attribute `name`, or write it.
///
/// # Errors
/// `Range` (the name is too long), `NotSupported` (namespace), `NotPermitted`, `PermissionDenied`, `NoAttribute` (hidden).
pub fn check_access(inode: &Inode, caller: &Caller, name: &[u8], writing: bool) -> FsResult<()> {
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(&0) {
        return Err(FsError::new(
            ErrorKind::Range,
            "the name of an extended attribute has 1 to 255 bytes, none of them NUL",
        ));
    }
    let refuse = |what: &'static str| {
        Err(if writing {
            permission::not_permitted(what)
        } else {
            no_attribute()
        })
    };
    let in_namespace = |prefix: &[u8]| name.strip_prefix(prefix);
    if let Some(rest) = in_namespace(b"trusted.") {
        check_rest(rest)?;
        return match caller.uid {
            0 => Ok(()),
            _ => refuse("trusted attributes are root's"),
        };
    }
    if let Some(rest) = in_namespace(b"security.") {
        check_rest(rest)?;
        return match caller.uid == 0 || !writing {
            true => Ok(()),
            false => refuse("security attributes are written by root"),
        };
    }
    let wanted = if writing { WRITE } else { READ };
    let Some(rest) = in_namespace(b"user.") else {
        // Linux asks for the permission before it looks for who might know the attribute, but not in `system`.
        if in_namespace(b"system.").is_none() {
            permission::check(&inode.attr, caller, wanted)?;
        }
        return Err(FsError::new(
            ErrorKind::NotSupported,
            "extended attributes are in the namespaces user, trusted and security",
        ));
    };
    check_rest(rest)?;
    if !matches!(inode.attr.kind, FileKind::File | FileKind::Directory) {
        return refuse("only files and directories have user attributes");
    }
    let sticky = inode.is_directory() && inode.attr.mode & STICKY != 0;
    if sticky && writing && !permission::owns(&inode.attr, caller) {
        return refuse("only its owner writes user attributes of a sticky directory");
    }
    permission::check(&inode.attr, caller, wanted)
}

fn check_rest(rest: &[u8]) -> FsResult<()> {
    match rest.is_empty() {
        true => Err(FsError::new(
            ErrorKind::Invalid,
            "the name of an extended attribute goes on after its namespace",
        )),
        false => Ok(()),
    }
}

/// True if listings show the attribute to `caller`.
pub fn is_listed(name: &[u8], caller: &Caller) -> bool {
    caller.uid == 0 || !name.starts_with(b"trusted.")
}

/// The value of attribute `name`.
///
/// # Errors
/// `NoAttribute`.
pub fn value(read: &dyn MetaRead, inode: &Inode, name: &[u8]) -> FsResult<Bytes> {
    if inode.xattr_list_bytes == 0 {
        return Err(no_attribute());
    }
    read.get(&keys::xattr(inode.ino(), name))?
        .ok_or_else(no_attribute)
}

/// Sets an attribute whose present value, if any, is `before`. The inode is changed, not written.
///
/// # Errors
/// `TooBig` (value), `NoSpace` (all attributes of the inode together).
pub fn put(
    txn: &mut Txn<'_>,
    inode: &mut Inode,
    name: &[u8],
    before: Option<&Bytes>,
    value: &Bytes,
) -> FsResult<()> {
    if value.len() > XATTR_VALUE_BYTES_MAX {
        return Err(FsError::new(
            ErrorKind::TooBig,
            format!("the value of an extended attribute has at most {XATTR_VALUE_BYTES_MAX} bytes"),
        ));
    }
    let mut list_bytes = inode.xattr_list_bytes;
    let mut value_bytes = inode.xattr_value_bytes + value.len() as u64;
    match before {
        Some(before) => value_bytes = value_bytes.saturating_sub(before.len() as u64),
        None => list_bytes += name.len() as u64 + 1,
    }
    if list_bytes > XATTR_LIST_BYTES_MAX as u64 || list_bytes + value_bytes > XATTR_INODE_BYTES_MAX {
        return Err(FsError::new(
            ErrorKind::NoSpace,
            "the inode has no room for more extended attributes: remove some first",
        ));
    }
    inode.xattr_list_bytes = list_bytes;
    inode.xattr_value_bytes = value_bytes;
    txn.put(keys::xattr(inode.ino(), name), value.clone());
    Ok(())
}

/// Removes an attribute whose value is `before`. The inode is changed, not written.
pub fn remove(txn: &mut Txn<'_>, inode: &mut Inode, name: &[u8], before: &Bytes) {
    inode.xattr_list_bytes = inode.xattr_list_bytes.saturating_sub(name.len() as u64 + 1);
    inode.xattr_value_bytes = inode.xattr_value_bytes.saturating_sub(before.len() as u64);
    txn.delete(keys::xattr(inode.ino(), name));
}

/// All names, in order.
pub fn names(read: &dyn MetaRead, inode: &Inode) -> FsResult<Vec<Bytes>> {
    let mut names = Vec::new();
    if inode.xattr_list_bytes == 0 {
        return Ok(names);
    }
    let (mut start, end) = keys::xattrs_of(inode.ino());
    loop {
        let page = read.scan(&start, &end, PAGE)?;
        let whole = page.len() == PAGE;
        for (key, _) in &page {
            let (_, name) = keys::parse_xattr(key).ok_or_else(|| damaged("extended attribute"))?;
            names.push(name);
        }
        match page.last() {
            Some((last, _)) if whole => start = Bytes::from([&last[..], b"\0"].concat()),
            _ => return Ok(names),
        }
    }
}

/// Removes all attributes of an inode that goes.
pub fn remove_all(txn: &mut Txn<'_>, inode: &Inode) -> FsResult<()> {
    for name in names(txn, inode)? {
        txn.delete(keys::xattr(inode.ino(), &name));
    }
    Ok(())
}
