//! Content of a file: a size and the pages that were written. A page that is not there reads as zeros.

use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// Sparse bytes. Invariant: every byte at or behind `size` is zero.
#[derive(Clone, Debug, Default)]
pub struct Content {
    size: u64,
    pages: BTreeMap<u64, Vec<u8>>,
    /// Start and end of each run of bytes that were written: disjoint, in order.
    written: BTreeMap<u64, u64>,
}

impl Content {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Up to `length` bytes from `offset`; short only at the end of the file.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(length as u64));
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        let mut at = offset;
        while at < end {
            let within = (at % PAGE) as usize;
            let count = (PAGE - at % PAGE).min(end - at) as usize;
            if let Some(page) = self.pages.get(&(at / PAGE)) {
                let start = (at - offset) as usize;
                bytes[start..start + count].copy_from_slice(&page[within..within + count]);
            }
            at += count as u64;
        }
        bytes
    }

    /// Writes `bytes` at `offset`, growing the file.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        let (mut at, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let within = (at % PAGE) as usize;
            let (now, later) = rest.split_at(rest.len().min(PAGE as usize - within));
            let page = self
                .pages
                .entry(at / PAGE)
                .or_insert_with(|| vec![0; PAGE as usize]);
            page[within..within + now.len()].copy_from_slice(now);
            (at, rest) = (at + now.len() as u64, later);
        }
        if !bytes.is_empty() {
            self.mark(offset, offset + bytes.len() as u64);
            self.size = self.size.max(offset + bytes.len() as u64);
        }
    }

    /// Bytes that were written and not cut off: what no hole is.
    pub fn allocated(&self) -> u64 {
        self.written.iter().map(|(start, end)| end - start).sum()
    }

    fn mark(&mut self, mut start: u64, mut end: u64) {
        while let Some((from, to)) = self
            .written
            .range(..=end)
            .next_back()
            .map(|(from, to)| (*from, *to))
        {
            if to < start {
                break;
            }
            self.written.remove(&from);
            (start, end) = (start.min(from), end.max(to));
        }
        self.written.insert(start, end);
    }

    /// Cuts or extends with zeros.
    pub fn truncate(&mut self, size: u64) {
        self.written.retain(|start, _| *start < size);
        if let Some(mut last) = self.written.last_entry() {
            *last.get_mut() = (*last.get()).min(size);
        }
        self.size = size;
        self.pages.retain(|number, _| number * PAGE < size);
        if let Some(page) = self.pages.get_mut(&(size / PAGE)) {
            page[(size % PAGE) as usize..].fill(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_cut_off_do_not_come_back_when_the_file_grows() {
        let mut content = Content::default();
        content.write(5000, b"abcdef");
        content.truncate(5002);
        content.truncate(9000);
        assert_eq!(content.read(4999, 6), b"\0ab\0\0\0");
        assert_eq!(content.read(8998, 100), b"\0\0");
        assert_eq!(content.read(9000, 1), b"");
        assert_eq!(content.allocated(), 2);
        content.write(100, &[1; 50]);
        content.write(5000, b"abc");
        content.write(140, &[1; 20]);
        content.write(90, &[1; 10]);
        assert_eq!(content.allocated(), 3 + 70);
    }
}
