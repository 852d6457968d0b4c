//! `dfs download`: copies files from DFS to this machine, in the manner of cp(1).
//!
//! Invariant: a local name shows the old content or the whole new one, also when the command is interrupted: content goes
//! into a temporary file beside it that is renamed when it is complete.

mod job;

use crate::args::{CopyArgs, DownloadArgs};
use crate::context::{Cluster, Context};
use crate::local::{Attributes, local_error};
use crate::path::DfsPath;
use crate::transfer::{About, Copied, Done, Transfers, blocking, unless};
use dfs_client::PathApi;
use dfs_common::attr::{Attr, FileKind};
use dfs_common::limits::READDIR_ENTRIES_MAX;
use dfs_common::{ErrorKind, FsError, FsResult};
use job::Job;
use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Runs the command.
///
/// # Errors
/// What ended it early.
pub async fn run(context: &Context, args: DownloadArgs) -> FsResult<()> {
    context.with_cluster(|cluster| all(context, args, cluster)).await
}

async fn all(context: &Context, args: DownloadArgs, cluster: Cluster) -> FsResult<()> {
    let mut download = Download {
        context,
        copy: args.copy,
        paths: cluster.paths,
        transfers: Transfers::new(context, args.copy.verbose, "download"),
        directories: Vec::new(),
    };
    let walked = download.sources(&args.sources, &args.destination).await;
    download.transfers.finish(walked).await
}

struct Download<'a> {
    context: &'a Context,
    copy: CopyArgs,
    paths: Arc<PathApi>,
    transfers: Transfers<'a>,
    /// Directories whose attributes are set when everything is in them.
    directories: Vec<(PathBuf, Attributes)>,
}

