//! `dfs stat`: everything about files.

use crate::args::StatArgs;
use crate::context::{Cluster, Context};
use crate::format::{Owners, attr_object, kind_text, mode_text, time_text};
use crate::output::insert_bytes;
use crate::path::{DfsPath, printable};
use dfs_common::attr::{Attr, FileKind};
use dfs_common::{ErrorKind, FsResult};
use serde_json::Value;

/// Runs the command.
///
/// # Errors
/// What ended it early.
pub async fn run(context: &Context, args: StatArgs) -> FsResult<()> {
    context
        .with_cluster(|cluster| context.stoppable(all(context, args, cluster)))
        .await
}

async fn all(context: &Context, args: StatArgs, cluster: Cluster) -> FsResult<()> {
    let mut owners = Owners::default();
    for path in &args.paths {
        match stat(&args, path, &cluster).await {
            Ok((attr, target)) => context.output.result(
                || text(path, &attr, target.as_deref(), &mut owners),
                || {
                    let mut object = attr_object(&attr, target.as_deref());
                    insert_bytes(&mut object, "path", path.as_bytes());
                    Value::from(object)
                },
            )?,
            Err(error) => context.failed(path.as_bytes(), error)?,
        }
    }
    Ok(())
}

async fn stat(args: &StatArgs, path: &DfsPath, cluster: &Cluster) -> FsResult<(Attr, Option<Vec<u8>>)> {
    let follow = args.dereference || path.wants_directory();
    let attr = cluster.paths.stat(path.as_bytes(), follow).await?;
    if path.wants_directory() && attr.kind != FileKind::Directory {
        return Err(ErrorKind::NotDirectory.into());
    }
    let target = match attr.kind {
        FileKind::Symlink => Some(cluster.paths.readlink(path.as_bytes()).await?.to_vec()),
        _ => None,
    };
    Ok((attr, target))
}

fn text(path: &DfsPath, attr: &Attr, target: Option<&[u8]>, owners: &mut Owners) -> String {
    let mut name = path.to_string();
    if let Some(target) = target {
        name.push_str(" -> ");
        name.push_str(&printable(target));
    }
    let mut lines = vec![
        format!("path      {name}"),
        format!("kind      {}", kind_text(attr.kind)),
        format!("size      {} (allocated {})", attr.size, attr.allocated_bytes),
        format!("mode      {:04o} {}", attr.mode, mode_text(attr.kind, attr.mode)),
        format!("owner     {} ({})", owners.user(attr.uid), attr.uid),
        format!("group     {} ({})", owners.group(attr.gid), attr.gid),
        format!("links     {}", attr.nlink),
        format!("inode     {}", attr.ino),
    ];
    if matches!(attr.kind, FileKind::CharDevice | FileKind::BlockDevice) {
        let device = u64::from(attr.rdev);
        let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
        lines.push(format!("device    {major}, {minor}"));
    }
    for (name, time) in [
        ("accessed", attr.atime),
        ("modified", attr.mtime),
        ("changed", attr.ctime),
        ("created", attr.btime),
    ] {
        lines.push(format!("{name:<9} {}", time_text(time)));
    }
    lines.join("\n")
}
