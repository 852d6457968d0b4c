//! Chunk ids granted ahead, so that a write seldom waits for one.

use crate::client::Inner;
use crate::session::unexpected;
use crate::waiting::What;
use dfs_common::FsResult;
use dfs_common::capability::ChunkCapability;
use dfs_common::op::{OpReply, Operation};
use dfs_common::session::Caller;
use parking_lot::Mutex;
use std::time::{Duration, Instant};

/// Ids asked for at once.
const GRANT: u32 = 16;
/// Older grants are dropped: the cluster may look different by now, and capabilities expire.
const AGE_MAX: Duration = Duration::from_secs(600);

/// Grants that nobody has used.
#[derive(Default)]
pub(crate) struct Grants {
    free: Mutex<Vec<(Instant, ChunkCapability)>>,
    asking: tokio::sync::Mutex<()>,
}

impl Grants {
    pub(crate) fn clear(&self) {
        self.free.lock().clear();
    }
}

impl Inner {
    /// A free grant whose group looks able to take a chunk; `None` if there is none.
    fn free_grant(&self) -> Option<ChunkCapability> {
        let mut free = self.grants.free.lock();
        while let Some((granted, capability)) = free.pop() {
            // An unknown group is looked up by the upload.
            let members = self.cluster.members(capability.chunk.group());
            let good =
                members.is_none_or(|members| !members.is_empty() && members.iter().all(|member| member.good));
            if granted.elapsed() < AGE_MAX && good {
                return Some(capability);
            }
        }
        None
    }

    /// A chunk id of this session. Waits while no group can take chunks.
    ///
    /// # Errors
    /// `NoSpace`: the cluster is full. `Unavailable` when the patience ends.
    pub(crate) async fn grant(&self) -> FsResult<ChunkCapability> {
        if let Some(capability) = self.free_grant() {
            return Ok(capability);
        }
        let _one = self.grants.asking.lock().await;
        if let Some(capability) = self.free_grant() {
            return Ok(capability);
        }
        let op = Operation::GrantChunks { count: GRANT };
        let reply = self
            .mutate(What::new("asking for chunk ids"), &Caller::root(), op)
            .await?;
        let OpReply::Chunks(granted) = reply else {
            return Err(unexpected(&reply));
        };
        let now = Instant::now();
        let mut granted = granted.into_iter();
        let Some(first) = granted.next() else {
            return Err(unexpected(&OpReply::Chunks(Vec::new())));
        };
        let generation = self.session.live().identity.session;
        let mut free = self.grants.free.lock();
        free.extend(
            granted
                .filter(|capability| capability.session == generation)
                .map(|capability| (now, capability)),
        );
        Ok(first)
    }
}
