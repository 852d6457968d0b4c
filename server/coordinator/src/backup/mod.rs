//! Metadata as a file and back: backup, restore, verification, and dumps to read ([`dump`]).
//!
//! A backup is written from one snapshot, in the running coordinator or from its stopped data directory; a restore makes a new data
//! directory of it ([`restore`]). Invariants: memory is bounded whatever the size; a file or a directory that was not finished is
//! never taken for a whole one.

pub mod dump;
pub mod file;
pub mod restore;
pub mod stream;
pub mod tables;

use crate::identity::DataDir;
use crate::namespace;
use crate::namespace::migrate::{self, Migrated};
use crate::store::MetaRead;
use crate::store::fence::FencedStore;
use crate::stored;
use bytes::Bytes;
use dfs_common::capability::CapabilityKey;
use dfs_common::{ClusterId, ErrorKind, FsError, FsResult, Timestamp};
use dfs_proto::{convert, v1};
use file::{BackupReader, BackupWriter};
use std::fs::File;
use std::io::{BufReader, Write};
use std::path::Path;

/// Buffer of a file that is read, in bytes.
const BUFFER_BYTES: usize = 1 << 20;

/// Whose metadata it is.
#[derive(Clone, Debug)]
pub struct Source {
    /// The cluster.
    pub cluster: ClusterId,
    /// Shared with its datanodes.
    pub capability_key: CapabilityKey,
    /// Starts of its coordinator.
    pub epoch: u64,
    /// The moment.
    pub created: Timestamp,
}

/// The range of all keys.
fn everything() -> (Bytes, Bytes) {
    (Bytes::from_static(b"\0"), Bytes::from_static(b"\xff"))
}

/// Writes a backup of what `read`, a snapshot, shows; answers the number of records. Flushed, not synced.
///
/// # Errors
/// Those of the store, `NoSpace`, `Io`; `Interrupted` if `to` is nobody's any more.
pub fn write(read: &dyn MetaRead, source: &Source, to: &mut dyn Write) -> FsResult<u64> {
    namespace::check_schema(read)?;
    let header = v1::BackupHeader {
        cluster: source.cluster.to_string(),
        capability_key: Bytes::copy_from_slice(&source.capability_key.0),
        schema_version: namespace::SCHEMA_VERSION,
        epoch: source.epoch,
        created: Some(convert::timestamp_to_wire(&source.created)),
        program_version: env!("CARGO_PKG_VERSION").to_string(),
    };
    let writing = |error: std::io::Error| FsError::from(error).context("writing the backup");
    let mut writer = BackupWriter::new(to, &header).map_err(writing)?;
    stored::for_each(read, everything(), |key, value| {
        writer.push(key, value).map_err(writing)
    })?;
    writer.finish().map_err(writing)
}

/// Writes a backup of the stopped coordinator in `data_dir`.
///
/// # Errors
/// `Busy` (it is running), those of [`DataDir::open`] and [`write`].
pub fn write_stopped(data_dir: &Path, now: Timestamp, to: &mut dyn Write) -> FsResult<u64> {
    let data = DataDir::open_existing(data_dir)?;
    let source = Source {
        cluster: data.cluster,
        capability_key: data.capability_key,
        epoch: data.epoch()?,
        created: now,
    };
    write(&*data.store, &source, to)
}

/// Gives back the room of deleted and replaced records of a stopped coordinator; answers the bytes on the disk before and after.
///
/// # Errors
/// `NotSupported` (the store does that by itself), and those of [`DataDir::open`].
pub fn compact_stopped(data_dir: &Path) -> FsResult<(u64, u64)> {
    DataDir::open_existing(data_dir)?.store.compact()
}

/// Brings the metadata of a stopped coordinator to this program's schema. Raises the epoch first, so whoever had the directory open
/// before writes no more.
///
/// # Errors
/// Those of [`migrate::migrate`] and [`DataDir::open`].
pub fn migrate_stopped(data_dir: &Path) -> FsResult<Migrated> {
    let data = DataDir::open_existing(data_dir)?;
    let fenced = FencedStore::new(data.store.clone(), data.take()?);
    migrate::migrate(&fenced)
}

/// What a backup says of itself, and what was counted in it.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Whose metadata it is.
    pub source: Source,
    /// Its records.
    pub records: u64,
}

/// Reads a whole backup and compares every checksum.
///
/// # Errors
/// `Invalid` (not a backup), `UnknownVersion`, `Corrupt`, `Io`.
pub fn verify(file: &Path) -> FsResult<Verified> {
    let mut reader = open(file)?;
    let source = source(reader.header(), file)?;
    while reader.block()?.is_some() {}
    Ok(Verified {
        source,
        records: reader.records(),
    })
}

fn open(file: &Path) -> FsResult<BackupReader<BufReader<File>>> {
    let name = file.display().to_string();
    let opened = File::open(file)
        .map_err(|error| FsError::from(error).context(format_args!("opening the backup {name}")))?;
    BackupReader::new(BufReader::with_capacity(BUFFER_BYTES, opened), name)
}

/// The header's content, of a schema that this program knows.
fn source(header: &v1::BackupHeader, file: &Path) -> FsResult<Source> {
    let damaged = |what: &str| {
        FsError::new(
            ErrorKind::Corrupt,
            format!(
                "the backup {} is damaged (no {what}): use another one",
                file.display()
            ),
        )
    };
    if header.schema_version != namespace::SCHEMA_VERSION {
        return Err(FsError::new(
            ErrorKind::UnknownVersion,
            format!(
                "the backup {} has metadata of schema version {}, this program knows {}: restore it with the release that wrote it",
                file.display(),
                header.schema_version,
                namespace::SCHEMA_VERSION
            ),
        ));
    }
    let created = header.created.ok_or_else(|| damaged("time"))?;
    Ok(Source {
        cluster: ClusterId(uuid::Uuid::parse_str(&header.cluster).map_err(|_| damaged("cluster"))?),
        capability_key: CapabilityKey(header.capability_key[..].try_into().map_err(|_| damaged("key"))?),
        epoch: header.epoch,
        created: convert::timestamp_from_wire(created).map_err(|_| damaged("time"))?,
    })
}

#[cfg(test)]
mod tests;
