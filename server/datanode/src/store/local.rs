//! [`LocalStore`]: chunks as files below one directory.
//!
//! `chunks/` holds the files, `tmp/` writes under way, `index/` what can be listed, `index.clean` says that the index is as good as
//! the files, `damaged/` files that were replaced because they were damaged. Invariant: a file under `chunks/` is whole and its
//! content was synced before it got its name; what is under `chunks/` and nothing else decides which chunks are here.

use super::health::DiskHealth;
use super::index::ChunkIndex;
use super::leaves::{Failed, Leaves};
use super::output::blocks;
use super::reader::{OpenChunk, Reading};
use super::rebuild;
use super::space::Space;
use super::sync::DiskSync;
use super::writer::{ChunkWriter, Hashing};
use super::{ChunkStore, Durable, HashSource, StoreLoad, StoredChunk};
use crate::chunk_file::read_prologue;
use crate::inventory::{Change, Inventory};
use async_trait::async_trait;
use dfs_common::buffer::Buffers;
use dfs_common::chunk::{ChunkDescription, ChunkLabel};
use dfs_common::failpoint::{self, Failpoint};
use dfs_common::limits::{DATANODE_OPEN_FILES_MAX, DATANODE_READS_MAX, SUSPECT_CHUNKS_MAX, WIRE_FRAME_BYTES};
use dfs_common::piece::Piece;
use dfs_common::{ChunkId, ErrorKind, FsError, FsResult, durable};
use futures::StreamExt;
use futures::stream::BoxStream;
use lru::LruCache;
use nix::libc;
use parking_lot::{Mutex, MutexGuard};
use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Semaphore;

const CHUNKS_DIR: &str = "chunks";
const TEMPORARY_DIR: &str = "tmp";
const DAMAGED_DIR: &str = "damaged";
/// Locks that keep changes of one chunk apart.
const STRIPES: usize = 256;
/// Content that one step of a write takes to the disk.
const WRITE_STEP_BYTES: usize = 512 << 10;

/// Buffers for reads that are kept when nobody uses them: 4 MiB.
const READ_BUFFERS_KEPT: usize = 16;

/// Forwarded writes that are taken for each write of clients.
const FORWARDED_PER_WRITE: usize = 64;
/// Chunks of one question that one thread looks at.
const STATS_OF_A_THREAD: usize = 64;

/// Sizes of a local store.
#[derive(Clone, Copy, Debug)]
pub struct StoreSettings {
    /// Concurrent writes; further ones wait.
    pub writes_max: usize,
    /// Space that chunks do not get: a hundredth of the disk, at most so many bytes.
    pub reserve_bytes_max: u64,
}

/// Chunks as files below one directory.
pub struct LocalStore {
    shared: Arc<Shared>,
    writes: Arc<Semaphore>,
    /// Those that other datanodes forward. A write waits for its forwards, so these must not wait for writes, nor for one another: there are so
    /// many that none waits, and what bounds them is how many writes the other datanodes begin.
    forwarded: Arc<Semaphore>,
    writes_max: u32,
    reads: Arc<Semaphore>,
}

/// What the parts of a local store share. Its methods block on the disk.
pub(super) struct Shared {
    pub(super) root: PathBuf,
    pub(super) leaves: Leaves,
    pub(super) space: Space,
    pub(super) health: Arc<DiskHealth>,
    pub(super) index: ChunkIndex,
    pub(super) buffers: Buffers,
    pub(super) blocks: Buffers,
    sync: Arc<dyn DiskSync>,
    inventory: Arc<Inventory>,
    stripes: Vec<Mutex<()>>,
    open_files: Mutex<LruCache<ChunkId, Arc<OpenChunk>>>,
    suspects: Mutex<HashSet<ChunkId>>,
    found_damaged: AtomicU64,
    chunks: AtomicU64,
    used_bytes: AtomicU64,
    next_temporary: AtomicU64,
}

/// What is on disk under a chunk's name.
pub(super) enum Present {
    /// Nothing.
    Nothing,
    /// The same chunk.
    Same,
    /// A file that cannot be read as what it is.
    Damaged,
}

