//! `dfs admin metadata`: backups of the metadata, and the hold after a restore.
//!
//! Invariant: a backup has its name only when it arrived whole and is durable.

use crate::args::MetadataCommand;
use crate::context::Context;
use crate::format::bytes_text;
use dfs_client::{ExportFormat, MetadataState};
use dfs_common::attr::Timestamp;
use dfs_common::durable::NewFile;
use dfs_common::{FsError, FsResult};
use serde_json::json;
use std::io::Write;
use std::path::Path;

/// Runs the command.
///
/// # Errors
/// `Unavailable`, `TimedOut` if the cluster does not answer, those of the coordinator's store, of the local file and of standard output.
pub async fn run(context: &Context, command: MetadataCommand) -> FsResult<()> {
    match command {
        MetadataCommand::Backup(args) => export_to(context, ExportFormat::Backup, &args.file).await,
        MetadataCommand::Dump(args) => match args.file {
            Some(file) => export_to(context, ExportFormat::Dump, &file).await,
            None => {
                let admin = context.admin()?;
                let dumped = admin
                    .export(ExportFormat::Dump, |data| context.output.raw(data))
                    .await;
                dumped.map(drop).map_err(|error| context.unreachable(error))
            }
        },
        MetadataCommand::Compact => compact(context).await,
        MetadataCommand::Status => status(context).await,
        MetadataCommand::ReleaseHold => {
            let released = context.admin()?.release_hold().await;
            released.map_err(|error| context.unreachable(error))?;
            status(context).await
        }
    }
}

async fn export_to(context: &Context, format: ExportFormat, path: &Path) -> FsResult<()> {
    let name = path.display();
    let writing = |error: std::io::Error| FsError::from(error).context(format_args!("writing {name}"));
    let mut file = NewFile::create(path).map_err(writing)?;
    let exported = context
        .admin()?
        .export(format, |data| file.write_all(data).map_err(writing))
        .await;
    let bytes = exported.map_err(|error| context.unreachable(error))?;
    file.finish().map_err(writing)?;
    context.output.result(
        || format!("{name}: {}", bytes_text(bytes)),
        || json!({ "file": path.to_string_lossy(), "bytes": bytes }),
    )
}

async fn compact(context: &Context) -> FsResult<()> {
    let compacted = context.admin()?.compact_metadata().await;
    let (before, after) = compacted.map_err(|error| context.unreachable(error))?;
    context.output.result(
        || format!("{} before, {} now", bytes_text(before), bytes_text(after)),
        || json!({ "bytes_before": before, "bytes_after": after }),
    )
}

async fn status(context: &Context) -> FsResult<()> {
    let state = context.admin()?.metadata_state().await;
    let state = state.map_err(|error| context.unreachable(error))?;
    context.output.result(|| state_text(&state), || json!(state))
}

/// A time that the coordinator tells in seconds since 1970.
fn utc(secs: i64) -> String {
    Timestamp { secs, nanos: 0 }.utc()
}

fn state_text(state: &MetadataState) -> String {
    let mut lines = vec![format!(
        "schema version {}, store {}, start {} of the coordinator",
        state.schema_version, state.store, state.epoch
    )];
    if state.incarnation > 0 {
        lines.push(format!(
            "restored {} times from a backup, last at {} from one of {}",
            state.incarnation,
            utc(state.restored_unix_secs),
            utc(state.backup_created_unix_secs)
        ));
    }
    if state.holding {
        lines.push(format!(
            "no chunk is deleted: {} freed chunks wait; {} reports of chunks that the metadata does not know, which are kept",
            state.freed_chunks, state.unknown_chunks
        ));
        let nodes: Vec<String> = state.nodes_waited_for.iter().map(u32::to_string).collect();
        lines.push(match nodes.is_empty() {
            true => "every datanode has told what it has".to_owned(),
            false => format!("waiting for what these have: node {}", nodes.join(", ")),
        });
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_says_what_a_restore_waits_for() {
        let mut state = MetadataState {
            schema_version: 1,
            store: "fjall".to_owned(),
            ..MetadataState::default()
        };
        assert!(!state_text(&state).contains("restored"));
        state.incarnation = 2;
        state.holding = true;
        state.restored_unix_secs = 1_795_698_367;
        state.backup_created_unix_secs = 951_868_799;
        state.nodes_waited_for = vec![1, 3];
        let text = state_text(&state);
        for words in [
            "restored 2 times from a backup, last at 2026-11-26 13:06:07 UTC from one of 2000-02-29 23:59:59 UTC",
            "no chunk is deleted",
            "node 1, 3",
        ] {
            assert!(text.contains(words), "{text}");
        }
    }
}
