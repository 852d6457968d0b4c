//! `dfs mkdir`: makes directories.

use crate::args::MkdirArgs;
use crate::context::{Cluster, Context};
use crate::output::insert_bytes;
use crate::path::DfsPath;
use dfs_common::attr::{FileKind, SetAttr};
use dfs_common::{ErrorKind, FsResult};
use serde_json::{Map, Value};

/// Runs the command.
///
/// # Errors
/// What ended it early.
pub async fn run(context: &Context, args: MkdirArgs) -> FsResult<()> {
    context
        .with_cluster(|cluster| context.stoppable(all(context, args, cluster)))
        .await
}

async fn all(context: &Context, args: MkdirArgs, cluster: Cluster) -> FsResult<()> {
    for path in &args.paths {
        match mkdir(context, &args, path, &cluster).await {
            Ok(()) if context.output.is_json() => {
                context.output.result(String::new, || {
                    let mut object = Map::new();
                    insert_bytes(&mut object, "path", path.as_bytes());
                    Value::from(object)
                })?;
            }
            Ok(()) => {}
            Err(error) => context.failed(path.as_bytes(), error)?,
        }
    }
    Ok(())
}

/// As mkdir(1): parents get the default mode, whatever `--mode` says of the last one.
async fn mkdir(context: &Context, args: &MkdirArgs, path: &DfsPath, cluster: &Cluster) -> FsResult<()> {
    let paths = &cluster.paths;
    let usual = context.masked(0o777);
    if args.parents {
        // So that their owner can make the next one in them.
        let parents = usual | 0o300;
        match paths.stat(path.as_bytes(), true).await {
            Ok(attr) if attr.kind == FileKind::Directory => return Ok(()),
            Ok(_) => return Err(ErrorKind::Exists.into()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let parent = path.parent();
        if !parent.is_root() {
            paths.mkdir(parent.as_bytes(), parents, true).await?;
        }
    }
    let made = paths
        .mkdir(
            path.as_bytes(),
            args.mode.map_or(usual, |mode| mode & 0o777),
            false,
        )
        .await;
    let made = match made {
        // Another one was faster.
        Err(error) if args.parents && error.kind() == ErrorKind::Exists => {
            let attr = paths.stat(path.as_bytes(), true).await?;
            return if attr.kind == FileKind::Directory {
                Ok(())
            } else {
                Err(error)
            };
        }
        made => made?,
    };
    // mkdir(2) takes no set-id and sticky bits.
    if let Some(mode) = args.mode.filter(|mode| mode & 0o7000 != 0) {
        let set = SetAttr {
            mode: Some(mode | made.mode & 0o2000),
            ..SetAttr::default()
        };
        paths.set_attributes(path.as_bytes(), set, false).await?;
    }
    Ok(())
}