impl LocalStore {
    /// Opens the store below `root`, an existing directory, or makes it. Blocks; takes a scan of all chunk files if the index is
    /// missing, damaged or was not closed in good order.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub fn open(
        root: &Path,
        settings: StoreSettings,
        health: Arc<DiskHealth>,
        sync: Arc<dyn DiskSync>,
        inventory: Arc<Inventory>,
    ) -> FsResult<Self> {
        let making = |error: io::Error| {
            FsError::from(error).context(format_args!("making the chunk store in {}", root.display()))
        };
        for name in [CHUNKS_DIR, TEMPORARY_DIR] {
            durable::create_dir_all(&root.join(name)).map_err(making)?;
        }
        empty(&root.join(TEMPORARY_DIR)).map_err(making)?;
        let leaves = Leaves::new(root.join(CHUNKS_DIR));
        let opened = rebuild::open_index(root, &leaves)?;
        let open_files = NonZeroUsize::new(DATANODE_OPEN_FILES_MAX).expect("the limit is above 0");
        let shared = Shared {
            root: root.to_path_buf(),
            leaves,
            space: Space::new(root, settings.reserve_bytes_max),
            health,
            index: opened.index,
            buffers: Buffers::new(WIRE_FRAME_BYTES, READ_BUFFERS_KEPT),
            blocks: blocks(),
            sync,
            inventory,
            stripes: (0..STRIPES).map(|_| Mutex::new(())).collect(),
            open_files: Mutex::new(LruCache::new(open_files)),
            suspects: Mutex::new(HashSet::new()),
            found_damaged: AtomicU64::new(0),
            chunks: AtomicU64::new(opened.chunks),
            used_bytes: AtomicU64::new(opened.used_bytes),
            next_temporary: AtomicU64::new(0),
        };
        for chunk in opened.damaged {
            shared.suspect(chunk, &FsError::new(ErrorKind::Corrupt, "its file is damaged"));
        }
        let writes_max = settings
            .writes_max
            .clamp(1, Semaphore::MAX_PERMITS.min(1 << 20) / FORWARDED_PER_WRITE);
        Ok(LocalStore {
            shared: Arc::new(shared),
            writes: Arc::new(Semaphore::new(writes_max)),
            forwarded: Arc::new(Semaphore::new(writes_max * FORWARDED_PER_WRITE)),
            writes_max: writes_max as u32,
            reads: Arc::new(Semaphore::new(DATANODE_READS_MAX)),
        })
    }
}

/// Removes the files of a directory: leftovers of writes that were never acknowledged.
fn empty(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        std::fs::remove_file(entry?.path())?;
    }
    Ok(())
}

fn closing() -> FsError {
    FsError::new(
        ErrorKind::Unavailable,
        "the datanode is stopping: ask another one",
    )
}

/// Runs `work` where it may block. It runs to its end even if nobody waits any more.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> FsResult<T> + Send + 'static,
) -> FsResult<T> {
    joined(tokio::task::spawn_blocking(work)).await
}

/// The outcome of work that was started where it may block.
pub(super) async fn joined<T>(work: tokio::task::JoinHandle<FsResult<T>>) -> FsResult<T> {
    match work.await {
        Ok(result) => result,
        Err(error) => Err(FsError::new(
            ErrorKind::Io,
            format!("work on the disk did not end: {error}"),
        )),
    }
}

