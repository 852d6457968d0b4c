//! Saves what is unsaved for long, and everything when memory for unsaved data runs out.

use crate::client::Inner;
use crate::file::File;
use dfs_common::Ino;
use futures::StreamExt;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Unsaved data this old is saved without being asked to.
const AGE_MAX: Duration = Duration::from_secs(5);
/// Between two looks, while there is unsaved data.
const INTERVAL: Duration = Duration::from_secs(1);
/// Files saved at the same time.
const FILES_AT_ONCE: usize = 8;

/// Files with unsaved data.
#[derive(Default)]
pub(crate) struct Unsaved {
    files: Mutex<HashMap<Ino, Arc<File>>>,
    some: Notify,
}

impl Unsaved {
    /// The file has unsaved data from now on.
    pub(crate) fn add(&self, file: &Arc<File>) {
        let mut files = self.files.lock();
        files.insert(file.ino, file.clone());
        if files.len() == 1 {
            self.some.notify_one();
        }
    }

    /// Nothing of the file is unsaved any more, unless somebody wrote just now.
    pub(crate) fn forget_clean(&self, file: &File) {
        let mut files = self.files.lock();
        if !file.state.lock().is_dirty() {
            files.remove(&file.ino);
        }
    }

    pub(crate) fn forget(&self, ino: Ino) {
        self.files.lock().remove(&ino);
    }

    pub(crate) fn files(&self) -> Vec<Arc<File>> {
        self.files.lock().values().cloned().collect()
    }

    fn is_empty(&self) -> bool {
        self.files.lock().is_empty()
    }
}

impl Inner {
    /// Saves old data until the client stops; idle while nothing is unsaved.
    pub(crate) async fn flush_old(self: Arc<Self>) {
        loop {
            if self.unsaved.is_empty() {
                self.pool.trim();
                tokio::select! {
                    () = self.stop.cancelled() => return,
                    () = self.unsaved.some.notified() => {}
                }
            }
            let pressed = tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.dirty.pressure.notified() => true,
                () = tokio::time::sleep(INTERVAL) => false,
            };
            let now = Instant::now();
            let old = |file: &Arc<File>| {
                let state = file.state.lock();
                // Under pressure, what fills whole chunks is on its way already: cutting them short would not help.
                let idle = pressed && !state.saving;
                idle || state.dirty_since().is_some_and(|since| now - since >= AGE_MAX)
            };
            let files: Vec<Arc<File>> = self.unsaved.files().into_iter().filter(old).collect();
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.save_files(files) => {}
            }
        }
    }

    /// Saves what these files have unsaved now; failures are remembered for their handles. Cancel-safe.
    pub(super) async fn save_files(self: &Arc<Self>, files: Vec<Arc<File>>) {
        let saving = futures::stream::iter(files).for_each_concurrent(FILES_AT_ONCE, |file| {
            let inner = self.clone();
            async move {
                if let Err(error) = inner.save(&file).await {
                    tracing::warn!(ino = %file.ino, %error, "unsaved data could not be saved");
                }
                inner.unsaved.forget_clean(&file);
            }
        });
        saving.await;
    }
}
