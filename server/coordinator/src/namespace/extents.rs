//! Extent records, and the splice that keeps a file's map disjoint.
//!
//! A record's key holds the end of its extent. Invariants: extents of a map are disjoint, none ends behind the file's size,
//! and the inode's `allocated_bytes` and `inline_bytes`, the chunks' references and the totals are their sums.

use super::chunks::References;
use super::counters::{self, Counters};
use super::inode::Inode;
use super::txn::Txn;
use super::{damaged, keys};
use crate::store::MetaRead;
use bytes::Bytes;
use dfs_common::extent::{Extent, ExtentData};
use dfs_common::{ChunkId, FsResult, Timestamp};
use dfs_proto::v1;
use dfs_proto::v1::stored_extent::Data;
use prost::Message;

/// Extents that a cut reads first; each further page is four times as long. Most cuts touch one or two.
const FIRST_PAGE: usize = 4;
/// Extents that a cut reads at once at most.
const PAGE_MAX: usize = 256;

/// Reads an extent's record.
pub fn decode(key: &[u8], value: Bytes) -> FsResult<Extent> {
    let (_, end) = keys::parse_extent(key).ok_or_else(|| damaged("extent"))?;
    let record = v1::StoredExtent::decode(value).map_err(|_| damaged("extent"))?;
    let offset = end.checked_sub(record.length);
    let (Some(offset), Some(data), 1..) = (offset, record.data, record.length) else {
        return Err(damaged("extent"));
    };
    let data = match data {
        Data::Chunk(range) => ExtentData::Chunk {
            chunk: ChunkId::from_slice(&range.chunk).ok_or_else(|| damaged("extent"))?,
            chunk_offset: range.chunk_offset,
        },
        Data::Inline(bytes) if bytes.len() as u64 == record.length => ExtentData::Inline(bytes),
        Data::Inline(_) => return Err(damaged("extent")),
    };
    Ok(Extent {
        offset,
        length: record.length,
        data,
    })
}

/// At most `limit` extents of `map` that end behind `offset`, in order.
pub fn scan_behind(read: &dyn MetaRead, map: u64, offset: u64, limit: usize) -> FsResult<Vec<Extent>> {
    let (start, end) = keys::extents_behind(map, offset);
    let page = read.scan(&start, &end, limit)?;
    page.into_iter().map(|(key, value)| decode(&key, value)).collect()
}

/// The part of an extent from `from` to `to`, which must lie in it.
fn part(extent: &Extent, from: u64, to: u64) -> Extent {
    let skipped = from - extent.offset;
    let length = to - from;
    let data = match &extent.data {
        ExtentData::Chunk { chunk, chunk_offset } => ExtentData::Chunk {
            chunk: *chunk,
            chunk_offset: chunk_offset + skipped,
        },
        ExtentData::Inline(bytes) => {
            // A copy, so that a small rest does not keep the whole buffer in memory.
            ExtentData::Inline(Bytes::copy_from_slice(
                &bytes[skipped as usize..(skipped + length) as usize],
            ))
        }
    };
    Extent {
        offset: from,
        length,
        data,
    }
}

/// An edit of one map: changes records at once, sums at the end.
pub struct MapEdit {
    map: u64,
    references: References,
    allocated_bytes: i64,
    inline_bytes: i64,
}

impl MapEdit {
    /// No change yet of the map with this number.
    pub fn new(map: u64) -> Self {
        MapEdit {
            map,
            references: References::default(),
            allocated_bytes: 0,
            inline_bytes: 0,
        }
    }

    /// Change of the inline bytes so far.
    pub fn inline_bytes(&self) -> i64 {
        self.inline_bytes
    }

    fn count(&mut self, extent: &Extent, sign: i64) {
        self.allocated_bytes += sign * extent.length as i64;
        match &extent.data {
            ExtentData::Chunk { chunk, .. } => self.references.add(*chunk, sign),
            ExtentData::Inline(_) => self.inline_bytes += sign * extent.length as i64,
        }
    }

    /// Adds an extent to a free place of the map.
    pub fn insert(&mut self, txn: &mut Txn<'_>, extent: &Extent) {
        let data = match &extent.data {
            ExtentData::Chunk { chunk, chunk_offset } => Data::Chunk(v1::ChunkRange {
                chunk: Bytes::copy_from_slice(&chunk.to_bytes()),
                chunk_offset: *chunk_offset,
            }),
            ExtentData::Inline(bytes) => Data::Inline(bytes.clone()),
        };
        let record = v1::StoredExtent {
            length: extent.length,
            data: Some(data),
        };
        txn.put(
            keys::extent(self.map, extent.end()),
            Bytes::from(record.encode_to_vec()),
        );
        self.count(extent, 1);
    }

    fn remove(&mut self, txn: &mut Txn<'_>, extent: &Extent) {
        txn.delete(keys::extent(self.map, extent.end()));
        self.count(extent, -1);
    }

    /// Makes a hole from `from` to `to`; extents that reach over its edges are cut.
    pub fn cut(&mut self, txn: &mut Txn<'_>, from: u64, to: u64) -> FsResult<()> {
        let (mut behind, mut limit) = (from, FIRST_PAGE);
        loop {
            let page = scan_behind(txn, self.map, behind, limit)?;
            let whole = page.len() == limit;
            limit = (limit * 4).min(PAGE_MAX);
            for extent in page {
                if extent.offset >= to {
                    return Ok(());
                }
                behind = extent.end();
                self.remove(txn, &extent);
                if extent.offset < from {
                    self.insert(txn, &part(&extent, extent.offset, from));
                }
                if extent.end() > to {
                    self.insert(txn, &part(&extent, to, extent.end()));
                }
            }
            if !whole {
                return Ok(());
            }
        }
    }

    /// Takes extents away that were just read from the map.
    pub fn take(&mut self, txn: &mut Txn<'_>, extents: &[Extent]) {
        for extent in extents {
            self.remove(txn, extent);
        }
    }

    /// Takes up to `limit` extents away, from the start; true if none is left.
    pub fn take_away(&mut self, txn: &mut Txn<'_>, limit: usize) -> FsResult<bool> {
        let page = scan_behind(txn, self.map, 0, limit)?;
        self.take(txn, &page);
        Ok(page.len() < limit)
    }

    /// Writes references and totals of a map that belongs to no inode.
    pub fn finish(self, txn: &mut Txn<'_>, now: Timestamp, counters: &mut Counters) -> FsResult<()> {
        counters::add(&mut counters.content_bytes, self.allocated_bytes)?;
        counters::add(&mut counters.inline_bytes, self.inline_bytes)?;
        self.references.apply(txn, now, counters)
    }

    /// Writes references and totals, and changes (does not write) the sums of the map's inode.
    pub fn finish_of(
        self,
        txn: &mut Txn<'_>,
        inode: &mut Inode,
        now: Timestamp,
        counters: &mut Counters,
    ) -> FsResult<()> {
        counters::add(&mut inode.attr.allocated_bytes, self.allocated_bytes)?;
        counters::add(&mut inode.inline_bytes, self.inline_bytes)?;
        self.finish(txn, now, counters)
    }
}