impl Shared {
    /// Keeps other changes of `chunk` away.
    pub(super) fn stripe(&self, chunk: ChunkId) -> MutexGuard<'_, ()> {
        let at = chunk.sequence() as usize % self.stripes.len();
        self.stripes[at].lock()
    }

    /// A path for a write under way.
    pub(super) fn temporary(&self, chunk: ChunkId) -> PathBuf {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        self.root.join(TEMPORARY_DIR).join(format!("{chunk}.{number}"))
    }

    /// The error of a failed step of a write; a disk that fails otherwise than by being full is failed for good.
    pub(super) fn write_failed(&self, doing: &str, error: &io::Error) -> FsError {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => FsError::new(
                ErrorKind::NoSpace,
                format!("the datanode's disk is full: {doing}: {error}"),
            ),
            Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR) => FsError::new(
                ErrorKind::Unavailable,
                format!("the datanode is short of resources: {doing}: {error}"),
            ),
            // Its data directory was removed or unmounted: membership finds out and ends the node.
            Some(libc::ENOENT | libc::ENOTDIR) => FsError::new(
                ErrorKind::Io,
                format!("the datanode lost its data directory: {doing}: {error}"),
            ),
            _ => self.health.fail(&format!("{doing}: {error}")),
        }
    }

    /// Makes the content of a file durable.
    pub(super) fn sync_file(&self, file: &File) -> FsResult<()> {
        self.sync
            .sync_file(file)
            .map_err(|error| match error.raw_os_error() {
                // Delayed allocation found no room. The file is thrown away, nothing else is touched.
                Some(libc::ENOSPC | libc::EDQUOT) => self.write_failed("syncing a chunk", &error),
                _ => self.health.fail(&format!("syncing a chunk: {error}")),
            })
    }

    /// Makes the directory of `chunk` durable.
    pub(super) fn sync_leaf(&self, chunk: ChunkId) -> FsResult<()> {
        let directory = self.leaves.directory(super::leaves::leaf_of(chunk));
        self.sync
            .sync_dir(&directory)
            .map_err(|error| self.health.fail(&format!("syncing a directory: {error}")))
    }

    /// Makes sure that the directory of `chunk` is there, durably.
    pub(super) fn ensure_leaf(&self, chunk: ChunkId) -> FsResult<()> {
        self.leaves
            .ensure(chunk, &*self.sync)
            .map_err(|failed| match failed {
                Failed::Make(error) => self.write_failed("making a directory", &error),
                Failed::Sync(error) => self.health.fail(&format!("syncing a directory: {error}")),
            })
    }

    /// What is under the name of the described chunk. Call it with the stripe held to rely on the answer.
    ///
    /// # Errors
    /// `ChunkConflict` if other bytes are, or were before the file was damaged.
    pub(super) fn present(&self, description: &ChunkDescription) -> FsResult<Present> {
        self.present_as(&description.label(), Some(description.sha256))
    }

    /// As [`Shared::present`] for a chunk whose SHA-256 may not be known yet; then `Same` says only that a chunk of the same length
    /// is there.
    pub(super) fn present_as(&self, label: &ChunkLabel, sha256: Option<[u8; 32]>) -> FsResult<Present> {
        let chunk = label.chunk;
        let file = match File::open(self.leaves.file(chunk)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Present::Nothing),
            Err(error) => return Err(FsError::from(error).context("opening a chunk")),
        };
        let (length, found, damaged) = match read_prologue(&file, chunk) {
            Ok(prologue) => {
                let found = prologue.description;
                (found.length, found.sha256, self.suspects.lock().contains(&chunk))
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.suspect(chunk, &error);
                match self.index.get(chunk) {
                    Ok(Some(known)) => (known.length, known.sha256, true),
                    _ => return Ok(Present::Damaged),
                }
            }
            Err(error) => return Err(error),
        };
        if length != label.length || sha256.is_some_and(|sha256| sha256 != found) {
            return Err(FsError::new(
                ErrorKind::ChunkConflict,
                format!("chunk {chunk} exists with other bytes: write under a new id"),
            ));
        }
        Ok(if damaged { Present::Damaged } else { Present::Same })
    }

    /// Gives the finished file at `temporary` the name of its chunk; durable on return.
    ///
    /// # Errors
    /// As [`Shared::present`]; `ReadOnly` if that could not be made durable.
    pub(super) fn publish(&self, description: &ChunkDescription, temporary: &Path) -> FsResult<()> {
        let chunk = description.chunk;
        {
            let _stripe = self.stripe(chunk);
            match self.present(description)? {
                // Somebody else was faster; his name may not be durable yet.
                Present::Same => return self.sync_leaf(chunk),
                Present::Damaged => self.set_aside(chunk)?,
                Present::Nothing => {}
            }
            std::fs::rename(temporary, self.leaves.file(chunk))
                .map_err(|error| self.write_failed("naming a chunk", &error))?;
            failpoint::reach(Failpoint::ChunkAfterRename);
            self.open_files.lock().pop(&chunk);
            self.suspects.lock().remove(&chunk);
            self.index.insert(&StoredChunk {
                chunk,
                length: description.length,
                sha256: description.sha256,
            });
            self.chunks.fetch_add(1, Ordering::Relaxed);
            self.used_bytes.fetch_add(description.length, Ordering::Relaxed);
        }
        self.sync_leaf(chunk)?;
        self.inventory.push(Change::Added(chunk));
        Ok(())
    }

    /// Makes sure that the chunk, which was here when its write began, is what was written again; durable on return.
    ///
    /// # Errors
    /// `ChunkConflict` if it has other bytes; `Unavailable` if it was deleted or found damaged meanwhile.
    pub(super) fn confirm(&self, description: &ChunkDescription) -> FsResult<()> {
        let _stripe = self.stripe(description.chunk);
        match self.present(description)? {
            // Who wrote it may not have come to this.
            Present::Same => self.sync_leaf(description.chunk),
            Present::Nothing | Present::Damaged => Err(FsError::new(
                ErrorKind::Unavailable,
                "the chunk was here and went away while it was sent again: send it once more",
            )),
        }
    }

    /// Takes the damaged file of `chunk` out of the way and keeps it.
    fn set_aside(&self, chunk: ChunkId) -> FsResult<()> {
        let directory = self.root.join(DAMAGED_DIR);
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let mut aside = directory.join(format!("{chunk}.{number}"));
        while aside.exists() {
            let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
            aside = directory.join(format!("{chunk}.{number}"));
        }
        tracing::warn!(%chunk, kept = %aside.display(), "a damaged chunk is replaced");
        durable::create_dir_all(&directory)
            .and_then(|()| std::fs::rename(self.leaves.file(chunk), &aside))
            .map_err(|error| self.write_failed("setting a damaged chunk aside", &error))?;
        self.forget(chunk);
        Ok(())
    }

    /// The chunk is not listed any more.
    fn forget(&self, chunk: ChunkId) {
        self.open_files.lock().pop(&chunk);
        if let Ok(Some(known)) = self.index.get(chunk) {
            self.index.remove(chunk);
            self.chunks.fetch_sub(1, Ordering::Relaxed);
            self.used_bytes.fetch_sub(known.length, Ordering::Relaxed);
        }
    }

    fn remove(&self, chunk: ChunkId) -> FsResult<()> {
        self.health.writable()?;
        {
            let _stripe = self.stripe(chunk);
            match std::fs::remove_file(self.leaves.file(chunk)) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) => return Err(self.write_failed("deleting a chunk", &error)),
            }
            failpoint::reach(Failpoint::DeleteAfterUnlink);
            self.forget(chunk);
            self.suspects.lock().remove(&chunk);
        }
        self.inventory.push(Change::Removed(chunk));
        self.sync_leaf(chunk)
    }

    /// The open file of a chunk, which stays open for the next.
    pub(super) fn open(&self, chunk: ChunkId) -> FsResult<Arc<OpenChunk>> {
        if let Some(open) = self.open_files.lock().get(&chunk) {
            return Ok(open.clone());
        }
        // With the stripe, so that a file that is just deleted does not stay open.
        let _stripe = self.stripe(chunk);
        let opened = File::open(self.leaves.file(chunk)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => FsError::new(
                ErrorKind::NotFound,
                format!("chunk {chunk} is not on this datanode"),
            ),
            _ => FsError::from(error).context("opening a chunk"),
        })?;
        let prologue = read_prologue(&opened, chunk).inspect_err(|error| self.judge(chunk, error))?;
        let open = Arc::new(OpenChunk::new(opened, prologue));
        self.open_files.lock().put(chunk, open.clone());
        Ok(open)
    }

    /// Remembers a chunk whose file cannot be read as what it is.
    pub(super) fn judge(&self, chunk: ChunkId, error: &FsError) {
        if error.kind() == ErrorKind::Corrupt {
            self.open_files.lock().pop(&chunk);
            self.suspect(chunk, error);
        }
    }

    fn suspect(&self, chunk: ChunkId, error: &FsError) {
        let mut suspects = self.suspects.lock();
        if suspects.len() >= SUSPECT_CHUNKS_MAX || suspects.insert(chunk) {
            self.found_damaged.fetch_add(1, Ordering::Relaxed);
            tracing::error!(%chunk, %error, "a chunk is damaged; its file is kept");
        }
    }

    fn load(&self) -> FsResult<StoreLoad> {
        let room = self.space.room()?;
        let (disk, writable) = self.health.state();
        Ok(StoreLoad {
            disk,
            capacity_bytes: room.capacity_bytes,
            available_bytes: if writable { room.available_bytes } else { 0 },
            used_bytes: self.used_bytes.load(Ordering::Relaxed),
            chunks: self.chunks.load(Ordering::Relaxed),
            writable,
            suspect_chunks: self.found_damaged.load(Ordering::Relaxed),
        })
    }
}

