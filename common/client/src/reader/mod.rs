//! Reading: where the bytes of a range are, fetching what is not in memory, and putting them together.
//!
//! Unsaved data comes first, newest first; then the extent map; what neither has is a hole. A chunk that no replica has
//! means that the file changed under the reader: the map is asked again, and the read starts over.

pub(crate) mod block_cache;
pub(crate) mod fetch;
pub(crate) mod plan;
pub(crate) mod read_ahead;

use crate::client::Inner;
use crate::file::{File, Handle};
use crate::waiting::What;
use bytes::{Bytes, BytesMut};
use dfs_common::{ErrorKind, FsError, FsResult};
use futures::{StreamExt, TryStreamExt};
use plan::{Part, Plan, Planned, Source};
use std::sync::Arc;

/// Chunk ranges of one read that are fetched at the same time.
const PARTS_AT_ONCE: usize = 16;
/// Times that one read asks for the map again because chunks were gone or capabilities expired.
const MAP_AGAIN_MAX: u32 = 3;
/// Pages of the map that one attempt of a read asks for.
const PAGES_MAX: u32 = 64;

impl Inner {
    /// Bytes of `offset..offset+length`, short only at the end of the file. Cancel-safe.
    pub(crate) async fn read_range(
        self: &Arc<Self>,
        handle: &Arc<Handle>,
        offset: u64,
        length: u32,
    ) -> FsResult<Bytes> {
        let file = &handle.file;
        let mut attempts = self.attempts(What::of("reading", file.ino));
        let mut again = 0;
        loop {
            match self.try_read(handle, offset, length).await {
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Unauthenticated) => {
                    if again == MAP_AGAIN_MAX {
                        return Err(FsError::new(ErrorKind::Io, error.message().to_string()));
                    }
                    again += 1;
                    file.state.lock().map.clear();
                }
                Err(error) => attempts.pause(error).await?,
                Ok(bytes) => return Ok(bytes),
            }
        }
    }

    async fn try_read(self: &Arc<Self>, handle: &Arc<Handle>, offset: u64, length: u32) -> FsResult<Bytes> {
        let plan = self.plan(&handle.file, offset, length).await?;
        self.read_ahead(handle, offset, plan.length);
        self.gather(plan).await
    }

    async fn plan(&self, file: &Arc<File>, offset: u64, length: u32) -> FsResult<Plan> {
        self.enter(file, offset, offset.saturating_add(u64::from(length)))
            .await?;
        for _ in 0..PAGES_MAX {
            let planned = plan::plan(&mut file.state.lock(), offset, length);
            let at = match planned {
                Planned::Ready(plan) => return Ok(plan),
                Planned::Unknown(at) => at,
            };
            self.ask_extents(file, at).await?;
        }
        Err(FsError::new(
            ErrorKind::Io,
            "the file changes too fast to be read: try again",
        ))
    }

    async fn gather(self: &Arc<Self>, plan: Plan) -> FsResult<Bytes> {
        let Plan { length, mut parts } = plan;
        if let [Part { source, .. }] = &mut parts[..] {
            match source {
                Source::Bytes(bytes) => return Ok(std::mem::take(bytes)),
                Source::Zero => return Ok(vec![0; length].into()),
                Source::Chunk(range) => {
                    let mut pieces = self.fetch(range).await?;
                    if pieces.len() == 1 {
                        return Ok(pieces.pop().expect("there is one"));
                    }
                    return Ok(join(length, pieces));
                }
            }
        }
        let fetches = parts.into_iter().map(|part| async move {
            Ok::<_, FsError>(match part.source {
                Source::Bytes(bytes) => vec![bytes],
                Source::Zero => vec![vec![0; part.length as usize].into()],
                Source::Chunk(range) => self.fetch(&range).await?,
            })
        });
        let pieces: Vec<Vec<Bytes>> = futures::stream::iter(fetches)
            .buffered(PARTS_AT_ONCE)
            .try_collect()
            .await?;
        Ok(join(length, pieces.into_iter().flatten()))
    }
}

fn join(length: usize, pieces: impl IntoIterator<Item = Bytes>) -> Bytes {
    let mut whole = BytesMut::with_capacity(length);
    for piece in pieces {
        whole.extend_from_slice(&piece);
    }
    debug_assert_eq!(whole.len(), length, "the parts are the whole");
    whole.freeze()
}
