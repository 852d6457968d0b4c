//! `dfs admin quota`: limits on what may lie below directories.

use crate::args::{QuotaCommand, QuotaSetArgs};
use crate::context::{Cluster, Context};
use crate::format::{bytes_text, table};
use crate::output::insert_bytes;
use crate::path::{DfsPath, printable};
use dfs_client::AdminClient;
use dfs_common::attr::FileKind;
use dfs_common::{ErrorKind, FsError, FsResult, Quota, QuotaEntry};
use serde_json::{Map, Value, json};

/// Columns of numbers.
const RIGHT: u32 = 0b1111;

/// Runs the command.
///
/// # Errors
/// What ended it early.
pub async fn run(context: &Context, command: QuotaCommand) -> FsResult<()> {
    let admin = context.admin()?;
    match command {
        QuotaCommand::Ls => context.stoppable(list(context, &admin)).await,
        QuotaCommand::Set(QuotaSetArgs { path, bytes, inodes }) => {
            let quota = Quota { bytes, inodes };
            let each = |cluster| set(context, &admin, cluster, vec![path], quota);
            context.with_cluster(each).await
        }
        QuotaCommand::Clear(args) => {
            let each = |cluster| set(context, &admin, cluster, args.paths, Quota::default());
            context.with_cluster(each).await
        }
    }
}

async fn set(
    context: &Context,
    admin: &AdminClient,
    cluster: Cluster,
    paths: Vec<DfsPath>,
    quota: Quota,
) -> FsResult<()> {
    let one = async |path: &DfsPath| {
        let attr = cluster.paths.stat(path.as_bytes(), true).await?;
        if attr.kind != FileKind::Directory {
            return Err(FsError::new(
                ErrorKind::NotDirectory,
                "only directories have quotas",
            ));
        }
        let set = admin.set_quota(attr.ino, quota).await;
        set.map_err(|error| context.unreachable(error))
    };
    for path in &paths {
        match context.stoppable(one(path)).await {
            Ok(()) => context.output.result(
                || format!("{path}: {}", text(quota)),
                || {
                    let mut object = Map::new();
                    insert_bytes(&mut object, "path", path.as_bytes());
                    object.insert("quota".to_owned(), json!(quota));
                    Value::from(object)
                },
            )?,
            Err(error) => context.failed(path.as_bytes(), error)?,
        }
    }
    Ok(())
}

fn text(quota: Quota) -> String {
    let bytes = quota
        .bytes
        .map(|bytes| format!("at most {bytes} bytes ({})", bytes_text(bytes)));
    let inodes = quota
        .inodes
        .map(|inodes| format!("at most {inodes} files and directories"));
    match (bytes, inodes) {
        (None, None) => "no quota".to_owned(),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(bytes), Some(inodes)) => format!("{bytes}, {inodes}"),
    }
}

async fn list(context: &Context, admin: &AdminClient) -> FsResult<()> {
    let quotas = admin.quotas().await.map_err(|error| context.unreachable(error))?;
    if context.output.is_json() {
        for entry in &quotas {
            context.output.result(String::new, || object(entry))?;
        }
        return Ok(());
    }
    if quotas.is_empty() {
        return context
            .output
            .result(|| "no quotas are set".to_owned(), || Value::Null);
    }
    let heading = ["USED BYTES", "LIMIT", "USED INODES", "LIMIT", "PATH"];
    let mut rows = vec![heading.map(str::to_owned).to_vec()];
    let none = || "-".to_owned();
    for entry in &quotas {
        rows.push(vec![
            bytes_text(entry.bytes),
            entry.quota.bytes.map_or_else(none, bytes_text),
            entry.inodes.to_string(),
            entry.quota.inodes.map_or_else(none, |inodes| inodes.to_string()),
            place(entry),
        ]);
    }
    context.output.result(|| table(&rows, RIGHT), || Value::Null)
}

fn place(entry: &QuotaEntry) -> String {
    match &entry.path {
        Some(path) => printable(path),
        None => format!("(directory with inode {})", entry.ino),
    }
}

fn object(entry: &QuotaEntry) -> Value {
    let mut object = Map::new();
    if let Some(path) = &entry.path {
        insert_bytes(&mut object, "path", path);
    }
    for (name, value) in [
        ("ino", json!(entry.ino.0)),
        ("quota", json!(entry.quota)),
        ("used_bytes", json!(entry.bytes)),
        ("used_inodes", json!(entry.inodes)),
    ] {
        object.insert(name.to_owned(), value);
    }
    Value::from(object)
}
