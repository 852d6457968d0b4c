//! Walking through local files.
//!
//! Invariant: a directory comes before what is in it; memory grows with the directories still to be read, not with files.

use crate::local::local_error;
use crate::path::DfsPath;
use crate::transfer::{About, Failure};
use dfs_common::{ErrorKind, FsError};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tokio::sync::mpsc;

/// A local file that the walk came upon.
pub(super) struct Found {
    /// Where it is.
    pub(super) local: PathBuf,
    /// Where it goes.
    pub(super) target: DfsPath,
    /// Its own, or that of what a link points to if the link was named and is to be followed.
    pub(super) metadata: Metadata,
    /// It was named by the user.
    pub(super) root: bool,
}

/// Finds `source` and everything below, directories before what is in them. Ends when nobody receives.
pub(super) fn walk(
    source: PathBuf,
    target: DfsPath,
    recursive: bool,
    sink: &mpsc::Sender<Result<Found, Failure>>,
) {
    let look = |local: &Path, follow: bool| {
        let metadata = if follow {
            local.metadata()
        } else {
            local.symlink_metadata()
        };
        metadata.map_err(local_error).about(local.as_os_str().as_bytes())
    };
    let metadata = look(&source, !recursive).and_then(|metadata| match metadata.is_dir() && !recursive {
        true => Err(FsError::new(
            ErrorKind::IsDirectory,
            "is a directory: use -r to copy it with everything below",
        ))
        .about(source.as_os_str().as_bytes()),
        false => Ok(metadata),
    });
    let is_directory = metadata.as_ref().is_ok_and(Metadata::is_dir);
    let root = metadata.map(|metadata| Found {
        local: source.clone(),
        target: target.clone(),
        metadata,
        root: true,
    });
    if sink.blocking_send(root).is_err() || !is_directory {
        return;
    }
    let mut directories = vec![(source, target)];
    while let Some((local, target)) = directories.pop() {
        let entries = match std::fs::read_dir(&local) {
            Ok(entries) => entries,
            Err(error) => {
                let failure = Err(local_error(error)).about(local.as_os_str().as_bytes());
                match sink.blocking_send(failure) {
                    Ok(()) => continue,
                    Err(_) => return,
                }
            }
        };
        for entry in entries {
            let found = entry
                .map_err(local_error)
                .about(local.as_os_str().as_bytes())
                .and_then(|entry| {
                    let metadata = look(&entry.path(), false)?;
                    Ok(Found {
                        local: entry.path(),
                        target: target.join(entry.file_name().as_bytes()),
                        metadata,
                        root: false,
                    })
                });
            if let Ok(found) = &found
                && found.metadata.is_dir()
            {
                directories.push((found.local.clone(), found.target.clone()));
            }
            if sink.blocking_send(found).is_err() {
                return;
            }
        }
    }
}
