//! Whole trees: making the directories of a path, removing everything below one.

use super::PathApi;
use dfs_common::attr::{Attr, FileKind};
use dfs_common::limits::READDIR_ENTRIES_MAX;
use dfs_common::name::Name;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};

/// Deepest tree that is removed.
const DEPTH_MAX: usize = 4096;

/// A directory being emptied.
struct Level {
    ino: Ino,
    parent: Ino,
    name: Name,
    /// Length of the path up to and with this directory.
    path: usize,
    cursor: u64,
    /// Something was removed since the listing began.
    removed: bool,
}

impl PathApi {
    pub(super) async fn make_directories(&self, path: &[u8], mode: u32) -> FsResult<Attr> {
        let mut made = self.find(b"/", true).await?.attr;
        let mut end = 0;
        while end < path.len() {
            let start = end;
            end = path[start + 1..]
                .iter()
                .position(|byte| *byte == b'/')
                .map_or(path.len(), |at| start + 1 + at);
            let prefix = &path[..end];
            made = match self.mkdir_one(prefix, mode).await {
                Ok(attr) => attr,
                Err(error) if error.kind() == ErrorKind::Exists => {
                    let found = self.find(prefix, true).await?.attr;
                    if found.kind != FileKind::Directory {
                        return Err(error.context(prefix.escape_ascii()));
                    }
                    found
                }
                Err(error) => return Err(error),
            };
        }
        Ok(made)
    }

    async fn mkdir_one(&self, path: &[u8], mode: u32) -> FsResult<Attr> {
        let place = self.place(path).await?;
        let (parent, name) = place.named(ErrorKind::Exists)?;
        Ok(self.client.mkdir(&self.caller, parent, name, mode).await?.attr)
    }

    /// Removes `path` and everything below it, never following a link; answers how many names were removed, and tells
    /// `on_removed` each path. Constant memory per level. Names that others remove meanwhile are no error.
    pub async fn remove_tree(
        &self,
        path: &[u8],
        on_removed: &mut (dyn FnMut(&[u8]) + Send),
    ) -> FsResult<u64> {
        let place = self.place(path).await?;
        let (parent, name) = place.named(ErrorKind::Busy)?;
        let found = self.client.lookup(&self.caller, parent, name).await?.attr;
        let mut at = path.to_vec();
        while at.len() > 1 && at.last() == Some(&b'/') {
            at.pop();
        }
        if found.kind != FileKind::Directory {
            self.remove(path).await?;
            on_removed(&at);
            return Ok(1);
        }
        let mut count = 0;
        let mut levels = vec![Level {
            ino: found.ino,
            parent,
            name: name.clone(),
            path: at.len(),
            cursor: 0,
            removed: false,
        }];
        while let Some(level) = levels.last_mut() {
            at.truncate(level.path);
            let page = self
                .client
                .readdir(&self.caller, level.ino, level.cursor, READDIR_ENTRIES_MAX, false)
                .await?;
            let mut below = None;
            for entry in page.entries {
                level.cursor = entry.cursor;
                at.truncate(level.path);
                at.push(b'/');
                at.extend_from_slice(entry.name.as_bytes());
                if entry.kind == FileKind::Directory {
                    below = Some((entry.ino, entry.name));
                    break;
                }
                let unlinked = self.client.unlink(&self.caller, level.ino, &entry.name).await;
                if gone(unlinked, &at)? {
                    level.removed = true;
                    count += 1;
                    on_removed(&at);
                }
            }
            if let Some((ino, name)) = below {
                if levels.len() >= DEPTH_MAX {
                    return Err(FsError::new(
                        ErrorKind::TooBig,
                        "the tree is too deep to be removed",
                    ));
                }
                let parent = levels.last().expect("it is not empty").ino;
                let path = at.len();
                levels.push(Level {
                    ino,
                    parent,
                    name,
                    path,
                    cursor: 0,
                    removed: false,
                });
                continue;
            }
            if !page.end {
                continue;
            }
            at.truncate(level.path);
            match self.client.rmdir(&self.caller, level.parent, &level.name).await {
                // Somebody added names meanwhile: once more, as long as that makes progress.
                Err(error) if error.kind() == ErrorKind::NotEmpty && level.removed => {
                    level.cursor = 0;
                    level.removed = false;
                    continue;
                }
                outcome => {
                    if gone(outcome, &at)? {
                        count += 1;
                        on_removed(&at);
                    }
                }
            }
            levels.pop();
            if let Some(above) = levels.last_mut() {
                above.removed = true;
            }
        }
        Ok(count)
    }
}

/// False if somebody else removed it before.
fn gone(outcome: FsResult<()>, path: &[u8]) -> FsResult<bool> {
    match outcome {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error.context(path.escape_ascii())),
    }
}
