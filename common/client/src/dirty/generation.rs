//! One generation of unsaved data: active while it is written to, then sealed.

use super::pool::{Buffer, Pool};
use crate::session::numbers::Ticket;
use bytes::Bytes;
use dfs_common::attr::Timestamp;
use dfs_common::capability::ChunkCapability;
use dfs_common::extent::{CommittedChunk, Receipt};
use dfs_common::limits::{COMMIT_EXTENTS_MAX, WIRE_FRAME_BYTES};
use dfs_common::session::Caller;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

/// A file range and where its bytes are in the generation's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    /// File offset.
    pub(crate) offset: u64,
    pub(crate) length: u64,
    /// Position in the log.
    pub(crate) at: u64,
}

impl Span {
    pub(crate) fn end(&self) -> u64 {
        self.offset + self.length
    }
    /// The part within `from..to`.
    pub(crate) fn clip(&self, from: u64, to: u64) -> Option<Span> {
        let offset = self.offset.max(from);
        let end = self.end().min(to);
        (offset < end).then(|| Span {
            offset,
            length: end - offset,
            at: self.at + (offset - self.offset),
        })
    }
}

/// The generation that takes writes.
pub(crate) struct Active {
    spans: BTreeMap<u64, Span>,
    log: Vec<(u64, Buffer)>,
    length: u64,
    /// An append: offsets are where this client believes the end of file to be.
    pub(crate) append_base: Option<u64>,
    pub(crate) mtime: Timestamp,
    pub(crate) clear_setid: bool,
    pub(crate) caller: Caller,
    /// When the first byte came.
    pub(crate) born: Instant,
    /// Not acknowledged before it is committed: until then nobody sees it, for it is not known what it comes behind.
    pub(crate) hidden: bool,
}

impl Active {
    pub(crate) fn new(append_base: Option<u64>, caller: &Caller) -> Self {
        Active {
            spans: BTreeMap::new(),
            log: Vec::new(),
            length: 0,
            append_base,
            mtime: Timestamp::default(),
            clear_setid: false,
            caller: caller.clone(),
            born: Instant::now(),
            hidden: false,
        }
    }

    /// Bytes of the log: what it takes of the budget.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// First file offset behind everything.
    pub(crate) fn end(&self) -> u64 {
        self.spans.last_key_value().map_or(0, |(_, span)| span.end())
    }

    /// Takes as much of `data` as fits, from its start; answers how much, and how much the log grew.
    pub(crate) fn write(&mut self, pool: &Arc<Pool>, offset: u64, data: &[u8], log_max: u64) -> (usize, u64) {
        let before = self.length;
        let mut done = 0;
        while done < data.len() {
            let at = offset + done as u64;
            let rest = &data[done..];
            let covering = self.spans.range(..=at).next_back().map(|(_, span)| *span);
            if let Some(span) = covering
                && let Some(over) = span.clip(at, at + rest.len() as u64)
            {
                self.overwrite(over.at, &rest[..over.length as usize]);
                done += over.length as usize;
                continue;
            }
            let next = self
                .spans
                .range(at..)
                .next()
                .map_or(u64::MAX, |(start, _)| *start);
            let gap = (next - at)
                .min(rest.len() as u64)
                .min(log_max.saturating_sub(self.length)) as usize;
            if gap == 0 || !self.map(at, gap as u64) {
                break;
            }
            self.append(pool, &rest[..gap]);
            done += gap;
        }
        (done, self.length - before)
    }

    /// Maps the gap at `offset` to the end of the log; false if there are too many spans already.
    fn map(&mut self, offset: u64, length: u64) -> bool {
        let at = self.length;
        let previous = self.spans.range_mut(..offset).next_back();
        if let Some((_, previous)) = previous
            && previous.end() == offset
            && previous.at + previous.length == at
        {
            previous.length += length;
            return true;
        }
        if self.spans.len() >= COMMIT_EXTENTS_MAX {
            return false;
        }
        self.spans.insert(offset, Span { offset, length, at });
        true
    }

