//! Where the content of a chunk goes on its way to the disk: past the page cache as far as its blocks are whole.
//!
//! A chunk is written once, synced at once and then seldom read from the node that has just written it; going through the page cache
//! costs a copy into fresh memory per replica (docs/adr/0008-direct-writes.md has the figures). Where the file system has no direct
//! input and output, or refuses it, everything goes through the page cache: slower, otherwise the same.

use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use parking_lot::Mutex;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

/// Bytes that one direct write takes; content below this goes through the page cache.
const BLOCK_BYTES: usize = 512 << 10;
/// Alignment of memory, offset and length of a direct write: no disk in use has larger sectors.
const ALIGNMENT: usize = 4096;
/// Blocks that are kept when nobody uses them: 4 MiB.
const KEPT_MAX: usize = 8;

/// Blocks of aligned memory, used again: fresh memory costs more than filling it.
#[derive(Clone, Default)]
pub(super) struct Blocks {
    kept: Arc<Mutex<Vec<Block>>>,
}

/// Memory of [`BLOCK_BYTES`] that starts at a multiple of [`ALIGNMENT`]; empty once it went back to its pool.
#[derive(Default)]
struct Block {
    memory: Vec<u8>,
    start: usize,
}

impl Block {
    fn aligned() -> Self {
        let memory = vec![0; BLOCK_BYTES + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        // `align_offset` may refuse, in theory; the kernel then refuses the write, and the page cache takes it.
        let start = if start < ALIGNMENT { start } else { 0 };
        Block { memory, start }
    }
    fn bytes(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + BLOCK_BYTES]
    }
}

/// The content of one chunk, written from its start to its end.
pub(super) struct Output {
    /// Next byte of the file.
    at: u64,
    has_room: bool,
    direct: Option<Direct>,
}

/// A second descriptor of the file, and what does not fill a block yet.
struct Direct {
    file: File,
    block: Block,
    filled: usize,
    blocks: Blocks,
}

impl Output {
    /// Begins the content of `length` bytes at `start`, a multiple of [`ALIGNMENT`], of the new file at `path`.
    ///
    /// # Errors
    /// `ENOSPC`: there is no room for it; others of the file system.
    pub(super) fn begin(
        file: &File,
        path: &Path,
        start: u64,
        length: u64,
        blocks: &Blocks,
    ) -> io::Result<Self> {
        let mut output = Self::buffered(start);
        if length < BLOCK_BYTES as u64 {
            return Ok(output);
        }
        let direct = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_DIRECT)
            .open(path);
        let file_of_blocks = match direct {
            Ok(direct) => direct,
            Err(error) if refuses_direct(&error) => return Ok(output),
            Err(error) => return Err(error),
        };
        // Blocks that exist are written side by side; a file that grows is locked for each.
        match fallocate(file, FallocateFlags::empty(), 0, (start + length) as i64) {
            Ok(()) => output.has_room = true,
            Err(nix::Error::EOPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
        let block = blocks.kept.lock().pop();
        output.direct = Some(Direct {
            file: file_of_blocks,
            block: block.unwrap_or_else(Block::aligned),
            filled: 0,
            blocks: blocks.clone(),
        });
        Ok(output)
    }

    /// Content through the page cache, beginning at `start`.
    pub(super) fn buffered(start: u64) -> Self {
        Output {
            at: start,
            has_room: false,
            direct: None,
        }
    }

    /// The whole content has its room on the disk: no write of it meets `ENOSPC`.
    pub(super) fn has_room(&self) -> bool {
        self.has_room
    }

    /// Takes the next piece; `file` is the file of [`Output::begin`].
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn append(&mut self, file: &File, mut piece: &[u8]) -> io::Result<()> {
        while let Some(direct) = &mut self.direct
            && !piece.is_empty()
        {
            let (now, later) = piece.split_at(piece.len().min(BLOCK_BYTES - direct.filled));
            direct.gather(now);
            piece = later;
            if direct.filled < BLOCK_BYTES {
                continue;
            }
            match direct.write(self.at) {
                Ok(()) => {
                    direct.filled = 0;
                    self.at += BLOCK_BYTES as u64;
                }
                Err(error) if refuses_direct(&error) => self.flush(file)?,
                Err(error) => return Err(error),
            }
        }
        file.write_all_at(piece, self.at)?;
        self.at += piece.len() as u64;
        Ok(())
    }

    /// Writes what does not fill a block; everything goes through the page cache from now on. Nothing is synced here.
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn flush(&mut self, file: &File) -> io::Result<()> {
        let Some(mut direct) = self.direct.take() else {
            return Ok(());
        };
        let rest = direct.gathered();
        file.write_all_at(rest, self.at)?;
        self.at += rest.len() as u64;
        Ok(())
    }
}

impl Direct {
    fn gather(&mut self, piece: &[u8]) {
        let filled = self.filled;
        self.filled += piece.len();
        self.block.bytes()[filled..filled + piece.len()].copy_from_slice(piece);
    }
    fn gathered(&mut self) -> &[u8] {
        &self.block.bytes()[..self.filled]
    }
    fn write(&mut self, at: u64) -> io::Result<()> {
        self.file.write_all_at(self.block.bytes(), at)
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        let mut kept = self.blocks.kept.lock();
        if kept.len() < KEPT_MAX {
            kept.push(std::mem::take(&mut self.block));
        }
    }
}

/// The file system, or the disk's sector size, does not allow it.
fn refuses_direct(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index / 7 + index % 251) as u8).collect()
    }

    /// Writes `length` bytes in pieces of `step`; what the file has.
    fn written(length: usize, step: usize, blocks: &Blocks, spoil: impl FnOnce(&mut Output)) -> Vec<u8> {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        let file = File::create_new(&path).unwrap();
        let mut output = Output::begin(&file, &path, 8192, length as u64, blocks).unwrap();
        spoil(&mut output);
        for piece in content(length).chunks(step) {
            output.append(&file, piece).unwrap();
        }
        output.flush(&file).unwrap();
        std::fs::read(&path).unwrap()
    }

    #[test]
    fn any_length_in_any_pieces_arrives() {
        let blocks = Blocks::default();
        for length in [
            1,
            4096,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            3 * BLOCK_BYTES + 4097,
        ] {
            for step in [999, 65_536, 256 << 10, 2 * BLOCK_BYTES + 5] {
                let found = written(length, step, &blocks, |_| {});
                assert_eq!(found.len(), 8192 + length, "{length} by {step}");
                assert!(found[8192..] == content(length), "{length} by {step}");
            }
        }
        assert!(blocks.kept.lock().len() <= KEPT_MAX);
        assert!(!blocks.kept.lock().is_empty(), "blocks are used again");
    }

    #[test]
    fn refused_direct_writes_go_through_the_page_cache() {
        let length = 2 * BLOCK_BYTES + 100;
        let misalign = |output: &mut Output| {
            let Some(Direct { block, .. }) = &mut output.direct else {
                // This file system has none: nothing to refuse.
                return;
            };
            block.start = (block.start + 1) % ALIGNMENT;
        };
        let found = written(length, 100_000, &Blocks::default(), misalign);
        assert!(found[8192..] == content(length));
    }
}
