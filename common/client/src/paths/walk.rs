//! From a path to an inode, as path_resolution(7) has it.

use super::PathApi;
use crate::types::Entry;
use dfs_common::attr::FileKind;
use dfs_common::name::Name;
use dfs_common::{ErrorKind, FsError, FsResult, Ino};
use std::collections::VecDeque;

/// Longest path, as Linux's `PATH_MAX` with its NUL.
const PATH_BYTES_MAX: usize = 4096;
/// Symbolic links followed in one path, as Linux has it.
const LINKS_MAX: u32 = 40;

/// Where a path's last name is, or would be.
pub(super) struct Place {
    pub(super) parent: Ino,
    /// None for a path that ends in `.`, `..` or `/`.
    pub(super) name: Option<Name>,
    /// A trailing slash says that it must be a directory.
    pub(super) directory: bool,
    path: String,
}

impl Place {
    /// Directory and name.
    ///
    /// # Errors
    /// `unnamed` if the path has no last name.
    pub(super) fn named(&self, unnamed: ErrorKind) -> FsResult<(Ino, &Name)> {
        match &self.name {
            Some(name) => Ok((self.parent, name)),
            None => Err(FsError::new(
                unnamed,
                format!("{}: name something other than /, . or ..", self.path),
            )),
        }
    }
}

pub(super) fn not_directory(path: &[u8]) -> FsError {
    FsError::new(
        ErrorKind::NotDirectory,
        format!("{} is not a directory", path.escape_ascii()),
    )
}

enum Step {
    Name(Name),
    Up,
}

/// Steps of a path and whether it ends like a directory.
fn steps(path: &[u8]) -> FsResult<(VecDeque<Step>, bool)> {
    if path.len() >= PATH_BYTES_MAX {
        return Err(FsError::new(
            ErrorKind::NameTooLong,
            "a path has less than 4096 bytes",
        ));
    }
    let mut steps = VecDeque::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => steps.push_back(Step::Up),
            name => steps.push_back(Step::Name(Name::new(name.to_vec())?)),
        }
    }
    let directory = matches!(path.rsplit(|byte| *byte == b'/').next(), Some(b"" | b"." | b".."));
    Ok((steps, directory))
}

/// Directories from the root down to where a walk is.
struct Walk {
    above: Vec<Ino>,
    links: u32,
}

impl PathApi {
    /// The inode at `path`.
    pub(super) async fn find(&self, path: &[u8], follow: bool) -> FsResult<Entry> {
        let (mut todo, directory) = steps(path)?;
        let mut walk = Walk {
            above: vec![Ino::ROOT],
            links: 0,
        };
        let context = |error: FsError| error.context(path.escape_ascii());
        let last = self
            .walk(&mut walk, &mut todo, follow || directory, false)
            .await
            .map_err(context)?;
        let found = match last {
            Some(Step::Name(name)) => {
                let parent = *walk.above.last().expect("the root is never left");
                self.client
                    .lookup(&self.caller, parent, &name)
                    .await
                    .map_err(context)?
            }
            _ => {
                let here = *walk.above.last().expect("the root is never left");
                self.client.getattr(here).await.map_err(context)?
            }
        };
        if directory && found.attr.kind != FileKind::Directory {
            return Err(not_directory(path));
        }
        Ok(found)
    }

    /// Where `path`'s last name is, or would be. The last name is not looked up.
    pub(super) async fn place(&self, path: &[u8]) -> FsResult<Place> {
        let (mut todo, directory) = steps(path)?;
        let mut walk = Walk {
            above: vec![Ino::ROOT],
            links: 0,
        };
        let last = self.walk(&mut walk, &mut todo, false, true).await;
        let last = last.map_err(|error| error.context(path.escape_ascii()))?;
        let ends_in_dots = matches!(
            path.rsplit(|byte| *byte == b'/').find(|part| !part.is_empty()),
            Some(b"." | b"..")
        );
        Ok(Place {
            parent: *walk.above.last().expect("the root is never left"),
            name: match last {
                Some(Step::Name(name)) if !ends_in_dots => Some(name),
                _ => None,
            },
            directory,
            path: path.escape_ascii().to_string(),
        })
    }

    /// Walks all but the last name, which it answers; with `follow_last` that is not a link. `keep_last`: it may be absent.
    async fn walk(
        &self,
        walk: &mut Walk,
        todo: &mut VecDeque<Step>,
        follow_last: bool,
        keep_last: bool,
    ) -> FsResult<Option<Step>> {
        while let Some(step) = todo.pop_front() {
            let name = match step {
                Step::Up => {
                    if walk.above.len() > 1 {
                        walk.above.pop();
                    }
                    continue;
                }
                Step::Name(name) => name,
            };
            let last = todo.is_empty();
            if last && (keep_last || !follow_last) {
                return Ok(Some(Step::Name(name)));
            }
            let parent = *walk.above.last().expect("the root is never left");
            let found = self.client.lookup(&self.caller, parent, &name).await?.attr;
            match found.kind {
                FileKind::Symlink => {
                    walk.links += 1;
                    if walk.links > LINKS_MAX {
                        return Err(FsError::new(ErrorKind::Loop, "too many symbolic links"));
                    }
                    let target = self.client.readlink(found.ino).await?;
                    if target.first() == Some(&b'/') {
                        walk.above.truncate(1);
                    }
                    let (more, _) = steps(&target)?;
                    for step in more.into_iter().rev() {
                        todo.push_front(step);
                    }
                }
                FileKind::Directory => walk.above.push(found.ino),
                _ if last => return Ok(Some(Step::Name(name))),
                _ => return Err(not_directory(name.as_bytes())),
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_bounded_and_cut_at_slashes() {
        let count = |path: &[u8]| steps(path).map(|(steps, directory)| (steps.len(), directory));
        assert_eq!(count(b"/").unwrap(), (0, true));
        assert_eq!(count(b"//a/./b").unwrap(), (2, false));
        assert_eq!(count(b"a/../").unwrap(), (2, true));
        assert_eq!(count(&[b'/'; 4096]).unwrap_err().kind(), ErrorKind::NameTooLong);
        assert_eq!(count(&[b'x'; 256]).unwrap_err().kind(), ErrorKind::NameTooLong);
    }
}
