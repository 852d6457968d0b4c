//! What is known of one file's extent map, at one version.
//!
//! Pages of other versions replace it. Own commits are spliced in without asking, when the versions say that nobody else
//! changed the file in between.

use dfs_common::extent::{Extent, ExtentData, ExtentPage, ResolvedExtent};
use std::collections::BTreeMap;

/// Extents remembered per file; above it everything is forgotten and asked again.
const EXTENTS_MAX: usize = 64 << 10;

/// Where the bytes of a range are.
#[derive(Debug)]
pub(crate) enum Found {
    /// These extents overlap the range, sorted; what they leave out is a hole.
    Extents(Vec<ResolvedExtent>),
    /// Not known from this offset on.
    Unknown(u64),
}

/// A part of a file's extent map.
#[derive(Debug, Default)]
pub(crate) struct ExtentMap {
    version: u64,
    extents: BTreeMap<u64, ResolvedExtent>,
    /// Known ranges, disjoint and not adjacent: start to end.
    known: BTreeMap<u64, u64>,
}

impl ExtentMap {
    /// The map of an empty file at `version`.
    pub(crate) fn empty_file(version: u64) -> Self {
        ExtentMap {
            version,
            extents: BTreeMap::new(),
            known: BTreeMap::from([(0, u64::MAX)]),
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = ExtentMap::default();
    }

    /// Takes a page that was asked for from `offset` on; false if it is older than what is known.
    pub(crate) fn load(&mut self, offset: u64, page: ExtentPage) -> bool {
        if page.map_version < self.version {
            return false;
        }
        if page.map_version > self.version || self.extents.len() + page.extents.len() > EXTENTS_MAX {
            self.clear();
            self.version = page.map_version;
        }
        let to = page.covered_to;
        if to <= offset {
            return true;
        }
        // An extent that begins before the asked range is whole all the same.
        for extent in page.extents {
            self.cut_out(extent.extent.offset, extent.extent.end());
            self.extents.insert(extent.extent.offset, extent);
        }
        self.know(offset, to);
        true
    }

    fn know(&mut self, mut from: u64, mut to: u64) {
        while let Some((&start, &end)) = self.known.range(..=to).next_back() {
            if end < from {
                break;
            }
            self.known.remove(&start);
            from = from.min(start);
            to = to.max(end);
        }
        self.known.insert(from, to);
    }

    /// Removes the extents, or parts of them, in `from..to`.
    fn cut_out(&mut self, from: u64, to: u64) {
        let first = self
            .extents
            .range(..from)
            .next_back()
            .map_or(from, |(start, _)| *start);
        let overlapping: Vec<u64> = self
            .extents
            .range(first..to)
            .filter(|(_, resolved)| resolved.extent.end() > from)
            .map(|(start, _)| *start)
            .collect();
        for start in overlapping {
            let Some(resolved) = self.extents.remove(&start) else {
                continue;
            };
            for (offset, end) in [(start, from), (to, resolved.extent.end())] {
                if offset < end && offset >= start && end <= resolved.extent.end() {
                    let part = part(&resolved, offset, end);
                    self.extents.insert(offset, part);
                }
            }
        }
    }

    /// An own commit with `extents` moved the map to `version`. Forgets everything if anybody else moved it too.
    pub(crate) fn splice(&mut self, version: u64, extents: &[Extent]) {
        if version != self.version + 1 || self.extents.len() + extents.len() > EXTENTS_MAX {
            self.clear();
            return;
        }
        self.version = version;
        for extent in extents {
            self.cut_out(extent.offset, extent.end());
            let resolved = ResolvedExtent {
                extent: extent.clone(),
                capability: None,
            };
            self.extents.insert(extent.offset, resolved);
            self.know(extent.offset, extent.end());
        }
    }

    /// An own truncation moved the map to `version`.
    pub(crate) fn truncate(&mut self, version: u64, size: u64) {
        if version == self.version {
            return;
        }
        if version != self.version + 1 {
            self.clear();
            return;
        }
        self.version = version;
        self.cut_out(size, u64::MAX);
        self.know(size, u64::MAX);
    }

    /// What is known of `from..to`.
    pub(crate) fn find(&self, from: u64, to: u64) -> Found {
        match self.known.range(..=from).next_back() {
            Some((_, end)) if *end > from => {
                if *end < to {
                    return Found::Unknown(*end);
                }
            }
            _ => return Found::Unknown(from),
        }
        Found::Extents(self.overlapping(from, to).cloned().collect())
    }

    /// Everything from `from` to here is known.
    pub(crate) fn known_to(&self, from: u64) -> u64 {
        let known = self.known.range(..=from).next_back();
        known.map_or(from, |(_, end)| (*end).max(from))
    }

    /// The extents known to overlap `from..to`.
    pub(crate) fn overlapping(&self, from: u64, to: u64) -> impl Iterator<Item = &ResolvedExtent> {
        let first = self
            .extents
            .range(..=from)
            .next_back()
            .map_or(from, |(start, _)| *start);
        self.extents
            .range(first..to.max(first))
            .map(|(_, resolved)| resolved)
            .filter(move |resolved| resolved.extent.end() > from)
    }
}

/// The part `offset..end` of an extent.
pub(crate) fn part(resolved: &ResolvedExtent, offset: u64, end: u64) -> ResolvedExtent {
    let skip = offset - resolved.extent.offset;
    let data = match &resolved.extent.data {
        ExtentData::Chunk { chunk, chunk_offset } => ExtentData::Chunk {
            chunk: *chunk,
            chunk_offset: chunk_offset + skip,
        },
        ExtentData::Inline(bytes) => {
            let from = (skip as usize).min(bytes.len());
            let to = ((end - resolved.extent.offset) as usize).min(bytes.len());
            ExtentData::Inline(bytes.slice(from..to))
        }
    };
    ResolvedExtent {
        extent: Extent {
            offset,
            length: end - offset,
            data,
        },
        capability: resolved.capability.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn inline(offset: u64, bytes: &[u8]) -> Extent {
        Extent {
            offset,
            length: bytes.len() as u64,
            data: ExtentData::Inline(Bytes::copy_from_slice(bytes)),
        }
    }

    fn page(version: u64, covered_to: u64, extents: Vec<Extent>) -> ExtentPage {
        ExtentPage {
            map_version: version,
            size: 0,
            extents: extents
                .into_iter()
                .map(|extent| ResolvedExtent {
                    extent,
                    capability: None,
                })
                .collect(),
            covered_to,
        }
    }

    fn bytes(map: &ExtentMap, from: u64, to: u64) -> Result<Vec<u8>, u64> {
        match map.find(from, to) {
            Found::Unknown(at) => Err(at),
            Found::Extents(extents) => {
                let mut found = vec![0; (to - from) as usize];
                for resolved in extents {
                    let offset = resolved.extent.offset.max(from);
                    let end = resolved.extent.end().min(to);
                    let ExtentData::Inline(bytes) = part(&resolved, offset, end).extent.data else {
                        panic!("all are inline");
                    };
                    found[(offset - from) as usize..(end - from) as usize].copy_from_slice(&bytes);
                }
                Ok(found)
            }
        }
    }

    #[test]
    fn random_commits_and_truncations_read_like_an_array() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut map = ExtentMap::empty_file(1);
            let mut model = vec![0u8; 300];
            for version in 2..60 {
                if rng.random_bool(0.2) {
                    let size = rng.random_range(0..300u64);
                    map.truncate(version, size);
                    model[size as usize..].fill(0);
                } else {
                    let offset = rng.random_range(0..250u64);
                    let data: Vec<u8> = (0..rng.random_range(1..50)).map(|_| rng.random()).collect();
                    map.splice(version, &[inline(offset, &data)]);
                    model[offset as usize..offset as usize + data.len()].copy_from_slice(&data);
                }
                let from = rng.random_range(0..299u64);
                let to = rng.random_range(from + 1..300);
                assert_eq!(bytes(&map, from, to).unwrap(), model[from as usize..to as usize]);
            }
        }
    }