    fn append(&mut self, pool: &Arc<Pool>, mut data: &[u8]) {
        while !data.is_empty() {
            let room = self.log.last().map_or(0, |(_, buffer)| buffer.room());
            if room == 0 {
                // As much again as there is, so that a small file takes little and a stream few buffers.
                let wanted = data.len().max(self.length.min(WIRE_FRAME_BYTES as u64) as usize);
                self.log.push((self.length, pool.take(wanted)));
                continue;
            }
            let (now, later) = data.split_at(room.min(data.len()));
            let (_, buffer) = self.log.last_mut().expect("a buffer with room was just seen");
            buffer.push(now);
            self.length += now.len() as u64;
            data = later;
        }
    }

    fn overwrite(&mut self, mut at: u64, mut data: &[u8]) {
        let mut index = self.log.partition_point(|(start, _)| *start <= at) - 1;
        while !data.is_empty() {
            let (start, buffer) = &mut self.log[index];
            let target = &mut buffer.bytes_mut()[(at - *start) as usize..];
            let (now, later) = data.split_at(target.len().min(data.len()));
            target[..now.len()].copy_from_slice(now);
            at += now.len() as u64;
            data = later;
            index += 1;
        }
    }

    /// Copies the parts of `from..to` that are here, sorted.
    pub(crate) fn read(&self, from: u64, to: u64) -> Vec<(u64, Bytes)> {
        let first = self
            .spans
            .range(..=from)
            .next_back()
            .map_or(from, |(start, _)| *start);
        let overlaps = self.spans.range(first..to);
        let parts = overlaps.filter_map(|(_, span)| span.clip(from, to));
        parts
            .map(|part| {
                let mut copy = Vec::with_capacity(part.length as usize);
                let mut at = part.at;
                let mut index = self.log.partition_point(|(start, _)| *start <= at) - 1;
                while copy.len() < part.length as usize {
                    let (start, buffer) = &self.log[index];
                    let source = &buffer.as_ref()[(at - start) as usize..];
                    let take = source.len().min(part.length as usize - copy.len());
                    copy.extend_from_slice(&source[..take]);
                    at += take as u64;
                    index += 1;
                }
                (part.offset, Bytes::from(copy))
            })
            .collect()
    }

    /// Forgets everything from `size` on (an append generation too). The log keeps the bytes.
    pub(crate) fn cut(&mut self, size: u64) {
        cut(&mut self.spans, size);
    }

    /// True if no file range is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// No more writes.
    pub(crate) fn seal(self, sequence: u64) -> Sealed {
        let content = self
            .log
            .into_iter()
            .map(|(start, buffer)| (start, Bytes::from_owner(buffer)));
        Sealed {
            sequence,
            spans: self.spans.into_values().collect(),
            append_base: self.append_base,
            mtime: self.mtime,
            clear_setid: self.clear_setid,
            caller: self.caller,
            born: self.born,
            hidden: self.hidden,
            body: Arc::new(Body {
                length: self.length,
                content: content.collect(),
                upload: tokio::sync::Mutex::default(),
            }),
        }
    }
}

fn cut(spans: &mut BTreeMap<u64, Span>, size: u64) {
    spans.split_off(&size);
    if let Some((_, last)) = spans.iter_mut().next_back() {
        last.length = last.length.min(size - last.offset);
    }
}

/// A generation that waits to be saved.
pub(crate) struct Sealed {
    /// Order of sealing in the file.
    pub(crate) sequence: u64,
    /// Sorted, disjoint.
    pub(crate) spans: Vec<Span>,
    pub(crate) append_base: Option<u64>,
    pub(crate) mtime: Timestamp,
    pub(crate) clear_setid: bool,
    pub(crate) caller: Caller,
    pub(crate) born: Instant,
    /// As [`Active::hidden`].
    pub(crate) hidden: bool,
    pub(crate) body: Arc<Body>,
}

