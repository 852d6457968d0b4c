//! Opens the index and, unless it was closed in good order, makes it agree with the chunk files again.
//!
//! `index.clean` is written when the store closes and removed when it opens; it repeats the index's stamp and totals. Entries of an
//! index that was not closed are kept where the file is still there (a chunk never changes), so that after a crash only the headers
//! of newly written files are read; a missing or damaged index costs the headers of all.

use super::StoredChunk;
use super::index::ChunkIndex;
use super::leaves::Leaves;
use crate::chunk_file::read_prologue;
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, durable};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::Path;

const INDEX_DIR: &str = "index";
const MARKER_FILE: &str = "index.clean";
const MARKER_BYTES_MAX: u64 = 4096;
/// Entries of the index that are checked at a time.
const PAGE: usize = 4096;
/// Damaged files whose names are kept while starting.
const DAMAGED_MAX: usize = dfs_common::limits::SUSPECT_CHUNKS_MAX;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    stamp: u64,
    chunks: u64,
    used_bytes: u64,
}

/// An index that agrees with the files.
pub(super) struct Opened {
    pub(super) index: ChunkIndex,
    pub(super) chunks: u64,
    pub(super) used_bytes: u64,
    /// Chunks whose files were found damaged; they are not in the index.
    pub(super) damaged: Vec<ChunkId>,
}

/// Opens the index below `root` and makes it agree with the files of `leaves`.
pub(super) fn open_index(root: &Path, leaves: &Leaves) -> FsResult<Opened> {
    let marker = take_marker(root)?;
    let directory = root.join(INDEX_DIR);
    if let Ok(index) = ChunkIndex::open(&directory) {
        match (totals(&index), marker) {
            (Ok(found), Some(expected)) if found == expected => {
                return Ok(Opened {
                    index,
                    chunks: found.chunks,
                    used_bytes: found.used_bytes,
                    damaged: Vec::new(),
                });
            }
            (Ok(_), _) => {
                if let Ok(opened) = reconcile(index, leaves) {
                    return Ok(opened);
                }
            }
            (Err(_), _) => drop(index),
        }
    }
    tracing::warn!("the chunk index is damaged: it is made again from the chunk files");
    match std::fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(FsError::from(error).context(format_args!("removing {}", directory.display())));
        }
        _ => {}
    }
    reconcile(ChunkIndex::open(&directory)?, leaves)
}

/// Writes the index out and says that it is as good as the files. A failure only costs time at the next start.
pub(super) fn mark_clean(root: &Path, index: &ChunkIndex, (chunks, used_bytes): (u64, u64)) {
    let stamp = rand::random();
    if !index.seal(stamp) {
        return;
    }
    let marker = Marker {
        stamp,
        chunks,
        used_bytes,
    };
    let bytes = serde_json::to_vec(&marker).expect("plain data serialises");
    if let Err(error) = durable::replace_file(&root.join(MARKER_FILE), &bytes) {
        tracing::warn!(%error, "the next start will compare the index with the chunk files");
    }
}

/// Removes the marker, durably: from now on the index may be behind the files.
fn take_marker(root: &Path) -> FsResult<Option<Marker>> {
    let path = root.join(MARKER_FILE);
    let marker = match std::fs::metadata(&path) {
        Ok(metadata) if metadata.len() <= MARKER_BYTES_MAX => std::fs::read(&path)
            .ok()
            .and_then(|bytes| serde_json::from_slice(&bytes).ok()),
        Ok(_) => None,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FsError::from(error).context("reading the state of the chunk index")),
    };
    std::fs::remove_file(&path)
        .and_then(|()| durable::sync_dir(root))
        .map_err(|error| FsError::from(error).context("opening the chunk index"))?;
    Ok(marker)
}

fn totals(index: &ChunkIndex) -> FsResult<Marker> {
    let mut totals = Marker {
        stamp: index.stamp()?.unwrap_or(0),
        chunks: 0,
        used_bytes: 0,
    };
    for_each(index, |stored| {
        totals.chunks += 1;
        totals.used_bytes += stored.length;
        Ok(())
    })?;
    Ok(totals)
}

fn for_each(index: &ChunkIndex, mut visit: impl FnMut(&StoredChunk) -> FsResult<()>) -> FsResult<()> {
    let mut after = None;
    loop {
        let page = index.page(after, PAGE)?;
        page.iter().try_for_each(&mut visit)?;
        match page.last() {
            Some(last) if page.len() == PAGE => after = Some(last.chunk),
            _ => return Ok(()),
        }
    }
}

/// Adds the files that the index lacks, removes entries without a file.
fn reconcile(index: ChunkIndex, leaves: &Leaves) -> FsResult<Opened> {
    let mut opened = Opened {
        index,
        chunks: 0,
        used_bytes: 0,
        damaged: Vec::new(),
    };
    let mut read = 0_u64;
    for_each_file(leaves, |chunk, path| {
        if opened.index.get(chunk)?.is_some() {
            return Ok(());
        }
        let description = File::open(path)
            .map_err(FsError::from)
            .and_then(|file| read_prologue(&file, chunk));
        match description {
            Ok(prologue) => {
                read += 1;
                opened.index.insert(&StoredChunk {
                    chunk,
                    length: prologue.description.length,
                    sha256: prologue.description.sha256,
                });
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                if opened.damaged.len() < DAMAGED_MAX {
                    opened.damaged.push(chunk);
                }
            }
            Err(error) => tracing::error!(%chunk, %error, "a chunk cannot be read and is not listed"),
        }
        Ok(())
    })?;
    let mut gone = Vec::new();
    let (chunks, used_bytes) = (&mut opened.chunks, &mut opened.used_bytes);
    for_each(&opened.index, |stored| {
        if leaves.file(stored.chunk).symlink_metadata().is_ok() {
            *chunks += 1;
            *used_bytes += stored.length;
        } else {
            gone.push(stored.chunk);
        }
        Ok(())
    })?;
    gone.iter().for_each(|chunk| opened.index.remove(*chunk));
    if read > 0 || !gone.is_empty() {
        tracing::info!(
            chunks = opened.chunks,
            read,
            gone = gone.len(),
            "the chunk index agrees with the chunk files again"
        );
    }
    Ok(opened)
}

/// Visits every chunk file. Files with other names are left alone.
fn for_each_file(leaves: &Leaves, mut visit: impl FnMut(ChunkId, &Path) -> FsResult<()>) -> FsResult<()> {
    let listing = |error: io::Error| FsError::from(error).context("listing the chunk files");
    for parent in std::fs::read_dir(leaves.root()).map_err(listing)? {
        let parent = parent.map_err(listing)?;
        if !parent.file_type().map_err(listing)?.is_dir() {
            continue;
        }
        for leaf in std::fs::read_dir(parent.path()).map_err(listing)? {
            let leaf = leaf.map_err(listing)?;
            if !leaf.file_type().map_err(listing)?.is_dir() {
                continue;
            }
            for entry in std::fs::read_dir(leaf.path()).map_err(listing)? {
                let path = entry.map_err(listing)?.path();
                let name = path.file_name().and_then(|name| name.to_str());
                match name.and_then(ChunkId::parse_hex) {
                    // A file in another leaf than its own would never be found by a read.
                    Some(chunk) if path == leaves.file(chunk) => visit(chunk, &path)?,
                    _ => tracing::warn!(path = %path.display(), "not a chunk file: it is left alone"),
                }
            }
        }
    }
    Ok(())
}