    #[test]
    fn pages_join_and_unknown_ranges_are_named() {
        let mut map = ExtentMap::default();
        assert_eq!(bytes(&map, 0, 5), Err(0));
        assert!(map.load(0, page(3, 10, vec![inline(2, b"abc")])));
        assert_eq!(bytes(&map, 0, 12), Err(10));
        assert!(map.load(10, page(3, 20, vec![inline(8, b"defg")])));
        assert_eq!(bytes(&map, 1, 12).unwrap(), b"\0abc\0\0\0defg");
        assert_eq!(bytes(&map, 30, 31), Err(30));
        assert!(
            !map.load(0, page(2, u64::MAX, vec![])),
            "an older page is refused"
        );
        assert!(
            map.load(30, page(4, u64::MAX, vec![])),
            "a newer one replaces everything"
        );
        assert_eq!(bytes(&map, 1, 12), Err(1));
        assert_eq!(bytes(&map, 30, 31).unwrap(), b"\0");
    }

    #[test]
    fn foreign_change_between_own_commits_is_noticed() {
        let mut map = ExtentMap::empty_file(1);
        map.splice(2, &[inline(0, b"mine")]);
        map.splice(4, &[inline(10, b"late")]);
        assert_eq!(bytes(&map, 0, 4), Err(0));
        assert_eq!(map.version(), 0);
    }
}
