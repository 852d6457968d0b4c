//! Where the bytes of a range are, at one moment.

use crate::extent_map::{Found, part};
use crate::file::FileState;
use bytes::Bytes;
use dfs_common::ChunkId;
use dfs_common::capability::ChunkCapability;
use dfs_common::extent::{ExtentData, ResolvedExtent};

/// A range of a chunk that is wanted, and the range that is known to exist.
#[derive(Clone, Debug)]
pub(crate) struct ChunkRange {
    pub(crate) chunk: ChunkId,
    /// Absent for an own commit that the coordinator was not asked about yet.
    pub(crate) capability: Option<ChunkCapability>,
    /// Wanted: chunk offsets, from and to.
    pub(crate) want: (u64, u64),
    /// Exists: chunk offsets, from and to.
    pub(crate) exists: (u64, u64),
}

impl ChunkRange {
    /// Of the part `from..to` of an extent in a chunk.
    pub(crate) fn of(resolved: &ResolvedExtent, from: u64, to: u64) -> Option<Self> {
        let ExtentData::Chunk { chunk, chunk_offset } = resolved.extent.data else {
            return None;
        };
        let shift = |offset: u64| chunk_offset + (offset - resolved.extent.offset);
        Some(ChunkRange {
            chunk,
            capability: resolved.capability.clone(),
            want: (shift(from), shift(to)),
            exists: (chunk_offset, chunk_offset + resolved.extent.length),
        })
    }
}

/// Where a part's bytes are.
#[derive(Debug)]
pub(crate) enum Source {
    Bytes(Bytes),
    Zero,
    Chunk(ChunkRange),
}

/// A part of a read.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) offset: u64,
    pub(crate) length: u64,
    pub(crate) source: Source,
}

/// A whole read: adjacent parts in order.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) length: usize,
    pub(crate) parts: Vec<Part>,
}

/// Outcome of planning.
pub(crate) enum Planned {
    Ready(Plan),
    /// The map is not known from this offset on.
    Unknown(u64),
}

fn take(
    parts: &mut Vec<Part>,
    gaps: Vec<(u64, u64)>,
    read: impl Fn(u64, u64) -> Vec<(u64, Bytes)>,
) -> Vec<(u64, u64)> {
    let mut left = Vec::new();
    for (mut from, to) in gaps {
        for (offset, bytes) in read(from, to) {
            if from < offset {
                left.push((from, offset));
            }
            let length = bytes.len() as u64;
            from = offset + length;
            let source = Source::Bytes(bytes);
            parts.push(Part {
                offset,
                length,
                source,
            });
        }
        if from < to {
            left.push((from, to));
        }
    }
    left
}

/// Plans a read of at most `length` bytes from `offset`.
pub(crate) fn plan(state: &mut FileState, offset: u64, length: u32) -> Planned {
    let end = offset.saturating_add(u64::from(length)).min(state.visible_size());
    if offset >= end {
        return Planned::Ready(Plan {
            length: 0,
            parts: vec![Part {
                offset,
                length: 0,
                source: Source::Bytes(Bytes::new()),
            }],
        });
    }
    let mut parts = Vec::new();
    let mut gaps = vec![(offset, end)];
    if let Some(active) = state.visible_active() {
        gaps = take(&mut parts, gaps, |from, to| active.read(from, to));
    }
    for sealed in state.visible_sealed().rev() {
        gaps = take(&mut parts, gaps, |from, to| sealed.read(from, to));
    }
    let committed = state.attr.size;
    for (from, to) in gaps {
        // Behind the committed size there is only what is unsaved.
        let known_to = to.min(committed);
        if from < known_to {
            match state.map.find(from, known_to) {
                Found::Unknown(at) => return Planned::Unknown(at),
                Found::Extents(extents) => parts.extend(from_map(&extents, from, known_to)),
            }
        }
    }
    parts.sort_by_key(|part| part.offset);
    Planned::Ready(Plan {
        length: (end - offset) as usize,
        parts: fill(parts, offset, end),
    })
}

fn from_map(extents: &[ResolvedExtent], from: u64, to: u64) -> impl Iterator<Item = Part> {
    extents.iter().filter_map(move |resolved| {
        let offset = resolved.extent.offset.max(from);
        let end = resolved.extent.end().min(to);
        if offset >= end {
            return None;
        }
        let source = match ChunkRange::of(resolved, offset, end) {
            Some(range) => Source::Chunk(range),
            None => match part(resolved, offset, end).extent.data {
                ExtentData::Inline(bytes) => Source::Bytes(bytes),
                ExtentData::Chunk { .. } => return None,
            },
        };
        Some(Part {
            offset,
            length: end - offset,
            source,
        })
    })
}

/// Holes become parts.
fn fill(parts: Vec<Part>, offset: u64, end: u64) -> Vec<Part> {
    let mut whole = Vec::with_capacity(parts.len());
    let mut at = offset;
    let hole = |from: u64, to: u64| Part {
        offset: from,
        length: to - from,
        source: Source::Zero,
    };
    for part in parts {
        if at < part.offset {
            whole.push(hole(at, part.offset));
        }
        at = part.offset + part.length;
        whole.push(part);
    }
    if at < end {
        whole.push(hole(at, end));
    }
    whole
}