impl Sealed {
    /// First file offset behind everything.
    pub(crate) fn end(&self) -> u64 {
        self.spans.last().map_or(0, Span::end)
    }

    /// The parts of `from..to` that are here, sorted, without a copy.
    pub(crate) fn read(&self, from: u64, to: u64) -> Vec<(u64, Bytes)> {
        let first = self.spans.partition_point(|span| span.end() <= from);
        let overlaps = self.spans[first..].iter().take_while(|span| span.offset < to);
        let mut parts = Vec::new();
        for part in overlaps.filter_map(|span| span.clip(from, to)) {
            let mut offset = part.offset;
            for piece in self.body.slices(part.at, part.length) {
                let length = piece.len() as u64;
                parts.push((offset, piece));
                offset += length;
            }
        }
        parts
    }

    /// Forgets everything from `size` on.
    pub(crate) fn cut(&mut self, size: u64) {
        self.spans.retain(|span| span.offset < size);
        if let Some(last) = self.spans.last_mut() {
            last.length = last.length.min(size - last.offset);
        }
    }

    /// An append landed `by` further than believed (or less far, negative).
    pub(crate) fn shift(&mut self, by: i64) {
        if let Some(base) = &mut self.append_base {
            *base = base.saturating_add_signed(by);
            for span in &mut self.spans {
                span.offset = span.offset.saturating_add_signed(by);
            }
        }
    }
}

impl Active {
    /// As [`Sealed::shift`].
    pub(crate) fn shift(&mut self, by: i64) {
        if let Some(base) = &mut self.append_base {
            *base = base.saturating_add_signed(by);
            let spans = std::mem::take(&mut self.spans);
            for (_, mut span) in spans {
                span.offset = span.offset.saturating_add_signed(by);
                self.spans.insert(span.offset, span);
            }
        }
    }
}

/// The bytes of a sealed generation, and how far saving them has come.
pub(crate) struct Body {
    pub(crate) length: u64,
    content: Vec<(u64, Bytes)>,
    /// Held by the one who uploads; survives a cancelled upload or commit.
    pub(crate) upload: tokio::sync::Mutex<Upload>,
}

/// How far saving a generation has come.
#[derive(Default)]
pub(crate) struct Upload {
    pub(crate) capability: Option<ChunkCapability>,
    pub(crate) receipts: Vec<Receipt>,
    pub(crate) done: Option<CommittedChunk>,
    /// Number under which the commit was sent and not answered.
    pub(crate) commit: Option<Ticket>,
}

impl Body {
    /// All bytes, in pieces of at most [`WIRE_FRAME_BYTES`].
    pub(crate) fn pieces(&self) -> Vec<Bytes> {
        self.content.iter().map(|(_, piece)| piece.clone()).collect()
    }

    /// `length` bytes from `at`, without a copy.
    pub(crate) fn slices(&self, at: u64, length: u64) -> Vec<Bytes> {
        let end = at + length;
        let first = self
            .content
            .partition_point(|(start, _)| *start <= at)
            .saturating_sub(1);
        let mut slices = Vec::new();
        for (start, piece) in &self.content[first..] {
            if *start >= end {
                break;
            }
            let from = at.saturating_sub(*start) as usize;
            let to = ((end - start) as usize).min(piece.len());
            if from < to {
                slices.push(piece.slice(from..to));
            }
        }
        slices
    }

