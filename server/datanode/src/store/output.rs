//! Where the content of a chunk goes on its way to the disk: past the page cache as far as its blocks are whole.
//!
//! A chunk is written once, synced at once and then seldom read from the node that has just written it; going through the page cache
//! costs a copy into fresh memory per replica (docs/adr/0008-direct-writes.md has the figures). Where the file system has no direct
//! input and output, or refuses it, everything goes through the page cache: slower, otherwise the same.

use dfs_common::buffer::{ALIGNMENT, Buffer, Buffers};
use dfs_common::piece::Piece;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::libc;
use nix::sys::uio::pwritev;
use std::fs::{File, OpenOptions};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// Bytes that one direct write takes of content that must be copied for it; content below this goes through the page cache.
const BLOCK_BYTES: usize = 512 << 10;
/// Blocks that are kept when nobody uses them: 4 MiB.
const KEPT_MAX: usize = 8;

/// Memory for content that does not lie as direct writes want it.
pub(super) fn blocks() -> Buffers {
    Buffers::new(BLOCK_BYTES, KEPT_MAX)
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
    /// What had to be copied; `None` if nothing waits.
    block: Option<Buffer>,
    filled: usize,
    blocks: Buffers,
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
        blocks: &Buffers,
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
        output.direct = Some(Direct {
            file: file_of_blocks,
            block: None,
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

    /// Takes the next pieces; `file` is the file of [`Output::begin`].
    ///
    /// # Errors
    /// Those of the file system.
    pub(super) fn append(&mut self, file: &File, pieces: &[Piece]) -> io::Result<()> {
        let mut pieces: Vec<&[u8]> = pieces.iter().map(|piece| &piece.content()[..]).collect();
        if let Some(direct) = &mut self.direct {
            let ready = direct.ready(&pieces);
            let wanted: usize = pieces[..ready].iter().map(|piece| piece.len()).sum();
            match direct.write_pieces(&pieces[..ready], self.at) {
                Ok(written) => {
                    self.at += written as u64;
                    pieces = behind(&pieces, written);
                    if written < wanted {
                        // Where it ended is not where a direct write may begin.
                        self.flush(file)?;
                    }
                }
                // None of it, which the page cache takes.
                Err(error) if refuses_direct(&error) => self.flush(file)?,
                Err(error) => return Err(error),
            }
        }
        pieces
            .into_iter()
            .try_for_each(|piece| self.append_copied(file, piece))
    }

    fn append_copied(&mut self, file: &File, mut piece: &[u8]) -> io::Result<()> {
        while let Some(direct) = &mut self.direct
            && !piece.is_empty()
        {
            let (now, later) = piece.split_at(piece.len().min(BLOCK_BYTES - direct.filled));
            direct.gather(now);
            piece = later;
            if direct.filled < BLOCK_BYTES {
                continue;
            }
            match direct.file.write_all_at(direct.gathered(), self.at) {
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
        let Some(direct) = self.direct.take() else {
            return Ok(());
        };
        let rest = direct.gathered();
        file.write_all_at(rest, self.at)?;
        self.at += rest.len() as u64;
        Ok(())
    }
}

impl Direct {
    /// How many of the first pieces can be written from where they lie.
    fn ready(&self, pieces: &[&[u8]]) -> usize {
        let aligned = |piece: &&&[u8]| {
            piece.as_ptr().addr().is_multiple_of(ALIGNMENT) && piece.len().is_multiple_of(ALIGNMENT)
        };
        match self.filled {
            0 => pieces.iter().take_while(aligned).count(),
            _ => 0,
        }
    }

    /// Bytes written, usually all. If direct writes are refused, none were.
    fn write_pieces(&self, pieces: &[&[u8]], at: u64) -> io::Result<usize> {
        if pieces.is_empty() {
            return Ok(0);
        }
        let slices: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        // Chunks end below 2^27.
        Ok(pwritev(&self.file, &slices, at as i64)?)
    }

    fn gather(&mut self, piece: &[u8]) {
        let block = self.block.get_or_insert_with(|| self.blocks.take(BLOCK_BYTES));
        block.bytes_mut()[self.filled..self.filled + piece.len()].copy_from_slice(piece);
        self.filled += piece.len();
    }

    fn gathered(&self) -> &[u8] {
        self.block
            .as_ref()
            .map_or(&[], |block| &block.as_ref()[..self.filled])
    }
}

/// What is behind the first `bytes` of the pieces.
fn behind<'a>(pieces: &[&'a [u8]], mut bytes: usize) -> Vec<&'a [u8]> {
    let mut rest = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let skipped = bytes.min(piece.len());
        bytes -= skipped;
        if skipped < piece.len() {
            rest.push(&piece[skipped..]);
        }
    }
    rest
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

    /// Writes `length` bytes, `step` at a time, in memory that starts at `shift` of a page; what the file has.
    fn written(
        length: usize,
        step: usize,
        shift: usize,
        blocks: &Buffers,
        spoil: impl FnOnce(&mut Output),
    ) -> Vec<u8> {
        let dir = tempfile::tempdir_in(".").unwrap();
        let path = dir.path().join("file");
        let file = File::create_new(&path).unwrap();
        let mut output = Output::begin(&file, &path, 8192, length as u64, blocks).unwrap();
        spoil(&mut output);
        let memory = Buffers::new(length + shift, 0);
        let mut memory = memory.take(length + shift);
        memory.bytes_mut()[shift..].copy_from_slice(&content(length));
        let memory = memory.freeze().slice(shift..);
        let pieces: Vec<Piece> = (0..length)
            .step_by(step)
            .map(|at| Piece::new(memory.slice(at..length.min(at + step))))
            .collect();
        for pieces in pieces.chunks(3) {
            output.append(&file, pieces).unwrap();
        }
        output.flush(&file).unwrap();
        std::fs::read(&path).unwrap()
    }

    const LENGTHS: [usize; 6] = [
        1,
        4096,
        BLOCK_BYTES - 1,
        BLOCK_BYTES,
        BLOCK_BYTES + 1,
        3 * BLOCK_BYTES + 4097,
    ];

    #[test]
    fn any_length_in_any_pieces_arrives() {
        let blocks = blocks();
        for length in LENGTHS {
            for (step, shift) in [
                (999, 0),
                (65_536, 0),
                (65_536, 7),
                (256 << 10, 0),
                (256 << 10, 1),
                (4098, 0),
            ] {
                let found = written(length, step, shift, &blocks, |_| {});
                assert_eq!(found.len(), 8192 + length, "{length} by {step} at {shift}");
                assert!(found[8192..] == content(length), "{length} by {step} at {shift}");
            }
        }
        assert!((1..=KEPT_MAX).contains(&blocks.kept()), "blocks are used again");
    }

    #[test]
    fn rest_of_a_short_write_is_what_was_not_written() {
        let pieces: [&[u8]; 3] = [b"abc", b"de", b"f"];
        for (bytes, rest) in [(0, "abcdef"), (1, "bcdef"), (3, "def"), (4, "ef"), (6, "")] {
            assert_eq!(behind(&pieces, bytes).concat(), rest.as_bytes());
        }
    }

    #[test]
    fn aligned_pieces_are_not_copied() {
        let blocks = blocks();
        let length = 2 * BLOCK_BYTES;
        let found = written(length, 256 << 10, 0, &blocks, |_| {});
        assert!(found[8192..] == content(length));
        assert_eq!(blocks.kept(), 0, "no block was needed");
    }

    #[test]
    fn refused_direct_writes_go_through_the_page_cache() {
        let length = 2 * BLOCK_BYTES + 100;
        // A direct write at an odd offset is refused.
        let misalign = |output: &mut Output| output.at += 1;
        for shift in [0, 1] {
            let found = written(length, 200_000, shift, &blocks(), misalign);
            assert!(found[8193..] == content(length));
        }
    }
}
