//! The file `SYNCED` beside the journals: up to which batch the store is known to be synced.
//!
//! A torn write and a rotten byte look alike. What tells them apart is whether the batch had been synced: after that it was on the disk, whole.
//! The number in the file is that of a batch whose sync was over, so it never says too much. It is written after each sync and
//! synced itself once a second at most, so after a power cut it may lag behind by what was committed in the last second before, or, if
//! nothing was committed afterwards, until the kernel wrote it back (30 s on Linux unless set otherwise). The end of a process takes nothing from it.

use dfs_common::{FsError, FsResult, durable};
use std::fs::File;
use std::io::{ErrorKind as IoErrorKind, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

const NAME: &str = "SYNCED";
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// Twenty digits, sixteen hexadecimal ones of a checksum: the disk may get a number that is being written.
const LENGTH: usize = 38;

fn line(seqno: u64) -> String {
    let number = format!("{seqno:020}");
    format!("{number} {:016x}\n", xxh3_64(number.as_bytes()))
}

/// What the file in `dir` says; `None` if there is none, or it is damaged.
pub fn read(dir: &Path) -> FsResult<Option<u64>> {
    let path = dir.join(NAME);
    let mut text = String::new();
    let read = match File::open(&path) {
        Ok(file) => file.take(LENGTH as u64 + 1).read_to_string(&mut text),
        Err(error) if error.kind() == IoErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FsError::from(error).context(format_args!("reading {}", path.display()))),
    };
    let seqno = text.get(..20).and_then(|digits| digits.parse().ok());
    let seqno = seqno.filter(|seqno| read.is_ok() && line(*seqno) == text);
    if seqno.is_none() {
        tracing::warn!(file = %path.display(), "the record of what is synced is damaged: going on without");
    }
    Ok(seqno)
}

/// Writes the file.
pub struct SyncedMark {
    file: File,
    /// Number of the last batch, synced or not; 0 before the first.
    last: u64,
    last_sync: Instant,
    failed: bool,
}

impl SyncedMark {
    /// Writes `seqno` anew, durable on return.
    pub fn create(dir: &Path, seqno: u64) -> FsResult<Self> {
        let path = dir.join(NAME);
        let describe = |error| FsError::from(error).context(format_args!("writing {}", path.display()));
        durable::replace_private_file(&path, line(seqno).as_bytes()).map_err(describe)?;
        let file = File::options().write(true).open(&path).map_err(describe)?;
        Ok(SyncedMark {
            file,
            last: 0,
            last_sync: Instant::now(),
            failed: false,
        })
    }

    /// A batch was written whose number is at least `seqno`, and above those of all batches before.
    pub fn written(&mut self, seqno: u64) {
        self.last = seqno;
    }

    /// Everything that was written is synced.
    pub fn synced(&mut self) {
        if self.last == 0 {
            return;
        }
        let mut written = self.file.write_all_at(line(self.last).as_bytes(), 0);
        if written.is_ok() && self.last_sync.elapsed() >= SYNC_INTERVAL {
            written = self.file.sync_data();
            self.last_sync = Instant::now();
        }
        // One that lags behind is not wrong.
        if let Err(error) = &written
            && !self.failed
        {
            tracing::warn!(%error, "what is synced could not be recorded");
        }
        self.failed = written.is_err();
    }
}

impl Drop for SyncedMark {
    fn drop(&mut self) {
        let _ = self.file.sync_data();
    }
}
