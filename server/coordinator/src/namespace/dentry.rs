//! Directory entries: one record by name, one by cursor. Invariant: neither exists without the other.

use super::txn::Txn;
use super::{damaged, keys};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::{FileKind, FsResult, Ino, Name};
use dfs_proto::v1;
use prost::Message;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dentry {
    /// Inode.
    pub ino: Ino,
    /// Its kind.
    pub kind: FileKind,
    /// Place in listings.
    pub cursor: u64,
}

/// The entry `name` of `parent`, if there is one.
pub fn find(read: &dyn MetaRead, parent: Ino, name: &Name) -> FsResult<Option<Dentry>> {
    read.get(&keys::dentry(parent, name))?.map(decode).transpose()
}

/// Reads the value of an entry by name.
pub fn decode(value: Bytes) -> FsResult<Dentry> {
    let record = v1::StoredDentry::decode(value).map_err(|_| damaged("directory entry"))?;
    Ok(Dentry {
        ino: Ino(record.ino),
        kind: kind(record.kind)?,
        cursor: record.cursor,
    })
}

/// Reads the value of an entry by cursor: its name, inode and kind.
pub fn decode_cursor(value: Bytes) -> FsResult<(Name, Ino, FileKind)> {
    let record = v1::StoredCursor::decode(value).map_err(|_| damaged("directory entry"))?;
    let name = Name::new(record.name).map_err(|_| damaged("directory entry"))?;
    Ok((name, Ino(record.ino), kind(record.kind)?))
}

fn kind(code: u32) -> FsResult<FileKind> {
    FileKind::from_code(code).ok_or_else(|| damaged("directory entry"))
}

/// Writes an entry, new or in the place of one with the same name and cursor.
pub fn put(txn: &mut Txn<'_>, parent: Ino, name: &Name, entry: &Dentry) {
    let by_name = v1::StoredDentry {
        ino: entry.ino.0,
        kind: entry.kind.code(),
        cursor: entry.cursor,
    };
    let by_cursor = v1::StoredCursor {
        name: name.bytes().clone(),
        ino: entry.ino.0,
        kind: entry.kind.code(),
    };
    txn.put(keys::dentry(parent, name), Bytes::from(by_name.encode_to_vec()));
    txn.put(
        keys::cursor(parent, entry.cursor),
        Bytes::from(by_cursor.encode_to_vec()),
    );
}

/// Takes an entry away.
pub fn remove(txn: &mut Txn<'_>, parent: Ino, name: &Name, cursor: u64) {
    txn.delete(keys::dentry(parent, name));
    txn.delete(keys::cursor(parent, cursor));
}