    /// `length` bytes from `at` in one piece; copied if they are not in one.
    pub(crate) fn whole(&self, at: u64, length: u64) -> Bytes {
        let mut slices = self.slices(at, length);
        if slices.len() == 1 {
            return slices.pop().expect("there is one");
        }
        slices.concat().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn check(model: &[Option<u8>], parts: &[(u64, Bytes)], from: u64, to: u64) {
        let mut found = vec![None; (to - from) as usize];
        let mut last = from;
        for (offset, bytes) in parts {
            assert!(*offset >= last, "parts are sorted and disjoint");
            last = offset + bytes.len() as u64;
            for (i, byte) in bytes.iter().enumerate() {
                found[(offset - from) as usize + i] = Some(*byte);
            }
        }
        assert_eq!(found, model[from as usize..to as usize]);
    }

    #[test]
    fn random_writes_read_back_active_and_sealed() {
        for seed in 0..50 {
            let mut rng = StdRng::seed_from_u64(seed);
            let pool = Arc::new(Pool::default());
            let mut active = Active::new(None, &Caller::root());
            let mut model: Vec<Option<u8>> = vec![None; 4000];
            let log_max = 3000;
            loop {
                let offset = rng.random_range(0..3500u64);
                let data: Vec<u8> = (0..rng.random_range(1..500)).map(|_| rng.random()).collect();
                let (taken, grew) = active.write(&pool, offset, &data, log_max);
                assert!(grew <= taken as u64);
                for (i, byte) in data[..taken].iter().enumerate() {
                    model[offset as usize + i] = Some(*byte);
                }
                let from = rng.random_range(0..3999u64);
                let to = rng.random_range(from..4000);
                check(&model, &active.read(from, to), from, to);
                if taken < data.len() {
                    assert_eq!(active.length(), log_max);
                    break;
                }
            }
            let size = rng.random_range(0..4000u64);
            active.cut(size);
            model[size as usize..].fill(None);
            check(&model, &active.read(0, 4000), 0, 4000);
            let mut sealed = active.seal(1);
            check(&model, &sealed.read(0, 4000), 0, 4000);
            let size = rng.random_range(0..4000u64);
            sealed.cut(size);
            model[size as usize..].fill(None);
            let from = rng.random_range(0..3999u64);
            check(&model, &sealed.read(from, 4000), from, 4000);
            let spans: Vec<u8> = sealed
                .spans
                .iter()
                .flat_map(|span| sealed.body.whole(span.at, span.length))
                .collect();
            let bytes: Vec<u8> = model.iter().copied().flatten().collect();
            assert_eq!(spans, bytes);
        }
    }

    #[test]
    fn sequential_writes_are_one_span_and_the_log_is_the_content() {
        let pool = Arc::new(Pool::default());
        let mut active = Active::new(None, &Caller::root());
        let data: Vec<u8> = (0..1_000_000u32).map(|i| (i * 7) as u8).collect();
        for (i, piece) in data.chunks(128 << 10).enumerate() {
            let offset = 5 + (i * (128 << 10)) as u64;
            assert_eq!(active.write(&pool, offset, piece, 8 << 20).0, piece.len());
        }
        let sealed = active.seal(1);
        assert_eq!(sealed.spans.len(), 1);
        assert_eq!(sealed.body.pieces().concat(), data);
        assert!(
            sealed
                .body
                .pieces()
                .iter()
                .all(|piece| piece.len() <= WIRE_FRAME_BYTES)
        );
    }

    #[test]
    fn too_many_spans_end_the_generation() {
        let pool = Arc::new(Pool::default());
        let mut active = Active::new(None, &Caller::root());
        for i in 0..COMMIT_EXTENTS_MAX as u64 {
            assert_eq!(active.write(&pool, i * 10, b"x", 8 << 20), (1, 1));
        }
        assert_eq!(active.write(&pool, 5, b"x", 8 << 20), (0, 0));
        // What is there can still be overwritten and continued.
        assert_eq!(active.write(&pool, 10, b"y", 8 << 20), (1, 0));
    }

    #[test]
    fn shifted_append_keeps_its_bytes() {
        let pool = Arc::new(Pool::default());
        let mut active = Active::new(Some(100), &Caller::root());
        active.write(&pool, 100, b"hello", 8 << 20);
        active.shift(7);
        assert_eq!(active.read(0, 1000), [(107, Bytes::from_static(b"hello"))]);
        let mut sealed = active.seal(1);
        sealed.shift(-107);
        assert_eq!(sealed.append_base, Some(0));
        assert_eq!(sealed.read(0, 1000), [(0, Bytes::from_static(b"hello"))]);
    }
}
