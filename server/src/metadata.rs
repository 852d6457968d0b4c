//! Work on the metadata of a stopped coordinator: backups, dumps, compaction, migration.
//!
//! Invariant: one line on standard output says what was done, and only after it is durable.

use crate::args::MetadataCommand;
use dfs_common::clock::{Clock, SystemClock};
use dfs_common::durable::NewFile;
use dfs_common::{FsError, FsResult};
use dfs_coordinator::backup::{self, Verified, dump, restore};
use std::io::{BufWriter, Write};
use std::path::Path;

/// Buffer of a file that is written, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// Runs one command; blocks.
///
/// # Errors
/// What kept it from being done; nothing half-made is left then.
pub fn run(command: &MetadataCommand) -> FsResult<()> {
    let now = SystemClock::default().now();
    match command {
        MetadataCommand::Backup(args) => {
            let records = write(&args.file, |to| backup::write_stopped(&args.data, now, to))?;
            say(&format!("{}: {records} records", args.file.display()));
        }
        MetadataCommand::Verify(args) => {
            let verified = backup::verify(&args.file)?;
            say(&format!(
                "{} is whole: {}",
                args.file.display(),
                describe(&verified)
            ));
        }
        MetadataCommand::Dump(args) => match &args.file {
            Some(file) => {
                let records = write(file, |to| dump::write_stopped(&args.data, to))?;
                say(&format!("{}: {records} records", file.display()));
            }
            None => {
                let mut out = BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout().lock());
                dump::write_stopped(&args.data, &mut out)?;
            }
        },
        MetadataCommand::Load(args) => {
            let loaded = dump::load(&args.file, &args.data, args.store.into())?;
            say(&format!(
                "{} is loaded: cluster {}, {} records; problems that a check found: {}",
                args.data.display(),
                loaded.cluster,
                loaded.records,
                loaded.problems
            ));
        }
        MetadataCommand::Compact(args) => {
            let (before, after) = backup::compact_stopped(&args.data)?;
            say(&format!("{before} bytes before, {after} bytes now"));
        }
        MetadataCommand::Migrate(args) => {
            let migrated = backup::migrate_stopped(&args.data)?;
            say(&match migrated.steps.as_slice() {
                [] => format!(
                    "schema version {} is this release's: nothing to migrate",
                    migrated.to
                ),
                steps => format!(
                    "schema version {} is now {}: {}",
                    migrated.from,
                    migrated.to,
                    steps.join(", ")
                ),
            });
        }
        MetadataCommand::Restore(args) => {
            let restored = restore::restore(&args.file, &args.data, args.store.into(), now)?;
            say(&format!(
                "{} is restored: {}, incarnation {}; problems that a check found: {}",
                args.data.display(),
                describe(&restored.backup),
                restored.incarnation,
                restored.problems
            ));
        }
    }
    Ok(())
}

/// Writes a file that is there only when it is whole.
fn write<T>(path: &Path, content: impl FnOnce(&mut dyn Write) -> FsResult<T>) -> FsResult<T> {
    let writing =
        |error: std::io::Error| FsError::from(error).context(format_args!("writing {}", path.display()));
    let mut buffered = BufWriter::with_capacity(BUFFER_BYTES, NewFile::create(path).map_err(writing)?);
    let written = content(&mut buffered)?;
    let file = buffered
        .into_inner()
        .map_err(|error| writing(error.into_error()))?;
    file.finish().map_err(writing)?;
    Ok(written)
}

fn describe(verified: &Verified) -> String {
    format!(
        "cluster {}, {} records, of {}",
        verified.source.cluster,
        verified.records,
        verified.source.created.utc()
    )
}

/// Nobody may be reading: the exit code says it all the same.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}
