//! Settings of a coordinator: what an administrator chooses. Limits that nobody needs to change are in `dfs_common::limits`.

pub use crate::store::StoreKind;
use dfs_common::limits::{
    CHUNK_BYTES_DEFAULT, CHUNK_BYTES_MAX, FRAME_BYTES, FREED_CHUNK_DELAY, REPLICATION_MAX,
};
use dfs_common::{ErrorKind, FsError, FsResult};
pub use dfs_proto::socket::LocalSockets;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Settings of a coordinator.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Its data directory; made if missing.
    pub data_dir: PathBuf,
    /// Address of all its services; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Whether it offers and uses Unix sockets within this machine.
    pub local_sockets: LocalSockets,
    /// Which store a new data directory gets; an existing one keeps its own.
    pub store: StoreKind,
    /// Replicas that a new chunk shall have: 1 to [`REPLICATION_MAX`].
    pub replication: u32,
    /// Receipts without which a commit is refused: 1 to `replication`.
    pub replication_floor: u32,
    /// Size at which writers cut chunks: [`FRAME_BYTES`] to [`CHUNK_BYTES_MAX`].
    pub chunk_bytes: u64,
    /// Size of the store's cache in bytes.
    pub cache_bytes: u64,
    /// How long a chunk that no extent refers to is kept before its replicas are deleted.
    pub freed_chunk_delay: Duration,
}

impl CoordinatorConfig {
    /// Defaults: fjall, 3 replicas with a floor of 2, chunks of 8 MiB, 32 MiB of cache, freed chunks kept for a
    /// minute.
    pub fn new(data_dir: impl Into<PathBuf>, listen: SocketAddr) -> Self {
        CoordinatorConfig {
            data_dir: data_dir.into(),
            listen,
            local_sockets: LocalSockets::default(),
            store: StoreKind::default(),
            replication: 3,
            replication_floor: 2,
            chunk_bytes: CHUNK_BYTES_DEFAULT,
            cache_bytes: 32 << 20,
            freed_chunk_delay: FREED_CHUNK_DELAY,
        }
    }

    /// # Errors
    /// `Invalid`, naming the setting that is out of range.
    pub fn validate(&self) -> FsResult<()> {
        let refuse = |text: String| Err(FsError::new(ErrorKind::Invalid, text));
        if !(1..=REPLICATION_MAX).contains(&self.replication) {
            return refuse(format!(
                "replication is 1 to {REPLICATION_MAX}, not {}",
                self.replication
            ));
        }
        if !(1..=self.replication).contains(&self.replication_floor) {
            return refuse(format!(
                "replication floor is 1 to the replication ({}), not {}",
                self.replication, self.replication_floor
            ));
        }
        if !(FRAME_BYTES as u64..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes) {
            return refuse(format!(
                "chunk size is {FRAME_BYTES} to {CHUNK_BYTES_MAX} bytes, not {}",
                self.chunk_bytes
            ));
        }
        if self.cache_bytes < 1 << 20 {
            return refuse(format!(
                "store cache is at least 1 MiB, not {} bytes",
                self.cache_bytes
            ));
        }
        Ok(())
    }
}
