//! Zeros ahead of the batches in the active journal, so that a sync has only the batch to write.
//!
//! fjall makes a journal at its full size, but without blocks. A sync of what was written into new blocks waits for the file system's own
//! journal too, which tells of the blocks: 6 KB in 280 to 310 µs, and 130 to 150 µs into blocks that are there (ext4, virtio disk, ADR 0018).
//! So the next megabyte is written with zeros before batches get there. Invariant: only holes are filled, which read as zeros before,
//! within the size of the file, and by whoever has the right to write: fjall, and whoever looks after the end of the process, find the same bytes as without. After
//! a power cut blocks may show what stood in them before, on file systems that let that happen, as they may with any write: recovery takes older
//! batches for what they are.
//!
//! After a restart fjall appends to the journal that it finds, until that has 64 MB: nothing is ahead of the end of a file.

use super::recovery;
use dfs_common::FsResult;
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Zeros written at once; between two looks at the journal.
const STEP: u64 = 1 << 20;

/// How far the active journal is filled ahead.
pub struct ZerosAhead {
    dir: PathBuf,
    /// Bytes of batches until it is looked at again.
    left: u64,
    failed: bool,
}

impl ZerosAhead {
    /// Of the journals in `dir`.
    pub fn new(dir: &Path) -> Self {
        ZerosAhead {
            dir: dir.to_owned(),
            left: 0,
            failed: false,
        }
    }

    /// A batch of about `bytes` is written next. A failure costs time and nothing else: it is logged once.
    pub fn before(&mut self, bytes: u64) {
        if let Some(left) = self.left.checked_sub(bytes) {
            self.left = left;
            return;
        }
        self.left = STEP.saturating_sub(bytes);
        let filled = self.fill();
        if let Err(error) = &filled
            && !self.failed
        {
            tracing::warn!(%error, "no blocks could be made for the metadata journal in advance: syncs take longer");
        }
        self.failed = filled.is_err();
    }

    /// Fills the next holes of the active journal.
    fn fill(&self) -> FsResult<()> {
        let Some(active) = recovery::journals(&self.dir)?.pop() else {
            return Ok(());
        };
        let file = File::options().read(true).write(true).open(active)?;
        Ok(fill_holes(&file)?)
    }
}

/// Writes zeros from the first hole of `file` on, within its size, if they are read there: a file system may take for a hole what it has not
/// written to the disk yet.
fn fill_holes(file: &File) -> io::Result<()> {
    let size = file.metadata()?.len();
    let hole = match lseek(file, 0, Whence::SeekHole) {
        Ok(hole) => hole as u64,
        // An empty file.
        Err(Errno::ENXIO) => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    let mut zeros = vec![0; STEP.min(size.saturating_sub(hole)) as usize];
    file.read_exact_at(&mut zeros, hole)?;
    match zeros.iter().all(|byte| *byte == 0) {
        true => file.write_all_at(&zeros, hole),
        false => Err(io::Error::other(
            "the file system does not tell holes from content",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    const SIZE: u64 = 3 * STEP + 100;

    /// A journal as fjall makes it, and what stands in it.
    fn journal(dir: &Path, id: u32, content: &[u8]) -> File {
        let path = dir.join(format!("{id}.jnl"));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .unwrap();
        file.set_len(SIZE).unwrap();
        file.write_all_at(content, 0).unwrap();
        file
    }

    fn blocks(file: &File) -> u64 {
        file.sync_all().unwrap();
        file.metadata().unwrap().blocks() * 512
    }

    #[test]
    fn newest_journal_is_filled_step_by_step_and_reads_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let old = journal(dir.path(), 9, b"old");
        let content = vec![7; 10_000];
        let active = journal(dir.path(), 10, &content);
        let mut ahead = ZerosAhead::new(dir.path());
        for (bytes, filled) in [
            (1000, STEP),
            (STEP - 1000, STEP),
            (1, 2 * STEP),
            (STEP - 1, 2 * STEP),
            (2 * STEP, 3 * STEP),
            (1, SIZE),
            (STEP, SIZE),
        ] {
            ahead.before(bytes);
            let found = blocks(&active);
            assert!(
                (filled..=filled + STEP / 8).contains(&found),
                "{bytes}: {found}, not {filled}"
            );
        }
        let mut read = vec![0; SIZE as usize];
        active.read_exact_at(&mut read, 0).unwrap();
        assert_eq!(&read[..content.len()], content);
        assert!(read[content.len()..].iter().all(|byte| *byte == 0));
        assert_eq!(active.metadata().unwrap().len(), SIZE);
        assert!(blocks(&old) < STEP, "a journal that is full");
    }
}
