//! `dfs rm`: removes files and directories.
//!
//! Invariant: neither the root nor a path that ends in `.` or `..` is ever removed.

use crate::args::RmArgs;
use crate::context::{Cluster, Context};
use crate::output::insert_bytes;
use crate::path::{DfsPath, printable};
use dfs_common::attr::FileKind;
use dfs_common::{ErrorKind, FsError, FsResult};
use serde_json::{Map, Value};

/// Runs the command.
///
/// # Errors
/// What ended it early.
pub async fn run(context: &Context, args: RmArgs) -> FsResult<()> {
    context
        .with_cluster(|cluster| context.stoppable(all(context, args, cluster)))
        .await
}

async fn all(context: &Context, args: RmArgs, cluster: Cluster) -> FsResult<()> {
    for path in &args.paths {
        match remove(context, &args, path, &cluster).await {
            Ok(()) => {}
            Err(error) if args.force && error.kind() == ErrorKind::NotFound => {}
            Err(error) => context.failed(path.as_bytes(), error)?,
        }
        context.output.flush()?;
    }
    Ok(())
}

async fn remove(context: &Context, args: &RmArgs, path: &DfsPath, cluster: &Cluster) -> FsResult<()> {
    if path.name().is_none() {
        return Err(FsError::new(
            ErrorKind::Invalid,
            "neither the root nor a path that ends in . or .. is removed: name what is in it",
        ));
    }
    let attr = cluster.paths.stat(path.as_bytes(), false).await?;
    let directory = attr.kind == FileKind::Directory;
    if directory && !args.recursive {
        return Err(FsError::new(
            ErrorKind::IsDirectory,
            "is a directory: use -r to remove it with everything below",
        ));
    }
    if path.wants_directory() && !directory {
        return Err(ErrorKind::NotDirectory.into());
    }
    let say = |removed: &[u8]| match args.verbose || context.output.is_json() {
        true => context.output.result(
            || format!("removed {}", printable(removed)),
            || {
                let mut object = Map::new();
                insert_bytes(&mut object, "removed", removed);
                Value::from(object)
            },
        ),
        false => Ok(()),
    };
    if !directory {
        cluster.paths.remove(path.as_bytes()).await?;
        return say(path.as_bytes());
    }
    let mut said = Ok(());
    let mut on_removed = |removed: &[u8]| {
        // What was removed first is said first; a reader that went away does not stop the removal half way.
        if said.is_ok() {
            said = say(removed);
        }
    };
    cluster
        .paths
        .remove_tree(path.as_bytes(), &mut on_removed)
        .await?;
    said
}
