//! Which files refer to given chunks, and where they are.

use super::LostFile;
use crate::namespace::inode::Inode;
use crate::namespace::{dentry, extents, keys};
use crate::store::MetaRead;
use crate::stored;
use bytes::Bytes;
use dfs_common::extent::ExtentData;
use dfs_common::limits::FSCK_LOST_FILES_MAX;
use dfs_common::{ChunkId, FsResult, Ino, Name};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

/// A way up that is longer is one of a damaged store.
const DEPTH_MAX: usize = 4096;

#[derive(Default)]
struct Lost {
    chunks: HashSet<ChunkId>,
    bytes: u64,
}

/// The files whose maps refer to one of `lost`, as many as are named. Records that cannot be read are passed over.
pub(super) fn files_with(read: &dyn MetaRead, lost: &HashSet<ChunkId>) -> FsResult<Vec<LostFile>> {
    let mut maps: HashMap<u64, Lost> = HashMap::new();
    stored::for_each(read, keys::extents(), |key, value| {
        if let (Some((map, _)), Ok(extent)) = (keys::parse_extent(&key), extents::decode(&key, value))
            && let ExtentData::Chunk { chunk, .. } = extent.data
            && lost.contains(&chunk)
        {
            let of = maps.entry(map).or_default();
            of.chunks.insert(chunk);
            of.bytes += extent.length;
        }
        Ok(())
    })?;
    let mut files: BTreeMap<Ino, LostFile> = BTreeMap::new();
    stored::for_each(read, keys::inodes(), |_, value| {
        if let Ok(inode) = Inode::decode(value)
            && files.len() < FSCK_LOST_FILES_MAX
            && let Some(lost) = maps.get(&inode.map())
        {
            let file = LostFile {
                ino: inode.ino(),
                path: None,
                chunks: lost.chunks.len() as u64,
                bytes: lost.bytes,
            };
            files.insert(inode.ino(), file);
        }
        Ok(())
    })?;
    let mut names: HashMap<Ino, (Ino, Name)> = HashMap::new();
    stored::for_each(read, keys::dentries(), |key, value| {
        if let (Some((parent, name)), Ok(entry)) = (keys::parse_dentry(&key), dentry::decode(value))
            && files.contains_key(&entry.ino)
        {
            names.entry(entry.ino).or_insert((parent, name));
        }
        Ok(())
    })?;
    let mut directories = HashMap::new();
    for (ino, (parent, name)) in names {
        let path = path_of(read, &mut directories, parent, &name)?;
        if let Some(file) = files.get_mut(&ino) {
            file.path = path;
        }
    }
    Ok(files.into_values().collect())
}

/// The path of the entry `name` of `parent`; `None` if the way up does not end at the root.
fn path_of(
    read: &dyn MetaRead,
    known: &mut HashMap<Ino, Option<(Ino, Name)>>,
    parent: Ino,
    name: &Name,
) -> FsResult<Option<Vec<u8>>> {
    let mut parts = vec![name.clone()];
    let mut at = parent;
    while at != Ino::ROOT {
        let place = match known.entry(at) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(place_of(read, at)?),
        };
        let Some((above, name)) = place else {
            return Ok(None);
        };
        parts.push(name.clone());
        at = *above;
        if parts.len() > DEPTH_MAX {
            return Ok(None);
        }
    }
    let mut path = Vec::new();
    for part in parts.iter().rev() {
        path.push(b'/');
        path.extend(part.as_bytes());
    }
    Ok(Some(path))
}

/// The directory that holds the directory `ino`, and its name there.
fn place_of(read: &dyn MetaRead, ino: Ino) -> FsResult<Option<(Ino, Name)>> {
    let Ok(Some(inode)) = Inode::find(read, ino) else {
        return Ok(None);
    };
    let mut found = None;
    let (start, end) = keys::cursors_after(inode.parent, 0);
    stored::for_each(read, (start, end), |_: Bytes, value| {
        if let Ok((name, entry, _)) = dentry::decode_cursor(value)
            && entry == ino
        {
            found = Some((inode.parent, name));
        }
        Ok(())
    })?;
    Ok(found)
}
