//! A snapshot whose reading can be stopped from elsewhere: a check of millions of records has no other place to notice.

use super::MetaRead;
use bytes::Bytes;
use dfs_common::{ErrorKind, FsError, FsResult};
use tokio_util::sync::CancellationToken;

/// Reads until it is told to stop.
pub struct Stoppable {
    inner: Box<dyn MetaRead>,
    stop: CancellationToken,
}

impl Stoppable {
    /// Reads `inner` until `stop`.
    pub fn new(inner: Box<dyn MetaRead>, stop: CancellationToken) -> Self {
        Stoppable { inner, stop }
    }

    fn check(&self) -> FsResult<()> {
        match self.stop.is_cancelled() {
            true => Err(FsError::new(ErrorKind::Interrupted, "reading was stopped")),
            false => Ok(()),
        }
    }
}

impl MetaRead for Stoppable {
    fn get(&self, key: &[u8]) -> FsResult<Option<Bytes>> {
        self.check()?;
        self.inner.get(key)
    }
    fn scan(&self, start: &[u8], end: &[u8], limit: usize) -> FsResult<Vec<(Bytes, Bytes)>> {
        self.check()?;
        self.inner.scan(start, end, limit)
    }
}
