//! The control of a power cut: a plain file on the same disk, appended to and synced, until the power is gone.
//!
//! A sync that is under way while the power goes may be acknowledged and lost, whoever asks for it: that is the disk of the test, not the
//! program under test. What was acknowledged before the cut began must be there, of the control too; what was acknowledged after that is not
//! judged, only counted beside each other.

use super::deadline::{Pending, start, until};
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const RECORD: usize = 64;
/// Records that are synced before the power is cut.
const RECORDS_BEFORE: usize = 20;
const LIMIT: Duration = Duration::from_secs(60);

/// A writer at work.
pub(super) struct Control {
    path: PathBuf,
    acknowledged: Pending<Vec<Instant>>,
}

/// What became of the control.
#[derive(Debug)]
pub struct PowerCut {
    /// The cut began: what was acknowledged earlier is owed.
    pub began: Instant,
    /// Records of the control that were acknowledged before that.
    pub owed: usize,
    /// Acknowledged at all.
    pub acknowledged: usize,
    /// There afterwards, whole and in order.
    pub found: usize,
}

fn record(number: usize) -> [u8; RECORD] {
    let text = format!("{number:0width$}\n", width = RECORD - 1);
    text.as_bytes().try_into().expect("as long as a record")
}

impl Control {
    /// Starts to write a file at `path`, and waits until some of it is synced.
    pub(super) fn start(path: PathBuf) -> Self {
        let count = Arc::new(AtomicUsize::new(0));
        let acknowledged = {
            let (path, count) = (path.clone(), count.clone());
            start("control", move || {
                let mut acknowledged = Vec::new();
                let mut file = File::create(&path).expect("the disk takes a file");
                // The first failure is the cut.
                while file.write_all(&record(acknowledged.len())).is_ok() && file.sync_data().is_ok() {
                    acknowledged.push(Instant::now());
                    count.store(acknowledged.len(), Ordering::Relaxed);
                }
                acknowledged
            })
        };
        until("records of the control", LIMIT, || {
            (count.load(Ordering::Relaxed) >= RECORDS_BEFORE).then_some(())
        });
        Control { path, acknowledged }
    }

    /// The power is gone: waits for the end of the writer.
    pub(super) fn end(self) -> (PathBuf, Vec<Instant>) {
        (self.path, self.acknowledged.wait(LIMIT))
    }
}

impl PowerCut {
    /// Reads what is left of the control, and removes it.
    ///
    /// # Panics
    /// When the disk lost what it had synced before the cut: then it cannot judge others.
    pub(super) fn judge(began: Instant, path: &Path, acknowledged: &[Instant]) -> Self {
        let mut bytes = Vec::new();
        if let Ok(mut file) = File::open(path) {
            file.read_to_end(&mut bytes).expect("the disk is back");
            std::fs::remove_file(path).expect("the file is ours");
        }
        let whole = |(number, bytes): &(usize, &[u8])| *bytes == record(*number);
        let cut = PowerCut {
            began,
            owed: acknowledged.iter().filter(|at| **at < began).count(),
            acknowledged: acknowledged.len(),
            found: bytes.chunks(RECORD).enumerate().take_while(whole).count(),
        };
        println!("control of the power cut: {cut:?}");
        assert!(
            cut.found >= cut.owed,
            "the test's own disk loses what was synced: {cut:?}"
        );
        cut
    }
}