/// Content for one step of a write: as much as is there, up to [`WRITE_STEP_BYTES`]. The flag is set at its end.
async fn gather(content: &mut BoxStream<'static, FsResult<Piece>>) -> FsResult<(Vec<Piece>, bool)> {
    let mut pieces = Vec::new();
    let mut bytes = 0;
    while bytes < WRITE_STEP_BYTES {
        match content.next().await {
            Some(piece) => {
                let piece = piece?;
                bytes += piece.len();
                pieces.push(piece);
            }
            None => return Ok((pieces, true)),
        }
    }
    Ok((pieces, false))
}

#[async_trait]
impl ChunkStore for LocalStore {
    async fn store(
        &self,
        label: ChunkLabel,
        mut content: BoxStream<'static, FsResult<Piece>>,
        hash: HashSource,
    ) -> FsResult<Durable> {
        let permits = match &hash {
            HashSource::Here { .. } => &self.writes,
            HashSource::Told(_) => &self.forwarded,
        };
        let permit = permits.clone().acquire_owned().await.map_err(|_| closing())?;
        let shared = self.shared.clone();
        let (hashing, told) = match hash {
            HashSource::Here { expected, found } => (Some(Hashing::new(expected, found)), None),
            HashSource::Told(told) => (None, Some(told)),
        };
        let mut step: Box<dyn FnOnce() -> FsResult<ChunkWriter> + Send> =
            Box::new(move || ChunkWriter::begin(shared, label, hashing));
        let (mut pieces, mut end) = gather(&mut content).await?;
        // While one step is at the disk the next is gathered.
        while !end {
            let at_disk = tokio::task::spawn_blocking(move || {
                let mut writer = step()?;
                writer.append(&pieces)?;
                Ok(writer)
            });
            (pieces, end) = gather(&mut content).await?;
            let writer = joined(at_disk).await?;
            step = Box::new(move || Ok(writer));
        }
        // Content whose source does not say its hash was not whole.
        let told = match told {
            Some(told) => Some(told.await?),
            None => None,
        };
        // The permit goes along: a write whose caller left is still one.
        blocking(move || {
            let _permit = permit;
            let mut writer = step()?;
            writer.append(&pieces)?;
            writer.finish(told)
        })
        .await
    }