impl Download<'_> {
    async fn sources(&mut self, sources: &[DfsPath], destination: &Path) -> FsResult<()> {
        let into = destination.is_dir();
        let slash = destination.as_os_str().as_bytes().ends_with(b"/");
        let one_directory = sources.len() == 1 && self.copy.recursive && {
            let attr = unless(
                self.transfers.stop(),
                self.paths.stat(sources[0].as_bytes(), true),
            )
            .await;
            attr.is_ok_and(|attr| attr.kind == FileKind::Directory)
        };
        if !into && (sources.len() > 1 || slash && !one_directory) {
            return Err(FsError::new(
                ErrorKind::NotDirectory,
                format!("{} is no directory: make it first", destination.display()),
            ));
        }
        let mut targets = HashSet::new();
        for source in sources {
            let target = match source.name() {
                Some(name) if into => destination.join(OsStr::from_bytes(name)),
                _ => destination.to_owned(),
            };
            if !targets.insert(target.clone()) {
                let twice = FsError::new(ErrorKind::Exists, "another source has the same name");
                self.context.failed(source.as_bytes(), twice)?;
                continue;
            }
            self.tree(source, target).await?;
        }
        self.transfers.drain().await?;
        for (path, attributes) in std::mem::take(&mut self.directories).into_iter().rev() {
            let subject = path.clone();
            let applied = blocking(move || attributes.apply(&path, FileKind::Directory)).await;
            if let Err(error) = applied {
                self.context.failed(subject.as_os_str().as_bytes(), error)?;
            }
        }
        Ok(())
    }

    /// Copies a source with everything below.
    async fn tree(&mut self, source: &DfsPath, target: PathBuf) -> FsResult<()> {
        let stop = self.transfers.stop().clone();
        let follow = !self.copy.recursive || source.wants_directory();
        let attr = match unless(&stop, self.paths.stat(source.as_bytes(), follow)).await {
            Ok(attr) => attr,
            Err(error) => return self.context.failed(source.as_bytes(), error),
        };
        if attr.kind == FileKind::Directory && !self.copy.recursive {
            let refused = FsError::new(
                ErrorKind::IsDirectory,
                "is a directory: use -r to copy it with everything below",
            );
            return self.context.failed(source.as_bytes(), refused);
        }
        if source.wants_directory() && attr.kind != FileKind::Directory {
            return self
                .context
                .failed(source.as_bytes(), ErrorKind::NotDirectory.into());
        }
        let mut directories = Vec::new();
        if self.found(source.clone(), target.clone(), attr, true).await? {
            directories.push((source.clone(), target));
        }
        while let Some((source, target)) = directories.pop() {
            let mut cursor = 0;
            loop {
                let listing = self.paths.list(source.as_bytes(), cursor, READDIR_ENTRIES_MAX);
                let page = match unless(&stop, listing).await {
                    Ok(page) => page,
                    Err(error) => {
                        self.context.failed(source.as_bytes(), error)?;
                        break;
                    }
                };
                let last = page.entries.last().map(|entry| entry.cursor);
                for entry in page.entries {
                    let name = entry.name.as_bytes();
                    let (from, to) = (source.join(name), target.join(OsStr::from_bytes(name)));
                    let attr = match entry.attr {
                        Some(attr) => Ok(attr),
                        None => unless(&stop, self.paths.stat(from.as_bytes(), false)).await,
                    };
                    match attr {
                        Ok(attr) => {
                            if self.found(from.clone(), to.clone(), attr, false).await? {
                                directories.push((from, to));
                            }
                        }
                        Err(error) => self.context.failed(from.as_bytes(), error)?,
                    }
                }
                match last {
                    Some(last) if !page.end => cursor = last,
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// Copies one file, or makes a directory; true if that is there to be filled.
    async fn found(&mut self, source: DfsPath, target: PathBuf, attr: Attr, root: bool) -> FsResult<bool> {
        let from = source.as_bytes().to_vec();
        let to = target.as_os_str().as_bytes().to_vec();
        let job = self.job();
        match attr.kind {
            FileKind::Directory => {
                let made = self.directory(target, &attr, root).await;
                let is_there = made.is_ok();
                let result = made.map(|()| Copied::Directory).about(&to);
                self.transfers.record(Done {
                    source: from,
                    target: to,
                    result,
                })?;
                Ok(is_there)
            }
            FileKind::File | FileKind::Symlink => {
                if attr.kind == FileKind::File {
                    self.transfers.progress().expect(attr.size);
                }
                let copying = async move {
                    let result = match attr.kind {
                        FileKind::File => job.file(&source, &target, &attr).await,
                        _ => job.symlink(&source, &target, &attr).await,
                    };
                    Done {
                        source: from,
                        target: to,
                        result,
                    }
                };
                self.transfers.start(copying).await?;
                Ok(false)
            }
            _ => {
                let left_out = FsError::new(
                    ErrorKind::NotSupported,
                    "neither a regular file, a directory nor a symbolic link: left out",
                );
                self.context.failed(&from, left_out)?;
                Ok(false)
            }
        }
    }

    /// Makes a directory, or takes the one that is there. Below the one that the user named, links to directories are not
    /// followed: what is copied stays below it.
    async fn directory(&mut self, target: PathBuf, attr: &Attr, root: bool) -> FsResult<()> {
        let job = self.job();
        let wanted = attr.mode & 0o777 & !job.umask;
        let path = target.clone();
        let made = blocking(move || {
            // So that something can be put into it; the wanted mode comes last.
            match std::fs::DirBuilder::new().mode(wanted | 0o700).create(&path) {
                Ok(()) => Ok(true),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    let metadata = if root {
                        path.metadata()
                    } else {
                        path.symlink_metadata()
                    };
                    match metadata.map_err(local_error)?.is_dir() {
                        true => Ok(false),
                        false => Err(FsError::new(
                            ErrorKind::NotDirectory,
                            "exists and is no directory: a directory cannot replace it",
                        )),
                    }
                }
                Err(error) => Err(local_error(error)),
            }
        })
        .await?;
        if job.preserve || made && wanted & 0o700 != 0o700 {
            self.directories.push((target, job.attributes(attr)));
        }
        Ok(())
    }

    fn job(&self) -> Job {
        Job {
            paths: self.paths.clone(),
            stop: self.transfers.stop().clone(),
            progress: self.transfers.progress().clone(),
            overwrite: !self.copy.no_clobber,
            preserve: self.copy.preserve,
            as_root: self.context.caller.uid == 0,
            umask: self.context.umask,
        }
    }
}
