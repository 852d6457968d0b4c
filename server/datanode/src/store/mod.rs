//! Where chunks are kept: the [`ChunkStore`] trait, and [`LocalStore`], which keeps each as a file.
//!
//! Code map of the local one: [`local`] puts the parts together, `writer` (over `output`) and `reader` are the two ways of a chunk, `leaves` the
//! directories, `index` what can be listed quickly, `rebuild` makes that anew, `space` and `health` say what the disk can take.
//! The files are the truth; everything else here can be made from them again.

mod health;
mod index;
mod leaves;
mod local;
mod output;
mod reader;
mod rebuild;
mod space;
mod sync;
mod writer;

pub use health::{DiskHealth, OnFailure};
pub use local::{LocalStore, StoreSettings};
pub use sync::{DiskSync, KernelSync};

use async_trait::async_trait;
use dfs_common::chunk::{ChunkDescription, ChunkLabel};
use dfs_common::piece::Piece;
use dfs_common::{ChunkId, DiskIncarnation, FsResult};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use tokio::sync::oneshot;

/// A chunk as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChunk {
    /// The chunk.
    pub chunk: ChunkId,
    /// Length of its content in bytes.
    pub length: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// How full and how well a store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreLoad {
    /// Incarnation of its disk.
    pub disk: DiskIncarnation,
    /// Size of its disk in bytes.
    pub capacity_bytes: u64,
    /// Bytes that chunks can still take; the reserve and the writes under way are taken off.
    pub available_bytes: u64,
    /// Content of its chunks in bytes.
    pub used_bytes: u64,
    /// Number of its chunks.
    pub chunks: u64,
    /// False after its disk failed: it is only read then.
    pub writable: bool,
    /// Chunks found damaged since the start.
    pub suspect_chunks: u64,
}

/// Where the content's SHA-256 comes from. Wherever that is, the frames of the content have their checksums.
pub enum HashSource {
    /// The store computes it.
    Here {
        /// Content of another one is refused.
        expected: Option<[u8; 32]>,
        /// Told it, before the content is durable; dropped if the content is refused.
        found: Option<oneshot::Sender<[u8; 32]>>,
    },
    /// Whoever the content comes from says it, once the content has ended. An error of it is one of the write.
    Told(BoxFuture<'static, FsResult<[u8; 32]>>),
}

/// What a store says of a chunk that it made durable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Incarnation of the disk that has it.
    pub disk: DiskIncarnation,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// Keeps chunks: immutable, verified, durable when it says so.
#[async_trait]
pub trait ChunkStore: Send + Sync + 'static {
    /// Stores a chunk; durable on return.
    ///
    /// Idempotent for the same bytes, also when several write at once, and whether or not their SHA-256 is known beforehand. `content`
    /// comes in aligned pieces, whose checksums are stored as they are; it is read as fast as it can be stored, and is whole when it
    /// ends. A write that fails or is dropped leaves nothing.
    ///
    /// # Errors
    /// `ChunkConflict` (other bytes exist under the id), `NoSpace`, `Corrupt` (content of another length or hash), `Invalid` (pieces
    /// that are not aligned), `ReadOnly` (the disk failed), `Unavailable` (the store closes, or the chunk was deleted meanwhile), and
    /// those of `content` and `hash`.
    async fn store(
        &self,
        label: ChunkLabel,
        content: BoxStream<'static, FsResult<Piece>>,
        hash: HashSource,
    ) -> FsResult<Durable>;

    /// [`ChunkStore::store`] of content whose SHA-256 is known and compared here.
    ///
    /// # Errors
    /// Those of [`ChunkStore::store`].
    async fn write(
        &self,
        description: ChunkDescription,
        content: BoxStream<'static, FsResult<Piece>>,
    ) -> FsResult<DiskIncarnation> {
        let hash = HashSource::Here {
            expected: Some(description.sha256),
            found: None,
        };
        Ok(self.store(description.label(), content, hash).await?.disk)
    }

    /// Streams a range of a chunk's content, verified, with the stored checksums.
    ///
    /// # Errors
    /// `NotFound`, `Invalid` (the range reaches behind the content), `Corrupt` (here, or later in the stream).
    async fn read(
        &self,
        chunk: ChunkId,
        offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>>;

    /// What a chunk's header says.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`.
    async fn stat(&self, chunk: ChunkId) -> FsResult<ChunkDescription>;

    /// [`ChunkStore::stat`] of each of these, in their order.
    async fn stat_all(&self, chunks: Vec<ChunkId>) -> Vec<FsResult<ChunkDescription>> {
        let mut described = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            described.push(self.stat(chunk).await);
        }
        described
    }

    /// Deletes a chunk, durable on return; a missing one is no error.
    ///
    /// # Errors
    /// `ReadOnly` (the disk failed), `Io`.
    async fn delete(&self, chunk: ChunkId) -> FsResult<()>;

    /// Chunks behind `after` in order of their ids, at most `limit`; fewer means that nothing follows.
    async fn list(&self, after: Option<ChunkId>, limit: usize) -> FsResult<Vec<StoredChunk>>;

    /// How full and how well the store is.
    async fn load(&self) -> FsResult<StoreLoad>;

    /// Waits for the writes under way, refuses later ones, and leaves everything in good order for the next start.
    async fn close(&self);
}
