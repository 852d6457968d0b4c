//! Before fjall opens its journals: the end of a write that a crash cut short is cut off, and any other damage is refused.
//!
//! fjall itself takes away what follows an unreadable mark without a word, be it a thousand synced batches, and refuses to open when the last batch
//! has its end but not its middle, as a power cut may leave it. The rule here: cut off is only what nobody was told to be
//! durable. That is what follows the last whole batch, if the journal is the active one, nothing whole follows but batches that were written
//! without a sync, and the record of what is synced does not reach so far ([`super::synced`]). Everything else is an
//! error that changes nothing.

use super::journal::{self, Batch, Contents};
use dfs_common::{ErrorKind, FsError, FsResult, durable};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A journal that is read, at most; fjall begins a new one long before.
const JOURNAL_READ_MAX: u64 = 1 << 30;
/// Cut-off ends that are kept, at most.
const CUTS_KEPT: usize = 16;

/// What stands in `JOURNAL.cut-OFFSET` was cut off the journal at that offset.
const CUT: &str = ".jnl.cut-";

/// The content of a journal, without the zeros behind it, which are most of a young one.
pub fn read_content(path: &Path) -> std::io::Result<Vec<u8>> {
    const PIECE: usize = 256 << 10;
    let file = File::open(path)?;
    let (mut piece, zeros) = (vec![0; PIECE], vec![0; PIECE]);
    let mut end = file.metadata()?.len();
    while end > 0 {
        let start = (end - 1) / PIECE as u64 * PIECE as u64;
        let length = (end - start) as usize;
        file.read_exact_at(&mut piece[..length], start)?;
        if piece[..length] != zeros[..length] {
            break;
        }
        end = start;
    }
    if end > JOURNAL_READ_MAX {
        return Err(std::io::Error::other(format!(
            "it has more than {JOURNAL_READ_MAX} bytes"
        )));
    }
    let mut bytes = vec![0; end as usize];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

struct Journal {
    path: PathBuf,
    contents: Contents,
    bytes: Vec<u8>,
}

impl Journal {
    fn read(path: PathBuf, before: Option<Batch>) -> FsResult<Self> {
        let bytes = read_content(&path)
            .map_err(|error| FsError::from(error).context(format_args!("reading {}", path.display())))?;
        let contents = journal::walk(&bytes, before);
        Ok(Journal {
            path,
            contents,
            bytes,
        })
    }

    fn refused(&self, why: &str) -> FsError {
        FsError::new(
            ErrorKind::Corrupt,
            format!(
                "the metadata journal {} is damaged at byte {}: {why}. Nothing was changed. Restore the metadata from a backup (`dfs admin metadata restore`)",
                self.path.display(),
                self.contents.whole_end
            ),
        )
    }

    /// # Errors
    /// `Corrupt` unless what follows the whole batches is a write that was cut short.
    fn check_end(&self, synced: u64) -> FsResult<()> {
        let at = self.contents.whole_end;
        // In a store without any whole batch only the first bytes of the damaged one can say where it belongs.
        let lost = match self.contents.last {
            Some(last) => synced > last.seqno,
            None => journal::seqno_at(&self.bytes, at).is_some_and(|seqno| synced >= seqno),
        };
        if lost {
            return Err(self.refused(
                "what stood there had reached the disk whole (the file SYNCED says so), so this is no write that a crash cut short",
            ));
        }
        let mut later = None;
        let searched = journal::search(&self.bytes, at + 1, |batch| {
            // What has a lower number is of an older journal, in blocks that the file system gave this one before they were written.
            let newer = self.contents.last.is_none_or(|last| batch.seqno > last.seqno);
            later = (newer && !batch.unsynced).then_some(batch);
            later.is_none()
        });
        match later {
            Some(batch) => Err(self.refused(&format!(
                "a later record, at byte {}, is whole, so this is no write that a crash cut short",
                batch.start
            ))),
            None if !searched => {
                Err(self.refused("whether a whole record follows takes too long to find out"))
            }
            None => Ok(()),
        }
    }

    /// Takes away what follows the whole batches, and keeps it in a file beside. Durable on return.
    fn cut(&self) -> FsResult<()> {
        let (at, end) = (self.contents.whole_end, self.contents.content_end);
        let kept = PathBuf::from(format!("{}.cut-{at}", self.path.display()));
        let describe =
            |path: &Path, error| FsError::from(error).context(format_args!("writing {}", path.display()));
        durable::replace_private_file(&kept, &self.bytes[at..end]).map_err(|error| describe(&kept, error))?;
        OpenOptions::new()
            .write(true)
            .open(&self.path)
            .and_then(|file| file.set_len(at as u64).and_then(|()| file.sync_all()))
            .map_err(|error| describe(&self.path, error))?;
        tracing::warn!(
            file = %self.path.display(),
            offset = at,
            bytes = end - at,
            kept = %kept.display(),
            "the journal ended in a write that a crash cut short, of which nobody was told that it is durable: it is cut off"
        );
        Ok(())
    }
}

/// The journals in `dir`, oldest first. Names that fjall does not make are left to it.
pub fn journals(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let id = name.to_str().and_then(|name| name.strip_suffix(".jnl"));
        if let Some(id) = id.and_then(|id| id.parse::<u64>().ok()) {
            found.push((id, entry.path()));
        }
    }
    found.sort();
    Ok(found.into_iter().map(|(_, path)| path).collect())
}

/// Makes the journals in `dir` such that fjall reads them to their end, or refuses. Nobody else may have the store open. `synced`: a batch of
/// this number, and all before, are known to be synced.
///
/// # Errors
/// `Corrupt` (names file and offset; nothing was changed), `Io`.
pub fn repair(dir: &Path, synced: Option<u64>) -> FsResult<()> {
    let describe = |error| FsError::from(error).context(format_args!("reading {}", dir.display()));
    let mut last = None;
    let mut paths = journals(dir).map_err(describe)?;
    let active = paths.pop();
    for path in paths {
        let journal = Journal::read(path, last)?;
        if journal.contents.content_end > journal.contents.whole_end {
            return Err(journal.refused("a later journal was begun, and before that this one was synced"));
        }
        last = journal.contents.last;
    }
    if let Some(path) = active {
        let journal = Journal::read(path, last)?;
        journal.check_end(synced.unwrap_or(0))?;
        if journal.contents.content_end > journal.contents.whole_end {
            journal.cut()?;
            forget_old_cuts(dir).map_err(describe)?;
        }
    }
    Ok(())
}

fn forget_old_cuts(dir: &Path) -> std::io::Result<()> {
    let mut cuts = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().contains(CUT) {
            cuts.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    cuts.sort();
    let surplus = cuts.len().saturating_sub(CUTS_KEPT);
    cuts.iter()
        .take(surplus)
        .try_for_each(|(_, path)| std::fs::remove_file(path))
}
