//! A client over twins, with a plan of faults for each seam.

use bytes::Bytes;
use dfs_client::{Client, ClientConfig, FileHandle, OpenFlags};
use dfs_common::name::Name;
use dfs_common::service::{ChunkConnector, MetadataService};
use dfs_common::session::Caller;
use dfs_common::{FsResult, Ino};
use dfs_testkit::faults::{FaultPlan, FaultyConnector, FaultyMetadata};
use dfs_testkit::twin::{TwinCluster, TwinOptions};
use std::sync::Arc;
use std::time::Duration;

pub const READ: OpenFlags = OpenFlags {
    read: true,
    write: false,
    append: false,
    truncate: false,
};
pub const WRITE: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: false,
    truncate: false,
};
pub const APPEND: OpenFlags = OpenFlags {
    read: true,
    write: true,
    append: true,
    truncate: false,
};

pub struct Rig {
    pub cluster: TwinCluster,
    pub metadata_faults: FaultPlan,
    pub chunk_faults: FaultPlan,
    metadata: Arc<dyn MetadataService>,
    chunks: Arc<dyn ChunkConnector>,
}

impl Rig {
    pub fn new() -> Self {
        Rig::with(TwinOptions::default())
    }

    pub fn with(options: TwinOptions) -> Self {
        let cluster = TwinCluster::new(options);
        let (metadata_faults, chunk_faults) = (FaultPlan::none(), FaultPlan::none());
        let metadata = FaultyMetadata::new(cluster.metadata.clone(), metadata_faults.clone());
        let chunks = FaultyConnector::new(cluster.chunks.clone(), chunk_faults.clone());
        Rig {
            cluster,
            metadata_faults,
            chunk_faults,
            metadata: Arc::new(metadata),
            chunks: Arc::new(chunks),
        }
    }

    pub async fn client(&self) -> Client {
        self.client_with(|_| {}).await
    }

    pub async fn client_with(&self, change: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = ClientConfig::new("twin:1");
        change(&mut config);
        Client::with_services(config, self.metadata.clone(), self.chunks.clone())
            .await
            .unwrap()
    }

    /// Chunk writes that datanodes answered.
    pub fn chunk_writes(&self) -> u64 {
        (0..3)
            .map(|index| self.cluster.chunks.node(index).calls().1)
            .sum()
    }
}

pub fn root() -> Caller {
    Caller::root()
}

pub fn name(text: &str) -> Name {
    Name::new(text.as_bytes().to_vec()).unwrap()
}

pub async fn make(client: &Client, text: &str, flags: OpenFlags) -> (Ino, FileHandle) {
    let created = client
        .create(&root(), Ino::ROOT, &name(text), 0o644, false, flags)
        .await
        .unwrap();
    (created.entry.attr.ino, created.handle)
}

pub async fn open(client: &Client, ino: Ino, flags: OpenFlags) -> FileHandle {
    client.open(&root(), ino, flags).await.unwrap().handle
}

pub async fn put(client: &Client, handle: FileHandle, offset: u64, data: &[u8]) {
    let written = client.write(&root(), handle, offset, data).await.unwrap();
    assert_eq!(written as usize, data.len());
}

pub async fn get(client: &Client, handle: FileHandle) -> FsResult<Bytes> {
    client.read(handle, 0, u32::MAX).await
}

/// What a fresh open of another client reads.
pub async fn saved(rig: &Rig, ino: Ino) -> Bytes {
    let other = rig.client().await;
    let handle = open(&other, ino, READ).await;
    let bytes = get(&other, handle).await.unwrap();
    other.shutdown(Duration::from_secs(5)).await.unwrap();
    bytes
}

/// Bytes that tell their place.
pub fn pattern(length: usize, salt: u64) -> Vec<u8> {
    (0..length as u64)
        .map(|i| ((i + salt).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8 | 1)
        .collect()
}

/// Waits for a condition.
pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), waiting)
        .await
        .is_err()
    {
        panic!("did not happen: {what}");
    }
}
