//! `dfs upload`: copies local files into DFS, in the manner of cp(1).
//!
//! Invariant: a name in DFS shows the old content or the whole new one, also when the command is interrupted: content goes
//! under a temporary name that is renamed when it is durable.

mod job;
mod walk;

use crate::args::{CopyArgs, UploadArgs};
use crate::context::{Cluster, Context};
use crate::local::kind_of;
use crate::path::{DfsPath, base_name};
use crate::transfer::{About, Copied, Done, Failure, Transfers, unless};
use dfs_common::attr::{FileKind, SetAttr};
use dfs_common::{ErrorKind, FsError, FsResult};
use job::Job;
use std::collections::HashSet;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use tokio::sync::mpsc;
use walk::{Found, walk};

/// Files that the walk may be ahead of the copying.
const WALK_QUEUE: usize = 64;

/// Runs the command.
///
/// # Errors
/// What ended it early.
pub async fn run(context: &Context, args: UploadArgs) -> FsResult<()> {
    context.with_cluster(|cluster| all(context, args, cluster)).await
}

async fn all(context: &Context, args: UploadArgs, cluster: Cluster) -> FsResult<()> {
    let mut upload = Upload {
        context,
        copy: args.copy,
        cluster,
        transfers: Transfers::new(context, args.copy.verbose, "upload"),
        directories: Vec::new(),
        missing: Vec::new(),
    };
    let walked = upload.sources(&args.sources, &args.destination).await;
    upload.transfers.finish(walked).await
}

struct Upload<'a> {
    context: &'a Context,
    copy: CopyArgs,
    cluster: Cluster,
    transfers: Transfers<'a>,
    /// Directories whose attributes are set when everything is in them.
    directories: Vec<(DfsPath, SetAttr)>,
    /// Directories that could not be made: what is below is passed over.
    missing: Vec<DfsPath>,
}

impl Upload<'_> {
    async fn sources(&mut self, sources: &[PathBuf], destination: &DfsPath) -> FsResult<()> {
        let stop = self.transfers.stop().clone();
        let into = match unless(&stop, self.cluster.paths.stat(destination.as_bytes(), true)).await {
            Ok(attr) => attr.kind == FileKind::Directory,
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            Err(error) => return Err(error.context(destination)),
        };
        let one_directory = sources.len() == 1 && self.copy.recursive && sources[0].is_dir();
        if !into && (sources.len() > 1 || destination.wants_directory() && !one_directory) {
            return Err(FsError::new(
                ErrorKind::NotDirectory,
                format!("{destination} is no directory: make it first with `dfs mkdir`"),
            ));
        }
        let mut targets = HashSet::new();
        for source in sources {
            let target = match base_name(source.as_os_str().as_bytes()) {
                Some(name) if into => destination.join(name),
                _ => destination.clone(),
            };
            if !targets.insert(target.clone()) {
                let twice = FsError::new(ErrorKind::Exists, "another source has the same name");
                self.context.failed(source.as_os_str().as_bytes(), twice)?;
                continue;
            }
            self.tree(source.clone(), target).await?;
        }
        self.transfers.drain().await?;
        for (path, set) in std::mem::take(&mut self.directories).into_iter().rev() {
            if let Err(error) = unless(
                &stop,
                self.cluster.paths.set_attributes(path.as_bytes(), set, true),
            )
            .await
            {
                self.context.failed(path.as_bytes(), error)?;
            }
        }
        Ok(())
    }

    /// Copies a source with everything below.
    async fn tree(&mut self, source: PathBuf, target: DfsPath) -> FsResult<()> {
        let (sender, mut found) = mpsc::channel(WALK_QUEUE);
        let recursive = self.copy.recursive;
        let walker = tokio::task::spawn_blocking(move || walk(source, target, recursive, &sender));
        let stop = self.transfers.stop().clone();
        let result = loop {
            let next = unless(&stop, async { Ok(found.recv().await) }).await;
            let copied = match next {
                Ok(None) => break Ok(()),
                Ok(Some(Ok(found))) => self.found(found).await,
                Ok(Some(Err(failure))) => self.context.failed(&failure.path, failure.error),
                Err(error) => Err(error),
            };
            if copied.is_err() {
                break copied;
            }
        };
        // The walk ends when nobody receives.
        drop(found);
        let walked = walker.await.map_err(|error| {
            FsError::new(
                ErrorKind::Io,
                format!("the walk through local files ended unexpectedly: {error}"),
            )
        });
        result.and(walked)
    }

    async fn found(&mut self, found: Found) -> FsResult<()> {
        if self.missing.iter().any(|missing| found.target.is_within(missing)) {
            return Ok(());
        }
        let source = found.local.as_os_str().as_bytes().to_vec();
        let target = found.target.as_bytes().to_vec();
        match kind_of(&found.metadata) {
            FileKind::Directory => {
                let stop = self.transfers.stop().clone();
                let made = unless(&stop, self.directory(&found)).await;
                let result = made.map(|()| Copied::Directory).about(&target);
                if result.is_err() {
                    self.missing.push(found.target);
                }
                self.transfers.record(Done {
                    source,
                    target,
                    result,
                })
            }
            FileKind::File => {
                self.transfers.progress().expect(found.metadata.size());
                let job = self.job();
                let copying = async move { job.file(found).await };
                self.start(source, target, copying).await
            }
            FileKind::Symlink => {
                let job = self.job();
                let copying = async move { job.symlink(found).await };
                self.start(source, target, copying).await
            }
            _ => {
                let left_out = FsError::new(
                    ErrorKind::NotSupported,
                    "neither a regular file, a directory nor a symbolic link: left out",
                );
                self.context.failed(&source, left_out)
            }
        }
    }

    async fn start(
        &mut self,
        source: Vec<u8>,
        target: Vec<u8>,
        copying: impl Future<Output = Result<Copied, Failure>> + Send + 'static,
    ) -> FsResult<()> {
        let job = async move {
            let result = copying.await;
            Done {
                source,
                target,
                result,
            }
        };
        self.transfers.start(job).await
    }

    fn job(&self) -> Job {
        Job {
            cluster: self.cluster.clone(),
            stop: self.transfers.stop().clone(),
            progress: self.transfers.progress().clone(),
            overwrite: !self.copy.no_clobber,
            preserve: self.copy.preserve,
            as_root: self.context.caller.uid == 0,
            umask: self.context.umask,
        }
    }

    /// Makes a directory, or takes the one that is there.
    async fn directory(&mut self, found: &Found) -> FsResult<()> {
        let job = self.job();
        let path = found.target.as_bytes();
        let wanted = found.metadata.mode() & 0o777 & !job.umask;
        // So that something can be put into it; the wanted mode comes last.
        let first = wanted | 0o700;
        let made = match found.target.name() {
            Some(_) => self.cluster.paths.mkdir(path, first, false).await,
            None => Err(ErrorKind::Exists.into()),
        };
        match made {
            Ok(attr) if job.preserve || first != wanted => {
                self.directories
                    .push((found.target.clone(), job.attributes(&found.metadata, &attr)));
            }
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::Exists => {
                let attr = self.cluster.paths.stat(path, found.root).await?;
                if attr.kind != FileKind::Directory {
                    return Err(FsError::new(
                        ErrorKind::NotDirectory,
                        "exists and is no directory: a directory cannot replace it",
                    ));
                }
                if job.preserve {
                    self.directories
                        .push((found.target.clone(), job.attributes(&found.metadata, &attr)));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}
