//! `dfs du`: what lies below directories, counted by the coordinator as it changes.

use crate::args::DuArgs;
use crate::context::{Cluster, Context};
use crate::format::{bytes_text, table};
use crate::output::insert_bytes;
use crate::path::{DfsPath, printable};
use dfs_common::{FsResult, TreeUsage};
use serde_json::{Map, Value};

/// Columns of numbers.
const RIGHT: u32 = 0b1_1111;

/// Runs the command.
///
/// # Errors
/// What ended it early.
pub async fn run(context: &Context, mut args: DuArgs) -> FsResult<()> {
    if args.paths.is_empty() {
        args.paths.push(DfsPath::root());
    }
    context
        .with_cluster(|cluster| context.stoppable(all(context, args, cluster)))
        .await
}

async fn all(context: &Context, args: DuArgs, cluster: Cluster) -> FsResult<()> {
    let heading = ["BYTES", "FILES", "DIRS", "BYTES LEFT", "INODES LEFT", "PATH"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    for path in &args.paths {
        match cluster.paths.usage(path.as_bytes(), true).await {
            Ok(usage) if context.output.is_json() => {
                context.output.result(String::new, || object(path, &usage))?;
            }
            Ok(usage) => rows.push(row(path, &usage, args.human_readable)),
            Err(error) => context.failed(path.as_bytes(), error)?,
        }
    }
    match rows.len() {
        1 => Ok(()),
        _ => context.output.result(|| table(&rows, RIGHT), || Value::Null),
    }
}

fn row(path: &DfsPath, usage: &TreeUsage, human: bool) -> Vec<String> {
    let bytes = |bytes| match human {
        true => bytes_text(bytes),
        false => bytes.to_string(),
    };
    let none = || "-".to_owned();
    vec![
        bytes(usage.bytes),
        usage.files.to_string(),
        usage.directories.to_string(),
        usage
            .bytes_allowed
            .map_or_else(none, |allowed| bytes(allowed.left())),
        usage
            .inodes_allowed
            .map_or_else(none, |allowed| allowed.left().to_string()),
        printable(path.as_bytes()),
    ]
}

fn object(path: &DfsPath, usage: &TreeUsage) -> Value {
    let mut object = Map::new();
    insert_bytes(&mut object, "path", path.as_bytes());
    if let Value::Object(fields) = serde_json::json!(usage) {
        object.extend(fields);
    }
    Value::from(object)
}