    async fn read(
        &self,
        chunk: ChunkId,
        offset: u64,
        length: u64,
    ) -> FsResult<BoxStream<'static, FsResult<Piece>>> {
        let permit = self.reads.clone().acquire_owned().await.map_err(|_| closing())?;
        let reading = Reading::start(self.shared.clone(), chunk, offset, length).await?;
        Ok(reading.into_stream(permit))
    }

    async fn stat(&self, chunk: ChunkId) -> FsResult<ChunkDescription> {
        let shared = self.shared.clone();
        blocking(move || Ok(shared.open(chunk)?.description().clone())).await
    }

    async fn stat_all(&self, chunks: Vec<ChunkId>) -> Vec<FsResult<ChunkDescription>> {
        // Several disks' heads, or queues of one, at once; a thread for each chunk costs more than the look.
        let parts = chunks.chunks(STATS_OF_A_THREAD).map(|part| {
            let (shared, part) = (self.shared.clone(), part.to_vec());
            async move {
                let count = part.len();
                let described = move || {
                    let stat = |chunk: &ChunkId| Ok(shared.open(*chunk)?.description().clone());
                    Ok(part.iter().map(stat).collect())
                };
                match blocking(described).await {
                    Ok(described) => described,
                    Err(error) => vec![Err(error); count],
                }
            }
        });
        let described: Vec<Vec<_>> = futures::future::join_all(parts).await;
        described.into_iter().flatten().collect()
    }

    async fn delete(&self, chunk: ChunkId) -> FsResult<()> {
        let shared = self.shared.clone();
        blocking(move || shared.remove(chunk)).await
    }

    async fn list(&self, after: Option<ChunkId>, limit: usize) -> FsResult<Vec<StoredChunk>> {
        let shared = self.shared.clone();
        blocking(move || shared.index.page(after, limit)).await
    }

    async fn load(&self) -> FsResult<StoreLoad> {
        let shared = self.shared.clone();
        blocking(move || shared.load()).await
    }

    async fn close(&self) {
        // Whoever waits is refused; whoever writes is waited for.
        self.reads.close();
        let all = self.writes.acquire_many(self.writes_max).await;
        let forwarded = self
            .forwarded
            .acquire_many(self.writes_max * FORWARDED_PER_WRITE as u32)
            .await;
        self.writes.close();
        self.forwarded.close();
        if all.is_err() || forwarded.is_err() {
            return;
        }
        let shared = self.shared.clone();
        let _ = blocking(move || {
            let load = (
                shared.chunks.load(Ordering::Relaxed),
                shared.used_bytes.load(Ordering::Relaxed),
            );
            rebuild::mark_clean(&shared.root, &shared.index, load);
            Ok(())
        })
        .await;
    }
}
