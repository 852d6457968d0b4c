//! Content of a file: a size and the pages that were written. A page that is not there reads as zeros.

use std::collections::BTreeMap;

const PAGE: u64 = 4096;

/// Sparse bytes. Invariant: every byte at or behind `size` is zero.
#[derive(Clone, Debug, Default)]
pub struct Content {
    size: u64,
    pages: BTreeMap<u64, Vec<u8>>,
}

impl Content {
    /// Size in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Up to `length` bytes from `offset`; short only at the end of the file.
    pub fn read(&self, offset: u64, length: usize) -> Vec<u8> {
        let end = self.size.min(offset.saturating_add(length as u64));
        (offset..end.max(offset))
            .map(|at| self.pages.get(&(at / PAGE)).map_or(0, |page| page[(at % PAGE) as usize]))
            .collect()
    }

    /// Writes `bytes` at `offset`, growing the file.
    pub fn write(&mut self, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let page = self.pages.entry(at / PAGE).or_insert_with(|| vec![0; PAGE as usize]);
            page[(at % PAGE) as usize] = *byte;
        }
        if !bytes.is_empty() {
            self.size = self.size.max(offset + bytes.len() as u64);
        }
    }

    /// Cuts or extends with zeros.
    pub fn truncate(&mut self, size: u64) {
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
    }
}
